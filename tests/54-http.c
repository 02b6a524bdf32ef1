/* SPDX-License-Identifier: MIT
 * The pages that the daemon serves over HTTP, read through a plain socket. */
#include "daemon.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int port_of(const struct daemon *d)
{
	char *log, *last = NULL;
	int port = 0;

	daemon_expect_log(d, "event=http");
	log = daemon_log(d);
	for (char *p = log; (p = strstr(p, "event=http")); p++)
		last = p;
	assert_int_equal(sscanf(strstr(last, "port="), "port=%d", &port), 1);
	free(log);
	return port;
}

/* The whole response to one request, to be freed. */
static char *fetch(int port, const char *request)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	char *text = calloc(1, 1 << 20);
	size_t len = 0;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		assert_int_equal(poll(&p, 1, DAEMON_MS), 1);
		n = read(fd, text + len, (1 << 20) - 1 - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	close(fd);
	return text;
}

static char *get(int port, const char *path)
{
	char request[200];

	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
	return fetch(port, request);
}

static void expect(char *response, const char *status, const char *contains)
{
	if (strncmp(response, "HTTP/1.1 ", 9) != 0 || strncmp(response + 9, status, 3) != 0 ||
	    !strstr(response, contains))
		fail_msg("expected %s and `%s`, got:\n%s", status, contains, response);
	free(response);
}

static void restart_with_http(struct daemon *d)
{
	assert_int_equal(daemon_stop(d), 0);
	daemon_start(d, "--http", ":0", NULL);
}

static void the_pages_show_the_numbers_of_status(void **state)
{
	struct daemon *d = *state;
	struct wire w;
	json_t *over_socket, *over_http;
	const char *key;
	json_t *value;
	char *response;
	int port;

	restart_with_http(d);
	port = port_of(d);
	wire_open(&w, d, WIRE_LOOK);
	over_socket = wire_ok(&w, "status", NULL);
	response = get(port, "/status");
	assert_non_null(strstr(response, "Content-Type: application/json"));
	over_http = json_loads(strstr(response, "\r\n\r\n"), 0, NULL);
	assert_non_null(over_http);
	free(response);
	json_object_foreach(over_socket, key, value)
	{
		assert_int_equal(json_typeof(json_object_get(over_http, key)), json_typeof(value));
	}
	assert_int_equal(int_of(over_http, "pid"), d->pid);
	response = get(port, "/metrics");
	json_object_foreach(over_socket, key, value)
	{
		char name[100];

		if (json_is_string(value))
			snprintf(name, sizeof(name), "%s=\"%s\"", key, json_string_value(value));
		else if (json_is_object(value)) /* cursors */
			snprintf(name, sizeof(name), "\nberth_cursor_pins 0\n");
		else
			snprintf(name, sizeof(name), "\nberth_%s", key);
		if (!strstr(response, name))
			fail_msg("no %s in %s", name, response);
	}
	free(response);
	expect(get(port, "/metrics"), "200", "Content-Type: text/plain; version=0.0.4");
	expect(get(port, "/metrics"), "200", "# TYPE berth_changes_total counter\nberth_changes_total ");
	expect(get(port, "/"), "200", "<h1>berth: i</h1>");
	expect(get(port, "/nothing"), "404", "/metrics");
	expect(fetch(port, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"), "405",
	       "GET");
	expect(fetch(port, "HEAD /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "200", "Content-Length");
	json_decref(over_socket);
	json_decref(over_http);
	wire_close(&w);
}

static void a_change_shows_within_two_seconds(void **state)
{
	struct daemon *d = *state;
	struct wire w;
	uint64_t start;
	int port;

	restart_with_http(d);
	port = port_of(d);
	wire_open(&w, d, WIRE_ADMIN);
	for (int i = 0; i < 5; i++) {
		char id[16], wanted[64];
		bool seen = false;

		snprintf(id, sizeof(id), "c%d", i);
		snprintf(wanted, sizeof(wanted), "\nberth_clusters %d\n", i + 1);
		wire_do(&w, "cluster.set", "{s:s}", "id", id);
		start = test_now_ms();
		for (uint64_t deadline = 0; !seen && within(&deadline);) {
			char *response = get(port, "/metrics");

			seen = strstr(response, wanted) != NULL;
			free(response);
		}
		assert_true(seen);
		assert_true(test_now_ms() - start < 2000);
	}
	wire_close(&w);
}

/* HTTP reads a snapshot: it is there even when nobody can make a new one. */
static void a_stopped_control_thread_is_no_reason_to_wait(void **state)
{
	struct daemon *d = *state;
	char *response;
	int port, idle[70];

	restart_with_http(d);
	port = port_of(d);
	for (int i = 0; i < 70; i++) { /* more than it takes */
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		idle[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(idle[i], (struct sockaddr *)&to, sizeof(to)), 0);
	}
	for (int i = 0; i < 70; i++)
		close(idle[i]);
	response = get(port, "/status");
	expect(response, "200", "\"pid\":");
	assert_int_equal(daemon_stop(d), 0); /* with the thread in its poll */
	daemon_start(d, "--http", "[::1]:0", NULL);
	assert_int_equal(daemon_stop(d), 0);
	daemon_start(d, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(the_pages_show_the_numbers_of_status, "memory"),
		DAEMON_TEST(a_change_shows_within_two_seconds, "memory"),
		DAEMON_TEST(a_stopped_control_thread_is_no_reason_to_wait, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
