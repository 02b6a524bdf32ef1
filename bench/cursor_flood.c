/* SPDX-License-Identifier: MIT
 * Pins a second into one daemon from four processes that do not wait; a full ring is tried again after a sched_yield.
 * Counted is what the daemon has done: each process ends with a pin that waits, behind all of its own, and then there are
 * as many pins as were made, each with its cluster. A fresh daemon for each run, so that every pin is a new one. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cursor.h"

#define PROCESSES 4u
#define PINS 50000u /* of each */
#define PINS_QUICK 2000u
#define GOAL 1.0
#define NUMBER(process) ((uint64_t)((process) + 1) << 32)

struct shared {
	_Atomic uint32_t ready, go;
	uint64_t ended_ns[PROCESSES];
};

static _Noreturn void run_process(struct pins *p, struct shared *shared, unsigned process, unsigned n, int cpu)
{
	pins_attach(p);
	if (cpu >= 0)
		pin_to(cpu);
	else
		pin_nowhere();
	pin_one(p, NUMBER(process), PIN_WAIT_MS); /* the mapping is made, too */
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->go))
		usleep(100);
	pin_many(p, NUMBER(process), n);
	shared->ended_ns[process] = now_ns();
	pins_detach(p);
	exit(0);
}

/* Millions a second. */
static double measure(const struct bench *b, unsigned n, bool apart)
{
	static struct pins p;
	struct daemon_how how = {.cpu = apart ? CPU_DAEMON : -1, .cursor_capacity = PROCESSES * n};
	struct shared *shared = shared_memory(sizeof(*shared));
	uint64_t from, to = 0;
	pid_t pids[PROCESSES];

	pins_make(b, &p, "flood", ID_SHORT, &how);
	for (unsigned i = 0; i < PROCESSES; i++) {
		pids[i] = child_fork();
		if (pids[i] == 0)
			run_process(&p, shared, i, n, apart ? CPU_SELF : -1);
	}
	while (atomic_load(&shared->ready) < PROCESSES)
		usleep(1000);
	from = now_ns();
	atomic_store(&shared->go, 1);
	for (unsigned i = 0; i < PROCESSES; i++) {
		child_wait(pids[i], "a process that pins");
		to = shared->ended_ns[i] > to ? shared->ended_ns[i] : to;
	}
	pins_expect(&p, PROCESSES * n);
	for (unsigned i = 0; i < PROCESSES; i++)
		if (pins_seen(&p, NUMBER(i), n) != n)
			fail("not all pins of process %u are there", i);
	pins_remove(&p);
	return PROCESSES * n * 1e3 / (double)(to - from);
}

void cursor_flood(const struct bench *b)
{
	static struct figure apart, free;
	unsigned n = b->quick ? PINS_QUICK : PINS;

	apart = (struct figure){.workload = "cursor", .unit = "M/s", .goal = GOAL, .at_least = true};
	free = (struct figure){.workload = "cursor", .unit = "M/s"};
	snprintf(apart.name, sizeof(apart.name), "pins of %u processes on CPU 1, daemon on CPU 0", PROCESSES);
	snprintf(free.name, sizeof(free.name), "pins of %u processes, placed by the kernel", PROCESSES);
	for (unsigned run = 0; run < b->runs; run++) {
		add_sample(&apart.s, measure(b, n, true));
		add_sample(&free.s, measure(b, n, false));
	}
	report(b, &apart);
	report(b, &free);
}
