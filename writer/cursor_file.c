/* SPDX-License-Identifier: MIT
 * The files of pins, cursors.<generation>: found, checked, made, named, removed. Called by cursor_open.c, at a start. What
 * is in chains is not looked at here.
 *
 *   cursors.new --(whole, rename, one store into root)--> cursors.<g> --(root names another)--> unlinked; its readers keep it
 *
 * Memory of a file is allocated before it is touched: a full file system is an error here, never a SIGBUS in us or in a
 * reader. */
#include "cursor_table_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"
#include "log.h"

#define NEW SEG_CURSORS "new"
#define NAME_SIZE 40

static void name_of(char name[NAME_SIZE], uint64_t generation)
{
	snprintf(name, NAME_SIZE, SEG_CURSORS "%llu", (unsigned long long)generation);
}

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* ---- what is there ---------------------------------------------------------------------------------------------- */

static bool number_of(const char *name, uint64_t *generation)
{
	char again[NAME_SIZE];

	if (strncmp(name, SEG_CURSORS, strlen(SEG_CURSORS)) != 0)
		return false;
	*generation = strtoull(name + strlen(SEG_CURSORS), NULL, 10);
	name_of(again, *generation);
	return strcmp(name, again) == 0;
}

uint64_t cursor_files_sweep(const struct instance *in, uint64_t generation)
{
	int fd = openat(in->table_dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	uint64_t highest = 0, n;
	struct dirent *e;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	while ((e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, NEW) == 0) {
			unlinkat(in->table_dir_fd, e->d_name, 0);
			CRASH_POINT(cursors_new_swept);
		}
		if (!number_of(e->d_name, &n))
			continue;
		if (n > highest && n < UINT32_MAX)
			highest = n;
		if (n != generation) {
			unlinkat(in->table_dir_fd, e->d_name, 0);
			CRASH_POINT(cursors_swept);
		}
	}
	closedir(d);
	return highest;
}

static int map_whole(int fd, size_t size, const struct shm_root *root, uint64_t generation, struct cursor_map *map)
{
	void *base = size < SHM_PAGE ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct cursor_map m;
	int rc;

	if (base == MAP_FAILED)
		return size < SHM_PAGE ? BERTH_E_CORRUPT : BERTH_E_SYSTEM;
	rc = cursor_map_check(base, size, root->uuid, &m);
	if (rc == BERTH_OK && (m.generation != generation || cursor_load(&m.file->changes) >= CURSOR_CHANGES_MAX))
		rc = BERTH_E_CORRUPT;
	if (rc == BERTH_OK)
		*map = m;
	else
		munmap(base, size);
	return rc;
}

static int open_and_map(const struct instance *in, const struct shm_root *root, uint64_t generation, const char *name,
			struct cursor_map *map)
{
	int fd = openat(in->table_dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC), rc;
	struct stat dir;
	off_t size = 0;

	if (fd < 0)
		return errno == ENOENT ? BERTH_E_NO_INSTANCE : errno == ELOOP ? BERTH_E_UNSAFE : BERTH_E_SYSTEM;
	rc = fstat(in->table_dir_fd, &dir) != 0 ? BERTH_E_SYSTEM : seg_file_trusted(fd, dir.st_uid, &size);
	if (rc == BERTH_OK)
		rc = map_whole(fd, (size_t)size, root, generation, map);
	close(fd);
	return rc;
}

enum refusal_code cursor_file_open(const struct instance *in, const struct shm_root *root, struct cursor_map *map,
				   struct refusal *r)
{
	uint64_t generation = cursor_load(&root->cursor_generation);
	char name[NAME_SIZE];
	int rc;

	*map = (struct cursor_map){0};
	name_of(name, generation);
	rc = open_and_map(in, root, generation, name, map);
	if (rc == BERTH_E_SYSTEM)
		return refuse(r, R_BACKEND,
			      "cannot open %s/" SEG_TABLES
			      "/%s for writing: %s; see that berthd may, and has descriptors and memory left",
			      in->path, name, strerror(errno));
	if (rc != BERTH_OK)
		log_event(LEVEL_ERROR, "cursors-damaged", LOG_S("file", name),
			  LOG_S("error", rc == BERTH_E_NO_INSTANCE ? "it is gone"
					 : rc == BERTH_E_UNSAFE    ? "others may write to it"
					 : rc == BERTH_E_ABI       ? "it is of another layout"
								   : "its header is damaged"),
			  LOG_S("do", "nothing: an empty one is made, and its pins are lost"));
	return R_DONE;
}

/* ---- a new one -------------------------------------------------------------------------------------------------- */

static int file_new(const struct instance *in)
{
	int fd;

	if (unlinkat(in->table_dir_fd, NEW, 0) != 0 && errno != ENOENT)
		return -1;
	CRASH_POINT(cursors_new_cleared);
	fd = openat(in->table_dir_fd, NEW, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0)
		return -1;
	CRASH_POINT(cursors_new_made);
	if (fchown(fd, (uid_t)-1, in->group) != 0)
		errno = 0; /* not ours to give: the mode still keeps others out */
	CRASH_POINT(cursors_new_owned);
	(void)!fchmod(fd, in->table_mode);
	CRASH_POINT(cursors_new_modes_set);
	return fd;
}

static int allocate(int fd, uint64_t size)
{
	int e;

	do
		e = posix_fallocate(fd, 0, (off_t)size);
	while (e == EINTR);
	CRASH_POINT(cursors_new_allocated);
	errno = e;
	return e ? -1 : 0;
}

static int random_keys(struct shm_cursor_keys *keys)
{
	unsigned char *p = (unsigned char *)keys;

	for (size_t n = 0; n < sizeof *keys;) {
		ssize_t got = getrandom(p + n, sizeof *keys - n, 0);

		if (got < 0 && errno != EINTR)
			return -1;
		if (got > 0)
			n += (size_t)got;
	}
	return 0;
}

static int header_fill(struct shm_cursors *h, const struct shm_root *root, uint64_t generation, uint32_t capacity,
		       uint32_t n_buckets, uint64_t size, const struct shm_cursor_keys *keys)
{
	h->magic = SHM_MAGIC_CURSORS;
	h->abi = SHM_ABI;
	h->fingerprint = SHM_FINGERPRINT;
	memcpy(h->uuid, root->uuid, sizeof h->uuid);
	h->generation = (uint32_t)generation;
	h->capacity = capacity;
	h->n_buckets = n_buckets;
	h->buckets_off = SHM_PAGE;
	h->slots_off = round_up(SHM_PAGE + (uint64_t)n_buckets * sizeof(uint64_t), 64);
	h->size = size;
	if (keys)
		h->keys = *keys;
	else if (random_keys(&h->keys) != 0)
		return -1;
	h->check = cursor_header_check(h);
	CRASH_POINT(cursors_header_stored);
	return 0;
}

static int file_fill(int fd, const struct shm_root *root, uint64_t generation, uint32_t capacity,
		     const struct shm_cursor_keys *keys, struct cursor_map *map)
{
	uint32_t n_buckets = 1; /* half of them empty at the least: a search meets few pins that it does not look for */
	uint64_t size;
	void *base;

	while (n_buckets < 2 * (uint64_t)capacity)
		n_buckets *= 2;
	size = round_up(round_up(SHM_PAGE + (uint64_t)n_buckets * sizeof(uint64_t), 64) +
				(uint64_t)capacity * sizeof(struct shm_cursor),
			instance_file_block(fd));
	if (allocate(fd, size) != 0)
		return -1;
	base = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -1;
	if (header_fill(base, root, generation, capacity, n_buckets, size, keys) == 0 &&
	    cursor_map_check(base, (size_t)size, root->uuid, map) == BERTH_OK)
		return 0;
	munmap(base, (size_t)size);
	return -1;
}

enum refusal_code cursor_file_make(const struct instance *in, const struct shm_root *root, uint64_t generation,
				   uint32_t capacity, const struct shm_cursor_keys *keys, struct cursor_map *map,
				   struct refusal *r)
{
	int fd = file_new(in), e;

	if (fd < 0)
		return refuse(r, R_BACKEND,
			      "cannot make %s/" SEG_TABLES "/" NEW ": %s; see that berthd may write there", in->path,
			      strerror(errno));
	e = file_fill(fd, root, generation, capacity, keys, map) == 0 ? 0 : errno;
	close(fd);
	if (e == 0)
		return R_DONE;
	unlinkat(in->table_dir_fd, NEW, 0);
	return refuse(r, R_FULL,
		      "no room for %u pins in %s/" SEG_TABLES
		      ": %s; give its file system more, or berthd a smaller --cursor-capacity",
		      capacity, in->path, strerror(e));
}

enum refusal_code cursor_file_publish(const struct instance *in, struct shm_root *root, const struct cursor_map *map,
				      struct refusal *r)
{
	uint64_t old = cursor_load(&root->cursor_generation);
	char name[NAME_SIZE];

	name_of(name, map->generation);
	if (renameat(in->table_dir_fd, NEW, in->table_dir_fd, name) != 0)
		return refuse(r, R_BACKEND,
			      "cannot rename %s/" SEG_TABLES "/" NEW " to %s: %s; see that berthd may write there",
			      in->path, name, strerror(errno));
	CRASH_POINT(cursors_named);
	/* Release: whoever loads this number with acquire finds the file complete. */
	atomic_store_explicit(&root->cursor_generation, map->generation, memory_order_release);
	CRASH_POINT(cursors_flipped);
	if (old != 0 && old != map->generation) {
		name_of(name, old);
		unlinkat(in->table_dir_fd, name, 0);
		CRASH_POINT(cursors_old_unlinked);
	}
	return R_DONE;
}

void cursor_file_discard(const struct instance *in, struct cursor_map *map)
{
	unlinkat(in->table_dir_fd, NEW, 0);
	cursor_map_close(map);
}
