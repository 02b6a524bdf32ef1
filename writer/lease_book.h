/* SPDX-License-Identifier: MIT
 * The ledger's lease records: what processes that are gone have left under way, of each partition the latest end, until
 * it is older than the barrier; and the two moments that stand in its header for what has no record. An index in memory
 * beside them finds a partition's record in one step. Called by registry_leases.c (who is gone), by the table (upkeep)
 * and by the core (judging). Control thread only; every number is of CLOCK_MONOTONIC as the caller has it. */
#ifndef BERTH_WRITER_LEASE_BOOK_H
#define BERTH_WRITER_LEASE_BOOK_H

#include <stdbool.h>

#include "../shm/layout.h"

struct lease_book;
struct lease_left { /* one end; end_ms 0: none */
	uint64_t end_ms;
	uint32_t pid;
	enum shm_lease_end how;
};

/* Over the records that are there already. NULL: out of memory. */
struct lease_book *lease_book_open(struct shm_ledger *);
void lease_book_close(struct lease_book **);

/* The record of this partition says at least this end from now on; when all records are taken and none of them is older
 * than barrier_ms, the overflow does, which counts for every partition. */
void lease_book_put(struct lease_book *, uint64_t hash, const struct lease_left *, uint64_t barrier_ms,
		    uint64_t now_ms);
void lease_book_overflow(struct lease_book *, uint64_t end_ms, uint32_t pid);
/* A process that may write without leases is gone. */
void lease_book_unbracketed_left(struct lease_book *, uint64_t now_ms);

struct lease_left lease_book_find(const struct lease_book *, uint64_t hash);
struct lease_left lease_book_overflown(const struct lease_book *);
uint64_t lease_book_left_ms(const struct lease_book *); /* 0: never */

/* Frees the records that are older than the barrier. */
void lease_book_expire(struct lease_book *, uint64_t barrier_ms, uint64_t now_ms);
uint32_t lease_book_count(const struct lease_book *);

#endif
