/* SPDX-License-Identifier: MIT
 * sandbox_daemon.h. */
#include "sandbox_daemon.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static pid_t serving; /* the process that started it, as its sandbox calls it */
static int channel;

/* It ends with this process. */
static int serve(void *arg, int fd)
{
	const char *option = arg;
	char signal_number;

	place->pid = 0;
	daemon_start(place, *option ? option : NULL, NULL);
	do {
		if (send(fd, "x", 1, MSG_NOSIGNAL) != 1 || recv(fd, &signal_number, 1, 0) != 1)
			return 1;
		daemon_signal(place, signal_number);
	} while (signal_number == SIGSTOP || signal_number == SIGCONT);
	daemon_wait(place);
	return 0;
}

void sandbox_serve(struct sandbox *s, const char *option)
{
	char text[SANDBOX_ARG] = "", c;

	snprintf(text, sizeof text, "%s", option ? option : "");
	serving = sandbox_fork(s, 0, serve, text, sizeof text, &channel);
	assert_true(serving > 0);
	if (poll(&(struct pollfd){.fd = channel, .events = POLLIN}, 1, DAEMON_MS) != 1 || recv(channel, &c, 1, 0) != 1)
		fail_msg("no daemon in a sandbox:\n%s", daemon_log(place));
}

void sandbox_move_daemon(struct sandbox *s)
{
	assert_int_equal(daemon_stop(place), 0);
	sandbox_open(s, SANDBOX_PID, 0, 0, place);
	sandbox_serve(s, NULL);
}

void sandbox_serve_signal(int signal_number)
{
	char c = (char)signal_number;

	assert_int_equal(send(channel, &c, 1, MSG_NOSIGNAL), 1);
	assert_int_equal(recv(channel, &c, 1, 0), 1);
}

void sandbox_serve_end(struct sandbox *s, int signal_number)
{
	char c = (char)signal_number;

	assert_int_equal(send(channel, &c, 1, MSG_NOSIGNAL), 1);
	assert_int_equal(sandbox_wait(s, serving), 0);
	close(channel);
}

void expect_readers(json_int_t n)
{
	uint64_t deadline = 0;

	while (within(&deadline))
		if (status_number("readers") == n)
			return;
	assert_int_equal(status_number("readers"), n);
}

void place_often(struct wire *w, const char *partition, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char index[32];

		snprintf(index, sizeof index, "index-%u", i % 97);
		wire_do(w, "set", "{s:s, s:b, s:{s:s, s:s, s:s}}", "partition", partition, "force", 1, "placement",
			"mode", "dedicated-index", "cluster", "c1", "index", index);
	}
}

void begin_moving(struct wire *w, const char *partition, const char *to)
{
	wire_do(w, "begin", "{s:s, s:{s:s}}", "partition", partition, "to", "cluster", to);
	wire_do(w, "cutover", "{s:s}", "partition", partition);
}

void expect_pending(struct wire *w, const char *partition, const char *reason)
{
	uint64_t deadline = 0;
	char last[64] = "";

	while (within(&deadline)) {
		json_t *error = wire_refused(w, "barrier-pending", "complete", "{s:s}", "partition", partition);

		snprintf(last, sizeof last, "%s", text_of(json_object_get(error, "data"), "reason"));
		json_decref(error);
		if (strcmp(last, reason) == 0)
			return;
	}
	fail_msg("complete of %s waits for %s, not for %s", partition, last, reason);
}

unsigned pending_pids(struct wire *w, const char *partition, json_int_t pids[8])
{
	json_t *error = wire_refused(w, "barrier-pending", "complete", "{s:s}", "partition", partition), *one;
	unsigned n = 0;
	size_t i;

	json_array_foreach (json_object_get(json_object_get(error, "data"), "pids"), i, one)
		if (n < 8)
			pids[n++] = json_integer_value(one);
	json_decref(error);
	return n;
}
