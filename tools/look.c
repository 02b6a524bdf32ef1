/* SPDX-License-Identifier: MIT
 * Commands that read the table alone: list, clusters, dump, get. They work on a dead daemon. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shm/index.h"
#include "commands.h"
#include "instance.h"
#include "text.h"
#include "walk.h"

static int write_memory(const char *bytes, size_t n, void *out)
{
	return fwrite(bytes, 1, n, out) == n ? 0 : -1;
}

static void put_line(json_t *json, FILE *out)
{
	json_dump_callback(json, write_memory, out, JSON_COMPACT);
	fputc('\n', out);
	json_decref(json);
}

static void print_batch(void *arg, const char *text, size_t len)
{
	(void)arg;
	fwrite(text, 1, len, stdout);
}

/* ---- list ---- */

static void list_json(void *arg, const struct row *row, FILE *out)
{
	const struct shm_detail *d = placement_detail(&row->at);
	json_t *line = tool_object();

	(void)arg;
	tool_set(line, "partition", text_json(row->key, row->key_len));
	tool_set(line, "phase", json_string(row_phase(word_phase(row->word))));
	tool_set(line, "cluster", text_json(row->at.cluster, strlen(row->at.cluster)));
	if (word_phase(row->word) != PHASE_SETTLED)
		tool_set(line, "to", text_json(row->to.cluster, strlen(row->to.cluster)));
	tool_set(line, "mode", json_string(row_mode(d->kind)));
	tool_set(line, "index", text_json(detail_index(d), d->index_len));
	tool_set_u64(line, "epoch", word_epoch(row->word));
	put_line(line, out);
}

static void list_row(void *arg, const struct row *row, FILE *out)
{
	const struct shm_detail *d = placement_detail(&row->at);
	struct grid *grid = arg;
	char cluster[2 * SHM_CLUSTER_ID_MAX + 8];
	bool moves = word_phase(row->word) != PHASE_SETTLED;

	(void)out;
	snprintf(cluster, sizeof(cluster), "%s%s%s", row->at.cluster, moves ? " -> " : "",
		 moves ? row->to.cluster : "");
	grid_cell(grid, row->key, row->key_len);
	grid_text(grid, row_phase(word_phase(row->word)));
	grid_text(grid, cluster);
	grid_text(grid, row_mode(d->kind));
	grid_cell(grid, detail_index(d), d->index_len);
	grid_u64(grid, word_epoch(row->word));
}

static void list_batch(void *arg, const char *text, size_t len)
{
	(void)text;
	(void)len;
	grid_flush(arg, stdout);
}

static void list_discard(void *arg)
{
	struct grid *grid = arg;

	grid->len = 0;
}

int look_list(struct tool *t, const struct arguments *a)
{
	struct grid grid;
	struct walk walk = {.each = list_json, .batch = print_batch};
	uint64_t n_damaged = 0;
	int rc = instance_open_table(t);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	grid_start(&grid, "PARTITION", "PHASE", "CLUSTER", "MODE", "INDEX", ">EPOCH");
	if (!t->json)
		walk = (struct walk){.each = list_row, .batch = list_batch, .discard = list_discard, .arg = &grid};
	rc = walk_rows(t, &walk, &n_damaged);
	if (!t->json && rc == EXIT_DONE)
		grid_flush(&grid, stdout); /* the headings, when there was no row */
	grid_end(&grid);
	return rc == EXIT_DONE ? walk_verdict(t, n_damaged) : rc;
}

/* ---- clusters ---- */

int look_clusters(struct tool *t, const struct arguments *a)
{
	struct cluster_copy *list = NULL;
	struct grid grid;
	uint64_t n_damaged = 0;
	size_t n = 0;
	int rc = instance_open_table(t);

	(void)a;
	if (rc == EXIT_DONE)
		rc = walk_clusters(t, &list, &n, &n_damaged);
	if (rc != EXIT_DONE)
		return rc;
	grid_start(&grid, "CLUSTER", ">NUMBER", "ENDPOINT");
	for (size_t i = 0; i < n; i++) {
		if (t->json) {
			json_t *line = tool_object();
			tool_set(line, "id", text_json(list[i].id, strlen(list[i].id)));
			tool_set_u64(line, "number", list[i].number);
			tool_set(line, "endpoint", text_json(list[i].endpoint, strlen(list[i].endpoint)));
			put_line(line, stdout);
		} else {
			grid_text(&grid, list[i].id);
			grid_u64(&grid, list[i].number);
			grid_text(&grid, list[i].endpoint[0] ? list[i].endpoint : "-");
		}
	}
	if (!t->json)
		grid_flush(&grid, stdout);
	grid_end(&grid);
	free(list);
	return walk_verdict(t, n_damaged);
}

/* ---- dump ---- */

static void dump_row(void *arg, const struct row *row, FILE *out)
{
	json_t *line = tool_object();

	(void)arg;
	tool_set(line, "partition", text_json(row->key, row->key_len));
	tool_set_u64(line, "epoch", word_epoch(row->word));
	tool_set(line, "state", row_state(row));
	put_line(line, out);
}

/* What heads a dump: nothing that differs between generations or writers of one table. */
static int dump_head(struct tool *t, uint64_t *n_damaged)
{
	struct row dflt;
	enum row_result found;
	uint64_t epoch, version;

	do {
		int rc = instance_section(t);
		if (rc != EXIT_DONE)
			return rc;
		found = row_read_default(&t->map, &dflt);
		epoch = atomic_load_explicit(&t->map.table->epoch, memory_order_relaxed);
		version = atomic_load_explicit(&t->map.table->document_version, memory_order_relaxed);
	} while (!instance_section_end(t));

	json_t *head = tool_object(), *line = tool_object();
	tool_set_u64(head, "epoch", epoch);
	tool_set_u64(head, "document_version", version);
	tool_set(line, "dump", head);
	put_line(line, stdout);

	struct cluster_copy *list = NULL;
	size_t n = 0;
	int rc = walk_clusters(t, &list, &n, n_damaged);
	for (size_t i = 0; rc == EXIT_DONE && i < n; i++) {
		line = tool_object();
		tool_set(line, "cluster", text_json(list[i].id, strlen(list[i].id)));
		tool_set_u64(line, "number", list[i].number);
		tool_set(line, "endpoint", text_json(list[i].endpoint, strlen(list[i].endpoint)));
		put_line(line, stdout);
	}
	free(list);
	*n_damaged += found == ROW_DAMAGED;
	if (rc == EXIT_DONE && found == ROW_OK) {
		json_t *body = tool_object();
		tool_set_u64(body, "epoch", word_epoch(dflt.word));
		tool_set(body, "state", row_state(&dflt));
		line = tool_object();
		tool_set(line, "default", body);
		put_line(line, stdout);
	}
	return rc;
}

int look_dump(struct tool *t, const struct arguments *a)
{
	const struct walk walk = {.each = dump_row, .batch = print_batch};
	uint64_t head_damaged = 0, n_damaged = 0;
	int rc = instance_open_table(t);

	(void)a;
	if (rc == EXIT_DONE)
		rc = dump_head(t, &head_damaged);
	if (rc == EXIT_DONE)
		rc = walk_rows(t, &walk, &n_damaged);
	return rc == EXIT_DONE ? walk_verdict(t, head_damaged + n_damaged) : rc;
}

/* ---- get ---- */

/* One look, inside a section: the entry, or the default when there is none and it stood meanwhile. */
static enum row_result find(const struct tool *t, const char *key, size_t len, struct row *row, bool *is_default)
{
	const struct seg_map *m = &t->map;
	uint64_t hash = hash_key(t->root->secret, key, len), word;
	const struct shm_entry *e;

	for (int i = 0; i < 100; i++) {
		/* Acquire, before the probe: a miss counts against this default only. */
		uint64_t dflt = atomic_load_explicit(&m->table->dflt.word, memory_order_acquire);
		int found = index_find(m, key, len, hash, false, &e, &word);

		if (found < 0)
			return ROW_DAMAGED;
		*is_default = found == 0;
		if (found) {
			enum row_result rc = row_read(m, (uint32_t)(e - m->entries), row);
			bool same = rc != ROW_NONE && row->key_len == len && memcmp(row->key, key, len) == 0;
			if (rc == ROW_DAMAGED || (rc == ROW_OK && same))
				return rc;
			continue; /* removed just now */
		}
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&m->table->dflt.word, memory_order_relaxed) != dflt)
			continue;
		enum row_result rc = row_read_default(m, row);
		if (rc != ROW_OK || row->word == dflt)
			return rc;
	}
	return ROW_RESTLESS;
}

static void tell_placement(const char *title, const struct placement *p)
{
	const struct shm_detail *d = placement_detail(p);
	struct detail_inject pair;
	char shown[4 * SHM_RECORD_MAX], value[4 * SHM_RECORD_MAX];

	printf("%-10s %s\n", title, p->cluster);
	printf("  mode     %s\n", row_mode(d->kind));
	if (d->index_len)
		printf("  index    %s\n", text_escape(shown, sizeof(shown), detail_index(d), d->index_len));
	for (unsigned i = 0; detail_inject(d, i, &pair); i++)
		printf("  inject   %s = %s\n", text_escape(shown, sizeof(shown), pair.field, pair.field_len),
		       pair.kind == INJECT_PARTITION ? "(the partition's id)"
						     : text_escape(value, sizeof(value), pair.value, pair.value_len));
}

static void tell_row(const struct tool *t, const char *key, size_t len, const struct row *row, bool is_default)
{
	unsigned phase = word_phase(row->word);
	char shown[TEXT_KEY];

	if (t->json) {
		json_t *line = tool_object();
		tool_set(line, "partition", text_json(key, len));
		tool_set_u64(line, "epoch", word_epoch(row->word));
		tool_set(line, "is_default", json_boolean(is_default));
		tool_set(line, "state", row_state(row));
		put_line(line, stdout);
		return;
	}
	printf("%-10s %s%s\n", "partition", text_escape(shown, sizeof(shown), key, len),
	       is_default ? " (no placement of its own: the default answers)" : "");
	printf("%-10s %s%s\n", "phase", row_phase(phase),
	       phase == PHASE_DRAINING  ? " (being moved; reads and writes go to the old cluster)"
	       : phase == PHASE_CUTOVER ? " (being moved; reads go to the old cluster, writes are held back)"
					: "");
	printf("%-10s %" PRIu64 "\n", "epoch", word_epoch(row->word));
	tell_placement("cluster", &row->at);
	if (phase != PHASE_SETTLED)
		tell_placement("moves to", &row->to);
}

int look_get(struct tool *t, const struct arguments *a)
{
	const char *key = a->operand;
	size_t len = strlen(key);
	struct row row;
	enum row_result found;
	bool is_default = false;

	if (len == 0 || len > SHM_KEY_MAX)
		return tool_fail(t, EXIT_USAGE, "invalid", "partition id of %zu bytes: give 1 to %u", len, SHM_KEY_MAX);
	int rc = instance_open_table(t);
	if (rc != EXIT_DONE)
		return rc;
	do {
		rc = instance_section(t);
		if (rc != EXIT_DONE)
			return rc;
		found = find(t, key, len, &row, &is_default);
	} while (!instance_section_end(t));
	if (found == ROW_OK)
		tell_row(t, key, len, &row, is_default);
	else if (found == ROW_NONE)
		return tool_fail(t, EXIT_REFUSED, "unknown-partition",
				 "partition %s has no placement, and there is no default: place it with `berth set`",
				 key);
	else if (found == ROW_DAMAGED)
		return tool_fail(t, EXIT_DAMAGE, "corrupt",
				 "the entry of partition %s is damaged: run `berth verify`, then restart berthd", key);
	else
		return tool_fail(t, EXIT_REFUSED, "busy", "the entry of partition %s changes all the time: try again",
				 key);
	return EXIT_DONE;
}
