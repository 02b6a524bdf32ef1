/* SPDX-License-Identifier: MIT
 * What cursor.c (resolve) and cursor_ring.c (pin, release) share: may this reader use pins, and which file of pins is in
 * force. Inlined into each call; the cold half is in pins.c. The reader's own thread.
 *
 * P1 An answer counts only if root's cursor generation, loaded after it was made, is still that of the file it came from.
 *    So nobody goes by a file that another one has replaced. */
#ifndef BERTH_READER_LIB_PINS_H
#define BERTH_READER_LIB_PINS_H

#include <time.h>

#include "gate.h"

/* Searches before BERTH_E_AGAIN: a bucket that changes under every one of them. */
#define PINS_TRIES 4u

/* Acquire: pairs with the release store that names a complete file. */
INLINE uint64_t pins_generation(const struct berth_reader *r)
{
	return atomic_load_explicit(&r->root->cursor_generation, memory_order_acquire);
}
INLINE bool pins_current(const struct berth_reader *r)
{
	return likely(pins_generation(r) == r->pins_generation);
}

/* Lengths are those of berth.h. Unsigned: 0 is too much too. */
INLINE bool pins_lengths(const void *id, size_t id_len, const void *owner, size_t owner_len)
{
	return likely(id != NULL) && likely(owner != NULL) && likely(id_len - 1 < SHM_CURSOR_ID_MAX) &&
	       likely(owner_len - 1 < SHM_KEY_MAX);
}

/* BERTH_OK: r->pins is the file in force. */
INLINE int pins_ready(struct berth_reader *r)
{
	int rc = handle(r);

	/* Without a file r->pins_generation is PINS_NONE, which a damaged root may say. */
	if (likely(rc == BERTH_OK) && unlikely(!pins_current(r) || !r->pins_mapping))
		return bl_pins_renew(r);
	return rc;
}

struct pin_name {
	uint64_t hash[2], owner;
};
INLINE void pins_hash(const struct berth_reader *r, const void *id, size_t id_len, const void *owner, size_t owner_len,
		      struct pin_name *name)
{
	const struct shm_cursor_keys *keys = &r->pins.file->keys;

	cursor_hash(keys, id, id_len, name->hash);
	name->owner = cursor_owner(keys, owner, owner_len);
}

/* What a search came to. now_ms 0: the clock is read, after the search, so that what was too old at the end is not told. */
INLINE int pins_judge(enum cursor_found found, uint64_t owner, uint64_t word, const struct pin_name *name,
		      uint64_t now_ms, uint16_t *cluster)
{
	if (found == CURSOR_MISS)
		return BERTH_E_UNKNOWN;
	if (cursor_expiry(word) <= (now_ms ? now_ms : seg_clock_ms(CLOCK_BOOTTIME)))
		return BERTH_E_UNKNOWN;
	if (unlikely(owner != name->owner))
		return BERTH_E_NOT_OWNER;
	*cluster = (uint16_t)cursor_cluster(word);
	return likely(*cluster != 0) ? BERTH_OK : BERTH_E_CORRUPT;
}

/* BERTH_OK, NOT_OWNER, UNKNOWN, or BERTH_E_AGAIN: nothing is known yet, or BERTH_E_CORRUPT (not counted yet). P1 is the
 * caller's. */
INLINE int pins_look(const struct berth_reader *r, const struct pin_name *name, uint64_t now_ms, uint16_t *cluster)
{
	for (unsigned i = 0; i < PINS_TRIES; i++) {
		uint64_t owner = 0, word = 0;
		enum cursor_found found = cursor_find(&r->pins, name->hash, &owner, &word);

		if (likely(found < CURSOR_CHANGED))
			return pins_judge(found, owner, word, name, now_ms, cluster);
		if (found == CURSOR_DAMAGED)
			return BERTH_E_CORRUPT;
	}
	return BERTH_E_AGAIN;
}

#endif
