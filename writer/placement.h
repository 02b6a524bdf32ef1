/* SPDX-License-Identifier: MIT
 * Placements and partition states as the writer speaks of them: rules for ids and names, JSON in and out.
 * A placement is a struct shm_detail (shm/details.h); JSON is jansson's. No I/O, no globals, any thread. */
#ifndef BERTH_WRITER_PLACEMENT_H
#define BERTH_WRITER_PLACEMENT_H

#include <jansson.h>

#include "../shm/details.h"
#include "../shm/word.h"
#include "refusals.h"

/* What is known of one partition, or of the default. at == NULL: nothing (removed, never placed). The pointers are
 * borrowed: whoever hands a state out says how long they live. */
struct state {
	uint64_t epoch; /* of the last change; 0: never placed */
	enum word_phase phase;
	const struct shm_detail *at; /* reads go here; `from` in a migration */
	const struct shm_detail *to; /* NULL unless migrating */
};

/* Cluster ids <-> numbers, as the caller's table knows them. */
struct cluster_names {
	unsigned (*number)(void *arg, const char *id, size_t len); /* 0: unknown */
	const char *(*id)(void *arg, unsigned number);             /* NULL: unknown */
	void *arg;
};

/* Rules of names and ids. Each: R_DONE, or R_INVALID with path, the value (cut, escaped) and the rule it breaks. */
enum refusal_code check_partition(const char *, size_t len, const char *path, struct refusal *);
enum refusal_code check_cluster_id(const char *, size_t len, const char *path, struct refusal *);
enum refusal_code check_endpoint(const char *, size_t len, const char *path, struct refusal *);
enum refusal_code check_index(const char *, size_t len, const char *path, struct refusal *);

/* A placement taken apart, as JSON gives it in any order. Strings are borrowed; their lengths rule, not a NUL. */
struct placement_draft {
	unsigned kind;       /* KIND_NONE: not given */
	const char *cluster; /* NULL: not given */
	const char *index;   /* NULL: not given */
	size_t cluster_len, index_len;
	bool has_inject;
	unsigned n_inject; /* pairs that were given; of more than SHM_INJECT_MAX only the first are kept */
	struct detail_inject inject[SHM_INJECT_MAX]; /* value NULL: not given; field NULL: not given */
};
/* All rules of a placement but that its cluster be known. R_DONE promises that placement_make succeeds. */
enum refusal_code placement_check(const struct placement_draft *, bool default_inject, const char *path,
				  struct refusal *);
void placement_make(const struct placement_draft *, bool default_inject, unsigned cluster, union detail_buffer *out);

/* {"mode": …, "cluster": …, "index": …, "inject": [{"field": …, "value": {"partition": true} | "constant"}]}
 * -> record. Refuses unknown keys, wrong types, keys that the mode does not have, a shared-index without inject unless
 * default_inject (then: _tenant = the partition id). path: prefix for the JSON path of a fault, e.g.
 * `$.partitions["acme"]`. R_UNKNOWN_CLUSTER when names does not know the cluster. */
enum refusal_code placement_from_json(const json_t *, bool default_inject, const struct cluster_names *,
				      const char *path, union detail_buffer *out, struct refusal *);
/* New reference; NULL when out of memory or the cluster has no name. */
json_t *placement_to_json(const struct shm_detail *, const struct cluster_names *);

/* A state in the form that every store keeps and every socket shows:
 * {"at": placement} or {"phase": "draining" | "cutover", "at": placement, "to": placement}; null when at is NULL.
 * NULL as placement_to_json. */
json_t *state_to_json(const struct state *, const struct cluster_names *);
/* Reverse; at and to of *out point into the two buffers. epoch is left 0. On refusal the path starts at `$`. */
enum refusal_code state_from_json(const json_t *, const struct cluster_names *, union detail_buffer *at,
				  union detail_buffer *to, struct state *out, struct refusal *);

const char *phase_name(enum word_phase);      /* "settled", "draining", "cutover" */
const char *mode_name(unsigned kind);         /* "dedicated-cluster", … */
unsigned mode_kind(const char *, size_t len); /* KIND_NONE: no such mode */
/* R_INVALID for a mode that is not one, with the modes that there are. */
enum refusal_code refuse_mode(struct refusal *, const char *path, const char *mode, size_t len);

#endif
