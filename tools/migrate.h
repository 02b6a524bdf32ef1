/* SPDX-License-Identifier: MIT
 * What `berth migrate status`, `migrate run` and `top` share: how a migration and its barrier are told. */
#ifndef BERTH_TOOLS_MIGRATE_H
#define BERTH_TOOLS_MIGRATE_H

#include "text.h"

/* A reason of barrier-pending for people; as it is when it is not known. */
const char *migrate_reason(const char *reason);
/* "writes are under way, 3 in flight, at most 28.3 s more" */
void migrate_wait_text(char *out, size_t room, const char *reason, uint64_t in_flight, uint64_t remaining_ms);
/* Starts a grid and fills it from the `migrations` of the daemon's answer. */
void migrate_grid(struct grid *, const json_t *migrations);

#endif
