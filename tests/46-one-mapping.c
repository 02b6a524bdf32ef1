/* SPDX-License-Identifier: MIT
 * Look-ups and leases over one mapping of each file (one_mapping.h): libberth and the writer's table as they are. What a
 * word is to order is plain memory here: records, keys, and what the writes that hold a lease touch. */
#include "reader_place.h"

#include <string.h>

#include "../writer/drain.h"
#include "child.h"
#include "one_mapping.h"

/* Tags are loaded sixteen at a time, by a plain load: each byte may be old or new (shm/index.h, index_match). The one race
 * that is meant. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:index_match\n";
}

/* ---- look-ups -------------------------------------------------------------------------------------------------- */

#define READERS 3

struct looker {
	pthread_t thread;
	struct berth *b;
	_Atomic bool *stop;
	uint64_t n, by_default, wrong;
};

/* The index name is the number of the cluster: a mix of two placements would show. */
static void *look(void *arg)
{
	static const char *const keys[] = {"relay", "come-and-go", "a-key-that-does-not-fit-into-an-entry-at-all",
					   "none"};
	struct looker *l = arg;
	struct berth_reader *r = NULL;

	if (berth_reader_open(l->b, &r) != BERTH_OK)
		return NULL;
	for (unsigned i = 0; !atomic_load_explicit(l->stop, memory_order_relaxed); i = (i + 1) % 4) {
		struct berth_placement at;
		struct berth_route route;

		berth_read_begin(r);
		if (berth_lookup(r, KEY(keys[i]), &at) == BERTH_OK) {
			l->wrong += at.index_len != 1 || at.index[0] != '0' + at.cluster;
			l->by_default += at.is_default;
			l->n++;
		} else {
			l->wrong++; /* there is a default */
		}
		berth_read_end(r);
		l->wrong += berth_route(r, KEY(keys[i]), &route) != BERTH_OK;
	}
	berth_reader_close(&r);
	return NULL;
}

static void look_ups_race_with_no_change_no_reuse_and_no_flip(void **state)
{
	static const char *const keys[] = {"relay", "come-and-go", "a-key-that-does-not-fit-into-an-entry-at-all",
					   NULL};
	const unsigned rounds = child_sanitized() ? 3000 : 12000;
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	_Atomic bool stop = false;
	struct looker l[READERS] = {0};

	place_set(p, NULL, 1, "1");
	place_set(p, "relay", 1, "1");
	assert_true(mappings_shared() > 0);
	for (unsigned i = 0; i < READERS; i++) {
		l[i].b = b;
		l[i].stop = &stop;
		assert_int_equal(pthread_create(&l[i].thread, NULL, look, &l[i]), 0);
	}
	for (unsigned i = 0; i < rounds; i++) {
		const char *key = keys[i % 4];
		unsigned cluster = 1 + i / 4 % 2;

		if (i % 8 > 4 && key && key != keys[0] && place_is_set(p, key))
			place_remove(p, key);
		else
			place_set(p, key, cluster, cluster == 1 ? "1" : "2");
		reclaim(p); /* what no section holds */
		if (i % 500 == 499)
			restart_writer(p);
		if (i % 50 == 0)
			assert_int_equal(berth_maintain(b), BERTH_OK);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(l[i].thread, NULL);
		assert_true(l[i].n > 0 && l[i].by_default > 0);
		assert_int_equal(l[i].wrong, 0);
	}
	close_all(b, NULL);
}

/* ---- leases ---------------------------------------------------------------------------------------------------- */

#define WRITERS 3

static struct writes {
	pthread_t thread;
	struct berth *b;
	_Atomic bool *stop;
	uint64_t begun, wrong;
	uint64_t touched; /* plain: of writes that hold a lease, and of who has drained them */
} writes[WRITERS];

static void *write_on(void *arg)
{
	struct writes *me = arg;
	struct berth_reader *r = NULL;

	if (berth_reader_open(me->b, &r) != BERTH_OK)
		return NULL;
	while (!atomic_load_explicit(me->stop, memory_order_relaxed)) {
		struct berth_write w;
		int rc = berth_write_begin(r, KEY("acme"), 0, &w);

		if (rc != BERTH_OK) {
			me->wrong += rc != BERTH_E_CUTOVER && rc != BERTH_E_AGAIN;
			continue;
		}
		me->touched++;
		me->begun++;
		me->wrong += berth_write_end(r, &w, BERTH_DONE) != BERTH_OK;
	}
	berth_reader_close(&r);
	return NULL;
}

static void what_a_drained_write_did_came_before_the_end_of_the_drain(void **state)
{
	const unsigned rounds = child_sanitized() ? 300 : 1500;
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 8);
	struct drainer *drainer = drain_open(p->table);
	_Atomic bool stop = false;
	uint64_t touched = 0, begun = 0;

	assert_non_null(drainer);
	place_set(p, "acme", 1, "1");
	for (unsigned i = 0; i < WRITERS; i++) {
		writes[i] = (struct writes){.b = b, .stop = &stop};
		assert_int_equal(pthread_create(&writes[i].thread, NULL, write_on, &writes[i]), 0);
	}
	for (unsigned i = 0; i < rounds; i++) {
		struct drained cutover = {0};

		place_begin(p, "acme", 2 - i % 2, i % 2 ? "1" : "2");
		place_phase(p, "acme", PHASE_CUTOVER);
		assert_int_equal(table_barrier(p->table), 0);
		drain_add(drainer, &cutover, table_hash(p->table, KEY("acme")));
		while (cutover.step != DRAIN_LOOKED || cutover.open > 0)
			drain_for(drainer, &cutover, 100);
		drain_remove(drainer, &cutover);
		for (unsigned k = 0; k < WRITERS;
		     k++) { /* nobody else is there: what follows `complete` on the old cluster */
			touched += writes[k].touched;
			writes[k].touched = 0;
		}
		place_phase(p, "acme", PHASE_SETTLED);
		reclaim(p);
	}
	atomic_store(&stop, true);
	for (unsigned k = 0; k < WRITERS; k++) {
		pthread_join(writes[k].thread, NULL);
		assert_int_equal(writes[k].wrong, 0);
		touched += writes[k].touched;
		begun += writes[k].begun;
	}
	assert_true(begun > 0);
	assert_int_equal(touched, begun); /* none was lost between a write and who had drained it */
	drain_close(&drainer);
	close_all(b, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(look_ups_race_with_no_change_no_reuse_and_no_flip),
		IN_PLACE(what_a_drained_write_did_came_before_the_end_of_the_drain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
