/* SPDX-License-Identifier: MIT
 * Many partitions at once: what the workloads `load` (a million) and `scale` (ten million) share. */
#ifndef BERTH_BENCH_LOAD_H
#define BERTH_BENCH_LOAD_H

#include "bench.h"

struct load_case {
	const char *workload;
	uint32_t partitions;
	unsigned rounds;
	/* goals; 0: none */
	double load_s, load_mib, table_bytes, start_s, start_mib, start_table_bytes;
};

/* Into an sqlite store through the socket, and a start with that store in an empty directory, `rounds` times. */
void load_sqlite(const struct bench *, const struct load_case *);

struct load_memory {      /* of an instance's files, as the file system counts it, in bytes */
	uint64_t table;   /* the present table: the newest */
	uint64_t reserve; /* kept for the next one */
	uint64_t all;
};
struct load_memory load_memory_now(const char *dir);
/* Once the files stay as they are: a grown table leaves its old one to be removed in the background. */
struct load_memory load_memory_settled(struct daemon *);

/* Seconds from the fork of a daemon that is to serve `partitions` until a look-up answers. The one who asks tries every
 * millisecond, as a proxy that starts together with it. peak: the daemon's highest RssAnon meanwhile. */
double load_start(const struct bench *, struct daemon *, const struct daemon_how *, uint32_t partitions,
		  uint64_t *peak);

#define MIB 1048576.0

#endif
