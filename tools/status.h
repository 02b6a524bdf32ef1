/* SPDX-License-Identifier: MIT
 * What `berth readers` and `berth top` share. */
#ifndef BERTH_TOOLS_STATUS_H
#define BERTH_TOOLS_STATUS_H

#include "text.h"

/* Starts a grid and fills it from the `readers` of the daemon's answer. */
void readers_grid(struct grid *, const json_t *readers);

#endif
