/* SPDX-License-Identifier: MIT
 * The reader handle: open, close, sections, and the cold half of decide.h: what happens when root names another
 * generation than the reader has mapped, or berth_maintain has published another attachment. The reader's own thread.
 *
 * G1 The line says what the section may see before the section looks: stored (section_enter, section_move), then
 *    termgen loaded, then that generation mapped. (model: tests/model/section.pml)
 * G2 In a section that the caller opened, older mappings stay until its outermost end: strings point into them.
 *    In a section of a call's own nothing has been handed out, so it is ended and begun anew.
 * G3 An attachment is only replaced outside a section.
 * G4 A fork at any instruction leaves the child with handles that it can close: what is given back has left them first,
 *    what is new is complete before it is theirs (fork_order). At most a count is too many there. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "decide.h"

#define ADOPT_TRIES 1000

/* What a reader without a mapping looks at, so that the hot path needs no test for it: nothing is found here, no root has
 * this termgen, and where a damaged one says that it has, a search that does not find ends as in a damaged table. */
static const struct shm_table no_table = {.longest_probe = UINT32_MAX};
const struct shm_entry bl_no_entry;
static const _Atomic uint8_t no_tags[SHM_TAG_WINDOW];
static const struct seg_map no_map = {
	.table = &no_table, .entries = &bl_no_entry, .tags = no_tags, .termgen = UINT64_MAX, .capacity = 1};

static void set_mapping(struct berth_reader *r, struct mapping *m)
{
	r->map = m ? m->map : no_map;
	r->section_low = section_low(r->map.generation);
	r->mapping = m;
}

/* Without a mapping: the generation that the line names. */
static void stand_in(struct berth_reader *r, uint32_t generation)
{
	r->map.generation = generation;
	r->section_low = section_low(generation);
}

static uint64_t load_termgen(const struct berth_reader *r)
{
	/* Acquire: pairs with the release store of the flip. */
	return atomic_load_explicit(&r->root->termgen, memory_order_acquire);
}

/* The mapping of the generation in force. On BERTH_OK it may be the one that r has. */
static int newest(struct berth_reader *r, struct mapping **m)
{
	int rc = BERTH_E_AGAIN;

	for (unsigned i = 0; i < ATTEMPTS; i++) {
		uint64_t termgen = load_termgen(r);

		if (SHM_GENERATION(termgen) == 0 || termgen == no_map.termgen)
			return BERTH_E_CORRUPT; /* it was not when we attached, and never will be */
		if (r->mapping && termgen == r->map.termgen) {
			*m = r->mapping;
			return BERTH_OK;
		}
		rc = bl_mapping_get(r->at, termgen, false, m);
		if (rc == BERTH_OK || termgen == load_termgen(r))
			return rc;
		/* Flipped again, and the file that we wanted is gone. */
	}
	return rc;
}

/* Outside a section: the newest generation, or none. What cannot be mapped is an error, never the old table. */
int bl_reader_refresh(struct berth_reader *r)
{
	struct mapping *old = r->mapping, *m = NULL;
	int rc = newest(r, &m);

	if (rc == BERTH_OK && m == old)
		return BERTH_OK;
	set_mapping(r, rc == BERTH_OK ? m : NULL);
	fork_order(); /* G4 */
	bl_mapping_put(old);
	return rc;
}

/* Inside a section, when termgen is not that of the mapping. Leaves the section open, whatever it returns. */
int bl_reader_renew(struct berth_reader *r)
{
	struct mapping *m = NULL, *old;
	int rc;

	if (r->depth == 0) { /* G2 */
		section_exit(r->line);
		rc = bl_reader_refresh(r);
		if (rc != BERTH_OK)
			stand_in(r, SHM_GENERATION(load_termgen(r)));
		section_enter(r->line, r->root, r->section_low, r->fences);
		return rc;
	}
	r->section = section_move(r->line, r->section, r->fences); /* G1: newest() loads termgen after it */
	rc = newest(r, &m);
	if (rc != BERTH_OK || m == r->mapping)
		return rc;
	if (r->mapping && r->n_held == HELD_MAX) {
		bl_mapping_put(m);
		return BERTH_E_AGAIN;
	}
	old = r->mapping;
	set_mapping(r, m);
	if (old) { /* in two places it would be given back twice: G4 */
		fork_order();
		r->held[r->n_held] = old;
		fork_order();
		r->n_held++;
	}
	return BERTH_OK;
}

int bl_damaged(struct berth_reader *r)
{
	/* one thread at a time has the reader: no read-modify-write */
	atomic_store_explicit(&r->line->damaged, atomic_load_explicit(&r->line->damaged, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	return BERTH_E_CORRUPT;
}

static int decide_again(struct berth_reader *r, const void *key, size_t len, uint64_t hash, struct decision *d)
{
	int code, rc = BERTH_E_AGAIN;

	index_prefetch_home(&r->map, hash);       /* while the tags are on their way */
	for (unsigned i = 0; i < ATTEMPTS; i++) { /* decide.h, G5 */
		enum attempt how;

		if (!current(r)) {
			code = bl_reader_renew(r); /* decide.h, G2 */
			if (code != BERTH_OK)
				return code;
			continue;
		}
		how = attempt(r, key, len, hash, d, &code);
		if (how == DECIDED)
			return code;
		if (how == DAMAGED)
			rc = BERTH_E_CORRUPT;
		if (how == DAMAGED && !r->copying)
			break;
	}
	return rc;
}

int bl_decide_again(struct berth_reader *r, const void *key, size_t len, uint64_t hash, struct decision *d)
{
	int rc = decide_again(r, key, len, hash, d);

	return rc == BERTH_E_CORRUPT ? bl_damaged(r) : rc;
}

static COLD void drop_held(struct berth_reader *r)
{
	while (r->n_held > 0) {
		struct mapping *m = r->held[--r->n_held];

		fork_order(); /* G4 */
		bl_mapping_put(m);
	}
}

/* Outside a section: gives back what belongs to the attachment. */
static void leave(struct berth_reader *r)
{
	struct attachment *at = r->at;
	struct mapping *m = r->mapping;

	set_mapping(r, NULL);
	fork_order(); /* G4 */
	bl_mapping_put(m);
	if (at && at->reg) {
		atomic_store_explicit(&r->line->tid, 0, memory_order_relaxed);
		atomic_store_explicit(&r->line->in_use, 0,
				      memory_order_release); /* after the line's last section_exit */
	}
	bl_pins_none(r);
	r->ring = NULL;
	r->line = &r->own_line;
	r->pool = NULL;
	r->at = NULL;
	fork_order(); /* G4 */
	bl_attachment_put(at);
}

static struct shm_line *line_of(const struct berth_reader *r, const struct attachment *at)
{
	size_t i = (size_t)(r - r->owner->readers);

	return (struct shm_line *)((char *)at->reg + at->lines_off + i * at->line_stride);
}

/* The ring goes on where the reader that had this place before left it. */
static void join_ring(struct berth_reader *r, const struct attachment *at)
{
	uint32_t i = (uint32_t)(r - r->owner->readers), high;

	r->ring = (struct shm_ring *)((char *)at->reg + at->rings_off + (size_t)i * SHM_RING_STRIDE);
	r->ack = at->acks + i;
	r->ring_head = atomic_load_explicit(&r->ring->head, memory_order_relaxed);
	r->ring_done = SHM_ACK_DONE(atomic_load_explicit(r->ack, memory_order_relaxed));
	atomic_store_explicit(&r->ring->waiting, 0, memory_order_relaxed);
	high = atomic_load_explicit(&at->reg->rings_high, memory_order_relaxed);
	while (high <= i && !atomic_compare_exchange_weak_explicit(&at->reg->rings_high, &high, i + 1,
								   memory_order_relaxed, memory_order_relaxed))
		;
}

static void join(struct berth_reader *r, struct attachment *at)
{
	const struct berth *b = r->owner;

	r->root = at->root;
	for (unsigned i = 0; i < 4; i++)
		r->secret[i] = at->root->secret[i];
	r->fences = at->fences;
	r->copying = !at->reg;
	r->gate = b->writes == BERTH_WRITES_NONE ? GATE_NONE : at->reg ? GATE_UNSAID : GATE_NO_WRITER;
	if (at->reg) {
		r->line = line_of(r, at);
		atomic_store_explicit(&r->line->section, 0, memory_order_relaxed);
		atomic_store_explicit(&r->line->tid, (uint32_t)syscall(SYS_gettid), memory_order_relaxed);
		atomic_store_explicit(&r->line->in_use, 1, memory_order_release); /* before any section on it */
	}
	r->pool = at->pools ? &at->pools[r - b->readers] : NULL;
	if (at->n_rings)
		join_ring(r, at);
	r->at = at;
}

/* Takes over the attachment that is published now. False: another thread is just doing the same, and was stopped. A
 * reader that has none yet waits for that thread: it has nothing to go on with. */
static bool adopt(struct berth_reader *r)
{
	struct berth *b = r->owner;
	struct attachment *at;
	uint64_t stamp;

	for (unsigned i = 0; !bl_lock_try(&b->locked); i++) {
		if (i < ADOPT_TRIES)
			continue;
		if (r->at)
			return false;
		bl_lock_take(&b->locked);
		break;
	}
	at = b->now;
	atomic_fetch_add_explicit(&at->users, 1, memory_order_relaxed); /* bl_publish drops its own under the lock */
	stamp = atomic_load_explicit(b->page, memory_order_relaxed);
	bl_lock_release(&b->locked);
	leave(r);
	join(r, at);
	r->stamp = stamp;
	return true;
}

/* The page does not say what the reader remembers. */
int bl_reader_wake(struct berth_reader *r)
{
	if (forked(r->stamp_page))
		return BERTH_E_FORKED;
	if (r->depth == 0 && adopt(r)) /* G3 */
		return BERTH_OK;
	return r->at ? BERTH_OK : BERTH_E_AGAIN; /* on with the one that it has */
}

int berth_reader_open(struct berth *b, struct berth_reader **out)
{
	if (!b || !out)
		return BERTH_E_INVAL;
	if (forked(b->page))
		return BERTH_E_FORKED;
	for (uint32_t i = 0; i < b->max_readers; i++) {
		struct berth_reader *r = &b->readers[i];
		uint32_t closed = 0;
		struct reader_copies *copies;

		/* Acquire: pairs with the release in berth_reader_close; the slot is ours alone from here. */
		if (!atomic_compare_exchange_strong_explicit(&r->open, &closed, 1, memory_order_acquire,
							     memory_order_relaxed))
			continue;
		copies = malloc(sizeof *copies);
		if (!copies) {
			atomic_store_explicit(&r->open, 0, memory_order_release);
			return BERTH_E_NOMEM;
		}
		r->stamp_page = b->page;
		r->stamp = 0; /* as no page that is in use */
		r->copies = copies;
		r->line = &r->own_line;
		r->depth = r->n_held = 0;
		r->pool = NULL;
		r->ring = NULL;
		r->at = NULL;
		set_mapping(r, NULL);
		bl_pins_none(r); /* its pins_mapping is NULL: it has never been used, or was closed */
		fork_order();    /* G4: berth_detach closes what has an owner */
		r->owner = b;
		atomic_fetch_add_explicit(&b->n_open, 1, memory_order_relaxed);
		if (handle(r) == BERTH_OK)
			bl_reader_refresh(
				r); /* so that the first look-up is like any other; it will say what is wrong */
		*out = r;
		return BERTH_OK;
	}
	return BERTH_E_FULL;
}

void berth_reader_close(struct berth_reader **handle_out)
{
	struct berth_reader *r = handle_out ? *handle_out : NULL;
	struct reader_copies *copies;

	if (!r)
		return;
	*handle_out = NULL;
	if (forked(r->stamp_page)) { /* the line, and the attachment's registration, are the parent's alone */
		struct attachment *at = r->at;

		r->at = NULL;
		r->line = &r->own_line;
		bl_attachment_abandon(at);
	} else if (r->depth > 0) {
		section_exit(r->line);
	}
	r->depth = 0;
	drop_held(r);
	leave(r);
	copies = r->copies;
	r->copies = NULL;
	fork_order(); /* G4 */
	free(copies);
	atomic_fetch_sub_explicit(&r->owner->n_open, 1, memory_order_release); /* pairs with berth_detach's load */
	atomic_store_explicit(&r->open, 0, memory_order_release);
}

INLINE void enter(struct berth_reader *r)
{
	r->section = section_enter(r->line, r->root, r->section_low, r->fences); /* G1 */
}

/* berth_read_begin, but for the usual case. In functions of their own, so that the usual ones save no registers. */
static COLD void begin_unusual(struct berth_reader *r)
{
	int rc = handle(r);

	if (rc == BERTH_E_FORKED || r->depth++ > 0 || rc != BERTH_OK)
		return;
	if (!current(r) && bl_reader_refresh(r) != BERTH_OK)
		stand_in(r, SHM_GENERATION(load_termgen(r))); /* the line's, for want of a mapping */
	enter(r);
}

void berth_read_begin(struct berth_reader *r)
{
	if (unlikely(!r))
		return;
	if (!usual_handle(r)) {
		begin_unusual(r);
	} else if (unlikely(r->depth > 0)) {
		r->depth++;
	} else if (!current(r)) {
		begin_unusual(r);
	} else {
		r->depth = 1;
		enter(r);
	}
}

void berth_read_end(struct berth_reader *r)
{
	if (unlikely(!r) || unlikely(forked(r->stamp_page)) || unlikely(r->depth == 0))
		return;
	if (--r->depth > 0)
		return;
	section_exit(r->line);
	if (unlikely(r->n_held > 0))
		drop_held(r); /* G2 */
}
