/* SPDX-License-Identifier: MIT
 * Who gives way when a user has too many connections: nobody who has asked something, also when the daemon has not come to
 * read it yet; and nobody without a word. */
#include "daemon.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MOST 512      /* connections of one user on berth.sock: CONNS_OF_UID_MAX */
#define SPARED_MS 300 /* after which one that is silent may be closed: CONN_SPARED_MS, and a turn of the loop */

static const char ask[] = "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"status\"}\n";

static void nap_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* The beginning of what came: its length, 0 at the end, -1 with errno. */
static ssize_t heard(const struct wire *w, char *text, size_t size, int ms)
{
	struct pollfd p = {.fd = w->fd, .events = POLLIN};
	ssize_t n;

	text[0] = '\0';
	if (poll(&p, 1, ms) == 0) {
		errno = EAGAIN;
		return -1;
	}
	n = recv(w->fd, text, size - 1, MSG_DONTWAIT);
	text[n > 0 ? n : 0] = '\0';
	return n;
}

/* The daemon is away (as in a commit): requests come, and newcomers that would take their places. */
static void a_request_that_was_not_read_yet_is_answered_whoever_comes(void **state)
{
	enum { NEW = 60 };
	struct wire *old = calloc(MOST, sizeof(*old)), coming[NEW];
	struct daemon *d = *state;
	char text[600];

	assert_non_null(old);
	for (int i = 0; i < MOST; i++)
		wire_open(&old[i], d, WIRE_LOOK);
	wire_text(&old[MOST - 1], ask); /* all are accepted: those of before first */
	json_decref(answer_result(wire_message(&old[MOST - 1])));
	daemon_signal(d, SIGSTOP);
	for (int i = 0; i < NEW; i++)
		wire_open(&coming[i], d, WIRE_LOOK);
	for (int i = 0; i < MOST; i++)
		assert_true(wire_text(&old[i], ask));
	nap_ms(SPARED_MS);
	daemon_signal(d, SIGCONT);
	for (int i = 0; i < MOST; i++) {
		ssize_t n = heard(&old[i], text, sizeof(text), DAEMON_MS);

		if (n <= 0 || !strstr(text, "\"result\""))
			fail_msg("number %d asked, and got %s", i, n < 0 ? strerror(errno) : n ? text : "a bare end");
	}
	for (int i = 0; i < NEW; i++) { /* in, or told that they are not */
		ssize_t n;

		(void)wire_text(&coming[i], ask);
		n = heard(&coming[i], text, sizeof(text), DAEMON_MS);
		if (n <= 0 || (!strstr(text, "\"result\"") && !strstr(text, "\"limit\"")))
			fail_msg("newcomer %d got %s", i, n < 0 ? strerror(errno) : n ? text : "a bare end");
	}
	for (int i = 0; i < NEW; i++)
		wire_close(&coming[i]);
	for (int i = 0; i < MOST; i++)
		wire_close(&old[i]);
	free(old);
}

static void who_is_closed_for_another_one_is_told_so(void **state)
{
	struct wire *silent = calloc(MOST, sizeof(*silent)), w;

	assert_non_null(silent);
	for (int i = 0; i < MOST; i++)
		wire_open(&silent[i], *state, WIRE_LOOK);
	wire_do(&silent[MOST - 1], "status", NULL); /* all are accepted */
	nap_ms(SPARED_MS);
	wire_open(&w, *state, WIRE_LOOK);
	wire_do(&w, "status", NULL);
	wire_expect_last(&silent[0], "limit");
	for (int i = 1; i < MOST; i++)
		assert_true(wire_is_open(&silent[i]));
	for (int i = 0; i < MOST; i++)
		wire_close(&silent[i]);
	wire_close(&w);
	free(silent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(a_request_that_was_not_read_yet_is_answered_whoever_comes, "memory"),
		DAEMON_TEST(who_is_closed_for_another_one_is_told_so, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
