/* SPDX-License-Identifier: MIT
 * Mapped generations of the table, shared by the readers of a process. Called when a generation changed (reader.c) and
 * ahead of that by berth_maintain; never in a look-up of a mapped generation. Any thread.
 *
 * One mapping serves all readers, so that a process with many threads pays its page faults once. What they share is one
 * pointer (`ready`) behind a lock that is only tried: a reader that finds it taken maps for itself instead, so nobody
 * ever waits for another thread, be it preempted where it likes.
 *
 * G1 A mapping is unmapped by whoever drops its last count, so not while a reader has it (acq_rel of the count).
 * G2 `ready` has a count of its own, and is only read and changed under the lock: taking a count of it never
 *    revives one that has reached zero.
 * G3 Counts are taken before a pointer is stored and dropped after it is gone, so that a fork at any instruction
 *    leaves the child at most with a count too many: its berth_detach frees nothing twice. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

/* Attempts to find a file that a flip has just replaced, or a spare descriptor that another thread uses just now. */
#define FLIPS_MAX 16
#define SPARE_MAX 100

void bl_mapping_put(struct mapping *m)
{
	/* acq_rel: every reader's loads from the mapping come before its count is dropped, and before the unmapping:
	 * G1. */
	if (!m || atomic_fetch_sub_explicit(&m->users, 1, memory_order_acq_rel) != 1)
		return;
	seg_table_unmap(&m->map);
	free(m);
}

/* Under the lock. */
static bool take_ready(struct attachment *at, uint64_t termgen, struct mapping **out)
{
	if (!at->ready || at->ready->map.termgen != termgen)
		return false;
	atomic_fetch_add_explicit(&at->ready->users, 1, memory_order_relaxed); /* G2 */
	*out = at->ready;
	return true;
}

/* Makes m the one that others pick up, or gives back an equal one that came first. *out: one count for the caller. */
static void share(struct attachment *at, struct mapping *m, struct mapping **out)
{
	struct mapping *drop = NULL;

	*out = m;
	if (!bl_lock_try(&at->locked))
		return; /* it stays our own */
	if (take_ready(at, m->map.termgen, out)) {
		drop = m;
	} else if (!at->ready || (int32_t)(m->map.generation - at->ready->map.generation) > 0) {
		atomic_fetch_add_explicit(&m->users, 1, memory_order_relaxed);
		drop = at->ready;
		at->ready = m;
	}
	bl_lock_release(&at->locked);
	bl_mapping_put(drop);
}

/* seg_table_map with the attachment's spare descriptor, which one thread at a time can have. */
static int map_table(struct attachment *at, uint64_t termgen, bool populate, struct seg_map *map, bool *no_spare)
{
	int none = -1, spare = atomic_exchange_explicit(&at->spare, -1, memory_order_relaxed), rc;

	*no_spare = spare < 0;
	rc = seg_table_map(at->tables_fd, at->root, termgen, &spare, populate, map);
	if (spare >= 0 && !atomic_compare_exchange_strong_explicit(&at->spare, &none, spare, memory_order_relaxed,
								   memory_order_relaxed))
		close(spare);
	return rc;
}

int bl_mapping_get(struct attachment *at, uint64_t termgen, bool populate, struct mapping **out)
{
	struct mapping *m;
	bool no_spare, taken;
	int rc;

	for (unsigned tries = 0;; tries++) {
		if (bl_lock_try(&at->locked)) {
			taken = take_ready(at, termgen, out);
			bl_lock_release(&at->locked);
			if (taken)
				return BERTH_OK;
		}
		m = calloc(1, sizeof *m);
		if (!m)
			return BERTH_E_NOMEM;
		rc = map_table(at, termgen, populate, &m->map, &no_spare);
		if (rc == BERTH_OK)
			break;
		free(m);
		/* No descriptor is free, and another thread has the spare one for as long as it maps: it may be mapping
		 * what we want. Bounded: it may as well have been stopped. */
		if (rc != BERTH_E_SYSTEM || !no_spare || tries == SPARE_MAX)
			return rc;
		sched_yield();
	}
	atomic_init(&m->users, 1);
	share(at, m, out);
	return BERTH_OK;
}

int bl_mapping_ahead(struct attachment *at)
{
	struct mapping *m;
	uint64_t termgen;
	int rc = BERTH_E_AGAIN;

	for (unsigned i = 0; i < FLIPS_MAX; i++) {
		/* Acquire: pairs with the release store of the flip; the file it names is complete. */
		termgen = atomic_load_explicit(&at->root->termgen, memory_order_acquire);
		if (SHM_GENERATION(termgen) == 0)
			return BERTH_E_NO_INSTANCE;
		if (termgen == UINT64_MAX)
			return BERTH_E_CORRUPT; /* as reader.c has it */
		rc = bl_mapping_get(at, termgen, true, &m);
		if (rc == BERTH_OK) {
			bl_mapping_put(m); /* `ready` keeps it, unless the lock was taken: then the next call does it */
			return BERTH_OK;
		}
		if (termgen == atomic_load_explicit(&at->root->termgen, memory_order_acquire))
			return rc;
	}
	return rc;
}

void bl_lock_take(_Atomic bool *locked)
{
	while (!bl_lock_try(locked))
		sched_yield();
}
