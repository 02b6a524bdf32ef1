/* SPDX-License-Identifier: MIT
 * torture_cursor.h: what the coordinator does to the others: starts processes, kills, pauses and replaces them; kills the
 * daemon and starts it again, stops it and lets it go on; meanwhile tries to remove a cluster that a pin holds, and loads
 * documents that make the table of placements grow. Coordinator only, one thread; uses cmocka. */
#include "daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/layout.h"
#include "../shm/segment.h"
#include "mp_place.h"
#include "torture_cursor.h"

static struct {
	struct mp_place *place;
	unsigned room;
	pid_t pids[C_PROCESSES], dead[C_PROCESSES]; /* dead: whose registration may still be there */
	uint64_t go_on_ms[C_PROCESSES];
	uint64_t random, seed, starts;
	uint64_t daemon_goes_on_ms, lives_until_ms;
	struct due {
		uint64_t ops, ms;
	} restart, stop, reader, pause, document;
	unsigned n_documents;
	const struct shm_ledger *ledger;
	size_t ledger_size;
} now;

struct c_faults c_faults;

static uint64_t random_of(uint64_t below)
{
	return mp_random(&now.random) % below;
}

void c_check(void)
{
	if (atomic_load(&c_shared->wrong) == 0)
		return;
	for (unsigned i = 0; i < 1000 && !atomic_load(&c_shared->told); i++)
		mp_pause();
	fail_msg("seed %llu, %u times wrong after %llu ms; the first: %s", (unsigned long long)c_shared->seed,
		 atomic_load(&c_shared->wrong), (unsigned long long)((c_ns() - c_shared->began_ns) / 1000000),
		 c_shared->first);
}

/* ---- the daemon -------------------------------------------------------------------------------------------- */

void c_start_daemon(unsigned room)
{
	char text[16];

	now.room = room ? room : now.room;
	snprintf(text, sizeof text, "%u", now.room);
	daemon_start(&now.place->d, "--cursor-capacity", text, "--log-level", "warn", NULL);
	/* Long enough to be of use to somebody; and now and then for whoever wants to register. */
	now.lives_until_ms = mp_now_ms() + (random_of(6) ? 15 : 300);
}

void c_kill_daemon(void)
{
	atomic_fetch_add(&c_shared->daemon_ends, 1);
	daemon_kill(&now.place->d);
	atomic_fetch_add(&c_shared->daemon_ends, 1);
	now.daemon_goes_on_ms = 0;
	c_faults.kills++;
}

static void restart(void)
{
	c_kill_daemon();
	if (random_of(4) == 0)
		for (uint64_t i = random_of(40); i > 0; i--)
			mp_pause();
	c_start_daemon(0);
	c_faults.restarts++;
}

/* ---- the cluster that a pin holds -------------------------------------------------------------------------- */

void c_cluster_is_held(bool held)
{
	struct wire w;

	wire_open(&w, &now.place->d, WIRE_ADMIN);
	if (held)
		wire_deny(&w, "cluster-in-use", "cluster.remove", "{s:s}", "id", "c5");
	else
		wire_do(&w, "cluster.remove", "{s:s}", "id", "c5");
	wire_close(&w);
	c_faults.removals++;
}

static void load_document(void)
{
	char path[128], key[READERS_KEY_SIZE], text[READERS_JSON_SIZE];
	unsigned n = 2000 + (unsigned)random_of(8000);
	struct wire w;
	FILE *f;
	int fd;

	snprintf(path, sizeof path, "%s/document", now.place->d.home);
	f = fopen(path, "w");
	if (!f)
		fail_msg("%s cannot be written", path);
	fputs("{\"partitions\":{", f);
	for (unsigned i = 0; i < n; i++) {
		readers_key(key, now.n_documents + i);
		fprintf(f, "%s\"%s\":%s", i ? ",\n" : "", key, readers_placement(text, i, 1 + i % C_CLUSTERS, 1));
	}
	fputs("}}", f);
	if (fclose(f) != 0)
		fail_msg("%s cannot be written", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	wire_open(&w, &now.place->d, WIRE_ADMIN);
	wire_send_with(&w, fd, "load", NULL);
	close(fd);
	unlink(path);
	json_decref(answer_result(wire_answer(&w)));
	wire_close(&w);
	now.n_documents += n;
	c_faults.documents++;
}

/* ---- processes --------------------------------------------------------------------------------------------- */

static bool has_row(pid_t pid)
{
	const struct shm_ledger_row *rows = (const void *)((const char *)now.ledger + SHM_PAGE);

	for (unsigned i = 0; i < now.ledger->n_rows; i++)
		if (atomic_load(&rows[i].attach) != 0 && atomic_load(&rows[i].pid) == (uint64_t)pid)
			return true;
	return false;
}

static void look_for_burial(unsigned i)
{
	struct c_process *p = &c_shared->processes[i];

	if (now.dead[i] == 0 || has_row(now.dead[i]))
		return;
	atomic_store(&p->buried_ns[(atomic_load(&p->life) - (now.pids[i] ? 1 : 0)) % C_LIVES], c_ns());
	now.dead[i] = 0;
}

static void start_process(unsigned i)
{
	struct c_process *p = &c_shared->processes[i];

	if (++now.starts > 1 && atomic_load(&p->number) > 0)
		atomic_fetch_add(&p->life, 1);
	atomic_store(&p->running, 0);
	atomic_store(&p->quiet, 0);
	atomic_store(&p->confirmed, 0);
	/* Unequal to the numbers of all who were before it: a call may have been numbered and not yet noted. */
	atomic_store(&p->number, atomic_load(&p->number) + 2);
	atomic_store(&p->first, atomic_load(&p->number) + 1);
	now.go_on_ms[i] = 0;
	now.pids[i] = mp_fork();
	if (now.pids[i] == 0)
		_exit(c_process_run(i, now.seed * 1000 + now.starts));
}

static void kill_process(unsigned i)
{
	kill(now.pids[i], SIGKILL);
	waitpid(now.pids[i], NULL, 0);
	now.dead[i] = now.pids[i];
	now.pids[i] = 0;
	c_faults.departures++;
}

void c_start_processes(void)
{
	for (unsigned i = 0; i < C_PROCESSES; i++) {
		MP_UNTIL((look_for_burial(i), now.dead[i] == 0), 20000);
		start_process(i);
	}
	for (unsigned i = 0; i < C_PROCESSES; i++)
		MP_UNTIL(atomic_load(&c_shared->processes[i].running) || (c_check(), false), 20000);
}

static void look_after_processes(void)
{
	for (unsigned i = 0; i < C_PROCESSES; i++) {
		int status;

		look_for_burial(i);
		if (now.pids[i] && waitpid(now.pids[i], &status, WNOHANG) == now.pids[i]) {
			now.pids[i] = 0;
			c_check();
			fail_msg("process %u ended by itself, wait status %x", i, (unsigned)status);
		}
		if (now.go_on_ms[i] && mp_now_ms() >= now.go_on_ms[i]) {
			kill(now.pids[i], SIGCONT);
			now.go_on_ms[i] = 0;
		}
	}
}

bool c_all_quiet(void)
{
	bool quiet = true;

	for (unsigned i = 0; i < C_PROCESSES; i++)
		quiet = quiet && now.pids[i] && atomic_load(&c_shared->processes[i].quiet) && now.go_on_ms[i] == 0;
	return quiet;
}

void c_end_processes(void)
{
	atomic_store(&c_shared->stop, 1);
	if (now.daemon_goes_on_ms)
		daemon_signal(&now.place->d, SIGCONT);
	now.daemon_goes_on_ms = 0;
	for (unsigned i = 0; i < C_PROCESSES; i++) {
		now.dead[i] = now.pids[i];
		now.pids[i] = 0;
		if (now.dead[i])
			assert_int_equal(mp_reap(now.dead[i], 20000), 0);
	}
	c_check();
	for (unsigned i = 0; i < C_PROCESSES; i++)
		MP_UNTIL((look_for_burial(i), now.dead[i] == 0), 20000);
	atomic_store(&c_shared->stop, 0);
}

/* ---- faults ------------------------------------------------------------------------------------------------ */

/* Faults come after a random number of calls, so that they come in the middle of them whatever the machine's speed; or
 * after a time, when nothing gets on. The first look only chooses. */
static bool due(struct due *d, uint64_t ops, uint64_t ms)
{
	uint64_t done = atomic_load(&c_shared->ops);
	bool is = d->ms != 0 && (done >= d->ops || mp_now_ms() >= d->ms);

	if (is || d->ms == 0) {
		d->ops = done + random_of(2 * ops);
		d->ms = mp_now_ms() + random_of(2 * ms);
	}
	return is;
}

static void daemon_faults(void)
{
	if (now.daemon_goes_on_ms) {
		if (mp_now_ms() < now.daemon_goes_on_ms)
			return;
		/* Killed as often out of a stop as on the run. */
		if (random_of(4)) {
			daemon_signal(&now.place->d, SIGCONT);
			now.daemon_goes_on_ms = 0;
		} else {
			restart();
		}
		return;
	}
	if (mp_now_ms() >= now.lives_until_ms && due(&now.restart, 3000, 150)) {
		restart();
	} else if (due(&now.stop, 3000, 150)) {
		daemon_signal(&now.place->d, SIGSTOP);
		now.daemon_goes_on_ms = mp_now_ms() + 1 + random_of(random_of(4) ? 15 : 100);
		c_faults.stops++;
	} else if (atomic_load(&c_shared->phase) == C_LARGE && random_of(60) == 0) {
		c_cluster_is_held(true);
	} else if (due(&now.document, 100000, 5000)) {
		load_document();
	}
}

void c_step(bool readers_too)
{
	unsigned i = (unsigned)random_of(C_PROCESSES);

	c_check();
	look_after_processes();
	daemon_faults();
	if (due(&now.pause, 2500, 150) && now.pids[i] && now.go_on_ms[i] == 0) {
		kill(now.pids[i], SIGSTOP);
		now.go_on_ms[i] = mp_now_ms() + 1 + random_of(30);
		c_faults.pauses++;
	}
	if (readers_too && due(&now.reader, 6000, 400) && now.pids[i] && atomic_load(&c_shared->processes[i].running) &&
	    now.dead[i] == 0)
		kill_process(i);
	for (i = 0; i < C_PROCESSES; i++)
		if (now.pids[i] == 0 && (now.dead[i] == 0 || random_of(100) == 0))
			start_process(i);
	mp_pause();
}

void c_let_go(void)
{
	for (unsigned i = 0; i < C_PROCESSES; i++) {
		if (now.pids[i] > 0) {
			kill(now.pids[i], SIGKILL);
			waitpid(now.pids[i], NULL, 0);
			now.pids[i] = 0;
		}
	}
	if (now.ledger)
		munmap((void *)(uintptr_t)now.ledger, now.ledger_size);
	now.ledger = NULL;
}

void c_faults_open(struct mp_place *place, uint64_t seed, unsigned room)
{
	char path[128];
	struct stat st;
	void *ledger;
	struct wire w;
	int fd;

	memset(&now, 0, sizeof now);
	memset(&c_faults, 0, sizeof c_faults);
	now.place = place;
	now.random = now.seed = seed;
	c_start_daemon(room);
	snprintf(path, sizeof path, "%s/" SEG_LEDGER, place->d.dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0)
		fail_msg("%s cannot be opened", path);
	now.ledger_size = (size_t)st.st_size;
	ledger = mmap(NULL, now.ledger_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (ledger == MAP_FAILED)
		fail_msg("%s cannot be mapped", path);
	now.ledger = ledger;
	wire_open(&w, &place->d, WIRE_ADMIN);
	for (unsigned k = 1; k <= C_CLUSTERS + 1; k++) {
		char id[16];

		snprintf(id, sizeof id, "c%u", k);
		wire_do(&w, "cluster.set", "{s:s, s:s}", "id", id, "endpoint", "http://10.0.0.1:9200");
	}
	wire_close(&w);
}
