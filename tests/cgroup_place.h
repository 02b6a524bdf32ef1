/* SPDX-License-Identifier: MIT
 * A network, a BPF file system and a cgroup of a test's own: namespaces for this process and those it starts from then on,
 * so that devices, pins and what is attached to them go with it however it ends; and a directory of the unified cgroup
 * hierarchy, mounted in a scratch directory when it is nowhere. Root. */
#ifndef BERTH_TESTS_CGROUP_PLACE_H
#define BERTH_TESTS_CGROUP_PLACE_H

#include <stdbool.h>

/* This process is alone with a loopback device that is up, and an empty /sys/fs/bpf. NULL, or why not. */
const char *own_network(void);
/* Runs `ip` with these arguments, strings; the test fails when it does. */
#define ip_run(...) ip_run_args((const char *const[]){"/sbin/ip", __VA_ARGS__, NULL})
void ip_run_args(const char *const argv[]);

struct cgroup {
	char mount[64]; /* "": was mounted already */
	char path[192]; /* "": there is none */
};
/* NULL, or why there is none. */
const char *cgroup_make(struct cgroup *);
bool cgroup_join(const struct cgroup *); /* this process; for a part that ends in there */
/* Its processes have ended. */
void cgroup_remove(struct cgroup *);

#endif
