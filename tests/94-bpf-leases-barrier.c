/* SPDX-License-Identifier: MIT
 * Writes of packet programs whose end nobody knows: ends that are told as unknown, writes without leases, lies in the map.
 * A `complete` waits a barrier for each, and no longer. */
#include "child.h"
#include "lease_place.h"

#define SHORT "400"
#define SHORT_MS 400
#define SOON_MS 5000 /* the longest that a busy machine makes of it */

/* ---- ends that nobody knows -------------------------------------------------------------------------------------- */

static void an_unknown_end_is_waited_for_a_barrier(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	json_int_t remaining;
	uint64_t end_ms;

	drain_put(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_INVALID);
	remaining = lease_held(p, "p", "unknown-outcome", 0);
	assert_in_range(remaining, 1, SHORT_MS + 12);
	assert_in_range(lease_await_complete(p, "p", SOON_MS) - end_ms, SHORT_MS + 10, SOON_MS);
}

static void a_slot_that_ended_unknown_is_taken_again_and_counts_for_every_partition(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	uint64_t end_ms;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(lease_begin(p, "q", 0, 1), LEASE_OK);
	assert_in_range(p->control->overflow_ms, end_ms, end_ms + 1000);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_in_range(lease_held(p, "p", "unknown-overflow", 0), 1, SHORT_MS + 12);
	assert_in_range(lease_await_complete(p, "p", SOON_MS) - end_ms, SHORT_MS + 10, SOON_MS);
}

/* Between two looks the slot's lease ends unknown, and another takes it: what the next look finds is the overflow, unless
 * upkeep has looked in between. */
static void a_slot_that_is_taken_again_between_two_looks_loses_no_end(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	uint64_t end_ms;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(lease_begin(p, "q", 0, 1), LEASE_OK);
	assert_in_range(lease_await_complete(p, "p", SOON_MS) - end_ms, SHORT_MS + 10, SOON_MS);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
}

/* ---- writes without leases --------------------------------------------------------------------------------------- */

static void a_program_that_gates_without_leases_makes_every_migration_wait_for_the_barrier(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", SHORT);
	struct lease_call call = {.op = LEASE_ADMIT, .len = 1, .key = "p"};
	uint64_t cut_ms;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	drain_cut_over(&p->drain, "q");
	assert_true(lease_complete(p, "q") < SHORT_MS);
	call.epoch = lease_epoch_of(p, "p");
	assert_int_equal(lease_run(p, &call, 1), LEASE_OK);
	cut_ms = test_now_ms();
	drain_cut_over(&p->drain, "p");
	assert_in_range(lease_held(p, "p", "reader-without-leases", 0), 1, SHORT_MS + 12);
	daemon_kill(&p->drain.d);
	lease_restart(p, SHORT, true); /* which may take as long, on a busy machine */
	assert_true(lease_await_complete(p, "p", SOON_MS) - cut_ms >= SHORT_MS + 10);
}

/* ---- lies -------------------------------------------------------------------------------------------------------- */

static void whatever_stands_in_the_map_is_about_packet_programs_writes_alone(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	volatile struct mirror_lease *leases = p->leases;
	json_int_t remaining;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	*(volatile __u64 *)&p->control->lease_high = UINT64_MAX; /* there are MIRROR_LEASES, whatever it says */
	for (unsigned i = 2; i < MIRROR_LEASES; i++) {
		leases[i].state = (uint64_t)i << 48 | i;
		leases[i].hash = i;
	}
	drain_cut_over(&p->drain, "q");
	assert_true(lease_complete(p, "q") < SHORT_MS);
	leases[1].state = 3ull << 62; /* no such kind: open */
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	leases[1].state = 2ull << 62 | ((1ull << 48) - 1); /* an end that is to come: now */
	remaining = lease_held(p, "p", "unknown-outcome", 0);
	assert_in_range(remaining, 1, SHORT_MS + 12);
	leases[1].hash = 0;
	*(volatile __u64 *)&p->control->overflow_ms = UINT64_MAX; /* likewise */
	wire_do(&p->drain.admin, "abort", "{s:s}", "partition", "p");
	drain_cut_over(&p->drain, "p");
	assert_in_range(lease_held(p, "p", "unknown-overflow", 0), 1, SHORT_MS + 12);
	lease_await_complete(p, "p", SOON_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEASE_TEST(an_unknown_end_is_waited_for_a_barrier),
		LEASE_TEST(a_slot_that_ended_unknown_is_taken_again_and_counts_for_every_partition),
		LEASE_TEST(a_slot_that_is_taken_again_between_two_looks_loses_no_end),
		LEASE_TEST(a_program_that_gates_without_leases_makes_every_migration_wait_for_the_barrier),
		LEASE_TEST(whatever_stands_in_the_map_is_about_packet_programs_writes_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
