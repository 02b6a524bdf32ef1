/* SPDX-License-Identifier: MIT
 * Reading cursors.<generation> of an instance, whether its daemon lives or not: pins are in force until their time has
 * come, by the clock of whoever looks. Used by the commands about pins, and by `status`. One thread. */
#ifndef BERTH_TOOLS_CURSOR_FILE_H
#define BERTH_TOOLS_CURSOR_FILE_H

#include "../shm/cursor.h"
#include "tool.h"

/* A code of berth_errors.h. BERTH_OK with map->file NULL: no process has asked for pins. */
int cursor_file_try(const struct tool *, struct cursor_map *map);
/* The same; a failure is told: EXIT_DONE, or what tool_fail returned. */
int cursor_file_open(const struct tool *, struct cursor_map *map);

struct pin { /* a private copy */
	uint64_t hash[2], owner;
	unsigned cluster;
	uint64_t expiry_ms; /* CLOCK_BOOTTIME */
	uint64_t order;     /* the lowest is the oldest */
	uint64_t pinned_ms; /* CLOCK_BOOTTIME */
};
/* False when the slot holds none, or changes under every look. slot < map->capacity. */
bool cursor_file_read(const struct cursor_map *, uint32_t slot, struct pin *);
/* The pin of this id, expired or not. CURSOR_CHANGED: it changed under every look. */
enum cursor_found cursor_file_find(const struct cursor_map *, const void *id, size_t len, uint64_t *owner,
				   uint64_t *word);

/* What its header counts, by the names that the daemon's `status` uses: capacity, owner_share, ttl_ms, pinned, ... */
void cursor_file_counters(const struct cursor_map *, json_t *object);

#endif
