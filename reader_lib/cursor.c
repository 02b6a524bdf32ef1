/* SPDX-License-Identifier: MIT
 * berth_cursor_resolve, its bulk form, berth_cursor_len: which cluster made this cursor, from the pins that every process
 * sees. The reader's own thread. Hot: whatever changes here is measured.
 *
 *   hash of id and owner -> bucket, slot (shm/cursor.h) -> generation again -> expiry by our clock -> owner
 *
 * No section: a slot is never unmapped under a reader, and tells itself whether it changed (shm/cursor.h, G1 to G3). */
#include "pins.h"

/* The generation changed behind a search, or the bucket under each of several. */
static NOINLINE int resolve_again(struct berth_reader *r, const void *id, size_t id_len, const void *owner,
				  size_t owner_len, uint64_t now_ms, uint16_t *cluster)
{
	int rc = BERTH_E_AGAIN;

	for (unsigned i = 0; i < PINS_TRIES; i++) {
		struct pin_name name;
		uint16_t found = 0;

		rc = pins_ready(r);
		if (rc != BERTH_OK)
			return rc;
		pins_hash(r, id, id_len, owner, owner_len, &name);
		rc = pins_look(r, &name, now_ms, &found);
		if (!pins_current(r)) { /* P1 */
			rc = BERTH_E_AGAIN;
			continue;
		}
		if (gate_superseded(r->root))
			return BERTH_E_WRITER_DOWN;
		if (rc == BERTH_E_CORRUPT)
			return bl_damaged(r);
		if (rc == BERTH_OK)
			*cluster = found;
		break;
	}
	return rc;
}

HOT int berth_cursor_resolve(struct berth_reader *r, const void *id, size_t id_len, const void *owner, size_t owner_len,
			     uint64_t now_ms, uint16_t *cluster)
{
	struct pin_name name;
	uint16_t found = 0;
	int rc;

	if (unlikely(!r || !cluster) || unlikely(!pins_lengths(id, id_len, owner, owner_len)))
		return BERTH_E_INVAL;
	if (usual_handle(r) && pins_current(r) && likely(!gate_superseded(r->root))) {
		pins_hash(r, id, id_len, owner, owner_len, &name);
		rc = pins_look(r, &name, now_ms, &found);
		if (likely(pins_current(r))) { /* P1 */
			if (likely(rc == BERTH_OK))
				*cluster = found;
			if (likely(rc != BERTH_E_CORRUPT))
				return rc;
		}
	}
	return resolve_again(r, id, id_len, owner, owner_len, now_ms, cluster);
}

#define CHUNK 16 /* cursors whose cache misses overlap */

static void resolve_chunk(const struct berth_reader *r, const struct berth_cursor *c, size_t n, uint64_t now_ms,
			  uint16_t found[CHUNK], int *status)
{
	struct pin_name names[CHUNK];
	bool usable[CHUNK];

	for (size_t i = 0; i < n; i++) {
		usable[i] = pins_lengths(c[i].id, c[i].id_len, c[i].owner, c[i].owner_len);
		if (!usable[i])
			continue;
		pins_hash(r, c[i].id, c[i].id_len, c[i].owner, c[i].owner_len, &names[i]);
		__builtin_prefetch((const void *)cursor_bucket(&r->pins, names[i].hash));
	}
	for (size_t i = 0; i < n; i++) {
		uint32_t first;

		if (!usable[i])
			continue;
		first = SHM_BUCKET_FIRST(
			atomic_load_explicit(cursor_bucket(&r->pins, names[i].hash), memory_order_relaxed));
		if (first != 0 && first <= r->pins.capacity)
			__builtin_prefetch(&r->pins.slots[first - 1]);
	}
	for (size_t i = 0; i < n; i++)
		status[i] = usable[i] ? pins_look(r, &names[i], now_ms, &found[i]) : BERTH_E_INVAL;
}

HOT int berth_cursor_resolve_bulk(struct berth_reader *r, const struct berth_cursor *cursors, size_t n, uint64_t now_ms,
				  uint16_t *clusters, int *status)
{
	uint16_t found[CHUNK];
	int rc = BERTH_OK;

	if (unlikely(!r || (n && (!cursors || !clusters || !status))))
		return BERTH_E_INVAL;
	for (size_t at = 0, part; at < n; at += part) {
		part = n - at < CHUNK ? n - at : CHUNK;
		rc = pins_ready(r);
		if (rc == BERTH_OK && gate_superseded(r->root))
			rc = BERTH_E_WRITER_DOWN;
		if (rc != BERTH_OK)
			break;
		resolve_chunk(r, cursors + at, part, now_ms, found, status + at);
		for (size_t i = 0, all = pins_current(r); i < part; i++) { /* P1 */
			const struct berth_cursor *c = &cursors[at + i];
			int *is = &status[at + i];

			if (unlikely(!all || *is == BERTH_E_CORRUPT || *is == BERTH_E_AGAIN))
				*is = berth_cursor_resolve(r, c->id, c->id_len, c->owner, c->owner_len, now_ms,
							   &found[i]);
			if (likely(*is == BERTH_OK))
				clusters[at + i] = found[i];
		}
	}
	for (size_t i = 0; rc != BERTH_OK && i < n; i++)
		status[i] = rc;
	return rc;
}

int berth_cursor_len(struct berth_reader *r, uint64_t *n)
{
	int rc = r && n ? pins_ready(r) : BERTH_E_INVAL;

	if (rc == BERTH_OK)
		*n = atomic_load_explicit(&r->pins.file->n_live, memory_order_relaxed);
	return rc;
}
