/* SPDX-License-Identifier: MIT
 * Reader processes while the table of the real daemon grows, by documents and by itself, and while its slots go from
 * one partition to another. BERTH_PARTITIONS, BERTH_SINGLE_PARTITIONS: how far it grows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../shm/index.h"
#include "mp_place.h"

static const struct readers_options some_never_maintain = {.upkeep = SOME_MAINTAIN, .max_keys = 1000000};

static void show_all(struct readers *rs, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++)
		readers_changed(rs, i, PRESENT, 0);
	atomic_store(&rs->s->n_keys, to);
}

static void a_document_takes_the_table_from_a_thousand_to_a_million_partitions_under_its_readers(void **state)
{
	struct mp_place *p = *state;
	uint32_t all = mp_number("BERTH_PARTITIONS", 1000000, 1000000), sizes[3] = {all / 50, all / 5, all},
		 last = 1000;
	struct readers_options options = some_never_maintain;
	uint64_t start;

	options.max_keys = sizes[2];
	mp_fill_with(p, last, &options);
	stream_use(&p->stream, &p->readers, 0, 64);
	readers_add(&p->readers, 4);
	start = mp_now_ms();
	for (unsigned i = 0; i < 3; last = sizes[i++]) {
		json_int_t generation = mp_status(p, "generation");

		stream_do(&p->stream, 100);
		stream_load(&p->stream, last, sizes[i] - last);
		assert_true(mp_status(p, "generation") > generation);
		show_all(&p->readers, last, sizes[i]);
		stream_do(&p->stream, 100);
		readers_await(&p->readers, 100, 20000);
		readers_check(&p->readers);
	}
	stream_compare(&p->stream);
	mp_await_freed(p);
	printf("note: 1000 to %u partitions in %llu ms, generation %d\n", sizes[2],
	       (unsigned long long)(mp_now_ms() - start), (int)mp_status(p, "generation"));
	readers_finish(&p->readers, "growth by documents");
}

static void single_sets_grow_the_table_in_slices_under_its_readers(void **state)
{
	struct mp_place *p = *state;
	uint32_t all = mp_number("BERTH_SINGLE_PARTITIONS", 60000, 300000), step = 100;
	struct readers_options options = some_never_maintain;
	json_int_t generation, grown;
	unsigned seen_growing = 0;
	json_t *status;

	stream_open(&p->stream, &p->d, 1000, all, 1);
	options.max_keys = all;
	readers_open(&p->readers, p->d.dir, 1000, &options);
	stream_use(&p->stream, &p->readers, 0, 64);
	readers_add(&p->readers, 4);
	generation = mp_status(p, "generation");
	for (uint32_t i = 1000; i < all; i += step) {
		step = all - i < step ? all - i : step;
		stream_create(&p->stream, i, step);
		atomic_store(&p->readers.s->n_keys, i + step);
		stream_do(&p->stream, 2); /* changes of what is there go to both tables */
		status = wire_ok(&p->stream.wire, "status", NULL);
		seen_growing += is_true(status, "growing");
		json_decref(status);
	}
	grown = mp_status(p, "generation") - generation;
	assert_true(grown >= 5);
	readers_await(&p->readers, 100, 20000);
	stream_compare(&p->stream);
	mp_await_freed(p);
	printf("note: 1000 to %u partitions by single sets: %d generations, seen growing %u times\n", all, (int)grown,
	       seen_growing);
	readers_finish(&p->readers, "growth by itself");
}

/* ---- slots ------------------------------------------------------------------------------------------------- */

struct table_view { /* the table as a reader maps it */
	int dir_fd, tables_fd;
	const struct shm_root *root;
	struct seg_map map;
};

static void view_open(struct table_view *v, const char *dir)
{
	int spare = -1;

	assert_int_equal(seg_dir_open(dir, &v->dir_fd, NULL), BERTH_OK);
	assert_int_equal(seg_root_map(v->dir_fd, &v->root), BERTH_OK);
	assert_int_equal(seg_tables_open(v->dir_fd, &v->tables_fd), BERTH_OK);
	assert_int_equal(seg_table_map(v->tables_fd, v->root, atomic_load(&v->root->termgen), &spare, true, &v->map),
			 BERTH_OK);
	close(spare);
}

static void view_close(struct table_view *v)
{
	seg_table_unmap(&v->map);
	seg_root_unmap(&v->root);
	close(v->tables_fd);
	close(v->dir_fd);
}

static uint32_t home_of(const struct table_view *v, uint32_t i)
{
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, i);

	return index_home(hash_key(v->root->secret, key, len), v->map.capacity);
}

static bool slot_has(const struct table_view *v, uint32_t slot, uint32_t i)
{
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, i), n;
	const unsigned char *there = index_key(&v->map, &v->map.entries[slot], &n);

	return word_live(atomic_load(&v->map.entries[slot].word)) && there && n == len && memcmp(there, key, n) == 0;
}

#define N_SLOTS_KEYS 700u
#define N_CANDIDATES 40000u
#define SLOT_BATCH 100u

static void every_slot_goes_to_another_partition_under_its_readers(void **state)
{
	struct mp_place *p = *state;
	struct readers_options options = {.upkeep = SOME_MAINTAIN, .max_keys = N_CANDIDATES};
	uint32_t slots[SLOT_BATCH], n = 0, reused = 0, live = 0;
	uint32_t *owner, *heir; /* by slot: partition that is in it; partition whose home it is; 0: none */
	struct table_view v;

	/* One by one: of what came with a document the slot is kept as long as that is remembered. */
	stream_open(&p->stream, &p->d, 1, N_CANDIDATES, 1);
	stream_create(&p->stream, 1, N_SLOTS_KEYS - 1);
	mp_await_freed(p);
	readers_open(&p->readers, p->d.dir, N_SLOTS_KEYS, &options);
	p->stream.rs = &p->readers;
	for (uint32_t i = N_SLOTS_KEYS; i < N_CANDIDATES; i++)
		readers_changed(&p->readers, i, ABSENT, 0);
	atomic_store(&p->readers.s->n_keys, N_CANDIDATES);
	for (uint32_t i = 0; i < 64; i++)
		readers_heat(&p->readers, i);
	readers_add(&p->readers, 4);
	view_open(&v, p->d.dir);
	owner = calloc(v.map.n_entries, sizeof *owner);
	heir = calloc(v.map.n_entries, sizeof *heir);
	for (uint32_t i = 1; i < N_CANDIDATES; i++) {
		uint32_t s = home_of(&v, i);

		if (i >= N_SLOTS_KEYS) {
			heir[s] = heir[s] ? heir[s] : i;
			continue;
		}
		while (!slot_has(&v, s, i))
			assert_true(++s < v.map.n_entries);
		owner[s] = i;
	}
	for (uint32_t s = 0; s < v.map.capacity; s++)
		live += owner[s] != 0;
	assert_true(live + 20 > N_SLOTS_KEYS); /* but for some behind the last home */
	for (uint32_t s = 0; s <= v.map.capacity; s++) {
		if (s < v.map.capacity && owner[s]) {
			assert_true(heir[s] != 0);
			stream_remove(&p->stream, owner[s]);
			slots[n++] = s;
		}
		if (n == SLOT_BATCH || s == v.map.capacity) {
			mp_await_freed(p); /* a grace period, and they may be used again */
			for (; n > 0; n--) {
				uint32_t slot = slots[n - 1];

				stream_set(&p->stream, heir[slot], 1 + slot % STREAM_CLUSTERS, slot);
				assert_true(slot_has(&v, slot, heir[slot]));
				reused++;
			}
			readers_check(&p->readers);
		}
	}
	assert_int_equal(reused, live);
	assert_int_equal(mp_status(p, "generation"), v.map.generation); /* the very same slots */
	readers_await(&p->readers, 50, 20000);
	stream_compare(&p->stream);
	printf("note: %u of %u slots in use went to another partition, table of %u\n", reused, live, v.map.capacity);
	view_close(&v);
	free(owner);
	free(heir);
	readers_finish(&p->readers, "slots reused");
}

/* Two that want the same slot, one after the other as fast as it goes: who finds a slot must find its own partition. */
static void two_partitions_that_take_turns_in_a_slot_are_never_mixed_up(void **state)
{
	struct mp_place *p = *state;
	uint32_t a = N_SLOTS_KEYS + 3, b, turns = mp_number("BERTH_TURNS", 4000, 100000);
	struct readers_options options = {.max_keys = N_CANDIDATES};
	char key[READERS_KEY_SIZE];
	struct table_view v;

	stream_open(&p->stream, &p->d, N_SLOTS_KEYS, N_CANDIDATES, 1);
	readers_open(&p->readers, p->d.dir, N_SLOTS_KEYS, &options);
	view_open(&v, p->d.dir);
	for (b = a + 1; home_of(&v, b) != home_of(&v, a) || readers_key(key, b) != readers_key(key, a); b++)
		assert_true(b < N_CANDIDATES - 1);
	stream_set(&p->stream, a, 1, 0);
	p->stream.rs = &p->readers;
	atomic_store(&p->readers.s->n_keys, b + 1);
	for (uint32_t i = N_SLOTS_KEYS; i <= b; i++)
		readers_changed(&p->readers, i, i == a ? PRESENT : ABSENT, 0);
	for (unsigned i = 0; i < 8; i++)
		readers_heat(&p->readers, i % 2 ? a : b);
	readers_add(&p->readers, 4);
	for (uint32_t i = 0; i < turns; i++) {
		if (i % 32 == 0) /* each turn leaves a tombstone behind, and too many of them make the table grow */
			mp_await_freed(p);
		stream_remove(&p->stream, i % 2 ? b : a);
		stream_set(&p->stream, i % 2 ? a : b, 1 + i % STREAM_CLUSTERS, i);
	}
	assert_int_equal(mp_status(p, "generation"), v.map.generation);
	view_close(&v);
	readers_await(&p->readers, 50, 20000);
	readers_finish(&p->readers, "two in turns");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MP_TEST(a_document_takes_the_table_from_a_thousand_to_a_million_partitions_under_its_readers, "memory"),
		MP_TEST(single_sets_grow_the_table_in_slices_under_its_readers, "memory"),
		MP_TEST(every_slot_goes_to_another_partition_under_its_readers, "memory"),
		MP_TEST(two_partitions_that_take_turns_in_a_slot_are_never_mixed_up, "memory"),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
