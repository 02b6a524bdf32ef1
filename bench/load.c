/* SPDX-License-Identifier: MIT
 * A million partitions at once: a document loaded into an sqlite store through the socket, the memory that takes, and a
 * start with all of them in the store, in an empty directory as after a boot. The daemon is not pinned: it may use what
 * the machine has. The store lies in TMPDIR (/tmp), on a disk if that is one, with sqlite's own syncs; its file is in
 * the page cache when it is read again. Also called by scale.c. */
#include "load.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../reader_lib/berth.h"

#define PARTITIONS 1000000u
#define PARTITIONS_QUICK 20000u
#define ROUNDS_LEAST 9u
#define START_S 120u
#define STATUS "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n"

/* ---- memory ------------------------------------------------------------------------------------------------- */

static struct load_memory found; /* by find_memory, which nftw gives no argument */

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

struct load_memory load_memory_now(const char *dir)
{
	found = (struct load_memory){0};
	if (nftw(dir, find_memory, 16, FTW_PHYS) != 0 || found.table == 0)
		fail("no file of a table in %s", dir);
	return found;
}

struct load_memory load_memory_settled(struct daemon *d)
{
	static char answer[8192];
	struct load_memory m = load_memory_now(d->dir), last;

	for (unsigned i = 0; i < 200; i++) {
		usleep(50000);
		last = m;
		m = load_memory_now(d->dir);
		daemon_call(d, STATUS, -1, answer, sizeof(answer), NULL);
		if (m.all == last.all && m.reserve >= m.table && strstr(answer, "\"growing\":false"))
			break;
	}
	return m;
}

/* ---- a start ------------------------------------------------------------------------------------------------ */

double load_start(const struct bench *b, struct daemon *d, const struct daemon_how *how, uint32_t partitions,
		  uint64_t *peak)
{
	uint64_t from = now_ns(), own;
	struct berth_attach_options options = {.size = sizeof(options), .wait_ms = BERTH_NO_WAIT};
	struct berth_reader *r = NULL;
	struct berth *berth = NULL;
	struct berth_route out;
	char key[KEY_ROOM];
	double t;

	key_name(key, partitions / 2);
	daemon_spawn(b, d, "load", how);
	for (;;) {
		if (berth_attach(d->dir, &options, &berth) == BERTH_OK) {
			if (berth_reader_open(berth, &r) == BERTH_OK && berth_route(r, key, KEY_LEN, &out) == BERTH_OK)
				break;
			berth_reader_close(&r);
			berth_detach(&berth);
		}
		if (waitpid(d->pid, NULL, WNOHANG) == d->pid || now_ns() - from > START_S * 1000000000ull)
			fail("berthd does not start with its %u partitions: see %s", partitions, d->log);
		own = daemon_anonymous_bytes(d);
		*peak = own > *peak ? own : *peak;
		usleep(1000);
	}
	t = elapsed_ns(from) / 1e9;
	berth_reader_close(&r);
	berth_detach(&berth);
	return t;
}

/* ---- the rounds --------------------------------------------------------------------------------------------- */

static void remove_store(const char *store)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	char path[4200];

	for (unsigned i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", store, suffixes[i]);
		unlink(path);
	}
}

enum row { LOAD, LOAD_OWN, TABLE, TABLE_AND_RESERVE, START, START_PEAK, START_OWN, START_TABLE, ROWS };

static void round_of(const struct bench *b, uint32_t n, int document, struct figure f[ROWS])
{
	uint64_t from, peak = 0, start_peak = 0;
	struct load_memory m;
	struct daemon d;
	char store[4200];

	snprintf(store, sizeof(store), "%s/store.db", b->disk);
	daemon_start(b, &d, "load", &(struct daemon_how){.store = store, .cpu = -1});
	from = now_ns();
	daemon_load(&d, document, n, &peak);
	add_sample(&f[LOAD].s, elapsed_ns(from) / 1e9);
	add_sample(&f[LOAD_OWN].s, (double)peak / MIB);
	m = load_memory_settled(&d);
	add_sample(&f[TABLE].s, (double)m.table / n);
	add_sample(&f[TABLE_AND_RESERVE].s, (double)(m.table + m.reserve) / n);
	daemon_stop(&d);
	remove_tree(d.dir);
	add_sample(&f[START].s,
		   load_start(b, &d, &(struct daemon_how){.store = store, .cpu = -1, .fresh = true}, n, &start_peak));
	add_sample(&f[START_PEAK].s, (double)start_peak / MIB);
	add_sample(&f[START_OWN].s, (double)daemon_anonymous_bytes(&d) / MIB);
	add_sample(&f[START_TABLE].s, (double)load_memory_now(d.dir).table / n);
	daemon_stop(&d);
	remove_tree(d.dir);
	remove_store(store);
}

void load_sqlite(const struct bench *b, const struct load_case *c)
{
	struct figure f[ROWS] = {
		[LOAD] = {.name = "load a document into sqlite", .unit = "s", .goal = c->load_s},
		[LOAD_OWN] = {.name = "own memory meanwhile, peak", .unit = "MiB", .goal = c->load_mib},
		[TABLE] = {.name = "shared memory, table", .unit = "B/part", .goal = c->table_bytes},
		[TABLE_AND_RESERVE] = {.name = "shared memory, table and reserve", .unit = "B/part"},
		[START] = {.name = "start until a look-up answers", .unit = "s", .goal = c->start_s},
		[START_PEAK] = {.name = "own memory while starting, peak", .unit = "MiB", .goal = c->start_mib},
		[START_OWN] = {.name = "own memory after the start", .unit = "MiB", .goal = c->start_mib},
		[START_TABLE] = {.name = "shared memory after that, table",
				 .unit = "B/part",
				 .goal = c->start_table_bytes},
	};
	int document = document_make(c->partitions, false);

	for (unsigned i = 0; i < c->rounds; i++)
		round_of(b, c->partitions, document, f);
	close(document);
	for (unsigned i = 0; i < ROWS; i++) {
		f[i].workload = c->workload;
		snprintf(f[i].parameters, sizeof(f[i].parameters), "partitions=%u", c->partitions);
		report(b, &f[i]);
	}
}

void workload_load(const struct bench *b)
{
	load_sqlite(b, &(struct load_case){
			       .workload = "load",
			       .partitions = b->quick ? PARTITIONS_QUICK : PARTITIONS,
			       .rounds = b->quick ? b->runs : ROUNDS_LEAST,
			       .load_s = 10,
			       .load_mib = 1024,
			       .table_bytes = 120,
			       .start_s = 4,
			       .start_table_bytes = 120,
		       });
}
