/* SPDX-License-Identifier: MIT
 * lease_book.h: records in the ledger, an open-addressing index of them and a stack of free ones in memory. Control
 * thread only; makes no system call.
 *
 * B1 A writer killed at any instruction leaves each record free or whole: hash is stored last (release), and an end
 *    that is there is only raised, with one store. Who and how are for people; they may be of the end before or after.
 * B2 Nothing that was put is lost before it is older than the barrier: a record is freed by its age alone, and what
 *    gets none raises the overflow, which is never lowered. */
#include "lease_book.h"

#include <stdlib.h>

#include "../shm/crash_point.h"
#include "../shm/lease.h"
#include "../shm/poison.h"
#include "table_internal.h"

#define INDEX_BITS 15u
#define INDEX_SIZE (1u << INDEX_BITS)
static_assert(INDEX_SIZE >= 2 * SHM_LEDGER_LEASES, "half empty, so that a search is short");
static_assert(SHM_LEDGER_LEASES < UINT16_MAX, "a record's number and one fit 16 bits");

struct lease_book {
	struct shm_ledger *ledger;
	struct shm_ledger_lease *records;
	uint16_t index[INDEX_SIZE]; /* number of a record + 1; 0: none */
	uint16_t free[SHM_LEDGER_LEASES];
	uint32_t n_free;
	uint64_t full_until_ms; /* no record is older than the barrier before this */
};

static uint32_t home_of(uint64_t hash)
{
	return (uint32_t)((hash * 0x9e3779b97f4a7c15ull) >> (64 - INDEX_BITS));
}

static uint64_t hash_at(const struct lease_book *b, uint16_t record)
{
	return atomic_load_explicit(&b->records[record].hash, memory_order_relaxed);
}

/* Where the record of this hash is in the index, or would be. */
static uint32_t index_at(const struct lease_book *b, uint64_t hash)
{
	uint32_t i = home_of(hash);

	while (b->index[i] && hash_at(b, (uint16_t)(b->index[i] - 1)) != hash)
		i = (i + 1) % INDEX_SIZE;
	return i;
}

static void rebuild(struct lease_book *b)
{
	memset(b->index, 0, sizeof b->index);
	b->n_free = 0;
	for (uint32_t i = SHM_LEDGER_LEASES; i-- > 0;) {
		uint64_t hash = hash_at(b, (uint16_t)i);

		if (hash)
			b->index[index_at(b, hash)] = (uint16_t)(i + 1);
		else
			b->free[b->n_free++] = (uint16_t)i;
	}
}

struct lease_book *lease_book_open(struct shm_ledger *ledger)
{
	struct lease_book *b = calloc(1, sizeof *b);

	if (!b)
		return NULL;
	b->ledger = ledger;
	b->records = ledger_leases(ledger);
	rebuild(b);
	return b;
}

void lease_book_close(struct lease_book **b)
{
	free(*b);
	*b = NULL;
}

uint32_t lease_book_count(const struct lease_book *b)
{
	return SHM_LEDGER_LEASES - b->n_free;
}

void lease_book_expire(struct lease_book *b, uint64_t barrier_ms, uint64_t now_ms)
{
	uint64_t oldest = UINT64_MAX;
	bool freed = false;

	for (uint32_t i = 0; i < SHM_LEDGER_LEASES; i++) {
		struct shm_ledger_lease *l = &b->records[i];
		uint64_t end = atomic_load_explicit(&l->end_ms, memory_order_relaxed);

		if (!atomic_load_explicit(&l->hash, memory_order_relaxed))
			continue;
		if (lease_old(end, barrier_ms, now_ms)) {
			atomic_store_explicit(&l->hash, 0, memory_order_release);
			CRASH_POINT(lease_expired);
			poison_u64(&l->end_ms);
			freed = true;
		} else if (end < oldest) {
			oldest = end;
		}
	}
	b->full_until_ms = oldest == UINT64_MAX ? 0 : oldest + barrier_ms + LEASE_SLACK_MS + 1;
	if (freed)
		rebuild(b);
}

void lease_book_put(struct lease_book *b, uint64_t hash, const struct lease_left *left, uint64_t barrier_ms,
		    uint64_t now_ms)
{
	uint32_t at = index_at(b, hash);
	struct shm_ledger_lease *l;
	bool fresh = b->index[at] == 0;

	if (fresh && b->n_free == 0 && now_ms >= b->full_until_ms) {
		lease_book_expire(b, barrier_ms, now_ms);
		at = index_at(b, hash);
	}
	if (fresh && b->n_free == 0) {
		lease_book_overflow(b, left->end_ms, left->pid); /* B2 */
		return;
	}
	l = &b->records[fresh ? b->free[b->n_free - 1] : b->index[at] - 1];
	if (!fresh && atomic_load_explicit(&l->end_ms, memory_order_relaxed) >= left->end_ms)
		return;
	atomic_store_explicit(&l->pid, left->pid, memory_order_relaxed);
	CRASH_POINT(lease_pid_stored);
	atomic_store_explicit(&l->how, (uint32_t)left->how, memory_order_relaxed);
	CRASH_POINT(lease_how_stored);
	atomic_store_explicit(&l->end_ms, left->end_ms, memory_order_release); /* B1 */
	CRASH_POINT(lease_end_stored);
	if (!fresh)
		return;
	atomic_store_explicit(&l->hash, hash, memory_order_release); /* B1; pairs with who lists the ledger */
	CRASH_POINT(lease_stored);
	b->index[at] = (uint16_t)(b->free[--b->n_free] + 1);
}

void lease_book_overflow(struct lease_book *b, uint64_t end_ms, uint32_t pid)
{
	if (atomic_load_explicit(&b->ledger->lease_overflow_ms, memory_order_relaxed) >= end_ms)
		return;
	atomic_store_explicit(&b->ledger->lease_overflow_pid, pid, memory_order_relaxed);
	CRASH_POINT(lease_overflow_pid_stored);
	atomic_store_explicit(&b->ledger->lease_overflow_ms, end_ms, memory_order_release); /* B1 */
	CRASH_POINT(lease_overflow_stored);
}

void lease_book_unbracketed_left(struct lease_book *b, uint64_t now_ms)
{
	if (atomic_load_explicit(&b->ledger->unbracketed_left_ms, memory_order_relaxed) < now_ms)
		atomic_store_explicit(&b->ledger->unbracketed_left_ms, now_ms, memory_order_release);
	CRASH_POINT(unbracketed_left_stored);
}

struct lease_left lease_book_find(const struct lease_book *b, uint64_t hash)
{
	uint32_t at = index_at(b, hash);
	const struct shm_ledger_lease *l;

	if (!b->index[at])
		return (struct lease_left){0};
	l = &b->records[b->index[at] - 1];
	return (struct lease_left){.end_ms = atomic_load_explicit(&l->end_ms, memory_order_relaxed),
				   .pid = atomic_load_explicit(&l->pid, memory_order_relaxed),
				   .how = atomic_load_explicit(&l->how, memory_order_relaxed) == SHM_LEASE_END_UNKNOWN
						  ? SHM_LEASE_END_UNKNOWN
						  : SHM_LEASE_END_DIED};
}

struct lease_left lease_book_overflown(const struct lease_book *b)
{
	return (struct lease_left){
		.end_ms = atomic_load_explicit(&b->ledger->lease_overflow_ms, memory_order_relaxed),
		.pid = (uint32_t)atomic_load_explicit(&b->ledger->lease_overflow_pid, memory_order_relaxed),
		.how = SHM_LEASE_END_UNKNOWN};
}

uint64_t lease_book_left_ms(const struct lease_book *b)
{
	return atomic_load_explicit(&b->ledger->unbracketed_left_ms, memory_order_relaxed);
}
