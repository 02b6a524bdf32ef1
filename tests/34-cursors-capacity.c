/* SPDX-License-Identifier: MIT
 * The files of pins: another capacity makes a new one with the newest pins, the old one goes, with whatever dead writers left
 * lying; and where there is no room for it, the table stays as it is. */
#include "cursor_place.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "child.h"

static struct cursor_place *const p = &cursor_place;

static void the_newest_fit(unsigned before, unsigned after)
{
	unsigned kept = before < after ? before : after;
	struct shm_cursor_keys keys;
	struct cursor_map reader;
	struct stat st;

	WITH(before);
	for (unsigned i = 0; i < before; i++)
		assert_pins(p, cursor_id(i), A, 1 + i, i == before - 2 ? 10 : CURSOR_TTL);
	assert_pins(p, cursor_id(0), A, 1, CURSOR_TTL); /* the newest */
	p->now += 10;                                   /* and one less */
	if (kept == before)
		kept--;
	keys = p->t->header->keys;
	assert_int_equal(cursor_map_open(p->s.instance.table_dir_fd, p->root, 1, NULL, &reader), BERTH_OK);
	p->options.capacity = after;
	cursor_place_restart(p);
	assert_int_equal(cursor_load(&p->root->cursor_generation), 2);
	assert_int_equal(cursor_table_map(p->t)->capacity, after);
	assert_int_equal(fstatat(p->s.instance.table_dir_fd, SEG_CURSORS "1", &st, 0), -1);
	assert_int_equal(fstatat(p->s.instance.table_dir_fd, SEG_CURSORS "2", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, p->s.instance.table_mode);
	assert_memory_equal(&keys, &p->t->header->keys, sizeof keys);
	assert_int_equal(COUNTED(p, n_pinned), before);
	assert_int_equal(COUNTED(p, n_expired), 1);
	assert_int_equal(COUNTED(p, n_evicted), before - 1 - kept); /* counted, not only gone */
	assert_int_equal(cursor_table_count(p->t), kept);
	assert_seen(p, cursor_id(0), A, 1);
	for (unsigned age = 1; age < before; age++) { /* 1: the last but one that was pinned */
		unsigned i = before - age;

		assert_int_equal(cursor_seen(cursor_table_map(p->t), cursor_id(i), p->now, NULL),
				 age == 2 || age > kept ? 0 : 1 + i);
	}
	/* a reader that has not turned to the new one is told the truth of a moment ago */
	assert_int_equal(cursor_seen(&reader, cursor_id(before - 1), p->now, NULL), before);
	cursor_map_close(&reader);
	for (unsigned i = 0; i < after - 1; i++)
		assert_pins(p, cursor_id(1000 + i), A, 9, CURSOR_TTL);
	assert_seen(p, cursor_id(0), A, 1); /* in the same order */
	assert_pins(p, cursor_id(5000), A, 9, CURSOR_TTL);
	assert_unseen(p, cursor_id(0));
	cursor_place_close(p);
}

static void another_capacity_keeps_the_newest_pins(void **state)
{
	(void)state;
	the_newest_fit(50, 20);
	the_newest_fit(20, 50);
	the_newest_fit(1000, 64);
	the_newest_fit(3, 1000);
}

static void a_smaller_table_has_no_chain_that_is_too_long(void **state)
{
	(void)state;
	WITH(1000); /* two of its buckets become one */
	for (unsigned i = 0; i < 100; i++)
		assert_pins(p, cursor_id_in(i % 2 ? 5 : 5 + 1024, i), A, 1, CURSOR_TTL);
	p->options.capacity = 200;
	cursor_place_restart(p);
	assert_int_equal(cursor_table_count(p->t), SHM_CHAIN_MAX);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(
			cursor_seen(cursor_table_map(p->t), cursor_id_in(i % 2 ? 5 : 5 + 1024, i), p->now, NULL),
			i >= 100 - SHM_CHAIN_MAX);
}

static void put_file(const char *name)
{
	int fd = openat(p->s.instance.table_dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static void what_dead_writers_left_lying_is_removed(void **state)
{
	const char *const left[] = {SEG_CURSORS "new", SEG_CURSORS "2", SEG_CURSORS "17"};
	struct stat st;

	(void)state;
	WITH(10);
	assert_pins(p, cursor_id(1), A, 1, CURSOR_TTL);
	for (size_t i = 0; i < 3; i++)
		put_file(left[i]);
	put_file(SEG_CURSORS "1.keep");
	cursor_place_restart(p);
	assert_seen(p, cursor_id(1), A, 1);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(fstatat(p->s.instance.table_dir_fd, left[i], &st, 0), -1);
	assert_int_equal(fstatat(p->s.instance.table_dir_fd, SEG_CURSORS "1.keep", &st, 0), 0);
	put_file(SEG_CURSORS "17");
	p->options.capacity = 20; /* a number above all that there were */
	cursor_place_restart(p);
	assert_int_equal(cursor_load(&p->root->cursor_generation), 18);
	assert_seen(p, cursor_id(1), A, 1);
}

static void a_capacity_that_cannot_be_is_refused(void **state)
{
	struct cursor_table *t = NULL;

	(void)state;
	WITH(10);
	p->options.capacity = 0;
	assert_int_equal(cursor_table_open(&p->s.instance, p->root, &p->options, p->now, &t, &p->why), R_INVALID);
	p->options.capacity = SHM_CURSORS_MAX + 1;
	assert_int_equal(cursor_table_open(&p->s.instance, p->root, &p->options, p->now, &t, &p->why), R_INVALID);
	assert_non_null(strstr(p->why.message, "16777217"));
	assert_null(t);
}

static void where_there_is_no_room_the_table_stays_as_it_is(void **state)
{
	struct scratch *s = &p->s;
	struct cursor_table *t = NULL;
	char path[100];
	struct stat st;

	(void)state;
	WITH(100);
	if (!own_mounts())
		skip();
	cursor_table_close(&p->t);
	atomic_store(&p->root->cursor_generation, 0);
	snprintf(path, sizeof path, "%s/tables", s->path);
	assert_int_equal(mount("room", path, "tmpfs", 0, "size=64k,mode=0755"), 0);
	close(s->instance.table_dir_fd);
	s->instance.table_dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	p->options.capacity = 100000;
	assert_int_equal(cursor_table_open(&s->instance, p->root, &p->options, p->now, &t, &p->why), R_FULL);
	assert_non_null(strstr(p->why.message, "100000"));
	assert_non_null(strstr(p->why.message, s->path));
	assert_int_equal(cursor_load(&p->root->cursor_generation), 0);
	assert_int_equal(fstatat(s->instance.table_dir_fd, SEG_CURSORS "new", &st, 0), -1);
	p->options.capacity = 100;
	cursor_place_restart(p);
	for (unsigned i = 0; i < 100; i++)
		assert_pins(p, cursor_id(i), A, 1 + i, CURSOR_TTL);
	p->options.capacity = 100000;
	cursor_place_restart(p);
	assert_int_equal(cursor_load(&p->root->cursor_generation), 1);
	assert_int_equal(cursor_table_map(p->t)->capacity, 100);
	for (unsigned i = 0; i < 100; i++)
		assert_seen(p, cursor_id(i), A, 1 + i);
	assert_pins(p, cursor_id(100), A, 1, CURSOR_TTL);
	assert_unseen(p, cursor_id(0));
	assert_int_equal(fstatat(s->instance.table_dir_fd, SEG_CURSORS "new", &st, 0), -1);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_teardown(f, cursor_place_done)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_capacity_keeps_the_newest_pins),
		TEST(a_smaller_table_has_no_chain_that_is_too_long),
		TEST(what_dead_writers_left_lying_is_removed),
		TEST(a_capacity_that_cannot_be_is_refused),
		TEST(where_there_is_no_room_the_table_stays_as_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
