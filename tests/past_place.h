/* SPDX-License-Identifier: MIT
 * The place of a test of mirrors that went: berthd as its unit starts it, with CAP_BPF alone, so that it may not look among
 * all maps of the kernel, in a mount namespace with a BPF file system of its own; and leases left open in a mirror's maps,
 * as a packet program has them. One thread. */
#ifndef BERTH_TESTS_PAST_PLACE_H
#define BERTH_TESTS_PAST_PLACE_H

#include "../bpf/mirror.h"
#include "bpf_place.h"

/* As cmocka wants them: *state is a bpf_place with the store sqlite, without a daemon yet. */
int past_setup(void **state);
#define PAST_TEST(test) cmocka_unit_test_setup_teardown(test, past_setup, bpf_teardown)
/* Runs a part that begins with past_service(); its argument is the bpf_place. SKIP when it answers PAST_CANNOT. */
void past_run(void **state, int (*part)(void *));
#define PAST_CANNOT 77 /* of a part: what it takes is not to be had here */
/* This process, and what it starts, is the unit's user from here on; false: that cannot be had. */
bool past_service(void);

/* What is pinned in the mirror's directory: is there one of this name; one less. */
bool past_pinned(const struct bpf_place *, const char *name);
void past_unpin(const struct bpf_place *, const char *name);

struct past_maps { /* they outlive their pins while this process has them */
	volatile struct mirror_control *control;
	struct mirror_lease *leases;
};
struct past_maps past_maps(const struct bpf_place *);
void past_unmap(struct past_maps *);
/* As a packet program does that takes this lease for a partition. */
void past_take_lease(struct past_maps *, unsigned number, const char *partition);

#define PAST_BARRIER "--barrier-ms", "30000"
/* A mirror with a lease on acme open in it has gone, and berthd is killed. */
struct past_maps past_make(struct bpf_place *);
/* `complete` of a migration of acme that begins now, without waiting: why not. */
void past_expect_pending(const struct bpf_place *, const char *reason, json_int_t in_flight);

#endif
