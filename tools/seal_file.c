/* SPDX-License-Identifier: MIT
 * Writing a key file (seal_file.h). Whoever reads it meanwhile finds the old file or the new one, never a part; so does
 * who looks after a power failure. A run that was killed leaves a `.NAME.new`, which the next one removes. */
#include "seal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int open_dir(const struct tool *t, const char *file, struct seal_dir *d)
{
	char path[PATH_MAX], again[PATH_MAX];
	size_t len = strlen(file);

	if (len == 0 || len >= sizeof(path) || file[len - 1] == '/')
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s names no file: give the path of a key file", file);
	memcpy(path, file, len + 1);
	memcpy(again, file, len + 1);
	if ((size_t)snprintf(d->name, sizeof(d->name), "%s", basename(again)) >= sizeof(d->name))
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s: the name is longer than 255 bytes", file);
	snprintf(d->fresh_name, sizeof(d->fresh_name), ".%s.new", d->name);
	d->fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->fd < 0)
		return tool_fail(t, EXIT_REFUSED, "system", "the directory of %s cannot be opened: %s", file,
				 strerror(errno));
	return EXIT_DONE;
}

int seal_dir_open(const struct tool *t, const char *file, struct seal_dir *d)
{
	*d = (struct seal_dir){.file = file, .fd = -1};
	int rc = open_dir(t, file, d);

	if (rc == EXIT_DONE && flock(d->fd, LOCK_EX | LOCK_NB) != 0) {
		rc = tool_fail(t, EXIT_REFUSED, "busy",
			       "the directory of %s is locked (%s): another `berth seal` writes there; try again", file,
			       strerror(errno));
		seal_dir_close(d);
	}
	return rc;
}

void seal_dir_close(struct seal_dir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

static int write_whole(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);
		if (n < 0 && errno != EINTR)
			return -1;
		text += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Owner and group before the mode: nobody gets to read it for a moment who may not later. */
static int fill(int fd, const char *text, size_t len, const struct stat *like)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return -1;
	if ((st.st_uid != like->st_uid || st.st_gid != like->st_gid) && fchown(fd, like->st_uid, like->st_gid) != 0)
		return -1;
	if (fchmod(fd, like->st_mode & (S_IRUSR | S_IWUSR | S_IRGRP)) != 0)
		return -1;
	return write_whole(fd, text, len) == 0 ? fsync(fd) : -1;
}

static int put(const struct seal_dir *d, const char *text, size_t len, const struct stat *like, bool replace)
{
	unlinkat(d->fd, d->fresh_name, 0); /* we have the lock: its writer is dead */
	int fd = openat(d->fd, d->fresh_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	int rc = fill(fd, text, len, like), saved = errno;
	close(fd);
	if (rc == 0) {
		rc = replace ? renameat(d->fd, d->fresh_name, d->fd, d->name)
			     : linkat(d->fd, d->fresh_name, d->fd, d->name, 0);
		saved = errno;
	}
	if (rc != 0 || !replace)
		unlinkat(d->fd, d->fresh_name, 0);
	errno = saved;
	return rc;
}

int seal_dir_put(const struct tool *t, const struct seal_dir *d, const char *text, size_t len, const struct stat *like,
		 bool replace)
{
	if (put(d, text, len, like, replace) != 0)
		return tool_fail(t, EXIT_REFUSED, errno == EEXIST ? "exists" : "system",
				 "%s cannot be written: %s; nothing was changed", d->file, strerror(errno));
	if (fsync(d->fd) != 0)
		return tool_fail(t, EXIT_REFUSED, "system",
				 "%s is written, but its directory could not be brought to the disk (%s): run `sync`",
				 d->file, strerror(errno));
	return EXIT_DONE;
}
