/* SPDX-License-Identifier: MIT
 * What the parts of a request's way cost at 1,000 partitions: a section alone, the look-up, the gate, a write in a
 * lease (single, and in bulk), by themselves and as what they cost more than the look-up that a proxy makes in any
 * case: berth_admit and berth_write_begin find the partition too. Called by the main program; one thread, on CPU 1,
 * keys as in lookup.c, nothing under way but what is said. The leases' slots are in the processor's cache, as they
 * are in a proxy that is busy. */
#include <stdio.h>

#include "place.h"

#define PARTITIONS 1000u
#define BATCH 32u
#define WINDOW 64u
#define CALLS (1u << 21)
#define CALLS_QUICK (1u << 16)

/* X(call, what it is). Times are of one key, or one write. */
#define CALL_ROWS(X) \
	X(route, "berth_route") \
	X(section, "berth_read_begin + berth_read_end") \
	X(admit, "berth_admit") \
	X(pair, "berth_write_begin + berth_write_end") \
	X(window, "the same, 64 under way") \
	X(bulk_route, "berth_route_bulk of 32") \
	X(bulk, "begin_bulk of 32, each ended")

static uint64_t calls_route(const struct place *p, size_t n)
{
	struct berth_route out = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum += (uint64_t)berth_route(p->w, p->names[i & (p->n_keys - 1)], KEY_LEN, &out);
		sum += out.epoch;
	}
	return sum;
}

static uint64_t calls_section(const struct place *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		berth_read_begin(p->w);
		berth_read_end(p->w);
	}
	return n;
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

static uint64_t calls_pair(const struct place *p, size_t n)
{
	struct berth_write w = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum += (uint64_t)berth_write_begin(p->w, p->names[i & (p->n_keys - 1)], KEY_LEN, 0, &w);
		sum += w.epoch;
		sum += (uint64_t)berth_write_end(p->w, &w, BERTH_DONE);
	}
	return sum;
}

static uint64_t calls_window(const struct place *p, size_t n)
{
	struct berth_write w[WINDOW] = {{0}};
	uint64_t sum = 0;

	for (size_t i = 0; i < WINDOW; i++)
		sum += (uint64_t)berth_write_begin(p->w, p->names[i], KEY_LEN, 0, &w[i]);
	for (size_t i = 0; i < n; i++) {
		struct berth_write *oldest = &w[i % WINDOW];

		sum += (uint64_t)berth_write_end(p->w, oldest, BERTH_DONE);
		sum += (uint64_t)berth_write_begin(p->w, p->names[i & (p->n_keys - 1)], KEY_LEN, 0, oldest);
		sum += oldest->epoch;
	}
	for (size_t i = 0; i < WINDOW; i++)
		sum += (uint64_t)berth_write_end(p->w, &w[i], BERTH_DONE);
	return sum;
}

static uint64_t calls_bulk_route(const struct place *p, size_t n)
{
	struct berth_route out[BATCH] = {{0}};
	int status[BATCH];
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += BATCH) {
		sum += (uint64_t)berth_route_bulk(p->w, p->keys + (i & (p->n_keys - 1)), BATCH, out, status);
		for (unsigned k = 0; k < BATCH; k++)
			sum += out[k].epoch + (uint64_t)status[k];
	}
	return sum;
}

static uint64_t calls_bulk(const struct place *p, size_t n)
{
	struct berth_write w[BATCH] = {{0}};
	int status[BATCH];
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i += BATCH) {
		sum += (uint64_t)berth_write_begin_bulk(p->w, p->keys + (i & (p->n_keys - 1)), NULL, BATCH, w, status);
		for (unsigned k = 0; k < BATCH; k++) {
			sum += w[k].epoch + (uint64_t)status[k];
			sum += (uint64_t)berth_write_end(p->w, &w[k], BERTH_DONE);
		}
	}
	return sum;
}

static const struct call {
	const char *name;
	place_calls *run;
} calls[] = {
#define CALL_ROW(name, text) {text, calls_##name},
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
};
enum {
#define CALL_ROW(name, text) CALL_##name,
	CALL_ROWS(CALL_ROW)
#undef CALL_ROW
		N_CALLS
};

/* What is left when one is taken from the other, run by run. */
static const struct difference {
	const char *name;
	unsigned of, less;
	double goal;
} differences[] = {
	{"berth_admit, more than berth_route", CALL_admit, CALL_route, 0},
	{"begin + end, more than berth_route", CALL_pair, CALL_route, 12},
	{"64 under way, more than berth_route", CALL_window, CALL_route, 0},
	{"bulk forms, more than berth_route_bulk", CALL_bulk, CALL_bulk_route, 0},
};
#define N_DIFFERENCES (sizeof(differences) / sizeof(differences[0]))

/* A refusal would be quick, and so would a write that holds no lease. */
static void check(const struct place *p)
{
	struct berth_write w[BATCH] = {{0}};
	int status[BATCH], rc;

	for (size_t i = 0; i < PARTITIONS; i++) {
		rc = berth_write_begin(p->w, p->names[i], KEY_LEN, p->epochs[i], &w[0]);
		if (rc != BERTH_OK || w[0].epoch != p->epochs[i])
			fail("a write on %s cannot begin: %s", p->names[i], berth_strerror(rc));
		if (berth_write_end(p->w, &w[0], BERTH_DONE) != BERTH_OK)
			fail("a write on %s had no lease", p->names[i]);
	}
	rc = berth_write_begin_bulk(p->w, p->keys, NULL, BATCH, w, status);
	for (unsigned k = 0; k < BATCH; k++)
		if (rc != BERTH_OK || status[k] != BERTH_OK || berth_write_end(p->w, &w[k], BERTH_DONE) != BERTH_OK)
			fail("%u writes cannot begin at once: %s", BATCH, berth_strerror(rc ? rc : status[k]));
}

void workload_parts(const struct bench *b)
{
	static struct place p;
	static struct samples s[N_CALLS], more[N_DIFFERENCES];
	size_t n = b->quick ? CALLS_QUICK : CALLS;
	struct figure f = {.workload = "parts", .unit = "ns"};

	place_make(b, &p, "parts", PARTITIONS, true);
	check(&p);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++) { /* in turn, as in lookup.c */
		for (unsigned k = 0; k < N_CALLS; k++)
			add_sample(&s[k], place_measure(&p, calls[k].run, n));
		for (unsigned k = 0; k < N_DIFFERENCES; k++)
			add_sample(&more[k], s[differences[k].of].v[run] - s[differences[k].less].v[run]);
	}
	pin_nowhere();
	snprintf(f.parameters, sizeof(f.parameters), "partitions=%u", PARTITIONS);
	for (unsigned k = 0; k < N_CALLS + N_DIFFERENCES; k++) {
		bool single = k < N_CALLS;

		snprintf(f.name, sizeof(f.name), "%s", single ? calls[k].name : differences[k - N_CALLS].name);
		f.goal = single ? 0 : differences[k - N_CALLS].goal;
		f.s = single ? s[k] : more[k - N_CALLS];
		report(b, &f);
	}
	place_remove(&p);
}
