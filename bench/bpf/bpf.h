/* SPDX-License-Identifier: MIT
 * What the files of bench/bpf share: a berthd with a mirror, the programs of bpf/walk.bpf.c on it, and the timing of a
 * program through BPF_PROG_TEST_RUN. Called from the one thread of the program; what goes wrong ends it. */
#ifndef BERTH_BENCH_BPF_BPF_H
#define BERTH_BENCH_BPF_BPF_H

#include <bpf/libbpf.h>

#include "../../bpf/layout.h"
#include "../../bpf/walk.h"
#include "../bench.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* of bpftool */
#pragma GCC diagnostic ignored "-Wconversion"
#include "walk.skel.h"
#pragma GCC diagnostic pop

struct place {
	struct daemon d;
	uint32_t n;   /* partitions */
	unsigned len; /* of their names: that of key_name, and x to the end */
	char pins[160];
	struct walk *walk;
	struct walk_state *state;
	struct walk_key *keys; /* in an order of their own: uniform, random */
	uint64_t n_keys, sum;  /* a power of two; of their clusters' numbers */
};

/* A daemon with n partitions, their names KEY_LEN to MIRROR_KEY_MAX bytes long; the kernel's hash map of walk.bpf.c with the same keys. False, after a note: packet programs
 * cannot run here. */
bool place_open(const struct bench *, struct place *, uint32_t n, unsigned len);
/* As soon as all programs are loaded: daemon and programs go on with the maps by their descriptors, and nothing is left in
 * the BPF file system however this ends. */
void place_unpin(const struct place *);
void place_close(struct place *);
static inline uint64_t place_cluster(uint32_t number) /* of a partition: the number of its cluster */
{
	return number % CLUSTERS + 1;
}

/* Nanoseconds a run of the program, of `runs` on this packet; what it returned last. */
struct packet {
	unsigned char bytes[512];
	unsigned n;
};
double program_ns(int program, const struct packet *, unsigned runs, uint32_t *returned);

void workload_lookup(const struct bench *);
void workload_steer(const struct bench *);
void workload_seen(const struct bench *);

#endif
