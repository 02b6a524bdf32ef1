/* SPDX-License-Identifier: MIT
 * The real berthd with faults.so (faults/interpose.c) between it and libc: what fails is armed in the live process. With
 * a reader of this process attached to it, and two views of what is placed where, the daemon's and the reader's. One
 * thread. Faults of this very process, or of another program, go with the plan alone. */
#ifndef BERTH_TESTS_FAULT_PLACE_H
#define BERTH_TESTS_FAULT_PLACE_H

#include <stdatomic.h>

#include "../reader_lib/berth.h"
#include "child.h"
#include "faults/faults.h"

/* ---- the plan ---- */

struct faults *fault_plan_make(const char *path); /* a new file, mapped */
void fault_plan_free(struct faults **);
/* Can the library stand between? AddressSanitizer's own comes after it then; ThreadSanitizer's cannot. */
bool fault_possible(void);
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
/* The k-th (from 0) of the passages to try, of `passes`: all of them, or `most` spread evenly. 0: no more. */
int64_t fault_nth(uint64_t passes, unsigned most, unsigned k);

/* ---- the place ---- */

struct fault_place {
	struct daemon d;
	char plan_path[96];
	struct faults *plan;
	struct wire admin;
	bool admin_open;
	struct berth *b;
	struct berth_reader *r;
	char doing[200]; /* named by every failure */
	unsigned tried, fired, refused, turn;
};

/* Sets up a daemon with faults.so, clusters c1 and c2, partition acme and this process attached. store: as daemon_make. */
void fault_place_make(struct fault_place *, const char *store, const char *const *options);
void fault_place_remove(struct fault_place *);
/* Starts the daemon of the place: READY, or not: then its exit status. */
bool fault_place_start(struct fault_place *, const char *const *options, int *status);
void fault_lives(struct fault_place *);       /* it has not ended, or the test fails */
void fault_place_admin(struct fault_place *); /* a connection, if there is none */

/* Sends a request and waits for its answer; NULL: the connection was closed (and is no more). */
json_t *fault_ask(struct fault_place *, const char *method, const char *params, ...);
json_t *fault_answer(struct fault_place *, const char *method); /* to what was sent by hand */
bool fault_done(const json_t *answer);
const char *fault_code(const json_t *answer); /* of a refusal */

/* Everything about these partitions and the default, epochs too, as the daemon says and as the reader sees it; to be
 * freed. Fails the test when they differ. */
char *fault_view(struct fault_place *);
/* The reader's word of one partition; false: none. */
bool fault_route(struct fault_place *, const char *key, struct berth_route *);
bool fault_index_is(struct fault_place *, const char *key, const char *index);
unsigned fault_descriptors(const struct fault_place *);
/* The daemon's processor time, ms. */
uint64_t fault_cpu_ms(const struct fault_place *);
_Noreturn void fault_fail(struct fault_place *, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
