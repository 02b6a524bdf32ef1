/* SPDX-License-Identifier: MIT
 * Working off a ring: cursor_rings.h.
 *
 *   reader: entry, head := n + 1 (release) [doorbell: cursors.c]     sleeps: waiting := 1, fence, FUTEX_WAIT(ack's low half)
 *   here:   cursor_doing := the ring; head (acquire); copy, check, apply; ack := n + 1, result (release);
 *           after the last: fence, waiting? FUTEX_WAKE
 *
 * P1 An entry is acknowledged after it was applied: whoever has seen the ack sees the pin.
 * P2 Killed in between, it is done again, by the next writer before anything else (cursor_doing): twice in a row is once,
 *    for an entry says when its pin ends, not how long it lasts.
 * P3 A reader that sleeps is woken: either the fence here came first, then it saw the ack, or its own did, then its
 *    `waiting` is seen. It waits for the last entry of its ring, so once after a batch will do. Killed before that, the
 *    next writer wakes the reader of the ring that cursor_doing names, whether it finds anything in it or not.
 * P4 What has expired is judged by a time between the call that asked and its answer: the clock is read after the head that
 *    says the entry is there, for each batch anew (this thread may be stopped anywhere), and before the first ack. */
#include "cursor_rings.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"

#define AHEAD 16u                    /* entries whose cache misses overlap */
#define DONE_MASK ((1ull << 56) - 1) /* what an ack has room for */

static const struct shm_ring *ring_at(const struct cursor_rings *s, uint32_t i)
{
	return (const struct shm_ring *)((const char *)s->rings + (size_t)i * SHM_RING_STRIDE);
}

uint32_t cursor_rings_high(const struct cursor_rings *s)
{
	/* Acquire: what was pushed below it is looked at afterwards. */
	uint32_t high = atomic_load_explicit(&s->file->rings_high, memory_order_acquire);

	return high < s->n ? high : s->n;
}

/* Acquire: pairs with the release store after an entry was filled. */
static uint64_t head_of(const struct shm_ring *ring)
{
	return atomic_load_explicit(&ring->head, memory_order_acquire) & DONE_MASK;
}

static uint64_t done_of(const struct cursor_rings *s, uint32_t i)
{
	return SHM_ACK_DONE(atomic_load_explicit(&s->acks[i], memory_order_relaxed)); /* nobody else stores it */
}

bool cursor_ring_pending(const struct cursor_rings *s, uint32_t i)
{
	return head_of(ring_at(s, i)) != done_of(s, i);
}

/* ---- one entry ---- */

static enum shm_pin_result invalid(const struct cursor_desk *desk, enum shm_pin_result why)
{
	cursor_table_refused(desk->table);
	return why;
}

static enum shm_pin_result apply(const struct shm_ring_entry *e, const struct cursor_desk *desk, uint64_t now_ms)
{
	/* Copied before it is checked: its process may write it meanwhile. */
	const uint64_t hash[2] = {atomic_load_explicit(&e->hash[0], memory_order_relaxed),
				  atomic_load_explicit(&e->hash[1], memory_order_relaxed)};
	uint64_t owner = atomic_load_explicit(&e->owner, memory_order_relaxed),
		 expiry = atomic_load_explicit(&e->expiry, memory_order_relaxed);
	uint32_t op = atomic_load_explicit(&e->op, memory_order_relaxed),
		 cluster = atomic_load_explicit(&e->cluster, memory_order_relaxed);

	if (op == SHM_OP_RELEASE)
		return cursor_table_release(desk->table, hash, owner, now_ms);
	if (op != SHM_OP_PIN || cluster == 0 || cluster > SHM_CLUSTERS_MAX || expiry > CURSOR_EXPIRY_MAX)
		return invalid(desk, SHM_PIN_INVALID);
	if (!cursor_cluster_exists(desk->exists, cluster))
		return invalid(desk, SHM_PIN_NO_CLUSTER);
	return cursor_table_pin(desk->table, hash, owner, (uint16_t)cluster, expiry, now_ms);
}

/* ---- a batch ---- */

static void acknowledge(const struct cursor_rings *s, uint32_t i, uint64_t done, enum shm_pin_result result)
{
	atomic_store_explicit(&s->acks[i], SHM_ACK(done, result), memory_order_release); /* P1 */
	CRASH_POINT(pin_acknowledged);
}

/* P3. The low half of an ack is its first, on a little-endian machine. */
void cursor_ring_wake(const struct cursor_rings *s, uint32_t i)
{
	atomic_thread_fence(memory_order_seq_cst); /* pairs with the reader's, between `waiting` and FUTEX_WAIT */
	if (atomic_load_explicit(&ring_at(s, i)->waiting, memory_order_relaxed))
		syscall(SYS_futex, (uint32_t *)&s->acks[i], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* What the next n entries, AHEAD at most, will need of the table. */
static void prefetch(const struct shm_ring_entry *entries, uint64_t done, uint64_t n, const struct cursor_desk *desk)
{
	uint64_t hash[AHEAD][2];
	unsigned k;

	for (k = 0; k < n && k < AHEAD; k++) {
		const struct shm_ring_entry *e = &entries[(done + k) % SHM_RING_ENTRIES];

		hash[k][0] = atomic_load_explicit(&e->hash[0], memory_order_relaxed);
		hash[k][1] = atomic_load_explicit(&e->hash[1], memory_order_relaxed);
	}
	cursor_table_prefetch(desk->table, hash, k);
}

unsigned cursor_ring_serve(const struct cursor_rings *s, uint32_t i, unsigned most, const struct cursor_desk *desk)
{
	const struct shm_ring *ring = ring_at(s, i);
	const struct shm_ring_entry *entries = (const struct shm_ring_entry *)(ring + 1);
	uint64_t head = head_of(ring), done = done_of(s, i), n = (head - done) & DONE_MASK;
	uint64_t now_ms;
	unsigned k;

	if (n == 0)
		return 0;
	if (n > SHM_RING_ENTRIES) { /* no library does that; a file that was cut off reads as zeros */
		acknowledge(s, i, head, invalid(desk, SHM_PIN_INVALID));
		cursor_ring_wake(s, i);
		return 1;
	}
	now_ms = seg_clock_ms(CLOCK_BOOTTIME); /* P4: after the head */
	atomic_store_explicit(&desk->ledger->cursor_doing, 1 + (uint64_t)s->first_ack + i, memory_order_relaxed);
	CRASH_POINT(ring_named);
	atomic_thread_fence(memory_order_release); /* P2: before the first of them is applied */
	for (k = 0; k < n && k < most; k++, done++) {
		if (k % AHEAD == 0 && n > 1)
			prefetch(entries, done, n - k, desk);
		acknowledge(s, i, done + 1, apply(&entries[done % SHM_RING_ENTRIES], desk, now_ms));
	}
	cursor_ring_wake(s, i);
	return k;
}
