/* SPDX-License-Identifier: MIT
 * huge_place.h. */
#include "huge_place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "readers_loop.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; the C library's headers may be older */
#endif
#define TIDY_MS 20000u
#define POOL "/proc/sys/vm/nr_hugepages"

char huge_room[100], huge_tables[120];

static struct {
	struct berth *b;
	struct berth_reader *r;
} look;

/* ---- the keeper ------------------------------------------------------------------------------------------------- */

static struct { /* shared with it */
	char home[sizeof(((struct daemon *)0)->home)];
	long pages; /* of the pool, as they were; -1: not changed */
} * keeper;
static pid_t keeper_pid;
static int keeper_pipe;

static void pool_set(long pages)
{
	FILE *f = fopen(POOL, "we");

	if (f) {
		fprintf(f, "%ld\n", pages);
		fclose(f);
	}
}

static void pool_give_back(void)
{
	if (keeper->pages >= 0)
		pool_set(keeper->pages);
	keeper->pages = -1;
}

/* Made before the mount namespace is: outside of it a directory that is a mount point inside can be removed. */
void huge_begin(void)
{
	int ends[2];
	char byte;

	keeper = mmap(NULL, sizeof *keeper, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (keeper == MAP_FAILED || pipe2(ends, O_CLOEXEC) != 0)
		exit(99);
	keeper->pages = -1;
	keeper_pid = fork();
	if (keeper_pid == 0) {
		setsid(); /* what ends the test's process group does not end it */
		close(ends[1]);
		while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
			;
		pool_give_back();
		if (keeper->home[0])
			remove_tree(keeper->home);
		_exit(0);
	}
	if (keeper_pid < 0)
		exit(99);
	close(ends[0]);
	keeper_pipe = ends[1];
}

void huge_end(void)
{
	close(keeper_pipe);
	waitpid(keeper_pid, NULL, 0);
}

/* ---- what the machine has --------------------------------------------------------------------------------------- */

int huge_setup(void **state)
{
	struct mp_place *p = calloc(1, sizeof *p);

	mp_place_make(p, "memory");
	strcpy(keeper->home, p->d.home);
	snprintf(huge_room, sizeof huge_room, "%s/room", p->d.home);
	snprintf(huge_tables, sizeof huge_tables, "%s/tables", huge_room);
	*state = p;
	return 0;
}

int huge_teardown(void **state)
{
	struct mp_place *p = *state;
	int rc;

	huge_look_close();
	readers_kill_all();
	if (p->d.pid)
		daemon_kill(&p->d);
	while (umount2(huge_room, MNT_DETACH) == 0)
		;
	pool_give_back();
	rc = mp_teardown(state);
	keeper->home[0] = '\0';
	return rc;
}

bool huge_make_room(const char *type, const char *options)
{
	assert_int_equal(mkdir(huge_room, 0755), 0);
	if (mount("room", huge_room, type, 0, options) != 0)
		return false;
	assert_int_equal(mkdir(huge_tables, 0755), 0);
	return true;
}

int huge_collapse_refused(void)
{
	size_t size = 4 * SEG_HUGE;
	int fd = memfd_create("probe", MFD_CLOEXEC), e;
	void *at;

	assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	at = seg_map_file(fd, 0, size, PROT_READ | PROT_WRITE, 0);
	assert_true(at != MAP_FAILED);
	memset(at, 1, size);
	e = madvise(at, size, MADV_COLLAPSE) == 0 ? 0 : errno;
	munmap(at, size);
	close(fd);
	return e;
}

long huge_number(const char *path, const char *name)
{
	char line[256];
	long n = -1;
	FILE *f = fopen(path, "re");

	while (f && n < 0 && fgets(line, sizeof line, f))
		if (strncmp(line, name, strlen(name)) == 0)
			n = strtol(line + strlen(name), NULL, 10);
	if (f)
		fclose(f);
	return n;
}

long huge_pool(void)
{
	return huge_number("/proc/meminfo", "Hugepagesize:") == SEG_HUGE / 1024 ? huge_number(POOL, "") : -1;
}

long huge_pool_free(void)
{
	return huge_number("/proc/meminfo", "HugePages_Free:");
}

bool huge_pool_add(long pages)
{
	keeper->pages = huge_pool();
	pool_set(keeper->pages + pages);
	return huge_pool() == keeper->pages + pages && huge_pool_free() >= pages;
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

void huge_look_open(const struct mp_place *p)
{
	assert_int_equal(berth_attach(p->d.dir, NULL, &look.b), BERTH_OK);
	assert_int_equal(berth_reader_open(look.b, &look.r), BERTH_OK);
}

void huge_look_close(void)
{
	if (look.r) {
		berth_read_end(look.r); /* of a look-up that failed the test */
		berth_reader_close(&look.r);
	}
	if (look.b)
		berth_detach(&look.b);
}

static void expect_one(uint32_t i)
{
	char key[READERS_KEY_SIZE], index[40];
	unsigned k = 1 + i % STREAM_CLUSTERS;
	struct berth_placement p;
	int rc;

	snprintf(index, sizeof index, "t%u-c%u-v1", i, k);
	berth_read_begin(look.r);
	rc = berth_lookup(look.r, key, readers_key(key, i), &p);
	if (rc != BERTH_OK)
		fail_msg("partition %u: %s", i, berth_strerror(rc));
	if (p.cluster != k || p.kind != readers_kind(i) || p.phase != BERTH_SETTLED || p.epoch == 0 || p.is_default ||
	    (p.kind != BERTH_DEDICATED_CLUSTER && strcmp(p.index, index) != 0))
		fail_msg("partition %u is on cluster %u as kind %u, phase %u, index `%.60s`, instead of %s", i,
			 p.cluster, p.kind, p.phase, p.index ? p.index : "", index);
	berth_read_end(look.r);
}

void huge_expect_all(uint32_t skip, uint32_t end, uint32_t n)
{
	MP_UNTIL(berth_maintain(look.b) == BERTH_OK, 20000);
	for (uint32_t i = 0; i < n; i++)
		if (i < skip || i >= end)
			expect_one(i);
}

uint64_t huge_mapped(pid_t pid, json_int_t generation)
{
	static const char *const counters[] = {
		"ShmemPmdMapped:", "FilePmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"};
	char path[64], name[40], line[512];
	uint64_t kib = 0;
	bool in = false;
	FILE *f;

	snprintf(name, sizeof name, "/table.%u\n", (unsigned)generation);
	snprintf(path, sizeof path, "/proc/%ld/smaps", (long)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f)) {
		size_t len = strlen(line);

		if (line[0] < 'A' || line[0] > 'Z') /* the first line of a mapping: its addresses */
			in = len > strlen(name) && strcmp(line + len - strlen(name), name) == 0;
		for (size_t i = 0; in && i < sizeof counters / sizeof counters[0]; i++)
			if (strncmp(line, counters[i], strlen(counters[i])) == 0)
				kib += strtoull(line + strlen(counters[i]), NULL, 10);
	}
	if (f)
		fclose(f);
	return kib * 1024;
}

uint64_t huge_file_size(const struct mp_place *p, json_int_t generation)
{
	char path[160];
	struct stat st;

	snprintf(path, sizeof path, "%s/tables/table.%u", p->d.dir, (unsigned)generation);
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

/* The files of the tables: what they take, and their names. */
static uint64_t files(const struct mp_place *p, char names[256])
{
	uint64_t bytes = 0;
	struct dirent *e;
	struct stat st;
	char path[160];
	size_t len = 0;
	DIR *d;

	snprintf(path, sizeof path, "%s/tables", p->d.dir);
	d = opendir(path);
	assert_non_null(d);
	names[0] = '\0';
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.' || len >= 200 || fstatat(dirfd(d), e->d_name, &st, 0) != 0)
			continue;
		len += (size_t)snprintf(names + len, 256 - len, " %.40s", e->d_name);
		bytes += (uint64_t)st.st_blocks * 512;
	}
	closedir(d);
	return bytes;
}

static bool settled(struct mp_place *p, uint64_t *bytes, char expected[256])
{
	json_t *status = wire_ok(&p->stream.wire, "status", NULL);
	bool is = !is_true(status, "growing") && int_of(status, "retired") == 0 && int_of(status, "held_bytes") == 0 &&
		  int_of(status, "reserve_bytes") >= int_of(status, "bytes");

	*bytes = (uint64_t)(int_of(status, "bytes") + int_of(status, "reserve_bytes"));
	snprintf(expected, 256, "table.%u", (unsigned)int_of(status, "generation"));
	json_decref(status);
	return is;
}

void huge_expect_tidy(struct mp_place *p, uint64_t most)
{
	uint64_t until = mp_now_ms() + TIDY_MS, said, bytes;
	char names[256], table[256];

	for (;; mp_pause()) {
		bool is = settled(p, &said, table);

		bytes = files(p, names);
		if (is && strstr(names, table) && strlen(names) == strlen(table) + strlen("  reserve"))
			break;
		if (mp_now_ms() > until)
			fail_msg("the files are%s, not %s and reserve; %s", names, table,
				 is ? "nothing is under way" : "the daemon is not through");
	}
	if (bytes > said || said > most)
		fail_msg("the files take %llu bytes, the daemon says %llu, it may be %llu", (unsigned long long)bytes,
			 (unsigned long long)said, (unsigned long long)most);
}
