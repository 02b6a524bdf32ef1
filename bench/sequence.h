/* SPDX-License-Identifier: MIT
 * The keys that measured calls take, in the order in which they take them, made before: they lie side by side, as a proxy
 * has its key at hand, so what is measured is the table, not the caller's memory, nor the making of keys. Used by
 * place.c; what goes wrong ends the program. */
#ifndef BERTH_BENCH_SEQUENCE_H
#define BERTH_BENCH_SEQUENCE_H

#include "../reader_lib/berth.h"
#include "bench.h"

enum order {
	ORDER_UNIFORM, /* each partition as often as any other */
	ORDER_ZIPF,    /* few of them nearly always: exponent 0.99 */
	ORDER_MISSING, /* uniform, of keys of the same form that have no placement */
	N_ORDERS
};

struct sequence {
	size_t n;               /* a power of two, 0: not made */
	size_t stride, len;     /* of the keys, in bytes */
	char *bytes;            /* key i at i * stride, NUL-terminated */
	struct berth_key *keys; /* the same */
	uint64_t *epochs;       /* the answers' */
};

/* The same keys in every run, at least as many as there are partitions (of long keys at most 2^22). Resolves each of
 * them: it has to be there, or, of ORDER_MISSING, not to be there. */
void sequence_make(struct sequence *, struct berth_reader *, uint32_t n_partitions, enum order, bool long_keys);
void sequence_free(struct sequence *);

#endif
