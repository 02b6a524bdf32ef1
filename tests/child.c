/* SPDX-License-Identifier: MIT
 * child.h. */
#include "child.h"

#include <errno.h>
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
#include <unistd.h>

bool child_sanitized(void)
{
	return getenv("BERTH_SANITIZED") != NULL;
}

unsigned child_patience(unsigned ms)
{
	return child_sanitized() ? ms * 10 : ms;
}

/* In the child. */
static void die_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
}

pid_t child_start(const char *const argv[], int out)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		die_with_parent(parent);
		dup2(out, STDOUT_FILENO);
		dup2(out, STDERR_FILENO);
		execv(argv[0], (char *const *)(uintptr_t)argv);
		perror(argv[0]);
		_exit(127);
	}
	assert_true(pid > 0);
	return pid;
}

int child_wait(pid_t pid, unsigned ms)
{
	uint64_t end = test_now_ms() + child_patience(ms), now;
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	int status = 0, ready = 0;

	assert_true(p.fd >= 0);
	while (ready <= 0 && (now = test_now_ms()) < end)
		ready = poll(&p, 1, (int)(end - now));
	close(p.fd);
	if (ready <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (ready <= 0)
		return NOT_IN_TIME;
	return WIFSIGNALED(status) ? ENDED_BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

void child_kill(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	*pid = 0;
}

int child_run(const char *const argv[], char *out, size_t size, unsigned ms)
{
	int file = memfd_create("output", MFD_CLOEXEC), rc;
	ssize_t n;

	assert_true(file >= 0);
	rc = child_wait(child_start(argv, file), ms);
	n = pread(file, out, size - 1, 0);
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
		/* cmocka answers a fault by a jump into the parent's run: here it must end the process */
		for (int number = 1; number < 32; number++)
			if (number != SIGKILL && number != SIGSTOP)
				signal(number, SIG_DFL);
		_exit(part(arg));
	}
	assert_true(pid > 0);
	return pid;
}

int part_run(int (*part)(void *), void *arg, unsigned ms)
{
	return child_wait(part_start(part, arg), ms);
}

static int tool_arguments(const struct daemon *d, char *out, size_t size, va_list list)
{
	const char *argv[20] = {daemon_program("berth"), "--dir", d->dir};
	int n = 3;

	while (n < 18 && (argv[n] = va_arg(list, const char *)))
		n++;
	argv[n] = NULL;
	return child_run(argv, out, size, CHILD_MS);
}

int tool_run(const struct daemon *d, char *out, size_t size, ...)
{
	va_list list;
	int rc;

	va_start(list, size);
	rc = tool_arguments(d, out, size, list);
	va_end(list);
	return rc;
}

void tool_ok(const struct daemon *d, ...)
{
	char out[1024];
	va_list list;
	int rc;

	va_start(list, d);
	rc = tool_arguments(d, out, sizeof out, list);
	va_end(list);
	if (rc != 0)
		fail_msg("berth ended with %d: %s", rc, out);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

void remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

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

bool fork_wipes(void)
{
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	pid_t pid;

	assert_ptr_not_equal(page, MAP_FAILED);
	assert_int_equal(madvise(page, 4096, MADV_WIPEONFORK), 0);
	*page = 1;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(*page);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	munmap(page, 4096);
	if (status != 0)
		printf("SKIP: MADV_WIPEONFORK does nothing here\n");
	return status == 0;
}
