/* SPDX-License-Identifier: MIT
 * A document on its way into store and table: what core_load.c (from phase to phase), core_load_plan.c
 * (what it would change) and core_load_apply.c (changing it) share.
 * Control thread only.
 *
 *   CLUSTERS -> BIND -> PLAN [-> NAMES -> PRUNE] -> RESERVE -> WRITE -> COMMIT -> PUBLISH -> DONE
 *       |________|_______|__________|________|         |         |        |  \             ^
 *       nothing is held yet: straight to DONE          +---------+--------+   UNKNOWN -----+ in the store
 *                                                                |               |
 *                                                              UNDO <------------+ not in it
 *
 * All is worked through in one order, which is the order in which readers see it: clusters, sets, default, removals. */
#ifndef BERTH_WRITER_CORE_LOAD_H
#define BERTH_WRITER_CORE_LOAD_H

#include "core_internal.h"

enum load_phase {
	LOAD_CLUSTERS, /* which are new or have another endpoint; numbers for the new ones */
	LOAD_BIND,     /* placements get the instance's cluster numbers */
	LOAD_PLAN,     /* the document's partitions, then the default */
	LOAD_NAMES,    /* prune: the keys that the table has */
	LOAD_PRUNE,    /* ... and what becomes of those that the document lacks */
	LOAD_RESERVE,  /* memory and slots */
	LOAD_WRITE,    /* rows and epochs, in an open transaction */
	LOAD_COMMIT,
	LOAD_UNKNOWN, /* until the store says what became of it */
	LOAD_PUBLISH,
	LOAD_UNDO, /* what was reserved is given back */
	LOAD_DONE,
};

struct load_change { /* of one partition or the default; what a struct table_change has more comes from the document */
	uint64_t name;  /* sets: number in the document; removals: offset in names */
	uint64_t epoch; /* once written; 0: it takes none */
	char priv[sizeof(((struct table_change *)0)->priv)];
	bool keeps; /* the state stays as it is: only what is remembered of the document changes */
};
static_assert(sizeof(struct load_change) <= 48, "there may be millions");

struct load_changes {
	struct load_change *all;
	uint64_t n, room;
};

struct core_load {
	struct document *document;
	struct core_load_options options;
	struct core_load_summary summary;
	enum load_phase phase;
	uint64_t at;            /* how far the phase is */
	uint64_t n_reserved;    /* items, in the order above */
	bool orphan;            /* its client does not step it any more */
	struct refusal refusal; /* code R_DONE: none */
	uint16_t *numbers;      /* by cluster of the document */
	uint64_t *prints;       /* fingerprints by placement */
	char **texts;           /* JSON by placement, made when needed; NULL: too many to keep */
	struct table_cluster_change *clusters;
	uint64_t n_clusters;
	const char **fresh; /* ids of the clusters that are new; the first has the number first_fresh */
	uint64_t first_fresh, n_fresh;
	struct load_changes sets, removals;
	struct load_change dflt;
	bool has_dflt;
	uint64_t n_new; /* partitions without an entry until now */
	char *names;    /* prune: length u8, key; … */
	size_t names_len, names_room;
	char who[256];
};

#define LOAD_BATCH 64u         /* items between two looks at the clock */
#define LOAD_TEXTS_MAX 65536u  /* placements whose JSON is kept */
#define LOAD_EVENTS_MAX 10000u /* more changes than this: the history has their number alone */
#define LOAD_LEFT_MAX 100u     /* of what was left alone, the summary names so many */

void core_load_next(struct core_load *, enum load_phase);
/* No more of it; what is held is given back in LOAD_UNDO. */
void core_load_refuse(struct core_load *);

/* ---- core_load_plan.c: one batch each; they move on to the next phase by themselves ---- */
void core_load_plan_clusters(struct core *, struct core_load *);
void core_load_bind(struct core_load *);
void core_load_plan_partitions(struct core *, struct core_load *);
void core_load_take_names(struct core *, struct core_load *);
void core_load_plan_prune(struct core *, struct core_load *);

/* ---- core_load_apply.c: likewise ---- */
void core_load_reserve(struct core *, struct core_load *);
void core_load_write(struct core *, struct core_load *);
void core_load_commit(struct core *, struct core_load *);
void core_load_publish(struct core *, struct core_load *);
void core_load_undo(struct core *, struct core_load *);

#endif
