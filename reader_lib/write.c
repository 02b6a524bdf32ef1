/* SPDX-License-Identifier: MIT
 * berth_write_begin, its bulk form, and berth_write_end: the gate with a lease, so that a cutover can see the writes that
 * it has to wait for. The reader's own thread begins; any thread ends. Hot: whatever changes here is measured.
 *
 *   word (refused: no slot is taken) -> slot: state, hash -> fence -> word and termgen again -> admitted, or slot cleared
 *   no entry: the default's word -> slot: state, hash -> fence -> all of it again -> admitted, or slot cleared
 *
 * G1 The lease is stored before the loads that admit (still_true, after section_fence): a writer that has stored a cutover
 *    and issued its membarrier either finds the lease, or its word was seen here. (shm/lease.h, G1; model: lease.pml)
 * G2 An admitted write's word was unchanged, and its table the one in force, after the lease was there (decide.h, G1).
 *    When that fails the decision is made again with the lease kept. What the default answers rests on the miss too, which
 *    no word tells: the partition may have got an entry since, and have been cut over. So it is looked for again after the
 *    lease.
 * G3 The lease is cleared after everything that the write did before berth_write_end (release), and is the last that is
 *    touched of its pool (lease.c, L2).
 * G4 What is refused holds nothing. */
#include <string.h>

#include "gate.h"

/* berth_write.opaque: the pool, and a reference: the slot's number + 1, SHARED when a bulk begin gave it to several, and
 * the lease's tag (lease.h), so that a copy that is ended a second time ends nobody else's lease. */
#define SHARED (1ull << 32)
#define TAG_SHIFT 40
/* link[] of a shared slot: users besides the first, and whether one of them ended unknown. */
#define SHARED_UNKNOWN (1u << 31)

#define NO_SLOT 1 /* instead of a code: all of the reader's slots are in use */

INLINE uint64_t coarse_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t); /* for people: how old a lease is; no system call (vdso) */
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Not before any moment that came before. */
static uint64_t now_ms_up(void)
{
	return (seg_clock_ns(CLOCK_MONOTONIC) + 999999u) / 1000000u;
}

INLINE void hold(struct berth_reader *r, uint32_t i, uint64_t hash, uint64_t ms)
{
	lease_take(r->pool->array, i, hash, lease_tag(++r->pool->sequence), ms);
	section_fence(r->fences); /* G1 */
}

/* To the last lease taken, in slot i. */
INLINE uint64_t reference(const struct lease_pool *p, uint32_t i)
{
	return (uint64_t)lease_tag(p->sequence) << TAG_SHIFT | (i + 1ull);
}

INLINE bool refers(const struct lease_pool *p, uint64_t ref)
{
	const struct shm_lease *s = &lease_slots(p->array)[(uint32_t)ref - 1u];

	return atomic_load_explicit(&s->hash, memory_order_relaxed) != 0 &&
	       atomic_load_explicit(&s->state, memory_order_relaxed) >> 48 == ref >> TAG_SHIFT;
}

/* The owner's: nothing was sent, or it is done. */
INLINE void let_go(struct lease_pool *p, uint32_t i)
{
	atomic_store_explicit(&p->link[i], p->free, memory_order_relaxed);
	p->free = i;
	lease_clear(&lease_slots(p->array)[i]); /* G3 */
}

INLINE void fill(struct berth_write *w, uint64_t word, bool is_default, struct lease_pool *p, uint64_t slot)
{
	*w = (struct berth_write){.epoch = word_epoch(word),
				  .cluster = (uint16_t)word_cluster(word),
				  .kind = (uint8_t)word_kind(word),
				  .phase = (uint8_t)word_phase(word),
				  .is_default = is_default,
				  .opaque = {p, (void *)(uintptr_t)slot}};
}

INLINE int epoch_word(uint64_t word, uint64_t epoch)
{
	return gate_word(word, epoch ? epoch : word_epoch(word));
}

/* Everything but the usual case, inside a section. *slot: in: held already, or LEASE_NO_SLOT; out: held on BERTH_OK; on
 * anything else as it came. */
static int begin_in(struct berth_reader *r, const void *key, size_t len, uint64_t hash, uint64_t epoch,
		    struct decision *d, uint32_t *slot)
{
	uint32_t held = *slot;
	int rc = BERTH_E_AGAIN;

	for (unsigned i = 0; i < ATTEMPTS; i++) {
		bool leased = held != LEASE_NO_SLOT; /* before this decision */

		rc = decide(r, key, len, hash, d);
		if (rc == BERTH_OK)
			rc = epoch_word(d->word, epoch);
		if (rc != BERTH_OK)
			break;
		if (held == LEASE_NO_SLOT) {
			held = bl_slot_pop(r->pool);
			if (held == LEASE_NO_SLOT)
				held = bl_slot_find(r->pool, r->root);
			if (held == LEASE_NO_SLOT)
				return NO_SLOT;
			hold(r, held, hash, coarse_ms());
		}
		if ((leased || !d->is_default) && still_true(r, d, d->word))
			break; /* G2 */
		rc = BERTH_E_AGAIN;
	}
	rc = gate_judge(r->root, rc);
	if (rc == BERTH_OK)
		*slot = held;
	else if (*slot == LEASE_NO_SLOT && held != LEASE_NO_SLOT)
		let_go(r->pool, held); /* G4 */
	return rc;
}

/* May this reader begin writes at all? */
static int may_begin(struct berth_reader *r)
{
	int rc = handle(r);

	if (rc != BERTH_OK)
		return rc;
	if (r->owner->writes != BERTH_WRITES_BRACKETED)
		return BERTH_E_INVAL;
	return r->pool && !at_abandoned(r) ? BERTH_OK : BERTH_E_WRITER_DOWN;
}

static HOT NOINLINE int begin_unusual(struct berth_reader *r, const void *key, size_t len, uint64_t epoch,
				      struct berth_write *w)
{
	uint32_t slot = LEASE_NO_SLOT;
	struct decision d = {0};
	bool own;
	int rc;

	if (len - 1 >= SHM_KEY_MAX)
		return BERTH_E_INVAL;
	rc = may_begin(r);
	if (rc != BERTH_OK)
		return rc;
	own = section_open(r);
	rc = begin_in(r, key, len, hash_key(r->secret, key, len), epoch, &d, &slot);
	section_close(r, own);
	if (rc == BERTH_OK)
		fill(w, d.word, d.is_default, r->pool, reference(r->pool, slot));
	return rc == NO_SLOT ? BERTH_E_AGAIN : rc;
}

/* The usual case, inside a section: a slot on the owner's list, and the first guess. ms: of now; 0: to be read. False:
 * nothing is held, and nothing is said. */
INLINE bool begin_usual(struct berth_reader *r, const void *key, size_t len, uint64_t hash, uint64_t epoch, uint64_t ms,
			struct decision *d, uint32_t *slot)
{
	if (unlikely(r->pool->free == LEASE_NO_SLOT) || !current(r) ||
	    unlikely(!guess_decision(r, key, len, hash, d)) || unlikely(epoch_word(d->word, epoch) != BERTH_OK))
		return false;
	*slot = bl_slot_pop(r->pool);
	hold(r, *slot, hash, ms ? ms : coarse_ms());
	if (still_true(r, d, d->word) && likely(gate_judge(r->root, BERTH_OK) == BERTH_OK))
		return true;
	let_go(r->pool, *slot);
	return false;
}

HOT int berth_write_begin(struct berth_reader *r, const void *key, size_t len, uint64_t epoch, struct berth_write *w)
{
	if (unlikely(!r || !key || !w))
		return BERTH_E_INVAL;
	if (usual_handle(r) && likely(r->pool != NULL) && usual_len(len)) {
		bool own = section_open(r);
		struct decision d;
		uint32_t slot;

		if (begin_usual(r, key, len, hash_key(r->secret, key, len), epoch, 0, &d, &slot)) {
			section_close(r, own);
			fill(w, d.word, false, r->pool, reference(r->pool, slot));
			return BERTH_OK;
		}
		section_close(r, own);
	}
	return begin_unusual(r, key, len, epoch, w);
}

/* ---- many -------------------------------------------------------------------------------------------------- */

#define CHUNK 32 /* keys whose cache misses overlap */

/* Equal partitions of a bulk begin find each other by a hash table in the caller's own array: reserved1[0] of w[b] is the
 * first item of bucket b, reserved1[1] of an item the next in its bucket; both + 1, and zeroed at the end. */
INLINE size_t bucket(uint64_t hash, size_t n)
{
	return (size_t)((hash >> 32) * (uint64_t)n >> 32);
}

INLINE struct berth_write *find_equal(const struct berth_key *keys, size_t i, uint64_t hash, size_t n,
				      struct berth_write *w)
{
	for (uint64_t at = w[bucket(hash, n)].reserved1[0]; unlikely(at); at = w[at - 1].reserved1[1])
		if (keys[at - 1].len == keys[i].len && memcmp(keys[at - 1].key, keys[i].key, keys[i].len) == 0)
			return &w[at - 1];
	return NULL;
}

INLINE void fill_item(struct berth_write *w, const struct decision *d, struct lease_pool *p, uint64_t slot)
{
	uint64_t first = w->reserved1[0], next = w->reserved1[1];

	fill(w, d->word, d->is_default, p, slot);
	w->reserved1[0] = first;
	w->reserved1[1] = next;
}

INLINE bool key_fits(const struct berth_key *k)
{
	return k->key && k->len - 1 < SHM_KEY_MAX;
}

/* What is not usual: another length, another attempt, a refusal, a partition that an item before this one has begun. */
static NOINLINE int item_unusual(struct berth_reader *r, const struct berth_key *keys, uint64_t epoch, size_t i,
				 uint64_t hash, struct berth_write *w, struct berth_write *first)
{
	uint32_t slot = first ? (uint32_t)(uintptr_t)first->opaque[1] - 1u : LEASE_NO_SLOT;
	struct lease_pool *p = r->pool;
	struct decision d = {0};
	int rc = BERTH_E_INVAL;

	if (key_fits(&keys[i]))
		rc = begin_in(r, keys[i].key, keys[i].len, hash, epoch, &d, &slot);
	if (rc != BERTH_OK) {
		w[i].epoch = 0;
		return rc;
	}
	fill_item(&w[i], &d, p, reference(p, slot));
	if (!first)
		return BERTH_OK;
	if (!((uintptr_t)first->opaque[1] & SHARED)) {
		atomic_store_explicit(&p->link[slot], 0, memory_order_relaxed);
		first->opaque[1] = (void *)((uintptr_t)first->opaque[1] | SHARED);
	}
	/* Nobody ends one of them before the bulk begin has returned. */
	atomic_store_explicit(&p->link[slot], atomic_load_explicit(&p->link[slot], memory_order_relaxed) + 1,
			      memory_order_relaxed);
	w[i].opaque[1] = first->opaque[1];
	return BERTH_OK;
}

/* w[i].epoch: the hash. */
INLINE int begin_item(struct berth_reader *r, const struct berth_key *keys, uint64_t epoch, size_t i, size_t n,
		      struct berth_write *w, uint64_t ms)
{
	const struct berth_key *k = &keys[i];
	uint64_t hash = w[i].epoch;
	struct berth_write *first = likely(key_fits(k)) ? find_equal(keys, i, hash, n, w) : NULL;
	struct decision d;
	uint32_t slot;
	int rc = BERTH_OK;

	if (likely(!first) && usual_len(k->len) && likely(k->key) &&
	    likely(begin_usual(r, k->key, k->len, hash, epoch, ms, &d, &slot)))
		fill_item(&w[i], &d, r->pool, reference(r->pool, slot));
	else
		rc = item_unusual(r, keys, epoch, i, hash, w, first);
	if (likely(rc == BERTH_OK && !first)) {
		w[i].reserved1[1] = w[bucket(hash, n)].reserved1[0];
		w[bucket(hash, n)].reserved1[0] = i + 1;
	}
	return rc;
}

static HOT int begin_all(struct berth_reader *r, const struct berth_key *keys, const uint64_t *epochs, size_t n,
			 struct berth_write *w, int *status)
{
	uint64_t ms = coarse_ms();

	for (size_t at = 0; at < n; at += CHUNK) {
		size_t end = n - at < CHUNK ? n : at + CHUNK;

		for (size_t i = at; i < end; i++) {
			w[i].epoch = likely(key_fits(&keys[i])) ? hash_key(r->secret, keys[i].key, keys[i].len) : 0;
			index_prefetch_tags(&r->map, w[i].epoch);
			index_prefetch_home(&r->map, w[i].epoch);
		}
		for (size_t i = at; i < end; i++) {
			status[i] = begin_item(r, keys, epochs ? epochs[i] : 0, i, n, w, ms);
			if (unlikely(status[i] == NO_SLOT))
				return NO_SLOT;
		}
	}
	return BERTH_OK;
}

int berth_write_begin_bulk(struct berth_reader *r, const struct berth_key *keys, const uint64_t *epochs, size_t n,
			   struct berth_write *w, int *status)
{
	bool own;
	int rc;

	if (unlikely(!r || (n > 0 && (!keys || !w || !status))))
		return BERTH_E_INVAL;
	if (n == 0)
		return BERTH_OK;
	memset(w, 0, n * sizeof *w);
	rc = n > UINT32_MAX ? BERTH_E_INVAL : may_begin(r);
	if (rc == BERTH_OK) {
		own = section_open(r);
		rc = begin_all(r, keys, epochs, n, w, status);
		section_close(r, own);
	}
	for (size_t i = 0; i < n; i++) {
		w[i].reserved1[0] = w[i].reserved1[1] = 0;
		if (likely(rc == BERTH_OK))
			continue;
		berth_write_end(r, &w[i], BERTH_DONE); /* what holds nothing is refused */
		memset(&w[i], 0, sizeof w[i]);
		status[i] = rc == NO_SLOT ? BERTH_E_AGAIN : rc;
	}
	return rc == NO_SLOT ? BERTH_E_AGAIN : rc;
}

/* ---- the end ----------------------------------------------------------------------------------------------- */

static COLD void end_unknown(struct lease_pool *p, uint32_t i, const struct shm_root *root)
{
	struct shm_lease *s = &lease_slots(p->array)[i];
	struct shm_leases *array = p->array;
	uint64_t end_ms = now_ms_up();

	if (!bl_slot_short(p, root)) {
		lease_end_unknown(s, end_ms); /* G3 */
		return;
	}
	bl_slot_return(p, i);
	lease_overflow(array, s, end_ms); /* G3: of the array, while its slot is not clear */
}

static COLD int end_unusual(struct berth_reader *r, struct lease_pool *p, uint64_t slot, enum berth_outcome outcome)
{
	uint32_t i = (uint32_t)slot - 1u;

	if (slot & SHARED) {
		uint32_t was;

		if (outcome == BERTH_UNKNOWN)
			atomic_fetch_or_explicit(&p->link[i], SHARED_UNKNOWN, memory_order_relaxed);
		/* acq_rel: what every other user did comes before the end of the lease by the last one. */
		was = atomic_fetch_sub_explicit(&p->link[i], 1, memory_order_acq_rel);
		if (was & ~SHARED_UNKNOWN)
			return BERTH_OK;
		outcome = was & SHARED_UNKNOWN ? BERTH_UNKNOWN : BERTH_DONE;
	}
	if (outcome == BERTH_UNKNOWN) {
		end_unknown(p, i, r->root);
	} else if (p == r->pool) {
		let_go(p, i);
	} else {
		struct shm_lease *s = &lease_slots(p->array)[i];

		bl_slot_return(p, i);
		lease_clear(s); /* G3 */
	}
	return BERTH_OK;
}

HOT int berth_write_end(struct berth_reader *r, struct berth_write *w, enum berth_outcome outcome)
{
	struct lease_pool *p;
	uint64_t slot;

	if (unlikely(!r || !w))
		return BERTH_E_INVAL;
	p = w->opaque[0];
	slot = (uintptr_t)w->opaque[1];
	if (unlikely(forked(r->stamp_page)))
		return BERTH_E_FORKED;
	if (unlikely(!p || (outcome != BERTH_DONE && outcome != BERTH_UNKNOWN)))
		return BERTH_E_INVAL;
	if (unlikely(!refers(p, slot)))
		return BERTH_E_INVAL;
	memset(w, 0, sizeof *w);
	if (likely(p == r->pool && outcome == BERTH_DONE && !(slot & SHARED))) {
		let_go(p, (uint32_t)slot - 1u);
		return BERTH_OK;
	}
	return end_unusual(r, p, slot, outcome);
}
