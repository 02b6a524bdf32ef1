/* SPDX-License-Identifier: MIT
 * Several users, and not descriptors enough for all that they want: who has many does not take them from those who have few.
 * A program of its own: its limit of open files stays with it. Needs root. */
#include "users.h"

#include <poll.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SPARED_MS 300 /* after which one that is silent may be closed: CONN_SPARED_MS, and a turn of the loop */

enum { FILES = 200, KEPT = 128, ROOM = FILES - KEPT }; /* DESCRIPTORS_KEPT */

/* The daemon of users.h, with few descriptors: it takes the hard limit, so this process has it too. */
static int make_with_few_files(void **state)
{
	const struct rlimit few = {.rlim_cur = FILES, .rlim_max = FILES};

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	return users_make(state);
}

static void open_as(struct wire *w, uid_t uid)
{
	gid_t none = getegid();

	assert_int_equal(setegid(BERTH_GID), 0);
	assert_int_equal(seteuid(uid), 0);
	wire_open(w, place, WIRE_LOOK);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(none), 0);
}

static void open_many(struct wire *all, unsigned n, uid_t uid)
{
	for (unsigned i = 0; i < n; i++)
		open_as(&all[i], uid);
	wire_do(&all[n - 1], "status", NULL); /* all are accepted */
}

static void close_many(struct wire *all, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		wire_close(&all[i]);
}

static void attach(struct wire *w)
{
	struct timespec mono, boot;

	clock_gettime(CLOCK_MONOTONIC, &mono);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	wire_do(w, "attach", "{s:i, s:i, s:i, s:s, s:b, s:I, s:I}", "version", 1, "pid", (int)getpid(), "readers", 1,
		"writes", "none", "fences", 0, "monotonic_ns", (json_int_t)mono.tv_sec * 1000000000 + mono.tv_nsec,
		"boottime_ns", (json_int_t)boot.tv_sec * 1000000000 + boot.tv_nsec);
	close(w->passed);
	w->passed = -1;
}

/* Registrations cost two descriptors each, and their connections wait for ever. */
static void who_has_many_registrations_takes_no_connection_from_who_has_few(void **state)
{
	enum { FEW = 10, MANY = (ROOM - FEW) / 2 };
	struct wire few[FEW], many[MANY], w;

	(void)state;
	NEEDS_USERS();
	open_many(few, FEW, MEMBER);
	for (unsigned i = 0; i < MANY; i++) {
		open_as(&many[i], ADMIN);
		attach(&many[i]);
	}
	poll(NULL, 0, SPARED_MS);
	open_as(&w, ADMIN);
	wire_expect_last(&w, "limit");
	wire_close(&w);
	for (unsigned i = 0; i < FEW; i++)
		assert_true(wire_is_open(&few[i]));
	open_as(&w, STRANGER); /* who has none gets one of those who have more */
	wire_do(&w, "status", NULL);
	wire_expect_last(&few[0], "limit");
	wire_close(&w);
	close_many(few, FEW);
	close_many(many, MANY);
}

static void who_wants_one_more_gives_up_one_of_its_own_first(void **state)
{
	enum { FEW = 2, MANY = ROOM - FEW };
	struct wire few[FEW], many[MANY], more[FEW];

	(void)state;
	NEEDS_USERS();
	open_many(few, FEW, MEMBER); /* the oldest */
	open_many(many, MANY, ADMIN);
	poll(NULL, 0, SPARED_MS);
	for (unsigned i = 0; i < FEW; i++) {
		open_as(&more[i], ADMIN);
		wire_do(&more[i], "status", NULL);
		wire_expect_last(&many[i], "limit");
	}
	for (unsigned i = 0; i < FEW; i++)
		assert_true(wire_is_open(&few[i]));
	for (unsigned i = FEW; i < MANY; i++)
		assert_true(wire_is_open(&many[i]));
	close_many(few, FEW);
	close_many(many, MANY);
	close_many(more, FEW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(who_has_many_registrations_takes_no_connection_from_who_has_few,
						make_with_few_files, users_remove),
		cmocka_unit_test_setup_teardown(who_wants_one_more_gives_up_one_of_its_own_first, make_with_few_files,
						users_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
