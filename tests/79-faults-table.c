/* SPDX-License-Identifier: MIT
 * The writer's table in one process, without memory or room for what it notes and makes: it holds more than it must, or
 * refuses. faults/interpose.c makes the failures, in this very process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <errno.h>
#include <sys/mman.h>

#include "../writer/table_internal.h"
#include "child.h"
#include "fault_plan.h"
#include "scratch.h"

#define NOTED 64u /* sections that the registry has room for before it asks for memory */

static struct faults *plan;
static struct refusal why;

/* ---- a table ---------------------------------------------------------------------------------------------------- */

static struct scratch s;
static struct table *t;

static int make(void **unused)
{
	(void)unused;
	if (plan)
		scratch_open(&s);
	return 0;
}

static int unmake(void **unused)
{
	(void)unused;
	if (!plan)
		return 0;
	fault_disarm(plan);
	if (t)
		table_close(&t);
	scratch_close(&s);
	return 0;
}

static void start(void)
{
	const struct table_options o = {.barrier_ms = 30000};

	OK(table_open(&s.instance, &o, &t, &why));
	OK(table_build(t, 10, &why));
	table_load_counters(t, 0, 1, 0, 0);
	OK(table_load_cluster(t, 1, "c1", "http://127.0.0.1:1", &why));
}

static size_t name(char key[32], unsigned i)
{
	return (size_t)snprintf(key, 32, "tenant-%u", i);
}

/* With an index of 200 bytes: a record of its own. */
static const struct shm_detail *placement(union detail_buffer *b, unsigned i)
{
	char index[201];

	snprintf(index, sizeof index, "%0200u", i);
	assert_int_equal(detail_start(b, KIND_DEDICATED_INDEX, 1, index, 200), BERTH_OK);
	detail_finish(b);
	return &b->detail;
}

static void put(unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		union detail_buffer b;
		char key[32];
		struct table_change c = {.key = key, .len = name(key, i), .after = {.at = placement(&b, i)}};

		OK(table_reserve(t, &c, &why));
		c.after.epoch = table_take_epoch(t);
		table_publish(t, &c);
	}
}

/* So many more partitions that a larger table is made, and readers are sent there. */
static void grow(unsigned from)
{
	uint32_t before = t->now->map.generation;

	put(from, t->now->map.capacity - 10);
	for (uint64_t deadline = 0; t->now->map.generation == before && within(&deadline);)
		table_step(t, 1000);
	assert_int_not_equal(t->now->map.generation, before);
}

static void settle(void)
{
	for (uint64_t deadline = 0; within(&deadline);)
		if (table_step(t, 1000) == UINT64_MAX && !t->old)
			return;
	fail_msg("the table never comes to rest");
}

static uint64_t held_bytes(void)
{
	struct table_stats st;

	table_stats(t, &st);
	return st.held_bytes;
}

/* ---- readers ---------------------------------------------------------------------------------------------------- */

/* A process whose section lines are this test's to write. */
static struct shm_line *attach(uint32_t n_readers)
{
	const struct registry_peer peer = {.uid = getuid(), .pidfd = -1};
	const struct registry_wish wish = {.n_readers = n_readers, .writes = SHM_WRITES_UNBRACKETED};
	uint64_t attach;
	uint32_t slot;
	char *file;
	int fd;

	OK(registry_attach(t->registry, &peer, &wish, &fd, &slot, &attach, &why));
	file = mmap(NULL, SHM_PAGE + n_readers * sizeof(struct shm_line), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(file, MAP_FAILED);
	close(fd);
	return (struct shm_line *)(file + SHM_PAGE);
}

static void a_table_stays_while_a_section_in_it_cannot_be_noted(void **unused)
{
	struct shm_line *lines;
	uint32_t before;
	unsigned failed;

	(void)unused;
	fault_plan_needed(plan);
	start();
	OK(table_flip(t, &why));
	before = t->now->map.generation;
	lines = attach(NOTED + 1);
	/* One is in the table of now, and is the last for which there is room; the others go to the next one. */
	for (uint32_t i = 0; i <= NOTED; i++)
		atomic_store(&lines[i].section, section_make(0, i == NOTED - 1 ? before : before + 1, false, 1));
	grow(0);
	assert_int_equal(t->now->map.generation, before + 1);
	fault_arm(plan, CALL_MALLOC, 1, ENOMEM, true, NULL);
	for (uint64_t deadline = 0; t->old && atomic_load(&plan->fired) < 5 && within(&deadline);)
		table_step(t, 1000);
	failed = fault_disarm(plan);
	assert_true(held_bytes() > 0);
	assert_true(failed >= 5);
	atomic_store(&lines[NOTED - 1].section, 0);
	for (uint64_t deadline = 0; held_bytes() > 0 && within(&deadline);)
		table_step(t, 1000);
	assert_int_equal(held_bytes(), 0);
	munmap((char *)lines - SHM_PAGE, SHM_PAGE + (NOTED + 1) * sizeof *lines);
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

/* A mapping of a file that has no name any more; "": none. */
static void mapped_without_a_name(char line[300])
{
	FILE *f = fopen("/proc/self/maps", "r");

	assert_non_null(f);
	while (fgets(line, 300, f))
		if (strstr(line, s.path) && strstr(line, "(deleted)"))
			break;
	if (feof(f))
		*line = '\0';
	fclose(f);
}

static void a_table_that_has_more_than_its_reserve_goes_whole(void **unused)
{
	enum { N = 40 };
	char line[300];

	(void)unused;
	fault_plan_needed(plan);
	start();
	OK(table_flip(t, &why));
	put(0, N);
	table_close(&t);
	start();
	for (unsigned i = 0; i < N; i++) {
		union detail_buffer b;
		struct state st = {.at = placement(&b, i), .epoch = i + 1};
		char key[32];

		OK(table_load(t, key, name(key, i), &st, 0, &why));
	}
	table_load_counters(t, N, 2, 0, 0);
	OK(table_flip(t, &why));
	/* The table before it becomes the reserve, and is smaller. */
	fault_arm(plan, CALL_FALLOCATE, 1, ENOSPC, true, "reserve");
	for (uint64_t deadline = 0; t->now->limit == t->now->mapped && within(&deadline);)
		table_step(t, 1000);
	assert_true(fault_disarm(plan) > 0);
	assert_true(t->now->limit < t->now->mapped);
	grow(N);
	settle();
	mapped_without_a_name(line);
	assert_string_equal(line, "");
}

static void a_cluster_that_finds_no_room_in_a_larger_table_is_not_left_out(void **unused)
{
	enum refusal_code code;

	(void)unused;
	fault_plan_needed(plan);
	start();
	fault_arm(plan, CALL_RECORD, 1, ENOMEM, false, NULL);
	code = table_load_cluster(t, t->next->map.n_cluster_slots, "c2", "", &why);
	assert_int_equal(fault_disarm(plan), 1);
	assert_int_equal(code, R_FULL);
	assert_non_null(strstr(why.message, "c1"));
	table_close(&t);
	start();
	OK(table_load_cluster(t, t->next->map.n_cluster_slots, "c2", "", &why));
	OK(table_flip(t, &why));
}

int main(int argc, char **argv)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make, unmake)
	const struct CMUnitTest tests[] = {
		TEST(a_table_stays_while_a_section_in_it_cannot_be_noted),
		TEST(a_table_that_has_more_than_its_reserve_goes_whole),
		TEST(a_cluster_that_finds_no_room_in_a_larger_table_is_not_left_out),
	};

	(void)argc;
	plan = fault_possible() ? fault_run_self(argv) : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
