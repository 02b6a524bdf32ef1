/* SPDX-License-Identifier: MIT
 * Brings splice's programs into the kernel: on the instance's mirror, on their own maps, and on the cgroup of this process,
 * from where splice_state sees its sockets end. That link is pinned as splice/state beside the mirror, so that it outlives
 * the process: a process that is killed closes its sockets, and the program ends their leases as unknown. Whoever holds the
 * lock on splice/ is the instance's one splicer, and ends what an earlier one has left open. Called by splice_run.c. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "features.h"
#include "mirror.h"
#include "programs.h"
#include "splice_internal.h"
/* generated: not held to our warnings */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wconversion"
#include "splice.skel.h"
#pragma GCC diagnostic pop

static int fail(char *text, size_t size, const char *what, const char *name, const char *to_do)
{
	snprintf(text, size, "%s %s: %s%s%s", what, name, strerror(errno), *to_do ? ": " : "", to_do);
	return -1;
}

/* The lock, under a number above those of the sockets: a process that ends closes its descriptors in that order, so that
 * the lock is free only when all its connections have ended. */
static int take_lock(struct splicer *s, char *text, size_t size)
{
	struct rlimit files;
	char dir[4096];
	int fd;

	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return fail(text, size, "the limit of", "open files", "");
	if (files.rlim_max > 1u << 18)
		files.rlim_max = 1u << 18;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	mirror_path(s->options->instance, dir, sizeof(dir));
	snprintf(s->pin, sizeof(s->pin), "%s/splice", dir);
	if (mkdir(s->pin, 0700) != 0 && errno != EEXIST)
		return fail(text, size, "cannot make", s->pin, "");
	fd = open(s->pin, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(text, size, "cannot open", s->pin, "");
	s->lock_fd = fcntl(fd, F_DUPFD_CLOEXEC, (int)files.rlim_cur - 1);
	close(fd);
	if (s->lock_fd < 0)
		return fail(text, size, "cannot keep", s->pin, "");
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno != EWOULDBLOCK)
			return fail(text, size, "cannot lock", s->pin, "");
		snprintf(text, size, "%s is locked: another `berth bpf splice` runs for this instance: end it first",
			 s->pin);
		return -1;
	}
	snprintf(s->pin + strlen(s->pin), sizeof(s->pin) - strlen(s->pin), "/state");
	return 0;
}

/* The directory of this process's cgroup in the unified hierarchy. */
static int open_cgroup(char *text, size_t size)
{
	char line[8192], mount[PATH_MAX] = "", path[PATH_MAX] = "", whole[2 * PATH_MAX];
	FILE *f = fopen("/proc/self/mountinfo", "re");
	int fd;

	while (f && !mount[0] && fgets(line, sizeof(line), f)) {
		char *type = strstr(line, " - cgroup2 ");

		if (type && sscanf(line, "%*s %*s %*s %*s %4095s", mount) != 1)
			mount[0] = '\0';
	}
	if (f)
		fclose(f);
	f = fopen("/proc/self/cgroup", "re");
	while (f && !path[0] && fgets(line, sizeof(line), f))
		if (strncmp(line, "0::", 3) == 0)
			snprintf(path, sizeof(path), "%s", strtok(line + 3, "\n"));
	if (f)
		fclose(f);
	if (!mount[0] || !path[0]) {
		snprintf(text, size,
			 "no cgroup2 file system is mounted, and without a cgroup nothing ends the leases of a process "
			 "that is "
			 "killed: `mount -t cgroup2 cgroup2 DIR`");
		return -1;
	}
	snprintf(whole, sizeof(whole), "%s%s", mount, path);
	fd = open(whole, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : fail(text, size, "the cgroup of this process,", whole, "is it visible here?");
}

static void *map_memory(const struct bpf_map *map, size_t len, int protection)
{
	void *memory = mmap(NULL, len, protection, MAP_SHARED, bpf_map__fd(map), 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static int attach(struct splicer *s, char *text, size_t size)
{
	int cgroup, rc;

	if (bpf_prog_attach(bpf_program__fd(s->bpf->progs.splice_client), s->clients_fd, BPF_SK_SKB_VERDICT, 0) != 0 ||
	    bpf_prog_attach(bpf_program__fd(s->bpf->progs.splice_upstream), s->upstreams_fd, BPF_SK_SKB_VERDICT, 0) !=
		    0)
		return fail(text, size, "cannot attach", "splice's programs to their sockets", "");
	cgroup = open_cgroup(text, size);
	if (cgroup < 0)
		return -1;
	s->link = bpf_program__attach_cgroup(s->bpf->progs.splice_state, cgroup);
	close(cgroup);
	if (!s->link)
		return fail(text, size, "cannot attach", "splice_state to this process's cgroup",
			    "CAP_BPF and CAP_NET_ADMIN are needed");
	if (unlink(s->pin) != 0 && errno != ENOENT) /* of one that was killed: all its connections have ended */
		return fail(text, size, "cannot remove", s->pin, "");
	rc = bpf_link__pin(s->link, s->pin);
	if (rc != 0) {
		errno = -rc;
		return fail(text, size, "cannot pin", s->pin, "");
	}
	return 0;
}

int splice_load(struct splicer *s, char *text, size_t size)
{
	s->lock_fd = -1;
	if (features_check(FEATURE_SPLICE, text, size) != 0)
		return -1;
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	s->bpf = splice__open();
	if (!s->bpf)
		return fail(text, size, "cannot open", "splice's programs", "");
	if (programs_use_mirror(s->bpf->obj, s->options->instance, text, size) != 0)
		return -1;
	if (take_lock(s, text, size) != 0)
		return -1;
	memcpy((void *)&s->bpf->rodata->splice_config.tenant, &s->options->tenant, sizeof(s->options->tenant));
	return 0;
}

/* What is open in splice's slots has nobody left to end it: we have the lock, so the process before us has ended. */
static void end_left(struct mirror_lease *leases)
{
	for (uint32_t i = 0; i < SPLICE_CONNECTIONS; i++)
		if (load64(&leases[i].hash) && lease_kind(load64(&leases[i].state)) == LEASE_OPEN)
			lease_make_unknown(&leases[i]);
}

/* And the one that was on a mirror that went, likewise. */
static int end_left_in_pasts(const struct splicer *s, char *text, size_t size)
{
	for (unsigned n = 0; n < MIRROR_PASTS; n++) {
		int fd = mirror_past_leases(s->options->instance, n), e;
		void *leases;

		if (fd < 0 && errno == ENOENT)
			continue;
		leases = fd < 0 ? MAP_FAILED
				: mmap(NULL, SPLICE_CONNECTIONS * sizeof(struct mirror_lease), PROT_READ | PROT_WRITE,
				       MAP_SHARED, fd, 0);
		e = errno;
		if (fd >= 0)
			close(fd);
		errno = e;
		if (leases == MAP_FAILED)
			return fail(text, size, "cannot open", "the leases of a mirror that went",
				    "run it as root, or as the owner of the pins past-* of the instance");
		end_left(leases);
		munmap(leases, SPLICE_CONNECTIONS * sizeof(struct mirror_lease));
	}
	return 0;
}

int splice_load_for(struct splicer *s, unsigned port, char *text, size_t size)
{
	int rc;

	memcpy((void *)&s->bpf->rodata->splice_config.port, &port, sizeof(port));
	rc = splice__load(s->bpf);
	if (rc != 0) {
		errno = -rc;
		return fail(text, size, "cannot load", "splice's programs",
			    "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed");
	}
	s->clients_fd = bpf_map__fd(s->bpf->maps.clients);
	s->upstreams_fd = bpf_map__fd(s->bpf->maps.upstreams);
	s->sockets_fd = bpf_map__fd(s->bpf->maps.sockets);
	s->addresses_fd = bpf_map__fd(s->bpf->maps.addresses);
	s->attention_fd = bpf_map__fd(s->bpf->maps.attention);
	s->connections = map_memory(s->bpf->maps.connections, SPLICE_CONNECTIONS * sizeof(*s->connections),
				    PROT_READ | PROT_WRITE);
	s->leases = map_memory(s->bpf->maps.berth_leases, MIRROR_LEASES * sizeof(*s->leases), PROT_READ | PROT_WRITE);
	s->clusters = map_memory(s->bpf->maps.berth_clusters, MIRROR_CLUSTERS * sizeof(*s->clusters), PROT_READ);
	if (!s->connections || !s->leases || !s->clusters)
		return fail(text, size, "cannot map", "splice's tables", "");
	end_left(s->leases);
	return end_left_in_pasts(s, text, size) == 0 ? attach(s, text, size) : -1;
}

void splice_unload(struct splicer *s)
{
	if (s->link) {
		unlink(s->pin);
		bpf_link__destroy(s->link);
	}
	splice__destroy(s->bpf);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
}
