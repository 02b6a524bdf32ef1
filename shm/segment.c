/* SPDX-License-Identifier: MIT
 * Finding an instance and mapping its files, with every check that makes the mapping safe to read: segment.h.
 * Called at attach, at a change of generation and by tools; never in a look-up. */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "details.h"

#define UID_UNNAMED 65534u /* what the kernel shows for an owner without a name: /proc/sys/kernel/overflowuid */
#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x2000 /* Linux 5.8 */
#endif

int seg_dir_path(const char *dir_or_instance, char *path, size_t size)
{
	const char *name = dir_or_instance ? dir_or_instance : SEG_INSTANCE;
	size_t len = strlen(name);
	int n;

	if (strchr(name, '/')) {
		while (len > 1 && name[len - 1] == '/') /* behind a slash O_NOFOLLOW would follow a symbolic link */
			len--;
		if (len >= size)
			return BERTH_E_INVAL;
		memcpy(path, name, len);
		path[len] = '\0';
		return BERTH_OK;
	}
	if (len < 1 || len > 63 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
	    strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != len)
		return BERTH_E_INVAL;
	n = snprintf(path, size, SEG_DIR_BASE "/%s", name);
	return n > 0 && (size_t)n < size ? BERTH_OK : BERTH_E_INVAL;
}

/* Whoever owns the directory decides where everybody's writes go: root, ourselves, or the user that packages make for
 * berthd. */
static bool uid_trusted(uid_t uid)
{
	struct passwd pw, *found = NULL;
	char buffer[2048];

	if (uid == 0 || uid == geteuid())
		return true;
	return getpwnam_r("berth", &pw, buffer, sizeof buffer, &found) == 0 && found && found->pw_uid == uid;
}

/* In a container whose user namespace has no name for the owner, all such owners look alike. Then who made the container
 * has said what to trust, when the directory is itself what was bound in, read-only: whoever may mount there
 * made it, and no process that shares the number can write by it. */
static bool bound_in(int fd, const struct stat *st)
{
	struct statx x;
	struct statvfs fs;

	return st->st_uid == UID_UNNAMED && statx(fd, "", AT_EMPTY_PATH, 0, &x) == 0 &&
	       (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0 && fstatvfs(fd, &fs) == 0 &&
	       (fs.f_flag & ST_RDONLY) != 0;
}

static int open_error(void)
{
	switch (errno) {
	case ENOENT:
		return BERTH_E_NO_INSTANCE;
	case EACCES:
	case EPERM:
		return BERTH_E_PERMISSION;
	case ELOOP:
	case ENOTDIR:
		return BERTH_E_UNSAFE;
	default:
		return BERTH_E_SYSTEM;
	}
}

int seg_dir_open(const char *path, int *fd, uid_t *owner)
{
	struct stat st;
	int d = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (d < 0)
		return open_error();
	if (fstat(d, &st) != 0) {
		close(d);
		return BERTH_E_SYSTEM;
	}
	if ((!uid_trusted(st.st_uid) && !bound_in(d, &st)) || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		close(d);
		return BERTH_E_UNSAFE;
	}
	if (owner)
		*owner = st.st_uid;
	*fd = d;
	return BERTH_OK;
}

int seg_file_trusted(int fd, uid_t dir_owner, off_t *size)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return BERTH_E_SYSTEM;
	if (!S_ISREG(st.st_mode) || (st.st_uid != dir_owner && !uid_trusted(st.st_uid)) ||
	    (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return BERTH_E_UNSAFE;
	*size = st.st_size;
	return BERTH_OK;
}

static int dir_owner(int dir_fd, uid_t *owner)
{
	struct stat st;

	if (fstat(dir_fd, &st) != 0)
		return BERTH_E_SYSTEM;
	*owner = st.st_uid;
	return BERTH_OK;
}

int seg_root_map(int dir_fd, const struct shm_root **out)
{
	const struct shm_root *root = MAP_FAILED;
	uid_t owner;
	off_t size;
	int rc = dir_owner(dir_fd, &owner), fd;

	if (rc != BERTH_OK)
		return rc;
	fd = openat(dir_fd, "root", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return open_error();
	rc = seg_file_trusted(fd, owner, &size);
	if (rc == BERTH_OK && size < (off_t)SHM_PAGE)
		rc = BERTH_E_CORRUPT;
	if (rc == BERTH_OK) {
		root = mmap(NULL, SHM_PAGE, PROT_READ, MAP_SHARED, fd, 0);
		if (root == MAP_FAILED)
			rc = BERTH_E_SYSTEM;
	}
	close(fd);
	if (rc != BERTH_OK)
		return rc;
	/* Acquire: pairs with the release store of the magic, last of all. */
	if (atomic_load_explicit(&root->magic, memory_order_acquire) != SHM_MAGIC_ROOT)
		rc = atomic_load_explicit(&root->magic, memory_order_relaxed) == 0 ? BERTH_E_NO_INSTANCE
										   : BERTH_E_CORRUPT;
	else if (root->abi != SHM_ABI || root->fingerprint != SHM_FINGERPRINT)
		rc = BERTH_E_ABI;
	if (rc != BERTH_OK)
		munmap((void *)(uintptr_t)root, SHM_PAGE);
	else
		*out = root;
	return rc;
}

void seg_root_unmap(const struct shm_root **root)
{
	if (*root)
		munmap((void *)(uintptr_t)*root, SHM_PAGE);
	*root = NULL;
}

/* at..at+len lies in size and starts at a multiple of align; no overflow. */
static bool range_ok(uint64_t at, uint64_t len, uint64_t size, uint64_t align)
{
	return at % align == 0 && at <= size && len <= size - at;
}

int seg_table_check(const void *base, size_t size, const uint8_t uuid[16], struct seg_map *map)
{
	const struct shm_table *shared = base;
	struct shm_table h;
	uint64_t n_entries;

	if (size < SHM_PAGE)
		return BERTH_E_CORRUPT;
	memcpy(&h, shared, offsetof(struct shm_table, pad1)); /* the fixed part: what was checked is what is used */
	if (h.magic != SHM_MAGIC_TABLE)
		return BERTH_E_CORRUPT;
	if (h.abi != SHM_ABI || h.fingerprint != SHM_FINGERPRINT)
		return BERTH_E_ABI;
	n_entries = (uint64_t)h.capacity + SHM_PROBE_MAX;
	if ((uuid && memcmp(h.uuid, uuid, 16) != 0) || h.capacity == 0 || h.capacity > UINT32_MAX - SHM_PROBE_MAX ||
	    h.size > size || h.size < SHM_PAGE || h.n_cluster_slots > SHM_CLUSTERS_MAX + 1 ||
	    h.clusters_off < SHM_PAGE || !range_ok(h.clusters_off, (uint64_t)h.n_cluster_slots * 4, h.size, 64) ||
	    /* a damaged tag may lead a window behind the last entry, never out of the file */
	    !range_ok(h.entries_off, (n_entries + SHM_TAG_WINDOW) * sizeof(struct shm_entry), h.size, 64) ||
	    h.entries_off < SHM_PAGE || !range_ok(h.tags_off, n_entries + SHM_TAG_WINDOW, h.size, 64) ||
	    h.tags_off < SHM_PAGE || !range_ok(h.documents_off, n_entries * 8, h.size, 64) ||
	    h.documents_off < SHM_PAGE || !range_ok(h.records_off, 0, h.size, SHM_RECORD_ALIGN) ||
	    h.records_off < SHM_PAGE)
		return BERTH_E_CORRUPT;
	*map = (struct seg_map){
		.table = shared,
		.entries = (const struct shm_entry *)((const char *)base + h.entries_off),
		.capacity = h.capacity,
		.n_entries = (uint32_t)n_entries,
		.n_cluster_slots = h.n_cluster_slots,
		.generation = h.generation,
		.records_off = h.records_off,
		.clusters = (const _Atomic uint32_t *)((const char *)base + h.clusters_off),
		.documents = (const _Atomic uint64_t *)((const char *)base + h.documents_off),
		.tags = (const _Atomic uint8_t *)((const char *)base + h.tags_off),
	};
	seg_map_size(map, h.size);
	return BERTH_OK;
}

int seg_ledger_map(int dir_fd, const struct shm_root *root, const struct shm_ledger **out)
{
	const struct shm_ledger *l = MAP_FAILED;
	uid_t owner;
	off_t size;
	int rc = dir_owner(dir_fd, &owner), fd;

	if (rc != BERTH_OK)
		return rc;
	fd = openat(dir_fd, SEG_LEDGER, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return open_error();
	rc = seg_file_trusted(fd, owner, &size);
	if (rc == BERTH_OK && size < (off_t)SHM_LEDGER_SIZE)
		rc = BERTH_E_CORRUPT;
	if (rc == BERTH_OK) {
		l = mmap(NULL, SHM_LEDGER_SIZE, PROT_READ, MAP_SHARED, fd, 0);
		if (l == MAP_FAILED)
			rc = BERTH_E_SYSTEM;
	}
	close(fd);
	if (rc != BERTH_OK)
		return rc;
	if (l->magic == SHM_MAGIC_LEDGER && (l->abi != SHM_ABI || l->fingerprint != SHM_FINGERPRINT))
		rc = BERTH_E_ABI;
	else if (l->magic != SHM_MAGIC_LEDGER || memcmp(l->uuid, root->uuid, sizeof l->uuid) != 0 ||
		 l->n_acks != SHM_LEDGER_ACKS)
		rc = BERTH_E_CORRUPT;
	if (rc == BERTH_OK)
		*out = l;
	else
		munmap((void *)(uintptr_t)l, SHM_LEDGER_SIZE);
	return rc;
}

void seg_ledger_unmap(const struct shm_ledger **l)
{
	if (*l)
		munmap((void *)(uintptr_t)*l, SHM_LEDGER_SIZE);
	*l = NULL;
}

const _Atomic uint64_t *seg_ledger_acks(const struct shm_ledger *l)
{
	return (const _Atomic uint64_t *)((const char *)l + SHM_LEDGER_ACKS_OFF);
}

int seg_tables_open(int dir_fd, int *tables_fd)
{
	struct stat st;
	uid_t owner;
	int d = openat(dir_fd, SEG_TABLES, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc;
	bool inside = d >= 0; /* made by the owner of the instance's directory, whom seg_dir_open trusted */

	if (!inside)
		d = openat(dir_fd, SEG_TABLES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d < 0)
		return open_error();
	rc = dir_owner(dir_fd, &owner);
	if (rc != BERTH_OK || fstat(d, &st) != 0 ||
	    (!uid_trusted(st.st_uid) && !(inside && st.st_uid == owner) && !bound_in(d, &st)) ||
	    (st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		close(d);
		return BERTH_E_UNSAFE;
	}
	*tables_fd = d;
	return BERTH_OK;
}

void *seg_map_file(int fd, uint64_t from, size_t size, int protection, int flags)
{
	uint8_t *room, *at;
	void *p;

	if (size < SEG_HUGE)
		return mmap(NULL, size, protection, MAP_SHARED | flags, fd, (off_t)from);
	/* Address space of which the file takes an aligned part. Given back first, so that nothing of it stays when the file
	 * cannot be mapped; who takes it in between costs the alignment. */
	room = mmap(NULL, size + SEG_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return mmap(NULL, size, protection, MAP_SHARED | flags, fd, (off_t)from);
	at = room + (-(uintptr_t)room & (SEG_HUGE - 1));
	munmap(room, size + SEG_HUGE);
	p = mmap(at, size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE | flags, fd, (off_t)from);
	/* Or the pages are larger still, of hugetlbfs: then the kernel aligns by itself. */
	if (p == MAP_FAILED)
		p = mmap(NULL, size, protection, MAP_SHARED | flags, fd, (off_t)from);
	return p;
}

static int open_table(int tables_fd, uint32_t generation)
{
	char name[32];

	snprintf(name, sizeof name, "table.%u", generation);
	return openat(tables_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

int seg_table_map(int tables_fd, const struct shm_root *root, uint64_t termgen, int *spare, bool populate,
		  struct seg_map *map)
{
	struct seg_map m;
	void *base;
	uid_t owner;
	off_t size;
	int rc = dir_owner(tables_fd, &owner), fd;

	if (rc != BERTH_OK)
		return rc;
	fd = open_table(tables_fd, SHM_GENERATION(termgen));
	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && spare && *spare >= 0) {
		close(*spare);
		*spare = -1;
		fd = open_table(tables_fd, SHM_GENERATION(termgen));
	}
	if (fd < 0) {
		rc = open_error();
		goto out;
	}
	rc = seg_file_trusted(fd, owner, &size);
	if (rc == BERTH_OK && size < (off_t)SHM_PAGE)
		rc = BERTH_E_CORRUPT;
	base = MAP_FAILED;
	if (rc == BERTH_OK) {
		base = seg_map_file(fd, 0, (size_t)size, PROT_READ, populate ? MAP_POPULATE : 0);
		if (base == MAP_FAILED)
			rc = BERTH_E_SYSTEM;
	}
	close(fd);
	if (rc == BERTH_OK) {
		rc = seg_table_check(base, (size_t)size, root->uuid, &m);
		if (rc == BERTH_OK && (m.generation != SHM_GENERATION(termgen) || m.size != (uint64_t)size))
			rc = BERTH_E_CORRUPT;
		if (rc == BERTH_OK) {
			m.termgen = termgen;
			*map = m;
		} else {
			munmap(base, (size_t)size);
		}
	}
out:
	if (spare && *spare < 0)
		*spare = fcntl(tables_fd, F_DUPFD_CLOEXEC, 0);
	return rc;
}

void seg_table_unmap(struct seg_map *m)
{
	if (m->table)
		munmap((void *)(uintptr_t)m->table, m->size);
	*m = (struct seg_map){0};
}

const struct shm_detail *seg_detail(const struct seg_map *m, uint32_t off)
{
	size_t room;
	const struct shm_detail *d = seg_record(m, off, sizeof *d, &room);

	return d && detail_bounds(d, room) ? d : NULL;
}

const struct shm_key_record *seg_key_record(const struct seg_map *m, uint32_t off)
{
	size_t room;
	const struct shm_key_record *r = seg_record(m, off, sizeof *r, &room);

	return r && key_record_bounds(r, room) ? r : NULL;
}

const struct shm_cluster *seg_cluster(const struct seg_map *m, unsigned number, bool *none)
{
	const struct shm_cluster *c;
	uint32_t off;
	size_t room;

	*none = true;
	if (number == 0 || number >= m->n_cluster_slots)
		return NULL;
	/* Acquire: pairs with the release store of the offset once the record is complete. */
	off = atomic_load_explicit(&m->clusters[number], memory_order_acquire);
	if (off == 0)
		return NULL;
	*none = false;
	c = seg_record(m, off, sizeof *c, &room);
	return c && cluster_bounds(c, room) && c->number == number ? c : NULL;
}

uint64_t seg_clock_ns(int clock)
{
	struct timespec ts;

	clock_gettime((clockid_t)clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int seg_boot_id(uint8_t id[16])
{
	char text[64];
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	unsigned got = 0;

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return BERTH_E_SYSTEM;
	text[n] = 0;
	memset(id, 0, 16);
	for (const char *p = text; *p && got < 32; p++) {
		int digit = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;

		if (digit < 0)
			continue;
		id[got / 2] = (uint8_t)(id[got / 2] << 4 | digit);
		got++;
	}
	return got == 32 ? BERTH_OK : BERTH_E_SYSTEM;
}

uint64_t seg_pid_namespace(void)
{
	struct stat st;

	errno = 0;
	return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

uint64_t seg_process_start(pid_t pid)
{
	char path[40], text[1024], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	p = strrchr(text, ')'); /* the name may hold anything, also ')' */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}
