/* SPDX-License-Identifier: MIT
 * The judgement over a history (checker.h has the rules). Called by e2e.c and demo.c after a run, and by
 * tests/14-checker.c with histories that are wrong on purpose. It must find no fault where none is: a time that is only
 * known as an interval is taken for the end of it that excuses. One thread. */
#include "checker.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *text;
} rules[CHECK_N] = {
#define CHECK_ROW(e, n, t) [e] = {n, t},
	CHECK_RULES(CHECK_ROW)
#undef CHECK_ROW
};

const char *check_rule_name(enum check_rule rule)
{
	return rules[rule].name;
}

const char *check_rule_text(enum check_rule rule)
{
	return rules[rule].text;
}

/* What all calls and effects of one partition are judged by. */
struct partition {
	const struct hist_change *change; /* rising in epoch */
	size_t n;
	uint32_t *tenure; /* of each change: number of moves before it */
};

struct check {
	struct history *h;
	struct check_report *r;
	uint64_t origin_ns; /* times in messages count from here */
};

__attribute__((format(printf, 3, 4))) static void fault(struct check *c, enum check_rule rule, const char *format, ...)
{
	va_list arguments;
	char what[300];

	c->r->n_faults++;
	if (c->r->by_rule[rule]++ > 0 || c->r->n_texts == CHECK_TEXTS)
		return;
	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	snprintf(c->r->text[c->r->n_texts++], sizeof(c->r->text[0]), "%s: %s (rule: %s)", rules[rule].name, what,
		 rules[rule].text);
}

/* Times for people: ms since the first of the history. */
static double at(const struct check *c, uint64_t ns)
{
	return ((double)ns - (double)c->origin_ns) / 1e6;
}

/* ---- order ---- */

#define COMPARE(x, y) \
	do { \
		if ((x) != (y)) \
			return (x) < (y) ? -1 : 1; \
	} while (0)

static int by_epoch(const void *a, const void *b)
{
	const struct hist_change *x = a, *y = b;

	COMPARE(x->partition, y->partition);
	COMPARE(x->epoch, y->epoch);
	return 0;
}

static int by_write(const void *a, const void *b)
{
	const struct hist_call *x = a, *y = b;

	COMPARE(x->partition, y->partition);
	COMPARE(x->sequence, y->sequence);
	COMPARE(x->attempt, y->attempt);
	COMPARE(x->call_ns, y->call_ns);
	return 0;
}

static int by_effect(const void *a, const void *b)
{
	const struct hist_effect *x = a, *y = b;

	COMPARE(x->partition, y->partition);
	COMPARE(x->sequence, y->sequence);
	COMPARE(x->attempt, y->attempt);
	COMPARE(x->at_ns, y->at_ns);
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct hist_effect *x = *(const struct hist_effect *const *)a, *y = *(const struct hist_effect *const *)b;

	COMPARE(x->at_ns, y->at_ns);
	return 0;
}

static void sort(void *array, size_t n, size_t size, int (*compare)(const void *, const void *))
{
	if (n)
		qsort(array, n, size, compare);
}

/* ---- placements ---- */

/* The change with this epoch; NULL: none was acknowledged. */
static const struct hist_change *change_of(const struct partition *p, uint64_t epoch)
{
	size_t low = 0, high = p->n;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (p->change[middle].epoch < epoch)
			low = middle + 1;
		else
			high = middle;
	}
	return low < p->n && p->change[low].epoch == epoch ? &p->change[low] : NULL;
}

/* When a change surely no longer stood: the next one was acknowledged. */
static uint64_t end_of(const struct partition *p, const struct hist_change *change)
{
	size_t next = (size_t)(change - p->change) + 1;

	return next < p->n ? p->change[next].answer_ns : UINT64_MAX;
}

/* The `complete` that ends the tenure of a change; NULL: none did. */
static const struct hist_change *leave_of(const struct partition *p, const struct hist_change *change)
{
	size_t i = (size_t)(change - p->change);
	uint32_t tenure = p->tenure[i];

	while (i < p->n && p->tenure[i] == tenure)
		i++;
	return i < p->n ? &p->change[i] : NULL;
}

static void check_changes(struct check *c, struct partition *p)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct hist_change *now = &p->change[i], *before = i ? now - 1 : NULL;

		p->tenure[i] = before ? p->tenure[i - 1] + (before->at != now->at) : 0;
		if (before && (now->epoch == before->epoch || now->answer_ns < before->call_ns))
			fault(c, CHECK_CHANGES,
			      "partition %" PRIu32 ": epoch %" PRIu64 " was acknowledged at %.3f ms, and epoch %" PRIu64
			      " called at %.3f ms",
			      now->partition, now->epoch, at(c, now->answer_ns), before->epoch, at(c, before->call_ns));
		if (before && before->at != now->at && now->what != HIST_COMPLETE)
			fault(c, CHECK_CHANGES,
			      "partition %" PRIu32 ": epoch %" PRIu64 " moved it from c%u to c%u without a complete",
			      now->partition, now->epoch, before->at, now->at);
	}
	c->r->n_tenures += p->n ? p->tenure[p->n - 1] + 1 : 0;
}

/* ---- reads ---- */

static void check_read(struct check *c, const struct partition *p, const struct hist_call *read)
{
	c->r->n_reads++;
	if (read->status != 200) {
		for (size_t i = 0; read->status == 0 && i < c->h->n_kills; i++)
			if (read->call_ns <= c->h->kills[i].to_ns && read->answer_ns >= c->h->kills[i].from_ns)
				return;
		fault(c, CHECK_READ, "a read of partition %" PRIu32 " from %.3f to %.3f ms was answered with %u",
		      read->partition, at(c, read->call_ns), at(c, read->answer_ns), read->status);
		return;
	}
	for (size_t i = 0; i < p->n; i++)
		if (p->change[i].at == read->cluster && p->change[i].call_ns <= read->answer_ns &&
		    end_of(p, &p->change[i]) >= read->call_ns)
			return;
	fault(c, CHECK_PLACE,
	      "a read of partition %" PRIu32
	      " from %.3f to %.3f ms was answered by c%u, where the partition was not then",
	      read->partition, at(c, read->call_ns), at(c, read->answer_ns), read->cluster);
}

/* ---- writes ---- */

/* One line of a log, and the attempt that it belongs to (NULL: there is none). */
static void check_effect(struct check *c, const struct partition *p, const struct hist_effect *e,
			 const struct hist_call *call)
{
	const struct hist_change *change = change_of(p, e->epoch), *leave;

	c->r->n_effects++;
	if (!call || call->call_ns > e->at_ns || call->client != e->client ||
	    (call->epoch && call->epoch != e->epoch)) {
		fault(c, CHECK_NOBODY,
		      "write %" PRIu64 ".%u of partition %" PRIu32 " took effect at c%u at %.3f ms, epoch %" PRIu64
		      ", client %u; %s",
		      e->sequence, e->attempt, e->partition, e->cluster, at(c, e->at_ns), e->epoch, e->client,
		      !call                      ? "nobody made that call"
		      : call->call_ns > e->at_ns ? "it was called after that"
		      : call->epoch              ? "its answer told another epoch, or client"
						 : "another client called it");
		if (!call)
			return;
	}
	if (call->outcome == HIST_REFUSED)
		fault(c, CHECK_REFUSED,
		      "write %" PRIu64 ".%u of partition %" PRIu32
		      ", from %.3f to %.3f ms, was refused with %u, and took effect "
		      "at c%u at %.3f ms, epoch %" PRIu64,
		      e->sequence, e->attempt, e->partition, at(c, call->call_ns), at(c, call->answer_ns), call->status,
		      e->cluster, at(c, e->at_ns), e->epoch);
	if (!change || change->what == HIST_CUTOVER || change->at != e->cluster) {
		fault(c, CHECK_CLUSTER,
		      "write %" PRIu64 ".%u of partition %" PRIu32 " took effect at c%u at %.3f ms under epoch %" PRIu64
		      ", which %s",
		      e->sequence, e->attempt, e->partition, e->cluster, at(c, e->at_ns), e->epoch,
		      !change                        ? "was never acknowledged"
		      : change->what == HIST_CUTOVER ? "is a cutover"
						     : "places it on another cluster");
		return;
	}
	if (call->call_ns > end_of(p, change) || e->at_ns < change->call_ns)
		fault(c, CHECK_GATE,
		      "write %" PRIu64 ".%u of partition %" PRIu32
		      " was called at %.3f ms and took effect at %.3f ms under epoch "
		      "%" PRIu64 ", which stood from %.3f to %.3f ms",
		      e->sequence, e->attempt, e->partition, at(c, call->call_ns), at(c, e->at_ns), e->epoch,
		      at(c, change->call_ns), at(c, end_of(p, change)));
	leave = leave_of(p, change);
	if (leave && e->at_ns > leave->answer_ns)
		fault(c, CHECK_AFTER,
		      "write %" PRIu64 ".%u of partition %" PRIu32 ", called at %.3f ms, epoch %" PRIu64
		      ", took effect at c%u at "
		      "%.3f ms; complete (epoch %" PRIu64 ") had returned at %.3f ms",
		      e->sequence, e->attempt, e->partition, at(c, call->call_ns), e->epoch, e->cluster,
		      at(c, e->at_ns), leave->epoch, at(c, leave->answer_ns));
	if (e->at_ns > call->answer_ns || call->status == 0)
		c->r->n_late++;
}

static void check_refusal(struct check *c, const struct partition *p, const struct hist_call *call)
{
	c->r->n_refused++;
	for (size_t i = 0; i < p->n; i++)
		if (p->change[i].what == HIST_CUTOVER && p->change[i].call_ns <= call->answer_ns &&
		    end_of(p, &p->change[i]) >= call->call_ns)
			return;
	fault(c, CHECK_WHY,
	      "write %" PRIu64 ".%u of partition %" PRIu32
	      " was refused from %.3f to %.3f ms, and no cutover was under way",
	      call->sequence, call->attempt, call->partition, at(c, call->call_ns), at(c, call->answer_ns));
}

/* One attempt and the lines of the logs that belong to it. */
static void check_attempt(struct check *c, const struct partition *p, const struct hist_call *call,
			  const struct hist_effect *e, size_t n)
{
	size_t inside = 0, tries = call->tries ? call->tries : c->h->max_tries;

	if (call->tries > c->r->most_tries)
		c->r->most_tries = call->tries;
	for (size_t i = 0; i < n; i++)
		inside += e[i].at_ns >= call->call_ns && e[i].at_ns <= call->answer_ns;
	switch (call->outcome) {
	case HIST_REFUSED:
		check_refusal(c, p, call);
		return;
	case HIST_UNKNOWN:
		c->r->n_unknown++;
		c->r->n_unknown_happened += n > 0;
		break;
	default:
		c->r->n_acknowledged++;
		if (n == 0)
			fault(c, CHECK_LOST,
			      "write %" PRIu64 ".%u of partition %" PRIu32 ", from %.3f to %.3f ms, epoch %" PRIu64
			      ", was acknowledged, and no cluster has it",
			      call->sequence, call->attempt, call->partition, at(c, call->call_ns),
			      at(c, call->answer_ns), call->epoch);
		else if (inside == 0)
			fault(c, CHECK_OUTSIDE,
			      "write %" PRIu64 ".%u of partition %" PRIu32
			      ", from %.3f to %.3f ms, was acknowledged, and took effect at %.3f ms",
			      call->sequence, call->attempt, call->partition, at(c, call->call_ns),
			      at(c, call->answer_ns), at(c, e[0].at_ns));
	}
	if (n > tries)
		fault(c, CHECK_TWICE,
		      "write %" PRIu64 ".%u of partition %" PRIu32
		      " took effect %zu times, at c%u at %.3f ms and at c%u at %.3f ms; it was sent %zu times",
		      call->sequence, call->attempt, call->partition, n, e[0].cluster, at(c, e[0].at_ns),
		      e[n - 1].cluster, at(c, e[n - 1].at_ns), tries);
}

/* All attempts of one write: each but the last was refused, and the last was not. */
static void check_repeat(struct check *c, const struct hist_call *attempt, size_t n)
{
	const struct hist_call *last = &attempt[n - 1];

	if (n > 1 && last->outcome == HIST_OK)
		c->r->n_repeated++;
	if (last->outcome == HIST_REFUSED && !last->last)
		fault(c, CHECK_REPEAT,
		      "write %" PRIu64 " of partition %" PRIu32 " was refused at %.3f ms, attempt %u, and not repeated",
		      last->sequence, last->partition, at(c, last->answer_ns), last->attempt);
	for (size_t i = 0; i < n; i++)
		if (attempt[i].attempt != i + 1 || (i + 1 < n && attempt[i].outcome != HIST_REFUSED))
			fault(c, CHECK_REPEAT,
			      "write %" PRIu64 " of partition %" PRIu32
			      ": attempt %u, the %zu. of %zu, was not refused, and repeated all the same",
			      attempt[i].sequence, attempt[i].partition, attempt[i].attempt, i + 1, n);
}

/* calls: all of one partition, by write and attempt; effects in the same order. */
static void check_writes(struct check *c, const struct partition *p, const struct hist_call *call, size_t n_calls,
			 const struct hist_effect *effect, size_t n_effects)
{
	size_t e = 0;

	for (size_t i = 0; i < n_calls; i++) {
		size_t first, start = i;
		for (;
		     e < n_effects && (effect[e].sequence < call[i].sequence ||
				       (effect[e].sequence == call[i].sequence && effect[e].attempt < call[i].attempt));
		     e++)
			check_effect(c, p, &effect[e], NULL);
		for (first = e;
		     e < n_effects && effect[e].sequence == call[i].sequence && effect[e].attempt == call[i].attempt;
		     e++)
			check_effect(c, p, &effect[e], &call[i]);
		check_attempt(c, p, &call[i], &effect[first], e - first);
		if (i + 1 < n_calls && call[i + 1].sequence == call[i].sequence)
			continue;
		while (start > 0 && call[start - 1].sequence == call[i].sequence)
			start--;
		check_repeat(c, &call[start], i - start + 1);
	}
	for (; e < n_effects; e++)
		check_effect(c, p, &effect[e], NULL);
}

static void check_order(struct check *c, const struct partition *p, const struct hist_effect *effect, size_t n)
{
	const struct hist_effect **order = n ? malloc(n * sizeof(*order)) : NULL, *latest = NULL;
	uint32_t tenure = 0;

	for (size_t i = 0; order && i < n; i++)
		order[i] = &effect[i];
	sort(order, order ? n : 0, sizeof(*order), by_time);
	for (size_t i = 0; order && i < n; i++) {
		const struct hist_change *change = change_of(p, order[i]->epoch);
		if (!change)
			continue; /* told already */
		uint32_t its = p->tenure[change - p->change];
		if (latest && its < tenure)
			fault(c, CHECK_ORDER,
			      "write %" PRIu64 ".%u of partition %" PRIu32
			      " took effect at c%u at %.3f ms under epoch %" PRIu64 ", after write %" PRIu64
			      ".%u at c%u at %.3f ms under epoch %" PRIu64,
			      order[i]->sequence, order[i]->attempt, order[i]->partition, order[i]->cluster,
			      at(c, order[i]->at_ns), order[i]->epoch, latest->sequence, latest->attempt,
			      latest->cluster, at(c, latest->at_ns), latest->epoch);
		if (!latest || its > tenure) {
			tenure = its;
			latest = order[i];
		}
	}
	free(order);
}

/* ---- all ---- */

#define SPAN(array, n, from, number) \
	while ((from) + (n) < h->n_##array && h->array[(from) + (n)].partition == (number)) \
	(n)++

void check_history(struct history *h, struct check_report *r)
{
	struct check c = {.h = h, .r = r, .origin_ns = UINT64_MAX};
	size_t i_change = 0, i_call = 0, i_effect = 0;

	*r = (struct check_report){0};
	sort(h->changes, h->n_changes, sizeof(*h->changes), by_epoch);
	sort(h->calls, h->n_calls, sizeof(*h->calls), by_write);
	sort(h->effects, h->n_effects, sizeof(*h->effects), by_effect);
	for (size_t i = 0; i < h->n_changes; i++)
		if (h->changes[i].call_ns < c.origin_ns)
			c.origin_ns = h->changes[i].call_ns;
	while (i_change < h->n_changes || i_call < h->n_calls || i_effect < h->n_effects) {
		struct partition p = {0};
		size_t n_calls = 0, n_effects = 0, n_reads = 0;
		uint32_t number = UINT32_MAX;

		if (i_change < h->n_changes)
			number = h->changes[i_change].partition;
		if (i_call < h->n_calls && h->calls[i_call].partition < number)
			number = h->calls[i_call].partition;
		if (i_effect < h->n_effects && h->effects[i_effect].partition < number)
			number = h->effects[i_effect].partition;
		SPAN(changes, p.n, i_change, number);
		SPAN(calls, n_calls, i_call, number);
		SPAN(effects, n_effects, i_effect, number);
		p.change = h->changes + i_change;
		p.tenure = calloc(p.n + 1, sizeof(*p.tenure));
		if (!p.tenure) {
			fault(&c, CHECK_CHANGES, "out of memory: partition %" PRIu32 " was not checked", number);
			return;
		}
		check_changes(&c, &p);
		for (; n_reads < n_calls && h->calls[i_call + n_reads].sequence == 0; n_reads++)
			check_read(&c, &p, &h->calls[i_call + n_reads]);
		check_writes(&c, &p, h->calls + i_call + n_reads, n_calls - n_reads, h->effects + i_effect, n_effects);
		check_order(&c, &p, h->effects + i_effect, n_effects);
		free(p.tenure);
		i_change += p.n;
		i_call += n_calls;
		i_effect += n_effects;
	}
}
