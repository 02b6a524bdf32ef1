/* SPDX-License-Identifier: MIT
 * One change of a partition or of the default from the request to its event, what is under way, and the core's upkeep.
 * The rules of a change are machine.c's, its way through store and table is core_commit.c's. Control thread only; knows
 * no sockets and no event loop. */
#include "core_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_MS 100u  /* a failed barrier, a commit of unknown fate */
#define LOOK_US 1000u  /* for leases, in a call that is waited for */
#define HELD_MS 100u   /* between looks at leases that are open while nobody asks */
#define IDLE_MS 10000u /* the store's idle work: so long after a change that comes when there is none left */
#define PIECE_MS 50u   /* between two pieces of it: the sockets are served, and the disk is not its own */

/* ---- the placement of a request --------------------------------------------------------------------------------- */

static const char *asking_id(void *arg, unsigned number)
{
	const struct asking *a = arg;

	return a->names.id(a->names.arg, number);
}

static unsigned asking_number(void *arg, const char *id, size_t len)
{
	struct asking *a = arg;
	unsigned number = a->names.number(a->names.arg, id, len);

	if (number)
		return number;
	a->unknown = true;
	if (len > SHM_CLUSTER_ID_MAX)
		len = SHM_CLUSTER_ID_MAX;
	memcpy(a->id, id, len);
	a->id[len] = '\0';
	return SHM_CLUSTERS_MAX;
}

/* What is left out of a migration's target stays as it is; of the present placement, what the new mode does not have is
 * left out. New reference; NULL: out of memory. */
static json_t *merge(const struct shm_detail *present, const struct cluster_names *names, const json_t *given)
{
	json_t *whole;
	const char *mode;
	unsigned kind;

	if (!json_is_object(given))
		return json_incref((json_t *)(uintptr_t)given);
	whole = placement_to_json(present, names);
	if (!whole || json_object_update(whole, (json_t *)(uintptr_t)given) != 0) {
		json_decref(whole);
		return NULL;
	}
	mode = json_string_value(json_object_get(whole, "mode"));
	kind = mode ? mode_kind(mode, strlen(mode)) : KIND_NONE;
	if (kind == KIND_DEDICATED_CLUSTER && !json_object_get(given, "index"))
		json_object_del(whole, "index");
	if ((kind == KIND_DEDICATED_CLUSTER || kind == KIND_DEDICATED_INDEX) && !json_object_get(given, "inject"))
		json_object_del(whole, "inject");
	return whole;
}

enum refusal_code core_take_placement(enum operation op, const struct state *now, const json_t *given,
				      struct asking *asking, union detail_buffer *out, struct refusal *r)
{
	struct cluster_names names = {.number = asking_number, .id = asking_id, .arg = asking};
	enum refusal_code code;
	json_t *whole;

	if (op != OP_BEGIN)
		return placement_from_json(given, false, &names, "$.placement", out, r);
	if (!given)
		return refuse_at(r, R_INVALID, "$.to", "a migration needs a target: give a placement, or parts of one");
	whole = merge(now->at, &asking->names, given);
	if (!whole)
		return refuse(r, R_FULL, "out of memory: retry");
	code = placement_from_json(whole, false, &names, "$.to", out, r);
	json_decref(whole);
	return code;
}

/* ---- a change --------------------------------------------------------------------------------------------------- */

static const struct shm_detail *keep(union detail_buffer *into, const struct shm_detail *from)
{
	if (!from)
		return NULL;
	memcpy(into, from, from->size);
	return &into->detail;
}

static void fill_hand(struct core *c, const struct step *step, const struct state *after, uint64_t document,
		      const char *who)
{
	struct hand *h = &c->hand;

	*h = (struct hand){.kind = HAND_EMPTY, .op = step->op, .forced = step->force};
	hand_who(h, who);
	if (step->key)
		memcpy(h->key, step->key, step->key_len);
	h->one.key = step->key ? h->key : NULL;
	h->one.len = step->key_len;
	h->one.document = document;
	h->one.after = *after;
	h->one.after.at = keep(c->hand_at, after->at);
	h->one.after.to = keep(c->hand_to, after->to);
	h->changes = &h->one;
	h->n_changes = 1;
}

/* An epoch for each, in their order. */
static enum refusal_code take_epochs(struct core *c, struct refusal *r)
{
	struct hand *h = &c->hand;

	for (size_t i = 0; i < h->n_changes; i++) {
		h->changes[i].after.epoch = table_take_epoch(c->table);
		if (h->changes[i].after.epoch == 0)
			return refuse(r, R_EPOCHS_EXHAUSTED,
				      "all %llu epochs are used up: move the partitions to a new instance",
				      (unsigned long long)SHM_EPOCH_MAX);
	}
	return R_DONE;
}

/* All that the publication will need, and the epochs. On refusal nothing of the table is held. */
static enum refusal_code reserve_hand(struct core *c, struct refusal *r)
{
	struct hand *h = &c->hand;
	enum refusal_code code;

	if (h->op == OP_BEGIN && !(h->beginning = migrations_reserve(&c->migrations, h->key, h->one.len)))
		return refuse(r, R_FULL, "out of memory: retry");
	code = table_reserve_all(c->table, h->changes, h->n_changes, r);
	if (code != R_DONE)
		return code;
	h->kind = HAND_PLACEMENT;
	code = take_epochs(c, r);
	if (code != R_DONE)
		hand_cancel(c);
	return code;
}

enum refusal_code core_perform(struct core *c, struct core_result *result, struct refusal *r)
{
	struct cluster_names names = table_names(c->table);
	const struct state *after = &c->hand.changes[0].after; /* the others' are equal */
	enum refusal_code code = R_DONE;
	char *state = NULL;

	if (after->at) {
		json_t *json = state_to_json(after, &names);

		state = json ? json_dumps(json, JSON_COMPACT) : NULL;
		json_decref(json);
		if (!state)
			code = refuse(r, R_FULL, "out of memory: retry");
	}
	if (code == R_DONE)
		code = reserve_hand(c, r);
	if (code == R_DONE)
		code = hand_commit(c, state, result, r);
	else
		hand_drop(&c->hand);
	free(state);
	return code;
}

enum refusal_code core_apply(struct core *c, enum operation op, const char *key, size_t len, const json_t *placement,
			     bool force, const char *who, struct core_result *result, struct refusal *r)
{
	bool places = op == OP_SET || op == OP_BEGIN || (op == OP_DEFAULT && placement);
	struct step step = {.op = op, .key = key, .key_len = len, .force = force, .placement_cluster_known = true};
	struct state now = {0}, dflt = {0}, after;
	struct asking asking = {.names = table_names(c->table)};
	union detail_buffer wanted;
	uint64_t document = 0, dflt_document = 0;
	enum refusal_code code;
	bool changed;

	*result = (struct core_result){0};
	if (op == OP_DEFAULT)
		step.key = NULL, step.key_len = 0;
	else if ((code = check_partition(key, len, "$.partition", r)) != R_DONE)
		return code;
	if ((code = core_may_change(c, r)) != R_DONE)
		return code;
	if (!table_default(c->table, &dflt, &dflt_document))
		dflt = (struct state){0};
	if (op == OP_DEFAULT) {
		now = dflt;
		document = dflt_document;
	} else if (!table_get(c->table, key, len, &now, &document)) {
		now = (struct state){0};
	}
	if (places && !(op == OP_BEGIN && !now.at)) {
		code = core_take_placement(op, &now, placement, &asking, &wanted, r);
		if (code != R_DONE)
			return code;
		step.placement = &wanted.detail;
		step.placement_cluster_known = !asking.unknown;
		step.cluster_id = asking.id;
	}
	if (op == OP_COMPLETE && now.phase == PHASE_CUTOVER && now.to && !force) {
		core_publish_cutovers(c);
		step.barrier = core_look_and_judge(c, migrations_find(&c->migrations, key, len), LOOK_US);
	}
	code = machine_step(&now, &dflt, &step, &after, &changed, r);
	if (code != R_DONE)
		return code;
	if (!changed) {
		result->epoch = now.epoch;
		return R_DONE;
	}
	fill_hand(c, &step, &after, document, who); /* after's pointers are dead once memory is reserved */
	return core_perform(c, result, r);
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

struct table *core_table(struct core *c)
{
	return c->table;
}
const char *core_store_scheme(const struct core *c)
{
	return c->ops->scheme;
}
uint64_t core_barrier_ms(const struct core *c)
{
	return c->rule.barrier_ms;
}
uint64_t core_changes(const struct core *c)
{
	return c->changes;
}
bool core_loading(const struct core *c)
{
	return c->load != NULL;
}

int core_migrations(struct core *c, int (*see)(void *arg, const struct migration *), void *arg)
{
	struct barrier_facts of_all;

	drain_step(c->drainer, LOOK_US);
	of_all = core_facts(c);
	for (size_t i = 0; i < c->migrations.n; i++) {
		const struct migration_item *item = c->migrations.items[i];
		struct migration m = {.key = item->key, .key_len = item->key_len, .begun_ms = item->begun_ms};
		int stop;

		if (!table_get(c->table, item->key, item->key_len, &m.state, NULL))
			continue; /* it is in the list exactly while it is in the table */
		if (item->epoch) {
			m.cutover_ms = item->published ? item->published_ms : item->held_ms;
			m.barrier = core_judge(c, item, &of_all);
		}
		stop = see(arg, &m);
		if (stop)
			return stop;
	}
	return 0;
}

int core_history(struct core *c, const char *key, size_t len, unsigned limit, const struct store_visitor *visitor,
		 struct refusal *r)
{
	if (c->load && core_load_in_transaction(c->load)) { /* it would show what may not come to pass */
		refuse(r, R_BUSY, "a document is being written: ask again when it is done");
		return -1;
	}
	return c->ops->history(c->store, key, len, limit, visitor, r);
}

void core_listen(struct core *c, void (*tell)(void *arg, const struct core_event *), void *arg)
{
	assert(c->n_listeners < LISTENERS_MAX);
	c->listeners[c->n_listeners++] = (struct listener){.tell = tell, .arg = arg};
}

void core_tell(struct core *c, const struct core_event *event)
{
	for (unsigned i = 0; i < c->n_listeners; i++)
		c->listeners[i].tell(c->listeners[i].arg, event);
}

/* ---- upkeep ----------------------------------------------------------------------------------------------------- */

/* The rules of a start about another barrier are over: the store may forget the old one. */
static void forget_old_barrier(struct core *c)
{
	struct refusal r;
	struct core_result result;

	c->hand = (struct hand){.kind = HAND_METAS};
	if (hand_commit(c, NULL, &result, &r) == R_DONE) {
		c->stored_barrier_ms = c->rule.barrier_ms;
		table_set_barrier(c->table, c->rule.barrier_ms);
	}
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What is due at a time, and how long until then. */
static uint64_t in_time(struct core *c, uint64_t now)
{
	uint64_t next = UINT64_MAX, ends = barrier_rule_ends_ms(&c->rule);
	bool retry = now >= c->retry_ms;
	struct refusal r;

	if (retry)
		c->retry_ms = now + RETRY_MS;
	if (retry && c->unknown)
		core_settle(c, &r); /* refused: asked again */
	if (retry && c->migrations.n_unpublished)
		core_publish_cutovers(c);
	if (c->unknown || c->migrations.n_unpublished)
		next = RETRY_MS;
	if (c->stored_barrier_ms != c->rule.barrier_ms && !c->unknown && !c->load) {
		if (now >= ends && retry)
			forget_old_barrier(c);
		next = earlier(next, now < ends ? ends - now : RETRY_MS);
	}
	if (c->changes != c->changes_at_idle && c->idle_ms == 0)
		c->idle_ms = now + IDLE_MS;
	if (c->idle_ms && !c->unknown && !c->load && c->ops->idle) {
		if (now < c->idle_ms)
			return earlier(next, c->idle_ms - now);
		c->changes_at_idle = c->changes;
		c->idle_ms = c->ops->idle(c->store) ? now + PIECE_MS : 0;
		if (c->idle_ms)
			next = earlier(next, PIECE_MS);
	}
	return next;
}

uint64_t core_step(struct core *c, uint64_t budget_us)
{
	uint64_t next = table_step(c->table, budget_us);

	next = earlier(next, in_time(c, core_now(c)));
	if (drain_step(c->drainer, budget_us))
		next = 0;
	else if (drain_open_leases(c->drainer))
		next = earlier(next, HELD_MS);
	return core_load_orphan_step(c, budget_us) ? 0 : next;
}
