/* SPDX-License-Identifier: MIT
 * A thread that reads the placement table and its mirror for packet programs all the time, one after the other, and judges
 * what the mirror says by what the table said just before and just after. It looks as a program does (state, inner map,
 * word, state again), through the pins alone, so it goes on while the writer is killed and started again.
 *
 *   table (before)  ->  mirror  ->  table (after)       every epoch is higher than all before it, so:
 *   J1 an entry that the mirror answers with is not older than `before`, nor newer than `after`; the same epoch, the same word
 *   J2 it is none that the table was seen to have lost
 *   J3 a miss is none while the table has the same entry before and after
 *   J4 the default is judged likewise
 *   J5 the mirror never says more than the table: `pass` is always right */
#ifndef BERTH_TESTS_MIRROR_JUDGE_H
#define BERTH_TESTS_MIRROR_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

struct mirror_judge;

struct mirror_verdict {
	uint64_t looks;     /* in all */
	uint64_t answers;   /* of the mirror, that were judged */
	uint64_t passes;    /* it had none */
	uint64_t discarded; /* the maps changed hands meanwhile */
	uint64_t wrong;
	char first[400]; /* of what was wrong */
};

/* Keys of up to MIRROR_KEY_MAX bytes; the judge keeps the pointers. It looks more often at the first two. The test fails when
 * there is no mirror. */
struct mirror_judge *mirror_judge_start(const char *dir, const char *pins, char (*keys)[40], unsigned n);
/* The counts so far; for waiting until it has looked. */
struct mirror_verdict mirror_judge_so_far(struct mirror_judge *);
/* Ends it. */
struct mirror_verdict mirror_judge_stop(struct mirror_judge **);

#endif
