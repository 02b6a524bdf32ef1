/* SPDX-License-Identifier: MIT
 * Processes of tests that look at berth from outside: commands of `berth`, and parts of a test that run as another
 * process or another user. Everything has a deadline, and every process dies with the test program. The daemon itself
 * is daemon.h's. */
#ifndef BERTH_TESTS_CHILD_H
#define BERTH_TESTS_CHILD_H

#include <stdio.h>

#include "daemon.h"

#define CHILD_MS 20000u      /* a deadline that nothing here comes near; ten times that under a sanitizer */
#define ENDED_BY_SIGNAL 1000 /* + its number */
#define NOT_IN_TIME (-1)

unsigned child_patience(unsigned ms);
bool child_sanitized(void);
/* Starts a program, with its output to a descriptor. */
pid_t child_start(const char *const argv[], int out);
/* Its exit code, ENDED_BY_SIGNAL + n, or NOT_IN_TIME: then it has been killed. */
int child_wait(pid_t, unsigned ms);
void child_kill(pid_t *); /* SIGKILL, and waits; *pid becomes 0 */
/* Runs a program to its end; the first size-1 bytes of its output. As child_wait. */
int child_run(const char *const argv[], char *out, size_t size, unsigned ms);
/* A part of the test in a process of its own: what it returns is the exit code. */
pid_t part_start(int (*part)(void *), void *arg);
int part_run(int (*part)(void *), void *arg, unsigned ms);

/* `berth --dir DIR ARGUMENTS...` (at most 14 of them, then NULL); the exit code. */
int tool_run(const struct daemon *, char *out, size_t size, ...) __attribute__((sentinel));
/* The same, and it must end with 0. */
void tool_ok(const struct daemon *, ...) __attribute__((sentinel));

void remove_tree(const char *path);
/* A mount namespace of this process's own, private from here on. False after a line `SKIP: reason`. */
bool own_mounts(void);
/* Is memory that is to be zeros in a forked child (MADV_WIPEONFORK) zeros there? Not under qemu-user. False after a line
 * `SKIP: reason`. */
bool fork_wipes(void);
/* Prints the reason, and ends the test. */
#define SKIP(...) \
	do { \
		printf("SKIP: " __VA_ARGS__); \
		putchar('\n'); \
		fflush(stdout); \
		skip(); \
	} while (0)

#endif
