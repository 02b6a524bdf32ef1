/* SPDX-License-Identifier: MIT
 * The placement service without its sockets: the state machine over table and store. Every change goes
 *   check -> reserve -> take an epoch -> commit -> publish -> tell listeners
 * and so does a batch of them, each step for all before the next.
 * Control thread only; no event loop inside: whoever calls gives it time (core_step) and a clock. */
#ifndef BERTH_WRITER_CORE_H
#define BERTH_WRITER_CORE_H

#include "document.h"
#include "machine.h"
#include "registry.h"
#include "store.h"
#include "table.h"

struct core;

struct core_options {
	const char *store_url;
	uint64_t barrier_ms;
	bool new_directory;
	bool bpf;                            /* with a mirror for packet programs */
	uint64_t (*monotonic_ms)(void *arg); /* NULL: CLOCK_MONOTONIC; injected by tests */
	void *clock_arg;
};

struct core_event {       /* told after the change is visible; pointers live during the call */
	const char *what; /* operation name, "cluster-set", "cluster-remove", "load" */
	const char *key;  /* partition or cluster id; NULL: default */
	size_t key_len;
	uint64_t epoch;            /* 0: took none */
	const struct state *after; /* NULL: of a cluster */
	const char *who;
	bool forced;
};

struct core_result {
	uint64_t epoch; /* of the change; of the present state when unchanged */
	bool changed;
	uint64_t blackout_ms; /* of `complete` and `abort` in cutover: how long writes were held back */
};

struct core_many {
	uint64_t epoch; /* the highest that was taken; of the present states when all are unchanged */
	uint64_t changed, unchanged;
};

struct migration { /* one under way, as `berth migrate status` shows it */
	const char *key;
	size_t key_len;
	struct state state;
	uint64_t begun_ms, cutover_ms; /* CLOCK_MONOTONIC; 0: not known (before a restart), not yet */
	struct barrier barrier;        /* in cutover: what `complete` would answer now */
};

struct core_load_options {
	bool prune, override;
};
struct core_load_summary {
	uint64_t partitions, applied, unchanged, removed, adopted, diverged, migrating;
	uint64_t version;
	json_t *left; /* array of {"partition", "why"}: the first 100 that were left alone; new reference */
};

/* Opens the store, builds the table from it (or from the last generation, for a store that is not durable), flips,
 * publishes standing cutovers anew. */
enum refusal_code core_open(struct instance *, const struct core_options *, struct core **, struct refusal *);
void core_close(struct core **);
void core_listen(struct core *, void (*)(void *arg, const struct core_event *), void *arg);

/* Pins of cursors name clusters too. open: this one may be pinned to, told before readers can see it. close: no more; how
 * many pins name it, and when that is not 0 it is opened again at once. NULL: there are no pins. */
#define CORE_PINS_UNKNOWN UINT32_MAX /* of close: the pins cannot be looked at */
struct core_pins {
	void (*open)(void *arg, unsigned cluster);
	uint32_t (*close)(void *arg, unsigned cluster);
	void *arg;
};
/* Opens all clusters that there are. */
void core_set_pins(struct core *, const struct core_pins *);

/* placement: JSON of a placement; for OP_BEGIN what is left out stays as it is in the present one; NULL for
 * remove, cutover, complete, abort, and for OP_DEFAULT: none. key NULL for OP_DEFAULT. who: for the history. */
enum refusal_code core_apply(struct core *, enum operation, const char *key, size_t len, const json_t *placement,
			     bool force, const char *who, struct core_result *, struct refusal *);
/* OP_SET of many, all or nothing: what refuses one refuses all, its path begins with `$.partitions[i]`. ids: an array. */
enum refusal_code core_set_many(struct core *, const json_t *ids, const json_t *placement, bool force, const char *who,
				struct core_many *, struct refusal *);
/* endpoint NULL: stays as it is, "" for a new one. */
enum refusal_code core_cluster_set(struct core *, const char *id, size_t id_len, const char *endpoint,
				   size_t endpoint_len, const char *who, struct core_result *, struct refusal *);
enum refusal_code core_cluster_remove(struct core *, const char *id, size_t id_len, const char *who,
				      struct core_result *, struct refusal *);

/* A document, in slices, so that look-ups through the sockets go on: start (takes the document over, also when it
 * refuses), then step until *done. In between, changes are answered `busy`. On refusal nothing of it is applied. */
enum refusal_code core_load_start(struct core *, struct document *, const struct core_load_options *, const char *who,
				  struct refusal *);
enum refusal_code core_load_step(struct core *, uint64_t budget_us, bool *done, struct core_load_summary *,
				 struct refusal *);
void core_load_cancel(struct core *); /* what is not committed yet is undone */
bool core_loading(const struct core *);

struct table *core_table(struct core *);
const char *core_store_scheme(const struct core *);
uint64_t core_barrier_ms(const struct core *);
uint64_t core_changes(const struct core *); /* published since the start */
/* All migrations under way, by partition id. */
int core_migrations(struct core *, int (*)(void *arg, const struct migration *), void *arg);
int core_history(struct core *, const char *key, size_t len, unsigned limit, const struct store_visitor *,
		 struct refusal *);
/* One more look at what the cutovers that have been published wait for: leases that readers have ended meanwhile, those of
 * the dead. Cheap once each of them was looked for everywhere: called again and again while somebody waits. True when
 * something has changed since the last call so that a `complete` may have become possible. */
bool core_drain(struct core *, uint64_t budget_us);
/* What `complete` of this partition would be told now; reason NULL: nothing stands against it, or it is not in cutover.
 * The pointers live until the next change. */
struct barrier core_barrier(struct core *, const char *key, size_t len);
/* Upkeep as table_step, and what the store wants; same return. */
uint64_t core_step(struct core *, uint64_t budget_us);

#endif
