/* SPDX-License-Identifier: MIT
 * Pins outlive their writer: the next one takes the file over in place, mends what a killed writer left half-made (each such
 * state is built by hand here), and makes an empty one where the header is damaged. */
#include "cursor_place.h"

#include <unistd.h>

#include "../shm/segment.h"

static struct cursor_place *const p = &cursor_place;

/* ---- the file, as a killed writer might leave it ---------------------------------------------------------------- */

static uint32_t first_of(uint64_t bucket)
{
	return SHM_BUCKET_FIRST(cursor_load(&p->t->buckets[bucket]));
}
static struct shm_cursor *slot(uint32_t at)
{
	return &p->t->slots[at - 1];
}

/* Three pins of bucket 5: 2 -> 1 -> 0; and two of bucket 6. */
static void with_chain(void)
{
	WITH(10);
	for (unsigned i = 0; i < 3; i++)
		assert_pins(p, cursor_id_in(5, i), A, 1 + i, CURSOR_TTL);
	assert_pins(p, cursor_id_in(6, 0), B, 11, CURSOR_TTL);
	assert_pins(p, cursor_id_in(6, 1), B, 12, CURSOR_TTL);
}

static void sixth_bucket_is_whole(void)
{
	assert_seen(p, cursor_id_in(6, 0), B, 11);
	assert_seen(p, cursor_id_in(6, 1), B, 12);
}

/* Every slot can be used, no pin is lost by it, and no number is used twice. */
static void all_room_is_there(void)
{
	uint64_t changes = COUNTED(p, changes);

	for (unsigned i = 0; i < 10; i++)
		assert_pins(p, cursor_id(100 + i), A, 50, CURSOR_TTL);
	for (unsigned i = 0; i < 10; i++) {
		assert_seen(p, cursor_id(100 + i), A, 50);
		assert_true(cursor_load(&slot(1 + i)->version) > changes);
	}
	assert_int_equal(cursor_table_count(p->t), 10);
	assert_int_equal(cursor_table_cluster_uses(p->t, 50), 10);
}

/* ---- a start after an orderly end ------------------------------------------------------------------------------- */

static void pins_outlive_the_writer(void **state)
{
	struct cursor_map reader;
	uint64_t highest, generation;

	(void)state;
	WITH(100);
	for (unsigned i = 0; i < 150; i++)
		assert_pins(p, cursor_id(i), A + i % 3, 1 + i % 5, CURSOR_TTL + i);
	for (unsigned i = 50; i < 60; i++) /* the youngest now */
		assert_pins(p, cursor_id(i), A + i % 3, 1 + i % 5, CURSOR_TTL);
	generation = cursor_load(&p->root->cursor_generation);
	assert_int_equal(cursor_map_open(p->s.instance.table_dir_fd, p->root, generation, NULL, &reader), BERTH_OK);
	highest = COUNTED(p, changes);
	p->options.ttl_ms = 77;
	cursor_place_restart(p);
	assert_int_equal(cursor_load(&p->root->cursor_generation), generation);
	assert_int_equal(cursor_load(&reader.file->ttl_ms), 77);
	assert_int_equal(cursor_table_count(p->t), 100);
	assert_int_equal(COUNTED(p, n_pinned), 150);
	for (unsigned i = 50; i < 150; i++) {
		assert_int_equal(cursor_seen(&reader, cursor_id(i), p->now, NULL), 1 + i % 5);
		assert_seen(p, cursor_id(i), A + i % 3, 1 + i % 5);
	}
	for (unsigned i = 1; i <= 5; i++)
		assert_int_equal(cursor_table_cluster_uses(p->t, (uint16_t)i), 20);
	for (unsigned i = 0; i < 100; i++) { /* and go in the order in which they would have gone */
		unsigned victim = i < 90 ? 60 + i : i - 40;

		assert_seen(p, cursor_id(victim), A + victim % 3, 1 + victim % 5);
		assert_pins(p, cursor_id(1000 + i), A, 9, CURSOR_TTL);
		assert_unseen(p, cursor_id(victim));
	}
	for (unsigned i = 1; i <= 100; i++)
		assert_true(cursor_load(&slot(i)->version) > highest);
	cursor_map_close(&reader);
}

static void pins_expire_under_the_next_writer(void **state)
{
	(void)state;
	WITH(100);
	assert_pins(p, cursor_id(1), A, 1, 1000);
	assert_pins(p, cursor_id(2), A, 2, 3000);
	p->now += 2000;
	cursor_place_restart(p);
	assert_unseen(p, cursor_id(1));
	assert_false(cursor_table_expire(p->t, p->now, 100));
	assert_int_equal(cursor_table_count(p->t), 1);
	p->now += 999;
	assert_seen(p, cursor_id(2), A, 2);
	p->now++;
	assert_false(cursor_table_expire(p->t, p->now, 100));
	assert_int_equal(cursor_table_count(p->t), 0);
}

/* ---- half-made -------------------------------------------------------------------------------------------------- */

static void a_slot_that_was_ended_but_not_unlinked_is_unlinked(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 3; which++) { /* first, middle, last */
		uint32_t at;

		with_chain();
		at = first_of(5);
		for (unsigned i = 0; i < which; i++)
			at = cursor_next(slot(at));
		atomic_store(&slot(at)->version, 0);
		cursor_place_restart(p);
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(cursor_seen(cursor_table_map(p->t), cursor_id_in(5, i), p->now, NULL),
					 i == 2 - which ? 0 : 1 + i);
		sixth_bucket_is_whole();
		assert_int_equal(cursor_table_count(p->t), 4);
		all_room_is_there();
		if (which < 2)
			cursor_place_close(p);
	}
}

static void a_slot_that_was_filled_but_not_linked_is_free(void **state)
{
	const struct cursor_id id = {{6, 77}};
	_Atomic uint64_t unused = 0;

	(void)state;
	with_chain();
	atomic_store(&p->t->header->changes, 1000);
	cursor_make(slot(8), 7, &unused, 1000, id.hash, A, cursor_word(3, p->now + 1000));
	cursor_place_restart(p);
	assert_int_equal(cursor_load(&slot(8)->version), 0);
	assert_int_equal(cursor_table_count(p->t), 5);
	assert_unseen(p, id);
	sixth_bucket_is_whole();
	all_room_is_there();
}

static void numbers_that_were_taken_are_not_used_again(void **state)
{
	(void)state;
	with_chain();
	atomic_store(&p->t->header->changes, 5000); /* taken, carried by nobody */
	cursor_place_restart(p);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	assert_int_equal(COUNTED(p, changes), 5001);
	atomic_store(&p->t->header->changes, 1); /* damage: carried, but not counted */
	cursor_place_restart(p);
	assert_int_equal(COUNTED(p, changes), 5001);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	atomic_store(&p->t->header->changes, 1);
	cursor_place_restart(p);
	assert_int_equal(COUNTED(p, changes), 5002);
	assert_seen(p, cursor_id(1), A, 1);
	all_room_is_there();
}

/* A search that stands on a slot while it is taken out of the middle of its chain goes on into the chain that the slot is
 * used in next, and ends there. That its own bucket has changed is all that keeps it from a miss. */
static void search_goes_astray(bool killed)
{
	struct cursor_map reader;
	const _Atomic uint64_t *bucket;
	const struct shm_cursor *stands_on;
	uint64_t b, version;
	uint32_t at, middle;

	with_chain();
	assert_int_equal(cursor_map_open(p->s.instance.table_dir_fd, p->root, cursor_load(&p->root->cursor_generation),
					 NULL, &reader),
			 BERTH_OK);
	bucket = cursor_bucket(&reader, cursor_id_in(5, 0).hash); /* what it looks for is the last of the chain */
	b = atomic_load(bucket);
	middle = cursor_next(&reader.slots[SHM_BUCKET_FIRST(b) - 1]);
	stands_on = &reader.slots[middle - 1];
	version = cursor_load(&stands_on->version);
	assert_int_equal(cursor_load(&stands_on->hash[1]), cursor_id_in(5, 1).hash[1]);
	if (killed) { /* between the two last stores of the drop */
		atomic_store(&slot(middle)->version, 0);
		atomic_store(&slot(first_of(5))->next, cursor_next(slot(middle)));
		cursor_place_restart(p);
	} else {
		assert_int_equal(cursor_release(p, cursor_id_in(5, 1), A), SHM_PIN_OK);
	}
	for (unsigned i = 0; cursor_load(&stands_on->version) == 0; i++)
		assert_pins(p, cursor_id_in(7, i), A, 40, CURSOR_TTL);
	assert_true(cursor_load(&stands_on->version) != version);
	for (at = cursor_next(stands_on); at != 0; at = cursor_next(&reader.slots[at - 1]))
		assert_true(cursor_load(&reader.slots[at - 1].hash[1]) != cursor_id_in(5, 0).hash[1]);
	assert_true(atomic_load(bucket) != b); /* so it looks again */
	assert_int_equal(cursor_seen(&reader, cursor_id_in(5, 0), p->now, NULL), 1);
	cursor_map_close(&reader);
}

static void a_search_that_a_reused_slot_led_astray_finds_its_bucket_changed(void **state)
{
	(void)state;
	search_goes_astray(false);
}

static void the_same_after_a_kill_before_the_bucket_said_so(void **state)
{
	(void)state;
	search_goes_astray(true);
}

/* ---- damage ----------------------------------------------------------------------------------------------------- */

static void a_bucket_that_leads_nowhere_is_cut(void **state)
{
	(void)state;
	with_chain();
	atomic_store(&p->t->buckets[5], SHM_BUCKET(9, 11));
	atomic_store(&p->t->buckets[7], SHM_BUCKET(9, UINT32_MAX));
	cursor_place_restart(p);
	assert_unseen(p, cursor_id_in(5, 0));
	assert_unseen(p, cursor_id_in(7, 0));
	sixth_bucket_is_whole();
	assert_int_equal(cursor_table_count(p->t), 2);
	all_room_is_there();
}

static void a_chain_that_leads_nowhere_is_cut(void **state)
{
	(void)state;
	with_chain();
	atomic_store(&slot(first_of(5))->next, 4711);
	cursor_place_restart(p);
	assert_seen(p, cursor_id_in(5, 2), A, 3);
	assert_unseen(p, cursor_id_in(5, 1));
	sixth_bucket_is_whole();
	all_room_is_there();
}

static void a_chain_in_a_circle_is_cut(void **state)
{
	(void)state;
	with_chain();
	atomic_store(&slot(cursor_next(slot(first_of(5))))->next, first_of(5));
	atomic_store(&slot(first_of(6))->next, first_of(6));
	cursor_place_restart(p);
	assert_seen(p, cursor_id_in(5, 2), A, 3);
	assert_seen(p, cursor_id_in(5, 1), A, 2);
	assert_unseen(p, cursor_id_in(5, 0));
	assert_seen(p, cursor_id_in(6, 1), B, 12);
	assert_int_equal(cursor_table_count(p->t), 3);
	all_room_is_there();
}

static void a_chain_that_leads_into_another_takes_nothing_from_it(void **state)
{
	(void)state;
	with_chain();
	atomic_store(&slot(first_of(5))->next, first_of(6));
	cursor_place_restart(p);
	assert_seen(p, cursor_id_in(5, 2), A, 3);
	assert_unseen(p, cursor_id_in(5, 1));
	sixth_bucket_is_whole();
	assert_int_equal(cursor_table_count(p->t), 3);
	all_room_is_there();
}

static void a_pin_that_is_there_twice_is_there_once(void **state)
{
	(void)state;
	with_chain();
	cursor_make(slot(8), 7, &p->t->buckets[5], 900, cursor_id_in(5, 0).hash, A, cursor_word(9, p->now + 1000));
	cursor_place_restart(p);
	assert_seen(p, cursor_id_in(5, 0), A, 9); /* the one that readers found */
	assert_int_equal(cursor_table_count(p->t), 5);
	assert_int_equal(cursor_release(p, cursor_id_in(5, 0), A), SHM_PIN_OK);
	assert_unseen(p, cursor_id_in(5, 0));
	all_room_is_there();
}

static void what_is_no_pin_is_not_kept(void **state)
{
	(void)state;
	WITH(100);
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i++)
		assert_pins(p, cursor_id_in(5, i), A, 1, CURSOR_TTL);
	cursor_make(slot(90), 89, &p->t->buckets[5], 900, cursor_id_in(5, 900).hash, A,
		    cursor_word(9, p->now + 1000));  /* one more than a search goes through */
	atomic_store(&slot(3)->word, p->now + 1000); /* no cluster */
	atomic_store(&slot(4)->hash[0], 6);          /* of another bucket */
	atomic_store(&slot(5)->version, UINT64_MAX); /* a number that there never was */
	cursor_place_restart(p);
	assert_int_equal(cursor_table_count(p->t), SHM_CHAIN_MAX + 1 - 3);
	for (unsigned i = 0; i < SHM_CHAIN_MAX; i++)
		assert_int_equal(cursor_seen(cursor_table_map(p->t), cursor_id_in(5, i), p->now, NULL),
				 i >= 2 && i <= 4 ? 0 : 1);
	assert_seen(p, cursor_id_in(5, 900), A, 9);
	assert_true(COUNTED(p, changes) < 1000);
}

static void the_header_is_damaged(void (*spoil)(struct shm_cursors *))
{
	struct shm_cursor_keys keys;
	struct cursor_map reader;

	WITH(100);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	keys = p->t->header->keys;
	spoil(p->t->header);
	cursor_place_restart(p);
	assert_int_equal(cursor_load(&p->root->cursor_generation), 2);
	assert_int_equal(cursor_map_open(p->s.instance.table_dir_fd, p->root, 1, NULL, &reader), BERTH_E_NO_INSTANCE);
	assert_int_equal(cursor_table_count(p->t), 0);
	assert_unseen(p, cursor_id(1));
	assert_memory_not_equal(&keys, &p->t->header->keys, sizeof keys);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	cursor_place_restart(p);
	assert_seen(p, cursor_id(1), A, 1);
	cursor_place_close(p);
}

static void no_magic(struct shm_cursors *h)
{
	h->magic++;
}
static void other_uuid(struct shm_cursors *h)
{
	h->uuid[3]++;
}
static void other_generation(struct shm_cursors *h)
{
	h->generation = 7;
}
static void too_many_slots(struct shm_cursors *h)
{
	h->capacity = 1u << 20;
}
static void no_buckets(struct shm_cursors *h)
{
	h->n_buckets = 0;
}
static void slots_among_the_buckets(struct shm_cursors *h) /* a chain mended would be a pin overwritten */
{
	h->slots_off = h->buckets_off;
	h->check = cursor_header_check(h);
}
static void endless_changes(struct shm_cursors *h)
{
	atomic_store(&h->changes, UINT64_MAX);
}
static void file_is_gone(struct shm_cursors *h)
{
	(void)h;
	assert_int_equal(unlinkat(p->s.instance.table_dir_fd, SEG_CURSORS "1", 0), 0);
}

static void a_damaged_header_gives_way_to_an_empty_table(void **state)
{
	void (*const spoil[])(struct shm_cursors *) = {no_magic,        other_uuid,  other_generation,
						       too_many_slots,  no_buckets,  slots_among_the_buckets,
						       endless_changes, file_is_gone};

	(void)state;
	for (size_t i = 0; i < sizeof spoil / sizeof *spoil; i++)
		the_header_is_damaged(spoil[i]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_teardown(f, cursor_place_done)
	const struct CMUnitTest tests[] = {
		TEST(pins_outlive_the_writer),
		TEST(pins_expire_under_the_next_writer),
		TEST(a_slot_that_was_ended_but_not_unlinked_is_unlinked),
		TEST(a_slot_that_was_filled_but_not_linked_is_free),
		TEST(numbers_that_were_taken_are_not_used_again),
		TEST(a_search_that_a_reused_slot_led_astray_finds_its_bucket_changed),
		TEST(the_same_after_a_kill_before_the_bucket_said_so),
		TEST(a_bucket_that_leads_nowhere_is_cut),
		TEST(a_chain_that_leads_nowhere_is_cut),
		TEST(a_chain_in_a_circle_is_cut),
		TEST(a_chain_that_leads_into_another_takes_nothing_from_it),
		TEST(a_pin_that_is_there_twice_is_there_once),
		TEST(what_is_no_pin_is_not_kept),
		cmocka_unit_test(a_damaged_header_gives_way_to_an_empty_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
