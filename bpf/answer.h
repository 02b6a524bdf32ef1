/* SPDX-License-Identifier: MIT
 * What packet programs are answered (berth.bpf.h), for them and for the user space that they hand it to. */
#ifndef BERTH_BPF_ANSWER_H
#define BERTH_BPF_ANSWER_H

#include <linux/types.h>

enum berth_bpf {
	BERTH_BPF_OK = 0,
	BERTH_BPF_PASS = 1,    /* no answer from here: ask in user space */
	BERTH_BPF_UNKNOWN = 2, /* no placement, and no default */
	BERTH_BPF_STALE = 3,   /* the gate: another epoch is in force, look up again */
	BERTH_BPF_CUTOVER = 4  /* the gate: no write now */
};

struct berth_answer {
	__u64 epoch;
	__u32 cluster; /* 1..65535 */
	__u8 kind;     /* as in ../shm/word.h: 1 dedicated cluster, 2 dedicated index, 3 shared index */
	__u8 phase;    /* 0 settled, 1 draining, 2 cutover */
	__u8 is_default;
	__u8 why; /* of BERTH_BPF_PASS and _UNKNOWN: an enum mirror_event; the rest is undefined then */
};

#endif
