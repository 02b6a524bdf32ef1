/* SPDX-License-Identifier: MIT
 * A document, second half: its plan is legal, now everything or nothing of it happens. Memory for all of it, then one
 * transaction over all rows, then one publication after the other; each row and each word carries its own epoch, taken
 * while the rows are written. Called by core_load.c in slices; control thread.
 *
 * Items are numbered in the order in which readers see them: clusters, sets, default, removals. */
#include "core_load.h"

#include <stdlib.h>
#include <string.h>

enum item_kind { ITEM_CLUSTER, ITEM_SET, ITEM_DEFAULT, ITEM_REMOVAL };
struct item {
	enum item_kind kind;
	struct table_cluster_change *cluster; /* ITEM_CLUSTER */
	struct load_change *from;             /* the others */
	struct table_change change;
	uint32_t placement; /* of ITEM_SET and ITEM_DEFAULT, unless it keeps */
};

static uint64_t n_items(const struct core_load *l)
{
	return l->n_clusters + l->sets.n + l->has_dflt + l->removals.n;
}

/* What stays as it is, is taken from the table each time: it may lie elsewhere since the last slice. */
static void keep_state(const struct core *c, struct table_change *change)
{
	struct state now = {0};
	bool there = change->key ? table_get(c->table, change->key, change->len, &now, NULL)
				 : table_default(c->table, &now, NULL);

	change->after = there ? now : (struct state){0};
}

static void item_get(const struct core *c, struct core_load *l, uint64_t i, struct item *item)
{
	struct table_change *change = &item->change;

	*item = (struct item){.placement = DOCUMENT_NO_PLACEMENT};
	if (i < l->n_clusters) {
		item->kind = ITEM_CLUSTER;
		item->cluster = &l->clusters[i];
		return;
	}
	i -= l->n_clusters;
	if (i < l->sets.n) {
		item->kind = ITEM_SET;
		item->from = &l->sets.all[i];
		item->placement = l->document->partitions[item->from->name].placement;
		change->key = document_key(l->document, (uint32_t)item->from->name, &change->len);
	} else if (i - l->sets.n < l->has_dflt) {
		item->kind = ITEM_DEFAULT;
		item->from = &l->dflt;
		item->placement = l->document->dflt;
	} else {
		item->kind = ITEM_REMOVAL;
		item->from = &l->removals.all[i - l->sets.n - l->has_dflt];
		change->key = l->names + item->from->name + 1;
		change->len = (unsigned char)l->names[item->from->name];
	}
	if (item->placement != DOCUMENT_NO_PLACEMENT) {
		change->after.at = document_placement(l->document, item->placement);
		change->document = l->prints[item->placement];
	}
	if (item->from->keeps)
		keep_state(c, change);
	else
		change->after.epoch = item->from->epoch;
	memcpy(&change->priv, item->from->priv, sizeof(change->priv));
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

/* One more record, unless that placement has been counted. */
static uint64_t placement_bytes(const struct core_load *l, uint8_t *counted, uint32_t placement)
{
	uint8_t bit = (uint8_t)(1u << placement % 8);

	if (counted[placement / 8] & bit)
		return 0;
	counted[placement / 8] |= bit;
	return table_record_bytes(document_placement(l->document, placement)->size);
}

/* What the records of what changes may take up at most: placements may be known already, keys too. What stays as it is
 * has its records, however much of the document that is. False: out of memory. */
static bool record_bytes(const struct core_load *l, uint64_t *sum)
{
	const struct document *d = l->document;
	uint8_t *counted = calloc(d->n_placements / 8 + 1, 1);

	*sum = l->n_clusters * table_record_bytes(cluster_size(SHM_CLUSTER_ID_MAX, SHM_ENDPOINT_MAX));
	if (!counted)
		return false;
	for (uint64_t i = 0; i < l->sets.n; i++) {
		const struct load_change *set = &l->sets.all[i];
		size_t len;

		if (set->keeps)
			continue;
		*sum += placement_bytes(l, counted, d->partitions[set->name].placement);
		document_key(d, (uint32_t)set->name, &len);
		if (len > SHM_KEY_INLINE)
			*sum += table_record_bytes(key_record_size(len));
	}
	if (l->has_dflt && !l->dflt.keeps)
		*sum += placement_bytes(l, counted, d->dflt);
	free(counted);
	return true;
}

static enum refusal_code expect(struct core *c, struct core_load *l)
{
	struct table_room room = {.partitions = l->n_new, .clusters = l->n_fresh};

	if (!record_bytes(l, &room.record_bytes))
		return refuse(&l->refusal, R_FULL, "no memory for the document: give the daemon more");
	return table_expect(c->table, &room, &l->refusal);
}

void core_load_reserve(struct core *c, struct core_load *l)
{
	struct item item;
	enum refusal_code code;

	if (l->at == 0 && expect(c, l) != R_DONE) {
		core_load_refuse(l);
		return;
	}
	for (unsigned i = 0; i < LOAD_BATCH && l->at < n_items(l); i++, l->at++) {
		item_get(c, l, l->at, &item);
		code = item.kind == ITEM_CLUSTER ? table_cluster_reserve(c->table, item.cluster, &l->refusal)
						 : table_reserve(c->table, &item.change, &l->refusal);
		if (code != R_DONE) {
			core_load_refuse(l);
			return;
		}
		if (item.from)
			memcpy(item.from->priv, &item.change.priv, sizeof(item.change.priv));
		l->n_reserved++;
	}
	if (l->at >= n_items(l))
		core_load_next(l, LOAD_WRITE);
}

void core_load_undo(struct core *c, struct core_load *l)
{
	struct item item;

	for (unsigned i = 0; i < LOAD_BATCH && l->n_reserved; i++) {
		item_get(c, l, --l->n_reserved, &item);
		if (item.kind == ITEM_CLUSTER)
			table_cluster_cancel(c->table, item.cluster);
		else
			table_cancel(c->table, &item.change);
	}
	if (l->n_reserved == 0)
		l->phase = LOAD_DONE;
}

/* ---- the transaction -------------------------------------------------------------------------------------------- */

/* The table's names, and those of the clusters that the document brings along. */
struct naming {
	struct cluster_names known;
	const struct core_load *l;
};

static const char *name_of(void *arg, unsigned number)
{
	const struct naming *n = arg;

	if (number >= n->l->first_fresh && number - n->l->first_fresh < n->l->n_fresh)
		return n->l->fresh[number - n->l->first_fresh];
	return n->known.id(n->known.arg, number);
}

/* JSON of a state; *mine: to be freed. NULL: out of memory. */
static const char *text_of(struct core *c, struct core_load *l, const struct item *item, char **mine)
{
	struct naming naming = {.known = table_names(c->table), .l = l};
	const struct cluster_names names = {.id = name_of, .arg = &naming};
	bool settled = !item->from->keeps && l->texts;
	json_t *json;
	char *text;

	*mine = NULL;
	if (settled && l->texts[item->placement])
		return l->texts[item->placement];
	json = state_to_json(&item->change.after, &names);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (settled)
		l->texts[item->placement] = text;
	else
		*mine = text;
	return text;
}

static const char *what_of(const struct item *item)
{
	static const char *const names[] = {[ITEM_CLUSTER] = "cluster-set"};

	if (item->kind == ITEM_CLUSTER)
		return names[ITEM_CLUSTER];
	return operation_name(item->kind == ITEM_SET ? OP_SET : item->kind == ITEM_DEFAULT ? OP_DEFAULT : OP_REMOVE);
}

static enum store_result put_event(struct core *c, struct core_load *l, const struct item *item, const char *state)
{
	struct store_event event = {.at_ms = (int64_t)seg_clock_ms(CLOCK_REALTIME),
				    .epoch = item->change.after.epoch,
				    .who = l->who,
				    .what = what_of(item),
				    .key = item->cluster ? item->cluster->id : item->change.key,
				    .key_len = item->cluster ? strlen(item->cluster->id) : item->change.len,
				    .detail = state,
				    .forced = l->options.override};

	return c->ops->put_event(c->store, &event, &l->refusal);
}

static enum store_result write_item(struct core *c, struct core_load *l, uint64_t i)
{
	struct item item;
	struct store_partition row = {0};
	char *mine = NULL;
	enum store_result result;

	item_get(c, l, i, &item);
	if (item.kind == ITEM_CLUSTER) {
		struct store_cluster cluster = {
			.number = item.cluster->number, .id = item.cluster->id, .endpoint = item.cluster->endpoint};

		result = c->ops->put_cluster(c->store, &cluster, &l->refusal);
	} else {
		if (!item.from->keeps) {
			item.from->epoch = table_take_epoch(c->table);
			item.change.after.epoch = item.from->epoch;
			if (item.from->epoch == 0) {
				refuse(&l->refusal, R_EPOCHS_EXHAUSTED,
				       "all %llu epochs are used up: move the partitions to a new instance",
				       (unsigned long long)SHM_EPOCH_MAX);
				return STORE_FAILED;
			}
		}
		if (item.change.after.at && !(row.state = text_of(c, l, &item, &mine))) {
			refuse(&l->refusal, R_FULL, "no memory for the document: give the daemon more");
			return STORE_FAILED;
		}
		row.key = item.change.key ? item.change.key : "";
		row.key_len = item.change.len;
		/* What is only remembered has no epoch of its own, and no reader sees it: any that was taken will do.
		 */
		row.epoch = item.change.after.epoch ? item.change.after.epoch : table_epoch(c->table);
		row.document = item.change.document;
		result = c->ops->put_partition(c->store, &row, &l->refusal);
	}
	if (result == STORE_OK && n_items(l) <= LOAD_EVENTS_MAX && !(item.from && item.from->keeps))
		result = put_event(c, l, &item, row.state);
	free(mine);
	return result;
}

/* The counters, and one line of the history for the document as a whole. */
static enum store_result write_end(struct core *c, struct core_load *l)
{
	const struct core_load_summary *s = &l->summary;
	struct store_event event = {.at_ms = (int64_t)seg_clock_ms(CLOCK_REALTIME),
				    .who = l->who,
				    .what = "load",
				    .forced = l->options.override};
	enum store_result result = core_put_number(c, "epoch", table_epoch(c->table), &l->refusal);
	json_t *json;
	char *counts;

	if (result == STORE_OK)
		result = core_put_number(c, "next_cluster", l->first_fresh + l->n_fresh, &l->refusal);
	if (result == STORE_OK)
		result = core_put_number(c, "document_version", s->version, &l->refusal);
	if (result != STORE_OK)
		return result;
	json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "version", (json_int_t)s->version, "partitions",
			 (json_int_t)s->partitions, "applied", (json_int_t)s->applied, "unchanged",
			 (json_int_t)s->unchanged, "removed", (json_int_t)s->removed, "adopted", (json_int_t)s->adopted,
			 "diverged", (json_int_t)s->diverged, "migrating", (json_int_t)s->migrating);
	counts = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	event.detail = counts;
	result = c->ops->put_event(c->store, &event, &l->refusal);
	free(counts);
	return result;
}

/* The store has said no, or cannot say. */
static void write_failed(struct core *c, struct core_load *l, enum store_result result, bool over)
{
	core_failed(c, result, &l->refusal);
	if (l->refusal.code == R_DONE)
		l->refusal.code = R_BACKEND;
	if (result == STORE_UNKNOWN) {
		core_load_next(l, LOAD_UNKNOWN);
		return;
	}
	if (!over)
		c->ops->rollback(c->store);
	core_load_next(l, LOAD_UNDO);
}

void core_load_write(struct core *c, struct core_load *l)
{
	enum store_result result = STORE_OK;

	if (l->at == 0 && (result = c->ops->begin(c->store, &l->refusal)) != STORE_OK) {
		write_failed(c, l, result, true);
		return;
	}
	for (unsigned i = 0; i < LOAD_BATCH && l->at < n_items(l) && result == STORE_OK; i++, l->at++)
		result = write_item(c, l, l->at);
	if (result == STORE_OK && l->at >= n_items(l) && (result = write_end(c, l)) == STORE_OK)
		core_load_next(l, LOAD_COMMIT);
	if (result != STORE_OK)
		write_failed(c, l, result, false);
}

void core_load_commit(struct core *c, struct core_load *l)
{
	enum store_result result = c->ops->commit(c->store, &l->refusal);

	if (result != STORE_OK) {
		write_failed(c, l, result, true);
		return;
	}
	l->refusal.code = R_DONE;
	core_load_next(l, LOAD_PUBLISH);
}

/* ---- publication ------------------------------------------------------------------------------------------------ */

static void publish_item(struct core *c, struct core_load *l, uint64_t i)
{
	struct core_event event = {.who = l->who, .forced = l->options.override};
	struct item item;

	item_get(c, l, i, &item);
	if (item.kind == ITEM_CLUSTER) {
		core_open_pins(c, item.cluster->number);
		table_cluster_publish(c->table, item.cluster);
		event.key = item.cluster->id;
		event.key_len = strlen(item.cluster->id);
	} else {
		table_publish(c->table, &item.change);
		if (item.from->keeps)
			return; /* nothing that anybody sees */
		event.key = item.change.key;
		event.key_len = item.change.len;
		event.epoch = item.change.after.epoch;
		event.after = &item.change.after;
	}
	event.what = what_of(&item);
	c->changes++;
	core_tell(c, &event);
}

void core_load_publish(struct core *c, struct core_load *l)
{
	const struct core_event event = {.what = "load", .who = l->who, .forced = l->options.override};

	for (unsigned i = 0; i < LOAD_BATCH && l->at < n_items(l); i++, l->at++)
		publish_item(c, l, l->at);
	if (l->at < n_items(l))
		return;
	table_set_document_version(c->table, l->summary.version);
	core_tell(c, &event);
	l->phase = LOAD_DONE;
}
