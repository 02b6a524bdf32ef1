/* SPDX-License-Identifier: MIT
 * What the core's files share: core.c (one change, looking, upkeep), core_batch.c (many placed at once), core_commit.c
 * (store, publication, commits of unknown fate), core_clusters.c, core_start.c (opening), core_rebuild.c (from the last generation), core_load.c and
 * core_load_apply.c (documents), core_drain.c (what stands against a cutover). Control thread only. */
#ifndef BERTH_WRITER_CORE_INTERNAL_H
#define BERTH_WRITER_CORE_INTERNAL_H

#include <time.h>

#include "../shm/segment.h"
#include "core.h"
#include "migrations.h"

#define LISTENERS_MAX 4 /* parts of the daemon, not clients */
struct listener {
	void (*tell)(void *arg, const struct core_event *);
	void *arg;
};

/* The one change, or batch of them, that is between its reserve and its publication. Everything that its publication
 * needs is held here before the commit, so that a commit of unknown fate can be adopted later, and adopting cannot
 * fail. */
enum hand_kind { HAND_EMPTY, HAND_PLACEMENT, HAND_CLUSTER, HAND_METAS };
struct hand {
	enum hand_kind kind;
	enum operation op;
	bool forced;
	/* Of HAND_PLACEMENT: &one, or the allocated ones of a batch. Their states are equal but for the epoch, their
	 * pointers point to `key`, into ids, and to hand_at and hand_to. */
	struct table_change *changes;
	size_t n_changes;
	struct table_change one;
	json_t *ids; /* of a batch; a reference */
	struct table_cluster_change cluster;
	struct migration_item *beginning; /* of OP_BEGIN, until it is in the list */
	char key[SHM_KEY_MAX + 1], who[256];
	char cluster_id[SHM_CLUSTER_ID_MAX + 1], endpoint[SHM_ENDPOINT_MAX + 1];
};

struct core {
	struct table *table;
	const struct store_ops *ops;
	struct store *store;
	uint64_t (*clock)(void *arg);
	void *clock_arg;
	struct migrations migrations;
	struct drainer *drainer;
	uint64_t told_ms; /* when the first judgement that was given out is over by the clock; 0: none is */
	struct barrier_rule rule;
	uint64_t stored_barrier_ms; /* what the store says; 0: nothing yet */
	struct listener listeners[LISTENERS_MAX];
	unsigned n_listeners;
	struct core_pins pins;
	struct hand hand;
	union detail_buffer *hand_at, *hand_to; /* its placements */
	struct core_load *load;
	bool unknown; /* nobody knows whether the last commit is in the store: of `hand`, or of `load` when that is
			 empty */
	uint64_t changes;
	uint64_t retry_ms, idle_ms; /* when core_step tries again what failed; when the store does idle work; 0: none */
	uint64_t changes_at_idle;
};

static inline uint64_t core_now(const struct core *c)
{
	return c->clock(c->clock_arg);
}

/* ---- core.c ---- */
void core_tell(struct core *, const struct core_event *);
/* Cluster names for placement_from_json that let an unknown cluster pass, for machine_step to refuse in its turn. */
struct asking {
	struct cluster_names names;
	bool unknown;
	char id[SHM_CLUSTER_ID_MAX + 1];
};
/* The placement of a request; `now` is what OP_BEGIN takes the rest from. */
enum refusal_code core_take_placement(enum operation, const struct state *now, const json_t *given, struct asking *,
				      union detail_buffer *out, struct refusal *);
/* What the machine allowed, through store and table. The hand is filled but for kind and epochs; it is empty afterwards,
 * unless the commit's fate is unknown. */
enum refusal_code core_perform(struct core *, struct core_result *, struct refusal *);

/* ---- core_commit.c ---- */
/* May anything be changed now? Settles what is unknown first. R_DONE, R_BUSY, R_BACKEND. */
enum refusal_code core_may_change(struct core *, struct refusal *);
enum refusal_code core_settle(struct core *, struct refusal *);
enum store_result core_put_number(struct core *, const char *meta, uint64_t, struct refusal *);
/* Gives a transaction that did not end well its name: R_BACKEND (or what the store said). STORE_UNKNOWN sets unknown.
 */
enum refusal_code core_failed(struct core *, enum store_result, struct refusal *);
/* The hand's fields are set and its memory is reserved: commits it, then publishes and empties it. On refusal it is
 * cancelled and empty, unless its fate is unknown. state: JSON of the placement's state; NULL: none. */
enum refusal_code hand_commit(struct core *, const char *state, struct core_result *, struct refusal *);
void hand_who(struct hand *, const char *who);
/* Gives its memory in the table back; it is empty then. */
void hand_cancel(struct core *);
/* Empties it, when nothing in the table is reserved for it (any more). */
void hand_drop(struct hand *);
/* A barrier after the words of all cutovers that are not published yet; they stay so when it fails. */
void core_publish_cutovers(struct core *);

/* ---- core_clusters.c ---- */
/* Pins may name it, from before its publication on, or because it stays after all. */
void core_open_pins(struct core *, unsigned cluster);

/* ---- core_drain.c ---- */
/* What is so for every cutover: who may write without leases. */
struct barrier_facts core_facts(struct core *);
/* What stands against `complete` of this cutover, as far as was looked. */
struct barrier core_judge(struct core *, const struct migration_item *, const struct barrier_facts *of_all);
/* The same after more looks of about budget_us for its sake. */
struct barrier core_look_and_judge(struct core *, struct migration_item *, uint64_t budget_us);

/* ---- core_start.c ---- */
/* core_open with a store that is in no list: for tests. */
enum refusal_code core_open_with(struct instance *, const struct core_options *, const struct store_ops *,
				 const char *argument, struct core **, struct refusal *);
/* A partition that is being loaded is in a migration: it goes into the list (sorted later). */
enum refusal_code core_found_migration(struct core *, const char *key, size_t len, const struct state *,
				       struct refusal *);

struct counters { /* what a start finds; the highest wins */
	uint64_t epoch, next_cluster, document_version, default_document;
};

/* ---- core_rows.c ---- */
/* Clusters and partitions of a durable store into the generation that is being built. */
enum refusal_code core_load_rows(struct core *, struct counters *, struct refusal *);

/* ---- core_rebuild.c ---- */
/* The same from the last generation, for a store that keeps nothing. */
enum refusal_code core_rebuild(struct core *, const struct seg_map *, struct counters *, struct refusal *);
/* Live entries and remembered documents there: room to build. */
uint64_t core_rebuild_count(const struct seg_map *);

/* ---- core_load.c ---- */
bool core_load_in_transaction(const struct core_load *);
/* The fate of its commit has become known. */
void core_load_settled(struct core *, bool committed);
/* Goes on with a load that nobody steps any more. True while there is more to do. */
bool core_load_orphan_step(struct core *, uint64_t budget_us);
void core_load_free(struct core_load **);

#endif
