/* SPDX-License-Identifier: MIT
 * Sequences of keys: uniform, Zipf's, missing ones: sequence.h. Called by place.c. */
#include "sequence.h"

#include <stdlib.h>

#define LEAST (1u << 14)
#define MOST_LONG (1u << 22)
#define LONG_STRIDE 208u
#define CHUNK 32u

static_assert(LONG_STRIDE > LONG_KEY_LEN && KEY_ROOM > KEY_LEN, "a key and its NUL");

/* ---- Zipf's distribution -------------------------------------------------------------------------------------
 * J. Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994, as in YCSB: the rank, counted
 * from 0, of a uniform number. The exponent is 0.99, so every power in it is a hundredth root or a hundredth power. */
struct zipf {
	uint32_t n;
	double sum; /* of the weights rank ^ -0.99 of all ranks, from 1 */
	double second, eta;
};

static double hundredth_power(double x)
{
	double x4 = x * x * x * x, x8 = x4 * x4, x32 = x8 * x8 * x8 * x8;

	return x32 * x32 * x32 * x4;
}

/* Newton's iteration, from a number that is near. */
static double hundredth_root(double x, double near)
{
	double step;

	do {
		step = near * (1 - x / hundredth_power(near)) / 100;
		near -= step;
	} while (step > 1e-14 || step < -1e-14);
	return near;
}

static void zipf_make(struct zipf *z, uint32_t n)
{
	double root = 1;

	*z = (struct zipf){.n = n};
	for (uint32_t rank = 1; rank <= n; rank++) {
		root = hundredth_root(rank, root);
		z->sum += root / rank;
		if (rank == 2)
			z->second = z->sum;
	}
	z->eta = (1 - hundredth_root(2.0 / n, 1)) / (1 - z->second / z->sum);
}

static uint32_t zipf_rank(const struct zipf *z, double uniform)
{
	double weight = uniform * z->sum, rank;

	if (weight < 1)
		return 0;
	if (weight < z->second)
		return 1;
	rank = z->n * hundredth_power(z->eta * uniform - z->eta + 1);
	return rank < z->n ? (uint32_t)rank : z->n - 1;
}

/* Every rank another partition, those of like ranks far apart. */
#define SCATTER 2654435761u /* a prime that divides no number of partitions */
static uint32_t scattered(uint32_t rank, uint32_t n)
{
	return (uint32_t)((uint64_t)rank * SCATTER % n);
}

/* ---- the sequence -------------------------------------------------------------------------------------------- */

static uint32_t next_number(uint64_t *state, uint32_t n, enum order order, const struct zipf *z)
{
	uint64_t random = random_u64(state) >> 32;
	uint32_t uniform = (uint32_t)(random * n >> 32);

	if (order == ORDER_ZIPF)
		return scattered(zipf_rank(z, (double)random / 4294967296.0), n);
	return order == ORDER_MISSING ? uniform + n : uniform;
}

/* Keys from `at` on: are they what they should be? */
static void resolve(struct sequence *s, struct berth_reader *r, size_t at, int expected)
{
	struct berth_route out[CHUNK] = {{0}};
	int status[CHUNK], rc = berth_route_bulk(r, s->keys + at, CHUNK, out, status);

	for (unsigned i = 0; i < CHUNK; i++) {
		if (rc != BERTH_OK || status[i] != expected)
			fail("%s: %s; expected: %s", s->bytes + (at + i) * s->stride,
			     berth_strerror(rc ? rc : status[i]), berth_strerror(expected));
		s->epochs[at + i] = out[i].epoch;
	}
}

void sequence_make(struct sequence *s, struct berth_reader *r, uint32_t n_partitions, enum order order, bool long_keys)
{
	uint64_t state = 42 + (uint64_t)order;
	struct zipf z = {0};

	*s = (struct sequence){.n = LEAST, .stride = long_keys ? LONG_STRIDE : KEY_ROOM};
	s->len = long_keys ? LONG_KEY_LEN : KEY_LEN;
	while (s->n < n_partitions && !(long_keys && s->n == MOST_LONG))
		s->n *= 2;
	s->bytes = aligned_alloc(64, s->n * s->stride);
	s->keys = calloc(s->n, sizeof(*s->keys));
	s->epochs = calloc(s->n, sizeof(*s->epochs));
	if (!s->bytes || !s->keys || !s->epochs)
		fail("no memory for %zu keys", s->n);
	if (order == ORDER_ZIPF)
		zipf_make(&z, n_partitions);
	for (size_t i = 0; i < s->n; i++) {
		uint32_t number = next_number(&state, n_partitions, order, &z);
		char *key = s->bytes + i * s->stride;

		if (long_keys)
			long_key_name(key, number);
		else
			key_name(key, number);
		s->keys[i] = (struct berth_key){.key = key, .len = s->len};
		if (i % CHUNK == CHUNK - 1)
			resolve(s, r, i - (CHUNK - 1), order == ORDER_MISSING ? BERTH_E_UNKNOWN : BERTH_OK);
	}
}

void sequence_free(struct sequence *s)
{
	free(s->bytes);
	free(s->keys);
	free(s->epochs);
	*s = (struct sequence){0};
}
