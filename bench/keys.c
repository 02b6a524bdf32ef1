/* SPDX-License-Identifier: MIT
 * berth_route by what is asked for: keys uniform or by Zipf's distribution, with a placement or without one, short or
 * long. */
#include <stdio.h>

#include "place.h"

#define CALLS (1u << 18)
#define CALLS_QUICK (1u << 16)

static const struct kind {
	uint32_t partitions;
	unsigned flags;
	enum order order;
	const char *name;
	double goal; /* of berth_route */
} kinds[] = {
	{1000, 0, ORDER_UNIFORM, "uniform", 0},
	{1000, 0, ORDER_ZIPF, "zipf", 0},
	{1000, 0, ORDER_MISSING, "missing", 0},
	{1000, PLACE_LONG_KEYS, ORDER_UNIFORM, "uniform", 0},
	{1000, PLACE_LONG_KEYS, ORDER_MISSING, "missing", 0},
	{1000000, 0, ORDER_UNIFORM, "uniform", 0},
	{1000000, 0, ORDER_ZIPF, "zipf", 0},
	{1000000, 0, ORDER_MISSING, "missing", 0},
	{1000000, PLACE_LONG_KEYS, ORDER_UNIFORM, "uniform", 0},
	{1000000, PLACE_LONG_KEYS, ORDER_MISSING, "missing", 0},
	{10000000, 0, ORDER_ZIPF, "zipf", 70},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define N_KINDS_QUICK 5u

struct measured {
	struct place *p;
	struct samples route, bulk;
};

static void measure_kind(struct measured *m, const struct kind *k, size_t n)
{
	place_take(m->p, k->order);
	place_warm(m->p);
	add_sample(&m->route, place_measure_on(m->p, place_route, n));
	add_sample(&m->bulk, place_measure_on(m->p, place_route_bulk, n));
}

static void report_kind(const struct bench *b, const struct measured *m, const struct kind *k)
{
	static struct figure f = {.workload = "keys", .unit = "ns"};

	snprintf(f.parameters, sizeof(f.parameters), "partitions=%u keys=%s bytes=%u", k->partitions, k->name,
		 k->flags & PLACE_LONG_KEYS ? LONG_KEY_LEN : KEY_LEN);
	snprintf(f.name, sizeof(f.name), "berth_route");
	f.goal = k->goal;
	f.s = m->route;
	report(b, &f);
	snprintf(f.name, sizeof(f.name), "bulk of %u", PLACE_BULK);
	f.goal = 0;
	f.s = m->bulk;
	report(b, &f);
}

void workload_keys(const struct bench *b)
{
	static struct measured measured[N_KINDS];
	unsigned n_kinds = b->quick ? N_KINDS_QUICK : N_KINDS;
	size_t n = b->quick ? CALLS_QUICK : CALLS;

	for (unsigned i = 0; i < n_kinds; i++) {
		measured[i].p = place_of(b, kinds[i].partitions, kinds[i].flags);
		place_take(measured[i].p, kinds[i].order); /* makes the sequence */
	}
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++)
		for (unsigned i = 0; i < n_kinds; i++)
			measure_kind(&measured[i], &kinds[i], n);
	pin_nowhere();
	for (unsigned i = 0; i < n_kinds; i++)
		report_kind(b, &measured[i], &kinds[i]);
	for (unsigned i = 0; i < n_kinds; i++)
		if (kinds[i].flags & PLACE_LONG_KEYS && kinds[i].order == ORDER_UNIFORM)
			place_release(measured[i].p);
	if (b->only)
		places_release(); /* else pages.c takes over what is left */
}
