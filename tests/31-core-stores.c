/* SPDX-License-Identifier: MIT
 * A directory whose readers have a table, and a store that has never heard of it: no start shows them an empty one
 * unless it was asked to. */
#include "core_place.h"

#include <stdio.h>
#include <string.h>

static void other_store(struct core_place *p)
{
	p->ops = &store_sqlite;
	snprintf(p->argument, sizeof(p->argument), "%s/other", p->store_dir);
}

static uint32_t generation(struct core_place *p)
{
	struct table_stats stats;

	table_stats(core_table(p->core), &stats);
	return stats.generation;
}

static void assert_says(struct core_place *p, const char *words)
{
	if (!strstr(p->r.message, words))
		fail_msg("\"%s\" is not in \"%s\"", words, p->r.message);
}

static void an_empty_store_does_not_take_the_partitions_from_readers(void **state)
{
	struct core_place *p = *state;
	const struct store_ops *ops = p->ops;
	char argument[sizeof(p->argument)];
	uint32_t before;
	uint64_t epoch;

	memcpy(argument, p->argument, sizeof(argument));
	done(p, OP_SET, "p", on("c1"));
	epoch = done(p, OP_SET, "q", on("c2"));
	before = generation(p);
	down(p);
	other_store(p);
	for (unsigned i = 0; i < 2; i++) {
		assert_code(try_up(p), R_INVALID);
		assert_says(p, p->argument);
		assert_says(p, p->dir);
		assert_says(p, "2 partitions now");
		assert_says(p, "--store");
		assert_says(p, "--new-directory");
	}
	p->ops = ops;
	memcpy(p->argument, argument, sizeof(argument));
	up(p);
	assert_int_equal(generation(p), before + 1); /* readers were shown nothing in between */
	assert_at(p, "p", on("c1"));
	assert_at(p, "q", on("c2"));
	assert_int_equal(epoch_of(p, "q"), epoch);
}

static void nor_a_default_that_answers_for_all(void **state)
{
	struct core_place *p = *state;

	done(p, OP_DEFAULT, NULL, on("c1"));
	down(p);
	other_store(p);
	assert_code(try_up(p), R_INVALID);
	assert_says(p, "0 partitions and a default");
}

static void asked_to_give_them_up_it_serves(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));

	down(p);
	other_store(p);
	p->new_directory = true;
	up(p);
	p->new_directory = false;
	assert_at(p, "p", NULL);
	assert_ok(cluster_set(p, "c1", ""));
	assert_true(done(p, OP_SET, "p", on("c1")) > epoch);
	restart(p); /* it is its own by now */
	assert_at(p, "p", on("c1"));
}

static void where_nobody_would_miss_anything_it_serves_at_once(void **state)
{
	struct core_place *p = *state;

	done(p, OP_SET, "p", on("c1"));
	assert_ok(force(p, OP_REMOVE, "p", NULL));
	down(p);
	other_store(p);
	up(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(an_empty_store_does_not_take_the_partitions_from_readers),
		CORE_ON_BOTH(nor_a_default_that_answers_for_all),
		CORE_ON_BOTH(asked_to_give_them_up_it_serves),
		CORE_ON_BOTH(where_nobody_would_miss_anything_it_serves_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
