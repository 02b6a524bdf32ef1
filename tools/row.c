/* SPDX-License-Identifier: MIT
 * Copying one row out of shared memory (walk.h). A row is taken when its word is the same after the copy as before: an
 * epoch never comes back, so nothing of the entry changed meanwhile, and the records that it names were in use. */
#include <string.h>

#include "../shm/index.h"
#include "walk.h"

#define LOOKS 50

const char *row_mode(unsigned kind)
{
	static const char *const names[] = {"?", "dedicated-cluster", "dedicated-index", "shared-index"};

	return names[kind & 3u];
}

const char *row_phase(unsigned phase)
{
	static const char *const names[] = {"settled", "draining", "cutover", "?"};

	return names[phase & 3u];
}

static bool cluster_copy(const struct seg_map *m, unsigned number, struct cluster_copy *out, bool *none)
{
	const struct shm_cluster *c = seg_cluster(m, number, none);
	union {
		struct shm_cluster record;
		char bytes[sizeof(struct shm_cluster) + SHM_CLUSTER_ID_MAX + SHM_ENDPOINT_MAX + 2];
	} copy;

	if (!c)
		return false;
	size_t room = m->size - (size_t)((const char *)c - (const char *)m->table);
	memset(&copy, 0, sizeof(copy));
	memcpy(&copy, c, room < sizeof(copy) ? room : sizeof(copy));
	if (!cluster_bounds(&copy.record, sizeof(copy)) || copy.record.number != number ||
	    copy.record.check != cluster_checksum(&copy.record))
		return false;
	out->number = number;
	memcpy(out->id, cluster_id(&copy.record), copy.record.id_len + 1u);
	memcpy(out->endpoint, cluster_endpoint(&copy.record), copy.record.endpoint_len + 1u);
	return true;
}

enum row_result cluster_read(const struct seg_map *m, unsigned number, struct cluster_copy *out)
{
	bool none = false;

	for (int i = 0; i < LOOKS && !none; i++) /* another endpoint is another record */
		if (cluster_copy(m, number, out, &none))
			return ROW_OK;
	return none ? ROW_NONE : ROW_DAMAGED;
}

static bool placement_copy(const struct seg_map *m, const _Atomic uint32_t *det, struct placement *out)
{
	/* Acquire: pairs with the release store of det, after the record was complete. */
	const struct shm_detail *d = seg_detail(m, atomic_load_explicit(det, memory_order_acquire));
	struct cluster_copy cluster;

	if (!d)
		return false;
	size_t room = m->size - (size_t)((const char *)d - (const char *)m->table);
	room = room < sizeof(out->record) ? room : sizeof(out->record);
	memcpy(out->record, d, room);
	const struct shm_detail *copy = placement_detail(out);
	if (!detail_bounds(copy, room) || copy->check != detail_checksum(copy) ||
	    cluster_read(m, copy->cluster, &cluster) != ROW_OK)
		return false;
	memcpy(out->cluster, cluster.id, sizeof(out->cluster));
	return true;
}

static bool placements_copy(const struct seg_map *m, const _Atomic uint32_t det[2], struct row *row)
{
	unsigned which = word_which(row->word);

	if (word_phase(row->word) > PHASE_CUTOVER || !placement_copy(m, &det[which], &row->at) ||
	    placement_detail(&row->at)->cluster != word_cluster(row->word) ||
	    placement_detail(&row->at)->kind != word_kind(row->word))
		return false;
	return word_phase(row->word) == PHASE_SETTLED || placement_copy(m, &det[!which], &row->to);
}

static bool key_copy(const struct seg_map *m, const struct shm_entry *shared, struct row *row)
{
	struct shm_entry e;
	size_t len;

	e.n = *(const volatile uint8_t *)&shared->n;
	memcpy(e.key, shared->key, sizeof(e.key));
	const unsigned char *key = index_key(m, &e, &len);
	if (!key || len > SHM_KEY_MAX)
		return false;
	memcpy(row->key, key, len);
	row->key[len] = '\0';
	row->key_len = len;
	return true;
}

enum row_result row_read(const struct seg_map *m, uint32_t slot, struct row *row)
{
	const struct shm_entry *e = &m->entries[slot];

	for (int i = 0; i < LOOKS; i++) {
		row->word = atomic_load_explicit(&e->word, memory_order_acquire);
		if (!word_live(row->word))
			return ROW_NONE;
		bool whole = key_copy(m, e, row) && placements_copy(m, e->det, row);
		atomic_thread_fence(memory_order_acquire); /* the copy is made before the word is loaded again */
		if (atomic_load_explicit(&e->word, memory_order_relaxed) == row->word)
			return whole ? ROW_OK : ROW_DAMAGED;
	}
	return ROW_RESTLESS;
}

enum row_result row_read_default(const struct seg_map *m, struct row *row)
{
	const struct shm_default *d = &m->table->dflt;

	row->key_len = 0;
	row->key[0] = '\0';
	for (int i = 0; i < LOOKS; i++) {
		row->word = atomic_load_explicit(&d->word, memory_order_acquire);
		if (!word_live(row->word))
			return ROW_NONE;
		bool whole = placements_copy(m, d->det, row);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&d->word, memory_order_relaxed) == row->word)
			return whole ? ROW_OK : ROW_DAMAGED;
	}
	return ROW_RESTLESS;
}
