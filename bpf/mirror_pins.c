/* SPDX-License-Identifier: MIT
 * The pins of a mirror: what each map is, what an earlier writer left, and withdrawing it. Called by mirror.c.
 *
 * G1 What cannot be taken over is told to pass and loses its inner map before its pins go; the delete waits for a grace
 *    period, as the update does (mirror_thread.c). Programs that are loaded on it pass everything up from then on. The pin
 *    of `control` goes last: a writer that is killed in between is followed by one that finds it. */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"

static const struct row {
	const char *name;
	enum bpf_map_type type;
	uint32_t value, entries, flags;
} rows[N_MAPS] = {
	[MAP_TABLE] = {"table", BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 1, 0},
	[MAP_CLUSTERS] = {"clusters", BPF_MAP_TYPE_ARRAY, sizeof(struct mirror_cluster), MIRROR_CLUSTERS,
			  BPF_F_MMAPABLE},
	[MAP_STATS] = {"stats", BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(struct mirror_counts), MIRROR_STATS, 0},
	[MAP_LEASES] = {"leases", BPF_MAP_TYPE_ARRAY, sizeof(struct mirror_lease), MIRROR_LEASES, BPF_F_MMAPABLE},
	[MAP_EVENTS] = {"events", BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(__u64), MIRROR_EVENTS, 0},
	[MAP_CONTROL] = {"control", BPF_MAP_TYPE_ARRAY, sizeof(struct mirror_control), 1, BPF_F_MMAPABLE},
};

int mirror_say(char *text, size_t size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(text, size, format, args);
	va_end(args);
	return -1;
}

const char *mirror_remedy(int e)
{
	switch (e) {
	case EPERM:
	case EACCES:
		return "run berthd as root, or with the capability CAP_BPF (AmbientCapabilities=CAP_BPF) and as the "
		       "owner of " PINS;
	case ENOMEM:
	case E2BIG:
		return "give the machine, or berthd's memory cgroup, more memory";
	default:
		return "see the kernel's log";
	}
}

void mirror_path(const char *name, char *path, size_t size)
{
	char whole[PATH_MAX]; /* "." and symbolic links have other names */
	const char *last;
	size_t at = (size_t)snprintf(path, size, PINS "/");

	if (strchr(name, '/') && realpath(name, whole))
		name = whole;
	last = strrchr(name, '/');
	for (last = last ? last + 1 : name; *last && at + 1 < size && at < sizeof PINS + 255; last++)
		path[at++] = *last;
	path[at] = '\0';
	for (char *dot = path; (dot = strchr(dot, '.')) != NULL;) /* bpffs keeps them for itself */
		*dot = '_';
}

void pins_path(const struct mirror *m, enum mirror_map map, char path[PIN_PATH])
{
	snprintf(path, PIN_PATH, "%s/%s", m->path, rows[map].name);
}

static void *map_memory(int fd, size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

int pins_map(struct mirror *m)
{
	m->control = map_memory(m->fds[MAP_CONTROL], sizeof *m->control, PROT_READ | PROT_WRITE);
	m->clusters = map_memory(m->fds[MAP_CLUSTERS], MIRROR_CLUSTERS * sizeof *m->clusters, PROT_READ | PROT_WRITE);
	m->leases = map_memory(m->fds[MAP_LEASES], MIRROR_LEASES * sizeof *m->leases, PROT_READ);
	return m->control && m->clusters && m->leases ? 0 : -1;
}

void pins_let_go(struct mirror *m)
{
	if (m->control)
		munmap(m->control, sizeof *m->control);
	if (m->clusters)
		munmap(m->clusters, MIRROR_CLUSTERS * sizeof *m->clusters);
	if (m->leases)
		munmap((void *)(uintptr_t)m->leases, MIRROR_LEASES * sizeof *m->leases);
	m->control = NULL;
	m->clusters = NULL;
	m->leases = NULL;
	for (unsigned i = 0; i < N_MAPS; i++) {
		if (m->fds[i] >= 0)
			close(m->fds[i]);
		m->fds[i] = -1;
	}
}

/* ---- what is there ---- */

bool pins_fit(int fd, enum mirror_map map)
{
	const struct row *row = &rows[map];
	struct bpf_map_info info = {0};
	__u32 size = sizeof info;

	return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 && info.type == row->type && info.key_size == 4 &&
	       info.value_size == row->value && info.max_entries == row->entries;
}

uint32_t pins_id(int fd)
{
	struct bpf_map_info info = {0};
	__u32 size = sizeof info;

	return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 ? info.id : 0;
}

/* Opens what is pinned. 1 all of it and as it should be, 0 `control` is not there, -1 not what this program knows; -2 with
 * errno: it is there and cannot be opened. */
static int pins_open(struct mirror *m)
{
	bool known = true;
	struct stat st;
	char control[PIN_PATH];

	/* The file system says so to everybody; bpf() may say no to whoever asks. */
	pins_path(m, MAP_CONTROL, control);
	if (stat(control, &st) != 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -2;
	for (unsigned i = N_MAPS; i-- > 0;) { /* control first */
		char path[PIN_PATH];

		pins_path(m, i, path);
		m->fds[i] = bpf_obj_get(path);
		if (m->fds[i] < 0 && (i == MAP_CONTROL || errno != ENOENT))
			return -2;
		known = known && m->fds[i] >= 0 && pins_fit(m->fds[i], i);
	}
	return known ? 1 : -1;
}

/* G1. The place of `state` is the same in every ABI. 0, or -1 with errno: it may answer still. */
static int pins_disable(struct mirror *m)
{
	const __u32 zero = 0;
	__u64 *control = map_memory(m->fds[MAP_CONTROL], 4096, PROT_READ | PROT_WRITE);

	if (!control)
		return -1;
	atomic_store_explicit(SHARED64(&control[offsetof(struct mirror_control, state) / sizeof *control]), 0,
			      memory_order_seq_cst);
	CRASH_POINT(pins_silenced);
	munmap(control, 4096);
	if (m->fds[MAP_TABLE] < 0)
		return 0;
	if (bpf_map_delete_elem(m->fds[MAP_TABLE], &zero) != 0 && errno != ENOENT)
		return -1;
	CRASH_POINT(pins_emptied);
	return 0;
}

int pins_unlink(const struct mirror *m)
{
	char path[PIN_PATH];

	for (unsigned i = 0; i < N_MAPS; i++) {
		pins_path(m, i, path);
		if (unlink(path) != 0 && errno != ENOENT)
			return -1;
		CRASH_POINT(map_unpinned);
	}
	(void)!rmdir(m->path); /* programs may be pinned there too, and stay */
	CRASH_POINT(mirror_directory_removed);
	return 0;
}

/* Does the writer live that stored this? */
static bool writer_lives(const struct mirror_control *c)
{
	uint64_t pid = load64(&c->writer_pid), start = load64(&c->writer_start);

	return pid && pid <= INT32_MAX && start && seg_process_start((pid_t)pid) == start && (pid_t)pid != getpid();
}

/* Is there still an instance in the directory that this mirror was made for? What may not be looked at may be one. */
static bool instance_there(const struct mirror_control *c)
{
	char path[MIRROR_INSTANCE_MAX + 8];
	struct shm_root root;
	ssize_t n;
	int fd;

	if (!c->path[0] || !memchr(c->path, '\0', sizeof c->path))
		return false;
	snprintf(path, sizeof path, "%s/root", c->path);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno != ENOENT && errno != ENOTDIR;
	n = pread(fd, &root, sizeof root, 0);
	close(fd);
	return n != (ssize_t)sizeof root || memcmp(root.uuid, c->uuid, 16) == 0;
}

/* Writes that programs have under way outlive it. 0, or -1 with errno. */
static int tell_left(struct mirror *m, const struct mirror_left *left, bool ours)
{
	uint32_t id = pins_id(m->fds[MAP_CONTROL]);
	int kept;

	if (!id)
		return -1;
	if (m->fds[MAP_LEASES] < 0 || !pins_fit(m->fds[MAP_CONTROL], MAP_CONTROL) ||
	    !pins_fit(m->fds[MAP_LEASES], MAP_LEASES)) /* its pin is gone, or it is of another ABI */
		return ours ? left->tell(left->arg, id, NULL, NULL, false) : 0;
	m->control = map_memory(m->fds[MAP_CONTROL], sizeof *m->control, PROT_READ | PROT_WRITE);
	m->leases = map_memory(m->fds[MAP_LEASES], MIRROR_LEASES * sizeof *m->leases, PROT_READ);
	if (!m->control || !m->leases)
		return -1;
	kept = ours ? mirror_past_keep(m) : 0;
	if (kept < 0)
		return -1;
	return left->tell(left->arg, id, m->control, m->leases, kept == 1);
}

/* Another instance's, alive or stopped? Then with a text. */
static bool theirs(const struct mirror *m, const struct mirror_control *c, char *text, size_t size)
{
	if (load64(&c->magic) != MIRROR_MAGIC)
		return false;
	if (writer_lives(c))
		mirror_say(text, size,
			   "%s is the mirror of another instance, whose writer runs (pid %llu): give one of them "
			   "another name",
			   m->path, (unsigned long long)load64(&c->writer_pid));
	else if (instance_there(c))
		mirror_say(
			text, size,
			"%s is the mirror of another instance, in %.200s: give one of them another name, or, when no "
			"packet program is needed there any more, remove %s",
			m->path, c->path, m->path);
	else
		return false;
	return true;
}

/* -1 with a text, and with errno as it is. */
static int cannot(const struct mirror *m, char *text, size_t size, const char *what)
{
	int e = errno;

	mirror_say(text, size,
		   "the mirror at %s cannot be %s: %s; packet programs may answer by what an earlier writer pinned "
		   "there: %s",
		   m->path, what, strerror(e), mirror_remedy(e));
	errno = e;
	return -1;
}

int pins_look(struct mirror *m, const uint8_t uuid[16], const uint64_t *secret, const struct mirror_left *left,
	      enum whose *whose, char *text, size_t size)
{
	int there = pins_open(m);
	struct mirror_control *c = NULL;
	bool ours, take;

	*whose = NOBODYS;
	if (there == 0)
		return 0;
	if (there == -2)
		return cannot(m, text, size, "opened");
	c = map_memory(m->fds[MAP_CONTROL], sizeof *c, PROT_READ);
	if (!c)
		return cannot(m, text, size, "mapped");
	ours = atomic_load_explicit(SHARED64(&c->magic), memory_order_acquire) == MIRROR_MAGIC &&
	       memcmp(c->uuid, uuid, 16) == 0;
	if (ours)
		*whose = OURS;
	else if (!secret || theirs(m, c, text, size))
		*whose = THEIRS;
	take = secret && there == 1 && ours && c->abi == MIRROR_ABI && memcmp(c->secret, secret, sizeof c->secret) == 0;
	munmap(c, sizeof *c);
	if (*whose == THEIRS)
		return 0;
	if (take)
		return 1;
	if (pins_disable(m) != 0 || tell_left(m, left, ours) != 0 || pins_unlink(m) != 0)
		return cannot(m, text, size, "withdrawn");
	pins_let_go(m);
	return 0;
}

int pins_create(enum mirror_map map)
{
	const struct row *row = &rows[map];
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = row->flags);
	char name[16];
	int inner = -1, fd, e;

	if (row->type == BPF_MAP_TYPE_ARRAY_OF_MAPS) {
		inner = mirror_inner_create(1);
		if (inner < 0)
			return -1;
		opts.inner_map_fd = (__u32)inner;
	}
	snprintf(name, sizeof name, "berth_%s", row->name);
	fd = bpf_map_create(row->type, name, 4, row->value, row->entries, &opts);
	e = errno;
	if (inner >= 0)
		close(inner);
	errno = e;
	return fd;
}

const char *pins_name(enum mirror_map map)
{
	return rows[map].name;
}
