/* SPDX-License-Identifier: MIT
 * users.h. */
#include "users.h"

#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../shm/segment.h"

struct daemon *place;
const char *const *users_options;
static bool groups_made;

/* ---- a place with the two groups -------------------------------------------------------------------------------- */

/* /etc/group as it is, with our two groups; only this process and its children see it. */
static bool make_groups(void)
{
	char path[] = "/dev/shm/berth-group-XXXXXX";
	char line[512];
	FILE *from, *to;
	int fd;

	if (groups_made || !own_mounts())
		return groups_made;
	from = fopen("/etc/group", "r");
	fd = mkstemp(path);
	to = fd < 0 ? NULL : fdopen(fd, "w");
	if (!to)
		fail_msg("%s: %s", path, strerror(errno));
	while (from && fgets(line, sizeof line, from))
		if (strncmp(line, "berth:", 6) != 0 && strncmp(line, "berth-admin:", 12) != 0)
			fputs(line, to);
	fprintf(to, "berth:x:%u:\nberth-admin:x:%u:\n", BERTH_GID, ADMIN_GID);
	if (from)
		fclose(from);
	assert_int_equal(fclose(to), 0);
	chmod(path, 0644);
	groups_made = mount(path, "/etc/group", NULL, MS_BIND, NULL) == 0;
	unlink(path); /* the mount keeps it */
	if (!groups_made)
		printf("SKIP: /etc/group cannot be replaced: %s\n", strerror(errno));
	return groups_made;
}

int users_make(void **state)
{
	*state = place = NULL;
	if (!make_groups())
		return 0;
	*state = place = calloc(1, sizeof *place);
	assert_non_null(place);
	daemon_make(place, "memory");
	daemon_start_with(place, users_options ? users_options : (const char *const[]){NULL});
	tool_ok(place, "cluster", "set", "c1", "--endpoint", "http://h:1", NULL);
	tool_ok(place, "cluster", "set", "c2", "--endpoint", "http://h:2", NULL);
	tool_ok(place, "set", "acme", "--mode", "dedicated-index", "--cluster", "c1", "--index", "acme", NULL);
	return 0;
}

int users_remove(void **state)
{
	return place ? daemon_teardown(state) : 0;
}

bool become(uid_t uid)
{
	const gid_t groups[] = {uid == ADMIN ? ADMIN_GID : BERTH_GID, BERTH_GID};
	bool done = setgroups(uid == STRANGER ? 0 : 2, groups) == 0 && setresgid(uid, uid, uid) == 0 &&
		    setresuid(uid, uid, uid) == 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* was lost */
	return done;
}

int as_user(uid_t uid, int (*part)(void *))
{
	static uid_t user;

	user = uid;
	return part_run(part, &user, CHILD_MS);
}

const char *users_file(const char *name)
{
	static char path[300];

	snprintf(path, sizeof path, "%s/%s", place->dir, name);
	return path;
}

const char *users_table(void)
{
	static char name[40];
	const struct shm_root *root;
	int fd;

	assert_int_equal(seg_dir_open(place->dir, &fd, NULL), BERTH_OK);
	assert_int_equal(seg_root_map(fd, &root), BERTH_OK);
	snprintf(name, sizeof name, "tables/table.%u", SHM_GENERATION(atomic_load(&root->termgen)));
	seg_root_unmap(&root);
	close(fd);
	return name;
}

int users_connect(const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", place->dir, name);
	if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
		return fd;
	close(fd);
	return -1;
}

int users_tool(const char *a, const char *b, const char *c)
{
	const char *argv[] = {daemon_program("berth"), "--dir", place->dir, a, b, c, NULL};
	char out[2048];

	return child_run(argv, out, sizeof out, CHILD_MS);
}

json_int_t status_number(const char *name)
{
	return daemon_status(place, name);
}

void expect_freed(void)
{
	uint64_t deadline = 0;

	while (within(&deadline))
		if (status_number("retired") == 0 && status_number("held_bytes") == 0)
			return;
	fail_msg("%d records are still held back", (int)status_number("retired"));
}
