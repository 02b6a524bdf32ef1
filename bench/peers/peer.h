/* SPDX-License-Identifier: MIT
 * What stands beside berth in one run: other ways to answer `which cluster is this tenant on?`. Each in a file, used as
 * its authors mean it to be, filled with the same n keys (key_name) and values (value_of_key), asked with the same
 * sequence of keys, in turn with the others. A peer that cannot run here says why and is left out, aloud. */
#ifndef BERTH_BENCH_PEERS_PEER_H
#define BERTH_BENCH_PEERS_PEER_H

#include "../bench.h"

struct sequence {                /* of keys that are there, in a uniform random order; they lie side by side */
	char (*names)[KEY_ROOM]; /* KEY_LEN bytes each */
	size_t n;                /* a power of two */
	uint64_t sum;            /* of value_of_key over all of them */
};

static inline uint64_t value_of_key(uint32_t number)
{
	return number % CLUSTERS + 1; /* the cluster */
}

struct peer {
	const char *name;
	const char *how; /* one line: what it is, as it is used here */
	bool shared;     /* several processes can share one */
	bool bulk;       /* several keys a call */
	bool waits;      /* for another process: wall time; the others: processor time */
	uint32_t most;   /* partitions: more would take minutes; 0: any number */
	uint32_t calls;  /* look-ups of one run, for those that take microseconds; 0: as many as the rest */
	/* n keys; NULL: it cannot run here, and said why with report_note. Whatever else goes wrong is fail(). */
	void *(*open)(const struct bench *, uint32_t n);
	/* n look-ups, the sequence's keys from its beginning, again and again. The sum of the values found: the caller
	 * compares, so a wrong answer or a missing key ends the program. */
	uint64_t (*run)(void *, const struct sequence *, size_t n);
	void (*close)(void *);
};

/* ---- the peers; peers.c has the table in the order in which they are shown ---- */
extern const struct peer peer_berth, peer_berth_bulk;                /* berth.c */
extern const struct peer peer_private, peer_rwlock, peer_rwlock_two; /* private.c */
extern const struct peer peer_ck_ht;                                 /* ck.c */
extern const struct peer peer_lfht_qsbr, peer_lfht_memb;             /* lfht_qsbr.c, lfht_memb.c */
extern const struct peer peer_rte_hash, peer_rte_hash_bulk;          /* rte.c */
extern const struct peer peer_lmdb;                                  /* lmdb.c */
extern const struct peer peer_bpf_map;                               /* bpfmap.c */
extern const struct peer peer_redis, peer_redis_pipelined;           /* redis.c */
extern const struct peer peer_etcd;                                  /* etcd.c */

#endif
