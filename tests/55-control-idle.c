/* SPDX-License-Identifier: MIT
 * Connections that do nothing: who is closed after 30 s, and who may be silent for ever. One test of half a minute. */
#include "drain_place.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static json_int_t clock_ns(int clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (json_int_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool open_still(const struct wire *w)
{
	struct pollfd p = {.fd = w->fd};

	return poll(&p, 1, 0) == 0;
}

static void only_who_waits_for_nothing_is_closed_when_idle(void **state)
{
	struct drain_place *p = *state;
	struct wire silent, half, deaf, attached, watcher, busy, waiting;
	struct berth_write one;
	uint64_t start = test_now_ms(), deadline = start + 40000;

	wire_open(&silent, &p->d, WIRE_LOOK);
	wire_open(&half, &p->d, WIRE_ADMIN);
	wire_open(&deaf, &p->d, WIRE_ADMIN);
	wire_open(&attached, &p->d, WIRE_LOOK);
	wire_open(&watcher, &p->d, WIRE_LOOK);
	wire_open(&busy, &p->d, WIRE_LOOK);
	wire_do(&attached, "attach", "{s:i, s:i, s:i, s:s, s:b, s:I, s:I}", "version", 1, "pid", getpid(), "readers", 1,
		"writes", "none", "fences", 0, "monotonic_ns", clock_ns(CLOCK_MONOTONIC), "boottime_ns",
		clock_ns(CLOCK_BOOTTIME));
	drain_prepare(p, "p", &one);
	drain_open_complete(p, &waiting, "p", 60000);
	wire_do(&watcher, "watch", NULL);
	for (int i = 0; i < 2000; i++) { /* answers that nobody reads */
		static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n";

		if (send(deaf.fd, request, sizeof(request) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
	}
	while (test_now_ms() < deadline && (open_still(&silent) || open_still(&half) || open_still(&deaf))) {
		wire_do(&busy, "status", NULL);
		wire_text(&half, "["); /* slow, and never whole */
		poll(NULL, 0, 500);
		if (test_now_ms() < start + 29000)
			assert_true(open_still(&silent) && open_still(&half) && open_still(&deaf));
	}
	assert_false(open_still(&silent));
	assert_false(open_still(&half));
	assert_false(open_still(&deaf));
	assert_true(open_still(&attached));
	wire_do(&busy, "status", NULL);
	wire_do(&attached, "status", NULL);
	wire_do(&watcher, "status", NULL);
	assert_true(open_still(&waiting));
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&waiting));
	close(attached.passed);
	wire_close(&silent);
	wire_close(&half);
	wire_close(&deaf);
	wire_close(&attached);
	wire_close(&watcher);
	wire_close(&busy);
	wire_close(&waiting);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DRAIN_TEST(only_who_waits_for_nothing_is_closed_when_idle, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
