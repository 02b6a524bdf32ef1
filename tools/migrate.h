/* SPDX-License-Identifier: MIT
 * What `berth migrate status`, `migrate run` and `top` share: how a migration and its barrier are told. */
#ifndef BERTH_TOOLS_MIGRATE_H
#define BERTH_TOOLS_MIGRATE_H

#include "process.h"
#include "text.h"

/* A reason of barrier-pending for people; as it is when it is not known. */
const char *migrate_reason(const char *reason);
/* "3 writes under way, process 4711 (nginx)", "writes of a process that died may still arrive, at most 28.3 s more, process 4711 (nginx)". barrier: data of barrier-pending, or a row of `migrations`.
 */
void migrate_wait_text(const struct tool *, struct processes *, const json_t *barrier, char *out, size_t room);
/* Starts a grid and fills it from the `migrations` of the daemon's answer. */
void migrate_grid(const struct tool *, struct processes *, struct grid *, const json_t *migrations);

#endif
