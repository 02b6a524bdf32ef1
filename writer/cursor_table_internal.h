/* SPDX-License-Identifier: MIT
 * What the files of the table of pins share: cursor_table.c (changes), cursor_open.c (a start, mending), cursor_file.c
 * (files). Nobody else includes it, but tests that spoil a table on purpose. */
#ifndef BERTH_WRITER_CURSOR_TABLE_INTERNAL_H
#define BERTH_WRITER_CURSOR_TABLE_INTERNAL_H

#include "cursor_owners.h"
#include "cursor_table.h"
#include "cursor_wheel.h"

/* Numbers of changes are below it: what says otherwise is damage. */
#define CURSOR_CHANGES_MAX (1ull << 63)

struct cursor_table {
	struct cursor_map map; /* writable */
	struct shm_cursors *header;
	_Atomic uint64_t *buckets;
	struct shm_cursor *slots;
	uint64_t changes; /* = header's */
	/* private, by 1 + slot */
	struct cursor_note *notes;
	uint32_t oldest, youngest, free;
	uint32_t share; /* 0: none */
	struct cursor_wheel wheel;
	struct cursor_owners owners;
	_Atomic uint32_t *clusters; /* pins of each */
};

static inline uint64_t cursor_load(const _Atomic uint64_t *p)
{
	return atomic_load_explicit(p, memory_order_relaxed);
}
/* Of a counter that this thread alone stores into. */
static inline void cursor_count(_Atomic uint64_t *p)
{
	atomic_store_explicit(p, cursor_load(p) + 1, memory_order_relaxed);
}
static inline uint32_t cursor_next(const struct shm_cursor *s)
{
	return atomic_load_explicit(&s->next, memory_order_relaxed);
}

/* The private half of a pin that is in its slot, the youngest from now on; at: 1 + slot. (cursor_table.c) */
void cursor_note_pin(struct cursor_table *, uint32_t at);

/* ---- cursor_file.c ---- */

/* Unlinks the files of pins but that of `generation`; the highest number that there was. */
uint64_t cursor_files_sweep(const struct instance *, uint64_t generation);
/* Maps one for writing and checks it. R_DONE with map->file NULL: it is damaged or gone, an error was logged. */
enum refusal_code cursor_file_open(const struct instance *, const struct shm_root *, struct cursor_map *,
				   struct refusal *);
/* A whole, empty one under a temporary name, whose memory is there. keys: NULL for new ones. */
enum refusal_code cursor_file_make(const struct instance *, const struct shm_root *, uint64_t generation,
				   uint32_t capacity, const struct shm_cursor_keys *keys, struct cursor_map *,
				   struct refusal *);
/* Gives it its name, and root that; then the one before goes. */
enum refusal_code cursor_file_publish(const struct instance *, struct shm_root *, const struct cursor_map *,
				      struct refusal *);
void cursor_file_discard(const struct instance *, struct cursor_map *);

/* What is mapped for writing. */
static inline struct shm_cursors *cursor_header(const struct cursor_map *m)
{
	return (struct shm_cursors *)(uintptr_t)m->file;
}
static inline _Atomic uint64_t *cursor_buckets(const struct cursor_map *m)
{
	return (_Atomic uint64_t *)(uintptr_t)m->buckets;
}
static inline struct shm_cursor *cursor_slots(const struct cursor_map *m)
{
	return (struct shm_cursor *)(uintptr_t)m->slots;
}

#endif
