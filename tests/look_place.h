/* SPDX-License-Identifier: MIT
 * A mirror that a test fills itself, byte by byte, and bpf/look.bpf.c and walk.bpf.c on it, run through
 * BPF_PROG_TEST_RUN: no daemon, nothing pinned, nothing attached. The oracles are shm/hash.h and shm/index.h. What does
 * not work ends the test. */
#ifndef BERTH_TESTS_LOOK_PLACE_H
#define BERTH_TESTS_LOOK_PLACE_H

#include <bpf/libbpf.h>

#include "../bpf/layout.h"
#include "../bpf/look.h"
#include "../bpf/walk.h"
#include "../shm/index.h"
#include "child.h"

struct look_place {
	struct bpf_object *object;
	int inner_fd;
	size_t inner_bytes;
	struct mirror_control *control;
	struct mirror_cluster *clusters; /* look.bpf.c alone */
	struct mirror_head *head;
	struct mirror_entry *entries; /* behind the head */
	uint64_t epoch;               /* of the last put */
};

/* name: "look" or "walk". A table of so many homes, SHM_PROBE_MAX entries behind them; state is on, the secret random.
 * n_keys: of walk_keys, a power of two. Skips the test where packet programs cannot run. */
void look_open(struct look_place *, const char *name, uint32_t capacity, uint32_t n_keys);
void look_close(struct look_place *);
/* Maps a map of the object; writable memory, unmapped by nobody but the end of the process. */
void *look_map(const struct look_place *, const char *name, size_t bytes);
/* Runs a program of the object `repeat` times on a frame; what it returns. The frame is what the program made of it. */
uint32_t look_run(const struct bpf_object *, const char *program, struct look_frame *, uint32_t repeat);

uint64_t look_hash(const struct look_place *, const void *key, size_t len); /* by shm/hash.h */
/* Puts a key where berthd would: in the first free entry from its home on. The entry's slot. */
uint32_t look_put(struct look_place *, const void *key, size_t len, uint64_t word);
/* An entry of a key in this slot, whatever is there. */
void look_put_at(struct look_place *, uint32_t slot, const void *key, size_t len, uint64_t word);
uint64_t look_settled(struct look_place *, unsigned cluster); /* a word with the next epoch */

/* Asks the program `look`; it must answer. */
struct look_frame look_ask(const struct bpf_object *, const void *key, size_t len);
struct look_frame look_admit(const struct bpf_object *, const void *key, size_t len, uint64_t epoch);

#endif
