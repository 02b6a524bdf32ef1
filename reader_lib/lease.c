/* SPDX-License-Identifier: MIT
 * Which lease slots are free (struct lease_pool), beside the hot path: making the pools of an attachment, finding a slot
 * when the owner's list is empty, and whether a write is under way. write.c takes and gives back.
 *
 * L1 A slot is on one list, or in use, or holds an unknown end. The owner, the thread that has the reader, alone takes
 *    slots and gives unknown ones back; other threads push on `returned`, which the owner takes whole (no ABA).
 * L2 Who ends a lease puts its slot on a list *before* it clears the slot, and touches neither pool nor array afterwards:
 *    so an attachment without an open lease can be unmapped (bl_leases_open, acquire, pairs with lease_clear). A slot from
 *    `returned` counts as free once it is seen clear.
 * L3 An unknown end is seen for a barrier (shm/lease.h, G4): its slot is taken again after that, or before it, when there
 *    is no other, with the overflow raised to its time before the slot is cleared. So a begin finds no slot only while as
 *    many writes as there are slots are under way. */
#include <stdlib.h>
#include <time.h>

#include "internal.h"

static bool slot_clear(const struct lease_pool *p, uint32_t i)
{
	/* Acquire: pairs with lease_clear on another thread. */
	return atomic_load_explicit(&lease_slots(p->array)[i].hash, memory_order_acquire) == 0;
}

/* An unknown end that is older than the barrier. */
static bool slot_old(const struct lease_pool *p, uint32_t i, uint64_t barrier_ms, uint64_t now_ms)
{
	uint64_t state = atomic_load_explicit(&lease_slots(p->array)[i].state, memory_order_acquire);

	return lease_kind(state) == LEASE_UNKNOWN && lease_old(lease_time(state), barrier_ms, now_ms);
}

static uint64_t barrier_of(const struct shm_root *root)
{
	return atomic_load_explicit(&root->barrier_ms, memory_order_relaxed);
}

/* The arrays are as the writer made them: all zero. */
int bl_pools_make(struct attachment *at, uint32_t n_readers, uint32_t n_leases)
{
	size_t size = n_readers * sizeof *at->pools;
	_Atomic uint32_t *links;

	if (n_leases == 0)
		return BERTH_OK;
	/* calloc, so that what is never used is never backed by memory. */
	at->pools = aligned_alloc(_Alignof(struct lease_pool), size);
	links = calloc((size_t)n_readers * n_leases, sizeof *links);
	if (!at->pools || !links) {
		free(at->pools);
		free(links);
		at->pools = NULL;
		return BERTH_E_NOMEM;
	}
	at->n_pools = n_readers;
	for (uint32_t i = 0; i < n_readers; i++)
		at->pools[i] =
			(struct lease_pool){.array = (struct shm_leases *)((char *)at->reg + at->reg->leases_off +
									   (size_t)i * at->reg->lease_stride),
					    .link = links + (size_t)i * n_leases,
					    .n = n_leases,
					    .free = LEASE_NO_SLOT,
					    .returned = LEASE_NO_SLOT};
	return BERTH_OK;
}

void bl_pools_free(struct attachment *at)
{
	if (at->pools)
		free(at->pools[0].link);
	free(at->pools);
	at->pools = NULL;
}

bool bl_leases_open(const struct attachment *at)
{
	for (uint32_t i = 0; at->pools && i < at->n_pools; i++) {
		const struct lease_pool *p = &at->pools[i];
		uint32_t high = atomic_load_explicit(&p->array->high, memory_order_relaxed);

		for (uint32_t s = 0; s < high && s < p->n; s++) {
			uint64_t state;

			if (lease_look(&lease_slots(p->array)[s], &state) && lease_kind(state) == LEASE_OPEN)
				return true; /* L2 */
		}
	}
	return false;
}

/* Owner: what others gave back becomes the owner's list. */
static void take_returned(struct lease_pool *p)
{
	/* Acquire: pairs with the release of the push; the links are whole. */
	uint32_t i = atomic_exchange_explicit(&p->returned, LEASE_NO_SLOT, memory_order_acquire), next;

	for (; i != LEASE_NO_SLOT; i = next) {
		next = atomic_load_explicit(&p->link[i], memory_order_relaxed);
		if (slot_clear(p, i)) {
			atomic_store_explicit(&p->link[i], p->free, memory_order_relaxed);
			p->free = i;
		} else { /* L2: its thread is between the two stores */
			bl_slot_return(p, i);
		}
	}
}

/* Owner: unknown ends that no cutover has to wait for any more. */
static void take_old(struct lease_pool *p, const struct shm_root *root)
{
	uint64_t now = seg_clock_ms(CLOCK_MONOTONIC), barrier = barrier_of(root);

	for (uint32_t i = 0; i < p->fresh; i++)
		if (!slot_clear(p, i) && slot_old(p, i, barrier, now)) {
			lease_clear(&lease_slots(p->array)[i]);
			atomic_store_explicit(&p->link[i], p->free, memory_order_relaxed);
			p->free = i;
		}
}

/* Owner: unknown ends that a cutover may still have to wait for, the eldest first: from here on the overflow stands for
 * them, which every cutover waits for. An eighth of the time that they span at once, so that who has no slot left need not
 * look through all of them for each write. */
static void take_young(struct lease_pool *p)
{
	struct shm_lease *slots = lease_slots(p->array);
	uint64_t eldest = UINT64_MAX, youngest = 0, state;

	for (uint32_t i = 0; i < p->fresh; i++)
		if (lease_look(&slots[i], &state) && lease_kind(state) == LEASE_UNKNOWN) {
			eldest = lease_time(state) < eldest ? lease_time(state) : eldest;
			youngest = lease_time(state) > youngest ? lease_time(state) : youngest;
		}
	for (uint32_t i = 0; eldest <= youngest && i < p->fresh; i++)
		if (lease_look(&slots[i], &state) && lease_kind(state) == LEASE_UNKNOWN &&
		    lease_time(state) <= eldest + (youngest - eldest) / 8) {
			lease_overflow(p->array, &slots[i], lease_time(state)); /* L3 */
			atomic_store_explicit(&p->link[i], p->free, memory_order_relaxed);
			p->free = i;
		}
}

uint32_t bl_slot_find(struct lease_pool *p, const struct shm_root *root)
{
	take_returned(p);
	if (p->free == LEASE_NO_SLOT && p->fresh < p->n)
		return p->fresh++;
	if (p->free == LEASE_NO_SLOT)
		take_old(p, root);
	if (p->free == LEASE_NO_SLOT)
		take_young(p);
	return bl_slot_pop(p);
}

bool bl_slot_short(const struct lease_pool *p, const struct shm_root *root)
{
	uint64_t now = seg_clock_ms(CLOCK_MONOTONIC), barrier = barrier_of(root);
	uint32_t high = atomic_load_explicit(&p->array->high, memory_order_relaxed);
	uint32_t n_free;

	high = high < p->n ? high : p->n;
	n_free = p->n - high;
	for (uint32_t i = 0; i < high; i++)
		n_free += slot_clear(p, i) || slot_old(p, i, barrier, now);
	return n_free < p->n / 4 + 1;
}
