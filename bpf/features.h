/* SPDX-License-Identifier: MIT
 * What of the kernel's BPF the mirror and each packet program are made of, which Linux had it first, and whether the one
 * that runs has it: found by trying, for distributions carry features back and configurations leave them out. Nothing that
 * is made for a try outlives it, and nothing is attached to a device, a cgroup or a socket. Any thread, but one at a time.
 *
 * "Since" is by docs.ebpf.io's table of features, and by the commits where it has none. */
#ifndef BERTH_BPF_FEATURES_H
#define BERTH_BPF_FEATURES_H

#include <stddef.h>

enum feature_user { FEATURE_MIRROR = 1, FEATURE_STEER = 2, FEATURE_CONNECT = 4, FEATURE_SPLICE = 8 };
#define FEATURE_USERS 4
#define FEATURE_ALL 15u

enum feature_here {
	FEATURE_MISSING,
	FEATURE_THERE,
	FEATURE_NOT_KNOWN, /* this process may not try, has no descriptor or memory for it, or what the try needs is missing */
};

struct feature {
	const char *name;
	unsigned users; /* enum feature_user, ORed */
	unsigned major, minor;
	const char *config; /* what leaves it out of a kernel that is new enough; NULL: nothing that is not usual */
};

/* "mirror", "steer", ... of the n-th user, from 0. */
const char *feature_user_name(unsigned n);
/* Tries what any of these users needs. */
void features_each(unsigned users, void (*each)(const struct feature *, enum feature_here, void *arg), void *arg);
/* 0: nothing that this user needs is known to be missing; -1 with a text: what is, since when there is such a thing, which
 * kernel this is, and what to do. */
int features_check(enum feature_user, char *text, size_t size);

#endif
