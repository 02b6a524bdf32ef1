/* SPDX-License-Identifier: MIT
 * Finding an instance and mapping its files: the directory, root, table.<generation>, the ledger, a registration.
 * Everything that is mapped here is checked here, once, against the size of the mapping; what the hot path needs of it
 * is kept in a private struct seg_map, so that bounds never come from shared memory again.
 * Used by readers, writer and tool; no thread of its own. Returns BERTH_OK or a code of berth_errors.h (errno is set
 * where it says BERTH_E_SYSTEM). */
#ifndef BERTH_SHM_SEGMENT_H
#define BERTH_SHM_SEGMENT_H

#include <stdbool.h>
#include <string.h>
#include <sys/types.h>

#include "berth_errors.h"
#include "layout.h"

#define SEG_DIR_BASE "/dev/shm/berth"
#define SEG_INSTANCE "default"
#define SEG_SOCKET "berth.sock"       /* attach and look */
#define SEG_ADMIN_SOCKET "admin.sock" /* change */
#define SEG_LEDGER "ledger"
#define SEG_CURSORS "cursors." /* and the generation, in the directory of the tables */
#define SEG_READERS "readers"
#define SEG_TABLES "tables" /* a directory, or a symbolic link to one (--table-dir) */

struct seg_map {                       /* one mapped generation */
	const struct shm_table *table; /* = start of the mapping; NULL: none */
	const struct shm_entry *entries;
	uint64_t termgen; /* of root when this was mapped */
	uint32_t capacity;
	uint32_t n_entries; /* capacity + SHM_PROBE_MAX */
	uint32_t n_cluster_slots;
	uint32_t generation;
	size_t size;
	uint64_t records_off;
	uint64_t records_usual;           /* so many bytes of records have SHM_RECORD_MAX more behind them */
	const _Atomic uint32_t *clusters; /* record offset / SHM_RECORD_ALIGN by number; 0: none */
	const _Atomic uint64_t *documents;
	const _Atomic uint8_t *tags; /* n_entries + SHM_TAG_WINDOW */
};

/* "name" -> SEG_DIR_BASE/name, anything with a slash stays, NULL -> the default instance. BERTH_E_INVAL when it does
 * not fit or the name is not 1..63 of [A-Za-z0-9._-] (and not . or ..). */
int seg_dir_path(const char *dir_or_instance, char *path, size_t size);
/* Opens the directory (O_PATH is not enough: it is kept for openat) after checks: a real directory, not a symbolic
 * link, owned by root, by the caller, or by user `berth`, or by somebody whom the caller's user namespace has no name for,
 * if it is a mount point by itself and read-only; not writable by group or others. BERTH_E_NO_INSTANCE,
 * BERTH_E_PERMISSION, BERTH_E_UNSAFE, BERTH_E_SYSTEM. *owner: its uid (may be NULL). */
int seg_dir_open(const char *path, int *fd, uid_t *owner);
/* The same test for one file of the instance: regular, owner as above, not writable by group or others. */
int seg_file_trusted(int fd, uid_t dir_owner, off_t *size);

/* Maps root read-only. BERTH_E_NO_INSTANCE while it is not complete (magic is stored last). */
int seg_root_map(int dir_fd, const struct shm_root **);
void seg_root_unmap(const struct shm_root **);

/* Maps the ledger read-only: for the acks of pins, and for the tool. BERTH_E_NO_INSTANCE, BERTH_E_CORRUPT (or not this
 * root's), BERTH_E_ABI, BERTH_E_UNSAFE, BERTH_E_PERMISSION, BERTH_E_SYSTEM. */
int seg_ledger_map(int dir_fd, const struct shm_root *, const struct shm_ledger **);
void seg_ledger_unmap(const struct shm_ledger **);
const _Atomic uint64_t *seg_ledger_acks(const struct shm_ledger *); /* SHM_LEDGER_ACKS of them */

/* mmap of a file's bytes from `from` (a multiple of SEG_HUGE), MAP_SHARED and `flags`, at an address that lets the kernel
 * map its huge pages, where it has any, as such. MAP_FAILED with errno. */
#define SEG_HUGE (2u << 20)
void *seg_map_file(int fd, uint64_t from, size_t size, int protection, int flags);
/* Of a mapping that ends there. */
static inline void seg_map_size(struct seg_map *m, uint64_t size)
{
	m->size = size;
	m->records_usual = size > m->records_off + SHM_RECORD_MAX ? size - m->records_off - SHM_RECORD_MAX : 0;
}

/* Opens the directory of the tables, to be kept for seg_table_map. It and its files may be read by all: the instance's
 * own directory keeps others out, and a process that is in keeps its way to later generations after it has dropped its
 * groups, or changed its root. BERTH_E_NO_INSTANCE, BERTH_E_UNSAFE, BERTH_E_PERMISSION, BERTH_E_SYSTEM. */
int seg_tables_open(int dir_fd, int *tables_fd);

/* Opens and maps table.<generation> read-only and checks it against root. *spare: a descriptor kept for EMFILE (-1:
 * none); it is closed to make room when the process has none left, and opened again afterwards. populate: fault all
 * pages in now. BERTH_E_NO_INSTANCE: no such file (load root again). *map is written on success alone. */
int seg_table_map(int tables_fd, const struct shm_root *, uint64_t termgen, int *spare, bool populate,
		  struct seg_map *map);
void seg_table_unmap(struct seg_map *);
/* The checks alone, over any bytes: for the writer's own mappings and for fuzzing. */
int seg_table_check(const void *base, size_t size, const uint8_t uuid[16], struct seg_map *map);

/* A record at offset*SHM_RECORD_ALIGN: NULL unless at least `least` bytes of it lie in the records area. *room: bytes
 * from there to the end of the mapping. */
static inline const void *seg_record(const struct seg_map *m, uint32_t off, size_t least, size_t *room)
{
	uint64_t at = (uint64_t)off * SHM_RECORD_ALIGN;

	if (at < m->records_off || at >= m->size || m->size - at < least)
		return NULL;
	*room = m->size - at;
	return (const char *)m->table + at;
}

/* A placement whose record starts where a whole one fits, as all do but the file's last, with at most one pair to inject,
 * as nearly all have: checked as detail_bounds does, without a call. NULL: seg_detail says. *says: size u16, cluster u16,
 * kind u8, n_inject u8, index_len u16, loaded once: what was checked is what is used. */
typedef uint64_t __attribute__((may_alias)) seg_says;
static inline const struct shm_detail *seg_detail_usual(const struct seg_map *m, uint32_t off, uint64_t *says)
{
	uint64_t at = (uint64_t)off * SHM_RECORD_ALIGN - m->records_off;
	const struct shm_detail *d;
	unsigned size, index_len, n_inject, pair;
	size_t used, field_len, ends;

	if (at >= m->records_usual)
		return NULL;
	d = (const struct shm_detail *)(const void *)((const char *)m->table + m->records_off + at);
	*says = *(const volatile seg_says *)(const void *)&d->size;
	size = (unsigned)*says & 0xffffu;
	n_inject = (unsigned)(*says >> 40) & 0xffu;
	index_len = (unsigned)(*says >> 48);
	if (size > SHM_RECORD_MAX || index_len > SHM_INDEX_MAX || n_inject > 1)
		return NULL;
	/* Without a branch: whether there is a pair is anybody's guess, and the bytes are there in any case. The pair: kind u8,
	 * field_len u8, value_len u16, field, NUL, value, NUL. */
	used = index_len + 1u;
	memcpy(&pair, d->data + used, sizeof pair);
	pair &= 0u - n_inject;
	field_len = pair >> 8 & 0xffu;
	ends = n_inject ? used + 4 + field_len : index_len; /* of the field, if there is one */
	used += n_inject * (6u + (size_t)field_len + (pair >> 16));
	if (sizeof *d + used != size)
		return NULL;
	ends = (unsigned char)d->data[index_len] | (unsigned char)d->data[ends] | (unsigned char)d->data[used - 1];
	ends |= (size_t)((pair & 0xffu) > 1) | (n_inject & (size_t)(field_len == 0));
	return ends ? NULL : d;
}
static_assert(offsetof(struct shm_detail, size) == 8 && offsetof(struct shm_detail, cluster) == 10 &&
		      offsetof(struct shm_detail, kind) == 12 && offsetof(struct shm_detail, n_inject) == 13 &&
		      offsetof(struct shm_detail, index_len) == 14,
	      "as seg_detail_usual tells them");

/* Checked records: NULL when the offset or the record is damaged. */
const struct shm_detail *seg_detail(const struct seg_map *, uint32_t off);
const struct shm_key_record *seg_key_record(const struct seg_map *, uint32_t off);
/* *none is set when no cluster has this number; NULL with !*none is damage. */
const struct shm_cluster *seg_cluster(const struct seg_map *, unsigned number, bool *none);

/* Clocks: milliseconds and nanoseconds of CLOCK_MONOTONIC / CLOCK_BOOTTIME / CLOCK_REALTIME. */
uint64_t seg_clock_ns(int clock);
static inline uint64_t seg_clock_ms(int clock)
{
	return seg_clock_ns(clock) / 1000000u;
}
/* In a loop that waits for another processor. */
static inline void seg_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}
/* 16 bytes of /proc/sys/kernel/random/boot_id. */
int seg_boot_id(uint8_t id[16]);
/* Of this process: numbers of processes mean something only in theirs; 0: unknown, and errno says why. */
uint64_t seg_pid_namespace(void);
/* Field 22 of /proc/PID/stat; 0 when there is no such process to be seen, or no descriptor to look with. */
uint64_t seg_process_start(pid_t);

#endif
