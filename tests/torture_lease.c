/* SPDX-License-Identifier: MIT
 * torture_lease.h: the test. TORTURE_SECONDS (60) of migrations under processes that write under leases, while they are
 * killed, stopped and replaced, the daemon is killed and started again, and the table grows. Then all is told to be
 * quiet: no lease is open, and every migration that is under way completes. BERTH_SEED repeats the dice, not the
 * scheduler. Coordinator, one thread: it forks the processes. */
#include "daemon.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mp_place.h"
#include "torture_lease.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define BARRIER_TEXT TEXT(T_BARRIER)

static struct {
	pid_t pids[T_PROCESSES];
	uint64_t go_on_ms[T_PROCESSES]; /* of one that is stopped */
	uint64_t born[T_PROCESSES];
	uint64_t random, seed;
	uint64_t kills, stops, heavy;
	uint64_t weather_ms, kill_ms, stop_ms, restart_ms, growth_ms;
} now;

static uint64_t random_of(uint64_t below)
{
	return mp_random(&now.random) % below;
}

static void check(void)
{
	char *dump;

	if (atomic_load(&t_shared->wrong) == 0)
		return;
	for (unsigned i = 0; i < 1000 && !atomic_load(&t_shared->told); i++)
		mp_pause();
	dump = t_dump();
	fail_msg("%u times wrong; the first: %s\n%s", atomic_load(&t_shared->wrong), t_shared->first, dump);
}

/* ---- processes --------------------------------------------------------------------------------------------- */

static void start_process(unsigned i)
{
	struct t_process *p = &t_shared->processes[i];

	atomic_store(&p->running, 0);
	atomic_store(&p->quiet, 0);
	atomic_store(&p->died_ms, 0);
	now.pids[i] = mp_fork();
	if (now.pids[i] == 0) {
		(void)!nice(5); /* a daemon that shares two processors with them gets on */
		_exit(t_process_run(i, now.seed + ++now.born[i] * 100));
	}
	now.born[i]++;
}

static void bury(unsigned i)
{
	t_buried(&t_shared->processes[i]);
	now.pids[i] = 0;
	now.go_on_ms[i] = 0;
}

static void kill_process(unsigned i)
{
	atomic_store(&t_shared->processes[i].died_ms, mp_now_ms());
	kill(now.pids[i], SIGKILL);
	waitpid(now.pids[i], NULL, 0);
	bury(i);
	now.kills++;
}

/* Those that became another program have ended meanwhile; nobody else may. */
static void look_after_processes(void)
{
	for (unsigned i = 0; i < T_PROCESSES; i++) {
		int status;

		if (now.pids[i] == 0) {
			if (random_of(50) == 0)
				start_process(i);
		} else if (waitpid(now.pids[i], &status, WNOHANG) == now.pids[i]) {
			if (atomic_load(&t_shared->processes[i].died_ms) == 0 || status != 0) {
				now.pids[i] = 0;
				check();
				fail_msg("process %u ended by itself, wait status %x", i, (unsigned)status);
			}
			bury(i);
		} else if (now.go_on_ms[i] && mp_now_ms() >= now.go_on_ms[i]) {
			kill(now.pids[i], SIGCONT);
			now.go_on_ms[i] = 0;
		}
	}
}

/* ---- faults ------------------------------------------------------------------------------------------------ */

static bool due(uint64_t *at_ms, uint64_t least, uint64_t most)
{
	if (mp_now_ms() < *at_ms)
		return false;
	*at_ms = mp_now_ms() + least + random_of(most - least);
	return true;
}

/* Every other weather has no unknown outcome, so that drains are exact. */
static void change_weather(void)
{
	struct t_weather *w = &t_shared->weather;
	bool heavy = now.heavy < 2 && random_of(2);

	now.heavy = heavy ? now.heavy + 1 : 0;
	atomic_store(&w->unknown_permille, heavy ? (uint32_t)(1 + random_of(200)) : random_of(2) ? 2 : 0);
	atomic_store(&w->hold_ms, (uint32_t)random_of(50));
	atomic_store(&w->pace_us, (uint32_t)(500 + random_of(5000)));
	atomic_store(&w->burst, (uint32_t)random_of(2));
}

static void restart(struct mp_place *p)
{
	daemon_kill(&p->d);
	t_operators_disconnect();
	if (random_of(3) == 0)
		poll(NULL, 0, (int)random_of(2 * T_BARRIER_MS));
	daemon_start(&p->d, "--barrier-ms", BARRIER_TEXT, NULL);
	t_operators_connect();
	t_totals.restarts++;
}

static void faults(struct mp_place *p)
{
	unsigned i = (unsigned)random_of(T_PROCESSES);

	if (due(&now.weather_ms, 500, 1500))
		change_weather();
	if (due(&now.kill_ms, 200, 1500) && now.pids[i] && atomic_load(&t_shared->processes[i].died_ms) == 0)
		kill_process(i);
	if (due(&now.stop_ms, 50, 500) && now.pids[i] && now.go_on_ms[i] == 0) {
		kill(now.pids[i], SIGSTOP);
		now.go_on_ms[i] = mp_now_ms() + 1 + random_of(random_of(4) ? 60 : 600);
		now.stops++;
	}
	if (due(&now.growth_ms, 3000, 8000))
		t_document(10000 + (uint32_t)random_of(20000));
	if (due(&now.restart_ms, 1000, 5000))
		restart(p);
}

/* ---- the end ----------------------------------------------------------------------------------------------- */

static bool all_quiet(void)
{
	bool quiet = true;

	look_after_processes();
	for (unsigned i = 0; i < T_PROCESSES; i++)
		quiet = quiet && now.pids[i] && atomic_load(&t_shared->processes[i].quiet);
	return quiet;
}

static void no_lease_is_open(struct mp_place *p)
{
	json_t *answer = wire_ok(&p->stream.wire, "readers", NULL), *row;
	size_t i;

	json_array_foreach (json_object_get(answer, "readers"), i, row)
		if (json_integer_value(json_object_get(row, "n_leases")) != 0)
			fail_msg("all writes are ended, and a lease is open: %s", json_dumps(row, 0));
	json_decref(answer);
}

static void finish(struct mp_place *p)
{
	uint64_t until = mp_now_ms() + 30000;

	atomic_store(&t_shared->quiet, 1);
	while (!all_quiet()) {
		t_operators_step(false);
		check();
		if (mp_now_ms() > until)
			fail_msg("the processes do not get quiet: %s", t_dump());
		mp_pause();
	}
	wire_open(&p->stream.wire, &p->d, WIRE_ADMIN);
	no_lease_is_open(p);
	until = mp_now_ms() + 5 * T_BARRIER_MS + 5000;
	while (!t_operators_step(true)) {
		if (mp_now_ms() > until)
			fail_msg("nobody writes, and a migration does not complete: %s", t_dump());
		mp_pause();
	}
	wire_close(&p->stream.wire);
	check();
	atomic_store(&t_shared->stop, 1);
	for (unsigned i = 0; i < T_PROCESSES; i++) {
		pid_t pid = now.pids[i];

		now.pids[i] = 0;
		assert_int_equal(mp_reap(pid, 20000), 0);
	}
	check();
	t_operators_disconnect();
}

static void print_counts(void)
{
	for (unsigned i = 1; i < T_PROCESSES; i++) {
#define X(name) t_shared->processes[0].counts.name += t_shared->processes[i].counts.name;
		T_COUNTERS(X)
#undef X
	}
	printf("note: ");
#define X(name) printf("%s %llu, ", #name, (unsigned long long)t_shared->processes[0].counts.name);
	T_COUNTERS(X)
#undef X
	printf("kills %llu, stops %llu\nnote: migrations completed %llu (%llu never held back by the drain), aborted "
	       "%llu, aborted beside a waiting complete %llu; daemon killed %llu times (%llu calls in flight adopted), "
	       "documents %llu; longest blackout %llu ms\nnote: pending answers %llu; drains by reason:",
	       (unsigned long long)now.kills, (unsigned long long)now.stops, (unsigned long long)t_totals.completed,
	       (unsigned long long)t_totals.at_once, (unsigned long long)t_totals.aborted,
	       (unsigned long long)t_totals.sabotaged, (unsigned long long)t_totals.restarts,
	       (unsigned long long)t_totals.adopted, (unsigned long long)t_totals.growths,
	       (unsigned long long)t_totals.longest_ms, (unsigned long long)t_totals.pending);
	for (unsigned i = 0; i < 7; i++)
		printf(" %s %llu", t_reasons[i], (unsigned long long)t_totals.reasons[i]);
	putchar('\n');
}

/* ---- the test ---------------------------------------------------------------------------------------------- */

static int setup(void **state)
{
	struct mp_place *p = calloc(1, sizeof *p);
	const char *store;

	t_shared =
		mmap(NULL, sizeof *t_shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!p || t_shared == MAP_FAILED)
		return -1;
	memset(&now, 0, sizeof now);
	now.seed = now.random = mp_seed();
	store = random_of(2) ? "sqlite" : "memory";
	printf("note: store %s\n", store);
	mp_place_make(p, store);
	*state = p;
	daemon_start(&p->d, "--barrier-ms", BARRIER_TEXT, NULL);
	snprintf(t_shared->dir, sizeof t_shared->dir, "%s", p->d.dir);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < T_PROCESSES; i++) {
		if (now.pids[i] > 0) {
			kill(now.pids[i], SIGKILL);
			waitpid(now.pids[i], NULL, 0);
		}
	}
	munmap(t_shared, sizeof *t_shared);
	return mp_teardown(state);
}

static void no_write_of_an_earlier_tenure_travels_when_complete_is_acknowledged(void **state)
{
	struct mp_place *p = *state;
	uint64_t until;

	t_operators_open(&p->d, mp_random(&now.random));
	change_weather();
	for (unsigned i = 0; i < T_PROCESSES; i++)
		start_process(i);
	for (unsigned i = 0; i < T_PROCESSES; i++)
		MP_UNTIL(atomic_load(&t_shared->processes[i].running), 20000);
	until = mp_now_ms() + 1000ull * mp_number("TORTURE_SECONDS", 60, 600);
	while (mp_now_ms() < until) {
		t_operators_step(false);
		look_after_processes();
		faults(p);
		check();
		mp_pause();
	}
	finish(p);
	print_counts();
	assert_true(t_totals.completed > 0 && t_totals.aborted > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(no_write_of_an_earlier_tenure_travels_when_complete_is_acknowledged,
						setup, teardown),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
