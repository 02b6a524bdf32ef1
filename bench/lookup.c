/* SPDX-License-Identifier: MIT
 * Look-ups of a registered reader, by number of partitions. Each call takes the next key of a uniform random sequence.
 * Throughput: nothing makes a call wait for the one before it, but in `chain`. */
#include <stdio.h>

#include "place.h"

#define CALLS (1u << 19)
#define CALLS_QUICK (1u << 16)

/* X(call, what it is, goal at each size). Times are of one key. */
#define CALL_ROWS(X) \
	X(route, "berth_route", {11, 30, 60, 100}) \
	X(bulk_8, "berth_route_bulk of 8", {0}) \
	X(bulk_32, "berth_route_bulk of 32", {8, 10, 30, 45}) \
	X(bulk_128, "berth_route_bulk of 128", {0}) \
	X(lookup, "begin, berth_lookup, end", {0}) \
	X(admit, "berth_admit", {0}) \
	X(chain, "berth_route, one waits for the last", {0})
#define SIZES \
	{ \
		1000, 100000, 1000000, 10000000 \
	}
#define N_SIZES 4u
#define N_SIZES_QUICK 2u

static uint64_t calls_route(const struct place *p, size_t n)
{
	return place_route(p, n);
}

static uint64_t calls_chain(const struct place *p, size_t n)
{
	return place_route_chain(p, n);
}

/* By number of keys at a time: a power of two. */
#define CALLS_BULK(batch) \
	static uint64_t calls_bulk_##batch(const struct place *p, size_t n) \
	{ \
		struct berth_route out[batch] = {{0}}; \
		int status[batch]; \
		uint64_t sum = 0; \
\
		for (size_t i = 0; i < n; i += (batch)) { \
			const struct berth_key *keys = p->keys + ((p->from + i) & (p->n_keys - 1)); \
\
			sum += (uint64_t)berth_route_bulk(p->r, keys, batch, out, status); \
			for (unsigned k = 0; k < (batch); k++) \
				sum += out[k].epoch + (uint64_t)status[k]; \
		} \
		return sum; \
	}
CALLS_BULK(8)
CALLS_BULK(32)
CALLS_BULK(128)

static uint64_t calls_lookup(const struct place *p, size_t n)
{
	struct berth_placement out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		berth_read_begin(p->r);
		sum += (uint64_t)berth_lookup(p->r, p->names[(p->from + i) & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch + out.index_len;
		berth_read_end(p->r);
	}
	return sum;
}

static uint64_t calls_admit(const struct place *p, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t k = (p->from + i) & (p->n_keys - 1);

		sum += (uint64_t)berth_admit(p->r, p->names[k], KEY_LEN, p->epochs[k]);
	}
	return sum;
}

static const struct call {
	const char *name;
	double goal[N_SIZES];
	place_calls *run;
} calls[] = {
#define CALL_ROW(name, text, ...) {text, __VA_ARGS__, calls_##name},
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
};
enum {
#define CALL_ROW(name, text, ...) CALL_##name,
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
		N_CALLS
};

/* One divided by the other, run by run. */
static const struct ratio {
	const char *name;
	unsigned of, by;
	double goal;
} ratios[] = {
	{"bulk of 32 / berth_route", CALL_bulk_32, CALL_route, 0},
	{"berth_lookup / berth_route", CALL_lookup, CALL_route, 2},
};
#define N_RATIOS (sizeof(ratios) / sizeof(ratios[0]))

struct size {
	struct place *p;
	struct samples s[N_CALLS], ratio[N_RATIOS];
};

/* A refusal would be quick. That the keys resolve, place.h has seen to. */
static void check(const struct place *p)
{
	struct berth_placement out;
	int rc = berth_admit(p->r, p->names[0], KEY_LEN, p->epochs[0]);

	if (rc != BERTH_OK)
		fail("a write on %s is not admitted: %s", p->names[0], berth_strerror(rc));
	berth_read_begin(p->r);
	rc = berth_lookup(p->r, p->names[0], KEY_LEN, &out);
	berth_read_end(p->r);
	if (rc != BERTH_OK || out.epoch != p->epochs[0])
		fail("%s: %s", p->names[0], berth_strerror(rc));
}

static void measure_size(struct size *at, size_t n)
{
	place_warm(at->p);
	for (unsigned k = 0; k < N_CALLS; k++)
		add_sample(&at->s[k], place_measure_on(at->p, calls[k].run, n));
	for (unsigned k = 0; k < N_RATIOS; k++) {
		const struct samples *of = &at->s[ratios[k].of], *by = &at->s[ratios[k].by];

		add_sample(&at->ratio[k], of->v[of->n - 1] / by->v[by->n - 1]);
	}
}

static void report_size(const struct bench *b, const struct size *at, unsigned i)
{
	static struct figure f = {.workload = "lookup"};

	snprintf(f.parameters, sizeof(f.parameters), "partitions=%u", at->p->n);
	for (unsigned k = 0; k < N_CALLS + N_RATIOS; k++) {
		bool call = k < N_CALLS;

		snprintf(f.name, sizeof(f.name), "%s", call ? calls[k].name : ratios[k - N_CALLS].name);
		f.unit = call ? "ns" : "ratio";
		f.goal = call ? calls[k].goal[i] : ratios[k - N_CALLS].goal;
		f.s = call ? at->s[k] : at->ratio[k - N_CALLS];
		report(b, &f);
	}
}

void workload_lookup(const struct bench *b)
{
	static const uint32_t partitions[N_SIZES] = SIZES;
	static struct size sizes[N_SIZES];
	unsigned n_sizes = b->quick ? N_SIZES_QUICK : N_SIZES;
	size_t n = b->quick ? CALLS_QUICK : CALLS;

	for (unsigned i = 0; i < n_sizes; i++) {
		sizes[i].p = place_of(b, partitions[i], 0);
		place_take(sizes[i].p, ORDER_UNIFORM);
		check(sizes[i].p);
	}
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++) /* in turn: a slow moment of the machine hits all alike */
		for (unsigned i = 0; i < n_sizes; i++)
			measure_size(&sizes[i], n);
	pin_nowhere();
	for (unsigned i = 0; i < n_sizes; i++)
		report_size(b, &sizes[i], i);
	if (b->only)
		places_release(); /* else keys.c and pages.c take them over */
}
