/* SPDX-License-Identifier: MIT
 * What the commands of `berth bpf` share, and what `top` has of them. */
#ifndef BERTH_TOOLS_BPF_H
#define BERTH_TOOLS_BPF_H

#include "../bpf/programs.h"
#include "commands.h"

/* What programs.h is to be told of the instance, once it is certain that the mirror of that name is this instance's and
 * not another one's. EXIT_DONE and t->path is that, or what tool_fail returned; without `mirror` it may be missing. */
int bpf_open(struct tool *, bool mirror);
/* A failure of programs.h: EXIT_UNREACHABLE when there is no mirror, or no instance, else EXIT_REFUSED. */
int bpf_fail(struct tool *, const struct programs_fault *);
/* The same with further members for the error object, taken over. */
int bpf_fail_with(struct tool *, const struct programs_fault *, json_t *members);
/* --header or --segment, else X-Partition. EXIT_DONE, or EXIT_USAGE with the message printed. */
int bpf_tenant(const struct tool *, const struct arguments *, struct steer_config *);

/* bpf_stats.c: for top. The counts of now; NULL: there is no mirror, or it may not be read. To be freed. t has an open
 * instance. */
struct programs_stats *bpf_stats_read(const struct tool *);
/* Packets and requests a second since `before`, by cluster and phase; nothing when there are none at all. before NULL: in
 * all. t has an open instance. */
void bpf_stats_put(struct tool *, const struct programs_stats *now, const struct programs_stats *before, uint64_t ms,
		   FILE *out);
/* [{"cluster", "number", "phase", "packets", ...}]; what is all 0 is left out. */
json_t *bpf_stats_json(struct tool *, const struct programs_stats *);

#endif
