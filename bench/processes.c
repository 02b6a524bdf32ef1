/* SPDX-License-Identifier: MIT
 * Look-ups a second of 1 .. N processes, one on each processor, each with an attachment of its own, all between the
 * same two instants of wall time: a reader shares no line that anybody writes with another one, so N processes have to
 * look up N times as much. `1` is the mean of a process alone on each of the processors, measured in the same run, half
 * of them before the others and half after, because they need not be equally fast. What other programs take of the
 * processors is missing in the look-ups of all rather than in those of one, so the ratio is shown by processor time as
 * well. Then a reader while partitions are changed: processes_changes.c. Called by the main program, which sleeps
 * meanwhile. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cursor.h"
#include "place.h"
#include "processes.h"

#define MOST 16u          /* processes; a machine may have more processors */
#define WARM_NS 20000000u /* of every process, before the interval */
#define INTERVAL_NS 150000000u
#define INTERVAL_QUICK_NS 10000000u
#define STEP 256u    /* look-ups between two looks at the clock */
struct rates {       /* millions of look-ups a second, */
	double wall; /* of the clock on the wall */
	double busy; /* of processor time: without what other programs took */
};
struct process {
	_Alignas(128) _Atomic uint32_t round; /* done */
	struct rates rates;                   /* stored before */
};
struct shared {
	_Atomic uint32_t round, first, end; /* who takes part in it: first .. end - 1 */
	uint64_t from_ns, to_ns;            /* stored before */
	struct process of[MOST];
};

static void attach(struct place *p)
{
	int rc = berth_attach(p->d.dir, NULL, &p->berth);

	if (rc == BERTH_OK)
		rc = berth_reader_open(p->berth, &p->r);
	if (rc == BERTH_OK)
		rc = berth_maintain(p->berth);
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", p->d.dir, berth_strerror(rc));
}

static struct rates look_up(const struct place *p, uint64_t from_ns, uint64_t to_ns)
{
	volatile uint64_t kept;
	uint64_t n = 0, from, busy_from, now, sum = 0;
	struct berth_route out;

	while (now_ns() < from_ns)
		for (unsigned k = 0; k < STEP; k++, n++)
			sum += (uint64_t)berth_route(p->r, p->names[n & (p->n_keys - 1)], KEY_LEN, &out);
	n = 0;
	from = now_ns();
	busy_from = busy_ns();
	do {
		for (unsigned k = 0; k < STEP; k++, n++) {
			sum += (uint64_t)berth_route(p->r, p->names[n & (p->n_keys - 1)], KEY_LEN, &out);
			sum += out.epoch;
		}
		now = now_ns();
	} while (now < to_ns);
	kept = sum;
	(void)kept;
	return (struct rates){(double)n * 1e3 / (double)(now - from), (double)n * 1e3 / busy_elapsed_ns(busy_from)};
}

static _Noreturn void run_process(struct place *p, struct shared *shared, unsigned number)
{
	struct process *self = &shared->of[number];

	attach(p);
	pin_to((int)number);
	for (uint32_t done = 0, round;; done = round) {
		while ((round = atomic_load(&shared->round)) == done)
			usleep(1000);
		if (round == UINT32_MAX)
			break;
		if (number >= atomic_load(&shared->first) && number < atomic_load(&shared->end))
			self->rates = look_up(p, shared->from_ns, shared->to_ns);
		atomic_store(&self->round, round);
	}
	berth_reader_close(&p->r);
	berth_detach(&p->berth);
	exit(0);
}

/* What the processes first .. end - 1 look up, this one asleep. */
static struct rates together(struct shared *shared, unsigned n, unsigned first, unsigned end, uint64_t interval_ns)
{
	struct rates sum = {0, 0};

	atomic_store(&shared->first, first);
	atomic_store(&shared->end, end);
	shared->from_ns = now_ns() + WARM_NS;
	shared->to_ns = shared->from_ns + interval_ns;
	atomic_fetch_add(&shared->round, 1);
	usleep((useconds_t)((WARM_NS + interval_ns) / 1000));
	for (unsigned i = 0; i < n; i++)
		while (atomic_load(&shared->of[i].round) != atomic_load(&shared->round))
			usleep(1000);
	for (unsigned i = first; i < end; i++) {
		sum.wall += shared->of[i].rates.wall;
		sum.busy += shared->of[i].rates.busy;
	}
	return sum;
}

struct results {
	struct samples rates[MOST]; /* [k]: of k + 1 processes, by the clock on the wall */
	struct samples ratio, busy_ratio;
};

/* One process on each processor alone, half of them before the others and half after. */
static void add_alone(struct shared *shared, unsigned n, unsigned first, unsigned end, uint64_t interval_ns,
		      struct rates *mean)
{
	for (unsigned i = first; i < end; i++) {
		struct rates one = together(shared, n, i, i + 1, interval_ns);

		mean->wall += one.wall / n;
		mean->busy += one.busy / n;
	}
}

static void measure_run(struct shared *shared, unsigned n, uint64_t interval_ns, struct results *r)
{
	struct rates alone = {0, 0}, two = {0, 0};

	add_alone(shared, n, 0, n / 2, interval_ns, &alone);
	for (unsigned k = 2; k <= n; k++) {
		struct rates all = together(shared, n, 0, k, interval_ns);

		add_sample(&r->rates[k - 1], all.wall);
		two = k == 2 ? all : two;
	}
	add_alone(shared, n, n / 2, n, interval_ns, &alone);
	add_sample(&r->rates[0], alone.wall);
	add_sample(&r->ratio, two.wall / alone.wall);
	add_sample(&r->busy_ratio, two.busy / alone.busy);
}

static void report_results(const struct bench *b, uint32_t partitions, unsigned n, const struct results *r)
{
	struct figure f = {.workload = "processes", .name = "look-ups of all together", .unit = "M/s"};

	for (unsigned k = 1; k <= n; k++) {
		snprintf(f.parameters, sizeof(f.parameters), "partitions=%u processes=%u", partitions, k);
		f.s = r->rates[k - 1];
		report(b, &f);
	}
	if (n < 2)
		return;
	snprintf(f.parameters, sizeof(f.parameters), "partitions=%u", partitions);
	snprintf(f.name, sizeof(f.name), "2 processes / 1");
	f.unit = "ratio";
	f.goal = 1.95;
	f.at_least = true;
	f.s = r->ratio;
	report(b, &f);
	snprintf(f.name, sizeof(f.name), "the same by processor time");
	f.goal = 0;
	f.s = r->busy_ratio;
	report(b, &f);
}

static void measure_together(const struct bench *b, struct place *p, unsigned n)
{
	struct shared *shared = shared_memory(sizeof(*shared));
	static struct results r;
	pid_t pids[MOST];

	memset(&r, 0, sizeof(r));
	for (unsigned i = 0; i < n; i++) {
		pids[i] = child_fork();
		if (pids[i] == 0)
			run_process(p, shared, i);
	}
	for (unsigned run = 0; run < b->runs; run++)
		measure_run(shared, n, b->quick ? INTERVAL_QUICK_NS : INTERVAL_NS, &r);
	atomic_store(&shared->round, UINT32_MAX);
	for (unsigned i = 0; i < n; i++)
		child_wait(pids[i], "a process that looks up");
	munmap(shared, sizeof(*shared));
	report_results(b, p->n, n, &r);
}

void workload_processes(const struct bench *b)
{
	static const uint32_t sizes[] = {1000, 1000000};
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = online < 1 ? 1 : online > MOST ? MOST : (unsigned)online;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		static struct place p;

		memset(&p, 0, sizeof(p));
		place_make(b, &p, "processes", sizes[i], false);
		measure_together(b, &p, n);
		if (i == 1)
			processes_changes(b, &p);
		place_remove(&p);
	}
}
