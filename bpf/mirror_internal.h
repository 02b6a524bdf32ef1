/* SPDX-License-Identifier: MIT
 * What the mirror's files share: mirror.c (maps, pins, state), mirror_table.c (entries), mirror_thread.c (what waits),
 * mirror_cluster.c (addresses), mirror_past.c (leases of mirrors that went). */
#ifndef BERTH_BPF_MIRROR_INTERNAL_H
#define BERTH_BPF_MIRROR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "mirror.h"

/* Memory that the kernel's programs load from, as C11 sees it. */
#define SHARED64(p) ((_Atomic uint64_t *)(uintptr_t)(p))
#define SHARED32(p) ((_Atomic uint32_t *)(uintptr_t)(p))

static inline uint64_t load64(const __u64 *p)
{
	return atomic_load_explicit(SHARED64(p), memory_order_relaxed);
}
static inline void store64(__u64 *p, uint64_t n)
{
	atomic_store_explicit(SHARED64(p), n, memory_order_relaxed);
}

enum mirror_map { MAP_TABLE, MAP_CLUSTERS, MAP_STATS, MAP_LEASES, MAP_EVENTS, MAP_CONTROL, N_MAPS };

enum job { JOB_NONE, JOB_WAITS, JOB_DONE };

struct mirror_thread { /* fields below the lock: under it */
	pthread_t thread;
	bool runs;
	int grace_fd, grace_inner_fd; /* a map of maps of its own, whose updates wait for a grace period */
	_Atomic uint64_t aged;
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	bool stop;
	uint64_t age; /* of the tombstones that are waited for; 0: none are */
	enum job make, swap;
	int make_errno, swap_errno;
	uint32_t generation, capacity, n_entries;
	struct mirror_table *made, *swapping;
	struct mirror_table *dropped; /* a list */
};

struct mirror {
	char path[320];
	int fds[N_MAPS];
	struct mirror_control *control;
	struct mirror_cluster *clusters;
	const struct mirror_lease *leases;
	_Atomic bool off;
	struct mirror_thread t;
};

struct mirror_table {
	struct mirror_table *next; /* of those that are dropped */
	struct mirror *mirror;
	int fd;
	size_t mapped;
	uint32_t generation, capacity, n_entries; /* as head says */
	struct mirror_head *head;                 /* element 0, and what follows it: */
	struct mirror_entry *entries;
	uint64_t held_ns; /* since when an entry says pass; 0: none does */
};

/* ---- mirror_pins.c ---- */
#define BPFFS "/sys/fs/bpf"
#define PINS BPFFS "/berth"
#define PIN_PATH 352

int mirror_say(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4))); /* -1 */
const char *mirror_remedy(int e); /* what to do about an error of the kernel */
const char *pins_name(enum mirror_map);
void pins_path(const struct mirror *, enum mirror_map, char path[PIN_PATH]);
int pins_create(enum mirror_map);       /* a map of this kind; descriptor, or -1 with errno */
bool pins_fit(int fd, enum mirror_map); /* is it one? */
uint32_t pins_id(int fd);               /* of a map; 0 with errno */
/* Maps control, clusters and leases: 0, or -1 with errno. let_go: unmaps them and closes all maps. */
int pins_map(struct mirror *);
void pins_let_go(struct mirror *);
int pins_unlink(const struct mirror *); /* 0, or -1 with errno */
enum whose { NOBODYS, OURS, THEIRS };   /* this root's; another instance's */
/* Looks at the pins. 1: they are this root's, and m has them; 0: there are none (any more), or they are THEIRS, with a text;
 * -1 with errno and a text. secret: the mirror to take over has this one; NULL: none is taken over. */
int pins_look(struct mirror *, const uint8_t uuid[16], const uint64_t *secret, const struct mirror_left *, enum whose *,
	      char *text, size_t size);

/* ---- mirror_past.c ---- */
/* Pins what a mirror that goes has open leases in, if it has. 1: so it is; 0: none is open, or there are MIRROR_PASTS
 * already; -1 with errno. */
int mirror_past_keep(const struct mirror *);

/* ---- mirror_table.c ---- */
void mirror_head_store(struct mirror_table *); /* what does not change while it lives */
bool mirror_head_true(const struct mirror_table *);
int mirror_inner_create(uint32_t n_elements); /* a map as the outer one takes them; descriptor, or -1 with errno */

/* ---- mirror_thread.c ---- */
int mirror_thread_start(struct mirror *); /* 0, or -1 with errno */
void mirror_thread_stop(struct mirror *);
/* The map of maps for mirror_grace: 0, or -1 with errno. */
int mirror_grace_open(struct mirror *);
void mirror_grace_close(struct mirror *);
/* Waits until every program that ran when it was called has ended. 0, or -1 with errno. */
int mirror_grace(struct mirror *);

#endif
