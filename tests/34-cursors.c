/* SPDX-License-Identifier: MIT
 * Pins of cursors as the contract has them (one test for each of its sentences that a table can show), on a clock that the
 * test turns. What is said to be found is found by a reader's search. */
#include "cursor_place.h"

static struct cursor_place *const p = &cursor_place;

static void a_pin_is_found_with_its_owner_and_the_cluster_that_made_it(void **state)
{
	(void)state;
	WITH(100);
	assert_unseen(p, cursor_id(1));
	assert_pins(p, cursor_id(1), A, 7, CURSOR_TTL);
	assert_pins(p, cursor_id(2), B, SHM_CLUSTERS_MAX, CURSOR_TTL);
	assert_seen(p, cursor_id(1), A, 7);
	assert_seen(p, cursor_id(2), B, SHM_CLUSTERS_MAX);
	assert_unseen(p, cursor_id(3));
	assert_int_equal(cursor_table_count(p->t), 2);
	assert_int_equal(cursor_table_cluster_uses(p->t, 7), 1);
	assert_int_equal(cursor_table_cluster_uses(p->t, SHM_CLUSTERS_MAX), 1);
	assert_int_equal(COUNTED(p, n_pinned), 2);
}

static void a_pin_ends_when_its_age_is_its_ttl(void **state)
{
	const uint64_t ttls[] = {1, 2, 4095, 4096, 4097, CURSOR_TTL, 1ull << 24, (1ull << 24) + 1, 1ull << 32};

	(void)state;
	WITH(100);
	for (size_t i = 0; i < sizeof ttls / sizeof *ttls; i++) {
		assert_pins(p, cursor_id(i), A, 7, ttls[i]);
		p->now += ttls[i] - 1;
		assert_seen(p, cursor_id(i), A, 7);
		assert_false(cursor_table_expire(p->t, p->now, 100));
		assert_seen(p, cursor_id(i), A, 7);
		p->now++;
		assert_unseen(p, cursor_id(i)); /* by the reader's clock: nobody swept */
		assert_int_equal(cursor_release(p, cursor_id(i), A), SHM_PIN_UNKNOWN);
		assert_int_equal(cursor_table_count(p->t), 1);
		assert_int_equal(cursor_table_cluster_uses(p->t, 7), 1);
		assert_false(cursor_table_expire(p->t, p->now, 100));
		assert_int_equal(cursor_table_count(p->t), 0);
		assert_int_equal(cursor_table_cluster_uses(p->t, 7), 0);
		assert_int_equal(COUNTED(p, n_expired), i + 1);
	}
}

static void each_pin_has_a_ttl_of_its_own(void **state)
{
	(void)state;
	WITH(1000);
	for (unsigned i = 0; i < 1000; i++)
		assert_pins(p, cursor_id(i), A, 1, 1 + i * 37 % 1000);
	for (unsigned age = 1; age <= 1000; age++) {
		p->now++;
		while (cursor_table_expire(p->t, p->now, 3))
			;
		assert_int_equal(cursor_table_count(p->t), 1000 - age);
	}
}

static void a_sweep_is_as_short_as_it_is_told(void **state)
{
	unsigned sweeps = 1;

	(void)state;
	WITH(1000);
	for (unsigned i = 0; i < 1000; i++)
		assert_pins(p, cursor_id(i), A, 1, 100000); /* comes down a level before it is due */
	p->now += 100000;
	for (uint64_t n = 1000, left; cursor_table_expire(p->t, p->now, 10); n = left, sweeps++) {
		left = cursor_table_count(p->t);
		assert_in_range(n - left, 0, 10);
	}
	assert_int_equal(cursor_table_count(p->t), 0);
	assert_in_range(sweeps, 200, 202);
}

static void pinning_again_refreshes_the_ttl(void **state)
{
	(void)state;
	WITH(100);
	assert_pins(p, cursor_id(1), A, 7, 1000);
	p->now += 999;
	assert_pins(p, cursor_id(1), A, 8, 1000);
	p->now += 999;
	assert_false(cursor_table_expire(p->t, p->now, 100));
	assert_seen(p, cursor_id(1), A, 8);
	assert_int_equal(cursor_table_cluster_uses(p->t, 7), 0);
	assert_int_equal(cursor_table_cluster_uses(p->t, 8), 1);
	p->now++;
	assert_unseen(p, cursor_id(1));
	assert_int_equal(COUNTED(p, n_pinned), 1);
	assert_int_equal(COUNTED(p, n_refreshed), 1);
}

static void a_refresh_may_shorten_too(void **state)
{
	(void)state;
	WITH(100);
	assert_pins(p, cursor_id(1), A, 7, 1000000);
	assert_pins(p, cursor_id(1), A, 7, 10);
	p->now += 10;
	assert_unseen(p, cursor_id(1));
	assert_false(cursor_table_expire(p->t, p->now, 100));
	assert_int_equal(cursor_table_count(p->t), 0);
}

static void pinning_again_evicts_nobody_when_the_table_is_full(void **state)
{
	(void)state;
	WITH(10);
	for (unsigned i = 0; i < 10; i++)
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL);
	for (unsigned i = 0; i < 50; i++)
		assert_pins(p, cursor_id(i % 10), A, 2, CURSOR_TTL);
	for (unsigned i = 0; i < 10; i++)
		assert_seen(p, cursor_id(i), A, 2);
	assert_int_equal(COUNTED(p, n_evicted), 0);
	assert_int_equal(cursor_table_count(p->t), 10);
}

static void pinning_anothers_id_is_not_owner_and_changes_nothing(void **state)
{
	(void)state;
	WITH(100);
	assert_pins(p, cursor_id(1), A, 7, 1000);
	p->now += 500;
	assert_int_equal(cursor_pin(p, cursor_id(1), B, 8, 5000), SHM_PIN_NOT_OWNER);
	assert_int_equal(cursor_pin(p, cursor_id(1), B, 8, 0), SHM_PIN_NOT_OWNER);
	assert_seen(p, cursor_id(1), A, 7);
	p->now += 499;
	assert_seen(p, cursor_id(1), A, 7);
	p->now++;
	assert_unseen(p, cursor_id(1));
	assert_int_equal(COUNTED(p, n_refused), 2);
	assert_int_equal(cursor_table_cluster_uses(p->t, 8), 0);
}

static void the_id_of_a_pin_that_has_expired_is_free_for_another_owner(void **state)
{
	(void)state;
	WITH(100);
	assert_pins(p, cursor_id(1), A, 7, 1000);
	p->now += 999;
	assert_int_equal(cursor_pin(p, cursor_id(1), B, 8, 1000), SHM_PIN_NOT_OWNER);
	p->now++;
	assert_pins(p, cursor_id(1), B, 8, 1000);
	assert_seen(p, cursor_id(1), B, 8);
	assert_int_equal(cursor_table_count(p->t), 1);
	assert_int_equal(COUNTED(p, n_expired), 1);
	assert_int_equal(cursor_pin(p, cursor_id(1), A, 7, 1000), SHM_PIN_NOT_OWNER);
}

static void when_full_the_oldest_goes(void **state)
{
	(void)state;
	WITH(50);
	for (unsigned i = 0; i < 500; i++) {
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL - i); /* the younger ends earlier */
		for (unsigned k = 0; k <= i; k += 7)
			assert_int_equal(cursor_seen(cursor_table_map(p->t), cursor_id(k), p->now, NULL), k + 50 > i);
	}
	assert_int_equal(COUNTED(p, n_evicted), 450);
	assert_int_equal(cursor_table_count(p->t), 50);
	assert_int_equal(cursor_table_cluster_uses(p->t, 1), 50);
}

static void a_refreshed_pin_is_young(void **state)
{
	(void)state;
	WITH(4);
	for (unsigned i = 0; i < 4; i++)
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(0), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(2), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(2), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(10), A, 1, CURSOR_TTL); /* 1 goes */
	assert_unseen(p, cursor_id(1));
	assert_pins(p, cursor_id(11), A, 1, CURSOR_TTL); /* 3 */
	assert_unseen(p, cursor_id(3));
	assert_pins(p, cursor_id(12), A, 1, CURSOR_TTL); /* 0 */
	assert_unseen(p, cursor_id(0));
	assert_seen(p, cursor_id(2), A, 1);
	assert_pins(p, cursor_id(13), A, 1, CURSOR_TTL);
	assert_unseen(p, cursor_id(2));
	assert_seen(p, cursor_id(10), A, 1);
}

static void looking_makes_nothing_young(void **state)
{
	(void)state;
	WITH(2);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(2), A, 1, CURSOR_TTL);
	assert_seen(p, cursor_id(1), A, 1);
	assert_int_equal(cursor_pin(p, cursor_id(1), B, 1, CURSOR_TTL), SHM_PIN_NOT_OWNER);
	assert_pins(p, cursor_id(3), A, 1, CURSOR_TTL);
	assert_unseen(p, cursor_id(1));
}

static void when_full_what_has_expired_goes_first(void **state)
{
	(void)state;
	WITH(10);
	for (unsigned i = 0; i < 10; i++)
		assert_pins(p, cursor_id(i), A, 1, i >= 7 ? 1000 : CURSOR_TTL);
	p->now += 999;
	assert_pins(p, cursor_id(20), A, 1, CURSOR_TTL); /* too early by one */
	assert_unseen(p, cursor_id(0));
	assert_int_equal(COUNTED(p, n_evicted), 1);
	p->now++;
	for (unsigned i = 21; i < 24; i++)
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL);
	for (unsigned i = 1; i < 7; i++)
		assert_seen(p, cursor_id(i), A, 1);
	assert_int_equal(COUNTED(p, n_evicted), 1);
	assert_int_equal(COUNTED(p, n_expired), 3);
	assert_pins(p, cursor_id(24), A, 1, CURSOR_TTL);
	assert_unseen(p, cursor_id(1));
	assert_int_equal(COUNTED(p, n_evicted), 2);
}

static void a_table_of_one_pin_has_one(void **state)
{
	(void)state;
	WITH(1);
	for (unsigned i = 0; i < 100; i++) {
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL);
		assert_pins(p, cursor_id(i), A, 2, CURSOR_TTL);
		assert_seen(p, cursor_id(i), A, 2);
		assert_int_equal(cursor_table_count(p->t), 1);
		if (i)
			assert_unseen(p, cursor_id(i - 1));
	}
	assert_int_equal(cursor_release(p, cursor_id(99), A), SHM_PIN_OK);
	assert_int_equal(cursor_table_count(p->t), 0);
	cursor_place_restart(p);
	assert_pins(p, cursor_id(7), A, 3, CURSOR_TTL);
	cursor_place_restart(p);
	assert_seen(p, cursor_id(7), A, 3);
}

static void a_released_pin_is_gone_and_its_room_is_free(void **state)
{
	(void)state;
	WITH(3);
	for (unsigned i = 0; i < 3; i++)
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL);
	assert_int_equal(cursor_release(p, cursor_id(1), A), SHM_PIN_OK);
	assert_unseen(p, cursor_id(1));
	assert_int_equal(cursor_release(p, cursor_id(1), A), SHM_PIN_UNKNOWN);
	assert_int_equal(cursor_release(p, cursor_id(9), A), SHM_PIN_UNKNOWN);
	assert_int_equal(cursor_table_count(p->t), 2);
	assert_pins(p, cursor_id(3), A, 1, CURSOR_TTL);
	assert_seen(p, cursor_id(0), A, 1);
	assert_int_equal(COUNTED(p, n_evicted), 0);
	assert_int_equal(COUNTED(p, n_released), 1);
	assert_int_equal(COUNTED(p, n_refused), 0);
}

static void releasing_anothers_pin_is_not_owner_and_changes_nothing(void **state)
{
	(void)state;
	WITH(3);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	assert_int_equal(cursor_release(p, cursor_id(1), B), SHM_PIN_NOT_OWNER);
	assert_seen(p, cursor_id(1), A, 1);
	assert_int_equal(COUNTED(p, n_refused), 1);
	p->now += CURSOR_TTL;
	assert_int_equal(cursor_release(p, cursor_id(1), B), SHM_PIN_UNKNOWN);
}

static void a_pin_that_has_ended_before_it_begins_pins_nothing(void **state)
{
	(void)state;
	WITH(3);
	assert_pins(p, cursor_id(1), A, 1, 0);
	assert_int_equal(cursor_table_pin(p->t, cursor_id(1).hash, A, 1, p->now - 5, p->now), SHM_PIN_OK);
	assert_int_equal(cursor_table_count(p->t), 0);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(1), A, 1, 0); /* and ends what was */
	assert_unseen(p, cursor_id(1));
	assert_int_equal(cursor_table_count(p->t), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_pins(p, cursor_id(i), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(9), A, 1, 0); /* and takes nobody's room */
	assert_int_equal(cursor_table_count(p->t), 3);
}

static void what_no_library_sends_is_invalid(void **state)
{
	(void)state;
	WITH(3);
	assert_int_equal(cursor_pin(p, cursor_id(1), A, 0, CURSOR_TTL), SHM_PIN_INVALID);
	assert_int_equal(cursor_pin(p, cursor_id(1), A, 1, (1ull << 32) + 1), SHM_PIN_INVALID);
	assert_int_equal(cursor_table_pin(p->t, cursor_id(1).hash, A, 1, CURSOR_EXPIRY_MAX + 1, p->now),
			 SHM_PIN_INVALID);
	assert_int_equal(cursor_table_pin(p->t, cursor_id(1).hash, A, 1, UINT64_MAX, p->now), SHM_PIN_INVALID);
	cursor_table_refused(p->t);
	assert_int_equal(COUNTED(p, n_refused), 5);
	assert_int_equal(cursor_table_count(p->t), 0);
	p->now = CURSOR_EXPIRY_MAX - 1000;
	assert_pins(p, cursor_id(1), A, 1, 1000);
	assert_seen(p, cursor_id(1), A, 1);
}

static void an_owners_flood_evicts_its_own_pins_alone(void **state)
{
	(void)state;
	cursor_place_open(p, 100, 20);
	for (unsigned i = 0; i < 30; i++)
		assert_pins(p, cursor_id(i), 1000 + i / 15, 1, CURSOR_TTL);
	for (unsigned i = 0; i < 1000; i++) {
		assert_pins(p, cursor_id(5000 + i), A, 2, CURSOR_TTL);
		assert_int_equal(cursor_table_cluster_uses(p->t, 2), i < 20 ? i + 1 : 20);
	}
	for (unsigned i = 0; i < 30; i++)
		assert_seen(p, cursor_id(i), 1000 + i / 15, 1);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(cursor_seen(cursor_table_map(p->t), cursor_id(5000 + i), p->now, NULL),
				 i >= 980 ? 2 : 0);
	assert_pins(p, cursor_id(5980), A, 2, CURSOR_TTL); /* refreshed: young */
	assert_pins(p, cursor_id(9000), A, 2, CURSOR_TTL);
	assert_seen(p, cursor_id(5980), A, 2);
	assert_unseen(p, cursor_id(5981));
	cursor_place_restart(p); /* the next writer knows as well */
	assert_pins(p, cursor_id(9001), A, 2, CURSOR_TTL);
	assert_unseen(p, cursor_id(5982));
	assert_seen(p, cursor_id(5983), A, 2);
	assert_int_equal(cursor_table_count(p->t), 50);
}

static void what_has_expired_is_no_part_of_an_owners_share(void **state)
{
	(void)state;
	cursor_place_open(p, 100, 3);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id(2), A, 1, 10);
	assert_pins(p, cursor_id(3), A, 1, CURSOR_TTL);
	p->now += 10;
	assert_pins(p, cursor_id(4), A, 1, CURSOR_TTL);
	assert_seen(p, cursor_id(1), A, 1);
	assert_int_equal(COUNTED(p, n_evicted), 0);
	assert_pins(p, cursor_id(5), A, 1, CURSOR_TTL);
	assert_unseen(p, cursor_id(1));
}

static void ids_of_one_bucket_do_not_hide_each_other(void **state)
{
	(void)state;
	WITH(200);
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i++)
		assert_pins(p, cursor_id_in(5, i), A, 1 + i, CURSOR_TTL);
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i++)
		assert_seen(p, cursor_id_in(5, i), A, 1 + i);
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i += 2) /* ends and middles of the chain */
		assert_int_equal(cursor_release(p, cursor_id_in(5, i), A), SHM_PIN_OK);
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i++)
		assert_int_equal(cursor_seen(cursor_table_map(p->t), cursor_id_in(5, i), p->now, NULL),
				 i % 2 ? 1 + i : 0);
}

static void a_bucket_as_long_as_a_search_gives_up_its_oldest(void **state)
{
	(void)state;
	WITH(200);
	assert_pins(p, cursor_id_in(6, 999), A, 1, CURSOR_TTL); /* of another bucket, and the oldest of all */
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i++)
		assert_pins(p, cursor_id_in(5, i), A, 1, i == 30 ? 10 : CURSOR_TTL);
	assert_pins(p, cursor_id_in(5, 0), A, 1, CURSOR_TTL);
	assert_pins(p, cursor_id_in(5, 100), A, 1, CURSOR_TTL);
	assert_unseen(p, cursor_id_in(5, 1));
	assert_int_equal(COUNTED(p, n_evicted), 1);
	p->now += 10;
	assert_pins(p, cursor_id_in(5, 101), A, 1, CURSOR_TTL); /* 30 has expired */
	assert_seen(p, cursor_id_in(5, 2), A, 1);
	assert_int_equal(COUNTED(p, n_evicted), 1);
	for (unsigned i = 200; i < 1000; i++)
		assert_pins(p, cursor_id_in(5, i), A, 1, CURSOR_TTL);
	for (unsigned i = 1000 - SHM_CHAIN_MAX; i < 1000; i++)
		assert_seen(p, cursor_id_in(5, i), A, 1);
	assert_seen(p, cursor_id_in(6, 999), A, 1);
	assert_int_equal(cursor_table_count(p->t), SHM_CHAIN_MAX + 1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_teardown(f, cursor_place_done)
	const struct CMUnitTest tests[] = {
		TEST(a_pin_is_found_with_its_owner_and_the_cluster_that_made_it),
		TEST(a_pin_ends_when_its_age_is_its_ttl),
		TEST(each_pin_has_a_ttl_of_its_own),
		TEST(a_sweep_is_as_short_as_it_is_told),
		TEST(pinning_again_refreshes_the_ttl),
		TEST(a_refresh_may_shorten_too),
		TEST(pinning_again_evicts_nobody_when_the_table_is_full),
		TEST(pinning_anothers_id_is_not_owner_and_changes_nothing),
		TEST(the_id_of_a_pin_that_has_expired_is_free_for_another_owner),
		TEST(when_full_the_oldest_goes),
		TEST(a_refreshed_pin_is_young),
		TEST(looking_makes_nothing_young),
		TEST(when_full_what_has_expired_goes_first),
		TEST(a_table_of_one_pin_has_one),
		TEST(a_released_pin_is_gone_and_its_room_is_free),
		TEST(releasing_anothers_pin_is_not_owner_and_changes_nothing),
		TEST(a_pin_that_has_ended_before_it_begins_pins_nothing),
		TEST(what_no_library_sends_is_invalid),
		TEST(an_owners_flood_evicts_its_own_pins_alone),
		TEST(what_has_expired_is_no_part_of_an_owners_share),
		TEST(ids_of_one_bucket_do_not_hide_each_other),
		TEST(a_bucket_as_long_as_a_search_gives_up_its_oldest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
