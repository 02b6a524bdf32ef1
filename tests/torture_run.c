/* SPDX-License-Identifier: MIT
 * torture.h: the test. TORTURE_SECONDS (60) of reads, writes, pins, migrations and documents while processes are killed,
 * stopped and replaced, and so is the daemon. Then all is told to be quiet: no lease is open, every migration that is under
 * way completes, `berth verify` finds nothing, and what the processes had is given back. BERTH_SEED repeats the dice, not
 * the scheduler.
 *
 * SOAK_SECONDS instead: the same, and what it costs is sampled and must not grow. The daemon is killed and replaced in the
 * first and the third quarter alone, and stopped in all: what one daemon leaks adds up in the other two. SOAK_FILE: where
 * the samples go. Coordinator, one thread. */
#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cli.h"
#include "mp_place.h"
#include "torture.h"

#define FILES_MOST_KB (96.0 * 1024) /* of the instance: see t_sample_bounded */
#define SURE 12.0                   /* what is expected so often does not stay away by chance */

static struct {
	uint64_t random, seed;
	uint64_t heavy, weather_ms;
	unsigned seconds;
	bool soak;
} now;

static uint64_t random_of(uint64_t below)
{
	return mp_random(&now.random) % below;
}

/* Every other weather has no unknown outcome, so that drains are exact. */
static void change_weather(void)
{
	struct t_weather *w = &t_shared->weather;
	bool heavy = now.heavy < 2 && random_of(2);

	if (mp_now_ms() < now.weather_ms)
		return;
	now.weather_ms = mp_now_ms() + 500 + random_of(1000);
	now.heavy = heavy ? now.heavy + 1 : 0;
	atomic_store(&w->unknown_permille, heavy ? (uint32_t)(1 + random_of(200)) : random_of(2) ? 2 : 0);
	atomic_store(&w->hold_ms, (uint32_t)random_of(50));
	atomic_store(&w->pace_us, (uint32_t)(500 + random_of(5000)));
	atomic_store(&w->burst, (uint32_t)random_of(2));
	atomic_store(&w->storm, random_of(6) == 0);
}

/* ---- what is expected ---------------------------------------------------------------------------------------- */

static uint64_t sum_at(size_t off)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < T_PROCESSES; i++)
		sum += atomic_load((const _Atomic uint64_t *)((const char *)&t_shared->processes[i].counts + off));
	return sum;
}

#define SUM(name) sum_at(offsetof(struct t_counts, name)) /* of all processes */

/* Below a hundredth of what is expected something does not work, however slow the machine is. */
#define MISSING(counted, rate) \
	((double)(rate)*now.seconds >= SURE && (double)(counted)*100 < (double)(rate)*now.seconds)
/* Name, what was counted, how often a second on a machine of two processors. */
#define SHAPE(X) \
	X("reads", SUM(reads), 8000) \
	X("reads of documents' partitions", SUM(document_reads), 5000) \
	X("answers judged exactly", SUM(exact), 10000) \
	X("writes begun", SUM(begun), 10000) \
	X("writes ended unknown", SUM(ended_unknown), 120) \
	X("writes refused in cutover", SUM(held_back), 3000) \
	X("writes refused as stale", SUM(stale), 800) \
	X("pins acknowledged", SUM(pins), 400) \
	X("pins resolved", SUM(resolves), 3000) \
	X("migrations completed", t_totals.completed, 10) \
	X("migrations aborted", t_totals.aborted, 2) \
	X("documents loaded", t_totals.documents, 0.6) \
	X("tables grown", t_totals.growths, 0.15) \
	X("processes killed", t_faults.kills, 1) \
	X("processes stopped", t_faults.stops, 2.5) \
	X("stopped inside a section", t_faults.stops_inside, 0.8) \
	X("... while a document was loaded", t_faults.grown_inside, 0.4) \
	X("forks", SUM(forks), 1) \
	X("execs", SUM(execs), 0.3) \
	X("exits without a detach", SUM(exits), 0.3) \
	X("... of both inside a section", SUM(ends_inside), 0.3) \
	X("detached and attached again", SUM(detaches), 1.2) \
	X("... refused under open leases", SUM(busy), 0.3) \
	X("attachments in storms", SUM(storms), 100) \
	X("daemon killed", t_faults.daemon_kills, now.soak ? 0.1 : 0.2) \
	X("daemon taken over from", t_faults.take_overs, now.soak ? 0.06 : 0.12) \
	X("daemon stopped for a while", t_faults.daemon_stops, 0.2) \
	X("drains held back by open leases", t_totals.reasons[1], 2) \
	X("... by unknown ends", t_totals.reasons[2], 0.15) \
	X("... by a death", t_totals.reasons[4], 0.15)

static void print_expected(void)
{
	printf("note: %u seconds; expected about:", now.seconds);
#define X(name, counted, rate) printf(" %s %.0f,", name, (double)(rate)*now.seconds);
	SHAPE(X)
#undef X
	printf(" wrong 0\n");
	fflush(stdout);
}

static void print_counted(void)
{
	unsigned n_missing = 0;

	printf("note: counted:");
#define X(name, counted, rate) \
	printf(" %s %llu%s,", name, (unsigned long long)(counted), MISSING(counted, rate) ? " (MISSING)" : ""); \
	n_missing += MISSING(counted, rate);
	SHAPE(X)
#undef X
	printf(" wrong 0\nnote: also:");
#define X(name) printf(" %s %llu,", #name, (unsigned long long)SUM(name));
	T_COUNTERS(X)
#undef X
	printf("\nnote: migrations %llu never held back by the drain, aborted beside a waiting complete %llu, calls in "
	       "flight adopted %llu, daemon ended %llu; longest blackout %llu ms; pending answers %llu; drains by "
	       "reason:",
	       (unsigned long long)t_totals.at_once, (unsigned long long)t_totals.sabotaged,
	       (unsigned long long)t_totals.adopted, (unsigned long long)t_faults.ends,
	       (unsigned long long)t_totals.longest_ms, (unsigned long long)t_totals.pending);
	for (unsigned i = 0; i < 7; i++)
		printf(" %s %llu", t_reasons[i], (unsigned long long)t_totals.reasons[i]);
	printf("\n");
	fflush(stdout);
	if (n_missing)
		fail_msg("%u things that must have happened have not", n_missing);
}

/* ---- the end ----------------------------------------------------------------------------------------------- */

static void no_lease_is_open(struct mp_place *p)
{
	json_t *answer = wire_ok(&p->stream.wire, "readers", NULL), *row;
	size_t i;

	json_array_foreach (json_object_get(answer, "readers"), i, row)
		if (json_integer_value(json_object_get(row, "n_leases")) != 0)
			fail_msg("all writes are ended, and a lease is open: %s", json_dumps(row, 0));
	json_decref(answer);
}

/* Each start makes a generation too. */
static void count_growths(void)
{
	json_t *status;

	assert_true(t_ask_status(&status));
	t_totals.growths = (uint64_t)int_of(status, "generation") - 1 - t_faults.daemon_kills - t_faults.take_overs -
			   t_faults.ends;
	json_decref(status);
}

static void finish(struct mp_place *p)
{
	uint64_t until = mp_now_ms() + 60000;

	t_daemon_goes_on();
	atomic_store(&t_shared->quiet, 1);
	while (!t_all_quiet()) {
		t_operators_step(false);
		t_check();
		if (mp_now_ms() > until)
			fail_msg("the processes do not get quiet: %s", t_dump());
		mp_pause();
	}
	wire_open(&p->stream.wire, &p->d, WIRE_ADMIN);
	no_lease_is_open(p);
	until = mp_now_ms() + 5 * T_BARRIER_MS + 20000;
	while (!t_operators_step(true)) {
		if (mp_now_ms() > until)
			fail_msg("nobody writes, and a migration does not complete: %s", t_dump());
		mp_pause();
	}
	wire_close(&p->stream.wire);
	t_check();
	cli_expect(0, &p->d, "verify");
	count_growths();
	atomic_store(&t_shared->stop, 1);
	t_end_processes();
	t_sample_nothing_left();
	t_operators_disconnect();
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
	now.soak = getenv("SOAK_SECONDS") != NULL;
	now.seconds = now.soak ? mp_number("SOAK_SECONDS", 1200, 1200) : mp_number("TORTURE_SECONDS", 60, 600);
	store = now.soak || random_of(2) ? "sqlite" : "memory";
	printf("note: store %s\n", store);
	mp_place_make(p, store);
	*state = p;
	t_faults_open(p, mp_random(&now.random));
	snprintf(t_shared->dir, sizeof t_shared->dir, "%s", p->d.dir);
	return 0;
}

static int teardown(void **state)
{
	t_let_go();
	munmap(t_shared, sizeof *t_shared);
	return mp_teardown(state);
}

static void nothing_is_wrong_under_all_faults_and_nothing_is_left(void **state)
{
	struct mp_place *p = *state;
	uint64_t from, length = 1000ull * now.seconds;

	print_expected();
	t_operators_open(&p->d, mp_random(&now.random));
	t_document();
	change_weather();
	t_start_processes();
	t_sample_open(p, now.seconds, now.soak ? getenv("SOAK_FILE") : NULL);
	for (from = mp_now_ms(); mp_now_ms() - from < length; mp_pause()) {
		bool spare_daemon = now.soak && (mp_now_ms() - from) * 8 >= 3 * length;

		t_operators_step(false);
		change_weather();
		t_faults_step(spare_daemon);
		t_sample_step();
		t_check();
	}
	finish(p);
	print_counted();
	t_sample_bounded(FILES_MOST_KB);
	if (now.soak)
		t_sample_judge();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_is_wrong_under_all_faults_and_nothing_is_left, setup, teardown),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
