/* SPDX-License-Identifier: MIT
 * The rare half of index.h: keys that do not fit into their entry. */
#include "index.h"

static uint32_t long_key_record(const struct shm_entry *e)
{
	return load_u32(e->key); /* offsetof(struct shm_long_key, record) is 0 */
}

int index_long_key_equal(const struct seg_map *m, const struct shm_entry *e, const unsigned char *key, size_t len)
{
	const struct shm_key_record *r;

	if (memcmp(e->key + offsetof(struct shm_long_key, prefix), key, SHM_KEY_PREFIX) != 0)
		return 0;
	r = seg_key_record(m, long_key_record(e));
	if (!r)
		return BERTH_E_CORRUPT;
	return r->len == len && memcmp(r->data, key, len) == 0;
}

const unsigned char *index_key(const struct seg_map *m, const struct shm_entry *e, size_t *len)
{
	const struct shm_key_record *r;

	if (e->n != SHM_KEY_LONG) {
		*len = e->n;
		return e->n >= 1 && e->n <= SHM_KEY_INLINE ? e->key : NULL;
	}
	r = seg_key_record(m, long_key_record(e));
	if (!r || r->len <= SHM_KEY_INLINE || r->len > SHM_KEY_MAX)
		return NULL;
	*len = r->len;
	return (const unsigned char *)r->data;
}
