/* SPDX-License-Identifier: MIT
 * Mirrors without pins: somebody removed them, or the BPF file system that they are in is not mounted here, and packet
 * programs that were loaded on them answer still. Found by looking at all maps of the kernel, which are numbered for all
 * mount namespaces alike, for the name and the root's uuid. Control thread, at a start that has reason to look; needs
 * CAP_SYS_ADMIN. */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/crash_point.h"

enum found { NOT_OURS, SILENT, ANSWERED };

/* Keeps programs from answering by this one, if it is of this root. What it was; -1 with errno: nobody knows. */
static int silence(int fd, const uint8_t uuid[16])
{
	struct mirror_control *c;
	struct bpf_map_info info = {0};
	__u32 size = sizeof info;
	int found = NOT_OURS;

	if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0)
		return -1;
	if (strcmp(info.name, "berth_control") != 0 || info.value_size != sizeof *c ||
	    !(info.map_flags & BPF_F_MMAPABLE))
		return NOT_OURS;
	c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (c == MAP_FAILED)
		return -1;
	if (load64(&c->magic) == MIRROR_MAGIC && memcmp(c->uuid, uuid, 16) == 0)
		found = atomic_exchange_explicit(SHARED64(&c->state), 0, memory_order_seq_cst) ? ANSWERED : SILENT;
	CRASH_POINT(stray_silenced);
	munmap(c, sizeof *c);
	return found;
}

/* No program answers by what it loaded before. */
static int wait_for_programs(void)
{
	struct mirror m = {.t = {.grace_fd = -1, .grace_inner_fd = -1}};
	int rc = mirror_grace_open(&m) == 0 ? mirror_grace(&m) : -1;

	mirror_grace_close(&m);
	return rc;
}

int mirror_stray(const struct mirror *except, const uint8_t uuid[16])
{
	struct bpf_map_info info = {0};
	__u32 id = 0, size = sizeof info;
	int fd, e, found, most = NOT_OURS;

	if (except && bpf_obj_get_info_by_fd(except->fds[MAP_CONTROL], &info, &size) != 0)
		return -1;
	while (bpf_map_get_next_id(id, &id) == 0) {
		if (id == info.id)
			continue;
		fd = bpf_map_get_fd_by_id(id);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return -1;
		found = silence(fd, uuid);
		e = errno;
		close(fd);
		errno = e;
		if (found < 0)
			return -1;
		most = found > most ? found : most;
	}
	if (errno != ENOENT)
		return -1;
	if (most != NOT_OURS && wait_for_programs() != 0)
		return -1;
	return most == ANSWERED;
}
