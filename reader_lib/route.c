/* SPDX-License-Identifier: MIT
 * berth_route and berth_route_bulk: where is it? One word decides, so nothing but numbers is handed out, and no section
 * of the caller is needed. The reader's own thread. Guarantees: decide.h; whatever changes here is measured. */
#include "decide.h"

#define CHUNK 32 /* keys whose cache misses overlap */

INLINE void fill(struct berth_route *out, uint64_t w, bool is_default)
{
	out->epoch = word_epoch(w);
	out->cluster = (uint16_t)word_cluster(w);
	out->kind = (uint8_t)word_kind(w);
	out->phase = (uint8_t)word_phase(w);
	out->is_default = is_default;
	out->reserved[0] = out->reserved[1] = out->reserved[2] = 0;
}

static HOT NOINLINE int route_unusual(struct berth_reader *r, const void *key, size_t len, struct berth_route *out)
{
	struct decision d;
	bool own;
	int rc;

	if (len - 1 >= SHM_KEY_MAX)
		return BERTH_E_INVAL;
	rc = handle(r);
	if (rc != BERTH_OK)
		return rc;
	own = section_open(r);
	rc = decide(r, key, len, hash_key(r->secret, key, len), &d);
	section_close(r, own);
	if (likely(rc == BERTH_OK))
		fill(out, d.word, d.is_default);
	return rc;
}

HOT int berth_route(struct berth_reader *r, const void *key, size_t len, struct berth_route *out)
{
	if (unlikely(!r || !key || !out))
		return BERTH_E_INVAL;
	if (usual_handle(r) && usual_len(len)) {
		struct decision d;
		bool own = section_open(r);
		int rc;

		if (current(r) && likely(attempt(r, key, len, hash_key(r->secret, key, len), &d, &rc) == DECIDED)) {
			section_close(r, own);
			if (likely(rc == BERTH_OK))
				fill(out, d.word, d.is_default);
			return rc;
		}
		section_close(r, own);
	}
	return route_unusual(r, key, len, out);
}

struct chunk {
	uint64_t hash[CHUNK], word[CHUNK];
	int status[CHUNK];
	bool is_default[CHUNK];
};

/* Every key of the chunk by one mapping. False: something changed meanwhile, nothing of it counts. */
static HOT bool probe_chunk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct chunk *c)
{
	const struct shm_default *dflt = &r->map.table->dflt;
	uint64_t before = atomic_load_explicit(&dflt->word, memory_order_acquire); /* decide.h, G3 */

	for (size_t i = 0; i < n; i++) {
		const struct shm_entry *e;
		int found;

		if (c->status[i] == BERTH_E_INVAL)
			continue;
		found = index_find(&r->map, keys[i].key, keys[i].len, c->hash[i], false, &e, &c->word[i]);
		c->is_default[i] = found == 0;
		if (found == 0)
			c->word[i] = before;
		if (unlikely(found < 0))
			c->status[i] = BERTH_E_CORRUPT;
		else if (unlikely(!word_live(c->word[i])))
			c->status[i] = BERTH_E_UNKNOWN;
		else
			c->status[i] = unlikely(word_damaged(c->word[i])) ? BERTH_E_CORRUPT : BERTH_OK;
	}
	atomic_thread_fence(memory_order_acquire); /* all of the above before what follows: decide.h, G1, G3 */
	return atomic_load_explicit(&dflt->word, memory_order_acquire) == before &&
	       atomic_load_explicit(&r->root->termgen, memory_order_relaxed) == r->map.termgen;
}

static int decide_chunk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct chunk *c)
{
	for (size_t i = 0; i < n; i++) {
		c->status[i] = BERTH_E_INVAL;
		if (!keys[i].key || keys[i].len - 1 >= SHM_KEY_MAX)
			continue;
		c->status[i] = BERTH_OK;
		c->hash[i] = hash_key(r->secret, keys[i].key, keys[i].len);
		index_prefetch(&r->map, c->hash[i]);
	}
	for (unsigned i = 0; i < ATTEMPTS; i++) {
		if (likely(current(r))) {
			if (likely(probe_chunk(r, keys, n, c)))
				return BERTH_OK;
		} else {
			int rc = bl_reader_renew(r); /* decide.h, G2 */

			if (rc != BERTH_OK)
				return rc;
		}
	}
	return BERTH_E_AGAIN;
}

/* Without a registration: decide.h, G4, key by key. */
static int COLD decide_singly(struct berth_reader *r, const struct berth_key *keys, size_t n, struct chunk *c)
{
	for (size_t i = 0; i < n; i++) {
		struct decision d = {0};

		c->status[i] = BERTH_E_INVAL;
		if (!keys[i].key || keys[i].len - 1 >= SHM_KEY_MAX)
			continue;
		c->status[i] = decide(r, keys[i].key, keys[i].len, hash_key(r->secret, keys[i].key, keys[i].len), &d);
		c->word[i] = d.word;
		c->is_default[i] = d.is_default;
	}
	return BERTH_OK;
}

int berth_route_bulk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct berth_route *out,
		     int *status)
{
	struct chunk c;
	bool own = false;
	int rc;

	if (unlikely(!r || (n > 0 && (!keys || !out || !status))))
		return BERTH_E_INVAL;
	rc = handle(r);
	if (likely(rc == BERTH_OK))
		own = section_open(r);
	for (size_t at = 0; at < n; at += CHUNK) {
		size_t m = n - at < CHUNK ? n - at : CHUNK;

		if (likely(rc == BERTH_OK))
			rc = unlikely(r->copying) ? decide_singly(r, keys + at, m, &c)
						  : decide_chunk(r, keys + at, m, &c);
		for (size_t i = 0; i < m; i++) {
			status[at + i] = likely(rc == BERTH_OK) ? c.status[i] : rc;
			if (likely(status[at + i] == BERTH_OK))
				fill(&out[at + i], c.word[i], c.is_default[i]);
		}
	}
	section_close(r, own);
	return rc;
}
