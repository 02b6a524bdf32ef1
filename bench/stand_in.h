/* SPDX-License-Identifier: MIT
 * This process in the daemon's place: the daemon is stopped (SIGSTOP), and what it would store into shared memory is
 * stored from here, so that the store itself can be timed, not the way of a request to it. Works on the files as the
 * daemon does: root and the present table, mapped writable. Used by seen.c and grace.c, from the process that started
 * the daemon, with one thread. Must leave every word as it found it before the daemon goes on; what goes wrong ends the
 * program. */
#ifndef BERTH_BENCH_STAND_IN_H
#define BERTH_BENCH_STAND_IN_H

#include "../shm/segment.h"
#include "bench.h"

struct stand_in {
	const struct daemon *d;
	struct shm_root *root;
	struct seg_map map; /* of the table, as readers have it */
	char *table;        /* the same file, to be written */
	int dir_fd;
};

/* Maps; the daemon runs on, and must not make another table until stand_in_remove. */
void stand_in_make(struct stand_in *, const struct daemon *);
void stand_in_remove(struct stand_in *);
/* From the one to the other nothing but this process stores what the daemon owns. Begin returns when it has stopped. */
void stand_in_begin(const struct stand_in *);
void stand_in_end(const struct stand_in *);
/* The word of a partition that has a placement. */
_Atomic uint64_t *stand_in_word(const struct stand_in *, const char *key, size_t len);

#endif
