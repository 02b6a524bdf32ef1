/* SPDX-License-Identifier: MIT
 * A start of the table of pins (cursor_table.h): the file of the writer before is taken over in place, its chains mended
 * while readers search in them, and what finds the oldest and the expired built anew. Called once, before the cursor thread
 * runs, or by it.
 *
 * A writer that was killed leaves one change half-made: a slot that is in no chain, one with version 0 that is in its chain,
 * or a slot taken out of the middle of a chain whose bucket does not say so yet (cursor.h, cursor_drop). The last cannot be
 * seen, so the version of each chain moves before any slot is used again. Worse than that is damage: links that lead
 * nowhere, in a circle or into another chain, a pin twice. Chains lose what does not belong to them. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../shm/crash_point.h"
#include "cursor_table_internal.h"
#include "log.h"

#define HUGE_PAGE (2u << 20)
#define HUGE_FROM (2 * HUGE_PAGE)

struct kept { /* a pin that stays */
	uint64_t order, version;
	uint32_t at; /* 1 + slot */
};

struct mending {
	struct cursor_map map;
	uint64_t *seen; /* a bit for each slot that stays */
	struct kept *kept;
	uint32_t n_kept;
	uint32_t n_dropped; /* slots and links that had to go */
	uint64_t changes;   /* the highest number seen */
};

static bool seen(const struct mending *m, uint32_t at)
{
	return m->seen[at / 64] >> at % 64 & 1;
}

/* ---- chains ----------------------------------------------------------------------------------------------------- */

/* Is this id in the chain already? The first one is what readers find. */
static bool twice(const struct mending *m, uint32_t chain_start, const struct shm_cursor *s)
{
	for (uint32_t i = chain_start; i < m->n_kept; i++) {
		const struct shm_cursor *o = &m->map.slots[m->kept[i].at - 1];

		if (cursor_load(&o->hash[0]) == cursor_load(&s->hash[0]) &&
		    cursor_load(&o->hash[1]) == cursor_load(&s->hash[1]))
			return true;
	}
	return false;
}

static bool belongs(const struct mending *m, uint64_t bucket, uint32_t chain_start, const struct shm_cursor *s)
{
	return (cursor_load(&s->hash[0]) & m->map.mask) == bucket && cursor_load(&s->version) != 0 &&
	       cursor_load(&s->version) < CURSOR_CHANGES_MAX && cursor_load(&s->order) < CURSOR_CHANGES_MAX &&
	       cursor_cluster(cursor_load(&s->word)) != 0 && m->n_kept - chain_start < SHM_CHAIN_MAX &&
	       !twice(m, chain_start, s);
}

static void keep(struct mending *m, uint32_t at)
{
	const struct shm_cursor *s = &m->map.slots[at - 1];

	m->seen[at / 64] |= 1ull << at % 64;
	m->kept[m->n_kept++] =
		(struct kept){.order = cursor_load(&s->order), .version = cursor_load(&s->version), .at = at};
}

/* Leads past what was dropped; readers that stand on it go on from there. */
static void relink(struct shm_cursor *before, _Atomic uint64_t *bucket, uint32_t next)
{
	if (before)
		atomic_store_explicit(&before->next, next, memory_order_release);
	else
		cursor_bucket_set(bucket, next);
	CRASH_POINT(pin_led_past);
}

static void mend_chain(struct mending *m, uint64_t number)
{
	struct shm_cursor *slots = cursor_slots(&m->map), *before = NULL;
	_Atomic uint64_t *bucket = &cursor_buckets(&m->map)[number];
	uint32_t at = SHM_BUCKET_FIRST(cursor_load(bucket)), chain_start = m->n_kept;

	if (at == 0)
		return;
	for (unsigned steps = 0; at != 0; steps++) {
		uint32_t next = at > m->map.capacity ? 0 : cursor_next(&slots[at - 1]);

		if (at > m->map.capacity || seen(m, at) || steps >= 2 * SHM_CHAIN_MAX) {
			relink(before, bucket, 0);
			m->n_dropped++;
			break;
		}
		if (belongs(m, number, chain_start, &slots[at - 1])) {
			keep(m, at);
			before = &slots[at - 1];
		} else { /* its version becomes 0 when it turns out to be in no chain */
			relink(before, bucket, next);
			m->n_dropped++;
		}
		at = next;
	}
	cursor_bucket_set(bucket, SHM_BUCKET_FIRST(cursor_load(bucket)));
}

static int by_age(const void *left, const void *right)
{
	const struct kept *a = left, *b = right;

	if (a->order != b->order)
		return a->order < b->order ? -1 : 1;
	return a->version < b->version ? -1 : a->version > b->version;
}

static void mend(struct mending *m)
{
	struct shm_cursor *slots = cursor_slots(&m->map);

	m->changes = cursor_load(&m->map.file->changes);
	for (uint64_t i = 0; i <= m->map.mask; i++)
		mend_chain(m, i);
	for (uint32_t at = 1; at <= m->map.capacity; at++) {
		uint64_t version = cursor_load(&slots[at - 1].version), order = cursor_load(&slots[at - 1].order);

		if (version < CURSOR_CHANGES_MAX && version > m->changes)
			m->changes = version;
		if (order < CURSOR_CHANGES_MAX && order > m->changes)
			m->changes = order;
		if (version != 0 && !seen(m, at)) {
			atomic_store_explicit(&slots[at - 1].version, 0, memory_order_release);
			CRASH_POINT(stray_pin_cleared);
			m->n_dropped++;
		}
	}
	atomic_store_explicit(&cursor_header(&m->map)->changes, m->changes, memory_order_relaxed);
	CRASH_POINT(changes_mended);
	qsort(m->kept, m->n_kept, sizeof *m->kept, by_age);
	if (m->n_dropped)
		log_event(LEVEL_WARN, "cursors-mended", LOG_N("generation", m->map.generation),
			  LOG_N("pins", m->n_kept), LOG_N("dropped", m->n_dropped),
			  LOG_S("do",
				"nothing after a killed writer; look for damaged memory when it is more than a few"));
}

static void mending_end(struct mending *m)
{
	free(m->seen);
	free(m->kept);
	m->seen = NULL;
	m->kept = NULL;
}

/* What the writer before has left, if there is something. */
static enum refusal_code take_over(const struct instance *in, const struct shm_root *root, struct mending *m,
				   struct refusal *r)
{
	enum refusal_code code = cursor_file_open(in, root, &m->map, r);

	if (code != R_DONE || !m->map.file)
		return code;
	m->seen = calloc((size_t)m->map.capacity / 64 + 1, sizeof *m->seen);
	m->kept = malloc((size_t)m->map.capacity * sizeof *m->kept);
	if (!m->seen || !m->kept) {
		cursor_map_close(&m->map);
		return refuse(r, R_FULL, "no memory to take over %u pins; give berthd more", m->map.capacity);
	}
	mend(m);
	return R_DONE;
}

/* ---- a successor ------------------------------------------------------------------------------------------------ */

static unsigned chain_length(const struct cursor_map *map, const _Atomic uint64_t *bucket)
{
	unsigned n = 0;

	for (uint32_t at = SHM_BUCKET_FIRST(cursor_load(bucket)); at != 0; at = cursor_next(&map->slots[at - 1]))
		n++;
	return n;
}

/* expired, evicted: what the new file has no room for, or no use. */
static void counters_go_on(struct shm_cursors *to, const struct shm_cursors *from, uint64_t expired, uint64_t evicted)
{
	atomic_store_explicit(&to->n_pinned, cursor_load(&from->n_pinned), memory_order_relaxed);
	atomic_store_explicit(&to->n_refreshed, cursor_load(&from->n_refreshed), memory_order_relaxed);
	atomic_store_explicit(&to->n_released, cursor_load(&from->n_released), memory_order_relaxed);
	atomic_store_explicit(&to->n_expired, cursor_load(&from->n_expired) + expired, memory_order_relaxed);
	atomic_store_explicit(&to->n_evicted, cursor_load(&from->n_evicted) + evicted, memory_order_relaxed);
	atomic_store_explicit(&to->n_refused, cursor_load(&from->n_refused), memory_order_relaxed);
	CRASH_POINT(counters_copied);
}

/* The newest pins into a file that nobody else has seen; `m` becomes what is kept of that file. */
static void copy_newest(struct mending *m, const struct cursor_map *to, uint64_t now_ms)
{
	const struct cursor_map from = m->map;
	struct shm_cursors *h = cursor_header(to);
	uint32_t put = m->n_kept, n = 0;
	uint64_t expired = 0, evicted = 0;

	for (uint32_t i = m->n_kept; i-- > 0;) { /* what was looked at makes the room for `put` */
		const struct shm_cursor *s = &from.slots[m->kept[i].at - 1];
		const uint64_t hash[2] = {cursor_load(&s->hash[0]), cursor_load(&s->hash[1])};
		struct shm_cursor *d = &cursor_slots(to)[n];
		_Atomic uint64_t *bucket = &cursor_buckets(to)[hash[0] & to->mask];

		if (now_ms >= cursor_expiry(cursor_load(&s->word))) {
			expired++;
			continue;
		}
		if (n == to->capacity || chain_length(to, bucket) >= SHM_CHAIN_MAX) {
			evicted++;
			continue;
		}
		atomic_store_explicit(&d->order, cursor_load(&s->order), memory_order_relaxed);
		atomic_store_explicit(&d->pinned_ms, cursor_load(&s->pinned_ms), memory_order_relaxed);
		CRASH_POINT(pin_order_copied);
		cursor_make(d, n, bucket, m->kept[i].version, hash, cursor_load(&s->owner), cursor_load(&s->word));
		m->kept[--put] = m->kept[i];
		m->kept[put].at = ++n;
	}
	memmove(m->kept, m->kept + put, n * sizeof *m->kept);
	m->n_kept = n;
	atomic_store_explicit(&h->changes, m->changes, memory_order_relaxed);
	CRASH_POINT(changes_copied);
	counters_go_on(h, from.file, expired, evicted);
	if (evicted)
		log_event(LEVEL_WARN, "cursors-evicted", LOG_N("capacity", to->capacity), LOG_N("was", from.capacity),
			  LOG_N("evicted", evicted),
			  LOG_S("do", "a larger --cursor-capacity at the next start keeps what is pinned by then"));
}

/* ---- the private half ------------------------------------------------------------------------------------------- */

static bool allocate(struct cursor_table *t, uint64_t now_ms)
{
	size_t size = ((size_t)t->map.capacity + 1) * sizeof *t->notes;
	size_t align = size < HUGE_FROM ? 64 : HUGE_PAGE;

	size = (size + align - 1) / align * align;
	t->notes = aligned_alloc(align, size);
	if (t->notes && align == HUGE_PAGE)
		(void)!madvise(t->notes, size, MADV_HUGEPAGE); /* a third of the cost of an eviction among a million */
	t->clusters = calloc(SHM_CLUSTERS_MAX + 1, sizeof *t->clusters);
	return t->notes && t->clusters && wheel_open(&t->wheel, t->notes, now_ms) &&
	       (t->share == 0 || owners_open(&t->owners, t->map.capacity));
}

static void forget(struct cursor_table *t)
{
	free(t->notes);
	free((void *)t->clusters);
	wheel_close(&t->wheel);
	owners_close(&t->owners);
	free(t);
}

static void build(struct cursor_table *t, const struct mending *m)
{
	t->header = cursor_header(&t->map);
	t->buckets = cursor_buckets(&t->map);
	t->slots = cursor_slots(&t->map);
	t->changes = m->changes;
	memset(t->notes, 0, ((size_t)t->map.capacity + 1) * sizeof *t->notes);
	for (uint32_t i = 0; i < m->n_kept; i++)
		t->notes[m->kept[i].at].list = 1; /* for a moment: in use */
	for (uint32_t at = t->map.capacity; at > 0; at--)
		if (t->notes[at].list == 0) {
			t->notes[at].younger = t->free;
			t->free = at;
		}
	atomic_store_explicit(&t->header->n_live, 0, memory_order_relaxed);
	CRASH_POINT(pins_counted_anew);
	for (uint32_t i = 0; i < m->n_kept; i++)
		cursor_note_pin(t, m->kept[i].at);
}

/* m->map: what is taken over, or no file. */
static enum refusal_code make_table(struct instance *in, struct shm_root *root, const struct cursor_table_options *o,
				    uint64_t generation, uint64_t now_ms, struct mending *m, struct cursor_table **out,
				    struct refusal *r)
{
	struct cursor_table *t = calloc(1, sizeof *t);
	enum refusal_code code = R_DONE;
	struct cursor_map old = m->map;
	bool fresh = false;

	if (!t)
		return refuse(r, R_FULL, "no memory for a table of pins; give berthd more");
	t->map = old;
	t->share = o->owner_share;
	if (!old.file || old.capacity != o->capacity) {
		code = cursor_file_make(in, root, generation, o->capacity, old.file ? &old.file->keys : NULL, &t->map,
					r);
		fresh = code == R_DONE;
		if (fresh && old.file)
			copy_newest(m, &t->map, now_ms);
		if (!fresh && old.file) {
			log_event(LEVEL_WARN, "cursors-capacity", LOG_N("capacity", old.capacity),
				  LOG_N("wanted", o->capacity), LOG_S("error", r->message),
				  LOG_S("do",
					"make room, then start again; until then there are as many pins as before"));
			code = r->code = R_DONE;
		}
	}
	if (code == R_DONE && !allocate(t, now_ms))
		code = refuse(r, R_FULL,
			      "no memory to keep %u pins in order; give berthd more, or a smaller --cursor-capacity",
			      t->map.capacity);
	if (code == R_DONE) {
		build(t, m);
		atomic_store_explicit(&t->header->ttl_ms, o->ttl_ms, memory_order_relaxed);
		CRASH_POINT(pin_ttl_stored);
		atomic_store_explicit(&t->header->owner_share, o->owner_share, memory_order_relaxed);
		CRASH_POINT(pin_share_stored);
		if (fresh)
			code = cursor_file_publish(in, root, &t->map, r);
	}
	if (code != R_DONE) {
		if (fresh)
			cursor_file_discard(in, &t->map);
		forget(t);
		return code;
	}
	if (fresh)
		cursor_map_close(&old);
	*out = t;
	return R_DONE;
}

enum refusal_code cursor_table_open(struct instance *in, struct shm_root *root, const struct cursor_table_options *o,
				    uint64_t now_ms, struct cursor_table **out, struct refusal *r)
{
	uint64_t generation = cursor_load(&root->cursor_generation), highest;
	struct mending m = {0};
	enum refusal_code code = R_DONE;

	if (o->capacity == 0 || o->capacity > SHM_CURSORS_MAX)
		return refuse(r, R_INVALID, "a capacity of %u pins: give 1 to %u", o->capacity, SHM_CURSORS_MAX);
	highest = cursor_files_sweep(in, generation);
	if (generation != 0)
		code = take_over(in, root, &m, r);
	if (code == R_DONE) {
		if (generation < highest || generation >= UINT32_MAX)
			generation = highest;
		code = make_table(in, root, o, generation + 1, now_ms, &m, out, r);
		if (code != R_DONE)
			cursor_map_close(&m.map);
	}
	mending_end(&m);
	return code;
}

void cursor_table_close(struct cursor_table **tp)
{
	if (*tp) {
		cursor_map_close(&(*tp)->map);
		forget(*tp);
		*tp = NULL;
	}
}
