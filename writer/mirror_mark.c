/* SPDX-License-Identifier: MIT
 * mirror_mark.h: one line of text, replaced by a rename. */
#include "mirror_mark.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../shm/crash_point.h"

#define MARK_NEW MIRROR_MARK ".new"
#define MARK_SIZE 77 /* uuid, boot, number, each with a blank or the line's end */

struct mirror_mark mirror_mark_read(const struct table *t)
{
	struct mirror_mark m = {.there = true, .id = MIRROR_NOT_TOLD};
	char text[MARK_SIZE + 1] = "";
	uint8_t uuid[16];
	int fd = openat(t->instance->dir_fd, MIRROR_MARK, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t n;

	memcpy(m.uuid, t->root->uuid, sizeof m.uuid);
	if (fd < 0) { /* without a descriptor to spare, the name tells */
		m.error = errno;
		m.there =
			faccessat(t->instance->dir_fd, MIRROR_MARK, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
		return m;
	}
	n = read(fd, text, MARK_SIZE);
	m.error = n < 0 ? errno : 0;
	close(fd);
	for (unsigned i = 0; i < sizeof uuid; i++)
		if (n != MARK_SIZE || sscanf(text + 2 * i, "%2hhx", &uuid[i]) != 1)
			return m;
	if (strncmp(text + 33, t->boot_id, 32) != 0) { /* no mirror outlives a boot */
		m.there = false;
		return m;
	}
	memcpy(m.uuid, uuid, sizeof m.uuid);
	if (sscanf(text + 66, "%u", &m.id) != 1)
		m.id = MIRROR_NOT_TOLD;
	return m;
}

int mirror_mark_write(const struct table *t, const uint8_t uuid[16], uint32_t id)
{
	int dir = t->instance->dir_fd, fd;
	char text[MARK_SIZE + 1];
	ssize_t n;

	for (unsigned i = 0; i < 16; i++)
		snprintf(text + 2 * i, 3, "%02x", uuid[i]);
	snprintf(text + 32, sizeof text - 32, " %s %010u\n", t->boot_id, id);
	fd = openat(dir, MARK_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
	CRASH_POINT(mark_emptied);
	n = fd >= 0 ? write(fd, text, MARK_SIZE) : -1;
	if (n >= 0 && n < MARK_SIZE)
		errno = ENOSPC;
	CRASH_POINT(mark_written);
	if (fd < 0 || close(fd) != 0 || n != MARK_SIZE || renameat(dir, MARK_NEW, dir, MIRROR_MARK) != 0)
		return -1;
	CRASH_POINT(mark_renamed);
	return 0;
}
