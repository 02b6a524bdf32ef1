/* SPDX-License-Identifier: MIT
 * Does a flood of pins hold up the control thread? One process pins as fast as it can (new ids, a full table: each pin
 * evicts one), or naps; another makes changes through admin.sock. In turn; nobody is bound to a processor, so that three
 * threads that never wait share two of them. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cursor.h"

#define CHANGES 200u /* in each run, with the flood and without */
#define CHANGES_QUICK 50u
#define PAUSE_US 1000u /* between two: one that comes alone has to be let in each time */
#define CAPACITY 10000u
#define BURST 1000u
#define MORE_GOAL_US 1000

struct shared {
	_Atomic uint32_t on, idle, stop;
	_Atomic uint64_t done;
};

static _Noreturn void run_flood(struct pins *p, struct shared *shared)
{
	uint64_t number = 1;

	pins_attach(p);
	while (!atomic_load(&shared->stop)) {
		if (!atomic_load(&shared->on)) {
			atomic_store(&shared->idle, 1);
			usleep(1000);
			continue;
		}
		atomic_store(&shared->idle, 0);
		for (unsigned i = 0; i < BURST; i++)
			pin_one(p, number++, 0);
		atomic_fetch_add(&shared->done, BURST);
	}
	pin_one(p, number++, PIN_WAIT_MS);
	if (!pin_seen(p, number - 1, boottime_ms()))
		fail("a pin that was waited for does not resolve");
	pins_detach(p);
	exit(0);
}

/* Each answer is looked at. */
static void measure(struct daemon *d, unsigned n, struct samples *s)
{
	char line[512], answer[512];
	static unsigned turn;

	s->n = 0;
	for (unsigned i = 0; i < n; i++) {
		uint64_t from;

		snprintf(line, sizeof(line),
			 "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partition\":\"changing\","
			 "\"placement\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"pinned-%u\"},\"force\":true}}\n",
			 turn++ % 2);
		usleep(PAUSE_US);
		from = now_ns();
		daemon_call(d, line, -1, answer, sizeof(answer), NULL);
		add_sample(s, elapsed_ns(from) / 1e3);
		if (!strstr(answer, "\"changed\":true"))
			fail("%s was answered with %s", line, answer);
	}
}

void cursor_control(const struct bench *b)
{
	static struct figure median[2], tail[2], more;
	unsigned n = b->quick ? CHANGES_QUICK : CHANGES;
	struct shared *shared = shared_memory(sizeof(*shared));
	static struct samples s;
	static struct pins p;
	uint64_t from, before, flooded_ns = 0, pinned = 0;
	pid_t flood;

	pins_make(b, &p, "control", ID_SHORT, &(struct daemon_how){.cpu = -1, .cursor_capacity = CAPACITY});
	pin_many(&p, 1ull << 40, CAPACITY);
	pins_expect(&p, CAPACITY);
	flood = child_fork();
	if (flood == 0)
		run_flood(&p, shared);
	more = (struct figure){
		.workload = "cursor", .name = "99th percentile, more by the flood", .unit = "us", .goal = MORE_GOAL_US};
	for (unsigned run = 0; run < b->runs; run++) {
		for (unsigned on = 0; on < 2; on++) {
			atomic_store(&shared->on, on);
			while (!on && !atomic_load(&shared->idle))
				usleep(1000);
			usleep(5000);
			before = atomic_load(&shared->done);
			from = now_ns();
			measure(&p.d, n, &s);
			if (on) {
				flooded_ns += now_ns() - from;
				pinned += atomic_load(&shared->done) - before;
			}
			add_sample(&median[on].s, quantile(&s, 0.5));
			add_sample(&tail[on].s, quantile(&s, 0.99));
		}
		add_sample(&more.s, tail[1].s.v[run] - tail[0].s.v[run]);
	}
	atomic_store(&shared->stop, 1);
	child_wait(flood, "the flood");
	pins_expect(&p, CAPACITY);
	pins_remove(&p);
	for (unsigned on = 0; on < 2; on++) {
		median[on].workload = tail[on].workload = "cursor";
		median[on].unit = tail[on].unit = "us";
		snprintf(median[on].name, sizeof(median[on].name), "a set, %s, median",
			 on ? "in a flood of pins" : "no pins");
		snprintf(tail[on].name, sizeof(tail[on].name), "a set, %s, 99th percentile",
			 on ? "in a flood of pins" : "no pins");
		report(b, &median[on]);
		report(b, &tail[on]);
	}
	report(b, &more);
	report_note(b, "the flood: %.2f million pins a second meanwhile, each evicted another",
		    (double)pinned * 1e3 / (double)flooded_ns);
}
