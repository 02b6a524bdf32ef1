/* SPDX-License-Identifier: MIT
 * Registrations that have become longer than they were made. Their owner can write to the file, so it can let it grow until
 * the file system is full (a file with a name cannot be sealed). What is too much is cut off, and the log names the process
 * once. Nothing lies there: readers and the writer map what was made. Control thread only. */
#include "registry_internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

#define SLACK 65536u /* what a file system may count for a file besides its blocks */

static uint64_t too_much(const struct registration *g)
{
	uint64_t block, should, taken;
	struct stat st;

	if (g->attach == 0 || fstat(g->fd, &st) != 0) /* without a row its true size is not known */
		return 0;
	block = st.st_blksize > 0 ? (uint64_t)st.st_blksize : 1; /* a huge page where the file system has those */
	should = (g->size + block - 1) / block * block + SLACK;
	taken = (uint64_t)st.st_blocks * 512; /* also what lies behind the end, and counts nowhere else */
	if ((uint64_t)st.st_size <= g->size && taken <= should)
		return 0;
	return (taken > (uint64_t)st.st_size ? taken : (uint64_t)st.st_size) - g->size;
}

static bool cut(const struct registry *r, const struct registration *g)
{
	char name[16];
	int fd, rc;

	registration_name(g->slot, name);
	fd = openat(r->instance->readers_fd, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	rc = ftruncate(fd, (off_t)g->size);
	close(fd);
	return rc == 0;
}

void registry_trim(struct registry *r)
{
	for (uint32_t s = 0, seen = 0; s < SHM_LEDGER_ROWS && seen < r->n; s++) {
		struct registration *g = r->slots[s];
		uint64_t surplus;

		if (!g)
			continue;
		seen++;
		surplus = too_much(g);
		if (surplus == 0 || !cut(r, g) || g->trimmed)
			continue;
		g->trimmed = true;
		log_event(LEVEL_WARN, "registration-grown", LOG_N("slot", g->slot), LOG_N("pid", (uint64_t)g->pid),
			  LOG_N("uid", g->uid), LOG_N("bytes", surplus),
			  LOG_S("message",
				"a process fills the file system with its registration, which is cut back each "
				"second: end that process"));
	}
}
