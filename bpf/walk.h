/* SPDX-License-Identifier: MIT
 * What walk.bpf.c and those who run it share: lists of keys that a program walks along, one look-up a run, because
 * BPF_PROG_TEST_RUN repeats one packet. Tests and benchmarks. */
#ifndef BERTH_BPF_WALK_H
#define BERTH_BPF_WALK_H

#include <linux/types.h>

struct walk_key {
	__u8 bytes[40]; /* zeros behind the key: the kernel's hash map compares all of them */
	__u64 len;
};

struct walk_state {
	/* stored by user space before a run */
	__u64 mask;      /* number of keys - 1: a power of two of them */
	__u64 epoch;     /* of walk_admit */
	__u32 forbidden; /* a cluster that no answer may name */
	__u32 pad0;
	/* by the program */
	__u64 next;      /* runs, ever */
	__u64 sum;       /* of the clusters found */
	__u64 n_code[8]; /* answers by enum berth_bpf */
	__u64 n_forbidden;
	__u64 pad1[2];
	/* line at 128: watched by user space */
	__u64 seen_epoch; /* watch: the latest epoch, */
	__u64 seen_ns;    /* and when it was first seen (CLOCK_MONOTONIC) */
};
_Static_assert(__builtin_offsetof(struct walk_state, seen_epoch) == 128, "a line of its own");

#endif
