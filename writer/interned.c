/* SPDX-License-Identifier: MIT
 * Equal placements share one record, counted: a table of the records that are in use, in the writer's own memory.
 * Called by change.c; control thread.
 *
 * It doubles when it is half full, without a pause: the old one stays beside the new one, and each call moves MOVE of
 * its places. Nothing comes to the old one any more; a place that was moved or released is GONE, which a search goes
 * past. It is empty long before the next doubling: that takes as many new placements as it has entries, and it has
 * twice as many places. */
#include "table_internal.h"

#include <sys/mman.h>

#define FIRST 1024u
#define MOVE 16u
#define GONE UINT32_MAX /* no record is there: it would lie behind the longest file */

static_assert(MOVE > 2, "moved before the next doubling");

static uint32_t *places_make(uint64_t n) /* zero, and no memory before they are touched */
{
	void *p = mmap(NULL, n * sizeof(uint32_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void places_free(uint32_t *at, uint32_t mask)
{
	if (at)
		munmap(at, ((size_t)mask + 1) * sizeof *at);
}

int interned_make(struct interned *in)
{
	*in = (struct interned){.at = places_make(FIRST), .mask = FIRST - 1};
	return in->at ? 0 : -1;
}

void interned_destroy(struct interned *in)
{
	places_free(in->at, in->mask);
	places_free(in->old, in->old_mask);
	*in = (struct interned){0};
}

static uint32_t hash_of(const struct shm_detail *d)
{
	return (uint32_t)detail_fingerprint(d);
}

/* Where a placement is, or the free place where the search for it ends. */
static uint32_t find(const struct generation *g, const uint32_t *at, uint32_t mask, const struct shm_detail *d,
		     uint32_t hash)
{
	uint32_t i = hash & mask;

	while (at[i] != 0 && (at[i] == GONE || !detail_equal(gen_record(g, at[i]), d)))
		i = (i + 1) & mask;
	return i;
}

static uint32_t find_record(const uint32_t *at, uint32_t mask, uint32_t off, uint32_t hash)
{
	uint32_t i = hash & mask;

	while (at[i] != 0 && at[i] != off)
		i = (i + 1) & mask;
	return i;
}

static void move_some(struct generation *g)
{
	struct interned *in = &g->records.interned;

	if (!in->old)
		return;
	for (unsigned n = 0; n < MOVE && in->moved <= in->old_mask; n++, in->moved++) {
		uint32_t off = in->old[in->moved];

		if (off == 0 || off == GONE)
			continue;
		in->at[find_record(in->at, in->mask, 0, hash_of(gen_record(g, off)))] = off;
		in->old[in->moved] = GONE;
	}
	if (in->moved > in->old_mask) {
		places_free(in->old, in->old_mask);
		in->old = NULL;
	}
}

static bool grow(struct generation *g)
{
	struct interned *in = &g->records.interned;
	uint32_t *bigger = places_make(2 * ((uint64_t)in->mask + 1));

	if (!bigger)
		return false;
	while (in->old) /* never, see above */
		move_some(g);
	in->old = in->at;
	in->old_mask = in->mask;
	in->moved = 0;
	in->at = bigger;
	in->mask = 2 * in->mask + 1;
	return true;
}

uint32_t records_share(struct generation *g, uint32_t off)
{
	struct shm_detail *d = gen_record(g, off);

	atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed); /* read by this process alone */
	return off;
}

uint32_t records_intern(struct generation *g, const struct shm_detail *d)
{
	struct interned *in = &g->records.interned;
	uint32_t hash = hash_of(d), i, off;
	struct shm_detail *copy;

	move_some(g);
	i = find(g, in->at, in->mask, d, hash);
	off = in->at[i];
	if (off == 0 && in->old)
		off = in->old[find(g, in->old, in->old_mask, d, hash)];
	if (off != 0)
		return records_share(g, off);
	if (in->n >= in->mask / 2) {
		if (!grow(g))
			return 0;
		i = find(g, in->at, in->mask, d, hash);
	}
	off = records_alloc(g, d->size);
	if (off == 0)
		return 0;
	copy = gen_record(g, off);
	memcpy(copy, d, d->size);
	atomic_store_explicit(&copy->refs, 1, memory_order_relaxed);
	copy->check = detail_checksum(copy);
	in->at[i] = off;
	in->n++;
	return off;
}

/* Linear probing without tombstones: what follows moves up unless its home forbids it. */
static void take_out(struct generation *g, uint32_t i)
{
	struct interned *in = &g->records.interned;

	for (uint32_t j = i;;) {
		uint32_t home;

		j = (j + 1) & in->mask;
		if (in->at[j] == 0)
			break;
		home = hash_of(gen_record(g, in->at[j])) & in->mask;
		if (((j - home) & in->mask) >= ((j - i) & in->mask)) {
			in->at[i] = in->at[j];
			i = j;
		}
	}
	in->at[i] = 0;
}

bool records_release(struct generation *g, uint32_t off)
{
	struct interned *in = &g->records.interned;
	struct shm_detail *d = gen_record(g, off);
	uint32_t hash, i;

	if (atomic_fetch_sub_explicit(&d->refs, 1, memory_order_relaxed) != 1)
		return false;
	move_some(g);
	hash = hash_of(d);
	i = find_record(in->at, in->mask, off, hash);
	if (in->at[i] == off)
		take_out(g, i);
	else if (in->old)
		in->old[find_record(in->old, in->old_mask, off, hash)] = GONE;
	in->n--;
	return true;
}
