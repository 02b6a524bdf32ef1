/* SPDX-License-Identifier: MIT
 * Migrations under load: threads that move partitions between clusters over admin.sock, several at once, some undone in
 * the cutover, and remember when each step was called and acknowledged. A daemon that is killed meanwhile and comes back
 * is asked how things stand; then they go on. */
#ifndef BERTH_E2E_MOVES_H
#define BERTH_E2E_MOVES_H

#include "load.h"
#include "place.h"

/* What `complete` waited for, as it said itself. X(enum, name on the wire) */
#define MOVE_REASONS(X) \
	X(MOVE_NOT_PUBLISHED, "not-published") \
	X(MOVE_LEASES_OPEN, "leases-open") \
	X(MOVE_UNKNOWN_OUTCOME, "unknown-outcome") \
	X(MOVE_UNKNOWN_OVERFLOW, "unknown-overflow") \
	X(MOVE_READER_DIED, "reader-died") \
	X(MOVE_READER_WITHOUT, "reader-without-leases")
enum move_reason {
#define MOVE_ENUM(e, name) e,
	MOVE_REASONS(MOVE_ENUM)
#undef MOVE_ENUM
		MOVE_REASON_N
};

struct move { /* one that ended */
	uint32_t partition;
	bool undone;
	uint32_t reasons;         /* bits of enum move_reason: what it was told */
	uint32_t pids[4], n_pids; /* of the latest */
	uint32_t died_pid;        /* of reader-died */
	uint64_t held_ns;         /* from the call of cutover to the answer of the last step */
	uint64_t told_ms;         /* the same, as the daemon has it */
};

struct moves_options {
	const struct place *place;
	struct load *load; /* told which partitions are hot; may be NULL */
	unsigned n_partitions, n_moves, n_threads;
	unsigned undone_percent;
	unsigned draining_ms, pause_ms; /* at most: between begin and cutover; between two migrations of a thread */
	unsigned wait_ms;               /* of complete */
	uint64_t seed;
};

struct moves;

/* Puts the partitions on clusters, in turn, and remembers that in h. */
void moves_place(const struct place *, unsigned n_partitions, struct history *h);
/* Begins; h gets the changes, under a lock of ours, until moves_wait. */
struct moves *moves_start(const struct moves_options *, struct history *h);
unsigned moves_done(struct moves *); /* so many have ended */
/* Waits for all; *out: an array for free(), its number is returned. */
size_t moves_wait(struct moves **, struct move **out);

/* One by hand, in steps; each returns when it is acknowledged. */
struct mover {
	struct rpc rpc;
	const struct place *place;
	struct history *h;
	uint32_t partition;
	uint16_t at, to;
	uint64_t epoch;      /* of the partition's last change */
	uint64_t cutover_ns; /* called */
	struct move move;
};
void mover_open(struct mover *, const struct place *, struct history *h, uint32_t partition);
void mover_close(struct mover *);
void mover_begin(struct mover *, uint16_t to);
void mover_cutover(struct mover *);
/* Once; true: it is complete. Else mover->move has what stands against it. */
bool mover_complete(struct mover *, unsigned wait_ms);
void mover_abort(struct mover *);

/* p of the held_ns of those that were completed, in ms; p 100: the longest. */
double moves_held_ms(const struct move *, size_t n, unsigned percent);

#endif
