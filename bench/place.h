/* SPDX-License-Identifier: MIT
 * An instance of n partitions, readers of it, the keys that measured calls take, and the measuring. Workloads that only
 * read share instances: place_of. Called by the workloads; what goes wrong ends the program. */
#ifndef BERTH_BENCH_PLACE_H
#define BERTH_BENCH_PLACE_H

#include "sequence.h"

struct place {
	uint32_t n;
	unsigned flags;
	struct daemon d;
	struct berth *berth, *bracketed;
	struct berth_reader *r; /* writes as by default: may ask the gate */
	struct berth_reader *w; /* of `bracketed`: may begin writes. NULL without leases */
	struct sequence sequences[N_ORDERS];
	/* the sequence that was taken last, from the beginning the uniform one; calls go on at `from` */
	size_t from, n_keys, stride, key_len;
	char *bytes;             /* the keys, stride apart */
	char (*names)[KEY_ROOM]; /* the same, unless they are long */
	struct berth_key *keys;
	uint64_t *epochs;
};

#define PLACE_LEASES 1u
#define PLACE_LONG_KEYS 2u   /* of LONG_KEY_LEN bytes */
#define PLACE_SMALL_PAGES 4u /* the table on 4 KiB pages */

/* For one workload alone. */
void place_make(const struct bench *, struct place *, const char *name, uint32_t n, bool leases);
void place_remove(struct place *);

/* The one of n partitions with these flags that is kept for whoever only reads; made when there is none. Keep few: ten
 * million partitions take 2.3 GB of shared memory and 0.6 GB for each sequence, so of such there is one at a time, and
 * asking for another removes it. */
#define PLACES_MAX 8u
struct place *place_of(const struct bench *, uint32_t n, unsigned flags);
void place_release(struct place *); /* nobody is going to ask for it again */
void places_release(void);          /* nor for any */

/* From here on its calls take keys in this order; made when it is first taken. */
void place_take(struct place *, enum order);

/* Makes n calls and returns something of every answer, so that nothing can be left out. */
typedef uint64_t place_calls(const struct place *, size_t n);
/* Processor time of one of n calls in ns, after a warm-up with the keys before. */
double place_measure(const struct place *, place_calls *run, size_t n);
/* The same, and the next one goes on with the keys that follow: in a large table it finds nothing in the caches that the
 * one before left there. n and what came before are powers of two. */
double place_measure_on(struct place *, place_calls *run, size_t n);
/* Brings into the caches what the next calls want and what fits: when other things were measured in between. */
void place_warm(struct place *);

/* Calls that several workloads measure, of r. */
#define PLACE_BULK 32u
uint64_t place_route(const struct place *, size_t n);
uint64_t place_route_bulk(const struct place *, size_t n);  /* PLACE_BULK keys at a time */
uint64_t place_route_chain(const struct place *, size_t n); /* each waits for the one before */

#endif
