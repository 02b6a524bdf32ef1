/* SPDX-License-Identifier: MIT
 * Records: placements (struct shm_detail), cluster records, records of long keys. Building one in private memory,
 * checking one that came from shared memory, walking its inject list. Used by readers, writer and tool.
 *
 * A struct shm_detail is also the one form of a placement inside the writer: two placements are equal when their
 * records are equal from `size` on (detail_equal). */
#ifndef BERTH_SHM_DETAILS_H
#define BERTH_SHM_DETAILS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

/* Room for the longest record, on the stack of whoever builds one. */
union detail_buffer {
	struct shm_detail detail;
	char bytes[SHM_RECORD_MAX];
};

enum inject_kind { INJECT_CONSTANT = 0, INJECT_PARTITION = 1 };

struct detail_inject {             /* points into the record */
	const char *field, *value; /* NUL-terminated */
	size_t field_len, value_len;
	enum inject_kind kind;
};

/* Start a record without inject. index may be NULL with index_len 0. Does not judge the values: only that they fit;
 * BERTH_E_INVAL when they do not. */
int detail_start(union detail_buffer *, unsigned kind, unsigned cluster, const char *index, size_t index_len);
/* Append one inject pair. BERTH_E_FULL when the record or the list has no room (SHM_RECORD_MAX, SHM_INJECT_MAX). */
int detail_add_inject(union detail_buffer *, const char *field, size_t field_len, enum inject_kind, const char *value,
		      size_t value_len);
/* Sets `check`. Call once, after the last detail_add_inject. */
void detail_finish(union detail_buffer *);

const char *detail_index(const struct shm_detail *); /* NUL-terminated, index_len long, "" when none */
bool detail_equal(const struct shm_detail *, const struct shm_detail *);
/* 64-bit fingerprint of a placement, never 0: what the writer remembers of the last applied document. */
uint64_t detail_fingerprint(const struct shm_detail *);

/* The i-th inject pair of a record that passed detail_bounds. False past the end. */
bool detail_inject(const struct shm_detail *, unsigned i, struct detail_inject *);

/* True when a record of at most room bytes starts here and everything in it lies inside itself: safe to read with the
 * functions above. Does not compute the checksum. */
bool detail_bounds(const struct shm_detail *, size_t room);
bool cluster_bounds(const struct shm_cluster *, size_t room);
bool key_record_bounds(const struct shm_key_record *, size_t room);
/* Checksums, for `berth verify` and for building. */
uint32_t detail_checksum(const struct shm_detail *);
uint32_t cluster_checksum(const struct shm_cluster *);
uint32_t key_record_checksum(const struct shm_key_record *);

static inline const char *cluster_id(const struct shm_cluster *c)
{
	return c->data;
}
static inline const char *cluster_endpoint(const struct shm_cluster *c)
{
	return c->data + c->id_len + 1;
}
static inline size_t cluster_size(size_t id_len, size_t endpoint_len)
{
	return sizeof(struct shm_cluster) + id_len + 1 + endpoint_len + 1;
}
static inline size_t key_record_size(size_t len)
{
	return sizeof(struct shm_key_record) + len + 1;
}

#endif
