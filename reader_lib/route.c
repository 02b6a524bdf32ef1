/* SPDX-License-Identifier: MIT
 * berth_route and berth_route_bulk: where is it? One word decides, so nothing but numbers is handed out, and no section
 * of the caller is needed. The reader's own thread. Guarantees: decide.h; whatever changes here is measured. */
#include <string.h>

#include "decide.h"

#define CHUNK 32             /* keys whose cache misses overlap */
#define TAGS_NEAR (1u << 20) /* tags, a byte each: as many as a second-level cache keeps beside other things */

/* cluster u16, kind u8, phase u8, is_default u8, zeros: one store instead of seven. */
INLINE void fill(struct berth_route *out, uint64_t w, bool is_default)
{
	/* kind and phase, next to each other in the word, go to bytes of their own by one multiplication */
	uint64_t rest = (uint64_t)word_cluster(w) | ((w & 15u) * (1u << 14 | 1u << 24) & 0x03030000u) |
			(uint64_t)is_default << 32;

	out->epoch = word_epoch(w);
	memcpy(&out->cluster, &rest, sizeof rest);
}
static_assert(offsetof(struct berth_route, cluster) == 8 && offsetof(struct berth_route, kind) == 10 &&
		      offsetof(struct berth_route, phase) == 11 && offsetof(struct berth_route, is_default) == 12,
	      "as fill() stores them");

static HOT NOINLINE int route_unusual(struct berth_reader *r, const void *key, size_t len, struct berth_route *out)
{
	struct decision d;
	bool own, was_guessed; /* by who came here: decide_usual() */
	int rc;

	if (!r || !key || !out || len - 1 >= SHM_KEY_MAX)
		return BERTH_E_INVAL;
	rc = handle(r);
	if (rc != BERTH_OK)
		return rc;
	was_guessed = quiet(r) && usual_len(len);
	own = section_open(r);
	rc = decide_after(r, key, len, hash_key(r->secret, key, len), &d, was_guessed);
	section_close(r, own);
	if (likely(rc == BERTH_OK))
		fill(out, d.word, d.is_default);
	return rc;
}

HOT int berth_route(struct berth_reader *r, const void *key, size_t len, struct berth_route *out)
{
	uint64_t w;

	/* in this order, each test is one instruction and a branch */
	if (likely(r) && usual_handle(r) && likely(key) && quiet(r) && likely(out) && usual_len(len) &&
	    likely(decide_usual(r, key, len, &w))) {
		fill(out, w, false);
		return BERTH_OK;
	}
	return route_unusual(r, key, len, out);
}

INLINE bool key_fits(const struct berth_key *k)
{
	return k->key && k->len - 1 < SHM_KEY_MAX;
}

/* What holds nothing, when there is no guess. */
INLINE const struct shm_entry *guess_entry(const struct seg_map *map, uint64_t hash)
{
	const struct shm_entry *e = &bl_no_entry;

	(void)index_guess(map, hash, &e);
	return e;
}

/* Any number, when the key does not fit. */
INLINE uint64_t hash_of(const uint64_t secret[4], const struct berth_key *k)
{
	if (usual_len(k->len) && likely(k->key != NULL))
		return hash_key(secret, k->key, k->len);
	return key_fits(k) ? hash_key(secret, k->key, k->len) : 0;
}

/* What the first guess does not know: no entry, one that is not where it was guessed, a long key, damage. */
static NOINLINE int probe_again(struct berth_reader *r, const struct berth_key *k, uint64_t before, uint64_t hash,
				struct berth_route *out)
{
	const struct shm_entry *e;
	uint64_t w;
	int found;

	if (!key_fits(k))
		return BERTH_E_INVAL;
	found = index_find(&r->map, k->key, k->len, hash, false, &e, &w);
	if (found < 0)
		return bl_damaged(r);
	if (found == 0)
		w = before;
	if (!word_live(w))
		return BERTH_E_UNKNOWN;
	if (word_damaged(w))
		return bl_damaged(r);
	fill(out, w, found == 0);
	return BERTH_OK;
}

/* Every key of the chunk by one mapping: all hashes and tags, then all entries, so that their misses overlap. False:
 * something changed meanwhile, nothing of it counts. */
static HOT bool route_chunk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct berth_route *out,
			    int *status)
{
	const uint64_t secret[4] = {r->secret[0], r->secret[1], r->secret[2], r->secret[3]};
	const struct seg_map map = {.entries = r->map.entries, .tags = r->map.tags, .capacity = r->map.capacity};
	const struct shm_default *dflt = &r->map.table->dflt;
	uint64_t before = atomic_load_explicit(&dflt->word, memory_order_acquire); /* decide.h, G3 */
	const struct shm_entry *entry[CHUNK];
	uint64_t hash[CHUNK];

	if (map.capacity > TAGS_NEAR) {
		for (size_t i = 0; i < n; i++) {
			hash[i] = hash_of(secret, &keys[i]);
			index_prefetch_tags(&map, hash[i]);
		}
		for (size_t i = 0; i < n; i++) {
			entry[i] = guess_entry(&map, hash[i]);
			__builtin_prefetch(entry[i], 0, 3);
		}
	} else {
		for (size_t i = 0; i < n; i++) {
			hash[i] = hash_of(secret, &keys[i]);
			entry[i] = guess_entry(&map, hash[i]);
			__builtin_prefetch(entry[i], 0, 3);
		}
	}
	for (size_t i = 0; i < n; i++) {
		const struct berth_key *k = &keys[i];
		uint64_t w;

		if (likely(usual_len(k->len) && k->key && index_hit(entry[i], k->key, k->len, &w) &&
			   !word_damaged(w))) {
			fill(&out[i], w, false);
			status[i] = BERTH_OK;
		} else {
			status[i] = probe_again(r, k, before, hash[i], &out[i]);
		}
	}
	atomic_thread_fence(memory_order_acquire); /* all of the above before what follows: decide.h, G1, G3 */
	return atomic_load_explicit(&dflt->word, memory_order_acquire) == before &&
	       atomic_load_explicit(&r->root->termgen, memory_order_relaxed) == r->map.termgen;
}

static HOT int decide_chunk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct berth_route *out,
			    int *status)
{
	for (unsigned i = 0; i < ATTEMPTS; i++) {
		if (likely(current(r))) {
			if (likely(route_chunk(r, keys, n, out, status)))
				return BERTH_OK;
		} else {
			int rc = bl_reader_renew(r); /* decide.h, G2 */

			if (rc != BERTH_OK)
				return rc;
		}
	}
	return BERTH_E_AGAIN;
}

/* Is it an answer about this key? Else the table could not be had, or held still, and the next key would fare no better.
 * What cannot be mapped is of no reader's mapping. */
static bool answers(const struct berth_reader *r, int rc)
{
	if (rc == BERTH_E_CORRUPT)
		return r->mapping && current(r);
	return rc == BERTH_OK || rc == BERTH_E_UNKNOWN;
}

/* Without a registration: decide.h, G4, key by key. */
static int COLD decide_singly(struct berth_reader *r, const struct berth_key *keys, size_t n, struct berth_route *out,
			      int *status)
{
	for (size_t i = 0; i < n; i++) {
		struct decision d = {0};

		status[i] = BERTH_E_INVAL;
		if (!key_fits(&keys[i]))
			continue;
		status[i] = decide(r, keys[i].key, keys[i].len, hash_key(r->secret, keys[i].key, keys[i].len), &d);
		if (!answers(r, status[i]))
			return status[i];
		if (status[i] == BERTH_OK)
			fill(&out[i], d.word, d.is_default);
	}
	return BERTH_OK;
}

HOT int berth_route_bulk(struct berth_reader *r, const struct berth_key *keys, size_t n, struct berth_route *out,
			 int *status)
{
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
			rc = unlikely(r->copying) ? decide_singly(r, keys + at, m, out + at, status + at)
						  : decide_chunk(r, keys + at, m, out + at, status + at);
		if (unlikely(rc != BERTH_OK))
			for (size_t i = 0; i < m; i++)
				status[at + i] = rc;
	}
	section_close(r, own);
	return rc;
}
