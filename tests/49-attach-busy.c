/* SPDX-License-Identifier: MIT
 * berth_attach where the visit of the processors (shm/grace.c) does not end: one of them is kept busy by a process that
 * gives way to nobody, or the visitor hangs for good. It returns all the same, the process fences for itself, and signals
 * come meanwhile. Against the writer's own table and a stand-in for its daemon. */
#include "reader_place.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"

#define SPIN_MS 1500u
#define SETTLE_MS 100u
#define BOUND_MS 600u /* 200 of the visit, and as much again as a loaded machine takes */
#define PATIENCE_MS 5000u
#define ALARM_MS 30
#define HANG_MS 1200u

/* What a process of its own says by its exit code. */
enum { WELL, NOT_ATTACHED = 1, TOO_LATE, NO_ANSWER, HELD_BACK, CANNOT = 77 };

static uint64_t now(void)
{
	return seg_clock_ms(CLOCK_MONOTONIC);
}

static volatile uint64_t alarmed_ms;

static void on_alarm(int signal)
{
	(void)signal;
	alarmed_ms = now();
}

/* In a process that has registered with no membarrier yet. */
static int attach_in_time(const char *dir, bool alarmed)
{
	const struct itimerval soon = {.it_value.tv_usec = ALARM_MS * 1000};
	struct berth_attach_options o = {.size = sizeof o, .wait_ms = BERTH_NO_WAIT};
	struct berth_reader *r = NULL;
	struct berth *b = NULL;
	struct berth_route at;
	uint64_t start, end;

	if (alarmed && (signal(SIGALRM, on_alarm) == SIG_ERR || setitimer(ITIMER_REAL, &soon, NULL) != 0))
		return CANNOT;
	start = now();
	if (berth_attach(dir, &o, &b) != BERTH_OK)
		return NOT_ATTACHED;
	end = now();
	if (end - start > child_patience(BOUND_MS))
		return TOO_LATE;
	if (alarmed && (alarmed_ms == 0 || alarmed_ms + 50 > end)) /* it was held back to the end of the visit */
		return HELD_BACK;
	while (berth_maintain(b) != BERTH_OK)
		if (now() > start + PATIENCE_MS)
			return NO_ANSWER;
	if (berth_reader_open(b, &r) != BERTH_OK || berth_route(r, KEY("acme"), &at) != BERTH_OK ||
	    berth_admit(r, KEY("acme"), at.epoch) != BERTH_OK)
		return NO_ANSWER;
	close_all(b, r);
	return WELL;
}

static void check(int code)
{
	static const char *const what[] = {"well", "it did not attach", "it took too long", "it does not answer",
					   "a signal was held back"};

	if (code != WELL)
		fail_msg("%s (%d)", code > 0 && code <= HELD_BACK ? what[code] : "it did not end by itself", code);
}

/* ---- a visitor that hangs ---------------------------------------------------------------------------------------- */

/* The visitor's calls about itself hang, those of its parent about it pass. */
static bool hang_visitors(int *listener)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setaffinity, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return false;
	*listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	return *listener >= 0;
}

/* It ends the visitor at last, whatever becomes of the attachment; nobody else may: it would hang for ever. */
static void *end_of_the_hang(void *arg)
{
	struct seccomp_notif it = {0};

	usleep(HANG_MS * 1000);
	if (ioctl(*(int *)arg, SECCOMP_IOCTL_NOTIF_RECV, &it) == 0 && it.pid > 0)
		kill((pid_t)it.pid, SIGKILL);
	return NULL;
}

static int attach_with_a_visitor_that_hangs(void *arg)
{
	sigset_t alarm_alone, before;
	pthread_t thread;
	int listener, code;

	sigemptyset(&alarm_alone);
	sigaddset(&alarm_alone, SIGALRM); /* this thread's */
	if (!hang_visitors(&listener) || pthread_sigmask(SIG_BLOCK, &alarm_alone, &before) != 0 ||
	    pthread_create(&thread, NULL, end_of_the_hang, &listener) != 0 ||
	    pthread_sigmask(SIG_SETMASK, &before, NULL) != 0)
		return CANNOT;
	code = attach_in_time(arg, true);
	pthread_join(thread, NULL);
	waitpid(-1, NULL, __WALL);
	return code;
}

static bool membarrier_works(void)
{
	if (grace_register() == 0 && grace_barrier() == 0)
		return true;
	printf("SKIP: membarrier is refused to this process\n");
	return false;
}

static void a_visitor_that_hangs_is_left_behind(void **state)
{
	struct reader_place *p = *state;
	int code;

	if (!membarrier_works())
		skip();
	place_set(p, "acme", 1, "a");
	serve(p, ANSWER_REGISTER);
	code = part_run(attach_with_a_visitor_that_hangs, p->dir, PATIENCE_MS);
	if (code == CANNOT)
		SKIP("seccomp's notifications are refused");
	check(code);
	assert_int_equal(atomic_load(&atomic_load(&p->registration)->fences), 1);
}

/* ---- a processor that is busy -------------------------------------------------------------------------------------- */

static int busy, ours; /* processors */

static bool run_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	return sched_setaffinity(0, sizeof set, &set) == 0;
}

/* Ends by itself, whatever becomes of the test. */
static int spin(void *arg)
{
	const struct sched_param first = {.sched_priority = 1};
	uint64_t end = now() + SPIN_MS;

	(void)arg;
	if (!run_on(busy) || sched_setscheduler(0, SCHED_FIFO, &first) != 0)
		return CANNOT;
	while (now() < end)
		;
	return WELL;
}

static int attach_beside_it(void *arg)
{
	return run_on(ours) ? attach_in_time(arg, false) : CANNOT;
}

static void a_processor_that_is_busy_for_long_is_not_waited_for(void **state)
{
	struct reader_place *p = *state;
	cpu_set_t before, set;
	int code = CANNOT, n = 0, status;
	pid_t spinner;

	if (!membarrier_works())
		skip();
	assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
	set = before;
	for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++)
		if (CPU_ISSET((size_t)cpu, &set)) {
			ours = busy;
			busy = cpu;
			n++;
		}
	if (n < 2)
		SKIP("needs two processors");
	place_set(p, "acme", 1, "a");
	serve(p, ANSWER_REGISTER);
	assert_true(
		run_on(ours)); /* the stand-in's thread may be on the other one: the attachment does not wait for it */
	spinner = part_start(spin, NULL);
	usleep(SETTLE_MS * 1000);
	if (waitpid(spinner, &status, WNOHANG) == 0) {
		code = part_run(attach_beside_it, p->dir, PATIENCE_MS);
		assert_int_equal(child_wait(spinner, PATIENCE_MS), WELL);
	}
	assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
	if (code == CANNOT)
		SKIP("SCHED_FIFO is refused");
	check(code);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(a_visitor_that_hangs_is_left_behind),
		IN_PLACE(a_processor_that_is_busy_for_long_is_not_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
