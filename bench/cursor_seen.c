/* SPDX-License-Identifier: MIT
 * How long after the call of pin another process resolves the cursor. That process looks for nothing else, in a loop on
 * CPU 1, and reads the clock right after the resolve that found it. There are three parties and two processors: who pins
 * shares CPU 0 with the daemon, sleeps before and after, and the daemon runs when it does. So there is a second form, with
 * a processor for each: who pins looks by itself, through another attachment, which is other memory of the same files.
 * In turn in each run; the polling daemon is stopped while the other one is measured. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cursor.h"

#define CALLS (SAMPLES_MAX / 15u) /* in a run */
#define CALLS_QUICK 20u
#define PAUSE_US 100u
#define TOO_LONG_NS 5000000000u

struct shared {                    /* between who pins and who looks */
	_Atomic uint64_t look_for; /* 0: nothing, 1: no more, 2 and above: this number */
	_Atomic uint64_t looking, seen, seen_ns;
};

struct place {
	struct pins pins;
	struct pins other; /* another attachment of this process */
	struct shared *shared;
	pid_t watcher;
	uint64_t number;
};

/* ---- the process that looks ----------------------------------------------------------------------------------- */

static _Noreturn void run_watcher(struct place *p)
{
	uint64_t number, now = 0;

	pins_attach(&p->other);
	pin_to(CPU_SELF);
	while ((number = atomic_load(&p->shared->look_for)) != 1) {
		if (number < 2 || number == atomic_load(&p->shared->seen)) {
			usleep(number < 2 ? 20 * PAUSE_US : PAUSE_US);
			continue;
		}
		now = boottime_ms();
		if (pin_seen(&p->other, number, now))
			fail("a pin resolves before it is made");
		atomic_store(&p->shared->looking, number);
		while (!pin_seen(&p->other, number, now))
			;
		atomic_store(&p->shared->seen_ns, now_ns());
		atomic_store(&p->shared->seen, number);
	}
	exit(0);
}

static void make_place(const struct bench *b, struct place *p, const char *name, bool busy_poll)
{
	p->number = 2;
	p->shared = shared_memory(sizeof(*p->shared));
	pins_make(b, &p->pins, name, ID_SHORT, &(struct daemon_how){.cpu = CPU_DAEMON, .busy_poll = busy_poll});
	p->other = p->pins;
	p->watcher = child_fork();
	if (p->watcher == 0)
		run_watcher(p);
	pins_attach(&p->other);
}

static void remove_place(struct place *p)
{
	atomic_store(&p->shared->look_for, 1);
	child_wait(p->watcher, "the process that looks for pins");
	pins_detach(&p->other);
	pins_remove(&p->pins);
}

/* Also from one processor to another. */
static void move_to(int cpu)
{
	pin_nowhere();
	pin_to(cpu);
}

/* ---- measuring ------------------------------------------------------------------------------------------------ */

static void wait_for(const _Atomic uint64_t *word, uint64_t value)
{
	uint64_t from = now_ns();

	while (atomic_load(word) != value) {
		usleep(PAUSE_US);
		if (now_ns() - from > TOO_LONG_NS)
			fail("the process that looks for pins does not answer, or a pin is not seen");
	}
}

static void measure_process(struct place *p, uint32_t wait_ms, unsigned n, struct samples *s)
{
	move_to(CPU_DAEMON);
	for (unsigned i = 0; i < n; i++) {
		uint64_t from, number = ++p->number;

		atomic_store(&p->shared->look_for, number);
		wait_for(&p->shared->looking, number);
		usleep(PAUSE_US);
		from = now_ns();
		pin_one(&p->pins, number, wait_ms);
		wait_for(&p->shared->seen, number);
		add_sample(s, (double)(atomic_load(&p->shared->seen_ns) - from) / 1e3);
	}
	atomic_store(&p->shared->look_for, 0);
}

static void measure_self(struct place *p, unsigned n, struct samples *s)
{
	move_to(CPU_SELF);
	usleep(2000); /* the other process is asleep */
	for (unsigned i = 0; i < n; i++) {
		uint64_t from, number = ++p->number, now = boottime_ms();

		spin_ns(PAUSE_US * 1000u);
		from = now_ns();
		pin_one(&p->pins, number, 0);
		while (!pin_seen(&p->other, number, now))
			if (now_ns() - from > TOO_LONG_NS)
				fail("a pin is not seen through another attachment");
		add_sample(s, elapsed_ns(from) / 1e3);
	}
}

/* X(of the polling daemon, through the other process, wait_ms, name) */
#define ROWS(X) \
	X(false, true, 0, "seen by another process, daemon asleep") \
	X(false, true, PIN_WAIT_MS, "the same, the pin waits") \
	X(true, true, 0, "seen by another process, --busy-poll") \
	X(true, true, PIN_WAIT_MS, "the same, the pin waits, --busy-poll") \
	X(false, false, 0, "a processor each, daemon asleep") \
	X(true, false, 0, "a processor each, --busy-poll")

static const struct row {
	bool polling, process;
	uint32_t wait_ms;
	const char *name;
} rows[] = {
#define ROW(...) {__VA_ARGS__},
	ROWS(ROW)
#undef ROW
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

void cursor_seen(const struct bench *b)
{
	static struct figure figures[N_ROWS];
	unsigned n = b->quick ? CALLS_QUICK : CALLS;
	static struct place asleep, polling;

	make_place(b, &asleep, "seen-asleep", false);
	make_place(b, &polling, "seen-polling", true);
	for (unsigned run = 0; run < b->runs; run++) {
		for (unsigned k = 0; k < N_ROWS; k++) {
			struct place *p = rows[k].polling ? &polling : &asleep;

			kill(polling.pins.d.pid, rows[k].polling ? SIGCONT : SIGSTOP);
			if (rows[k].process)
				measure_process(p, rows[k].wait_ms, n, &figures[k].s);
			else
				measure_self(p, n, &figures[k].s);
		}
	}
	pin_nowhere();
	kill(polling.pins.d.pid, SIGCONT);
	remove_place(&asleep);
	remove_place(&polling);
	for (unsigned k = 0; k < N_ROWS; k++) {
		figures[k].workload = "cursor";
		figures[k].unit = "us";
		figures[k].tail = true;
		snprintf(figures[k].name, sizeof(figures[k].name), "%s", rows[k].name);
		report(b, &figures[k]);
	}
}
