/* SPDX-License-Identifier: MIT
 * What a parser of documents remembers between two events. Shared by document.c, which feeds it, and
 * document_events.c, which judges; nobody else. */
#ifndef BERTH_WRITER_DOCUMENT_PARSER_H
#define BERTH_WRITER_DOCUMENT_PARSER_H

#include <setjmp.h>
#include <yajl/yajl_parse.h>

#include "document_stage.h"
#include "escapes.h"
#include "placement.h"

/* Where in the document the next event lies.
 *
 *   START -{-> ROOT -clusters-> CLUSTERS -"c1"-> CLUSTER
 *              | |\-partitions-> PARTITIONS -"acme"-> PLACEMENT -inject-> LIST -{-> PAIR -value-> VALUE
 *              | \--default--------------------------^
 *              }-> END
 */
enum place {
	IN_START,
	IN_ROOT,
	IN_CLUSTERS,
	IN_CLUSTER,
	IN_PARTITIONS,
	IN_PLACEMENT,
	IN_LIST,
	IN_PAIR,
	IN_VALUE,
	IN_END,
	N_PLACES
};

enum type { T_STRING = 1, T_NUMBER = 2, T_OBJECT = 4, T_ARRAY = 8, T_TRUE = 16, T_FALSE = 32, T_NULL = 64 };

/* X(enum, the object that has it, name, types, and these in words) */
#define KEYS(X) \
	X(K_NONE, N_PLACES, "", 0, "") \
	X(K_VERSION, IN_ROOT, "version", T_NUMBER, "a number") \
	X(K_CLUSTERS, IN_ROOT, "clusters", T_OBJECT, "an object") \
	X(K_DEFAULT, IN_ROOT, "default", T_OBJECT, "an object") \
	X(K_PARTITIONS, IN_ROOT, "partitions", T_OBJECT, "an object") \
	X(K_ENDPOINT, IN_CLUSTER, "endpoint", T_STRING, "a string") \
	X(K_MODE, IN_PLACEMENT, "mode", T_STRING, "a string") \
	X(K_CLUSTER, IN_PLACEMENT, "cluster", T_STRING, "a string") \
	X(K_INDEX, IN_PLACEMENT, "index", T_STRING, "a string") \
	X(K_INJECT, IN_PLACEMENT, "inject", T_ARRAY, "an array") \
	X(K_FIELD, IN_PAIR, "field", T_STRING, "a string") \
	X(K_VALUE, IN_PAIR, "value", T_STRING | T_OBJECT, "a string or {\"partition\": true}") \
	X(K_PARTITION, IN_VALUE, "partition", T_TRUE, "true")
enum key {
#define KEY_ENUM(e, in, name, types, words) e,
	KEYS(KEY_ENUM)
#undef KEY_ENUM
		N_KEYS
};

struct document_parser {
	yajl_handle yajl;
	struct yajl_block *blocks; /* all that yajl has */
	jmp_buf no_memory;         /* out of the call to yajl */
	struct document *staged;
	struct escapes escapes;
	uint64_t bytes; /* of the slices that are done */
	bool token_too_long;
	struct refusal fault; /* code R_DONE: none so far */

	enum place place;
	enum key key;            /* whose value comes next, or is open; K_NONE: not known yet */
	uint32_t seen[N_PLACES]; /* bits of enum key, of the innermost object of each sort */

	/* the cluster or partition that is open; id_len 0: none */
	char id[SHM_KEY_MAX];
	size_t id_len;
	uint32_t cluster;
	bool has_endpoint;
	char endpoint[SHM_ENDPOINT_MAX];
	size_t endpoint_len;

	/* the placement that is open; the draft points into the arrays below it */
	bool is_default;
	struct placement_draft draft;
	char cluster_id[SHM_CLUSTER_ID_MAX];
	char index[SHM_INDEX_MAX];
	char inject[SHM_RECORD_MAX];
	size_t inject_used;
	union detail_buffer record;
};

/* Events for yajl, whose context is the parser. */
extern const yajl_callbacks document_events;
/* Puts the path of the present place in front of the fault's own, and makes it a refusal of the document; code R_DONE
 * is none. As yajl's callbacks answer: 0 ends the parse. */
int document_judged(struct document_parser *, enum refusal_code code);

#endif
