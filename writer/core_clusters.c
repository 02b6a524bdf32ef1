/* SPDX-License-Identifier: MIT
 * Clusters: a new one, a new endpoint, one that goes. A cluster has a number that is never given out again; none of its
 * changes takes an epoch. Called through core.h by the control thread. */
#include "core_internal.h"

#include <string.h>

void core_set_pins(struct core *c, const struct core_pins *pins)
{
	c->pins = *pins;
	for (unsigned n = 1; n < table_next_cluster(c->table); n++)
		if (table_cluster(c->table, n))
			core_open_pins(c, n);
}

void core_open_pins(struct core *c, unsigned cluster)
{
	if (c->pins.open)
		c->pins.open(c->pins.arg, cluster);
}

/* R_DONE: nobody pins to it any more, and no pin names it. */
static enum refusal_code close_pins(struct core *c, unsigned number, const char *id, size_t id_len, struct refusal *r)
{
	uint32_t pins = c->pins.close ? c->pins.close(c->pins.arg, number) : 0;

	if (!pins)
		return R_DONE;
	if (pins == CORE_PINS_UNKNOWN)
		return refuse_at(
			r, R_CLUSTER_IN_USE, "$.id",
			"cluster \"%.*s\" may be named by pins of cursors, which cannot be read at present: see the "
			"daemon's log, then retry",
			(int)id_len, id);
	return refuse_at(
		r, R_CLUSTER_IN_USE, "$.id",
		"cluster \"%.*s\" is named by %u pin%s of cursors: retry when they have expired or were released "
		"(`berth cursors --cluster %.*s`)",
		(int)id_len, id, pins, pins == 1 ? "" : "s", (int)id_len, id);
}

static enum refusal_code commit(struct core *c, const char *id, size_t id_len, const char *who,
				struct core_result *result, struct refusal *r)
{
	struct hand *h = &c->hand;
	enum refusal_code code;

	hand_who(h, who);
	memcpy(h->cluster_id, id, id_len);
	code = table_cluster_reserve(c->table, &h->cluster, r);
	if (code != R_DONE) {
		h->kind = HAND_EMPTY;
		if (!h->cluster.id)
			core_open_pins(c, h->cluster.number);
		return code;
	}
	return hand_commit(c, NULL, result, r);
}

enum refusal_code core_cluster_set(struct core *c, const char *id, size_t id_len, const char *endpoint,
				   size_t endpoint_len, const char *who, struct core_result *result, struct refusal *r)
{
	struct hand *h = &c->hand;
	const struct shm_cluster *present;
	unsigned number;
	enum refusal_code code;

	*result = (struct core_result){0};
	if ((code = check_cluster_id(id, id_len, "$.id", r)) != R_DONE)
		return code;
	if (endpoint && endpoint_len && (code = check_endpoint(endpoint, endpoint_len, "$.endpoint", r)) != R_DONE)
		return code;
	if ((code = core_may_change(c, r)) != R_DONE)
		return code;
	number = table_cluster_number(c->table, id, id_len);
	present = number ? table_cluster(c->table, number) : NULL;
	if (present && (!endpoint || (present->endpoint_len == endpoint_len &&
				      memcmp(cluster_endpoint(present), endpoint, endpoint_len) == 0)))
		return R_DONE;
	*h = (struct hand){.kind = HAND_CLUSTER, .cluster = {.number = number}};
	if (endpoint)
		memcpy(h->endpoint, endpoint, endpoint_len);
	h->cluster.id = h->cluster_id;
	h->cluster.endpoint = h->endpoint;
	return commit(c, id, id_len, who, result, r);
}

enum refusal_code core_cluster_remove(struct core *c, const char *id, size_t id_len, const char *who,
				      struct core_result *result, struct refusal *r)
{
	unsigned number;
	uint32_t uses;
	enum refusal_code code;

	*result = (struct core_result){0};
	if ((code = check_cluster_id(id, id_len, "$.id", r)) != R_DONE)
		return code;
	if ((code = core_may_change(c, r)) != R_DONE)
		return code;
	number = table_cluster_number(c->table, id, id_len);
	if (!number)
		return refuse_at(r, R_UNKNOWN_CLUSTER, "$.id",
				 "cluster \"%.*s\" is unknown: there is nothing to remove", (int)id_len, id);
	uses = table_cluster_uses(c->table, number);
	if (uses)
		return refuse_at(
			r, R_CLUSTER_IN_USE, "$.id",
			"cluster \"%.*s\" is named %u times by partitions, migrations or the default: move them "
			"first",
			(int)id_len, id, uses);
	if ((code = close_pins(c, number, id, id_len, r)) != R_DONE)
		return code;
	c->hand = (struct hand){.kind = HAND_CLUSTER, .cluster = {.number = number}};
	return commit(c, id, id_len, who, result, r);
}
