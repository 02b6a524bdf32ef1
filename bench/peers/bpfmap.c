/* SPDX-License-Identifier: MIT
 * A hash map of the kernel (BPF_MAP_TYPE_HASH), asked by bpf(): a system call a look-up. Called by peers.c, in its one
 * thread. It needs CAP_BPF, and the map ends with its descriptor: it must not be pinned in a file system.
 *
 * Keys are of a fixed size, so 15 bytes are padded to 16. Its elements are allocated when it is made, as they are
 * without flags: BPF_F_NO_PREALLOC would save memory where a map stays partly empty and makes updates dearer. */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peer.h"

#define KEYS_A_BATCH 4096u

struct bpf_map_peer {
	int fd;
};

struct batch {
	char keys[KEYS_A_BATCH][KEY_ROOM];
	uint64_t values[KEYS_A_BATCH];
};

static void put_keys(int fd, struct batch *batch, uint32_t from, uint32_t n)
{
	__u32 done = n;

	for (uint32_t i = 0; i < n; i++) {
		key_name(batch->keys[i], from + i); /* with the zero that pads it */
		batch->values[i] = value_of_key(from + i);
	}
	if (bpf_map_update_batch(fd, batch->keys, batch->values, &done, NULL) != 0 || done != n)
		fail("BPF map: %u of %u keys from %s on: %s", done, n, batch->keys[0], strerror(errno));
}

static void *bpf_map_open(const struct bench *b, uint32_t n)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_HASH, "berth_bench", KEY_ROOM, sizeof(uint64_t), n, NULL);
	struct bpf_map_peer *m;
	struct batch *batch;

	if (fd < 0 && (errno == EPERM || errno == EACCES || errno == ENOSYS)) {
		report_note(b, "the BPF map is left out: bpf(): %s: %s", strerror(errno),
			    errno == ENOSYS ? "this kernel has none" : "run it as root, or with CAP_BPF");
		return NULL;
	}
	if (fd < 0)
		fail("a BPF map of %u keys: %s", n, strerror(errno));
	m = malloc(sizeof(*m));
	batch = malloc(sizeof(*batch));
	if (!m || !batch)
		fail("no memory for %u keys a batch", KEYS_A_BATCH);
	for (uint32_t at = 0; at < n; at += KEYS_A_BATCH)
		put_keys(fd, batch, at, n - at > KEYS_A_BATCH ? KEYS_A_BATCH : n - at);
	free(batch);
	m->fd = fd;
	return m;
}

static uint64_t bpf_map_run(void *state, const struct sequence *q, size_t n)
{
	const struct bpf_map_peer *m = state;
	char key[KEY_ROOM] = {0};
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t value;

		memcpy(key, q->names[i & (q->n - 1)], KEY_LEN);
		if (bpf_map_lookup_elem(m->fd, key, &value) != 0)
			fail("BPF map: %s: %s", key, strerror(errno));
		sum += value;
	}
	return sum;
}

static void bpf_map_close(void *state)
{
	struct bpf_map_peer *m = state;

	close(m->fd);
	free(m);
}

const struct peer peer_bpf_map = {
	.name = "BPF map",
	.how = "a hash map of the kernel, preallocated, a bpf() system call a look-up",
	.shared = true,
	.most = 1000000,
	.calls = 200000,
	.open = bpf_map_open,
	.run = bpf_map_run,
	.close = bpf_map_close,
};
