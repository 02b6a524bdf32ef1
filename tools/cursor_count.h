/* SPDX-License-Identifier: MIT
 * Counting the pins of an instance by where they lead and whose they are, for `berth cursors`. One thread. */
#ifndef BERTH_TOOLS_CURSOR_COUNT_H
#define BERTH_TOOLS_CURSOR_COUNT_H

#include "cursor_file.h"
#include "walk.h"

struct owner { /* of pins */
	uint64_t hash, n;
	char *name; /* NULL: of no partition in the table */
	size_t name_len;
};

struct census {
	struct cursor_map map;
	uint64_t now_ms; /* CLOCK_BOOTTIME */
	/* of these alone */
	unsigned cluster;       /* 0: of all */
	const char *owner_name; /* NULL: of all */
	uint64_t owner;
	/* what was found */
	uint64_t n_pins, n_not_swept;
	uint64_t oldest_order, oldest_ms;
	uint64_t *by_cluster;
	struct owner *owners; /* those that are shown, most pins first */
	size_t n_shown, n_owners;
	struct cluster_copy *clusters;
	size_t n_clusters;
};

/* Counts, with map, now_ms and what is wanted filled in; `limit` owners are kept, with names. The table is open. EXIT_DONE,
 * or what tool_fail returned. */
int cursor_count(struct tool *, struct census *, size_t limit);
/* Frees all but the map. */
void cursor_count_end(struct census *);

#endif
