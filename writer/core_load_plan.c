/* SPDX-License-Identifier: MIT
 * A document, first half: what it would change, worked out in slices against a table that does not
 * change meanwhile, because changes are refused `busy`. Nothing is held until the whole plan is known to be legal; then
 * core_load_apply.c takes over. Called by core_load.c; control thread. */
#include "core_load.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

static void no_memory(struct core_load *l)
{
	refuse(&l->refusal, R_FULL, "no memory for the document: give the daemon more, or load it in parts");
	core_load_refuse(l);
}

static struct load_change *add(struct load_changes *c)
{
	if (c->n == c->room) {
		uint64_t room = c->room ? 2 * c->room : 256;
		struct load_change *all = realloc(c->all, room * sizeof(*all));

		if (!all)
			return NULL;
		c->all = all;
		c->room = room;
	}
	c->all[c->n] = (struct load_change){0};
	return &c->all[c->n++];
}

/* ---- clusters --------------------------------------------------------------------------------------------------- */

static bool same_endpoint(const struct core *c, unsigned number, const struct document_cluster *d)
{
	const struct shm_cluster *present = table_cluster(c->table, number);

	return !d->endpoint || !present ||
	       (present->endpoint_len == d->endpoint_len &&
		memcmp(cluster_endpoint(present), d->endpoint, d->endpoint_len) == 0);
}

void core_load_plan_clusters(struct core *c, struct core_load *l)
{
	const struct document *d = l->document;
	char shown[TEXT_SHOWN];

	l->first_fresh = table_next_cluster(c->table);
	for (uint32_t i = 0; i < d->n_clusters; i++) {
		const struct document_cluster *from = &d->clusters[i];
		unsigned number = table_cluster_number(c->table, from->id, from->id_len);

		if (number == 0 && from->implicit && d->has_clusters) {
			refuse_at(&l->refusal, R_UNKNOWN_CLUSTER, "$.clusters",
				  "cluster %s is named by a placement, but it is neither in \"clusters\" nor known: "
				  "add it",
				  text_show(shown, sizeof(shown), from->id, from->id_len));
			core_load_refuse(l);
			return;
		}
		if (number == 0 && l->first_fresh + l->n_fresh > SHM_CLUSTERS_MAX) {
			refuse_at(&l->refusal, R_FULL, "$.clusters",
				  "there is no number for cluster %s: all %u of this instance were given out, and none "
				  "is used again",
				  text_show(shown, sizeof(shown), from->id, from->id_len), SHM_CLUSTERS_MAX);
			core_load_refuse(l);
			return;
		}
		l->numbers[i] = (uint16_t)(number ? number : l->first_fresh + l->n_fresh);
		if (number && same_endpoint(c, number, from))
			continue;
		l->clusters[l->n_clusters++] = (struct table_cluster_change){
			.number = l->numbers[i], .id = from->id, .endpoint = from->endpoint ? from->endpoint : ""};
		if (!number)
			l->fresh[l->n_fresh++] = from->id;
	}
	core_load_next(l, LOAD_BIND);
}

void core_load_bind(struct core_load *l)
{
	const uint32_t first = (uint32_t)l->at;

	document_bind(l->document, l->numbers, first, LOAD_BATCH);
	for (uint32_t i = first; i < l->document->n_placements && i - first < LOAD_BATCH; i++)
		l->prints[i] = detail_fingerprint(document_placement(l->document, i));
	l->at += LOAD_BATCH;
	if (l->at >= l->document->n_placements)
		core_load_next(l, LOAD_PLAN);
}

/* ---- partitions and the default ---------------------------------------------------------------------------------- */

/* Left alone: counted, and named while there are not too many. */
static void leave(struct core_load *l, const char *key, size_t len, enum plan_action action)
{
	json_t *row;

	if (action == PLAN_DIVERGED)
		l->summary.diverged++;
	else
		l->summary.migrating++;
	if (json_array_size(l->summary.left) >= LOAD_LEFT_MAX)
		return;
	row = json_pack("{s:o, s:s}", "partition", key ? json_stringn(key, len) : json_null(), "why",
			plan_action_name(action));
	json_array_append_new(l->summary.left, row); /* without memory for a row the count still tells */
}

/* What the table has of a partition, and what the rule makes of it. */
struct found {
	struct state now;
	uint64_t remembered;
	struct plan plan;
};

static void consider(const struct core *c, const struct core_load *l, const char *key, size_t len, uint64_t says,
		     struct found *f)
{
	struct plan_case pc = {.says = says, .override = l->options.override, .prune = l->options.prune};

	f->now = (struct state){0};
	f->remembered = 0;
	if (!(key ? table_get(c->table, key, len, &f->now, &f->remembered)
		  : table_default(c->table, &f->now, &f->remembered)))
		f->now = (struct state){0};
	pc.last = f->remembered;
	pc.state = f->now.at ? detail_fingerprint(f->now.at) : 0;
	pc.migrating = f->now.to != NULL;
	f->plan = document_plan(&pc);
}

/* Is it allowed? False: refused, and the refusal's path is set. */
static bool legal(struct core_load *l, enum operation op, const char *key, size_t len,
		  const struct shm_detail *placement, const struct found *f, const struct state *dflt)
{
	struct step step = {.op = op,
			    .key = key,
			    .key_len = len,
			    .placement = placement,
			    .placement_cluster_known = true,
			    .force = f->plan.force};
	struct state after;
	char under[2 * TEXT_SHOWN];
	bool changed;
	enum refusal_code code = machine_step(&f->now, dflt, &step, &after, &changed, &l->refusal);

	if (code == R_DONE)
		return true;
	if (op == OP_DEFAULT)
		refuse_under(&l->refusal, code, "$.default");
	else if (op == OP_REMOVE)
		refuse_under(&l->refusal, code, "$.partitions");
	else
		refuse_under(&l->refusal, code, "$.partitions%s", text_step(under, sizeof(under), key, len));
	core_load_refuse(l);
	return false;
}

/* The default as it is before the document, in a table that may have moved since the last slice. */
static struct state present_default(const struct core *c)
{
	struct state dflt = {0};

	return table_default(c->table, &dflt, NULL) ? dflt : (struct state){0};
}

/* Once removals are published, the document's default is in force. */
static struct state coming_default(const struct core *c, const struct core_load *l)
{
	struct state dflt = present_default(c);

	if (l->has_dflt && !l->dflt.keeps)
		dflt = (struct state){.at = document_placement(l->document, l->document->dflt)};
	return dflt;
}

static bool plan_partition(struct core *c, struct core_load *l, uint32_t i, const struct state *dflt)
{
	size_t len;
	const char *key = document_key(l->document, i, &len);
	uint32_t placement = l->document->partitions[i].placement;
	struct load_change *change;
	struct found f;

	consider(c, l, key, len, l->prints[placement], &f);
	if (f.plan.action == PLAN_SET) {
		if (!legal(l, OP_SET, key, len, document_placement(l->document, placement), &f, dflt))
			return false;
		l->summary.applied++;
		l->n_new += f.now.at == NULL;
	} else if (f.plan.action == PLAN_DIVERGED || f.plan.action == PLAN_MIGRATING) {
		leave(l, key, len, f.plan.action);
	} else if (f.plan.action == PLAN_ADOPT) {
		l->summary.adopted++;
	} else {
		l->summary.unchanged++;
	}
	if (f.plan.action != PLAN_SET && f.plan.remember == f.remembered)
		return true;
	change = add(&l->sets);
	if (!change) {
		no_memory(l);
		return false;
	}
	change->name = i;
	change->keeps = f.plan.action != PLAN_SET;
	return true;
}

static bool plan_default(struct core *c, struct core_load *l)
{
	struct found f;

	if (l->document->dflt == DOCUMENT_NO_PLACEMENT)
		return true;
	consider(c, l, NULL, 0, l->prints[l->document->dflt], &f);
	if (f.plan.action == PLAN_SET &&
	    !legal(l, OP_DEFAULT, NULL, 0, document_placement(l->document, l->document->dflt), &f, &f.now))
		return false;
	if (f.plan.action == PLAN_DIVERGED)
		leave(l, NULL, 0, f.plan.action);
	l->has_dflt = f.plan.action == PLAN_SET || f.plan.remember != f.remembered;
	l->dflt.keeps = f.plan.action != PLAN_SET;
	return true;
}

void core_load_plan_partitions(struct core *c, struct core_load *l)
{
	const struct state dflt = present_default(c);

	for (unsigned i = 0; i < LOAD_BATCH && l->at < l->document->n_partitions; i++, l->at++)
		if (!plan_partition(c, l, (uint32_t)l->at, &dflt))
			return;
	if (l->at >= l->document->n_partitions && plan_default(c, l))
		core_load_next(l, l->options.prune ? LOAD_NAMES : LOAD_RESERVE);
}

/* ---- prune ------------------------------------------------------------------------------------------------------ */

static int see_name(void *arg, const char *key, size_t len, const struct state *state, uint64_t document)
{
	struct core_load *l = arg;

	(void)state;
	(void)document;
	if (!key)
		return 0;
	if (l->names_room - l->names_len < len + 1) {
		size_t room = l->names_room ? 2 * l->names_room : 1u << 16;
		char *names = realloc(l->names, room);

		if (!names)
			return -1;
		l->names = names;
		l->names_room = room;
	}
	l->names[l->names_len] = (char)(unsigned char)len;
	memcpy(l->names + l->names_len + 1, key, len);
	l->names_len += len + 1;
	return 0;
}

/* All keys at once, for the table may move between slices, and its order with it: a copy of them, and nothing more. */
void core_load_take_names(struct core *c, struct core_load *l)
{
	if (table_walk(c->table, see_name, l) != 0)
		no_memory(l);
	else
		core_load_next(l, LOAD_PRUNE);
}

static bool in_document(const struct document *d, const char *key, size_t len)
{
	uint32_t low = 0, high = d->n_partitions;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		size_t n;
		const char *there = document_key(d, middle, &n);
		int order = memcmp(there, key, n < len ? n : len);

		if (order == 0 && n == len)
			return true;
		if (order < 0 || (order == 0 && n < len))
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static bool plan_missing(struct core *c, struct core_load *l, uint64_t name, const struct state *dflt)
{
	size_t len = (unsigned char)l->names[name];
	const char *key = l->names + name + 1;
	struct load_change *change;
	struct found f;

	if (in_document(l->document, key, len))
		return true;
	consider(c, l, key, len, 0, &f);
	if (f.plan.action == PLAN_REMOVE) {
		if (!legal(l, OP_REMOVE, key, len, NULL, &f, dflt))
			return false;
		l->summary.removed++;
	} else if (f.plan.action != PLAN_FORGET) {
		if (f.plan.action != PLAN_NOTHING)
			leave(l, key, len, f.plan.action);
		return true;
	}
	change = add(&l->removals);
	if (!change) {
		no_memory(l);
		return false;
	}
	change->name = name;
	change->keeps = f.plan.action == PLAN_FORGET;
	return true;
}

void core_load_plan_prune(struct core *c, struct core_load *l)
{
	const struct state dflt = coming_default(c, l);

	for (unsigned i = 0; i < LOAD_BATCH && l->at < l->names_len; i++) {
		if (!plan_missing(c, l, l->at, &dflt))
			return;
		l->at += (unsigned char)l->names[l->at] + 1u;
	}
	if (l->at >= l->names_len)
		core_load_next(l, LOAD_RESERVE);
}
