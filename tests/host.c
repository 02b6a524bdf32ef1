/* SPDX-License-Identifier: MIT
 * host.h. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../shm/segment.h"

/* ---- processes -------------------------------------------------------------------------------------------------- */

unsigned host_patience(unsigned ms) { return getenv("BERTH_SANITIZED") ? ms * 10 : ms; }

const char *host_program(const char *name)
{
	static char path[512];
	const char *build = getenv("BERTH_BUILD");

	snprintf(path, sizeof path, "%s/%s", build ? build : "build", name);
	return path;
}

/* In the child. */
static void die_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
}

pid_t process_start(const char *const argv[], int out)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		die_with_parent(parent);
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	assert_true(pid > 0);
	return pid;
}

static int exit_code(int status)
{
	return WIFSIGNALED(status) ? ENDED_BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

int process_wait(pid_t pid, unsigned ms)
{
	uint64_t end = seg_clock_ms(CLOCK_MONOTONIC) + host_patience(ms), now;
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	int status = 0, ready = 0;

	assert_true(p.fd >= 0);
	while (ready <= 0 && (now = seg_clock_ms(CLOCK_MONOTONIC)) < end)
		ready = poll(&p, 1, (int)(end - now));
	close(p.fd);
	if (ready <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return ready <= 0 ? NOT_IN_TIME : exit_code(status);
}

void process_kill(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	*pid = 0;
}

int process_run(const char *const argv[], char *out, size_t size, unsigned ms)
{
	int file = memfd_create("output", MFD_CLOEXEC), rc;
	ssize_t n = 0;

	assert_true(file >= 0);
	rc = process_wait(process_start(argv, file), ms);
	if (size)
		n = pread(file, out, size - 1, 0);
	if (size)
		out[n > 0 ? n : 0] = '\0';
	close(file);
	return rc;
}

pid_t part_start(int (*part)(void *), void *arg)
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		die_with_parent(parent);
		/* cmocka reports a fault by a jump into the parent's run: here it must end the process */
		for (int number = 1; number < 32; number++)
			if (number != SIGKILL && number != SIGSTOP)
				signal(number, SIG_DFL);
		_exit(part(arg));
	}
	assert_true(pid > 0);
	return pid;
}

int part_run(int (*part)(void *), void *arg, unsigned ms) { return process_wait(part_start(part, arg), ms); }

bool wait_for(bool (*condition)(void *), void *arg, unsigned ms)
{
	uint64_t end = seg_clock_ms(CLOCK_MONOTONIC) + host_patience(ms);
	const struct timespec nap = {.tv_nsec = 2000000};

	while (!condition(arg)) {
		if (seg_clock_ms(CLOCK_MONOTONIC) >= end)
			return false;
		nanosleep(&nap, NULL);
	}
	return true;
}

/* ---- an instance ------------------------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

void remove_tree(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

int make_host(void **state)
{
	struct host *h = calloc(1, sizeof *h);

	if (!h)
		return -1;
	strcpy(h->base, "/dev/shm/berth-test-XXXXXX");
	if (!mkdtemp(h->base) || chmod(h->base, 0755) != 0) {
		free(h);
		return -1;
	}
	snprintf(h->dir, sizeof h->dir, "%s/i", h->base);
	snprintf(h->store, sizeof h->store, "sqlite:%s/store.db", h->base);
	snprintf(h->log, sizeof h->log, "%s/log", h->base);
	*state = h;
	return 0;
}

int remove_host(void **state)
{
	struct host *h = *state;

	host_kill(h);
	remove_tree(h->base);
	free(h);
	return 0;
}

void host_log(const struct host *h, char *out, size_t size)
{
	int fd = open(h->log, O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t n = fd < 0 ? 0 : pread(fd, out, size - 1, end < (off_t)size ? 0 : end - (off_t)size + 1);

	out[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
}

static bool ready_or_over(void *arg)
{
	struct host *h = arg;
	char text[4096];

	host_log(h, text, sizeof text);
	if (strstr(text, "event=ready"))
		return true;
	if (waitpid(h->berthd, NULL, WNOHANG) != h->berthd)
		return false;
	h->berthd = 0;
	return true;
}

bool host_start(struct host *h)
{
	const char *argv[24] = {host_program("berthd"), "--dir", h->dir, "--store", h->store};
	int n = 5, log = open(h->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	bool told;

	for (int i = 0; i < 8 && h->more[i]; i++)
		argv[n++] = h->more[i];
	assert_true(log >= 0);
	h->berthd = process_start(argv, log);
	close(log);
	told = wait_for(ready_or_over, h, HOST_MS);
	if (!told)
		process_kill(&h->berthd);
	return told && h->berthd > 0;
}

void host_up(struct host *h)
{
	char text[4096];

	if (host_start(h))
		return;
	host_log(h, text, sizeof text);
	fail_msg("berthd did not start: %s", text);
}

void host_kill(struct host *h) { process_kill(&h->berthd); }

bool host_lives(const struct host *h) { return h->berthd > 0 && waitpid(h->berthd, NULL, WNOHANG) == 0; }

static int berth_arguments(const struct host *h, char *out, size_t size, va_list list)
{
	const char *argv[20] = {host_program("berth"), "--dir", h->dir};
	int n = 3;

	while (n < 18 && (argv[n] = va_arg(list, const char *)))
		n++;
	argv[n] = NULL;
	return process_run(argv, out, size, HOST_MS);
}

int berth(const struct host *h, char *out, size_t size, ...)
{
	va_list list;
	int rc;

	va_start(list, size);
	rc = berth_arguments(h, out, size, list);
	va_end(list);
	return rc;
}

void berth_ok(const struct host *h, ...)
{
	char out[1024];
	va_list list;
	int rc;

	va_start(list, h);
	rc = berth_arguments(h, out, sizeof out, list);
	va_end(list);
	if (rc != 0)
		fail_msg("berth ended with %d: %s", rc, out);
}

/* ---- root's privileges ------------------------------------------------------------------------------------------ */

bool own_mounts(void)
{
	static bool done;

	if (done)
		return true;
	if (geteuid() != 0)
		printf("SKIP: needs root\n");
	else if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		printf("SKIP: no mount namespace of its own: %s\n", strerror(errno));
	else
		done = true;
	fflush(stdout);
	return done;
}
