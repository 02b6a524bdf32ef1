/* SPDX-License-Identifier: MIT
 * torture_cursor.h: the model of ids that one process writes. A set of states, and the calls that may not be done yet; an
 * answer has to fit one of the states after one of the calls. Called by the processes. Must not use cmocka. What it keeps
 * lies in shared memory, as a process may be killed at any instruction: c_process.changing tells which id it was at. */
#include <stdio.h>
#include <string.h>

#include "torture_cursor.h"

#define ANY C_OUTCOMES /* as an outcome: the call was not answered */

static bool same(const struct c_state *a, const struct c_state *b)
{
	return a->owner == b->owner &&
	       (a->owner == 0 || (a->cluster == b->cluster && a->lo == b->lo && a->hi == b->hi));
}

static void add(struct c_set *s, struct c_state state)
{
	for (unsigned i = 0; i < s->n; i++)
		if (same(&s->states[i], &state))
			return;
	if (s->n == C_STATES)
		s->vague = true;
	else
		s->states[s->n++] = state;
}

/* Adds what the call may make of this state, given its outcome, when it was done between asked_ms and until_ms. */
static void apply(const struct c_state *s, const struct c_call *c, unsigned outcome, uint64_t until_ms, bool restarted,
		  struct c_set *out)
{
	const struct c_state none = {.since = c->number};
	bool there = s->owner != 0 && s->hi > c->asked_ms, gone = s->owner == 0 || s->lo <= until_ms;
	bool mine = s->owner == c->owner;

	if (there && !mine && (outcome == C_NOT_OWNER || outcome == ANY))
		add(out, *s);
	if (c->cluster == C_NO_CLUSTER) {
		if (outcome == C_UNKNOWN || outcome == ANY)
			add(out, *s);
		return;
	}
	if (c->kind != C_RELEASE) {
		if (((there && mine) || gone) && (outcome == C_OK || outcome == ANY))
			add(out, (struct c_state){.lo = c->lo,
						  .hi = c->hi,
						  .since = c->number,
						  .cluster = c->cluster,
						  .owner = c->owner});
		return;
	}
	if (there && mine && (outcome == C_OK || outcome == ANY))
		add(out, none);
	/* Done, and done again by the next daemon, which acknowledges it. */
	if ((gone || (there && mine && restarted)) && (outcome == C_UNKNOWN || outcome == ANY))
		add(out, none);
}

static struct c_set after(const struct c_set *s, const struct c_call *c, unsigned outcome, uint64_t until_ms,
			  bool restarted)
{
	struct c_set out = {.vague = s->vague};

	for (unsigned i = 0; i < s->n; i++)
		apply(&s->states[i], c, outcome, until_ms, restarted, &out);
	if (outcome == ANY && c->maybe)
		for (unsigned i = 0; i < s->n; i++)
			add(&out, s->states[i]);
	return out;
}

/* ---- calls that are done ----------------------------------------------------------------------------------- */

static bool is_done(struct c_process *p, const struct c_call *c)
{
	uint32_t life = atomic_load(&p->life);

	if (c->number >= atomic_load(&p->first))
		return c->number <= atomic_load(&p->confirmed);
	return life > 0 && atomic_load(&p->buried_ns[(life - 1) % C_LIVES]) != 0;
}

static void fold(struct c_process *p, struct c_own *o)
{
	unsigned n = 0;

	while (n < o->n_pending && is_done(p, &o->pending[n])) {
		o->now = after(&o->now, &o->pending[n], ANY, c_ms(), true);
		n++;
	}
	if (n == 0)
		return;
	o->n_pending -= n;
	memmove(o->pending, o->pending + n, o->n_pending * sizeof o->pending[0]);
	o->seen = o->seen > n ? o->seen - n : 0;
}

static void fold_all(struct c_own *o)
{
	for (unsigned i = 0; i < o->n_pending; i++)
		o->now = after(&o->now, &o->pending[i], ANY, c_ms(), true);
	o->n_pending = o->seen = 0;
}

static struct c_own *change(struct c_process *p, unsigned id)
{
	atomic_store(&p->changing, id + 1);
	return &p->own[id];
}

static void changed(struct c_process *p)
{
	atomic_store(&p->changing, 0);
}

bool c_own_room(struct c_process *p, unsigned id, unsigned room)
{
	struct c_own *o = change(p, id);

	fold(p, o);
	changed(p);
	return o->n_pending + room <= C_PENDING &&
	       (o->n_pending == 0 || o->pending[0].number >= atomic_load(&p->first));
}

void c_own_taken_over(struct c_process *p)
{
	uint32_t id = atomic_load(&p->changing);
	struct c_own *o;

	if (id == 0)
		return;
	o = &p->own[id - 1];
	o->now = (struct c_set){.vague = true};
	/* Left alone until all that the dead process had pushed is done. */
	o->pending[0] = (struct c_call){.number = atomic_load(&p->first) - 1, .kind = C_RELEASE, .maybe = true};
	o->n_pending = 1;
	o->seen = 0;
	changed(p);
}

/* ---- reports ----------------------------------------------------------------------------------------------- */

static size_t tell_set(char *out, size_t size, const struct c_set *s, uint64_t now)
{
	size_t n = 0;

	for (unsigned i = 0; i < s->n && n < size; i++) {
		const struct c_state *x = &s->states[i];

		if (x->owner == 0)
			n += (size_t)snprintf(out + n, size - n, "%sno pin since call %u", i ? " | " : "", x->since);
		else
			n += (size_t)snprintf(out + n, size - n,
					      "%scluster %u for owner %u since call %u, ends in %lld..%lld ms",
					      i ? " | " : "", x->cluster, x->owner, x->since, (long long)(x->lo - now),
					      (long long)(x->hi - now));
	}
	return n < size ? n : size - 1;
}

static void tell(struct c_process *p, unsigned id, const char *what, const struct c_own *was)
{
	char text[1000];
	uint64_t now = c_ms();
	size_t n = tell_set(text, sizeof text / 2, &was->now, now);

	for (unsigned i = 0; i < was->n_pending && n < sizeof text - 1; i++) {
		const struct c_call *c = &was->pending[i];

		n += (size_t)snprintf(text + n, sizeof text - n,
				      "; then%s call %u: %s cluster %u owner %u, ends in %lld ms",
				      c->maybe        ? " perhaps"
				      : i < was->seen ? " (seen)"
						      : "",
				      c->number, c->kind == C_RELEASE ? "release" : "pin", c->cluster, c->owner,
				      (long long)(c->lo - now));
	}
	c_wrong("own id %u of process %u, life %u, after %llu ms: %s; expected: %s", id,
		(unsigned)(p - c_shared->processes), atomic_load(&p->life),
		(unsigned long long)((c_ns() - c_shared->began_ns) / 1000000), what, text);
}

/* ---- calls and answers ------------------------------------------------------------------------------------- */

void c_own_asks(struct c_process *p, unsigned id, const struct c_call *c)
{
	struct c_own *o = change(p, id);

	o->pending[o->n_pending] = *c;
	o->pending[o->n_pending].maybe = true;
	o->n_pending++;
	changed(p);
}

void c_own_answered(struct c_process *p, unsigned id, const struct c_call *c, unsigned outcome, bool restarted)
{
	struct c_own *o = change(p, id), was;
	uint64_t now = c_ms();
	struct c_set next;

	if (!c_definite(c->kind, outcome)) {
		struct c_call *mine = &o->pending[o->n_pending - 1];

		mine->maybe = outcome != C_OK;
		mine->hi = c->hi;
		changed(p);
		return;
	}
	o->n_pending--;
	was = *o;
	fold_all(o);
	next = after(&o->now, c, outcome, now, restarted);
	if (o->now.vague) { /* the answer alone says what there is now */
		next = (struct c_set){.vague = outcome == C_NOT_OWNER || c->cluster == C_NO_CLUSTER};
		if (!next.vague)
			add(&next, outcome == C_OK && c->kind == C_PIN ? (struct c_state){.lo = c->lo,
											  .hi = c->hi,
											  .since = c->number,
											  .cluster = c->cluster,
											  .owner = c->owner}
								       : (struct c_state){.since = c->number});
		atomic_fetch_add(&p->vague, 1);
	} else if (next.n == 0) {
		char what[160];

		snprintf(what, sizeof what, "call %u, %s cluster %u by owner %u, is answered %s", c->number,
			 c->kind == C_RELEASE ? "release" : "pin to", c->cluster, c->owner, c_text(outcome));
		tell(p, id, what, &was);
	} else if (restarted && outcome == C_UNKNOWN && c->kind == C_RELEASE &&
		   after(&o->now, c, outcome, now, false).n == 0) {
		atomic_fetch_add(&p->redone, 1);
	}
	o->now = next;
	changed(p);
}

struct asked {
	unsigned owner, outcome, cluster;
	uint64_t from_ms, to_ms; /* the time asked at lies between these */
	uint64_t after_ms;       /* CLOCK_BOOTTIME after the call */
};

static bool explains(const struct c_state *s, const struct asked *a)
{
	bool there = s->owner != 0 && s->hi > a->from_ms;
	/* Not any more by the time asked at; or the daemon, by its clock, has removed it. */
	bool gone = s->owner == 0 || s->lo <= a->to_ms || s->lo <= a->after_ms;

	if (a->outcome == C_OK)
		return there && s->owner == a->owner && s->cluster == a->cluster;
	if (a->outcome == C_NOT_OWNER)
		return there && s->owner != a->owner;
	return gone;
}

/* The states that explain an answer, with what it says about their end. */
static void narrow(struct c_process *p, struct c_own *o, const struct asked *a)
{
	struct c_set kept = {.n = 0};

	for (unsigned i = 0; i < o->now.n; i++) {
		struct c_state s = o->now.states[i];

		if (!explains(&s, a))
			continue;
		if (a->outcome != C_UNKNOWN && s.lo <= a->from_ms) {
			s.lo = a->from_ms + 1;
			atomic_fetch_add(&p->narrowed, 1);
		}
		if (a->outcome == C_UNKNOWN && s.owner != 0 && s.lo > a->after_ms && s.hi > a->to_ms) {
			s.hi = a->to_ms;
			atomic_fetch_add(&p->narrowed, 1);
		}
		add(&kept, s);
	}
	o->now = kept;
}

void c_own_resolved(struct c_process *p, unsigned id, unsigned owner, uint64_t at_ms, uint64_t before_ms,
		    uint64_t after_ms, unsigned outcome, unsigned cluster)
{
	struct asked a = {owner, outcome, cluster, at_ms ? at_ms : before_ms, at_ms ? at_ms : after_ms, after_ms};
	struct c_own *o = change(p, id);
	struct c_set s = o->now;
	bool fits = false;

	/* Not folded: what was confirmed after the call began may have been done during it. */
	for (unsigned i = 0; i <= o->n_pending && !s.vague && !fits; i++) {
		if (i > 0)
			s = after(&s, &o->pending[i - 1], ANY, after_ms, true);
		for (unsigned k = 0; k < s.n && i >= o->seen && !fits; k++) {
			fits = explains(&s.states[k], &a);
			if (fits && i > o->seen)
				o->seen = i;
		}
	}
	if (!fits && !s.vague) {
		char what[200];

		snprintf(what, sizeof what, "resolve by owner %u at %s%lld ms is answered %s, cluster %u", owner,
			 at_ms ? "now " : "the clock's now, +", at_ms ? (long long)(at_ms - after_ms) : 0,
			 c_text(outcome), outcome == C_OK ? cluster : 0);
		tell(p, id, what, o);
	} else if (fits && o->n_pending == 0) {
		narrow(p, o, &a);
		if (outcome == C_OK && o->now.n == 1 && o->now.states[0].lo > after_ms + C_LONG_MS / 4)
			atomic_fetch_add(&p->long_found, 1);
	}
	if (at_ms && o->n_pending == 0 && o->now.n == 1 && o->now.states[0].lo == o->now.states[0].hi &&
	    (at_ms == o->now.states[0].lo || at_ms == o->now.states[0].lo - 1))
		atomic_fetch_add(&p->at_end, 1);
	changed(p);
}

uint64_t c_own_end(const struct c_own *o, uint64_t dice, unsigned *owner)
{
	const struct c_state *s = &o->now.states[0];

	if (o->now.vague || o->now.n == 0 || s->owner == 0 || s->hi >= C_NEVER)
		return 0;
	*owner = dice % 8 ? s->owner : *owner;
	switch (dice / 8 % 5) {
	case 0:
		return s->lo - 1;
	case 1:
		return s->lo;
	case 2:
		return s->hi - 1;
	case 3:
		return s->hi;
	default:
		return s->hi + 1;
	}
}
