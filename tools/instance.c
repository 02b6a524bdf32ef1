/* SPDX-License-Identifier: MIT
 * Opening an instance to look at it (instance.h), with or without a living daemon. */
#include "instance.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "text.h"

/* A daemon beats once a second. */
#define PULSE_FRESH_MS 5000u
/* A table that is replaced faster than it can be mapped is no table. */
#define MAP_ATTEMPTS 100

/* ---- opening ---- */

int instance_try(struct tool *t)
{
	int rc = seg_dir_path(t->where, t->path, sizeof(t->path));

	if (rc == BERTH_OK && t->dir_fd < 0)
		rc = seg_dir_open(t->path, &t->dir_fd, NULL);
	if (rc == BERTH_OK && !t->root)
		rc = seg_root_map(t->dir_fd, &t->root);
	if (rc == BERTH_OK && t->tables_fd < 0)
		rc = seg_tables_open(t->dir_fd, &t->tables_fd);
	return rc;
}

int instance_open(struct tool *t)
{
	int rc = instance_try(t);

	return rc == BERTH_OK ? EXIT_DONE : instance_fail(t, rc);
}

const char *instance_group(uint32_t number, char out[INSTANCE_GROUP])
{
	const struct group *group = getgrgid(number);

	if (group)
		snprintf(out, INSTANCE_GROUP, "`%s`", group->gr_name);
	else
		snprintf(out, INSTANCE_GROUP, "number %" PRIu32, number);
	return out;
}

static int fail_permission(const struct tool *t)
{
	char group[INSTANCE_GROUP];
	struct stat st;

	if (stat(t->path, &st) != 0)
		return tool_fail(t, EXIT_UNREACHABLE, "permission", "%s: this user may not enter a directory above it",
				 t->path);
	return tool_fail(t, EXIT_UNREACHABLE, "permission", "%s: this user may not look into it: %s%s", t->path,
			 st.st_mode & S_IXGRP ? "be a member of group " : "its owner alone may",
			 st.st_mode & S_IXGRP ? instance_group(st.st_gid, group) : "");
}

static int visible(const struct dirent *entry)
{
	return entry->d_type == DT_DIR && entry->d_name[0] != '.';
}

const char *instance_names(char out[INSTANCE_NAMES])
{
	const size_t room = INSTANCE_NAMES;
	struct dirent **entries;
	int n = scandir(SEG_DIR_BASE, &entries, visible, alphasort);
	size_t at = 0;

	out[0] = '\0';
	for (int i = 0; i < n; i++) {
		if (i <= INSTANCE_SHOWN && at < room)
			at += (size_t)snprintf(out + at, room - at, "%s%s", i ? ", " : "; there are: --instance ",
					       i < INSTANCE_SHOWN ? entries[i]->d_name : "...");
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return out;
}

int instance_fail(const struct tool *t, int code)
{
	const char *what = t->path[0] ? t->path : t->where;
	char names[INSTANCE_NAMES];

	if (code == BERTH_E_PERMISSION)
		return fail_permission(t);
	if (code != BERTH_E_NO_INSTANCE)
		return tool_fail_code(t, code, what);
	return tool_fail(t, EXIT_UNREACHABLE, "no-instance", "%s: %s%s", what, berth_strerror(code),
			 instance_names(names));
}

void instance_register(struct tool *t)
{
	struct berth_attach_options options = {
		.size = sizeof(options),
		.writes = BERTH_WRITES_NONE,
		.max_readers = 1,
	};
	int rc = berth_attach(t->path, &options, &t->berth);

	if (rc == BERTH_OK && berth_maintain(t->berth) == BERTH_OK)
		rc = berth_reader_open(t->berth, &t->reader);
	else if (rc == BERTH_OK)
		rc = BERTH_E_WRITER_DOWN;
	if (rc == BERTH_OK)
		return;
	if (t->berth)
		berth_detach(&t->berth);
	if (rc != BERTH_E_WRITER_DOWN) {
		tool_note(t, "reading without a registration, the daemon gave none: %s", berth_strerror(rc));
		return;
	}
	char down[4400];
	instance_describe_down(t, down, sizeof(down));
	tool_note(t, "this is the table as readers see it; %s", down);
}

int instance_open_table(struct tool *t)
{
	int rc = instance_open(t);

	if (rc != EXIT_DONE)
		return rc;
	if (SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_acquire)) == 0)
		return tool_fail(t, EXIT_UNREACHABLE, "no-instance",
				 "%s has no table yet: berthd has not finished its first start there", t->path);
	instance_register(t);
	return EXIT_DONE;
}

void instance_close(struct tool *t)
{
	seg_table_unmap(&t->map);
	berth_reader_close(&t->reader);
	if (t->berth)
		berth_detach(&t->berth);
	seg_root_unmap(&t->root);
	if (t->dir_fd >= 0)
		close(t->dir_fd);
	t->dir_fd = -1;
	if (t->tables_fd >= 0)
		close(t->tables_fd);
	t->tables_fd = -1;
}

/* Why the section is safe: it begins after the mapping was chosen, so its line names that generation or a newer one;
 * and root still shows that generation after the line was stored, so the line does not name a newer one. */
int instance_section(struct tool *t)
{
	int rc = BERTH_OK;

	for (int attempt = 0; attempt < MAP_ATTEMPTS; attempt++) {
		uint64_t termgen =
			atomic_load_explicit(&t->root->termgen, memory_order_acquire); /* pairs with the flip */

		if (!t->map.table || t->map.termgen != termgen) {
			struct seg_map map;
			rc = seg_table_map(t->tables_fd, t->root, termgen, NULL, false, &map);
			if (rc == BERTH_E_NO_INSTANCE &&
			    termgen != atomic_load_explicit(&t->root->termgen, memory_order_acquire))
				continue; /* replaced meanwhile */
			if (rc != BERTH_OK)
				break;
			seg_table_unmap(&t->map);
			t->map = map;
		}
		if (t->reader)
			berth_read_begin(t->reader);
		if (atomic_load_explicit(&t->root->termgen, memory_order_acquire) == t->map.termgen)
			return EXIT_DONE;
		if (t->reader)
			berth_read_end(t->reader);
	}
	uint32_t generation = SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_relaxed));
	if (rc == BERTH_OK)
		return tool_fail(t, EXIT_UNREACHABLE, "unreachable",
				 "%s: the table is replaced all the time: run this again", t->path);
	int saved = errno;
	char what[sizeof(t->path) + 32];
	if (rc == BERTH_E_NO_INSTANCE)
		return tool_fail(
			t, EXIT_DAMAGE, "corrupt",
			"%s/table.%u is missing, and root names it: start berthd, it makes a new one from its store",
			t->path, generation);
	snprintf(what, sizeof(what), "%s/table.%u", t->path, generation);
	errno = saved;
	return tool_fail_code(t, rc, what);
}

bool instance_section_end(struct tool *t)
{
	/* What was read before is not read again after this: the flip comes before memory of the old one goes. */
	atomic_thread_fence(memory_order_acquire);
	bool stood = atomic_load_explicit(&t->root->termgen, memory_order_relaxed) == t->map.termgen;
	if (t->reader)
		berth_read_end(t->reader);
	return stood;
}

void instance_pulse(const struct tool *t, struct instance_pulse *p)
{
	uint64_t beat = atomic_load_explicit(&t->root->heartbeat_ms, memory_order_relaxed);
	uint64_t start = atomic_load_explicit(&t->root->writer_start, memory_order_relaxed);
	uint64_t now = seg_clock_ms(CLOCK_BOOTTIME);
	uint8_t boot[16];

	*p = (struct instance_pulse){.pid = atomic_load_explicit(&t->root->writer_pid, memory_order_relaxed)};
	p->this_boot = seg_boot_id(boot) == BERTH_OK && memcmp(boot, t->root->boot_id, 16) == 0;
	if (!p->this_boot)
		return;
	p->age_ms = beat && now > beat ? now - beat : 0;
	p->fresh = beat && p->age_ms < PULSE_FRESH_MS;
	p->exists = instance_process_lives(p->pid, start);
}

bool instance_process_lives(uint64_t pid, uint64_t start)
{
	char path[40], text[1024];
	const char *state;

	if (pid == 0 || pid > INT32_MAX || start == 0 || seg_process_start((pid_t)pid) != start)
		return false;
	snprintf(path, sizeof(path), "/proc/%" PRIu64 "/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	state = strrchr(text, ')'); /* behind the name, which may hold anything */
	return state && state[1] == ' ' && !strchr("ZX", state[2]);
}

void instance_describe_down(const struct tool *t, char *out, size_t room)
{
	struct instance_pulse p;
	char age[TEXT_UNIT];

	instance_pulse(t, &p);
	if (!p.pid)
		snprintf(out, room, "berthd has never run for %s: start it", t->path);
	else if (!p.this_boot)
		snprintf(out, room, "berthd is not running for %s (not since the machine started): start it", t->path);
	else if (p.exists)
		snprintf(out, room,
			 "berthd (process %" PRIu64
			 ") for %s does not answer, last sign of life %s ago: see its log, and `ps -p %" PRIu64
			 "`; if it hangs, start another one with --takeover. Of a copy of its directory that is no "
			 "fault",
			 p.pid, t->path, text_duration(age, p.age_ms), p.pid);
	else
		snprintf(out, room,
			 "berthd is not running for %s (process %" PRIu64
			 " is gone, last sign of life %s ago): start it",
			 t->path, p.pid, text_duration(age, p.age_ms));
}
