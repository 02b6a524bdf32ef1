/* SPDX-License-Identifier: MIT
 * torture_crash.h: changes, each asked for until it is done: acknowledged, or found done after a death. One thread. */
#include "torture_crash.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "readers_loop.h"

static json_t *placement_of(unsigned cell, unsigned cluster, unsigned version)
{
	char text[READERS_JSON_SIZE];

	return json_loads(readers_placement(text, cell, cluster, version), 0, NULL);
}

static json_t *settled(unsigned cell, unsigned cluster, unsigned version)
{
	return json_pack("{s:o}", "at", placement_of(cell, cluster, version));
}

static void tell_change(struct crash *c, unsigned cell, const json_t *state)
{
	if (c->readers.n && cell != CR_DEFAULT)
		readers_may_change(&c->readers, cell, state ? PRESENT : ABSENT);
}

static void flight_add(struct crash *c, unsigned cell, unsigned cluster, json_t *state)
{
	struct cr_flight *f = &c->flight;

	f->items[f->n].cell = cell;
	f->items[f->n].cluster = cluster;
	f->items[f->n++].state = state;
}

static void flight_begin(struct crash *c)
{
	memset(&c->flight, 0, sizeof c->flight);
	c->flight.whole = c->flight.ordered = true;
	if (!cr_durable(c))
		c->flight.whole = false;
}

static void flight_end(struct crash *c)
{
	for (unsigned i = 0; i < c->flight.n; i++)
		json_decref(c->flight.items[i].state);
	memset(&c->flight, 0, sizeof c->flight);
}

static bool flight_landed(const struct crash *c)
{
	const struct cr_flight *f = &c->flight;

	for (unsigned i = 0; i < f->n; i++)
		if (!cr_same(c->cells[f->items[i].cell].state, f->items[i].state))
			return false;
	return f->n_cluster == 0 || c->endpoints[f->n_cluster] == f->endpoint ||
	       (f->endpoint && c->endpoints[f->n_cluster] && strcmp(c->endpoints[f->n_cluster], f->endpoint) == 0);
}

/* Until it is done: acknowledged, or found done after a death. refused: a code that is no failure; then false. params
 * and flight: taken. file: a document; NULL: none. */
static bool perform(struct crash *c, const char *method, json_t *params, const char *file, const char *refused)
{
	bool done = true;

	cr_counts.operations++;
	do {
		int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
		const json_t *error;
		json_t *answer;

		for (unsigned i = 0; i < c->flight.n; i++)
			tell_change(c, c->flight.items[i].cell, c->flight.items[i].state);
		answer = cr_ask(c, method, json_incref(params), fd);
		error = json_object_get(answer, "error");
		if (fd >= 0)
			close(fd);
		if (!answer) {
			cr_settle(c);
			continue;
		}
		if (error && refused && strcmp(text_of(json_object_get(error, "data"), "code"), refused) == 0) {
			done = false;
			json_decref(answer);
			cr_settle(c); /* it changed nothing */
			break;
		}
		if (error)
			fail_msg("%s: %s %s is answered %s\n%s", c->where, method, json_dumps(params, 0),
				 json_dumps(answer, 0), cr_log(c));
		c->flight.acknowledged = true;
		c->flight.epoch =
			(uint64_t)json_integer_value(json_object_get(json_object_get(answer, "result"), "epoch"));
		json_decref(answer);
		cr_settle(c);
		if (c->flight.epoch > c->highest) /* also of what is not there any more */
			c->highest = c->flight.epoch;
	} while (!flight_landed(c));
	json_decref(params);
	flight_end(c);
	return done;
}

static json_t *naming(unsigned key)
{
	char text[READERS_KEY_SIZE];

	readers_key(text, key);
	return json_pack("{s:s}", "partition", text);
}

void cr_set(struct crash *c, unsigned key, unsigned cluster, bool force)
{
	json_t *params = naming(key);

	flight_begin(c);
	c->cells[key].version++;
	json_object_set_new(params, "placement", placement_of(key, cluster, c->cells[key].version));
	if (force)
		json_object_set_new(params, "force", json_true());
	flight_add(c, key, cluster, settled(key, cluster, c->cells[key].version));
	perform(c, "set", params, NULL, NULL);
}

void cr_set_many(struct crash *c, unsigned first, unsigned n, unsigned cluster)
{
	json_t *keys = json_array();
	json_t *params = json_pack("{s:o, s:o}", "partitions", keys, "placement", placement_of(4, cluster, 0));
	char key[READERS_KEY_SIZE];

	flight_begin(c);
	for (unsigned i = first; i < first + n; i++) {
		if (readers_kind(i) != BERTH_DEDICATED_CLUSTER || c->cells[i].state)
			continue;
		readers_key(key, i);
		json_array_append_new(keys, json_string(key));
		flight_add(c, i, cluster, settled(i, cluster, 0));
	}
	assert_true(c->flight.n > 0);
	perform(c, "set", params, NULL, NULL);
}

void cr_remove(struct crash *c, unsigned key)
{
	json_t *params = naming(key);

	flight_begin(c);
	json_object_set_new(params, "force", json_true());
	flight_add(c, key, 0, NULL);
	perform(c, "remove", params, NULL, NULL);
}

void cr_begin(struct crash *c, unsigned key, unsigned cluster)
{
	json_t *params = naming(key), *to;

	flight_begin(c);
	c->cells[key].version++;
	to = placement_of(key, cluster, c->cells[key].version);
	json_object_set(params, "to", to);
	flight_add(c, key, 0,
		   json_pack("{s:s, s:O, s:o}", "phase", "draining", "at", json_object_get(c->cells[key].state, "at"),
			     "to", to));
	perform(c, "begin", params, NULL, NULL);
}

void cr_cutover(struct crash *c, unsigned key)
{
	json_t *state = json_copy(c->cells[key].state);

	flight_begin(c);
	json_object_set_new(state, "phase", json_string("cutover"));
	flight_add(c, key, 0, state);
	perform(c, "cutover", naming(key), NULL, NULL);
}

void cr_abort(struct crash *c, unsigned key)
{
	flight_begin(c);
	flight_add(c, key, 0, json_pack("{s:O}", "at", json_object_get(c->cells[key].state, "at")));
	perform(c, "abort", naming(key), NULL, NULL);
}

bool cr_complete(struct crash *c, unsigned key, bool force, unsigned wait_ms)
{
	json_t *params = naming(key), *to = json_object_get(c->cells[key].state, "to");

	flight_begin(c);
	if (force)
		json_object_set_new(params, "force", json_true());
	if (wait_ms)
		json_object_set_new(params, "wait_ms", json_integer((json_int_t)wait_ms));
	flight_add(c, key, (unsigned)strtoul(text_of(to, "cluster") + 1, NULL, 10), json_pack("{s:O}", "at", to));
	return perform(c, "complete", params, NULL, "barrier-pending");
}

void cr_default(struct crash *c, unsigned cluster)
{
	json_t *params = json_pack("{s:b}", "force", 1);

	flight_begin(c);
	if (cluster)
		json_object_set_new(params, "placement", placement_of(4, cluster, 0));
	flight_add(c, CR_DEFAULT, cluster, cluster ? settled(4, cluster, 0) : NULL);
	perform(c, cluster ? "default.set" : "default.unset", params, NULL, NULL);
}

void cr_cluster(struct crash *c, unsigned cluster, const char *endpoint)
{
	char id[16];

	snprintf(id, sizeof id, "c%u", cluster);
	flight_begin(c);
	c->flight.n_cluster = cluster;
	c->flight.endpoint = endpoint;
	perform(c, endpoint ? "cluster.set" : "cluster.remove",
		endpoint ? json_pack("{s:s, s:s}", "id", id, "endpoint", endpoint) : json_pack("{s:s}", "id", id), NULL,
		NULL);
}

void cr_load(struct crash *c, const struct cr_document *doc)
{
	json_t *whole = json_object(), *partitions = json_object(), *params = json_object();
	char key[READERS_KEY_SIZE], id[16], path[128], *text;

	flight_begin(c);
	c->flight.ordered = false;
	for (unsigned i = doc->first; i < doc->first + doc->n; i++) {
		unsigned version = ++c->cells[i].version;

		readers_key(key, i);
		json_object_set_new(partitions, key, placement_of(i, doc->cluster, version));
		if (readers_kind(i) != BERTH_DEDICATED_CLUSTER || !c->cells[i].state ||
		    c->cells[i].cluster != doc->cluster) /* else it is so already */
			flight_add(c, i, doc->cluster, settled(i, doc->cluster, version));
	}
	for (unsigned i = doc->gone; i < doc->gone + doc->n_gone; i++)
		flight_add(c, i, 0, NULL);
	json_object_set_new(whole, "partitions", partitions);
	if (doc->made_cluster) {
		snprintf(id, sizeof id, "c%u", doc->made_cluster);
		json_object_set_new(whole, "clusters", json_pack("{s:{s:s}}", id, "endpoint", doc->endpoint));
		c->flight.n_cluster = doc->made_cluster;
		c->flight.endpoint = doc->endpoint;
	}
	if (doc->n_gone)
		json_object_set_new(params, "prune", json_true());
	if (doc->override)
		json_object_set_new(params, "override", json_true());
	text = json_dumps(whole, 0);
	daemon_file(c->d, "document", text, path);
	free(text);
	json_decref(whole);
	perform(c, "load", params, path, NULL);
}
