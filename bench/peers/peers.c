/* SPDX-License-Identifier: MIT
 * The workload `peers`: each peer of the table below with the same keys, values and sequence of look-ups as berth, in
 * turn with it. A run of one is warmed up by an eighth as many look-ups of its own; every sum is checked. Called by
 * ../bench.c, in the one thread that measures. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "peer.h"

#define SIZES_MAX 4u
#define CALLS (1u << 21)
#define CALLS_QUICK (1u << 16)
#define ROUNDS_SLOW 5u /* of those that take microseconds */
#define WARM_UP 8u     /* a part of as many look-ups */
#define ROUND_TO 64u   /* look-ups, so that bulk calls are full */
/* A table of another peer is opened beside those that are open while so much memory would be left. */
#define BYTES_A_KEY 500u
#define BYTES_LEFT (1ull << 30)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* In the order in which they are shown. The first two are what the others are compared with: single with single, bulk
 * with bulk. goal: how many times as fast berth is to be, from so many partitions on. */
static const struct row {
	const struct peer *p;
	double goal;
	uint32_t from;
} rows[] = {
	{&peer_berth, 0, 0},     {&peer_berth_bulk, 0, 0},      {&peer_private, 1, 100000},
	{&peer_rwlock, 1, 0},    {&peer_rwlock_two, 1, 0},      {&peer_ck_ht, 2, 0},
	{&peer_lfht_qsbr, 1, 0}, {&peer_lfht_memb, 1, 0},       {&peer_rte_hash, 2, 0},
	{&peer_lmdb, 10, 0},     {&peer_rte_hash_bulk, 1.5, 0}, {&peer_bpf_map, 1, 0},
	{&peer_redis, 1, 0},     {&peer_redis_pipelined, 1, 0}, {&peer_etcd, 1, 0},
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))
#define N_BASES 2u

static struct result { /* empty: not measured */
	struct samples ns, ratio;
} results[SIZES_MAX][N_ROWS];

struct keys {
	struct sequence s;
	uint8_t *values; /* of the sequence's keys */
};

static unsigned base_of(unsigned row)
{
	return rows[row].p->bulk ? 1 : 0;
}

/* ---- keys ---------------------------------------------------------------------------------------------------- */

static void make_keys(struct keys *k, uint32_t n)
{
	uint64_t state = 42;

	memset(k, 0, sizeof(*k));
	k->s.n = 1u << 14;
	while (k->s.n < n)
		k->s.n *= 2;
	k->s.names = aligned_alloc(64, k->s.n * KEY_ROOM);
	k->values = malloc(k->s.n);
	if (!k->s.names || !k->values)
		fail("no memory for %zu keys", k->s.n);
	for (size_t i = 0; i < k->s.n; i++) {
		uint32_t number = (uint32_t)((random_u64(&state) >> 32) * n >> 32);

		key_name(k->s.names[i], number);
		k->values[i] = (uint8_t)value_of_key(number);
		k->s.sum += k->values[i];
	}
}

static uint64_t sum_of(const struct keys *k, size_t n)
{
	uint64_t sum = n / k->s.n * k->s.sum;

	for (size_t i = 0; i < n % k->s.n; i++)
		sum += k->values[i];
	return sum;
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

static uint64_t available_bytes(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * 1024;
}

/* Huge pages for every peer in this process alike, whoever allocated its tables: what lies in memory that is no file's.
 * Where the kernel has none to give, nobody gets them. (berth's table is a file: its daemon asks for that.) */
static void give_huge_pages(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long from, to, inode;
	char line[512], access[8];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &from, &to, access, &inode) == 4 &&
		    memcmp(access, "rw", 2) == 0 && inode == 0 && to - from >= 1u << 21 && !strstr(line, "[stack"))
			(void)!madvise((void *)from, to - from, MADV_COLLAPSE);
	if (f)
		fclose(f);
}

/* ---- measuring ----------------------------------------------------------------------------------------------- */

static void checked_run(const struct peer *p, void *at, const struct keys *k, size_t n)
{
	uint64_t sum = p->run(at, &k->s, n), expected = sum_of(k, n);

	if (sum != expected)
		fail("%s: the values of %zu look-ups add up to %llu, not %llu: its answers are wrong", p->name, n,
		     (unsigned long long)sum, (unsigned long long)expected);
}

/* Nanoseconds of a look-up: of this thread's processor time; of those that take microseconds because another process or
 * the kernel answers, of time. */
static double measure(const struct bench *b, const struct peer *p, void *at, const struct keys *k)
{
	size_t n = b->quick ? CALLS_QUICK : CALLS;
	uint64_t from, sum;
	double t;

	if (p->calls)
		n = b->quick && p->calls / 8 < n ? p->calls / 8 : p->calls < n ? p->calls : n;
	n = n < ROUND_TO ? ROUND_TO : n / ROUND_TO * ROUND_TO;
	checked_run(p, at, k, n < WARM_UP * ROUND_TO ? ROUND_TO : n / WARM_UP / ROUND_TO * ROUND_TO);
	from = p->waits ? now_ns() : busy_ns();
	sum = p->run(at, &k->s, n);
	t = p->waits ? elapsed_ns(from) : busy_elapsed_ns(from);
	if (sum != sum_of(k, n))
		fail("%s: a sum of %zu look-ups is wrong, of fewer it was right", p->name, n);
	return t / (double)n;
}

static void measure_round(const struct bench *b, void *const *open, const struct keys *k, unsigned round,
			  struct result *out)
{
	double ns[N_ROWS] = {0};

	for (unsigned bulk = 0; bulk < 2; bulk++) /* two forms of one table not one after the other */
		for (unsigned i = 0; i < N_ROWS; i++) {
			const struct peer *p = rows[i].p;

			if (open[i] && p->bulk == (bulk == 1) && (!p->calls || round < ROUNDS_SLOW))
				ns[i] = measure(b, p, open[i], k);
		}
	for (unsigned i = 0; i < N_ROWS; i++) {
		if (ns[i] > 0 && out[i].ns.n < b->runs) /* not again where another group measures berth too */
			add_sample(&out[i].ns, ns[i]);
		if (ns[i] > 0 && i >= N_BASES)
			add_sample(&out[i].ratio, ns[i] / ns[base_of(i)]);
	}
}

/* Opens berth and the peers from the first of `rest` on as long as there is memory; returns where to go on. */
static unsigned open_group(const struct bench *b, uint32_t n, unsigned rest, void **open)
{
	unsigned i;

	memset(open, 0, N_ROWS * sizeof(*open));
	for (i = 0; i < N_BASES; i++)
		open[i] = rows[i].p->open(b, n);
	for (i = rest; i < N_ROWS; i++) {
		if (i > rest && available_bytes() < BYTES_LEFT + (uint64_t)n * BYTES_A_KEY)
			break;
		if (rows[i].p->most && n > rows[i].p->most)
			report_note(b, "%s is left out at %u partitions: it would take minutes", rows[i].p->name, n);
		else
			open[i] = rows[i].p->open(b, n);
	}
	give_huge_pages();
	return i;
}

static void measure_size(const struct bench *b, uint32_t n, struct result *out)
{
	struct keys k;

	make_keys(&k, n);
	for (unsigned rest = N_BASES; rest < N_ROWS;) {
		void *open[N_ROWS];

		rest = open_group(b, n, rest, open);
		pin_to(CPU_SELF);
		for (unsigned round = 0; round < b->runs; round++)
			measure_round(b, open, &k, round, out);
		pin_nowhere();
		for (unsigned i = 0; i < N_ROWS; i++)
			if (open[i])
				rows[i].p->close(open[i]);
	}
	free(k.s.names);
	free(k.values);
}

/* ---- telling ------------------------------------------------------------------------------------------------- */

static void report_size(const struct bench *b, uint32_t n, const struct result *of)
{
	struct figure f = {.workload = "peers"};

	snprintf(f.parameters, sizeof(f.parameters), "partitions=%u", n);
	for (unsigned i = 0; i < N_ROWS; i++) {
		if (of[i].ns.n == 0)
			continue;
		snprintf(f.name, sizeof(f.name), "%s", rows[i].p->name);
		f.unit = "ns";
		f.goal = 0;
		f.s = of[i].ns;
		report(b, &f);
		if (i < N_BASES)
			continue;
		snprintf(f.name, sizeof(f.name), "%s / %s", rows[i].p->name, rows[base_of(i)].p->name);
		f.unit = "ratio";
		f.goal = n >= rows[i].from ? rows[i].goal : 0;
		f.at_least = true;
		f.s = of[i].ratio;
		report(b, &f);
	}
}

static void report_matrix(const struct bench *b, const uint32_t *sizes, unsigned n_sizes)
{
	char line[256];
	int at = snprintf(line, sizeof(line), "\n%-20s", "ns a look-up");

	for (unsigned k = 0; k < n_sizes; k++)
		at += snprintf(line + at, sizeof(line) - (size_t)at, "%10u", sizes[k]);
	report_note(b, "%s  used as", line);
	for (unsigned i = 0; i < N_ROWS; i++) {
		at = snprintf(line, sizeof(line), "%-20s", rows[i].p->name);
		for (unsigned k = 0; k < n_sizes; k++) {
			double ns = results[k][i].ns.n ? quantile(&results[k][i].ns, 0.5) : 0;

			at += ns > 0 ? snprintf(line + at, sizeof(line) - (size_t)at, "%10.*f", ns < 1000, ns)
				     : snprintf(line + at, sizeof(line) - (size_t)at, "%10s", "-");
		}
		report_note(b, "%s  %s", line, rows[i].p->how);
	}
}

void workload_peers(const struct bench *b)
{
	static const uint32_t sizes[SIZES_MAX] = {1000, 100000, 1000000, 10000000};
	unsigned n_sizes = b->quick ? 2 : b->full ? SIZES_MAX : SIZES_MAX - 1;

	for (unsigned k = 0; k < n_sizes; k++) {
		measure_size(b, sizes[k], results[k]);
		report_size(b, sizes[k], results[k]);
	}
	report_matrix(b, sizes, n_sizes);
}
