/* SPDX-License-Identifier: MIT
 * Writes in leases as libberth does them: what the gate answers, what stands in the slots meanwhile and afterwards, how
 * they come free again; against the writer's own table and a stand-in for its daemon. What the writer makes of the slots
 * is 33-drain.c's. */
#include "reader_place.h"

#include "../shm/hash.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct berth *bracketed(struct reader_place *p, uint32_t max_leases)
{
	struct berth_attach_options o = {
		.size = sizeof o, .wait_ms = 10000, .writes = BERTH_WRITES_BRACKETED, .max_leases = max_leases};

	serve(p, ANSWER_REGISTER);
	return attach_with(p, &o, BERTH_OK);
}

struct slots {
	unsigned open, unknown;
	uint64_t time_ms; /* of the last one seen */
};

static struct slots slots_of(struct reader_place *p, unsigned reader, const char *key)
{
	struct shm_leases *a = leases_of(p, reader);
	struct slots n = {0};

	for (uint32_t i = 0; i < atomic_load(&a->high); i++) {
		uint64_t state, hash = lease_look(&lease_slots(a)[i], &state);

		if (!hash || (key && hash != lease_hash(hash_key(p->root->secret, key, strlen(key)))))
			continue;
		*(lease_kind(state) == LEASE_OPEN ? &n.open : &n.unknown) += 1;
		n.time_ms = lease_time(state);
	}
	return n;
}

#define EXPECT_SLOTS(p, reader, key, n_open, n_unknown) \
	do { \
		struct slots s_ = slots_of(p, reader, key); \
		assert_int_equal(s_.open, n_open); \
		assert_int_equal(s_.unknown, n_unknown); \
	} while (0)

static void must_begin(struct berth_reader *r, const char *key, struct berth_write *w)
{
	assert_int_equal(berth_write_begin(r, KEY(key), 0, w), BERTH_OK);
}
static void must_end(struct berth_reader *r, struct berth_write *w, enum berth_outcome outcome)
{
	assert_int_equal(berth_write_end(r, w, outcome), BERTH_OK);
}

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
	assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w[3]), BERTH_E_AGAIN); /* not used before its time */
	EXPECT_SLOTS(p, 0, "acme", 3, 5);
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

/* ---- many at once -------------------------------------------------------------------------------------------- */

static void bulk_begin_shares_and_says_each(void **state)
{
	struct reader_place *p = *state;
	uint64_t acme = place_set(p, "acme", 1, "a"), globex = place_set(p, "globex", 2, "g"), stale;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_key keys[7] = {{KEY("acme")}, {KEY("globex")}, {KEY("acme")},  {KEY("nobody")},
				    {KEY("acme")}, {"", 0},         {KEY("globex")}};
	uint64_t epochs[7] = {acme, 0, 0, 0, acme + 99, 0, globex};
	const int expected[7] = {BERTH_OK, BERTH_OK, BERTH_OK, BERTH_E_UNKNOWN, BERTH_E_STALE, BERTH_E_INVAL, BERTH_OK};
	struct berth_write w[7], zero = {0};
	int status[7];

	for (int round = 0; round < 8; round++) { /* round's bits: which of three ends first, and how */
		memset(w, 0xee, sizeof w);
		assert_int_equal(berth_write_begin_bulk(r, keys, epochs, 7, w, status), BERTH_OK);
		for (int i = 0; i < 7; i++) {
			assert_int_equal(status[i], expected[i]);
			assert_int_equal(w[i].epoch, status[i] ? 0 : i == 0 || i == 2 ? acme : globex);
			assert_int_equal(w[i].reserved1[0] | w[i].reserved1[1], 0);
			if (status[i])
				assert_memory_equal(&w[i], &zero, sizeof zero);
		}
		EXPECT_SLOTS(p, 0, "acme", 1, 0);
		EXPECT_SLOTS(p, 0, "globex", 1, 0);
		must_end(r, &w[round & 1 ? 0 : 2], BERTH_DONE);
		EXPECT_SLOTS(p, 0, "acme", 1, 0); /* until the last of them has ended */
		must_end(r, &w[round & 1 ? 2 : 0], BERTH_DONE);
		EXPECT_SLOTS(p, 0, "acme", 0, 0);
		must_end(r, &w[1], BERTH_DONE);
		must_end(r, &w[6], BERTH_DONE);
		EXPECT_SLOTS(p, 0, NULL, 0, 0);
	}
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 3, w, status), BERTH_OK); /* all present epochs */
	must_end(r, &w[0], BERTH_UNKNOWN); /* one unknown among them makes the lease unknown */
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	must_end(r, &w[2], BERTH_DONE);
	must_end(r, &w[1], BERTH_DONE);
	EXPECT_SLOTS(p, 0, "acme", 0, 1);
	EXPECT_SLOTS(p, 0, "globex", 0, 0);
	assert_int_equal(berth_write_begin_bulk(r, NULL, NULL, 0, NULL, NULL), BERTH_OK);
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 1, NULL, status), BERTH_E_INVAL);
	place_begin(p, "acme", 2, "c");
	stale = place_phase(p, "acme", PHASE_CUTOVER);
	assert_int_equal(berth_write_begin_bulk(r, keys, (uint64_t[]){stale, 0, 0}, 3, w, status), BERTH_OK);
	assert_int_equal(status[0], BERTH_E_CUTOVER);
	assert_int_equal(status[2], BERTH_E_CUTOVER);
	must_end(r, &w[1], BERTH_DONE);
	close_all(b, r);
}

static void bulk_begin_without_room_holds_nothing(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_key keys[40];
	struct berth_write w[40], one;
	char names[40][8];
	int status[40];

	for (unsigned i = 0; i < 40; i++) {
		snprintf(names[i], sizeof names[i], "t%u", i % 20);
		keys[i] = (struct berth_key){names[i], strlen(names[i])};
		place_set(p, names[i], 1 + i % 2, NULL);
	}
	must_begin(r, "t5", &one);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 40, w, status), BERTH_E_AGAIN);
		for (int i = 0; i < 40; i++) {
			assert_int_equal(status[i], BERTH_E_AGAIN);
			assert_int_equal(berth_write_end(r, &w[i], BERTH_DONE), BERTH_E_INVAL);
		}
		EXPECT_SLOTS(p, 0, NULL, 1, 0);
	}
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 3, w, status), BERTH_OK);
	EXPECT_SLOTS(p, 0, NULL, 4, 0);
	for (int i = 0; i < 3; i++)
		must_end(r, &w[i], BERTH_DONE);
	must_end(r, &one, BERTH_DONE);
	close_all(b, r);
}

static void bulk_begin_of_thousands_of_one_tenant_takes_few_slots(void **state)
{
	enum { N = 20000 };
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 16);
	struct berth_reader *r = opened(b);
	struct berth_key *keys = calloc(N, sizeof *keys);
	struct berth_write *w = calloc(N, sizeof *w);
	int *status = calloc(N, sizeof *status);
	static const char *const names[] = {"acme", "globex", "initech"};

	assert_true(keys && w && status);
	for (unsigned i = 0; i < 3; i++)
		place_set(p, names[i], 1, names[i]);
	for (unsigned i = 0; i < N; i++)
		keys[i] = (struct berth_key){KEY(names[i * 2654435761u % 3])};
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, N, w, status), BERTH_OK);
	EXPECT_SLOTS(p, 0, NULL, 3, 0);
	for (unsigned i = 0; i < N; i++)
		must_end(r, &w[(i * 7919u + 1) % N], BERTH_DONE);
	EXPECT_SLOTS(p, 0, NULL, 0, 0);
	free(keys);
	free(w);
	free(status);
	close_all(b, r);
}

/* ---- readers, attachments, processes -------------------------------------------------------------------------- */

static void lease_outlives_its_reader(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 2);
	struct berth_reader *r = opened(b), *other;
	struct berth_write w, w2;

	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	berth_reader_close(&r);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY);
	assert_non_null(b);
	r = opened(b); /* takes the array over, with what is in it */
	other = opened(b);
	must_begin(r, "acme", &w2);
	EXPECT_SLOTS(p, 0, "acme", 2, 0);
	assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &(struct berth_write){0}), BERTH_E_AGAIN);
	must_end(other, &w, BERTH_DONE);
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	berth_reader_close(&r);
	berth_reader_close(&other);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY);
	r = opened(b);
	must_end(r, &w2, BERTH_UNKNOWN); /* an unknown end holds nobody back */
	close_all(b, r);
}

static unsigned registrations_mapped(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		n += strstr(line, "/readers/") != NULL;
	fclose(f);
	return n;
}

/* The writer does not know the registration any more, so there is a new one; writes of the old one end on the old one. */
static void lease_outlives_its_attachment(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b), *idle = opened(b);
	struct shm_leases *old;
	struct berth_write w, w2;
	unsigned mapped;
	uint64_t state_word;

	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	old = leases_of(p, 0);
	stop_serving(p);
	serve(p, ANSWER_UNKNOWN);
	maintain_until(b, BERTH_OK);
	assert_int_equal(atomic_load(&p->n_attached), 2);
	must_begin(r, "acme", &w2); /* on the new one */
	assert_true(leases_of(p, 0) != old);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	assert_int_not_equal(lease_look(&lease_slots(old)[0], &state_word), 0);
	mapped = registrations_mapped();
	assert_int_equal(berth_maintain(b), BERTH_OK);
	assert_int_equal(registrations_mapped(), mapped);
	assert_int_equal(berth_route(idle, KEY("acme"), &(struct berth_route){0}), BERTH_OK); /* leaves the old one */
	assert_int_equal(berth_maintain(b), BERTH_OK);
	assert_int_equal(registrations_mapped(), mapped); /* w is under way on it */
	must_end(r, &w, BERTH_DONE);
	assert_int_equal(lease_look(&lease_slots(old)[0], &state_word), 0);
	assert_int_equal(berth_maintain(b), BERTH_OK);
	assert_int_equal(registrations_mapped(), mapped - 1);
	berth_reader_close(&idle);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY); /* w2 */
	r = opened(b);
	must_end(r, &w2, BERTH_DONE);
	close_all(b, r);
}

static void forked_child_begins_and_ends_nothing(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_write w, again;
	struct berth_key key = {KEY("acme")};
	int status;
	pid_t pid;

	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(berth_write_begin(r, KEY("acme"), 0, &again) != BERTH_E_FORKED                ? 1
		      : berth_write_begin_bulk(r, &key, NULL, 1, &again, &status) != BERTH_E_FORKED ? 2
		      : status != BERTH_E_FORKED                                                    ? 3
		      : berth_write_end(r, &w, BERTH_DONE) != BERTH_E_FORKED                        ? 4
		      : (berth_reader_close(&r), berth_detach(&b)) != BERTH_OK                      ? 5
												    : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	must_end(r, &w, BERTH_DONE);
	close_all(b, r);
}

/* ---- threads: begun by one, ended by another -------------------------------------------------------------------- */

#define THREADS 4
#define WRITES 30000
#define SLOTS 64

struct relay { /* a ring of writes from one thread to the next one */
	struct berth_write ring[32];
	_Atomic unsigned head, tail;
	struct berth *b;
	struct relay *to;
	unsigned n_begun, n_again, n_bad;
};

static void end_given(struct relay *me, struct berth_reader *r)
{
	unsigned head = atomic_load_explicit(&me->head, memory_order_relaxed);

	while (head != atomic_load_explicit(&me->tail, memory_order_acquire)) {
		me->n_bad +=
			berth_write_end(r, &me->ring[head % 32], head % 97 ? BERTH_DONE : BERTH_UNKNOWN) != BERTH_OK;
		atomic_store_explicit(&me->head, ++head, memory_order_release);
	}
}

static void *relay(void *arg)
{
	static const char *const names[] = {"acme", "globex", "initech"};
	struct relay *me = arg, *to = me->to;
	struct berth_reader *r = NULL;
	struct berth_write w[8];

	me->n_bad += berth_reader_open(me->b, &r) != BERTH_OK;
	for (unsigned i = 0; r && i < WRITES; i++) {
		unsigned n = i % 8, m = 0, tail = atomic_load_explicit(&to->tail, memory_order_relaxed);

		for (; m < n; m++) {
			int rc = berth_write_begin(r, KEY(names[(i + m) % 3]), 0, &w[m]);

			me->n_again += rc == BERTH_E_AGAIN;
			me->n_bad += rc != BERTH_OK && rc != BERTH_E_AGAIN;
			if (rc != BERTH_OK)
				break;
			me->n_begun++;
		}
		while (m > 0) { /* half of them goes to the other thread, as far as there is room */
			m--;
			if (m % 2 && tail - atomic_load_explicit(&to->head, memory_order_acquire) < 32) {
				to->ring[tail % 32] = w[m];
				atomic_store_explicit(&to->tail, ++tail, memory_order_release);
			} else {
				me->n_bad += berth_write_end(r, &w[m], BERTH_DONE) != BERTH_OK;
			}
		}
		end_given(me, r);
	}
	return r;
}

static void slots_are_neither_lost_nor_given_twice_between_threads(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, SLOTS);
	struct relay relays[THREADS] = {0};
	struct berth_reader *readers[THREADS];
	struct berth_write w[SLOTS];
	pthread_t threads[THREADS];
	unsigned begun = 0;

	atomic_store(&p->root->barrier_ms, 1);
	place_set(p, "acme", 1, "a");
	place_set(p, "globex", 2, "g");
	place_set(p, "initech", 2, "i");
	for (unsigned i = 0; i < THREADS; i++) {
		relays[i].b = b;
		relays[i].to = &relays[(i + 1) % THREADS];
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, relay, &relays[i]), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		void *r;

		assert_int_equal(pthread_join(threads[i], &r), 0);
		readers[i] = r;
	}
	for (unsigned i = 0; i < THREADS; i++) {
		end_given(&relays[i], readers[i]);
		assert_int_equal(relays[i].n_bad, 0);
		begun += relays[i].n_begun;
	}
	assert_true(begun > WRITES);
	usleep(20000); /* the unknown ones grow old */
	for (unsigned i = 0; i < THREADS; i++) {
		unsigned open = 0;

		for (unsigned s = 0; s < SLOTS; s++) /* each slot once */
			must_begin(readers[i], "acme", &w[s]);
		for (unsigned a = 0; a < THREADS; a++) /* the readers were opened in any order */
			open += slots_of(p, a, NULL).open;
		assert_int_equal(open, SLOTS);
		for (unsigned s = 0; s < SLOTS; s++)
			must_end(readers[i], &w[s], BERTH_DONE);
		berth_reader_close(&readers[i]);
	}
	close_all(b, NULL);
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
		IN_PLACE(bulk_begin_shares_and_says_each),
		IN_PLACE(bulk_begin_without_room_holds_nothing),
		IN_PLACE(bulk_begin_of_thousands_of_one_tenant_takes_few_slots),
		IN_PLACE(lease_outlives_its_reader),
		IN_PLACE(lease_outlives_its_attachment),
		IN_PLACE(forked_child_begins_and_ends_nothing),
		IN_PLACE(slots_are_neither_lost_nor_given_twice_between_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
