/* SPDX-License-Identifier: MIT
 * The maps of an instance, made or taken over, and the state that says whether programs may answer. Called through mirror.h
 * by the control thread, at a start, a flip and a stop. What is pinned is mirror_pins.c's.
 *
 * Made in this order: maps, identity, pins, the pin of `control` last. So a `control` that is pinned has all of the others,
 * and whoever finds none finds nothing that answers.
 *
 * G1 control.state is 0 from mirror_suspend to mirror_enable, and a kernel grace period lies behind mirror_suspend's
 *    store: no program that loaded another state before still runs (M5). */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"
#include "features.h"

#define BPFFS_MAGIC 0xcafe4a11
#ifdef __x86_64__
#define IN_ORDER true
#else
#define IN_ORDER false
#endif

static int make(struct mirror *m, const uint8_t uuid[16], const uint64_t secret[4], const char *whole, char *text,
		size_t size)
{
	char path[PIN_PATH];

	for (unsigned i = 0; i < N_MAPS; i++) {
		m->fds[i] = pins_create(i);
		if (m->fds[i] < 0)
			return mirror_say(text, size, "the kernel makes no map `%s`: %s; %s", pins_name(i),
					  strerror(errno), mirror_remedy(errno));
	}
	if (pins_map(m) != 0)
		return mirror_say(text, size, "the maps cannot be mapped: %s; %s", strerror(errno),
				  mirror_remedy(errno));
	m->control->abi = MIRROR_ABI;
	memcpy(m->control->uuid, uuid, 16);
	memcpy(m->control->path, whole, strlen(whole) + 1);
	memcpy(m->control->secret, secret, sizeof m->control->secret);
	CRASH_POINT(mirror_control_filled);
	atomic_store_explicit(SHARED64(&m->control->magic), MIRROR_MAGIC, memory_order_release);
	CRASH_POINT(mirror_magic_stored);
	/* Tenants' names are in them: their directory is for its owner. */
	if ((mkdir(PINS, 0755) != 0 && errno != EEXIST) || (mkdir(m->path, 0700) != 0 && errno != EEXIST) ||
	    pins_unlink(m) != 0 || (mkdir(m->path, 0700) != 0 && errno != EEXIST))
		return mirror_say(text, size, "cannot make %s: %s; %s", m->path, strerror(errno), mirror_remedy(errno));
	CRASH_POINT(mirror_directory_made);
	for (unsigned i = 0; i < N_MAPS; i++) {
		pins_path(m, i, path);
		if (bpf_obj_pin(m->fds[i], path) != 0) {
			int e = errno;

			(void)!pins_unlink(m);
			return mirror_say(text, size, "cannot pin %s: %s; %s", path, strerror(e), mirror_remedy(e));
		}
		CRASH_POINT(map_pinned);
	}
	return 0;
}

static bool bpffs_there(void)
{
	struct statfs fs;

	return statfs(BPFFS, &fs) == 0 && (unsigned long)fs.f_type == BPFFS_MAGIC;
}

/* Programs' leases have the host's clock in them, whatever this process is shown (time_namespaces(7)). */
static bool clock_is_the_hosts(void)
{
	FILE *f = fopen("/proc/self/timens_offsets", "re"); /* not there: no time namespaces */
	long long s = 0, ns = 0;

	if (f && fscanf(f, "monotonic %lld %lld", &s, &ns) != 2)
		s = ns = 0;
	if (f)
		fclose(f);
	return s == 0 && ns == 0;
}

static void prepare(struct mirror *m, const char *name)
{
	*m = (struct mirror){.t = {.grace_fd = -1, .grace_inner_fd = -1}};
	for (unsigned i = 0; i < N_MAPS; i++)
		m->fds[i] = -1;
	mirror_path(name, m->path, sizeof m->path);
}

int mirror_open(const char *name, const uint8_t uuid[16], const uint64_t secret[4], const struct mirror_left *left,
		struct mirror **out, char *text, size_t size)
{
	struct mirror *m = malloc(sizeof *m);
	char whole[PATH_MAX];
	enum whose whose;
	int rc;

	*out = NULL;
	if (!m)
		return mirror_say(text, size, "no memory for the mirror: give the daemon more");
	prepare(m, name);
	if (!IN_ORDER) {
		free(m);
		return mirror_say(text, size,
				  "packet programs load in order on x86-64 alone: use it, or do without --bpf");
	}
	if (!bpffs_there()) {
		free(m);
		return mirror_say(text, size, "there is no BPF file system at " BPFFS ": mount -t bpf bpf " BPFFS);
	}
	if (!clock_is_the_hosts()) {
		free(m);
		return mirror_say(text, size,
				  "packet programs have the host's CLOCK_MONOTONIC, and this time namespace another "
				  "one: start berthd outside of it, or do without --bpf");
	}
	if (!realpath(name, whole) || strlen(whole) >= MIRROR_INSTANCE_MAX) {
		free(m);
		return mirror_say(text, size, "no absolute path of less than %u bytes for %.200s: give a shorter --dir",
				  MIRROR_INSTANCE_MAX, name);
	}
	rc = pins_look(m, uuid, secret, left, &whose, text, size);
	if (rc == 1 && pins_map(m) != 0)
		rc = mirror_say(text, size, "the maps at %s cannot be mapped: %s; %s", m->path, strerror(errno),
				mirror_remedy(errno));
	else if (rc == 0) /* one that stands needs no kernel that could make it */
		rc = whose == THEIRS || features_check(FEATURE_MIRROR, text, size) != 0
			     ? -1
			     : make(m, uuid, secret, whole, text, size);
	if (rc >= 0 && mirror_thread_start(m) != 0)
		rc = mirror_say(text, size, "the mirror's thread does not start: %s; %s", strerror(errno),
				mirror_remedy(errno));
	if (rc < 0) {
		mirror_close(&m);
		return -1;
	}
	store64(&m->control->writer_pid, (uint64_t)getpid());
	CRASH_POINT(mirror_pid_stored);
	store64(&m->control->writer_start, seg_process_start(getpid()));
	CRASH_POINT(mirror_start_stored);
	memcpy(m->control->path, whole, strlen(whole) + 1); /* one that was taken over may have moved */
	CRASH_POINT(mirror_path_stored);
	*out = m;
	return whose == OURS;
}

void mirror_close(struct mirror **mp)
{
	struct mirror *m = *mp;

	if (!m)
		return;
	mirror_thread_stop(m);
	pins_let_go(m);
	free(m);
	*mp = NULL;
}

int mirror_withdraw(const char *name, const uint8_t uuid[16], const struct mirror_left *left, char *text, size_t size)
{
	struct mirror m;
	enum whose whose;
	int rc, e;

	prepare(&m, name);
	if (!bpffs_there())
		return 0;
	rc = pins_look(&m, uuid, NULL, left, &whose, text, size);
	e = errno;
	pins_let_go(&m);
	errno = e;
	return rc < 0 ? -1 : whose == OURS;
}

/* ---- state ---- */

int mirror_suspend(struct mirror *m)
{
	atomic_store_explicit(SHARED64(&m->control->state), 0, memory_order_seq_cst);
	CRASH_POINT(mirror_suspended);
	return mirror_grace(m); /* G1 */
}

void mirror_enable(struct mirror *m, uint64_t termgen)
{
	if (!mirror_is_off(m)) /* Release: whoever loads it finds the clusters, the default and the entries */
		atomic_store_explicit(SHARED64(&m->control->state), termgen, memory_order_release);
	CRASH_POINT(mirror_enabled);
}

int mirror_switch_off(struct mirror *m)
{
	const __u32 zero = 0;

	atomic_store_explicit(&m->off, true, memory_order_release);
	atomic_store_explicit(SHARED64(&m->control->state), 0, memory_order_seq_cst);
	/* The delete waits for programs as an update does; it fails when there is no element, too. */
	return bpf_map_delete_elem(m->fds[MAP_TABLE], &zero) == 0 ? 0 : mirror_grace(m);
}

int mirror_mend(struct mirror *m, struct mirror_table *t, const uint64_t secret[4], uint64_t termgen)
{
	/* Acquire: off is stored before the 0 that it means (mirror_switch_off, of the mirror's thread). */
	uint64_t state = atomic_load_explicit(SHARED64(&m->control->state), memory_order_acquire);
	bool same = (state == termgen || mirror_is_off(m)) && mirror_head_true(t);

	for (unsigned i = 0; i < 4; i++)
		same = same && load64(&m->control->secret[i]) == secret[i];
	if (same)
		return 0;
	if (mirror_suspend(m) != 0) {
		int e = errno;

		(void)!mirror_switch_off(m);
		errno = e;
		return -1;
	}
	for (unsigned i = 0; i < 4; i++)
		store64(&m->control->secret[i], secret[i]);
	mirror_head_store(t);
	mirror_enable(m, termgen);
	return 1;
}

bool mirror_is_off(const struct mirror *m)
{
	return !m || atomic_load_explicit(&m->off, memory_order_acquire);
}

bool mirror_gated(const struct mirror *m)
{
	return m && atomic_load_explicit(SHARED64(&m->control->gated), memory_order_acquire) != 0;
}

uint32_t mirror_id(const struct mirror *m)
{
	return pins_id(m->fds[MAP_CONTROL]);
}

const char *mirror_pins(const struct mirror *m)
{
	return m->path;
}

struct mirror_control *mirror_control(const struct mirror *m)
{
	return m->control;
}

const struct mirror_lease *mirror_leases(const struct mirror *m)
{
	return m->leases;
}
