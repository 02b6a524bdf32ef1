/* SPDX-License-Identifier: MIT
 * Placement documents: parsed whole and staged before anything is changed, and the rule that decides
 * what a document may do to one partition. Parsing is pure: no globals, no I/O, no other module's state, so it runs on
 * a worker thread; the staged document is then handed to the control thread, which applies it. One thread at a time. */
#ifndef BERTH_WRITER_DOCUMENT_H
#define BERTH_WRITER_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../shm/details.h"
#include "refusals.h"

#define DOCUMENT_BYTES_MAX UINT32_MAX     /* longest document; offsets in the staged form are 32 bits */
#define DOCUMENT_VERSION_MAX (1ull << 53) /* what every JSON reader keeps exactly; 1 is the lowest */
#define DOCUMENT_NO_PLACEMENT UINT32_MAX

/* ---- the staged form ----------------------------------------------------------------------------------------- */

struct document_cluster {
	const char *id, *endpoint; /* NUL-terminated; endpoint NULL: the document does not say one, "": it says none */
	uint8_t id_len, endpoint_len;
	/* Named by a placement, but not a key of `clusters`. When the document has `clusters` such a name must be known
	 * to the instance, else it is `unknown-cluster`; when it has none, the cluster is created without an endpoint.
	 */
	bool implicit;
};

struct document_partition {
	uint64_t order;     /* used while sorting */
	uint32_t key;       /* for document_key */
	uint32_t placement; /* for document_placement; equal placements have equal numbers */
};

/* Read by anyone, written by the parser and document_bind only.
 *
 *   partitions[]  sorted by key (memcmp, the shorter first), no key twice
 *     | key        -> names:   length u8, bytes, NUL
 *     | placement  -> placements[] -> records: struct shm_detail, cluster = number in clusters[] + 1 until bound
 */
struct document {
	uint64_t version; /* 0: not given */
	bool has_clusters, has_partitions;
	uint32_t dflt; /* placement; DOCUMENT_NO_PLACEMENT: the document says nothing of the default */
	uint32_t n_clusters, n_partitions, n_placements;
	struct document_cluster *clusters;
	struct document_partition *partitions;
	struct document_memory *memory; /* where names and records live */
};

/* Key of the i-th partition in key order: NUL-terminated, valid until document_free. */
const char *document_key(const struct document *, uint32_t i, size_t *len);
/* Placement number i (document_partition.placement, document.dflt), valid until document_free. */
const struct shm_detail *document_placement(const struct document *, uint32_t i);
/* Puts the instance's cluster numbers into the placements first..first+n-1 (cut at the end) and makes their checksums
 * anew: numbers[k] is the number of clusters[k], never 0. Each placement once, in slices as long as the caller likes;
 * until then document_placement's cluster, and so its fingerprint, means nothing outside the document. */
void document_bind(struct document *, const uint16_t *numbers, uint32_t first, uint32_t n);
void document_free(struct document **);

/* ---- parsing ------------------------------------------------------------------------------------------------- */

struct document_parser;

/* NULL: out of memory. */
struct document_parser *document_parser_new(void);
/* The next bytes of the document, cut anywhere. R_DONE; R_BAD_DOCUMENT with the JSON path of the fault and the reason;
 * R_FULL when memory ran out. After a fault the parser only repeats it. The verdict does not depend on the cuts. */
enum refusal_code document_parser_feed(struct document_parser *, const char *bytes, size_t len, struct refusal *);
/* The document has ended: sorts, looks for duplicates, and hands the staged document over (the caller frees it). Takes
 * the parser in every case. */
enum refusal_code document_parser_finish(struct document_parser **, struct document **out, struct refusal *);
void document_parser_free(struct document_parser **);

/* All three for a document in one piece. */
enum refusal_code document_parse(const char *bytes, size_t len, struct document **out, struct refusal *);

/* ---- what a document may do to a partition ------------------------------------------------------------------- */

/* A document never undoes a command. It is one of three voices about p, each the fingerprint of a placement or 0:
 *
 *   says   this document (0: p is missing from it)
 *   last   what the last document that named p said of it: what the writer remembers (0: none did)
 *   state  what p is now, `at` (0: no entry)
 *
 *   says     last   state           action
 *   X        *      migrating       MIGRATING   left, reported
 *   X        X      X               NOTHING
 *   X        not X  X               ADOPT       somebody was there first: remember that the document says so too
 *   X        L      equal to last   SET         only documents have spoken so far (both 0: first placement)
 *   X        L      another         DIVERGED    a command or a migration has spoken: left, reported; override: SET
 *   missing  *      *               NOTHING     without prune: a document that does not name p says nothing of it
 *   with prune:
 *   missing  *      migrating       MIGRATING
 *   missing  0      nothing         NOTHING
 *   missing  L      nothing         FORGET      a command removed it, now the document agrees
 *   missing  L      L               REMOVE
 *   missing  L      another         DIVERGED    a command made or changed it (L = 0: no document ever named it): left,
 *                                               reported; override: REMOVE
 *
 * The same rule serves the default, but for prune: a document without `default` says nothing of it. A document without
 * `partitions` (has_partitions) cannot prune either: the caller refuses it.
 *
 * SET and REMOVE still go through machine_step, with `force` as given here, and may be refused there (`would-move`: a
 * document moves nothing between clusters without a drain, unless override). Then nothing is remembered. */
#define PLAN_ACTIONS(X) \
	X(PLAN_NOTHING, "nothing") \
	X(PLAN_SET, "set") \
	X(PLAN_ADOPT, "adopted") \
	X(PLAN_REMOVE, "removed") \
	X(PLAN_FORGET, "forgotten") \
	X(PLAN_DIVERGED, "diverged") \
	X(PLAN_MIGRATING, "migrating")
enum plan_action {
#define PLAN_ENUM(e, name) e,
	PLAN_ACTIONS(PLAN_ENUM)
#undef PLAN_ENUM
};

struct plan {
	enum plan_action action;
	bool force;        /* of SET and REMOVE */
	uint64_t remember; /* what to keep as `last`, once the action is done; differs from last only if it must be
			      stored */
};

struct plan_case {
	uint64_t says, last, state; /* detail_fingerprint, cluster numbers of the instance */
	bool migrating;
	bool override, prune;
};

struct plan document_plan(const struct plan_case *);
const char *plan_action_name(enum plan_action);

#endif
