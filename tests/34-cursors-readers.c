/* SPDX-License-Identifier: MIT
 * A thread that searches while another one changes the table at random: a pin that nobody touches is found each time, with
 * its own owner and cluster; one that was released before the search began is not; what is refreshed is always there. All
 * ids share four buckets, so that every chain changes all the time. Meant for ThreadSanitizer, too. */
#include "cursor_place.h"

#include <pthread.h>
#include <stdio.h>

#include "../shm/segment.h"
#include "child.h"

#define CHANGES 400000u
#define RESTART_EACH 20000u
#define BUCKETS 4u
#define STAY 12u    /* ids 0 ..: nobody touches them */
#define REFRESH 12u /* the next: pinned again and again */
#define LIVE 100u   /* of those that come and go, in order */
#define FIRST (STAY + REFRESH)
#define CAPACITY 130u

static struct cursor_place *const p = &cursor_place;

static struct {
	struct cursor_map map;
	_Atomic uint64_t n_gone; /* ids FIRST .. FIRST + n_gone - 1 have been released */
	_Atomic bool stop;
	uint64_t searches, again;
	char wrong[160];
} watch;

static struct cursor_id id(uint64_t number)
{
	return cursor_id_in(number % BUCKETS, number);
}
static uint64_t owner_of(uint64_t number)
{
	return number * 0x9e3779b97f4a7c15ull | 1;
}
static unsigned cluster_of(uint64_t number)
{
	return 1 + (unsigned)(number * 7919 % 60000);
}

static enum cursor_found find(uint64_t number)
{
	uint64_t owner = 0, word = 0;
	enum cursor_found f;

	for (;; watch.again++) {
		f = cursor_find(&watch.map, id(number).hash, &owner, &word);
		watch.searches++;
		if (f != CURSOR_CHANGED)
			break;
	}
	if (f == CURSOR_DAMAGED)
		snprintf(watch.wrong, sizeof watch.wrong, "id %llu: damaged", (unsigned long long)number);
	if (f == CURSOR_HIT && (owner != owner_of(number) || cursor_cluster(word) != cluster_of(number)))
		snprintf(watch.wrong, sizeof watch.wrong, "id %llu: of owner %llu, cluster %u",
			 (unsigned long long)number, (unsigned long long)owner, cursor_cluster(word));
	return f;
}

static void *search(void *arg)
{
	(void)arg;
	for (uint64_t round = 0; !atomic_load(&watch.stop) && !watch.wrong[0]; round++) {
		uint64_t stays = round % FIRST, gone = atomic_load_explicit(&watch.n_gone, memory_order_acquire);

		if (find(stays) != CURSOR_HIT && !watch.wrong[0])
			snprintf(watch.wrong, sizeof watch.wrong, "id %llu, which stays, is not found",
				 (unsigned long long)stays);
		if (gone > round % 8 && find(FIRST + gone - 1 - round % 8) == CURSOR_HIT)
			snprintf(watch.wrong, sizeof watch.wrong, "id %llu, which was released, is found",
				 (unsigned long long)(FIRST + gone - 1 - round % 8));
		find(FIRST + gone + round % LIVE);
	}
	return NULL;
}

static void pin(uint64_t number)
{
	assert_pins(p, id(number), owner_of(number), cluster_of(number), 1 + CURSOR_TTL);
}

static void a_reader_finds_what_is_there_and_nothing_else(void **state)
{
	unsigned changes = child_sanitized() ? CHANGES / 10 : CHANGES;
	uint64_t made = 0, gone = 0;
	pthread_t reader;

	(void)state;
	WITH(CAPACITY);
	assert_int_equal(cursor_map_open(p->s.instance.table_dir_fd, p->root, 1, NULL, &watch.map), BERTH_OK);
	for (uint64_t i = 0; i < FIRST; i++)
		pin(i);
	assert_int_equal(pthread_create(&reader, NULL, search, NULL), 0);
	for (unsigned i = 0; i < changes && !atomic_load(&watch.stop); i++) {
		pin(FIRST + made++);
		pin(STAY + i % REFRESH);
		if (made - gone == LIVE) {
			unsigned n = 1 + i * 7 % LIVE;

			for (; n > 0; n--, gone++)
				assert_int_equal(cursor_release(p, id(FIRST + gone), owner_of(FIRST + gone)),
						 SHM_PIN_OK);
			atomic_store_explicit(&watch.n_gone, gone, memory_order_release);
		}
		if (i % RESTART_EACH == 0)
			cursor_place_restart(p);
	}
	atomic_store(&watch.stop, true);
	assert_int_equal(pthread_join(reader, NULL), 0);
	printf("note: %llu searches, %llu of them once more\n", (unsigned long long)watch.searches,
	       (unsigned long long)watch.again);
	if (watch.wrong[0])
		fail_msg("%s", watch.wrong);
	assert_int_equal(COUNTED(p, n_evicted), 0);
	cursor_map_close(&watch.map);
	cursor_place_close(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reader_finds_what_is_there_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
