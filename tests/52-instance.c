/* SPDX-License-Identifier: MIT
 * Starts and ends of the real daemon: one writer at a time, taking over, directories that must not be used, options,
 * signals, and what is left of it in the file system. */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect_serving(struct daemon *d)
{
	assert_int_equal(daemon_status(d, "pid"), d->pid);
}

static void expect_log_names(struct daemon *d, const char *what, pid_t pid)
{
	char text[100];

	snprintf(text, sizeof(text), "pid %d", pid);
	daemon_expect_log(d, text);
	daemon_expect_log(d, what);
}

static void a_second_start_is_refused_and_names_the_first(void **state)
{
	struct daemon *d = *state;

	assert_int_equal(daemon_start_refused(d, NULL), 1);
	expect_log_names(d, "code=busy", d->pid);
	expect_serving(d);
}

static void also_when_the_first_is_stopped(void **state)
{
	struct daemon *d = *state;

	daemon_signal(d, SIGSTOP);
	assert_int_equal(daemon_start_refused(d, NULL), 1);
	expect_log_names(d, "(stopped)", d->pid);
	daemon_signal(d, SIGCONT);
	expect_serving(d);
}

/* With the first one running, or stopped. */
static void take_over(struct daemon *d, bool stopped)
{
	pid_t first = d->pid;
	int pidfd = d->pidfd, status;
	char said[48];

	if (stopped)
		daemon_signal(d, SIGSTOP);
	d->pid = 0;
	daemon_start(d, "--takeover", NULL);
	assert_int_equal(waitpid(first, &status, 0), first);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	close(pidfd);
	snprintf(said, sizeof(said), "event=taken-over pid=%d", first);
	daemon_expect_log(d, said);
	expect_serving(d);
	assert_int_equal(daemon_stop(d), 0);
}

static void takeover_ends_the_first_and_serves(void **state)
{
	take_over(*state, false);
}
static void takeover_ends_a_stopped_first(void **state)
{
	take_over(*state, true);
}

static void takeover_without_a_first_is_a_start(void **state)
{
	struct daemon *d = *state;

	assert_int_equal(daemon_stop(d), 0);
	daemon_start(d, "--takeover", NULL);
	expect_serving(d);
}

/* The lock is held by somebody whom its line does not name. */
static void takeover_kills_nobody_but_the_writer_of_the_lock(void **state)
{
	static const char *const lines[] = {"", "pid=%d start=1 boot=%s\n", "pid=%d start=%s boot=00\n"};
	struct daemon *d = *state;
	char path[128], line[200];
	struct stat st;
	pid_t bystander;
	int fd;

	assert_int_equal(daemon_stop(d), 0);
	bystander = fork();
	if (bystander == 0) {
		pause();
		_exit(0);
	}
	snprintf(path, sizeof(path), "%s/lock", d->dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		char boot[64] = "", *to = boot;
		FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
		int c;

		while ((c = fgetc(f)) != EOF) {
			if (c != '-' && c != '\n')
				*to++ = (char)c;
		}
		fclose(f);
		snprintf(line, sizeof(line), lines[i], bystander, i == 2 ? "1" : boot);
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(pwrite(fd, line, strlen(line), 0), strlen(line));
		assert_int_equal(daemon_start_refused(d, "--takeover", NULL), 1);
		daemon_expect_log(d, "not taken over");
		assert_int_equal(kill(bystander, 0), 0);
		assert_int_equal(waitpid(bystander, NULL, WNOHANG), 0);
	}
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	kill(bystander, SIGKILL);
	waitpid(bystander, NULL, 0);
	daemon_start(d, NULL);
	expect_serving(d);
}

/* The line is the last writer's: whoever holds the lock has not come to its own. */
static void takeover_from_a_writer_that_is_starting_is_refused_as_such(void **state)
{
	struct daemon *d = *state;
	char path[128];
	int fd;

	assert_int_equal(daemon_stop(d), 0);
	snprintf(path, sizeof(path), "%s/lock", d->dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(daemon_start_refused(d, "--takeover", NULL), 1);
	daemon_expect_log(d, "not taken over");
	daemon_expect_log(d, "another writer is starting");
	close(fd);
	daemon_start(d, "--takeover", NULL);
	expect_serving(d);
}

/* A writer in another pid namespace: its pid means nobody here. Runs in a child; its exit status tells how far it came.
 */
static _Noreturn void serve_from_a_namespace(struct daemon *d, int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		_exit(77);
	if (fork() == 0) { /* the first of the namespace: all end with it */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (mount("proc", "/proc", "proc", 0, NULL) != 0)
			_exit(77);
		daemon_start(d, NULL);
		(void)!write(ready, "x", 1);
		pause();
	}
	close(ready);
	pause();
	_exit(0);
}

static void a_first_that_is_not_visible_is_not_taken_over(void **state)
{
	struct daemon *d = *state;
	struct wire w;
	int pipes[2];
	ssize_t n;
	pid_t child;
	char c;

	if (geteuid() != 0) {
		print_message("SKIP: a pid namespace needs root\n");
		skip();
	}
	assert_int_equal(daemon_stop(d), 0);
	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (child == 0)
		serve_from_a_namespace(d, pipes[1]);
	close(pipes[1]);
	n = read(pipes[0], &c, 1);
	close(pipes[0]);
	if (n != 1) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		print_message("SKIP: no pid namespace with a /proc of its own here\n");
		skip();
	}
	assert_int_equal(daemon_start_refused(d, NULL), 1);
	assert_int_equal(daemon_start_refused(d, "--takeover", NULL), 1);
	daemon_expect_log(d, "namespace");
	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "shutdown", NULL);
	assert_null(wire_line(&w, DAEMON_MS));
	wire_close(&w);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* ---- the directory ----------------------------------------------------------------------------------------- */

static void expect_mode(const struct daemon *d, const char *name, mode_t mode)
{
	char path[200];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", d->dir, name);
	if (lstat(path, &st) != 0)
		fail_msg("%s: %s", path, strerror(errno));
	if ((st.st_mode & 07777) != mode)
		fail_msg("%s has mode %04o, not %04o", path, st.st_mode & 07777, mode);
}

static void modes_do_not_depend_on_the_umask(void **state)
{
	static const mode_t masks[] = {0, 022, 077, 0777};
	struct daemon *d = *state;

	assert_int_equal(daemon_stop(d), 0);
	for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		char command[200];
		mode_t old;

		snprintf(command, sizeof(command), "rm -rf %s", d->dir);
		assert_int_equal(system(command), 0);
		old = umask(masks[i]);
		daemon_spawn(d, NULL);
		umask(old);
		daemon_wait_ready(d);
		expect_mode(d, ".", 0750);
		expect_mode(d, "readers", 0700);
		expect_mode(d, "lock", 0600);
		expect_mode(d, "berth.sock", 0660);
		expect_mode(d, "admin.sock", 0660);
		expect_mode(d, "root", 0640);
		expect_mode(d, "ledger", 0640);
		expect_mode(d, "tables/table.1", 0644);
		assert_int_equal(daemon_stop(d), 0);
	}
}

static void a_directory_that_others_may_write_to_is_refused(void **state)
{
	struct daemon *d = *state;

	assert_int_equal(daemon_stop(d), 0);
	for (mode_t mode = 0771; mode <= 0773; mode += 2) {
		assert_int_equal(chmod(d->dir, mode), 0);
		assert_int_equal(daemon_start_refused(d, NULL), 1);
		daemon_expect_log(d, "code=denied");
	}
	assert_int_equal(chmod(d->dir, 0750), 0);
	daemon_start(d, NULL);
	expect_serving(d);
}

static void a_symbolic_link_is_refused(void **state)
{
	struct daemon *d = *state;
	char real[128];

	assert_int_equal(daemon_stop(d), 0);
	snprintf(real, sizeof(real), "%s/real", d->home);
	assert_int_equal(rename(d->dir, real), 0);
	assert_int_equal(symlink(real, d->dir), 0);
	assert_int_equal(daemon_start_refused(d, NULL), 1);
	daemon_expect_log(d, "symbolic link");
	unlink(d->dir);
	rename(real, d->dir);
}

static void a_directory_that_somebody_else_made_is_refused(void **state)
{
	struct daemon *d = *state;

	if (geteuid() != 0) {
		print_message("SKIP: making a directory as another user needs root\n");
		skip();
	}
	assert_int_equal(daemon_stop(d), 0);
	assert_int_equal(chown(d->dir, 54321, 54321), 0);
	assert_int_equal(daemon_start_refused(d, NULL), 1);
	daemon_expect_log(d, "code=denied");
	assert_int_equal(chown(d->dir, 0, 0), 0);
}

/* Without rights it works all the same, in a directory of its own. */
static void a_user_without_rights_runs_an_instance(void **state)
{
	struct daemon *d = *state;
	pid_t child;
	int status;

	if (geteuid() != 0) {
		print_message("SKIP: becoming another user needs root\n");
		skip();
	}
	assert_int_equal(daemon_stop(d), 0);
	{
		char command[300];

		snprintf(command, sizeof(command), "rm -rf %s; chown 54321:54321 %s %s/*", d->dir, d->home, d->home);
		assert_int_equal(system(command), 0);
	}
	child = fork();
	if (child == 0) {
		if (setgroups(0, NULL) != 0 || setgid(54321) != 0 || setuid(54321) != 0)
			_exit(3);
		if (access(daemon_program("berthd"), X_OK) != 0)
			_exit(4);
		daemon_start(d, NULL);
		expect_serving(d);
		_exit(daemon_stop(d));
	}
	waitpid(child, &status, 0);
	if (WEXITSTATUS(status) == 4) {
		print_message("SKIP: another user may not run the program where it lies\n");
		skip();
	}
	assert_int_equal(status, 0);
}

/* ---- ends -------------------------------------------------------------------------------------------------- */

static void a_signal_stops_it_cleanly(void **state)
{
	static const int signals[] = {SIGTERM, SIGINT};
	struct daemon *d = *state;
	char path[128];
	struct wire w;

	for (int i = 0; i < 2; i++) {
		wire_open(&w, d, WIRE_ADMIN);
		wire_do(&w, "cluster.set", "{s:s}", "id", "c1");
		daemon_signal(d, signals[i]);
		assert_int_equal(daemon_wait(d), 0);
		assert_null(wire_line(&w, DAEMON_MS));
		wire_close(&w);
		snprintf(path, sizeof(path), "%s/berth.sock", d->dir);
		assert_int_equal(access(path, F_OK), -1);
		snprintf(path, sizeof(path), "%s/admin.sock", d->dir);
		assert_int_equal(access(path, F_OK), -1);
		daemon_start(d, NULL);
	}
	daemon_expect_log(d, "event=stopped");
}

static void what_was_acknowledged_survives_a_kill(void **state)
{
	struct daemon *d = *state;
	struct wire w;
	json_t *r;

	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&w, "set", "{s:s, s:{s:s, s:s}}", "partition", "p", "placement", "mode", "dedicated-cluster", "cluster",
		"c1");
	daemon_kill(d);
	wire_close(&w);
	daemon_start(d, NULL);
	wire_open(&w, d, WIRE_LOOK);
	r = wire_ok(&w, "get", "{s:s}", "partition", "p");
	assert_int_equal(int_of(r, "epoch"), 1);
	json_decref(r);
	wire_close(&w);
}

static int run_with(struct daemon *d, const char *option, const char *value)
{
	return daemon_start_refused(d, option, value, NULL);
}

static void options_are_checked(void **state)
{
	struct daemon *d = *state;

	assert_int_equal(daemon_stop(d), 0);
	assert_int_equal(run_with(d, "--nonsense", NULL), 2);
	assert_int_equal(run_with(d, "--barrier-ms", NULL), 2);
	assert_int_equal(run_with(d, "--barrier-ms", "abc"), 2);
	assert_int_equal(run_with(d, "--barrier-ms", "-1"), 2);
	assert_int_equal(run_with(d, "--barrier-ms", "99999999999999999999"), 2);
	assert_int_equal(run_with(d, "--log-level", "loud"), 2);
	assert_int_equal(run_with(d, "--instance", "x"), 2); /* beside --dir */
	assert_int_equal(run_with(d, "--store", "sqlite"), 2);
	assert_int_equal(run_with(d, "--http", "localhost:80"), 2);
	assert_int_equal(run_with(d, "word", NULL), 2);
	assert_int_equal(run_with(d, "--store", "nowhere:x"), 2);
	assert_int_equal(run_with(d, "--http", "localhost"), 2);
	assert_int_equal(run_with(d, "--table-dir", d->home), 1);
	daemon_expect_log(d, "start without it");
	assert_int_equal(run_with(d, "--help", NULL), 0);
	assert_int_equal(run_with(d, "--version", NULL), 0);
	daemon_start(d, "--barrier-ms", "123", NULL);
	expect_serving(d);
}

#define ON_BOTH(test) DAEMON_TEST(test, "memory"), DAEMON_TEST(test, "sqlite")

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(a_second_start_is_refused_and_names_the_first, "memory"),
		DAEMON_TEST(also_when_the_first_is_stopped, "memory"),
		ON_BOTH(takeover_ends_the_first_and_serves),
		ON_BOTH(takeover_ends_a_stopped_first),
		DAEMON_TEST(takeover_without_a_first_is_a_start, "memory"),
		DAEMON_TEST(takeover_kills_nobody_but_the_writer_of_the_lock, "memory"),
		DAEMON_TEST(takeover_from_a_writer_that_is_starting_is_refused_as_such, "memory"),
		DAEMON_TEST(a_first_that_is_not_visible_is_not_taken_over, "memory"),
		DAEMON_TEST(modes_do_not_depend_on_the_umask, "memory"),
		DAEMON_TEST(a_directory_that_others_may_write_to_is_refused, "memory"),
		DAEMON_TEST(a_symbolic_link_is_refused, "memory"),
		DAEMON_TEST(a_directory_that_somebody_else_made_is_refused, "memory"),
		DAEMON_TEST(a_user_without_rights_runs_an_instance, "memory"),
		ON_BOTH(a_signal_stops_it_cleanly),
		ON_BOTH(what_was_acknowledged_survives_a_kill),
		DAEMON_TEST(options_are_checked, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
