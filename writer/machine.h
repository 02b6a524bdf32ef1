/* SPDX-License-Identifier: MIT
 * The state machine of a partition (README.md), pure: what a call does to a state, or why it is refused.
 * No clock, no memory, no I/O: the barrier's judgement comes in as an argument. */
#ifndef BERTH_WRITER_MACHINE_H
#define BERTH_WRITER_MACHINE_H

#include "placement.h"

/* X(enum, name on the wire and in the history) */
#define OPERATIONS(X) \
	X(OP_SET, "set") \
	X(OP_REMOVE, "remove") \
	X(OP_DEFAULT, "default") \
	X(OP_BEGIN, "begin") X(OP_CUTOVER, "cutover") X(OP_COMPLETE, "complete") X(OP_ABORT, "abort")
enum operation {
#define OPERATION_ENUM(e, name) e,
	OPERATIONS(OPERATION_ENUM)
#undef OPERATION_ENUM
};
const char *operation_name(enum operation);

#define BARRIER_PIDS REFUSAL_PIDS
struct barrier {               /* what stands against `complete`, as judged by the caller */
	const char *reason;    /* NULL: nothing */
	uint64_t remaining_ms; /* until it is over, as far as that is known; 0: nobody knows (leases-open) */
	uint64_t in_flight;    /* leases open on the partition */
	bool packet;           /* a packet program is among those that it is about: it has no process */
	unsigned n_pids; /* processes that it is about, the first of them; 0 is one that is not visible from here */
	uint32_t pids[BARRIER_PIDS];
};

struct step {
	enum operation op;
	const char *key; /* for messages; not NUL-terminated; of OP_DEFAULT: NULL */
	size_t key_len;
	const struct shm_detail *placement; /* set, default, begin; NULL for default(none) */
	bool placement_cluster_known;       /* false: `unknown-cluster` in its turn of the order */
	const char *cluster_id;             /* for that message */
	bool force;
	struct barrier barrier; /* complete */
};

/* Choices: a cluster answers, then nothing does (remove without a default, default(none)),
 * is no move, for no other cluster becomes the answer; set over the default's answer is one when the cluster differs.
 * What stands there already is `unchanged` and never `would-move`; force does not skip the other refusals.
 *
 * now: the state of the partition (of the default for OP_DEFAULT). dflt: the state of the default (for `would-move`).
 * On R_DONE *after is the state to publish, without its epoch, its pointers borrowed from now and step; and *changed is
 * false when that is what is there already (`unchanged`: no epoch is taken). Otherwise a code of the table of transitions,
 * checked in the order given there, with *r filled, and *after untouched. */
enum refusal_code machine_step(const struct state *now, const struct state *dflt, const struct step *,
			       struct state *after, bool *changed, struct refusal *r);

#endif
