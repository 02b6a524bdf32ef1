/* SPDX-License-Identifier: MIT
 * See suite.h. */
#include "suite.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"
#include "place.h"

uint64_t suite_seed;
unsigned suite_migrations = 200;

struct suite {
	const struct CMUnitTest *tests;
	size_t n;
};

static int body(void *arg)
{
	const struct suite *s = arg;

	printf("note: BERTH_SEED=%" PRIu64 " E2E_MIGRATIONS=%u\n", suite_seed, suite_migrations);
	if (getenv("E2E_ONLY"))
		cmocka_set_test_filter(getenv("E2E_ONLY"));
	return _cmocka_run_group_tests("tests", s->tests, s->n, NULL, NULL) != 0;
}

int suite_run(const struct CMUnitTest *tests, size_t n)
{
	const char *seed = getenv("BERTH_SEED"), *migrations = getenv("E2E_MIGRATIONS");
	struct suite s = {.tests = tests, .n = n};

	suite_seed = seed ? strtoull(seed, NULL, 10) : load_now_ns();
	if (migrations && *migrations)
		suite_migrations = (unsigned)strtoul(migrations, NULL, 10);
	setvbuf(stdout, NULL, _IOLBF, 0);
	return place_guard(body, &s);
}
