/* SPDX-License-Identifier: MIT
 * berth_cursor_pin and berth_cursor_release: requests to the cursor thread of berthd, through the ring of this reader in
 * the process's registration; it acknowledges in the ledger. The reader's own thread is the ring's one producer.
 *
 *   entry -> head + 1 (release) -> [fence] -> is the thread asleep? ring the doorbell -> wait for the ack, if asked to
 *
 * R1 An entry is complete before head says that it is there (release; pairs with the thread's acquire of head), and is not
 *    written again before the ack has passed it (acquire of the ack: the thread has copied it).
 * R2 No lost doorbell: head is stored before `cursor_sleeping` is loaded, and the thread stores that, issues membarrier,
 *    and looks at all rings again before it sleeps. A process that membarrier does not reach fences (section_fence).
 * R3 No lost wake: `waiting` is stored, then a full fence, then the ack is compared (by FUTEX_WAIT, once more); the thread
 *    stores the ack, a full fence, then loads `waiting`.
 * R4 What is pinned is in the table before its ack (release; pairs with our acquire): whoever is told after a pin has
 *    returned finds it.
 * A daemon that dies leaves ring and ack as they are: its successor goes on from the ack. Model: tests/model/ring.pml. */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pins.h"

#define SPIN_NS 20000u     /* before sleeping, when the thread is awake: its answer takes a microsecond */
#define SPIN_LOOKS 16u     /* between two looks at the clock */
#define SLICE_NS 10000000u /* of a sleep */

static uint64_t ack_load(const struct berth_reader *r)
{
	return atomic_load_explicit(r->ack, memory_order_acquire); /* R1, R4 */
}

static bool drained(const struct berth_reader *r)
{
	return SHM_ACK_DONE(ack_load(r)) == r->ring_head;
}

static int pin_result(uint64_t ack)
{
	switch (SHM_ACK_RESULT(ack)) {
	case SHM_PIN_OK:
		return BERTH_OK;
	case SHM_PIN_NOT_OWNER:
		return BERTH_E_NOT_OWNER;
	case SHM_PIN_UNKNOWN:
	case SHM_PIN_NO_CLUSTER:
		return BERTH_E_UNKNOWN;
	default:
		return BERTH_E_CORRUPT; /* nothing that we send */
	}
}

/* The daemon that would do it. heartbeat: CLOCK_BOOTTIME. */
static bool writer_lives(const struct berth_reader *r, uint64_t now_ms)
{
	uint64_t beat = atomic_load_explicit(&r->root->heartbeat_ms, memory_order_relaxed);

	return beat + HEARTBEAT_OLD_MS >= now_ms && !gate_superseded(r->root) && !at_abandoned(r);
}

static void ring_doorbell(const struct berth_reader *r)
{
	const uint64_t one = 1;

	while (write(r->at->doorbell, &one, sizeof one) < 0 && errno == EINTR)
		; /* EAGAIN: it rings already */
}

/* False: full. *rung: the thread was asleep. */
static bool push(struct berth_reader *r, const struct pin_name *name, enum shm_pin_op op, uint16_t cluster,
		 uint64_t expiry_ms, bool *rung)
{
	struct shm_ring_entry *e = (struct shm_ring_entry *)(r->ring + 1) + (r->ring_head & (SHM_RING_ENTRIES - 1));

	if (r->ring_head - r->ring_done >= SHM_RING_ENTRIES) {
		r->ring_done = SHM_ACK_DONE(ack_load(r)); /* R1 */
		if (r->ring_head - r->ring_done >= SHM_RING_ENTRIES)
			return false;
	}
	atomic_store_explicit(&e->hash[0], name->hash[0], memory_order_relaxed);
	atomic_store_explicit(&e->hash[1], name->hash[1], memory_order_relaxed);
	atomic_store_explicit(&e->owner, name->owner, memory_order_relaxed);
	atomic_store_explicit(&e->expiry, expiry_ms, memory_order_relaxed);
	atomic_store_explicit(&e->op, op, memory_order_relaxed);
	atomic_store_explicit(&e->cluster, cluster, memory_order_relaxed);
	atomic_store_explicit(&r->ring->head, ++r->ring_head, memory_order_release); /* R1 */
	section_fence(r->fences);                                                    /* R2 */
	*rung = atomic_load_explicit(&r->at->ledger->cursor_sleeping, memory_order_relaxed) != 0;
	if (*rung)
		ring_doorbell(r);
	return true;
}

static uint64_t spin(const struct berth_reader *r)
{
	uint64_t until = seg_clock_ns(CLOCK_MONOTONIC) + SPIN_NS, ack;

	do
		for (unsigned i = 0; i < SPIN_LOOKS; i++) {
			ack = ack_load(r);
			if (SHM_ACK_DONE(ack) >= r->ring_head)
				return ack;
			seg_relax();
		}
	while (seg_clock_ns(CLOCK_MONOTONIC) < until);
	return ack;
}

/* Until the last entry is acknowledged, wait_ms at most. The ack then is that entry's: nothing comes after it. It is looked
 * at every SLICE_NS too: the acks are futexes in a file that all processes map, and any of them could have moved who sleeps
 * there to another one (FUTEX_REQUEUE). */
static uint64_t await(struct berth_reader *r, uint32_t wait_ms, bool rung)
{
	uint64_t until = seg_clock_ns(CLOCK_MONOTONIC) + wait_ms * 1000000ull, ack = rung ? ack_load(r) : spin(r), now;

	while (SHM_ACK_DONE(ack) < r->ring_head && (now = seg_clock_ns(CLOCK_MONOTONIC)) < until) {
		uint64_t wake = now + SLICE_NS < until ? now + SLICE_NS : until;
		const struct timespec at = {.tv_sec = (time_t)(wake / 1000000000u),
					    .tv_nsec = (long)(wake % 1000000000u)};

		atomic_store_explicit(&r->ring->waiting, 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst); /* R3 */
		ack = ack_load(r);
		if (SHM_ACK_DONE(ack) >= r->ring_head)
			break;
		(void)syscall(SYS_futex, r->ack, FUTEX_WAIT_BITSET, (uint32_t)ack, &at, NULL, FUTEX_BITSET_MATCH_ANY);
		ack = ack_load(r);
	}
	atomic_store_explicit(&r->ring->waiting, 0, memory_order_relaxed);
	return ack;
}

static int request(struct berth_reader *r, const struct pin_name *name, enum shm_pin_op op, uint16_t cluster,
		   uint64_t expiry_ms, uint32_t wait_ms)
{
	uint64_t ack;
	bool rung;

	if (!push(r, name, op, cluster, expiry_ms, &rung))
		return BERTH_E_AGAIN;
	if (wait_ms == 0)
		return BERTH_OK;
	ack = await(r, wait_ms, rung);
	if (SHM_ACK_DONE(ack) < r->ring_head || !pins_current(r)) /* another file, perhaps with other keys: ask again */
		return BERTH_E_AGAIN;
	return pin_result(ack);
}

/* May this reader ask for anything about this cursor now? Then *name is it. *now_ms: CLOCK_BOOTTIME. */
static int may_ask(struct berth_reader *r, const void *id, size_t id_len, const void *owner, size_t owner_len,
		   struct pin_name *name, uint64_t *now_ms)
{
	int rc = r && pins_lengths(id, id_len, owner, owner_len) ? pins_ready(r) : BERTH_E_INVAL;

	if (rc != BERTH_OK)
		return rc;
	*now_ms = seg_clock_ms(CLOCK_BOOTTIME);
	if (!writer_lives(r, *now_ms))
		return BERTH_E_WRITER_DOWN;
	pins_hash(r, id, id_len, owner, owner_len, name);
	return BERTH_OK;
}

int berth_cursor_pin(struct berth_reader *r, const void *id, size_t id_len, uint16_t cluster, const void *owner,
		     size_t owner_len, uint32_t ttl_ms, uint32_t wait_ms)
{
	struct pin_name name;
	uint64_t now_ms, ttl;
	uint16_t is;
	int rc = may_ask(r, id, id_len, owner, owner_len, &name, &now_ms);

	if (rc != BERTH_OK)
		return rc;
	if (cluster == 0)
		return BERTH_E_UNKNOWN;
	/* Another's cursor is told at once, also to who does not wait; but not past own requests that are still to be done. */
	if (drained(r) && pins_look(r, &name, now_ms, &is) == BERTH_E_NOT_OWNER && pins_current(r))
		return BERTH_E_NOT_OWNER;
	ttl = ttl_ms ? ttl_ms : atomic_load_explicit(&r->pins.file->ttl_ms, memory_order_relaxed);
	return request(r, &name, SHM_OP_PIN, cluster, now_ms + ttl, wait_ms);
}

int berth_cursor_release(struct berth_reader *r, const void *id, size_t id_len, const void *owner, size_t owner_len)
{
	struct pin_name name;
	uint64_t now_ms;
	int rc = may_ask(r, id, id_len, owner, owner_len, &name, &now_ms);

	return rc == BERTH_OK ? request(r, &name, SHM_OP_RELEASE, 0, 0, r->owner->wait_ms) : rc;
}
