/* SPDX-License-Identifier: MIT
 * Which writes the processes of the registry have under way, but for the drain's looks (drain.c): saving them before a
 * registration is removed, who may write without leases, and the list for people. Called by registry.c, registry_look.c
 * and the core. Control thread only. Reads what readers wrote and believes it about their own writes alone: `high` is
 * cut to the slots that there are, a time in the future to now.
 *
 * L1 A registration is removed only after its leases are in the ledger: a writer killed in between finds the file
 *    again, and puts them there again, with a later end.
 * L2 Whose leases cannot be read may have written without. */
#include "registry_internal.h"

#include <stdlib.h>
#include <time.h>

#include "packet_leases.h"
#include "sigbus.h"

uint64_t registry_now(const struct registry *r)
{
	return r->clock ? r->clock(r->clock_arg) : seg_clock_ms(CLOCK_MONOTONIC);
}

static uint64_t barrier_of(const struct registry *r)
{
	return atomic_load_explicit(&r->root->barrier_ms, memory_order_relaxed);
}

static uint64_t not_after(uint64_t time_ms, uint64_t now_ms)
{
	return time_ms < now_ms ? time_ms : now_ms;
}

bool registration_unbracketed(const struct registration *g)
{
	if (g->writes == SHM_WRITES_UNBRACKETED || (g->writes == SHM_WRITES_BRACKETED && !g->n_leases) || !g->file)
		return true;
	/* Acquire: pairs with berth_admit, which stores it before it loads the word. */
	return atomic_load_explicit(&g->file->unbracketed, memory_order_acquire) != 0 || sigbus_hit(g->slot); /* L2 */
}

static void save_array(struct registry *r, const struct registration *g, uint32_t reader, uint64_t now_ms)
{
	const struct lease_array a = lease_array_of(g, reader);
	uint64_t barrier_ms = barrier_of(r), overflow;

	for (uint32_t i = 0; i < a.high; i++) {
		struct lease_left left = {.end_ms = now_ms, .pid = a.pid, .how = SHM_LEASE_END_DIED};
		uint64_t state, hash = lease_look(&a.slots[i], &state);

		if (!hash)
			continue;
		if (lease_kind(state) == LEASE_UNKNOWN) {
			left.end_ms = not_after(lease_time(state), now_ms);
			left.how = SHM_LEASE_END_UNKNOWN;
			if (lease_old(left.end_ms, barrier_ms, now_ms))
				continue;
		}
		lease_book_put(r->book, hash, &left, barrier_ms, now_ms);
	}
	overflow = not_after(atomic_load_explicit(a.overflow_ms, memory_order_acquire), now_ms); /* G4 of lease.h */
	if (overflow && !lease_old(overflow, barrier_ms, now_ms))
		lease_book_overflow(r->book, overflow, a.pid);
}

void registration_save_leases(struct registry *r, const struct registration *g)
{
	uint64_t now_ms = registry_now(r);

	if (!g->handed_over)
		return;
	for (uint32_t i = 0; g->file && g->n_leases && i < g->n_readers; i++)
		save_array(r, g, i, now_ms);
	if (registration_unbracketed(g)) /* after the arrays: they may turn out to be unreadable */
		lease_book_unbracketed_left(r->book, now_ms);
}

bool registry_unbracketed(const struct registry *r, uint32_t pids[], unsigned room, unsigned *n_pids)
{
	bool any = false;

	*n_pids = 0;
	for (uint32_t s = 0, seen = 0; s < SHM_LEDGER_ROWS && seen < r->n; s++) {
		const struct registration *g = r->slots[s];

		if (!g)
			continue;
		seen++;
		if (!registration_unbracketed(g))
			continue;
		any = true;
		*n_pids = pid_add(pids, *n_pids, room, (uint32_t)g->pid);
	}
	return any;
}

struct lease_book *registry_book(struct registry *r)
{
	return r->book;
}

/* ---- for people ---- */

/* The oldest come into a heap whose root is the newest of them. */
static void sink(struct registry_lease *heap, uint32_t n, uint32_t i)
{
	for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
		struct registry_lease swap = heap[i];

		if (child + 1 < n && heap[child + 1].since_ms > heap[child].since_ms)
			child++;
		if (heap[child].since_ms <= swap.since_ms)
			return;
		heap[i] = heap[child];
		heap[child] = swap;
	}
}

static void show(struct registry_lease *heap, uint32_t *n, const struct registry_lease *lease)
{
	if (*n < REGISTRY_LEASES_SHOWN) {
		heap[(*n)++] = *lease;
		if (*n == REGISTRY_LEASES_SHOWN)
			for (uint32_t i = *n / 2; i-- > 0;)
				sink(heap, *n, i);
	} else if (lease->since_ms < heap[0].since_ms) {
		heap[0] = *lease;
		sink(heap, *n, 0);
	}
}

static int by_age(const void *a, const void *b)
{
	const struct registry_lease *x = a, *y = b;

	return (x->since_ms > y->since_ms) - (x->since_ms < y->since_ms);
}

/* One more array into the row. */
static void row_array(struct registry *r, struct registry_row *row, uint32_t reader, const struct lease_array *a)
{
	uint64_t now_ms = registry_now(r), barrier_ms = barrier_of(r), overflow;

	for (uint32_t i = 0; i < a->high; i++) {
		uint64_t state, hash = lease_look(&a->slots[i], &state);
		struct registry_lease lease = {.reader = reader, .hash = hash};

		if (!hash)
			continue;
		lease.since_ms = not_after(lease_time(state), now_ms);
		lease.unknown = lease_kind(state) == LEASE_UNKNOWN;
		if (lease.unknown && lease_old(lease.since_ms, barrier_ms, now_ms))
			continue;
		row->n_leases += !lease.unknown;
		row->n_unknown += lease.unknown;
		show(r->shown, &row->n_leases_shown, &lease);
	}
	overflow = not_after(atomic_load_explicit(a->overflow_ms, memory_order_relaxed), now_ms);
	if (overflow > row->overflow_ms && !lease_old(overflow, barrier_ms, now_ms))
		row->overflow_ms = overflow;
}

static void row_end(struct registry *r, struct registry_row *row)
{
	qsort(r->shown, row->n_leases_shown, sizeof(*r->shown), by_age);
	row->leases = r->shown;
}

void registration_row_leases(struct registry *r, const struct registration *g, struct registry_row *row)
{
	row->max_leases = g->n_leases;
	for (uint32_t reader = 0; g->n_leases && reader < g->n_readers; reader++) {
		const struct lease_array array = lease_array_of(g, reader);

		row_array(r, row, reader, &array);
	}
	row_end(r, row);
}

bool registry_packets(struct registry *r, const struct mirror *m, const struct mirror_past *pasts,
		      struct registry_row *row)
{
	struct lease_array array;

	*row = (struct registry_row){.max_leases = MIRROR_LEASES, .unbracketed = mirror_gated(m)};
	bool any = false;

	for (unsigned n = 0; n < PACKET_ARRAYS; n++)
		if (packet_leases(m, pasts, n, &array)) {
			row_array(r, row, 0, &array);
			any = true;
		}
	row_end(r, row);
	return any;
}
