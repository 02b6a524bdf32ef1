/* SPDX-License-Identifier: MIT
 * What every store offers: a place where changes are durable before any reader sees them. One file per store
 * (store_sqlite.c, store_memory.c); control thread only.
 *
 *   begin -> put_* … -> commit -> (published, acknowledged)
 *                    -> rollback
 * After STORE_UNKNOWN the caller takes no change until `settle` has said what became of that commit. */
#ifndef BERTH_WRITER_STORE_H
#define BERTH_WRITER_STORE_H

#include "refusals.h"
#include <stddef.h>

enum store_result { STORE_OK, STORE_FAILED /* nothing of it is in the store */, STORE_UNKNOWN /* it may be */ };

struct store_partition {
	const char *key; /* key_len bytes; key_len 0: the default placement */
	size_t key_len;
	uint64_t epoch;    /* of the last change, removal included */
	const char *state; /* JSON of state_to_json; NULL: no entry, only `document` is remembered */
	uint64_t document; /* detail_fingerprint of what the last document said; 0: nothing */
};
struct store_cluster {
	unsigned number;
	const char *id;       /* NUL-terminated; NULL: the cluster is removed, its number stays used */
	const char *endpoint; /* NUL-terminated, may be "" */
};
struct store_event {      /* one line of the history of transitions */
	int64_t at_ms;    /* CLOCK_REALTIME */
	uint64_t epoch;   /* 0 for changes that take none (clusters) */
	const char *who;  /* e.g. "uid=0 pid=123 comm=berth", "document /etc/berth.json" */
	const char *what; /* operation name; "cluster-set", "cluster-remove", "load" */
	const char *key;  /* partition or cluster id; NULL for the default */
	size_t key_len;
	const char *detail; /* JSON of the state after it, or NULL */
	bool forced;
};
/* Small named numbers and strings of the instance: "epoch" (highest taken), "term", "uuid", "boot_id",
 * "next_cluster", "document_version", "barrier_ms". Values are text. The name "commit" is the store's own. */

struct store_visitor { /* any callback may be NULL; a non-zero return ends the load with that value */
	int (*meta)(void *arg, const char *name, const char *value);
	int (*cluster)(void *arg, const struct store_cluster *);     /* all clusters come before partitions */
	int (*partition)(void *arg, const struct store_partition *); /* strings live until the return */
	int (*event)(void *arg, const struct store_event *);
	void *arg;
};

struct store; /* each store's own */

struct store_ops {
	const char *scheme; /* "sqlite" for sqlite:PATH */
	bool durable;       /* false: the writer rebuilds from the last generation in shared memory */
	/* argument: what follows "scheme:". R_DONE, or R_BACKEND/R_INVALID with *r filled (path, errno text, what to
	 * do). */
	enum refusal_code (*open)(const char *argument, struct store **, struct refusal *r);
	void (*close)(struct store **);
	/* Number of partition rows (for sizing the table), or the load itself: metas, clusters, partitions. 0, the
	 * callback's value, or -1 with *r filled. */
	int (*count)(struct store *, uint64_t *n, struct refusal *r);
	int (*load)(struct store *, const struct store_visitor *, struct refusal *r);
	/* History, newest first, at most limit rows: visitor->event. key NULL: of all; key_len 0: of the default; else
	 * of that partition, and of a cluster with that id. */
	int (*history)(struct store *, const char *key, size_t key_len, unsigned limit, const struct store_visitor *,
		       struct refusal *r);
	enum store_result (*begin)(struct store *, struct refusal *r);
	enum store_result (*put_meta)(struct store *, const char *name, const char *value, struct refusal *r);
	enum store_result (*put_cluster)(struct store *, const struct store_cluster *, struct refusal *r);
	/* state NULL and document 0: the row goes. After any put that failed, only rollback is left. */
	enum store_result (*put_partition)(struct store *, const struct store_partition *, struct refusal *r);
	enum store_result (*put_event)(struct store *, const struct store_event *, struct refusal *r);
	/* On STORE_OK all of it is durable. On STORE_FAILED nothing is, and the transaction is over. */
	enum store_result (*commit)(struct store *, struct refusal *r);
	void (*rollback)(struct store *);
	/* After STORE_UNKNOWN: re-opens what it must and tells whether the last commit is in the store. STORE_UNKNOWN:
	 * still not known, ask again later. */
	enum store_result (*settle)(struct store *, bool *committed, struct refusal *r);
	/* A piece of what is done when idle (old history, space that can be given back), some milliseconds long; may be
	 * NULL. True: there is more of it. */
	bool (*idle)(struct store *);
};

extern const struct store_ops store_sqlite;
extern const struct store_ops store_memory;
/* All stores, NULL-terminated; the scheme of a URL picks one. */
extern const struct store_ops *const stores[];
/* R_DONE, or R_INVALID naming the URL and the schemes there are. */
enum refusal_code store_find(const char *url, const struct store_ops **, const char **argument, struct refusal *r);

#endif
