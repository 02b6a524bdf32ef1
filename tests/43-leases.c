/* SPDX-License-Identifier: MIT
 * Writes in leases as libberth does them: what the gate answers, what stands in the slots meanwhile and afterwards, how
 * they come free again; against the writer's own table and a stand-in for its daemon. What the writer makes of the slots
 * is 33-drain.c's. */
#include "reader_place.h"

#include <string.h>
#include <unistd.h>

/* ---- one write ----------------------------------------------------------------------------------------------- */

static void lease_stands_from_begin_to_end(void **state)
{
	struct reader_place *p = *state;
	uint64_t epoch = place_set(p, "acme", 1, "a"), now = seg_clock_ms(CLOCK_MONOTONIC);
	struct berth *b = bracketed(p, 0);
	struct berth_reader *r = opened(b);
	struct berth_write w, zero = {0};

	for (int i = 0; i < 3; i++) { /* the first slot, then the same one again by the short way */
		memset(&w, 0xff, sizeof w);
		must_begin(r, "acme", &w);
		assert_int_equal(w.epoch, epoch);
		assert_int_equal(w.cluster, 1);
		assert_int_equal(w.kind, BERTH_DEDICATED_INDEX);
		assert_int_equal(w.phase, BERTH_SETTLED);
		assert_int_equal(w.is_default, 0);
		EXPECT_SLOTS(p, 0, "acme", 1, 0);
		assert_in_range(slots_of(p, 0, "acme").time_ms, now - 20, now + 5000);
		must_end(r, &w, BERTH_DONE);
		assert_memory_equal(&w, &zero, sizeof w);
		EXPECT_SLOTS(p, 0, NULL, 0, 0);
		assert_int_equal(berth_write_end(r, &w, BERTH_DONE), BERTH_E_INVAL);
		assert_int_equal(atomic_load(&leases_of(p, 0)->high), 1);
	}
	must_begin(r, "acme", &w);
	assert_int_equal(berth_write_end(r, &w, (enum berth_outcome)2), BERTH_E_INVAL);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	must_end(r, &w, BERTH_DONE);
	assert_int_equal(berth_write_begin(r, "", 0, 0, &w), BERTH_E_INVAL);
	assert_int_equal(berth_write_begin(r, "x", 256, 0, &w), BERTH_E_INVAL);
	assert_int_equal(berth_write_begin(NULL, KEY("acme"), 0, &w), BERTH_E_INVAL);
	assert_int_equal(berth_write_end(NULL, &w, BERTH_DONE), BERTH_E_INVAL);
	close_all(b, r);
}

/* What is refused holds nothing, on the short way (a slot was used before) and on the long one. */
static void refused(struct reader_place *p, struct berth_reader *r, const char *key, uint64_t epoch, int code)
{
	struct berth_write w, before;

	memset(&w, 0x5a, sizeof w);
	before = w;
	assert_int_equal(berth_write_begin(r, KEY(key), epoch, &w), code);
	assert_memory_equal(&w, &before, sizeof w);
	EXPECT_SLOTS(p, 0, NULL, 0, 0);
}

static void gate_refuses_and_holds_nothing(void **state)
{
	struct reader_place *p = *state;
	uint64_t first = place_set(p, "acme", 1, "a"), epoch = place_set(p, "acme", 1, "b"), next;
	struct berth *b = bracketed(p, 0);
	struct berth_reader *r = opened(b);
	struct berth_write w;

	for (int round = 0; round < 2; round++) {
		refused(p, r, "nobody", 0, BERTH_E_UNKNOWN);
		refused(p, r, "acme", first, BERTH_E_STALE);
		refused(p, r, "acme", epoch + 1, BERTH_E_STALE);
		assert_int_equal(berth_write_begin(r, KEY("acme"), epoch, &w), BERTH_OK);
		must_end(r, &w, BERTH_DONE);
	}
	next = place_begin(p, "acme", 2, "c");
	refused(p, r, "acme", epoch, BERTH_E_STALE);
	must_begin(r, "acme", &w);
	assert_int_equal(w.epoch, next);
	assert_int_equal(w.cluster, 1);
	assert_int_equal(w.phase, BERTH_DRAINING);
	must_end(r, &w, BERTH_DONE);
	next = place_phase(p, "acme", PHASE_CUTOVER);
	refused(p, r, "acme", 0, BERTH_E_CUTOVER);
	refused(p, r, "acme", next, BERTH_E_CUTOVER);
	next = place_phase(p, "acme", PHASE_SETTLED);
	assert_int_equal(berth_write_begin(r, KEY("acme"), next, &w), BERTH_OK);
	assert_int_equal(w.cluster, 2);
	must_end(r, &w, BERTH_DONE);
	atomic_store(&p->root->fence_deadline_ms, 1);
	refused(p, r, "acme", 0, BERTH_E_FENCED);
	atomic_store(&p->root->fence_deadline_ms, UINT64_MAX);
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	atomic_store(&p->root->superseded, 1);
	refused(p, r, "acme", 0, BERTH_E_WRITER_DOWN);
	atomic_store(&p->root->superseded, 0);
	close_all(b, r);
}

static void default_answers_writes_too(void **state)
{
	struct reader_place *p = *state;
	uint64_t epoch = place_shared(p, NULL, 2, "shared");
	struct berth *b = bracketed(p, 0);
	struct berth_reader *r = opened(b);
	struct berth_write w;
	char key[256];

	for (size_t len = 1; len <= 255; len++) { /* each has a lease of its own, whatever its length */
		memset(key, 'k', len);
		key[len] = '\0';
		assert_int_equal(berth_write_begin(r, key, len, epoch, &w), BERTH_OK);
		assert_int_equal(w.is_default, 1);
		assert_int_equal(w.cluster, 2);
		EXPECT_SLOTS(p, 0, key, 1, 0);
		must_end(r, &w, BERTH_DONE);
	}
	place_set(p, "kkk", 1, "own");
	refused(p, r, "kkk", epoch, BERTH_E_STALE);
	close_all(b, r);
}

static void only_a_bracketed_process_begins_writes(void **state)
{
	struct reader_place *p = *state;
	struct berth_attach_options o = {.size = sizeof o, .wait_ms = 10000};
	struct berth_write w;
	struct berth_reader *r;
	struct berth *b;
	uint64_t epoch = place_set(p, "acme", 1, "a");

	for (uint32_t writes = 0; writes <= BERTH_WRITES_NONE; writes++) {
		int code = writes == BERTH_WRITES_BRACKETED ? BERTH_OK : BERTH_E_INVAL;

		o.writes = writes;
		serve(p, ANSWER_REGISTER);
		b = attach_with(p, &o, BERTH_OK);
		r = opened(b);
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w), code);
		if (code == BERTH_OK) {
			must_end(r, &w, BERTH_DONE);
			assert_int_equal(atomic_load(&atomic_load(&p->registration)->unbracketed), 0);
			assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
			assert_int_equal(atomic_load(&atomic_load(&p->registration)->unbracketed), 1);
		} else {
			assert_int_equal(atomic_load(&p->registration)->n_leases, 0);
		}
		close_all(b, r);
		stop_serving(p);
	}
	o = (struct berth_attach_options){.size = sizeof o, .wait_ms = BERTH_NO_WAIT, .writes = BERTH_WRITES_BRACKETED};
	b = attach_with(p, &o, BERTH_OK); /* no daemon */
	r = opened(b);
	assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w), BERTH_E_WRITER_DOWN);
	serve(p, ANSWER_REGISTER);
	maintain_until(b, BERTH_OK);
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	close_all(b, r);
}

/* ---- slots --------------------------------------------------------------------------------------------------- */

static void no_more_writes_than_slots(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 5);
	struct berth_reader *r = opened(b);
	struct berth_write w[6];

	place_set(p, "acme", 1, "a");
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 5; i++)
			must_begin(r, "acme", &w[i]);
		EXPECT_SLOTS(p, 0, "acme", 5, 0);
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w[5]), BERTH_E_AGAIN);
		must_end(r, &w[3], BERTH_DONE);
		must_begin(r, "acme", &w[3]);
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w[5]), BERTH_E_AGAIN);
		for (int i = 0; i < 5; i++)
			must_end(r, &w[i], BERTH_DONE);
		EXPECT_SLOTS(p, 0, NULL, 0, 0);
	}
	close_all(b, r);
}

static void unknown_end_stays_for_a_barrier(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 8);
	struct berth_reader *r = opened(b);
	struct berth_write w[8];
	uint64_t before, after;

	atomic_store(&p->root->barrier_ms, 300);
	place_set(p, "acme", 1, "a");
	for (int i = 0; i < 5; i++)
		must_begin(r, "acme", &w[i]);
	before = seg_clock_ms(CLOCK_MONOTONIC);
	for (int i = 0; i < 5; i++)
		must_end(r, &w[i], BERTH_UNKNOWN); /* 3 of 8 are free: not short */
	after = seg_clock_ms(CLOCK_MONOTONIC);
	EXPECT_SLOTS(p, 0, "acme", 0, 5);
	assert_in_range(slots_of(p, 0, "acme").time_ms, before, after + 1); /* rounded up */
	assert_int_equal(atomic_load(&leases_of(p, 0)->overflow_ms), 0);
	for (int i = 0; i < 3; i++)
		must_begin(r, "acme", &w[i]);
	EXPECT_SLOTS(p, 0, "acme", 3, 5); /* not used before its time, while there is another (47-lease-slots.c) */
	while (seg_clock_ms(CLOCK_MONOTONIC) <= after + 1 + 300 + LEASE_SLACK_MS)
		usleep(5000);
	for (int i = 3; i < 8; i++)
		must_begin(r, "acme", &w[i]);
	EXPECT_SLOTS(p, 0, "acme", 8, 0);
	for (int i = 0; i < 8; i++)
		must_end(r, &w[i], BERTH_DONE);
	close_all(b, r);
}

static void too_many_unknown_ends_overflow(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 16);
	struct berth_reader *r = opened(b);
	struct berth_write w;
	uint64_t raised = 0;

	place_set(p, "acme", 1, "a");
	for (int i = 0; i < 1000; i++) {
		uint64_t before = seg_clock_ms(CLOCK_MONOTONIC), overflow;

		must_begin(r, "acme", &w); /* never short of slots */
		must_end(r, &w, BERTH_UNKNOWN);
		overflow = atomic_load(&leases_of(p, 0)->overflow_ms);
		assert_true(overflow >= raised);
		if (i < 11)
			assert_int_equal(overflow, 0);
		if (i > 16)
			assert_true(overflow >= before);
		raised = overflow;
	}
	assert_in_range(slots_of(p, 0, "acme").unknown, 11, 13); /* a quarter is kept free */
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	close_all(b, r);
}

static void another_reader_ends_and_the_slot_comes_back(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 3);
	struct berth_reader *r = opened(b), *other = opened(b);
	struct berth_write w[3];

	place_set(p, "acme", 1, "a");
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 3; i++)
			must_begin(r, "acme", &w[i]);
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &(struct berth_write){0}), BERTH_E_AGAIN);
		for (int i = 0; i < 3; i++)
			must_end(other, &w[(i + round) % 3], BERTH_DONE);
		EXPECT_SLOTS(p, 0, NULL, 0, 0);
		EXPECT_SLOTS(p, 1, NULL, 0, 0);
	}
	must_begin(r, "acme", &w[0]);
	must_end(other, &w[0], BERTH_UNKNOWN);
	EXPECT_SLOTS(p, 0, "acme", 0, 1);
	berth_reader_close(&other);
	close_all(b, r);
}

static void copy_that_is_ended_again_ends_nobody_elses_lease(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b), *other = opened(b);
	struct berth_write w, copy, later[2];

	place_set(p, "acme", 1, "a");
	for (int round = 0; round < 20; round++) {
		enum berth_outcome outcome = round % 4 == 3 ? BERTH_UNKNOWN : BERTH_DONE;

		atomic_store(&p->root->barrier_ms, 0);
		usleep(outcome == BERTH_UNKNOWN ? 15000 : 0);
		must_begin(r, "acme", &w);
		copy = w;
		must_end(r, &w, outcome);
		w = copy;
		assert_int_equal(berth_write_end(round % 2 ? r : other, &w, BERTH_DONE), BERTH_E_INVAL);
		must_begin(r, "acme", &later[0]);
		must_begin(r, "acme", &later[1]);
		assert_int_equal(berth_write_end(r, &copy, BERTH_DONE), BERTH_E_INVAL);
		EXPECT_SLOTS(p, 0, "acme", 2, slots_of(p, 0, "acme").unknown);
		must_end(r, &later[0], BERTH_DONE);
		must_end(r, &later[1], BERTH_DONE);
	}
	berth_reader_close(&other);
	close_all(b, r);
}

/* A reader that stays in a section of its caller's does not admit by a registration that the writer has forgotten. */
static void nothing_is_admitted_by_a_registration_that_was_replaced(void **state)
{
	struct reader_place *p = *state;
	uint64_t epoch = place_set(p, "acme", 1, "a");
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_write w, w2;

	berth_read_begin(r);
	must_begin(r, "acme", &w);
	stop_serving(p);
	serve(p, ANSWER_UNKNOWN);
	maintain_until(b, BERTH_OK);
	assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w2), BERTH_E_WRITER_DOWN);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_E_WRITER_DOWN);
	must_end(r, &w, BERTH_DONE);
	berth_read_end(r);
	must_begin(r, "acme", &w2);
	must_end(r, &w2, BERTH_DONE);
	close_all(b, r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(lease_stands_from_begin_to_end),
		IN_PLACE(gate_refuses_and_holds_nothing),
		IN_PLACE(default_answers_writes_too),
		IN_PLACE(only_a_bracketed_process_begins_writes),
		IN_PLACE(no_more_writes_than_slots),
		IN_PLACE(unknown_end_stays_for_a_barrier),
		IN_PLACE(too_many_unknown_ends_overflow),
		IN_PLACE(another_reader_ends_and_the_slot_comes_back),
		IN_PLACE(copy_that_is_ended_again_ends_nobody_elses_lease),
		IN_PLACE(nothing_is_admitted_by_a_registration_that_was_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
