/* SPDX-License-Identifier: MIT
 * Scrolls and points in time while their tenants move: threads that open them, continue each over a new connection (so
 * through any worker), try them as another tenant, and clear them; and what they saw that must not be. */
#ifndef BERTH_E2E_CURSORS_H
#define BERTH_E2E_CURSORS_H

#include "load.h"

struct cursors_options {
	uint16_t port;
	unsigned n_partitions, n_threads;
	uint64_t seed;
};

struct cursors_counts {
	uint64_t opened, continued, elsewhere; /* continued through another worker than the request before */
	uint64_t moved;            /* continued where it was, while new reads already went to another cluster */
	uint64_t foreign, cleared; /* refused to another tenant; cleared, and unknown from then on */
	uint64_t excused;          /* not answered while that was allowed */
	uint64_t faults;
};

struct cursors;

struct cursors *cursors_start(const struct cursors_options *);
/* From now on (false: no longer) the daemon is away: cursors may be cut off or refused with 503. */
void cursors_excuse(struct cursors *, bool);
/* Ends the threads; prints the counts, and a line `FAULT rule: ...` behind `prefix` for the first faults. Rules:
 * cursor-cluster (continued somewhere else than it was opened, or not at all), cursor-owner (another tenant got something
 * else than 403 or 404), cursor-clear (a cleared one goes on). */
struct cursors_counts cursors_stop(struct cursors **, const char *prefix);

#endif
