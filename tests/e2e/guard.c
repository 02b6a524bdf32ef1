/* SPDX-License-Identifier: MIT
 * place_guard (place.h): the program's first process, which does nothing but wait, so that whatever happens to the run no
 * process and no file of it is left. Orphans of the run become children of this process (PR_SET_CHILD_SUBREAPER). */
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "place.h"

#define LEAVE_MS 5000 /* for those that are told to end */

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status;
	(void)type;
	(void)where;
	return remove(path);
}

/* path: ends in XXXXXX, which is replaced. */
static void make_directory(const char *variable, char *path)
{
	if (!mkdtemp(path)) {
		fprintf(stderr, "cannot make a temporary directory %s: %s\n", path, strerror(errno));
		exit(1);
	}
	setenv(variable, path, 1);
}

/* All that are left, by their ids: they became our children. */
static void kill_children(int number)
{
	char path[64];
	FILE *f;
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &pid) == 1)
		kill(pid, number);
	if (f)
		fclose(f);
}

static void end_children(void)
{
	for (int ms = 0; waitpid(-1, NULL, WNOHANG) >= 0; ms++) {
		if (ms == 0)
			kill_children(SIGTERM);
		if (ms >= LEAVE_MS)
			kill_children(SIGKILL);
		usleep(1000);
	}
}

int place_guard(int (*body)(void *arg), void *arg)
{
	char home[] = "/tmp/berth-e2e-XXXXXX", shm[] = "/dev/shm/berth-e2e-XXXXXX";
	sigset_t ours, before;
	int status = 0, code = 1, number;
	pid_t pid, done;

	make_directory("E2E_HOME", home);
	make_directory("E2E_SHM", shm);
	sigemptyset(&ours);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGTERM);
	sigaddset(&ours, SIGHUP);
	sigaddset(&ours, SIGCHLD);
	sigprocmask(SIG_BLOCK, &ours, &before);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_CHILD_SUBREAPER, 0);
		setpgid(0, 0); /* Ctrl-C comes to the guard alone, which ends all in order */
		exit(body(arg));
	}
	while (pid > 0) {
		number = sigwaitinfo(&ours, NULL);
		if (number != SIGCHLD && number > 0) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			code = 128 + number;
			break;
		}
		while ((done = waitpid(-1, &status, WNOHANG)) > 0 && done != pid)
			;
		if (done == pid) {
			code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			break;
		}
	}
	end_children();
	nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	nftw(shm, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return code;
}
