/* SPDX-License-Identifier: MIT
 * cgroup_place.h. */
#include "cgroup_place.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "left_over.h"

/* This process is alone with a loopback device that is up, and an empty /sys/fs/bpf. NULL, or why not. */
static const char *own_network(void)
{
	struct ifreq lo = {.ifr_name = "lo"};
	static char why[128];

	if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL) != 0) {
		snprintf(why, sizeof(why), "no namespaces, or no BPF file system in one, can be made: %s",
			 strerror(errno));
		return why;
	}
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	lo.ifr_flags = IFF_UP;
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) != 0)
		fail_msg("loopback cannot be set up: %s", strerror(errno));
	close(fd);
	return NULL;
}

void ip_run_args(const char *const argv[])
{
	char out[1024];

	if (child_run(argv, out, sizeof(out), CHILD_MS) != 0)
		fail_msg("ip %s %s ...: %s", argv[1], argv[2], out);
}

/* Where the unified hierarchy is mounted; false: nowhere. */
static bool find_mount(char *path, size_t size)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	struct mntent *m;
	bool found = false;

	while (mounts && !found && (m = getmntent(mounts))) {
		found = strcmp(m->mnt_type, "cgroup2") == 0;
		if (found)
			snprintf(path, size, "%s", m->mnt_dir);
	}
	if (mounts)
		endmntent(mounts);
	return found;
}

/* NULL, or why there is none. */
static const char *cgroup_make(struct cgroup *c)
{
	static char why[160];
	char root[128];

	memset(c, 0, sizeof(*c));
	if (!find_mount(root, sizeof(root))) {
		snprintf(c->mount, sizeof(c->mount), "/tmp/berth-cgroup-XXXXXX");
		if (!mkdtemp(c->mount) || mount("cgroup2", c->mount, "cgroup2", 0, NULL) != 0) {
			snprintf(why, sizeof(why), "the unified cgroup hierarchy cannot be mounted: %s",
				 strerror(errno));
			cgroup_remove(c);
			return why;
		}
		snprintf(root, sizeof(root), "%s", c->mount);
	}
	snprintf(c->path, sizeof(c->path), "%s/berth-test-%d", root, (int)getpid());
	if (mkdir(c->path, 0755) == 0) {
		left_over_put(c->path);
		if (c->mount[0]) /* behind what is in there */
			left_over_put(c->mount);
		return NULL;
	}
	snprintf(why, sizeof(why), "no cgroup can be made: %s", strerror(errno));
	c->path[0] = '\0';
	cgroup_remove(c);
	return why;
}

bool cgroup_join(const struct cgroup *c)
{
	char procs[256];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", c->path);
	int fd = open(procs, O_WRONLY | O_CLOEXEC);
	bool joined = fd >= 0 && write(fd, "0", 1) == 1;
	if (fd >= 0)
		close(fd);
	return joined;
}

void cgroup_remove(struct cgroup *c)
{
	uint64_t deadline = 0;

	while (c->path[0] && rmdir(c->path) != 0 && errno == EBUSY) /* a process that has just ended is still counted */
		if (!within(&deadline))
			break;
	if (c->mount[0]) {
		umount2(c->mount, MNT_DETACH);
		rmdir(c->mount);
	}
	left_over_forget(c->path);
	left_over_forget(c->mount);
	memset(c, 0, sizeof(*c));
}

/* ---- for a group of tests ---------------------------------------------------------------------------------------- */

struct cgroup own_cgroup;
static const char *unable; /* NULL: all is there */

bool own_place_make(void)
{
	unable = own_network();
	if (!unable)
		unable = cgroup_make(&own_cgroup);
	return !unable;
}

int own_place_remove(void **state)
{
	(void)state;
	cgroup_remove(&own_cgroup);
	return 0;
}

void own_place_needed(const struct bpf_place *p)
{
	bpf_needed(p);
	if (unable)
		SKIP("%s", unable);
}
