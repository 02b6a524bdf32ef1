/* SPDX-License-Identifier: MIT
 * What one reader process of readers.h does until it is told to stop. Called by readers.c in a forked child. */
#ifndef BERTH_TESTS_READERS_LOOP_H
#define BERTH_TESTS_READERS_LOOP_H

#include "readers.h"

/* Which enum berth_kind partition i always has. */
static inline uint8_t readers_kind(uint32_t i)
{
	return i % 5 == 4 ? BERTH_DEDICATED_CLUSTER : i % 2 ? BERTH_SHARED_INDEX : BERTH_DEDICATED_INDEX;
}

/* Attaches, looks up, checks. Returns the exit status: 0, or 1 when it could not begin. */
int readers_loop(const struct readers *, unsigned me);

#endif
