/* SPDX-License-Identifier: MIT
 * INV-M1 to INV-M4 (writer/README.md), with the table in shared memory, the real daemon and readers in other processes:
 * begin, cutover, complete and abort in quick turns, kills of the daemon in between. What is globally known, the test
 * says in memory that all share: "since this answer, and until the next call, the partition is here, in this phase, at
 * this epoch". A reader that finds the same word of the test before and after its call can judge the call exactly.
 *
 *   test:    number odd | call ... answer | fields, number even          reader: number, call, number */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mp_place.h"

#define N_GATES 6u
#define N_WATCHERS 3u
#define OLD_EPOCHS 8u
#define BARRIER_MS "40"

struct gate {                           /* one partition; written by the test */
	_Atomic uint64_t number;        /* odd: a call is under way, and the fields say what was before it */
	_Atomic uint32_t phase, at, to; /* enum stream_phase; cluster numbers 1 .. STREAM_CLUSTERS */
	_Atomic uint32_t completing;    /* the call under way may make `to` the placement */
	_Atomic uint64_t epoch;
};

struct watch_report {
	_Atomic uint64_t exact, admitted, held_back, stale, during, wrong;
	_Atomic uint32_t running;
	char first[240];
};

static struct shared {
	_Atomic uint32_t stop;
	struct gate gates[N_GATES];
	struct watch_report report[N_WATCHERS];
} * shared;

/* Gate 0 is the default placement, seen through a partition that has no entry; the others are partitions 8, 9, ... */
static size_t gate_key(char key[READERS_KEY_SIZE], unsigned g)
{
	return g == 0 ? (size_t)snprintf(key, READERS_KEY_SIZE, "nobody-knows-me") : readers_key(key, 7 + g);
}

/* ---- a watching process ------------------------------------------------------------------------------------ */

struct view {
	uint64_t number, epoch;
	uint32_t phase, at, to, completing;
};

struct watcher {
	struct watch_report *report;
	struct berth *b;
	struct berth_reader *r;
	uint64_t last[N_GATES], old[N_GATES][OLD_EPOCHS], random;
	unsigned n_old[N_GATES];
};

__attribute__((format(printf, 2, 3))) static void wrong(struct watcher *w, const char *format, ...)
{
	va_list args;

	if (atomic_fetch_add(&w->report->wrong, 1) != 0)
		return;
	va_start(args, format);
	vsnprintf(w->report->first, sizeof w->report->first, format, args);
	va_end(args);
}

static struct view look(const struct gate *g)
{
	struct view v;

	do {
		v.number = atomic_load_explicit(&g->number, memory_order_acquire);
		v.phase = atomic_load_explicit(&g->phase, memory_order_relaxed);
		v.at = atomic_load_explicit(&g->at, memory_order_relaxed);
		v.to = atomic_load_explicit(&g->to, memory_order_relaxed);
		v.completing = atomic_load_explicit(&g->completing, memory_order_relaxed);
		v.epoch = atomic_load_explicit(&g->epoch, memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
	} while (atomic_load_explicit(&g->number, memory_order_relaxed) != v.number);
	return v;
}

static bool still(const struct gate *g, const struct view *v)
{
	atomic_thread_fence(memory_order_acquire); /* the call came before */
	return atomic_load_explicit(&g->number, memory_order_relaxed) == v->number;
}

/* A read that began after `v` was seen. sure: it also ended before anything of it changed. */
static void judge_read(struct watcher *w, unsigned g, const struct view *v, bool sure, const struct berth_route *at)
{
	bool under_way = v->number % 2, elsewhere = at->cluster != v->at;

	if (at->epoch < v->epoch || at->epoch < w->last[g])
		wrong(w, "INV-M3: gate %u is read at epoch %llu, after %llu and %llu", g, (unsigned long long)at->epoch,
		      (unsigned long long)v->epoch, (unsigned long long)w->last[g]);
	if (at->epoch != w->last[g]) {
		w->old[g][w->n_old[g]++ % OLD_EPOCHS] = w->last[g];
		w->last[g] = at->epoch;
	}
	if (at->is_default != (g == 0))
		wrong(w, "gate %u is answered by %s", g, at->is_default ? "the default" : "an entry");
	if (!sure)
		return;
	if (under_way && elsewhere && !(v->completing && at->cluster == v->to))
		wrong(w, "INV-M4: gate %u is read on %u; it is on %u and moves to %u", g, at->cluster, v->at, v->to);
	if (!under_way && (elsewhere || at->epoch != v->epoch || at->phase + (unsigned)AT != v->phase))
		wrong(w, "INV-M2, M4: gate %u is read on %u, phase %u, epoch %llu; it is on %u, phase %u, epoch %llu",
		      g, at->cluster, at->phase, (unsigned long long)at->epoch, v->at, v->phase - AT,
		      (unsigned long long)v->epoch);
}

static void judge_gate(struct watcher *w, unsigned g, const struct view *v, bool sure, uint64_t epoch, int rc)
{
	if (rc != BERTH_OK && rc != BERTH_E_STALE && rc != BERTH_E_CUTOVER)
		wrong(w, "gate %u answers %s", g, berth_strerror(rc));
	if (rc == BERTH_OK && epoch < v->epoch)
		wrong(w, "INV-M2, M3: gate %u admits epoch %llu, after %llu was acknowledged", g,
		      (unsigned long long)epoch, (unsigned long long)v->epoch);
	if (!sure || v->number % 2) {
		atomic_fetch_add(&w->report->during, 1);
		return;
	}
	atomic_fetch_add(&w->report->exact, 1);
	if (v->phase == CUTOVER) {
		if (rc != BERTH_E_CUTOVER)
			wrong(w, "INV-M1: gate %u in cutover answers %d to epoch %llu", g, rc,
			      (unsigned long long)epoch);
		atomic_fetch_add(&w->report->held_back, 1);
	} else if (epoch == v->epoch) {
		if (rc != BERTH_OK)
			wrong(w, "gate %u answers %d to its own epoch %llu", g, rc, (unsigned long long)epoch);
		atomic_fetch_add(&w->report->admitted, 1);
	} else {
		if (rc != BERTH_E_STALE)
			wrong(w, "INV-M3: gate %u at epoch %llu answers %d to epoch %llu", g,
			      (unsigned long long)v->epoch, rc, (unsigned long long)epoch);
		atomic_fetch_add(&w->report->stale, 1);
	}
}

static void ask(struct watcher *w, unsigned g, const char *key, size_t len, uint64_t epoch)
{
	struct gate *gate = &shared->gates[g];
	struct view v = look(gate);
	int rc = berth_admit(w->r, key, len, epoch);

	judge_gate(w, g, &v, still(gate, &v), epoch, rc);
}

/* The same through berth_lookup, with index and target. */
static void look_up(struct watcher *w, unsigned g, const char *key, size_t len)
{
	struct gate *gate = &shared->gates[g];
	struct berth_placement p;
	struct berth_route at = {0};
	struct view v = look(gate);
	char want[32];
	int rc;

	berth_read_begin(w->r);
	rc = berth_lookup(w->r, key, len, &p);
	if (rc != BERTH_OK) {
		wrong(w, "lookup of gate %u: %s", g, berth_strerror(rc));
	} else {
		snprintf(want, sizeof want, "on-%u", p.cluster);
		if (strcmp(p.index, want) != 0)
			wrong(w, "INV-M4: gate %u on %u has index %.40s", g, p.cluster, p.index);
		snprintf(want, sizeof want, "on-%u", p.to_cluster);
		if (p.phase == BERTH_SETTLED ? p.to_kind != 0 : strcmp(p.to_index, want) != 0)
			wrong(w, "INV-M4: gate %u moves to %u, index %.40s", g, p.to_cluster, p.to_index);
		at.epoch = p.epoch;
		at.cluster = p.cluster;
		at.phase = p.phase;
		at.is_default = p.is_default;
		judge_read(w, g, &v, still(gate, &v), &at);
	}
	berth_read_end(w->r);
}

static void watch_one(struct watcher *w, unsigned g)
{
	struct gate *gate = &shared->gates[g];
	char key[READERS_KEY_SIZE];
	size_t len = gate_key(key, g);
	struct berth_route at;
	struct view v = look(gate);
	int rc = berth_route(w->r, key, len, &at);

	if (rc != BERTH_OK) {
		wrong(w, "route of gate %u: %s", g, berth_strerror(rc));
		return;
	}
	judge_read(w, g, &v, still(gate, &v), &at);
	ask(w, g, key, len, at.epoch);
	ask(w, g, key, len, w->old[g][mp_random(&w->random) % OLD_EPOCHS]);
	ask(w, g, key, len, at.epoch - 1);
	look_up(w, g, key, len);
	ask(w, g, key, len, at.epoch);
}

static int watch(const char *dir, unsigned number)
{
	struct watcher w = {.report = &shared->report[number], .random = number + 1};

	if (berth_attach(dir, NULL, &w.b) != BERTH_OK || berth_reader_open(w.b, &w.r) != BERTH_OK)
		return 1;
	for (uint64_t round = 0; atomic_load(&shared->stop) == 0; round++) {
		for (unsigned g = 0; g < N_GATES; g++)
			watch_one(&w, g);
		if (round % 64 == 0)
			berth_maintain(w.b);
		atomic_store(&w.report->running, 1);
	}
	berth_reader_close(&w.r);
	return berth_detach(&w.b) != BERTH_OK;
}

/* ---- the test ---------------------------------------------------------------------------------------------- */

static pid_t watchers[N_WATCHERS];

static void start_watchers(struct mp_place *p)
{
	for (unsigned i = 0; i < N_WATCHERS; i++) {
		watchers[i] = mp_fork();
		if (watchers[i] == 0)
			_exit(watch(p->d.dir, i));
	}
	for (unsigned i = 0; i < N_WATCHERS; i++)
		MP_UNTIL(atomic_load(&shared->report[i].running) != 0, 20000);
}

static void end_watchers(const char *what)
{
	uint64_t sum[5] = {0};

	atomic_store(&shared->stop, 1);
	for (unsigned i = 0; i < N_WATCHERS; i++) {
		struct watch_report *r = &shared->report[i];
		pid_t pid = watchers[i];

		watchers[i] = 0;
		assert_int_equal(mp_reap(pid, 20000), 0);
		if (atomic_load(&r->wrong))
			fail_msg("watcher %u: %llu times wrong; the first: %s", i,
				 (unsigned long long)atomic_load(&r->wrong), r->first);
		sum[0] += atomic_load(&r->exact);
		sum[1] += atomic_load(&r->admitted);
		sum[2] += atomic_load(&r->held_back);
		sum[3] += atomic_load(&r->stale);
		sum[4] += atomic_load(&r->during);
	}
	printf("note: %s: %llu answers of the gate judged exactly (%llu admitted, %llu held back, %llu stale), %llu "
	       "during a "
	       "transition, 0 wrong\n",
	       what, (unsigned long long)sum[0], (unsigned long long)sum[1], (unsigned long long)sum[2],
	       (unsigned long long)sum[3], (unsigned long long)sum[4]);
}

static int gate_setup(void **state)
{
	struct mp_place *p = calloc(1, sizeof *p);

	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -1;
	mp_place_make(p, *state);
	*state = p;
	daemon_start(&p->d, "--barrier-ms", BARRIER_MS, NULL);
	return 0;
}

static int gate_teardown(void **state)
{
	for (unsigned i = 0; i < N_WATCHERS; i++) {
		if (watchers[i] > 0) {
			kill(watchers[i], SIGKILL);
			waitpid(watchers[i], NULL, 0);
		}
		watchers[i] = 0;
	}
	munmap(shared, sizeof *shared);
	return mp_teardown(state);
}

static void call_begins(struct gate *g, bool completing)
{
	atomic_store_explicit(&g->completing, completing, memory_order_relaxed);
	atomic_store(&g->number, atomic_load(&g->number) + 1);
	atomic_thread_fence(memory_order_seq_cst);
}

static void call_ended(struct gate *g, enum stream_phase phase, unsigned at, unsigned to, uint64_t epoch)
{
	atomic_store_explicit(&g->phase, (uint32_t)phase, memory_order_relaxed);
	atomic_store_explicit(&g->at, at, memory_order_relaxed);
	atomic_store_explicit(&g->to, to, memory_order_relaxed);
	atomic_store_explicit(&g->epoch, epoch, memory_order_relaxed);
	atomic_store(&g->number, atomic_load(&g->number) + 1);
}

static json_t *on(unsigned k)
{
	char id[16], index[16];

	snprintf(id, sizeof id, "c%u", k);
	snprintf(index, sizeof index, "on-%u", k);
	return json_pack("{s:s, s:s, s:s}", "mode", "dedicated-index", "cluster", id, "index", index);
}

static uint64_t call(struct mp_place *p, const char *method, unsigned g, const char *role, unsigned k, bool force)
{
	json_t *params = json_object(), *result;
	char key[READERS_KEY_SIZE];
	uint64_t epoch;

	gate_key(key, g);
	if (g > 0)
		json_object_set_new(params, "partition", json_string(key));
	if (k > 0)
		json_object_set_new(params, role, on(k));
	if (force)
		json_object_set_new(params, "force", json_true());
	result = wire_ok(&p->stream.wire, method, "o", params);
	epoch = (uint64_t)int_of(result, "epoch");
	json_decref(result);
	return epoch;
}

static unsigned n_waited, n_forced, n_aborted, n_kills;

/* Asks until the barrier has passed. */
static uint64_t complete_by_waiting(struct mp_place *p, unsigned g)
{
	uint64_t until = mp_now_ms() + 20000;
	char key[READERS_KEY_SIZE];

	gate_key(key, g);
	for (;;) {
		json_t *answer = wire_call(&p->stream.wire, "complete", "{s:s}", "partition", key);
		const json_t *result = json_object_get(answer, "result");
		uint64_t epoch = (uint64_t)json_integer_value(json_object_get(result, "epoch"));

		if (result) {
			assert_true(json_integer_value(json_object_get(result, "blackout_ms")) >= atoi(BARRIER_MS));
			json_decref(answer);
			n_waited++;
			return epoch;
		}
		answer_expect_refused(answer, "barrier-pending");
		assert_true(mp_now_ms() < until);
		mp_pause();
	}
}

static void turn(struct mp_place *p, unsigned g, uint64_t dice)
{
	struct gate *gate = &shared->gates[g];
	unsigned at = atomic_load(&gate->at), to = atomic_load(&gate->to),
		 other = 1 + (at + (unsigned)(dice >> 32) % 3) % 4;
	enum stream_phase phase = (enum stream_phase)atomic_load(&gate->phase);
	uint64_t epoch;

	dice %= 100;
	if (g == 0 || (phase == AT && dice < 15)) {
		gate->to = other; /* moves at once: reads see the one or the other */
		call_begins(gate, true);
		epoch = g == 0 ? call(p, "default.set", g, "placement", other, true)
			       : call(p, "set", g, "placement", other, true);
		call_ended(gate, AT, other, other, epoch);
	} else if (phase == AT) {
		call_begins(gate, false);
		call_ended(gate, DRAINING, at, other, call(p, "begin", g, "to", other, false));
	} else if (dice < 25) {
		call_begins(gate, false);
		call_ended(gate, AT, at, at, call(p, "abort", g, NULL, 0, false));
		n_aborted++;
	} else if (phase == DRAINING) {
		call_begins(gate, false);
		call_ended(gate, CUTOVER, at, to, call(p, "cutover", g, NULL, 0, false));
	} else {
		call_begins(gate, true);
		epoch = dice < 30 ? complete_by_waiting(p, g) : call(p, "complete", g, NULL, 0, true);
		n_forced += dice >= 30;
		call_ended(gate, AT, to, to, epoch);
	}
}

static void make_gates(struct mp_place *p)
{
	stream_open(&p->stream, &p->d, 1000, 1000, 1);
	for (unsigned g = 0; g < N_GATES; g++) {
		uint64_t epoch = call(p, g == 0 ? "default.set" : "set", g, "placement", 1 + g % 4, true);

		call_ended(&shared->gates[g], AT, 1 + g % 4, 1 + g % 4, epoch);
		atomic_store(&shared->gates[g].number, 2);
	}
}

static void restart(struct mp_place *p)
{
	daemon_kill(&p->d);
	wire_close(&p->stream.wire);
	daemon_start(&p->d, "--barrier-ms", BARRIER_MS, NULL);
	wire_open(&p->stream.wire, &p->d, WIRE_ADMIN);
	n_kills++;
}

static void no_write_is_admitted_in_cutover_nor_at_an_earlier_epoch_and_reads_see_one_placement(void **state)
{
	struct mp_place *p = *state;
	uint64_t random = mp_seed(), until = mp_now_ms() + mp_number("BERTH_GATE_MS", 6000, 60000);
	unsigned turns = 0;

	n_waited = n_forced = n_aborted = n_kills = 0;
	make_gates(p);
	start_watchers(p);
	while (mp_now_ms() < until || n_waited == 0 || n_forced == 0 || n_aborted == 0 || n_kills == 0) {
		turn(p, (unsigned)(mp_random(&random) % N_GATES), mp_random(&random));
		assert_true(mp_now_ms() < until + 60000);
		if (++turns % 500 == 0)
			restart(p); /* with migrations in every phase */
	}
	printf("note: %u transitions, %u completed by waiting for the barrier, %u by force, %u aborted, %u kills\n",
	       turns, n_waited, n_forced, n_aborted, n_kills);
	end_watchers("gate");
}

static void a_cutover_that_stands_at_a_kill_is_one_for_every_reader_until_it_is_completed(void **state)
{
	struct mp_place *p = *state;
	unsigned kills = mp_number("BERTH_GATE_KILLS", 10, 50);
	uint64_t held;

	make_gates(p);
	for (unsigned g = 1; g < N_GATES; g++) {
		call_begins(&shared->gates[g], false);
		call(p, "begin", g, "to", 1 + (g + 1) % 4, false);
		call_ended(&shared->gates[g], CUTOVER, 1 + g % 4, 1 + (g + 1) % 4,
			   call(p, "cutover", g, NULL, 0, false));
	}
	start_watchers(p);
	for (unsigned i = 0; i < kills; i++) {
		uint64_t before = atomic_load(&shared->report[0].held_back);

		restart(p);
		MP_UNTIL(atomic_load(&shared->report[0].held_back) > before + 100, 20000);
	}
	held = atomic_load(&shared->report[0].held_back);
	assert_true(held > kills * 100);
	for (unsigned g = 1; g < N_GATES; g++) {
		call_begins(&shared->gates[g], true);
		call_ended(&shared->gates[g], AT, 1 + (g + 1) % 4, 1 + (g + 1) % 4, complete_by_waiting(p, g));
	}
	MP_UNTIL(atomic_load(&shared->report[0].admitted) > 100, 20000);
	end_watchers("standing cutover");
}

#define GATE_TEST(test, store) \
	{ \
#test " (" store ")", test, gate_setup, gate_teardown, (void *)(uintptr_t)(store) \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		GATE_TEST(no_write_is_admitted_in_cutover_nor_at_an_earlier_epoch_and_reads_see_one_placement,
			  "memory"),
		GATE_TEST(no_write_is_admitted_in_cutover_nor_at_an_earlier_epoch_and_reads_see_one_placement,
			  "sqlite"),
		GATE_TEST(a_cutover_that_stands_at_a_kill_is_one_for_every_reader_until_it_is_completed, "memory"),
		GATE_TEST(a_cutover_that_stands_at_a_kill_is_one_for_every_reader_until_it_is_completed, "sqlite"),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
