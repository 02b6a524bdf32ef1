/* SPDX-License-Identifier: MIT
 * The frame that look.bpf.c answers: asked by whoever wants to know from another machine, or through
 * BPF_PROG_TEST_RUN, where a tenant is. Included by the program and by those who ask. */
#ifndef BERTH_BPF_LOOK_H
#define BERTH_BPF_LOOK_H

#include <linux/types.h>

#define LOOK_ETHERTYPE 0x88b5 /* IEEE 802: for local experiments */

enum look_op {
	LOOK_ROUTE = 1, /* where is it? */
	LOOK_ADMIT = 2  /* may a write that was routed at `epoch` go there? */
};

struct look_frame {
	__u8 to[6], from[6];
	__u16 type; /* network byte order; all that follows is little-endian unless it says so */
	/* asked */
	__u8 op;      /* enum look_op */
	__u8 len;     /* of the key */
	__u64 epoch;  /* of LOOK_ADMIT; answered by LOOK_ROUTE */
	__u8 key[40]; /* `len` bytes, then anything */
	/* answered */
	__u8 code; /* enum berth_bpf */
	__u8 phase, kind, is_default;
	__u8 why; /* enum mirror_event, when code is BERTH_BPF_PASS or _UNKNOWN */
	__u8 family, tls;
	__u8 pad;
	__u32 cluster;
	__u32 address[4]; /* network byte order, as is port */
	__u16 port;
	__u8 pad1[2];
};

_Static_assert(sizeof(struct look_frame) == 96 && __builtin_offsetof(struct look_frame, key) == 24, "no holes");

#endif
