/* SPDX-License-Identifier: MIT
 * The directory of an instance, as its one writer holds it: made if missing, checked, locked. Called once at start, by
 * main, before anything else touches the directory. */
#ifndef BERTH_WRITER_INSTANCE_H
#define BERTH_WRITER_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "refusals.h"

struct instance {
	char path[4000]; /* of the directory */
	int dir_fd;
	int table_dir_fd;  /* where table.* lie: tables/, or where that links to (--table-dir) */
	mode_t table_mode; /* of those files */
	bool small_pages;  /* they stay on the pages that their file system gives by itself */
	int readers_fd;    /* readers/, mode 0700 */
	int lock_fd;       /* flock, for the life of the process */
	gid_t group;       /* may look: `berth`, or the process's own when there is no such group */
	gid_t admin_group; /* may change: `berth-admin`, likewise */
};

/* dir_or_instance as in seg_dir_path. table_dir: NULL, or a directory (hugetlbfs), then always the same one: readers
 * have it open. takeover: end a writer that holds the
 * lock (pidfd, then pid, start time and boot id compared with root's, SIGKILL, at most 5 s for the lock, once).
 * Refused: R_INVALID (path), R_BUSY naming the pid of the running writer, R_BACKEND (a system call), R_DENIED (the
 * directory is somebody else's or others may write to it). */
enum refusal_code instance_open(const char *dir_or_instance, const char *table_dir, bool takeover, struct instance *,
				struct refusal *);
/* What the size of a table file is a multiple of: its file system's page, huge on hugetlbfs. */
uint64_t instance_file_block(int fd);
/* Leaves the files, gives up the lock. */
void instance_close(struct instance *);

#endif
