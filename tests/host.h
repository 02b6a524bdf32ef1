/* SPDX-License-Identifier: MIT
 * Processes for tests that look at berth from outside: a real berthd in a directory of its own, commands of `berth`,
 * parts of a test that run as another process or another user. Everything has a deadline, and every process dies with
 * the test program. Programs are taken from $BERTH_BUILD (build). */
#ifndef BERTH_TESTS_HOST_H
#define BERTH_TESTS_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <cmocka.h>

#define HOST_MS 20000u /* the deadline that nothing here comes near; ten times that under a sanitizer */
#define ENDED_BY_SIGNAL 1000 /* + its number */
#define NOT_IN_TIME (-1)

/* ---- processes ---- */

unsigned host_patience(unsigned ms);
const char *host_program(const char *name); /* its path; static, overwritten by the next call */
/* Starts a program, with output to `out` (a descriptor). It is killed when the calling thread ends. */
pid_t process_start(const char *const argv[], int out);
/* Its exit code, ENDED_BY_SIGNAL + n, or NOT_IN_TIME: then it has been killed. */
int process_wait(pid_t, unsigned ms);
void process_kill(pid_t *); /* SIGKILL, and waits; *pid becomes 0 */
/* Runs it to its end; the first size-1 bytes of its output. As process_wait. */
int process_run(const char *const argv[], char *out, size_t size, unsigned ms);
/* A part of the test in a process of its own: it returns the exit code. */
pid_t part_start(int (*part)(void *), void *arg);
int part_run(int (*part)(void *), void *arg, unsigned ms);
/* Calls until it answers true, every few ms. False past the deadline. */
bool wait_for(bool (*condition)(void *), void *arg, unsigned ms);

/* ---- an instance ---- */

struct host {
	char base[64];  /* temporary directory below /dev/shm, mode 0755 */
	char dir[128];  /* of the instance */
	char store[128];
	char log[128];  /* of berthd */
	const char *more[8]; /* options for berthd */
	pid_t berthd;
};

int make_host(void **state);   /* a struct host, with no daemon yet */
int remove_host(void **state); /* kills the daemon, removes all files */
bool host_start(struct host *); /* false: it ended instead of becoming ready; the log tells why */
void host_up(struct host *);    /* fails the test instead */
void host_kill(struct host *);
void host_log(const struct host *, char *out, size_t size); /* the log's last part, NUL-terminated */
bool host_lives(const struct host *);
/* `berth --dir DIR ARGUMENTS...` (at most 14 of them, then NULL). */
int berth(const struct host *, char *out, size_t size, ...) __attribute__((sentinel));
/* The same, and it must end with 0. */
void berth_ok(const struct host *, ...) __attribute__((sentinel));
void remove_tree(const char *path);

/* ---- root's privileges ---- */

/* A mount namespace of this process's own. False after a line `SKIP: reason`. */
bool own_mounts(void);
#define SKIP(...) \
	do { \
		printf("SKIP: " __VA_ARGS__); \
		putchar('\n'); \
		fflush(stdout); \
		skip(); \
	} while (0)

#endif
