/* SPDX-License-Identifier: MIT
 * The hot path: one decision about one partition. Inlined into each call of route.c, admit.c and lookup.c; what is rare
 * is out of line in reader.c. Makes no system call, takes no lock, allocates nothing, and stores to its own line alone.
 *
 *   handle (fork? another attachment?) -> section_open -> decide -> section_close
 *
 * G1 A decision counts only if root's termgen, loaded after everything it was made from, is still that of the
 *    mapping: so nothing that was read in a table that others have left counts. (model:
 *    tests/model/generation.pml)
 * G2 A section that goes on in a newer generation has said so on its line before it loads the termgen that
 *    chooses the mapping (bl_reader_renew). (model: tests/model/section.pml)
 * G3 A miss is answered by the default only if the default's word, loaded before the probe, is unchanged after
 *    it: else the answer could be a default that was never in force while the partition had no entry. (model:
 *    tests/model/default.pml)
 * G4 Without a registration nothing keeps a removed entry from being reused under us; the word, loaded again
 *    after the key was compared, tells: a reuse changes it, and no epoch comes twice. (model: entry.pml,
 *    ROUTE_RELOAD)
 * G5 At most ATTEMPTS rounds, whatever the memory does. */
#ifndef BERTH_READER_LIB_DECIDE_H
#define BERTH_READER_LIB_DECIDE_H

#include "internal.h"

struct decision {
	uint64_t word;
	const _Atomic uint64_t *word_at; /* where it was: the entry's, or the default's */
	const _Atomic uint32_t *det;
	bool is_default;
};

/* The rest of decide(), in reader.c: who has no entry, or a long key, or one that is not where it was guessed. */
int bl_decide_again(struct berth_reader *, const void *key, size_t len, uint64_t hash, struct decision *);

/* May this handle be used, and has its attachment been replaced? One load: the page reads as zeros in a forked child.
 */
INLINE int handle(struct berth_reader *r)
{
	if (unlikely(atomic_load_explicit(r->stamp_page, memory_order_relaxed) != r->stamp))
		return bl_reader_wake(r); /* takes the new one over under a lock, which orders what it reads */
	return BERTH_OK;
}

/* The calls that need a section open their own when none is open. */
INLINE bool section_open(struct berth_reader *r)
{
	bool own = r->depth == 0;

	if (likely(own))
		section_enter(r->line, r->root, r->section_low, r->fences);
	return own;
}

INLINE void section_close(struct berth_reader *r, bool own)
{
	if (likely(own))
		section_exit(r->line);
}

/* Most partition ids have 8..16 bytes. Where the compiler knows that, hash and comparison are a handful of
 * instructions: berth_route and berth_admit compile that in, for a registered reader outside a section, with one guess
 * and no call, so that nothing is spilled; everything else (other lengths, another attempt, an error) starts over in a
 * function of its own. In large tables it is the instructions that decide how many misses the processor overlaps. */
INLINE bool usual_len(size_t len)
{
	return likely(len - 8 <= 8);
}
/* Outside a section, with a registration that membarrier reaches. */
INLINE bool quiet(const struct berth_reader *r)
{
	return likely(load_u64(&r->depth) == 0);
}
static_assert(offsetof(struct berth_reader, fences) == offsetof(struct berth_reader, depth) + 4 &&
		      offsetof(struct berth_reader, pool) == offsetof(struct berth_reader, depth) + 8,
	      "depth, fences, copying and zeros are one number");
INLINE bool usual_handle(const struct berth_reader *r)
{
	return likely(atomic_load_explicit(r->stamp_page, memory_order_relaxed) == r->stamp); /* as in handle() */
}

/* Acquire: pairs with the release store of a flip, after which the new table is complete. */
INLINE bool current(const struct berth_reader *r)
{
	return likely(atomic_load_explicit(&r->root->termgen, memory_order_acquire) == r->map.termgen);
}

/* After a decision: is the word still there, and is the table still the one in force (G1)? The fence keeps all loads of
 * the decision before these two, which acquire alone would not; the word's acquire keeps the termgen's load last. */
INLINE bool still_true(const struct berth_reader *r, const struct decision *d, uint64_t w)
{
	atomic_thread_fence(memory_order_acquire);
	return likely(atomic_load_explicit(d->word_at, memory_order_acquire) == w) &&
	       likely(atomic_load_explicit(&r->root->termgen, memory_order_relaxed) == r->map.termgen);
}

/* A word that answers, with fields that no writer stores. */
INLINE bool word_damaged(uint64_t w)
{
	return unlikely((~w & 3u) == 0) ||
	       unlikely((w & WORD_CLUSTER) == 0); /* a phase that there is not; no cluster */
}

/* One attempt, in the mapping that is current. */
enum attempt {
	CHANGED, /* something changed meanwhile: nothing of it counts */
	DECIDED, /* *code, and when that is BERTH_OK, *d */
	DAMAGED  /* without a registration perhaps only a record that was freed under us */
};
INLINE enum attempt attempt(const struct berth_reader *r, const void *key, size_t len, uint64_t hash,
			    struct decision *d, int *code)
{
	const struct shm_default *dflt = &r->map.table->dflt;
	uint64_t before =
		atomic_load_explicit(&dflt->word, memory_order_acquire); /* G3; pairs with its release store */
	const struct shm_entry *e;
	uint64_t w;
	int found = index_find(&r->map, key, len, hash, false, &e, &w);

	if (likely(found > 0)) {
		d->word_at = &e->word;
		d->det = e->det;
		d->word = w;
		d->is_default = false;
	} else {
		d->word_at = &dflt->word;
		d->det = dflt->det;
		d->word = before;
		d->is_default = true;
	}
	if (!still_true(r, d, d->word)) /* G1, G3, G4 */
		return CHANGED;
	*code = BERTH_OK;
	if (found == 0 && !word_live(d->word))
		*code = BERTH_E_UNKNOWN;
	else if (unlikely(found < 0 || word_damaged(d->word)))
		return DAMAGED;
	return DECIDED;
}

/* The first guess of the search, and it alone (index.h): the entry of the partition and its word, in the mapping that was
 * current. False: anything else. Calls nothing, so that its callers spill nothing. It says nothing yet: termgen, loaded
 * again after it, does, and still_true(). */
INLINE bool guess(const struct berth_reader *r, const void *key, size_t len, uint64_t hash, const struct shm_entry **e,
		  uint64_t *w)
{
	index_prefetch_home(&r->map, hash);
	return index_guess(&r->map, hash, e) && likely(index_hit(*e, key, len, w)) && likely(!word_damaged(*w));
}
INLINE bool guess_decision(const struct berth_reader *r, const void *key, size_t len, uint64_t hash, struct decision *d)
{
	const struct shm_entry *e;

	if (unlikely(!guess(r, key, len, hash, &e, &d->word)))
		return false;
	d->word_at = &e->word;
	d->det = e->det;
	d->is_default = false;
	return true;
}
INLINE bool attempt_guess(const struct berth_reader *r, const void *key, size_t len, uint64_t hash, struct decision *d)
{
	return guess_decision(r, key, len, hash, d) && likely(still_true(r, d, d->word)); /* G1, G4 */
}

/* All of it in the usual case: what berth_route and berth_admit begin with. The reader's section keeps the entry from being
 * reused, and no other word goes into the answer, so that termgen alone is loaded again (G1; the fence as in still_true).
 * root and line are loaded once: the compiler cannot know that a line's store does not change them. */
INLINE bool decide_usual(struct berth_reader *r, const void *key, size_t len, uint64_t *w)
{
	const struct shm_root *root = r->root;
	struct shm_line *line = r->line;
	const struct shm_entry *e;
	bool decided = false;

	section_enter(line, root, r->section_low, false);
	/* Acquire: as in current(). */
	if (likely(atomic_load_explicit(&root->termgen, memory_order_acquire) == r->map.termgen) &&
	    likely(guess(r, key, len, hash_key(r->secret, key, len), &e, w))) {
		atomic_thread_fence(memory_order_acquire);
		decided = likely(atomic_load_explicit(&root->termgen, memory_order_relaxed) == r->map.termgen);
	}
	section_exit(line);
	return decided;
}

/* Inside a section. 1 <= len <= SHM_KEY_MAX. The first guess is compiled in, and nearly always right; not tried again by
 * those who come here because it was wrong (`guessed`). */
INLINE int decide_after(struct berth_reader *r, const void *key, size_t len, uint64_t hash, struct decision *d,
			bool guessed)
{
	struct decision again;
	int code;

	if (!guessed && likely(current(r)) && likely(len <= SHM_KEY_INLINE) &&
	    likely(attempt_guess(r, key, len, hash, d)))
		return BERTH_OK;
	code = bl_decide_again(r, key, len, hash, &again); /* by another struct, so that *d may live in registers */
	*d = again;
	return code;
}
INLINE int decide(struct berth_reader *r, const void *key, size_t len, uint64_t hash, struct decision *d)
{
	return decide_after(r, key, len, hash, d, false);
}

#endif
