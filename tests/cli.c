/* SPDX-License-Identifier: MIT
 * Running the real `berth`: cli.h. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 40

static void collect(char **all, const struct daemon *d, bool json, const char *const args[])
{
	int n = 0;

	all[n++] = (char *)(uintptr_t) "berth";
	if (d) {
		all[n++] = (char *)(uintptr_t) "--dir";
		all[n++] = (char *)(uintptr_t)d->dir;
	}
	if (json)
		all[n++] = (char *)(uintptr_t) "--json";
	while (*args && n < ARGS_MAX - 1)
		all[n++] = (char *)(uintptr_t)*args++;
	all[n] = NULL;
}

static void start(struct cli *c, char **args, int in)
{
	char program[512];

	snprintf(program, sizeof(program), "%s", daemon_program("berth"));
	*c = (struct cli){.out_fd = memfd_create("out", MFD_CLOEXEC), .err_fd = memfd_create("err", MFD_CLOEXEC)};
	fflush(NULL);
	c->pid = fork();
	if (c->pid < 0)
		fail_msg("fork: %s", strerror(errno));
	if (c->pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(in >= 0 ? in : open("/dev/null", O_RDONLY), STDIN_FILENO);
	dup2(c->out_fd, STDOUT_FILENO);
	dup2(c->err_fd, STDERR_FILENO);
	setenv("TZ", "UTC", 1);
	execv(program, args);
	perror(program);
	_exit(127);
}

static char *text_of_fd(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)size + 1);

	if (pread(fd, text, (size_t)size, 0) != size)
		fail_msg("output: %s", strerror(errno));
	return text;
}

void cli_wait(struct cli *c)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, c->pid, 0), .events = POLLIN};
	int status;

	if (poll(&p, 1, 3 * DAEMON_MS) != 1) {
		kill(c->pid, SIGKILL);
		waitpid(c->pid, &status, 0);
		fail_msg("berth did not end within %d ms:\n%s\n%s", 3 * DAEMON_MS, text_of_fd(c->out_fd),
			 text_of_fd(c->err_fd));
	}
	waitpid(c->pid, &status, 0);
	close(p.fd);
	c->pid = 0;
	c->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	c->out = text_of_fd(c->out_fd);
	c->err = text_of_fd(c->err_fd);
	close(c->out_fd);
	close(c->err_fd);
}

void cli_free(struct cli *c)
{
	free(c->out);
	free(c->err);
	c->out = c->err = NULL;
}

void cli_start_args(struct cli *c, const struct daemon *d, const char *const args[])
{
	char *all[ARGS_MAX];

	collect(all, d, false, args);
	start(c, all, -1);
}

void cli_run_args(struct cli *c, const struct daemon *d, const char *const args[])
{
	char *all[ARGS_MAX];

	collect(all, d, false, args);
	start(c, all, -1);
	cli_wait(c);
}

void cli_run_with_args(struct cli *c, const char *input, const struct daemon *d, const char *const args[])
{
	char *all[ARGS_MAX];
	int ends[2];

	collect(all, d, false, args);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	start(c, all, ends[0]);
	close(ends[0]);
	if (write(ends[1], input, strlen(input)) != (ssize_t)strlen(input)) /* shorter than a pipe is deep */
		fail_msg("pipe: %s", strerror(errno));
	close(ends[1]);
	cli_wait(c);
}

static void expect_text(const struct cli *c, int fd, const char *text)
{
	uint64_t deadline = 0;

	while (within(&deadline)) {
		char *now = text_of_fd(fd);
		bool found = strstr(now, text) != NULL;

		free(now);
		if (found)
			return;
	}
	fail_msg("berth never wrote `%s`:\n%s\n%s", text, text_of_fd(c->out_fd), text_of_fd(c->err_fd));
}

void cli_expect_out(const struct cli *c, const char *text)
{
	expect_text(c, c->out_fd, text);
}
void cli_expect_err(const struct cli *c, const char *text)
{
	expect_text(c, c->err_fd, text);
}

void cli_check(const struct cli *c, int code, const char *in_out, const char *in_err)
{
	if (c->code != code)
		fail_msg("exit code %d instead of %d:\n%s\n%s", c->code, code, c->out, c->err);
	if (in_out && !strstr(c->out, in_out))
		fail_msg("no `%s` on stdout:\n%s\n%s", in_out, c->out, c->err);
	if (in_err && !strstr(c->err, in_err))
		fail_msg("no `%s` on stderr:\n%s\n%s", in_err, c->out, c->err);
}

void cli_expect_args(int code, const struct daemon *d, const char *const args[])
{
	char *all[ARGS_MAX];
	struct cli c;

	collect(all, d, false, args);
	start(&c, all, -1);
	cli_wait(&c);
	cli_check(&c, code, NULL, NULL);
	cli_free(&c);
}

static json_t *parse_lines(const struct cli *c)
{
	json_t *lines = json_array();

	for (const char *at = c->out; *at;) {
		size_t n = strcspn(at, "\n");
		json_t *line = json_loadb(at, n, 0, NULL);

		if (!json_is_object(line))
			fail_msg("no JSON object: %.*s\n%s", (int)n, at, c->err);
		json_array_append_new(lines, line);
		at += n + (at[n] == '\n');
	}
	return lines;
}

json_t *cli_json_args(int code, const struct daemon *d, const char *const args[])
{
	char *all[ARGS_MAX];
	struct cli c;

	collect(all, d, true, args);
	start(&c, all, -1);
	cli_wait(&c);
	cli_check(&c, code, NULL, NULL);
	json_t *lines = parse_lines(&c);
	cli_free(&c);
	return lines;
}

json_t *cli_refused_args(const char *wanted, const struct daemon *d, const char *const args[])
{
	json_t *lines = cli_json_args(1, d, args);

	assert_int_equal(json_array_size(lines), 1);
	json_t *error = json_incref(json_object_get(json_array_get(lines, 0), "error"));
	json_decref(lines);
	assert_string_equal(text_of(error, "code"), wanted);
	assert_true(strlen(text_of(error, "message")) > 10);
	return error;
}
