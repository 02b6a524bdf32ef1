/* SPDX-License-Identifier: MIT
 * torture_cursor.h: the program. OPS (1000000) calls on pins, or as many as TORTURE_SECONDS leave time for, by four
 * processes, under kills, stops and restarts of the daemon, and kills of processes; then a tenth as many with little room.
 * BERTH_SEED repeats the dice, not the scheduler. Ends with 1 at the first answer that nothing explains. */
#include "daemon.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mp_place.h"
#include "torture_cursor.h"

static int setup(void **state)
{
	struct mp_place *p = calloc(1, sizeof *p);

	c_shared =
		mmap(NULL, sizeof *c_shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!p || c_shared == MAP_FAILED)
		return -1;
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	c_let_go();
	return mp_teardown(state);
}

static void no_answer_differs_from_the_model_and_nothing_acknowledged_is_lost(void **state)
{
	uint64_t ops = mp_number("OPS", 1000000, 4000000);
	struct c_options o = {.ops = ops, .small_ops = ops / 10};
	const char *seconds = getenv("TORTURE_SECONDS");

	o.seconds = seconds ? (unsigned)strtoul(seconds, NULL, 10) : 0;
	o.seed = mp_seed();
	o.store = o.seed % 2 ? "sqlite" : "memory";
	mp_place_make(*state, o.store);
	c_run(*state, &o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(no_answer_differs_from_the_model_and_nothing_acknowledged_is_lost,
						setup, teardown),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
