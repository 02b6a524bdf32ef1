/* SPDX-License-Identifier: MIT
 * The place of the tests of a waiting `complete`: a daemon with clusters c1 and c2, a connection to its admin socket, and
 * this process attached to it as a proxy that takes leases. One thread. */
#ifndef BERTH_TESTS_DRAIN_PLACE_H
#define BERTH_TESTS_DRAIN_PLACE_H

#include "../reader_lib/berth.h"
#include "daemon.h"

struct drain_place {
	struct daemon d;
	struct wire admin;
	struct berth *b;
	struct berth_reader *r;
};

/* *state: a store's name, and the barrier in ms when it is not the usual one: "memory", "sqlite 300". */
int drain_setup(void **state);
int drain_teardown(void **state);
#define DRAIN_TEST(test, store_name) \
	{ \
#test " (" store_name ")", test, drain_setup, drain_teardown, (void *)(uintptr_t)(store_name) \
	}
#define DRAIN_ON_BOTH(test) DRAIN_TEST(test, "memory"), DRAIN_TEST(test, "sqlite")
/* The daemon, the clusters, the connection and the attachment; barrier_ms NULL: the daemon's own. */
void drain_start(struct drain_place *, const char *barrier_ms);

void drain_put(struct drain_place *, const char *partition);      /* on c1 */
void drain_cut_over(struct drain_place *, const char *partition); /* to c2: begin and cutover */
void drain_begin_write(struct drain_place *, const char *partition, struct berth_write *);
void drain_end_write(struct drain_place *, struct berth_write *, enum berth_outcome);
/* Put, a write begun, cut over. */
void drain_prepare(struct drain_place *, const char *partition, struct berth_write *);

void drain_send_complete(struct wire *, const char *partition, int wait_ms); /* its answer: wire_answer */
void drain_open_complete(struct drain_place *, struct wire *, const char *partition, int wait_ms); /* on a new one */
/* Takes an answer that has to be a completion. */
void drain_expect_completed(json_t *answer);
/* Takes an answer that has to be barrier-pending for this reason; its data, to be let go. */
json_t *drain_pending(json_t *answer, const char *reason);
void drain_expect_at(struct drain_place *, const char *partition, const char *cluster, const char *phase);

json_int_t drain_status(struct drain_place *, const char *name); /* a number of the daemon's status */
uint64_t drain_now_us(void);
uint64_t drain_cpu_ms(const struct daemon *);   /* processor time that it has used */
uint64_t drain_switches(const struct daemon *); /* how often it has waited */

#endif
