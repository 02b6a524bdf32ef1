/* SPDX-License-Identifier: MIT
 * A document that comes through a pipe whose end others have too: what the daemon was woken for may be gone when it comes
 * to read it. The thread that reads is stopped at that moment, by ptrace. */
#include "child.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 64

/* How many there are. */
static int threads_of(const struct daemon *d, pid_t tids[THREADS])
{
	struct dirent *e;
	char path[64];
	int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", d->pid);
	dir = opendir(path);
	assert_non_null(dir);
	while (n < THREADS && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			tids[n++] = atoi(e->d_name);
	closedir(dir);
	return n;
}

/* The one that was not there before; 0: none yet. */
static pid_t new_thread(const struct daemon *d, const pid_t before[THREADS], int n_before)
{
	pid_t now[THREADS];

	for (int i = threads_of(d, now) - 1; i >= 0; i--) {
		int k = 0;

		while (k < n_before && before[k] != now[i])
			k++;
		if (k == n_before)
			return now[i];
	}
	return 0;
}

/* Lets it go on to its next stop at a system call, and that it came to the end of one which returned this. */
static bool came_back_with(pid_t tid, int64_t value)
{
	struct __ptrace_syscall_info info;
	int status;

	assert_int_equal(ptrace(PTRACE_SYSCALL, tid, NULL, NULL), 0);
	assert_int_equal(waitpid(tid, &status, __WALL), tid);
	assert_true(WIFSTOPPED(status));
	assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) > 0);
	return info.op == PTRACE_SYSCALL_INFO_EXIT && info.exit.rval == value;
}

static bool loading(struct wire *w)
{
	json_t *status = wire_ok(w, "status", NULL);
	bool is = is_true(status, "loading");

	json_decref(status);
	return is;
}

static void what_another_reader_of_the_pipe_took_is_not_waited_for(void **state)
{
	struct daemon *d = *state;
	pid_t before[THREADS], worker = 0;
	struct wire w, look;
	int pipes[2], n_before, status;
	char byte;

	wire_open(&w, d, WIRE_ADMIN);
	wire_open(&look, d, WIRE_LOOK);
	assert_int_equal(pipe(pipes), 0);
	n_before = threads_of(d, before);
	wire_send_with(&w, pipes[0], "load", NULL);
	for (uint64_t deadline = 0; !worker && within(&deadline);)
		worker = new_thread(d, before, n_before);
	assert_true(worker > 0);
	if (ptrace(PTRACE_SEIZE, worker, NULL, PTRACE_O_TRACESYSGOOD) != 0)
		SKIP("ptrace: %s", strerror(errno));
	assert_int_equal(ptrace(PTRACE_INTERRUPT, worker, NULL, NULL), 0);
	assert_int_equal(waitpid(worker, &status, __WALL), worker);
	assert_int_equal(write(pipes[1], " ", 1), 1);
	for (uint64_t deadline = 0; !came_back_with(worker, 1);) /* of poll: there is something to read */
		assert_true(within(&deadline));
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	assert_int_equal(ptrace(PTRACE_DETACH, worker, NULL, NULL), 0);
	wire_close(&w);
	for (uint64_t deadline = 0; loading(&look) && within(&deadline);)
		;
	assert_false(loading(&look));
	close(pipes[0]);
	close(pipes[1]);
	wire_close(&look);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(what_another_reader_of_the_pipe_took_is_not_waited_for, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
