/* SPDX-License-Identifier: MIT
 * Ends of leases that count for a cutover: the latest, and whose the latest few are. Called by drain.c; keeps no state of
 * its own. */
#include "drain.h"

void drain_ends_add(struct drain_ends *e, uint64_t end_ms, uint32_t pid, uint64_t now_ms)
{
	unsigned at = e->n;

	if (end_ms > now_ms) /* D5 of drain.c */
		end_ms = now_ms;
	if (end_ms > e->latest_ms)
		e->latest_ms = end_ms;
	for (unsigned i = 0; i < e->n; i++)
		if (e->of[i].pid == pid)
			at = i;
	if (at == BARRIER_PIDS) {
		at = 0;
		for (unsigned i = 1; i < e->n; i++)
			if (e->of[i].end_ms < e->of[at].end_ms)
				at = i;
		if (e->of[at].end_ms >= end_ms)
			return;
		e->of[at].end_ms = 0;
	} else if (at == e->n) {
		e->of[e->n++].end_ms = 0;
	}
	e->of[at].pid = pid;
	if (end_ms > e->of[at].end_ms)
		e->of[at].end_ms = end_ms;
}

void drain_ends_merge(struct drain_ends *into, const struct drain_ends *from, uint64_t now_ms)
{
	for (unsigned i = 0; i < from->n; i++)
		drain_ends_add(into, from->of[i].end_ms, from->of[i].pid, now_ms);
}
