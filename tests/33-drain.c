/* SPDX-License-Identifier: MIT
 * The exact drain by what `complete` answers: leases that are open, that end unknown, that overflow, looks in slices,
 * many cutovers at once. The readers are played by the test (fake_reader.h); the clock stands until the test moves it.
 * What those leave who are gone is in 33-drain-left.c. */
#include "fake_reader.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- leases that are open ---------------------------------------------------------------------------------------- */

static void with_nobody_attached_a_complete_succeeds_at_once(void **state)
{
	struct core_place *p = *state;

	cut_over(p, "p", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "p", NULL);
	assert_int_equal(p->result.blackout_ms, 0);
}

static void an_open_lease_holds_its_partition_until_it_ends(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 2, 8, 77);
	start_moving(p, "p");
	start_moving(p, "q");
	fake_begin(p, &f, 1, 5, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	done(p, OP_CUTOVER, "q", NULL);
	done(p, OP_COMPLETE, "q", NULL); /* another's leases do not hold it */
	expect(p, "p", "leases-open", 2, 0, 77);
	p->now_ms += 1000000; /* no clock overrules what can be seen */
	fake_done(&f, 1, 5);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_done(&f, 0, 0);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

static void force_overrides_open_leases(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77);
	assert_ok(force(p, OP_COMPLETE, "p", NULL));
	assert_at(p, "p", on("c2"));
	fake_die(&f);
}

static void what_comes_after_the_look_does_not_hold(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_begin(p, &f, 0, 1, "p"); /* takes a slot, meets the cutover, will clear it */
	fake_done(&f, 0, 0);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

static void a_slot_that_was_seen_clear_needs_no_second_look(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	fake_begin(p, &f, 0, 1, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 2, 0, 77);
	fake_done(&f, 0, 0);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_begin(p, &f, 0, 0, "p");
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_done(&f, 0, 1);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

static void the_first_processes_that_hold_leases_are_named(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f[10];

	start_moving(p, "p");
	for (unsigned i = 0; i < 10; i++) {
		fake_attach(p, &f[i], 1, 4, i ? 100 + (int)i : 0);
		fake_begin(p, &f[i], 0, 0, "p");
		fake_begin(p, &f[i], 0, 3, "p");
	}
	done(p, OP_CUTOVER, "p", NULL);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_int_equal(p->r.in_flight, 20);
	assert_int_equal(p->r.n_pids, 8);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(p->r.pids[i], i ? 100 + i : 0);
	assert_non_null(strstr(p->r.message, "one in another container, 101"));
	for (unsigned i = 0; i < 10; i++)
		fake_die(&f[i]);
}

/* ---- ends that nobody knows -------------------------------------------------------------------------------------- */

static void an_unknown_end_is_waited_for_a_barrier(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	fake_begin(p, &f, 0, 1, "p");
	fake_unknown(&f, 0, 1, p->now_ms - 5000); /* before the cutover */
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77);
	p->now_ms += 100;
	fake_unknown(&f, 0, 0, p->now_ms - 40); /* between two looks */
	expect(p, "p", "unknown-outcome", 0, WHOLE_MS - 40, 77);
	fake_begin(p, &f, 0, 0, "q"); /* what was seen is kept */
	expect_until(p, "p", "unknown-outcome", WHOLE_MS - 40, 77);
	fake_die(&f);
}

static void an_overflow_counts_for_every_partition(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 3, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 2, 0, "q");
	fake_overflow(&f, 2, 0, p->now_ms - 1);
	done(p, OP_CUTOVER, "p", NULL);
	expect_until(p, "p", "unknown-overflow", WHOLE_MS - 1, 77);
	fake_die(&f);
}

static void an_overflow_that_is_raised_while_the_slot_is_cleared_counts(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 2, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 3, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77);
	p->now_ms += 5;
	fake_overflow(&f, 0, 3, p->now_ms);
	expect_until(p, "p", "unknown-overflow", WHOLE_MS, 77);
	fake_die(&f);
}

static void an_overflow_that_comes_later_and_elsewhere_does_not(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 2, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 3, "p");
	fake_begin(p, &f, 1, 0, "q");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_overflow(&f, 1, 0, p->now_ms); /* not of a write on p: p's would have been in its slot */
	fake_done(&f, 0, 3);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

static void the_latest_end_is_the_reason(void **state)
{
	struct core_place *p = *state;
	struct fake_reader a, b;

	fake_attach(p, &a, 1, 8, 77);
	fake_attach(p, &b, 1, 8, 78);
	start_moving(p, "p");
	fake_begin(p, &a, 0, 0, "p");
	fake_begin(p, &a, 0, 1, "p");
	fake_begin(p, &b, 0, 0, "p");
	fake_unknown(&a, 0, 0, p->now_ms - 300);
	fake_unknown(&b, 0, 0, p->now_ms - 200);
	fake_overflow(&a, 0, 1, p->now_ms - 100);
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "unknown-overflow", 0, WHOLE_MS - 100, 77);
	done(p, OP_ABORT, "p", NULL);
	done(p, OP_BEGIN, "p", on("c2"));
	atomic_store(&fake_array(&a, 0)->overflow_ms, p->now_ms - 250);
	done(p, OP_CUTOVER, "p", NULL);
	assert_code(apply(p, OP_COMPLETE, "p", NULL), R_BARRIER_PENDING);
	assert_string_equal(p->r.reason, "unknown-outcome");
	assert_int_equal(p->r.remaining_ms, WHOLE_MS - 200);
	assert_int_equal(p->r.n_pids, 2); /* neither of them is over */
	fake_die(&a);
	fake_die(&b);
}

/* ---- one after the other, many at once --------------------------------------------------------------------------- */

static void a_second_cutover_in_quick_turn_waits_for_the_writes_of_both(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77);
	done(p, OP_ABORT, "p", NULL);
	fake_begin(p, &f, 0, 1, "p"); /* admitted again */
	done(p, OP_BEGIN, "p", on("c2"));
	fake_begin(p, &f, 0, 2, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 3, 0, 77);
	fake_done(&f, 0, 0);
	expect(p, "p", "leases-open", 2, 0, 77);
	fake_done(&f, 0, 1);
	fake_done(&f, 0, 2);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

#define MANY 1500u

static void many_cutovers_drain_at_once_each_by_itself(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	char key[16];

	fake_attach(p, &f, 2, MANY, 77);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(key, sizeof(key), "p%u", i);
		start_moving(p, key);
		fake_begin(p, &f, i % 2, i, key);
	}
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(key, sizeof(key), "p%u", i);
		done(p, OP_CUTOVER, key, NULL);
	}
	for (unsigned i = MANY; i-- > 0;) {
		snprintf(key, sizeof(key), "p%u", i);
		if (i % 3 == 0)
			fake_done(&f, i % 2, i);
		if (i % 7 == 0)
			done(p, OP_ABORT, key, NULL); /* some go in the middle of a look */
		if (i % 100 == 0)
			core_drain(p->core, 1);
	}
	while (core_step(p->core, 1000) == 0)
		;
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(key, sizeof(key), "p%u", i);
		if (i % 7 == 0)
			continue;
		if (i % 3)
			expect(p, key, "leases-open", 1, 0, 77);
		else
			done(p, OP_COMPLETE, key, NULL);
	}
	fake_die(&f);
}

static void the_table_grows_while_a_lease_is_open(void **state)
{
	struct core_place *p = *state;
	struct table_stats before, after;
	struct fake_reader f;
	char key[16];

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	table_stats(core_table(p->core), &before);
	for (unsigned i = 0; i < before.capacity; i++) {
		snprintf(key, sizeof(key), "k%u", i);
		done(p, OP_SET, key, on("c1"));
	}
	for (unsigned i = 0; i < 1000; i++)
		core_step(p->core, 10000);
	table_stats(core_table(p->core), &after);
	assert_true(after.generation > before.generation);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_done(&f, 0, 0);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

/* ---- looks in slices --------------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	return seg_clock_ns(CLOCK_MONOTONIC);
}

static void a_look_that_is_not_finished_says_leases_open(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	uint64_t slices = 0, start;

	fake_attach(p, &f, 64, 65536, 77); /* four million slots */
	for (unsigned i = 0; i < 64; i++)
		atomic_store(&fake_array(&f, i)->high, 65536);
	start_moving(p, "p");
	fake_begin(p, &f, 63, 65535, "p"); /* the last of all */
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 0, 0, 0);
	start = now_ns();
	while (!core_drain(p->core, 100))
		slices++;
	print_message("          %.2f ns a slot, %llu slices\n", (double)(now_ns() - start) / (64 * 65536),
		      (unsigned long long)slices);
	assert_true(slices > 2);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_done(&f, 63, 65535);
	assert_true(core_drain(p->core, 100));
	assert_false(core_drain(p->core, 100));
	assert_null(core_barrier(p->core, "p", 1).reason);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

static void who_goes_and_comes_between_two_slices_loses_no_lease(void **state)
{
	struct core_place *p = *state;
	struct fake_reader big, first, last;

	fake_attach(p, &first, 1, 8, 76);
	fake_attach(p, &big, 16, 65536, 77);
	fake_attach(p, &last, 1, 8, 78);
	for (unsigned i = 0; i < 16; i++)
		atomic_store(&fake_array(&big, i)->high, 65536);
	start_moving(p, "p");
	start_moving(p, "q");
	fake_begin(p, &last, 0, 7, "p");
	done(p, OP_CUTOVER, "p", NULL);
	core_drain(p->core, 1); /* stands in the big one */
	expect(p, "p", "leases-open", 0, 0, 0);
	fake_die(&last); /* before the look has come to it */
	fake_hang_up(p, &last);
	table_step(core_table(p->core), 100);
	assert_int_equal(registry_count(table_registry(core_table(p->core))), 2);
	fake_attach(p, &last, 1, 8, 79); /* in its slot */
	fake_begin(p, &first, 0, 0, "q");
	done(p, OP_CUTOVER, "q", NULL); /* after the look has passed its lease: waits for the next */
	while (!core_drain(p->core, 100))
		;
	expect(p, "p", "reader-died", 0, WHOLE_MS, 78);
	while (core_step(p->core, 1000) == 0)
		;
	expect(p, "q", "leases-open", 1, 0, 76);
	fake_die(&first);
	fake_die(&big);
	fake_die(&last);
}

#define OPEN 20000u

static void twenty_thousand_open_leases(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	uint64_t start;

	fake_attach(p, &f, 1, OPEN, 77);
	start_moving(p, "p");
	for (unsigned i = 0; i < OPEN; i++)
		fake_begin(p, &f, 0, i, "p");
	done(p, OP_CUTOVER, "p", NULL);
	while (!core_drain(p->core, 1000))
		;
	expect(p, "p", "leases-open", OPEN, 0, 77);
	start = now_ns();
	for (unsigned i = 0; i < 20; i++)
		core_drain(p->core, 100000);
	print_message("          %.1f ns a lease\n", (double)(now_ns() - start) / (20.0 * OPEN));
	for (unsigned i = 0; i < OPEN; i++)
		if (i != OPEN / 2)
			fake_done(&f, 0, i);
	while (core_barrier(p->core, "p", 1).in_flight != 1)
		core_drain(p->core, 100);
	start = now_ns();
	for (unsigned i = 0; i < 1000; i++)
		core_drain(p->core, 100);
	print_message("          %.0f ns a look at one\n", (double)(now_ns() - start) / 1000);
	fake_done(&f, 0, OPEN / 2);
	assert_true(core_drain(p->core, 100));
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

/* ---- for people -------------------------------------------------------------------------------------------------- */

static int see_row(void *arg, const struct registry_row *row)
{
	const struct core_place *p = arg;
	const char *key;
	size_t len;

	assert_int_equal(row->max_leases, 2048);
	assert_int_equal(row->n_leases, 2000);
	assert_int_equal(row->n_unknown, 2);
	assert_int_equal(row->overflow_ms, p->now_ms - 9);
	assert_int_equal(row->n_leases_shown, REGISTRY_LEASES_SHOWN);
	for (unsigned i = 0; i < row->n_leases_shown; i++)
		assert_true(i == 0 || row->leases[i - 1].since_ms <= row->leases[i].since_ms);
	assert_int_equal(row->leases[0].since_ms, p->now_ms - 2500);
	assert_true(row->leases[0].unknown);
	assert_int_equal(row->leases[1].since_ms, p->now_ms - 1999);
	assert_int_equal(row->leases[REGISTRY_LEASES_SHOWN - 1].since_ms, p->now_ms - 1001);
	key = table_key_of_hash(core_table(p->core), row->leases[1].hash, &len);
	assert_int_equal(len, 1);
	assert_memory_equal(key, "p", 1);
	return 0;
}

static void readers_list_the_oldest_leases(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	uint64_t now = p->now_ms;

	fake_attach(p, &f, 2, 2048, 77);
	done(p, OP_SET, "p", on("c1"));
	for (unsigned i = 0; i < 2000; i++) {
		p->now_ms = now - i * 7919 % 2000;
		fake_begin(p, &f, i % 2, i, "p");
	}
	p->now_ms = now;
	for (unsigned i = 2000; i < 2003; i++)
		fake_begin(p, &f, 1, i, "p");
	fake_unknown(&f, 1, 2000, now - 2500);
	fake_unknown(&f, 1, 2001, now + 2500); /* a lie counts as now */
	fake_unknown(&f, 1, 2002, now - WHOLE_MS);
	atomic_store(&fake_array(&f, 0)->overflow_ms, now - WHOLE_MS);
	atomic_store(&fake_array(&f, 1)->overflow_ms, now - 9);
	assert_int_equal(registry_walk(table_registry(core_table(p->core)), see_row, p), 0);
	fake_die(&f);
}

static void a_hash_has_the_name_of_its_partition(void **state)
{
	struct core_place *p = *state;
	struct table *t = core_table(p->core);
	char key[64];
	size_t len;

	for (unsigned i = 0; i < 3000; i++) {
		snprintf(key, sizeof(key), i % 2 ? "p%u" : "a-partition-with-a-name-that-does-not-fit-its-entry-%u", i);
		done(p, OP_SET, key, on("c1"));
	}
	done(p, OP_REMOVE, "p77", NULL);
	for (unsigned i = 0; i < 3000; i++) {
		const char *found;

		snprintf(key, sizeof(key), i % 2 ? "p%u" : "a-partition-with-a-name-that-does-not-fit-its-entry-%u", i);
		found = table_key_of_hash(t, lease_hash(table_hash(t, key, strlen(key))), &len);
		if (i == 77) {
			assert_null(found);
			continue;
		}
		assert_int_equal(len, strlen(key));
		assert_memory_equal(found, key, len);
	}
	for (uint64_t hash = 1; hash < 3000; hash++)
		assert_null(table_key_of_hash(t, hash * 0x9e3779b97f4a7c15ull, &len));
}

static int see_migration(void *arg, const struct migration *m)
{
	struct barrier *b = arg;

	*b = m->barrier;
	return 0;
}

static void the_list_of_migrations_has_what_was_seen_last(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	struct barrier b;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	assert_null(core_barrier(p->core, "p", 1).reason);
	done(p, OP_CUTOVER, "p", NULL);
	core_migrations(p->core, see_migration, &b);
	assert_string_equal(b.reason, "leases-open");
	assert_int_equal(b.in_flight, 1);
	assert_int_equal(b.pids[0], 77);
	fake_unknown(&f, 0, 0, p->now_ms);
	core_migrations(p->core, see_migration, &b);
	assert_string_equal(b.reason, "unknown-outcome");
	assert_int_equal(b.in_flight, 0);
	core_drain(p->core, 100);
	assert_false(core_drain(p->core, 100));
	p->now_ms += WHOLE_MS;
	assert_true(core_drain(p->core, 100)); /* the clock has ended it */
	assert_null(core_barrier(p->core, "p", 1).reason);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON_BOTH(with_nobody_attached_a_complete_succeeds_at_once),
		CORE_ON_BOTH(an_open_lease_holds_its_partition_until_it_ends),
		CORE_ON(force_overrides_open_leases, store_memory),
		CORE_ON(what_comes_after_the_look_does_not_hold, store_memory),
		CORE_ON(a_slot_that_was_seen_clear_needs_no_second_look, store_memory),
		CORE_ON(the_first_processes_that_hold_leases_are_named, store_memory),
		CORE_ON(an_unknown_end_is_waited_for_a_barrier, store_memory),
		CORE_ON(an_overflow_counts_for_every_partition, store_memory),
		CORE_ON(an_overflow_that_is_raised_while_the_slot_is_cleared_counts, store_memory),
		CORE_ON(an_overflow_that_comes_later_and_elsewhere_does_not, store_memory),
		CORE_ON(the_latest_end_is_the_reason, store_memory),
		CORE_ON(a_second_cutover_in_quick_turn_waits_for_the_writes_of_both, store_memory),
		CORE_ON(many_cutovers_drain_at_once_each_by_itself, store_memory),
		CORE_ON(the_table_grows_while_a_lease_is_open, store_memory),
		CORE_ON(a_look_that_is_not_finished_says_leases_open, store_memory),
		CORE_ON(who_goes_and_comes_between_two_slices_loses_no_lease, store_memory),
		CORE_ON(twenty_thousand_open_leases, store_memory),
		CORE_ON(readers_list_the_oldest_leases, store_memory),
		CORE_ON(a_hash_has_the_name_of_its_partition, store_memory),
		CORE_ON(the_list_of_migrations_has_what_was_seen_last, store_memory),
	};

	return cmocka_run_group_tests_name("drain", tests, NULL, NULL);
}
