/* SPDX-License-Identifier: MIT
 * Finding a key in a mapped generation: linear probing over tags, then one entry of one line, so that neither a cache
 * miss nor a mispredicted branch is spent on the entries of others. The hot path of everything is
 * inline here, the rest in index.c. Callers: libberth inside a read section, the writer, the tool. Writes nothing.
 *
 * G1 An entry that index_find returns held exactly this key when *word was loaded, and holds it as long as the caller's
 *    section lasts (entries never move; a tombstone is reused by another key only after a grace period).
 * G2 A miss is true of an instant within the call: a key that was there for the whole call is found. It lies at most
 *    longest_probe entries behind its home, longest_probe is stored before the entry (release, paired with the acquire
 *    load here), its tag is stored before its word, and no slot on the way, and so no tag, ever becomes empty again.
 * G3 At most SHM_PROBE_MAX + SHM_TAG_WINDOW entries are looked at, all inside the mapping, whatever the memory holds.
 *
 * Memory order: word is loaded with acquire; it pairs with the release store of the word by the writer, which comes
 * after hash, key and det[0]. Without it a reader could compare against a key that is not complete yet. */
#ifndef BERTH_SHM_INDEX_H
#define BERTH_SHM_INDEX_H

#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

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

/* Keys longer than SHM_KEY_INLINE: 1 equal, 0 not, BERTH_E_CORRUPT. */
int index_long_key_equal(const struct seg_map *, const struct shm_entry *, const unsigned char *key, size_t len);

/* Keys of up to SHM_KEY_INLINE bytes, where word said that there is one. */
static inline bool index_holds(const struct shm_entry *e, const void *key, size_t len, uint64_t hash)
{
	return ((atomic_load_explicit(&e->hash, memory_order_relaxed) ^ hash) | (e->n ^ len)) == 0 &&
	       index_key_equal(key, e->key, len);
}

/* Which of the SHM_TAG_WINDOW tags from `slot` on are `tag`: a bit each, index_first tells of which entry the lowest is.
 * A plain load: each of its bytes is old or new, and either will do (G2). */
#if defined(__SSE2__)
static inline uint64_t index_match(const struct seg_map *m, uint32_t slot, uint8_t tag)
{
	__m128i tags = _mm_loadu_si128((const __m128i *)(const void *)((const char *)m->tags + slot));

	return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag)));
}
static inline unsigned index_first(uint64_t match)
{
	return (unsigned)__builtin_ctzll(match);
}
#elif defined(__ARM_NEON)
static inline uint64_t index_match(const struct seg_map *m, uint32_t slot, uint8_t tag)
{
	uint8x16_t equal = vceqq_u8(vld1q_u8((const uint8_t *)m->tags + slot), vdupq_n_u8(tag));

	/* four bits of each byte, and of those one */
	return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(equal), 4)), 0) & 0x1111111111111111u;
}
static inline unsigned index_first(uint64_t match)
{
	return (unsigned)__builtin_ctzll(match) / 4;
}
#else
#error "berth is for x86-64 and aarch64"
#endif

/* The whole search, out of line. 1: *entry and *word; 0: no such key; BERTH_E_CORRUPT. Tombstones are skipped unless
 * `dead`: then a tombstone that keeps this key is found too (the writer's). 1 <= len <= SHM_KEY_MAX. */
int index_find(const struct seg_map *, const void *key, size_t len, uint64_t hash, bool dead,
	       const struct shm_entry **entry, uint64_t *word);

/* The hot path is the search's first guess, nearly always right, in two steps, so that many keys can be guessed at a
 * time; index_find then finds what index_hit does not know. */

/* The entry that it probably is in. False: no tag says so, and no entry is touched for nothing. */
static inline bool index_guess(const struct seg_map *m, uint64_t hash, const struct shm_entry **e)
{
	uint32_t slot = index_home(hash, m->capacity);
	uint64_t hits = index_match(m, slot, shm_tag(hash));

	if (__builtin_expect(hits == 0, 0))
		return false;
	*e = m->entries + slot + index_first(hits);
	return true;
}

/* Is it there? Then *word; for keys of up to SHM_KEY_INLINE bytes. The key tells, its hash need not. */
static inline bool index_hit(const struct shm_entry *e, const void *key, size_t len, uint64_t *word)
{
	*word = atomic_load_explicit(&e->word, memory_order_acquire); /* pairs with the writer's release */
	return word_live(*word) && e->n == len && index_key_equal(key, e->key, len);
}

/* Ahead of index_guess: what it loads, and (one key alone) the home, where two of three keys are. */
static inline void index_prefetch_tags(const struct seg_map *m, uint64_t hash)
{
	__builtin_prefetch((const char *)m->tags + index_home(hash, m->capacity), 0, 3);
}
static inline void index_prefetch_home(const struct seg_map *m, uint64_t hash)
{
	__builtin_prefetch(m->entries + index_home(hash, m->capacity), 0, 3);
}

/* The key of an entry, for walkers: *len bytes, valid as long as the section. NULL when damaged. */
const unsigned char *index_key(const struct seg_map *, const struct shm_entry *, size_t *len);

#endif
