/* SPDX-License-Identifier: MIT
 * libberth over words that no writer stores, where a reader has something of its own in their place: all ones for the
 * generation of the table and of the pins, which a reader without a mapping remembers; records that become longer while
 * they are compared; what a bulk call says when there is no table. Damage in a table: 40-reader.c. */
#include "reader_place.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../shm/index.h"
#include "cursor_daemon.h"

#define ALL_ONES UINT64_MAX
#define RACE_MS 400u

/* ---- the table's generation ------------------------------------------------------------------------------------ */

static void every_call_says_damage(struct berth_reader *r, bool gate)
{
	struct berth_key keys[2] = {{KEY("acme")}, {KEY("nobody")}};
	struct berth_placement l;
	struct berth_cluster c;
	struct berth_route at[2];
	int status[2];

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(berth_route(r, KEY("acme"), at), BERTH_E_CORRUPT);
		assert_int_equal(berth_route(r, KEY("no-such-partition-and-a-key-of-more-than-39-bytes"), at),
				 BERTH_E_CORRUPT);
		assert_int_equal(berth_admit(r, KEY("acme"), 1), gate ? BERTH_E_CORRUPT : BERTH_E_WRITER_DOWN);
		berth_route_bulk(r, keys, 2, at, status);
		assert_int_equal(status[0], BERTH_E_CORRUPT);
		assert_int_equal(status[1], BERTH_E_CORRUPT);
		berth_read_begin(r);
		assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_E_CORRUPT);
		assert_int_equal(berth_cluster(r, 1, &c), BERTH_E_CORRUPT);
		berth_read_end(r);
	}
}

static void check_all_ones(struct reader_place *p, struct berth *b, bool gate)
{
	struct berth_reader *r = opened(b), *later;
	uint64_t termgen = atomic_load(&p->root->termgen);
	struct berth_route at;

	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	atomic_store(&p->root->termgen, ALL_ONES);
	later = opened(b); /* has never had a mapping */
	every_call_says_damage(r, gate);
	every_call_says_damage(later, gate);
	attach_with(p, NULL, BERTH_E_CORRUPT);
	atomic_store(&p->root->termgen, termgen);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(berth_route(i ? later : r, KEY("acme"), &at), BERTH_OK);
		assert_int_equal(berth_route(i ? later : r, KEY("nobody"), &at), BERTH_E_UNKNOWN);
	}
	berth_reader_close(&later);
	close_all(b, r);
}

static void all_ones_for_the_tables_generation_is_damage(void **state)
{
	struct reader_place *p = *state;

	place_set(p, "acme", 1, "a");
	check_all_ones(p, copying(p), false);
	check_all_ones(p, attached(p), true);
}

static void nothing_is_begun_in_a_table_that_there_is_not(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	uint64_t termgen = atomic_load(&p->root->termgen);
	struct berth_key key = {KEY("acme")};
	struct berth_write w;
	int status;

	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	atomic_store(&p->root->termgen, ALL_ONES);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w), BERTH_E_CORRUPT);
		assert_int_equal(berth_write_begin_bulk(r, &key, NULL, 1, &w, &status), BERTH_OK);
		assert_int_equal(status, BERTH_E_CORRUPT);
	}
	EXPECT_SLOTS(p, 0, NULL, 0, 0);
	atomic_store(&p->root->termgen, termgen);
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	close_all(b, r);
}

static void bulk_says_what_stands_against_it(void **state)
{
	struct reader_place *p = *state;
	struct berth_key keys[3] = {{KEY("acme")}, {KEY("nobody")}, {KEY("acme")}};
	struct berth_route out[3];
	uint64_t termgen;
	int status[3];

	place_set(p, "acme", 1, "a");
	for (unsigned registered = 0; registered < 2; registered++) {
		struct berth *b = registered ? attached(p) : copying(p);
		struct berth_reader *r = opened(b);

		termgen = atomic_load(&p->root->termgen);
		atomic_store(&p->root->termgen, SHM_TERMGEN(9, SHM_GENERATION(termgen) + 100));
		assert_int_equal(berth_route_bulk(r, keys, 3, out, status), BERTH_E_NO_INSTANCE);
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(status[i], BERTH_E_NO_INSTANCE);
		atomic_store(&p->root->termgen, 0);
		assert_int_equal(berth_route_bulk(r, keys, 3, out, status), BERTH_E_CORRUPT);
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(status[i], BERTH_E_CORRUPT);
		atomic_store(&p->root->termgen, termgen);
		assert_int_equal(berth_route_bulk(r, keys, 3, out, status), BERTH_OK);
		assert_int_equal(status[0], BERTH_OK);
		assert_int_equal(status[1], BERTH_E_UNKNOWN);
		close_all(b, r);
	}
}

static void a_null_reader_is_no_crash(void **state)
{
	struct berth_route at;

	(void)state;
	berth_read_begin(NULL);
	berth_read_end(NULL);
	assert_int_equal(berth_route(NULL, KEY("acme"), &at), BERTH_E_INVAL);
}

/* ---- the generation of the pins ---------------------------------------------------------------------------------- */

static void every_pin_call_says(struct berth_reader *r, int code)
{
	struct berth_cursor cursor = {"id", 2, "acme", 4};
	uint16_t cluster;
	uint64_t n;
	int status;

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(berth_cursor_resolve(r, "id", 2, "acme", 4, 0, &cluster), code);
		assert_int_equal(berth_cursor_resolve_bulk(r, &cursor, 1, 0, &cluster, &status), code);
		assert_int_equal(status, code);
		assert_int_equal(berth_cursor_len(r, &n), code);
		assert_int_equal(berth_cursor_pin(r, "id", 2, 1, "acme", 4, 0, 0), code);
		assert_int_equal(berth_cursor_release(r, "id", 2, "acme", 4), code);
	}
}

static void all_ones_for_the_generation_of_the_pins_is_damage(void **state)
{
	struct pin_place *p = *state;
	struct berth_attach_options o = {.size = sizeof o, .wait_ms = PIN_MS, .writes = BERTH_WRITES_NONE};
	struct berth_reader *later, *other;
	struct shm_root *root;
	struct berth *b;
	uint64_t generation;
	uint16_t cluster;
	char path[300];
	int fd;

	pin_attach(p);
	assert_int_equal(berth_cursor_pin(p->r, "id", 2, 1, "acme", 4, 0, PIN_MS), BERTH_OK);
	snprintf(path, sizeof path, "%s/root", p->d.dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	root = mmap(NULL, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(root != MAP_FAILED);
	close(fd);
	assert_int_equal(berth_attach(p->d.dir, &o, &b), BERTH_OK); /* pins nothing */
	assert_int_equal(berth_reader_open(b, &other), BERTH_OK);
	generation = atomic_load(&root->cursor_generation);
	atomic_store(&root->cursor_generation, ALL_ONES);
	assert_int_equal(berth_reader_open(p->b, &later), BERTH_OK); /* has never had a file of pins */
	every_pin_call_says(later, BERTH_E_CORRUPT);
	every_pin_call_says(p->r, BERTH_E_CORRUPT);
	every_pin_call_says(other, BERTH_E_INVAL);
	atomic_store(&root->cursor_generation, generation);
	assert_int_equal(berth_cursor_resolve(p->r, "id", 2, "acme", 4, 0, &cluster), BERTH_OK);
	assert_int_equal(berth_cursor_resolve(later, "id", 2, "acme", 4, 0, &cluster), BERTH_OK);
	munmap(root, SHM_PAGE);
	berth_reader_close(&later);
	close_all(b, other);
	pin_detach(p);
}

/* ---- a key's record that changes ---------------------------------------------------------------------------------- */

static struct shm_key_record *racing;
static _Atomic bool raced;

/* Its length, between one that fits and one that does not. */
static void *lengthen(void *arg)
{
	(void)arg;
	while (!atomic_load_explicit(&raced, memory_order_relaxed)) {
		*(volatile uint16_t *)&racing->len = SHM_KEY_INLINE + 1;
		for (unsigned i = 0; i < 8; i++)
			*(volatile uint16_t *)&racing->len = SHM_KEY_MAX;
	}
	return NULL;
}

static void a_record_that_grows_under_the_search_is_not_read_past_its_mapping(void **state)
{
	const size_t fits = key_record_size(SHM_KEY_INLINE + 1);
	char *pages = mmap(NULL, 3 * SHM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t at = (2 * SHM_PAGE - fits) / SHM_RECORD_ALIGN * SHM_RECORD_ALIGN;
	struct seg_map m = {.table = (const struct shm_table *)pages, .records_off = SHM_PAGE, .size = at + fits};
	uint32_t off = (uint32_t)(at / SHM_RECORD_ALIGN);
	unsigned char key[SHM_KEY_MAX] = {0};
	struct shm_entry e = {.n = SHM_KEY_LONG};
	pthread_t thread;
	uint64_t until;

	(void)state;
	if (child_sanitized())
		skip(); /* a race by intent */
	assert_true(pages != MAP_FAILED);
	assert_int_equal(mprotect(pages + 2 * SHM_PAGE, SHM_PAGE, PROT_NONE), 0);
	memcpy(e.key, &off, sizeof off);
	racing = (struct shm_key_record *)(void *)(pages +
						   at); /* all zeros, as the key: nothing ends a comparison early */
	atomic_store(&raced, false);
	racing->len = SHM_KEY_MAX;
	assert_int_equal(pthread_create(&thread, NULL, lengthen, NULL), 0);
	until = seg_clock_ms(CLOCK_MONOTONIC) + RACE_MS;
	do
		for (unsigned i = 0; i < 1000; i++)
			assert_int_not_equal(index_long_key_equal(&m, &e, key, sizeof key), 1);
	while (seg_clock_ms(CLOCK_MONOTONIC) < until);
	atomic_store(&raced, true);
	pthread_join(thread, NULL);
	munmap(pages, 3 * SHM_PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(all_ones_for_the_tables_generation_is_damage),
		IN_PLACE(nothing_is_begun_in_a_table_that_there_is_not),
		IN_PLACE(bulk_says_what_stands_against_it),
		cmocka_unit_test(a_null_reader_is_no_crash),
		PIN_TEST(all_ones_for_the_generation_of_the_pins_is_damage),
		cmocka_unit_test(a_record_that_grows_under_the_search_is_not_read_past_its_mapping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
