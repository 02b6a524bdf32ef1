/* SPDX-License-Identifier: MIT
 * Pins of cursors (verify.h): cursors.<generation> against what shm/cursor.h promises. Its header; every chain, each link
 * of it inside the file, each pin in the chain of its bucket, none twice; every pin in a chain; their number.
 *
 * What a writer that was killed may leave is no fault: one change half done, so one slot in a chain that holds no pin any
 * more, or one pin that is in no chain yet, and a count that is off by it. The next start mends it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../reader_lib/berth.h"
#include "../shm/cursor.h"
#include "verify.h"

#define PASSES 20        /* until the number of pins is right, under a living daemon */
#define PASSES_CHANGED 5 /* in which pins came and went; then it is not judged */
#define GENERATIONS 20
#define PATIENCE 50u /* faults; then each counts at the first look */

struct pass {
	const struct cursor_map *m;
	bool patient;
	uint64_t n_linked;   /* pins in chains */
	uint64_t n_residues; /* of a change half done */
};

/* ---- the header ---- */

static bool check_header(struct verify *v, uint64_t generation, bool *gone)
{
	struct faults f = {0};
	struct shm_cursors h;
	char name[64];

	snprintf(name, sizeof(name), SEG_TABLES "/" SEG_CURSORS "%" PRIu64, generation);
	int64_t size = verify_read(v->t->dir_fd, name, &h, sizeof(h));
	*gone = size < 0 && errno == ENOENT;
	if (*gone && generation != atomic_load_explicit(&v->t->root->cursor_generation, memory_order_acquire))
		return false;
	if (size < 0)
		fault_add(&f, "file", "%s\ta file that can be read: root names it", strerror(errno));
	else if (size < (int64_t)sizeof(h))
		fault_add(&f, "size", "%" PRId64 " bytes\tat least %zu bytes", size, sizeof(h));
	if (f.n || !verify_layout(&f, h.magic, SHM_MAGIC_CURSORS, h.abi, h.fingerprint)) {
		*gone = false;
		verify_tell(v, &f);
		faults_free(&f);
		return false;
	}
	if (memcmp(h.uuid, v->t->root->uuid, sizeof(h.uuid)) != 0)
		fault_add(&f, "uuid", "another one\tthat of root: the file belongs to another instance");
	if (h.generation != generation)
		fault_add(&f, "generation", "%" PRIu32 "\t%" PRIu64 ", as in its name", h.generation, generation);
	if (h.size != (uint64_t)size)
		fault_add(&f, "size", "%" PRIu64 "\t%" PRId64 ", the size of the file", h.size, size);
	if (h.capacity == 0 || h.capacity > SHM_CURSORS_MAX)
		fault_add(&f, "capacity", "%" PRIu32 "\t1 to %u", h.capacity, SHM_CURSORS_MAX);
	if (h.n_buckets < h.capacity || h.n_buckets == 0 || (h.n_buckets & (h.n_buckets - 1)))
		fault_add(&f, "n_buckets", "%" PRIu32 "\ta power of two, at least the capacity, %" PRIu32, h.n_buckets,
			  h.capacity);
	verify_area(&f, "buckets_off", h.buckets_off, (uint64_t)h.n_buckets * 8, (uint64_t)size, SHM_PAGE);
	verify_area(&f, "slots_off", h.slots_off, (uint64_t)h.capacity * sizeof(struct shm_cursor), (uint64_t)size,
		    h.buckets_off + (uint64_t)h.n_buckets * 8);
	if (f.n == 0 && h.check != cursor_header_check(&h))
		fault_add(&f, "check", "%08" PRIx32 "\t%08" PRIx32 ", of header and keys", h.check,
			  cursor_header_check(&h));
	bool whole = f.n == 0;
	if (h.ttl_ms == 0 || h.ttl_ms > CURSOR_EXPIRY_MAX)
		fault_add(&f, "ttl_ms", "%" PRIu64 "\t1 to %llu", h.ttl_ms, CURSOR_EXPIRY_MAX);
	if (h.owner_share > h.capacity)
		fault_add(&f, "owner_share", "%" PRIu64 "\tat most the capacity, %" PRIu32, h.owner_share, h.capacity);
	if (h.n_live > h.capacity)
		fault_add(&f, "n_live", "%" PRIu64 "\tat most the capacity, %" PRIu32, h.n_live, h.capacity);
	if (h.changes >> 63)
		fault_add(&f, "changes", "%" PRIu64 "\tless than 2^63", h.changes);
	VERIFY_ZERO(&f, &h, struct shm_cursors, pad1, offsetof(struct shm_cursors, ttl_ms));
	VERIFY_ZERO(&f, &h, struct shm_cursors, pad2, offsetof(struct shm_cursors, changes));
	VERIFY_ZERO(&f, &h, struct shm_cursors, reserved, sizeof(h));
	verify_tell(v, &f);
	faults_free(&f);
	return whole;
}

/* ---- chains ---- */

struct link {
	uint32_t at; /* 1 + slot */
	uint64_t hash[2];
};

/* The slot that a chain leads to, behind n others; *end: the chain is not to be followed from here. */
static void check_link(const struct cursor_map *m, uint64_t bucket, const struct link *chain, unsigned n, bool *end,
		       struct faults *f)
{
	const struct link *l = &chain[n];

	for (unsigned i = 0; i < n; i++) {
		bool same = chain[i].hash[0] == l->hash[0] && chain[i].hash[1] == l->hash[1];
		*end = chain[i].at == l->at;
		if (*end)
			fault_add(f, "next", "%" PRIu32 ", which leads in a circle\tanother slot, or 0", l->at);
		else if (same)
			fault_add(f, "hash", "that of slot %" PRIu32 " too\tits own: a cursor has one pin",
				  chain[i].at - 1);
		if (*end || same)
			return;
	}
	if ((l->hash[0] & m->mask) != bucket)
		fault_add(f, "chain", "that of bucket %" PRIu64 "\tthat of %" PRIu64 ", as its hash says", bucket,
			  l->hash[0] & m->mask);
}

/* One look at a bucket's chain. False: it changed meanwhile. */
static bool check_chain(const struct cursor_map *m, uint64_t bucket, struct faults *f, unsigned *residues)
{
	struct link chain[SHM_CHAIN_MAX];
	uint64_t b = atomic_load_explicit(&m->buckets[bucket], memory_order_acquire);
	uint32_t at = SHM_BUCKET_FIRST(b);
	unsigned n = 0;
	bool end = false;

	*residues = 0;
	while (at && !end) {
		size_t before = f->n;
		if (n == SHM_CHAIN_MAX || at > m->capacity) {
			if (at > m->capacity)
				fault_add(f, n ? "next" : "bucket",
					  "%" PRIu32 ", in the chain of bucket %" PRIu64 "\tat most %" PRIu32, at,
					  bucket, m->capacity);
			else
				fault_add(f, "chain", "of bucket %" PRIu64 ", longer than %u\tat most those", bucket,
					  SHM_CHAIN_MAX);
			if (n)
				f->at[before].slot = chain[n - 1].at - 1;
			break;
		}
		const struct shm_cursor *s = &m->slots[at - 1];
		uint64_t version = atomic_load_explicit(&s->version, memory_order_acquire);
		chain[n] = (struct link){
			.at = at,
			.hash = {atomic_load_explicit(&s->hash[0], memory_order_relaxed),
				 atomic_load_explicit(&s->hash[1], memory_order_relaxed)},
		};
		if (version)
			check_link(m, bucket, chain, n, &end, f);
		else
			++*residues;
		for (size_t i = before; i < f->n && i < FAULTS_MAX; i++)
			f->at[i].slot = at - 1;
		n++;
		at = atomic_load_explicit(&s->next, memory_order_relaxed);
	}
	atomic_thread_fence(memory_order_acquire); /* what was seen of the chain, before its bucket again */
	return atomic_load_explicit(&m->buckets[bucket], memory_order_relaxed) == b;
}

static void check_bucket(struct pass *p, uint64_t bucket, struct faults *f)
{
	unsigned residues = 0;
	bool stood = false;

	for (int look = 0; look < (p->patient ? VERIFY_LOOKS : 1); look++) {
		if (look)
			verify_pause();
		f->n = 0;
		stood = check_chain(p->m, bucket, f, &residues);
		if (f->n == 0 && residues == 0)
			return;
	}
	if (!stood)
		f->n = 0; /* it changes too fast to be judged */
	else
		p->n_residues += residues;
}

/* ---- slots ---- */

static bool is_linked(const struct cursor_map *m, uint64_t hash, uint32_t slot)
{
	uint32_t at = SHM_BUCKET_FIRST(atomic_load_explicit(&m->buckets[hash & m->mask], memory_order_acquire));

	for (unsigned n = 0; n < SHM_CHAIN_MAX && at && at <= m->capacity; n++) {
		if (at - 1 == slot)
			return true;
		at = atomic_load_explicit(&m->slots[at - 1].next, memory_order_relaxed);
	}
	return false;
}

enum slot_state { SLOT_FREE, SLOT_LINKED, SLOT_LOOSE, SLOT_CHANGED };

static enum slot_state look_at_slot(const struct cursor_map *m, uint32_t slot, struct faults *f)
{
	const struct shm_cursor *s = &m->slots[slot];
	uint64_t version = atomic_load_explicit(&s->version, memory_order_acquire);

	f->n = 0;
	if (s->pad0)
		fault_add(f, "pad0", "%" PRIu32 "\t0", s->pad0);
	if (version == 0)
		return SLOT_FREE;
	uint64_t hash = atomic_load_explicit(&s->hash[0], memory_order_relaxed);
	uint64_t word = atomic_load_explicit(&s->word, memory_order_relaxed);
	uint64_t order = atomic_load_explicit(&s->order, memory_order_acquire);
	uint64_t changes = atomic_load_explicit(&m->file->changes, memory_order_acquire); /* stored before both */
	if (version > changes)
		fault_add(f, "version", "%" PRIu64 "\tat most the number of changes, %" PRIu64, version, changes);
	if (order > changes)
		fault_add(f, "order", "%" PRIu64 "\tat most the number of changes, %" PRIu64, order, changes);
	if (cursor_cluster(word) == 0)
		fault_add(f, "word.cluster", "0\t1 to %u", SHM_CLUSTERS_MAX);
	bool linked = is_linked(m, hash, slot);
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&s->version, memory_order_relaxed) != version)
		return SLOT_CHANGED;
	return linked ? SLOT_LINKED : SLOT_LOOSE;
}

static void check_slot(struct pass *p, uint32_t slot, struct faults *f)
{
	enum slot_state state = SLOT_CHANGED;

	for (int look = 0; look < (p->patient ? VERIFY_LOOKS : 1); look++) {
		if (look)
			verify_pause();
		state = look_at_slot(p->m, slot, f);
		if (f->n == 0 && state != SLOT_LOOSE && state != SLOT_CHANGED)
			break;
	}
	if (state == SLOT_CHANGED)
		f->n = 0;
	p->n_linked += state == SLOT_LINKED;
	if (state == SLOT_LOOSE && p->n_residues++ > 0)
		fault_add(f, "pin", "in no chain\tin that of its bucket");
	for (size_t i = 0; i < f->n; i++)
		f->at[i].slot = slot;
}

/* ---- all of it ---- */

static void check_gaps(const struct cursor_map *m, struct faults *f)
{
	const struct shm_cursors *h = m->file;
	const uint64_t gaps[][2] = {
		{SHM_PAGE, h->buckets_off},
		{h->buckets_off + (m->mask + 1) * 8, h->slots_off},
		{h->slots_off + (uint64_t)m->capacity * sizeof(struct shm_cursor), m->size},
	};
	uint64_t where;

	for (int i = 0; i < 3; i++)
		if (gaps[i][0] <= gaps[i][1] && gaps[i][1] <= m->size && !bytes_zero(h, gaps[i][0], gaps[i][1], &where))
			fault_add(f, "gap", "%02x at byte %" PRIu64 "\t00: nothing is there",
				  ((const uint8_t *)h)[where], where);
}

struct numbers { /* of the header: the same before and after means that no pin came or went */
	uint64_t changes, live, pinned, refreshed, released, expired, evicted;
};
static struct numbers numbers_of(const struct shm_cursors *h)
{
	return (struct numbers){
		.changes = atomic_load_explicit(&h->changes, memory_order_seq_cst),
		.live = atomic_load_explicit(&h->n_live, memory_order_seq_cst),
		.pinned = atomic_load_explicit(&h->n_pinned, memory_order_seq_cst),
		.refreshed = atomic_load_explicit(&h->n_refreshed, memory_order_seq_cst),
		.released = atomic_load_explicit(&h->n_released, memory_order_seq_cst),
		.expired = atomic_load_explicit(&h->n_expired, memory_order_seq_cst),
		.evicted = atomic_load_explicit(&h->n_evicted, memory_order_seq_cst),
	};
}

static bool check_pass(struct verify *v, const struct cursor_map *m, struct faults *whole)
{
	struct pass p = {.m = m};
	struct faults f = {0};
	uint64_t told = v->n_faults;
	struct numbers before = numbers_of(m->file);

	for (uint64_t bucket = 0; bucket <= m->mask; bucket++) {
		p.patient = v->live && v->n_faults - told < PATIENCE;
		check_bucket(&p, bucket, &f);
		verify_tell(v, &f);
	}
	for (uint32_t slot = 0; slot < m->capacity; slot++) {
		p.patient = v->live && v->n_faults - told < PATIENCE;
		check_slot(&p, slot, &f);
		verify_tell(v, &f);
	}
	faults_free(&f);
	atomic_thread_fence(memory_order_seq_cst);
	struct numbers after = numbers_of(m->file);
	v->n_pins = p.n_linked;
	whole->n = 0;
	check_gaps(m, whole);
	if (memcmp(&before, &after, sizeof(before)) != 0)
		return false;
	if (p.n_residues > 1) /* a writer makes one change at a time */
		fault_add(whole, "chains", "%" PRIu64 " slots in a chain without a pin, or pins in none\tat most one",
			  p.n_residues);
	uint64_t off = p.n_linked > after.live ? p.n_linked - after.live : after.live - p.n_linked;
	if (off > (v->live ? 0u : 1u))
		fault_add(whole, "n_live", "%" PRIu64 "\t%" PRIu64 ", the pins in chains", after.live, p.n_linked);
	return true;
}

static void check_file(struct verify *v, const struct cursor_map *m)
{
	struct faults whole = {0};
	uint64_t told = v->n_faults;
	bool settled = false;

	for (int i = 0; i < PASSES && v->n_faults == told; i++) {
		if (i)
			verify_pause();
		settled = check_pass(v, m, &whole);
		if (settled ? whole.n == 0 || !v->live : i + 1 >= PASSES_CHANGED)
			break;
	}
	verify_tell(v, &whole);
	faults_free(&whole);
	v->pins_unsettled = !settled;
}

void verify_cursors(struct verify *v)
{
	const struct shm_root *root = v->t->root;
	const uint64_t told = v->n_faults;
	struct cursor_map m;
	bool gone = true;

	for (int i = 0; gone && i < GENERATIONS; i++) {
		uint64_t generation = atomic_load_explicit(&root->cursor_generation, memory_order_acquire);
		gone = false;
		if (generation == 0)
			return;
		snprintf(v->file, sizeof(v->file), SEG_CURSORS "%" PRIu64, generation);
		if (!check_header(v, generation, &gone))
			continue;
		int rc = cursor_map_open(v->t->tables_fd, root, generation, NULL, &m);
		gone = rc == BERTH_E_NO_INSTANCE;
		if (rc == BERTH_OK) {
			check_file(v, &m);
			cursor_map_close(&m);
		} else if (!gone) {
			struct faults f = {0};
			fault_add(&f, "file", "not to be read (%s)\ta file of berthd", berth_strerror(rc));
			verify_tell(v, &f);
			faults_free(&f);
		}
	}
	v->n_pin_faults = v->n_faults - told;
}
