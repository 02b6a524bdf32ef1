/* SPDX-License-Identifier: MIT
 * Clients that are broken, slow or hostile: each gets an answer or loses its connection, and nobody else notices. */
#include "daemon.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char ask[] = "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"status\"}\n";

static void expect_refused(struct wire *w, const char *code)
{
	answer_expect_refused(wire_message(w), code);
}

static void expect_working(struct wire *w)
{
	json_t *answer;

	assert_true(wire_text(w, ask));
	answer = wire_message(w);
	assert_int_equal(int_of(answer, "id"), 9);
	json_decref(answer_result(answer));
}

static void expect_closed(struct wire *w)
{
	assert_null(wire_line(w, DAEMON_MS));
}

static void garbage_is_answered_and_the_connection_goes_on(void **state)
{
	static const char *const lines[] = {
		"\n",
		"garbage\n",
		"{\n",
		"[]\n",
		"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}]\n",
		"null\n",
		"\"x\"\n",
		"{}\n",
		"{\"jsonrpc\":\"2.0\",\"method\":\"status\"}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"status\"}\n",
		"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"status\"}\n",
		"{\"id\":1,\"method\":\"status\"}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"status\"}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":[1],\"method\":\"status\"}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\",\"extra\":1}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"status\"}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"get\",\"params\":{\"partition\":1,\"partition\":2}}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"get\",\"params\":{\"partition\":\"\xff\"}}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"get\",\"params\":{\"partition\":\"a\\u0000b\"}}\n",
	};
	struct wire w;

	wire_open(&w, *state, WIRE_LOOK);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		assert_true(wire_text(&w, lines[i]));
		expect_refused(&w, "parse-error");
	}
	assert_true(wire_text(&w, "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"get\",\"params\":[1]}\n"));
	expect_refused(&w, "invalid");
	expect_working(&w);
	wire_close(&w);
}

static void deep_nesting_is_refused_before_it_is_parsed(void **state)
{
	char *deep = malloc(20002);
	struct wire w;

	memset(deep, '[', 10000);
	memset(deep + 10000, ']', 10000);
	memcpy(deep + 20000, "\n", 2);
	wire_open(&w, *state, WIRE_ADMIN);
	assert_true(wire_text(&w, deep));
	expect_refused(&w, "parse-error");
	memset(deep, '{', 10000);
	assert_true(wire_text(&w, deep));
	expect_refused(&w, "parse-error");
	expect_working(&w);
	wire_close(&w);
	free(deep);
}

static void a_line_that_is_too_long_ends_its_connection(void **state)
{
	const size_t huge = 16u << 20;
	char *brackets = malloc(huge);
	struct wire w, other;

	wire_open(&other, *state, WIRE_LOOK);
	memset(brackets, '[', huge);
	for (int admin = 0; admin < 2; admin++) {
		wire_open(&w, *state, admin ? WIRE_ADMIN : WIRE_LOOK);
		assert_false(wire_send(&w, brackets, huge)); /* closed long before all was sent */
		expect_refused(&w, "parse-error");
		expect_closed(&w);
		wire_close(&w);
		expect_working(&other);
	}
	wire_close(&other);
	free(brackets);
}

static void a_line_of_64_kib_is_taken_and_one_byte_more_is_not(void **state)
{
	char *line = malloc(65540);
	struct wire w;

	for (size_t len = 65536; len <= 65537; len++) {
		memset(line, ' ', len);
		memcpy(line, ask, strlen(ask) - 1);
		line[len] = '\n';
		wire_open(&w, *state, WIRE_LOOK);
		assert_true(wire_send(&w, line, len + 1));
		if (len == 65536) {
			json_decref(answer_result(wire_message(&w)));
			expect_working(&w);
		} else {
			expect_refused(&w, "parse-error");
			expect_closed(&w);
		}
		wire_close(&w);
	}
	free(line);
}

static void a_byte_at_a_time_makes_a_request(void **state)
{
	struct wire slow, other;

	wire_open(&slow, *state, WIRE_ADMIN);
	wire_open(&other, *state, WIRE_LOOK);
	for (const char *p = ask; *p; p++) {
		assert_true(wire_send(&slow, p, 1));
		expect_working(&other);
	}
	json_decref(answer_result(wire_message(&slow)));
	wire_close(&slow);
	wire_close(&other);
}

static void who_does_not_read_answers_is_not_read_from(void **state)
{
	static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":%7d,\"method\":\"status\"}\n";
	size_t sent = 0, size = strlen(request) + 4, at = 0;
	int written = 0;
	struct wire w, other;
	char line[100];

	wire_open(&w, *state, WIRE_ADMIN);
	wire_open(&other, *state, WIRE_LOOK);
	for (;;) { /* until nothing more is taken for half a second */
		struct pollfd p = {.fd = w.fd, .events = POLLOUT};
		ssize_t n;

		if (at == 0)
			snprintf(line, sizeof(line), request, written);
		n = send(w.fd, line + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0) {
			at += (size_t)n;
			sent += (size_t)n;
			if (at == size) {
				at = 0;
				written++;
			}
		} else if (poll(&p, 1, 500) == 0) {
			break;
		}
		assert_true(sent < 8u << 20);
	}
	expect_working(&other);
	for (int i = 0; i < written; i++) { /* nothing was lost or reordered */
		json_t *answer = wire_message(&w);

		assert_int_equal(int_of(answer, "id"), i);
		json_decref(answer);
	}
	wire_close(&w);
	wire_close(&other);
}

static void a_pipeline_is_answered_whole_and_in_order(void **state)
{
	enum { N = 500 };
	size_t size = 0;
	char *all = malloc(N * 100);
	struct wire w;

	wire_open(&w, *state, WIRE_ADMIN);
	for (int i = 0; i < N; i++)
		size += (size_t)sprintf(all + size, "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"%s\"}\n", i,
					i % 2 ? "clusters" : "migrations");
	assert_true(wire_send(&w, all, size));
	shutdown(w.fd, SHUT_WR); /* who sends no more is still answered */
	for (int i = 0; i < N; i++) {
		json_t *answer = wire_message(&w);

		assert_int_equal(int_of(answer, "id"), i);
		json_decref(answer);
	}
	expect_closed(&w);
	wire_close(&w);
	free(all);
}

static void half_a_request_is_forgotten_with_its_connection(void **state)
{
	struct wire w, look;
	json_t *status;

	wire_open(&look, *state, WIRE_LOOK);
	wire_open(&w, *state, WIRE_ADMIN);
	wire_text(&w, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"cluster.set\",\"params\":{\"id\":\"c1\"}}");
	shutdown(w.fd, SHUT_WR);
	expect_closed(&w);
	wire_close(&w);
	status = wire_ok(&look, "status", NULL);
	assert_int_equal(int_of(status, "clusters"), 0);
	json_decref(status);
	wire_close(&look);
}

static void idle_connections_do_not_disturb(void **state)
{
	enum { N = 200 };
	struct wire idle[N], w;

	for (int i = 0; i < N; i++)
		wire_open(&idle[i], *state, i % 2 ? WIRE_ADMIN : WIRE_LOOK);
	wire_open(&w, *state, WIRE_ADMIN);
	for (int i = 0; i < 100; i++)
		expect_working(&w);
	expect_working(&idle[N - 1]);
	for (int i = 0; i < N; i++)
		wire_close(&idle[i]);
	expect_working(&w);
	wire_close(&w);
}

/* 600 that come at once: nobody has been there for long enough to be closed for another one, or a few have. */
static void one_user_cannot_take_all_connections(void **state)
{
	enum { N = 600, MOST = 512 };
	struct wire *all = calloc(N, sizeof(*all)), w, admin;
	unsigned open = N;

	assert_non_null(all);
	wire_open(&admin, *state, WIRE_ADMIN);
	for (int n = 0; n < N; n++)
		wire_open(&all[n], *state, WIRE_LOOK);
	for (uint64_t deadline = 0; open > MOST && within(&deadline);) {
		open = 0;
		for (int n = 0; n < N; n++) /* the daemon speaks first only to turn somebody away */
			open += poll(&(struct pollfd){.fd = all[n].fd, .events = POLLIN}, 1, 0) == 0;
	}
	assert_int_equal(open, MOST);
	expect_working(&admin); /* they have their own */
	for (int n = 0; n < N; n++) {
		if (poll(&(struct pollfd){.fd = all[n].fd, .events = POLLIN}, 1, 0)) {
			char *line = wire_line(&all[n], DAEMON_MS);

			assert_true(!line || strstr(line, "\"limit\""));
			free(line);
		}
		wire_close(&all[n]);
	}
	for (uint64_t deadline = 0; within(&deadline);) {
		bool limited;

		wire_open(&w, *state, WIRE_LOOK);
		limited = !wire_silent(&w, 20);
		if (!limited)
			break;
		wire_close(&w);
	}
	expect_working(&w);
	wire_close(&w);
	wire_close(&admin);
	free(all);
}

/* Processor time that the daemon has used, in clock ticks. */
static long ticks(const struct daemon *d)
{
	unsigned long user, system;
	char path[64], text[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", d->pid);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_true(fgets(text, sizeof(text), f) != NULL);
	fclose(f);
	assert_int_equal(
		sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system),
		2);
	return (long)(user + system);
}

static unsigned descriptors_of(const struct daemon *d)
{
	DIR *dir = daemon_proc(d, "fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void a_refused_attach_costs_no_descriptor(void **state)
{
	struct daemon *d = *state;
	struct timespec mono, boot;
	struct wire w;
	unsigned before;

	wire_open(&w, d, WIRE_LOOK);
	expect_working(&w);
	before = descriptors_of(d);
	clock_gettime(CLOCK_MONOTONIC, &mono);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	for (int i = 0; i < 50; i++) {
		wire_deny(&w, "invalid", "reattach", "{s:i, s:i, s:i}", "slot", 7, "attach", 99, "pid", (int)getpid());
		wire_deny(&w, "invalid", "attach", "{s:i, s:i, s:i, s:s, s:i, s:b, s:I, s:I}", "version", 1, "pid",
			  (int)getpid(), "readers", 4096, "writes", "bracketed", "leases", 65536, "fences", 0,
			  "monotonic_ns", (json_int_t)mono.tv_sec * 1000000000 + mono.tv_nsec, "boottime_ns",
			  (json_int_t)boot.tv_sec * 1000000000 + boot.tv_nsec);
	}
	assert_int_equal(descriptors_of(d), before);
	wire_close(&w);
}

/* A request that has no use for one, with as many as a message's are taken of. */
static void descriptors_that_come_with_a_request_are_closed(void **state)
{
	int fds[4] = {0};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(fds))];
	} control;
	struct wire w;
	unsigned before;

	wire_open(&w, *state, WIRE_ADMIN);
	expect_working(&w);
	before = descriptors_of(*state);
	for (int i = 0; i < 50; i++) {
		struct iovec part = {(void *)(uintptr_t)ask, sizeof(ask) - 1};
		struct msghdr m = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

		memset(&control, 0, sizeof(control));
		control.header = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fds))};
		memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
		assert_int_equal(sendmsg(w.fd, &m, MSG_NOSIGNAL), sizeof(ask) - 1);
		json_decref(answer_result(wire_message(&w)));
	}
	assert_int_equal(descriptors_of(*state), before);
	wire_close(&w);
}

static void running_out_of_descriptors_does_not_spin(void **state)
{
	struct daemon *d = *state;
	const struct rlimit few = {.rlim_cur = 100, .rlim_max = 100};
	struct wire all[120], w;
	long before;

	assert_int_equal(prlimit(d->pid, RLIMIT_NOFILE, &few, NULL), 0); /* it has raised its own at the start */
	for (int i = 0; i < 120; i++)
		wire_open(&all[i], d, WIRE_ADMIN); /* the last ones wait in the kernel's queue */
	expect_working(&all[0]);
	expect_working(&all[50]);
	daemon_expect_log(d, "event=descriptors");
	before = ticks(d);
	poll(NULL, 0, 1000);
	assert_true(ticks(d) - before < sysconf(_SC_CLK_TCK) / 5);
	expect_working(&all[0]);
	for (int i = 0; i < 120; i++)
		wire_close(&all[i]);
	wire_open(&w, d, WIRE_ADMIN);
	expect_working(&w);
	wire_close(&w);
}

/* ---- watchers ---------------------------------------------------------------------------------------------- */

static void a_watcher_that_does_not_read_gets_an_overrun_as_its_last_line(void **state)
{
	struct wire watcher, other, admin;
	char *line, *last = NULL;
	json_t *status;
	int changes = 0;

	wire_open(&watcher, *state, WIRE_LOOK);
	wire_open(&other, *state, WIRE_LOOK);
	wire_open(&admin, *state, WIRE_ADMIN);
	wire_do(&watcher, "watch", NULL);
	wire_do(&other, "watch", NULL);
	wire_do(&admin, "cluster.set", "{s:s}", "id", "c1");
	free(wire_line(&other, DAEMON_MS));
	for (int i = 0; i < 20000; i++) {
		char index[32];

		snprintf(index, sizeof(index), "i%d", i);
		wire_do(&admin, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "p", "placement", "mode",
			"dedicated-index", "cluster", "c1", "index", index);
		free(wire_line(&other, DAEMON_MS)); /* who reads loses nothing */
		if (i % 1000 != 999)
			continue;
		status = wire_ok(&admin, "status", NULL);
		changes = (int)int_of(status, "watch_overruns");
		json_decref(status);
		if (changes > 0)
			break;
	}
	assert_int_equal(changes, 1);
	changes = 0;
	while ((line = wire_line(&watcher, DAEMON_MS))) {
		changes++;
		free(last);
		last = line;
	}
	assert_string_equal(last, "{\"jsonrpc\":\"2.0\",\"method\":\"overrun\",\"params\":{}}");
	assert_true(changes > 1000);
	free(last);
	wire_close(&watcher);
	wire_close(&other);
	wire_close(&admin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(garbage_is_answered_and_the_connection_goes_on, "memory"),
		DAEMON_TEST(deep_nesting_is_refused_before_it_is_parsed, "memory"),
		DAEMON_TEST(a_line_that_is_too_long_ends_its_connection, "memory"),
		DAEMON_TEST(a_line_of_64_kib_is_taken_and_one_byte_more_is_not, "memory"),
		DAEMON_TEST(a_byte_at_a_time_makes_a_request, "memory"),
		DAEMON_TEST(who_does_not_read_answers_is_not_read_from, "memory"),
		DAEMON_TEST(a_pipeline_is_answered_whole_and_in_order, "memory"),
		DAEMON_TEST(half_a_request_is_forgotten_with_its_connection, "memory"),
		DAEMON_TEST(idle_connections_do_not_disturb, "memory"),
		DAEMON_TEST(one_user_cannot_take_all_connections, "memory"),
		DAEMON_TEST(a_refused_attach_costs_no_descriptor, "memory"),
		DAEMON_TEST(descriptors_that_come_with_a_request_are_closed, "memory"),
		DAEMON_TEST(running_out_of_descriptors_does_not_spin, "memory"),
		DAEMON_TEST(a_watcher_that_does_not_read_gets_an_overrun_as_its_last_line, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
