/* SPDX-License-Identifier: MIT
 * The exact drain: which writes that were admitted before a cutover are still under way. For each cutover that is
 * published it looks through the lease arrays of all registrations and of the packet programs once, then again at what
 * it found there. Called by the core, which also asks the ledger for those who are gone. Control thread only; guarantees in drain.c. */
#ifndef BERTH_WRITER_DRAIN_H
#define BERTH_WRITER_DRAIN_H

#include <sys/queue.h>

#include "machine.h"
#include "registry.h"

/* Ends of one kind: the latest, and whose they are, the latest BARRIER_PIDS processes. */
struct drain_ends {
	uint64_t latest_ms; /* 0: none */
	unsigned n;
	struct {
		uint64_t end_ms;
		uint32_t pid;
	} of[BARRIER_PIDS];
};

/* now_ms: an end in the future counts as now. */
void drain_ends_add(struct drain_ends *, uint64_t end_ms, uint32_t pid, uint64_t now_ms);
void drain_ends_merge(struct drain_ends *into, const struct drain_ends *from, uint64_t now_ms);

enum drain_step {
	DRAIN_OUT = 0, /* not published, or over */
	DRAIN_WAITING, /* for a look that begins after its publication */
	DRAIN_LOOKING, /* for the end of that look */
	DRAIN_LOOKED,  /* only what was found then is looked at again */
};

struct drain_found; /* a slot in which it was found */

/* One cutover, as the looks have it. Zero-filled, then drain_add. Does not move while it is in. */
struct drained {
	TAILQ_ENTRY(drained) link; /* of the list that its step says */
	enum drain_step step;
	uint64_t hash; /* of its partition, as lease_hash */
	uint64_t open; /* leases that were open at their last look; while a look is under way, those found so far */
	struct drain_found *found;
	size_t n, room, next; /* next: where the next look at them goes on */
	bool unkept;          /* there was no memory for the list: all is looked at again until nothing is open */
	struct drain_ends unknown, overflow;
};

struct drainer;
struct table;
/* NULL: out of memory. */
struct drainer *drain_open(struct table *);
/* What is in is out then. */
void drain_close(struct drainer **);

/* A barrier on all readers has returned after the cutover's word was stored. Cannot fail. */
void drain_add(struct drainer *, struct drained *, uint64_t hash);
/* It has been completed or aborted. Allowed when it is out. */
void drain_remove(struct drainer *, struct drained *);

/* Looks for about so long: at what was found, then at the rest. True while there is something left to look at for the
 * first time. */
bool drain_step(struct drainer *, uint64_t budget_us);
/* The same for the sake of this one. */
void drain_for(struct drainer *, struct drained *, uint64_t budget_us);
/* Has something ended, or a look, since this was asked last? */
bool drain_changed(struct drainer *);
/* Is anything known to be open, whose end nobody will tell? */
bool drain_open_leases(const struct drainer *);
/* The first processes that hold leases on it; among them PACKET_PROGRAM. */
unsigned drain_pids(const struct drainer *, const struct drained *, uint32_t pids[], unsigned room);

#endif
