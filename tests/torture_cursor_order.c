/* SPDX-License-Identifier: MIT
 * torture_cursor.h: is there an order of all calls on one shared id, each at an instant between its begin and its end, in
 * which a table of pins would have given their answers? Goes through begins and ends by time with all that may be true then:
 * states, and which of the open calls are done in them. A call that ends has to be done; to get there, any open ones may be
 * done before it. What only looks is marked as soon as a state explains it, as it changes nothing. So a call that was done
 * twice, which every pair of calls would allow, is found. Coordinator; must not use cmocka. */
#include <stdlib.h>
#include <string.h>

#include "torture_cursor.h"

#define OPEN_MAX 64u
#define WORLDS_MAX 4096u

struct world {
	uint64_t done; /* open calls, a bit each */
	int pin;       /* the event that made the pin; -1: none */
};

struct search {
	struct c_event **events;
	int open[OPEN_MAX]; /* events; -1: free */
	struct world worlds[WORLDS_MAX];
	unsigned n;
	uint64_t now_ns;
	bool too_many;
};

static bool looks(const struct c_event *e)
{
	return e->kind == C_RESOLVE || (c_definite(e->kind, e->outcome) && e->end_ns != 0 &&
					(e->outcome == C_NOT_OWNER || e->cluster == C_NO_CLUSTER ||
					 (e->outcome == C_UNKNOWN && !e->restarted)));
}

/* Answered; or accepted without an answer, by a ring that is known to be worked off by now. */
static bool must_be_done(const struct c_event *e)
{
	return e->end_ns != 0 && (c_definite(e->kind, e->outcome) || e->outcome == C_OK);
}

/* Does this pin, or none, explain the answer? */
static bool explains(const struct search *s, int pin, const struct c_event *e)
{
	uint64_t end_ms = e->end_ns / 1000000, from = e->kind == C_RESOLVE && e->lo ? e->lo : e->begin_ns / 1000000;
	uint64_t to = e->kind == C_RESOLVE && e->lo > end_ms ? e->lo : end_ms;
	const struct c_event *p = pin >= 0 ? s->events[pin] : NULL;
	bool there = p && p->hi > from, gone = !p || p->lo <= to;

	if (e->outcome > C_NOT_OWNER || (e->kind != C_RESOLVE && e->cluster == C_NO_CLUSTER))
		return true;
	if (e->outcome == C_NOT_OWNER)
		return there && p->owner != e->owner;
	if (e->outcome == C_UNKNOWN)
		return gone;
	return there && p->owner == e->owner && p->cluster == e->cluster;
}

/* Not one that says no more than another: the same pin, the same changes done, no more answers explained. */
static void add(struct search *s, struct world w)
{
	uint64_t looking = 0;

	for (unsigned i = 0; i < OPEN_MAX; i++)
		if (s->open[i] >= 0 && looks(s->events[s->open[i]])) {
			looking |= 1ull << i;
			if (explains(s, w.pin, s->events[s->open[i]]))
				w.done |= 1ull << i;
		}
	for (unsigned i = 0; i < s->n; i++) {
		uint64_t other = s->worlds[i].done;

		if (s->worlds[i].pin == w.pin && ((w.done ^ other) & ~looking) == 0 && (w.done | other) == other)
			return;
	}
	if (s->n == WORLDS_MAX)
		s->too_many = true;
	else
		s->worlds[s->n++] = w;
}

/* What comes of an open call that changes things, done in this world; each way is added. */
static void do_one(struct search *s, struct world w, unsigned at)
{
	const struct c_event *e = s->events[s->open[at]], *p = w.pin >= 0 ? s->events[w.pin] : NULL;
	bool mine = p && p->owner == e->owner;
	bool there = p && p->hi > e->begin_ns / 1000000, gone = !p || p->lo <= s->now_ns / 1000000;
	bool sure = e->end_ns != 0 && c_definite(e->kind, e->outcome);
	struct world next = {w.done | 1ull << at, w.pin};

	if (!sure && ((there && !mine) || e->cluster == C_NO_CLUSTER))
		add(s, next); /* refused */
	if (e->cluster == C_NO_CLUSTER)
		return;
	if (e->kind != C_RELEASE && ((there && mine) || gone)) {
		next.pin = s->open[at];
		add(s, next);
	} else if (e->kind == C_RELEASE && ((there && mine) || (gone && !(sure && e->outcome == C_OK)))) {
		next.pin = -1;
		add(s, next);
	}
}

/* All that can be reached by doing open calls. */
static void reach(struct search *s)
{
	for (unsigned i = 0; i < s->n; i++)
		for (unsigned at = 0; at < OPEN_MAX; at++)
			if (s->open[at] >= 0 && !looks(s->events[s->open[at]]) && !(s->worlds[i].done >> at & 1))
				do_one(s, s->worlds[i], at);
}

static void begins(struct search *s, int event)
{
	unsigned n = s->n, at = 0;
	struct world before[WORLDS_MAX];

	while (at < OPEN_MAX && s->open[at] >= 0)
		at++;
	if (at == OPEN_MAX) {
		s->too_many = true;
		return;
	}
	s->open[at] = event;
	if (!looks(s->events[event]))
		return;
	memcpy(before, s->worlds, n * sizeof before[0]);
	s->n = 0;
	for (unsigned i = 0; i < n; i++)
		add(s, before[i]);
}

/* False: no world is left. */
static bool ends(struct search *s, int event)
{
	struct world before[WORLDS_MAX];
	const struct c_event *e = s->events[event];
	bool required = must_be_done(e) || (looks(e) && e->end_ns);
	unsigned at = 0, n;

	while (at < OPEN_MAX && s->open[at] != event)
		at++;
	if (at == OPEN_MAX)
		return true;
	reach(s);
	n = s->n;
	memcpy(before, s->worlds, n * sizeof before[0]);
	s->n = 0;
	s->open[at] = -1;
	for (unsigned i = 0; i < n; i++)
		if (!required || (before[i].done >> at & 1)) {
			before[i].done &= ~(1ull << at);
			add(s, before[i]);
		}
	return s->n > 0 || s->too_many;
}

struct instant {
	uint64_t ns;
	int event;
	bool end;
};

static int by_time(const void *a, const void *b)
{
	const struct instant *x = a, *y = b;

	return x->ns != y->ns ? (x->ns < y->ns ? -1 : 1) : (int)x->end - (int)y->end;
}

int c_order_missing(struct c_event **events, unsigned n, bool *too_many)
{
	struct instant *instants = calloc(2 * (size_t)n, sizeof *instants);
	struct search *s = calloc(1, sizeof *s);
	int wrong = -1;

	if (!instants || !s)
		abort();
	for (unsigned i = 0; i < n; i++) {
		instants[2 * i] = (struct instant){events[i]->begin_ns, (int)i, false};
		instants[2 * i + 1] = (struct instant){c_done_ns(events[i]), (int)i, true};
	}
	qsort(instants, 2 * (size_t)n, sizeof *instants, by_time);
	s->events = events;
	s->n = 1;
	s->worlds[0].pin = -1;
	memset(s->open, 0xff, sizeof s->open);
	for (unsigned i = 0; i < 2 * n && wrong < 0 && !s->too_many; i++) {
		s->now_ns = instants[i].ns;
		if (!instants[i].end)
			begins(s, instants[i].event);
		else if (!ends(s, instants[i].event))
			wrong = instants[i].event;
	}
	*too_many = s->too_many;
	free(instants);
	free(s);
	return wrong;
}
