/* SPDX-License-Identifier: MIT
 * How long a grace period takes: from before the barrier until no section is left that may see what was unlinked before
 * it, while readers open and close sections around a look-up all the time. The daemon is stopped, this process stands
 * in for it (stand_in.h) on its CPU 0 and does what the daemon does, by the same functions: grace_advance (a membarrier
 * over all processors, then a higher number in root), then looks at every section line of every registration, by the
 * rule section_holds, until none holds the number. The daemon does that in its own time, a look a millisecond, because
 * nothing waits for it but memory to be used again; this is what the mechanism takes by itself.
 *
 * READERS processes are attached in every case, the busy ones spread over both processors from CPU 1 on; the others
 * sleep. With two busy readers this process is the third on two processors: when it runs, the reader on its processor
 * does not, and most likely stopped with a section open. So it has real-time priority, not to wait for the end of a
 * reader's turn (a tick, 4 ms with 250 a second), and after a look that finds a section held it steps aside, to the
 * other processor, and the reader that it had stopped runs on. That move, which a machine with a processor for each
 * does not need, is in the time, and so is the interrupt of the other processor that a membarrier is. `gap_ns` is what
 * a reader does between two sections: nothing, or work in which it may be stopped without holding anything. With eight
 * readers on two processors each has to get its turn once, whatever priority this process has: that time is the
 * scheduler's. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../shm/grace.h"
#include "cursor.h"
#include "place.h"
#include "stand_in.h"

#define PARTITIONS 1000u
#define READERS 8u
#define NAP_NS 5000 /* the first; each is twice as long as the one before, */
#define NAP_MOST_NS 1000000
#define BETWEEN_US 300u
#define TOO_LONG_NS 5000000000u

static const struct row {
	unsigned busy, gap_ns;
	unsigned periods, periods_quick; /* of a run */
	double goal;
} rows[] = {{0, 0, 400, 50, 0}, {2, 0, 400, 50, 50}, {2, 1000, 400, 50, 0}, {8, 0, 20, 5, 0}};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

struct shared {
	_Atomic uint32_t busy; /* readers below it are */
	_Atomic uint32_t gap_ns;
	_Atomic uint32_t ready;
	_Atomic bool stop;
};

struct lines { /* of one registration, as the daemon has them: mapped, with numbers that it made itself */
	const char *file;
	uint32_t n, off, stride;
	size_t size;
};

/* ---- the readers ---------------------------------------------------------------------------------------------- */

static _Noreturn void run_reader(const struct place *p, struct shared *shared, unsigned number)
{
	struct berth *berth;
	struct berth_reader *r;
	struct berth_route out;
	int rc = berth_attach(p->d.dir, NULL, &berth);

	if (rc == BERTH_OK)
		rc = berth_reader_open(berth, &r);
	if (rc != BERTH_OK)
		fail("reader %u cannot attach to %s: %s", number, p->d.dir, berth_strerror(rc));
	pin_to(number % 2 ? CPU_DAEMON : CPU_SELF);
	atomic_fetch_add(&shared->ready, 1);
	for (size_t i = number; !atomic_load_explicit(&shared->stop, memory_order_relaxed); i++) {
		if (number >= atomic_load_explicit(&shared->busy, memory_order_relaxed)) {
			usleep(5000);
			continue;
		}
		berth_read_begin(r);
		rc = berth_route(r, p->names[i & (p->n_keys - 1)], KEY_LEN, &out);
		berth_read_end(r);
		if (rc != BERTH_OK)
			fail("%s: %s", p->names[i & (p->n_keys - 1)], berth_strerror(rc));
		if (atomic_load_explicit(&shared->gap_ns, memory_order_relaxed) > 0)
			spin_ns(atomic_load_explicit(&shared->gap_ns, memory_order_relaxed));
	}
	berth_reader_close(&r);
	berth_detach(&berth);
	exit(0);
}

/* ---- the lines ------------------------------------------------------------------------------------------------ */

/* readers/0 and up: this process is attached as well, so there is one more than readers. */
static unsigned map_lines(const struct stand_in *s, struct lines lines[READERS + 1])
{
	unsigned n = 0;

	for (unsigned slot = 0; slot < READERS + 1; slot++) {
		char name[32];
		int fd, bad = 1;
		struct stat st;

		snprintf(name, sizeof(name), SEG_READERS "/%u", slot);
		fd = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && fstat(fd, &st) == 0) {
			const struct shm_registration *g = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);

			bad = g == MAP_FAILED || g->magic != SHM_MAGIC_READER;
			if (!bad)
				lines[n++] = (struct lines){(const char *)g, g->n_readers, g->lines_off, g->line_stride,
							    (size_t)st.st_size};
		}
		if (bad)
			fail("%s of the instance cannot be read: %s; run as the daemon's user", name, strerror(errno));
		close(fd);
	}
	return n;
}

static bool held(const struct lines *lines, unsigned n, uint32_t generation, uint64_t tag)
{
	for (unsigned i = 0; i < n; i++)
		for (uint32_t k = 0; k < lines[i].n; k++) {
			const struct shm_line *line =
				(const void *)(lines[i].file + lines[i].off + (size_t)k * lines[i].stride);

			/* Acquire, after grace_advance: R3 of the daemon's registry.c. */
			if (section_holds(atomic_load_explicit(&line->section, memory_order_acquire), generation, tag))
				return true;
		}
	return false;
}

/* ---- measuring ------------------------------------------------------------------------------------------------ */

static void move_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fail("CPU %d: %s; two processors are needed", cpu, strerror(errno));
}

/* On *cpu, and afterwards perhaps on the other one. */
static double grace_period(const struct stand_in *s, const struct lines *lines, unsigned n, int *cpu)
{
	struct timespec nap = {.tv_nsec = NAP_NS};
	uint64_t tag = atomic_load_explicit(&s->root->grace, memory_order_relaxed), from = now_ns();

	if (grace_advance(s->root, true) != 0)
		fail("membarrier: %s; this kernel cannot be measured", strerror(errno));
	if (held(lines, n, s->map.generation, tag)) {
		*cpu = *cpu == CPU_SELF ? CPU_DAEMON : CPU_SELF;
		move_to(*cpu);
	}
	while (held(lines, n, s->map.generation, tag)) {
		nanosleep(&nap, NULL);
		nap.tv_nsec = 2 * nap.tv_nsec < NAP_MOST_NS ? 2 * nap.tv_nsec : NAP_MOST_NS;
		if (now_ns() - from > TOO_LONG_NS)
			fail("a section does not end");
	}
	return elapsed_ns(from);
}

static void set_priority(bool real_time)
{
	const struct sched_param first = {.sched_priority = 1}, none = {0};

	if (sched_setscheduler(0, real_time ? SCHED_FIFO : SCHED_OTHER, real_time ? &first : &none) != 0)
		fail("real-time priority: %s; run as root, or with CAP_SYS_NICE", strerror(errno));
}

static double barrier(void)
{
	uint64_t from = now_ns();

	if (grace_barrier() != 0)
		fail("membarrier: %s; this kernel cannot be measured", strerror(errno));
	return elapsed_ns(from);
}

struct results {
	struct histogram all, barriers; /* ns */
	struct samples p50, barrier_p50;
};

static void measure(const struct stand_in *s, const struct lines *lines, unsigned n_lines, unsigned periods,
		    struct results *r)
{
	static struct histogram run, barriers;
	static int cpu = CPU_DAEMON;

	run = barriers = (struct histogram){{0}, 0, 0};
	for (unsigned i = 0; i < periods; i++) {
		usleep(BETWEEN_US);
		histogram_add(&run, (uint64_t)grace_period(s, lines, n_lines, &cpu));
		usleep(BETWEEN_US);
		histogram_add(&barriers, (uint64_t)barrier());
	}
	add_sample(&r->p50, histogram_quantile(&run, 0.5) / 1000);
	add_sample(&r->barrier_p50, histogram_quantile(&barriers, 0.5) / 1000);
	histogram_merge(&r->all, &run);
	histogram_merge(&r->barriers, &barriers);
}

static void report_row(const struct bench *b, const struct row *row, const struct results *r)
{
	struct figure f = {.workload = "grace", .unit = "us"};

	snprintf(f.parameters, sizeof(f.parameters), "busy=%u gap_ns=%u", row->busy, row->gap_ns);
	snprintf(f.name, sizeof(f.name), "a grace period");
	report_histogram(b, &f, &r->all, 1e-3);
	snprintf(f.name, sizeof(f.name), "its membarrier alone");
	report_histogram(b, &f, &r->barriers, 1e-3);
	snprintf(f.name, sizeof(f.name), "a grace period, p50");
	f.goal = row->goal;
	f.s = r->p50;
	report(b, &f);
	snprintf(f.name, sizeof(f.name), "its membarrier alone, p50");
	f.goal = 0;
	f.s = r->barrier_p50;
	report(b, &f);
}

void workload_grace(const struct bench *b)
{
	static struct results results[N_ROWS];
	static struct place p;
	struct shared *shared = shared_memory(sizeof(*shared));
	struct lines lines[READERS + 1];
	struct stand_in s;
	pid_t pids[READERS];
	unsigned n_lines;

	place_make(b, &p, "grace", PARTITIONS, false);
	for (unsigned i = 0; i < READERS; i++) {
		pids[i] = child_fork();
		if (pids[i] == 0)
			run_reader(&p, shared, i);
	}
	while (atomic_load(&shared->ready) < READERS)
		usleep(1000);
	stand_in_make(&s, &p.d);
	n_lines = map_lines(&s, lines);
	stand_in_begin(&s);
	move_to(CPU_DAEMON);
	prctl(PR_SET_TIMERSLACK, 1); /* or each nap is 50 us longer */
	for (unsigned run = 0; run < b->runs; run++)
		for (unsigned k = 0; k < N_ROWS; k++) {
			atomic_store(&shared->gap_ns, rows[k].gap_ns);
			atomic_store(&shared->busy, rows[k].busy);
			usleep(20000); /* they all know */
			set_priority(true);
			measure(&s, lines, n_lines, b->quick ? rows[k].periods_quick : rows[k].periods, &results[k]);
			set_priority(false);
		}
	prctl(PR_SET_TIMERSLACK, 0);
	pin_nowhere();
	atomic_store(&shared->stop, true);
	for (unsigned i = 0; i < READERS; i++)
		child_wait(pids[i], "a reader");
	for (unsigned i = 0; i < n_lines; i++)
		munmap((void *)(uintptr_t)lines[i].file, lines[i].size);
	stand_in_end(&s);
	stand_in_remove(&s);
	munmap(shared, sizeof(*shared));
	place_remove(&p);
	for (unsigned k = 0; k < N_ROWS; k++)
		report_row(b, &rows[k], &results[k]);
}
