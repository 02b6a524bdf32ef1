/* SPDX-License-Identifier: MIT
 * What the events of a document mean: each key and value is judged as it comes, and what is good goes into the staged
 * form (document_stage.c). Called by yajl out of document.c, on a worker thread; nothing recurses, no tree is kept. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "document_parser.h"
#include "text.h"

static const struct {
	const char *name;
	size_t len;
	const char *words;
	unsigned types;
	enum place in;
} keys[N_KEYS] = {
#define KEY_ROW(e, in, name, types, words) [e] = {name, sizeof(name) - 1, words, types, in},
	KEYS(KEY_ROW)
#undef KEY_ROW
};

/* ---- faults ------------------------------------------------------------------------------------------------ */

/* From the inside out. */
int document_judged(struct document_parser *p, enum refusal_code code)
{
	struct refusal *r = &p->fault;
	char shown[sizeof(p->id) + 16];

	if (code == R_DONE)
		return 1;
	if (p->key != K_NONE && keys[p->key].in == p->place)
		refuse_under(r, code, ".%s", keys[p->key].name);
	if (p->place == IN_VALUE)
		refuse_under(r, code, ".value");
	if (p->place == IN_LIST || p->place == IN_PAIR || p->place == IN_VALUE)
		refuse_under(r, code, ".inject[%u]", p->draft.n_inject);
	if (p->id_len)
		refuse_under(r, code, "[%s]", text_show(shown, sizeof(shown), p->id, p->id_len));
	if (p->is_default)
		refuse_under(r, code, ".default");
	else if (p->place == IN_CLUSTERS || p->place == IN_CLUSTER)
		refuse_under(r, code, ".clusters");
	else if (p->place >= IN_PARTITIONS && p->place != IN_END)
		refuse_under(r, code, ".partitions");
	refuse_under(r, code, "$");
	r->code = code == R_FULL ? R_FULL : R_BAD_DOCUMENT;
	return 0;
}

static int out_of_memory(struct document_parser *p)
{
	return document_judged(p, refuse(&p->fault, R_FULL, "out of memory: the document is too long for this host"));
}

/* At the key itself, which is not taken as one. */
static int bad_key(struct document_parser *p, const char *key, size_t len, const char *why)
{
	char step[SHM_KEY_MAX + 16], shown[TEXT_SHOWN];

	return document_judged(p, refuse_at(&p->fault, R_BAD_DOCUMENT, text_step(step, sizeof(step), key, len),
					    "key %s %s", text_show(shown, sizeof(shown), key, len), why));
}

static const char *type_name(enum type type)
{
	switch (type) {
	case T_STRING:
		return "a string";
	case T_NUMBER:
		return "a number";
	case T_OBJECT:
		return "an object";
	case T_ARRAY:
		return "an array";
	case T_TRUE:
		return "true";
	case T_FALSE:
		return "false";
	case T_NULL:
		break;
	}
	return "null";
}

/* A value of this type begins: may it, here? */
static bool wanted(struct document_parser *p, enum type type)
{
	const char *what = p->key != K_NONE          ? keys[p->key].name
			   : p->place == IN_START    ? "the document"
			   : p->place == IN_CLUSTERS ? "a cluster"
			   : p->place == IN_LIST     ? "an inject item"
						     : "a placement";
	const char *words = p->key != K_NONE ? keys[p->key].words : "an object";

	if ((p->key != K_NONE ? keys[p->key].types : T_OBJECT) & type)
		return true;
	return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT, "%s is %s: give %s", what, type_name(type), words));
}

/* ---- keys -------------------------------------------------------------------------------------------------- */

static int unknown_key(struct document_parser *p, const char *name, size_t len)
{
	char why[128];
	size_t at = (size_t)snprintf(why, sizeof(why), "is unknown: there are");

	for (enum key k = K_NONE + 1; k < N_KEYS && at < sizeof(why); k++)
		if (keys[k].in == p->place)
			at += (size_t)snprintf(why + at, sizeof(why) - at, " %s", keys[k].name);
	assert(at < sizeof(why));
	return bad_key(p, name, len, why);
}

/* The id of a cluster or a partition opens. */
static int open_id(struct document_parser *p, const char *id, size_t len)
{
	char step[SHM_KEY_MAX + 16];
	bool is_cluster = p->place == IN_CLUSTERS;
	struct document *d = p->staged;

	enum refusal_code code =
		is_cluster ? check_cluster_id(id, len, "", &p->fault) : check_partition(id, len, "", &p->fault);
	if (code != R_DONE) {
		text_show(step, sizeof(step), id, len);
		return document_judged(p, refuse_under(&p->fault, code, "[%s]", step));
	}
	memcpy(p->id, id, len);
	p->id_len = len;
	if (!is_cluster)
		return 1;
	if (stage_cluster(d, id, len, &p->cluster))
		return out_of_memory(p);
	if (p->cluster == SHM_CLUSTERS_MAX)
		return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT,
						 "there are more than %u clusters: give fewer", SHM_CLUSTERS_MAX));
	if (!d->clusters[p->cluster].implicit)
		return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT, "this cluster is there twice: keep one"));
	return 1;
}

static int on_key(void *context, const unsigned char *text, size_t len)
{
	struct document_parser *p = context;
	const char *name = (const char *)text;

	if (p->place == IN_CLUSTERS || p->place == IN_PARTITIONS)
		return open_id(p, name, len);
	for (enum key k = K_NONE + 1; k < N_KEYS; k++) {
		if (keys[k].in != p->place || keys[k].len != len || memcmp(keys[k].name, name, len) != 0)
			continue;
		if (p->seen[p->place] & 1u << k)
			return bad_key(p, name, len, "is there twice: keep one");
		p->seen[p->place] |= 1u << k;
		p->key = k;
		return 1;
	}
	return unknown_key(p, name, len);
}

/* ---- objects and arrays ------------------------------------------------------------------------------------ */

static int on_start_map(void *context)
{
	struct document_parser *p = context;
	static const enum place next_of[N_PLACES] = {
		[IN_START] = IN_ROOT, [IN_CLUSTERS] = IN_CLUSTER, [IN_PARTITIONS] = IN_PLACEMENT,
		[IN_LIST] = IN_PAIR,  [IN_PAIR] = IN_VALUE,
	};
	enum place next = next_of[p->place];

	if (!wanted(p, T_OBJECT))
		return 0;
	if (p->place == IN_LIST && p->draft.n_inject == SHM_INJECT_MAX)
		return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT, "inject has more than %u pairs: give fewer",
						 SHM_INJECT_MAX));
	if (p->place == IN_ROOT)
		next = p->key == K_CLUSTERS ? IN_CLUSTERS : p->key == K_PARTITIONS ? IN_PARTITIONS : IN_PLACEMENT;
	p->is_default |= p->key == K_DEFAULT;
	p->place = next;
	p->key = K_NONE;
	p->seen[next] = 0;
	if (next == IN_PLACEMENT) {
		memset(&p->draft, 0, offsetof(struct placement_draft, inject));
		p->inject_used = 0;
	} else if (next == IN_PAIR) {
		p->draft.inject[p->draft.n_inject] = (struct detail_inject){0};
	} else if (next == IN_CLUSTER) {
		p->has_endpoint = false;
	}
	return 1;
}

static int end_placement(struct document_parser *p)
{
	struct document *d = p->staged;
	uint32_t cluster, placement;

	if (!document_judged(p, placement_check(&p->draft, true, "", &p->fault)))
		return 0;
	if (stage_cluster(d, p->draft.cluster, p->draft.cluster_len, &cluster))
		return out_of_memory(p);
	if (cluster == SHM_CLUSTERS_MAX)
		return document_judged(p,
				       refuse_at(&p->fault, R_BAD_DOCUMENT, ".cluster",
						 "this is the cluster after the %uth: give fewer", SHM_CLUSTERS_MAX));
	placement_make(&p->draft, true, cluster + 1, &p->record);
	if (stage_placement(d, &p->record.detail, &placement))
		return out_of_memory(p);
	if (p->is_default)
		d->dflt = placement;
	else if (stage_partition(d, p->id, p->id_len, placement))
		return out_of_memory(p);
	p->place = p->is_default ? IN_ROOT : IN_PARTITIONS;
	p->is_default = false;
	p->id_len = 0;
	return 1;
}

static int end_cluster(struct document_parser *p)
{
	if (stage_endpoint(p->staged, p->cluster, p->has_endpoint ? p->endpoint : NULL, p->endpoint_len))
		return out_of_memory(p);
	p->place = IN_CLUSTERS;
	p->id_len = 0;
	return 1;
}

static int end_root(struct document_parser *p)
{
	uint32_t seen = p->seen[IN_ROOT];

	if (seen == 0)
		return document_judged(
			p,
			refuse(&p->fault, R_BAD_DOCUMENT,
			       "the document is empty: give at least one of version, clusters, default, partitions"));
	p->staged->has_clusters = seen & 1u << K_CLUSTERS;
	p->staged->has_partitions = seen & 1u << K_PARTITIONS;
	p->place = IN_END;
	return 0; /* the rest is not yajl's */
}

static int on_end_map(void *context)
{
	struct document_parser *p = context;

	p->key = K_NONE;
	switch (p->place) {
	case IN_ROOT:
		return end_root(p);
	case IN_CLUSTERS:
	case IN_PARTITIONS:
		p->place = IN_ROOT;
		return 1;
	case IN_CLUSTER:
		return end_cluster(p);
	case IN_PLACEMENT:
		return end_placement(p);
	case IN_PAIR:
		p->place = IN_LIST;
		p->draft.n_inject++;
		return 1;
	case IN_VALUE:
		if (!p->seen[IN_VALUE])
			return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT,
							 "inject value is {}: give {\"partition\": true} or a string"));
		p->draft.inject[p->draft.n_inject].kind = INJECT_PARTITION;
		p->draft.inject[p->draft.n_inject].value = "";
		p->place = IN_PAIR;
		return 1;
	default:
		return 0; /* yajl ends no object that it has not begun */
	}
}

static int on_start_array(void *context)
{
	struct document_parser *p = context;

	if (!wanted(p, T_ARRAY))
		return 0;
	p->draft.has_inject = true;
	p->place = IN_LIST;
	p->key = K_NONE;
	return 1;
}

static int on_end_array(void *context)
{
	struct document_parser *p = context;

	p->place = IN_PLACEMENT;
	return 1;
}

/* ---- values ------------------------------------------------------------------------------------------------ */

/* Copies an inject string; its rules are judged with the whole placement. */
static int keep_inject(struct document_parser *p, const char *text, size_t len)
{
	struct detail_inject *pair = &p->draft.inject[p->draft.n_inject];
	char *copy = p->inject + p->inject_used;

	if (len > sizeof(p->inject) - p->inject_used)
		return document_judged(
			p, refuse(&p->fault, R_BAD_DOCUMENT,
				  "inject is too long: give fewer or shorter pairs, at most %u bytes in all",
				  SHM_RECORD_MAX));
	memcpy(copy, text, len);
	p->inject_used += len;
	if (p->key == K_FIELD) {
		pair->field = copy;
		pair->field_len = len;
	} else {
		pair->kind = INJECT_CONSTANT;
		pair->value = copy;
		pair->value_len = len;
	}
	return 1;
}

/* Copies what is short enough to be good, and judges the rest at once; the copy is judged with the whole placement. */
static int keep_part(struct document_parser *p, const char *text, size_t len)
{
	struct placement_draft *draft = &p->draft;

	if (p->key == K_CLUSTER) {
		if (len > sizeof(p->cluster_id))
			return document_judged(p, check_cluster_id(text, len, "", &p->fault));
		draft->cluster = memcpy(p->cluster_id, text, len);
		draft->cluster_len = len;
	} else {
		if (len > sizeof(p->index))
			return document_judged(p, check_index(text, len, "", &p->fault));
		draft->index = memcpy(p->index, text, len);
		draft->index_len = len;
	}
	return 1;
}

static int on_string(void *context, const unsigned char *value, size_t len)
{
	struct document_parser *p = context;
	const char *text = (const char *)value;
	int good = 0;

	if (!wanted(p, T_STRING))
		return 0;
	switch (p->key) {
	case K_ENDPOINT:
		good = document_judged(p, check_endpoint(text, len, "", &p->fault));
		if (good) {
			memcpy(p->endpoint, text, len);
			p->endpoint_len = len;
			p->has_endpoint = true;
		}
		break;
	case K_MODE:
		p->draft.kind = mode_kind(text, len);
		good = p->draft.kind != KIND_NONE || document_judged(p, refuse_mode(&p->fault, "", text, len));
		break;
	case K_CLUSTER:
	case K_INDEX:
		good = keep_part(p, text, len);
		break;
	case K_FIELD:
	case K_VALUE:
		good = keep_inject(p, text, len);
		break;
	default: /* no other key wants a string */
		break;
	}
	p->key = K_NONE;
	return good;
}

static int on_number(void *context, const char *text, size_t len)
{
	struct document_parser *p = context;
	uint64_t version = 0;
	char shown[TEXT_SHOWN];
	size_t i = 0;

	if (!wanted(p, T_NUMBER))
		return 0;
	while (i < len && text[i] >= '0' && text[i] <= '9' && version <= DOCUMENT_VERSION_MAX)
		version = version * 10 + (uint64_t)(text[i++] - '0');
	if (i < len || version == 0 || version > DOCUMENT_VERSION_MAX)
		return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT,
						 "version %s is out of range: give 1 to %llu, digits only",
						 text_show(shown, sizeof(shown), text, len),
						 (unsigned long long)DOCUMENT_VERSION_MAX));
	p->staged->version = version;
	p->key = K_NONE;
	return 1;
}

static int on_boolean(void *context, int value)
{
	struct document_parser *p = context;

	if (!wanted(p, value ? T_TRUE : T_FALSE))
		return 0;
	p->key = K_NONE;
	return 1;
}

static int on_null(void *context)
{
	return wanted(context, T_NULL);
}

const yajl_callbacks document_events = {
	.yajl_null = on_null,
	.yajl_boolean = on_boolean,
	.yajl_number = on_number,
	.yajl_string = on_string,
	.yajl_start_map = on_start_map,
	.yajl_map_key = on_key,
	.yajl_end_map = on_end_map,
	.yajl_start_array = on_start_array,
	.yajl_end_array = on_end_array,
};
