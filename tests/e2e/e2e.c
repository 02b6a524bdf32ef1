/* SPDX-License-Identifier: MIT
 * The end-to-end proof (`make check-e2e`): tenants move between clusters while clients write and read through a real
 * proxy, and afterwards every write is looked for in the clusters' own logs. Started by tests/run from the top of the
 * tree, with the settings of suite.h (migrations: of all tests together); needs nginx with Lua. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cursors.h"
#include "suite.h"
#include "verdict.h"

#define PARTITIONS 50u
#define CLUSTERS 3u
#define WORKERS 4u
#define LEASES 4096u /* of each worker: more than it ever needs */
#define MS 1000000ull

struct run {
	struct place place;
	struct history history;
	struct load *load;
	struct move *move;
	size_t n_moves;
	struct check_report report;
};

static void run_open_with(struct run *r, unsigned barrier_ms, unsigned tries, unsigned leases, const char *cursors,
			  const struct load_mix *mix)
{
	bool slow = mix->slow_percent > 0;
	struct load_options options = {.n_partitions = PARTITIONS,
				       .n_connections = slow ? 192 : 48,
				       .write_percent = 70,
				       .pause_us = slow ? 20000 : 4000,
				       .seed = suite_seed};
	const char *missing = place_missing();

	if (missing) {
		printf("SKIP: %s is not installed\n", missing);
		skip();
	}

	*r = (struct run){.place = {.n_clusters = CLUSTERS,
				    .n_workers = WORKERS,
				    .barrier_ms = barrier_ms,
				    .tries = tries,
				    .leases = leases,
				    .cursors = cursors},
			  .history = {.max_tries = tries > 1 ? PLACE_TRIES_MOST : 1}};
	place_open(&r->place);
	moves_place(&r->place, PARTITIONS, &r->history);
	options.port = r->place.proxy_port;
	r->load = load_start(&options, mix);
	if (!r->load)
		place_fail("cannot start the load");
	usleep(300000); /* all connections are there */
}

static void run_open(struct run *r, unsigned barrier_ms, unsigned tries, unsigned leases, const struct load_mix *mix)
{
	run_open_with(r, barrier_ms, tries, leases, NULL, mix);
}

static struct moves *run_moves(struct run *r, unsigned percent, unsigned threads, unsigned wait_ms)
{
	const struct moves_options options = {.place = &r->place,
					      .load = r->load,
					      .n_partitions = PARTITIONS,
					      .n_moves = suite_migrations * percent / 100 + 1,
					      .n_threads = threads,
					      .undone_percent = 15,
					      .draining_ms = 40,
					      .pause_ms = 20,
					      .wait_ms = wait_ms,
					      .seed = suite_seed + percent};

	return moves_start(&options, &r->history);
}

/* Ends the load, then the processes, then judges. */
static void run_close(struct run *r)
{
	load_stop(&r->load, 5000, &r->history);
	usleep(r->place.barrier_ms * 1000); /* what comes late has come */
	place_close(&r->place);
	verdict_read_logs(&r->place, &r->history);
	bool good = verdict(&r->history, &r->move, r->n_moves, "note: ", &r->report);
	assert_true(good);
	assert_true(r->report.n_acknowledged > 100);
	assert_true(r->report.n_reads > 100);
}

static bool was_told(const struct run *r, enum move_reason reason)
{
	for (size_t i = 0; i < r->n_moves; i++)
		if (r->move[i].reasons >> reason & 1)
			return true;
	return false;
}

/* ---- the tests ---- */

static void no_write_is_lost_or_misplaced_by_migrations_nor_by_a_killed_writer(void **state)
{
	struct run r;
	struct moves *moves;
	unsigned half = suite_migrations * 40 / 100 / 2;

	(void)state;
	run_open(&r, 1000, 1, LEASES, &(struct load_mix){.ok = 1});
	moves = run_moves(&r, 40, 3, 2000);
	while (moves_done(moves) < half)
		usleep(1000);
	place_kill_berthd(&r.place);
	usleep(100000); /* proxies go on without a writer */
	place_restart_berthd(&r.place);
	r.n_moves = moves_wait(&moves, &r.move);
	run_close(&r);
	assert_int_equal(r.report.n_unknown, 0);
	assert_true(r.report.n_refused > 0);
}

static void a_migration_waits_for_slow_writes_and_for_no_longer(void **state)
{
	struct run r;
	struct moves *moves;
	double held;

	(void)state;
	run_open(&r, 2000, 1, LEASES, &(struct load_mix){.ok = 1, .slow_percent = 60, .slow_ms = 195});
	moves = run_moves(&r, 20, 4, 2000);
	r.n_moves = moves_wait(&moves, &r.move);
	held = moves_held_ms(r.move, r.n_moves, 50);
	run_close(&r);
	assert_int_equal(r.report.n_unknown, 0);
	assert_true(held < 1000); /* the barrier is twice that */
}

static void a_writer_that_is_killed_in_cutovers_forgets_no_write_that_it_waits_for(void **state)
{
	struct run r;
	struct moves *moves;
	unsigned most = suite_migrations / 10 + 1, killed = 0;

	(void)state;
	run_open(&r, 4000, 1, LEASES, &(struct load_mix){.ok = 1, .slow_percent = 60, .slow_ms = 900});
	moves = run_moves(&r, 10, 5, 2000);
	while (moves_done(moves) < most) {
		usleep(700000);
		if (moves_done(moves) == most)
			break;
		place_kill_berthd(&r.place);
		place_restart_berthd(&r.place);
		killed++;
	}
	r.n_moves = moves_wait(&moves, &r.move);
	run_close(&r);
	printf("note: berthd killed and started again %u times\n", killed);
	assert_int_equal(r.report.n_unknown, 0);
	assert_true(killed > 0);
}

/* expected: what some `complete` has to wait for. */
static void drop_writes(unsigned tries, unsigned leases, enum move_reason expected)
{
	struct load_mix mix = load_mix_breaking;
	struct run r;
	struct moves *moves;

	mix.mend_percent = 50;
	run_open(&r, 1000, tries, leases, &mix);
	moves = run_moves(&r, 15, 8, 50);
	r.n_moves = moves_wait(&moves, &r.move);
	bool told = was_told(&r, expected);
	run_close(&r);
	assert_true(r.report.n_unknown_happened > 0);
	assert_true(r.report.n_late > 0);
	assert_true(told);
}

static void writes_of_unknown_outcome_happen_at_their_cluster_before_complete_or_never(void **state)
{
	(void)state;
	drop_writes(1, LEASES, MOVE_UNKNOWN_OUTCOME);
}

static void so_do_writes_that_the_proxy_sends_again(void **state)
{
	(void)state;
	drop_writes(2, LEASES, MOVE_UNKNOWN_OUTCOME);
}

static void so_do_writes_when_leases_are_short_and_an_unknown_outcome_counts_for_every_partition(void **state)
{
	(void)state;
	drop_writes(1, 24, MOVE_UNKNOWN_OVERFLOW);
}

static void a_reload_of_the_proxy_costs_no_write_and_no_barrier(void **state)
{
	struct run r;
	struct moves *moves;
	double held;

	(void)state;
	run_open(&r, 3000, 1, LEASES, &(struct load_mix){.ok = 1, .slow_percent = 50, .slow_ms = 195});
	moves = run_moves(&r, 10, 2, 2000);
	for (unsigned i = 0; i < 3; i++) {
		struct hist_kill *k =
			history_kill(&r.history); /* idle connections are closed: a request may meet that */
		k->from_ns = load_now_ns();
		k->to_ns = k->from_ns + 10000 * MS;
		kill(r.place.proxy, SIGHUP);
		usleep(600000);
	}
	r.n_moves = moves_wait(&moves, &r.move);
	held = moves_held_ms(r.move, r.n_moves, 50);
	run_close(&r);
	assert_true(held < 1500); /* half the barrier */
}

/* Kills a worker of the proxy that has a write of the partition under way, in its cutover; without_writer: while no berthd runs.
 * True: done; the move is ended either way. */
static bool kill_in_cutover(struct run *r, uint32_t partition, bool without_writer)
{
	struct mover *m = calloc(1, sizeof(*m));
	uint64_t killed_ns = 0;
	bool done = false;

	assert_non_null(m);
	mover_open(m, &r->place, &r->history, partition);
	mover_begin(m, (uint16_t)(1 + m->at % CLUSTERS));
	mover_cutover(m);
	if (mover_complete(m, 0))
		goto end;
	if (!(m->move.reasons >> MOVE_LEASES_OPEN & 1) || !m->move.n_pids ||
	    !place_is_worker(&r->place, (pid_t)m->move.pids[0])) {
		mover_abort(m);
		goto end;
	}
	uint32_t pid = m->move.pids[0];
	struct hist_kill *k = history_kill(&r->history);
	if (without_writer)
		place_kill_berthd(&r->place);
	killed_ns = k->from_ns = load_now_ns();
	k->to_ns = k->from_ns + 1000 * MS;
	kill((pid_t)pid, SIGKILL);
	if (without_writer)
		place_restart_berthd(&r->place);
	while (!mover_complete(m, 0))
		usleep(2000);
	/* Had the write ended before the kill, nothing had to be waited for. */
	done = m->move.reasons >> MOVE_READER_DIED & 1;
	if (done) {
		assert_int_equal(m->move.died_pid, pid);
		assert_true(load_now_ns() - killed_ns >= r->place.barrier_ms * MS);
		printf("note: worker %" PRIu32 " killed in the cutover of partition %" PRIu32
		       "%s: reader-died; writes were held back for %.0f ms, the barrier is %u ms\n",
		       pid, partition, without_writer ? ", while no writer ran" : "", (double)m->move.held_ns / 1e6,
		       r->place.barrier_ms);
	}
end:
	mover_close(m);
	free(m);
	return done;
}

static void a_killed_worker_costs_the_migrations_that_it_had_writes_in_a_barrier_and_no_write(void **state)
{
	struct run r;
	struct moves *moves;
	unsigned killed = 0;

	(void)state;
	run_open(&r, 1500, 1, LEASES, &(struct load_mix){.ok = 1, .slow_percent = 100, .slow_ms = 195});
	/* Partitions from PARTITIONS - 8 on are for the kills, the threads move the others. */
	r.place.killed = true;
	const struct moves_options options = {.place = &r.place,
					      .load = r.load,
					      .n_partitions = PARTITIONS - 8,
					      .n_moves = suite_migrations / 10,
					      .n_threads = 3,
					      .undone_percent = 15,
					      .draining_ms = 40,
					      .pause_ms = 100,
					      .wait_ms = 2000,
					      .seed = suite_seed};
	moves = moves_start(&options, &r.history);
	for (unsigned i = 0; i < 40 && killed < 3; i++)
		killed += kill_in_cutover(&r, PARTITIONS - 8 + i % 8, killed == 1);
	r.n_moves = moves_wait(&moves, &r.move);
	run_close(&r);
	assert_int_equal(killed, 3);
}

/* Cursors of tenants that move; in mode `pin` the writer is killed meanwhile, too. */
static void cursors_while_tenants_move(const char *mode)
{
	const struct load_mix mix = {.ok = 1};
	bool pin = strcmp(mode, "pin") == 0;
	struct run r;
	struct cursors *cursors;
	struct cursors_counts n;
	struct moves *moves;

	run_open_with(&r, 1000, 1, LEASES, mode, &mix);
	cursors = cursors_start(&(struct cursors_options){
		.port = r.place.proxy_port, .n_partitions = 12, .n_threads = 12, .seed = suite_seed});
	assert_non_null(cursors);
	/* few tenants, so that they move while their cursors live */
	const struct moves_options options = {.place = &r.place,
					      .load = r.load,
					      .n_partitions = 12,
					      .n_moves = suite_migrations / 4 + 1,
					      .n_threads = 4,
					      .undone_percent = 15,
					      .draining_ms = 80,
					      .pause_ms = 80,
					      .wait_ms = 2000,
					      .seed = suite_seed};
	moves = moves_start(&options, &r.history);
	while (moves_done(moves) < suite_migrations / 8)
		usleep(1000);
	if (pin) {
		cursors_excuse(cursors, true);
		place_kill_berthd(&r.place);
		usleep(100000);
		place_restart_berthd(&r.place);
		usleep(1200000); /* a worker that waited in vain asks again after a second */
		cursors_excuse(cursors, false);
	}
	r.n_moves = moves_wait(&moves, &r.move);
	n = cursors_stop(&cursors, "note: ");
	run_close(&r);
	assert_int_equal(n.faults, 0);
	assert_true(n.opened > 20 && n.foreign > 10 && n.cleared > 10);
	assert_true(n.elsewhere > n.continued / 10);
	assert_true(n.moved > 0);
}

static void a_pinned_cursor_goes_on_where_it_was_opened_and_for_nobody_else(void **state)
{
	(void)state;
	cursors_while_tenants_move("pin");
}

static void so_does_a_sealed_one(void **state)
{
	(void)state;
	cursors_while_tenants_move("seal");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_write_is_lost_or_misplaced_by_migrations_nor_by_a_killed_writer),
		cmocka_unit_test(a_migration_waits_for_slow_writes_and_for_no_longer),
		cmocka_unit_test(a_writer_that_is_killed_in_cutovers_forgets_no_write_that_it_waits_for),
		cmocka_unit_test(writes_of_unknown_outcome_happen_at_their_cluster_before_complete_or_never),
		cmocka_unit_test(so_do_writes_that_the_proxy_sends_again),
		cmocka_unit_test(so_do_writes_when_leases_are_short_and_an_unknown_outcome_counts_for_every_partition),
		cmocka_unit_test(a_reload_of_the_proxy_costs_no_write_and_no_barrier),
		cmocka_unit_test(a_killed_worker_costs_the_migrations_that_it_had_writes_in_a_barrier_and_no_write),
		cmocka_unit_test(a_pinned_cursor_goes_on_where_it_was_opened_and_for_nobody_else),
		cmocka_unit_test(so_does_a_sealed_one),
	};

	return suite_run(tests, sizeof(tests) / sizeof(tests[0]));
}
