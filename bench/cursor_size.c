/* SPDX-License-Identifier: MIT
 * What a pin costs by the number of pins there are: a new one, one again (in random order), and a new one in a full table,
 * where each evicts the oldest. (New ones, 16,384 at a time, are released again before the next.) Two ways: one process
 * on CPU 1 pins without waiting, the daemon on CPU 0 does them, wall time until all are done (whoever of the two is slower
 * sets it), by which it is judged whether the cost is flat; and the daemon's own processor time (cursor_backlog.c), which
 * is cache misses in a large table. Next to it the same work in a map of one process (cursor_map.c).
 * Everything in turn in each run. */
#include <stdio.h>

#include "cursor.h"

#define N_SIZES 4u /* the last only with --full */
#define CAPACITY 120000u
#define CAPACITY_FULL 1100000u
#define PINS_QUICK 2048u
#define MAP_LOOKS 20000000u /* entries that the own map looks at in one measurement, at most */
#define FLAT_GOAL 2

static const uint32_t sizes[N_SIZES] = {1000, 10000, 100000, 1000000};

struct size {
	uint32_t n;
	struct pins roomy, full; /* n pins in a table with room, and in a table of n */
	struct backlog roomy_log, full_log;
	struct own_map *map;
	uint64_t next, next_map; /* numbers that were never pinned */
	uint64_t random;
};

/* X(what, its name) */
#define KINDS(X) \
	X(new, "new pin") \
	X(again, "pin again") \
	X(evict, "new pin, table full")
enum {
#define KIND(name, text) KIND_##name,
	KINDS(KIND)
#undef KIND
		N_KINDS
};
static const char *const names[] = {
#define KIND(name, text) text,
	KINDS(KIND)
#undef KIND
};

struct results {
	struct samples flood[N_KINDS], own[N_KINDS], map;
};

/* ---- one measurement: time a pin ------------------------------------------------------------------------------ */

static void make_numbers(struct size *s, unsigned kind, uint32_t n, uint64_t *numbers)
{
	for (uint32_t i = 0; i < n; i++)
		numbers[i] = kind == KIND_again ? (random_u64(&s->random) >> 32) * s->n >> 32 : s->next++;
}

static double flood(struct pins *p, const uint64_t *numbers, uint32_t n)
{
	uint64_t from = now_ns();

	for (uint32_t i = 0; i < n; i++)
		pin_one(p, numbers[i], i + 1 == n ? PIN_WAIT_MS : 0);
	return elapsed_ns(from) / n;
}

/* In a full table all others are gone: as many of the new ones are there as it has room for. */
static void check(struct size *s, unsigned kind, const uint64_t *numbers, uint32_t n)
{
	struct pins *p = kind == KIND_evict ? &s->full : &s->roomy;
	uint64_t now = boottime_ms();
	uint32_t seen = 0, expected = kind == KIND_evict && n > s->n ? s->n : n;

	for (uint32_t i = 0; i < n; i++)
		seen += pin_seen(p, numbers[i], now);
	if (seen != expected)
		fail("%s: %u of %u pins are there, not %u", names[kind], seen, n, expected);
	pins_expect(p, kind == KIND_new ? s->n + n : s->n);
	if (kind != KIND_new)
		return;
	pin_release(p, numbers[0], n);
	pin_one(p, 0, PIN_WAIT_MS); /* behind all of them */
	pins_expect(p, s->n);
}

static void measure(struct size *s, unsigned kind, uint32_t n, struct results *to)
{
	bool full = kind == KIND_evict;
	static uint64_t numbers[BACKLOG_MOST];

	make_numbers(s, kind, n, numbers);
	add_sample(&to->flood[kind], flood(full ? &s->full : &s->roomy, numbers, n));
	check(s, kind, numbers, n);
	make_numbers(s, kind, n, numbers);
	add_sample(&to->own[kind], backlog_measure(full ? &s->full_log : &s->roomy_log, numbers, n));
	check(s, kind, numbers, n);
}

static void map_pin(struct size *s)
{
	uint64_t number = s->next_map++;
	char id[ID_SHORT];

	pin_id(id, sizeof(id), number);
	own_map_pin(s->map, id, pin_owner(&s->full, number), pin_cluster(&s->full, number));
}

static bool map_seen(struct size *s, uint64_t number)
{
	uint16_t cluster = 0;
	char id[ID_SHORT];

	pin_id(id, sizeof(id), number);
	return own_map_find(s->map, id, pin_owner(&s->full, number), &cluster) &&
	       cluster == pin_cluster(&s->full, number);
}

static void measure_map(struct size *s, uint32_t n, struct results *to)
{
	uint64_t from = now_ns();

	n = MAP_LOOKS / s->n < n ? MAP_LOOKS / s->n : n;

	for (uint32_t i = 0; i < n; i++)
		map_pin(s);
	add_sample(&to->map, elapsed_ns(from) / n);
	if (own_map_len(s->map) != s->n || !map_seen(s, s->next_map - 1) || !map_seen(s, s->next_map - s->n) ||
	    map_seen(s, s->next_map - s->n - 1))
		fail("the own map has not evicted exactly the oldest");
}

/* ---- all of them ---------------------------------------------------------------------------------------------- */

static void make_size(const struct bench *b, struct size *s, uint32_t n)
{
	struct daemon_how how = {.cpu = CPU_DAEMON, .cursor_capacity = b->full ? CAPACITY_FULL : CAPACITY};
	char name[32];

	s->n = n;
	snprintf(name, sizeof(name), "roomy-%u", n);
	pins_make(b, &s->roomy, name, ID_SHORT, &how);
	pin_many(&s->roomy, 0, n);
	how.cursor_capacity = n;
	snprintf(name, sizeof(name), "full-%u", n);
	pins_make(b, &s->full, name, ID_SHORT, &how);
	pin_many(&s->full, 0, n);
	if (pins_seen(&s->roomy, 0, n) != n || pins_seen(&s->full, 0, n) != n)
		fail("not all of %u pins are there", n);
	backlog_open(&s->roomy_log, &s->roomy);
	backlog_open(&s->full_log, &s->full);
	s->next = n;
	s->map = own_map_make(n);
	while (s->next_map < n)
		map_pin(s);
}

static void remove_size(struct size *s)
{
	backlog_close(&s->roomy_log);
	backlog_close(&s->full_log);
	pins_remove(&s->roomy);
	pins_remove(&s->full);
	own_map_free(s->map);
}

static void report_one(const struct bench *b, const char *name, const char *more, uint32_t n, const struct samples *v)
{
	static struct figure f;

	f = (struct figure){.workload = "cursor", .unit = "ns", .s = *v};
	snprintf(f.name, sizeof(f.name), "%s%s", name, more);
	snprintf(f.parameters, sizeof(f.parameters), "pins=%u", n);
	report(b, &f);
}

/* Run by run, one against the other; goal 0: a contest, below 0: neither. */
static void report_ratio(const struct bench *b, const char *name, const char *parameters, const struct samples *of,
			 const struct samples *to, double goal)
{
	static struct figure f;

	f = (struct figure){.workload = "cursor",
			    .unit = "ratio",
			    .goal = goal > 0   ? goal
				    : goal < 0 ? 0
					       : 1,
			    .contest = goal == 0};
	snprintf(f.name, sizeof(f.name), "%s", name);
	snprintf(f.parameters, sizeof(f.parameters), "%s", parameters);
	for (unsigned run = 0; run < of->n; run++)
		add_sample(&f.s, of->v[run] / to->v[run]);
	report(b, &f);
}

static void report_sizes(const struct bench *b, unsigned n_sizes, const struct results all[])
{
	char text[64], name[64];

	for (unsigned k = 0; k < N_KINDS; k++) {
		for (unsigned i = 0; i < n_sizes; i++)
			report_one(b, names[k], ", one process floods", sizes[i], &all[i].flood[k]);
		for (unsigned i = 0; i < n_sizes; i++)
			report_one(b, names[k], ", the daemon's part", sizes[i], &all[i].own[k]);
	}
	snprintf(text, sizeof(text), "%u to 1000", sizes[n_sizes - 1]);
	for (unsigned k = 0; k < N_KINDS; k++) {
		snprintf(name, sizeof(name), "%s, one process floods", names[k]);
		report_ratio(b, name, text, &all[n_sizes - 1].flood[k], &all[0].flood[k], FLAT_GOAL);
		snprintf(name, sizeof(name), "%s, the daemon's part", names[k]);
		report_ratio(b, name, text, &all[n_sizes - 1].own[k], &all[0].own[k], -1);
	}
	for (unsigned i = 0; i < n_sizes; i++)
		report_one(b, "own map of one process, full", "", sizes[i], &all[i].map);
	for (unsigned i = 0; i < n_sizes; i++) {
		snprintf(text, sizeof(text), "pins=%u", sizes[i]);
		report_ratio(b, "table full, one process floods / own map", text, &all[i].flood[KIND_evict],
			     &all[i].map, 0);
	}
}

void cursor_size(const struct bench *b)
{
	unsigned n_sizes = b->full ? N_SIZES : b->quick ? 2 : N_SIZES - 1;
	uint32_t n = b->quick ? PINS_QUICK : BACKLOG_MOST;
	static struct results results[N_SIZES];
	static struct size all[N_SIZES];

	for (unsigned i = 0; i < n_sizes; i++)
		make_size(b, &all[i], sizes[i]);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++) {
		for (unsigned i = 0; i < n_sizes; i++) {
			for (unsigned k = 0; k < N_KINDS; k++)
				measure(&all[i], k, n, &results[i]);
			measure_map(&all[i], n, &results[i]);
		}
	}
	pin_nowhere();
	for (unsigned i = 0; i < n_sizes; i++)
		remove_size(&all[i]);
	report_sizes(b, n_sizes, results);
}
