/* SPDX-License-Identifier: MIT
 * Pins of cursors in cursors.<generation>: how one is found by any number of readers while the cursor thread of berthd
 * changes the table. A bucket leads to a chain of slots; a pin stays in its slot and in its bucket for its whole life, and
 * pinning it again is one store of its word. Reader half: called by reader_lib/cursor.c and the tool. Writer half: called
 * by writer/cursor_table.c, one thread.
 *
 *   bucket --> slot --next--> slot --> 0             bucket: version | first          slot.word: cluster | expiry
 *
 *   make:     slot.version := 0, fence, fields, next := first, slot.version := n (release), bucket := version + 1, slot
 *   refresh:  slot.word := cluster, expiry
 *   drop:     slot.version := 0, the link before it := slot.next, bucket := version + 1 (release); then the slot is free
 *
 * G1 A hit is one pin: its fields lie between two loads of the slot's version that are equal and not 0. The number of a
 *    change is never used again (64 bits, counted on across writers), so there is no ABA. Only `word` changes while the
 *    version stands, and it is one load.
 * G2 A pin that is there during the whole of a search is found, or the search answers CHANGED: a search that a reused slot
 *    led into another chain has loaded something stored after the slot was dropped, so after the bucket's version had
 *    changed (fence in cursor_drop); the bucket is loaded again behind an acquire fence before a miss counts.
 * G3 A pin that ended before a search began is not found: its version was 0 by then, and its slot holds another number since.
 * G4 A search ends after SHM_CHAIN_MAX slots and loads nothing outside the mapping, whatever the file holds.
 * G5 A writer killed between any two stores leaves a table in which G1 to G4 hold: what it had not finished is found, or
 *    not, as it was when it stopped. The next writer mends the chains, and changes the version of every bucket that has
 *    one before it uses a slot again: the dead one may have dropped a slot without having said so there
 *    (writer/cursor_open.c).
 * A pin's end by time is no change: whoever finds it compares its expiry with a clock of its own.
 * Model: tests/model/cursor.pml. */
#ifndef BERTH_SHM_CURSOR_H
#define BERTH_SHM_CURSOR_H

#include <stdbool.h>

#include "crash_point.h"
#include "cursor_hash.h"
#include "layout.h"

#define CURSOR_EXPIRY_MAX ((1ull << 48) - 1)

static inline uint64_t cursor_word(unsigned cluster, uint64_t expiry_ms)
{
	return (uint64_t)cluster << 48 | expiry_ms;
}
static inline unsigned cursor_cluster(uint64_t word)
{
	return (unsigned)(word >> 48);
}
static inline uint64_t cursor_expiry(uint64_t word)
{
	return word & CURSOR_EXPIRY_MAX;
}

struct cursor_map {                     /* one mapped generation, checked: bounds never come from shared memory again */
	const struct shm_cursors *file; /* = start of the mapping; NULL: none */
	const _Atomic uint64_t *buckets;
	const struct shm_cursor *slots;
	uint64_t mask; /* buckets - 1 */
	uint32_t capacity;
	uint32_t generation;
	size_t size;
};

/* Opens and maps cursors.<generation> below the directory of the tables (segment.h), read-only, and checks it. *spare: as
 * in seg_table_map. BERTH_E_NO_INSTANCE: no such file (load root again); BERTH_E_CORRUPT, BERTH_E_UNSAFE,
 * BERTH_E_PERMISSION, BERTH_E_SYSTEM. *map is written on success alone. */
int cursor_map_open(int tables_fd, const struct shm_root *, uint64_t generation, int *spare, struct cursor_map *map);
void cursor_map_close(struct cursor_map *);
/* What shm_cursors.check has to be: of all that is written before the file gets its name. */
uint32_t cursor_header_check(const struct shm_cursors *);
/* The checks alone, over any bytes. */
int cursor_map_check(const void *base, size_t size, const uint8_t uuid[16], struct cursor_map *map);

static inline const _Atomic uint64_t *cursor_bucket(const struct cursor_map *m, const uint64_t hash[2])
{
	return &m->buckets[hash[0] & m->mask];
}

/* ---- readers ---- */

enum cursor_found {
	CURSOR_HIT,
	CURSOR_MISS,
	CURSOR_CHANGED, /* nothing is known: look again */
	CURSOR_DAMAGED
};

/* *owner and *word are set on CURSOR_HIT. The answer was true at an instant between call and return. */
static inline enum cursor_found cursor_find(const struct cursor_map *m, const uint64_t hash[2], uint64_t *owner,
					    uint64_t *word)
{
	const _Atomic uint64_t *bucket = cursor_bucket(m, hash);
	/* Acquire: pairs with the release store of cursor_make; what it leads to is complete. */
	uint64_t b = atomic_load_explicit(bucket, memory_order_acquire);
	uint32_t at = SHM_BUCKET_FIRST(b);

	for (unsigned steps = 0; steps < SHM_CHAIN_MAX && at != 0 && at <= m->capacity; steps++) { /* G4 */
		const struct shm_cursor *s = &m->slots[at - 1];
		uint64_t version = atomic_load_explicit(&s->version, memory_order_acquire); /* G1: before the fields */

		if (atomic_load_explicit(&s->hash[0], memory_order_relaxed) == hash[0] &&
		    atomic_load_explicit(&s->hash[1], memory_order_relaxed) == hash[1] && version != 0) {
			*owner = atomic_load_explicit(&s->owner, memory_order_relaxed);
			*word = atomic_load_explicit(&s->word, memory_order_relaxed);
			/* The fields before the version again: pairs with the fence of cursor_make. */
			atomic_thread_fence(memory_order_acquire);
			if (atomic_load_explicit(&s->version, memory_order_relaxed) == version)
				return CURSOR_HIT;
			return CURSOR_CHANGED;
		}
		at = atomic_load_explicit(&s->next, memory_order_relaxed);
	}
	atomic_thread_fence(memory_order_acquire); /* G2: every load of the search before the bucket's */
	if (atomic_load_explicit(bucket, memory_order_relaxed) != b)
		return CURSOR_CHANGED;
	return at == 0 ? CURSOR_MISS : CURSOR_DAMAGED;
}

/* ---- the writer's cursor thread ---- */

static inline void cursor_bucket_set(_Atomic uint64_t *bucket, uint32_t first)
{
	uint64_t b = atomic_load_explicit(bucket, memory_order_relaxed);

	/* Release: pairs with the acquire load of a search. */
	atomic_store_explicit(bucket, SHM_BUCKET(SHM_BUCKET_VERSION(b) + 1, first), memory_order_release);
	CRASH_POINT(bucket_stored);
}

/* Makes slot number i (of a slot that is in no chain) the first of its bucket's chain. version: > 0, never used before. */
static inline void cursor_make(struct shm_cursor *s, uint32_t i, _Atomic uint64_t *bucket, uint64_t version,
			       const uint64_t hash[2], uint64_t owner, uint64_t word)
{
	uint64_t b = atomic_load_explicit(bucket, memory_order_relaxed);

	/* Both follow the drop that freed the slot: a search that meets a field from below meets its version and its
	 * bucket's as they are after that drop (G1, G2). */
	atomic_store_explicit(&s->version, 0, memory_order_relaxed);
	CRASH_POINT(pin_cleared);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&s->hash[0], hash[0], memory_order_relaxed);
	atomic_store_explicit(&s->hash[1], hash[1], memory_order_relaxed);
	atomic_store_explicit(&s->owner, owner, memory_order_relaxed);
	atomic_store_explicit(&s->word, word, memory_order_relaxed);
	atomic_store_explicit(&s->next, SHM_BUCKET_FIRST(b), memory_order_relaxed);
	CRASH_POINT(pin_filled);
	atomic_store_explicit(&s->version, version, memory_order_release); /* pairs with the search's acquire */
	CRASH_POINT(pin_version_stored);
	cursor_bucket_set(bucket, i + 1);
}

static inline void cursor_refresh(struct shm_cursor *s, uint64_t word)
{
	atomic_store_explicit(&s->word, word, memory_order_relaxed);
	CRASH_POINT(pin_word_stored);
}

/* Ends a pin. before: the slot that leads to it; NULL: it is the first of its bucket's chain. The slot may be made anew at
 * once afterwards. */
static inline void cursor_drop(struct shm_cursor *s, struct shm_cursor *before, _Atomic uint64_t *bucket)
{
	uint32_t next = atomic_load_explicit(&s->next, memory_order_relaxed);
	uint64_t b = atomic_load_explicit(bucket, memory_order_relaxed);

	atomic_store_explicit(&s->version, 0, memory_order_release); /* G3: before it is out of the chain */
	CRASH_POINT(pin_dropped);
	if (before)
		atomic_store_explicit(&before->next, next, memory_order_release);
	CRASH_POINT(pin_passed_over);
	cursor_bucket_set(bucket, before ? SHM_BUCKET_FIRST(b) : next); /* cursor_make's fence comes after it: G2 */
}

#endif
