/* SPDX-License-Identifier: MIT
 * How long a migration refuses writes. Four writer processes (writers.c) keep writes under way on every partition, with
 * leases; movers do what `berth migrate run` does: begin, cutover, complete with wait_ms, over the admin socket. Three
 * times of each migration:
 *   blackout   from the call of cutover to the answer of complete: no write was refused before, none is after
 *   as told    blackout_ms of the answer of complete
 *   own part   from the end of the last write that was admitted before the cutover to the answer of complete: what berth
 *              adds to what the writes take by themselves. When none ended after the call: from the call
 * and a `set` of another placement after each, which costs a round trip and, in sqlite, a commit with its fsync.
 * Next to it one migration with a writer attached that takes no leases: the whole barrier. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "writers.h"

#define MOVES SAMPLES_MAX
#define MOVES_SHORT 100u
#define MOVES_QUICK 10u
#define MOVERS_MOST 4u /* and the figures say so */
#define WAIT_MS 60000u
#define BARRIER_MS 30000u /* the daemon's own */
#define BARRIER_MS_SHORT 1000u
#define BARRIER_MS_QUICK 100u
#define OWN_GOAL_US 200
#define ANSWER_ROOM 4096u

struct move {
	double blackout_ms, told_ms, own_us, set_us;
	bool held; /* a write was under way when cutover was called */
};

struct shared { /* between the processes */
	struct writers writers;
	struct move moves[MOVES];
};

struct setting {
	const char *store; /* for people */
	unsigned write_ms, n_moves;
	unsigned n_movers; /* processes that migrate at the same time, each its own partitions */
};

static struct shared *map_shared(void)
{
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		fail("no memory for %zu bytes: %s", sizeof(*s), strerror(errno));
	return s;
}

/* ---- the mover ------------------------------------------------------------------------------------------------ */

/* Its answer stays to be looked at. */
static const char *ask(struct daemon *d, const char *method, const char *params)
{
	static char line[512], answer[ANSWER_ROOM];

	snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":{%s}}\n", method,
		 params);
	daemon_call(d, line, -1, answer, sizeof(answer), NULL);
	return answer;
}

static const char *ask_of(struct daemon *d, const char *method, const char *partition, const char *more)
{
	char params[256];

	snprintf(params, sizeof(params), "\"partition\":\"%s\"%s", partition, more);
	return ask(d, method, params);
}

static void place(struct daemon *d, const char *partition, unsigned cluster)
{
	char more[128];

	snprintf(more, sizeof(more),
		 ",\"placement\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c%u\"},\"force\":true", cluster);
	ask_of(d, "set", partition, more);
}

static void migrate(struct daemon *d, const struct writers *writers, uint32_t partition, unsigned to, struct move *m)
{
	uint64_t called, answered, epoch, last;
	char key[KEY_ROOM], more[64];
	const char *answer;

	key_name(key, partition);
	snprintf(more, sizeof(more), ",\"to\":{\"cluster\":\"c%u\"}", to);
	ask_of(d, "begin", key, more);
	snprintf(more, sizeof(more), ",\"wait_ms\":%u", WAIT_MS);
	called = now_ns();
	epoch = answer_number(ask_of(d, "cutover", key, ""), "epoch");
	answer = ask_of(d, "complete", key, more);
	answered = now_ns();
	last = writers_last_end(writers, partition, epoch);
	m->held = last > called;
	if (!m->held)
		last = called;
	m->blackout_ms = (double)(answered - called) / 1e6;
	m->told_ms = (double)answer_number(answer, "blackout_ms");
	m->own_us = answered > last ? (double)(answered - last) / 1e3 : 0;
}

/* The moves number, number + n_movers, ... of the setting; each goes to the next of its partitions. */
static _Noreturn void run_mover(const struct setting *s, struct shared *shared, struct daemon d, unsigned number)
{
	unsigned own = PARTITIONS / s->n_movers, turn = 0;
	char other[32];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	daemon_connect(&d);
	snprintf(other, sizeof(other), "other-%u", number);
	for (unsigned i = number; i < s->n_moves; i += s->n_movers, turn++) {
		struct move *m = &shared->moves[i];
		unsigned to = 2 - turn / own % 2; /* they begin on c1, and go to and fro */
		uint64_t from;

		migrate(&d, &shared->writers, turn % own * s->n_movers + number, to, m);
		from = now_ns();
		place(&d, other, 1 + turn % 2); /* another one each time */
		m->set_us = elapsed_ns(from) / 1e3;
	}
	exit(0);
}

/* Everything is placed anew before. */
static void move_all(const struct setting *s, struct shared *shared, struct daemon *d)
{
	pid_t pids[MOVERS_MOST];
	char key[KEY_ROOM];

	for (uint32_t i = 0; i < PARTITIONS; i++) {
		key_name(key, i);
		place(d, key, 1);
	}
	writers_start(&shared->writers, d, s->write_ms);
	for (unsigned i = 0; i < s->n_movers; i++) {
		fflush(stdout);
		pids[i] = fork();
		if (pids[i] < 0)
			fail("fork: %s", strerror(errno));
		if (pids[i] == 0)
			run_mover(s, shared, *d, i);
	}
	for (unsigned i = 0; i < s->n_movers; i++) {
		int status;

		if (waitpid(pids[i], &status, 0) < 0 || status != 0)
			fail("a migration has failed");
	}
	writers_stop(&shared->writers);
}

/* ---- figures -------------------------------------------------------------------------------------------------- */

static void report_moves(const struct bench *b, const struct setting *s, const struct shared *shared)
{
	static struct figure blackout, told, own, set, net;
	struct figure *all[] = {&blackout, &told, &own, &set, &net};
	bool disk = strcmp(s->store, "sqlite") == 0;
	unsigned held = 0;

	blackout = (struct figure){.name = "blackout", .unit = "ms"};
	told = (struct figure){.name = "as the daemon tells it", .unit = "ms"};
	own = (struct figure){.name = "own part of berth", .unit = "us", .goal = disk ? 0 : OWN_GOAL_US};
	set = (struct figure){.name = "a set: round trip and commit", .unit = "us"};
	net = (struct figure){.name = "own part less a set", .unit = "us", .goal = disk ? OWN_GOAL_US : 0};
	if (s->write_ms == 1) {
		blackout.goal = 3;
		blackout.tail_goal = 20;
	}
	for (unsigned i = 0; i < s->n_moves; i++) {
		const struct move *m = &shared->moves[i];

		add_sample(&blackout.s, m->blackout_ms);
		add_sample(&told.s, m->told_ms);
		add_sample(&own.s, m->own_us);
		add_sample(&set.s, m->set_us);
		add_sample(&net.s, m->own_us - m->set_us);
		held += m->held;
	}
	report_note(
		b,
		"%s, writes of %u ms: %u migrations, %u at a time; at %u of them a write was under way; %llu writes "
		"done, %llu refused meanwhile",
		s->store, s->write_ms, s->n_moves, s->n_movers, held,
		(unsigned long long)atomic_load(&shared->writers.done),
		(unsigned long long)atomic_load(&shared->writers.refused));
	for (unsigned i = 0; i < (disk ? 5 : 4); i++) {
		all[i]->workload = "blackout";
		all[i]->tail = true;
		snprintf(all[i]->parameters, sizeof(all[i]->parameters), "store=%s write_ms=%u at_once=%u", s->store,
			 s->write_ms, s->n_movers);
		report(b, all[i]);
	}
}

/* The same with a writer attached that takes no leases. */
static void measure_timed(const struct bench *b, struct shared *shared)
{
	struct setting s = {.store = "memory", .write_ms = 10, .n_moves = 1, .n_movers = 1};
	unsigned barrier_ms = b->full ? BARRIER_MS : b->quick ? BARRIER_MS_QUICK : BARRIER_MS_SHORT;
	static struct figure f = {.workload = "blackout", .name = "timed barrier", .unit = "ms", .tail = true};
	struct berth *berth = NULL;
	struct daemon d;
	int rc;

	daemon_start(b, &d, "timed", &(struct daemon_how){.cpu = -1, .barrier_ms = barrier_ms});
	ask(&d, "cluster.set", "\"id\":\"c1\"");
	ask(&d, "cluster.set", "\"id\":\"c2\"");
	rc = berth_attach(d.dir, NULL, &berth);
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", d.dir, berth_strerror(rc));
	move_all(&s, shared, &d);
	berth_detach(&berth);
	daemon_stop(&d);
	remove_tree(d.dir);
	add_sample(&f.s, shared->moves[0].blackout_ms);
	snprintf(f.parameters, sizeof(f.parameters), "writes=unbracketed barrier_ms=%u", barrier_ms);
	report_note(b, "one migration with a process attached that may write without leases%s",
		    b->full ? "" : " (--full: with the barrier of 30 s that is the default)");
	report(b, &f);
}

void workload_blackout(const struct bench *b)
{
	static const unsigned times_ms[] = {1, 10, 100};
	static const char *const stores[] = {"memory", "sqlite"};
	unsigned n_times = b->full ? 3 : b->quick ? 1 : 2;
	struct shared *shared = map_shared();
	char path[4200];

	report_note(b,
		    "\nblackout: %u writer processes with leases, %u partitions, a write of each process under way on "
		    "each",
		    WRITERS, PARTITIONS);
	snprintf(path, sizeof(path), "%s/blackout.db", b->disk);
	for (unsigned i = 0; i < 2; i++) {
		struct daemon d;

		daemon_start(b, &d, stores[i], &(struct daemon_how){.store = i ? path : NULL, .cpu = -1});
		ask(&d, "cluster.set", "\"id\":\"c1\"");
		ask(&d, "cluster.set", "\"id\":\"c2\"");
		for (unsigned k = 0; k < n_times; k++) {
			struct setting s = {.store = stores[i], .write_ms = times_ms[k], .n_movers = 1};

			s.n_moves = b->full ? MOVES : b->quick ? MOVES_QUICK : MOVES_SHORT;
			if (s.write_ms == 100)
				s.n_movers = MOVERS_MOST; /* else it would take minutes */
			move_all(&s, shared, &d);
			report_moves(b, &s, shared);
		}
		daemon_stop(&d);
		remove_tree(d.dir);
	}
	measure_timed(b, shared);
	munmap(shared, sizeof(*shared));
}
