/* SPDX-License-Identifier: MIT
 * The pins of a mirror: what each map is, what an earlier writer left, and withdrawing it. Called by mirror.c.
 *
 * G1 What cannot be taken over is told to pass and loses its inner map before its pins go; the delete waits for a grace
 *    period, as the update does (mirror_thread.c). Programs that are loaded on it pass everything up from then on. The pin
 *    of `control` goes last: a writer that is killed in between is followed by one that finds it. */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
	case EINVAL:
	case ENOSYS:
		return "maps of this kind need Linux 5.10";
	default:
		return "see the kernel's log";
	}
}

void mirror_path(const char *name, char *path, size_t size)
{
	const char *last = strrchr(name, '/');
	size_t at = (size_t)snprintf(path, size, PINS "/");

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

static bool fits(int fd, const struct row *row)
{
	struct bpf_map_info info = {0};
	__u32 size = sizeof info;

	return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 && info.type == row->type && info.key_size == 4 &&
	       info.value_size == row->value && info.max_entries == row->entries;
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
		known = known && m->fds[i] >= 0 && fits(m->fds[i], &rows[i]);
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
	munmap(control, 4096);
	if (m->fds[MAP_TABLE] < 0)
		return 0;
	return bpf_map_delete_elem(m->fds[MAP_TABLE], &zero) == 0 || errno == ENOENT ? 0 : -1;
}

int pins_unlink(const struct mirror *m)
{
	char path[PIN_PATH];

	for (unsigned i = 0; i < N_MAPS; i++) {
		pins_path(m, i, path);
		if (unlink(path) != 0 && errno != ENOENT)
			return -1;
	}
	(void)!rmdir(m->path); /* programs may be pinned there too, and stay */
	return 0;
}

/* Does the writer live that stored this? */
static bool writer_lives(const struct mirror_control *c)
{
	uint64_t pid = load64(&c->writer_pid), start = load64(&c->writer_start);

	return pid && pid <= INT32_MAX && start && seg_process_start((pid_t)pid) == start && (pid_t)pid != getpid();
}

/* Writes that programs have under way outlive it. 0, or -1 with errno. */
static int tell_left(struct mirror *m, const struct mirror_left *left)
{
	if (m->fds[MAP_LEASES] < 0 || !fits(m->fds[MAP_CONTROL], &rows[MAP_CONTROL]) ||
	    !fits(m->fds[MAP_LEASES], &rows[MAP_LEASES]))
		return 0; /* of an ABI that had none */
	m->control = map_memory(m->fds[MAP_CONTROL], sizeof *m->control, PROT_READ | PROT_WRITE);
	m->leases = map_memory(m->fds[MAP_LEASES], MIRROR_LEASES * sizeof *m->leases, PROT_READ);
	if (!m->control || !m->leases)
		return -1;
	left->tell(left->arg, m->control, m->leases);
	return 0;
}

int pins_look(struct mirror *m, const uint8_t uuid[16], const struct mirror_left *left, bool take, enum whose *whose,
	      char *text, size_t size)
{
	int there = pins_open(m);
	struct mirror_control *c = NULL;
	bool ours, lives;

	*whose = NOBODYS;
	if (there == 0)
		return 0;
	if (there == -2)
		return mirror_say(
			text, size,
			"the mirror that an earlier writer pinned at %s cannot be opened: %s; packet programs may "
			"answer by it: %s",
			m->path, strerror(errno), mirror_remedy(errno));
	c = map_memory(m->fds[MAP_CONTROL], sizeof *c, PROT_READ);
	if (!c)
		return mirror_say(text, size, "%s/control cannot be mapped: %s; remove %s", m->path, strerror(errno),
				  m->path);
	ours = atomic_load_explicit(SHARED64(&c->magic), memory_order_acquire) == MIRROR_MAGIC &&
	       memcmp(c->uuid, uuid, 16) == 0;
	lives = !ours && load64(&c->magic) == MIRROR_MAGIC && writer_lives(c);
	if (lives)
		mirror_say(text, size,
			   "%s is the mirror of another instance, whose writer runs (pid %llu): give one of them "
			   "another name",
			   m->path, (unsigned long long)load64(&c->writer_pid));
	take = take && there == 1 && ours && c->abi == MIRROR_ABI;
	munmap(c, sizeof *c);
	*whose = ours ? OURS : lives ? RUNS : NOBODYS;
	if (lives)
		return 0;
	if (take)
		return 1;
	if (pins_disable(m) != 0 || tell_left(m, left) != 0 || pins_unlink(m) != 0)
		return mirror_say(text, size,
				  "the mirror at %s cannot be withdrawn: %s; packet programs may answer by it: %s",
				  m->path, strerror(errno), mirror_remedy(errno));
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
