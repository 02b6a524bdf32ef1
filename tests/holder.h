/* SPDX-License-Identifier: MIT
 * A reader process that attaches to a real daemon and holds writes open for as long as the test says. It does one
 * command at a time, and keeps its attachment up in between. It dies with the test's process. */
#ifndef BERTH_TESTS_HOLDER_H
#define BERTH_TESTS_HOLDER_H

#include "../reader_lib/berth.h"
#include "daemon.h"

#define HOLDER_WRITES 2048u /* that it can have under way; as many leases has it */

struct holder {
	pid_t pid; /* 0: none. Its name is `holder` */
	int fd;
};

/* Returns once it is attached and has a reader open; the test fails when it could not. */
void holder_start(struct holder *, const struct daemon *, enum berth_writes);
/* Begins a write; its number, for holder_end. The test fails when it is not admitted. */
unsigned holder_begin(const struct holder *, const char *partition);
void holder_end(const struct holder *, unsigned number, enum berth_outcome);
/* The answer of berth_write_begin; what was begun is ended at once. */
int holder_try(const struct holder *, const char *partition);
/* The answer of berth_admit, at the present epoch. */
int holder_admit(const struct holder *, const char *partition);
/* Ends it, writes that are under way as unknown ones, and detaches. */
void holder_stop(struct holder *);
void holder_kill(struct holder *); /* SIGKILL, and waits */
void holder_kill_all(void);        /* for teardowns: those of every struct holder that is running */

#endif
