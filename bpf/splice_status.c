/* SPDX-License-Identifier: MIT
 * What splice's process says of itself to whoever looks (splice_run.h): a map of one element, pinned as splice/process
 * beside the mirror, that it stores into as it goes. A killed one leaves it; its pid and start say that it is gone, and the
 * next takes its place. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "mirror.h"
#include "splice_internal.h"

#define PIN_SIZE 4200

static void path_of(const char *instance, const char *name, char path[PIN_SIZE])
{
	char dir[4096];

	mirror_path(instance, dir, sizeof(dir));
	snprintf(path, PIN_SIZE, "%s/%s", dir, name);
}

static uint32_t pinned_id(const char *instance, const char *name)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);
	char path[PIN_SIZE];

	path_of(instance, name, path);
	int fd = bpf_obj_get(path);
	if (fd < 0)
		return 0;
	int rc = bpf_obj_get_info_by_fd(fd, &info, &len);
	close(fd);
	return rc == 0 ? info.id : 0;
}

int splice_say(struct splicer *s, const struct sockaddr_storage *at)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "splice_process", 4, sizeof(struct splice_process), 1, &opts);
	char path[PIN_SIZE];
	void *memory = fd < 0 ? MAP_FAILED
			      : mmap(NULL, sizeof(struct splice_process), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int rc = -1;

	path_of(s->options->instance, "splice/process", path);
	if (memory != MAP_FAILED) {
		s->process = memory;
		*s->process = (struct splice_process){.pid = (uint64_t)getpid(),
						      .start = seg_process_start(getpid()),
						      .leases_id = pinned_id(s->options->instance, "leases"),
						      .at = *at};
		if (unlink(path) == 0 || errno == ENOENT)
			rc = bpf_obj_pin(fd, path);
	}
	int error = errno;
	if (fd >= 0)
		close(fd);
	errno = error;
	return rc;
}

void splice_say_end(struct splicer *s)
{
	char path[PIN_SIZE];

	if (!s->process)
		return;
	path_of(s->options->instance, "splice/process", path);
	unlink(path);
	munmap(s->process, sizeof(*s->process));
	s->process = NULL;
}

int splice_look(const char *instance, struct splice_process *out, bool *attached, bool *stale)
{
	struct bpf_map_info info = {0};
	uint32_t zero = 0, len = sizeof(info);
	char path[PIN_SIZE];

	path_of(instance, "splice/process", path);
	int fd = bpf_obj_get(path);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	int rc = bpf_obj_get_info_by_fd(fd, &info, &len);
	if (rc == 0 && info.value_size != sizeof(*out)) { /* of another version: it would not fit */
		close(fd);
		errno = EPROTO;
		return -1;
	}
	rc = rc == 0 ? bpf_map_lookup_elem(fd, &zero, out) : -1;
	close(fd);
	if (rc != 0)
		return -1;
	path_of(instance, "splice/state", path);
	fd = bpf_obj_get(path);
	*attached = fd >= 0;
	if (fd >= 0)
		close(fd);
	*stale = pinned_id(instance, "leases") != out->leases_id;
	return 1;
}
