/* SPDX-License-Identifier: MIT
 * What a restart of the writer must not lose and not invent: placements, epochs, the barrier of a cutover, the
 * barrier's own length. A writer is killed by closing it, which writes nothing; what it had in flight, the faulty store
 * decides. */
#include "fake_reader.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void everything_survives_a_restart(void **state)
{
	struct core_place *p = *state;
	char long_id[256], *before, *after;

	memset(long_id, 'x', 255);
	long_id[255] = '\0';
	assert_ok(load(p, "{\"version\":7,\"clusters\":{\"c4\":{\"endpoint\":\"http://10.0.0.4:9200\"}},"
			  "\"default\":{\"mode\":\"shared-index\",\"cluster\":\"c1\",\"index\":\"shared\","
			  "\"inject\":[{\"field\":\"_tenant\",\"value\":{\"partition\":true}}]},\"partitions\":{"
			  "\"kept\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c4\"},"
			  "\"removed\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i\"}}}"));
	done(p, OP_REMOVE, "removed", NULL); /* what the document said of it is remembered */
	done(p, OP_SET, long_id, ix("c1", "long"));
	done(p, OP_BEGIN, long_id, on("c2"));
	cut_over(p, "p", on("c1"), sh("c2", "shared"));
	done(p, OP_SET, "tenant \xc3\xa9", ix("c1", "\xc3\xa9"));
	assert_ok(cluster_remove(p, "c3"));
	before = everything(p);
	for (unsigned i = 0; i < 3; i++) {
		restart(p);
		after = everything(p);
		assert_string_equal(before, after);
		free(after);
	}
	assert_code(load(p, "{\"version\":7}"), R_STALE_DOCUMENT);
	assert_ok(load(
		p, "{\"partitions\":{\"removed\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"i\"}}}"));
	assert_int_equal(p->summary.diverged, 1); /* a document does not undo the removal */
	assert_at(p, "removed", NULL);
	done(p, OP_ABORT, "p", NULL);
	done(p, OP_ABORT, long_id, NULL);
	free(before);
}

static void epochs_never_repeat(void **state)
{
	struct core_place *p = *state;
	uint64_t last = 0;

	for (unsigned i = 0; i < 4; i++) {
		uint64_t epoch = done(p, OP_SET, "p", on("c1"));

		assert_true(epoch > last);
		last = done(p, OP_REMOVE, "p", NULL);
		assert_true(last > epoch);
		next_commit = FAULT_FAILED;
		assert_code(apply(p, OP_SET, "p", on("c1")), R_BACKEND);
		last++; /* burnt */
		restart(p);
		epoch = done(p, OP_DEFAULT, NULL, ix("c1", "i"));
		assert_true(epoch > last);
		last = done(p, OP_DEFAULT, NULL, NULL);
		assert_true(last > epoch);
		next_commit = FAULT_UNKNOWN_OUT;
		assert_code(apply(p, OP_SET, "p", on("c1")), R_BACKEND);
		last++;
		restart(p);
		assert_at(p, "p", NULL);
	}
}

static void a_cluster_number_is_not_given_out_again_after_a_restart(void **state)
{
	struct core_place *p = *state;

	assert_ok(cluster_remove(p, "c3"));
	restart(p);
	assert_ok(cluster_set(p, "c5", NULL));
	assert_int_equal(table_cluster_number(core_table(p->core), "c5", 2), 4);
	assert_ok(cluster_remove(p, "c5"));
	restart(p);
	assert_ok(cluster_set(p, "c3", NULL));
	assert_int_equal(table_cluster_number(core_table(p->core), "c3", 2), 5);
}

static void a_change_in_flight_is_there_whole_with_its_epoch_or_not_at_all(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));

	next_commit = FAULT_UNKNOWN_IN;
	assert_code(apply(p, OP_SET, "p", ix("c1", "i")), R_BACKEND);
	restart(p);
	assert_at(p, "p", ix("c1", "i"));
	assert_int_equal(epoch_of(p, "p"), epoch + 1);
	next_commit = FAULT_UNKNOWN_OUT;
	assert_code(apply(p, OP_SET, "p", on("c1")), R_BACKEND);
	restart(p);
	assert_at(p, "p", ix("c1", "i"));
	assert_int_equal(epoch_of(p, "p"), epoch + 1);
}

/* ---- the barrier of a cutover ----------------------------------------------------------------------------------- */

static void expect_pending(struct core_place *p, const char *key, uint64_t remaining_ms)
{
	assert_code(apply(p, OP_COMPLETE, key, NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.remaining_ms, remaining_ms);
	if (remaining_ms > 1) {
		p->now_ms += remaining_ms - 1;
		assert_code(apply(p, OP_COMPLETE, key, NULL), R_BARRIER_PENDING);
		p->now_ms++;
	} else {
		p->now_ms += remaining_ms;
	}
	done(p, OP_COMPLETE, key, NULL);
}

static void a_cutover_that_was_committed_but_not_published_holds_the_whole_barrier(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	done(p, OP_SET, "p", on("c1"));
	done(p, OP_BEGIN, "p", on("c2"));
	next_commit = FAULT_UNKNOWN_IN; /* killed between the commit and the publication */
	assert_code(apply(p, OP_CUTOVER, "p", NULL), R_BACKEND);
	down(p);
	p->now_ms += 40000;
	up(p);
	expect_pending(p, "p", 30011);
	assert_int_equal(p->result.blackout_ms, 30011);
	assert_at(p, "p", on("c2"));
	fake_die(&without);
}

static void the_proof_of_a_publication_survives_a_restart(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	p->now_ms += 20000;
	restart(p);
	p->now_ms += 5000;
	restart(p);
	expect_pending(p, "p", 5011);
	assert_int_equal(p->result.blackout_ms, 30011);
	cut_over(p, "q", on("c1"), on("c2"));
	p->now_ms += 40000;
	restart(p);
	done(p, OP_COMPLETE, "q", NULL);
	fake_die(&without);
}

static void a_cutover_without_proof_is_published_anew(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	table_cutover_forget(core_table(p->core), p->result.epoch);
	p->now_ms += 40000;
	restart(p);
	p->now_ms += 1000;
	restart(p); /* the one before has published it, and left the proof */
	expect_pending(p, "p", 29011);
	fake_die(&without);
}

static void a_publication_in_the_future_proves_nothing(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	table_cutover_forget(core_table(p->core), p->result.epoch);
	table_cutover_record(core_table(p->core), p->result.epoch, p->now_ms + 1);
	restart(p);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.remaining_ms, 30011);
	fake_die(&without);
}

static void a_record_of_a_cutover_that_is_over_is_not_kept_for_ever(void **state)
{
	struct core_place *p = *state;
	uint64_t published_ms, epoch;

	cut_over(p, "p", on("c1"), on("c2"));
	epoch = epoch_of(p, "p");
	/* As a writer leaves it that is killed after the completion, before it forgot the record. */
	table_cutover_record(core_table(p->core), epoch + 1000, p->now_ms);
	restart(p);
	assert_true(table_cutover_find(core_table(p->core), epoch, &published_ms));
	assert_false(table_cutover_find(core_table(p->core), epoch + 1000, &published_ms));
}

/* ---- the barrier's length --------------------------------------------------------------------------------------- */

static void a_longer_barrier_holds_every_complete_for_one_new_barrier(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	down(p);
	p->now_ms += 1000000;
	p->barrier_ms = 60000;
	up(p);
	p->now_ms += 1000;
	cut_over(p, "q", on("c1"), on("c2"));
	p->now_ms += 1000;
	assert_code(apply(p, OP_COMPLETE, "q", NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.remaining_ms, 59011); /* its own */
	expect_pending(p, "p", 58011);
	core_step(p->core, 1000);
	restart(p); /* the rule is over, and the next writer knows */
	p->now_ms += 1000;
	done(p, OP_COMPLETE, "q", NULL);
	fake_die(&without);
}

static void a_longer_barrier_that_was_not_held_to_its_end_is_held_again(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	down(p);
	p->now_ms += 1000000;
	p->barrier_ms = 60000;
	up(p);
	p->now_ms += 59000;
	core_step(p->core, 1000);
	restart(p);
	expect_pending(p, "p", 60011);
	fake_die(&without);
}

static void a_shorter_barrier_counts_once_the_old_one_has_passed(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	down(p);
	p->barrier_ms = 10000;
	up(p);
	cut_over(p, "a", on("c1"), on("c2"));
	p->now_ms += 15000;
	cut_over(p, "b", on("c1"), on("c2"));
	p->now_ms += 10000;
	restart(p); /* the old barrier begins to pass anew */
	cut_over(p, "c", on("c1"), on("c2"));
	assert_code(apply(p, OP_COMPLETE, "c", NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.remaining_ms, 30011);
	assert_code(apply(p, OP_COMPLETE, "b", NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.remaining_ms, 20011); /* published 10000 ago: the old barrier still counts */
	expect_pending(p, "a", 5011);
	p->now_ms += 25000;
	cut_over(p, "d", on("c1"), on("c2"));
	core_step(p->core, 1000);
	restart(p);
	expect_pending(p, "d", 10011);
	fake_die(&without);
}

static void what_is_not_published_cannot_complete(void **state)
{
	const struct barrier_rule rule = {.barrier_ms = 100, .start_ms = 5};
	const struct barrier_facts facts = {.looked = true, .unbracketed = true};
	struct migrations m = {0};
	struct migration_item *item = migrations_reserve(&m, "p", 1);

	(void)state;
	migrations_insert(&m, item);
	migrations_hold(&m, item, 9, 1000);
	assert_int_equal(m.n_unpublished, 1);
	assert_string_equal(barrier_judge(&rule, item, &facts, 1000000).reason, "not-published");
	migrations_published(&m, item, 2000);
	assert_int_equal(m.n_unpublished, 0);
	assert_string_equal(barrier_judge(&rule, item, &facts, 2110).reason, "reader-without-leases");
	assert_null(barrier_judge(&rule, item, &facts, 2111).reason);
	assert_int_equal(barrier_rule_ends_ms(&rule), 5);
	migrations_free(&m);
}

/* ---- starts that are refused ------------------------------------------------------------------------------------ */

static void unlink_like(struct core_place *p, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	unlink(path);
}

static void a_lost_generation_is_not_taken_for_an_empty_one(void **state)
{
	struct core_place *p = *state;
	char table[32];
	struct table_stats stats;

	done(p, OP_SET, "p", on("c1"));
	table_stats(core_table(p->core), &stats);
	snprintf(table, sizeof(table), "tables/table.%u", stats.generation);
	down(p);
	unlink_like(p, table);
	if (p->ops->durable) {
		up(p);
		assert_at(p, "p", on("c1"));
		return;
	}
	assert_code(try_up(p), R_BACKEND);
	p->new_directory = true;
	up(p);
	assert_at(p, "p", NULL);
}

static void another_root_on_the_same_boot_is_refused(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));

	down(p);
	unlink_like(p, "root");
	assert_code(try_up(p), R_INVALID);
	p->new_directory = true;
	up(p);
	p->new_directory = false;
	assert_at(p, "p", on("c1"));
	assert_true(done(p, OP_SET, "q", on("c1")) > epoch);
	restart(p); /* the store knows the new one now */
	assert_at(p, "q", on("c1"));
}

static void put_row(struct core_place *p, const char *key, uint64_t epoch, const char *text)
{
	struct store_partition row = {.key = key, .key_len = strlen(key), .epoch = epoch, .state = text};
	struct store *s;

	assert_ok(p->ops->open(p->argument, &s, &p->r));
	assert_int_equal(p->ops->begin(s, &p->r), STORE_OK);
	if (*key)
		assert_int_equal(p->ops->put_partition(s, &row, &p->r), STORE_OK);
	else
		assert_int_equal(p->ops->put_meta(s, "epoch", text, &p->r), STORE_OK);
	assert_int_equal(p->ops->commit(s, &p->r), STORE_OK);
	p->ops->close(&s);
}

static void a_damaged_row_is_named_and_nothing_is_guessed(void **state)
{
	struct core_place *p = *state;
	const char *const bad[] = {
		"{\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c9\"}}", "rubbish", "null",
		"{\"phase\":\"cutover\",\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}"};

	down(p);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		put_row(p, "the-bad-one", 3, bad[i]);
		assert_code(try_up(p), R_BACKEND);
		assert_non_null(strstr(p->r.message, "the-bad-one"));
	}
	/* Read after one that differs in the index name alone: still judged. */
	put_row(p, "good", 2, "{\"at\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"good\"}}");
	put_row(p, "the-bad-one", 3, "{\"at\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"BAD\"}}");
	assert_code(try_up(p), R_BACKEND);
	assert_non_null(strstr(p->r.message, "the-bad-one"));
	put_row(p, "the-bad-one", SHM_EPOCH_MAX + 1, "{\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}");
	assert_code(try_up(p), R_BACKEND);
	put_row(p, "the-bad-one", 3, "{\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}");
	put_row(p, "", 0, "-1");
	assert_code(try_up(p), R_BACKEND);
	assert_non_null(strstr(p->r.message, "epoch"));
	put_row(p, "", 0, "3");
	up(p);
	assert_at(p, "the-bad-one", on("c1"));
	assert_int_equal(done(p, OP_SET, "q", on("c1")), 4);
}

static void a_start_whose_own_commit_fails_is_refused_and_can_be_repeated(void **state)
{
	struct core_place *p = *state;

	done(p, OP_SET, "p", on("c1"));
	down(p);
	next_commit = FAULT_FAILED;
	assert_code(try_up(p), R_BACKEND);
	next_commit = FAULT_UNKNOWN_IN;
	assert_code(try_up(p), R_BACKEND);
	up(p);
	assert_at(p, "p", on("c1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(everything_survives_a_restart),
		CORE_ON_BOTH(epochs_never_repeat),
		CORE_ON_BOTH(a_cluster_number_is_not_given_out_again_after_a_restart),
		CORE_ON(a_change_in_flight_is_there_whole_with_its_epoch_or_not_at_all, store_sqlite),
		CORE_ON(a_cutover_that_was_committed_but_not_published_holds_the_whole_barrier, store_sqlite),
		CORE_ON_BOTH(the_proof_of_a_publication_survives_a_restart),
		CORE_ON_BOTH(a_cutover_without_proof_is_published_anew),
		CORE_ON_BOTH(a_publication_in_the_future_proves_nothing),
		CORE_ON_BOTH(a_record_of_a_cutover_that_is_over_is_not_kept_for_ever),
		CORE_ON_BOTH(a_longer_barrier_holds_every_complete_for_one_new_barrier),
		CORE_ON_BOTH(a_longer_barrier_that_was_not_held_to_its_end_is_held_again),
		CORE_ON_BOTH(a_shorter_barrier_counts_once_the_old_one_has_passed),
		cmocka_unit_test(what_is_not_published_cannot_complete),
		CORE_ON_BOTH(a_lost_generation_is_not_taken_for_an_empty_one),
		CORE_ON(another_root_on_the_same_boot_is_refused, store_sqlite),
		CORE_ON(a_damaged_row_is_named_and_nothing_is_guessed, store_sqlite),
		CORE_ON_BOTH(a_start_whose_own_commit_fails_is_refused_and_can_be_repeated),
	};

	return cmocka_run_group_tests_name("core over restarts", tests, NULL, NULL);
}
