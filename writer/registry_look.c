/* SPDX-License-Identifier: MIT
 * What readers are in: a look at all section lines, what they hold back, burying those whose process is dead, and the
 * list of registrations for people. Called by grow.c (grace periods) and by `readers`. Control thread only. Guarantee
 * R3 of registry.c: each line is loaded with acquire, after grace_advance. */
#include "registry_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HINT_AGAIN_MS 500u /* between looks at one whose socket is closed but which is not dead */
#define UNNOTED 0u         /* a blocker's line: of one for which there was no memory, in any generation */

void registry_look(struct registry *r)
{
	r->n_blockers = 0;
	for (uint32_t s = 0, seen = 0; s < SHM_LEDGER_ROWS && seen < r->n; s++) {
		struct registration *g = r->slots[s];

		if (!g)
			continue;
		seen++;
		for (uint32_t i = 0; i < g->n_readers; i++) {
			/* R3 */
			uint64_t line = atomic_load_explicit(&line_of(g, i)->section, memory_order_acquire);

			if (line == 0)
				continue;
			g->suspect = true;
			if (r->n_blockers == r->size_blockers) {
				size_t size = r->size_blockers ? r->size_blockers * 2 : 64;
				uint64_t *bigger = realloc(r->blockers, size * sizeof *bigger);

				if (!bigger) { /* what cannot be noted holds everything back */
					r->blockers[r->n_blockers - 1] = UNNOTED;
					continue;
				}
				r->blockers = bigger;
				r->size_blockers = size;
			}
			r->blockers[r->n_blockers++] = line;
		}
	}
}

uint64_t registry_lowest(const struct registry *r, uint32_t generation)
{
	uint64_t lowest = UINT64_MAX;

	for (size_t i = 0; i < r->n_blockers; i++) {
		uint64_t line = r->blockers[i];

		if (line == UNNOTED)
			return 0;
		/* tag = its own number: only the generation is asked about */
		if (section_holds(line, generation, section_grace(line)) && section_grace(line) < lowest)
			lowest = section_grace(line);
	}
	return lowest;
}

bool registry_bury(struct registry *r)
{
	uint64_t now = seg_clock_ms(CLOCK_MONOTONIC);
	bool gone = false;

	for (uint32_t s = 0, seen = 0, n = r->n; s < SHM_LEDGER_ROWS && seen < n; s++) {
		struct registration *g = r->slots[s];

		if (!g)
			continue;
		seen++;
		if (!g->suspect && !(g->hinted && now >= g->hint_ms))
			continue;
		g->suspect = false;
		if (registration_dead(g)) {
			if (registration_bury(r, g))
				gone = true;
		} else if (g->hinted) {
			g->hint_ms = now + HINT_AGAIN_MS;
		}
	}
	return gone;
}

uint64_t registry_next_ms(const struct registry *r, uint64_t now_ms)
{
	uint64_t wait = UINT64_MAX;

	for (uint32_t s = 0, seen = 0; s < SHM_LEDGER_ROWS && seen < r->n; s++) {
		const struct registration *g = r->slots[s];

		if (!g)
			continue;
		seen++;
		if (g->hinted) {
			uint64_t w = g->hint_ms > now_ms ? g->hint_ms - now_ms : 0;

			wait = w < wait ? w : wait;
		}
	}
	return wait;
}

void registry_set_held(struct registry *r, uint64_t (*held)(void *arg, uint64_t line), void *arg)
{
	r->held = held;
	r->held_arg = arg;
}

int registry_walk(struct registry *r, int (*each)(void *arg, const struct registry_row *), void *arg)
{
	for (uint32_t s = 0; s < SHM_LEDGER_ROWS; s++) {
		const struct registration *g = r->slots[s];
		struct registry_row row;
		int rc;

		if (!g)
			continue;
		row = (struct registry_row){
			.slot = s,
			.attach = g->attach,
			.pid = g->pid,
			.uid = g->uid,
			.attached_ms = g->attached_ms,
			.n_readers = g->n_readers,
			.fences = g->fences,
			.unbracketed = atomic_load_explicit(&g->file->unbracketed, memory_order_relaxed) != 0,
			.connected = g->connected,
			.writes = g->writes};
		memcpy(row.comm, g->comm, sizeof row.comm);
		if (r->size_sections < g->n_readers) {
			struct registry_section *bigger = realloc(r->sections, g->n_readers * sizeof *bigger);

			if (!bigger)
				continue;
			r->sections = bigger;
			r->size_sections = g->n_readers;
		}
		for (uint32_t i = 0; i < g->n_readers; i++) {
			const struct shm_line *l = line_of(g, i);
			uint64_t line = atomic_load_explicit(&l->section, memory_order_relaxed);

			row.damaged += atomic_load_explicit(&l->damaged, memory_order_relaxed);
			if (!line && !atomic_load_explicit(&l->in_use, memory_order_relaxed))
				continue;
			if (line && r->held) {
				uint64_t held = r->held(r->held_arg, line);

				row.held_bytes = held > row.held_bytes ? held : row.held_bytes;
			}
			r->sections[row.n_open++] = (struct registry_section){
				.reader = i, .tid = atomic_load_explicit(&l->tid, memory_order_relaxed), .line = line};
		}
		row.sections = r->sections;
		registration_row_leases(r, g, &row);
		rc = each(arg, &row);
		if (rc)
			return rc;
	}
	return 0;
}

uint32_t registry_count(const struct registry *r)
{
	return r->n;
}
