/* SPDX-License-Identifier: MIT
 * Starting and ending the real berthd: daemon.h. wire.c talks to it. */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "left_over.h"

#define ARGS_MAX 32

uint64_t test_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool within(uint64_t *deadline_ms)
{
	if (*deadline_ms == 0) {
		*deadline_ms = test_now_ms() + DAEMON_MS;
		return true;
	}
	poll(NULL, 0, 5);
	return test_now_ms() < *deadline_ms;
}

const char *daemon_program(const char *name)
{
	static char path[PATH_MAX + 64];
	const char *build = getenv("BERTH_BUILD");
	char self[PATH_MAX] = "";
	char *slash = NULL;

	if (build) {
		snprintf(path, sizeof(path), "%s/%s", build, name);
		return path;
	}
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 || !(slash = strrchr(self, '/')))
		fail_msg("/proc/self/exe: %s", strerror(errno));
	*slash = '\0';
	snprintf(path, sizeof(path), "%s/../%s", self, name);
	return path;
}

/* ---- directory --------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

void daemon_make(struct daemon *d, const char *store)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(d, 0, sizeof(*d));
	d->pidfd = -1;
	strcpy(d->home, "/dev/shm/berth-daemon-XXXXXX");
	if (!mkdtemp(d->home))
		fail_msg("%s: %s", d->home, strerror(errno));
	left_over_put(d->home);
	chmod(d->home, 0755);
	snprintf(d->dir, sizeof(d->dir), "%s/i", d->home);
	snprintf(d->log, sizeof(d->log), "%s/log", d->home);
	if (strcmp(store, "sqlite") == 0)
		snprintf(d->store, sizeof(d->store), "sqlite:%s/store.db", d->home);
	else
		snprintf(d->store, sizeof(d->store), "%s:", store);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", d->home);
	d->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (d->notify_fd < 0 || bind(d->notify_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		fail_msg("%s: %s", address.sun_path, strerror(errno));
}

void daemon_remove(struct daemon *d)
{
	if (d->pid)
		daemon_kill(d);
	close(d->notify_fd);
	nftw(d->home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	left_over_forget(d->home);
}

int daemon_setup(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));

	daemon_make(d, *state ? *state : "memory");
	*state = d;
	daemon_start(d, NULL);
	return 0;
}

int daemon_teardown(void **state)
{
	daemon_remove(*state);
	free(*state);
	return 0;
}

void daemon_file(const struct daemon *d, const char *name, const char *text, char *path)
{
	FILE *f;

	snprintf(path, 128, "%s/%s", d->home, name);
	f = fopen(path, "w");
	if (!f || fwrite(text, 1, strlen(text), f) != strlen(text) || fclose(f) != 0)
		fail_msg("%s: %s", path, strerror(errno));
}

char *daemon_log(const struct daemon *d)
{
	int fd = open(d->log, O_RDONLY | O_CLOEXEC);
	char *text = calloc(1, 1 << 20);
	ssize_t n = fd >= 0 ? read(fd, text, (1 << 20) - 1) : 0;

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

void daemon_expect_log(const struct daemon *d, const char *wanted)
{
	uint64_t deadline = 0;
	char *text;

	while (within(&deadline)) {
		bool found;

		text = daemon_log(d);
		found = strstr(text, wanted) != NULL;
		free(text);
		if (found)
			return;
	}
	text = daemon_log(d);
	fail_msg("the log never said `%s`:\n%s", wanted, text);
}

/* ---- process ----------------------------------------------------------------------------------------------- */

static _Noreturn void run(const struct daemon *d, char **args)
{
	char notify[100], watchdog[16];
	int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0644);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(log, STDERR_FILENO);
	snprintf(notify, sizeof(notify), "%s/notify", d->home);
	setenv("NOTIFY_SOCKET", notify, 1);
	unsetenv("JOURNAL_STREAM");
	snprintf(watchdog, sizeof(watchdog), "%u000", d->watchdog_ms);
	unsetenv("WATCHDOG_PID");
	if (d->watchdog_ms)
		setenv("WATCHDOG_USEC", watchdog, 1);
	else
		unsetenv("WATCHDOG_USEC");
	signal(SIGPIPE, SIG_DFL);
	execv(args[0], args);
	perror(args[0]);
	_exit(127);
}

static pid_t spawn(struct daemon *d, const char *const *options)
{
	static char program[PATH_MAX + 64];
	const char *args[ARGS_MAX] = {program, "--dir", d->dir, "--store", d->store};
	pid_t pid;

	snprintf(program, sizeof(program), "%s", daemon_program("berthd"));
	for (int n = 5; n < ARGS_MAX - 1 && *options; n++)
		args[n] = *options++;
	pid = fork();
	if (pid < 0)
		fail_msg("fork: %s", strerror(errno));
	if (pid == 0)
		run(d, (char **)(uintptr_t)args);
	return pid;
}

void daemon_spawn_with(struct daemon *d, const char *const *options)
{
	char left[512];

	assert_int_equal(d->pid, 0);
	while (recv(d->notify_fd, left, sizeof(left), 0) > 0) /* of the one before */
		;
	d->pid = spawn(d, options);
	d->pidfd = (int)syscall(SYS_pidfd_open, d->pid, 0);
}

void daemon_wait_ready(struct daemon *d)
{
	uint64_t deadline = test_now_ms() + DAEMON_MS;
	struct pollfd p[] = {{.fd = d->notify_fd, .events = POLLIN}, {.fd = d->pidfd, .events = POLLIN}};
	char text[512];

	while (test_now_ms() < deadline) {
		ssize_t n;

		poll(p, 2, (int)(deadline - test_now_ms()));
		n = recv(d->notify_fd, text, sizeof(text) - 1, 0);
		if (n > 0) {
			text[n] = '\0';
			if (strstr(text, "READY=1"))
				return;
		} else if (p[1].revents & POLLIN) {
			fail_msg("berthd ended with %d instead of getting ready:\n%s", daemon_wait(d), daemon_log(d));
		}
	}
	fail_msg("berthd was not ready within %d ms:\n%s", DAEMON_MS, daemon_log(d));
}

void daemon_start_with(struct daemon *d, const char *const *options)
{
	daemon_spawn_with(d, options);
	daemon_wait_ready(d);
}

static int reap(pid_t pid, int pidfd, const struct daemon *d)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int status;

	if (poll(&p, 1, DAEMON_MS) != 1) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		fail_msg("berthd did not end within %d ms:\n%s", DAEMON_MS, daemon_log(d));
	}
	while (waitpid(pid, &status, 0) != pid)
		if (errno != EINTR)
			fail_msg("berthd, process %ld, cannot be waited for: %s", (long)pid, strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int daemon_start_refused_with(struct daemon *d, const char *const *options)
{
	pid_t pid = spawn(d, options);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status = reap(pid, pidfd, d);

	close(pidfd);
	return status;
}

int daemon_wait(struct daemon *d)
{
	pid_t pid = d->pid;
	int status;

	d->pid = 0;
	status = reap(pid, d->pidfd, d);
	close(d->pidfd);
	d->pidfd = -1;
	return status;
}

void daemon_signal(struct daemon *d, int number)
{
	assert_int_not_equal(d->pid, 0);
	assert_int_equal(kill(d->pid, number), 0);
}

int daemon_stop(struct daemon *d)
{
	daemon_signal(d, SIGTERM);
	return daemon_wait(d);
}

void daemon_kill(struct daemon *d)
{
	daemon_signal(d, SIGKILL);
	daemon_wait(d);
}

DIR *daemon_proc(const struct daemon *d, const char *name)
{
	char path[300];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/%s", d->pid, name);
	dir = opendir(path);
	assert_non_null(dir);
	return dir;
}
