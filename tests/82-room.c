/* SPDX-License-Identifier: MIT
 * A tmpfs that is full: at the first start, when a change needs a larger table, at every restart, and with another
 * process that takes each byte that becomes free. Errors are clear, nothing that was acknowledged goes, no process gets
 * a SIGBUS, and the daemon that ran can always be started again. Needs root: it mounts file systems, in a mount
 * namespace of its own. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"

#define KILLS 8
#define KEYS_MAX 60000u

static struct daemon *d;
static char room[100]; /* where the small file system is mounted */

static struct watch { /* shared with the reader process */
	_Atomic uint32_t stop, n_keys;
	_Atomic uint64_t rounds, failed;
	char first[120];
} * watch;
static pid_t reader;

/* ---- a place ---------------------------------------------------------------------------------------------------- */

static bool mount_room(unsigned long kib)
{
	char options[64];

	snprintf(options, sizeof options, "size=%luk,mode=0755", kib);
	return mount("room", room, "tmpfs", 0, options) == 0;
}

static void resize_room(unsigned long kib)
{
	char options[64];

	snprintf(options, sizeof options, "size=%luk", kib);
	assert_int_equal(mount("room", room, "tmpfs", MS_REMOUNT, options), 0);
}

static int make_room(void **state)
{
	(void)state;
	d = NULL;
	if (!own_mounts())
		return 0;
	d = calloc(1, sizeof *d);
	daemon_make(d, "sqlite");
	snprintf(room, sizeof room, "%s/room", d->home);
	snprintf(d->dir, sizeof d->dir, "%s/room/i", d->home);
	assert_int_equal(mkdir(room, 0755), 0);
	watch = mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(watch, MAP_FAILED);
	return 0;
}

static int remove_room(void **state)
{
	(void)state;
	if (!d)
		return 0;
	child_kill(&reader);
	if (d->pid)
		daemon_kill(d);
	while (umount2(room, MNT_DETACH) == 0)
		;
	daemon_remove(d);
	free(d);
	munmap(watch, sizeof *watch);
	return 0;
}

#define NEEDS_ROOM(kib) \
	do { \
		if (!d) \
			skip(); \
		if (!mount_room(kib)) \
			SKIP("a tmpfs cannot be mounted: %s", strerror(errno)); \
	} while (0)

static unsigned long free_bytes(void)
{
	struct statfs s;

	assert_int_equal(statfs(room, &s), 0);
	return (unsigned long)s.f_bavail * (unsigned long)s.f_bsize;
}

/* Takes all that is free, into a file that only grows. */
static void eat(int fd)
{
	static const char bytes[65536];
	size_t n = sizeof bytes;

	while (n >= 4096)
		if (write(fd, bytes, n) <= 0)
			n /= 2;
}

static int open_eater(void)
{
	char path[128];
	int fd;

	snprintf(path, sizeof path, "%s/eaten", room);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

static int eat_for_ever(void *arg)
{
	int fd = open_eater();

	(void)arg;
	while (getppid() > 1) {
		eat(fd);
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL); /* leaves the processor to those who want it */
	}
	return 0;
}

/* ---- partitions and a reader of them ---------------------------------------------------------------------------- */

static int key_of(char key[32], unsigned i)
{
	return snprintf(key, 32, "tenant-%06u", i);
}

/* Each with an index of its own, so that each needs a record too. */
static json_t *answer_to_set(struct wire *w, unsigned i)
{
	char key[32], index[32];

	key_of(key, i);
	snprintf(index, sizeof index, "index-%u", i);
	return wire_call(w, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", key, "placement", "mode", "dedicated-index",
			 "cluster", "c1", "index", index);
}

static bool right(struct berth_reader *r, unsigned i, char *why)
{
	struct berth_placement p;
	char key[32], index[32];
	int n = key_of(key, i), rc;
	bool fine;

	snprintf(index, sizeof index, "index-%u", i);
	berth_read_begin(r);
	rc = berth_lookup(r, key, (size_t)n, &p);
	fine = rc == BERTH_OK && strcmp(p.index, index) == 0 && p.cluster == 1 && p.epoch != 0;
	if (!fine)
		snprintf(why, 120, "%s answers %d (%s)", key, rc, berth_strerror(rc));
	berth_read_end(r);
	return fine;
}

static int read_on(void *arg)
{
	struct berth *b = NULL;
	struct berth_reader *r;

	(void)arg;
	if (berth_attach(d->dir, NULL, &b) != BERTH_OK || berth_reader_open(b, &r) != BERTH_OK)
		return 1;
	while (!atomic_load(&watch->stop)) {
		unsigned n = atomic_load(&watch->n_keys);
		char why[120];

		for (unsigned i = 0; i < n; i++)
			if (!right(r, i, why) && atomic_fetch_add(&watch->failed, 1) == 0)
				memcpy(watch->first, why, sizeof why);
		berth_maintain(b);
		atomic_fetch_add(&watch->rounds, 1);
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	berth_reader_close(&r);
	berth_detach(&b);
	return 0;
}

/* Two whole rounds from now on, by the reader, of which none failed. */
static void reader_is_content(void)
{
	uint64_t deadline = 0, rounds = atomic_load(&watch->rounds) + 2;

	while (within(&deadline) && atomic_load(&watch->rounds) < rounds && waitpid(reader, NULL, WNOHANG) == 0)
		;
	if (atomic_load(&watch->rounds) < rounds)
		fail_msg("the reader does not go on");
	if (atomic_load(&watch->failed))
		fail_msg("%llu look-ups failed, first: %s", (unsigned long long)atomic_load(&watch->failed),
			 watch->first);
}

static void end_reader(void)
{
	atomic_store(&watch->stop, 1);
	assert_int_equal(child_wait(reader, CHILD_MS), 0); /* a SIGBUS would be ENDED_BY_SIGNAL + 7 */
	reader = 0;
	assert_int_equal(atomic_load(&watch->failed), 0);
}

static void start_with(unsigned n)
{
	struct wire w;

	daemon_start(d, NULL);
	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "cluster.set", "{s:s}", "id", "c1");
	for (unsigned i = 0; i < n; i++)
		json_decref(answer_result(answer_to_set(&w, i)));
	wire_close(&w);
	atomic_store(&watch->n_keys, n);
	reader = part_start(read_on, NULL);
	reader_is_content();
}

static bool has_a_reserve(void)
{
	json_t *status = daemon_ask(d, "status");
	bool has = int_of(status, "reserve_bytes") >= int_of(status, "bytes") && !is_true(status, "growing") &&
		   int_of(status, "held_bytes") == 0;

	json_decref(status);
	return has;
}

static void wait_for_a_reserve(void)
{
	uint64_t deadline = 0;

	while (within(&deadline))
		if (has_a_reserve())
			return;
	fail_msg("no reserve is made: reserve %lld, table %lld, held %lld, free %lu",
		 (long long)daemon_status(d, "reserve_bytes"), (long long)daemon_status(d, "bytes"),
		 (long long)daemon_status(d, "held_bytes"), free_bytes());
}

/* ---- first start ------------------------------------------------------------------------------------------------ */

/* Exit code of a start in a room of this size; -1: it serves. */
static int first_start(unsigned long kib)
{
	const char *argv[] = {daemon_program("berthd"), "--dir", d->dir, "--store", "memory:", NULL};
	int log = open(d->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), status;
	uint64_t deadline = 0;
	pid_t pid, ended = 0;
	char *text;
	bool ready = false;

	assert_true(mount_room(kib));
	pid = child_start(argv, log);
	close(log);
	while (within(&deadline)) {
		ended = waitpid(pid, &status, WNOHANG);
		text = daemon_log(d);
		ready = strstr(text, "event=ready") != NULL;
		if (ended == pid && !strstr(text, "room"))
			fail_msg("in %lu KiB, what it says is not clear: %s", kib, text);
		free(text);
		if (ended == pid || ready)
			break;
	}
	if (ended != pid)
		child_kill(&pid);
	assert_int_equal(umount2(room, MNT_DETACH), 0);
	if (ready)
		return -1;
	if (ended != pid)
		fail_msg("in %lu KiB the daemon neither serves nor ends", kib);
	if (!WIFEXITED(status))
		fail_msg("in %lu KiB the daemon was ended by signal %d", kib, WTERMSIG(status));
	return WEXITSTATUS(status);
}

static void too_little_room_is_said_at_the_first_start(void **state)
{
	unsigned long kib;

	(void)state;
	NEEDS_ROOM(64);
	assert_int_equal(umount2(room, MNT_DETACH), 0);
	for (kib = 8; first_start(kib) == 1; kib += kib < 64 ? 4 : 60)
		assert_true(kib < 4096);
	printf("note: a first start needs between %lu and %lu KiB\n", kib - 60, kib);
	assert_int_equal(first_start(kib), -1);
}

static void a_start_that_found_no_room_leaves_the_way_free_for_the_next(void **state)
{
	(void)state;
	NEEDS_ROOM(1276);
	assert_int_equal(daemon_start_refused(d, NULL), 1);
	assert_int_equal(daemon_start_refused(d, NULL), 1);
	resize_room(4096);
	start_with(10);
	end_reader();
}

/* ---- growth ----------------------------------------------------------------------------------------------------- */

static void a_table_that_cannot_grow_says_full_and_keeps_what_it_has(void **state)
{
	struct wire w;
	json_t *answer, *error;
	unsigned n = 10, more;

	(void)state;
	NEEDS_ROOM(2176);
	start_with(n);
	wire_open(&w, d, WIRE_ADMIN);
	for (;; n++) {
		assert_true(n < KEYS_MAX);
		answer = answer_to_set(&w, n);
		error = json_object_get(answer, "error");
		if (error)
			break;
		json_decref(answer);
		atomic_store(&watch->n_keys, n + 1);
	}
	assert_string_equal(text_of(json_object_get(error, "data"), "code"), "full");
	printf("note: full after %u partitions in 1600 KiB: %s\n", n, text_of(error, "message"));
	assert_non_null(strstr(text_of(error, "message"), d->dir));
	json_decref(answer);
	reader_is_content();                /* all n are there */
	for (unsigned i = 0; i < 20; i++) { /* and go on being refused, and being there */
		answer = answer_to_set(&w, n);
		assert_non_null(json_object_get(answer, "error"));
		json_decref(answer);
	}
	assert_int_equal(daemon_status(d, "partitions"), n);
	/* what needs no entry goes on: migrations above all */
	wire_do(&w, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", "tenant-000001", "to", "mode", "dedicated-index",
		"cluster", "c1", "index", "index-2");
	wire_do(&w, "cutover", "{s:s}", "partition", "tenant-000001");
	wire_do(&w, "abort", "{s:s}", "partition", "tenant-000001");
	wire_do(&w, "remove", "{s:s, s:b}", "partition", "tenant-000000", "force", 1);
	wire_do(&w, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "tenant-000000", "placement", "mode",
		"dedicated-index", "cluster", "c1", "index", "index-0");
	atomic_store(&watch->failed, 0); /* of the moment in between */
	reader_is_content();
	resize_room(16384);
	for (more = n; more < n + 500; more++) {
		uint64_t deadline = 0;
		bool done = false;

		while (!done && within(&deadline)) { /* it tries again after a moment */
			answer = answer_to_set(&w, more);
			done = json_object_get(answer, "result") != NULL;
			json_decref(answer);
		}
		assert_true(done);
	}
	atomic_store(&watch->n_keys, more);
	reader_is_content();
	wire_close(&w);
	end_reader();
}

static void a_document_that_does_not_fit_is_refused_whole(void **state)
{
	char path[128], out[2048];
	FILE *f;

	(void)state;
	NEEDS_ROOM(2176);
	start_with(10);
	snprintf(path, sizeof path, "%s/document", d->home);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (unsigned i = 0; i < 30000; i++)
		fprintf(f, "%s\"more-%u\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"more-%u\"}",
			i ? "," : "", i, i);
	fputs("}}", f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(tool_run(d, out, sizeof out, "load", path, NULL), 1);
	assert_non_null(strstr(out, "room"));
	assert_int_equal(daemon_status(d, "partitions"), 10);
	reader_is_content();
	resize_room(64 * 1024);
	assert_int_equal(tool_run(d, out, sizeof out, "load", path, NULL), 0);
	assert_int_equal(daemon_status(d, "partitions"), 30010);
	end_reader();
}

/* ---- restarts --------------------------------------------------------------------------------------------------- */

/* When the daemon dies: with everything in order; as soon as it serves, before the reserve of the next start is there;
 * or somewhere in its start. */
enum moment { AT_REST, AT_ONCE, IN_ITS_START };

/* Or until it is too late for that. */
static void wait_for_building(void)
{
	uint64_t deadline = test_now_ms() + 1000;
	char path[200];

	snprintf(path, sizeof path, "%s/tables/building", d->dir);
	while (access(path, F_OK) != 0 && test_now_ms() < deadline)
		;
}

static void kill_and_start(enum moment moment)
{
	const unsigned times = moment == AT_REST ? KILLS : 3 * KILLS;

	for (unsigned i = 0; i < times; i++) {
		if (moment == AT_REST)
			wait_for_a_reserve();
		daemon_kill(d);
		if (moment == IN_ITS_START) {
			daemon_spawn(d, NULL);
			if (i % 2) /* while it builds the next generation */
				wait_for_building();
			else /* a random moment: there is no condition to wait for */
				nanosleep(&(struct timespec){.tv_nsec = rand() % 25 * 1000000}, NULL);
			daemon_kill(d);
		}
		daemon_start(d, NULL); /* fails the test when it does not start */
		if (moment == AT_REST)
			reader_is_content();
	}
	reader_is_content();
	assert_int_equal(daemon_status(d, "partitions"), atomic_load(&watch->n_keys));
}

static void a_killed_daemon_starts_again_in_a_full_room(void **state)
{
	int fd;

	NEEDS_ROOM(8192);
	start_with((unsigned)(uintptr_t)*state);
	wait_for_a_reserve();
	fd = open_eater();
	eat(fd);
	assert_true(free_bytes() < 4096);
	for (enum moment m = AT_REST; m <= IN_ITS_START; m++)
		kill_and_start(m);
	close(fd);
	end_reader();
}

static void it_starts_again_beside_a_process_that_takes_every_free_byte(void **state)
{
	pid_t eater;

	NEEDS_ROOM(8192);
	start_with((unsigned)(uintptr_t)*state);
	wait_for_a_reserve();
	eater = part_start(eat_for_ever, NULL);
	for (uint64_t deadline = 0; within(&deadline) && free_bytes() >= 4096;)
		;
	for (enum moment m = AT_REST; m <= IN_ITS_START; m++)
		kill_and_start(m);
	child_kill(&eater);
	end_reader();
}

static void changes_go_on_in_a_full_room(void **state)
{
	struct wire w;
	int fd;

	NEEDS_ROOM(8192);
	start_with((unsigned)(uintptr_t)*state);
	wait_for_a_reserve();
	fd = open_eater();
	eat(fd);
	wire_open(&w, d, WIRE_ADMIN);
	for (unsigned round = 0; round < 300; round++) {
		char key[32];

		key_of(key, 5000 + round % 7);
		wire_do(&w, "set", "{s:s, s:b, s:{s:s, s:s}}", "partition", key, "force", 1, "placement", "mode",
			"dedicated-cluster", "cluster", "c1");
		wire_do(&w, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", key, "to", "mode", "dedicated-index",
			"cluster", "c1", "index", "x");
		wire_do(&w, "abort", "{s:s}", "partition", key);
		wire_do(&w, "remove", "{s:s, s:b}", "partition", key, "force", 1);
	}
	wire_close(&w);
	reader_is_content();
	daemon_kill(d);
	daemon_start(d, NULL);
	reader_is_content();
	close(fd);
	end_reader();
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_room, remove_room)
/* The reserve of a few partitions is of small pages, that of many of huge ones. */
#define TEST_WITH(f, n_partitions) \
	{ \
#f " (" #n_partitions " partitions)", f, make_room, remove_room, (void *)(uintptr_t)(n_partitions) \
	}
	const struct CMUnitTest tests[] = {
		TEST(too_little_room_is_said_at_the_first_start),
		TEST(a_start_that_found_no_room_leaves_the_way_free_for_the_next),
		TEST(a_table_that_cannot_grow_says_full_and_keeps_what_it_has),
		TEST(a_document_that_does_not_fit_is_refused_whole),
		TEST_WITH(changes_go_on_in_a_full_room, 10),
		TEST_WITH(changes_go_on_in_a_full_room, 1500),
		TEST_WITH(a_killed_daemon_starts_again_in_a_full_room, 10),
		TEST_WITH(a_killed_daemon_starts_again_in_a_full_room, 1500),
		TEST_WITH(it_starts_again_beside_a_process_that_takes_every_free_byte, 10),
		TEST_WITH(it_starts_again_beside_a_process_that_takes_every_free_byte, 1500),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
