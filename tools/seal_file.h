/* SPDX-License-Identifier: MIT
 * Writing a key file of sealed cursors whole: beside it, to the disk, then in its place. One `berth seal` at a time
 * writes into a directory. */
#ifndef BERTH_TOOLS_SEAL_FILE_H
#define BERTH_TOOLS_SEAL_FILE_H

#include <sys/stat.h>

#include "tool.h"

struct seal_dir { /* the directory of a key file, locked */
	const char *file;
	int fd;
	char name[256];       /* of the file in it */
	char fresh_name[264]; /* of the new one, until it has that name */
};

/* EXIT_DONE, or EXIT_REFUSED with the message printed. `file` has to outlive it. */
int seal_dir_open(const struct tool *, const char *file, struct seal_dir *);
void seal_dir_close(struct seal_dir *);
/* Puts the text there, with owner, group and mode of `like`. replace: in the place of the one that is there; else there
 * must be none. EXIT_DONE, or EXIT_REFUSED with the message printed, and the file is what it was. */
int seal_dir_put(const struct tool *, const struct seal_dir *, const char *text, size_t len, const struct stat *like,
		 bool replace);

#endif
