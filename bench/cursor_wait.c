/* SPDX-License-Identifier: MIT
 * A pin that waits until every process sees it, the daemon on one processor and the caller on the other; the daemon
 * asleep, or polling (--busy-poll). Next to it two processes on the same processors that wake each other by eventfds,
 * there and back: what a machine asks for waking somebody and being woken. In turn in each run; the polling daemon is
 * stopped (SIGSTOP) while the others are measured, because it would take the processor from them. The caller spins
 * between two calls, so that the other side is asleep again, and so it does between two ping-pongs. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cursor.h"

#define CALLS 500u
#define CALLS_QUICK 100u
#define PAUSE_NS 50000u
#define ASLEEP_GOAL 1.5 /* there-and-backs */
#define POLLING_GOAL_US 3

struct peer {
	pid_t pid;
	int there, back;
};

static void take(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) != sizeof(n))
		fail("an eventfd cannot be read: %s", strerror(errno));
}

static void give(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		fail("an eventfd cannot be written: %s", strerror(errno));
}

static void start_peer(struct peer *p)
{
	p->there = eventfd(0, EFD_CLOEXEC);
	p->back = eventfd(0, EFD_CLOEXEC);
	if (p->there < 0 || p->back < 0)
		fail("eventfd: %s", strerror(errno));
	p->pid = child_fork();
	if (p->pid != 0)
		return;
	pin_to(CPU_DAEMON);
	for (;;) {
		take(p->there);
		give(p->back);
	}
}

static void stop_peer(const struct peer *p)
{
	kill(p->pid, SIGKILL); /* it has nothing to lose */
	close(p->there);
	close(p->back);
}

static void measure_peer(const struct peer *p, unsigned n, struct samples *s)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t from;

		spin_ns(PAUSE_NS);
		from = now_ns();
		give(p->there);
		take(p->back);
		add_sample(s, elapsed_ns(from) / 1e3);
	}
}

/* Each is there when it returns. */
static void measure_pins(struct pins *p, uint64_t *number, unsigned n, struct samples *s)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t from;

		spin_ns(PAUSE_NS);
		from = now_ns();
		pin_one(p, ++*number, PIN_WAIT_MS);
		add_sample(s, elapsed_ns(from) / 1e3);
		if (!pin_seen(p, *number, boottime_ms()))
			fail("a pin that was waited for does not resolve");
	}
}

/* X(what, its name) */
#define SIDES(X) \
	X(bare, "eventfds there and back") \
	X(asleep, "pin that waits, daemon asleep") \
	X(polling, "pin that waits, --busy-poll")
enum {
#define SIDE(name, text) SIDE_##name,
	SIDES(SIDE)
#undef SIDE
		N_SIDES
};
static const char *const names[] = {
#define SIDE(name, text) text,
	SIDES(SIDE)
#undef SIDE
};

static void report_sides(const struct bench *b, const struct samples median[], const struct samples tail[])
{
	static struct figure f, asleep, polling;

	asleep = (struct figure){.workload = "cursor",
				 .name = "daemon asleep / eventfds, medians",
				 .unit = "ratio",
				 .goal = ASLEEP_GOAL};
	polling = (struct figure){.workload = "cursor", .name = "--busy-poll / eventfds, medians", .unit = "ratio"};
	for (unsigned k = 0; k < N_SIDES; k++) {
		f = (struct figure){.workload = "cursor", .unit = "us", .s = median[k]};
		snprintf(f.name, sizeof(f.name), "%s, median", names[k]);
		f.goal = k == SIDE_polling ? POLLING_GOAL_US : 0;
		report(b, &f);
		f.goal = 0;
		f.s = tail[k];
		snprintf(f.name, sizeof(f.name), "%s, 99th percentile", names[k]);
		report(b, &f);
	}
	for (unsigned run = 0; run < b->runs; run++) {
		add_sample(&asleep.s, median[SIDE_asleep].v[run] / median[SIDE_bare].v[run]);
		add_sample(&polling.s, median[SIDE_polling].v[run] / median[SIDE_bare].v[run]);
	}
	report(b, &asleep);
	report(b, &polling);
}

void cursor_wait(const struct bench *b)
{
	static struct samples median[N_SIDES], tail[N_SIDES], s;
	unsigned n = b->quick ? CALLS_QUICK : CALLS;
	static struct pins asleep, polling;
	uint64_t number = 0, warm = 1u << 20;
	struct peer peer;

	pins_make(b, &asleep, "asleep", ID_SHORT, &(struct daemon_how){.cpu = CPU_DAEMON});
	pins_make(b, &polling, "polling", ID_SHORT, &(struct daemon_how){.cpu = CPU_DAEMON, .busy_poll = true});
	start_peer(&peer);
	pin_to(CPU_SELF);
	for (unsigned run = 0; run < b->runs; run++) {
		for (unsigned k = 0; k < N_SIDES; k++) {
			kill(polling.d.pid, k == SIDE_polling ? SIGCONT : SIGSTOP);
			s.n = 0;
			if (k == SIDE_bare)
				measure_peer(&peer, n / 10, &s);
			else
				measure_pins(k == SIDE_asleep ? &asleep : &polling, &warm, n / 10, &s);
			s.n = 0;
			if (k == SIDE_bare)
				measure_peer(&peer, n, &s);
			else
				measure_pins(k == SIDE_asleep ? &asleep : &polling, &number, n, &s);
			add_sample(&median[k], quantile(&s, 0.5));
			add_sample(&tail[k], quantile(&s, 0.99));
		}
	}
	kill(polling.d.pid, SIGCONT);
	pin_nowhere();
	stop_peer(&peer);
	pins_remove(&asleep);
	pins_remove(&polling);
	report_sides(b, median, tail);
}
