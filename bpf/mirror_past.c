/* SPDX-License-Identifier: MIT
 * Mirrors that went while programs had leases open in them (mirror.h). Their programs admit nothing any more, but what
 * they have under way goes on, for as long as a client takes to send it and a node to answer, and ends in the same maps. So
 * `leases` and `control` stay pinned, as past-N-leases and past-N-control beside where they were, until nothing is open.
 *
 * G1 The past pins are there before what was under way is told to anybody and before the old pins go. A writer that is
 *    killed in between finds the old ones, and the next takes the same N: it is the same map; or it takes the mirror over,
 *    and then that is no past one (mirror_pasts_clean). `control` comes last and goes first, so that one that is there has
 *    its leases, and leases without it are nobody's. */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/lease.h"

static void past_path(const char *dir, unsigned n, enum mirror_map map, char path[PIN_PATH + 32])
{
	snprintf(path, PIN_PATH + 32, "%s/past-%u-%s", dir, n, pins_name(map));
}

bool mirror_any_open(const struct mirror_control *control, const struct mirror_lease *leases)
{
	uint64_t high = load64(&control->lease_high);

	for (uint64_t i = 0; i < high && i < MIRROR_LEASES; i++)
		if (load64(&leases[i].hash) && lease_kind(load64(&leases[i].state)) != LEASE_UNKNOWN)
			return true;
	return false;
}

static bool same_map(int fd, const char *path)
{
	int other = bpf_obj_get(path);
	uint32_t id = other < 0 ? 0 : pins_id(other);
	bool same = id && id == pins_id(fd);

	if (other >= 0)
		close(other);
	return same;
}

static int pin_again(int fd, const char *path)
{
	if (same_map(fd, path))
		return 0;
	if (unlink(path) != 0 && errno != ENOENT)
		return -1;
	CRASH_POINT(past_unpinned);
	if (bpf_obj_pin(fd, path) != 0)
		return -1;
	CRASH_POINT(past_pinned);
	return 0;
}

int mirror_past_keep(const struct mirror *m)
{
	char path[PIN_PATH + 32];
	struct stat st;

	if (!mirror_any_open(m->control, m->leases))
		return 0;
	for (unsigned n = 0; n < MIRROR_PASTS; n++) {
		past_path(m->path, n, MAP_CONTROL, path);
		if (stat(path, &st) == 0 && !same_map(m->fds[MAP_CONTROL], path))
			continue;
		past_path(m->path, n, MAP_LEASES, path);
		if (pin_again(m->fds[MAP_LEASES], path) != 0)
			return -1;
		CRASH_POINT(past_leases_pinned);
		past_path(m->path, n, MAP_CONTROL, path);
		if (pin_again(m->fds[MAP_CONTROL], path) != 0)
			return -1;
		CRASH_POINT(past_control_pinned);
		return 1;
	}
	return 0;
}

/* One of them. 1; 0: there is none of this root; -1 with errno. */
static int open_one(const char *dir, unsigned n, const uint8_t uuid[16], struct mirror_past *past)
{
	char path[PIN_PATH + 32];
	struct mirror_control *control;
	const struct mirror_lease *leases;
	struct stat st;
	int fd, e;

	past_path(dir, n, MAP_CONTROL, path);
	if (stat(path, &st) != 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	fd = bpf_obj_get(path);
	if (fd < 0)
		return -1;
	control = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
	e = errno;
	close(fd);
	errno = e;
	if (control == MAP_FAILED)
		return -1;
	if (memcmp(control->uuid, uuid, 16) != 0) {
		munmap(control, sizeof *control);
		return 0;
	}
	past_path(dir, n, MAP_LEASES, path);
	fd = bpf_obj_get(path);
	leases = fd < 0 ? MAP_FAILED : mmap(NULL, MIRROR_LEASES * sizeof *leases, PROT_READ, MAP_SHARED, fd, 0);
	e = errno;
	if (fd >= 0)
		close(fd);
	else if (e == ENOENT)
		leases = NULL;
	if (leases == MAP_FAILED) {
		munmap(control, sizeof *control);
		errno = e;
		return -1;
	}
	*past = (struct mirror_past){.control = control, .leases = leases};
	return 1;
}

int mirror_pasts_open(const char *name, const uint8_t uuid[16], struct mirror_past pasts[MIRROR_PASTS])
{
	char dir[sizeof((struct mirror *)0)->path];
	int n = 0, rc;

	mirror_path(name, dir, sizeof dir);
	for (unsigned i = 0; i < MIRROR_PASTS; i++) {
		if (pasts[i].control)
			continue;
		rc = open_one(dir, i, uuid, &pasts[i]);
		if (rc < 0)
			return -1;
		n += rc;
	}
	return n;
}

void mirror_past_close(struct mirror_past *past)
{
	if (past->control)
		munmap(past->control, sizeof *past->control);
	if (past->leases)
		munmap((void *)(uintptr_t)past->leases, MIRROR_LEASES * sizeof *past->leases);
	*past = (struct mirror_past){NULL, NULL};
}

static void unpin_leases(const char *dir, unsigned n)
{
	char path[PIN_PATH + 32];

	past_path(dir, n, MAP_LEASES, path);
	unlink(path);
	CRASH_POINT(past_leases_unpinned);
	rmdir(dir); /* when it was the last thing there */
	CRASH_POINT(past_directory_removed);
}

static void unpin(const char *dir, unsigned n)
{
	char path[PIN_PATH + 32];

	past_path(dir, n, MAP_CONTROL, path);
	if (unlink(path) != 0) /* it is found again, and clear */
		return;
	CRASH_POINT(past_control_unpinned);
	unpin_leases(dir, n);
}

void mirror_past_forget(const char *name, struct mirror_past pasts[MIRROR_PASTS], unsigned n)
{
	char dir[sizeof((struct mirror *)0)->path];

	if (!pasts[n].control)
		return;
	mirror_path(name, dir, sizeof dir);
	unpin(dir, n);
	mirror_past_close(&pasts[n]);
}

void mirror_pasts_clean(const char *name, const struct mirror *m)
{
	char dir[sizeof((struct mirror *)0)->path], path[PIN_PATH + 32];
	struct stat st;
	bool alone;

	mirror_path(name, dir, sizeof dir);
	/* Another instance of this name pins its pasts while its `control` is there. */
	snprintf(path, sizeof path, "%s/%s", dir, pins_name(MAP_CONTROL));
	alone = m || (stat(path, &st) != 0 && errno == ENOENT);
	for (unsigned n = 0; alone && n < MIRROR_PASTS; n++) {
		past_path(dir, n, MAP_CONTROL, path);
		if (stat(path, &st) == 0) {
			if (m && same_map(m->fds[MAP_CONTROL], path))
				unpin(dir, n);
		} else if (errno == ENOENT) {
			past_path(dir, n, MAP_LEASES, path);
			if (stat(path, &st) == 0)
				unpin_leases(dir, n);
		}
	}
}

int mirror_past_leases(const char *name, unsigned n)
{
	char dir[sizeof((struct mirror *)0)->path], path[PIN_PATH + 32];
	int fd;

	mirror_path(name, dir, sizeof dir);
	past_path(dir, n, MAP_LEASES, path);
	fd = bpf_obj_get(path);
	if (fd < 0 || pins_fit(fd, MAP_LEASES))
		return fd;
	close(fd);
	errno = EPROTO;
	return -1;
}
