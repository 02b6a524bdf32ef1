/* SPDX-License-Identifier: MIT
 * drain.h: the looks. Once for all cutovers that wait, in slices; one that comes meanwhile waits for the next look.
 *
 *   WAITING --(a look begins)--> LOOKING --(it ends)--> LOOKED: each slot found is looked at until it is clear
 *      ^                                        |
 *      +---------(no memory for the list)-------+
 *
 * D1 When a cutover is LOOKED and nothing is open, no write that the gate admitted before it is under way in a living
 *    process. Such a write's lease was in its slot, below `high`, when the barrier of the publication returned (G1, G3
 *    of lease.h: lease_take's release store and section_fence; here lease_look's acquire and leases_high's), and each
 *    slot is looked at after that. Who attaches later meets the cutover's word.
 * D2 A slot that was seen clear of p after the publication needs no second look: what it holds for p later was begun
 *    after the cutover's word was stored, so the gate takes it back. A slot is clear when the write has ended (G2).
 * D3 An unknown end is not missed: its slot keeps it, or the overflow of its array is raised before the slot is cleared
 *    (G4); so an array's overflow is loaded after its slots in the look, and again after a slot that has become clear.
 * D4 A registration that goes between two slices or two looks has its leases in the ledger by then (L1 of
 *    registry_leases.c), and the ledger is asked after the looks (core_judge). One that comes into its slot has another
 *    attach number: its arrays are looked at from the first.
 * D5 A clock that a reader wrote decides nothing but its own writes, and never later than now: an end in the future
 *    counts as now.
 * D6 Damage bounds: slots below n_leases of our own record alone; each slot once a look; kinds that do not exist
 *    are open.
 * D7 The leases of packet programs are one array more, and one for each mirror that went while some were open (what is
 *    open there was begun before it went, and no other begins), with fetching atomics on their side (G1..G3 of
 *    bpf/lease.bpf.h) where a process has membarrier: the program has its lease in memory before it loads the word; here the mirror's
 *    word is stored, then comes table_barrier's full fence, then drain_add, and a look that begins after that. So D1,
 *    D2 and D3 hold for it too; no death ends such a lease, and its array stays while the writer runs.
 * A process that died over its lease leaves it open: those that hold one are looked at every CHECK_MS. */
#include "drain.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../shm/segment.h"
#include "packet_leases.h"
#include "registry_internal.h"

#define CHECK_MS 20u       /* between two looks whether a process that holds a lease is dead */
#define CREDIT 512         /* slots between two looks at the clock */
#define ARRAY_COST 16      /* an array's header is a line that is not at hand */
#define SET_LEAST 64u      /* cutovers that a look takes along without memory */
#define SAMPLE_MOST 1024   /* slots that are asked for their process */
#define PACKETS UINT32_MAX /* in place of a registration's slot: the packet programs' first array; less n: the n-th */

struct drain_found {
	uint64_t attach;
	uint32_t slot, reader, index;
};

struct wanted {
	uint64_t hash;     /* 0: none */
	struct drained *d; /* NULL: was removed meanwhile */
};

TAILQ_HEAD(drain_list, drained);

struct drainer {
	struct registry *registry;
	const struct table *table;                /* whose mirror has the packet programs' leases */
	struct drain_list waiting, looking, held; /* held: LOOKED, and something is open */
	bool changed;
	/* the look that is under way */
	bool running, in_array;
	unsigned packets; /* arrays of packet programs that are looked at: they come first */
	uint32_t slot, reader, index, high;
	uint64_t attach;
	struct drain_ends overflow;
	struct wanted *set, least[2 * SET_LEAST];
	uint32_t set_bits;
};

static bool is_packets(uint32_t slot)
{
	return slot > PACKETS - PACKET_ARRAYS;
}

static bool packets(const struct drainer *w, unsigned n, struct lease_array *a)
{
	return packet_leases(table_mirror(w->table), table_mirror_pasts(w->table), n, a);
}

/* ---- ends ---- */

static void note_end(const struct drainer *w, struct drain_ends *e, uint64_t end_ms, uint32_t pid)
{
	drain_ends_add(e, end_ms, pid, registry_now(w->registry));
}

static void note_overflow(const struct drainer *w, struct drain_ends *e, const struct lease_array *a)
{
	/* Acquire, for the reader of this code: the order that counts is that of the slot's load before it (D3). */
	uint64_t end_ms = atomic_load_explicit(a->overflow_ms, memory_order_acquire);

	if (end_ms)
		note_end(w, e, end_ms, a->pid);
}

/* ---- up and down ---- */

struct drainer *drain_open(struct table *table)
{
	struct drainer *w = calloc(1, sizeof *w);

	if (!w)
		return NULL;
	w->registry = table_registry(table);
	w->table = table;
	TAILQ_INIT(&w->waiting);
	TAILQ_INIT(&w->looking);
	TAILQ_INIT(&w->held);
	return w;
}

static struct wanted *wanted_home(const struct drainer *w, uint64_t hash)
{
	return w->set + (uint32_t)((hash * 0x9e3779b97f4a7c15ull) >> (64 - w->set_bits));
}

static struct wanted *wanted_next(const struct drainer *w, struct wanted *at)
{
	return at + 1 == w->set + (1u << w->set_bits) ? w->set : at + 1;
}

void drain_add(struct drainer *w, struct drained *d, uint64_t hash)
{
	*d = (struct drained){.step = DRAIN_WAITING, .hash = lease_hash(hash)};
	TAILQ_INSERT_TAIL(&w->waiting, d, link);
}

static void forget(struct drained *d)
{
	free(d->found);
	*d = (struct drained){0};
}

void drain_remove(struct drainer *w, struct drained *d)
{
	if (d->step == DRAIN_WAITING)
		TAILQ_REMOVE(&w->waiting, d, link);
	if (d->step == DRAIN_LOOKED && d->n)
		TAILQ_REMOVE(&w->held, d, link);
	if (d->step == DRAIN_LOOKING) {
		TAILQ_REMOVE(&w->looking, d, link);
		for (struct wanted *at = wanted_home(w, d->hash); at->hash; at = wanted_next(w, at))
			if (at->d == d)
				at->d = NULL;
	}
	forget(d);
}

static void set_free(struct drainer *w)
{
	if (w->set != w->least)
		free(w->set);
	w->set = NULL;
}

static void forget_all(struct drain_list *list)
{
	for (struct drained *d = TAILQ_FIRST(list), *next; d; d = next) {
		next = TAILQ_NEXT(d, link);
		forget(d);
	}
	TAILQ_INIT(list);
}

void drain_close(struct drainer **wp)
{
	struct drainer *w = *wp;

	if (!w)
		return;
	forget_all(&w->waiting);
	forget_all(&w->looking);
	forget_all(&w->held);
	set_free(w);
	free(w);
	*wp = NULL;
}

/* ---- the look ---- */

static void look_begin(struct drainer *w)
{
	uint32_t n = 0, bits = 7;
	struct drained *d;

	TAILQ_FOREACH (d, &w->waiting, link)
		n++;
	while (bits < 31 && (1u << bits) < 2 * n)
		bits++;
	w->set = bits > 7 ? calloc(1u << bits, sizeof *w->set) : NULL;
	if (!w->set) { /* the first of them; the others wait for the next look */
		w->set = w->least;
		memset(w->least, 0, sizeof w->least);
		bits = 7;
		n = n < SET_LEAST ? n : SET_LEAST;
	}
	w->set_bits = bits;
	while (n-- > 0 && (d = TAILQ_FIRST(&w->waiting))) {
		struct wanted *at = wanted_home(w, d->hash);

		while (at->hash)
			at = wanted_next(w, at);
		*at = (struct wanted){.hash = d->hash, .d = d};
		TAILQ_REMOVE(&w->waiting, d, link);
		TAILQ_INSERT_TAIL(&w->looking, d, link);
		d->step = DRAIN_LOOKING;
		d->open = 0;
		d->unkept = false;
	}
	w->slot = w->reader = w->index = 0;
	w->attach = 0;
	w->in_array = false;
	w->packets = 0;
	w->overflow = (struct drain_ends){0};
	w->running = true;
}
static_assert(sizeof(((struct drainer *)0)->least) / sizeof(struct wanted) == 1u << 7, "the least set has 7 bits");

static void look_end(struct drainer *w)
{
	struct drained *d;

	while ((d = TAILQ_FIRST(&w->looking))) {
		TAILQ_REMOVE(&w->looking, d, link);
		drain_ends_merge(&d->overflow, &w->overflow, registry_now(w->registry));
		if (d->unkept && d->open) {
			d->step = DRAIN_WAITING;
			TAILQ_INSERT_TAIL(&w->waiting, d, link);
			continue;
		}
		d->step = DRAIN_LOOKED;
		w->changed = true;
		if (d->n)
			TAILQ_INSERT_TAIL(&w->held, d, link);
	}
	set_free(w);
	w->running = false;
}

static void keep(struct drained *d, const struct drain_found *f)
{
	if (d->unkept)
		return;
	if (d->n == d->room) {
		size_t room = d->room ? 2 * d->room : 16;
		struct drain_found *bigger = realloc(d->found, room * sizeof *bigger);

		if (!bigger) {
			free(d->found);
			d->found = NULL;
			d->n = d->room = 0;
			d->unkept = true;
			return;
		}
		d->found = bigger;
		d->room = room;
	}
	d->found[d->n++] = *f;
}

/* A lease on hash is in the slot that the look stands at. */
static void meet(struct drainer *w, uint32_t slot, const struct lease_array *a, uint64_t hash, uint64_t state)
{
	for (struct wanted *at = wanted_home(w, hash); at->hash; at = wanted_next(w, at)) {
		struct drained *d = at->hash == hash ? at->d : NULL;

		if (!d)
			continue;
		if (lease_kind(state) == LEASE_UNKNOWN) {
			note_end(w, &d->unknown, lease_time(state), a->pid);
			continue;
		}
		d->open++;
		keep(d,
		     &(struct drain_found){.attach = w->attach, .slot = slot, .reader = w->reader, .index = w->index});
		if (!is_packets(slot))
			w->registry->slots[slot]->suspect |= d->unkept; /* upkeep looks whether it is dead */
	}
}

/* Slots of one array from where the look stands. False: it is not at its end. */
static bool look_at_array(struct drainer *w, uint32_t slot, const struct lease_array *a, int *credit)
{
	if (!w->in_array) {
		w->high = a->high;
		w->index = 0;
		w->in_array = true;
		*credit -= ARRAY_COST;
	}
	for (; w->index < w->high; w->index++, --*credit) {
		uint64_t state, hash;

		if (*credit <= 0)
			return false;
		hash = lease_look(&a->slots[w->index], &state);
		if (hash)
			meet(w, slot, a, hash, state);
	}
	note_overflow(w, &w->overflow, a); /* D3: after the slots */
	w->in_array = false;
	return true;
}

static bool time_is_over(int *credit, uint64_t until_ns)
{
	if (*credit > 0)
		return false;
	*credit = CREDIT;
	return seg_clock_ns(CLOCK_MONOTONIC) >= until_ns;
}

/* From where it stands, until the time is over. True: to the end. */
static bool look_on(struct drainer *w, uint64_t until_ns)
{
	int credit = CREDIT;
	struct lease_array a;

	while (w->packets < PACKET_ARRAYS) {
		if (!packets(w, w->packets, &a)) { /* there is none, or none any more */
			w->in_array = false;
			w->packets++;
			continue;
		}
		w->packets += look_at_array(w, PACKETS - w->packets, &a, &credit);
		if (time_is_over(&credit, until_ns))
			return false;
	}
	for (; w->slot < w->registry->end; w->slot++) {
		const struct registration *g = w->registry->slots[w->slot];

		if (!g || !g->n_leases)
			continue;
		if (g->attach != w->attach) { /* D4 */
			w->attach = g->attach;
			w->reader = 0;
			w->in_array = false;
		}
		while (w->reader < g->n_readers) {
			if (w->reader + 1 < g->n_readers)
				__builtin_prefetch(leases_of(g, w->reader + 1));
			a = lease_array_of(g, w->reader);
			if (look_at_array(w, w->slot, &a, &credit))
				w->reader++;
			if (time_is_over(&credit, until_ns))
				return false;
		}
	}
	look_end(w);
	return true;
}

/* ---- what was found ---- */

/* The array in which it was found. False: it is gone, with what was in it (D4). */
static bool array_found(struct drainer *w, const struct drain_found *f, uint64_t real_ms, struct lease_array *a)
{
	struct registration *g;

	if (is_packets(f->slot))
		return packets(w, PACKETS - f->slot, a);
	g = w->registry->slots[f->slot];
	if (!g || g->attach != f->attach)
		return false;
	if (real_ms - g->checked_ms >= CHECK_MS) {
		g->checked_ms = real_ms;
		if (registration_dead(g) && registration_bury(w->registry, g))
			return false;
	}
	*a = lease_array_of(g, f->reader);
	return true;
}

static bool still_open(struct drainer *w, struct drained *d, const struct drain_found *f, uint64_t real_ms)
{
	uint64_t state = 0, hash;
	struct lease_array a;

	if (!array_found(w, f, real_ms, &a))
		return false;
	hash = lease_look(&a.slots[f->index], &state);
	if (hash != d->hash) {
		note_overflow(w, &d->overflow, &a); /* D3: after the slot */
		return false;
	}
	if (lease_kind(state) == LEASE_OPEN)
		return true;
	note_end(w, &d->unknown, lease_time(state), a.pid);
	return false;
}

/* All that is kept of one cutover, or as far as the time goes. False: there is more. */
static bool again(struct drainer *w, struct drained *d, uint64_t real_ms, uint64_t until_ns)
{
	unsigned credit = 0;

	if (d->next >= d->n)
		d->next = 0;
	for (; d->next < d->n; credit++) {
		if (credit % 256 == 255 && seg_clock_ns(CLOCK_MONOTONIC) >= until_ns)
			return false;
		if (still_open(w, d, &d->found[d->next], real_ms)) {
			d->next++;
			continue;
		}
		d->found[d->next] = d->found[--d->n];
		d->open--;
	}
	if (d->n == 0) {
		TAILQ_REMOVE(&w->held, d, link);
		free(d->found);
		d->found = NULL;
		d->room = 0;
		w->changed = true;
	}
	return true;
}

bool drain_step(struct drainer *w, uint64_t budget_us)
{
	uint64_t start, until, n = 0;
	struct drained *d = NULL, *last = TAILQ_LAST(&w->held, drain_list);

	if (!last && !w->running && TAILQ_EMPTY(&w->waiting))
		return false;
	start = seg_clock_ns(CLOCK_MONOTONIC);
	until = start + budget_us * 1000;
	while (last && (d = TAILQ_FIRST(&w->held))) {
		bool all = d == last, over = ++n % 64 == 0 && seg_clock_ns(CLOCK_MONOTONIC) >= until;

		if (over || !again(w, d, start / 1000000, until))
			break;
		if (d->n) { /* its turn comes again after the others' */
			TAILQ_REMOVE(&w->held, d, link);
			TAILQ_INSERT_TAIL(&w->held, d, link);
		}
		if (all)
			break;
	}
	do {
		if (!w->running && !TAILQ_EMPTY(&w->waiting))
			look_begin(w);
		if (!w->running || !look_on(w, until))
			break;
	} while (seg_clock_ns(CLOCK_MONOTONIC) < until);
	if (!w->running)
		TAILQ_FOREACH (d, &w->waiting, link)
			if (!d->unkept)
				break;
	return w->running || d;
}

void drain_for(struct drainer *w, struct drained *d, uint64_t budget_us)
{
	uint64_t start = seg_clock_ns(CLOCK_MONOTONIC), until = start + budget_us * 1000;

	while (d->step == DRAIN_WAITING || d->step == DRAIN_LOOKING) {
		if (!w->running)
			look_begin(w);
		if (!look_on(w, until) || seg_clock_ns(CLOCK_MONOTONIC) >= until)
			break;
	}
	if (d->step == DRAIN_LOOKED && d->n)
		again(w, d, start / 1000000, until);
}

bool drain_changed(struct drainer *w)
{
	bool changed = w->changed;

	w->changed = false;
	return changed;
}

bool drain_open_leases(const struct drainer *w)
{
	return !TAILQ_EMPTY(&w->held);
}

unsigned drain_pids(const struct drainer *w, const struct drained *d, uint32_t pids[], unsigned room)
{
	size_t every = d->n / SAMPLE_MOST + 1;
	unsigned n = 0;

	for (size_t i = 0; i < d->n; i += every) {
		const struct drain_found *f = &d->found[i];
		const struct registration *g = is_packets(f->slot) ? NULL : w->registry->slots[f->slot];

		if (is_packets(f->slot))
			n = pid_add(pids, n, room, PACKET_PROGRAM);
		else if (g && g->attach == f->attach)
			n = pid_add(pids, n, room, (uint32_t)g->pid);
	}
	return n;
}
