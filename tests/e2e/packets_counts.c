/* SPDX-License-Identifier: MIT
 * See packets_counts.h. Main thread. */
#include "packets_counts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const phases[COUNT_PHASES] = {"settled", "draining", "cutover"};

struct bounds {
	uint64_t least, most;
};

struct expected {
	struct bounds requests[PLACE_CLUSTERS + 1][COUNT_PHASES], writes[PLACE_CLUSTERS + 1][COUNT_PHASES];
	uint64_t n_requests, n_writes;
};

/* ---- what clients sent ---- */

static int by_epoch(const void *a, const void *b)
{
	const struct hist_change *x = a, *y = b;

	if (x->partition != y->partition)
		return x->partition < y->partition ? -1 : 1;
	return x->epoch < y->epoch ? -1 : x->epoch > y->epoch;
}

static unsigned phase_of(const struct hist_change *change)
{
	return change->what == HIST_BEGIN ? 1 : change->what == HIST_CUTOVER ? 2 : 0;
}

/* change[0..n): of the call's partition, in order. Each stood for at most from its call to the next one's answer. */
static void expect(struct expected *e, const struct hist_change *change, size_t n, const struct hist_call *call,
		   const struct hist_kill *away)
{
	bool possible[PLACE_CLUSTERS + 1][COUNT_PHASES] = {0};
	uint64_t n_possible = away && call->call_ns <= away->to_ns && call->answer_ns >= away->from_ns;

	for (size_t i = 0; i < n; i++)
		if (change[i].call_ns <= call->answer_ns && (i + 1 == n || change[i + 1].answer_ns >= call->call_ns)) {
			possible[change[i].at][phase_of(&change[i])] = true;
			n_possible++;
		}
	e->n_requests++;
	e->n_writes += call->sequence != 0;
	for (unsigned c = 1; c <= PLACE_CLUSTERS; c++)
		for (unsigned p = 0; p < COUNT_PHASES; p++)
			if (possible[c][p]) {
				e->requests[c][p].most++;
				e->requests[c][p].least += n_possible == 1;
				e->writes[c][p].most += call->sequence != 0;
				e->writes[c][p].least += n_possible == 1 && call->sequence != 0;
			}
}

static void expect_all(struct expected *e, const struct history *h, const struct hist_kill *away)
{
	struct hist_change *change = malloc((h->n_changes + 1) * sizeof(*change));
	size_t *first = NULL, n_partitions = 0;

	*e = (struct expected){0};
	if (!change)
		place_fail("out of memory");
	memcpy(change, h->changes, h->n_changes * sizeof(*change));
	qsort(change, h->n_changes, sizeof(*change), by_epoch);
	if (h->n_changes)
		n_partitions = change[h->n_changes - 1].partition + 1;
	first = calloc(n_partitions + 1, sizeof(*first));
	if (!first)
		place_fail("out of memory");
	for (size_t i = 0; i < h->n_changes; i++)
		first[change[i].partition + 1] = i + 1;
	for (size_t i = 0; i < h->n_calls; i++) {
		uint32_t p = h->calls[i].partition;
		expect(e, change + first[p], first[p + 1] - first[p], &h->calls[i], away);
	}
	free(first);
	free(change);
}

/* ---- what the program saw ---- */

static uint64_t number_of(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

static unsigned phase_named(const char *name)
{
	for (unsigned p = 0; name && p < COUNT_PHASES; p++)
		if (strcmp(name, phases[p]) == 0)
			return p;
	place_fail("berth bpf stats names a phase %s", name ? name : "not");
}

struct counts counts_read(const struct place *p)
{
	static char out[65536];
	struct counts s = {0};
	char program[512];
	const char *event;
	const json_t *line, *n;
	size_t i;

	place_program("berth", program);
	if (net_run(out, sizeof(out), "%s --dir %s --json bpf stats", program, p->dir) != 0)
		place_fail("berth bpf stats: %s", out);
	json_t *all = json_loads(out, 0, NULL), *events = json_object_get(all, "events");
	if (!all || !events)
		place_fail("berth bpf stats says: %s", out);
	json_array_foreach (json_object_get(all, "counts"), i, line) {
		uint64_t c = number_of(line, "number");
		unsigned k = phase_named(json_string_value(json_object_get(line, "phase")));
		if (c == 0 || c > PLACE_CLUSTERS)
			place_fail("berth bpf stats has a cluster that nobody made: %s", out);
		s.at[c][k].packets = number_of(line, "packets");
		s.at[c][k].requests = number_of(line, "requests");
		s.at[c][k].writes = number_of(line, "writes");
		s.at[c][k].held = number_of(line, "held");
	}
	json_object_foreach(events, event, n) s.passed_over += (uint64_t)json_integer_value(n);
	s.seen = number_of(events, "packets");
	s.passed_up = number_of(events, "pass");
	s.passed_over -= s.seen + s.passed_up + number_of(events, "no-meta"); /* which is said besides */
	json_decref(all);
	return s;
}

struct judge {
	const char *prefix;
	uint64_t spare; /* segments sent again that no gate accounts for: each may have been counted once more */
	bool good;
};

static void within(struct judge *j, uint64_t seen, struct bounds b, const char *what, unsigned cluster, unsigned phase)
{
	if (seen >= b.least && seen <= b.most + j->spare)
		return;
	printf("%sFAULT counts: %" PRIu64 " %s on cluster %u, %s; clients sent %" PRIu64 " to %" PRIu64 " (and %" PRIu64
	       " segments again)\n",
	       j->prefix, seen, what, cluster, phases[phase], b.least, b.most, j->spare);
	j->good = false;
}

static void total(struct judge *j, uint64_t seen, uint64_t least, uint64_t most, const char *what)
{
	if (seen >= least && seen <= most)
		return;
	printf("%sFAULT counts: %" PRIu64 " %s; clients sent %" PRIu64 " to %" PRIu64 "\n", j->prefix, seen, what,
	       least, most);
	j->good = false;
}

uint64_t counts_held(const struct counts *s)
{
	uint64_t held = 0;

	for (unsigned c = 1; c <= PLACE_CLUSTERS; c++)
		for (unsigned p = 0; p < COUNT_PHASES; p++)
			held += s->at[c][p].held;
	return held;
}

bool counts_agree(const struct counts *s, const struct history *h, const struct net_counts *net,
		  const struct hist_kill *away, const char *prefix)
{
	struct judge j = {.prefix = prefix, .good = true};
	uint64_t packets = 0, requests = 0, writes = 0, held = 0, sure = 0;
	struct expected e;

	expect_all(&e, h, away);
	for (unsigned c = 1; c <= PLACE_CLUSTERS; c++)
		for (unsigned p = 0; p < COUNT_PHASES; p++) {
			packets += s->at[c][p].packets;
			requests += s->at[c][p].requests;
			writes += s->at[c][p].writes;
			held += s->at[c][p].held;
			sure += e.requests[c][p].least;
		}
	printf("%scounts: %" PRIu64 " packets seen, %" PRIu64 " requests, %" PRIu64 " of them writes, %" PRIu64
	       " held, %" PRIu64 " passed up in a change; clients: %" PRIu64 " packets, %" PRIu64 " requests (%" PRIu64
	       " of known place and phase), %" PRIu64 " writes, %" PRIu64 " segments sent again\n",
	       prefix, s->seen, requests, writes, held, s->passed_up, net->packets, e.n_requests, sure, e.n_writes,
	       net->again);
	/* A held segment is sent again at least once. */
	total(&j, held, 0, net->again, "requests held");
	j.spare = net->again > held ? net->again - held : 0;
	total(&j, s->seen, net->packets, net->packets, "packets");
	total(&j, packets, requests + held, requests + held, "packets of requests");
	total(&j, packets + s->passed_over + s->passed_up, s->seen, s->seen, "packets, counted in one place each");
	total(&j, requests + s->passed_up, e.n_requests, e.n_requests + j.spare, "requests");
	total(&j, writes, e.n_writes - s->passed_up, e.n_writes + j.spare, "writes");
	for (unsigned c = 1; c <= PLACE_CLUSTERS; c++)
		for (unsigned p = 0; p < COUNT_PHASES; p++) {
			within(&j, s->at[c][p].requests, e.requests[c][p], "requests", c, p);
			within(&j, s->at[c][p].writes, e.writes[c][p], "writes", c, p);
		}
	return j.good;
}
