/* SPDX-License-Identifier: MIT
 * Attaching and detaching (programs.h). What is attached is a bpf_link whose pin alone holds it: it outlives whoever made
 * it, and ends when it is unpinned, or with its device or cgroup. */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "programs_internal.h"

/* Is there a link that does something? One that does nothing any more is unpinned. */
static bool attached(const struct programs_dir *dir, const struct programs_name *n)
{
	char path[PROGRAMS_PATH];

	programs_link_path(dir, n, path);
	int fd = bpf_obj_get(path);
	if (fd < 0)
		return false;
	bool gone = programs_link_gone(fd);
	close(fd);
	if (gone)
		unlink(path);
	return !gone;
}

static int open_program(const struct programs_dir *dir, const char *program, struct programs_fault *fault)
{
	char path[PROGRAMS_PATH];
	const char *object = programs_object_of(program);

	snprintf(path, sizeof(path), "%s/%s", dir->path, program);
	int fd = bpf_obj_get(path);
	if (fd >= 0)
		return fd;
	if (errno == ENOENT)
		return programs_fail(fault, "not-loaded", "%s is not loaded: `berth bpf load %s` does that", object,
				     object);
	return programs_fail_denied(fault, errno, path, PROGRAMS_TO_READ);
}

/* 0, or a negative errno of bpf_link_create or the pinning; then nothing is attached. */
static int link_pinned(const struct programs_dir *dir, const struct programs_name *n, int program_fd, int target,
		       enum bpf_attach_type type, uint32_t flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = flags);
	char path[PROGRAMS_PATH];
	int fd = bpf_link_create(program_fd, target, type, &opts), rc;

	if (fd < 0)
		return -errno;
	programs_link_path(dir, n, path);
	rc = bpf_obj_pin(fd, path) == 0 ? 0 : -errno;
	if (rc != 0)
		bpf_link_detach(fd);
	close(fd);
	return rc;
}

/* ---- a device ---- */

static int fail_device(const char *device, bool generic, int error, struct programs_fault *fault)
{
	char what[64];

	snprintf(what, sizeof(what), "steer on %s", device);
	if (error == EPERM || error == EACCES)
		return programs_fail_denied(fault, error, what, PROGRAMS_TO_ATTACH);
	if (error == EBUSY || error == EEXIST)
		return programs_fail(
			fault, "in-use",
			"%s: the device has an XDP program already, and takes one: `ip link show %s` names "
			"it; detach that first",
			what, device);
	if (!generic && error == EOPNOTSUPP)
		return programs_fail(fault, "no-native-mode",
				     "%s: its driver has no native XDP, or not as the device is set up: attach it with "
				     "--mode generic",
				     what);
	return programs_fail(fault, "system", "%s cannot be attached: %s%s", what, strerror(error),
			     generic ? "" : ": the driver may want a smaller MTU; --mode generic does without it");
}

int programs_attach_steer(const char *instance, const char *device, bool generic, struct programs_fault *fault)
{
	struct programs_name n = {.kind = generic ? PROGRAMS_GENERIC : PROGRAMS_NATIVE, .program = "steer"}, other;
	struct programs_dir dir;
	unsigned ifindex = if_nametoindex(device);
	int rc = -1, program;

	if (!ifindex)
		return programs_fail(fault, "unknown-device",
				     "there is no network device %s here: `ip link` lists those of this namespace",
				     device);
	if (programs_check_mirror(instance, fault) != 0 || programs_lock(instance, false, &dir, fault) != 0)
		return -1;
	n.number = ifindex;
	n.netns = programs_netns();
	other = n;
	other.kind = generic ? PROGRAMS_NATIVE : PROGRAMS_GENERIC;
	if ((program = open_program(&dir, n.program, fault)) < 0)
		goto out;
	if (attached(&dir, &other)) {
		programs_fail(fault, "in-use",
			      "steer is on %s already, in %s mode: `berth bpf detach steer --dev %s` first", device,
			      generic ? "native" : "generic", device);
	} else if (attached(&dir, &n)) {
		rc = 0;
	} else {
		rc = link_pinned(&dir, &n, program, (int)ifindex, BPF_XDP,
				 generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE);
		if (rc != 0)
			rc = fail_device(device, generic, -rc, fault);
	}
	close(program);
out:
	close(dir.fd);
	return rc;
}

/* ---- a cgroup ---- */

static const struct {
	const char *program;
	enum bpf_attach_type type;
} hooks[] = {{"connect4", BPF_CGROUP_INET4_CONNECT}, {"connect6", BPF_CGROUP_INET6_CONNECT}};
enum { HOOKS = sizeof(hooks) / sizeof(hooks[0]) };

/* A directory of the unified hierarchy: its id, and a descriptor. */
static int open_cgroup(const char *path, uint64_t *id, struct programs_fault *fault)
{
	struct statfs fs;
	struct stat st;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return programs_fail(fault, "unknown-cgroup",
				     "cgroup %s cannot be opened: %s: give the path of its directory", path,
				     strerror(errno));
	if (fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == CGROUP2_SUPER_MAGIC && fstat(fd, &st) == 0) {
		*id = st.st_ino;
		return fd;
	}
	close(fd);
	return programs_fail(fault, "unknown-cgroup",
			     "%s is no cgroup of the unified hierarchy: `findmnt -t cgroup2` says where that is", path);
}

static int fail_cgroup(const char *cgroup, int error, struct programs_fault *fault)
{
	if (error == EPERM && !programs_lacks(PROGRAMS_TO_ATTACH))
		return programs_fail(
			fault, "in-use",
			"connect on %s: a program on this cgroup or above it allows no other: `bpftool cgroup "
			"tree` shows it; detach that first",
			cgroup);
	if (error == EPERM || error == EACCES)
		return programs_fail_denied(fault, error, cgroup, PROGRAMS_TO_ATTACH);
	return programs_fail(fault, "system", "connect cannot be attached to %s: %s", cgroup, strerror(error));
}

int programs_attach_connect(const char *instance, const char *cgroup, struct programs_fault *fault)
{
	struct programs_name n[HOOKS];
	bool made[HOOKS] = {false};
	char path[PROGRAMS_PATH];
	struct programs_dir dir;
	uint64_t id = 0;
	int rc = 0, fd;

	if (programs_check_mirror(instance, fault) != 0 || (fd = open_cgroup(cgroup, &id, fault)) < 0)
		return -1;
	if (programs_lock(instance, false, &dir, fault) != 0) {
		close(fd);
		return -1;
	}
	for (int i = 0; i < HOOKS && rc == 0; i++) {
		n[i] = (struct programs_name){.kind = PROGRAMS_CGROUP, .number = id};
		snprintf(n[i].program, sizeof(n[i].program), "%s", hooks[i].program);
		int program = open_program(&dir, n[i].program, fault);
		if (program < 0) {
			rc = -1;
		} else if (!attached(&dir, &n[i])) {
			rc = link_pinned(&dir, &n[i], program, fd, hooks[i].type, 0);
			made[i] = rc == 0;
			if (rc != 0)
				rc = fail_cgroup(cgroup, -rc, fault);
		}
		if (program >= 0)
			close(program);
	}
	for (int i = 0; i < HOOKS && rc != 0; i++) { /* both, or none */
		if (!made[i])
			continue;
		programs_link_path(&dir, &n[i], path);
		unlink(path);
	}
	close(dir.fd);
	close(fd);
	return rc;
}

/* ---- away ---- */

struct away {
	const char *object; /* NULL: all */
	enum { ALL, DEVICE, CGROUP } which;
	uint64_t number, netns;
	unsigned n_links;
	int error;
};

static int detach_pin(const char *path, const struct programs_name *n, void *arg)
{
	struct away *away = arg;
	bool ours = away->which == ALL ||
		    (away->number == n->number && (away->which == CGROUP) == (n->kind == PROGRAMS_CGROUP) &&
		     away->netns == n->netns);
	int fd;

	if (away->object && strcmp(away->object, programs_object_of(n->program)) != 0)
		return 0;
	if (n->kind == PROGRAMS_PROGRAM) {
		if (away->which == ALL && unlink(path) != 0)
			away->error = errno;
		return 0;
	}
	if ((fd = bpf_obj_get(path)) < 0) {
		away->error = errno;
		return 0;
	}
	if (ours || programs_link_gone(fd)) {
		bpf_link_detach(fd); /* now: unpinned, a worker of the kernel does it some time later */
		if (unlink(path) == 0)
			away->n_links++;
		else
			away->error = errno;
	}
	close(fd);
	return 0;
}

int programs_detach(const char *instance, const char *object, const char *device, const char *cgroup, unsigned *n_links,
		    struct programs_fault *fault)
{
	struct away away = {.object = object, .which = device ? DEVICE : cgroup ? CGROUP : ALL};
	struct programs_fault unknown = {.code = NULL}, none;
	struct programs_dir dir;

	*n_links = 0;
	if (device && !(away.number = if_nametoindex(device)))
		programs_fail(&unknown, "unknown-device",
			      "there is no network device %s here, and no link of one that is gone", device);
	if (device)
		away.netns = programs_netns();
	if (cgroup) {
		int fd = open_cgroup(cgroup, &away.number, &unknown);
		if (fd >= 0)
			close(fd);
	}
	if (programs_lock(instance, false, &dir, &none) != 0) {
		if (strcmp(none.code, "not-loaded") == 0 && !unknown.code)
			return 0;
		*fault = unknown.code ? unknown : none;
		return -1;
	}
	programs_names(&dir, detach_pin, &away);
	if (away.which == ALL && !away.error)
		programs_forget(&dir, object);
	close(dir.fd);
	*n_links = away.n_links;
	if (away.error == EPERM || away.error == EACCES)
		return programs_fail_denied(fault, away.error, dir.path, PROGRAMS_TO_ATTACH);
	if (away.error)
		return programs_fail(fault, "system", "a pin in %s cannot be removed: %s", dir.path,
				     strerror(away.error));
	if (unknown.code && !away.n_links) {
		*fault = unknown;
		return -1;
	}
	return 0;
}
