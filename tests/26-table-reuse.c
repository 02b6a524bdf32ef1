/* SPDX-License-Identifier: MIT
 * When the slot of a removed partition gets another key: the writer's table in one process, which runs a grace period when
 * it is told to (table_step), not before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "../writer/table_internal.h"
#include "scratch.h"

#define N 200u

static struct refusal why;

static struct table *start(struct scratch *s)
{
	const struct table_options o = {.barrier_ms = 30000};
	struct table *t;

	OK(table_open(&s->instance, &o, &t, &why));
	OK(table_build(t, 6 * N, &why));
	table_load_counters(t, 0, 1, 0, 0);
	OK(table_load_cluster(t, 1, "c1", "", &why));
	OK(table_flip(t, &why));
	return t;
}

static size_t name(char key[32], const char *set, unsigned i)
{
	return (size_t)snprintf(key, 32, "%s-%u", set, i);
}

/* at NULL: removes it. */
static void put(struct table *t, const char *set, unsigned i, const struct shm_detail *at)
{
	char key[32];
	struct table_change c = {.key = key, .len = name(key, set, i), .after = {.at = at}};

	OK(table_reserve(t, &c, &why));
	c.after.epoch = table_take_epoch(t);
	table_publish(t, &c);
}

/* How many of these keys an entry holds, live or not. */
static unsigned kept(struct table *t, const char *set)
{
	unsigned n = 0;

	for (unsigned i = 0; i < N; i++) {
		const struct shm_entry *e;
		uint64_t word;
		char key[32];
		size_t len = name(key, set, i);

		n += index_find(&t->now->map, key, len, hash_key(t->secret, key, len), true, &e, &word) == 1;
	}
	return n;
}

static void settle(struct table *t)
{
	for (unsigned i = 0; i < 100000; i++) {
		if (table_step(t, 1000) == UINT64_MAX)
			return;
		usleep(100);
	}
	fail_msg("the table never comes to rest");
}

static void a_removed_partitions_slot_keeps_its_key_until_a_grace_period_has_passed(void **unused)
{
	union detail_buffer b;
	struct scratch s;
	struct table *t;

	(void)unused;
	assert_int_equal(detail_start(&b, KIND_DEDICATED_INDEX, 1, "index", 5), BERTH_OK);
	detail_finish(&b);
	scratch_open(&s);
	t = start(&s);
	for (unsigned i = 0; i < N; i++)
		put(t, "first", i, &b.detail);
	for (unsigned i = 0; i < N; i++)
		put(t, "first", i, NULL);
	for (unsigned i = 0; i < N; i++)
		put(t, "second", i, &b.detail);
	/* A reader may have loaded the word of any of them while it was live, and may be comparing its key now. */
	assert_int_equal(kept(t, "first"), N);
	settle(t);
	for (unsigned i = 0; i < N; i++)
		put(t, "third", i, &b.detail);
	assert_true(kept(t, "first") < N);
	assert_int_equal(kept(t, "second"), N);
	assert_int_equal(kept(t, "third"), N);
	table_close(&t);
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_removed_partitions_slot_keeps_its_key_until_a_grace_period_has_passed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
