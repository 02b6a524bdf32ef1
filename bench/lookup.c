/* SPDX-License-Identifier: MIT
 * Look-ups of a registered reader, by number of partitions. Each call takes the next key of a random sequence that was
 * made before: the keys lie side by side, as a proxy has its key at hand, so what is measured is the table, not the
 * caller's memory. Throughput: nothing makes a call wait for the one before it, but in `chain`. */
#include <stdio.h>

#include "place.h"

#define BATCH 32u
#define CALLS (1u << 21)
#define CALLS_QUICK (1u << 16)

/* X(call, what it is, goal at each size) */
#define CALL_ROWS(X) \
	X(route, "berth_route", {15, 0, 80}) \
	X(bulk, "berth_route_bulk of 32, a key", {0, 0, 0}) \
	X(lookup, "begin, berth_lookup, end", {0, 0, 0}) \
	X(admit, "berth_admit", {0, 0, 0}) \
	X(chain, "berth_route, one waits for the last", {0, 0, 0})
#define SIZES \
	{ \
		1000, 100000, 1000000 \
	}
#define N_SIZES 3u

/* Each makes n calls and returns something of every answer, so that nothing can be left out. */

static uint64_t calls_route(const struct place *p, size_t n)
{
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum += (uint64_t)berth_route(p->r, p->names[i & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch;
	}
	return sum;
}

static uint64_t calls_chain(const struct place *p, size_t n)
{
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		/* No epoch reaches bit 63: the same keys, but the processor cannot know. */
		berth_route(p->r, p->names[(i + (out.epoch >> 63)) & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch;
	}
	return sum;
}

static uint64_t calls_bulk(const struct place *p, size_t n)
{
	struct berth_route out[BATCH] = {{0}};
	int status[BATCH];
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += BATCH) {
		sum += (uint64_t)berth_route_bulk(p->r, p->keys + (i & (p->n_keys - 1)), BATCH, out, status);
		for (unsigned k = 0; k < BATCH; k++)
			sum += out[k].epoch + (uint64_t)status[k];
	}
	return sum;
}

static uint64_t calls_lookup(const struct place *p, size_t n)
{
	struct berth_placement out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		berth_read_begin(p->r);
		sum += (uint64_t)berth_lookup(p->r, p->names[i & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch + out.index_len;
		berth_read_end(p->r);
	}
	return sum;
}

static uint64_t calls_admit(const struct place *p, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		size_t k = i & (p->n_keys - 1);

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

void workload_lookup(const struct bench *b)
{
	static struct place places[N_SIZES];
	static struct samples s[N_SIZES][N_CALLS], halves[N_SIZES];
	static const uint32_t sizes[N_SIZES] = SIZES;
	unsigned n_sizes = b->quick ? N_SIZES - 1 : N_SIZES;
	size_t n = b->quick ? CALLS_QUICK : CALLS;

	for (unsigned i = 0; i < n_sizes; i++)
		place_make(b, &places[i], "lookup", sizes[i], false);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs;
	     run++) /* everything in turn: a slow moment of the machine hits all alike */
		for (unsigned i = 0; i < n_sizes; i++) {
			for (unsigned k = 0; k < N_CALLS; k++)
				add_sample(&s[i][k], place_measure(&places[i], calls[k].run, n));
			add_sample(&halves[i], s[i][CALL_bulk].v[run] / s[i][CALL_route].v[run]);
		}
	pin_nowhere();
	for (unsigned i = 0; i < n_sizes; i++) {
		struct figure f = {.workload = "lookup"};

		snprintf(f.parameters, sizeof(f.parameters), "partitions=%u", sizes[i]);
		for (unsigned k = 0; k < N_CALLS; k++) {
			snprintf(f.name, sizeof(f.name), "%s", calls[k].name);
			f.unit = "ns";
			f.goal = calls[k].goal[i];
			f.s = s[i][k];
			report(b, &f);
		}
		snprintf(f.name, sizeof(f.name), "bulk / single");
		f.unit = "ratio";
		f.goal = 0.5;
		f.s = halves[i];
		report(b, &f);
		place_remove(&places[i]);
	}
}
