/* SPDX-License-Identifier: MIT
 * The plan of faults.so (faults/interpose.c): what is armed, and what has passed, of programs that are started with it or
 * of this very process. One thread. */
#ifndef BERTH_TESTS_FAULT_PLAN_H
#define BERTH_TESTS_FAULT_PLAN_H

#include <stdatomic.h>
#include <stdbool.h>

#include "faults/faults.h"

struct faults *fault_plan_make(const char *path); /* a new file, mapped */
void fault_plan_free(struct faults **);
/* Can the library stand between? AddressSanitizer's own comes after it then; ThreadSanitizer's cannot. */
bool fault_possible(void);
/* The first line of a test: ends it with SKIP when there is no plan, because the library cannot stand between. */
void fault_plan_needed(const struct faults *);
/* Programs that are started from now on have the library with the plan of this path; NULL: without. */
void fault_preload(const char *plan_path);
/* Runs this program once more, with the library preloaded; in that run, its plan. Called first of all by main. */
struct faults *fault_run_self(char **argv);
void fault_share(bool); /* whether programs that are started from now on have this process's plan */

const char *fault_name(enum fault_call);
/* What such a call can fail with: errnos and FAULT_SHORT, 0 ends them. */
const int *fault_errors(enum fault_call);
const char *fault_error_name(int error);
/* The n-th passage from now fails (1: the next), lasting: and all after it. in_path: faults.h; NULL: any. */
void fault_arm(struct faults *, enum fault_call, int64_t n, int error, bool lasting, const char *in_path);
/* Nothing fails any more; how often something did since it was armed. */
unsigned fault_disarm(struct faults *);
void fault_count(struct faults *); /* passes := 0 */
/* How often each has passed since then; of how many classes that is more than never. */
unsigned fault_passes(const struct faults *, uint64_t passes[CALLS]);
/* The k-th (from 0) of the passages to try, of `passes`: all of them, or `most` spread evenly. 0: no more. */
int64_t fault_nth(uint64_t passes, unsigned most, unsigned k);

#endif
