/* SPDX-License-Identifier: MIT
 * torture_cursor.h: events of the ids that all processes write, and their judgement. Processes write events of their own;
 * the coordinator judges when all have ended. Must not use cmocka. For each answer two numbers decide, both times of
 * CLOCK_BOOTTIME: a state that a certain later call ended cannot explain it (`floor`), a state that nothing may have ended
 * since cannot be absent (`ender`). Quadratic in the events of one id, of which there are some hundred. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "torture_cursor.h"

#define AT_MOST (C_EVENTS / 8) /* shared ids */

/* Half of all calls go to one id, so that they meet; most others to a window of ids that moves on with it; some look back at
 * what was left. */
unsigned c_shared_id(struct c_me *me)
{
	unsigned low = (unsigned)(atomic_fetch_add(&c_shared->window, 1) / C_WINDOW_STEP);

	if (c_die(me, 2))
		return low;
	if (c_die(me, 4) == 0)
		return (unsigned)c_die(me, low + 1);
	return low + (unsigned)c_die(me, C_WINDOW);
}

struct c_event *c_event_begin(struct c_me *me, const struct c_event *like)
{
	uint32_t i = atomic_load(&me->p->n_events);
	struct c_event *e = &me->p->events[i];

	if (i == C_EVENTS || me->n_open == sizeof me->open / sizeof me->open[0] || like->id >= AT_MOST)
		return NULL;
	*e = *like;
	e->process = (uint8_t)me->number;
	e->life = (uint16_t)atomic_load(&me->p->life);
	e->begin_ns = c_ns();
	atomic_store(&me->p->n_events, i + 1);
	return e;
}

void c_event_end(struct c_me *me, struct c_event *e, unsigned outcome, unsigned cluster)
{
	e->outcome = (uint8_t)outcome;
	if (e->kind == C_RESOLVE)
		e->cluster = (uint16_t)cluster;
	e->end_ns = c_ns();
	if (e->kind == C_RESOLVE || c_definite(e->kind, outcome))
		e->done_ns = e->end_ns;
	else
		me->open[me->n_open++] = (uint32_t)(e - me->p->events);
}

/* ---- judgement --------------------------------------------------------------------------------------------- */

struct history { /* of one id, by their begin */
	struct c_event **events;
	unsigned n;
};

uint64_t c_done_ns(const struct c_event *e)
{
	uint64_t buried = atomic_load(&c_shared->processes[e->process].buried_ns[e->life % C_LIVES]);

	return e->done_ns ? e->done_ns : buried ? buried : UINT64_MAX;
}

static bool certain(const struct c_event *e)
{
	return e->end_ns != 0 && c_definite(e->kind, e->outcome);
}

static bool may_pin(const struct c_event *e)
{
	return (e->kind == C_PIN || e->kind == C_ASYNC) && e->cluster != C_NO_CLUSTER &&
	       !(certain(e) && e->outcome != C_OK);
}

static bool may_release(const struct c_event *e)
{
	return e->kind == C_RELEASE && (!certain(e) || e->outcome == C_OK || (e->outcome == C_UNKNOWN && e->restarted));
}

static bool is_write(const struct c_event *e)
{
	return certain(e) && ((e->kind == C_PIN && e->outcome == C_OK) ||
			      (e->kind == C_RELEASE && (e->outcome == C_OK || e->outcome == C_UNKNOWN)));
}

/* The time that an answer is about, in ms. */
static uint64_t early(const struct c_event *r)
{
	return r->kind == C_RESOLVE && r->lo ? r->lo : r->begin_ns / 1000000;
}

static uint64_t late(const struct c_event *r)
{
	uint64_t end = r->end_ns / 1000000;

	return r->kind == C_RESOLVE && r->lo > end ? r->lo : end;
}

static const char *name_of(const struct c_event *e)
{
	static const char *const names[C_KINDS] = {"pin", "async pin", "release", "resolve", "bulk", "len"};

	return names[e->kind];
}

static size_t tell_event(char *out, size_t size, const struct c_event *e)
{
	uint64_t from = c_shared->began_ns, from_ms = from / 1000000;
	size_t n =
		(size_t)snprintf(out, size, "\n  process %u life %u call %u at %.3f..%.3f ms: %s owner %u cluster %u",
				 e->process, e->life, e->number, (double)(e->begin_ns - from) / 1e6,
				 e->end_ns ? (double)(e->end_ns - from) / 1e6 : -1.0, name_of(e), e->owner, e->cluster);

	if (e->kind == C_PIN || e->kind == C_ASYNC)
		n += (size_t)snprintf(out + n, size - n, " that ends at %lld..%lld ms", (long long)(e->lo - from_ms),
				      (long long)(e->hi - from_ms));
	else if (e->kind == C_RESOLVE && e->lo)
		n += (size_t)snprintf(out + n, size - n, " as of %lld ms", (long long)(e->lo - from_ms));
	return n + (size_t)snprintf(out + n, size - n, ": %s%s", e->end_ns ? c_text(e->outcome) : "killed in it",
				    e->restarted ? " (daemon ended)" : "");
}

/* The event, why, and those on the same id before it. */
static void tell(const struct history *h, const struct c_event *r, const struct c_event *because, const char *why)
{
	char text[1500];
	size_t n = tell_event(text, sizeof text, r);
	unsigned told = 0;

	if (because) {
		n += (size_t)snprintf(text + n, sizeof text - n, "\n but:");
		n += tell_event(text + n, sizeof text - n, because);
	}
	n += (size_t)snprintf(text + n, sizeof text - n, "\n writes before it:");
	for (unsigned i = h->n; i-- > 0 && told < 6 && n + 300 < sizeof text;)
		if (h->events[i]->begin_ns < r->begin_ns && h->events[i]->kind != C_RESOLVE) {
			n += tell_event(text + n, sizeof text - n, h->events[i]);
			told++;
		}
	c_wrong("shared id %u: %s:%s", r->id, why, text);
}

/* Is there a pin that may have stood during r, of this owner (other: of another) and cluster (0: any)? */
static bool explained(const struct history *h, const struct c_event *r, bool other, unsigned cluster)
{
	uint64_t any = 0, not_of[C_OWNERS + 1] = {0}, is[C_OWNERS + 1][C_CLUSTERS + 1] = {{0}};
	bool by_clock = r->kind != C_RESOLVE || r->lo == 0;

	for (unsigned i = 0; i < h->n; i++) {
		const struct c_event *x = h->events[i];
		uint64_t *floor = NULL;

		if (x == r || !certain(x) || x->end_ns >= r->begin_ns)
			continue;
		if (is_write(x) || (x->kind == C_RESOLVE && x->outcome == C_UNKNOWN && x->lo == 0 && by_clock))
			floor = &any;
		else if (x->outcome == C_NOT_OWNER)
			floor = &not_of[x->owner];
		else if (x->kind == C_RESOLVE && x->outcome == C_OK)
			floor = &is[x->owner][x->cluster];
		if (floor && x->begin_ns > *floor)
			*floor = x->begin_ns;
	}
	for (unsigned i = 0; i < h->n; i++) {
		const struct c_event *w = h->events[i];
		uint64_t floor = any;

		if (w == r || !may_pin(w) || w->begin_ns > r->end_ns || w->hi <= early(r) ||
		    (w->owner == r->owner) == other || (cluster && w->cluster != cluster))
			continue;
		if (not_of[w->owner] > floor)
			floor = not_of[w->owner];
		for (unsigned o = 1; o <= C_OWNERS; o++)
			for (unsigned c = 1; c <= C_CLUSTERS; c++)
				if ((o != w->owner || c != w->cluster) && is[o][c] > floor)
					floor = is[o][c];
		if (c_done_ns(w) >= floor)
			return true;
	}
	return false;
}

/* A pin of this owner that certainly stood during all of r. */
static const struct c_event *stood(const struct history *h, const struct c_event *r, unsigned owner)
{
	uint64_t ender = 0;

	for (unsigned i = 0; i < h->n; i++) {
		const struct c_event *e = h->events[i];
		bool ends = may_release(e) || (may_pin(e) && e->lo <= late(r));

		if (e != r && ends && e->owner == owner && e->begin_ns <= r->end_ns && c_done_ns(e) > ender)
			ender = c_done_ns(e);
	}
	for (unsigned i = 0; i < h->n; i++) {
		const struct c_event *w = h->events[i];

		if (certain(w) && w->kind == C_PIN && w->outcome == C_OK && w->owner == owner && w->begin_ns > ender &&
		    w->end_ns < r->begin_ns && w->lo > late(r))
			return w;
	}
	return NULL;
}

/* Nothing was there (for_pin: nobody else's). */
static bool absent(const struct history *h, const struct c_event *r, struct c_judged *j)
{
	for (unsigned owner = 1; owner <= C_OWNERS; owner++) {
		const struct c_event *w;

		if ((r->kind == C_PIN && owner == r->owner) ||
		    (r->kind == C_RELEASE && owner == r->owner && r->restarted))
			continue;
		w = stood(h, r, owner);
		if (w) {
			tell(h, r, w, "a pin that certainly stood was not there");
			return false;
		}
	}
	j->certain++;
	return true;
}

static bool judge_one(const struct history *h, const struct c_event *r, struct c_judged *j)
{
	bool good = true;

	j->events++;
	if (!certain(r))
		return true;
	if (r->outcome == C_NOT_OWNER) {
		j->not_owner++;
		good = explained(h, r, true, 0);
		if (!good)
			tell(h, r, NULL, "no pin of another owner may have stood");
		return good;
	}
	if (r->kind == C_PIN && r->cluster == C_NO_CLUSTER) {
		if (r->outcome == C_OK)
			tell(h, r, NULL, "there is no such cluster");
		return r->outcome != C_OK;
	}
	if (r->kind == C_PIN && r->outcome == C_UNKNOWN) {
		tell(h, r, NULL, "there is this cluster");
		return false;
	}
	if (r->outcome == C_OK && r->kind != C_PIN) {
		j->found++;
		good = explained(h, r, false, r->kind == C_RESOLVE ? r->cluster : 0);
		if (!good)
			tell(h, r, NULL, "no such pin may have stood");
		return good;
	}
	j->not_found += r->outcome == C_UNKNOWN;
	return absent(h, r, j);
}

static bool in_order(const struct history *h, struct c_judged *j)
{
	bool too_many;
	int at = c_order_missing(h->events, h->n, &too_many);

	j->too_many += too_many;
	j->ordered += !too_many;
	if (at >= 0)
		tell(h, h->events[at], NULL, "no order of all calls explains the answers up to this one");
	return at < 0;
}

static int by_id(const void *a, const void *b)
{
	const struct c_event *x = *(struct c_event *const *)a, *y = *(struct c_event *const *)b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->begin_ns < y->begin_ns ? -1 : x->begin_ns > y->begin_ns;
}

bool c_judge(struct c_judged *j)
{
	struct c_event **all;
	unsigned n = 0, from = 0;
	bool good = true;

	memset(j, 0, sizeof *j);
	all = calloc(C_PROCESSES * C_EVENTS, sizeof(struct c_event *));
	if (!all)
		return false;
	for (unsigned p = 0; p < C_PROCESSES; p++)
		for (unsigned i = 0; i < atomic_load(&c_shared->processes[p].n_events); i++)
			all[n++] = &c_shared->processes[p].events[i];
	qsort(all, n, sizeof(struct c_event *), by_id);
	while (from < n && good) {
		struct history h = {all + from, 0};

		while (from + h.n < n && all[from + h.n]->id == all[from]->id)
			h.n++;
		for (unsigned i = 0; i < h.n && good; i++)
			good = judge_one(&h, h.events[i], j);
		good = good && in_order(&h, j);
		j->ids++;
		from += h.n;
	}
	free(all);
	return good;
}
