/* SPDX-License-Identifier: MIT
 * What `berth` says of an instance that is not there, that it may not look into, that is no directory, that is a copy, or
 * whose daemon is dead. */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bpf_place.h"
#include "cli.h"
#include "holder.h"
#include "users.h"

/* `berth ARGUMENTS` in this process's place: its exit code, and what it wrote to either. */
static int berth(char out[4096], const char *const args[])
{
	const char *argv[16] = {daemon_program("berth")};

	for (size_t i = 1; *args && i < 15; i++)
		argv[i] = *args++;
	return child_run(argv, out, 4096, CHILD_MS);
}
#define RUN(out, ...) berth(out, CLI_ARGS(__VA_ARGS__))

static void expect_says(int code, const struct daemon *d, const char *text, const char *const args[])
{
	struct cli c;

	cli_run_args(&c, d, args);
	cli_check(&c, code, NULL, text);
	cli_free(&c);
}
#define SAYS(code, d, text, ...) expect_says(code, d, text, CLI_ARGS(__VA_ARGS__))

/* ---- not there ---- */

/* A /dev/shm of its own, so that what is below /dev/shm/berth is known. */
static int among_others(void *arg)
{
	char out[4096];

	(void)arg;
	EXPECT(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	EXPECT(mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) == 0);
	EXPECT(RUN(out, "list") == 3 && !strstr(out, "there are"));
	EXPECT(mkdir("/dev/shm/berth", 0755) == 0 && mkdir("/dev/shm/berth/eu", 0750) == 0);
	EXPECT(mkdir("/dev/shm/berth/us", 0750) == 0 && close(creat("/dev/shm/berth/file", 0600)) == 0);
	EXPECT(RUN(out, "list", "--instance", "ue") == 3 && strstr(out, "; there are: --instance eu, us\n"));
	EXPECT(RUN(out, "verify") == 3 && strstr(out, "; there are: --instance eu, us\n"));
	EXPECT(RUN(out, "--json", "status") == 3 && strstr(out, "no-instance") && strstr(out, "eu, us\""));
	EXPECT(mkdir("/dev/shm/berth/a", 0750) == 0 && mkdir("/dev/shm/berth/b", 0750) == 0);
	EXPECT(mkdir("/dev/shm/berth/c", 0750) == 0 && mkdir("/dev/shm/berth/zz", 0750) == 0);
	EXPECT(RUN(out, "list") == 3 && strstr(out, "; there are: --instance a, b, c, eu, us, ...\n"));
	return 0;
}

static void a_wrong_name_is_told_the_right_ones(void **state)
{
	(void)state;
	if (!own_mounts())
		skip();
	assert_int_equal(part_run(among_others, NULL, CHILD_MS), 0);
}

static void packet_programs_of_no_instance(void **state)
{
	static const char *const commands[] = {"status", "stats"};
	const char *unable = bpf_unable();

	(void)state;
	if (unable)
		SKIP("%s", unable);
	for (size_t i = 0; i < 2; i++) {
		SAYS(3, NULL, "there is no such instance", "--dir", "/dev/shm/berth-test-nothing-here/i", "bpf",
		     commands[i]);
		json_t *lines = cli_json(3, NULL, "--dir=/dev/shm/berth-test-nothing-here/i", "bpf", commands[i]);
		json_t *error = json_object_get(json_array_get(lines, 0), "error");
		assert_string_equal(text_of(error, "code"), "no-mirror");
		/* What the kernel has is told as it is for people. */
		assert_int_equal(json_array_size(json_object_get(error, "features")) > 5, i == 0);
		json_decref(lines);
	}
}

/* ---- closed ---- */

static int stranger_is_told_who_may(void *uid)
{
	char out[4096], path[200];

	EXPECT(become(*(uid_t *)uid));
	EXPECT(RUN(out, "--dir", place->dir, "list") == 3 && strstr(out, "be a member of group `berth`\n"));
	EXPECT(RUN(out, "--dir", place->dir, "verify") == 3 && strstr(out, "be a member of group `berth`\n"));
	EXPECT(RUN(out, "--dir", place->dir, "--json", "get", "acme") == 3 && strstr(out, "\"code\":\"permission\""));
	snprintf(path, sizeof(path), "%s/other", place->home);
	EXPECT(RUN(out, "--dir", path, "list") == 3 && strstr(out, "be a member of group number 60999\n"));
	snprintf(path, sizeof(path), "%s/closed", place->home);
	EXPECT(RUN(out, "--dir", path, "list") == 3 && strstr(out, "its owner alone may\n"));
	strcat(path, "/i");
	EXPECT(RUN(out, "--dir", path, "list") == 3 && strstr(out, "may not enter a directory above it"));
	return 0;
}

static int member_is_told_who_may(void *uid)
{
	char out[4096];

	EXPECT(become(*(uid_t *)uid));
	EXPECT(RUN(out, "--dir", place->dir, "remove", "acme") == 3 && strstr(out, "need group `berth-admin`"));
	EXPECT(RUN(out, "--dir", place->dir, "--json", "remove", "acme") == 3);
	EXPECT(strstr(out, "\"code\":\"permission\"") && strstr(out, "`berth-admin`"));
	return 0;
}

static void who_may_not_is_told_who_may(void **state)
{
	char path[200];

	NEEDS_USERS();
	(void)state;
	snprintf(path, sizeof(path), "%s/other", place->home);
	assert_int_equal(mkdir(path, 0750), 0);
	assert_int_equal(chown(path, (uid_t)-1, 60999), 0);
	snprintf(path, sizeof(path), "%s/closed", place->home);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(as_user(STRANGER, stranger_is_told_who_may), 0);
	assert_int_equal(as_user(MEMBER, member_is_told_who_may), 0);
}

/* ---- not as it must be ---- */

static void what_is_wanted_of_a_directory_is_said(void **state)
{
	struct daemon *d = *state;
	char path[128], command[600], out[4096];

	daemon_file(d, "file", "x", path);
	SAYS(3, NULL, "the instance must be a directory, no symbolic link", "--dir", path, "list");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(d->dir, path), 0);
	SAYS(3, NULL, "the instance must be a directory, no symbolic link", "--dir", path, "list");
	/* A system call that fails is told by its error alone. */
	snprintf(command, sizeof(command), "ulimit -n 4; exec %s --dir %s list", daemon_program("berth"), d->dir);
	const char *argv[] = {"/bin/sh", "-c", command, NULL};
	assert_int_equal(child_run(argv, out, sizeof(out), CHILD_MS), 3);
	assert_non_null(strstr(out, "i: Too many open files\n"));
}

static void of_a_copy_the_daemon_need_not_answer(void **state)
{
	struct daemon *d = *state;
	char copy[128], out[4096];
	const char *argv[] = {"/bin/cp", "-a", d->dir, copy, NULL};

	snprintf(copy, sizeof(copy), "%s/copy", d->home);
	assert_int_equal(child_run(argv, out, sizeof(out), CHILD_MS), 0);
	SAYS(0, NULL, "Of a copy of its directory that is no fault", "--dir", copy, "verify");
}

static void verify_does_not_count_itself(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	struct cli c;

	cli_run(&c, d, "verify");
	cli_check(&c, 0, " 0 registrations", "");
	cli_free(&c);
	holder_start(&h, d, BERTH_WRITES_NONE);
	for (uint64_t deadline = 0; within(&deadline) && daemon_status(d, "readers") != 1;) /* the first one goes */
		;
	cli_run(&c, d, "verify");
	cli_check(&c, 0, " 1 registrations", "");
	cli_free(&c);
	holder_stop(&h);
}

/* ---- a dead daemon ---- */

static void that_the_daemon_is_dead_is_told_with_json_too(void **state)
{
	static const char *const looks[][2] = {{"readers", NULL},  {"migrate", "status"}, {"list", NULL},
					       {"clusters", NULL}, {"dump", NULL},        {"verify", NULL},
					       {"cursors", NULL}};
	struct daemon *d = *state;
	struct cli c;

	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "");
	cli_run(&c, d, "--json", "remove", "nobody");
	cli_check(&c, 1, "\"error\"", NULL);
	assert_string_equal(c.err, ""); /* a refusal is told once */
	cli_free(&c);
	cli_run(&c, d, "--json", "list");
	cli_check(&c, 0, NULL, NULL);
	assert_string_equal(c.err, "");
	cli_free(&c);
	daemon_kill(d);
	for (size_t i = 0; i < sizeof(looks) / sizeof(looks[0]); i++) {
		json_decref(cli_json(0, d, looks[i][0], looks[i][1])); /* each line is an object */
		cli_run(&c, d, "--json", looks[i][0], looks[i][1]);
		cli_check(&c, 0, NULL, "berthd is not running");
		cli_free(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_wrong_name_is_told_the_right_ones),
		cmocka_unit_test(packet_programs_of_no_instance),
		USERS_TEST(who_may_not_is_told_who_may),
		DAEMON_TEST(what_is_wanted_of_a_directory_is_said, "memory"),
		DAEMON_TEST(of_a_copy_the_daemon_need_not_answer, "memory"),
		DAEMON_TEST(verify_does_not_count_itself, "memory"),
		DAEMON_TEST(that_the_daemon_is_dead_is_told_with_json_too, "memory"),
	};

	return cmocka_run_group_tests_name("tool instance", tests, NULL, NULL);
}
