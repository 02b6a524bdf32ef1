/* SPDX-License-Identifier: MIT
 * The exact drain, with the real daemon and writers in other processes: what holds a `complete` back, by which reason,
 * and for how long, while tables grow, processes come, go, stop and die, and the daemon is killed. The barrier is long
 * where a drain must be exact, and short where it must be waited for. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "drain_workers.h"

#define LONG_MS 30000u
#define SHORT_MS 700u
#define EXACT_MS 5000u /* an exact drain takes far less, one that waits for LONG_MS more */
#define N 16u

static struct drain_workers *place(void **state, unsigned barrier_ms, unsigned n)
{
	return *state = drain_workers_make("sqlite", barrier_ms, n);
}

static void start_bracketed(struct drain_workers *p, unsigned worker)
{
	worker_start(worker, p);
	TELL(worker, order_attach, BERTH_WRITES_BRACKETED, 0);
}

static void is_exact(uint64_t blackout_ms)
{
	assert_true(blackout_ms < EXACT_MS);
}

static void names(json_t *data, unsigned worker)
{
	const json_t *list = json_object_get(data, "pids");

	for (size_t i = 0; i < json_array_size(list); i++) {
		if (json_integer_value(json_array_get(list, i)) == worker_pid(worker)) {
			json_decref(data);
			return;
		}
	}
	fail_msg("process %ld is not named: %s", (long)worker_pid(worker), json_dumps(data, 0));
}

/* ---- open leases ------------------------------------------------------------------------------------------- */

static void an_open_lease_holds_back_its_partition_alone_and_its_end_completes(void **state)
{
	struct drain_workers *p = place(state, LONG_MS, N);
	json_t *data;

	start_bracketed(p, 0);
	TELL(0, order_begin, 5, 0);
	TELL(0, order_begin, 5, 1);
	drain_cut(p, 5);
	drain_cut(p, 6);
	is_exact(drain_complete(p, 6));
	assert_int_equal(worker_tell(0, order_begin, 5, 2), BERTH_E_CUTOVER);
	data = drain_held(p, 5, "leases-open");
	assert_int_equal(int_of(data, "in_flight"), 2);
	assert_int_equal(int_of(data, "remaining_ms"), 0);
	names(data, 0);
	drain_wait_begin(p, 5, 20000);
	TELL(0, order_end, 0, BERTH_DONE);
	assert_true(wire_silent(&p->waiting, 100));
	TELL(0, order_end, 1, BERTH_DONE);
	is_exact(drain_wait_end(p, 2000));
	TELL(0, order_begin, 5, 2);
	TELL(0, order_end, 2, BERTH_DONE);
	TELL(0, order_detach, 0, 0);
}

static void a_write_may_end_on_another_thread_and_after_its_reader_was_closed(void **state)
{
	struct drain_workers *p = place(state, LONG_MS, N);

	start_bracketed(p, 0);
	TELL(0, order_begin, 5, 0);
	TELL(0, order_begin, 6, 1);
	drain_cut(p, 5);
	drain_cut(p, 6);
	drain_wait_begin(p, 5, 20000);
	TELL(0, order_end_elsewhere, 0, BERTH_DONE);
	is_exact(drain_wait_end(p, 2000));
	TELL(0, order_reopen, 0, 0);
	drain_is_held(p, 6, "leases-open");
	assert_int_equal(worker_tell(0, order_detach, 0, 0), BERTH_E_BUSY);
	TELL(0, order_reopen, 0, 0);
	drain_wait_begin(p, 6, 20000);
	TELL(0, order_end, 1, BERTH_DONE);
	is_exact(drain_wait_end(p, 2000));
	assert_int_equal(worker_tell(0, order_end, 1, BERTH_DONE), BERTH_E_INVAL);
	TELL(0, order_detach, 0, 0);
}

static void writes_of_one_bulk_hold_back_until_the_last_has_ended(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	uint64_t end = 0;

	start_bracketed(p, 0);
	for (unsigned unknown = 0; unknown < 2; unknown++) {
		TELL(0, order_bulk, 5 + unknown, 4);
		drain_cut(p, 5 + unknown);
		for (unsigned i = 0; i < 4; i++) {
			drain_is_held(p, 5 + unknown, "leases-open");
			end = mp_now_ms();
			TELL(0, i % 2 ? order_end_elsewhere : order_end, i, unknown && i == 1);
		}
	}
	drain_complete(p, 5);
	drain_is_held(p, 6, "unknown-outcome"); /* one of them was */
	drain_takes_a_barrier(p, 6, end);
}

static void many_leases_of_one_reader_each_hold_back_their_own_partition(void **state)
{
	struct drain_workers *p = place(state, LONG_MS, 200);
	json_t *data;

	start_bracketed(p, 0);
	for (unsigned i = 0; i < 2000; i++)
		TELL(0, order_begin, i % 200, i);
	for (unsigned i = 0; i < 200; i++)
		drain_cut(p, i);
	for (unsigned i = 0; i < 200; i++) {
		data = drain_held(p, i, "leases-open");
		assert_int_equal(int_of(data, "in_flight"), 10);
		json_decref(data);
	}
	for (unsigned i = 0; i < 1800; i++)
		TELL(0, order_end, i, BERTH_DONE);
	drain_is_held(p, 0, "leases-open");
	drain_is_held(p, 199, "leases-open");
	for (unsigned i = 0; i < 200; i++) {
		TELL(0, order_end, 1800 + i, BERTH_DONE);
		drain_complete(p, i);
		if (i < 199)
			drain_is_held(p, i + 1, "leases-open");
	}
}

static void an_abort_ends_a_complete_that_waits_and_the_next_cutover_looks_anew(void **state)
{
	struct drain_workers *p = place(state, LONG_MS, N);
	json_t *answer;

	start_bracketed(p, 0);
	drain_cut(p, 5);
	drain_abort(p, 5);
	TELL(0, order_begin, 5, 0);
	drain_cut(p, 5);
	drain_wait_begin(p, 5, 20000);
	assert_true(wire_silent(&p->waiting, 50));
	drain_abort(p, 5);
	answer = wire_answer(&p->waiting);
	answer_expect_refused(answer, "not-migrating");
	TELL(0, order_begin, 5, 1);
	drain_cut(p, 5);
	drain_is_held(p, 5, "leases-open");
	TELL(0, order_end, 0, BERTH_DONE);
	drain_is_held(p, 5, "leases-open");
	TELL(0, order_end, 1, BERTH_DONE);
	is_exact(drain_complete(p, 5));
}

static void a_stopped_writer_holds_back_its_partition_as_long_as_it_is_stopped(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	int status;

	start_bracketed(p, 0);
	start_bracketed(p, 1);
	TELL(0, order_begin, 5, 0);
	worker_signal(0, SIGSTOP);
	assert_int_equal(waitpid(worker_pid(0), &status, WUNTRACED), worker_pid(0));
	drain_cut(p, 5);
	drain_cut(p, 6);
	is_exact(drain_complete(p, 6));
	drain_wait_begin(p, 5, 20000);
	assert_true(wire_silent(&p->waiting, (int)(3 * SHORT_MS))); /* no clock overrules a lease that is seen */
	names(drain_held(p, 5, "leases-open"), 0);
	worker_signal(0, SIGCONT);
	assert_true(wire_silent(&p->waiting, 50));
	TELL(0, order_end, 0, BERTH_DONE);
	drain_wait_end(p, 2000);
}

/* ---- ends that are not known ------------------------------------------------------------------------------- */

static void an_unknown_end_and_a_death_are_waited_for_from_then_on_a_barrier(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	uint64_t end;
	json_t *data;

	start_bracketed(p, 0);
	TELL(0, order_begin, 5, 0);
	TELL(0, order_begin, 6, 1);
	drain_cut(p, 5);
	drain_cut(p, 6);
	end = mp_now_ms();
	TELL(0, order_end, 0, BERTH_UNKNOWN);
	data = drain_held(p, 5, "unknown-outcome");
	assert_true(int_of(data, "remaining_ms") > 0 && int_of(data, "remaining_ms") <= SHORT_MS + 11);
	names(data, 0);
	drain_takes_a_barrier(p, 5, end);
	names(drain_held(p, 6, "leases-open"), 0);
	end = mp_now_ms();
	data = NULL;
	worker_signal(0, SIGKILL);
	MP_UNTIL((data ? json_decref(data) : (void)0,
		  data = wire_refused(&p->mp.stream.wire, "barrier-pending", "complete", "{s:s}", "partition",
				      (char[]){"tenant-000006"}),
		  strcmp(text_of(json_object_get(data, "data"), "reason"), "reader-died") == 0),
		 300);
	names(json_incref(json_object_get(data, "data")), 0);
	drain_takes_a_barrier(p, 6, end);
	worker_gone(0);
	drain_cut(p, 7); /* nothing is left of it */
	is_exact(drain_complete(p, 7));
}

static void another_program_by_exec_has_left_its_writes(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	uint64_t end;

	start_bracketed(p, 0);
	TELL(0, order_begin, 5, 0);
	drain_cut(p, 5);
	end = mp_now_ms();
	TELL(0, order_exec, 0, 0);
	drain_takes_a_barrier(p, 5, end);
	assert_int_equal(kill(worker_pid(0), 0), 0);
}

static void an_unknown_end_without_a_slot_is_waited_for_by_every_partition(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	uint64_t end = 0;

	worker_start(0, p);
	TELL(0, order_attach, BERTH_WRITES_BRACKETED, 4);
	for (unsigned i = 0; i < 4; i++)
		TELL(0, order_begin, i, i);
	assert_int_equal(worker_tell(0, order_begin, 5, 5), BERTH_E_AGAIN);
	for (unsigned i = 0; i < 4; i++) {
		end = mp_now_ms();
		TELL(0, order_end, i, BERTH_UNKNOWN);
	}
	drain_cut(p, 9);
	names(drain_held(p, 9, "unknown-overflow"), 0);
	TELL(0, order_detach, 0, 0);
	drain_is_held(p, 9, "unknown-overflow"); /* it has left, and that stays */
	(void)end;
	drain_wait_begin(p, 9, 5000);
	assert_true(drain_wait_end(p, 6000) <= SHORT_MS + 900);
}

static void who_leaves_in_the_middle_leaves_its_unknown_ends_and_who_comes_again_counts_anew(void **state)
{
	struct drain_workers *p = place(state, 2000, N);
	uint64_t end;

	start_bracketed(p, 0);
	start_bracketed(p, 1);
	TELL(0, order_begin, 5, 0);
	drain_cut(p, 5);
	drain_cut(p, 6);
	end = mp_now_ms();
	TELL(0, order_end, 0, BERTH_UNKNOWN);
	TELL(0, order_detach, 0, 0);
	TELL(1, order_detach, 0, 0);
	drain_is_held(p, 5, "unknown-outcome");
	TELL(0, order_attach, BERTH_WRITES_BRACKETED, 0);
	TELL(1, order_attach, BERTH_WRITES_BRACKETED, 0);
	TELL(0, order_begin, 7, 0);
	drain_is_held(p, 5, "unknown-outcome");
	is_exact(drain_complete(p, 6));
	drain_cut(p, 7);
	drain_is_held(p, 7, "leases-open");
	drain_takes_a_barrier(p, 5, end);
	TELL(0, order_end, 0, BERTH_DONE);
	is_exact(drain_complete(p, 7));
}

/* ---- growth and restarts ----------------------------------------------------------------------------------- */

static void a_table_that_grows_in_the_middle_changes_nothing_of_a_drain(void **state)
{
	struct drain_workers *p = place(state, LONG_MS, N);
	json_int_t generation = mp_status(&p->mp, "generation");

	start_bracketed(p, 0);
	TELL(0, order_begin, 5, 0);
	drain_cut(p, 5);
	drain_is_held(p, 5, "leases-open");
	stream_load(&p->mp.stream, 1000, 20000);
	assert_true(mp_status(&p->mp, "generation") > generation);
	drain_is_held(p, 5, "leases-open");
	TELL(0, order_begin, 6, 1);
	drain_cut(p, 6);
	drain_is_held(p, 6, "leases-open");
	assert_int_equal(worker_tell(0, order_begin, 6, 2), BERTH_E_CUTOVER);
	drain_wait_begin(p, 5, 20000);
	TELL(0, order_end, 0, BERTH_DONE);
	drain_wait_end(p, 2000);
	TELL(0, order_end, 1, BERTH_DONE);
	is_exact(drain_complete(p, 6));
}

static void open_unknown_and_dead_leases_count_over_two_restarts(void **state)
{
	struct drain_workers *p = place(state, 5000, N);
	uint64_t unknown, dead, left;

	for (unsigned i = 0; i < 4; i++)
		start_bracketed(p, i);
	for (unsigned i = 0; i < 4; i++)
		TELL(i, order_begin, 5 + i, 0); /* 5 stays open, 6 unknown, 7 dead, 8 unknown of one that left */
	for (unsigned i = 5; i < 10; i++)
		drain_cut(p, i);
	unknown = mp_now_ms();
	TELL(1, order_end, 0, BERTH_UNKNOWN);
	dead = mp_now_ms();
	worker_kill(2);
	MP_UNTIL(mp_status(&p->mp, "readers") == 3, 2000);
	left = mp_now_ms();
	TELL(3, order_end, 0, BERTH_UNKNOWN);
	TELL(3, order_detach, 0, 0);
	for (unsigned i = 0; i < 2; i++) {
		drain_restart(p);
		drain_is_held(p, 5, "leases-open");
		drain_is_held(p, 6, "unknown-outcome");
		drain_is_held(p, 7, "reader-died");
		drain_is_held(p, 8, "unknown-outcome");
	}
	drain_complete(p, 9);
	drain_takes_a_barrier(p, 6, unknown);
	drain_takes_a_barrier(p, 7, dead);
	drain_takes_a_barrier(p, 8, left);
	drain_is_held(p, 5, "leases-open");
	TELL(0, order_end, 0, BERTH_DONE);
	drain_complete(p, 5);
}

static void a_death_while_no_daemon_ran_counts_from_its_discovery(void **state)
{
	struct drain_workers *p = place(state, 1000, N);
	uint64_t found;

	start_bracketed(p, 0);
	start_bracketed(p, 1);
	TELL(0, order_begin, 5, 0);
	TELL(1, order_begin, 6, 0);
	drain_cut(p, 5);
	drain_cut(p, 6);
	daemon_kill(&p->mp.d);
	worker_kill(0);
	TELL(1, order_end, 0, BERTH_DONE); /* nobody looks on */
	usleep(300000);
	found = mp_now_ms();
	drain_restart(p);
	is_exact(drain_complete(p, 6));
	drain_takes_a_barrier(p, 5, found);
}

/* ---- writers without leases -------------------------------------------------------------------------------- */

static void a_writer_without_leases_makes_each_drain_wait_a_barrier(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	uint64_t cut;

	worker_start(0, p);
	TELL(0, order_attach, BERTH_WRITES_NONE, 0);
	drain_cut(p, 4);
	drain_complete(p, 4); /* who only reads is none */
	worker_start(1, p);
	TELL(1, order_attach, BERTH_WRITES_UNBRACKETED, 0);
	cut = mp_now_ms();
	drain_cut(p, 5);
	names(drain_held(p, 5, "reader-without-leases"), 1);
	drain_takes_a_barrier(p, 5, cut);
}

static void one_admit_makes_a_process_one_without_leases(void **state)
{
	struct drain_workers *p = place(state, SHORT_MS, N);
	uint64_t cut;

	start_bracketed(p, 0);
	drain_cut(p, 4);
	drain_complete(p, 4);
	TELL(0, order_admit, 5, 0);
	cut = mp_now_ms();
	drain_cut(p, 5);
	names(drain_held(p, 5, "reader-without-leases"), 0);
	drain_takes_a_barrier(p, 5, cut);
}

static void a_writer_without_leases_counts_for_a_barrier_after_it_left(void **state)
{
	struct drain_workers *p = place(state, 1500, N);
	uint64_t cut;

	for (unsigned death = 0; death < 2; death++) {
		unsigned partition = 5 + 3 * death;

		worker_start(0, p);
		TELL(0, order_attach, BERTH_WRITES_UNBRACKETED, 0);
		if (!death)
			TELL(0, order_detach, 0, 0);
		worker_kill(0);
		MP_UNTIL(mp_status(&p->mp, "readers") == 0, 2000);
		cut = mp_now_ms();
		drain_cut(p, partition);
		drain_is_held(p, partition, "reader-without-leases");
		drain_restart(p); /* which the cutover's record, and the departure, survive */
		drain_is_held(p, partition, "reader-without-leases");
		drain_takes_a_barrier(p, partition, cut);
		drain_cut(p, partition + 1); /* a barrier after it left, at least */
		is_exact(drain_complete(p, partition + 1));
	}
}

/* ---- readers that fence for themselves --------------------------------------------------------------------- */

static void without_membarrier_a_drain_is_exact_all_the_same(void **state)
{
	struct drain_workers *p = place(state, LONG_MS, N);
	json_t *answer, *row;

	worker_start(0, p);
	TELL(0, order_refuse_membarrier, 0, 0);
	TELL(0, order_attach, BERTH_WRITES_BRACKETED, 0);
	answer = wire_ok(&p->mp.stream.wire, "readers", NULL);
	row = json_array_get(json_object_get(answer, "readers"), 0);
	assert_true(is_true(row, "fences"));
	json_decref(answer);
	for (unsigned i = 0; i < 10; i++) {
		TELL(0, order_begin, i, i);
		drain_cut(p, i);
		drain_is_held(p, i, "leases-open");
		assert_int_equal(worker_tell(0, order_begin, i, 100), BERTH_E_CUTOVER);
		TELL(0, order_end, i, BERTH_DONE);
		is_exact(drain_complete(p, i));
	}
	TELL(0, order_detach, 0, 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, NULL, drain_workers_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_open_lease_holds_back_its_partition_alone_and_its_end_completes),
		TEST(a_write_may_end_on_another_thread_and_after_its_reader_was_closed),
		TEST(writes_of_one_bulk_hold_back_until_the_last_has_ended),
		TEST(many_leases_of_one_reader_each_hold_back_their_own_partition),
		TEST(an_abort_ends_a_complete_that_waits_and_the_next_cutover_looks_anew),
		TEST(a_stopped_writer_holds_back_its_partition_as_long_as_it_is_stopped),
		TEST(an_unknown_end_and_a_death_are_waited_for_from_then_on_a_barrier),
		TEST(another_program_by_exec_has_left_its_writes),
		TEST(an_unknown_end_without_a_slot_is_waited_for_by_every_partition),
		TEST(who_leaves_in_the_middle_leaves_its_unknown_ends_and_who_comes_again_counts_anew),
		TEST(a_table_that_grows_in_the_middle_changes_nothing_of_a_drain),
		TEST(open_unknown_and_dead_leases_count_over_two_restarts),
		TEST(a_death_while_no_daemon_ran_counts_from_its_discovery),
		TEST(a_writer_without_leases_makes_each_drain_wait_a_barrier),
		TEST(one_admit_makes_a_process_one_without_leases),
		TEST(a_writer_without_leases_counts_for_a_barrier_after_it_left),
		TEST(without_membarrier_a_drain_is_exact_all_the_same),
	};

	mp_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
