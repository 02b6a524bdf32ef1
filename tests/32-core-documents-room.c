/* SPDX-License-Identifier: MIT
 * A document takes room for what it changes, not for what it says: the table does not grow for the rest of it. */
#include "core_place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 4000u
#define N_LONG 20000u

static uint32_t generation(struct core_place *p)
{
	struct table_stats stats;

	table_stats(core_table(p->core), &stats);
	return stats.generation;
}

/* No growth is under way, and no file of an older table is left. */
static void settle(struct core_place *p)
{
	struct table_stats stats;

	for (unsigned i = 0; i < 10000; i++) {
		const struct timespec nap = {.tv_nsec = 1000000};
		uint64_t wait = core_step(p->core, 1000);

		table_stats(core_table(p->core), &stats);
		if (wait && !stats.growing && stats.reserve_bytes >= stats.bytes)
			return;
		nanosleep(&nap, NULL);
	}
	fail_msg("the table never comes to rest");
}

/* N partitions, each with an index of its own; the first with `first`. free() it. */
static char *many(const char *first)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (unsigned i = 0; i < N; i++)
		fprintf(f, "%s\"p%05u\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"%s-%05u\"}",
			i ? "," : "", i, i ? "of-its-own" : first, i);
	fputs("}}", f);
	fclose(f);
	return text;
}

static void the_table_does_not_grow_for_placements_that_stay(void **state)
{
	struct core_place *p = *state;
	char *text = many("of-its-own"), first[8];
	uint32_t before;

	assert_ok(load(p, text));
	assert_int_equal(p->summary.applied, N);
	free(text);
	settle(p);
	before = generation(p);
	for (unsigned i = 0; i < 5; i++) {
		snprintf(first, sizeof(first), "new-%u", i);
		text = many(first);
		assert_ok(load(p, text));
		assert_int_equal(p->summary.applied, 1);
		assert_int_equal(p->summary.unchanged, N - 1);
		assert_int_equal(generation(p), before);
		free(text);
	}
	assert_at(p, "p00000", ix("c1", "new-4-00000"));
	assert_at(p, "p00001", ix("c1", "of-its-own-00001"));
}

static void name(char key[256], unsigned i)
{
	snprintf(key, 256, "%0200u", i);
}

static void nor_for_long_names_that_it_only_adopts(void **state)
{
	struct core_place *p = *state;
	char *text = NULL, key[256];
	uint32_t before;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	fputs("{\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},\"partitions\":{", f);
	for (unsigned i = 0; i < N_LONG; i++) {
		name(key, i);
		done(p, OP_SET, key, on("c1"));
		fprintf(f, "%s\"%s\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}", i ? "," : "", key);
	}
	fputs("}}", f);
	fclose(f);
	done(p, OP_DEFAULT, NULL, on("c1"));
	settle(p);
	before = generation(p);
	assert_ok(load(p, text));
	assert_int_equal(p->summary.adopted, N_LONG);
	assert_int_equal(generation(p), before);
	free(text);
}

static void but_for_each_placement_that_is_new_once(void **state)
{
	struct core_place *p = *state;
	char *text = many("of-its-own");
	uint32_t before = generation(p);

	assert_ok(load(p, text));
	assert_true(generation(p) > before); /* 64 entries would not do */
	free(text);
	settle(p);
	before = generation(p);
	text = many("of-its-own");
	for (char *c = text; (c = strstr(c, "of-its-own")); c++)
		memcpy(c, "its-second", 10);
	assert_ok(load(p, text)); /* reserved whole: were the room not made before, a reserve would fail half way */
	assert_int_equal(p->summary.applied, N);
	assert_true(generation(p) > before);
	assert_at(p, "p01234", ix("c1", "its-second-01234"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(the_table_does_not_grow_for_placements_that_stay),
		CORE_ON(nor_for_long_names_that_it_only_adopts, store_memory),
		CORE_ON_BOTH(but_for_each_placement_that_is_new_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
