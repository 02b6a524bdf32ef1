/* SPDX-License-Identifier: MIT
 * Filling a staged document: what the parser (document.c) calls, and nobody else. One thread. */
#ifndef BERTH_WRITER_DOCUMENT_STAGE_H
#define BERTH_WRITER_DOCUMENT_STAGE_H

#include "document.h"

/* Bytes that stay where they are until the document goes: blocks, so that growing copies nothing. */
struct arena {
	char **blocks;
	uint32_t n_blocks, room_blocks;
	size_t used; /* of the last block */
};

/* Open addressing from a hash to a number; equality is the caller's. */
struct intern_slot {
	uint32_t hash;
	uint32_t number; /* + 1; 0: free */
};
struct intern {
	struct intern_slot *slots;
	uint32_t mask, n; /* mask + 1 slots, a power of two */
};

struct document_memory {
	struct arena names, records;
	uint32_t *placements; /* number -> offset of the record / SHM_RECORD_ALIGN */
	uint32_t room_partitions, room_placements, room_clusters;
	struct intern by_cluster, by_placement; /* gone once staged */
};

/* Each: 0, or -1 when memory ran out. */
int stage_new(struct document **);
/* The number of a cluster, made (implicit) when it is new; SHM_CLUSTERS_MAX when there are too many. */
int stage_cluster(struct document *, const char *id, size_t len, uint32_t *number);
/* endpoint NULL: none given. */
int stage_endpoint(struct document *, uint32_t cluster, const char *endpoint, size_t len);
int stage_placement(struct document *, const struct shm_detail *, uint32_t *number);
int stage_partition(struct document *, const char *key, size_t len, uint32_t placement);

/* Sorts the partitions by key. True, or false and the key of two that have the same. Gives back what only staging
 * needed. */
bool stage_sort(struct document *, uint32_t *duplicate);

#endif
