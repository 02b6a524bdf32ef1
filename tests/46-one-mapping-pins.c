/* SPDX-License-Identifier: MIT
 * Pins over one mapping of each file (one_mapping.h): threads that pin, resolve and release through libberth, the cursor
 * thread as it is, and a writer that ends and starts again in between. What head, table and ack are to order is plain
 * memory here: what a thread did before it pinned, for who finds the pin, and for who has taken it back. */
#include "reader_place.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../writer/cursors.h"
#include "child.h"
#include "one_mapping.h"

#define WORKERS 3
#define NOTES 4000
#define NOTES_SANITIZED 1000
#define TURNS 2000 /* of each */
#define TURNS_SANITIZED 400
#define WAIT_MS 300000u /* nothing comes near */
#define TTL_MS 3600000u
#define OWNER "acme", 4
#define ID_SIZE 24

static uint64_t notes[WORKERS][NOTES]; /* plain: written before its pin, read by who resolves it */
static uint64_t turns;                 /* plain: of who has taken the one pin back */

static struct worker {
	pthread_t thread;
	struct berth *b;
	unsigned number, rounds;
	uint64_t wrong;
} workers[WORKERS];
static _Atomic unsigned n_ended;

/* ---- the writer's end ------------------------------------------------------------------------------------------ */

static void adopt(void *arg, const struct registry_rings *rings)
{
	cursors_attach(arg, rings, -1);
}

static bool let_go(void *arg, uint32_t slot)
{
	return cursors_let_go(arg, slot);
}

/* As pinning_start. */
static void start_pins(struct reader_place *p)
{
	const struct table_shared shared = table_shared(p->table);
	const struct cursors_options o = {.table = {.capacity = 1000 + WORKERS * NOTES, .ttl_ms = TTL_MS}, .cpu = -1};

	if (cursors_open(&shared, &o, &p->cursors, &p->r) != R_DONE)
		fail_msg("cursors: %s", p->r.message);
	registry_rings_walk(table_registry(p->table), adopt, p->cursors);
	for (unsigned cluster = 1; cluster <= 2; cluster++)
		cursors_cluster_open(p->cursors, cluster);
	if (cursors_run(p->cursors, &p->r) != R_DONE)
		fail_msg("the cursor thread: %s", p->r.message);
	registry_set_rings(table_registry(p->table), let_go, p->cursors);
}

static void stop_pins(struct reader_place *p)
{
	stop_serving(p);
	registry_set_rings(table_registry(p->table), NULL, NULL);
	cursors_close(&p->cursors);
}

static struct berth *pinning_place(struct reader_place *p)
{
	struct berth_attach_options o = {.size = sizeof o,
					 .wait_ms = WAIT_MS,
					 .writes = BERTH_WRITES_NONE,
					 .max_readers = WORKERS + 1,
					 .cursors = BERTH_CURSORS_PIN};
	struct berth *b;

	start_pins(p);
	serve(p, ANSWER_REGISTER);
	b = attach_with(p, &o, BERTH_OK);
	assert_true(mappings_shared() > 0);
	return b;
}

/* Runs the workers to their end; another writer every 50 ms, with other bells. */
static void run(struct reader_place *p, struct berth *b, void *(*work)(void *), unsigned rounds)
{
	atomic_store(&n_ended, 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.b = b, .number = i, .rounds = rounds};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 1; atomic_load_explicit(&n_ended, memory_order_relaxed) < WORKERS; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		reclaim(p); /* and the heartbeat */
		if (i % 50 == 0) {
			stop_pins(p);
			restart_writer(p);
			start_pins(p);
			serve(p, ANSWER_REGISTER);
			maintain_until(b, BERTH_OK);
		}
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].wrong, 0);
	}
}

static void *ended(struct worker *me, struct berth_reader *r, bool opened_it)
{
	me->wrong += !opened_it;
	berth_reader_close(&r);
	atomic_fetch_add_explicit(&n_ended, 1, memory_order_relaxed); /* orders nothing: the join does */
	return NULL;
}

/* ---- what they do ---------------------------------------------------------------------------------------------- */

/* Waits for the ack or does not; a ring that is full, and a writer that is starting, are tried again. */
static bool pinned(struct berth_reader *r, const char *id, bool waits)
{
	int rc;

	do
		rc = berth_cursor_pin(r, id, strlen(id), 1, OWNER, 0, waits ? WAIT_MS : 0);
	while ((rc == BERTH_E_WRITER_DOWN || (rc == BERTH_E_AGAIN && !waits)) && sched_yield() == 0);
	return rc == BERTH_OK;
}

static int resolved(struct berth_reader *r, const char *id)
{
	uint16_t cluster = 0;
	int rc = berth_cursor_resolve(r, id, strlen(id), OWNER, 0, &cluster);

	return rc == BERTH_OK && cluster != 1 ? BERTH_E_CORRUPT : rc;
}

static int released(struct berth_reader *r, const char *id)
{
	int rc;

	while ((rc = berth_cursor_release(r, id, strlen(id), OWNER)) == BERTH_E_WRITER_DOWN)
		sched_yield();
	return rc;
}

/* So that the cursor thread falls asleep, and the next pin rings. */
static void rest(unsigned n)
{
	if (n % 16 == 0)
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static uint64_t note_of(unsigned worker, unsigned n)
{
	return (uint64_t)worker << 32 | (n + 1);
}

/* Each pins what it has noted, finds what its neighbour has pinned, reads that note, and gives the slot back. */
static void *note(void *arg)
{
	struct worker *me = arg;
	unsigned other = (me->number + 1) % WORKERS;
	struct berth_reader *r = NULL;
	bool open = berth_reader_open(me->b, &r) == BERTH_OK;

	for (unsigned n = 0; open && n < me->rounds; n++) {
		char mine[ID_SIZE], theirs[ID_SIZE];
		int rc;

		snprintf(mine, sizeof mine, "%u.%u", me->number, n);
		snprintf(theirs, sizeof theirs, "%u.%u", other, n);
		notes[me->number][n] = note_of(me->number, n);
		me->wrong += !pinned(r, mine, n % 2);
		while ((rc = resolved(r, theirs)) == BERTH_E_UNKNOWN || rc == BERTH_E_AGAIN)
			sched_yield();
		me->wrong += rc != BERTH_OK || notes[other][n] != note_of(other, n);
		me->wrong += released(r, theirs) != BERTH_OK;
		rest(n);
	}
	return ended(me, r, open);
}

static void who_finds_a_pin_sees_what_was_done_before_it(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = pinning_place(p);

	run(p, b, note, child_sanitized() ? NOTES_SANITIZED : NOTES);
	stop_pins(p);
	close_all(b, NULL);
}

/* One pin is there, or somebody has it. */
static void *take_turns(void *arg)
{
	struct worker *me = arg;
	struct berth_reader *r = NULL;
	bool open = berth_reader_open(me->b, &r) == BERTH_OK;

	for (unsigned n = 0; open && n < me->rounds;) {
		int rc = released(r, "turn");

		if (rc == BERTH_E_UNKNOWN) {
			sched_yield();
			continue;
		}
		me->wrong += rc != BERTH_OK;
		turns++;
		me->wrong += !pinned(r, "turn", n++ % 2);
		rest(n);
	}
	return ended(me, r, open);
}

static void who_has_taken_a_pin_back_sees_what_was_done_before_it(void **state)
{
	const unsigned rounds = child_sanitized() ? TURNS_SANITIZED : TURNS;
	struct reader_place *p = *state;
	struct berth *b = pinning_place(p);
	struct berth_reader *r = opened(b);

	turns = 0;
	assert_true(pinned(r, "turn", true));
	run(p, b, take_turns, rounds);
	assert_int_equal(turns, WORKERS * rounds); /* nobody had it at the same time */
	assert_int_equal(resolved(r, "turn"), BERTH_OK);
	stop_pins(p);
	close_all(b, r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(who_finds_a_pin_sees_what_was_done_before_it),
		IN_PLACE(who_has_taken_a_pin_back_sees_what_was_done_before_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
