/* SPDX-License-Identifier: MIT
 * berth_lookup, berth_cluster, berth_inject: what needs records, not the word alone. Inside a section of the caller.
 * The reader's own thread.
 *
 * Registered: the section keeps records alive, strings are handed out where they are. Without a registration nothing
 * does: a record is copied, checked in the copy, and the copy counts only if the word and the reference that led to it
 * are unchanged afterwards: as long as they were, the record was in use and not freed.
 *
 * G1 Details belong to the word: det is loaded (acquire) after it, the word loaded again after the records: a change of
 *    either in between is a change of the word, whose epoch never comes twice. (model: tests/model/entry.pml)
 * G2 What is handed out was checked against the bounds of the mapping, and says the cluster and kind that the word says.
 * G3 termgen is loaded again after everything (decide.h, G1). At most ATTEMPTS rounds. */
#include <string.h>

#include "decide.h"

/* size bytes of the record at off, of which the first `head` tell its size; NULL when they do not fit. */
static const void *copy_bytes(const struct seg_map *m, uint32_t off, size_t head, size_t size, void *out, size_t max)
{
	size_t room;
	const void *p = seg_record(m, off, head, &room);

	if (!p || size > room || size > max)
		return NULL;
	memcpy(out, p, size);
	return out;
}

static const struct shm_detail *copy_detail(const struct seg_map *m, uint32_t off, char out[SHM_RECORD_MAX])
{
	const struct shm_detail *d = (const struct shm_detail *)(const void *)out;
	size_t size;

	if (!copy_bytes(m, off, sizeof *d, sizeof *d, out, SHM_RECORD_MAX))
		return NULL;
	size = d->size;
	if (size < sizeof *d || !copy_bytes(m, off, sizeof *d, size, out, SHM_RECORD_MAX))
		return NULL;
	return d->size == size && detail_bounds(d, size) ? d : NULL;
}

static const struct shm_detail *record(struct berth_reader *r, uint32_t off, char *copy)
{
	return unlikely(r->copying) ? copy_detail(&r->map, off, copy) : seg_detail(&r->map, off);
}

/* Bytes that lie behind the start of a record: all that berth_inject may look at. */
static uint64_t room_of(const struct berth_reader *r, const struct shm_detail *d)
{
	uint64_t room;

	if (r->copying)
		return d->size;
	room = r->map.size - (uint64_t)((const char *)d - (const char *)r->map.table);
	return room < SHM_RECORD_MAX ? room : SHM_RECORD_MAX;
}

static void fill(struct berth_placement *out, const struct berth_reader *r, const struct decision *d,
		 const struct shm_detail *at, const struct shm_detail *to)
{
	*out = (struct berth_placement){
		.epoch = word_epoch(d->word),
		.cluster = (uint16_t)word_cluster(d->word),
		.kind = (uint8_t)word_kind(d->word),
		.phase = (uint8_t)word_phase(d->word),
		.is_default = d->is_default,
		.to_kind = to ? to->kind : 0,
		.to_cluster = to ? to->cluster : 0,
		.index = detail_index(at),
		.to_index = to ? detail_index(to) : "",
		.index_len = at->index_len,
		.to_index_len = to ? to->index_len : 0,
		.n_inject = at->n_inject,
		.opaque = at,
		.opaque_len = room_of(r, at),
	};
}

static NOINLINE int lookup_unusual(struct berth_reader *r, const void *key, size_t len, struct berth_placement *out)
{
	uint64_t hash;
	int rc;

	if (len - 1 >= SHM_KEY_MAX)
		return BERTH_E_INVAL;
	rc = handle(r);
	if (unlikely(rc != BERTH_OK))
		return rc;
	if (unlikely(r->depth == 0))
		return BERTH_E_INVAL;
	hash = hash_key(r->secret, key, len);
	for (unsigned i = 0; i < ATTEMPTS; i++) { /* G3 */
		const struct shm_detail *at, *to = NULL;
		struct decision d;
		bool moving;
		unsigned which;

		rc = decide(r, key, len, hash, &d);
		if (unlikely(rc != BERTH_OK))
			return rc;
		which = word_which(d.word);
		moving = word_phase(d.word) != PHASE_SETTLED;
		/* Acquire: pairs with the release store of det, after the record is complete. G1 */
		at = record(r, atomic_load_explicit(&d.det[which], memory_order_acquire), r->copies->at);
		if (unlikely(moving))
			to = record(r, atomic_load_explicit(&d.det[!which], memory_order_acquire), r->copies->to);
		if (!still_true(r, &d, d.word)) /* G1, G3 */
			continue;
		if (unlikely(!at || at->cluster != word_cluster(d.word) || at->kind != word_kind(d.word) ||
			     (moving && (!to || to->cluster == 0))))
			return bl_damaged(r); /* G2 */
		fill(out, r, &d, at, to);
		return BERTH_OK;
	}
	return BERTH_E_AGAIN;
}

/* What a word says of cluster and kind, where seg_detail_usual has it. */
#define RECORD_SAYS(w) ((uint64_t)word_cluster(w) << 16 | (uint64_t)word_kind(w) << 32)
#define RECORD_SAYS_MASK 0x000000ffffff0000u

/* The same as fill(), of what is settled: cluster u16, kind u8, and zeros, in one store. */
INLINE void fill_settled(struct berth_placement *out, uint64_t w, const struct shm_detail *at, uint64_t says)
{
	uint64_t first = (uint64_t)word_cluster(w) | (uint64_t)word_kind(w) << 16;

	out->epoch = word_epoch(w);
	memcpy(&out->cluster, &first, sizeof first);
	out->index = at->data;
	out->to_index = "";
	out->index_len = (uint32_t)(says >> 48);
	out->to_index_len = 0;
	out->n_inject = (uint32_t)(says >> 40) & 0xff;
	out->reserved0 = 0;
	out->opaque = at;
	out->opaque_len = SHM_RECORD_MAX;
	out->reserved[0] = out->reserved[1] = 0;
}
static_assert(offsetof(struct berth_placement, cluster) == 8 && offsetof(struct berth_placement, kind) == 10 &&
		      offsetof(struct berth_placement, index) == 16,
	      "as fill_settled stores them");

/* A settled partition, found at the first guess, in a registered reader's section: straight through, without a call. */
HOT int berth_lookup(struct berth_reader *r, const void *key, size_t len, struct berth_placement *out)
{
	if (unlikely(!r || !key || !out))
		return BERTH_E_INVAL;
	if (usual_handle(r) && likely(r->depth != 0) && likely(!r->copying) && usual_len(len) && current(r)) {
		struct decision d;

		if (guess_decision(r, key, len, hash_key(r->secret, key, len), &d) &&
		    likely(word_phase(d.word) == PHASE_SETTLED)) {
			/* Acquire: pairs with the release store of det, after the record is complete. G1 */
			uint32_t off = atomic_load_explicit(&d.det[word_which(d.word)], memory_order_acquire);
			uint64_t says;
			const struct shm_detail *at = seg_detail_usual(&r->map, off, &says);

			if (likely(at) && still_true(r, &d, d.word) &&                  /* G1, G3 */
			    likely((says & RECORD_SAYS_MASK) == RECORD_SAYS(d.word))) { /* G2 */
				fill_settled(out, d.word, at, says);
				return BERTH_OK;
			}
		}
	}
	return lookup_unusual(r, key, len, out);
}

int berth_inject(const struct berth_placement *p, unsigned i, struct berth_inject *out)
{
	const struct shm_detail *d;
	struct detail_inject pair;

	if (!p || !out || i >= p->n_inject || !p->opaque)
		return BERTH_E_INVAL;
	d = p->opaque;
	if (!detail_bounds(d, p->opaque_len) || !detail_inject(d, i, &pair))
		return BERTH_E_CORRUPT;
	*out = (struct berth_inject){
		.field = pair.field,
		.value = pair.value,
		.field_len = (uint32_t)pair.field_len,
		.value_len = (uint32_t)pair.value_len,
		.kind = pair.kind,
	};
	return BERTH_OK;
}

/* A cluster's reference carries no epoch: that the same offset came back with another record in between shows in the
 * checksum of a copy that has both. */
static const struct shm_cluster *copy_cluster(const struct berth_reader *r, unsigned number, uint32_t off)
{
	char *out = r->copies->cluster;
	const struct shm_cluster *c = (const struct shm_cluster *)(const void *)out;
	size_t size;

	if (!copy_bytes(&r->map, off, sizeof *c, sizeof *c, out, sizeof r->copies->cluster))
		return NULL;
	size = cluster_size(c->id_len, c->endpoint_len);
	if (!copy_bytes(&r->map, off, sizeof *c, size, out, sizeof r->copies->cluster) ||
	    size != cluster_size(c->id_len, c->endpoint_len) || !cluster_bounds(c, size))
		return NULL;
	return c->number == number && c->check == cluster_checksum(c) ? c : NULL;
}

int berth_cluster(struct berth_reader *r, uint16_t number, struct berth_cluster *out)
{
	int rc;

	if (unlikely(!r || !out))
		return BERTH_E_INVAL;
	rc = handle(r);
	if (unlikely(rc != BERTH_OK))
		return rc;
	if (unlikely(r->depth == 0))
		return BERTH_E_INVAL;
	for (unsigned i = 0; i < ATTEMPTS; i++) {
		const struct shm_cluster *c = NULL;
		uint32_t off = 0;
		bool none = true;

		if (unlikely(!current(r) || !r->mapping)) { /* no mapping: no number is known not to be one */
			rc = bl_reader_renew(r);            /* decide.h, G2 */
			if (rc != BERTH_OK)
				return rc == BERTH_E_CORRUPT ? bl_damaged(r) : rc;
			continue;
		}
		if (number < r->map.n_cluster_slots) /* acquire: pairs with the release store of a complete record */
			off = atomic_load_explicit(&r->map.clusters[number], memory_order_acquire);
		if (unlikely(r->copying) && off != 0) {
			none = false;
			c = copy_cluster(r, number, off);
		} else {
			c = seg_cluster(&r->map, number, &none);
		}
		atomic_thread_fence(memory_order_acquire); /* all of the above before what follows: G3 */
		if (unlikely(r->copying) && off != 0 &&
		    (atomic_load_explicit(&r->map.clusters[number], memory_order_acquire) != off ||
		     (!c && i < ATTEMPTS / 2)))
			continue;
		if (unlikely(atomic_load_explicit(&r->root->termgen, memory_order_relaxed) != r->map.termgen))
			continue;
		if (none)
			return BERTH_E_UNKNOWN;
		if (!c)
			return bl_damaged(r);
		*out = (struct berth_cluster){
			.id = cluster_id(c),
			.endpoint = cluster_endpoint(c),
			.id_len = c->id_len,
			.endpoint_len = c->endpoint_len,
			.number = number,
		};
		return BERTH_OK;
	}
	return BERTH_E_AGAIN;
}
