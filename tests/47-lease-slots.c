/* SPDX-License-Identifier: MIT
 * The slots of leases when unknown ends fill them: a write is refused for want of a slot only while as many as there are
 * slots are under way, and what ended unknown is seen for a barrier all the same, in its slot or as overflow. One write at
 * a time: 43-leases.c; what the writer makes of slots and overflow: 33-drain.c. */
#include "reader_place.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 16u
#define KEPT 13u /* unknown ends that stay in slots: a quarter is kept free */

static uint64_t overflow_of(struct reader_place *p)
{
	return atomic_load(&leases_of(p, 0)->overflow_ms);
}

/* The next millisecond: what ends now has a time of its own. */
static uint64_t next_ms(void)
{
	uint64_t ms = seg_clock_ms(CLOCK_MONOTONIC);

	while (seg_clock_ms(CLOCK_MONOTONIC) < ms + 2)
		usleep(500);
	return seg_clock_ms(CLOCK_MONOTONIC);
}

static void unknown_ends_refuse_no_write(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, SLOTS);
	struct berth_reader *r = opened(b);
	struct berth_write w[SLOTS + 1];

	place_set(p, "acme", 1, "a");
	for (unsigned round = 0; round < 3; round++) {
		uint64_t before = overflow_of(p);

		for (unsigned i = 0; i < 4 * SLOTS; i++) {
			must_begin(r, "acme", &w[0]);
			must_end(r, &w[0], BERTH_UNKNOWN);
		}
		assert_in_range(slots_of(p, 0, "acme").unknown, KEPT - 2, KEPT);
		for (unsigned i = 0; i < SLOTS; i++)
			must_begin(r, "acme", &w[i]);
		EXPECT_SLOTS(p, 0, "acme", SLOTS, 0);
		assert_true(overflow_of(p) > before);
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w[SLOTS]), BERTH_E_AGAIN);
		for (unsigned i = 0; i < SLOTS; i++)
			must_end(r, &w[i], BERTH_DONE);
		next_ms();
	}
	close_all(b, r);
}

static void the_eldest_unknown_end_makes_room_first(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, SLOTS);
	struct berth_reader *r = opened(b);
	struct berth_write w[SLOTS + 1];
	uint64_t ended[8], overflow;
	unsigned n_open;

	place_set(p, "acme", 1, "a");
	place_set(p, "globex", 1, "g");
	for (unsigned i = 0; i < SLOTS; i++)
		must_begin(r, i < 8 ? "acme" : "globex", &w[i]);
	for (unsigned i = 0; i < 8; i++) /* so few that no end is short of slots */
		must_end(r, &w[8 + i], BERTH_DONE);
	for (unsigned i = 0; i < 8; i++) {
		ended[i] = next_ms();
		must_end(r, &w[i], BERTH_UNKNOWN);
	}
	assert_int_equal(overflow_of(p), 0);
	EXPECT_SLOTS(p, 0, "acme", 0, 8);
	for (n_open = 0; n_open < 8; n_open++)
		must_begin(r, "globex", &w[n_open]);
	assert_int_equal(overflow_of(p), 0); /* there was room */
	must_begin(r, "globex", &w[n_open++]);
	overflow = overflow_of(p);
	assert_true(overflow >= ended[0] && overflow < ended[7]); /* for the first of them, not for all */
	assert_in_range(slots_of(p, 0, "acme").unknown, 1, 7);
	while (n_open < SLOTS)
		must_begin(r, "globex", &w[n_open++]);
	assert_int_equal(berth_write_begin(r, KEY("globex"), 0, &w[SLOTS]), BERTH_E_AGAIN);
	EXPECT_SLOTS(p, 0, "acme", 0, 0);
	assert_true(overflow_of(p) >= ended[7]); /* it stands for the last of them now */
	for (unsigned i = 0; i < SLOTS; i++)
		must_end(r, &w[i], BERTH_DONE);
	close_all(b, r);
}

static void what_is_older_than_the_barrier_is_no_overflow(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, SLOTS);
	struct berth_reader *r = opened(b);
	struct berth_write w[SLOTS];

	atomic_store(&p->root->barrier_ms, 50);
	place_set(p, "acme", 1, "a");
	for (unsigned i = 0; i < 8; i++)
		must_begin(r, "acme", &w[i]);
	for (unsigned i = 0; i < 8; i++)
		must_end(r, &w[i], BERTH_UNKNOWN);
	usleep((50 + LEASE_SLACK_MS + 20) * 1000);
	for (unsigned i = 0; i < SLOTS; i++)
		must_begin(r, "acme", &w[i]);
	EXPECT_SLOTS(p, 0, "acme", SLOTS, 0);
	assert_int_equal(overflow_of(p), 0);
	for (unsigned i = 0; i < SLOTS; i++)
		must_end(r, &w[i], BERTH_DONE);
	close_all(b, r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(unknown_ends_refuse_no_write),
		IN_PLACE(the_eldest_unknown_end_makes_room_first),
		IN_PLACE(what_is_older_than_the_barrier_is_no_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
