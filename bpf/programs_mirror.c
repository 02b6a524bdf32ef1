/* SPDX-License-Identifier: MIT
 * The way from an instance to the maps that berthd has pinned for it (programs.h): what is missing there, said so that it
 * can be mended; maps given to an object; the counts read. Changes nothing. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "programs_internal.h"

#define PREFIX "berth_"

int programs_fail(struct programs_fault *fault, const char *code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(fault->text, sizeof(fault->text), format, arguments);
	va_end(arguments);
	fault->code = code;
	return -1;
}

/* Why there is no pin of the mirror: the nearest cause. */
static int fail_no_mirror(const char *path, struct programs_fault *fault)
{
	struct statfs fs;

	if (statfs(PROGRAMS_BPFFS, &fs) != 0 || (unsigned long)fs.f_type != BPF_FS_MAGIC)
		return programs_fail(fault, "no-bpffs",
				     PROGRAMS_BPFFS " is no BPF file system: `mount -t bpf bpf " PROGRAMS_BPFFS
						    "`, then start berthd with --bpf (`ip netns exec` hides it: use "
						    "`nsenter --net=/run/netns/NAME` there)");
	return programs_fail(
		fault, "no-mirror",
		"%s: the instance has no mirror for packet programs: start its berthd with --bpf, and look "
		"for `bpf-off` in its log when that is how it runs",
		path);
}

int programs_open_map(const char *instance, const char *name, struct programs_fault *fault)
{
	char dir[PATH_MAX], path[PATH_MAX + 64];

	mirror_path(instance, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = bpf_obj_get(path);
	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENOTDIR)
		return fail_no_mirror(dir, fault);
	if (errno == EPERM || errno == EACCES)
		return programs_fail_denied(fault, errno, path, PROGRAMS_TO_READ);
	return programs_fail(fault, "system", "%s cannot be opened: %s", path, strerror(errno));
}

int programs_mirror(const char *instance, struct mirror_control *control, struct programs_fault *fault)
{
	uint32_t zero = 0;
	int fd = programs_open_map(instance, "control", fault);

	if (fd < 0)
		return -1;
	int rc = bpf_map_lookup_elem(fd, &zero, control);
	close(fd);
	if (rc != 0)
		return programs_fail(fault, "system", "the mirror's control cannot be read: %s", strerror(-rc));
	if (control->magic != MIRROR_MAGIC || control->abi != MIRROR_ABI)
		return programs_fail(fault, "no-mirror",
				     "the mirror is of another version (%u, this is %u): start berthd of this version "
				     "with --bpf",
				     control->abi, MIRROR_ABI);
	return 0;
}

int programs_check_mirror(const char *instance, struct programs_fault *fault)
{
	struct mirror_control control;

	return programs_mirror(instance, &control, fault);
}

int programs_take_maps(struct bpf_object *object, const char *instance, struct programs_fault *fault)
{
	struct bpf_map *map;

	if (programs_check_mirror(instance, fault) != 0)
		return -1;
	bpf_object__for_each_map(map, object)
	{
		const char *name = bpf_map__name(map);

		if (bpf_map__is_internal(map) || strncmp(name, PREFIX, strlen(PREFIX)) != 0)
			continue;
		int fd = programs_open_map(instance, name + strlen(PREFIX), fault);
		if (fd < 0)
			return -1;
		int rc = bpf_map__reuse_fd(map, fd); /* has its own descriptor */
		close(fd);
		if (rc != 0)
			return programs_fail(fault, "system", "map %s cannot be used: %s", name, strerror(-rc));
	}
	return 0;
}

int programs_use_mirror(struct bpf_object *object, const char *instance, char *text, size_t size)
{
	struct programs_fault fault;
	int rc = programs_take_maps(object, instance, &fault);

	if (rc != 0)
		snprintf(text, size, "%s", fault.text);
	return rc;
}

/* ---- counts ---- */

/* Sums the values of one key, each of n words, over the processors. */
static int add_up(int fd, uint32_t key, uint64_t *values, size_t n, int n_cpus, uint64_t *sum)
{
	int rc = bpf_map_lookup_elem(fd, &key, values);

	for (int cpu = 0; rc == 0 && cpu < n_cpus; cpu++)
		for (size_t i = 0; i < n; i++)
			sum[i] += values[(size_t)cpu * n + i];
	return rc;
}

int programs_stats(const char *instance, struct programs_stats *stats, struct programs_fault *fault)
{
	enum { WORDS = sizeof(struct mirror_counts) / sizeof(uint64_t) };
	int n_cpus = libbpf_num_possible_cpus(), counts = -1, events = -1, rc = -1;
	uint64_t *values = n_cpus > 0 ? calloc((size_t)n_cpus, sizeof(struct mirror_counts)) : NULL;

	memset(stats, 0, sizeof(*stats));
	if (!values)
		return programs_fail(fault, "system", "out of memory, or the number of processors is not known");
	if (programs_check_mirror(instance, fault) != 0 || (counts = programs_open_map(instance, "stats", fault)) < 0 ||
	    (events = programs_open_map(instance, "events", fault)) < 0)
		goto out;
	rc = 0;
	for (uint32_t key = 0; rc == 0 && key < MIRROR_STATS; key++)
		rc = add_up(counts, key, values, WORDS, n_cpus, (uint64_t *)(void *)&stats->counts[key]);
	for (uint32_t key = 0; rc == 0 && key < MIRROR_EVENTS; key++)
		rc = add_up(events, key, values, 1, n_cpus, &stats->events[key]);
	if (rc != 0)
		rc = programs_fail(fault, "system", "the counts cannot be read: %s", strerror(-rc));
out:
	if (counts >= 0)
		close(counts);
	if (events >= 0)
		close(events);
	free(values);
	return rc;
}

/* ---- leases ---- */

static void count_leases(const struct mirror_control *control, const struct mirror_lease *leases,
			 struct programs_leases *n)
{
	uint64_t high = *(const volatile __u64 *)&control->lease_high,
		 overflow = *(const volatile __u64 *)&control->overflow_ms;

	for (uint64_t i = 0; i < high && i < MIRROR_LEASES; i++) {
		if (!*(const volatile __u64 *)&leases[i].hash)
			continue;
		if (lease_kind(*(const volatile __u64 *)&leases[i].state) == LEASE_UNKNOWN)
			n->n_unknown++;
		else
			n->n_open++;
	}
	n->overflow_ms = overflow > n->overflow_ms ? overflow : n->overflow_ms;
	n->gated |= *(const volatile __u64 *)&control->gated != 0;
}

int programs_leases(const char *instance, const uint8_t uuid[16], struct programs_leases *n)
{
	struct mirror_past pasts[MIRROR_PASTS] = {{NULL, NULL}};
	const size_t size = MIRROR_LEASES * sizeof(struct mirror_lease);
	struct mirror_control control;
	struct programs_fault fault;
	int there = mirror_pasts_open(instance, uuid, pasts);

	memset(n, 0, sizeof(*n));
	for (unsigned i = 0; i < MIRROR_PASTS; i++) {
		if (pasts[i].leases)
			count_leases(pasts[i].control, pasts[i].leases, n);
		mirror_past_close(&pasts[i]);
	}
	if (programs_mirror(instance, &control, &fault) == 0 && memcmp(control.uuid, uuid, 16) == 0) {
		int fd = programs_open_map(instance, "leases", &fault);
		void *leases = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

		if (fd >= 0)
			close(fd);
		if (leases == MAP_FAILED)
			return -1;
		count_leases(&control, leases, n);
		munmap(leases, size);
		there = 1;
	}
	return there > 0 ? 0 : -1;
}
