/* SPDX-License-Identifier: MIT
 * Walking all rows in the order of their keys (walk.h): the slots of live entries are collected and sorted in one
 * section, then read in batches, a section each. A new generation has other slots: the walk goes on behind the last key
 * told. */
#include "walk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../shm/index.h"
#include "instance.h"
#include "text.h"

#define BATCH 1000u
#define RESTARTS 100

struct pick {
	uint64_t prefix; /* eight bytes of the key, behind what all keys have in common: compares as the key does */
	uint32_t slot;
	uint32_t hash; /* half of the entry's hash: another key has moved in when it differs */
};

struct picks {
	struct pick *at;
	size_t n, room;
};

struct place { /* where a walk stands */
	char last[SHM_KEY_MAX];
	size_t last_len; /* 0: at the start */
	uint64_t n_damaged;
};

/* As bytes; a key that is the start of another comes first. */
static int compare_keys(const void *a, size_t a_len, const void *b, size_t b_len)
{
	int order = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return order ? order : (a_len > b_len) - (a_len < b_len);
}

static const unsigned char *slot_key(const struct seg_map *m, uint32_t slot, size_t *len)
{
	const unsigned char *key = index_key(m, &m->entries[slot], len);

	*len = key && *len <= SHM_KEY_MAX ? *len : 0;
	return key ? key : (const unsigned char *)"";
}

static int compare_picks(const struct seg_map *m, const struct pick *a, const struct pick *b)
{
	size_t a_len, b_len;

	if (a->prefix != b->prefix)
		return a->prefix < b->prefix ? -1 : 1;
	const unsigned char *x = slot_key(m, a->slot, &a_len), *y = slot_key(m, b->slot, &b_len);
	return compare_keys(x, a_len, y, b_len);
}

/* Merging from the bottom up: whatever the comparisons say of damaged memory, it ends and stays in its arrays. */
static void sort_picks(const struct seg_map *m, struct picks *p)
{
	struct pick *from = p->at, *to = malloc((p->n ? p->n : 1) * sizeof(*to));

	if (!to)
		tool_no_memory();
	for (size_t run = 1; run < p->n; run *= 2) {
		for (size_t start = 0; start < p->n; start += 2 * run) {
			size_t middle = start + run < p->n ? start + run : p->n;
			size_t end = middle + run < p->n ? middle + run : p->n;
			size_t i = start, k = middle;
			for (size_t out = start; out < end; out++) {
				bool left = k == end || (i < middle && compare_picks(m, &from[i], &from[k]) <= 0);
				to[out] = left ? from[i++] : from[k++];
			}
		}
		struct pick *swap = from;
		from = to;
		to = swap;
	}
	p->at = from;
	p->room = p->n;
	free(to);
}

static uint64_t key_prefix(const unsigned char *key, size_t len, size_t skip)
{
	uint64_t prefix = 0;

	for (size_t i = 0; i < 8; i++)
		prefix = prefix << 8 | (skip + i < len ? key[skip + i] : 0u);
	return prefix;
}

/* Eight bytes from the place where keys begin to differ decide most comparisons without a look at the table. */
static void set_prefixes(const struct seg_map *m, struct picks *p)
{
	size_t common = SHM_KEY_MAX, first_len, len;

	if (p->n == 0)
		return;
	const unsigned char *first = slot_key(m, p->at[0].slot, &first_len);
	for (size_t i = 0; i < p->n; i++) {
		const unsigned char *key = slot_key(m, p->at[i].slot, &len);
		size_t most = len < first_len ? len : first_len, same = 0;
		most = most < common ? most : common;
		while (same < most && key[same] == first[same])
			same++;
		common = same;
	}
	for (size_t i = 0; i < p->n; i++) {
		const unsigned char *key = slot_key(m, p->at[i].slot, &len);
		p->at[i].prefix = key_prefix(key, len, common);
	}
}

static void collect(const struct seg_map *m, struct place *place, struct picks *p)
{
	p->n = 0;
	place->n_damaged = 0;
	for (uint32_t slot = 0; slot < m->n_entries; slot++) {
		const struct shm_entry *e = &m->entries[slot];
		size_t len;

		if (!word_live(atomic_load_explicit(&e->word, memory_order_acquire)))
			continue;
		const unsigned char *key = slot_key(m, slot, &len);
		if (len == 0) {
			place->n_damaged++;
			continue;
		}
		if (place->last_len && compare_keys(key, len, place->last, place->last_len) <= 0)
			continue;
		if (p->n == p->room) {
			size_t room = p->room ? 2 * p->room : 1024;
			struct pick *at = realloc(p->at, room * sizeof(*at));
			if (!at)
				tool_no_memory();
			p->at = at;
			p->room = room;
		}
		p->at[p->n++] = (struct pick){
			.slot = slot,
			.hash = (uint32_t)atomic_load_explicit(&e->hash, memory_order_relaxed),
		};
	}
	set_prefixes(m, p);
	sort_picks(m, p);
}

/* One section's rows. Returns how many picks were used up. */
static size_t read_batch(const struct seg_map *m, const struct picks *p, size_t from, const struct walk *w,
			 struct place *place, FILE *out)
{
	struct row row;
	size_t i = from;

	for (; i < p->n && i - from < BATCH; i++) {
		uint32_t slot = p->at[i].slot;
		enum row_result found = row_read(m, slot, &row);

		if (found == ROW_DAMAGED)
			place->n_damaged++;
		if (found != ROW_OK ||
		    (uint32_t)atomic_load_explicit(&m->entries[slot].hash, memory_order_relaxed) != p->at[i].hash)
			continue;
		w->each(w->arg, &row, out);
		memcpy(place->last, row.key, row.key_len);
		place->last_len = row.key_len;
	}
	return i - from;
}

/* All batches of one generation. EXIT_DONE with *flipped: go on in the next one. */
static int walk_generation(struct tool *t, const struct picks *p, const struct walk *w, struct place *place,
			   bool *flipped)
{
	uint64_t termgen = t->map.termgen;

	for (size_t i = 0; i < p->n;) {
		struct place before = *place;
		char *text = NULL;
		size_t len = 0, used = 0;
		FILE *out = open_memstream(&text, &len);

		if (!out)
			tool_no_memory();
		int rc = instance_section(t);
		*flipped = rc == EXIT_DONE && t->map.termgen != termgen;
		if (rc == EXIT_DONE) {
			if (!*flipped)
				used = read_batch(&t->map, p, i, w, place, out);
			*flipped = !instance_section_end(t) || *flipped;
		}
		if (fclose(out) != 0)
			tool_no_memory();
		if (rc == EXIT_DONE && !*flipped)
			w->batch(w->arg, text, len);
		free(text);
		if (rc != EXIT_DONE)
			return rc;
		if (*flipped) {
			if (w->discard)
				w->discard(w->arg);
			*place = before;
			return EXIT_DONE;
		}
		i += used;
	}
	return EXIT_DONE;
}

int walk_rows(struct tool *t, const struct walk *w, uint64_t *n_damaged)
{
	struct picks picks = {0};
	struct place place = {0};
	bool flipped = true;
	int rc = EXIT_DONE;

	for (int i = 0; rc == EXIT_DONE && flipped && i < RESTARTS; i++) {
		rc = instance_section(t);
		if (rc != EXIT_DONE)
			break;
		collect(&t->map, &place, &picks);
		flipped = !instance_section_end(t);
		if (!flipped)
			rc = walk_generation(t, &picks, w, &place, &flipped);
	}
	free(picks.at);
	*n_damaged = place.n_damaged;
	if (rc == EXIT_DONE && flipped)
		return tool_fail(t, EXIT_UNREACHABLE, "unreachable",
				 "%s: the table is replaced all the time: run this again", t->path);
	return rc;
}

static int compare_clusters(const void *a, const void *b)
{
	return strcmp(((const struct cluster_copy *)a)->id, ((const struct cluster_copy *)b)->id);
}

int walk_clusters(struct tool *t, struct cluster_copy **out, size_t *n, uint64_t *n_damaged)
{
	struct cluster_copy *list = NULL;
	size_t room = 0;
	bool stood = false;

	for (int i = 0; i < 100 && !stood; i++) {
		int rc = instance_section(t);
		if (rc != EXIT_DONE) {
			free(list);
			return rc;
		}
		*n = 0;
		*n_damaged = 0;
		for (unsigned number = 1; number < t->map.n_cluster_slots; number++) {
			if (*n == room) {
				room = room ? 2 * room : 64;
				struct cluster_copy *more = realloc(list, room * sizeof(*more));
				if (!more)
					tool_no_memory();
				list = more;
			}
			enum row_result found = cluster_read(&t->map, number, &list[*n]);
			*n += found == ROW_OK;
			*n_damaged += found == ROW_DAMAGED;
		}
		stood = instance_section_end(t);
	}
	if (*n)
		qsort(list, *n, sizeof(*list), compare_clusters);
	*out = list;
	return EXIT_DONE;
}

int walk_verdict(const struct tool *t, uint64_t n_damaged)
{
	if (n_damaged == 0)
		return EXIT_DONE;
	return tool_fail(t, EXIT_DAMAGE, "corrupt",
			 "%" PRIu64
			 " damaged entries were left out: run `berth verify`, then restart berthd, which makes a "
			 "new table from its store",
			 n_damaged);
}

static json_t *placement_json(const struct placement *p)
{
	const struct shm_detail *d = placement_detail(p);
	json_t *json = tool_object();
	struct detail_inject pair;

	tool_set(json, "mode", json_string(row_mode(d->kind)));
	tool_set(json, "cluster", text_json(p->cluster, strlen(p->cluster)));
	if (d->kind != KIND_DEDICATED_CLUSTER)
		tool_set(json, "index", text_json(detail_index(d), d->index_len));
	if (d->n_inject == 0)
		return json;
	json_t *list = json_array();
	for (unsigned i = 0; detail_inject(d, i, &pair); i++) {
		json_t *item = tool_object();
		tool_set(item, "field", text_json(pair.field, pair.field_len));
		tool_set(item, "value",
			 pair.kind == INJECT_PARTITION ? json_pack("{s:b}", "partition", 1)
						       : text_json(pair.value, pair.value_len));
		if (json_array_append_new(list, item) != 0)
			tool_no_memory();
	}
	tool_set(json, "inject", list);
	return json;
}

json_t *row_state(const struct row *row)
{
	unsigned phase = word_phase(row->word);
	json_t *state = tool_object();

	if (phase != PHASE_SETTLED)
		tool_set(state, "phase", json_string(row_phase(phase)));
	tool_set(state, "at", placement_json(&row->at));
	if (phase != PHASE_SETTLED)
		tool_set(state, "to", placement_json(&row->to));
	return state;
}
