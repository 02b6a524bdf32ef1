/* SPDX-License-Identifier: MIT
 * torture_ambush.h. */
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>

#include "readers.h"
#include "torture_ambush.h"

#if defined(__x86_64__)
#define TRAP_FLAG 0x100

static unsigned held_up_us;
static _Thread_local unsigned steps;

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
	t = (struct timespec){.tv_nsec = t.tv_nsec % held_up_us * 1000};
	nanosleep(&t, NULL);
	errno = before;
}

void ambush_open(unsigned below_us)
{
	struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_RESTART | SA_SIGINFO};

	held_up_us = below_us;
	sigaction(SIGTRAP, &action, NULL);
}

void ambush_within(uint64_t *random, unsigned most)
{
	steps = 1 + (unsigned)(mp_random(random) % most);
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torq %0, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
			 :
			 : "i"(TRAP_FLAG)
			 : "memory", "cc");
}
#else
void ambush_open(unsigned below_us)
{
	(void)below_us;
}

void ambush_within(uint64_t *random, unsigned most)
{
	(void)random, (void)most;
}
#endif
