/* SPDX-License-Identifier: MIT
 * A growth that is under way when more is wanted of it, and one that finds no room: the writer's table in one process.
 * 82-room-growth.c has the daemon on a file system that is full. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "../writer/table_internal.h"
#include "scratch.h"

#define SLOTS 1024u /* of a fresh table for clusters */

static struct refusal why;
static bool no_room;
static unsigned n_allocations;

/* In place of libc's: no room although the file system says that there is some. */
int posix_fallocate(int fd, off_t from, off_t len)
{
	n_allocations++;
	if (no_room && from + len > (1 << 20)) /* the header is made, for its memory there is no room */
		return ENOSPC;
	return syscall(SYS_fallocate, fd, 0, from, len) == 0 ? 0 : errno;
}

static struct table *start(struct scratch *s, uint64_t n, unsigned n_clusters)
{
	const struct table_options o = {.barrier_ms = 30000};
	struct table *t;
	char id[16];

	OK(table_open(&s->instance, &o, &t, &why));
	OK(table_build(t, n, &why));
	table_load_counters(t, 0, 1, 0, 0);
	for (unsigned i = 1; i <= n_clusters; i++) {
		snprintf(id, sizeof id, "c%u", i);
		OK(table_load_cluster(t, i, id, "", &why));
	}
	OK(table_flip(t, &why));
	return t;
}

static enum refusal_code put(struct table *t, unsigned i)
{
	union detail_buffer b;
	char key[32];
	struct table_change c = {.key = key, .len = (size_t)snprintf(key, sizeof key, "p-%u", i)};
	enum refusal_code code;

	assert_int_equal(detail_start(&b, KIND_DEDICATED_CLUSTER, 1, NULL, 0), BERTH_OK);
	detail_finish(&b);
	c.after.at = &b.detail;
	code = table_reserve(t, &c, &why);
	if (code != R_DONE)
		return code;
	c.after.epoch = table_take_epoch(t);
	table_publish(t, &c);
	return R_DONE;
}

static uint32_t generation(struct table *t)
{
	return t->now->map.generation;
}

static void a_cluster_gets_a_slot_when_the_growth_under_way_has_none_for_it(void **unused)
{
	struct scratch s;
	struct table *t;
	uint32_t before;
	char id[16];

	(void)unused;
	no_room = false;
	scratch_open(&s);
	t = start(&s, 1000, SLOTS - 12);
	for (unsigned i = 0; i <= GROW_AT(t->now->map.capacity); i++)
		OK(put(t, i));
	before = generation(t);
	for (unsigned i = 0; i < 1000 && !t->next; i++)
		table_step(t, 1);
	assert_non_null(t->next); /* with as many slots as there are now */
	assert_int_equal(t->next->map.n_cluster_slots, SLOTS);
	for (unsigned i = SLOTS - 11; i < SLOTS + 10; i++) {
		struct table_cluster_change c = {.id = id, .endpoint = ""};

		snprintf(id, sizeof id, "c%u", i);
		OK(table_cluster_reserve(t, &c, &why));
		assert_int_equal(c.number, i);
		table_cluster_publish(t, &c);
		assert_int_equal(table_cluster_number(t, id, strlen(id)), i);
	}
	assert_int_equal(generation(t), before + 2);
	assert_string_equal(cluster_id(table_cluster(t, SLOTS)), "c1024");
	table_close(&t);
	scratch_close(&s);
}

/* The arena of a table's records may have taken more than the file has; another table there, and jemalloc would take the
 * extents of both for one. */
static void addresses_that_an_arena_has_taken_are_nobody_elses(void **unused)
{
	struct scratch s;
	struct table *t;

	(void)unused;
	no_room = false;
	scratch_open(&s);
	t = start(&s, 1000, 1);
	for (unsigned round = 0; round < 8; round++) {
		const struct table_room room = {.partitions = 1000 + round % 2 * 200};
		const struct generation *g = t->now;
		void *behind = mmap(g->base + g->mapped, SHM_PAGE, PROT_NONE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (behind != MAP_FAILED)
			fail_msg("table %u: the page behind it is free, the arena's first extent has 2 MiB",
				 generation(t));
		assert_int_equal(errno, EEXIST);
		OK(put(t, round));
		OK(grow_now(t, &room, &why));
	}
	table_close(&t);
	scratch_close(&s);
}

static void settle(struct table *t, unsigned ms)
{
	for (unsigned i = 0; i < ms; i++) {
		table_step(t, 1000);
		usleep(1000);
	}
}

static void a_growth_that_found_no_room_is_not_tried_for_each_insertion(void **unused)
{
	struct scratch s;
	struct table *t;
	uint64_t lacks;
	unsigned n = 0, before;
	uint32_t generation_before;
	char first[sizeof why.message];

	(void)unused;
	no_room = false;
	scratch_open(&s);
	t = start(&s, 20000, 1);
	settle(t, 50);
	assert_null(table_growth_failed(t, &lacks));
	no_room = true;
	while (put(t, n) == R_DONE)
		n++;
	assert_int_equal(why.code, R_FULL);
	memcpy(first, why.message, sizeof first);
	before = n_allocations;
	assert_true(before > 0);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(put(t, n), R_FULL);
		assert_string_equal(why.message, first);
	}
	/* Some: others on this machine may give memory back, and then it is worth a try. */
	if (n_allocations - before >= 200)
		fail_msg("%u allocations in 200 refused insertions", n_allocations - before);
	settle(t, 1500); /* table_step has found none either */
	assert_non_null(table_growth_failed(t, &lacks));
	assert_true(lacks > 0);
	assert_non_null(strstr(table_growth_failed(t, &lacks), s.path));
	generation_before = generation(t);
	no_room = false;
	settle(t, 1500);
	assert_int_equal(generation(t), generation_before + 1);
	assert_null(table_growth_failed(t, &lacks));
	OK(put(t, n));
	table_close(&t);
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cluster_gets_a_slot_when_the_growth_under_way_has_none_for_it),
		cmocka_unit_test(addresses_that_an_arena_has_taken_are_nobody_elses),
		cmocka_unit_test(a_growth_that_found_no_room_is_not_tried_for_each_insertion),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
