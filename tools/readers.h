/* SPDX-License-Identifier: MIT
 * What `berth readers` and `berth top` share. */
#ifndef BERTH_TOOLS_READERS_H
#define BERTH_TOOLS_READERS_H

#include "text.h"

/* Starts a grid and fills it from the `readers` of the daemon's answer. */
void readers_grid(struct grid *, const json_t *readers);
/* Of all of them together: a number that each row has. */
uint64_t readers_sum(const json_t *readers, const char *field);

#endif
