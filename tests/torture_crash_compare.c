/* SPDX-License-Identifier: MIT
 * torture_crash.h: the comparison of the model with what a writer says that was started again. A cell that is neither what
 * was acknowledged nor what the request in flight makes of it, an epoch that is not the acknowledged one, or not above all
 * before it, half of a request where the store keeps transactions: the test fails. One thread. */
#include "torture_crash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "readers_loop.h"

#define NOBODY "a-partition-that-nobody-places" /* the default answers */

bool cr_durable(const struct crash *c)
{
	return strcmp(c->scene->store, "sqlite") == 0;
}

static const char *cell_key(unsigned cell, char key[READERS_KEY_SIZE])
{
	if (cell == CR_DEFAULT)
		return NOBODY;
	readers_key(key, cell);
	return key;
}

static void tell_changed(struct crash *c, unsigned cell)
{
	if (c->readers.n && cell != CR_DEFAULT)
		readers_changed(&c->readers, cell, c->cells[cell].state ? PRESENT : ABSENT, c->cells[cell].epoch);
}

bool cr_same(const json_t *a, const json_t *b)
{
	return a == b || (a && b && json_equal(a, b));
}

struct found {
	json_t *state;
	uint64_t epoch;
};

/* Takes the answer. */
static void take_found(json_t *answer, unsigned cell, struct found *f)
{
	const json_t *result = json_object_get(answer, "result");

	*f = (struct found){0};
	if (result && is_true(result, "is_default") == (cell == CR_DEFAULT)) {
		f->state = json_incref(json_object_get(result, "state"));
		f->epoch = (uint64_t)int_of(result, "epoch");
	} else if (!result && strcmp(text_of(json_object_get(json_object_get(answer, "error"), "data"), "code"),
				     "unknown-partition") != 0) {
		fail_msg("get is answered %s", json_dumps(answer, 0));
	}
	json_decref(answer);
}

/* False: the daemon died. */
static bool look_up(struct crash *c, unsigned cell, struct found *f)
{
	char key[READERS_KEY_SIZE];
	json_t *answer = cr_ask(c, "get", json_pack("{s:s}", "partition", cell_key(cell, key)), -1);

	if (answer)
		take_found(answer, cell, f);
	return answer != NULL;
}

/* Asks for all at once: a round trip each would be most of a comparison. False: the daemon died. */
static bool look_up_all(struct crash *c, struct found found[CR_KEYS + 1])
{
	json_t *params[CR_KEYS + 1], *answers[CR_KEYS + 1];
	char key[READERS_KEY_SIZE];
	unsigned n = c->n_cells + 1;
	bool there;

	for (unsigned i = 0; i < n; i++)
		params[i] = json_pack("{s:s}", "partition", cell_key(i + 1 == n ? CR_DEFAULT : i, key));
	there = cr_ask_all(c, "get", n, params, answers);
	for (unsigned i = 0; there && i < n; i++)
		take_found(answers[i], i + 1 == n ? CR_DEFAULT : i, &found[i + 1 == n ? CR_DEFAULT : i]);
	return there;
}

static _Noreturn void differs(struct crash *c, unsigned cell, const struct found *f, const char *what)
{
	char key[READERS_KEY_SIZE];

	fail_msg("%s: %s is %s at epoch %llu; acknowledged is %s at epoch %llu; %s\n%s", c->where, cell_key(cell, key),
		 f->state ? json_dumps(f->state, JSON_COMPACT) : "nothing", (unsigned long long)f->epoch,
		 c->cells[cell].state ? json_dumps(c->cells[cell].state, JSON_COMPACT) : "nothing",
		 (unsigned long long)c->cells[cell].epoch, what, cr_log(c));
	abort(); /* fail_msg does not return */
}

/* The index in the flight; -1: it is not in it. */
static int in_flight(const struct crash *c, unsigned cell)
{
	for (unsigned i = 0; i < c->flight.n; i++)
		if (c->flight.items[i].cell == cell)
			return (int)i;
	return -1;
}

enum fate { IS_OLD, IS_NEW, IS_BOTH };

static enum fate judge_cell(struct crash *c, unsigned cell, const struct found *f, int flying)
{
	const struct cr_cell *is = &c->cells[cell];
	const json_t *new = flying < 0 ? NULL : c->flight.items[flying].state;
	bool old = cr_same(f->state, is->state) && (!f->state || f->epoch == is->epoch);
	uint64_t epoch = flying >= 0 ? c->flight.epoch : 0;

	if (epoch && !old && (epoch <= c->highest || (f->state && f->epoch != epoch && c->flight.n == 1))) {
		char text[96];

		snprintf(text, sizeof text, "epoch %llu was acknowledged, %llu had been before it",
			 (unsigned long long)epoch, (unsigned long long)c->highest);
		differs(c, cell, f, text);
	}
	if (flying >= 0 && cr_same(f->state, new) && (old || !f->state || f->epoch > c->highest))
		return old ? IS_BOTH : IS_NEW;
	if (!old)
		differs(c, cell, f,
			flying < 0 ? "nothing is in flight" : json_dumps(new, JSON_COMPACT | JSON_ENCODE_ANY));
	if (flying >= 0 && c->flight.acknowledged)
		differs(c, cell, f, "a change of it was acknowledged");
	return IS_OLD;
}

/* False: the daemon died. *n_old, *n_new: what became of the clusters' part of the flight is added. */
static bool compare_clusters(struct crash *c, unsigned *n_old, unsigned *n_new)
{
	json_t *answer = cr_ask(c, "clusters", NULL, -1), *row;
	const char *is[CR_CLUSTERS + 1] = {0};
	const struct cr_flight *f = &c->flight;
	size_t i;

	if (!answer)
		return false;
	json_array_foreach (json_object_get(json_object_get(answer, "result"), "clusters"), i, row)
		is[strtoul(text_of(row, "id") + 1, NULL, 10) % (CR_CLUSTERS + 1)] = text_of(row, "endpoint");
	for (unsigned k = 1; k <= CR_CLUSTERS; k++) {
		const char *old = c->endpoints[k];
		bool is_old = is[k] == old || (is[k] && old && strcmp(is[k], old) == 0);
		bool is_new = f->n_cluster == k &&
			      (is[k] == f->endpoint || (is[k] && f->endpoint && strcmp(is[k], f->endpoint) == 0));

		if (!is_new && (!is_old || (f->n_cluster == k && f->acknowledged)))
			fail_msg("%s: cluster c%u is `%s`, and not `%s`\n%s", c->where, k, is[k] ? is[k] : "(nothing)",
				 old ? old : "(nothing)", cr_log(c));
		*n_old += f->n_cluster == k && is_old && !is_new;
		*n_new += f->n_cluster == k && is_new && !is_old;
		if (is_new)
			c->endpoints[k] = f->endpoint;
	}
	json_decref(answer);
	return true;
}

/* False: the daemon died. */
static bool compare_counts(struct crash *c)
{
	json_t *answer = cr_ask(c, "status", NULL, -1);
	const json_t *s = json_object_get(answer, "result");
	json_int_t n = 0;

	if (!answer)
		return false;
	for (unsigned i = 0; i < c->n_cells; i++)
		n += c->cells[i].state != NULL;
	if (int_of(s, "partitions") != n || (uint64_t)int_of(s, "epoch") < c->highest)
		fail_msg("%s: %lld partitions and epoch %lld, and not %lld, and %llu at the least\n%s", c->where,
			 (long long)int_of(s, "partitions"), (long long)int_of(s, "epoch"), (long long)n,
			 (unsigned long long)c->highest, cr_log(c));
	json_decref(answer);
	return true;
}

static bool take_cell(struct crash *c, unsigned cell, const struct found *f, int flying, uint64_t *highest)
{
	struct cr_cell *is = &c->cells[cell];

	if (c->flight.items[flying].cluster)
		is->cluster = c->flight.items[flying].cluster;
	json_decref(is->state);
	is->state = json_incref(f->state);
	is->epoch = f->epoch;
	if (f->epoch > *highest)
		*highest = f->epoch;
	return true;
}

/* whole: not what is in flight alone. False: the daemon died. */
static bool compare(struct crash *c, bool whole)
{
	unsigned n_old = 0, n_new = 0;
	uint64_t highest = c->highest;
	struct cr_flight *f = &c->flight;
	struct found all[CR_KEYS + 1];
	bool gap = false;

	for (unsigned pass = 0; pass < f->n; pass++) { /* in the order of the request */
		struct found found;
		enum fate fate;

		if (!look_up(c, f->items[pass].cell, &found))
			return false;
		fate = judge_cell(c, f->items[pass].cell, &found, (int)pass);
		n_old += fate == IS_OLD;
		n_new += fate == IS_NEW;
		if (f->ordered && fate == IS_NEW && gap)
			differs(c, f->items[pass].cell, &found, "what comes before it in the request is not there");
		gap = gap || fate == IS_OLD;
		if (fate != IS_OLD) {
			take_cell(c, f->items[pass].cell, &found, (int)pass, &highest);
			tell_changed(c, f->items[pass].cell);
		}
		json_decref(found.state);
	}
	if (whole && !look_up_all(c, all))
		return false;
	for (unsigned cell = 0; whole && cell <= CR_DEFAULT; cell++) {
		if (cell >= c->n_cells && cell != CR_DEFAULT)
			continue;
		if (in_flight(c, cell) < 0)
			judge_cell(c, cell, &all[cell], -1);
		json_decref(all[cell].state);
	}
	if ((whole || f->n_cluster) && !compare_clusters(c, &n_old, &n_new))
		return false;
	if (f->whole && n_old && n_new)
		fail_msg("%s: a request was done in part: %u of its changes are there, %u are not\n%s", c->where, n_new,
			 n_old, cr_log(c));
	c->highest = highest;
	if (whole && !compare_counts(c))
		return false;
	for (unsigned i = 0; i < f->n; i++) /* what is not there is what it was */
		tell_changed(c, f->items[i].cell);
	if (c->readers.n)
		readers_check(&c->readers);
	cr_counts.comparisons += whole;
	return true;
}

void cr_settle(struct crash *c)
{
	bool died = c->d->pid == 0;

	assert_false(c->settling);
	c->settling = true;
	do {
		if (c->d->pid == 0) {
			cr_start(c);
			died = true;
		}
	} while (!compare(c, died));
	c->settling = false;
	if (died) {
		cr_recovered();
		if (c->recovered)
			c->recovered(c);
	}
}

void cr_compare(struct crash *c)
{
	if (cr_dead(c, false) || !compare(c, true))
		cr_settle(c);
}

void cr_forget(struct crash *c)
{
	for (unsigned i = 0; i <= CR_KEYS; i++) {
		json_decref(c->cells[i].state);
		c->cells[i] = (struct cr_cell){0};
	}
	memset(c->endpoints, 0, sizeof c->endpoints);
	c->highest = 0;
}
