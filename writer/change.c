/* SPDX-License-Identifier: MIT
 * Changing what readers see: reserve, publish, cancel, for partitions, the default and clusters. The stores that matter
 * to readers are all in this file and in generation_flip.
 *
 * P1 A word is stored after everything that it makes visible (release), and nothing else of a live entry changes
 *    but the det slot that the present word does not refer to. So a reader that finds the word unchanged after it
 *    read a det has the det of that word (the epoch in it makes that free of ABA).
 * P2 The epoch counter in the header is stored before a word that carries the epoch.
 * P3 An entry's key and hash are written while its word is empty, or a tombstone that has aged a grace period
 *    (aged_epoch), or its own key's: no reader compares them meanwhile.
 * P4 table_publish cannot fail: slot and records were made by table_reserve.
 * P5 While a generation is being filled beside the one in use, each change goes to both; the one in use first, it
 *    decides. A key that the copy has not reached yet is put into the new one whole, and the copy passes over it.
 *    Before that, while it only gets its memory, nothing goes there: the copy will find it.
 * P6 Packet programs read a mirror of each generation (bpf/mirror.h, M1..M3): an entry says pass there before the table's
 *    word is stored, and what the table says after it; in both mirrors before either table's word, for programs may use
 *    either. A slot gets another key only when packet programs are done with the old one too
 *    (programs_aged, which like aged_epoch changes between requests alone).
 * Model: tests/model/entry.pml, tests/model/generation.pml. */
#include "../shm/crash_point.h"
#include "../shm/poison.h"
#include "table_internal.h"

#include <stdlib.h>

static void cell_pointers(const struct generation *g, uint32_t slot, bool dflt, _Atomic uint64_t **word,
			  _Atomic uint32_t **det, _Atomic uint64_t **document)
{
	if (dflt) {
		*word = &gen_header(g)->dflt.word;
		*det = gen_header(g)->dflt.det;
		*document = &gen_header(g)->default_document;
	} else {
		*word = &gen_entry(g, slot)->word;
		*det = gen_entry(g, slot)->det;
		*document = gen_document(g, slot);
	}
}

void cell_state(const struct generation *g, uint64_t word, const _Atomic uint32_t det[2], struct state *s)
{
	unsigned which = word_which(word);

	*s = (struct state){.epoch = word_epoch(word)};
	if (!word_live(word))
		return;
	s->phase = (enum word_phase)word_phase(word);
	s->at = gen_record(g, atomic_load_explicit(&det[which], memory_order_relaxed));
	if (s->phase != PHASE_SETTLED)
		s->to = gen_record(g, atomic_load_explicit(&det[!which], memory_order_relaxed));
}

/* Does this slot hold the key, live or not? */
static bool slot_holds(const struct generation *g, const struct shm_entry *e, const char *key, size_t len,
		       uint64_t hash)
{
	if (atomic_load_explicit(&e->hash, memory_order_relaxed) != hash ||
	    e->n != (len <= SHM_KEY_INLINE ? (unsigned)len : SHM_KEY_LONG))
		return false;
	return len <= SHM_KEY_INLINE ? memcmp(e->key, key, len) == 0
				     : index_long_key_equal(&g->map, e, (const unsigned char *)key, len) == 1;
}

static bool slot_reusable(const struct generation *g, uint32_t slot, uint64_t word)
{
	return !word_live(word) && !word_reserved(word) && word_epoch(word) <= g->aged_epoch &&
	       (!g->mirror || word_epoch(word) <= g->programs_aged) &&
	       atomic_load_explicit(gen_document(g, slot), memory_order_relaxed) == 0;
}

static bool key_write(struct generation *g, struct shm_entry *e, const char *key, size_t len, uint64_t hash)
{
	if (len > SHM_KEY_INLINE) {
		uint32_t off = records_alloc(g, key_record_size(len));
		struct shm_key_record *k;
		struct shm_long_key in = {.record = {0}};

		if (off == 0)
			return false;
		k = gen_record(g, off);
		k->len = (uint16_t)len;
		k->pad = 0;
		memcpy(k->data, key, len);
		k->data[len] = 0;
		k->check = key_record_checksum(k);
		memcpy(in.record, &off, 4);
		memcpy(in.prefix, key, SHM_KEY_PREFIX);
		memcpy(e->key, &in, sizeof in);
		e->n = SHM_KEY_LONG;
	} else {
		memset(e->key, 0, sizeof e->key);
		memcpy(e->key, key, len);
		e->n = (uint8_t)len;
	}
	CRASH_POINT(key_stored);
	atomic_store_explicit(&e->hash, hash, memory_order_relaxed);
	CRASH_POINT(key_hash_stored);
	/* Before the word, as all of the entry: whoever finds the word set finds its tag. */
	atomic_store_explicit(gen_tag(g, (uint32_t)(e - g->map.entries)), shm_tag(hash), memory_order_relaxed);
	CRASH_POINT(tag_stored);
	return true;
}

/* What a reserved slot becomes that gets no placement: the tombstone that it was; one that was none ages at once. */
static uint64_t slot_give_back(uint64_t word)
{
	return word_make(word_epoch(word), 0, word_epoch(word) == 0, 0, 0);
}

uint32_t slot_take(struct generation *g, const char *key, size_t len, uint64_t hash)
{
	struct shm_table *h = gen_header(g);
	uint32_t home = index_home(hash, g->map.capacity), best = SLOT_NONE, i;
	uint32_t longest = atomic_load_explicit(&h->longest_probe, memory_order_relaxed);
	struct shm_entry *e;
	uint64_t word;

	for (i = home; i <= home + SHM_PROBE_MAX - 1; i++) {
		e = gen_entry(g, i);
		word = atomic_load_explicit(&e->word, memory_order_relaxed);
		if (word == WORD_EMPTY) {
			if (best == SLOT_NONE)
				best = i;
			break;
		}
		if (i - home <= longest && slot_holds(g, e, key, len, hash)) {
			/* Its own tombstone: no other key may move in before it is published, though it may age. */
			if (!word_live(word) && !word_reserved(word) &&
			    atomic_load_explicit(gen_document(g, i), memory_order_relaxed) == 0) {
				mirror_key(g->mirror, i, key, len, hash);
				atomic_store_explicit(&e->word, word_make(word_epoch(word), 0, 0, 0, WORD_RESERVED),
						      memory_order_release);
				CRASH_POINT(slot_reserved_again);
			}
			return i;
		}
		if (best == SLOT_NONE && slot_reusable(g, i, word))
			best = i;
		if (i - home >= longest && best != SLOT_NONE)
			break; /* the key is nowhere, and there is a place */
	}
	if (best == SLOT_NONE)
		return SLOT_NONE;
	e = gen_entry(g, best);
	word = atomic_load_explicit(&e->word, memory_order_relaxed);
	if (word != WORD_EMPTY && e->n == SHM_KEY_LONG)
		records_free(g, load_u32(e->key)); /* P3: nobody compares with it any more */
	if (word != WORD_EMPTY) {
		poison(e->key, sizeof e->key);
		poison_u64(&e->hash);
	}
	if (!key_write(g, e, key, len, hash)) {
		if (word != WORD_EMPTY)
			e->n = 0; /* its record is gone; an aged tombstone that holds no key */
		return SLOT_NONE;
	}
	if (best - home > longest) { /* before the entry: release, pairs with the acquire in index_find (its G2) */
		atomic_store_explicit(&h->longest_probe, best - home, memory_order_release);
		CRASH_POINT(longest_probe_stored);
		mirror_longest_probe(g->mirror, best - home);
	}
	mirror_key(g->mirror, best, key, len, hash); /* it passes before the table has it (P6) */
	if (word == WORD_EMPTY)
		atomic_fetch_add_explicit(&h->n_tombstones, 1, memory_order_relaxed);
	CRASH_POINT(reserved_counted);
	atomic_store_explicit(&e->word, WORD_RESERVED, memory_order_release);
	CRASH_POINT(slot_reserved);
	return best;
}

static void uses_add(struct table *t, const struct shm_detail *d, int n)
{
	if (d)
		t->uses[d->cluster] += (uint32_t)n;
}

static void release_detail(struct table *t, struct generation *g, uint32_t off)
{
	if (off != 0 && records_release(g, off))
		retire(t, g, off, 0);
}

/* Stores a state into a cell (P1, P2). at, to: record offsets that it owns a reference of from now on; what the cell
 * held loses its own. deciding: this is the generation that counts (statistics of clusters). */
static void cell_store(struct table *t, struct generation *g, uint32_t slot, bool dflt, const struct state *s,
		       uint32_t at, uint32_t to, uint64_t remembered, bool deciding)
{
	struct shm_table *h = gen_header(g);
	_Atomic uint64_t *word, *document;
	_Atomic uint32_t *det;
	uint64_t old, new;
	uint32_t old_at = 0, old_to = 0;
	unsigned which = 0;

	cell_pointers(g, slot, dflt, &word, &det, &document);
	old = atomic_load_explicit(word, memory_order_relaxed);
	if (word_live(old)) {
		which = word_which(old);
		old_at = atomic_load_explicit(&det[which], memory_order_relaxed);
		if (word_phase(old) != PHASE_SETTLED)
			old_to = atomic_load_explicit(&det[!which], memory_order_relaxed);
	}
	if (s->epoch > atomic_load_explicit(&h->epoch, memory_order_relaxed))
		atomic_store_explicit(&h->epoch, s->epoch, memory_order_release); /* P2 */
	CRASH_POINT(epoch_raised);
	if (!s->at) {
		new = s->epoch || word_live(old) ? word_make(s->epoch, 0, s->epoch == 0, 0, 0) : old;
		if (word_reserved(old) && s->epoch == 0)
			new = slot_give_back(old);
	} else {
		if (!word_live(old)) {
			which = 0;
			atomic_store_explicit(&det[0], at, memory_order_release);
			CRASH_POINT(first_det_stored);
			if (to)
				atomic_store_explicit(&det[1], to, memory_order_release);
			CRASH_POINT(target_det_stored);
		} else if (at == old_at) {
			if (to && to != old_to) /* begin */
				atomic_store_explicit(&det[!which], to, memory_order_release);
			CRASH_POINT(begun_det_stored);
		} else { /* set: the free slot; complete: it is there already */
			which = !which;
			if (at != old_to)
				atomic_store_explicit(&det[which], at, memory_order_release);
			CRASH_POINT(free_det_stored);
		}
		new = word_make(s->epoch, s->at->cluster, which, s->at->kind, s->phase);
	}
	/* Word and document are two stores; to whoever comes after a kill they are one: core_rebuild takes what is said
	 * here for the word that has the epoch. Release throughout: each is stored after the one before it. */
	atomic_store_explicit(&h->said_document, remembered, memory_order_release);
	CRASH_POINT(said_document_stored);
	atomic_store_explicit(&h->said_epoch, s->epoch, memory_order_release);
	CRASH_POINT(said_epoch_stored);
	if (new != old)
		atomic_store_explicit(word, new,
				      memory_order_release); /* P1: pairs with every reader's load of the word */
	CRASH_POINT(word_stored);
	mirror_store(g->mirror, dflt ? MIRROR_DEFAULT : slot, new); /* P6 */
	atomic_store_explicit(document, remembered, memory_order_release);
	CRASH_POINT(document_stored);
	atomic_store_explicit(&h->said_epoch, 0, memory_order_release);
	CRASH_POINT(said_epoch_cleared);
	if (!dflt) {
		if (word_live(new) && !word_live(old)) {
			atomic_fetch_add_explicit(&h->n_live, 1, memory_order_relaxed);
			CRASH_POINT(live_counted);
			if (old != WORD_EMPTY)
				atomic_fetch_sub_explicit(&h->n_tombstones, 1, memory_order_relaxed);
			CRASH_POINT(tombstone_filled);
		} else if (!word_live(new) && word_live(old)) {
			atomic_fetch_sub_explicit(&h->n_live, 1, memory_order_relaxed);
			CRASH_POINT(live_uncounted);
			atomic_fetch_add_explicit(&h->n_tombstones, 1, memory_order_relaxed);
			CRASH_POINT(tombstone_counted);
			retire(t, g, 0, s->epoch);
		}
	}
	if (deciding) {
		uses_add(t, s->at, 1);
		uses_add(t, s->to, 1);
		uses_add(t, old_at ? gen_record(g, old_at) : NULL, -1);
		uses_add(t, old_to ? gen_record(g, old_to) : NULL, -1);
	}
	release_detail(t, g, old_at);
	release_detail(t, g, old_to);
}

/* ---- partitions and the default ---- */

static uint64_t key_hash(const struct table *t, const struct table_change *c)
{
	return c->key ? hash_key(t->secret, c->key, c->len) : 0;
}

static void cancel_in(struct table *t, struct generation *g, unsigned which, struct table_change *c)
{
	release_detail(t, g, c->priv.det[which][0]);
	release_detail(t, g, c->priv.det[which][1]);
	if (c->priv.slot[which] != SLOT_NONE) {
		struct shm_entry *e = gen_entry(g, c->priv.slot[which]);

		uint64_t word = atomic_load_explicit(&e->word, memory_order_relaxed);

		if (word_reserved(word)) {
			word = slot_give_back(word);
			atomic_store_explicit(&e->word, word, memory_order_release);
			CRASH_POINT(slot_given_back);
			mirror_store(g->mirror, c->priv.slot[which], word);
		}
	}
}

/* like: reserved before it, NULL: none; a placement of the same address needs no search.
 * False: no room; what is held is in c->priv. which: 0 the generation in use, 1 the one being built. */
static bool reserve_parts(struct table *t, struct generation *g, unsigned which, struct table_change *c,
			  const struct table_change *like)
{
	const struct state *s = &c->after;
	uint32_t *det = c->priv.det[which];

	if (c->key) {
		uint64_t hash = key_hash(t, c), word;
		const struct shm_entry *e;

		/* Nothing to leave behind, and the copy has not come here: it will pass over the tombstone. */
		if (which == 1 && !s->at && c->document == 0 &&
		    index_find(&g->map, c->key, c->len, hash, true, &e, &word) != 1)
			return true;
		c->priv.slot[which] = slot_take(g, c->key, c->len, hash);
		if (c->priv.slot[which] == SLOT_NONE)
			return false;
	}
	if (s->at && like && like->after.at == s->at)
		det[0] = records_share(g, like->priv.det[which][0]);
	else if (s->at && (det[0] = records_intern(g, s->at)) == 0)
		return false;
	if (s->to && (det[1] = records_intern(g, s->to)) == 0)
		return false;
	/* one record, two references: cannot be told apart; the machine refuses it */
	return !s->to || det[0] != det[1];
}

/* False: no room; nothing is held. */
static bool reserve_in(struct table *t, struct generation *g, unsigned which, struct table_change *c,
		       const struct table_change *like)
{
	c->priv.slot[which] = SLOT_NONE;
	c->priv.det[which][0] = c->priv.det[which][1] = 0;
	if (reserve_parts(t, g, which, c, like))
		return true;
	cancel_in(t, g, which, c);
	c->priv.slot[which] = SLOT_NONE;
	c->priv.det[which][0] = c->priv.det[which][1] = 0;
	return false;
}

/* An entry more than there may be? A key that has a slot takes no other one: its migration ends in a full table too. */
static bool too_full(const struct table *t, const struct table_change *c)
{
	const struct shm_table *h = gen_header(t->now);
	const struct shm_entry *e;
	uint64_t word;

	return c->key && c->after.at &&
	       atomic_load_explicit(&h->n_live, memory_order_relaxed) +
			       atomic_load_explicit(&h->n_tombstones, memory_order_relaxed) + 1 >
		       GROW_MUST(t->now->map.capacity) &&
	       index_find(&t->now->map, c->key, c->len, key_hash(t, c), true, &e, &word) != 1;
}

/* In both generations. False: no room; nothing is held. */
static bool reserve_one(struct table *t, struct table_change *c, const struct table_change *like)
{
	bool in_now = !too_full(t, c) && reserve_in(t, t->now, 0, c, like);

	c->priv.slot[1] = SLOT_NONE;
	c->priv.det[1][0] = c->priv.det[1][1] = 0;
	if (in_now && (!gen_beside(t) || reserve_in(t, gen_beside(t), 1, c, like))) {
		t->n_reserved++;
		return true;
	}
	if (in_now)
		cancel_in(t, t->now, 0, c);
	return false;
}

/* What they may take up at most, all keys being new; neighbours may share a placement. */
static struct table_room room_for(const struct table_change *c, size_t n)
{
	struct table_room room = {.partitions = n, .record_bytes = 2 * SHM_RECORD_MAX};

	for (size_t i = 0; i < n; i++) {
		if (c[i].key && c[i].len > SHM_KEY_INLINE)
			room.record_bytes += table_record_bytes(key_record_size(c[i].len));
		if (i && c[i].after.at && c[i].after.at != c[i - 1].after.at)
			room.record_bytes += table_record_bytes(c[i].after.at->size);
		if (i && c[i].after.to && c[i].after.to != c[i - 1].after.to)
			room.record_bytes += table_record_bytes(c[i].after.to->size);
	}
	return room;
}

enum refusal_code table_reserve_all(struct table *t, struct table_change *changes, size_t n, struct refusal *r)
{
	grow_press(t, n);
	for (unsigned attempt = 0;; attempt++) {
		struct table_room room;
		size_t i = 0;

		while (i < n && reserve_one(t, &changes[i], i ? &changes[i - 1] : NULL))
			i++;
		if (i == n)
			return R_DONE;
		while (i)
			table_cancel(t, &changes[--i]);
		/* Twice: a growth that was under way already is not as large as it should be. */
		if (attempt == 2 || t->n_reserved)
			return refuse(r, R_FULL,
				      "no room for %zu change%s in the table (%u entries, %llu bytes): give its file "
				      "system more room",
				      n, n == 1 ? "" : "s", t->now->map.capacity, (unsigned long long)t->now->limit);
		room = room_for(changes, n);
		if (grow_now(t, &room, r) != R_DONE)
			return R_FULL;
	}
}

enum refusal_code table_reserve(struct table *t, struct table_change *c, struct refusal *r)
{
	return table_reserve_all(t, c, 1, r);
}

void table_publish(struct table *t, struct table_change *c)
{
	struct generation *beside = gen_beside(t);
	bool dflt = c->key == NULL, both = beside && (dflt || c->priv.slot[1] != SLOT_NONE); /* P5 */

	mirror_hold(t->now->mirror, dflt ? MIRROR_DEFAULT : c->priv.slot[0]); /* P6: in both before either word */
	if (both)
		mirror_hold(beside->mirror, dflt ? MIRROR_DEFAULT : c->priv.slot[1]);
	cell_store(t, t->now, c->priv.slot[0], dflt, &c->after, c->priv.det[0][0], c->priv.det[0][1], c->document,
		   true);
	if (both)
		cell_store(t, beside, c->priv.slot[1], dflt, &c->after, c->priv.det[1][0], c->priv.det[1][1],
			   c->document, false);
	t->n_reserved--;
}

void table_cancel(struct table *t, struct table_change *c)
{
	cancel_in(t, t->now, 0, c);
	if (gen_beside(t))
		cancel_in(t, gen_beside(t), 1, c);
	t->n_reserved--;
}

bool cell_fill(struct table *t, struct generation *g, uint32_t slot, const struct state *s, uint64_t document)
{
	bool dflt = slot == SLOT_NONE;
	uint32_t at = s->at ? records_intern(g, s->at) : 0, to = s->to ? records_intern(g, s->to) : 0;

	if ((s->at && !at) || (s->to && !to)) {
		release_detail(t, g, at);
		return false;
	}
	cell_store(t, g, slot, dflt, s, at, to, document, g == t->next && t->growth == GROW_IDLE);
	return true;
}

/* ---- clusters ---- */

uint32_t cluster_record_make(struct generation *g, unsigned number, const char *id, const char *endpoint)
{
	size_t id_len = strlen(id), endpoint_len = strlen(endpoint);
	uint32_t off = records_alloc(g, cluster_size(id_len, endpoint_len));
	struct shm_cluster *c;

	if (off == 0)
		return 0;
	c = gen_record(g, off);
	c->number = (uint16_t)number;
	c->id_len = (uint8_t)id_len;
	c->endpoint_len = (uint8_t)endpoint_len;
	memcpy(c->data, id, id_len + 1);
	memcpy(c->data + id_len + 1, endpoint, endpoint_len + 1);
	c->check = cluster_checksum(c);
	return off;
}

static bool cluster_reserve_in(struct generation *g, const struct table_cluster_change *c, uint32_t *off)
{
	*off = 0;
	if (c->number >= g->map.n_cluster_slots)
		return c->id == NULL;
	return !c->id || (*off = cluster_record_make(g, c->number, c->id, c->endpoint)) != 0;
}

enum refusal_code table_cluster_reserve(struct table *t, struct table_cluster_change *c, struct refusal *r)
{
	bool fresh = c->number == 0;

	if (fresh) {
		uint64_t next = table_next_cluster(t);

		if (next > SHM_CLUSTERS_MAX)
			return refuse(r, R_FULL,
				      "all %u cluster numbers of this instance were given out; numbers are never "
				      "reused",
				      SHM_CLUSTERS_MAX);
		c->number = (unsigned)next;
	}
	for (unsigned attempt = 0;; attempt++) {
		bool in_now = cluster_reserve_in(t->now, c, &c->priv[0]);

		c->priv[1] = 0;
		if (in_now && (!gen_beside(t) || cluster_reserve_in(gen_beside(t), c, &c->priv[1]))) {
			t->n_reserved++;
			return R_DONE;
		}
		if (c->priv[0])
			records_free(t->now, c->priv[0]);
		/* Twice: as in table_reserve_all, a growth under way may have been started with as few slots. */
		if (attempt == 2 || t->n_reserved || grow_now(t, &(struct table_room){.clusters = 1}, r) != R_DONE) {
			if (fresh)
				c->number = 0;
			return refuse(r, R_FULL, "no room for cluster %s in the table: give its file system more room",
				      c->id ? c->id : "(removal)");
		}
	}
}

static void cluster_publish_in(struct table *t, struct generation *g, unsigned number, uint32_t off)
{
	uint32_t old;

	if (number >= g->map.n_cluster_slots)
		return;
	old = atomic_load_explicit(gen_cluster(g, number), memory_order_relaxed);
	/* Release: pairs with the acquire in seg_cluster. */
	atomic_store_explicit(gen_cluster(g, number), off, memory_order_release);
	CRASH_POINT(cluster_stored);
	if (old)
		retire(t, g, old, 0);
	if (number >= atomic_load_explicit(&gen_header(g)->next_cluster, memory_order_relaxed))
		atomic_store_explicit(&gen_header(g)->next_cluster, number + 1, memory_order_relaxed);
	CRASH_POINT(next_cluster_stored);
}

void table_cluster_publish(struct table *t, struct table_cluster_change *c)
{
	const struct shm_cluster *old = table_cluster(t, c->number);

	if (old)
		json_object_del(t->cluster_numbers, cluster_id(old));
	if (c->id)
		json_object_set_new(t->cluster_numbers, c->id, json_integer((json_int_t)c->number));
	cluster_publish_in(t, t->now, c->number, c->priv[0]);
	if (gen_beside(t))
		cluster_publish_in(t, gen_beside(t), c->number, c->priv[1]);
	mirror_cluster_set(t->mirror, c->number, c->id ? c->endpoint : NULL);
	t->n_reserved--;
}

void table_cluster_cancel(struct table *t, struct table_cluster_change *c)
{
	if (c->priv[0])
		records_free(t->now, c->priv[0]);
	if (c->priv[1])
		records_free(gen_beside(t), c->priv[1]);
	t->n_reserved--;
}
