/* SPDX-License-Identifier: MIT
 * The writer's table in one process: what was put in is found, nothing else is; slots and records come back; growth and
 * a new writer lose nothing. A reference model in plain arrays runs beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../writer/table_internal.h"
#include "scratch.h"

static struct refusal why;

static struct table *start(struct scratch *s, uint64_t n)
{
	const struct table_options o = {.barrier_ms = 30000};
	struct table *t;

	OK(table_open(&s->instance, &o, &t, &why));
	OK(table_build(t, n, &why));
	table_load_counters(t, 0, 1, 0, 0);
	OK(table_load_cluster(t, 1, "c1", "http://127.0.0.1:1", &why));
	OK(table_load_cluster(t, 2, "c2", "", &why));
	OK(table_flip(t, &why));
	return t;
}

static const struct shm_detail *placement(union detail_buffer *b, unsigned kind, unsigned cluster, const char *index)
{
	assert_int_equal(detail_start(b, kind, cluster, index, index ? strlen(index) : 0), BERTH_OK);
	if (kind == KIND_SHARED_INDEX)
		assert_int_equal(detail_add_inject(b, "_tenant", 7, INJECT_PARTITION, "", 0), BERTH_OK);
	detail_finish(b);
	return &b->detail;
}

static uint64_t put(struct table *t, const char *key, enum word_phase phase, const struct shm_detail *at,
		    const struct shm_detail *to, uint64_t document)
{
	struct table_change c = {.key = key,
				 .len = key ? strlen(key) : 0,
				 .after = {.phase = phase, .at = at, .to = to},
				 .document = document};

	OK(table_reserve(t, &c, &why));
	c.after.epoch = table_take_epoch(t);
	table_publish(t, &c);
	return c.after.epoch;
}

static void settle(struct table *t)
{
	for (unsigned i = 0; i < 100000; i++)
		if (table_step(t, 1000) == UINT64_MAX)
			return;
		else
			usleep(100);
	fail_msg("the table never comes to rest");
}

static void check(struct table *t, const char *key, uint64_t epoch, enum word_phase phase, const struct shm_detail *at,
		  const struct shm_detail *to)
{
	struct state s;

	assert_int_equal(table_get(t, key, strlen(key), &s, NULL), at != NULL);
	if (!at)
		return;
	assert_int_equal(s.epoch, epoch);
	assert_int_equal(s.phase, phase);
	assert_true(detail_equal(s.at, at));
	assert_int_equal(s.to != NULL, to != NULL);
	if (to)
		assert_true(detail_equal(s.to, to));
}

static void a_migration_moves_through_its_phases(void **unused)
{
	union detail_buffer b1, b2;
	const struct shm_detail *p1 = placement(&b1, KIND_DEDICATED_INDEX, 1, "acme");
	const struct shm_detail *p2 = placement(&b2, KIND_SHARED_INDEX, 2, "shared");
	struct scratch s;
	struct table *t;
	uint64_t e;

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	e = put(t, "acme", PHASE_SETTLED, p1, NULL, 0);
	check(t, "acme", e, PHASE_SETTLED, p1, NULL);
	e = put(t, "acme", PHASE_DRAINING, p1, p2, 0);
	check(t, "acme", e, PHASE_DRAINING, p1, p2);
	e = put(t, "acme", PHASE_CUTOVER, p1, p2, 0);
	check(t, "acme", e, PHASE_CUTOVER, p1, p2);
	e = put(t, "acme", PHASE_SETTLED, p2, NULL, 0);
	check(t, "acme", e, PHASE_SETTLED, p2, NULL);
	assert_int_equal(table_cluster_uses(t, 1), 0);
	assert_int_equal(table_cluster_uses(t, 2), 1);
	e = put(t, "acme", PHASE_DRAINING, p2, p1, 0);
	e = put(t, "acme", PHASE_SETTLED, p2, NULL, 0); /* abort */
	check(t, "acme", e, PHASE_SETTLED, p2, NULL);
	put(t, "acme", PHASE_SETTLED, NULL, NULL, 0);
	check(t, "acme", 0, 0, NULL, NULL);
	settle(t);
	assert_int_equal(table_cluster_uses(t, 2), 0);
	table_close(&t);
	scratch_close(&s);
}

static void a_removed_key_comes_back_in_its_own_slot_with_a_higher_epoch(void **unused)
{
	union detail_buffer b;
	const struct shm_detail *p = placement(&b, KIND_DEDICATED_CLUSTER, 1, NULL);
	struct scratch s;
	struct table *t;
	struct table_stats st;
	uint64_t first, second;

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	first = put(t, "acme", PHASE_SETTLED, p, NULL, 0);
	put(t, "acme", PHASE_SETTLED, NULL, NULL, 0);
	second = put(t, "acme", PHASE_SETTLED, p, NULL, 0);
	assert_true(second > first + 1);
	table_stats(t, &st);
	assert_int_equal(st.n_live, 1);
	assert_int_equal(st.n_tombstones, 0);
	table_close(&t);
	scratch_close(&s);
}

/* A key whose home is this slot; its length. */
static size_t name_for(const struct table *t, uint32_t slot, unsigned from, char key[32])
{
	size_t len;

	do
		len = (size_t)snprintf(key, 32, "other-%u", from++);
	while (index_home(table_hash(t, key, len), t->now->map.capacity) != slot);
	return len;
}

/* Whether its tombstone is young when the key is reserved, and ages before it is published, as in a long document. */
static void a_reserved_slot_is_nobody_elses_however_long_it_waits(void **unused)
{
	union detail_buffer b1, b2;
	struct table_change a = {
		.key = "acme", .len = 4, .after = {.at = placement(&b1, KIND_DEDICATED_CLUSTER, 1, NULL)}};
	struct table_change other = {.after = {.at = placement(&b2, KIND_DEDICATED_CLUSTER, 2, NULL)}};
	char key[32];
	struct scratch s;
	struct table *t;

	(void)unused;
	for (unsigned cancel = 0; cancel < 2; cancel++) {
		scratch_open(&s);
		t = start(&s, 10);
		put(t, "acme", PHASE_SETTLED, a.after.at, NULL, 0);
		put(t, "acme", PHASE_SETTLED, NULL, NULL, 0);
		OK(table_reserve(t, &a, &why));
		settle(t);
		other.key = key;
		other.len = name_for(t, a.priv.slot[0], 0, key);
		OK(table_reserve(t, &other, &why));
		assert_int_not_equal(other.priv.slot[0], a.priv.slot[0]);
		a.after.epoch = table_take_epoch(t);
		other.after.epoch = table_take_epoch(t);
		if (cancel)
			table_cancel(t, &a);
		else
			table_publish(t, &a);
		table_publish(t, &other);
		check(t, "acme", a.after.epoch, PHASE_SETTLED, cancel ? NULL : a.after.at, NULL);
		check(t, key, other.after.epoch, PHASE_SETTLED, other.after.at, NULL);
		if (cancel) { /* aged it is, and free again */
			other.len = name_for(t, a.priv.slot[0], 100000, key);
			OK(table_reserve(t, &other, &why));
			assert_int_equal(other.priv.slot[0], a.priv.slot[0]);
			table_cancel(t, &other);
		}
		table_close(&t);
		scratch_close(&s);
	}
}

#define N_KEYS 3000u

static void name(unsigned i, char key[260])
{
	unsigned len = i % 7 == 0 ? 40 + i % 200 : 0; /* some do not fit into their entry */

	snprintf(key, 260, "tenant-%08x", i * 2654435761u);
	while (strlen(key) < len)
		strcat(key, "x");
}

/* Random operations on few keys, so that slots, records and generations turn over; the model is two arrays. */
static void a_model_agrees_after_random_changes_growth_and_restarts(void **unused)
{
	static uint64_t epochs[N_KEYS];
	static uint8_t index_of[N_KEYS];
	struct table_stats st;
	struct scratch s;
	struct table *t;
	unsigned seed = (unsigned)seg_clock_ns(CLOCK_MONOTONIC), grown = 0, last_generation = 0;
	uint64_t last = 0;

	(void)unused;
	print_message("seed %u\n", seed);
	srand(seed);
	memset(epochs, 0, sizeof epochs);
	scratch_open(&s);
	t = start(&s, 10);
	for (unsigned n = 0; n < 150000; n++) {
		unsigned i = (unsigned)rand() % (n < 20000 ? 100 + n / 8 : N_KEYS);
		char key[260], index[16];
		union detail_buffer b;
		uint64_t e;

		if (i >= N_KEYS)
			i = N_KEYS - 1;
		name(i, key);
		if (epochs[i] && rand() % 2) {
			e = put(t, key, PHASE_SETTLED, NULL, NULL, 0);
			epochs[i] = 0;
		} else {
			index_of[i] = (uint8_t)rand();
			snprintf(index, sizeof index, "i%u", index_of[i]);
			e = put(t, key, PHASE_SETTLED, placement(&b, KIND_DEDICATED_INDEX, 1 + i % 2, index), NULL, 0);
			epochs[i] = e;
		}
		assert_true(e > last);
		last = e;
		if (n % 16 == 0)
			table_step(t, 50);
		table_stats(t, &st);
		if (st.generation != last_generation)
			grown++;
		last_generation = st.generation;
	}
	settle(t);
	for (unsigned i = 0; i < N_KEYS; i++) {
		char key[260], index[16];
		union detail_buffer b;

		name(i, key);
		snprintf(index, sizeof index, "i%u", index_of[i]);
		check(t, key, epochs[i], PHASE_SETTLED,
		      epochs[i] ? placement(&b, KIND_DEDICATED_INDEX, 1 + i % 2, index) : NULL, NULL);
	}
	table_stats(t, &st);
	assert_int_equal(st.retired, 0);
	assert_true(grown > 2);
	assert_true(st.capacity < 4 * N_KEYS); /* slots of the removed were used again */
	assert_true(st.record_bytes_used < 256 * 2 * 48 + N_KEYS * 300);
	table_close(&t);
	scratch_close(&s);
}

static void a_cancelled_change_leaves_nothing(void **unused)
{
	union detail_buffer b;
	struct scratch s;
	struct table *t;
	struct table_stats before, after;
	struct table_change c = {.key = "ghost", .len = 5};
	struct state st;

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	table_stats(t, &before);
	for (unsigned i = 0; i < 1000; i++) {
		char key[16];

		snprintf(key, sizeof key, "ghost%u", i);
		c.key = key;
		c.len = strlen(key);
		c.after = (struct state){.at = placement(&b, KIND_DEDICATED_INDEX, 1, key)};
		OK(table_reserve(t, &c, &why));
		table_cancel(t, &c);
		assert_false(table_get(t, key, c.len, &st, NULL));
	}
	settle(t);
	table_stats(t, &after);
	assert_int_equal(after.n_live, 0);
	assert_int_equal(after.record_bytes_used, before.record_bytes_used);
	table_close(&t);
	scratch_close(&s);
}

static void a_new_writer_finds_the_last_generation_and_its_own_term(void **unused)
{
	union detail_buffer b;
	struct scratch s;
	struct table *t;
	uint32_t term;
	const struct shm_entry *e;
	uint64_t word, secret[4];

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	term = table_term(t);
	put(t, "acme", PHASE_SETTLED, placement(&b, KIND_DEDICATED_CLUSTER, 1, NULL), NULL, 7);
	memcpy(secret, t->secret, sizeof secret);
	table_close(&t);
	t = start(&s, 10); /* opens the same root: its previous generation was there until the flip */
	assert_int_equal(table_term(t), term + 1);
	assert_memory_equal(secret, t->secret, sizeof secret);
	assert_null(table_previous(t));
	table_close(&t);

	const struct table_options o = {.barrier_ms = 1};
	OK(table_open(&s.instance, &o, &t, &why));
	assert_non_null(table_previous(t));
	assert_int_equal(index_find(table_previous(t), "acme", 4, hash_key(secret, "acme", 4), false, &e, &word), 0);
	table_close(&t);
	scratch_close(&s);
}

static void a_document_is_remembered_without_an_entry(void **unused)
{
	union detail_buffer b;
	struct scratch s;
	struct table *t;
	struct state st;
	uint64_t document = 0;

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	put(t, "acme", PHASE_SETTLED, placement(&b, KIND_DEDICATED_CLUSTER, 1, NULL), NULL, 42);
	put(t, "acme", PHASE_SETTLED, NULL, NULL, 42);
	settle(t);
	assert_false(table_get(t, "acme", 4, &st, &document));
	assert_int_equal(document, 42);
	OK(table_expect(t, &(struct table_room){.partitions = 5000}, &why)); /* a new generation keeps it */
	assert_false(table_get(t, "acme", 4, &st, &document));
	assert_int_equal(document, 42);
	table_close(&t);
	scratch_close(&s);
}

static void the_default_and_clusters_survive_growth(void **unused)
{
	union detail_buffer b;
	const struct shm_detail *p = placement(&b, KIND_SHARED_INDEX, 2, "shared");
	struct table_cluster_change c = {.id = "c3", .endpoint = "http://h"};
	struct scratch s;
	struct table *t;
	struct state st;
	uint64_t e;

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	e = put(t, NULL, PHASE_SETTLED, p, NULL, 0);
	OK(table_cluster_reserve(t, &c, &why));
	assert_int_equal(c.number, 3);
	table_cluster_publish(t, &c);
	OK(table_expect(t, &(struct table_room){.partitions = 20000}, &why));
	assert_true(table_default(t, &st, NULL));
	assert_int_equal(st.epoch, e);
	assert_true(detail_equal(st.at, p));
	assert_int_equal(table_cluster_number(t, "c3", 2), 3);
	assert_string_equal(cluster_endpoint(table_cluster(t, 3)), "http://h");
	assert_int_equal(table_cluster_uses(t, 2), 1);
	settle(t);
	table_close(&t);
	scratch_close(&s);
}

#define N_PLACEMENTS 6000u

/* Random placements come and go while the table of them doubles, many times in the middle of moving over. */
static void equal_placements_are_one_record_while_their_table_doubles(void **unused)
{
	static uint32_t off[N_PLACEMENTS], refs[N_PLACEMENTS];
	uint32_t many = 0, most = 0;
	union detail_buffer b;
	struct scratch s;
	struct table *t;
	uint64_t before;

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	OK(table_expect(t, &(struct table_room){.record_bytes = N_PLACEMENTS * 128}, &why));
	before = t->now->records.used;
	srand(7);
	for (unsigned step = 0; step < 200000 || many; step++) {
		uint32_t i = (uint32_t)rand() % N_PLACEMENTS;
		bool more = step < 200000 && rand() % 8 < (int)(step / 20000 % 3) + 3; /* now more come, now more go */
		char index[16];

		if (step >= 200000) /* all that are left */
			for (i = 0; refs[i] == 0; i++)
				;
		snprintf(index, sizeof index, "i%u", i);
		if (more) {
			uint32_t got = records_intern(t->now, placement(&b, KIND_DEDICATED_INDEX, 1, index));

			assert_int_not_equal(got, 0);
			assert_true(refs[i] == 0 || got == off[i]);
			assert_true(detail_equal(gen_record(t->now, got), &b.detail));
			off[i] = got;
			many += refs[i]++ == 0;
			most = many > most ? many : most;
		} else if (refs[i]) {
			bool last = records_release(t->now, off[i]);

			assert_int_equal(last, --refs[i] == 0);
			many -= last;
			if (last)
				records_free(t->now, off[i]);
		}
		assert_int_equal(t->now->records.interned.n, many);
	}
	assert_true(most > N_PLACEMENTS / 2);
	assert_int_equal(t->now->records.used, before);
	table_close(&t);
	scratch_close(&s);
}

static void what_a_grace_period_has_passed_is_freed_in_slices(void **unused)
{
	union detail_buffer b;
	struct scratch s;
	struct table *t;
	struct table_stats st;
	unsigned slices = 0;
	char index[16];

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10);
	settle(t);
	for (unsigned i = 0; i <= 2000; i++) {
		snprintf(index, sizeof index, "i%u", i);
		put(t, "acme", PHASE_SETTLED, placement(&b, KIND_DEDICATED_INDEX, 1, index), NULL, 0);
	}
	for (table_stats(t, &st); st.retired; slices++) {
		uint64_t retired = st.retired, wait = table_step(t, 0);

		table_stats(t, &st);
		assert_true(retired - st.retired < 100);
		if (st.retired < 2000 && st.retired)
			assert_int_equal(wait, 0);
		else
			usleep(1000);
	}
	assert_true(slices > 20);
	check(t, "acme", table_epoch(t), PHASE_SETTLED, &b.detail, NULL);
	table_close(&t);
	scratch_close(&s);
}

static void what_changes_while_a_larger_table_gets_its_memory_is_in_it_afterwards(void **unused)
{
	union detail_buffer b;
	const struct shm_detail *p = placement(&b, KIND_DEDICATED_INDEX, 1, "acme");
	struct table_cluster_change c = {.id = "c3", .endpoint = "http://h"};
	static uint64_t epochs[20000];
	struct scratch s;
	struct table *t;
	unsigned n = 0, meanwhile = 0;
	char key[16];

	(void)unused;
	scratch_open(&s);
	t = start(&s, 10000);
	settle(t);
	while (t->growth == GROW_IDLE) {
		snprintf(key, sizeof key, "k%u", n);
		epochs[n++] = put(t, key, PHASE_SETTLED, p, NULL, 0);
		table_step(t, 0);
	}
	OK(table_cluster_reserve(t, &c, &why));
	table_cluster_publish(t, &c);
	for (; t->growth == GROW_ALLOCATE; meanwhile++) {
		snprintf(key, sizeof key, "k%u", n);
		epochs[n++] = put(t, key, PHASE_SETTLED, p, NULL, 0);
		epochs[meanwhile] = 0; /* and another one goes */
		snprintf(key, sizeof key, "k%u", meanwhile);
		put(t, key, PHASE_SETTLED, NULL, NULL, 0);
		assert_int_equal(gen_header(t->next)->n_live, 0);
		assert_int_equal(gen_header(t->next)->n_tombstones, 0);
		table_step(t, 0);
	}
	assert_true(meanwhile > 1);
	settle(t);
	for (unsigned i = 0; i < n; i++) {
		snprintf(key, sizeof key, "k%u", i);
		check(t, key, epochs[i], PHASE_SETTLED, epochs[i] ? p : NULL, NULL);
	}
	assert_string_equal(cluster_id(table_cluster(t, 3)), "c3");
	table_close(&t);
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_migration_moves_through_its_phases),
		cmocka_unit_test(a_removed_key_comes_back_in_its_own_slot_with_a_higher_epoch),
		cmocka_unit_test(a_reserved_slot_is_nobody_elses_however_long_it_waits),
		cmocka_unit_test(a_cancelled_change_leaves_nothing),
		cmocka_unit_test(a_document_is_remembered_without_an_entry),
		cmocka_unit_test(the_default_and_clusters_survive_growth),
		cmocka_unit_test(a_new_writer_finds_the_last_generation_and_its_own_term),
		cmocka_unit_test(a_model_agrees_after_random_changes_growth_and_restarts),
		cmocka_unit_test(equal_placements_are_one_record_while_their_table_doubles),
		cmocka_unit_test(what_a_grace_period_has_passed_is_freed_in_slices),
		cmocka_unit_test(what_changes_while_a_larger_table_gets_its_memory_is_in_it_afterwards),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
