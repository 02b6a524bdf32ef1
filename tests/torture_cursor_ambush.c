/* SPDX-License-Identifier: MIT
 * torture_cursor.h: the ambush. A process is held up for some milliseconds after the n-th instruction from now (by the
 * processor's trap flag; x86-64 only), so that what it is looking at changes under it. Called by the processes. */
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>

#include "torture_cursor.h"

#define HELD_UP_US 3000u
#define TRAP_FLAG 0x100

#if defined(__x86_64__)
static unsigned steps;

/* After each instruction, as long as the flag is set. */
static void on_step(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	struct timespec t;
	int before = errno;

	(void)number, (void)info;
	if (steps > 0 && --steps > 0)
		return;
	u->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	clock_gettime(CLOCK_MONOTONIC, &t);
	t = (struct timespec){.tv_nsec = t.tv_nsec % HELD_UP_US * 1000};
	nanosleep(&t, NULL);
	errno = before;
}

void c_ambush_open(void)
{
	struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_RESTART | SA_SIGINFO};

	sigaction(SIGTRAP, &action, NULL);
}

void c_ambush(struct c_me *me, unsigned most)
{
	steps = 1 + (unsigned)c_die(me, most);
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torq %0, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
			 :
			 : "i"(TRAP_FLAG)
			 : "memory", "cc");
}
#else
void c_ambush_open(void) {}

void c_ambush(struct c_me *me, unsigned most)
{
	(void)me, (void)most;
}
#endif
