/* SPDX-License-Identifier: MIT
 * The daemon's own work on a pin, whoever sends them and however fast: the daemon is stopped (SIGSTOP) while the rings of
 * 64 readers are filled, then let go; what is measured is the processor time that it has taken by the time it has nothing
 * left and is asleep again. So a neighbour on the processor is not in it, nor waiting for who pins; what is: copying an
 * entry out of another processor's cache, applying, acknowledging, and a wake-up in thousands of pins. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "cursor.h"

#define NAP_US 2000u

void backlog_open(struct backlog *l, struct pins *p)
{
	l->pins = p;
	for (unsigned i = 0; i < BACKLOG_READERS; i++) {
		int rc = berth_reader_open(p->berth, &l->readers[i]);

		if (rc != BERTH_OK)
			fail("%s: reader %u: %s", p->d.dir, i, berth_strerror(rc));
	}
}

void backlog_close(struct backlog *l)
{
	for (unsigned i = 0; i < BACKLOG_READERS; i++)
		berth_reader_close(&l->readers[i]);
}

/* Of all threads, since its start. The kernel has all of another process's when that sleeps: when it counts no more. */
static double daemon_busy_ns(const struct daemon *d)
{
	uint64_t before, now = 0;
	clockid_t clock;

	if (clock_getcpuclockid(d->pid, &clock) != 0)
		fail("the processor time of berthd in %s cannot be read", d->dir);
	do {
		struct timespec ts = {0};

		before = now;
		usleep(NAP_US);
		clock_gettime(clock, &ts);
		now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	} while (now != before);
	return (double)now;
}

/* One of them waits, in the ring that is looked at last; the others are done by then, and whoever looks finds them. */
double backlog_measure(struct backlog *l, const uint64_t *numbers, uint32_t n)
{
	struct berth_reader *own = l->pins->r;
	double busy = daemon_busy_ns(&l->pins->d), t;

	if (n == 0 || n > BACKLOG_MOST)
		fail("a backlog of %u pins", n);
	kill(l->pins->d.pid, SIGSTOP);
	for (uint32_t i = 0; i < n; i++) {
		l->pins->r = l->readers[BACKLOG_READERS - (n - i - 1) % BACKLOG_READERS - 1];
		if (i + 1 == n)
			kill(l->pins->d.pid, SIGCONT);
		pin_one(l->pins, numbers[i], i + 1 == n ? PIN_WAIT_MS : 0);
	}
	t = (daemon_busy_ns(&l->pins->d) - busy) / n;
	l->pins->r = own;
	return t;
}
