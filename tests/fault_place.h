/* SPDX-License-Identifier: MIT
 * The real berthd with faults.so (faults/interpose.c) between it and libc: what fails is armed in the live process. With
 * a reader of this process attached to it, and two views of what is placed where, the daemon's and the reader's. One
 * thread. Faults of this very process, or of another program, go with fault_plan.h alone. */
#ifndef BERTH_TESTS_FAULT_PLACE_H
#define BERTH_TESTS_FAULT_PLACE_H

#include "../reader_lib/berth.h"
#include "child.h"
#include "fault_plan.h"

/* ---- the place ---- */

struct fault_place {
	struct daemon d;
	char plan_path[96];
	struct faults *plan;
	struct wire admin;
	bool admin_open;
	struct berth *b;
	struct berth_reader *r, *holder; /* the second in a section for as long as an operation wants it; or NULL */
	char doing[200];                 /* named by every failure */
	unsigned tried, fired, refused, turn, restarts;
};

/* As cmocka wants them: a place with the store that the prestate names; *state is it, NULL where no library can stand
 * between. */
int fault_setup(void **state);
int fault_teardown(void **state);
#define FAULT_TEST(test, store_name) \
	{ \
#test " (" store_name ")", test, fault_setup, fault_teardown, (void *)(uintptr_t)(store_name) \
	}
/* The first line of a test: its place, or it ends with SKIP. */
struct fault_place *fault_needed(void **state);

/* Sets up a daemon with faults.so, clusters c1 and c2, partition acme and this process attached. store: as daemon_make. */
void fault_place_make(struct fault_place *, const char *store, const char *const *options);
void fault_place_remove(struct fault_place *);
/* Starts the daemon of the place: READY, or not: then its exit status. */
bool fault_place_start(struct fault_place *, const char *const *options, int *status);
/* Starts it without options after its end; the test fails when it does not serve. */
void fault_place_again(struct fault_place *);
void fault_lives(struct fault_place *);       /* it has not ended, or the test fails */
void fault_place_admin(struct fault_place *); /* a connection, if there is none */
void fault_place_leave(struct fault_place *); /* closes it, if there is one */

/* Sends a request and waits for its answer; NULL: the connection was closed (and is no more). */
json_t *fault_ask(struct fault_place *, const char *method, const char *params, ...);
json_t *fault_answer(struct fault_place *, const char *method); /* to what was sent by hand */
bool fault_done(const json_t *answer);
const char *fault_code(const json_t *answer);                                /* of a refusal */
void fault_must(struct fault_place *, json_t *answer);                       /* it is done; takes it */
json_t *fault_set(struct fault_place *, const char *key, const char *index); /* by force, in c1 */
json_t *fault_set_default(struct fault_place *, const char *index);          /* likewise */
void fault_send_document(struct fault_place *, const char *index);           /* doc-a and doc-b in c1; to be answered */

/* Everything about these partitions and the default, epochs too, as the daemon says and as the reader sees it; to be
 * freed. Fails the test when they differ. */
char *fault_view(struct fault_place *);
#define FAULT_DEFAULT "nobody-s" /* the partition through which the default is seen */
/* The rows of two views that differ, to be freed; NULL: none. Left out are those whose partition's name begins with
 * `but`; FAULT_DEFAULT: of each that followed the default. */
char *fault_view_changes(const char *before, const char *after, const char *but);
/* The reader's word of one partition; false: none. */
bool fault_route(struct fault_place *, const char *key, struct berth_route *);
bool fault_index_is(struct fault_place *, const char *key, const char *index);
unsigned fault_descriptors(const struct fault_place *);
/* The daemon's processor time, ms. */
uint64_t fault_cpu_ms(const struct fault_place *);
_Noreturn void fault_fail(struct fault_place *, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
