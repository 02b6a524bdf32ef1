/* SPDX-License-Identifier: MIT
 * One registration's pin rings, as the thread that works them off sees them: what its process pushed is copied, checked,
 * applied to the table of pins and acknowledged. Nothing in a ring is trusted: whatever a process writes there can pin and
 * release cursors, which it may, and nothing else. Called by cursors.c under its lock; no thread, no clock of its own. */
#ifndef BERTH_WRITER_CURSOR_RINGS_H
#define BERTH_WRITER_CURSOR_RINGS_H

#include "cursor_table.h"
#include "registry.h"

struct cursor_desk { /* where entries are applied */
	struct cursor_table *table;
	struct shm_ledger *ledger;
	const _Atomic uint64_t *exists; /* a bit for each cluster number */
};

struct cursor_rings {
	const struct shm_registration *file;
	const struct shm_ring *rings; /* SHM_RING_STRIDE bytes each */
	_Atomic uint64_t *acks;
	uint32_t n, first_ack;
};

/* Rings that have been in use, as their process says it, and no more than there are. */
uint32_t cursor_rings_high(const struct cursor_rings *);
/* Has ring i anything that is not done? i < n. */
bool cursor_ring_pending(const struct cursor_rings *, uint32_t i);
/* Does at most `most` entries of ring i; how many were done (1 for a head that cannot be). */
unsigned cursor_ring_serve(const struct cursor_rings *, uint32_t i, unsigned most, const struct cursor_desk *);
/* Wakes the reader of ring i, if it sleeps. */
void cursor_ring_wake(const struct cursor_rings *, uint32_t i);

static inline bool cursor_cluster_exists(const _Atomic uint64_t *exists, uint32_t cluster)
{
	return cluster <= SHM_CLUSTERS_MAX &&
	       (atomic_load_explicit(&exists[cluster / 64], memory_order_relaxed) >> cluster % 64 & 1) != 0;
}

#endif
