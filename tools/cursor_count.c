/* SPDX-License-Identifier: MIT
 * Counting pins (cursor_count.h): one pass over the slots, then one over the partitions of the table, whose ids are
 * hashed to find the names of owners. */
#include "cursor_count.h"

#include <stdlib.h>
#include <string.h>

#include "../shm/index.h"
#include "instance.h"

#define ENTRIES 16384u /* of the table, looked at in one section */
#define RESTARTS 100

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int by_count(const void *a, const void *b)
{
	const struct owner *x = a, *y = b;

	return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->hash > y->hash) - (x->hash < y->hash);
}

static int by_hash(const void *a, const void *b)
{
	return compare_u64(&((const struct owner *)a)->hash, &((const struct owner *)b)->hash);
}

static void *room_for(size_t n, size_t each)
{
	void *p = calloc(n ? n : 1, each);

	if (!p)
		tool_no_memory();
	return p;
}

/* The owners of all pins that count, an element each; their number is c->n_pins. */
static uint64_t *count_pins(struct census *c)
{
	uint64_t *owners = room_for(c->map.capacity, sizeof(*owners));
	struct pin pin;

	c->by_cluster = room_for(SHM_CLUSTERS_MAX + 1u, sizeof(*c->by_cluster));
	for (uint32_t slot = 0; slot < c->map.capacity; slot++) {
		if (!cursor_file_read(&c->map, slot, &pin) || (c->cluster && pin.cluster != c->cluster) ||
		    (c->owner_name && pin.owner != c->owner))
			continue;
		if (pin.expiry_ms <= c->now_ms) {
			c->n_not_swept++;
			continue;
		}
		if (c->n_pins == 0 || pin.order < c->oldest_order) {
			c->oldest_order = pin.order;
			c->oldest_ms = pin.pinned_ms;
		}
		owners[c->n_pins++] = pin.owner;
		c->by_cluster[pin.cluster]++;
	}
	return owners;
}

static void count_owners(struct census *c, uint64_t *hashes, size_t limit)
{
	qsort(hashes, c->n_pins, sizeof(*hashes), compare_u64);
	for (size_t i = 0; i < c->n_pins; i++)
		c->n_owners += i == 0 || hashes[i] != hashes[i - 1];
	c->owners = room_for(c->n_owners, sizeof(*c->owners));
	struct owner *o = c->owners;
	for (size_t i = 0; i < c->n_pins; i++) {
		if (i && hashes[i] != hashes[i - 1])
			o++;
		o->hash = hashes[i];
		o->n++;
	}
	qsort(c->owners, c->n_owners, sizeof(*c->owners), by_count);
	c->n_shown = c->n_owners < limit ? c->n_owners : limit;
}

/* ---- names ---- */

static void give_name(struct census *c, const void *name, size_t len)
{
	struct owner wanted = {.hash = cursor_owner(&c->map.file->keys, name, len)};
	struct owner *o = bsearch(&wanted, c->owners, c->n_shown, sizeof(*o), by_hash);

	if (!o || o->name)
		return;
	o->name = room_for(len, 1);
	memcpy(o->name, name, len);
	o->name_len = len;
}

/* Hashes the partitions of these entries. */
static void name_from(struct census *c, const struct seg_map *m, uint32_t from)
{
	unsigned char copy[SHM_KEY_MAX];

	for (uint32_t slot = from; slot < m->n_entries && slot - from < ENTRIES; slot++) {
		size_t len;
		if (!word_live(atomic_load_explicit(&m->entries[slot].word, memory_order_acquire)))
			continue;
		const unsigned char *key = index_key(m, &m->entries[slot], &len);
		if (!key || len == 0 || len > sizeof(copy))
			continue;
		memcpy(copy, key, len); /* one that changes meanwhile has a hash that nobody has */
		give_name(c, copy, len);
	}
}

static int name_owners(struct tool *t, struct census *c)
{
	int rc = EXIT_DONE, restarts = 0;

	qsort(c->owners, c->n_shown, sizeof(*c->owners), by_hash);
	if (c->owner_name)
		give_name(c, c->owner_name, strlen(c->owner_name));
	for (uint32_t from = 0; c->n_shown && !c->owner_name && rc == EXIT_DONE; from += ENTRIES) {
		uint64_t termgen = t->map.termgen;
		rc = instance_section(t);
		if (rc != EXIT_DONE)
			break;
		bool flipped = from && t->map.termgen != termgen;
		if (!flipped && from >= t->map.n_entries) {
			instance_section_end(t);
			break;
		}
		if (!flipped)
			name_from(c, &t->map, from);
		if (!instance_section_end(t) || flipped) {
			if (restarts++ == RESTARTS)
				break; /* who has no name is shown by its hash */
			from = 0u - ENTRIES;
		}
	}
	qsort(c->owners, c->n_shown, sizeof(*c->owners), by_count);
	return rc;
}

int cursor_count(struct tool *t, struct census *c, size_t limit)
{
	uint64_t *hashes = count_pins(c);

	count_owners(c, hashes, limit);
	free(hashes);
	return name_owners(t, c);
}

void cursor_count_end(struct census *c)
{
	for (size_t i = 0; i < c->n_shown; i++)
		free(c->owners[i].name);
	free(c->owners);
	free(c->by_cluster);
	free(c->clusters);
}
