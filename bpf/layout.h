/* SPDX-License-Identifier: MIT
 * Every byte that berthd and packet programs share: the maps of an instance's mirror. Compiled for both, so it needs
 * nothing but the kernel's integer types. The maps, pinned in /sys/fs/bpf/berth/<instance>/:
 *
 *   control   array of 1, mmapable           struct mirror_control; berthd stores into it, programs load
 *   table     array of maps, of 1            the present generation's entries: swapped whole
 *     (inner) array of 1 + n_entries, mmapable, MIRROR_ENTRY each: struct mirror_head, then struct mirror_entry
 *   clusters  array of MIRROR_CLUSTERS, mmapable   struct mirror_cluster by number
 *   stats     per-CPU array of MIRROR_STATS        struct mirror_counts by cluster and phase: programs add
 *   leases    array of MIRROR_LEASES, mmapable     struct mirror_lease: writes that programs have under way
 *   events    per-CPU array of MIRROR_EVENTS       u64 by enum mirror_event: what programs passed over, and why
 *
 * An entry has the same slot as its partition has in table.<generation> (shm/layout.h), the same hash, and the word of
 * shm/word.h; its key is padded with zeros to whole words, so that packet programs compare words. */
#ifndef BERTH_BPF_LAYOUT_H
#define BERTH_BPF_LAYOUT_H

#include <linux/types.h>

#define MIRROR_ABI 2u
#define MIRROR_MAGIC 0x31726f7272696d62ull /* "bmirror1" */
#define MIRROR_ENTRY 64u
#define MIRROR_KEY_MAX 39u /* SHM_KEY_INLINE: longer keys are in the mirror as slots that say pass */
#define MIRROR_KEY_WORDS 5u
#define MIRROR_PROBE_MAX 64u /* entries that a program looks at; behind it, it passes to user space */
#define MIRROR_INSTANCE_MAX 2048u
#define MIRROR_CLUSTERS 65536u
#define MIRROR_STATS_CLUSTERS 1024u /* clusters with higher numbers are counted as number 0 */
#define MIRROR_PHASES 4u
#define MIRROR_STATS (MIRROR_STATS_CLUSTERS * MIRROR_PHASES)

/* The word of an entry is that of shm/word.h. A fourth phase says: no answer from here, ask in user space. A slot says so
 * while its partition is being changed, while it is reserved, and always when its key is too long. */
#define MIRROR_PHASE_PASS 3u
#define MIRROR_WORD_PASS ((__u64)(1u << 2 | MIRROR_PHASE_PASS))

struct mirror_entry {
	__u64 word; /* 0: never used, a probe ends. kind 0 and the rest not: a tombstone, a probe goes on */
	__u64 hash;
	__u64 key[MIRROR_KEY_WORDS]; /* little-endian words of the key's bytes, then zeros */
	__u8 len;                    /* 1..MIRROR_KEY_MAX; 0xff: a longer key, and no bytes of it */
	__u8 pad[7];
};

struct mirror_head {         /* element 0 of an inner map */
	__u64 dflt;          /* word of the default; 0: none */
	__u32 generation;    /* of its table; one ahead of control.state's while a growth hands over */
	__u32 capacity;      /* homes: index_home of shm/index.h */
	__u32 n_entries;     /* behind this element */
	__u32 longest_probe; /* stored before an entry that needs it */
	__u8 pad[40];
};

struct mirror_control {
	/* identity: written before magic, never after */
	__u64 magic;
	__u32 abi;
	__u32 pad0;
	__u8 uuid[16]; /* of root */
	__u8 pad1[32];
	/* line at 64: loaded by every look-up */
	__u64 state; /* 0: pass everything to user space; else term:32 | generation:32 of the table that is mirrored */
	__u64 secret[4];
	__u8 pad2[24];
	/* line at 128: stored by programs */
	__u64 gated;       /* 1: a program admits writes without leases; sticky. Stored before the word is loaded */
	__u64 lease_high;  /* slots of `leases` above it were never used: stored before one is */
	__u64 overflow_ms; /* as shm_leases.overflow_ms: an unknown end whose slot was wanted; never lowered */
	__u8 pad3[40];
	/* line at 192: stored by berthd, for people */
	__u64 writer_pid;
	__u64 writer_start; /* field 22 of /proc/PID/stat */
	__u64 n_changes;    /* words stored into the mirror */
	__u64 n_swaps;
	__u64 n_compared;    /* entries, by all compares */
	__u64 n_differences; /* found by them */
	__u64 compared_ms;   /* CLOCK_BOOTTIME of the last compare; 0: none */
	__u64 lag_ns;        /* longest time that an entry said pass during one change */
	/* at 256, by berthd: whose pins these are. "": not known */
	char path[MIRROR_INSTANCE_MAX]; /* of the instance's directory, absolute, with a NUL */
	__u8 reserved[4096 - 256 - MIRROR_INSTANCE_MAX];
};

enum mirror_family { MIRROR_NO_ADDRESS = 0, MIRROR_IPV4 = 4, MIRROR_IPV6 = 6 };
struct mirror_cluster {
	__u32 sequence;   /* odd: being changed. Loaded before and after the rest */
	__u16 port;       /* network byte order */
	__u8 family;      /* enum mirror_family; no address: the endpoint is empty, or names a host */
	__u8 tls;         /* 1: https */
	__u8 address[16]; /* network byte order; IPv4 in the first four */
	__u8 pad[8];
};

/* As struct shm_lease (shm/lease.h), with fetching atomics in place of fences and membarrier. */
#define MIRROR_LEASES 65536u
struct mirror_lease {
	__u64 hash;  /* of the partition, 0 stored as 1; 0: free */
	__u64 state; /* kind:2 | sequence:14 | ms of CLOCK_MONOTONIC:48 */
};

struct mirror_counts {
	__u64 packets, bytes; /* that carried a request of a partition on this cluster in this phase */
	__u64 requests, writes;
	__u64 held; /* dropped by a gate, to be sent again */
	__u64 pad[3];
};

/* X(name, text): why a program had no answer from the mirror. */
#define MIRROR_EVENTS_TABLE(X) \
	X(PACKETS, "packets seen") \
	X(NOT_HTTP, "no request begins in it") \
	X(CUT, "the request's head is longer than the packet, or than what is inspected") \
	X(NO_TENANT, "no tenant named") \
	X(KEY_LONG, "a tenant's name longer than 39 bytes") \
	X(UNKNOWN, "no placement, no default") \
	X(PASS, "being changed, or the mirror is off") \
	X(PROBE, "its entry is further away than a program looks") \
	X(NO_META, "the driver has no room for metadata") \
	X(CONNECTED, "connections taken to a cluster's endpoint") \
	X(NO_ADDRESS, "connections refused: the cluster has no address") \
	X(SPLICED, "requests forwarded in the kernel") \
	X(FALLBACK, "requests left to user space")
enum mirror_event {
#define MIRROR_EVENT(name, text) MIRROR_EVENT_##name,
	MIRROR_EVENTS_TABLE(MIRROR_EVENT)
#undef MIRROR_EVENT
		MIRROR_EVENTS
};

_Static_assert(sizeof(struct mirror_entry) == MIRROR_ENTRY, "an entry is one cache line");
_Static_assert(sizeof(struct mirror_head) == MIRROR_ENTRY, "the head is an element");
_Static_assert(sizeof(struct mirror_control) == 4096, "control is one page");
_Static_assert(__builtin_offsetof(struct mirror_control, state) == 64, "the hot line");
_Static_assert(__builtin_offsetof(struct mirror_control, gated) == 128, "the programs' line");
_Static_assert(__builtin_offsetof(struct mirror_control, writer_pid) == 192, "the writer's line");
_Static_assert(__builtin_offsetof(struct mirror_control, path) == 256, "the instance's directory");
_Static_assert(sizeof(struct mirror_cluster) == 32, "a cluster's address");
_Static_assert(sizeof(struct mirror_counts) == 64, "counts of one cluster and phase");

#endif
