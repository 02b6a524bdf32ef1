/* SPDX-License-Identifier: MIT
 * Writer processes that keep writes under way while partitions migrate, and what they remember of their ends. Called by
 * blackout.c alone. */
#ifndef BERTH_BENCH_WRITERS_H
#define BERTH_BENCH_WRITERS_H

#include "bench.h"

#define WRITERS 4u
#define PARTITIONS 48u /* tenant-00000000 .. ; each process has one write under way on each of them */
#define EPOCHS_KEPT 4u

/* The last end of a write, for each of the partition's last epochs. Its writer process writes, the mover reads. */
struct ends {
	_Atomic uint32_t n; /* entries ever made; the newest is at [(n - 1) % EPOCHS_KEPT] */
	struct {
		_Atomic uint64_t epoch; /* at which the write was admitted */
		_Atomic uint64_t ns;    /* CLOCK_MONOTONIC, right after berth_write_end */
	} at[EPOCHS_KEPT];
};

struct writers { /* in memory that the processes share */
	_Atomic uint32_t n_ready;
	_Atomic bool stop;
	_Atomic uint64_t done, refused;
	struct ends ends[PARTITIONS][WRITERS];
	pid_t pids[WRITERS];
	unsigned write_ms;
};

/* Starts them on the instance, with writes of write_ms; returns when every partition has a write of each under way. */
void writers_start(struct writers *, const struct daemon *, unsigned write_ms);
void writers_stop(struct writers *);
/* When the last write ended that was admitted before this epoch, ns of CLOCK_MONOTONIC; 0: there was none. */
uint64_t writers_last_end(const struct writers *, uint32_t partition, uint64_t epoch);

#endif
