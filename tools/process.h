/* SPDX-License-Identifier: MIT
 * Names of the processes that a migration waits for: pids come from the daemon, names from its ledger, and those of
 * processes that have died meanwhile from an earlier look at it. For `migrate run`, `migrate status` and `top`. */
#ifndef BERTH_TOOLS_PROCESS_H
#define BERTH_TOOLS_PROCESS_H

#include "tool.h"

struct process_name {
	uint64_t pid;
	char comm[17];
};
struct processes { /* zero-filled: none is known */
	struct process_name *at;
	size_t n, room;
};

/* Adds who is registered now. A ledger that cannot be read adds nobody. t->dir_fd is open. */
void processes_learn(const struct tool *, struct processes *);
/* "process 4711 (nginx)", "processes 4711 (nginx), 4712 (nginx), 4713 and others"; "" when pids is empty or no array.
 * Learns those that it does not know. names may be NULL: then without names. Returns out. */
char *processes_text(const struct tool *, struct processes *names, const json_t *pids, char *out, size_t room);
void processes_end(struct processes *);

#endif
