/* SPDX-License-Identifier: MIT
 * Writers as a proxy has them, but for the network: each process begins writes, lets them be under way for a time, and
 * ends them. Each partition has one write of each process, and those of the four processes end at different times, so
 * at any time some are under way. Called by blackout.c. The processes have one thread; they wake four times in the time
 * of a write, so that they do not take the processors from the daemon. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "writers.h"

#define TURNS 4u /* of one write's time */
#define NS_MS 1000000u
#define MAINTAIN_NS 500000000u
#define READY_MS 20000u

struct writer {
	struct writers *all;
	unsigned number;
	struct berth *berth;
	struct berth_reader *r;
	struct berth_write writes[PARTITIONS];
	bool under_way[PARTITIONS];
	uint64_t done, refused;
};

static void note_end(struct ends *e, uint64_t epoch, uint64_t ns)
{
	uint32_t n = atomic_load_explicit(&e->n, memory_order_relaxed);
	bool again = n > 0 && atomic_load_explicit(&e->at[(n - 1) % EPOCHS_KEPT].epoch, memory_order_relaxed) == epoch;
	uint32_t i = (again ? n - 1 : n) % EPOCHS_KEPT;

	atomic_store_explicit(&e->at[i].epoch, epoch, memory_order_relaxed);
	atomic_store_explicit(&e->at[i].ns, ns, memory_order_release);
	if (!again)
		atomic_store_explicit(&e->n, n + 1, memory_order_release); /* pairs with writers_last_end */
}

uint64_t writers_last_end(const struct writers *all, uint32_t partition, uint64_t epoch)
{
	uint64_t last = 0;

	for (unsigned w = 0; w < WRITERS; w++) {
		const struct ends *e = &all->ends[partition][w];
		uint32_t n = atomic_load_explicit(&e->n, memory_order_acquire);

		/* The oldest may be being written over just now. */
		for (uint32_t back = 1; back < EPOCHS_KEPT && back <= n; back++) {
			uint32_t i = (n - back) % EPOCHS_KEPT;
			uint64_t ns = atomic_load_explicit(&e->at[i].ns, memory_order_acquire);

			if (atomic_load_explicit(&e->at[i].epoch, memory_order_relaxed) < epoch && ns > last)
				last = ns;
		}
	}
	return last;
}

static void end_write(struct writer *w, uint32_t partition)
{
	uint64_t epoch = w->writes[partition].epoch, ns;
	int rc = berth_write_end(w->r, &w->writes[partition], BERTH_DONE);

	ns = now_ns();
	if (rc != BERTH_OK)
		fail("a write cannot be ended: %s", berth_strerror(rc));
	note_end(&w->all->ends[partition][w->number], epoch, ns);
	w->under_way[partition] = false;
	w->done++;
}

/* A refused write comes again at the partition's next turn. */
static void begin_write(struct writer *w, uint32_t partition)
{
	char key[KEY_ROOM];
	int rc;

	key_name(key, partition);
	rc = berth_write_begin(w->r, key, KEY_LEN, 0, &w->writes[partition]);
	if (rc != BERTH_OK && rc != BERTH_E_CUTOVER)
		fail("a write on %s cannot begin: %s", key, berth_strerror(rc));
	w->under_way[partition] = rc == BERTH_OK;
	w->refused += rc == BERTH_E_CUTOVER;
}

static void take_turn(struct writer *w, uint64_t turn)
{
	for (uint32_t p = 0; p < PARTITIONS; p++) {
		if ((p + w->number) % TURNS != turn % TURNS)
			continue;
		if (w->under_way[p])
			end_write(w, p);
		begin_write(w, p);
	}
}

static void sleep_until(uint64_t ns)
{
	struct timespec at = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

static void attach(struct writer *w, const char *dir)
{
	struct berth_attach_options options = {.size = sizeof(options),
					       .writes = BERTH_WRITES_BRACKETED,
					       .max_readers = 1,
					       .max_leases = 4 * PARTITIONS};
	int rc = berth_attach(dir, &options, &w->berth);

	if (rc == BERTH_OK)
		rc = berth_reader_open(w->berth, &w->r);
	if (rc == BERTH_OK)
		rc = berth_maintain(w->berth);
	if (rc != BERTH_OK)
		fail("a writer cannot attach to %s: %s", dir, berth_strerror(rc));
}

static _Noreturn void run_writer(struct writers *all, unsigned number, const char *dir)
{
	static struct writer w;
	uint64_t step = (uint64_t)all->write_ms * NS_MS / TURNS, next, maintained = now_ns();

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	w.all = all;
	w.number = number;
	attach(&w, dir);
	next = now_ns() + number * step / WRITERS; /* the four do not wake together */
	for (uint64_t turn = 0; !atomic_load_explicit(&all->stop, memory_order_relaxed); turn++) {
		sleep_until(next);
		take_turn(&w, turn);
		if (turn == TURNS - 1)
			atomic_fetch_add(&all->n_ready, 1);
		if (now_ns() - maintained > MAINTAIN_NS) {
			berth_maintain(w.berth);
			maintained = now_ns();
		}
		next += step;
		if (now_ns() > next + TURNS * step)
			next = now_ns(); /* too late for what was missed */
	}
	for (uint32_t p = 0; p < PARTITIONS; p++)
		if (w.under_way[p])
			end_write(&w, p);
	atomic_fetch_add(&all->done, w.done);
	atomic_fetch_add(&all->refused, w.refused);
	berth_reader_close(&w.r);
	if (berth_detach(&w.berth) != BERTH_OK)
		fail("a writer cannot detach");
	exit(0);
}

void writers_start(struct writers *all, const struct daemon *d, unsigned write_ms)
{
	uint64_t from = now_ns();
	pid_t pid;

	memset(all, 0, sizeof(*all));
	all->write_ms = write_ms;
	for (unsigned i = 0; i < WRITERS; i++) {
		fflush(stdout);
		pid = fork();
		if (pid < 0)
			fail("fork: %s", strerror(errno));
		if (pid == 0)
			run_writer(all, i, d->dir);
		all->pids[i] = pid; /* not by the child, whose memory it is too */
	}
	while (atomic_load(&all->n_ready) < WRITERS) {
		if (now_ns() - from > (uint64_t)READY_MS * NS_MS)
			fail("the writers do not come up");
		usleep(1000);
	}
}

void writers_stop(struct writers *all)
{
	atomic_store(&all->stop, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		int status;

		if (waitpid(all->pids[i], &status, 0) < 0 || status != 0)
			fail("a writer has failed: see above");
	}
}
