/* SPDX-License-Identifier: MIT
 * torture.h: what the coordinator does to the others: starts processes, kills them, stops them, inside a section too; kills
 * the daemon, has another one take over from it while it runs or is stopped, ends it, stops it for a while. Coordinator
 * only, one thread: it forks the processes. Uses cmocka. */
#include "daemon.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mp_place.h"
#include "torture.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define BARRIER TEXT(T_BARRIER)

static struct {
	struct mp_place *place;
	uint64_t go_on_ms[T_PROCESSES]; /* of one that is stopped */
	uint64_t born[T_PROCESSES];
	uint64_t random, seed;
	uint64_t kill_ms, stop_ms, restart_ms, document_ms, daemon_stop_ms;
	uint64_t daemon_goes_on_ms, stopped_ms; /* of a daemon that is stopped; 0: it runs */
	uint64_t reads_at_stop;
} now;

struct t_faults t_faults;
pid_t t_pids[T_PROCESSES];

static uint64_t random_of(uint64_t below)
{
	return mp_random(&now.random) % below;
}

void t_check(void)
{
	char *dump = NULL;

	if (atomic_load(&t_shared->wrong) == 0)
		return;
	for (unsigned i = 0; i < 1000 && !atomic_load(&t_shared->told); i++)
		mp_pause();
	if (!now.daemon_goes_on_ms)
		dump = t_dump();
	fail_msg("%u times wrong; the first: %s\n%s", atomic_load(&t_shared->wrong), t_shared->first,
		 dump ? dump : "(the daemon is stopped)");
}

/* ---- processes --------------------------------------------------------------------------------------------- */

static void start_process(unsigned i)
{
	struct t_process *p = &t_shared->processes[i];

	atomic_store(&p->running, 0);
	atomic_store(&p->inside, T_OUTSIDE);
	atomic_store(&p->quiet, 0);
	atomic_store(&p->died_ms, 0);
	t_pids[i] = mp_fork();
	if (t_pids[i] == 0) {
		(void)!nice(5); /* a daemon that shares two processors with them gets on */
		_exit(t_process_run(i, now.seed + ++now.born[i] * 100));
	}
	now.born[i]++;
}

void t_start_processes(void)
{
	for (unsigned i = 0; i < T_PROCESSES; i++)
		start_process(i);
	for (unsigned i = 0; i < T_PROCESSES; i++)
		MP_UNTIL((t_check(), atomic_load(&t_shared->processes[i].running)), 20000);
}

static void bury(unsigned i)
{
	t_buried(&t_shared->processes[i]);
	t_pids[i] = 0;
	now.go_on_ms[i] = 0;
}

static void kill_process(unsigned i)
{
	atomic_store(&t_shared->processes[i].died_ms, mp_now_ms());
	kill(t_pids[i], SIGKILL);
	waitpid(t_pids[i], NULL, 0);
	bury(i);
	t_faults.kills++;
}

static void stop_process(unsigned i, uint64_t ms)
{
	kill(t_pids[i], SIGSTOP);
	now.go_on_ms[i] = mp_now_ms() + ms;
}

/* One that stands in a section is stopped there for up to seconds, and a document is loaded under it. */
static void look_inside(unsigned i)
{
	struct t_process *p = &t_shared->processes[i];

	if (atomic_load(&p->inside) != T_INSIDE || now.go_on_ms[i])
		return;
	atomic_store(&p->inside, T_STOPPED);
	stop_process(i, 100 + random_of(2500));
	t_faults.stops_inside++;
	t_faults.grown_inside += t_document();
}

static void goes_on(unsigned i)
{
	atomic_store(&t_shared->processes[i].inside, T_OUTSIDE);
	kill(t_pids[i], SIGCONT);
	now.go_on_ms[i] = 0;
}

/* Those that became another program, or ended, say so before; nobody else may end. */
static void look_after_processes(void)
{
	for (unsigned i = 0; i < T_PROCESSES; i++) {
		int status;

		if (t_pids[i] == 0) {
			if (random_of(50) == 0)
				start_process(i);
		} else if (waitpid(t_pids[i], &status, WNOHANG) == t_pids[i]) {
			if (atomic_load(&t_shared->processes[i].died_ms) == 0 || status != 0) {
				t_pids[i] = 0;
				t_check();
				fail_msg("process %u ended by itself, wait status %x", i, (unsigned)status);
			}
			bury(i);
		} else if (now.go_on_ms[i] && mp_now_ms() >= now.go_on_ms[i]) {
			goes_on(i);
		} else {
			look_inside(i);
		}
	}
}

bool t_all_quiet(void)
{
	bool quiet = true;

	look_after_processes();
	for (unsigned i = 0; i < T_PROCESSES; i++)
		quiet = quiet && t_pids[i] && atomic_load(&t_shared->processes[i].quiet);
	return quiet;
}

void t_end_processes(void)
{
	for (unsigned i = 0; i < T_PROCESSES; i++) {
		pid_t pid = t_pids[i];

		t_pids[i] = 0;
		if (now.go_on_ms[i])
			kill(pid, SIGCONT);
		now.go_on_ms[i] = 0;
		assert_int_equal(mp_reap(pid, 20000), 0);
	}
	t_check();
}

void t_let_go(void)
{
	for (unsigned i = 0; i < T_PROCESSES; i++) {
		if (t_pids[i] > 0) {
			kill(t_pids[i], SIGKILL);
			waitpid(t_pids[i], NULL, 0);
			t_pids[i] = 0;
		}
	}
}

/* ---- the daemon -------------------------------------------------------------------------------------------- */

static uint64_t reads(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < T_PROCESSES; i++)
		n += atomic_load(&t_shared->processes[i].counts.reads);
	return n;
}

void t_daemon_goes_on(void)
{
	if (!now.daemon_goes_on_ms)
		return;
	if (mp_now_ms() - now.stopped_ms > 1000 && reads() == now.reads_at_stop)
		fail_msg("nobody has read anything while the daemon was stopped for %llu ms",
			 (unsigned long long)(mp_now_ms() - now.stopped_ms));
	daemon_signal(&now.place->d, SIGCONT);
	now.daemon_goes_on_ms = 0;
	t_operators_rest(false);
}

static void stop_daemon(void)
{
	daemon_signal(&now.place->d, SIGSTOP);
	now.reads_at_stop = reads();
	now.stopped_ms = mp_now_ms();
	now.daemon_goes_on_ms = now.stopped_ms + 1 + random_of(random_of(3) ? 300 : 3000);
	t_operators_rest(true);
	t_faults.daemon_stops++;
}

static void start_daemon(const char *option)
{
	daemon_start(&now.place->d, "--barrier-ms", BARRIER, option, NULL);
}

/* By another that is started while it is there. */
static void take_over(struct daemon *d)
{
	pid_t first = d->pid;
	int pidfd = d->pidfd, status;

	d->pid = 0;
	start_daemon("--takeover");
	assert_int_equal(waitpid(first, &status, 0), first);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	close(pidfd);
	t_faults.take_overs++;
}

void t_start_daemon_anew(void)
{
	daemon_kill(&now.place->d);
	t_operators_disconnect();
	start_daemon(NULL);
	t_operators_connect();
}

static void replace_daemon(void)
{
	struct daemon *d = &now.place->d;
	uint64_t dice = random_of(10);

	if (dice < 3) {
		take_over(d);
		t_operators_disconnect();
	} else if (dice < 5 && !now.daemon_goes_on_ms) {
		assert_int_equal(daemon_stop(d), 0);
		t_faults.ends++;
		t_operators_disconnect();
		start_daemon(NULL);
	} else {
		daemon_kill(d);
		t_faults.daemon_kills++;
		t_operators_disconnect();
		if (random_of(3) == 0)
			poll(NULL, 0, (int)random_of(2 * T_BARRIER_MS));
		start_daemon(NULL);
	}
	now.daemon_goes_on_ms = 0;
	t_operators_rest(false);
	t_operators_connect();
}

/* ---- all of them ------------------------------------------------------------------------------------------- */

static bool due(uint64_t *at_ms, uint64_t least, uint64_t most)
{
	if (mp_now_ms() < *at_ms)
		return false;
	*at_ms = mp_now_ms() + least + random_of(most - least);
	return true;
}

static void daemon_faults(bool spare)
{
	if (now.daemon_goes_on_ms) {
		if (mp_now_ms() < now.daemon_goes_on_ms)
			return;
		if (spare || random_of(3)) /* replaced as often out of a stop as on the run */
			t_daemon_goes_on();
		else
			replace_daemon();
	} else if (!spare && due(&now.restart_ms, 1000, 5000)) {
		replace_daemon();
	} else if (due(&now.daemon_stop_ms, 1000, 6000)) {
		stop_daemon();
	} else if (due(&now.document_ms, 2000, 6000)) {
		t_document();
	}
}

void t_faults_step(bool spare_daemon)
{
	unsigned i = (unsigned)random_of(T_PROCESSES);

	look_after_processes();
	if (due(&now.kill_ms, 200, 1500) && t_pids[i] && atomic_load(&t_shared->processes[i].died_ms) == 0)
		kill_process(i);
	if (due(&now.stop_ms, 50, 500) && t_pids[i] && now.go_on_ms[i] == 0) {
		stop_process(i, 1 + random_of(random_of(4) ? 60 : random_of(4) ? 600 : 3000));
		t_faults.stops++;
	}
	daemon_faults(spare_daemon);
}

void t_faults_open(struct mp_place *place, uint64_t seed)
{
	memset(&now, 0, sizeof now);
	memset(&t_faults, 0, sizeof t_faults);
	memset(t_pids, 0, sizeof t_pids);
	now.place = place;
	now.random = now.seed = seed;
	start_daemon(NULL);
}
