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
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../shm/segment.h"

#define BPFFS_MAGIC 0xcafe4a11
#ifdef __x86_64__
#define IN_ORDER true
#else
#define IN_ORDER false
#endif

static int make(struct mirror *m, const uint8_t uuid[16], const uint64_t secret[4], char *text, size_t size)
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
	memcpy(m->control->secret, secret, sizeof m->control->secret);
	atomic_store_explicit(SHARED64(&m->control->magic), MIRROR_MAGIC, memory_order_release);
	/* Tenants' names are in them: their directory is for its owner. */
	if ((mkdir(PINS, 0755) != 0 && errno != EEXIST) || (mkdir(m->path, 0700) != 0 && errno != EEXIST) ||
	    pins_unlink(m) != 0 || (mkdir(m->path, 0700) != 0 && errno != EEXIST))
		return mirror_say(text, size, "cannot make %s: %s; %s", m->path, strerror(errno), mirror_remedy(errno));
	for (unsigned i = 0; i < N_MAPS; i++) {
		pins_path(m, i, path);
		if (bpf_obj_pin(m->fds[i], path) != 0) {
			int e = errno;

			(void)!pins_unlink(m);
			return mirror_say(text, size, "cannot pin %s: %s; %s", path, strerror(e), mirror_remedy(e));
		}
	}
	return 0;
}

static bool bpffs_there(void)
{
	struct statfs fs;

	return statfs(BPFFS, &fs) == 0 && (unsigned long)fs.f_type == BPFFS_MAGIC;
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
	enum whose whose;
	int rc;

	*out = NULL;
	if (!m)
		return mirror_say(text, size, "no memory");
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
	rc = pins_look(m, uuid, left, true, &whose, text, size);
	if (rc == 1 && pins_map(m) != 0)
		rc = mirror_say(text, size, "the maps at %s cannot be mapped: %s; %s", m->path, strerror(errno),
				mirror_remedy(errno));
	else if (rc == 0)
		rc = whose == RUNS ? -1 : make(m, uuid, secret, text, size);
	if (rc >= 0 && mirror_thread_start(m) != 0)
		rc = mirror_say(text, size, "the mirror's thread does not start: %s; %s", strerror(errno),
				mirror_remedy(errno));
	if (rc < 0) {
		mirror_close(&m);
		return -1;
	}
	store64(&m->control->writer_pid, (uint64_t)getpid());
	store64(&m->control->writer_start, seg_process_start(getpid()));
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
	int rc;

	prepare(&m, name);
	if (!bpffs_there())
		return 0;
	rc = pins_look(&m, uuid, left, false, &whose, text, size);
	pins_let_go(&m);
	return rc < 0 ? -1 : whose == OURS;
}

/* ---- state ---- */

int mirror_suspend(struct mirror *m)
{
	atomic_store_explicit(SHARED64(&m->control->state), 0, memory_order_seq_cst);
	return mirror_grace(m); /* G1 */
}

void mirror_enable(struct mirror *m, uint64_t termgen)
{
	if (!mirror_is_off(m)) /* Release: whoever loads it finds the clusters, the default and the entries */
		atomic_store_explicit(SHARED64(&m->control->state), termgen, memory_order_release);
}

void mirror_switch_off(struct mirror *m)
{
	atomic_store_explicit(&m->off, true, memory_order_release);
	atomic_store_explicit(SHARED64(&m->control->state), 0, memory_order_seq_cst);
	(void)!mirror_grace(m);
}

bool mirror_is_off(const struct mirror *m)
{
	return !m || atomic_load_explicit(&m->off, memory_order_acquire);
}

bool mirror_gated(const struct mirror *m)
{
	return m && atomic_load_explicit(SHARED64(&m->control->gated), memory_order_acquire) != 0;
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
