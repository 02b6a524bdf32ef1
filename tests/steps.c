/* SPDX-License-Identifier: MIT
 * steps.h: the other process, and its instructions one by one. */
#include "steps.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS_MAX 20000
#define DOSE 3 /* of all instructions: another one of so many in each run */

unsigned steps_made;

/* ---- the other process ---------------------------------------------------------------------------------------- */

static void look(struct berth_reader *r, const char *key, struct answer *a)
{
	struct berth_route at = {0};
	struct berth_placement l;
	struct berth_cluster c;
	struct berth_write w = {0};
	struct berth_key one = {key, strlen(key)};
	int status = BERTH_OK;

	if (a->call == BEGIN || a->call == BEGIN_BULK) {
		a->code = a->call == BEGIN ? berth_write_begin(r, key, strlen(key), 0, &w)
					   : berth_write_begin_bulk(r, &one, NULL, 1, &w, &status);
		if (a->call == BEGIN_BULK && a->code == BERTH_OK)
			a->code = status;
		a->epoch = w.epoch;
		a->cluster = w.cluster;
		a->done = true;
		if (a->code == BERTH_OK)
			berth_write_end(r, &w, BERTH_DONE);
		return;
	}
	if (a->call == ROUTE) {
		a->code = berth_route(r, key, strlen(key), &at);
		a->epoch = at.epoch;
		a->cluster = at.cluster;
	} else {
		berth_read_begin(r);
		if (a->call == LOOKUP && (a->code = berth_lookup(r, key, strlen(key), &l)) == BERTH_OK) {
			a->epoch = l.epoch;
			a->cluster = l.cluster;
			memcpy(a->text, l.index, l.index_len + 1);
		}
		if (a->call == CLUSTER && (a->code = berth_cluster(r, 1, &c)) == BERTH_OK)
			memcpy(a->text, c.id, c.id_len + 1);
		berth_read_end(r);
	}
	a->done = true;
}

static void other_process(const char *dir, const char *key, struct answer *a)
{
	struct berth_attach_options o = {
		.size = sizeof o, .wait_ms = 10000, .writes = BERTH_WRITES_BRACKETED}; /* no wait when nobody serves */
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	pid_t self = getpid();

	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
		_exit(77);
	if (berth_attach(dir, &o, &b) != BERTH_OK || berth_reader_open(b, &r) != BERTH_OK)
		_exit(1);
	for (enum call call = 0; call <= BEGIN_BULK; call++) { /* whatever the first call of its kind does */
		a->call = call;
		look(r, key, a);
	}
	for (;;) {
		kill(self, SIGSTOP); /* fewer instructions than raise() */
		look(r, key, a);
		kill(self, SIGSTOP);
	}
}

pid_t steps_start(struct reader_place *p, const char *key, struct answer *a)
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		other_process(p->dir, key, a);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("SKIP: ptrace is refused: %s\n", strerror(errno));
		skip();
	}
	assert_true(WIFSTOPPED(status));
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0); /* not left behind by a failure */
	return pid;
}

void steps_resume(pid_t pid, enum __ptrace_request how)
{
	int status;

	assert_int_equal(ptrace(how, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSTOPPED(status))
		fail_msg("the reader died: status %#x", status);
}

/* The other process calls; after n of its instructions, `change` is made. False: it was through before that. */
static bool interrupted(pid_t pid, struct answer *a, unsigned n, void (*change)(struct reader_place *, unsigned),
			struct reader_place *p)
{
	enum call call = a->call;
	bool in_time;

	*a = (struct answer){.call = call};
	for (unsigned i = 0; i < n && !a->done; i++)
		steps_resume(pid, PTRACE_SINGLESTEP);
	in_time = !a->done;
	change(p, n);
	steps_resume(pid, PTRACE_CONT); /* to the stop behind the call */
	assert_true(a->done);
	steps_resume(pid, PTRACE_CONT); /* to the one before the next */
	return in_time;
}

void steps_stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

struct answer *shared_answer(void)
{
	struct answer *a = mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(a != MAP_FAILED);
	return a;
}

/* Makes `change` after each stride-th instruction of a call in turn, and has `check` judge each answer. */
void at_each_instruction(struct reader_place *p, const char *key, enum call call, unsigned stride,
			 void (*change)(struct reader_place *, unsigned), void (*check)(const struct answer *))
{
	struct answer *a = shared_answer();
	pid_t pid = steps_start(p, key, a);

	a->call = call;
	if (!getenv("BERTH_LONG"))
		stride *= DOSE;
	steps_made = 1 + (unsigned)(seg_clock_ns(CLOCK_MONOTONIC) / 1000 % stride);
	while (interrupted(pid, a, steps_made, change, p)) {
		check(a);
		steps_made += stride;
		if (steps_made >= STEPS_MAX)
			fail_msg("the call takes more than %u instructions", steps_made);
	}
	assert_true(steps_made > 100);
	steps_stop(pid);
	munmap(a, sizeof *a);
}

void restart_it(struct reader_place *p, unsigned n)
{
	(void)n;
	restart_writer(p);
	reclaim(p); /* the table that the look-up may be in is given back: reads as zeros */
}
