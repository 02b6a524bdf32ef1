/* SPDX-License-Identifier: MIT
 * The way of one change, or of a batch in one transaction, through the store into the table: commit, publish, tell; and
 * what happens when the store cannot say whether it has kept it. Called by the other core files with the change in
 * c->hand, its memory reserved, so that nothing here can fail between the commit and the publication.
 *
 *   reserved -> commit -> OK       -> published, told, hand empty
 *                      -> FAILED   -> cancelled, hand empty; the epoch is burnt
 *                      -> UNKNOWN  -> hand kept; every change first asks settle: published with its own epoch, or
 * cancelled
 *
 * Control thread only. */
#include "core_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shm/crash_point.h"

/* ---- the store -------------------------------------------------------------------------------------------------- */

enum store_result core_put_number(struct core *c, const char *meta, uint64_t n, struct refusal *r)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	return c->ops->put_meta(c->store, meta, text, r);
}

enum refusal_code core_failed(struct core *c, enum store_result result, struct refusal *r)
{
	struct refusal said = *r;

	if (result == STORE_UNKNOWN) {
		c->unknown = true;
		return refuse(r, R_BACKEND,
			      "it is not known whether the store has kept the change; it is adopted or undone before "
			      "the next one, look again before you retry (%s)",
			      said.message);
	}
	return said.code != R_DONE ? said.code : refuse(r, R_BACKEND, "the store failed and did not say why: retry");
}

static enum store_result put_placements(struct core *c, const char *state, struct refusal *r)
{
	const struct hand *h = &c->hand;
	struct store_partition row = {.state = state};
	struct store_event event = {.at_ms = (int64_t)seg_clock_ms(CLOCK_REALTIME),
				    .who = h->who,
				    .what = operation_name(h->op),
				    .detail = state,
				    .forced = h->forced};
	/* Its highest epoch is that of the last one. */
	enum store_result result = core_put_number(c, "epoch", h->changes[h->n_changes - 1].after.epoch, r);

	for (size_t i = 0; i < h->n_changes && result == STORE_OK; i++) {
		const struct table_change *change = &h->changes[i];

		row.key = change->key ? change->key : "";
		row.key_len = change->len;
		row.epoch = event.epoch = change->after.epoch;
		row.document = change->document;
		event.key = change->key;
		event.key_len = change->len;
		result = c->ops->put_partition(c->store, &row, r);
		if (result == STORE_OK)
			result = c->ops->put_event(c->store, &event, r);
	}
	return result;
}

static const char *cluster_what(const struct hand *h)
{
	return h->cluster.id ? "cluster-set" : "cluster-remove";
}

static enum store_result put_cluster(struct core *c, struct refusal *r)
{
	const struct hand *h = &c->hand;
	struct store_cluster row = {.number = h->cluster.number, .id = h->cluster.id, .endpoint = h->cluster.endpoint};
	struct store_event event = {.at_ms = (int64_t)seg_clock_ms(CLOCK_REALTIME),
				    .who = h->who,
				    .what = cluster_what(h),
				    .key = h->cluster_id,
				    .key_len = strlen(h->cluster_id)};
	uint64_t next = table_next_cluster(c->table);
	enum store_result result = c->ops->put_cluster(c->store, &row, r);

	if (next <= h->cluster.number)
		next = h->cluster.number + 1u;
	if (result == STORE_OK)
		result = core_put_number(c, "next_cluster", next, r);
	return result == STORE_OK ? c->ops->put_event(c->store, &event, r) : result;
}

static enum store_result write_hand(struct core *c, const char *state, struct refusal *r)
{
	enum store_result result = c->ops->begin(c->store, r);

	if (result != STORE_OK)
		return result;
	if (c->hand.kind == HAND_PLACEMENT)
		result = put_placements(c, state, r);
	else if (c->hand.kind == HAND_CLUSTER)
		result = put_cluster(c, r);
	else
		result = core_put_number(c, "barrier_ms", c->rule.barrier_ms, r);
	if (result == STORE_OK)
		return c->ops->commit(c->store, r);
	if (result == STORE_FAILED)
		c->ops->rollback(c->store);
	return result;
}

/* ---- publication ------------------------------------------------------------------------------------------------ */

void core_publish_cutovers(struct core *c)
{
	uint64_t now;

	if (c->migrations.n_unpublished == 0 || table_barrier(c->table) != 0)
		return; /* a barrier that failed is none: tried again by the next complete and by core_step */
	now = core_now(c);
	for (size_t i = 0; i < c->migrations.n && c->migrations.n_unpublished; i++) {
		struct migration_item *item = c->migrations.items[i];

		if (!item->epoch || item->published)
			continue;
		migrations_published(&c->migrations, item, now);
		drain_add(c->drainer, &item->drained, table_hash(c->table, item->key, item->key_len));
		if (!item->proved_ms)
			table_cutover_record(c->table, item->epoch, now);
	}
}

/* What the list of migrations has to know of the change that readers have just seen. */
static void follow_migration(struct core *c, struct core_result *result)
{
	struct hand *h = &c->hand;
	struct migration_item *item;

	if (h->op == OP_BEGIN) {
		h->beginning->begun_ms = core_now(c);
		migrations_insert(&c->migrations, h->beginning);
		h->beginning = NULL;
		return;
	}
	if (h->op != OP_CUTOVER && h->op != OP_COMPLETE && h->op != OP_ABORT)
		return;
	item = migrations_find(&c->migrations, h->one.key, h->one.len);
	if (h->op == OP_CUTOVER) {
		migrations_hold(&c->migrations, item, h->one.after.epoch, core_now(c));
		core_publish_cutovers(c);
		return;
	}
	if (item->epoch) {
		result->blackout_ms = core_now(c) - (item->published ? item->published_ms : item->held_ms);
		CRASH_POINT(end_published); /* what is in the ledger is swept by a start */
		table_cutover_forget(c->table, item->epoch);
	}
	drain_remove(c->drainer, &item->drained);
	migrations_end(&c->migrations, item);
}

static void publish_placements(struct core *c, struct core_result *result)
{
	struct hand *h = &c->hand;
	struct core_event event = {.what = operation_name(h->op), .who = h->who, .forced = h->forced};

	for (size_t i = 0; i < h->n_changes; i++)
		table_publish(c->table, &h->changes[i]);
	follow_migration(c, result);
	c->changes += h->n_changes;
	for (size_t i = 0; i < h->n_changes; i++) {
		const struct table_change *change = &h->changes[i];

		event.key = change->key;
		event.key_len = change->len;
		event.epoch = result->epoch = change->after.epoch;
		event.after = &change->after;
		core_tell(c, &event);
	}
	result->changed = true;
}

static void publish_cluster(struct core *c, struct core_result *result)
{
	const struct hand *h = &c->hand;
	const struct core_event event = {.what = cluster_what(h),
					 .key = h->cluster_id,
					 .key_len = strlen(h->cluster_id),
					 .who = h->who,
					 .forced = h->forced};

	if (h->cluster.id)
		core_open_pins(c, h->cluster.number);
	table_cluster_publish(c->table, &c->hand.cluster);
	c->changes++;
	core_tell(c, &event);
	result->changed = true;
}

static void publish_hand(struct core *c, struct core_result *result)
{
	if (c->hand.kind == HAND_PLACEMENT)
		publish_placements(c, result);
	else if (c->hand.kind == HAND_CLUSTER)
		publish_cluster(c, result);
	hand_drop(&c->hand);
}

void hand_cancel(struct core *c)
{
	struct hand *h = &c->hand;

	if (h->kind == HAND_PLACEMENT) {
		for (size_t i = 0; i < h->n_changes; i++)
			table_cancel(c->table, &h->changes[i]);
	} else if (h->kind == HAND_CLUSTER) {
		table_cluster_cancel(c->table, &h->cluster);
		if (!h->cluster.id)
			core_open_pins(c, h->cluster.number);
	}
	hand_drop(h);
}

void hand_drop(struct hand *h)
{
	free(h->beginning);
	h->beginning = NULL;
	if (h->changes != &h->one)
		free(h->changes);
	h->changes = NULL;
	h->n_changes = 0;
	json_decref(h->ids);
	h->ids = NULL;
	h->kind = HAND_EMPTY;
}

void hand_who(struct hand *h, const char *who)
{
	snprintf(h->who, sizeof(h->who), "%s", who ? who : "");
}

enum refusal_code hand_commit(struct core *c, const char *state, struct core_result *result, struct refusal *r)
{
	enum store_result written;
	enum refusal_code code;

	r->code = R_DONE;
	written = write_hand(c, state, r);
	if (written == STORE_OK) {
		publish_hand(c, result);
		return R_DONE;
	}
	code = core_failed(c, written, r);
	if (!c->unknown)
		hand_cancel(c);
	return code;
}

/* ---- a commit of unknown fate ----------------------------------------------------------------------------------- */

enum refusal_code core_settle(struct core *c, struct refusal *r)
{
	struct refusal said = {0};
	struct core_result nobody = {0};
	bool committed = false;

	if (!c->unknown)
		return R_DONE;
	if (c->ops->settle(c->store, &committed, &said) != STORE_OK)
		return refuse(r, R_BACKEND,
			      "the store has not said yet what became of the last commit: nothing is changed until it "
			      "has, retry (%s)",
			      said.message);
	c->unknown = false;
	if (c->hand.kind == HAND_EMPTY)
		core_load_settled(c, committed);
	else if (committed)
		publish_hand(c, &nobody);
	else
		hand_cancel(c);
	return R_DONE;
}

enum refusal_code core_may_change(struct core *c, struct refusal *r)
{
	enum refusal_code code = core_settle(c, r);

	if (code != R_DONE)
		return code;
	if (c->load)
		return refuse(r, R_BUSY, "a document is being applied: retry when it is done");
	return R_DONE;
}
