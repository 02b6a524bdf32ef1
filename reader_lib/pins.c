/* SPDX-License-Identifier: MIT
 * Mapped generations of the file of pins, shared by the readers of a process, as mapping.c has those of the table: one
 * mapping serves all, taken over under a lock that is only tried. And the cold half of pins.h: what a reader does when
 * root names another file than it has. Any thread; a reader's part its own thread.
 *
 * G1 A mapping is unmapped by whoever drops its last count (acq_rel), so not while a reader has it. Its file is of no
 *    use to anybody once root names another one, and nobody waits for its readers: they find out behind each search. */
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "pins.h"

static const struct shm_cursors no_file;
static const _Atomic uint64_t no_bucket = SHM_BUCKET(1, 1); /* leads to the first of no slots: damage */
const struct cursor_map bl_no_pins = {.file = &no_file, .buckets = &no_bucket};

void bl_pins_put(struct pins *p)
{
	if (!p || atomic_fetch_sub_explicit(&p->users, 1, memory_order_acq_rel) != 1) /* G1 */
		return;
	cursor_map_close(&p->map);
	free(p);
}

/* Under the lock. */
static bool take_ready(struct attachment *at, uint64_t generation, struct pins **out)
{
	if (!at->pins || at->pins->map.generation != generation)
		return false;
	atomic_fetch_add_explicit(&at->pins->users, 1, memory_order_relaxed);
	*out = at->pins;
	return true;
}

/* cursor_map_open with the attachment's spare descriptor (mapping.c). */
static int map_pins(struct attachment *at, uint64_t generation, struct cursor_map *map)
{
	int none = -1, spare = atomic_exchange_explicit(&at->spare, -1, memory_order_relaxed), rc;

	rc = cursor_map_open(at->tables_fd, at->root, generation, &spare, map);
	if (spare >= 0 && !atomic_compare_exchange_strong_explicit(&at->spare, &none, spare, memory_order_relaxed,
								   memory_order_relaxed))
		close(spare);
	return rc;
}

/* One count for the caller. */
static int pins_get(struct attachment *at, uint64_t generation, struct pins **out)
{
	struct pins *p, *drop = NULL;
	bool taken = false;
	int rc;

	if (bl_lock_try(&at->locked)) {
		taken = take_ready(at, generation, out);
		bl_lock_release(&at->locked);
	}
	if (taken)
		return BERTH_OK;
	p = calloc(1, sizeof *p);
	if (!p)
		return BERTH_E_NOMEM;
	rc = map_pins(at, generation, &p->map);
	if (rc != BERTH_OK) {
		free(p);
		return rc;
	}
	atomic_init(&p->users, 1);
	*out = p;
	if (!bl_lock_try(&at->locked))
		return BERTH_OK; /* it stays the caller's own */
	if (take_ready(at, generation, out)) {
		drop = p;
	} else if (!at->pins || p->map.generation > at->pins->map.generation) {
		atomic_fetch_add_explicit(&p->users, 1, memory_order_relaxed);
		drop = at->pins;
		at->pins = p;
	}
	bl_lock_release(&at->locked);
	bl_pins_put(drop);
	return BERTH_OK;
}

/* The newest file; what `out` had is given back when it is another one. */
static int newest(struct attachment *at, uint64_t *generation, struct pins **out)
{
	int rc = BERTH_E_AGAIN;

	for (unsigned i = 0; i < ATTEMPTS; i++) {
		struct pins *p;

		/* Acquire: pairs with the release store that names a complete file. */
		*generation = atomic_load_explicit(&at->root->cursor_generation, memory_order_acquire);
		if (*generation == 0)
			return BERTH_E_AGAIN; /* not made yet */
		if (*generation == PINS_NONE)
			return BERTH_E_CORRUPT; /* no file has it */
		rc = pins_get(at, *generation, &p);
		if (rc == BERTH_OK) {
			*out = p;
			return BERTH_OK;
		}
		if (*generation == atomic_load_explicit(&at->root->cursor_generation, memory_order_acquire))
			return rc;
	}
	return rc;
}

/* p NULL: none. The count of the one before is given back last (fork_order). */
static void set_pins(struct berth_reader *r, struct pins *p, uint64_t generation)
{
	struct pins *old = r->pins_mapping;

	r->pins_mapping = p;
	r->pins = p ? p->map : bl_no_pins;
	r->pins_generation = generation;
	fork_order();
	bl_pins_put(old);
}

void bl_pins_none(struct berth_reader *r)
{
	set_pins(r, NULL, PINS_NONE);
}

int bl_pins_renew(struct berth_reader *r)
{
	struct pins *p = NULL;
	uint64_t generation;
	int rc;

	if (r->owner->cursors != BERTH_CURSORS_PIN)
		return BERTH_E_INVAL;
	if (!r->ring)
		return BERTH_E_WRITER_DOWN;
	rc = newest(r->at, &generation, &p);
	if (rc != BERTH_OK)
		return rc == BERTH_E_CORRUPT ? bl_damaged(r) : gate_code(rc);
	set_pins(r, p, generation);
	return BERTH_OK;
}

void bl_pins_ahead(struct attachment *at)
{
	struct pins *p = NULL;
	uint64_t generation;

	if (at->n_rings && newest(at, &generation, &p) == BERTH_OK)
		bl_pins_put(p); /* at->pins keeps it */
}
