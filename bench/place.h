/* SPDX-License-Identifier: MIT
 * An instance of n partitions, readers of it, and the random sequence of keys that measured calls take: the keys lie side
 * by side, as a proxy has its key at hand, so what is measured is the table, not the caller's memory. Used by lookup.c
 * and lease.c; what goes wrong ends the program. */
#ifndef BERTH_BENCH_PLACE_H
#define BERTH_BENCH_PLACE_H

#include "../reader_lib/berth.h"
#include "bench.h"

struct place {
	uint32_t n;
	struct daemon d;
	struct berth *berth, *bracketed;
	struct berth_reader *r;  /* writes as by default: may ask the gate */
	struct berth_reader *w;  /* of `bracketed`: may begin writes. NULL without leases */
	size_t n_keys;           /* of the sequence, a power of two */
	char (*names)[KEY_ROOM]; /* in the order of the sequence */
	struct berth_key *keys;  /* likewise */
	uint64_t *epochs;        /* likewise */
};

void place_make(const struct bench *, struct place *, const char *name, uint32_t n, bool leases);
void place_remove(struct place *);

/* Makes n calls and returns something of every answer, so that nothing can be left out. */
typedef uint64_t place_calls(const struct place *, size_t n);
/* Processor time of one of n calls in ns, after a warm-up. */
double place_measure(const struct place *, place_calls *run, size_t n);

#endif
