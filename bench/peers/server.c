/* SPDX-License-Identifier: MIT
 * Starts and ends a server of others, see server.h. Called by redis.c and etcd.c, in the one thread of `peers`; the
 * kernel kills the server when that thread ends (PR_SET_PDEATHSIG). It must not end any process but the one it started. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static bool find_program(struct server *s, const char *program)
{
	const char *path = getenv("PATH");

	if (!path || !*path)
		path = "/usr/local/bin:/usr/bin:/bin";
	for (const char *at = path; *at;) {
		size_t n = strcspn(at, ":");

		if (n > 0 && n + strlen(program) + 2 <= sizeof(s->program)) {
			snprintf(s->program, sizeof(s->program), "%.*s/%s", (int)n, at, program);
			if (access(s->program, X_OK) == 0)
				return true;
		}
		at += n + (at[n] == ':');
	}
	return false;
}

bool server_prepare(const struct bench *b, struct server *s, const char *program, const char *package)
{
	memset(s, 0, sizeof(*s));
	if (!find_program(s, program)) {
		report_note(b, "%s is left out: no such program in PATH; install the package %s", program, package);
		return false;
	}
	if (snprintf(s->dir, sizeof(s->dir), "%s/%s-XXXXXX", b->shm, program) >= (int)sizeof(s->dir) ||
	    !mkdtemp(s->dir))
		fail("%s: %s: no scratch directory for %s", s->dir, strerror(errno), program);
	snprintf(s->log, sizeof(s->log), "%s/log", s->dir);
	return true;
}

static _Noreturn void run_server(const struct server *s, const char *const *argv, int cpu, pid_t parent)
{
	static const char *const no_environment[] = {NULL};
	int null = open("/dev/null", O_RDONLY), log = open(s->log, O_WRONLY | O_CREAT | O_APPEND, 0600);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (null < 0 || log < 0 || getppid() != parent) /* it ended before the kernel was told */
		_exit(127);
	dup2(null, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	if (close_range(STDERR_FILENO + 1, ~0u, 0) != 0)
		_exit(127);
	pin_nowhere();
	if (cpu >= 0)
		pin_to(cpu);
	execve(s->program, (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)no_environment);
	dprintf(STDERR_FILENO, "%s: %s\n", s->program, strerror(errno));
	_exit(127);
}

void server_start(struct server *s, const char *const *argv, int cpu)
{
	pid_t parent = getpid();

	fflush(stdout);
	s->pid = fork();
	if (s->pid < 0)
		fail("fork for %s: %s", s->program, strerror(errno));
	if (s->pid == 0)
		run_server(s, argv, cpu, parent);
}

bool server_runs(struct server *s)
{
	if (s->pid > 0 && waitpid(s->pid, NULL, WNOHANG) != 0)
		s->pid = 0;
	return s->pid > 0;
}

void server_note_failure(const struct bench *b, const struct server *s)
{
	char line[512], last[512] = "nothing in its log";
	FILE *f = fopen(s->log, "r");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (*line)
			memcpy(last, line, sizeof(last));
	}
	if (f)
		fclose(f);
	report_note(b, "%s is left out: it %s: %s", s->program,
		    s->pid > 0 ? "does not answer" : "ended when it was started", last);
}

void server_stop(struct server *s)
{
	if (s->pid > 0) {
		kill(s->pid, SIGKILL); /* it has nothing to save */
		while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	s->pid = 0;
	remove_tree(s->dir);
}
