/* SPDX-License-Identifier: MIT
 * Leases: a reader's statement, where the writer sees it, that a write on a partition is under way. Like hazard pointers:
 * for each reader an array of slots {hash of the partition, state}. Here: the bytes, and the steps of both sides, each a
 * few instructions. The reader's half is called by reader_lib/write.c, the writer's by writer/drain.c.
 *
 *   free --(state := open, hash := h)--> open --(hash := 0)--------------------> free    done, or the gate refused
 *                                         |                                       ^
 *                                         +--(state := unknown, end)--> unknown --+ taken again a barrier after the end
 *                                         |                                       | or, when slots are short, after
 *                                         |                                       | overflow := its end
 *                                         +--(overflow := end, hash := 0)---------+ unknown, when slots are short
 *
 * G1 A write that the gate admitted is seen by every look that begins after the membarrier of the cutover: the lease is
 *    stored before the word is loaded (section_fence between them), so either the look finds the lease, or the load finds
 *    the cutover and the lease is taken back. Where the default answers, the word is the one that is not there: the
 *    partition is looked for after the lease.
 * G2 A slot is cleared after the last access that the lease stands for (release), and looked at with acquire: a look that
 *    finds it clear of a partition comes after the end of that write.
 * G3 `high` is stored before a slot above it is, so a look at the slots below the `high` that it loaded after its barrier
 *    sees every lease that G1 speaks of.
 * G4 A lease that ended unknown stays to be seen for a barrier: in its slot, or in `overflow_ms`, which is raised before
 *    the slot is cleared, is never lowered, and is loaded by a look after the slots of its array.
 * G5 hash and state are two loads. Who loads the hash first (acquire), then the state, may get the state of a later lease
 *    in the same slot, never of an earlier one: open or a later end, so it errs on the side of waiting.
 * One process writes here, and whatever it writes is about its own writes alone.
 * Model: tests/model/lease.pml. */
#ifndef BERTH_SHM_LEASE_H
#define BERTH_SHM_LEASE_H

#include <stdbool.h>

#include "layout.h"

enum lease_kind { LEASE_NONE = 0, LEASE_OPEN = 1, LEASE_UNKNOWN = 2 };

/* "Older than the barrier" means older than it and this: clocks are read in whole milliseconds, on several processors. */
#define LEASE_SLACK_MS 10u

static inline uint64_t lease_state(enum lease_kind kind, uint64_t time_ms)
{
	return (uint64_t)kind << 62 | (time_ms & ((1ull << 48) - 1));
}
/* Whatever a process wrote that is neither open nor unknown counts as open. */
static inline enum lease_kind lease_kind(uint64_t state)
{
	return state >> 62 == LEASE_UNKNOWN ? LEASE_UNKNOWN : LEASE_OPEN;
}
static inline uint64_t lease_time(uint64_t state)
{
	return state & ((1ull << 48) - 1);
}
static inline uint64_t lease_hash(uint64_t hash)
{
	return hash ? hash : 1;
}
static inline bool lease_old(uint64_t end_ms, uint64_t barrier_ms, uint64_t now_ms)
{
	return now_ms > end_ms && now_ms - end_ms > barrier_ms + LEASE_SLACK_MS;
}

static inline struct shm_lease *lease_slots(struct shm_leases *a)
{
	return (struct shm_lease *)(a + 1);
}

/* What tells a lease from others in its slot: the high 16 bits of its state while it is open. */
static inline uint32_t lease_tag(uint32_t sequence)
{
	return (uint32_t)LEASE_OPEN << 14 | (sequence & 0x3fffu);
}

/* Takes a slot that is free. Afterwards: section_fence, then the loads that decide. */
static inline void lease_take(struct shm_leases *a, uint32_t i, uint64_t hash, uint32_t tag, uint64_t now_ms)
{
	struct shm_lease *s = &lease_slots(a)[i];

	if (__builtin_expect(atomic_load_explicit(&a->high, memory_order_relaxed) <= i, 0))
		atomic_store_explicit(&a->high, i + 1, memory_order_relaxed); /* G3: before the hash, by its release */
	atomic_store_explicit(&s->state, (uint64_t)tag << 48 | lease_time(now_ms), memory_order_relaxed);
	/* Release: state and high first (G5, G3); pairs with lease_look. G1 needs the fence that follows. */
	atomic_store_explicit(&s->hash, lease_hash(hash), memory_order_release);
}

/* Done, or refused. The process may touch nothing of the array on account of this lease afterwards. */
static inline void lease_clear(struct shm_lease *s)
{
	atomic_store_explicit(&s->hash, 0, memory_order_release); /* G2; pairs with lease_look */
}

/* Ended unknown, and stays to be seen. */
static inline void lease_end_unknown(struct shm_lease *s, uint64_t end_ms)
{
	atomic_store_explicit(&s->state, lease_state(LEASE_UNKNOWN, end_ms), memory_order_release); /* G2 */
}

/* Ended unknown, and its slot is wanted: counts for every partition. */
static inline void lease_overflow(struct shm_leases *a, struct shm_lease *s, uint64_t end_ms)
{
	uint64_t was = atomic_load_explicit(&a->overflow_ms, memory_order_relaxed);

	while (was < end_ms && !atomic_compare_exchange_weak_explicit(&a->overflow_ms, &was, end_ms,
								      memory_order_relaxed, memory_order_relaxed))
		;
	lease_clear(s); /* G4: after the overflow, by its release */
}

/* What is in a slot: 0 when it is free, else the hash, and *state. */
static inline uint64_t lease_look(const struct shm_lease *s, uint64_t *state)
{
	uint64_t hash = atomic_load_explicit(&s->hash, memory_order_acquire); /* G2, G5 */

	if (hash)
		*state = atomic_load_explicit(&s->state,
					      memory_order_acquire); /* acquire: an unknown end is an end (G2) */
	return hash;
}

#endif
