/* SPDX-License-Identifier: MIT
 * Finding and checking cursors.<generation> (cursor.h). Called by readers and the tool when root names another generation,
 * and by the writer at its start. Any thread. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cursor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment.h"

static bool fits(uint64_t off, uint64_t n, uint64_t each, size_t size)
{
	return off >= SHM_PAGE && off % 64 == 0 && off <= size && n <= (size - off) / each;
}

uint32_t cursor_header_check(const struct shm_cursors *f)
{
	const char *base = (const char *)f;
	const size_t from = offsetof(struct shm_cursors, size);
	uint64_t sum = XXH3_64bits(base, offsetof(struct shm_cursors, check));

	sum = XXH3_64bits_withSeed(base + from, offsetof(struct shm_cursors, pad1) - from, sum);
	return (uint32_t)XXH3_64bits_withSeed(&f->keys, sizeof f->keys, sum);
}

int cursor_map_check(const void *base, size_t size, const uint8_t uuid[16], struct cursor_map *map)
{
	const struct shm_cursors *f = base;

	if (size < sizeof *f || f->magic != SHM_MAGIC_CURSORS)
		return BERTH_E_CORRUPT;
	if (f->abi != SHM_ABI || f->fingerprint != SHM_FINGERPRINT)
		return BERTH_E_ABI;
	if (memcmp(f->uuid, uuid, sizeof f->uuid) != 0 || f->size > size || f->generation == 0 || f->capacity == 0 ||
	    f->capacity > SHM_CURSORS_MAX || f->n_buckets == 0 || (f->n_buckets & (f->n_buckets - 1)) != 0 ||
	    !fits(f->buckets_off, f->n_buckets, sizeof(uint64_t), size) ||
	    !fits(f->slots_off, f->capacity, sizeof(struct shm_cursor), size) ||
	    f->slots_off < f->buckets_off + f->n_buckets * sizeof(uint64_t) || f->check != cursor_header_check(f))
		return BERTH_E_CORRUPT;
	*map = (struct cursor_map){
		.file = f,
		.buckets = (const _Atomic uint64_t *)((const char *)base + f->buckets_off),
		.slots = (const struct shm_cursor *)((const char *)base + f->slots_off),
		.mask = f->n_buckets - 1,
		.capacity = f->capacity,
		.generation = f->generation,
		.size = size,
	};
	return BERTH_OK;
}

static int open_file(int tables_fd, uint64_t generation, int *spare)
{
	char name[40];
	int fd;

	snprintf(name, sizeof name, SEG_CURSORS "%llu", (unsigned long long)generation);
	fd = openat(tables_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && spare && *spare >= 0) {
		close(*spare);
		*spare = -1;
		fd = openat(tables_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	}
	return fd;
}

static int map_file(int fd, int tables_fd, const struct shm_root *root, uint64_t generation, struct cursor_map *map)
{
	struct cursor_map m;
	struct stat dir;
	off_t size;
	void *base;
	int rc;

	if (fstat(tables_fd, &dir) != 0)
		return BERTH_E_SYSTEM;
	rc = seg_file_trusted(fd, dir.st_uid, &size);
	if (rc != BERTH_OK)
		return rc;
	if (size < (off_t)SHM_PAGE)
		return BERTH_E_CORRUPT;
	base = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return BERTH_E_SYSTEM;
	rc = cursor_map_check(base, (size_t)size, root->uuid, &m);
	if (rc == BERTH_OK && m.generation != generation)
		rc = BERTH_E_CORRUPT;
	if (rc == BERTH_OK)
		*map = m;
	else
		munmap(base, (size_t)size);
	return rc;
}

int cursor_map_open(int tables_fd, const struct shm_root *root, uint64_t generation, int *spare, struct cursor_map *map)
{
	int fd = open_file(tables_fd, generation, spare), rc;

	if (fd < 0) {
		rc = errno == ENOENT   ? BERTH_E_NO_INSTANCE
		     : errno == EACCES ? BERTH_E_PERMISSION
		     : errno == ELOOP  ? BERTH_E_UNSAFE
				       : BERTH_E_SYSTEM;
	} else {
		rc = map_file(fd, tables_fd, root, generation, map);
		close(fd);
	}
	if (spare && *spare < 0)
		*spare = fcntl(tables_fd, F_DUPFD_CLOEXEC, 0);
	return rc;
}

void cursor_map_close(struct cursor_map *m)
{
	if (m->file)
		munmap((void *)(uintptr_t)m->file, m->size);
	*m = (struct cursor_map){0};
}
