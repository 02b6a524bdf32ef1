/* SPDX-License-Identifier: MIT
 * The ambush, of both torture programs: a thread is held up for some milliseconds after the n-th instruction from now, so
 * that it stands in the middle of the few that count and what it is looking at changes under it (by the processor's trap
 * flag; x86-64 only, elsewhere nobody is held up). Called by the processes. Must not use cmocka. */
#ifndef BERTH_TESTS_TORTURE_AMBUSH_H
#define BERTH_TESTS_TORTURE_AMBUSH_H

#include <stdint.h>

/* Once in a process, before its other threads. Each time, a thread is held up for less than so many microseconds. */
void ambush_open(unsigned below_us);
/* Holds the calling thread up within so many instructions; mp_random's state. */
void ambush_within(uint64_t *random, unsigned most);

#endif
