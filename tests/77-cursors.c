/* SPDX-License-Identifier: MIT
 * Pins against a model, in four processes, over kills, stops and restarts: a small dose of torture_cursor.h, with dice that
 * are the same each time. */
#include "daemon.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mp_place.h"
#include "torture_cursor.h"

static int setup(void **state)
{
	c_shared =
		mmap(NULL, sizeof *c_shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c_shared == MAP_FAILED)
		return -1;
	*state = calloc(1, sizeof(struct mp_place));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	c_let_go();
	munmap(c_shared, sizeof *c_shared);
	return mp_teardown(state);
}

static void run(struct mp_place *place, uint64_t seed, const char *store)
{
	unsigned ops = mp_number("OPS", 40000, 400000);

	mp_place_make(place, store);
	c_run(place, &(struct c_options){.ops = ops, .small_ops = ops / 4, .seed = seed, .store = store});
}

static void answers_fit_the_model_over_kills(void **state)
{
	run(*state, 77, "memory");
}

static void answers_fit_the_model_over_kills_with_a_store_on_disk(void **state)
{
	run(*state, 7700, "sqlite");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(answers_fit_the_model_over_kills, setup, teardown),
		cmocka_unit_test_setup_teardown(answers_fit_the_model_over_kills_with_a_store_on_disk, setup, teardown),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
