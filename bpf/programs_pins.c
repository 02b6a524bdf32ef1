/* SPDX-License-Identifier: MIT
 * The pins of an instance's packet programs (programs.h): their directory, their names, what a link still holds on to.
 * bpffs refuses names with a dot. */
#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "programs_internal.h"

int programs_dir(const char *instance, bool make, struct programs_dir *dir, struct programs_fault *fault)
{
	char mirror[PATH_MAX - 16];

	mirror_path(instance, mirror, sizeof(mirror));
	snprintf(dir->path, sizeof(dir->path), "%s/programs", mirror);
	if (make && mkdir(dir->path, 0700) != 0 && errno != EEXIST) {
		if (errno == EACCES)
			return programs_fail_denied(fault, errno, dir->path, PROGRAMS_TO_READ);
		return programs_fail(fault, "system", "%s cannot be made: %s", dir->path, strerror(errno));
	}
	dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0 && errno == ENOENT)
		return programs_fail(fault, "not-loaded",
				     "no packet program is loaded for this instance: `berth bpf load` does that");
	if (dir->fd < 0 && errno == EACCES)
		return programs_fail_denied(fault, errno, dir->path, PROGRAMS_TO_READ);
	if (dir->fd < 0)
		return programs_fail(fault, "system", "%s cannot be opened: %s", dir->path, strerror(errno));
	return 0;
}

int programs_lock(const char *instance, bool make, struct programs_dir *dir, struct programs_fault *fault)
{
	if (programs_dir(instance, make, dir, fault) != 0)
		return -1;
	if (flock(dir->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	close(dir->fd);
	return programs_fail(fault, "busy", "%s: another process loads or attaches there: try again when it is done",
			     dir->path);
}

void programs_pin_paths(const struct programs_dir *dir, const char *name, char path[PROGRAMS_PATH],
			char beside[PROGRAMS_PATH])
{
	snprintf(path, PROGRAMS_PATH, "%s/%s", dir->path, name);
	snprintf(beside, PROGRAMS_PATH, "%s/%s-new", dir->path, name);
}

int programs_pin_beside(const struct programs_dir *dir, const char *name, int fd)
{
	char path[PROGRAMS_PATH], beside[PROGRAMS_PATH];

	programs_pin_paths(dir, name, path, beside);
	unlink(beside); /* of a load that was killed */
	return bpf_obj_pin(fd, beside) == 0 ? 0 : -errno;
}

int programs_pin_over(const struct programs_dir *dir, const char *name)
{
	char path[PROGRAMS_PATH], beside[PROGRAMS_PATH];

	programs_pin_paths(dir, name, path, beside);
	return rename(beside, path) == 0 ? 0 : -errno;
}

static const char *const modes[] = {
	[PROGRAMS_NATIVE] = "native", [PROGRAMS_GENERIC] = "generic", [PROGRAMS_CGROUP] = "cgroup"};

void programs_link_path(const struct programs_dir *dir, const struct programs_name *n, char path[PROGRAMS_PATH])
{
	size_t at = (size_t)snprintf(path, PROGRAMS_PATH, "%s/%s-%s-%llu", dir->path, n->program, modes[n->kind],
				     (unsigned long long)n->number);

	if (n->kind != PROGRAMS_CGROUP && at < PROGRAMS_PATH)
		snprintf(path + at, PROGRAMS_PATH - at, "-%llu", (unsigned long long)n->netns);
}

/* False: no program and no link. */
static bool parse(const char *name, struct programs_name *n)
{
	unsigned long long number = 0, netns = 0;
	char mode[16];

	memset(n, 0, sizeof(*n));
	int fields = sscanf(name, "%31[a-z0-9_]-%15[a-z]-%llu-%llu", n->program, mode, &number, &netns);
	if (fields == 1)
		return strcmp(name, n->program) == 0;
	n->number = number;
	n->netns = netns;
	for (n->kind = PROGRAMS_NATIVE; n->kind <= PROGRAMS_CGROUP; n->kind++)
		if (fields == (n->kind == PROGRAMS_CGROUP ? 3 : 4) && strcmp(mode, modes[n->kind]) == 0)
			return true;
	return false;
}

int programs_names(const struct programs_dir *dir,
		   int (*each)(const char *path, const struct programs_name *, void *arg), void *arg)
{
	char path[PROGRAMS_PATH];
	struct programs_name n;
	struct dirent **list = NULL;
	int count = scandir(dir->path, &list, NULL, alphasort), rc = 0;

	if (count < 0)
		return -errno;
	for (int i = 0; i < count; i++) {
		const char *name = list[i]->d_name;
		if (rc == 0 && name[0] != '.' && parse(name, &n)) {
			snprintf(path, sizeof(path), "%s/%s", dir->path, name);
			rc = each(path, &n, arg);
		}
		free(list[i]);
	}
	free(list);
	return rc;
}

static const char *const names[] = {"steer", "connect"};

/* What a load that was killed has pinned beside the pin that it was to replace. */
static void forget_beside(const struct programs_dir *dir, const char *object)
{
	char path[PROGRAMS_PATH];
	struct dirent **list = NULL;
	int count = scandir(dir->path, &list, NULL, NULL);

	for (int i = 0; i < count; i++) {
		const char *name = list[i]->d_name;
		size_t len = strlen(name);

		if (len > 4 && strcmp(name + len - 4, "-new") == 0 &&
		    (!object || strcmp(programs_object_of(name), object) == 0)) {
			snprintf(path, sizeof(path), "%s/%s", dir->path, name);
			unlink(path);
		}
		free(list[i]);
	}
	free(list);
}

void programs_forget(const struct programs_dir *dir, const char *object)
{
	char path[PROGRAMS_PATH];

	forget_beside(dir, object);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (object && strcmp(object, names[i]) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s-config", dir->path, names[i]);
		unlink(path);
	}
	rmdir(dir->path); /* fails while something is in it */
}

const char *programs_object_of(const char *program)
{

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strncmp(program, names[i], strlen(names[i])) == 0)
			return names[i];
	return program;
}

uint64_t programs_netns(void)
{
	struct stat st;

	return stat("/proc/self/ns/net", &st) == 0 ? st.st_ino : 0;
}

bool programs_link_gone(int fd)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len) != 0)
		return false;
	return info.type == BPF_LINK_TYPE_XDP ? info.xdp.ifindex == 0 : info.cgroup.cgroup_id == 0;
}
