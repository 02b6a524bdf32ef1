/* SPDX-License-Identifier: MIT
 * torture_cursor.h: the calls with much room. Each is told to the model or to the history before it is made, and its answer
 * after. Called by the processes, each of one thread. Must not use cmocka. */
#include <poll.h>

#include "torture_ambush.h"
#include "torture_cursor.h"

/* A look-up of a short id takes some hundred instructions; each costs microseconds here. */
static void sometimes_ambush(struct c_me *me)
{
	if (c_die(me, 512) == 0)
		ambush_within(&me->random, 300);
}

static uint32_t some_ttl(struct c_me *me)
{
	uint64_t dice = c_die(me, 100);

	if (dice < 62)
		return C_LONG_MS + (uint32_t)c_die(me, C_LONG_MS);
	if (dice < 70)
		return 0; /* the default, 300 s */
	return dice < 75 ? 1 + (uint32_t)c_die(me, 20) : 50 + (uint32_t)c_die(me, 450);
}

static struct c_call some_change(struct c_me *me, bool async)
{
	uint64_t dice = c_die(me, 100);
	struct c_call c = {.kind = dice < 30 ? C_RELEASE : async ? C_ASYNC : C_PIN, .hi = C_NEVER};

	c.number = atomic_fetch_add(&me->p->number, 1) + 1;
	c.owner = (uint8_t)(1 + c_die(me, C_OWNERS));
	if (c.kind != C_RELEASE) {
		c.cluster = c_die(me, 100) == 0 ? C_NO_CLUSTER : (uint16_t)(1 + c_die(me, C_CLUSTERS));
		c.ttl_ms = some_ttl(me);
	}
	c.asked_ms = c_ms();
	c.lo = c.asked_ms + (c.ttl_ms ? c.ttl_ms : 300000);
	return c;
}

/* Makes the call and completes what is known of it. */
static enum c_outcome ask(struct c_me *me, struct c_call *c, const struct berth_cursor *id, bool *restarted)
{
	uint64_t ends = atomic_load(&c_shared->daemon_ends);
	uint32_t wait = c->kind == C_ASYNC ? 0 : c_die(me, 16) ? 3000 : 1 + (uint32_t)c_die(me, 10);
	enum c_outcome outcome;
	int rc;

	sometimes_ambush(me);
	if (c->kind == C_RELEASE)
		rc = berth_cursor_release(me->r, id->id, id->id_len, id->owner, id->owner_len);
	else
		rc = berth_cursor_pin(me->r, id->id, id->id_len, c->cluster, id->owner, id->owner_len, c->ttl_ms, wait);
	c->hi = c_ms() + (c->ttl_ms ? c->ttl_ms : 300000);
	*restarted = ends != atomic_load(&c_shared->daemon_ends);
	outcome = c_outcome(me, (enum c_kind)c->kind, rc);
	if (outcome >= C_AGAIN && (c->kind == C_ASYNC || outcome == C_DOWN)) {
		c_keep_up(me);
		poll(NULL, 0, 1);
	}
	return outcome;
}

void c_own_change(struct c_me *me)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	unsigned id = (unsigned)c_die(me, c_die(me, 4) ? C_OWN : 16);
	bool async = c_die(me, 2), restarted;
	struct berth_cursor name;
	enum c_outcome outcome;
	struct c_call c;

	if (!c_own_room(me->p, id, async ? 2 : 1))
		return;
	c = some_change(me, async);
	if (c_die(me, 4)) /* mostly of the same owner */
		c.owner = (uint8_t)(1 + id % C_OWNERS);
	name = c_name(buffer, 'o', me->number, id, c.owner);
	c_own_asks(me->p, id, &c);
	outcome = ask(me, &c, &name, &restarted);
	if (c_definite(c.kind, outcome))
		c_confirmed(me, c.number, c_ns());
	c_own_answered(me->p, id, &c, outcome, restarted);
}

static void shared_change(struct c_me *me)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	struct c_call c = some_change(me, c_die(me, 4) == 0);
	struct c_event like = {.id = c_shared_id(me),
			       .number = c.number,
			       .kind = c.kind,
			       .owner = c.owner,
			       .cluster = c.cluster,
			       .lo = c.lo,
			       .hi = C_NEVER};
	struct c_event *e = c_event_begin(me, &like);
	struct berth_cursor name = c_name(buffer, 's', 0, like.id, c.owner);
	enum c_outcome outcome;

	if (!e)
		return;
	outcome = ask(me, &c, &name, &e->restarted);
	e->hi = c.hi;
	c_event_end(me, e, outcome, 0);
	if (e->done_ns)
		c_confirmed(me, c.number, e->end_ns);
}

static void own_resolve(struct c_me *me)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	unsigned id = (unsigned)c_die(me, c_die(me, 4) ? C_OWN : 16), owner = 1 + (unsigned)c_die(me, C_OWNERS);
	uint64_t at = 0, before, after;
	struct berth_cursor name;
	uint16_t cluster = 0;
	enum c_outcome outcome;

	c_own_room(me->p, id, 0);
	if (c_die(me, 3))
		owner = 1 + id % C_OWNERS;
	if (c_die(me, 2))
		at = c_own_end(&me->p->own[id], c_die(me, 1000), &owner);
	name = c_name(buffer, 'o', me->number, id, owner);
	before = c_ms();
	sometimes_ambush(me);
	outcome =
		c_outcome(me, C_RESOLVE,
			  berth_cursor_resolve(me->r, name.id, name.id_len, name.owner, name.owner_len, at, &cluster));
	after = c_ms();
	if (outcome <= C_NOT_OWNER)
		c_own_resolved(me->p, id, owner, at, before, after, outcome, cluster);
}

static void own_bulk(struct c_me *me)
{
	static char buffers[C_BULK_MAX][BERTH_CURSOR_ID_MAX];
	struct berth_cursor names[C_BULK_MAX];
	unsigned ids[C_BULK_MAX], owners[C_BULK_MAX], n = (unsigned)c_die(me, C_BULK_MAX + 1);
	uint16_t clusters[C_BULK_MAX] = {0};
	uint64_t at = c_die(me, 2) ? 0 : c_ms() + c_die(me, 3), before, after;
	int status[C_BULK_MAX], rc;

	for (unsigned i = 0; i < n; i++) {
		ids[i] = (unsigned)c_die(me, C_OWN);
		owners[i] = c_die(me, 4) ? 1 + ids[i] % C_OWNERS : 1 + (unsigned)c_die(me, C_OWNERS);
		c_own_room(me->p, ids[i], 0);
		names[i] = c_name(buffers[i], 'o', me->number, ids[i], owners[i]);
	}
	before = c_ms();
	sometimes_ambush(me);
	rc = berth_cursor_resolve_bulk(me->r, names, n, at, clusters, status);
	after = c_ms();
	if (rc != BERTH_OK) {
		c_outcome(me, C_BULK, rc);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		enum c_outcome outcome = c_outcome(me, C_BULK, status[i]);

		if (outcome <= C_NOT_OWNER)
			c_own_resolved(me->p, ids[i], owners[i], at, before, after, outcome, clusters[i]);
	}
}

static void shared_resolve(struct c_me *me)
{
	char buffer[BERTH_CURSOR_ID_MAX];
	struct c_event like = {.id = c_shared_id(me), .kind = C_RESOLVE, .owner = (uint8_t)(1 + c_die(me, C_OWNERS))};
	struct berth_cursor name = c_name(buffer, 's', 0, like.id, like.owner);
	uint16_t cluster = 0;
	struct c_event *e;
	int rc;

	like.lo = c_die(me, 4) ? 0 : c_ms() + c_die(me, 3);
	like.number = atomic_fetch_add(&me->p->number, 1) + 1;
	e = c_event_begin(me, &like);
	if (!e)
		return;
	sometimes_ambush(me);
	rc = berth_cursor_resolve(me->r, name.id, name.id_len, name.owner, name.owner_len, like.lo, &cluster);
	c_event_end(me, e, c_outcome(me, C_RESOLVE, rc), cluster);
}

void c_large_step(struct c_me *me)
{
	uint64_t dice = c_die(me, 1000), n;

	if (dice < 300) {
		c_own_change(me);
	} else if (dice < 480) {
		shared_change(me);
	} else if (dice < 780) {
		own_resolve(me);
	} else if (dice < 830) {
		own_bulk(me);
	} else if (dice < 998) {
		shared_resolve(me);
	} else {
		if (c_outcome(me, C_LEN, berth_cursor_len(me->r, &n)) == C_OK && n > c_shared->room)
			c_wrong("len is %llu, and there is room for %u", (unsigned long long)n, c_shared->room);
	}
}
