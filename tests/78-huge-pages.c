/* SPDX-License-Identifier: MIT
 * The table of the real daemon on huge pages: what readers map, growth under them, a daemon that is killed while a
 * growth gets its memory, a file system that is too small, hugetlbfs. BERTH_HUGE_KILLS: how often it is killed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "huge_place.h"

#define N_FEW 1000u /* partitions of the stream; the others come by documents and sets, and stay where they are */
#define N_HOT 64u
#define N_LARGE 60000u
#define N_LARGER 90000u
#define N_MOST 1000000u                      /* no growth goes further */
#define NEAR 400u                            /* partitions that are set one by one */
#define POOL_PAGES 48                        /* N_LARGER: a table and its reserve while there are those of N_LARGE */
#define MOST_OF(n) (2 * 400 * (uint64_t)(n)) /* bytes of a table of n and its reserve */

static const struct readers_options some_maintain = {.upkeep = SOME_MAINTAIN, .max_keys = 2 * N_MOST};

#define NEEDS_COLLAPSE() \
	do { \
		int e_ = huge_collapse_refused(); \
		if (e_) \
			SKIP("no huge pages for files in memory (MADV_COLLAPSE: %s)", strerror(e_)); \
	} while (0)

/* ---- partitions ------------------------------------------------------------------------------------------------- */

static void fill(struct mp_place *p, uint32_t n)
{
	stream_open(&p->stream, &p->d, N_FEW, N_FEW, 1);
	stream_load(&p->stream, N_FEW, n - N_FEW);
}

static void create(struct mp_place *p, uint32_t i)
{
	char key[READERS_KEY_SIZE], placement[READERS_JSON_SIZE];

	readers_key(key, i);
	readers_placement(placement, i, 1 + i % STREAM_CLUSTERS, 1);
	wire_do(&p->stream.wire, "set", "{s:s, s:o}", "partition", key, "placement", json_loads(placement, 0, NULL));
	p->stream.beside++;
}

/* Readers may ask for the first n from now on. */
static void show(struct mp_place *p, uint32_t n)
{
	for (uint32_t i = atomic_load(&p->readers.s->n_keys); i < n; i++)
		readers_changed(&p->readers, i, PRESENT, 0);
	atomic_store(&p->readers.s->n_keys, n);
}

static bool exists(const struct mp_place *p, const char *name)
{
	char path[160];

	snprintf(path, sizeof path, "%s/tables/%s", p->d.dir, name);
	return access(path, F_OK) == 0;
}

/* By a document to where some sets more make the table grow by itself; so many partitions there are then. */
static uint32_t go_to_the_brink(struct mp_place *p, uint32_t n)
{
	uint32_t more = n / 128; /* more, and its records might need a larger table by themselves */

	for (unsigned tries = 0;; tries++) {
		json_int_t capacity = mp_status(p, "capacity"), left = capacity - capacity / 4 - n;

		huge_expect_tidy(p, MOST_OF(n));
		if (left <= NEAR)
			return n;
		assert_true(tries < 1000 && n < N_MOST);
		more = left - NEAR / 2 < more ? (uint32_t)left - NEAR / 2 : more;
		stream_load(&p->stream, n, more);
		n += more;
	}
}

/* By sets until it grows. */
static uint32_t go_over_the_brink(struct mp_place *p, uint32_t n)
{
	json_int_t generation = mp_status(p, "generation");
	uint32_t last = n + 2 * NEAR;

	while (!exists(p, "reserve.new") && mp_status(p, "generation") == generation) {
		assert_true(n < last);
		create(p, n++);
	}
	return n;
}

/* ---- on tmpfs --------------------------------------------------------------------------------------------------- */

/* All whole huge pages of the present table but one. */
static uint64_t enough(struct mp_place *p)
{
	uint64_t pages = huge_file_size(p, mp_status(p, "generation")) / SEG_HUGE;

	assert_true(pages >= 3);
	return (pages - 1) * SEG_HUGE;
}

/* Looks at everything; so many bytes this process has mapped as huge pages. */
static uint64_t look_at(struct mp_place *p, uint32_t n)
{
	json_int_t generation = mp_status(p, "generation");
	uint64_t huge;

	huge_look_open(p);
	huge_expect_all(0, 0, n);
	huge = huge_mapped(getpid(), generation);
	huge_look_close();
	printf("note: table.%u has %llu KiB, of which %llu are mapped as huge pages\n", (unsigned)generation,
	       (unsigned long long)huge_file_size(p, generation) / 1024, (unsigned long long)huge / 1024);
	return huge;
}

static void readers_map_a_large_table_as_huge_pages_after_a_restart_too(void **state)
{
	struct mp_place *p = *state;

	NEEDS_COLLAPSE();
	daemon_start(&p->d, NULL);
	fill(p, N_LARGE);
	assert_true(look_at(p, N_LARGE) >= enough(p));
	huge_expect_tidy(p, MOST_OF(N_LARGE));
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, NULL);
	stream_resume(&p->stream);
	assert_true(look_at(p, N_LARGE) >= enough(p));
}

static void no_huge_pages_are_made_where_they_are_not_wanted(void **state)
{
	struct mp_place *p = *state;

	daemon_start(&p->d, "--no-huge-pages", NULL);
	fill(p, N_LARGE);
	assert_int_equal(look_at(p, N_LARGE), 0);
	huge_expect_tidy(p, MOST_OF(N_LARGE));
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, "--no-huge-pages", NULL);
	stream_resume(&p->stream);
	assert_int_equal(look_at(p, N_LARGE), 0);
}

static void readers_of_a_growing_table_get_right_answers_and_huge_pages_each_time(void **state)
{
	static const uint32_t sizes[] = {N_FEW, N_LARGE, N_LARGER};
	struct mp_place *p = *state;
	json_int_t generation;
	uint32_t n;

	NEEDS_COLLAPSE();
	daemon_start(&p->d, NULL);
	mp_fill_with(p, N_FEW, &some_maintain);
	stream_use(&p->stream, &p->readers, 0, N_HOT);
	readers_add(&p->readers, 2);
	for (unsigned i = 1; i < 3; i++) { /* by documents, at once */
		generation = mp_status(p, "generation");
		stream_load(&p->stream, sizes[i - 1], sizes[i] - sizes[i - 1]);
		assert_true(mp_status(p, "generation") > generation);
		show(p, sizes[i]);
		stream_do(&p->stream, 100);
		MP_UNTIL(huge_mapped(p->readers.pid[0], mp_status(p, "generation")) >= enough(p), 20000);
	}
	n = go_to_the_brink(p, N_LARGER);
	generation = mp_status(p, "generation");
	n = go_over_the_brink(p, n); /* by itself, in slices, with a thread */
	while (mp_status(p, "generation") == generation)
		stream_do(&p->stream, 1);
	show(p, n);
	MP_UNTIL(huge_mapped(p->readers.pid[0], mp_status(p, "generation")) >= enough(p), 20000);
	readers_await(&p->readers, 20, 20000);
	stream_compare(&p->stream);
	readers_finish(&p->readers, "growth on huge pages");
}

/* ---- killed ----------------------------------------------------------------------------------------------------- */

static long threads_of(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
	return huge_number(path, "Threads:");
}

static void killed_while_a_growth_gets_its_memory_the_daemon_keeps_all_and_leaves_nothing(void **state)
{
	unsigned kills = mp_number("BERTH_HUGE_KILLS", 6, 12), allocating = 0, half_made = 0;
	struct mp_place *p = *state;
	struct stream *s = &p->stream;
	uint64_t random = mp_seed();
	uint32_t n = N_LARGE;

	daemon_start(&p->d, NULL);
	fill(p, n);
	readers_open(&p->readers, p->d.dir, n, &some_maintain);
	stream_use(s, &p->readers, 0, N_HOT);
	readers_add(&p->readers, 2);
	huge_look_open(p);
	for (unsigned i = 0; i < kills; i++) {
		const struct timespec some_time = {.tv_nsec = (long)(mp_random(&random) % 10000000)};
		long idle;

		n = go_to_the_brink(p, n);
		idle = threads_of(p->d.pid);
		n = go_over_the_brink(p, n);
		for (unsigned c = 0; c < 4; c++)
			stream_send(s);
		if (i % 2) /* a random moment of what comes next: not a wait for anything */
			nanosleep(&some_time, NULL);
		allocating += threads_of(p->d.pid) > idle;
		daemon_kill(&p->d);
		half_made += exists(p, "reserve.new");
		while (s->n_flights && stream_answer(s)) /* what has left before the end */
			;
		daemon_start(&p->d, NULL);
		stream_resume(s);
		show(p, n);
		huge_expect_tidy(p, MOST_OF(n));
		huge_expect_all(0, N_FEW, n);
		readers_check(&p->readers);
	}
	printf("note: %u kills, %u in a growth, %u while its thread was at work; %u partitions are all there\n", kills,
	       half_made, allocating, n);
	assert_true(half_made > 0);
	readers_finish(&p->readers, "killed in a growth");
}

/* ---- too small a file system ------------------------------------------------------------------------------------ */

static unsigned long free_bytes(void)
{
	struct statfs s;

	assert_int_equal(statfs(huge_room, &s), 0);
	return (unsigned long)s.f_bavail * (unsigned long)s.f_bsize;
}

/* A document of n more is refused; so many bytes more the daemon asks for. */
static unsigned long load_refused(struct mp_place *p, uint32_t from, uint32_t n)
{
	char path[128], out[4096], key[READERS_KEY_SIZE], placement[READERS_JSON_SIZE], *more;
	FILE *f;

	snprintf(path, sizeof path, "%s/document", p->d.home);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (uint32_t i = from; i < from + n; i++) {
		readers_key(key, i);
		fprintf(f, "%s\"%s\":%s", i == from ? "" : ",\n", key,
			readers_placement(placement, i, 1 + i % STREAM_CLUSTERS, 1));
	}
	fputs("}}", f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(tool_run(&p->d, out, sizeof out, "--json", "load", path, NULL), 1);
	more = strstr(out, " bytes more");
	if (!strstr(out, "\"full\"") || !more)
		fail_msg("the refusal is not `full`, or names no bytes: %s", out);
	while (more > out && more[-1] >= '0' && more[-1] <= '9')
		more--;
	return strtoul(more, NULL, 10);
}

static void a_load_that_does_not_fit_names_the_bytes_and_leaves_all_as_it_was(void **state)
{
	const unsigned long room = 24ul << 20;
	uint32_t n = N_LARGE / 3, many = 3 * N_LARGE, some = n / 10;
	struct mp_place *p = *state;
	unsigned long before, more = 0;
	json_int_t generation;
	char resized[64];

	if (!own_mounts())
		skip();
	if (!huge_make_room("tmpfs", "size=24m,mode=0755"))
		SKIP("a tmpfs cannot be mounted: %s", strerror(errno));
	daemon_start(&p->d, "--table-dir", huge_tables, NULL);
	fill(p, n);
	readers_open(&p->readers, p->d.dir, n, &some_maintain);
	readers_add(&p->readers, 2);
	huge_look_open(p);
	huge_expect_tidy(p, MOST_OF(n));
	generation = mp_status(p, "generation");
	before = free_bytes();
	for (unsigned i = 0; i < 3; i++) {
		more = load_refused(p, n, many);
		assert_true(more > 0 && more < MOST_OF(n + many));
		assert_int_equal(mp_status(p, "partitions"), n);
		assert_int_equal(mp_status(p, "generation"), generation);
		huge_expect_tidy(p, MOST_OF(n));
		assert_int_equal(free_bytes(), before);
		huge_expect_all(0, 0, n);
		readers_await(&p->readers, 20, 20000);
		readers_check(&p->readers); /* a SIGBUS would have ended them */
	}
	printf("note: %u partitions more than %u are refused with %lu bytes free: %lu bytes more\n", many, n, before,
	       more);
	stream_load(&p->stream, n, some);
	show(p, n + some);
	huge_expect_all(0, 0, n + some);
	daemon_kill(&p->d);
	daemon_start(&p->d, "--table-dir", huge_tables, NULL);
	stream_resume(&p->stream);
	huge_expect_tidy(p, MOST_OF(n + some));
	/* With what it asks for it is content. */
	more = load_refused(p, n + some, many);
	snprintf(resized, sizeof resized, "size=%lu", room + more);
	assert_int_equal(mount("room", huge_room, "tmpfs", MS_REMOUNT, resized), 0);
	stream_load(&p->stream, n + some, many);
	show(p, n + some + many);
	huge_expect_all(0, 0, n + some + many);
	readers_await(&p->readers, 20, 20000);
	readers_finish(&p->readers, "too small a file system");
}

/* ---- hugetlbfs -------------------------------------------------------------------------------------------------- */

static void expect_on_hugetlbfs(struct mp_place *p, uint32_t n, long free_before)
{
	json_int_t generation, bytes, reserve;
	long used;

	huge_expect_tidy(p, MOST_OF(n) + 8 * SEG_HUGE);
	huge_expect_all(0, 0, n);
	generation = mp_status(p, "generation");
	assert_int_equal(huge_mapped(getpid(), generation), huge_file_size(p, generation));
	bytes = mp_status(p, "bytes");
	reserve = mp_status(p, "reserve_bytes");
	used = free_before - huge_pool_free();
	printf("note: %u partitions: a table of %lld huge pages, a reserve of %lld, %ld are used\n", n,
	       (long long)bytes / SEG_HUGE, (long long)reserve / SEG_HUGE, used);
	assert_int_equal(used * SEG_HUGE, bytes + reserve);
}

/* The daemon locks its memory: a mapping of this file system that is longer than it need be would take the whole pool. */
static void on_hugetlbfs_no_more_pages_are_taken_than_table_and_reserve_have(void **state)
{
	struct mp_place *p = *state;
	long before;

	if (!own_mounts())
		skip();
	if (huge_pool() < 0)
		SKIP("no pool of huge pages of 2 MiB");
	if (!huge_pool_add(POOL_PAGES))
		SKIP("the pool got %ld huge pages, %ld of them free, not %d: no memory in one piece, or not permitted",
		     huge_pool(), huge_pool_free(), POOL_PAGES);
	if (!huge_make_room("hugetlbfs", "mode=0755,pagesize=2M"))
		SKIP("a hugetlbfs cannot be mounted: %s", strerror(errno));
	before = huge_pool_free();
	daemon_start(&p->d, "--table-dir", huge_tables, NULL);
	fill(p, N_LARGE);
	huge_look_open(p);
	expect_on_hugetlbfs(p, N_LARGE, before);
	stream_load(&p->stream, N_LARGE, N_LARGER - N_LARGE);
	expect_on_hugetlbfs(p, N_LARGER, before);
	daemon_kill(&p->d);
	daemon_start(&p->d, "--table-dir", huge_tables, NULL);
	stream_resume(&p->stream);
	expect_on_hugetlbfs(p, N_LARGER, before);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, huge_setup, huge_teardown)
	const struct CMUnitTest tests[] = {
		TEST(readers_map_a_large_table_as_huge_pages_after_a_restart_too),
		TEST(no_huge_pages_are_made_where_they_are_not_wanted),
		TEST(readers_of_a_growing_table_get_right_answers_and_huge_pages_each_time),
		TEST(killed_while_a_growth_gets_its_memory_the_daemon_keeps_all_and_leaves_nothing),
		TEST(a_load_that_does_not_fit_names_the_bytes_and_leaves_all_as_it_was),
		TEST(on_hugetlbfs_no_more_pages_are_taken_than_table_and_reserve_have),
	};
	int rc;

	mp_begin();
	huge_begin();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	huge_end();
	return rc;
}
