/* SPDX-License-Identifier: MIT
 * `berth cursors`: how many pins there are, where they lead and whose they are; read from cursors.<generation>, with a
 * daemon or without. The file holds hashes: owners get their names by hashing every partition of the table. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../shm/hash.h"
#include "commands.h"
#include "cursor_count.h"
#include "instance.h"
#include "ledger.h"
#include "text.h"

#define OWNERS 10u /* shown, unless --limit says otherwise */

static const char *cluster_name(const struct census *c, unsigned number)
{
	for (size_t i = 0; i < c->n_clusters; i++)
		if (c->clusters[i].number == number)
			return c->clusters[i].id;
	return NULL;
}

/* Of an owner without a name, for people: a hash of the hash, since pins rest on hashes that nobody gets to see. */
static char *owner_mark(const struct tool *t, const struct owner *o, char out[20])
{
	snprintf(out, 20, "%016" PRIx64, hash_key(t->root->secret, (const void *)&o->hash, sizeof(o->hash)));
	return out;
}

enum thread { THREAD_NONE, THREAD_RUNS, THREAD_SLEEPS };

static enum thread thread_of(const struct tool *t, bool up)
{
	struct ledger l;

	if (!up || ledger_open(t, &l) != BERTH_OK)
		return THREAD_NONE;
	bool sleeps = atomic_load_explicit(&l.header->cursor_sleeping, memory_order_relaxed) != 0;
	ledger_close(&l);
	return sleeps ? THREAD_SLEEPS : THREAD_RUNS;
}

static uint64_t oldest_age(const struct census *c)
{
	return c->now_ms > c->oldest_ms ? c->now_ms - c->oldest_ms : 0;
}

static void append(json_t *list, json_t *item)
{
	if (json_array_append_new(list, item) != 0)
		tool_no_memory();
}

static void tell_json(const struct tool *t, const struct census *c, bool up)
{
	enum thread thread = thread_of(t, up);
	json_t *line = tool_object(), *clusters = json_array(), *owners = json_array();
	char mark[20];

	tool_set(line, "enabled", json_true());
	tool_set(line, "writer", json_string(up ? "up" : "down"));
	tool_set_u64(line, "generation", c->map.generation);
	tool_set_u64(line, "pins", c->n_pins);
	tool_set_u64(line, "not_swept", c->n_not_swept);
	tool_set(line, "oldest_ms_ago", c->n_pins ? json_integer((json_int_t)oldest_age(c)) : json_null());
	cursor_file_counters(&c->map, line);
	tool_set(line, "sleeping", thread == THREAD_NONE ? json_null() : json_boolean(thread == THREAD_SLEEPS));
	for (unsigned n = 0; n <= SHM_CLUSTERS_MAX; n++) {
		if (c->by_cluster[n] == 0)
			continue;
		const char *id = cluster_name(c, n);
		json_t *row = tool_object();
		tool_set(row, "id", id ? text_json(id, strlen(id)) : json_null());
		tool_set_u64(row, "number", n);
		tool_set_u64(row, "pins", c->by_cluster[n]);
		append(clusters, row);
	}
	for (size_t i = 0; i < c->n_shown; i++) {
		const struct owner *o = &c->owners[i];
		json_t *row = tool_object();
		tool_set(row, "partition", o->name ? text_json(o->name, o->name_len) : json_null());
		if (!o->name)
			tool_set(row, "hash", json_string(owner_mark(t, o, mark)));
		tool_set_u64(row, "pins", o->n);
		append(owners, row);
	}
	tool_set(line, "clusters", clusters);
	tool_set_u64(line, "n_owners", c->n_owners);
	tool_set(line, "owners", owners);
	tool_print_json(line);
}

static void tell_summary(const struct tool *t, const struct census *c, bool up)
{
	static const char *const counters[][2] = {
		{"pinned", "pins made"}, {"refreshed", "made again"}, {"released", "released"},
		{"expired", "expired"},  {"evicted", "evicted"},      {"refused", "requests refused"},
	};
	static const char *const threads[] = {"no daemon answers", "runs", "sleeps"};
	const bool all = !c->cluster && !c->owner_name;
	char text[2 * TEXT_UNIT + 24], a[TEXT_UNIT], b[TEXT_UNIT];
	json_t *numbers = tool_object();
	struct grid g;

	cursor_file_counters(&c->map, numbers);
	uint64_t share = tool_u64(numbers, "owner_share");
	grid_start(&g, "", "");
	grid_text(&g, all ? "pins" : "pins of these");
	snprintf(text, sizeof(text), "%s of %s", text_count(a, c->n_pins), text_count(b, c->map.capacity));
	grid_text(&g, text);
	grid_text(&g, "expired, not swept yet");
	grid_text(&g, text_count(a, c->n_not_swept));
	grid_text(&g, "oldest");
	snprintf(text, sizeof(text), "pinned %s ago", text_duration(a, oldest_age(c)));
	grid_text(&g, c->n_pins ? text : "-");
	grid_text(&g, "ttl of those that name none");
	grid_text(&g, text_duration(a, tool_u64(numbers, "ttl_ms")));
	grid_text(&g, "one owner may have");
	grid_text(&g, share ? text_count(a, share) : "as many as there is room for");
	grid_text(&g, "daemon's cursor thread");
	grid_text(&g, threads[thread_of(t, up)]);
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		snprintf(text, sizeof(text), "%s%s", counters[i][1], all ? "" : ", of all");
		grid_text(&g, text);
		grid_text(&g, text_count(a, tool_u64(numbers, counters[i][0])));
	}
	grid_flush(&g, stdout);
	grid_end(&g);
	json_decref(numbers);
}

static void tell(const struct tool *t, const struct census *c, bool up)
{
	char text[80], mark[20], count[TEXT_UNIT];
	struct grid g;

	tell_summary(t, c, up);
	if (c->n_pins == 0)
		return;
	printf("\n");
	grid_start(&g, "CLUSTER", ">NUMBER", ">PINS");
	for (unsigned n = 0; n <= SHM_CLUSTERS_MAX; n++) {
		if (c->by_cluster[n] == 0)
			continue;
		const char *id = cluster_name(c, n);
		grid_text(&g, id ? id : "(not in the table)");
		grid_u64(&g, n);
		grid_text(&g, text_count(count, c->by_cluster[n]));
	}
	grid_flush(&g, stdout);
	grid_end(&g);
	printf("\n");
	grid_start(&g, "OWNER", ">PINS");
	for (size_t i = 0; i < c->n_shown; i++) {
		const struct owner *o = &c->owners[i];
		snprintf(text, sizeof(text), "(no partition of the table, hash %s)", owner_mark(t, o, mark));
		grid_cell(&g, o->name ? o->name : text, o->name ? o->name_len : strlen(text));
		grid_text(&g, text_count(count, o->n));
	}
	grid_flush(&g, stdout);
	grid_end(&g);
	if (c->n_owners > c->n_shown)
		printf("and %s more owners (--limit shows more)\n", text_count(count, c->n_owners - c->n_shown));
}

static int narrow(struct tool *t, const struct arguments *a, struct census *c)
{
	const char *cluster = a->value[OPT_CLUSTER], *owner = a->value[OPT_OWNER];

	for (size_t i = 0; cluster && i < c->n_clusters; i++)
		if (strcmp(c->clusters[i].id, cluster) == 0)
			c->cluster = c->clusters[i].number;
	if (cluster && !c->cluster)
		return tool_fail(t, EXIT_REFUSED, "unknown-cluster",
				 "cluster %s is not known: `berth clusters` lists those that are", cluster);
	if (owner && (!owner[0] || strlen(owner) > SHM_KEY_MAX))
		return tool_fail(t, EXIT_USAGE, "invalid", "--owner of %zu bytes: give 1 to %u", strlen(owner),
				 SHM_KEY_MAX);
	c->owner_name = owner;
	if (owner)
		c->owner = cursor_owner(&c->map.file->keys, owner, strlen(owner));
	return EXIT_DONE;
}

static int tell_none(const struct tool *t, bool up)
{
	if (t->json) {
		json_t *line = tool_object();
		tool_set(line, "enabled", json_false());
		tool_set(line, "writer", json_string(up ? "up" : "down"));
		tool_set_u64(line, "pins", 0);
		tool_print_json(line);
	} else {
		printf("no process uses pins: none has attached to %s with BERTH_CURSORS_PIN\n", t->path);
	}
	return EXIT_DONE;
}

static int count_and_tell(struct tool *t, const struct arguments *a, struct census *c, size_t limit, bool up)
{
	uint64_t n_damaged = 0;
	int rc = walk_clusters(t, &c->clusters, &c->n_clusters, &n_damaged);

	if (rc == EXIT_DONE)
		rc = narrow(t, a, c);
	if (rc != EXIT_DONE)
		return rc;
	c->now_ms = seg_clock_ms(CLOCK_BOOTTIME);
	rc = cursor_count(t, c, limit);
	if (rc != EXIT_DONE)
		return rc;
	if (t->json)
		tell_json(t, c, up);
	else
		tell(t, c, up);
	return walk_verdict(t, n_damaged);
}

int cursors_show(struct tool *t, const struct arguments *a)
{
	struct census c = {0};
	struct instance_pulse pulse;
	uint64_t limit = OWNERS;
	int rc = arguments_number(a, OPT_LIMIT, 1, 10000, &limit);

	if (rc == EXIT_DONE)
		rc = instance_open_table(t);
	if (rc != EXIT_DONE)
		return rc;
	instance_pulse(t, &pulse);
	bool up = pulse.exists && pulse.fresh;
	rc = cursor_file_open(t, &c.map);
	if (rc == EXIT_DONE && !c.map.file)
		return tell_none(t, up);
	if (rc == EXIT_DONE)
		rc = count_and_tell(t, a, &c, (size_t)limit, up);
	cursor_count_end(&c);
	cursor_map_close(&c.map);
	return rc;
}
