/* SPDX-License-Identifier: MIT
 * Changes of the table of pins (cursor_table.h): the cursor thread. Every store that readers see is one of cursor.h; each
 * change costs O(1), and allocates nothing. A start is in cursor_open.c.
 *
 * A pin is in: its bucket's chain (shared), the order of pinning, the wheel, its owner's order (with a share). */
#include "../shm/crash_point.h"
#include "../shm/poison.h"
#include "cursor_table_internal.h"

/* A ttl is shorter than 50 days. */
#define AHEAD_MAX_MS (1ull << 32)

struct chain {
	_Atomic uint64_t *bucket;
	uint32_t at;     /* the pin that was looked for; 0: it is not there */
	uint32_t before; /* what leads to it; 0: the bucket */
	unsigned n;      /* pins of the chain, as far as it was looked through */
};

/* ---- the order of pinning --------------------------------------------------------------------------------------- */

static void make_youngest(struct cursor_table *t, uint32_t at)
{
	struct cursor_note *n = &t->notes[at];

	n->older = t->youngest;
	n->younger = 0;
	*(t->youngest ? &t->notes[t->youngest].younger : &t->oldest) = at;
	t->youngest = at;
}

static void out_of_order(struct cursor_table *t, uint32_t at)
{
	const struct cursor_note *n = &t->notes[at];

	*(n->older ? &t->notes[n->older].younger : &t->oldest) = n->younger;
	*(n->younger ? &t->notes[n->younger].older : &t->youngest) = n->older;
}

/* ---- chains ----------------------------------------------------------------------------------------------------- */

static struct shm_cursor *slot(const struct cursor_table *t, uint32_t at)
{
	return &t->slots[at - 1];
}

static bool has_ended(const struct shm_cursor *s, uint64_t now_ms)
{
	return now_ms >= cursor_expiry(cursor_load(&s->word));
}

static bool same(const struct shm_cursor *s, const uint64_t hash[2])
{
	return cursor_load(&s->hash[0]) == hash[0] && cursor_load(&s->hash[1]) == hash[1] &&
	       cursor_load(&s->version) != 0;
}

static struct chain search(const struct cursor_table *t, const uint64_t hash[2])
{
	struct chain c = {.bucket = &t->buckets[hash[0] & t->map.mask]};
	uint32_t at = SHM_BUCKET_FIRST(cursor_load(c.bucket));

	for (; at != 0 && at <= t->map.capacity && c.n < SHM_CHAIN_MAX; at = cursor_next(slot(t, at))) {
		if (same(slot(t, at), hash)) {
			c.at = at;
			return c;
		}
		c.before = at;
		c.n++;
	}
	return c;
}

/* ---- ends of pins ----------------------------------------------------------------------------------------------- */

/* A search that meets this meets the bucket's version as it is since the drop (G2 of cursor.h). */
static void slot_poison(struct shm_cursor *s)
{
	(void)s;
	poison_fence();
	poison_u64(&s->hash[0]);
	poison_u64(&s->hash[1]);
	poison_u64(&s->owner);
	poison_u64(&s->word);
	poison_u32(&s->next);
}

static void end_pin(struct cursor_table *t, uint32_t at, uint32_t before)
{
	struct shm_cursor *s = slot(t, at);
	_Atomic uint32_t *uses = &t->clusters[cursor_cluster(cursor_load(&s->word))];

	cursor_drop(s, before ? slot(t, before) : NULL, &t->buckets[t->notes[at].bucket]);
	slot_poison(s);
	out_of_order(t, at);
	wheel_take(&t->wheel, at);
	if (t->share)
		owners_remove(&t->owners, at);
	t->notes[at].younger = t->free;
	t->free = at;
	atomic_store_explicit(uses, atomic_load_explicit(uses, memory_order_relaxed) - 1, memory_order_relaxed);
	atomic_store_explicit(&t->header->n_live, cursor_load(&t->header->n_live) - 1, memory_order_relaxed);
	CRASH_POINT(pin_uncounted);
}

static void end_found(struct cursor_table *t, uint32_t at, _Atomic uint64_t *counter)
{
	uint32_t i = SHM_BUCKET_FIRST(cursor_load(&t->buckets[t->notes[at].bucket])), before = 0;

	for (unsigned n = 0; i != at && n < SHM_CHAIN_MAX; n++) { /* it is there: nobody else changes chains */
		before = i;
		i = cursor_next(slot(t, i));
	}
	end_pin(t, at, before);
	cursor_count(counter);
}

static bool expire_one(struct cursor_table *t, uint64_t now_ms)
{
	unsigned work = UINT32_MAX;
	uint32_t at = wheel_due(&t->wheel, now_ms, &work);

	if (at)
		end_found(t, at, &t->header->n_expired);
	return at != 0;
}

bool cursor_table_expire(struct cursor_table *t, uint64_t now_ms, unsigned most)
{
	uint32_t at;

	while (most > 0) {
		at = wheel_due(&t->wheel, now_ms, &most);
		if (at && most > 0) {
			end_found(t, at, &t->header->n_expired);
			most--;
		} else if (!at && most > 0) {
			return false;
		}
	}
	return true;
}

/* ---- what comes next, brought into the cache --------------------------------------------------------------------- */

static void prefetch_slot(const struct cursor_table *t, uint32_t at)
{
	if (at != 0 && at <= t->map.capacity) {
		__builtin_prefetch(slot(t, at), 1, 3);
		__builtin_prefetch(&t->notes[at], 1, 3);
	}
}

/* In a full table each pin ends the oldest, which nobody has touched for long. What its end touches is asked for three
 * evictions ahead, a step each time: the note; then bucket, slot and the notes beside it in the wheel; then the chain. */
static void prefetch_oldest(const struct cursor_table *t)
{
	const struct cursor_note *first = &t->notes[t->oldest], *second = &t->notes[first->younger];
	const struct cursor_note *third = &t->notes[second->younger];

	__builtin_prefetch(&t->notes[third->younger], 1, 3);
	__builtin_prefetch(&t->notes[third->before], 1, 3);
	__builtin_prefetch(&t->notes[third->after], 1, 3);
	__builtin_prefetch(&t->buckets[third->bucket], 1, 3);
	prefetch_slot(t, second->younger);
	prefetch_slot(t, SHM_BUCKET_FIRST(cursor_load(&t->buckets[second->bucket])));
}

void cursor_table_prefetch(const struct cursor_table *t, const uint64_t (*hash)[2], unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		__builtin_prefetch(&t->buckets[hash[i][0] & t->map.mask], 1, 3);
	for (unsigned i = 0; i < n; i++)
		prefetch_slot(t, SHM_BUCKET_FIRST(cursor_load(&t->buckets[hash[i][0] & t->map.mask])));
	for (unsigned i = 0; i < n; i++) { /* pinned again, it leaves its place in the order */
		uint32_t at = SHM_BUCKET_FIRST(cursor_load(&t->buckets[hash[i][0] & t->map.mask]));

		if (at == 0 || at > t->map.capacity)
			continue;
		__builtin_prefetch(&t->notes[t->notes[at].older], 1, 3);
		__builtin_prefetch(&t->notes[t->notes[at].younger], 1, 3);
		prefetch_slot(t, cursor_next(slot(t, at)));
	}
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

static void room_in_share(struct cursor_table *t, uint64_t owner, uint64_t now_ms)
{
	const struct cursor_owner *o;

	while ((o = owners_find(&t->owners, owner)) != NULL && o->n_pins >= t->share)
		if (!expire_one(t, now_ms))
			end_found(t, o->oldest, &t->header->n_evicted);
}

/* Of a chain that is as long as a search may be. */
static void room_in_chain(struct cursor_table *t, const _Atomic uint64_t *bucket, uint64_t now_ms)
{
	uint32_t oldest = 0;
	bool expired = false;
	unsigned n = 0;

	for (uint32_t at = SHM_BUCKET_FIRST(cursor_load(bucket)); at != 0; at = cursor_next(slot(t, at)), n++) {
		bool ended = has_ended(slot(t, at), now_ms);

		if (oldest == 0 || ended > expired ||
		    (ended == expired && cursor_load(&slot(t, at)->order) < cursor_load(&slot(t, oldest)->order))) {
			oldest = at;
			expired = ended;
		}
	}
	if (n >= SHM_CHAIN_MAX)
		end_found(t, oldest, expired ? &t->header->n_expired : &t->header->n_evicted);
}

/* ---- pins ------------------------------------------------------------------------------------------------------- */

void cursor_note_pin(struct cursor_table *t, uint32_t at)
{
	const struct shm_cursor *s = slot(t, at);
	uint64_t word = cursor_load(&s->word);
	_Atomic uint32_t *uses = &t->clusters[cursor_cluster(word)];

	t->notes[at].bucket = (uint32_t)(cursor_load(&s->hash[0]) & t->map.mask);
	make_youngest(t, at);
	wheel_put(&t->wheel, at, cursor_expiry(word));
	if (t->share)
		owners_add(&t->owners, at, cursor_load(&s->owner));
	atomic_store_explicit(uses, atomic_load_explicit(uses, memory_order_relaxed) + 1, memory_order_relaxed);
	cursor_count(&t->header->n_live);
	CRASH_POINT(pin_counted);
}

/* A number that no slot carries yet. The fence keeps it before what carries it, for whoever comes after a kill. */
static uint64_t next_change(struct cursor_table *t)
{
	atomic_store_explicit(&t->header->changes, ++t->changes, memory_order_relaxed);
	CRASH_POINT(change_numbered);
	atomic_thread_fence(memory_order_release);
	return t->changes;
}

static void pin_again(struct cursor_table *t, uint32_t at, uint64_t word, uint64_t now_ms)
{
	struct shm_cursor *s = slot(t, at);
	_Atomic uint32_t *uses = &t->clusters[cursor_cluster(cursor_load(&s->word))];

	atomic_store_explicit(uses, atomic_load_explicit(uses, memory_order_relaxed) - 1, memory_order_relaxed);
	uses = &t->clusters[cursor_cluster(word)];
	atomic_store_explicit(uses, atomic_load_explicit(uses, memory_order_relaxed) + 1, memory_order_relaxed);
	atomic_store_explicit(&s->order, next_change(t), memory_order_relaxed);
	CRASH_POINT(pin_order_renewed);
	atomic_store_explicit(&s->pinned_ms, now_ms, memory_order_relaxed);
	CRASH_POINT(pin_time_renewed);
	cursor_refresh(s, word);
	if (t->youngest != at) {
		out_of_order(t, at);
		make_youngest(t, at);
	}
	wheel_move(&t->wheel, at, cursor_expiry(word));
	if (t->share)
		owners_renew(&t->owners, at);
	cursor_count(&t->header->n_refreshed);
}

static void pin_new(struct cursor_table *t, _Atomic uint64_t *bucket, const uint64_t hash[2], uint64_t owner,
		    uint64_t word, uint64_t now_ms)
{
	uint32_t at = t->free;
	struct shm_cursor *s = slot(t, at);
	uint64_t n = next_change(t);

	t->free = t->notes[at].younger;
	/* Behind the fence of next_change: whoever meets these meets the slot's version as it is since the drop. */
	atomic_store_explicit(&s->order, n, memory_order_relaxed);
	CRASH_POINT(pin_order_stored);
	atomic_store_explicit(&s->pinned_ms, now_ms, memory_order_relaxed);
	CRASH_POINT(pin_time_stored);
	cursor_make(s, at - 1, bucket, n, hash, owner, word);
	cursor_note_pin(t, at);
	cursor_count(&t->header->n_pinned);
}

enum shm_pin_result cursor_table_pin(struct cursor_table *t, const uint64_t hash[2], uint64_t owner, uint16_t cluster,
				     uint64_t expiry_ms, uint64_t now_ms)
{
	struct shm_cursors *h = t->header;
	struct chain c;

	if (cluster == 0 || expiry_ms > CURSOR_EXPIRY_MAX ||
	    (expiry_ms > now_ms && expiry_ms - now_ms > AHEAD_MAX_MS)) {
		cursor_count(&h->n_refused);
		return SHM_PIN_INVALID;
	}
	c = search(t, hash);
	if (c.at && !has_ended(slot(t, c.at), now_ms)) {
		if (cursor_load(&slot(t, c.at)->owner) != owner) {
			cursor_count(&h->n_refused);
			return SHM_PIN_NOT_OWNER;
		}
		if (expiry_ms > now_ms) {
			pin_again(t, c.at, cursor_word(cluster, expiry_ms), now_ms);
		} else {
			end_pin(t, c.at, c.before);
			cursor_count(&h->n_released);
		}
		return SHM_PIN_OK;
	}
	if (c.at) {
		end_pin(t, c.at, c.before);
		cursor_count(&h->n_expired);
	}
	if (expiry_ms <= now_ms)
		return SHM_PIN_OK;
	if (t->share)
		room_in_share(t, owner, now_ms);
	if (c.n >= SHM_CHAIN_MAX)
		room_in_chain(t, c.bucket, now_ms);
	if (t->free == 0 && !expire_one(t, now_ms)) {
		end_found(t, t->oldest, &h->n_evicted);
		prefetch_oldest(t);
	}
	pin_new(t, c.bucket, hash, owner, cursor_word(cluster, expiry_ms), now_ms);
	return SHM_PIN_OK;
}

enum shm_pin_result cursor_table_release(struct cursor_table *t, const uint64_t hash[2], uint64_t owner,
					 uint64_t now_ms)
{
	struct chain c = search(t, hash);

	if (!c.at || has_ended(slot(t, c.at), now_ms))
		return SHM_PIN_UNKNOWN; /* what has expired goes when its turn comes */
	if (cursor_load(&slot(t, c.at)->owner) != owner) {
		cursor_count(&t->header->n_refused);
		return SHM_PIN_NOT_OWNER;
	}
	end_pin(t, c.at, c.before);
	cursor_count(&t->header->n_released);
	return SHM_PIN_OK;
}

void cursor_table_refused(struct cursor_table *t)
{
	cursor_count(&t->header->n_refused);
}

uint64_t cursor_table_count(const struct cursor_table *t)
{
	return cursor_load(&t->header->n_live);
}

uint32_t cursor_table_cluster_uses(const struct cursor_table *t, uint16_t cluster)
{
	return atomic_load_explicit(&t->clusters[cluster], memory_order_relaxed);
}

const struct cursor_map *cursor_table_map(const struct cursor_table *t)
{
	return &t->map;
}
