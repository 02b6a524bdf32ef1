/* SPDX-License-Identifier: MIT
 * Changes one at a time, through state machine, store and table: every refusal of the table of transitions, epochs, the barrier,
 * clusters, and commits that fail or whose fate nobody knows. */
#include "fake_reader.h"

#include <stdlib.h>
#include <string.h>

/* ---- the table of transitions -------------------------------------------------------------------------------- */

static void set_is_refused_in_the_order_of_the_contract(void **state)
{
	struct core_place *p = *state;

	done(p, OP_SET, "p", on("c1"));
	done(p, OP_BEGIN, "p", on("c2"));
	assert_code(apply(p, OP_SET, "p", on("c9")), R_UNKNOWN_CLUSTER);
	assert_non_null(strstr(p->r.message, "c9"));
	assert_code(apply(p, OP_SET, "p", on("c3")), R_ALREADY_MIGRATING);
	assert_code(force(p, OP_SET, "p", on("c3")), R_ALREADY_MIGRATING);
	done(p, OP_ABORT, "p", NULL);
	assert_code(apply(p, OP_SET, "p", on("c2")), R_WOULD_MOVE);
	assert_at(p, "p", on("c1"));
	assert_ok(force(p, OP_SET, "p", on("c2")));
	assert_at(p, "p", on("c2"));
	assert_newest(p, "set", "p", true);
	done(p, OP_SET, "p", ix("c2", "i")); /* the same cluster is no move */
}

static void remove_is_refused_in_the_order_of_the_contract(void **state)
{
	struct core_place *p = *state;

	assert_code(apply(p, OP_REMOVE, "p", NULL), R_UNKNOWN_PARTITION);
	done(p, OP_SET, "p", on("c1"));
	done(p, OP_DEFAULT, NULL, on("c2"));
	done(p, OP_BEGIN, "p", on("c2"));
	assert_code(apply(p, OP_REMOVE, "p", NULL), R_ALREADY_MIGRATING);
	done(p, OP_ABORT, "p", NULL);
	assert_code(apply(p, OP_REMOVE, "p", NULL), R_WOULD_MOVE); /* the default would answer, on c2 */
	assert_ok(force(p, OP_REMOVE, "p", NULL));
	assert_at(p, "p", NULL);
	done(p, OP_SET, "q", on("c2"));
	done(p, OP_REMOVE, "q", NULL);
}

static void default_is_refused_in_the_order_of_the_contract(void **state)
{
	struct core_place *p = *state;

	assert_code(apply(p, OP_DEFAULT, NULL, on("c9")), R_UNKNOWN_CLUSTER);
	done(p, OP_DEFAULT, NULL, sh("c1", "shared"));
	assert_code(apply(p, OP_DEFAULT, NULL, sh("c2", "shared")), R_WOULD_MOVE);
	done(p, OP_DEFAULT, NULL, sh("c1", "other"));
	assert_ok(force(p, OP_DEFAULT, NULL, sh("c2", "shared")));
	assert_code(apply(p, OP_SET, "p", on("c1")), R_WOULD_MOVE); /* the default answers p, on c2 */
	done(p, OP_SET, "p", on("c2"));
	done(p, OP_DEFAULT, NULL, NULL);
	assert_at(p, NULL, NULL);
	assert_ok(apply(p, OP_DEFAULT, NULL, NULL));
	assert_false(p->result.changed);
	done(p, OP_SET, "q", on("c1"));
}

static void a_migration_is_refused_in_the_order_of_the_contract(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	assert_code(apply(p, OP_BEGIN, "p", on("c9")), R_UNKNOWN_PARTITION);
	assert_code(apply(p, OP_CUTOVER, "p", NULL), R_UNKNOWN_PARTITION);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_UNKNOWN_PARTITION);
	assert_code(apply(p, OP_ABORT, "p", NULL), R_UNKNOWN_PARTITION);
	done(p, OP_SET, "p", on("c1"));
	assert_code(apply(p, OP_CUTOVER, "p", NULL), R_NOT_MIGRATING);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_NOT_MIGRATING);
	assert_code(apply(p, OP_ABORT, "p", NULL), R_NOT_MIGRATING);
	assert_code(apply(p, OP_BEGIN, "p", on("c9")), R_UNKNOWN_CLUSTER);
	assert_code(apply(p, OP_BEGIN, "p", on("c1")), R_SAME_PLACEMENT);
	done(p, OP_BEGIN, "p", on("c2"));
	assert_code(apply(p, OP_BEGIN, "p", on("c9")), R_ALREADY_MIGRATING);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_NOT_CUTOVER);
	assert_code(force(p, OP_COMPLETE, "p", NULL), R_NOT_CUTOVER);
	done(p, OP_CUTOVER, "p", NULL);
	assert_code(apply(p, OP_CUTOVER, "p", NULL), R_NOT_DRAINING);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_code(apply(p, OP_BEGIN, "p", on("c2")), R_ALREADY_MIGRATING);
	fake_die(&without);
}

static void bad_input_is_named_and_changes_nothing(void **state)
{
	struct core_place *p = *state;
	char long_id[300];
	uint64_t before = table_epoch(core_table(p->core));

	memset(long_id, 'x', sizeof(long_id) - 1);
	long_id[sizeof(long_id) - 1] = '\0';
	assert_code(apply(p, OP_SET, long_id, on("c1")), R_INVALID);
	assert_code(apply(p, OP_SET, "", on("c1")), R_INVALID);
	assert_code(apply(p, OP_SET, "a\nb", on("c1")), R_INVALID);
	assert_string_equal(p->r.path, "$.partition");
	assert_code(apply(p, OP_SET, "p", "{\"mode\":\"dedicated-index\",\"cluster\":\"c1\"}"), R_INVALID);
	assert_non_null(strstr(p->r.path, "$.placement"));
	assert_code(apply(p, OP_SET, "p", NULL), R_INVALID);
	assert_code(cluster_set(p, "a b", NULL), R_INVALID);
	assert_code(cluster_set(p, "c1", "ftp://x"), R_INVALID);
	done(p, OP_SET, "p", on("c1"));
	assert_code(apply(p, OP_BEGIN, "p", NULL), R_INVALID);
	assert_code(apply(p, OP_BEGIN, "p", "[]"), R_INVALID);
	assert_int_equal(table_epoch(core_table(p->core)), before + 1);
}

static void what_is_there_already_takes_no_epoch(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", sh("c1", "i"));
	unsigned events = p->n_events;

	assert_ok(apply(p, OP_SET, "p", sh("c1", "i")));
	assert_false(p->result.changed);
	assert_int_equal(p->result.epoch, epoch);
	assert_int_equal(table_epoch(core_table(p->core)), epoch);
	assert_int_equal(p->n_events, events);
}

static void begin_keeps_what_is_left_out_and_drops_what_the_new_mode_has_not(void **state)
{
	struct core_place *p = *state;
	char expected[1200];

	done(p, OP_SET, "p", sh("c1", "i"));
	done(p, OP_BEGIN, "p", "{\"cluster\":\"c2\"}");
	snprintf(expected, sizeof(expected), "{\"phase\":\"draining\",\"at\":%s,\"to\":%s}", sh("c1", "i"),
		 sh("c2", "i"));
	assert_state(p, "p", expected);
	done(p, OP_ABORT, "p", NULL);
	done(p, OP_BEGIN, "p", "{\"cluster\":\"c2\",\"mode\":\"dedicated-index\"}");
	snprintf(expected, sizeof(expected), "{\"phase\":\"draining\",\"at\":%s,\"to\":%s}", sh("c1", "i"),
		 ix("c2", "i"));
	assert_state(p, "p", expected);
	done(p, OP_ABORT, "p", NULL);
	done(p, OP_BEGIN, "p", "{\"mode\":\"dedicated-cluster\"}");
	snprintf(expected, sizeof(expected), "{\"phase\":\"draining\",\"at\":%s,\"to\":%s}", sh("c1", "i"), on("c1"));
	assert_state(p, "p", expected);
	done(p, OP_ABORT, "p", NULL);
	assert_code(apply(p, OP_BEGIN, "p", "{\"mode\":\"dedicated-cluster\",\"index\":\"i\"}"), R_INVALID);
	assert_code(apply(p, OP_BEGIN, "p", "{\"cluster\":\"c1\"}"), R_SAME_PLACEMENT);
}

static void events_are_told_once_the_change_can_be_seen(void **state)
{
	struct core_place *p = *state;
	char expected[64];
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));

	snprintf(expected, sizeof(expected), "set p %llu settled", (unsigned long long)epoch);
	assert_string_equal(p->event, expected);
	epoch = done(p, OP_REMOVE, "p", NULL);
	snprintf(expected, sizeof(expected), "remove p %llu nothing", (unsigned long long)epoch);
	assert_string_equal(p->event, expected);
	assert_ok(cluster_set(p, "c1", "http://new:9200"));
	assert_string_equal(p->event, "cluster-set c1 0 -");
	assert_newest(p, "cluster-set", "c1", false);
}

/* ---- the barrier ------------------------------------------------------------------------------------------------ */

static void complete_holds_the_barrier_and_ten_milliseconds(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_string_equal(p->r.reason, "reader-without-leases");
	assert_int_equal(p->r.remaining_ms, 30011);
	assert_int_equal(p->r.in_flight, 0);
	p->now_ms += 30010;
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.remaining_ms, 1);
	p->now_ms += 1;
	done(p, OP_COMPLETE, "p", NULL);
	assert_int_equal(p->result.blackout_ms, 30011);
	assert_at(p, "p", on("c2"));
	fake_die(&without);
}

static void force_overrides_the_barrier_and_the_history_says_so(void **state)
{
	struct core_place *p = *state;

	cut_over(p, "p", on("c1"), on("c2"));
	p->now_ms += 5;
	assert_ok(force(p, OP_COMPLETE, "p", NULL));
	assert_int_equal(p->result.blackout_ms, 5);
	assert_at(p, "p", on("c2"));
	assert_newest(p, "complete", "p", true);
}

static void abort_clears_the_barrier_and_every_earlier_epoch_is_stale(void **state)
{
	struct core_place *p = *state;
	uint64_t cutover, proved;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	cut_over(p, "p", on("c1"), on("c2"));
	cutover = p->result.epoch;
	assert_true(table_cutover_find(core_table(p->core), cutover, &proved));
	p->now_ms += 7;
	assert_true(done(p, OP_ABORT, "p", NULL) > cutover);
	assert_int_equal(p->result.blackout_ms, 7);
	assert_at(p, "p", on("c1"));
	assert_false(table_cutover_find(core_table(p->core), cutover, &proved));
	done(p, OP_BEGIN, "p", on("c2"));
	p->now_ms += 40000;
	done(p, OP_CUTOVER, "p", NULL);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING); /* counted anew */
	assert_int_equal(p->r.remaining_ms, 30011);
	done(p, OP_ABORT, "p", NULL);
	done(p, OP_BEGIN, "p", on("c2"));
	done(p, OP_ABORT, "p", NULL);
	assert_int_equal(p->result.blackout_ms, 0); /* writes were never held back */
	fake_die(&without);
}

struct listed {
	char text[1024];
	size_t n;
};

static int list_migration(void *arg, const struct migration *m)
{
	struct listed *l = arg;

	l->n += (size_t)snprintf(l->text + l->n, sizeof(l->text) - l->n, "%.*s %s %llu %llu %s %llu\n", (int)m->key_len,
				 m->key, phase_name(m->state.phase), (unsigned long long)m->begun_ms,
				 (unsigned long long)m->cutover_ms, m->barrier.reason ? m->barrier.reason : "-",
				 (unsigned long long)m->barrier.remaining_ms);
	return 0;
}

static void migrations_are_listed_by_partition_with_what_stands_against_them(void **state)
{
	struct core_place *p = *state;
	struct listed l = {.n = 0};
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	done(p, OP_SET, "z", on("c1"));
	done(p, OP_SET, "b", on("c1"));
	done(p, OP_BEGIN, "z", on("c2"));
	p->now_ms++;
	cut_over(p, "a", on("c1"), on("c2"));
	p->now_ms++;
	core_migrations(p->core, list_migration, &l);
	assert_string_equal(l.text,
			    "a cutover 1000001 1000001 reader-without-leases 30010\nz draining 1000000 0 - 0\n");
	done(p, OP_ABORT, "a", NULL);
	done(p, OP_ABORT, "z", NULL);
	l = (struct listed){.n = 0};
	core_migrations(p->core, list_migration, &l);
	assert_string_equal(l.text, "");
	fake_die(&without);
}

static void thousands_of_migrations_stay_in_order(void **state)
{
	struct migrations m = {0};
	char key[16];

	(void)state;
	for (unsigned i = 0; i < 5000; i++) {
		snprintf(key, sizeof(key), "p%u", i * 7919 % 5000);
		migrations_insert(&m, migrations_reserve(&m, key, strlen(key)));
	}
	for (unsigned i = 1; i < 5000; i++)
		assert_true(strcmp(m.items[i - 1]->key, m.items[i]->key) < 0);
	for (unsigned i = 0; i < 5000; i += 2) {
		snprintf(key, sizeof(key), "p%u", i);
		migrations_end(&m, migrations_find(&m, key, strlen(key)));
		assert_null(migrations_find(&m, key, strlen(key)));
	}
	assert_int_equal(m.n, 2500);
	migrations_free(&m);
}

/* ---- clusters --------------------------------------------------------------------------------------------------- */

static void a_cluster_keeps_its_number_and_a_number_is_never_given_out_again(void **state)
{
	struct core_place *p = *state;
	struct table *t = core_table(p->core);
	unsigned number = table_cluster_number(t, "c1", 2);
	uint64_t epoch = table_epoch(t);

	assert_ok(cluster_set(p, "c1", "http://10.0.0.1:9200"));
	assert_false(p->result.changed);
	assert_ok(cluster_set(p, "c1", NULL));
	assert_false(p->result.changed);
	assert_ok(cluster_set(p, "c1", "https://elsewhere:9200"));
	assert_true(p->result.changed);
	assert_int_equal(table_cluster_number(t, "c1", 2), number);
	assert_string_equal(cluster_endpoint(table_cluster(t, number)), "https://elsewhere:9200");
	assert_ok(cluster_remove(p, "c3"));
	assert_code(cluster_remove(p, "c3"), R_UNKNOWN_CLUSTER);
	assert_ok(cluster_set(p, "c3", NULL));
	assert_int_equal(table_cluster_number(t, "c3", 2), 4);
	assert_int_equal(table_epoch(t), epoch); /* clusters take none */
}

static void a_cluster_that_is_named_anywhere_is_not_removed(void **state)
{
	struct core_place *p = *state;

	done(p, OP_SET, "p", on("c1"));
	assert_code(cluster_remove(p, "c1"), R_CLUSTER_IN_USE);
	assert_non_null(strstr(p->r.message, " 1 "));
	done(p, OP_BEGIN, "p", on("c2"));
	assert_code(cluster_remove(p, "c2"), R_CLUSTER_IN_USE); /* a migration's target */
	done(p, OP_ABORT, "p", NULL);
	assert_ok(cluster_remove(p, "c2"));
	assert_code(apply(p, OP_BEGIN, "p", on("c2")), R_UNKNOWN_CLUSTER);
	done(p, OP_DEFAULT, NULL, on("c3"));
	assert_code(cluster_remove(p, "c3"), R_CLUSTER_IN_USE);
	done(p, OP_DEFAULT, NULL, NULL);
	assert_ok(cluster_remove(p, "c3"));
	done(p, OP_REMOVE, "p", NULL);
	assert_ok(cluster_remove(p, "c1"));
}

/* ---- a store that fails ----------------------------------------------------------------------------------------- */

static void a_failed_commit_changes_nothing_and_burns_its_epoch(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));
	char *before = everything(p), *after;
	unsigned events = p->n_events;

	next_commit = FAULT_FAILED;
	assert_code(apply(p, OP_SET, "p", ix("c1", "i")), R_BACKEND);
	assert_true(refusal_retryable(p->r.code));
	next_commit = FAULT_FAILED;
	assert_code(apply(p, OP_SET, "new", on("c2")), R_BACKEND);
	next_commit = FAULT_FAILED;
	assert_code(apply(p, OP_BEGIN, "p", on("c2")), R_BACKEND);
	next_commit = FAULT_FAILED;
	assert_code(cluster_set(p, "c9", NULL), R_BACKEND);
	next_commit = FAULT_PUT;
	assert_code(cluster_set(p, "c9", NULL), R_BACKEND);
	next_commit = FAULT_PUT;
	assert_code(apply(p, OP_BEGIN, "p", on("c2")), R_BACKEND);
	after = everything(p);
	assert_string_equal(before, after);
	assert_int_equal(p->n_events, events);
	assert_true(done(p, OP_SET, "p", ix("c1", "i")) >= epoch + 5);
	free(before);
	free(after);
}

static void a_commit_that_was_kept_is_adopted_with_its_own_epoch(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));

	next_commit = FAULT_UNKNOWN_IN;
	settle_refusals = 2;
	assert_code(apply(p, OP_SET, "p", ix("c1", "i")), R_BACKEND);
	assert_at(p, "p", on("c1")); /* not before it is known */
	assert_code(apply(p, OP_SET, "q", on("c1")), R_BACKEND);
	assert_code(cluster_set(p, "c9", NULL), R_BACKEND);
	assert_at(p, "p", on("c1"));
	assert_true(done(p, OP_SET, "q", on("c1")) > epoch + 1);
	assert_at(p, "p", ix("c1", "i"));
	assert_int_equal(epoch_of(p, "p"), epoch + 1);
}

static void a_commit_that_was_not_kept_is_undone(void **state)
{
	struct core_place *p = *state;
	uint64_t epoch = done(p, OP_SET, "p", on("c1"));

	next_commit = FAULT_UNKNOWN_OUT;
	assert_code(apply(p, OP_BEGIN, "p", on("c2")), R_BACKEND);
	assert_true(done(p, OP_SET, "q", on("c1")) > epoch + 1);
	assert_at(p, "p", on("c1"));
	assert_int_equal(epoch_of(p, "p"), epoch);
	done(p, OP_BEGIN, "p", on("c2"));
}

static void upkeep_settles_a_commit_without_another_change(void **state)
{
	struct core_place *p = *state;
	struct fake_reader without;

	fake_attach(p, &without, 1, 0, 0);
	done(p, OP_SET, "p", on("c1"));
	done(p, OP_BEGIN, "p", on("c2"));
	next_commit = FAULT_UNKNOWN_IN;
	assert_code(apply(p, OP_CUTOVER, "p", NULL), R_BACKEND);
	p->now_ms += 1000;
	for (unsigned i = 0; i < 3; i++, p->now_ms += 100)
		core_step(p->core, 1000);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_in_range(p->r.remaining_ms, 29711, 29711); /* counted from the adoption, not from the commit */
	next_commit = FAULT_UNKNOWN_IN;
	assert_code(cluster_set(p, "c9", NULL), R_BACKEND);
	assert_int_equal(table_cluster_number(core_table(p->core), "c9", 2), 0);
	p->now_ms += 1000;
	core_step(p->core, 1000);
	assert_int_not_equal(table_cluster_number(core_table(p->core), "c9", 2), 0);
	fake_die(&without);
}

static void the_last_epoch_is_the_last(void **state)
{
	struct core_place *p = *state;
	struct store *s;
	char last[32];

	down(p);
	assert_ok(p->ops->open(p->argument, &s, &p->r));
	snprintf(last, sizeof(last), "%llu", (unsigned long long)SHM_EPOCH_MAX - 1);
	assert_int_equal(p->ops->begin(s, &p->r), STORE_OK);
	assert_int_equal(p->ops->put_meta(s, "epoch", last, &p->r), STORE_OK);
	assert_int_equal(p->ops->commit(s, &p->r), STORE_OK);
	p->ops->close(&s);
	up(p);
	assert_int_equal(done(p, OP_SET, "p", on("c1")), SHM_EPOCH_MAX);
	assert_code(apply(p, OP_SET, "q", on("c1")), R_EPOCHS_EXHAUSTED);
	assert_code(apply(p, OP_BEGIN, "p", on("c2")), R_EPOCHS_EXHAUSTED);
	assert_at(p, "q", NULL);
	assert_at(p, "p", on("c1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(set_is_refused_in_the_order_of_the_contract),
		CORE_ON_BOTH(remove_is_refused_in_the_order_of_the_contract),
		CORE_ON_BOTH(default_is_refused_in_the_order_of_the_contract),
		CORE_ON_BOTH(a_migration_is_refused_in_the_order_of_the_contract),
		CORE_ON_BOTH(bad_input_is_named_and_changes_nothing),
		CORE_ON_BOTH(what_is_there_already_takes_no_epoch),
		CORE_ON_BOTH(begin_keeps_what_is_left_out_and_drops_what_the_new_mode_has_not),
		CORE_ON_BOTH(events_are_told_once_the_change_can_be_seen),
		CORE_ON_BOTH(complete_holds_the_barrier_and_ten_milliseconds),
		CORE_ON_BOTH(force_overrides_the_barrier_and_the_history_says_so),
		CORE_ON_BOTH(abort_clears_the_barrier_and_every_earlier_epoch_is_stale),
		CORE_ON_BOTH(migrations_are_listed_by_partition_with_what_stands_against_them),
		cmocka_unit_test(thousands_of_migrations_stay_in_order),
		CORE_ON_BOTH(a_cluster_keeps_its_number_and_a_number_is_never_given_out_again),
		CORE_ON_BOTH(a_cluster_that_is_named_anywhere_is_not_removed),
		CORE_ON_BOTH(a_failed_commit_changes_nothing_and_burns_its_epoch),
		CORE_ON_BOTH(a_commit_that_was_kept_is_adopted_with_its_own_epoch),
		CORE_ON_BOTH(a_commit_that_was_not_kept_is_undone),
		CORE_ON_BOTH(upkeep_settles_a_commit_without_another_change),
		CORE_ON(the_last_epoch_is_the_last, store_sqlite),
	};

	return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
