/* SPDX-License-Identifier: MIT
 * `berth bpf splice` in front of the proxy of a run, which is its fallback. What goes by the kernel reaches a cluster
 * without the epoch that the proxy tells, so that is worked out afterwards, from where and when it took effect. */
#ifndef BERTH_E2E_PACKETS_SPLICE_H
#define BERTH_E2E_PACKETS_SPLICE_H

#include "packets_run.h"

struct splice_process {
	pid_t pid;
	uint16_t port; /* that it listens on, at any address */
	FILE *out;
};

/* port 0: any. */
void splice_open(struct splice_process *, const struct run *, uint16_t port);
/* Kills it, with whatever is under way, and starts it again at once, at the same port. */
void splice_kill(struct splice_process *, struct run *);
/* SIGTERM, and waits for its end, which has to be in order. The requests that the kernel forwarded alone. */
uint64_t splice_close(struct splice_process *);
/* Gives each effect without an epoch the latest one that placed its partition there and admitted writes, and stood at some
 * instant between the call and the effect; none: 0, which the checker finds. The logs have been read. */
void splice_epochs(struct history *);

#endif
