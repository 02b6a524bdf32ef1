/* SPDX-License-Identifier: MIT
 * Resolving: hits and misses, single and in bulk, by number of pins and length of the id, next to berth_route and to the
 * loop that only takes id and owner at hand. As in lookup.c: processor time of one thread on CPU 1, a random sequence
 * made before, ids side by side; throughput. The caller passes the time, as a proxy has it, except where it is said.
 * What is resolved is summed up, and the sum of each measured loop is the right one or the program ends. */
#include <stdio.h>
#include <stdlib.h>

#include "cursor.h"

#define BATCH 32u
#define CALLS (1u << 18) /* a multiple of every sequence's length */
#define CALLS_QUICK (1u << 17)
#define WARM_UP (1u << 17)
#define GOAL_NS 20
#define MISSING (1ull << 40) /* numbers that are never pinned begin here */

struct sequence {
	size_t n, id_len;
	char *ids;                /* side by side */
	char (*owners)[KEY_ROOM]; /* likewise */
	struct berth_cursor *cursors;
	uint64_t sum; /* of the answers to the whole sequence */
};

struct setting {
	uint32_t n;
	size_t id_len;
	struct pins pins;
	struct sequence hits, misses;
	uint64_t now_ms;
};

typedef uint64_t calls(const struct setting *, const struct sequence *, size_t n);

/* ---- the calls: each makes n and returns the sum of what was answered ------------------------------------------ */

static uint64_t calls_empty(const struct setting *s, const struct sequence *q, size_t n)
{
	uint64_t sum = 0;

	(void)s;
	for (size_t i = 0; i < n; i++) {
		size_t k = i & (q->n - 1);
		const volatile char *id = q->ids + k * q->id_len, *owner = q->owners[k];

		sum += (uint64_t)(id[0] + id[q->id_len - 1] + owner[0]) & 1; /* loaded, whatever comes of it */
	}
	return sum;
}

static uint64_t calls_route(const struct setting *s, const struct sequence *q, size_t n)
{
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum += (uint64_t)berth_route(s->pins.r, q->owners[i & (q->n - 1)], KEY_LEN, &out);
		sum += out.epoch;
	}
	return sum;
}

static inline uint64_t resolve_all(const struct setting *s, const struct sequence *q, size_t n, uint64_t now_ms)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t k = i & (q->n - 1);
		uint16_t cluster = 0;

		sum += (uint64_t)berth_cursor_resolve(s->pins.r, q->ids + k * q->id_len, q->id_len, q->owners[k],
						      KEY_LEN, now_ms, &cluster);
		sum += cluster;
	}
	return sum;
}

static uint64_t calls_single(const struct setting *s, const struct sequence *q, size_t n)
{
	return resolve_all(s, q, n, s->now_ms);
}

static uint64_t calls_clock(const struct setting *s, const struct sequence *q, size_t n)
{
	return resolve_all(s, q, n, 0);
}

static uint64_t calls_bulk(const struct setting *s, const struct sequence *q, size_t n)
{
	uint16_t clusters[BATCH] = {0};
	int status[BATCH];
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += BATCH) {
		sum += (uint64_t)berth_cursor_resolve_bulk(s->pins.r, q->cursors + (i & (q->n - 1)), BATCH, s->now_ms,
							   clusters, status);
		for (unsigned k = 0; k < BATCH; k++)
			sum += (uint64_t)status[k] + (status[k] == BERTH_OK ? clusters[k] : 0);
	}
	return sum;
}

/* ---- settings ------------------------------------------------------------------------------------------------- */

static void make_sequence(struct sequence *q, const struct setting *s, uint64_t first)
{
	uint64_t state = 42;

	q->id_len = s->id_len;
	q->n = 1u << 14;
	while (q->n < s->n)
		q->n *= 2;
	q->ids = aligned_alloc(64, q->n * q->id_len);
	q->owners = aligned_alloc(64, q->n * KEY_ROOM);
	q->cursors = calloc(q->n, sizeof(*q->cursors));
	if (!q->ids || !q->owners || !q->cursors)
		fail("no memory for %zu ids", q->n);
	for (size_t i = 0; i < q->n; i++) {
		uint64_t number = first + ((random_u64(&state) >> 32) * s->n >> 32);

		pin_id(q->ids + i * q->id_len, q->id_len, number);
		key_name(q->owners[i], (uint32_t)(number % OWNERS));
		q->cursors[i] = (struct berth_cursor){
			.id = q->ids + i * q->id_len, .id_len = q->id_len, .owner = q->owners[i], .owner_len = KEY_LEN};
		q->sum += first == MISSING ? (uint64_t)BERTH_E_UNKNOWN : pin_cluster(&s->pins, number);
	}
}

/* The owners are partitions too, for berth_route. */
static void make_setting(const struct bench *b, struct setting *s)
{
	int document = document_make(OWNERS, false);
	char name[32];

	snprintf(name, sizeof(name), "resolve-%u-%zu", s->n, s->id_len);
	pins_make(b, &s->pins, name, s->id_len, &(struct daemon_how){.cpu = CPU_DAEMON});
	daemon_load(&s->pins.d, document, OWNERS, NULL);
	pin_many(&s->pins, 0, s->n);
	pins_expect(&s->pins, s->n);
	if (pins_seen(&s->pins, 0, s->n) != s->n || pins_seen(&s->pins, MISSING, s->n) != 0)
		fail("%s: not exactly what was pinned resolves", name);
	make_sequence(&s->hits, s, 0);
	make_sequence(&s->misses, s, MISSING);
}

static void free_sequence(struct sequence *q)
{
	free(q->ids);
	free(q->owners);
	free(q->cursors);
}

/* ---- measuring ------------------------------------------------------------------------------------------------ */

/* X(call, what it is, misses, goal at 1,000 pins and short ids, only there) */
#define CALL_ROWS(X) \
	X(empty, "the loop without a call", false, 0, true) \
	X(route, "berth_route", false, 0, true) \
	X(single, "resolve", false, GOAL_NS, false) \
	X(clock, "resolve, reading the clock", false, 0, true) \
	X(bulk, "resolve_bulk of 32, an id", false, 0, false) \
	X(single, "resolve, no such pin", true, 0, false) \
	X(bulk, "resolve_bulk of 32, no such pin", true, 0, false)

static const struct call {
	const char *name;
	calls *run;
	bool misses, first_only, checked;
	double goal;
} rows[] = {
#define CALL_ROW(call, text, misses, goal, first) \
	{text, calls_##call, misses, first, calls_##call != calls_empty && calls_##call != calls_route, goal},
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static double measure(struct setting *s, const struct call *c, size_t n)
{
	const struct sequence *q = c->misses ? &s->misses : &s->hits;
	volatile uint64_t kept; /* so that no loop is left out */
	uint64_t sum, from;
	double t;

	kept = c->run(s, q, WARM_UP);
	s->now_ms = boottime_ms();
	from = busy_ns();
	sum = c->run(s, q, n);
	t = busy_elapsed_ns(from) / (double)n;
	if (c->checked && sum != n / q->n * q->sum)
		fail("%s at %u pins: a wrong answer among %zu", c->name, s->n, n);
	kept = sum;
	(void)kept;
	return t;
}

static void report_all(const struct bench *b, const struct setting *s, const struct samples *v, bool first)
{
	static struct figure f;

	for (size_t k = 0; k < N_ROWS; k++) {
		if (rows[k].first_only && !first)
			continue;
		f = (struct figure){.workload = "cursor", .unit = "ns", .goal = first ? rows[k].goal : 0, .s = v[k]};
		snprintf(f.name, sizeof(f.name), "%s", rows[k].name);
		snprintf(f.parameters, sizeof(f.parameters), "pins=%u id_bytes=%zu", s->n, s->id_len);
		report(b, &f);
	}
}

void cursor_resolve(const struct bench *b)
{
	static struct setting settings[] = {{.n = 1000, .id_len = ID_SHORT},
					    {.n = 1000, .id_len = ID_LONG},
					    {.n = 100000, .id_len = ID_SHORT},
					    {.n = 100000, .id_len = ID_LONG}};
	static struct samples v[sizeof(settings) / sizeof(settings[0])][N_ROWS];
	unsigned n_settings = b->quick ? 2 : sizeof(settings) / sizeof(settings[0]);
	size_t n = b->quick ? CALLS_QUICK : CALLS;

	for (unsigned i = 0; i < n_settings; i++)
		make_setting(b, &settings[i]);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++) /* in turn, as in lookup.c */
		for (unsigned i = 0; i < n_settings; i++)
			for (size_t k = 0; k < N_ROWS; k++)
				if (i == 0 || !rows[k].first_only)
					add_sample(&v[i][k], measure(&settings[i], &rows[k], n));
	pin_nowhere();
	for (unsigned i = 0; i < n_settings; i++) {
		report_all(b, &settings[i], v[i], i == 0);
		free_sequence(&settings[i].hits);
		free_sequence(&settings[i].misses);
		pins_remove(&settings[i].pins);
	}
}
