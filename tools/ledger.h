/* SPDX-License-Identifier: MIT
 * Reading the ledger of an instance: which processes are registered, as their daemon wrote it down. */
#ifndef BERTH_TOOLS_LEDGER_H
#define BERTH_TOOLS_LEDGER_H

#include "tool.h"

struct ledger { /* mapped; checked against the size of the mapping */
	const struct shm_ledger *header;
	const struct shm_ledger_row *rows;
	const struct shm_ledger_cutover *cutovers;
	const struct shm_ledger_lease *leases;
	const struct shm_ledger_ring *rings; /* n_rows of them */
	const _Atomic uint64_t *acks;
	uint64_t pid_namespace; /* of the daemon that wrote it; 0: unknown */
	uint32_t n_rows, n_cutovers, n_leases, n_acks;
	size_t size;
};

struct ledger_reader { /* a private copy of a row */
	uint64_t attach, pid, start, attached_ms;
	uint32_t uid, n_readers, writes;
	char comm[17];
	bool seen;   /* its number means something here: it can be told whether the process is there */
	bool exists; /* it is, seen from here */
};

/* A code of berth_errors.h. t->root may be NULL: then the uuid is not compared. */
int ledger_open(const struct tool *, struct ledger *);
void ledger_close(struct ledger *);
/* False when the row is free, or changes just now. slot < n_rows. */
bool ledger_read(const struct ledger *, uint32_t slot, struct ledger_reader *);
uint32_t ledger_count(const struct ledger *);
const char *ledger_writes(uint32_t writes); /* "none", "bracketed", "unbracketed", "?" */

#endif
