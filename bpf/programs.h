/* SPDX-License-Identifier: MIT
 * Packet programs as user space has them: loaded on an instance's mirror, attached, detached, looked at, counted. Called
 * by the tool, and by tests and benchmarks; root, or the capabilities that README.md names. No call waits for another
 * process. Works without a living berthd: the mirror's pins are enough.
 *
 * What is pinned in /sys/fs/bpf/berth/<instance>/programs/ keeps a program alive, nothing else does:
 *
 *   PROGRAM                        steer, connect4, connect6, and what else an object has
 *   OBJECT-config                  the configuration it was loaded with (its .rodata, frozen)
 *   PROGRAM-MODE-IFINDEX-NETNS     link of an XDP program; MODE native or generic, NETNS the inode of the namespace
 *   PROGRAM-cgroup-ID              link of a cgroup program; ID as in the kernel's cgroup file handles */
#ifndef BERTH_BPF_PROGRAMS_H
#define BERTH_BPF_PROGRAMS_H

#include <limits.h>
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "layout.h"

struct bpf_object;

struct programs_fault {
	const char *code; /* a word for scripts, as `no-mirror` */
	char text[2048];  /* what was wrong, the value, what to do */
};

/* instance: its name, or the path of its directory, everywhere here. Calls return 0, or -1 with *fault. */

/* Before bpf_object__load: each map of the object whose name is berth_NAME becomes the one that the instance has pinned as
 * NAME. 0, or -1 with a text. */
int programs_use_mirror(struct bpf_object *, const char *instance, char *text, size_t size);

/* What the mirror says of itself. */
int programs_mirror(const char *instance, struct mirror_control *, struct programs_fault *);

/* Loads and pins the object. What was loaded before is replaced, and where it is attached, without a packet or connection
 * in between that meets neither: all of it, or nothing when one replacement fails. */
int programs_load_steer(const char *instance, const struct steer_config *, struct programs_fault *);
int programs_load_connect(const char *instance, const struct connect_config *, struct programs_fault *);

/* Attached already: done; there the mode must be the same. */
int programs_attach_steer(const char *instance, const char *device, bool generic, struct programs_fault *);
int programs_attach_connect(const char *instance, const char *cgroup, struct programs_fault *);

/* Unpins the links of the object on this device or cgroup. Both NULL: all of its links, and the programs themselves.
 * object NULL: of all objects, and nothing of berth's runs any more. A device or cgroup that is gone is no obstacle.
 * *n_links: how many. Nothing there: done, with 0. */
int programs_detach(const char *instance, const char *object, const char *device, const char *cgroup, unsigned *n_links,
		    struct programs_fault *);

enum programs_kind { PROGRAMS_PROGRAM, PROGRAMS_NATIVE, PROGRAMS_GENERIC, PROGRAMS_CGROUP };
struct programs_pin { /* a program, or a link */
	enum programs_kind kind;
	char object[16], program[32];
	uint32_t program_id;
	bool stale;   /* program: on maps that are not the mirror's any more: it passes everything up */
	bool gone;    /* link: its device or cgroup is gone */
	bool foreign; /* link: its device is in another network namespace */
	uint32_t ifindex;
	char device[IF_NAMESIZE]; /* "": not known here */
	uint64_t cgroup_id;
	char cgroup[PATH_MAX]; /* "": not known here */
	union {
		struct steer_config steer;
		struct connect_config connect;
	} config; /* program: of its object */
};
/* What is pinned: programs first. */
int programs_each(const char *instance, void (*each)(const struct programs_pin *, void *arg), void *arg,
		  struct programs_fault *);

struct programs_stats { /* sums over processors, of all programs on this mirror since it was made */
	struct mirror_counts counts[MIRROR_STATS]; /* [cluster * MIRROR_PHASES + phase] */
	uint64_t events[MIRROR_EVENTS];
};
int programs_stats(const char *instance, struct programs_stats *, struct programs_fault *);

struct programs_leases { /* writes under way, in the mirror and in those that went while some were */
	uint64_t n_open, n_unknown;
	uint64_t overflow_ms; /* CLOCK_MONOTONIC of the last unknown end that has no slot; 0: none */
	bool gated;           /* a program admits writes without leases */
};
/* uuid: of the instance's root. 0; -1: there is nothing of it, or it may not be seen. */
int programs_leases(const char *instance, const uint8_t uuid[16], struct programs_leases *);

#endif
