/* SPDX-License-Identifier: MIT
 * Races of libberth, made certain: another process calls it, is stopped after each of its machine instructions in turn, and
 * the writer makes its change right there. Whatever the answer is, it must have been true before the change or after it.
 * The test skips where ptrace is refused. */
#ifndef BERTH_TESTS_STEPS_H
#define BERTH_TESTS_STEPS_H

#include <sys/ptrace.h>

#include "reader_place.h"

enum call { ROUTE, LOOKUP, CLUSTER, N_CALLS, BEGIN = N_CALLS, BEGIN_BULK /* the last two need a registration */ };

struct answer {         /* shared with the other process */
	enum call call; /* in: what to call */
	int code;
	uint64_t epoch;
	unsigned cluster;
	char text[64]; /* LOOKUP: the index; CLUSTER: the id */
	bool done;
};

extern unsigned steps_made; /* instructions before the change */

struct answer *shared_answer(void); /* munmap */
/* The other process, which calls for this partition whenever it is resumed; registered where somebody serves. */
pid_t steps_start(struct reader_place *, const char *key, struct answer *);
void steps_resume(pid_t, enum __ptrace_request how);
void steps_stop(pid_t);
/* Makes `change` after each stride-th instruction of a call in turn, and has `check` judge each answer. Without BERTH_LONG=1
 * a third of these, from a first one that differs from run to run; a failure says which it was. */
void at_each_instruction(struct reader_place *, const char *key, enum call, unsigned stride,
			 void (*change)(struct reader_place *, unsigned), void (*check)(const struct answer *));
/* Changes for it: another writer, a new table, and the old one, in which the call may be, reads as zeros. */
void restart_it(struct reader_place *, unsigned);

#endif
