/* SPDX-License-Identifier: MIT
 * Running the real `berth` from tests: its exit code, stdout and stderr apart. Every run has a deadline and dies with
 * the test program. */
#ifndef BERTH_TESTS_CLI_H
#define BERTH_TESTS_CLI_H

#include "daemon.h"

struct cli {       /* one run */
	pid_t pid; /* 0: over */
	int out_fd, err_fd;
	int code;        /* exit code; 128 + signal */
	char *out, *err; /* all it wrote; to be freed with cli_free */
};

/* What follows the daemon are the arguments, strings; the first NULL ends them. */
#define CLI_ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Runs `berth --dir DIR ARGUMENTS…` to its end. d NULL: without --dir. */
#define cli_run(c, d, ...) cli_run_args(c, d, CLI_ARGS(__VA_ARGS__))
void cli_run_args(struct cli *, const struct daemon *d, const char *const args[]);
/* The same with this on its standard input, through a pipe. */
#define cli_run_with(c, input, d, ...) cli_run_with_args(c, input, d, CLI_ARGS(__VA_ARGS__))
void cli_run_with_args(struct cli *, const char *input, const struct daemon *d, const char *const args[]);
/* Starts it, for cli_wait. */
#define cli_start(c, d, ...) cli_start_args(c, d, CLI_ARGS(__VA_ARGS__))
void cli_start_args(struct cli *, const struct daemon *d, const char *const args[]);
void cli_wait(struct cli *);
void cli_free(struct cli *);
/* Waits until a running one has written this; to stdout, or to stderr. */
void cli_expect_out(const struct cli *, const char *text);
void cli_expect_err(const struct cli *, const char *text);

/* Runs it, fails the test unless it ends with this code, forgets its output. */
#define cli_expect(code, d, ...) cli_expect_args(code, d, CLI_ARGS(__VA_ARGS__))
void cli_expect_args(int code, const struct daemon *d, const char *const args[]);
/* Runs it with --json, expects this code and every line to be a JSON object: an array of them. */
#define cli_json(code, d, ...) cli_json_args(code, d, CLI_ARGS(__VA_ARGS__))
json_t *cli_json_args(int code, const struct daemon *d, const char *const args[]);
/* Runs it with --json, expects exit code 1 and an error object with this code; the error object, to be freed. */
#define cli_refused(error, d, ...) cli_refused_args(error, d, CLI_ARGS(__VA_ARGS__))
json_t *cli_refused_args(const char *error, const struct daemon *d, const char *const args[]);
/* Fails the test, with everything the run wrote, unless it ended so and wrote these (NULL: anything). */
void cli_check(const struct cli *, int code, const char *in_out, const char *in_err);

#endif
