/* SPDX-License-Identifier: MIT
 * How long single look-ups take, each between two time stamps: hot (a table of 1,000 partitions), and uniform over a
 * million. In turn with them pairs of stamps with nothing between: what disturbs those is the machine's (interrupts,
 * the hypervisor), and a look-up is disturbed by it too. Called by the main program; one thread, on CPU 1.
 *
 * What the stamps add. The cost of an empty pair (its median) is taken off. But the stamps are fences: the look-up
 * begins with nothing under way in the processor, and is waited for to its last load. So a single look-up is its
 * latency, where `lookup` measures throughput, in which the next call begins before this one ends. `more than in a row`
 * is the difference of the medians, look-ups in a row measured in the same run: that much of each figure here is the
 * fences'. The key's bytes have been read right before, as a proxy has its key at hand.
 *
 * Apart from interrupts. Let E be by how much empty pairs exceed their own median, m the median look-up. A time t is
 * `p99.9 apart from interrupts` when the share of look-ups of t and more, less the share of empty pairs with E >= t -
 * m, is 1/1000, and never again more beyond. So what is taken off at t is the share of pairs that the machine has held
 * up for as long as such a look-up has been, and nothing else. An interrupt hits what lasts longer more often: look-ups
 * are longer than empty pairs, and this is not taken off, so the quantile is rather too high than too low. Ratios are
 * made run by run, and the plain quantiles are shown too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "place.h"

#define SAMPLES 10000000u /* of each in all runs together */
#define SAMPLES_QUICK 300000u
#define IN_A_ROW (1u << 20)
#define IN_A_ROW_QUICK (1u << 16)
#define BLOCK 10000u /* so many of one, then of the next */
#define COUNTS 16384u

enum { HOT, UNIFORM, N_SIZES };
static const uint32_t sizes[N_SIZES] = {1000, 1000000};

struct counts { /* of one run: samples of t ticks, without the cost of an empty pair; n[COUNTS]: longer */
	uint32_t n[COUNTS + 1];
	uint32_t total;
};

/* ---- sampling ------------------------------------------------------------------------------------------------- */

static void count(struct counts *c, struct histogram *h, uint64_t ticks, uint64_t cost)
{
	uint64_t t = ticks > cost ? ticks - cost : 0;

	c->total++;
	c->n[t < COUNTS ? t : COUNTS]++;
	if (t >= COUNTS)
		histogram_add(h, t);
}

static void sample_empty(const struct place *p, size_t at, size_t n, struct counts *c, struct histogram *h)
{
	uint64_t cost = ticks_cost();

	for (size_t i = at; i < at + n; i++) {
		uint64_t from;

		(void)*(const volatile char *)p->names[i & (p->n_keys - 1)];
		from = ticks_begin();
		count(c, h, ticks_end() - from, cost);
	}
}

static void sample_route(const struct place *p, size_t at, size_t n, struct counts *c, struct histogram *h)
{
	uint64_t cost = ticks_cost();
	struct berth_route out;

	for (size_t i = at; i < at + n; i++) {
		const char *name = p->names[i & (p->n_keys - 1)];
		uint64_t from, ticks;
		int rc;

		(void)*(const volatile char *)name;
		from = ticks_begin();
		rc = berth_route(p->r, name, KEY_LEN, &out);
		ticks = ticks_end() - from;
		if (rc != BERTH_OK)
			fail("%s: %s", name, berth_strerror(rc));
		count(c, h, ticks, cost);
	}
}

/* ---- quantiles ------------------------------------------------------------------------------------------------ */

/* The least time with a share of q at most above it. */
static uint32_t counts_quantile(const struct counts *c, double q)
{
	uint64_t below = 0;
	uint32_t t = 0;

	while (t < COUNTS && (double)(below += c->n[t]) < q * (double)c->total)
		t++;
	return t;
}

/* As it says above. Both of the same run, with as many samples. */
static uint32_t apart_from(const struct counts *c, const struct counts *empty, double q)
{
	uint32_t m = counts_quantile(c, 0.5), em = counts_quantile(empty, 0.5), t = COUNTS, e = COUNTS;
	double above = c->n[COUNTS], machine = empty->n[COUNTS], most = (1 - q) * (double)c->total;

	while (t > m && above - machine <= most) {
		above += c->n[--t];
		while (e > t - m + em)
			machine += empty->n[--e];
	}
	return t;
}

static void add_counts(struct histogram *h, const struct counts *c)
{
	for (uint32_t t = 0; t < COUNTS; t++)
		for (uint32_t i = 0; i < c->n[t]; i++)
			histogram_add(h, t);
}

/* ---- the workload --------------------------------------------------------------------------------------------- */

/* X(name, unit, goal of the hot one) */
#define FIGURES(X) \
	X(MEDIAN, "one look-up, p50", "ns", 0) \
	X(MORE, "p50, more than in a row", "ns", 0) \
	X(PLAIN, "one look-up, p99.9", "ns", 0) \
	X(PLAIN_RATIO, "p99.9 / p50", "ratio", 0) \
	X(APART, "p99.9 apart from interrupts", "ns", 0) \
	X(APART_RATIO, "p99.9 apart from interrupts / p50", "ratio", 3)
enum {
#define FIGURE(name, ...) name,
	FIGURES(FIGURE)
#undef FIGURE
		N_FIGURES
};
static const struct {
	const char *name, *unit;
	double goal;
} figure_rows[] = {
#define FIGURE(name, ...) {__VA_ARGS__},
	FIGURES(FIGURE)
#undef FIGURE
};

static void add_figures(struct samples s[N_FIGURES], const struct counts *c, const struct counts *empty,
			double in_a_row)
{
	double tick = ticks_ns(1), median = counts_quantile(c, 0.5) * tick;
	double plain = counts_quantile(c, 0.999) * tick, apart = apart_from(c, empty, 0.999) * tick;

	add_sample(&s[MEDIAN], median);
	add_sample(&s[MORE], median - in_a_row);
	add_sample(&s[PLAIN], plain);
	add_sample(&s[PLAIN_RATIO], plain / median);
	add_sample(&s[APART], apart);
	add_sample(&s[APART_RATIO], apart / median);
}

static void report_all(const struct bench *b, struct samples s[N_SIZES][N_FIGURES], const struct histogram *h,
		       const struct histogram *empty)
{
	for (unsigned i = 0; i < N_SIZES; i++) {
		struct figure f = {.workload = "tail", .unit = "ns"};

		snprintf(f.parameters, sizeof(f.parameters), "partitions=%u", sizes[i]);
		snprintf(f.name, sizeof(f.name), "one look-up");
		report_histogram(b, &f, &h[i], ticks_ns(1));
		snprintf(f.name, sizeof(f.name), "two time stamps in turn with it");
		report_histogram(b, &f, &empty[i], ticks_ns(1));
		for (unsigned k = 0; k < N_FIGURES; k++) {
			snprintf(f.name, sizeof(f.name), "%s", figure_rows[k].name);
			f.unit = figure_rows[k].unit;
			f.goal = i == HOT ? figure_rows[k].goal : 0;
			f.s = s[i][k];
			report(b, &f);
		}
	}
}

/* One size after the other, or a million partitions would push the hot ones out of the cache again and again. */
static void measure(const struct bench *b, const struct place *p, size_t n, struct samples s[N_FIGURES],
		    struct histogram *all, struct histogram *all_empty)
{
	static struct counts counts, empty;
	double in_a_row = place_measure(p, place_route, b->quick ? IN_A_ROW_QUICK : IN_A_ROW);

	memset(&counts, 0, sizeof(counts));
	memset(&empty, 0, sizeof(empty));
	place_route(p, p->n_keys);
	for (size_t at = 0; at < n; at += BLOCK) {
		sample_empty(p, at, BLOCK, &empty, all_empty);
		sample_route(p, at, BLOCK, &counts, all);
	}
	add_counts(all, &counts);
	add_counts(all_empty, &empty);
	add_figures(s, &counts, &empty, in_a_row);
}

void workload_tail(const struct bench *b)
{
	static struct place places[N_SIZES];
	static struct histogram all[N_SIZES], empty[N_SIZES];
	static struct samples s[N_SIZES][N_FIGURES];
	size_t n = ((b->quick ? SAMPLES_QUICK : SAMPLES) / b->runs + BLOCK - 1) / BLOCK * BLOCK;

	for (unsigned i = 0; i < N_SIZES; i++)
		place_make(b, &places[i], "tail", sizes[i], false);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++)
		for (unsigned i = 0; i < N_SIZES; i++)
			measure(b, &places[i], n, s[i], &all[i], &empty[i]);
	pin_nowhere();
	for (unsigned i = 0; i < N_SIZES; i++)
		place_remove(&places[i]);
	report_all(b, s, all, empty);
}
