/* SPDX-License-Identifier: MIT
 * A table that would have to grow on a file system that has no room for a larger one: it takes nothing of what is free,
 * each second anew or for each refused insertion, and the log says once that it cannot. 82-room.c has the rest. Needs
 * root: it mounts a file system, in a mount namespace of its own. */
#include "child.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>

#define N 40000u
#define BATCH 500u
#define SPARE_KIB 6144ul /* free while the table cannot grow */
#define LITTLE (64ul << 10)

static struct daemon *d;
static char room[100];
static pid_t sampler;
static _Atomic unsigned long *least; /* bytes that were free since it was last set */

static unsigned long free_bytes(void)
{
	struct statfs s;

	assert_int_equal(statfs(room, &s), 0);
	return (unsigned long)s.f_bavail * (unsigned long)s.f_bsize;
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
	daemon_make(d, "memory");
	snprintf(room, sizeof room, "%s/room", d->home);
	snprintf(d->dir, sizeof d->dir, "%s/room/i", d->home);
	assert_int_equal(mkdir(room, 0755), 0);
	least = mmap(NULL, sizeof *least, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(least, MAP_FAILED);
	return 0;
}

static int remove_room(void **state)
{
	(void)state;
	if (!d)
		return 0;
	child_kill(&sampler);
	if (d->pid)
		daemon_kill(d);
	while (umount2(room, MNT_DETACH) == 0)
		;
	daemon_remove(d);
	free(d);
	munmap((void *)least, sizeof *least);
	return 0;
}

static int sample(void *arg)
{
	(void)arg;
	for (;;) {
		struct statfs s;
		unsigned long now;

		if (statfs(room, &s) != 0)
			return 1;
		now = (unsigned long)s.f_bavail * (unsigned long)s.f_bsize;
		if (now < atomic_load(least))
			atomic_store(least, now);
		nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
	}
}

static void assert_nothing_was_taken(unsigned long of, const char *when)
{
	unsigned long now = atomic_load(least);

	if (now + LITTLE < of)
		fail_msg("%s, %lu of %lu free bytes were taken", when, of - now, of);
}

static void load(void)
{
	char path[128], out[2048];
	FILE *f;

	snprintf(path, sizeof path, "%s/document", d->home);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("{\"partitions\":{", f);
	for (unsigned i = 0; i < N; i++)
		fprintf(f, "%s\"p-%u\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}", i ? "," : "", i);
	fputs("}}", f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(tool_run(d, out, sizeof out, "load", path, NULL), 0);
}

static bool at_rest(void)
{
	json_t *status = daemon_ask(d, "status");
	bool is = int_of(status, "reserve_bytes") >= int_of(status, "bytes") && !is_true(status, "growing") &&
		  int_of(status, "held_bytes") == 0;

	json_decref(status);
	return is;
}

/* Is the answer a result? n new partitions. */
static bool insert(struct wire *w, unsigned *next, unsigned n)
{
	json_t *ids = json_array(), *answer;
	char id[32];
	bool done;

	for (unsigned i = 0; i < n; i++) {
		snprintf(id, sizeof id, "more-%u", *next + i);
		json_array_append_new(ids, json_string(id));
	}
	answer = wire_call(w, "set", "{s:o, s:{s:s, s:s}}", "partitions", ids, "placement", "mode", "dedicated-cluster",
			   "cluster", "c1");
	done = json_object_get(answer, "result") != NULL;
	if (!done)
		assert_string_equal(text_of(json_object_get(json_object_get(answer, "error"), "data"), "code"), "full");
	json_decref(answer);
	*next += done ? n : 0;
	return done;
}

static unsigned times_told(void)
{
	char *log = daemon_log(d);
	unsigned n = 0;

	for (const char *at = log; (at = strstr(at, "event=growth-failed")); at++) {
		n++;
		assert_non_null(strstr(at, "missing_bytes="));
	}
	free(log);
	return n;
}

static void what_is_free_stays_free_while_the_table_cannot_grow(void **state)
{
	uint64_t deadline = 0;
	unsigned next = 0, refused = 0;
	unsigned long before;
	json_int_t generation, capacity;
	struct statfs s;
	struct wire w;

	(void)state;
	if (!d)
		skip();
	if (mount("room", room, "tmpfs", 0, "size=64m,mode=0755") != 0)
		SKIP("a tmpfs cannot be mounted: %s", strerror(errno));
	daemon_start(d, NULL);
	load();
	while (within(&deadline) && !at_rest())
		;
	assert_int_equal(statfs(room, &s), 0);
	resize_room((unsigned long)((s.f_blocks - s.f_bfree) * (unsigned long)s.f_bsize >> 10) + SPARE_KIB);
	before = free_bytes();
	assert_true(before >= SPARE_KIB << 10);
	atomic_store(least, before);
	sampler = part_start(sample, NULL);
	generation = daemon_status(d, "generation");
	capacity = daemon_status(d, "capacity");
	wire_open(&w, d, WIRE_ADMIN);
	while (daemon_status(d, "partitions") <= capacity - capacity / 4)
		assert_true(insert(&w, &next, BATCH));
	for (deadline = 0; within(&deadline) && times_told() == 0;)
		;
	nanosleep(&(struct timespec){.tv_sec = 2, .tv_nsec = 200000000}, NULL); /* two tries more */
	assert_nothing_was_taken(before, "as growth was tried again");
	assert_int_equal(times_told(), 1);
	while (insert(&w, &next, BATCH))
		assert_true(next < 2 * capacity);
	while (refused < 50)
		refused += !insert(&w, &next, refused % 2 ? BATCH : 1);
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_nothing_was_taken(before, "at insertions in a full table");
	assert_int_equal(times_told(), 1);
	assert_int_equal(daemon_status(d, "generation"), generation);
	resize_room(64 << 10);
	for (deadline = 0; within(&deadline) && daemon_status(d, "generation") == generation;)
		;
	assert_true(insert(&w, &next, BATCH));
	assert_int_equal(times_told(), 1);
	wire_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_free_stays_free_while_the_table_cannot_grow, make_room,
						remove_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
