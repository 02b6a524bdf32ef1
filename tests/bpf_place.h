/* SPDX-License-Identifier: MIT
 * The place of a test of packet programs: the real berthd with --bpf, an instance whose name is nobody else's, so that its
 * pins are its own, and the mirror as programs have it: pinned maps, mapped read-only. Root, or nothing works: then a test
 * is skipped with the reason. Pins and daemon go with the test. One thread. */
#ifndef BERTH_TESTS_BPF_PLACE_H
#define BERTH_TESTS_BPF_PLACE_H

#include "../bpf/layout.h"
#include "daemon.h"

struct bpf_place {
	struct daemon d;
	char pins[128]; /* /sys/fs/bpf/berth/<instance> */
	bool able;      /* BPF works here */
};

/* Mounts /sys/fs/bpf when it is missing, and makes a map. NULL: BPF works here; else why not. */
const char *bpf_unable(void);
/* The first line of a test: ends it with SKIP when BPF does not work here. */
void bpf_needed(const struct bpf_place *);

/* As cmocka wants them: *state is the place; a daemon runs with --bpf and the store that the prestate names. */
int bpf_setup(void **state);
int bpf_teardown(void **state);
#define BPF_TEST(test, store_name) \
	{ \
#test " (" store_name ")", test, bpf_setup, bpf_teardown, (void *)(uintptr_t)(store_name) \
	}
/* The same in parts: without a daemon yet (able says whether one can be started), and the end of all. */
void bpf_place_make(struct bpf_place *, const char *store);
void bpf_place_remove(struct bpf_place *);

/* The descriptor of the map that is pinned as `name`; the test's to close. The test fails when there is none. */
int bpf_pinned(const struct bpf_place *, const char *name);
/* Of the map that a descriptor is of. */
uint32_t bpf_map_id_of(int fd);

struct bpf_view { /* what programs see */
	const struct mirror_control *control;
	const struct mirror_cluster *clusters;
	const struct mirror_head *head;     /* of the inner map */
	const struct mirror_entry *entries; /* head->n_entries */
	uint32_t inner_id;
	size_t mapped;
};
void bpf_view_open(const struct bpf_place *, struct bpf_view *);
/* The inner map that is in use now; true when it is another one than before. */
bool bpf_view_again(const struct bpf_place *, struct bpf_view *);
void bpf_view_close(struct bpf_view *);
/* The word of a key, found as a program finds it (0: no entry); and the whole entry, *e may be NULL. Keys of up to
 * MIRROR_KEY_MAX bytes. */
uint64_t bpf_view_find(const struct bpf_view *, const char *key, size_t len, struct mirror_entry *e);

/* On an admin connection: cluster ID with an endpoint; a partition settled there (dedicated-cluster). */
void bpf_cluster(struct wire *, const char *id, const char *endpoint);
void bpf_put(struct wire *, const char *partition, const char *cluster);
/* Cluster c1 at http://10.0.0.1:9200, and acme settled there. */
void bpf_fill(const struct bpf_place *);
/* What the daemon's status says of the mirror; the test's to let go. */
json_t *bpf_status(const struct daemon *);
/* It is on, or it is off with a reason. */
void bpf_expect_on(const struct daemon *, bool on);
/* The daemon's own compare of table and mirror finds no difference. */
void bpf_expect_equal(struct bpf_place *);

#endif
