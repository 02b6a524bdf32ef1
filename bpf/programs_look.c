/* SPDX-License-Identifier: MIT
 * What is loaded and attached (programs.h): read from the pins and what the kernel says of them. Changes nothing. */
#include <bpf/bpf.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "programs_internal.h"

#define MAPS_MAX 64u /* of a program, looked at */

struct look {
	const char *instance;
	const struct programs_dir *dir;
	void (*each)(const struct programs_pin *, void *arg);
	void *arg;
	bool links;              /* this pass: links, or programs */
	uint32_t mirror_maps[2]; /* ids of maps that are pinned now: control, clusters; 0: none */
};

static uint32_t map_id(const char *instance, const char *name)
{
	struct bpf_map_info info = {0};
	struct programs_fault fault;
	uint32_t len = sizeof(info);
	int fd = programs_open_map(instance, name, &fault), rc;

	if (fd < 0)
		return 0;
	rc = bpf_obj_get_info_by_fd(fd, &info, &len);
	close(fd);
	return rc == 0 ? info.id : 0;
}

static void look_at_program(const struct look *look, int fd, struct programs_pin *pin)
{
	uint32_t ids[MAPS_MAX] = {0}, len = sizeof(struct bpf_prog_info);
	struct bpf_prog_info info = {.nr_map_ids = MAPS_MAX, .map_ids = (uintptr_t)ids};
	bool asks = strcmp(pin->program, "steer_mark") != 0, found = false; /* that one copies what steer found */

	if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0) {
		pin->program_id = info.id;
		for (uint32_t i = 0; i < info.nr_map_ids && i < MAPS_MAX; i++)
			found |= ids[i] == look->mirror_maps[0] || ids[i] == look->mirror_maps[1];
		pin->stale = asks && !found;
	}
	programs_config(look->dir, pin->object, &pin->config, sizeof(pin->config));
}

/* The path of a cgroup by its id, below wherever the unified hierarchy is mounted. Needs CAP_DAC_READ_SEARCH. */
static void find_cgroup(uint64_t id, char *path, size_t size)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + sizeof(id)];
	} h = {.handle = {.handle_bytes = sizeof(id), .handle_type = 0xfe /* of kernfs: the id */}};
	struct mntent *m;
	char link[64];

	memcpy(h.room + offsetof(struct file_handle, f_handle), &id, sizeof(id));
	while (mounts && !path[0] && (m = getmntent(mounts))) {
		int mount = strcmp(m->mnt_type, "cgroup2") == 0 ? open(m->mnt_dir, O_RDONLY | O_CLOEXEC) : -1;
		if (mount < 0)
			continue;
		int fd = open_by_handle_at(mount, &h.handle, O_RDONLY | O_CLOEXEC);
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = fd >= 0 ? readlink(link, path, size - 1) : -1;
		path[n > 0 ? n : 0] = '\0';
		if (fd >= 0)
			close(fd);
		close(mount);
	}
	if (mounts)
		endmntent(mounts);
}

static void look_at_link(int fd, const struct programs_name *n, struct programs_pin *pin)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof(info);

	pin->gone = programs_link_gone(fd);
	if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0)
		pin->program_id = info.prog_id;
	if (n->kind == PROGRAMS_CGROUP) {
		pin->cgroup_id = n->number;
		if (!pin->gone)
			find_cgroup(n->number, pin->cgroup, sizeof(pin->cgroup));
		return;
	}
	pin->ifindex = (uint32_t)n->number;
	pin->foreign = n->netns != programs_netns();
	if (!pin->gone && !pin->foreign && !if_indextoname(pin->ifindex, pin->device))
		pin->device[0] = '\0';
}

static int look_at(const char *path, const struct programs_name *n, void *arg)
{
	const struct look *look = arg;
	struct programs_pin *pin;
	int fd;

	if ((n->kind != PROGRAMS_PROGRAM) != look->links || (fd = bpf_obj_get(path)) < 0)
		return 0;
	if ((pin = calloc(1, sizeof(*pin)))) {
		pin->kind = n->kind;
		memcpy(pin->program, n->program, sizeof(pin->program));
		snprintf(pin->object, sizeof(pin->object), "%s", programs_object_of(n->program));
		if (look->links)
			look_at_link(fd, n, pin);
		else
			look_at_program(look, fd, pin);
		look->each(pin, look->arg);
		free(pin);
	}
	close(fd);
	return 0;
}

int programs_each(const char *instance, void (*each)(const struct programs_pin *, void *arg), void *arg,
		  struct programs_fault *fault)
{
	struct programs_dir dir;
	struct look look = {.instance = instance, .dir = &dir, .each = each, .arg = arg};

	if (programs_dir(instance, false, &dir, fault) != 0)
		return -1;
	look.mirror_maps[0] = map_id(instance, "control");
	look.mirror_maps[1] = map_id(instance, "clusters");
	programs_names(&dir, look_at, &look);
	look.links = true;
	programs_names(&dir, look_at, &look);
	close(dir.fd);
	return 0;
}
