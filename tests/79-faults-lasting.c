/* SPDX-License-Identifier: MIT
 * A class of calls goes on failing while requests come: the daemon neither ends nor works all the time, changes nothing
 * that was not asked for, and goes on when they fail no more. faults/interpose.c makes the failures. BERTH_LONG=1 goes
 * through all classes, each for longer, else those that are met when nothing fails. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault_judge.h"

/* Of a change and its connection: these fail in each run, or this shows nothing of them. */
static const enum fault_call always[] = {CALL_OPEN,    CALL_FSYNC,  CALL_PWRITE,    CALL_SEND,
					 CALL_RECVMSG, CALL_ACCEPT, CALL_SOCKOPT,   CALL_FSTAT,
					 CALL_MALLOC,  CALL_RECORD, CALL_MEMBARRIER};

static struct fault_place *p;
static bool all_of_it; /* BERTH_LONG */

/* The first errno of a class that is none of an interruption, of which a program that is interrupted for ever does not
 * recover; 0: it has none. */
static int lasting_error(enum fault_call call)
{
	for (const int *error = fault_errors(call); *error; error++)
		if (*error != EINTR && *error != FAULT_SHORT)
			return *error;
	return 0;
}

/* Requests come for so long, and nobody waits for their answers. */
static void requests(unsigned ms)
{
	uint64_t end = test_now_ms() + ms;
	struct wire w;

	wire_open(&w, &p->d, WIRE_ADMIN);
	for (unsigned i = 0; test_now_ms() < end; i++) {
		char text[300];

		snprintf(
			text, sizeof text,
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partition\":\"globex\","
			"\"placement\":"
			"{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"lasting-%u\"},\"force\":true}}\n",
			p->turn++);
		if (i < 5)
			wire_text(&w, text);
		usleep(10000);
	}
	wire_close(&w);
}

static bool go_on_failing(enum fault_call call, int error, unsigned ms)
{
	uint64_t cpu = fault_cpu_ms(p);
	bool met;

	fault_arm(p->plan, call, 1, error, true, NULL);
	requests(ms);
	met = fault_disarm(p->plan) != 0;
	p->tried++;
	p->fired += met;
	fault_lives(p);
	if (fault_cpu_ms(p) - cpu > ms / 2 + 20)
		fault_fail(p, "it works all the time: %llu of %u ms", (unsigned long long)(fault_cpu_ms(p) - cpu), ms);
	return met;
}

static void a_call_that_goes_on_failing_neither_ends_the_daemon_nor_keeps_it_busy(void **state)
{
	bool met[CALLS] = {false};
	unsigned descriptors, ms;

	p = fault_needed(state);
	all_of_it = getenv("BERTH_LONG") != NULL;
	ms = all_of_it ? 2500 : 150;
	fault_must(p, fault_set_default(p, "default"));
	fault_goes_on(p);
	fault_count(p->plan);
	requests(ms);
	descriptors = fault_descriptors(p) + 1; /* admin's connection may be a new one before the old one is gone */
	for (enum fault_call call = 0; call < CALLS; call++) {
		int error = lasting_error(call);
		char *before;

		if (!error || (!all_of_it && atomic_load(&p->plan->passes[call]) == 0))
			continue;
		before = fault_view(p);
		snprintf(p->doing, sizeof p->doing, "every %s fails with %s", fault_name(call),
			 fault_error_name(error));
		met[call] = go_on_failing(call, error, ms);
		fault_goes_on(p);
		fault_expect_view(p, before, "globex");
		fault_nothing_leaked(p, descriptors);
		free(before);
	}
	printf("note: %u classes of calls, %u of them met\n", p->tried, p->fired);
	snprintf(p->doing, sizeof p->doing, "when nothing fails any more");
	for (unsigned i = 0; i < sizeof always / sizeof always[0]; i++)
		if (!met[always[i]])
			fault_fail(p, "no %s was there to fail", fault_name(always[i]));
	fault_restart(p, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(a_call_that_goes_on_failing_neither_ends_the_daemon_nor_keeps_it_busy, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
