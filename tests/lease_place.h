/* SPDX-License-Identifier: MIT
 * The place of the tests of packet programs' leases: a daemon with a mirror, clusters c1 and c2, and lease_test.bpf.c on
 * that mirror, a call of bpf/lease.bpf.h for each run of it. Nothing is attached to a device. One thread. */
#ifndef BERTH_TESTS_LEASE_PLACE_H
#define BERTH_TESTS_LEASE_PLACE_H

#include <pthread.h>

#include "../bpf/lease_test.h"
#include "bpf_place.h"
#include "drain_place.h"

/* As in bpf/berth.bpf.h and bpf/lease.bpf.h. */
enum {
	LEASE_OK,
	LEASE_PASS,
	LEASE_NO_PLACEMENT,
	LEASE_STALE,
	LEASE_CUTOVER,
	LEASE_BUSY,
	LEASE_INVALID,
};
enum { LEASE_DONE, LEASE_NOT_KNOWN };

struct lease_place {
	struct bpf_place bpf;     /* pins; its daemon is drain's until the end */
	struct drain_place drain; /* its berth and reader are NULL */
	struct bpf_object *test;
	struct lease_hold *hold; /* its */
	pthread_t held;          /* a thread whose begin is held, while it holds: the end of the place lets it go */
	bool holds;
	int program;
	uint32_t ns;                    /* of a call, of the last lease_run, in the mean */
	struct mirror_control *control; /* of the mirror that the place began with */
	struct mirror_lease *leases;
};

/* Skips the test where packet programs cannot run. */
struct lease_place *lease_place(void **state, const char *store, const char *barrier_ms);
int lease_place_remove(void **state);
#define LEASE_TEST(test) cmocka_unit_test_teardown(test, lease_place_remove)
/* The daemon, killed or stopped before, again, and the connection to it. bpf false: without a mirror. */
void lease_restart(struct lease_place *, const char *barrier_ms, bool bpf);

/* An object on the place's mirror, loaded; *program its only one. What it has in .bss is mapped, until the end of
 * the process. */
struct bpf_object *lease_object(struct lease_place *, const char *name, int *program, void *bss);
/* How many processors there are; the calling thread runs on the n-th of them alone; the daemon and this thread on the others.
 * False: there are too few. */
unsigned lease_processors(void);
bool lease_pin_thread(unsigned n);
bool lease_keep_off(struct lease_place *, unsigned n);
/* One call of the program, or `repeat` of them. The answer's code. */
unsigned lease_run(struct lease_place *, struct lease_call *, unsigned repeat);
unsigned lease_begin(struct lease_place *, const char *partition, uint64_t epoch, uint32_t slot);
unsigned lease_end(struct lease_place *, uint32_t slot, unsigned outcome);
bool lease_is_free(const struct lease_place *, uint32_t slot);

/* Lets the held begin go, and waits for its thread. */
void lease_let_go(struct lease_place *);

/* `complete` without waiting must be told this, and that a packet program is what it waits for; remaining_ms. */
json_int_t lease_held(struct lease_place *, const char *partition, const char *reason, json_int_t in_flight);
/* So many leases `complete` is told to wait for. */
json_int_t lease_in_flight(struct lease_place *, const char *partition);
/* It must be done, and tell how long writes were held back. */
json_int_t lease_complete(struct lease_place *, const char *partition);
/* It is done within wait_ms; when it was answered (test_now_ms). */
uint64_t lease_await_complete(struct lease_place *, const char *partition, int wait_ms);
uint64_t lease_epoch_of(struct lease_place *, const char *partition);

#endif
