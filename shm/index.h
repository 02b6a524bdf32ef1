/* SPDX-License-Identifier: MIT
 * Finding a key in a mapped generation: linear probing over one-line entries. The hot path of everything; header-only so
 * that it is compiled into its callers. Callers: libberth inside a read section, the writer, the tool. Writes nothing.
 *
 * G1 An entry that index_find returns held exactly this key when *word was loaded, and holds it as long as the caller's
 *    section lasts (entries never move; a tombstone is reused by another key only after a grace period).
 * G2 A miss is true of an instant within the call: a key that was there for the whole call is found. It lies at most
 *    longest_probe entries behind its home, longest_probe is stored before the entry (release, paired with the acquire
 *    load here), and no slot on the way ever becomes empty again.
 * G3 At most SHM_PROBE_MAX + 1 entries are looked at, all inside the mapping, whatever the memory holds.
 *
 * Memory order: word is loaded with acquire; it pairs with the release store of the word by the writer, which comes
 * after hash, key and det[0]. Without it a reader could compare against a key that is not complete yet. */
#ifndef BERTH_SHM_INDEX_H
#define BERTH_SHM_INDEX_H

#include <string.h>

#include "details.h"
#include "hash.h"
#include "segment.h"
#include "word.h"

/* The upper half of the hash times the capacity: 64-bit arithmetic alone, as packet programs can do it. */
static inline uint32_t index_home(uint64_t hash, uint32_t capacity)
{
	return (uint32_t)(((hash >> 32) * capacity) >> 32);
}

/* Keys of the same length 1..39, the second one in an entry. Fixed-width loads: a constant-length memcmp is inlined, a
 * variable one would be a call. */
static inline bool index_key_equal(const unsigned char *a, const unsigned char *b, size_t len)
{
	if (len >= 8 && len <= 16)
		return ((load_u64(a) ^ load_u64(b)) | (load_u64(a + len - 8) ^ load_u64(b + len - 8))) == 0;
	if (len < 8)
		return load_short(a, len) == load_short(b, len);
	if (((load_u64(a) ^ load_u64(b)) | (load_u64(a + 8) ^ load_u64(b + 8)) |
	     (load_u64(a + len - 16) ^ load_u64(b + len - 16)) | (load_u64(a + len - 8) ^ load_u64(b + len - 8))) != 0)
		return false;
	return len <= 32 || load_u64(a + 16) == load_u64(b + 16);
}

/* Out of line: keys longer than SHM_KEY_INLINE. 1 equal, 0 not, BERTH_E_CORRUPT. */
int index_long_key_equal(const struct seg_map *, const struct shm_entry *, const unsigned char *key, size_t len);

/* 1: *entry and *word; 0: no such key; BERTH_E_CORRUPT. Tombstones are skipped unless `dead`: then a tombstone that
 * keeps this key is found too (the writer's). 1 <= len <= SHM_KEY_MAX. */
static inline int index_find(const struct seg_map *m, const void *key, size_t len, uint64_t hash, bool dead,
			     const struct shm_entry **entry, uint64_t *word)
{
	const struct shm_entry *e = m->entries + index_home(hash, m->capacity);
	uint32_t longest = atomic_load_explicit(&m->table->longest_probe, memory_order_acquire); /* G2 */
	unsigned n = len <= SHM_KEY_INLINE ? (unsigned)len : SHM_KEY_LONG;

	if (__builtin_expect(longest > SHM_PROBE_MAX, 0)) /* G3 */
		return BERTH_E_CORRUPT;
	for (const struct shm_entry *last = e + longest; e <= last; e++) {
		uint64_t w = atomic_load_explicit(&e->word, memory_order_acquire); /* pairs with the writer's release */

		if (!word_live(w)) {
			if (w == WORD_EMPTY)
				return 0;
			if (!dead)
				continue; /* its key may be changing under us */
		}
		if (atomic_load_explicit(&e->hash, memory_order_relaxed) != hash || e->n != n)
			continue;
		if (__builtin_expect(n == SHM_KEY_LONG, 0)) {
			int equal = index_long_key_equal(m, e, key, len);

			if (equal < 0)
				return equal;
			if (!equal)
				continue;
		} else if (!index_key_equal(key, e->key, len)) {
			continue;
		}
		*entry = e;
		*word = w;
		return 1;
	}
	return 0;
}

static inline void index_prefetch(const struct seg_map *m, uint64_t hash)
{
	__builtin_prefetch(m->entries + index_home(hash, m->capacity), 0, 3);
}

/* The key of an entry, for walkers: *len bytes, valid as long as the section. NULL when damaged. */
const unsigned char *index_key(const struct seg_map *, const struct shm_entry *, size_t *len);

#endif
