/* SPDX-License-Identifier: MIT
 * Many partitions placed by one call of the core: all or nothing, against both stores, with commits that fail or of
 * which nobody knows, across restarts, while the table grows. What comes over the sockets is in 58-batch.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core_place.h"

static struct core_many many;

/* ids: JSON text of an array. */
static enum refusal_code place_as(struct core_place *p, const char *ids, const char *placement, bool forced)
{
	json_t *list = json_loads(ids, 0, NULL), *json = json_loads(placement, 0, NULL);
	enum refusal_code code;

	assert_non_null(list);
	assert_non_null(json);
	code = core_set_many(p->core, list, json, forced, "a test", &many, &p->r);
	json_decref(list);
	json_decref(json);
	return code;
}

static enum refusal_code place(struct core_place *p, const char *ids, const char *placement)
{
	return place_as(p, ids, placement, false);
}

/* "t<from>" … "t<from + n - 1>"; free() it. */
static char *names(unsigned from, unsigned n)
{
	size_t room = n * 16 + 3, at = 1;
	char *text = malloc(room);

	assert_non_null(text);
	text[0] = '[';
	for (unsigned i = 0; i < n; i++)
		at += (size_t)snprintf(text + at, room - at, "%s\"t%u\"", i ? "," : "", from + i);
	text[at] = ']';
	text[at + 1] = '\0';
	return text;
}

static void place_range(struct core_place *p, unsigned from, unsigned n, const char *placement, bool forced)
{
	char *ids = names(from, n);

	assert_ok(place_as(p, ids, placement, forced));
	free(ids);
}

/* Each is there, with the epochs that a batch of exactly these took. */
static void check_range(struct core_place *p, unsigned from, unsigned n, const char *placement, uint64_t first_epoch)
{
	char key[16];

	for (unsigned i = 0; i < n; i++) {
		snprintf(key, sizeof(key), "t%u", from + i);
		assert_at(p, key, placement);
		assert_int_equal(epoch_of(p, key), first_epoch + i);
	}
}

static void each_that_changes_takes_an_epoch_and_the_others_keep_theirs(void **state)
{
	struct core_place *p = *state;
	uint64_t q = done(p, OP_SET, "q", on("c1"));
	unsigned events = p->n_events;

	assert_ok(place(p, "[\"p\",\"q\",\"r\",\"\\u00fc\"]", on("c1")));
	assert_int_equal(many.changed, 3);
	assert_int_equal(many.unchanged, 1);
	assert_int_equal(many.epoch, q + 3);
	assert_int_equal(epoch_of(p, "p"), q + 1);
	assert_int_equal(epoch_of(p, "q"), q);
	assert_int_equal(epoch_of(p, "r"), q + 2);
	assert_int_equal(epoch_of(p, "\xc3\xbc"), q + 3);
	assert_int_equal(p->n_events, events + 3);
	assert_newest(p, "set", "\xc3\xbc", false);
	assert_int_equal(core_changes(p->core), 7); /* three clusters, q, these three */

	assert_ok(place(p, "[\"r\",\"q\",\"p\"]", on("c1")));
	assert_int_equal(many.changed, 0);
	assert_int_equal(many.unchanged, 3);
	assert_int_equal(many.epoch, q + 2);
	assert_int_equal(table_epoch(core_table(p->core)), q + 3);
	assert_int_equal(p->n_events, events + 3);

	assert_code(place(p, "[\"p\",\"q\"]", on("c2")), R_WOULD_MOVE);
	assert_ok(place_as(p, "[\"p\",\"q\"]", on("c2"), true));
	assert_int_equal(many.epoch, q + 5);
	assert_newest(p, "set", "q", true);
	assert_int_equal(table_cluster_uses(core_table(p->core), 1), 2);
	assert_int_equal(table_cluster_uses(core_table(p->core), 2), 2);
}

static void what_refuses_one_refuses_all(void **state)
{
	struct core_place *p = *state;
	static const char c1[] = "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}";
	static const struct {
		const char *ids, *placement;
		enum refusal_code code;
		const char *path, *message;
	} all[] = {
		{"[\"a\",\"p\",\"moving\"]", c1, R_ALREADY_MIGRATING, "$.partitions[2]", "\"moving\""},
		{"[\"a\",\"elsewhere\"]", c1, R_WOULD_MOVE, "$.partitions[1]", "\"elsewhere\""},
		{"[\"a\",\"b\"]", "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c9\"}", R_UNKNOWN_CLUSTER,
		 "$.placement.cluster", "\"c9\""},
		{"[\"a\",\"b\",\"x\\ny\"]", c1, R_INVALID, "$.partitions[2]", "control character"},
		{"[\"\",\"b\"]", c1, R_INVALID, "$.partitions[0]", "empty"},
		{"[\"a\",7]", c1, R_INVALID, "$.partitions[1]", "must be a string"},
		{"[\"a\",null]", c1, R_INVALID, "$.partitions[1]", "must be a string"},
		{"[\"a\",\"b\",\"p\",\"b\"]", c1, R_INVALID, "$.partitions[3]", "\"b\" is there twice, first at [1]"},
		{"[]", c1, R_INVALID, "$.partitions", "empty"},
		{"[\"a\"]", "{\"mode\":\"dedicated-index\",\"cluster\":\"c1\"}", R_INVALID, "$.placement", "index"},
	};
	uint64_t epoch;
	unsigned events;
	char *before, *after;

	done(p, OP_SET, "p", on("c1"));
	done(p, OP_SET, "elsewhere", on("c2"));
	done(p, OP_SET, "moving", on("c1"));
	done(p, OP_BEGIN, "moving", on("c2"));
	before = everything(p);
	epoch = table_epoch(core_table(p->core));
	events = p->n_events;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		assert_code(place(p, all[i].ids, all[i].placement), all[i].code);
		assert_string_equal(p->r.path, all[i].path);
		if (!strstr(p->r.message, all[i].message))
			fail_msg("%s: %s", all[i].ids, p->r.message);
		assert_int_equal(many.changed, 0);
	}
	after = everything(p);
	assert_string_equal(before, after);
	assert_int_equal(table_epoch(core_table(p->core)), epoch);
	assert_int_equal(p->n_events, events);
	free(before);
	free(after);
}

/* What the table has handed out for records, once nothing waits for a grace period. */
static uint64_t record_bytes(struct core_place *p)
{
	uint64_t start = seg_clock_ms(CLOCK_MONOTONIC);
	struct table_stats s;

	for (table_stats(core_table(p->core), &s); s.retired && seg_clock_ms(CLOCK_MONOTONIC) - start < 10000;
	     table_stats(core_table(p->core), &s))
		core_step(p->core, 1000);
	assert_int_equal(s.retired, 0);
	return s.record_bytes_used;
}

static void a_placement_is_counted_for_each_that_has_it(void **state)
{
	struct core_place *p = *state;
	struct table_stats s;
	uint64_t used;

	place_range(p, 0, 3, on("c1"), false);
	used = record_bytes(p);
	place_range(p, 0, 3, ix("c2", "i"), true);
	done(p, OP_SET, "t0", ix("c2", "j"));
	done(p, OP_SET, "t2", ix("c2", "j"));
	record_bytes(p);
	assert_at(p, "t1", ix("c2", "i"));
	done(p, OP_SET, "t1", ix("c2", "j"));
	table_stats(core_table(p->core), &s);
	assert_int_equal(s.retired, 1); /* it was the last */
	place_range(p, 0, 3, on("c1"), true);
	assert_int_equal(record_bytes(p), used);
}

static void a_batch_that_the_store_does_not_take_changes_nothing(void **state)
{
	struct core_place *p = *state;
	static const enum fault faults[] = {FAULT_PUT, FAULT_FAILED, FAULT_UNKNOWN_OUT};
	char *before, *after;
	uint64_t epoch, used;
	unsigned events;

	done(p, OP_SET, "p", on("c1"));
	used = record_bytes(p);
	before = everything(p);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		epoch = table_epoch(core_table(p->core));
		events = p->n_events;
		next_commit = faults[i];
		assert_code(place(p, "[\"a\",\"p\",\"b\"]", ix("c1", "i")), R_BACKEND);
		assert_ok(core_settle(p->core, &p->r));
		after = everything(p);
		assert_string_equal(before, after);
		free(after);
		assert_int_equal(p->n_events, events);
		assert_int_equal(table_epoch(core_table(p->core)), epoch + 3); /* they are burnt */
		assert_int_equal(record_bytes(p), used);
	}
	free(before);
	assert_ok(place(p, "[\"a\",\"p\",\"b\"]", ix("c1", "i")));
	assert_int_equal(many.epoch, epoch + 6);
	assert_at(p, "p", ix("c1", "i"));
}

static void a_batch_that_was_kept_is_adopted_whole(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));
	unsigned events = p->n_events;

	next_commit = FAULT_UNKNOWN_IN;
	settle_refusals = 2;
	assert_code(place(p, "[\"a\",\"p\",\"b\"]", ix("c1", "i")), R_BACKEND);
	assert_at(p, "p", on("c1")); /* not before it is known */
	assert_at(p, "a", NULL);
	assert_code(place(p, "[\"a\",\"x\"]", on("c1")), R_BACKEND);
	assert_code(apply(p, OP_SET, "x", on("c1")), R_BACKEND);
	assert_int_equal(p->n_events, events);
	assert_ok(place(p, "[\"x\",\"y\"]", on("c1"))); /* settles it first */
	assert_int_equal(p->n_events, events + 5);
	assert_at(p, "a", ix("c1", "i"));
	assert_at(p, "b", ix("c1", "i"));
	assert_int_equal(epoch_of(p, "a"), epoch + 1);
	assert_int_equal(epoch_of(p, "p"), epoch + 2);
	assert_int_equal(epoch_of(p, "b"), epoch + 3);
	assert_true(epoch_of(p, "x") > epoch + 3);

	next_commit = FAULT_UNKNOWN_IN; /* what is in hand goes with the process, and is found in the store */
	assert_code(place(p, "[\"k\",\"l\"]", on("c1")), R_BACKEND);
	restart(p);
	assert_at(p, "k", p->ops->durable ? on("c1") : NULL);
	assert_at(p, "l", p->ops->durable ? on("c1") : NULL);
	done(p, OP_SET, "m", on("c1"));
}

static void a_batch_is_there_after_a_restart(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch;

	place_range(p, 0, 2000, on("c1"), false);
	place_range(p, 500, 1000, sh("c1", "i"), false);
	epoch = many.epoch;
	restart(p);
	check_range(p, 500, 1000, sh("c1", "i"), epoch - 999);
	check_range(p, 0, 500, on("c1"), epoch - 2999);
	check_range(p, 1500, 500, on("c1"), epoch - 1499);
	assert_true(done(p, OP_SET, "t0", ix("c1", "i")) > epoch);
}

/* Larger than the fresh table, with names of all lengths. */
static void a_batch_grows_the_table_for_itself(void **state)
{
	struct core_place *p = *state;
	json_t *ids = json_array(), *placement = json_loads(on("c1"), 0, NULL);
	struct table_stats before, after;
	char key[SHM_KEY_MAX + 1];
	json_t *id;
	size_t i;

	table_stats(core_table(p->core), &before);
	for (unsigned n = 0; n < 4 * before.capacity; n++) {
		int len = snprintf(key, sizeof(key), "%u%0*u", n, (int)(n % (SHM_KEY_MAX - 10)), 0);

		json_array_append_new(ids, json_stringn(key, (size_t)len));
	}
	assert_ok(core_set_many(p->core, ids, placement, false, "a test", &many, &p->r));
	assert_int_equal(many.changed, json_array_size(ids));
	table_stats(core_table(p->core), &after);
	assert_true(after.generation > before.generation);
	assert_int_equal(after.n_live, json_array_size(ids));
	json_array_foreach (ids, i, id)
		assert_int_equal(epoch_of(p, json_string_value(id)), many.epoch - json_array_size(ids) + 1 + i);
	json_decref(ids);
	json_decref(placement);
}

static void a_batch_while_the_table_grows_goes_to_both_generations(void **state)
{
	struct core_place *p = *state;
	struct table *t = core_table(p->core);
	unsigned n = 0, batches = 0;
	uint64_t first;
	struct table_stats s;

	do { /* large enough that a growth has many slices */
		place_range(p, n, 500, on("c1"), false);
		n += 500;
		core_step(p->core, 1000000);
		table_stats(t, &s);
	} while (s.growing || n < 4000);
	for (; !s.growing; table_stats(t, &s)) {
		place_range(p, n, 20, on("c1"), false);
		n += 20;
		core_step(p->core, 0);
	}
	first = many.epoch;
	while (s.growing) { /* over all, old and new ones, at every stage of the copy */
		uint32_t generation = s.generation;

		n += batches < 20; /* more would have to help it along */
		place_range(p, 0, n, batches++ % 2 ? on("c1") : ix("c1", "i"), false);
		first = many.epoch - many.changed + 1;
		table_stats(t, &s);
		assert_true(s.growing && s.generation == generation); /* it was not brought to its end for that */
		core_step(p->core, 0);
		table_stats(t, &s);
	}
	assert_true(batches > 10);
	check_range(p, 0, n, batches % 2 ? ix("c1", "i") : on("c1"), first);
	table_stats(t, &s);
	assert_int_equal(s.n_live, n);
}

static void what_a_batch_replaces_waits_for_one_grace_period(void **state)
{
	struct core_place *p = *state;
	struct table *t = core_table(p->core);
	struct table_stats before, s;
	char key[16], index[16];

	for (unsigned i = 0; i < 600; i++) {
		snprintf(key, sizeof(key), "t%u", i);
		snprintf(index, sizeof(index), "index%u", i);
		done(p, OP_SET, key, ix("c1", index));
	}
	table_stats(t, &before);
	assert_int_equal(before.retired, 0);
	place_range(p, 0, 600, on("c1"), false);
	table_stats(t, &s);
	assert_int_equal(s.retired, 600); /* a placement of each, and nothing has waited for it */
	assert_int_equal(s.grace_periods, before.grace_periods);
	record_bytes(p);
	table_stats(t, &s);
	assert_int_equal(s.retired, 0);
	assert_int_equal(s.grace_periods, before.grace_periods + 1);
}

static void a_batch_without_enough_epochs_is_refused(void **state)
{
	struct core_place *p = *state;
	struct store *s;
	char last[32];

	done(p, OP_SET, "p", on("c1"));
	down(p);
	assert_ok(p->ops->open(p->argument, &s, &p->r));
	snprintf(last, sizeof(last), "%" PRIu64, (uint64_t)SHM_EPOCH_MAX - 2);
	assert_int_equal(p->ops->begin(s, &p->r), STORE_OK);
	assert_int_equal(p->ops->put_meta(s, "epoch", last, &p->r), STORE_OK);
	assert_int_equal(p->ops->commit(s, &p->r), STORE_OK);
	p->ops->close(&s);
	up(p);
	assert_code(place(p, "[\"p\",\"q\",\"r\"]", ix("c1", "i")), R_EPOCHS_EXHAUSTED);
	assert_at(p, "p", on("c1"));
	assert_at(p, "q", NULL);
	restart(p);
	assert_at(p, "p", on("c1"));
	assert_ok(place(p, "[\"p\"]", on("c1")));
	assert_int_equal(many.unchanged, 1);
}

/* A removed partition's slot is its own again, and nobody else's in the same batch. */
static void removed_partitions_come_back_beside_new_ones(void **state)
{
	struct core_place *p = *state;
	const unsigned n = 200;
	struct table_stats s;
	uint64_t first;
	char key[16];

	place_range(p, 0, n, on("c1"), false);
	for (unsigned i = 0; i < n; i++) {
		snprintf(key, sizeof(key), "t%u", i);
		assert_code(force(p, OP_REMOVE, key, NULL), R_DONE);
	}
	do { /* no reader is there: grace periods end */
		core_step(p->core, 1000);
		table_stats(core_table(p->core), &s);
	} while (s.retired);
	first = done(p, OP_SET, "last", on("c1")) + 1;
	place_range(p, 0, 2 * n, on("c2"), false);
	check_range(p, 0, 2 * n, on("c2"), first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(each_that_changes_takes_an_epoch_and_the_others_keep_theirs),
		CORE_ON_BOTH(what_refuses_one_refuses_all),
		CORE_ON(a_placement_is_counted_for_each_that_has_it, store_memory),
		CORE_ON_BOTH(a_batch_that_the_store_does_not_take_changes_nothing),
		CORE_ON_BOTH(a_batch_that_was_kept_is_adopted_whole),
		CORE_ON_BOTH(a_batch_is_there_after_a_restart),
		CORE_ON_BOTH(a_batch_grows_the_table_for_itself),
		CORE_ON_BOTH(removed_partitions_come_back_beside_new_ones),
		CORE_ON(a_batch_while_the_table_grows_goes_to_both_generations, store_memory),
		CORE_ON(what_a_batch_replaces_waits_for_one_grace_period, store_memory),
		CORE_ON(a_batch_without_enough_epochs_is_refused, store_sqlite),
	};

	return cmocka_run_group_tests_name("core batch", tests, NULL, NULL);
}
