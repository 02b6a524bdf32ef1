/* SPDX-License-Identifier: MIT
 * Many partitions placed alike by one request: `set`, all or nothing. Each is judged by the machine as if it came alone,
 * then all go the way of a single change (core_commit.c) together: one reserve, one transaction, one word after the
 * other. What the batch needs beyond that is one array of changes and, while ids are compared, one of their places.
 * Control thread only. */
#include "core_internal.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

struct batch {
	struct step step; /* of whichever is looked at */
	struct asking asking;
	struct table_change *changes; /* first n keys, then those of them that change something */
	size_t n, n_changing;
	uint64_t epoch; /* the highest of the others */
};

static size_t places_for(size_t n)
{
	size_t size = 16;

	while (size < 2 * n)
		size *= 2;
	return size;
}

/* Is this id of changes[0..n) there before it? Then its place; else n, and it is entered. places: number + 1 of an id,
 * open addressing by the hash of the table, which nobody outside can aim at. */
static size_t find_twin(const struct core *c, const struct table_change *changes, size_t n, uint32_t *places,
			size_t mask)
{
	const struct table_change *new = &changes[n];
	size_t at = (size_t)table_hash(c->table, new->key, new->len) & mask;

	for (; places[at]; at = (at + 1) & mask) {
		const struct table_change *other = &changes[places[at] - 1];

		if (other->len == new->len && memcmp(other->key, new->key, new->len) == 0)
			return places[at] - 1;
	}
	places[at] = (uint32_t)n + 1;
	return n;
}

/* One more id, good and not there yet. */
static enum refusal_code take_id(const struct core *c, const json_t *id, struct table_change *changes, size_t i,
				 uint32_t *places, size_t mask, struct refusal *r)
{
	struct table_change *new = &changes[i];
	enum refusal_code code;
	char shown[TEXT_SHOWN];
	size_t twin;

	new->key = json_string_value(id);
	new->len = json_string_length(id);
	if (!new->key)
		return refuse_at(r, R_INVALID, "", "a partition id must be a string");
	code = check_partition(new->key, new->len, "", r);
	if (code != R_DONE)
		return code;
	twin = find_twin(c, changes, i, places, mask);
	if (twin == i)
		return R_DONE;
	return refuse_at(r, R_INVALID, "", "partition %s is there twice, first at [%zu]: keep one",
			 text_show(shown, sizeof(shown), new->key, new->len), twin);
}

/* Keys and lengths of all. */
static enum refusal_code take_ids(const struct core *c, const json_t *ids, struct batch *b, struct refusal *r)
{
	size_t size = places_for(b->n);
	uint32_t *places = calloc(size, sizeof(*places));
	enum refusal_code code = R_DONE;

	if (!places)
		return refuse(r, R_FULL, "out of memory: retry");
	for (size_t i = 0; i < b->n && code == R_DONE; i++) {
		code = take_id(c, json_array_get(ids, i), b->changes, i, places, size - 1, r);
		if (code != R_DONE)
			refuse_under(r, code, "$.partitions[%zu]", i);
	}
	free(places);
	return code;
}

/* Straight to where the hand wants it: it is empty. */
static enum refusal_code take_placement(struct core *c, const json_t *placement, struct batch *b, struct refusal *r)
{
	enum refusal_code code;

	b->asking.names = table_names(c->table);
	code = core_take_placement(OP_SET, NULL, placement, &b->asking, c->hand_at, r);
	b->step.placement = &c->hand_at->detail;
	b->step.placement_cluster_known = !b->asking.unknown;
	b->step.cluster_id = b->asking.id;
	return code;
}

static enum refusal_code judge(struct core *c, struct batch *b, struct refusal *r)
{
	struct state dflt, now, after;
	enum refusal_code code;
	uint64_t document;
	bool changed;

	if (!table_default(c->table, &dflt, NULL))
		dflt = (struct state){0};
	for (size_t i = 0; i < b->n; i++) {
		b->step.key = b->changes[i].key;
		b->step.key_len = b->changes[i].len;
		if (!table_get(c->table, b->step.key, b->step.key_len, &now, &document))
			now = (struct state){0};
		code = machine_step(&now, &dflt, &b->step, &after, &changed, r);
		if (code == R_UNKNOWN_CLUSTER)
			return refuse_under(r, code, "$.placement.cluster"); /* it is so for all of them */
		if (code != R_DONE)
			return refuse_under(r, code, "$.partitions[%zu]", i);
		if (changed)
			b->changes[b->n_changing++] = (struct table_change){
				.key = b->step.key, .len = b->step.key_len, .after = after, .document = document};
		else if (now.epoch > b->epoch)
			b->epoch = now.epoch;
	}
	return R_DONE;
}

enum refusal_code core_set_many(struct core *c, const json_t *ids, const json_t *placement, bool force, const char *who,
				struct core_many *many, struct refusal *r)
{
	struct batch b = {.step = {.op = OP_SET, .force = force}, .n = json_array_size(ids)};
	struct core_result result = {0};
	struct hand *h = &c->hand;
	enum refusal_code code;

	*many = (struct core_many){0};
	if (b.n == 0)
		return refuse_at(r, R_INVALID, "$.partitions", "partitions is empty: give at least one id");
	b.changes = calloc(b.n, sizeof(*b.changes));
	if (!b.changes)
		return refuse(r, R_FULL, "out of memory: retry");
	code = take_ids(c, ids, &b, r);
	if (code == R_DONE)
		code = core_may_change(c, r);
	if (code == R_DONE)
		code = take_placement(c, placement, &b, r);
	if (code == R_DONE)
		code = judge(c, &b, r);
	if (code == R_DONE)
		*many = (struct core_many){.epoch = b.epoch, .changed = b.n_changing, .unchanged = b.n - b.n_changing};
	if (code != R_DONE || b.n_changing == 0) {
		free(b.changes);
		return code;
	}
	*h = (struct hand){.op = OP_SET, .forced = force, .changes = b.changes, .n_changes = b.n_changing};
	h->ids = json_incref((json_t *)(uintptr_t)ids);
	hand_who(h, who);
	code = core_perform(c, &result, r);
	if (code == R_DONE)
		many->epoch = result.epoch;
	return code;
}
