/* SPDX-License-Identifier: MIT
 * The place of 76-drain.c: a daemon with partitions, worker processes that hold writes open under leases as they are
 * told, and migrations. A worker is told to run a function; in between it keeps its attachment up. What a worker holds
 * is known by numbers that the test gives. Workers die with the test's process. */
#ifndef BERTH_TESTS_DRAIN_WORKERS_H
#define BERTH_TESTS_DRAIN_WORKERS_H

#include "mp_place.h"

#define WORKERS 5u
#define WORKER_WRITES 2048u

struct worker { /* in its process */
	const char *dir;
	struct berth *b;
	struct berth_reader *r;
	struct berth_write writes[WORKER_WRITES];
};
typedef int worker_order(struct worker *, unsigned, unsigned);

struct drain_workers {
	struct mp_place mp;
	unsigned barrier_ms;
	struct wire waiting; /* for a `complete` that waits */
};

/* A daemon with this barrier and n partitions (readers_key) on clusters c1 .. c4; no worker. */
struct drain_workers *drain_workers_make(const char *store, unsigned barrier_ms, unsigned n);
int drain_workers_teardown(void **state); /* workers, too */
void drain_restart(struct drain_workers *);
void drain_start_daemon(struct drain_workers *); /* one that was killed */

/* ---- workers ---- */
void worker_start(unsigned worker, struct drain_workers *);
/* Runs an order there; its answer, usually a code of berth.h. 20 s at most. */
int worker_tell(unsigned worker, worker_order *, unsigned, unsigned);
pid_t worker_pid(unsigned worker);
void worker_signal(unsigned worker, int signal);
void worker_kill(unsigned worker); /* and waits for its end */
void worker_gone(unsigned worker); /* it ended by itself, or became another program: kills, and waits */

/* Orders. */
int order_attach(struct worker *, unsigned writes, unsigned max_leases); /* with a reader, and registered */
int order_detach(struct worker *, unsigned, unsigned);                   /* closes the reader first */
int order_begin(struct worker *, unsigned partition, unsigned number);
int order_bulk(struct worker *, unsigned partition, unsigned n); /* n writes on it in one call, numbers 0 .. n - 1 */
int order_end(struct worker *, unsigned number, unsigned outcome);
int order_end_elsewhere(struct worker *, unsigned number, unsigned outcome); /* on another thread */
int order_admit(struct worker *, unsigned partition, unsigned);
int order_refuse_membarrier(struct worker *, unsigned, unsigned); /* from here on; before the attach */
int order_exec(struct worker *, unsigned, unsigned);              /* becomes another program, which sleeps */
int order_reopen(struct worker *, unsigned, unsigned);            /* closes its reader, opens another */
/* Told, and the test fails unless the answer is BERTH_OK. */
#define TELL(worker, order, a, b) assert_int_equal(worker_tell(worker, order, a, b), BERTH_OK)

/* ---- migrations ---- */
void drain_begin(struct drain_workers *, unsigned partition); /* draining, to another cluster */
void drain_cut(struct drain_workers *, unsigned partition);   /* both, to cutover */
/* complete, without waiting: the test fails unless it is refused for this reason; its data (pids and so on). */
json_t *drain_held(struct drain_workers *, unsigned partition, const char *reason);
void drain_is_held(struct drain_workers *, unsigned partition, const char *reason);
/* complete, which must succeed as soon as the daemon has looked; its blackout_ms. */
uint64_t drain_complete(struct drain_workers *, unsigned partition);
/* complete with wait_ms: sent, and its answer; the blackout_ms. */
void drain_wait_begin(struct drain_workers *, unsigned partition, unsigned wait_ms);
uint64_t drain_wait_end(struct drain_workers *, unsigned deadline_ms);
/* Both, and the time from since_ms to the answer is a barrier, or little more. */
void drain_takes_a_barrier(struct drain_workers *, unsigned partition, uint64_t since_ms);
void drain_abort(struct drain_workers *, unsigned partition);

#endif
