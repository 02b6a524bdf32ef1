/* SPDX-License-Identifier: MIT
 * scratch.h. */
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "left_over.h"

void scratch_open(struct scratch *s)
{
	struct instance *in = &s->instance;

	memset(s, 0, sizeof *s);
	strcpy(s->path, "/dev/shm/berth-test-XXXXXX");
	if (!mkdtemp(s->path)) {
		perror(s->path);
		exit(99);
	}
	left_over_put(s->path);
	memcpy(in->path, s->path, sizeof s->path);
	in->dir_fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	in->table_mode = 0644;
	in->lock_fd = -1;
	in->group = getegid();
	in->admin_group = getegid();
	if (in->dir_fd < 0 || mkdirat(in->dir_fd, "readers", 0700) != 0 || mkdirat(in->dir_fd, "tables", 0755) != 0 ||
	    (in->table_dir_fd = openat(in->dir_fd, "tables", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
	    (in->readers_fd = openat(in->dir_fd, "readers", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
		perror(s->path);
		exit(99);
	}
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

void scratch_close(struct scratch *s)
{
	close(s->instance.readers_fd);
	close(s->instance.table_dir_fd);
	close(s->instance.dir_fd);
	nftw(s->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	left_over_forget(s->path);
}

void scratch_done(enum refusal_code code, const char *call, const struct refusal *why)
{
	if (code != R_DONE)
		fail_msg("%s: %s: %s", call, refusal_name(code), why->message);
}
