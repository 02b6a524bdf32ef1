/* SPDX-License-Identifier: MIT
 * Who may do what: users that are not in group berth, members of it, members of berth-admin, and squatters of the
 * directory. Needs root. What members may spoil is in 81-spoiled.c. */
#include "users.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "../shm/segment.h"

static char table_path[300]; /* of the generation in use */

/* `berth set acme` on another cluster. */
static int run_set(void)
{
	char out[2048];

	return tool_run(place, out, sizeof out, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c2",
			"--force", NULL);
}

static uint64_t epoch_of_acme(void)
{
	struct wire w;
	json_t *got;
	uint64_t epoch;

	wire_open(&w, place, WIRE_LOOK);
	got = wire_ok(&w, "get", "{s:s}", "partition", "acme");
	epoch = (uint64_t)int_of(got, "epoch");
	json_decref(got);
	wire_close(&w);
	return epoch;
}

/* ---- strangers, members, admins --------------------------------------------------------------------------------- */

static int be_a_stranger(void *arg)
{
	struct berth *b = NULL;

	EXPECT(become(*(uid_t *)arg));
	EXPECT(berth_attach(place->dir, NULL, &b) == BERTH_E_PERMISSION && !b);
	EXPECT(users_connect(SEG_SOCKET) < 0 && errno == EACCES);
	EXPECT(users_connect(SEG_ADMIN_SOCKET) < 0 && errno == EACCES);
	EXPECT(open(users_file("root"), O_RDONLY) < 0 && errno == EACCES);
	EXPECT(open(users_file("ledger"), O_RDONLY) < 0 && errno == EACCES);
	EXPECT(open(table_path, O_RDONLY) < 0 && errno == EACCES);
	EXPECT(users_tool("list", NULL, NULL) == 3);
	return 0;
}

static void a_stranger_can_neither_attach_nor_look(void **state)
{
	(void)state;
	NEEDS_USERS();
	snprintf(table_path, sizeof table_path, "%s/%s", place->dir, users_table());
	assert_int_equal(as_user(STRANGER, be_a_stranger), 0);
}

static int be_a_member(void *arg)
{
	struct berth *b = NULL;
	struct berth_reader *r;
	struct berth_route route;

	EXPECT(become(*(uid_t *)arg));
	EXPECT(berth_attach(place->dir, NULL, &b) == BERTH_OK && berth_maintain(b) == BERTH_OK);
	EXPECT(berth_reader_open(b, &r) == BERTH_OK);
	EXPECT(berth_route(r, "acme", 4, &route) == BERTH_OK);
	EXPECT(berth_admit(r, "acme", 4, route.epoch) == BERTH_OK);
	EXPECT(users_tool("list", NULL, NULL) == 0);
	EXPECT(users_tool("readers", NULL, NULL) == 0);
	EXPECT(users_tool("verify", NULL, NULL) == 0);
	berth_reader_close(&r);
	EXPECT(berth_detach(&b) == BERTH_OK);
	return 0;
}

static void a_member_attaches_and_looks(void **state)
{
	(void)state;
	NEEDS_USERS();
	assert_int_equal(as_user(MEMBER, be_a_member), 0);
}

static int try_to_write(void *arg)
{
	static const char *const files[] = {"root", "ledger"};
	char line[512], proc[64];
	int fd;

	EXPECT(become(*(uid_t *)arg));
	for (int i = 0; i < 3; i++) {
		const char *path = i < 2 ? users_file(files[i]) : table_path;

		EXPECT(open(path, O_RDWR) < 0 && errno == EACCES);
		EXPECT(truncate(path, 0) != 0 && errno == EACCES);
		EXPECT(chmod(path, 0666) != 0 && errno == EPERM);
		EXPECT(unlink(path) != 0 && errno == EACCES);
		fd = open(path, O_RDONLY);
		EXPECT(fd >= 0);
		EXPECT(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
		snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
		EXPECT(open(proc, O_RDWR) < 0 && errno == EACCES);
		close(fd);
	}
	EXPECT(open(users_file("tables/reserve"), O_RDWR) < 0 && errno == EACCES);
	EXPECT(open(users_file("lock"), O_RDONLY) < 0 &&
	       errno == EACCES); /* who could lock it could keep a writer out */
	EXPECT(open(users_file("planted"), O_RDWR | O_CREAT, 0666) < 0 && errno == EACCES);
	EXPECT(unlink(users_file(SEG_SOCKET)) != 0 && errno == EACCES);
	EXPECT(users_connect(SEG_ADMIN_SOCKET) < 0 && errno == EACCES);
	EXPECT(run_set() == 3);
	/* and by the socket that it may use */
	fd = users_connect(SEG_SOCKET);
	EXPECT(fd >= 0);
	EXPECT(dprintf(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"remove\",\"params\":{\"partition\":\"acme\","
			   "\"force\":true}}\n") > 0);
	line[read(fd, line, sizeof line - 1)] = '\0';
	EXPECT(strstr(line, "\"denied\"") != NULL);
	return 0;
}

static void a_member_changes_nothing(void **state)
{
	uint64_t before;

	(void)state;
	NEEDS_USERS();
	before = epoch_of_acme();
	snprintf(table_path, sizeof table_path, "%s/%s", place->dir, users_table());
	assert_int_equal(as_user(MEMBER, try_to_write), 0);
	assert_int_equal(epoch_of_acme(), before);
	assert_int_equal(access(users_file("planted"), F_OK), -1);
}

static int be_an_admin(void *arg)
{
	EXPECT(become(*(uid_t *)arg));
	EXPECT(run_set() == 0);
	EXPECT(users_tool("get", "acme", NULL) == 0);
	return 0;
}

static void a_member_of_berth_admin_changes(void **state)
{
	uint64_t before;

	(void)state;
	NEEDS_USERS();
	before = epoch_of_acme();
	assert_int_equal(as_user(ADMIN, be_an_admin), 0);
	assert_true(epoch_of_acme() > before);
}

/* ---- directories ------------------------------------------------------------------------------------------------ */

static void reader_refuses(const char *dir)
{
	struct berth *b = NULL;
	const char *argv[] = {daemon_program("berth"), "--dir", dir, "list", NULL};
	char out[1024];
	int rc = berth_attach(dir, NULL, &b);

	if (rc != BERTH_E_UNSAFE)
		fail_msg("%s: attach answers %d (%s)", dir, rc, berth_strerror(rc));
	assert_null(b);
	assert_int_equal(child_run(argv, out, sizeof out, CHILD_MS), 3);
}

static void both_refuse(const char *dir)
{
	struct daemon other = *place;
	char *log;

	reader_refuses(dir);
	snprintf(other.dir, sizeof other.dir, "%s", dir);
	snprintf(other.store, sizeof other.store, "memory:");
	assert_int_equal(daemon_start_refused(&other, NULL), 1);
	log = daemon_log(place);
	assert_non_null(strstr(log, "code=denied"));
	free(log);
	assert_int_equal(truncate(place->log, 0), 0);
}

static void a_directory_of_another_user_is_refused(void **state)
{
	char dir[128];

	(void)state;
	NEEDS_USERS();
	snprintf(dir, sizeof dir, "%s/squatted", place->home);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(chown(dir, STRANGER, BERTH_GID), 0);
	both_refuse(dir);
	/* also when all in it is genuine */
	daemon_kill(place);
	assert_int_equal(chown(place->dir, STRANGER, BERTH_GID), 0);
	both_refuse(place->dir);
}

static void a_directory_that_others_may_write_is_refused(void **state)
{
	static const mode_t modes[] = {0771, 0753, 0777, 01777};

	(void)state;
	NEEDS_USERS();
	daemon_kill(place);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(chmod(place->dir, modes[i]), 0);
		both_refuse(place->dir);
	}
}

static void a_symbolic_link_is_refused(void **state)
{
	char dir[100], slash[104];

	(void)state;
	NEEDS_USERS();
	daemon_kill(place);
	snprintf(dir, sizeof dir, "%s/link", place->home);
	snprintf(slash, sizeof slash, "%s/", dir);
	assert_int_equal(symlink(place->dir, dir), 0);
	both_refuse(dir);
	both_refuse(slash);
}

static void files_of_others_in_the_directory_are_refused(void **state)
{
	char aside[300];

	(void)state;
	NEEDS_USERS();
	snprintf(table_path, sizeof table_path, "%s/%s", place->dir, users_table());
	snprintf(aside, sizeof aside, "%s/aside", place->dir);
	for (int i = 0; i < 2; i++) {
		const char *path = i ? table_path : users_file("root");

		assert_int_equal(chmod(path, 0660), 0);
		reader_refuses(place->dir);
		assert_int_equal(chmod(path, 0640), 0);
		assert_int_equal(chown(path, MEMBER, BERTH_GID), 0);
		reader_refuses(place->dir);
		assert_int_equal(chown(path, 0, BERTH_GID), 0);
		assert_int_equal(rename(path, aside), 0);
		assert_int_equal(symlink("aside", path), 0);
		reader_refuses(place->dir);
		assert_int_equal(unlink(path), 0);
		assert_int_equal(mkdir(path, 0755), 0);
		reader_refuses(place->dir);
		assert_int_equal(rmdir(path), 0);
		assert_int_equal(rename(aside, path), 0);
	}
	tool_ok(place, "list", NULL);
}

static void a_directory_of_tables_that_others_may_write_is_refused(void **state)
{
	char tables[300], squatted[300];

	(void)state;
	NEEDS_USERS();
	snprintf(tables, sizeof tables, "%s/" SEG_TABLES, place->dir);
	snprintf(squatted, sizeof squatted, "%s/squatted", place->home);
	assert_int_equal(chmod(tables, 0775), 0);
	reader_refuses(place->dir);
	assert_int_equal(chmod(tables, 0755), 0);
	assert_int_equal(chown(tables, STRANGER, 0), 0);
	reader_refuses(place->dir);
	assert_int_equal(chown(tables, 0, 0), 0);
	tool_ok(place, "list", NULL);
	/* also where a link leads, which is what --table-dir makes */
	assert_int_equal(rename(tables, squatted), 0);
	assert_int_equal(symlink(squatted, tables), 0);
	tool_ok(place, "list", NULL);
	assert_int_equal(chown(squatted, STRANGER, 0), 0);
	reader_refuses(place->dir);
	assert_int_equal(chown(squatted, 0, 0), 0);
	assert_int_equal(unlink(tables), 0);
	assert_int_equal(rename(squatted, tables), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		USERS_TEST(a_stranger_can_neither_attach_nor_look),
		USERS_TEST(a_member_attaches_and_looks),
		USERS_TEST(a_member_changes_nothing),
		USERS_TEST(a_member_of_berth_admin_changes),
		USERS_TEST(a_directory_of_another_user_is_refused),
		USERS_TEST(a_directory_that_others_may_write_is_refused),
		USERS_TEST(a_symbolic_link_is_refused),
		USERS_TEST(files_of_others_in_the_directory_are_refused),
		USERS_TEST(a_directory_of_tables_that_others_may_write_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
