/* SPDX-License-Identifier: MIT
 * The pin rings of registrations, as far as the registry has to know them: where their acknowledgements lie in the ledger,
 * over restarts, and that none is lost when its process is gone. What is in them is for the cursor thread (cursors.c), and
 * so are the acknowledgements from the attach on. Called by registry.c and, through registry.h, by pinning.c. Control
 * thread only.
 *
 * P1 A registration with rings is removed only after all that its process had pushed is done: let_go says so. As long as
 *    nobody works on rings (at a start), none is removed.
 * P2 Two registrations never share a cache line of acknowledgements, and an acknowledgement belongs to one ring for as long
 *    as its registration is there. */
#include "registry_internal.h"

#include <string.h>
#include <time.h>

#include "../shm/crash_point.h"

#define ACKS_LINE 8u                        /* acks of one cache line */
#define AGAIN_MS 1u                         /* until it is asked again whether rings are done */
#define UNHELD_MS 20u                       /* the same while nobody works on rings */
#define UID_RINGS_MAX (SHM_LEDGER_ACKS / 2) /* of one user, but for root: others are to find some left */
#define N_LINES (SHM_LEDGER_ACKS / ACKS_LINE)

static struct shm_ledger_ring *record_of(const struct registry *r, uint32_t slot)
{
	return &ledger_rings(r->ledger)[slot];
}

void registration_take_rings(const struct registry *r, struct registration *g)
{
	const struct shm_ledger_ring *record = record_of(r, g->slot);
	uint64_t attach = atomic_load_explicit(&record->attach, memory_order_relaxed);
	uint32_t n = atomic_load_explicit(&record->n, memory_order_relaxed),
		 first = atomic_load_explicit(&record->first, memory_order_relaxed);

	if (!attach || attach != g->attach || n != g->n_readers || first % ACKS_LINE || first > SHM_LEDGER_ACKS ||
	    n > SHM_LEDGER_ACKS - first)
		return;
	g->n_rings = n;
	g->first_ack = first;
}

static uint32_t lines_for(uint32_t n_rings)
{
	return (n_rings + ACKS_LINE - 1) / ACKS_LINE;
}

/* P2. First fit over the lines that nobody has. */
enum refusal_code registration_make_rings(struct registry *r, struct registration *g, struct refusal *why)
{
	static bool taken[N_LINES];
	uint32_t need = lines_for(g->n_readers), run = 0, of_uid = 0, i;

	memset(taken, 0, sizeof taken);
	for (uint32_t slot = 0; slot < r->end; slot++) {
		const struct registration *other = r->slots[slot];

		if (other && other->n_rings)
			memset(taken + other->first_ack / ACKS_LINE, true, lines_for(other->n_rings));
	}
	for (i = 0; i < N_LINES && run < need; i++)
		run = taken[i] ? 0 : run + 1;
	for (uint32_t slot = 0; slot < r->end; slot++)
		if (r->slots[slot] && r->slots[slot] != g && r->slots[slot]->uid == g->uid)
			of_uid += r->slots[slot]->n_rings;
	if (g->uid != 0 && of_uid + g->n_readers > UID_RINGS_MAX)
		return refuse(
			why, R_LIMIT,
			"user %u has %u pin rings, of %u at most, and wants %u: attach with fewer readers, or without "
			"cursors",
			g->uid, of_uid, UID_RINGS_MAX, g->n_readers);
	if (run < need)
		return refuse(
			why, R_LIMIT,
			"no room for %u pin rings: all processes of an instance have %u together, attach with fewer "
			"readers, or without cursors",
			g->n_readers, SHM_LEDGER_ACKS);
	g->n_rings = g->n_readers;
	g->first_ack = (i - need) * ACKS_LINE;
	for (i = 0; i < g->n_rings; i++)
		atomic_store_explicit(ledger_acks(r->ledger) + g->first_ack + i, 0, memory_order_relaxed);
	CRASH_POINT(acks_cleared);
	return R_DONE;
}

void registration_put_rings(const struct registry *r, const struct registration *g)
{
	struct shm_ledger_ring *record = record_of(r, g->slot);

	if (!g->n_rings)
		return;
	atomic_store_explicit(&record->first, g->first_ack, memory_order_relaxed);
	atomic_store_explicit(&record->n, g->n_rings, memory_order_relaxed);
	CRASH_POINT(ring_record_filled);
	/* Last: a writer killed in between left no record. */
	atomic_store_explicit(&record->attach, g->attach, memory_order_release);
	CRASH_POINT(ring_record_stored);
}

void registration_clear_rings(const struct registry *r, const struct registration *g)
{
	atomic_store_explicit(&record_of(r, g->slot)->attach, 0, memory_order_release);
	CRASH_POINT(ring_record_cleared);
}

bool registration_let_go(struct registry *r, struct registration *g)
{
	if (!g->n_rings || !g->file)
		return true;
	if (r->let_go && r->let_go(r->let_go_arg, g->slot))
		return true;
	g->hinted = true;
	g->hint_ms = seg_clock_ms(CLOCK_MONOTONIC) + (r->let_go ? AGAIN_MS : UNHELD_MS);
	return false;
}

bool registry_rings(const struct registry *r, uint32_t slot, uint64_t attach, struct registry_rings *rings)
{
	const struct registration *g = slot < SHM_LEDGER_ROWS ? r->slots[slot] : NULL;

	if (!g || g->attach != attach || !g->n_rings || !g->file)
		return false;
	*rings = (struct registry_rings){.slot = slot,
					 .attach = attach,
					 .file = g->file,
					 .rings = ring_of(g, 0),
					 .n = g->n_rings,
					 .first_ack = g->first_ack};
	return true;
}

void registry_rings_walk(const struct registry *r, void (*each)(void *arg, const struct registry_rings *), void *arg)
{
	struct registry_rings rings;

	for (uint32_t slot = 0; slot < r->end; slot++)
		if (r->slots[slot] && registry_rings(r, slot, r->slots[slot]->attach, &rings))
			each(arg, &rings);
}

void registry_set_rings(struct registry *r, bool (*let_go)(void *arg, uint32_t slot), void *arg)
{
	r->let_go = let_go;
	r->let_go_arg = arg;
}
