/* SPDX-License-Identifier: MIT
 * `berth bpf stats`, and the lines of `top` that come from it: what packet programs counted, by cluster and phase, and
 * why they passed over the rest. Read from the pinned maps; no daemon is asked. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpf.h"
#include "instance.h"
#include "text.h"
#include "walk.h"

/* X(field, heading) of struct mirror_counts */
#define COUNTS(X) \
	X(packets, ">PACKETS") \
	X(bytes, ">BYTES") \
	X(requests, ">REQUESTS") \
	X(writes, ">WRITES") \
	X(held, ">HELD")

static const struct {
	const char *name, *text;
} events[] = {
#define EVENT(name, text) {#name, text},
	MIRROR_EVENTS_TABLE(EVENT)
#undef EVENT
};

/* "NOT_HTTP" -> "not-http" */
static const char *event_name(const char *name, char out[32])
{
	size_t i;

	for (i = 0; i < 31 && name[i]; i++)
		out[i] = name[i] == '_' ? '-' : (char)tolower((unsigned char)name[i]);
	out[i] = '\0';
	return out;
}

struct programs_stats *bpf_stats_read(const struct tool *t)
{
	struct programs_stats *stats;
	struct mirror_control control;
	struct programs_fault fault;

	if (programs_mirror(t->path, &control, &fault) != 0 ||
	    memcmp(control.uuid, t->root->uuid, sizeof(control.uuid)) != 0)
		return NULL;
	stats = malloc(sizeof(*stats));
	if (!stats)
		tool_no_memory();
	if (programs_stats(t->path, stats, &fault) == 0)
		return stats;
	free(stats);
	return NULL;
}

/* The id of a cluster; "number 7" when there is no such one, or no instance to ask. */
static void name_cluster(struct tool *t, unsigned number, char out[SHM_CLUSTER_ID_MAX + 1])
{
	struct cluster_copy copy;
	bool known = false;

	if (number == 0) {
		snprintf(out, SHM_CLUSTER_ID_MAX + 1, "above %u", MIRROR_STATS_CLUSTERS - 1);
		return;
	}
	if (t->root && SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_acquire)) != 0 &&
	    instance_section(t) == EXIT_DONE) {
		known = cluster_read(&t->map, number, &copy) == ROW_OK;
		instance_section_end(t);
	}
	if (known)
		snprintf(out, SHM_CLUSTER_ID_MAX + 1, "%s", copy.id);
	else
		snprintf(out, SHM_CLUSTER_ID_MAX + 1, "number %u", number);
}

static bool any(const struct mirror_counts *c)
{
	return c->packets | c->requests | c->held;
}

json_t *bpf_stats_json(struct tool *t, const struct programs_stats *stats)
{
	json_t *lines = json_array();
	char cluster[SHM_CLUSTER_ID_MAX + 1];

	for (unsigned i = 0; lines && i < MIRROR_STATS; i++) {
		const struct mirror_counts *c = &stats->counts[i];
		if (!any(c))
			continue;
		json_t *line = tool_object();
		name_cluster(t, i / MIRROR_PHASES, cluster);
		tool_set(line, "cluster", text_json(cluster, strlen(cluster)));
		tool_set_u64(line, "number", i / MIRROR_PHASES);
		tool_set(line, "phase", json_string(row_phase(i % MIRROR_PHASES)));
#define FIELD(name, heading) tool_set_u64(line, #name, c->name);
		COUNTS(FIELD)
#undef FIELD
		if (json_array_append_new(lines, line) != 0)
			tool_no_memory();
	}
	if (!lines)
		tool_no_memory();
	return lines;
}

static void put_json(struct tool *t, const struct programs_stats *stats)
{
	json_t *line = tool_object(), *counted = tool_object();
	char name[32];

	for (unsigned i = 0; i < MIRROR_EVENTS; i++)
		tool_set_u64(counted, event_name(events[i].name, name), stats->events[i]);
	tool_set(line, "counts", bpf_stats_json(t, stats));
	tool_set(line, "events", counted);
	tool_print_json(line);
}

static void put_text(struct tool *t, const struct programs_stats *stats)
{
	struct grid counts, passed;
	char cluster[SHM_CLUSTER_ID_MAX + 1];
	bool some = false;

#define HEADING(name, heading) , heading
	grid_start(&counts, "CLUSTER", "PHASE" COUNTS(HEADING));
#undef HEADING
	for (unsigned i = 0; i < MIRROR_STATS; i++) {
		const struct mirror_counts *c = &stats->counts[i];
		if (!any(c))
			continue;
		some = true;
		name_cluster(t, i / MIRROR_PHASES, cluster);
		grid_text(&counts, cluster);
		grid_text(&counts, row_phase(i % MIRROR_PHASES));
#define CELL(name, heading) grid_u64(&counts, c->name);
		COUNTS(CELL)
#undef CELL
	}
	if (some)
		grid_flush(&counts, stdout);
	grid_end(&counts);
	some = false;
	grid_start(&passed, ">COUNT", "OF");
	for (unsigned i = 0; i < MIRROR_EVENTS; i++) {
		if (!stats->events[i])
			continue;
		some = true;
		grid_u64(&passed, stats->events[i]);
		grid_text(&passed, events[i].text);
	}
	if (some)
		grid_flush(&passed, stdout);
	else
		printf("nothing was counted yet\n");
	grid_end(&passed);
}

int bpf_stats(struct tool *t, const struct arguments *a)
{
	struct programs_stats *stats;
	struct programs_fault fault;
	int rc = bpf_open(t, true);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	stats = malloc(sizeof(*stats));
	if (!stats)
		tool_no_memory();
	if (programs_stats(t->path, stats, &fault) != 0)
		rc = bpf_fail(t, &fault);
	else if (t->json)
		put_json(t, stats);
	else
		put_text(t, stats);
	free(stats);
	return rc;
}

/* ---- top ---- */

void bpf_stats_put(struct tool *t, const struct programs_stats *now, const struct programs_stats *before, uint64_t ms,
		   FILE *out)
{
	const char *unit = before && ms ? "/S" : "";
	char cluster[SHM_CLUSTER_ID_MAX + 1], packets[16], requests[16], writes[16];
	struct grid grid;
	bool some = false;

	snprintf(packets, sizeof(packets), ">PACKETS%s", unit);
	snprintf(requests, sizeof(requests), ">REQUESTS%s", unit);
	snprintf(writes, sizeof(writes), ">WRITES%s", unit);
	grid_start(&grid, "CLUSTER", "PHASE", packets, requests, writes);
	for (unsigned i = 0; i < MIRROR_STATS; i++) {
		struct mirror_counts c = now->counts[i];
		if (!any(&c))
			continue;
		if (before && ms) {
			const struct mirror_counts *b = &before->counts[i];
			c.packets = c.packets >= b->packets ? (c.packets - b->packets) * 1000 / ms : 0;
			c.requests = c.requests >= b->requests ? (c.requests - b->requests) * 1000 / ms : 0;
			c.writes = c.writes >= b->writes ? (c.writes - b->writes) * 1000 / ms : 0;
		}
		some = true;
		name_cluster(t, i / MIRROR_PHASES, cluster);
		grid_text(&grid, cluster);
		grid_text(&grid, row_phase(i % MIRROR_PHASES));
		grid_u64(&grid, c.packets);
		grid_u64(&grid, c.requests);
		grid_u64(&grid, c.writes);
	}
	if (some) {
		fputc('\n', out);
		grid_flush(&grid, out);
	}
	grid_end(&grid);
}
