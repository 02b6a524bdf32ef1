/* SPDX-License-Identifier: MIT
 * The table of pins as its one writer has it: slots in shared memory (shm/cursor.h) and, in private memory, what finds the
 * oldest and the expired in O(1). No thread, no ring, no clock of its own: whoever calls gives the time. Called by the
 * cursor thread (cursors.c) alone; by tests on a clock of theirs.
 *
 * Full, a new pin takes the room of what has expired, else of the pin that was pinned (or refreshed) the longest time ago.
 * With an owner's share, an owner that has used it up evicts its own oldest pin. */
#ifndef BERTH_WRITER_CURSOR_TABLE_H
#define BERTH_WRITER_CURSOR_TABLE_H

#include "../shm/cursor.h"
#include "instance.h"

struct cursor_table;

struct cursor_table_options {
	uint32_t capacity;    /* 1..SHM_CURSORS_MAX */
	uint64_t ttl_ms;      /* of pins that name none: readers find it in the header */
	uint32_t owner_share; /* pins of one owner; 0: no limit */
};

/* Takes over cursors.<generation> that root names, mending what a killed writer left half-made, in place: readers go on in
 * it meanwhile. Makes a file when there is none. One of another capacity gets a successor, with the newest pins that fit,
 * then root names that one and the old file is unlinked; where there is no room for it, the old one goes on and a warning
 * is logged. A damaged file is replaced by an empty one, logged as an error. Left-over cursors.* are unlinked. R_FULL,
 * R_BACKEND. */
enum refusal_code cursor_table_open(struct instance *, struct shm_root *, const struct cursor_table_options *,
				    uint64_t now_ms, struct cursor_table **, struct refusal *);
void cursor_table_close(struct cursor_table **); /* leaves the file */

/* now_ms: CLOCK_BOOTTIME. A pin that has expired is none. expiry_ms at or before now_ms: nothing is pinned (and what was
 * pinned under this id by its owner ends): SHM_PIN_OK. */
enum shm_pin_result cursor_table_pin(struct cursor_table *, const uint64_t hash[2], uint64_t owner, uint16_t cluster,
				     uint64_t expiry_ms, uint64_t now_ms);
enum shm_pin_result cursor_table_release(struct cursor_table *, const uint64_t hash[2], uint64_t owner,
					 uint64_t now_ms);
/* Before a batch of either: brings what they need into the cache. Changes nothing. */
void cursor_table_prefetch(const struct cursor_table *, const uint64_t (*hash)[2], unsigned n);
/* Something was refused before it came here: no such cluster, garbage. */
void cursor_table_refused(struct cursor_table *);

/* Drops at most `most` pins that have expired by now; true when there may be more. */
bool cursor_table_expire(struct cursor_table *, uint64_t now_ms, unsigned most);
/* Any thread. */
uint64_t cursor_table_count(const struct cursor_table *);
/* Pins of a cluster, the expired that are still there included. Any thread: what it was a moment ago. */
uint32_t cursor_table_cluster_uses(const struct cursor_table *, uint16_t cluster);
/* What readers see. */
const struct cursor_map *cursor_table_map(const struct cursor_table *);

#endif
