/* SPDX-License-Identifier: MIT
 * The lock of an instance: one writer at a time, and how a second start learns of the first, or ends it. Called by
 * instance.c at start; the descriptor is then kept for the life of the process. */
#ifndef BERTH_WRITER_LOCK_H
#define BERTH_WRITER_LOCK_H

#include <stdbool.h>

#include "refusals.h"

#define LOCK_NAME "lock"
#define TAKEOVER_MS 5000

/* Takes the lock of the directory and writes this process into it. dir: for messages. R_BUSY names the holder. */
enum refusal_code lock_take(int dir_fd, const char *dir, bool takeover, int *fd, struct refusal *);

#endif
