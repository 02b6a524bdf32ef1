/* SPDX-License-Identifier: MIT
 * The copy command of a migration's run: a shell in a process group of its own, so that a signal for `berth` reaches
 * the command by `berth`'s hand and all of it can be ended. Its output is passed through; with --json to stderr. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "run.h"
#include "text.h"

#define END_MS 10000u /* to end after SIGTERM, before SIGKILL */

static void set_placement(const char *prefix, const json_t *placement, const char *endpoint)
{
	static const struct {
		const char *suffix, *field;
	} parts[] = {{"", "cluster"}, {"_MODE", "mode"}, {"_INDEX", "index"}};
	char name[64];

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		snprintf(name, sizeof(name), "%s%s", prefix, parts[i].suffix);
		setenv(name, tool_string(placement, parts[i].field), 1);
	}
	snprintf(name, sizeof(name), "%s_ENDPOINT", prefix);
	setenv(name, endpoint, 1);
}

struct endpoints {
	char from[SHM_ENDPOINT_MAX + 1], to[SHM_ENDPOINT_MAX + 1];
};

/* In the child. */
static _Noreturn void become_command(const struct run *r, const char *cmd, const struct endpoints *e, pid_t parent)
{
	char epoch[24];
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM); /* a copy without its migration is of no use */
	if (getppid() != parent)
		_exit(EXIT_REFUSED);
	int null = open("/dev/null", O_RDONLY);
	if (null >= 0)
		dup2(null, STDIN_FILENO);
	if (r->t->json)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	snprintf(epoch, sizeof(epoch), "%" PRIu64, r->epoch);
	setenv("BERTH_PARTITION", r->partition, 1);
	setenv("BERTH_EPOCH", epoch, 1);
	setenv("BERTH_DIR", r->t->path, 1);
	set_placement("BERTH_FROM", json_object_get(r->state, "at"), e->from);
	set_placement("BERTH_TO", json_object_get(r->state, "to"), e->to);
	signal(SIGPIPE, SIG_DFL); /* handlers go with the exec, what was ignored before stays so */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
	_exit(127);
}

static void end_command(pid_t pid, int *status)
{
	uint64_t start = seg_clock_ms(CLOCK_MONOTONIC);

	kill(-pid, SIGTERM);
	while (waitpid(pid, status, WNOHANG) == 0) {
		if (run_hurried() || seg_clock_ms(CLOCK_MONOTONIC) - start > END_MS)
			kill(-pid, SIGKILL);
		run_wait(20);
	}
	run_be_patient();    /* it was the command that was to end sooner, not the undoing */
	kill(-pid, SIGKILL); /* what it started and left */
}

enum copy_result copy_run(struct run *r, const char *cmd, char *text, size_t room)
{
	struct endpoints e;
	pid_t parent = getpid(), pid, gone;
	uint64_t start = seg_clock_ms(CLOCK_MONOTONIC);
	char took[TEXT_UNIT];
	int status = 0;

	session_endpoint(r, tool_string(json_object_get(r->state, "at"), "cluster"), e.from);
	session_endpoint(r, tool_string(json_object_get(r->state, "to"), "cluster"), e.to);
	session_close(r); /* nothing is said for a long time now */
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		become_command(r, cmd, &e, parent);
	if (pid < 0) {
		snprintf(text, room, "could not be started: %s", strerror(errno));
		return COPY_FAILED;
	}
	setpgid(pid, pid);
	while ((gone = waitpid(pid, &status, WNOHANG)) == 0 && !run_interrupted())
		run_wait(60000);
	if (gone == 0) {
		end_command(pid, &status);
		snprintf(text, room, "was ended");
		return COPY_INTERRUPTED;
	}
	r->copy_ms = seg_clock_ms(CLOCK_MONOTONIC) - start;
	text_duration(took, r->copy_ms);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return COPY_DONE;
	if (WIFEXITED(status))
		snprintf(text, room, "failed with exit code %d after %s", WEXITSTATUS(status), took);
	else
		snprintf(text, room, "was killed by signal %d (%s) after %s", WTERMSIG(status),
			 strsignal(WTERMSIG(status)), took);
	return COPY_FAILED;
}
