/* SPDX-License-Identifier: MIT
 * Histograms of times: 32 buckets for each power of two, so that a value is off by 3 % at most, up to 2^40. Called by the
 * workloads. No library of Debian's has one for C. */
#include "bench.h"

#define FINE_BITS 5u
#define FINE (1u << FINE_BITS)
static_assert(HISTOGRAM_BUCKETS >= (40 - FINE_BITS + 2) * FINE, "up to 2^40");

static unsigned bucket_of(uint64_t v)
{
	unsigned power, at;

	if (v < FINE)
		return (unsigned)v;
	power = 63u - (unsigned)__builtin_clzll(v);
	at = (power - FINE_BITS + 1) * FINE + (unsigned)(v >> (power - FINE_BITS) & (FINE - 1));
	return at < HISTOGRAM_BUCKETS ? at : HISTOGRAM_BUCKETS - 1;
}

/* The middle of a bucket. */
static double value_of(unsigned bucket)
{
	unsigned power = bucket / FINE;

	if (power == 0)
		return bucket;
	return ((double)(FINE + bucket % FINE) + 0.5) * (double)(1ull << (power - 1));
}

void histogram_add(struct histogram *h, uint64_t v)
{
	h->n[bucket_of(v)]++;
	h->total++;
	h->max = v > h->max ? v : h->max;
}

void histogram_merge(struct histogram *h, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->n[i] += from->n[i];
	h->total += from->total;
	h->max = from->max > h->max ? from->max : h->max;
}

double histogram_quantile(const struct histogram *h, double q)
{
	uint64_t below = 0, want = (uint64_t)(q * (double)h->total);

	if (q >= 1)
		return (double)h->max;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		below += h->n[i];
		if (below > want)
			return value_of(i) < (double)h->max ? value_of(i) : (double)h->max;
	}
	return (double)h->max;
}
