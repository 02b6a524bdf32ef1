/* SPDX-License-Identifier: MIT
 * torture_crash.h: scenes of starts: on nothing, on a root of another layout, among files that are not as they should be,
 * with another barrier, with and without a mirror. */
#include "torture_crash.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "../shm/segment.h"
#include "child.h"

static void some_content(struct crash *c)
{
	cr_cluster(c, 1, "http://10.0.0.1:9200");
	cr_cluster(c, 2, "http://10.0.0.2:9200");
	cr_set(c, 0, 1, false);
	cr_set(c, 3, 2, false);
	cr_begin(c, 3, 1);
	cr_cutover(c, 3);
	cr_remove(c, 0);
	cr_default(c, 2);
}

static void kill_it(struct crash *c)
{
	if (!cr_dead(c, false))
		cr_kill(c);
}

/* ---- on nothing -------------------------------------------------------------------------------------------- */

static void start_on_nothing(struct crash *c)
{
	static const char *const stores[] = {"store.db", "store.db-wal", "store.db-shm", "store.db-journal"};
	char path[192];

	kill_it(c);
	remove_tree(c->d->dir);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/%s", c->d->home, stores[i]);
		unlink(path);
	}
	cr_forget(c);
	cr_settle(c);
	some_content(c);
}

static void start_again(struct crash *c)
{
	cr_stop(c);
	cr_settle(c);
	cr_await_rest(c);
}

static const struct cr_step first_starts[] = {{"start on nothing", start_on_nothing, CR_AGAIN},
					      {"start again", start_again, CR_PLAIN},
					      {NULL, NULL, CR_PLAIN}};

/* ---- another layout ---------------------------------------------------------------------------------------- */

static void another_layout(struct crash *c)
{
	uint64_t strange = 0x5eed5eed5eed5eed;
	char path[192];
	int fd;

	kill_it(c);
	cr_path(c, path, "root");
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &strange, sizeof(((struct shm_root *)0)->fingerprint),
				offsetof(struct shm_root, fingerprint)),
			 sizeof(((struct shm_root *)0)->fingerprint));
	close(fd);
	if (!cr_durable(c))
		cr_forget(c);
	cr_settle(c);
	if (!cr_durable(c))
		some_content(c);
}

static const struct cr_step layouts[] = {{"a root of another layout", another_layout, CR_AGAIN},
					 {NULL, NULL, CR_PLAIN}};

/* ---- strange files ----------------------------------------------------------------------------------------- */

static void junk(const struct crash *c, const char *name)
{
	char path[192];
	int fd;

	cr_path(c, path, name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	close(fd);
}

/* The table in force, under the name of an older one: as after a death between two flips. */
static void older_table(const struct crash *c)
{
	char path[192], from[512], to[512], out[64];
	unsigned long highest = 0, n;
	struct dirent *e;
	DIR *d;
	int fd;

	cr_path(c, path, "tables");
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d)) != NULL)
		if (sscanf(e->d_name, "table.%lu", &n) == 1 && n > highest && n < 1000000)
			highest = n;
	closedir(d);
	snprintf(from, sizeof from, "%s/table.%lu", path, highest);
	snprintf(to, sizeof to, "%s/table.%lu", path, highest - 1);
	if (highest > 1)
		assert_int_equal(child_run((const char *const[]){"/bin/cp", from, to, NULL}, out, sizeof out, CHILD_MS),
				 0);
	snprintf(to, sizeof to, "%s/reserve", path);
	fd = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	assert_int_equal(posix_fallocate(fd, 0, 4096), 0); /* a reserve that is too small */
	close(fd);
}

static void strange_files(struct crash *c)
{
	kill_it(c);
	older_table(c);
	junk(c, "tables/table.4000000000");
	junk(c, "tables/table.4000000001");
	junk(c, "tables/building");
	junk(c, "tables/reserve.new");
	junk(c, "readers/stranger");
	cr_settle(c);
	cr_await_rest(c);
}

/* ---- another barrier --------------------------------------------------------------------------------------- */

/* The rules of the one before go on until it has passed. */
static bool old_barrier_stands(const struct crash *c)
{
	const struct shm_root *root;
	uint64_t old;
	char path[192];
	int fd;

	cr_path(c, path, "root");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	root = mmap(NULL, sizeof *root, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	assert_true(root != MAP_FAILED);
	old = atomic_load(&root->old_barrier_ms);
	munmap((void *)(uintptr_t)root, sizeof *root);
	return old != 0 && old != strtoul(c->options[1], NULL, 10); /* equal: it was no other */
}

static void another_barrier(struct crash *c)
{
	static const char *const lengths[] = {"90", "60"};

	for (unsigned i = 0; i < 2; i++) {
		uint64_t until = mp_now_ms() + 20000;

		kill_it(c);
		c->options[1] = lengths[i];
		cr_settle(c);
		for (; old_barrier_stands(c); mp_pause()) {
			if (cr_dead(c, false))
				cr_settle(c);
			if (mp_now_ms() > until)
				fail_msg("%s: the barrier of before does not pass\n%s", c->where, cr_log(c));
		}
	}
}

static void open_content(struct crash *c)
{
	some_content(c);
}

static const struct cr_step strange[] = {{"strange files", strange_files, CR_AGAIN}, {NULL, NULL, CR_PLAIN}};
static const struct cr_step barriers[] = {{"another barrier", another_barrier, CR_PLAIN}, {NULL, NULL, CR_PLAIN}};

/* ---- a mirror ---------------------------------------------------------------------------------------------- */

static void without_mirror(struct crash *c)
{
	cr_stop(c);
	c->options[2] = NULL;
	cr_settle(c);
	cr_set(c, 5, 1, true);
}

static void with_mirror(struct crash *c)
{
	cr_stop(c);
	c->options[2] = "--bpf";
	cr_settle(c);
	cr_set(c, 5, 2, true);
	cr_cluster(c, 2, "http://10.0.0.9:9200");
	cr_cluster(c, 2, "http://10.0.0.2:9200");
}

/* Its pins are gone, but a program holds its maps. */
static void stray_mirror(struct crash *c)
{
	char path[192];
	int fd;

	while (cr_dead(c, false))
		cr_settle(c);
	snprintf(path, sizeof path, "%s/control", c->place.pins);
	fd = bpf_pinned(&c->place, "control");
	kill_it(c);
	remove_tree(c->place.pins);
	cr_settle(c);
	close(fd);
}

static void *map_of(struct crash *c, const char *name, size_t size)
{
	int fd = bpf_pinned(&c->place, name);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	assert_true(p != MAP_FAILED);
	return p;
}

/* A write that a packet program has under way, as it says so in the mirror's map, keeps that map over the mirror's end. */
static void write_outlives_the_mirror(struct crash *c)
{
	struct mirror_control *control;
	struct mirror_lease *leases;
	char past[192];

	while (cr_dead(c, false))
		cr_settle(c);
	control = map_of(c, "control", sizeof *control);
	leases = map_of(c, "leases", MIRROR_LEASES * sizeof *leases);
	leases[0].state = lease_state(LEASE_OPEN, mp_now_ms());
	leases[0].hash = 77;
	control->lease_high = 1;
	without_mirror(c);
	snprintf(past, sizeof past, "%s/past-0-control", c->place.pins);
	assert_int_equal(access(past, F_OK), 0);
	leases[0].hash = 0; /* it ends */
	for (uint64_t until = mp_now_ms() + 20000; access(past, F_OK) == 0; mp_pause()) {
		if (cr_dead(c, false))
			cr_settle(c);
		if (mp_now_ms() > until)
			fail_msg("%s: %s does not go, and nothing is open in it", c->where, past);
	}
	munmap(control, sizeof *control);
	munmap(leases, MIRROR_LEASES * sizeof *leases);
}

static const struct cr_step pasts[] = {{"a write outlives the mirror", write_outlives_the_mirror, CR_PLAIN},
				       {"with a mirror again", with_mirror, CR_PLAIN},
				       {NULL, NULL, CR_PLAIN}};
static const struct cr_step mirrors[] = {{"without a mirror", without_mirror, CR_OWN_STARTS},
					 {"with a mirror again", with_mirror, CR_OWN_STARTS},
					 {"a mirror without pins", stray_mirror, CR_AGAIN},
					 {NULL, NULL, CR_PLAIN}};

#define BARRIER "--barrier-ms", "60"
const struct cr_scene cr_start_scenes[] = {
	{"first start, memory", "memory", 0, false, open_content, NULL, first_starts, {BARRIER}},
	{"first start, sqlite, tables elsewhere",
	 "sqlite",
	 0,
	 false,
	 open_content,
	 NULL,
	 first_starts,
	 {BARRIER, "--table-dir", "@tables"}},
	{"first start, memory, mirror", "memory", 0, false, open_content, NULL, first_starts, {BARRIER, "--bpf"}},
	{"another layout, memory", "memory", 0, false, open_content, NULL, layouts, {BARRIER, "--new-directory"}},
	{"another layout, sqlite, mirror", "sqlite", 0, false, open_content, NULL, layouts, {BARRIER, "--bpf"}},
	{"strange files, sqlite", "sqlite", 0, false, open_content, NULL, strange, {BARRIER}},
	{"another barrier, memory", "memory", 0, false, open_content, NULL, barriers, {BARRIER}},
	{"starts with a mirror, memory", "memory", 0, false, open_content, NULL, mirrors, {BARRIER, "--bpf"}},
	{"a write outlives the mirror, memory", "memory", 0, false, open_content, NULL, pasts, {BARRIER, "--bpf"}},
	{NULL, NULL, 0, false, NULL, NULL, NULL, {NULL}}};
