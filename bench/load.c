/* SPDX-License-Identifier: MIT
 * A million partitions at once: a document loaded into an sqlite store through the socket, the memory that takes, and a
 * start with all of them in the store, in an empty directory as after a boot. The daemon is not pinned: it may use what
 * the machine has. The store lies in TMPDIR (/tmp), on a disk if that is one, with sqlite's own syncs; its file is in
 * the page cache when it is read again. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "bench.h"

#define PARTITIONS 1000000u
#define PARTITIONS_QUICK 20000u
#define ROUNDS_LEAST 9u
#define START_S 120u
#define MIB 1048576.0

struct memory {           /* of an instance's files, as the file system counts it */
	uint64_t table;   /* the present table: the newest */
	uint64_t reserve; /* kept for the next one */
	uint64_t all;
};

static struct memory found; /* by find_memory, which nftw gives no argument */

static int find_memory(const char *path, const struct stat *st, int type, struct FTW *at)
{
	static unsigned long newest;
	const char *name = path + at->base;
	uint64_t bytes;

	if (at->level == 0)
		newest = 0;
	if (type != FTW_F)
		return 0;
	bytes = (uint64_t)st->st_blocks * 512;
	found.all += bytes;
	if (strcmp(name, "reserve") == 0)
		found.reserve = bytes;
	if (strncmp(name, "table.", 6) == 0 && strtoul(name + 6, NULL, 10) >= newest) {
		newest = strtoul(name + 6, NULL, 10);
		found.table = bytes;
	}
	return 0;
}

static struct memory shared_memory(const char *dir)
{
	found = (struct memory){0};
	if (nftw(dir, find_memory, 16, FTW_PHYS) != 0 || found.table == 0)
		fail("no file of a table in %s", dir);
	return found;
}

/* Waits until the files stay as they are: a grown table leaves its old one to be removed in the background. */
static struct memory settled_memory(struct daemon *d)
{
	static char answer[8192];
	struct memory m = shared_memory(d->dir), last;

	for (unsigned i = 0; i < 200; i++) {
		usleep(50000);
		last = m;
		m = shared_memory(d->dir);
		daemon_call(d, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n", -1, answer, sizeof(answer),
			    NULL);
		if (m.all == last.all && m.reserve >= m.table && strstr(answer, "\"growing\":false"))
			break;
	}
	return m;
}

/* From fork to the first answer. The one who asks tries every millisecond, as a proxy that starts together with it. */
static double time_start(const struct bench *b, struct daemon *d, const char *store, uint32_t n)
{
	uint64_t from = now_ns();
	struct berth_attach_options options = {.size = sizeof(options), .wait_ms = BERTH_NO_WAIT};
	struct berth_reader *r = NULL;
	struct berth *berth = NULL;
	struct berth_route out;
	char key[KEY_ROOM];
	double t;

	key_name(key, n / 2);
	daemon_spawn(b, d, "load", &(struct daemon_how){.store = store, .cpu = -1, .fresh = true});
	for (;;) {
		if (berth_attach(d->dir, &options, &berth) == BERTH_OK) {
			if (berth_reader_open(berth, &r) == BERTH_OK && berth_route(r, key, KEY_LEN, &out) == BERTH_OK)
				break;
			berth_reader_close(&r);
			berth_detach(&berth);
		}
		if (waitpid(d->pid, NULL, WNOHANG) == d->pid || now_ns() - from > START_S * 1000000000ull)
			fail("berthd does not start with the store %s: see %s", store, d->log);
		usleep(1000);
	}
	t = elapsed_ns(from) / 1e9;
	berth_reader_close(&r);
	berth_detach(&berth);
	return t;
}

static void remove_store(const char *store)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	char path[4200];

	for (unsigned i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", store, suffixes[i]);
		unlink(path);
	}
}

void workload_load(const struct bench *b)
{
	static struct figure f[] = {
		{.name = "load a document into sqlite", .unit = "s", .goal = 10},
		{.name = "own memory meanwhile, peak", .unit = "MiB", .goal = 1024},
		{.name = "shared memory, table", .unit = "B/part", .goal = 120},
		{.name = "shared memory, table and reserve", .unit = "B/part"},
		{.name = "start until a look-up answers", .unit = "s", .goal = 4},
		{.name = "own memory meanwhile and after", .unit = "MiB"},
		{.name = "shared memory after that, table", .unit = "B/part", .goal = 120},
	};
	uint32_t n = b->quick ? PARTITIONS_QUICK : PARTITIONS;
	unsigned runs = b->quick ? b->runs : ROUNDS_LEAST;
	int document = document_make(n, false);
	char store[4200];

	snprintf(store, sizeof(store), "%s/store.db", b->disk);
	for (unsigned run = 0; run < runs; run++) {
		uint64_t from, peak = 0;
		struct memory m;
		struct daemon d;

		daemon_start(b, &d, "load", &(struct daemon_how){.store = store, .cpu = -1});
		from = now_ns();
		daemon_load(&d, document, n, &peak);
		add_sample(&f[0].s, elapsed_ns(from) / 1e9);
		add_sample(&f[1].s, (double)peak / MIB);
		m = settled_memory(&d);
		add_sample(&f[2].s, (double)m.table / n);
		add_sample(&f[3].s, (double)(m.table + m.reserve) / n);
		daemon_stop(&d);
		remove_tree(d.dir);
		add_sample(&f[4].s, time_start(b, &d, store, n));
		add_sample(&f[5].s, (double)daemon_anonymous_bytes(&d) / MIB);
		add_sample(&f[6].s, (double)shared_memory(d.dir).table / n);
		daemon_stop(&d);
		remove_tree(d.dir);
		remove_store(store);
	}
	close(document);
	for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
		f[i].workload = "load";
		snprintf(f[i].parameters, sizeof(f[i].parameters), "partitions=%u", n);
		report(b, &f[i]);
	}
}
