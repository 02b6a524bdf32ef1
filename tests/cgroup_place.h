/* SPDX-License-Identifier: MIT
 * A network, a BPF file system and a cgroup of a test's own: namespaces for this process and those it starts from then on,
 * so that devices, pins and what is attached to them go with it however it ends; and a directory of the unified cgroup
 * hierarchy, mounted in a scratch directory when it is nowhere. Root. */
#ifndef BERTH_TESTS_CGROUP_PLACE_H
#define BERTH_TESTS_CGROUP_PLACE_H

#include "bpf_place.h"

/* Runs `ip` with these arguments, strings; the test fails when it does. */
#define ip_run(...) ip_run_args((const char *const[]){"/sbin/ip", __VA_ARGS__, NULL})
void ip_run_args(const char *const argv[]);

struct cgroup {
	char mount[64]; /* "": was mounted already */
	char path[192]; /* "": there is none */
};
bool cgroup_join(const struct cgroup *); /* this process; for a part that ends in there */
/* Its processes have ended. */
void cgroup_remove(struct cgroup *);

/* Network and cgroup for a group of tests: its setup calls own_place_make, and own_place_remove is its teardown. */
extern struct cgroup own_cgroup;
bool own_place_make(void); /* false: one of them cannot be had */
int own_place_remove(void **state);
/* The first line of a test: ends it with SKIP when BPF does not work here, or one of the two cannot be had. */
void own_place_needed(const struct bpf_place *);

#endif
