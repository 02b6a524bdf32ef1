/* SPDX-License-Identifier: MIT
 * The rare half of index.h: a search to its end, and keys that do not fit into their entry. */
#include "index.h"

/* Of a long key: its record, checked, and its length, loaded once: so many bytes of it lie in the mapping, also when it
 * has been reused since it was checked, as it may be under a reader without a registration. NULL: damaged. */
static const struct shm_key_record *long_key_record(const struct seg_map *m, const struct shm_entry *e, size_t *len)
{
	uint32_t off = load_u32(e->key); /* offsetof(struct shm_long_key, record) is 0 */
	const struct shm_key_record *r = seg_key_record(m, off);
	size_t room;

	if (!r)
		return NULL;
	*len = *(const volatile uint16_t *)&r->len;
	return seg_record(m, off, key_record_size(*len), &room);
}

int index_long_key_equal(const struct seg_map *m, const struct shm_entry *e, const unsigned char *key, size_t len)
{
	const struct shm_key_record *r;
	size_t n;

	if (memcmp(e->key + offsetof(struct shm_long_key, prefix), key, SHM_KEY_PREFIX) != 0)
		return 0;
	r = long_key_record(m, e, &n);
	if (!r)
		return BERTH_E_CORRUPT;
	return n == len && memcmp(r->data, key, len) == 0;
}

int index_find(const struct seg_map *m, const void *key, size_t len, uint64_t hash, bool dead,
	       const struct shm_entry **entry, uint64_t *word)
{
	uint32_t slot = index_home(hash, m->capacity);
	uint32_t longest = atomic_load_explicit(&m->table->longest_probe, memory_order_acquire); /* G2 */

	if (longest > SHM_PROBE_MAX) /* G3 */
		return BERTH_E_CORRUPT;
	for (uint32_t last = slot + longest; slot <= last; slot += SHM_TAG_WINDOW) {
		/* A key that is there for the whole call has no empty tag before it (G2): either load may come first. */
		bool ends = index_match(m, slot, 0) != 0;

		for (uint64_t hits = index_match(m, slot, shm_tag(hash)); hits != 0; hits &= hits - 1) {
			const struct shm_entry *e = m->entries + slot + index_first(hits);
			/* Acquire: pairs with the writer's release. */
			uint64_t w = atomic_load_explicit(&e->word, memory_order_acquire);
			int equal;

			if (!word_live(w) && (!dead || w == WORD_EMPTY))
				continue; /* its key may be changing under us */
			if (len <= SHM_KEY_INLINE)
				equal = index_holds(e, key, len, hash);
			else if (atomic_load_explicit(&e->hash, memory_order_relaxed) == hash && e->n == SHM_KEY_LONG)
				equal = index_long_key_equal(m, e, key, len);
			else
				equal = 0;
			if (equal == 0)
				continue;
			*entry = e;
			*word = w;
			return equal;
		}
		if (ends)
			return 0; /* an entry that was never used: a probe ends there */
	}
	return 0;
}

const unsigned char *index_key(const struct seg_map *m, const struct shm_entry *e, size_t *len)
{
	const struct shm_key_record *r;

	if (e->n != SHM_KEY_LONG) {
		*len = e->n;
		return e->n >= 1 && e->n <= SHM_KEY_INLINE ? e->key : NULL;
	}
	r = long_key_record(m, e, len);
	if (!r || *len <= SHM_KEY_INLINE || *len > SHM_KEY_MAX)
		return NULL;
	return (const unsigned char *)r->data;
}
