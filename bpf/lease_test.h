/* SPDX-License-Identifier: MIT
 * What tests and lease_test.bpf.c, lease_hammer.bpf.c say to each other: the bytes of a "packet", and what user space has
 * mapped of a program's memory. */
#ifndef BERTH_BPF_LEASE_TEST_H
#define BERTH_BPF_LEASE_TEST_H

#include <linux/types.h>

enum lease_op { LEASE_BEGIN, LEASE_END, LEASE_ADMIT };
struct lease_call {
	__u32 op, slot;
	__u32 step;    /* added to the slot after the call, which is repeated */
	__u32 outcome; /* of LEASE_END: an enum berth_outcome */
	__u64 epoch;
	__u32 len;
	__u32 code; /* the answer: of the last call */
	__u32 n_ok; /* calls that were answered BERTH_BPF_OK */
	__u32 cluster;
	__u64 answered; /* epoch of the answer */
	__u8 key[40];
};
struct lease_hold { /* of lease_test.bpf.c */
	__u32 at;   /* user space's: the step at which a begin is held, 1 or 2; 0: nowhere */
	__u32 come; /* the step that one has come to */
};

/* Writers that begin and end as fast as they can, on processors that have their own slots. */
#define HAMMER_KEYS 16u
#define HAMMER_SLOTS 64u
#define HAMMER_PROCESSORS 2u
struct hammer_call {
	__u32 processor;
	__u32 pad;
	__u64 admitted, ended, refused; /* answers so far; refused: cutover, or pass */
	__u64 wrong;                    /* answers that should not have come */
	__u64 late;                     /* let through at an epoch from before a `complete` that has been answered */
};
struct hammer_shared { /* of lease_hammer.bpf.c */
	struct {
		__u64 words[5];
		__u32 len;
	} keys[HAMMER_KEYS];          /* user space's */
	__u64 completed[HAMMER_KEYS]; /* user space's: epoch of the last `complete` that was answered */
	__u64 going[HAMMER_PROCESSORS *
		    HAMMER_SLOTS]; /* epoch << 8 | number of the key + 1, while a write is under way */
};

#endif
