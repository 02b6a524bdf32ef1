/* SPDX-License-Identifier: MIT
 * Leases of packet programs in the exact drain, with the real daemon and programs that run in this kernel: what holds a
 * `complete` back, by which reason and for how long, and what the begin of a write is answered. Under load:
 * 94-bpf-leases-hammer.c. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "cli.h"
#include "lease_place.h"

#define LONG "30000"
#define SOON_MS 5000 /* an exact drain takes far less, one that waits for LONG more */

static uint64_t epoch_of(struct lease_place *p, const char *partition)
{
	json_t *r = wire_ok(&p->drain.admin, "get", "{s:s}", "partition", partition);
	uint64_t epoch = (uint64_t)int_of(r, "epoch");

	json_decref(r);
	return epoch;
}

/* ---- the gate ---------------------------------------------------------------------------------------------------- */

static void a_lease_is_taken_for_what_the_gate_lets_through_and_for_nothing_else(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);
	char longest[41];
	uint64_t epoch;

	memset(longest, 'k', sizeof(longest) - 1);
	longest[40] = '\0';
	drain_put(&p->drain, "p");
	drain_put(&p->drain, longest);
	epoch = epoch_of(p, "p");
	assert_int_equal(lease_begin(p, "nobody", 0, 3), LEASE_NO_PLACEMENT);
	assert_int_equal(lease_begin(p, longest, 0, 3), LEASE_PASS);
	assert_int_equal(lease_begin(p, "p", epoch + 1, 3), LEASE_STALE);
	assert_true(lease_is_free(p, 3));
	assert_int_equal(lease_begin(p, "p", epoch, 3), LEASE_OK);
	assert_false(lease_is_free(p, 3));
	assert_int_equal(lease_begin(p, "p", epoch, 3), LEASE_BUSY);
	assert_int_equal(lease_end(p, 3, LEASE_DONE), LEASE_OK);
	assert_true(lease_is_free(p, 3));
	assert_int_equal(lease_end(p, 3, LEASE_DONE), LEASE_INVALID);
	assert_int_equal(lease_end(p, 4, LEASE_DONE), LEASE_INVALID); /* never taken */
	assert_int_equal(lease_begin(p, "p", 0, MIRROR_LEASES), LEASE_INVALID);
	drain_cut_over(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 3), LEASE_CUTOVER);
	assert_int_equal(lease_begin(p, "p", epoch_of(p, "p"), 3), LEASE_CUTOVER);
	assert_true(lease_is_free(p, 3));
	lease_complete(p, "p");
	assert_int_equal(lease_begin(p, "p", epoch, 3), LEASE_STALE);
	assert_int_equal(lease_begin(p, "p", 0, 3), LEASE_OK);
	assert_int_equal(lease_end(p, 3, LEASE_DONE), LEASE_OK);
}

static void an_answer_says_where_the_write_goes(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);
	struct lease_call call = {.op = LEASE_BEGIN, .slot = 0, .len = 1, .key = "p"};

	drain_put(&p->drain, "p");
	assert_int_equal(lease_run(p, &call, 1), LEASE_OK);
	assert_int_equal(call.cluster, 1);
	assert_int_equal(call.answered, epoch_of(p, "p"));
	assert_int_equal(lease_end(p, 0, LEASE_DONE), LEASE_OK);
}

/* ---- open leases ------------------------------------------------------------------------------------------------- */

static void an_open_lease_holds_back_its_partition_until_it_ends(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);
	struct wire waiting;
	uint64_t end_us;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 0), LEASE_OK);
	assert_int_equal(lease_begin(p, "p", 0, 40000), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	drain_cut_over(&p->drain, "q");
	assert_true(lease_complete(p, "q") < SOON_MS);
	assert_int_equal(lease_held(p, "p", "leases-open", 2), 0);
	drain_open_complete(&p->drain, &waiting, "p", SOON_MS);
	assert_int_equal(lease_end(p, 40000, LEASE_DONE), LEASE_OK);
	assert_true(wire_silent(&waiting, 100));
	assert_int_equal(lease_held(p, "p", "leases-open", 1), 0);
	end_us = drain_now_us();
	assert_int_equal(lease_end(p, 0, LEASE_DONE), LEASE_OK);
	drain_expect_completed(wire_answer(&waiting));
	print_message("          answered %llu us after the last end\n", (unsigned long long)(drain_now_us() - end_us));
	wire_close(&waiting);
	drain_expect_at(&p->drain, "p", "c2", "settled");
}

static void a_lease_of_before_an_abort_holds_back_the_next_cutover(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);

	drain_put(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 5), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	wire_do(&p->drain.admin, "abort", "{s:s}", "partition", "p");
	assert_int_equal(lease_begin(p, "p", 0, 6), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 2);
	assert_int_equal(lease_end(p, 5, LEASE_DONE), LEASE_OK);
	lease_held(p, "p", "leases-open", 1);
	assert_int_equal(lease_end(p, 6, LEASE_DONE), LEASE_OK);
	assert_true(lease_complete(p, "p") < SOON_MS);
}

static void leases_of_processes_and_of_programs_count_together(void **state)
{
	const struct berth_attach_options o = {.size = sizeof(o),
					       .writes = BERTH_WRITES_BRACKETED,
					       .max_readers = 1,
					       .wait_ms = DAEMON_MS,
					       .max_leases = 16};
	struct lease_place *p = lease_place(state, "memory", LONG);
	struct berth_write w;
	json_t *data;

	drain_put(&p->drain, "p");
	assert_int_equal(berth_attach(p->drain.d.dir, &o, &p->drain.b), BERTH_OK);
	assert_int_equal(berth_reader_open(p->drain.b, &p->drain.r), BERTH_OK);
	drain_begin_write(&p->drain, "p", &w);
	assert_int_equal(lease_begin(p, "p", 0, 9), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	drain_send_complete(&p->drain.admin, "p", 0);
	data = drain_pending(wire_answer(&p->drain.admin), "leases-open");
	assert_int_equal(int_of(data, "in_flight"), 2);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "pids"), 0)), getpid());
	assert_int_equal(json_array_size(json_object_get(data, "pids")), 1);
	assert_true(is_true(data, "packet_programs"));
	json_decref(data);
	drain_end_write(&p->drain, &w, BERTH_DONE);
	lease_held(p, "p", "leases-open", 1);
	assert_int_equal(lease_end(p, 9, LEASE_DONE), LEASE_OK);
	assert_true(lease_complete(p, "p") < SOON_MS);
	berth_reader_close(&p->drain.r);
	assert_int_equal(berth_detach(&p->drain.b), BERTH_OK);
}

static void every_slot_holds_back(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);
	struct lease_call call = {.op = LEASE_BEGIN, .step = 1, .len = 1, .key = "p"};
	uint64_t start_us;

	drain_put(&p->drain, "p");
	lease_run(p, &call, MIRROR_LEASES);
	assert_int_equal(call.n_ok, MIRROR_LEASES);
	print_message("          %u ns a begin\n", p->ns);
	drain_cut_over(&p->drain, "p");
	start_us = drain_now_us();
	while (lease_in_flight(p, "p") != MIRROR_LEASES) /* a look is made in slices */
		assert_true(drain_now_us() - start_us < SOON_MS * 1000);
	print_message("          all of them found and told in %llu us\n",
		      (unsigned long long)(drain_now_us() - start_us));
	call = (struct lease_call){.op = LEASE_END, .step = 1};
	lease_run(p, &call, MIRROR_LEASES - 1);
	assert_int_equal(call.n_ok, MIRROR_LEASES - 1);
	print_message("          %u ns an end\n", p->ns);
	start_us = drain_now_us();
	while (lease_in_flight(p, "p") != 1) /* the last slot of all */
		assert_true(drain_now_us() - start_us < SOON_MS * 1000);
	assert_int_equal(lease_end(p, MIRROR_LEASES - 1, LEASE_DONE), LEASE_OK);
	assert_true(lease_complete(p, "p") < SOON_MS);
	for (unsigned i = 0; i < 3; i++) {
		drain_put(&p->drain, "q");
		drain_cut_over(&p->drain, "q");
		start_us = drain_now_us();
		drain_send_complete(&p->drain.admin, "q", SOON_MS);
		drain_expect_completed(wire_answer(&p->drain.admin));
		print_message("          none of them found, and completed, in %llu us\n",
			      (unsigned long long)(drain_now_us() - start_us));
		wire_do(&p->drain.admin, "remove", "{s:s,s:b}", "partition", "q", "force", 1);
	}
}

/* ---- a begin that is held up ------------------------------------------------------------------------------------- */

struct held_begin {
	struct lease_place *p;
	unsigned code;
};

static void *begin_thread(void *arg)
{
	struct held_begin *h = arg;

	lease_pin_thread(0);
	h->code = lease_begin(h->p, "p", 0, 77);
	return NULL;
}

/* A begin that stands at this step while its partition is cut over: what `complete` says then, and what the begin is
 * answered. */
static void hold_begin(struct lease_place *p, unsigned step, unsigned answer)
{
	static struct held_begin h;
	uint64_t deadline = 0;

	if (!lease_keep_off(p, 0)) /* the daemon would stand behind the begin */
		SKIP("needs two processors");
	drain_put(&p->drain, "p");
	*(volatile __u32 *)&p->hold->come = 0;
	*(volatile __u32 *)&p->hold->at = step;
	h.p = p;
	assert_int_equal(pthread_create(&p->held, NULL, begin_thread, &h), 0);
	p->holds = true;
	while (within(&deadline))
		if (*(volatile __u32 *)&p->hold->come == step)
			break;
	assert_int_equal(*(volatile __u32 *)&p->hold->come, step);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	lease_let_go(p);
	assert_int_equal(h.code, answer);
	if (answer == LEASE_OK) {
		lease_held(p, "p", "leases-open", 1);
		assert_int_equal(lease_end(p, 77, LEASE_DONE), LEASE_OK);
	}
	assert_true(lease_is_free(p, 77));
	assert_true(lease_complete(p, "p") < SOON_MS);
}

static void a_begin_that_has_its_lease_and_no_word_yet_is_waited_for_and_refused(void **state)
{
	hold_begin(lease_place(state, "memory", LONG), 1, LEASE_CUTOVER);
}

static void a_begin_that_has_seen_the_word_is_waited_for_until_its_write_has_ended(void **state)
{
	hold_begin(lease_place(state, "memory", LONG), 2, LEASE_OK);
}

/* ---- ends that nobody knows -------------------------------------------------------------------------------------- */

#define SHORT "400"
#define SHORT_MS 400

static void an_unknown_end_is_waited_for_a_barrier(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	json_int_t remaining;
	uint64_t end_ms;

	drain_put(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_INVALID);
	remaining = lease_held(p, "p", "unknown-outcome", 0);
	assert_in_range(remaining, 1, SHORT_MS + 12);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	drain_expect_completed(wire_answer(&p->drain.admin));
	assert_in_range(test_now_ms() - end_ms, SHORT_MS + 10, SOON_MS);
}

static void a_slot_that_ended_unknown_is_taken_again_and_counts_for_every_partition(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	uint64_t end_ms;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(lease_begin(p, "q", 0, 1), LEASE_OK);
	assert_in_range(p->control->overflow_ms, end_ms, end_ms + 1000);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_in_range(lease_held(p, "p", "unknown-overflow", 0), 1, SHORT_MS + 12);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	drain_expect_completed(wire_answer(&p->drain.admin));
	assert_in_range(test_now_ms() - end_ms, SHORT_MS + 10, SOON_MS);
}

/* Between two looks the slot's lease ends unknown, and another takes it: what the next look finds is the overflow, unless
 * upkeep has looked in between. */
static void a_slot_that_is_taken_again_between_two_looks_loses_no_end(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	uint64_t end_ms;
	json_t *answer;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(lease_begin(p, "q", 0, 1), LEASE_OK);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	answer = wire_answer(&p->drain.admin);
	assert_in_range(test_now_ms() - end_ms, SHORT_MS + 10, SOON_MS);
	drain_expect_completed(answer);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
}

/* ---- writes without leases --------------------------------------------------------------------------------------- */

static void a_program_that_gates_without_leases_makes_every_migration_wait_for_the_barrier(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", SHORT);
	struct lease_call call = {.op = LEASE_ADMIT, .len = 1, .key = "p"};

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	drain_cut_over(&p->drain, "q");
	assert_true(lease_complete(p, "q") < SHORT_MS);
	call.epoch = epoch_of(p, "p");
	assert_int_equal(lease_run(p, &call, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_in_range(lease_held(p, "p", "reader-without-leases", 0), 1, SHORT_MS + 12);
	daemon_kill(&p->drain.d);
	lease_restart(p, SHORT, true);
	lease_held(p, "p", "reader-without-leases", 0);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	drain_expect_completed(wire_answer(&p->drain.admin));
}

/* ---- lies -------------------------------------------------------------------------------------------------------- */

static void whatever_stands_in_the_map_is_about_packet_programs_writes_alone(void **state)
{
	struct lease_place *p = lease_place(state, "memory", SHORT);
	volatile struct mirror_lease *leases = p->leases;
	json_int_t remaining;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	*(volatile __u64 *)&p->control->lease_high = UINT64_MAX; /* there are MIRROR_LEASES, whatever it says */
	for (unsigned i = 2; i < MIRROR_LEASES; i++) {
		leases[i].state = (uint64_t)i << 48 | i;
		leases[i].hash = i;
	}
	drain_cut_over(&p->drain, "q");
	assert_true(lease_complete(p, "q") < SHORT_MS);
	leases[1].state = 3ull << 62; /* no such kind: open */
	drain_cut_over(&p->drain, "p");
	lease_held(p, "p", "leases-open", 1);
	leases[1].state = 2ull << 62 | ((1ull << 48) - 1); /* an end that is to come: now */
	remaining = lease_held(p, "p", "unknown-outcome", 0);
	assert_in_range(remaining, 1, SHORT_MS + 12);
	leases[1].hash = 0;
	*(volatile __u64 *)&p->control->overflow_ms = UINT64_MAX; /* likewise */
	wire_do(&p->drain.admin, "abort", "{s:s}", "partition", "p");
	drain_cut_over(&p->drain, "p");
	assert_in_range(lease_held(p, "p", "unknown-overflow", 0), 1, SHORT_MS + 12);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	drain_expect_completed(wire_answer(&p->drain.admin));
}

/* ---- restarts ---------------------------------------------------------------------------------------------------- */

static void leases_outlive_the_daemon(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", LONG);

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	daemon_kill(&p->drain.d);
	assert_int_equal(lease_begin(p, "p", 0, 2), LEASE_CUTOVER); /* no daemon, and the same answers */
	assert_int_equal(lease_begin(p, "q", 0, 2), LEASE_OK);
	lease_restart(p, LONG, true);
	lease_held(p, "p", "leases-open", 1);
	drain_cut_over(&p->drain, "q");
	lease_held(p, "q", "leases-open", 1);
	daemon_kill(&p->drain.d);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
	lease_restart(p, LONG, true);
	assert_true(lease_complete(p, "p") < SOON_MS);
	lease_held(p, "q", "leases-open", 1);
	assert_int_equal(lease_end(p, 2, LEASE_DONE), LEASE_OK);
	assert_true(lease_complete(p, "q") < SOON_MS);
}

static void what_is_open_in_a_mirror_that_goes_is_waited_for_a_barrier(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", SHORT);
	uint64_t gone_ms;

	drain_put(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_int_equal(daemon_stop(&p->drain.d), 0);
	gone_ms = test_now_ms();
	lease_restart(p, SHORT, false);
	assert_int_equal(lease_begin(p, "p", 0, 2), LEASE_PASS);
	assert_in_range(lease_held(p, "p", "unknown-overflow", 0), 1, SHORT_MS + 12);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	drain_expect_completed(wire_answer(&p->drain.admin));
	assert_in_range(test_now_ms() - gone_ms, SHORT_MS + 10, SOON_MS);
}

static void that_a_program_wrote_without_leases_outlives_its_mirror(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", SHORT);
	struct lease_call call = {.op = LEASE_ADMIT, .len = 1, .key = "p"};
	json_t *data;

	drain_put(&p->drain, "p");
	call.epoch = epoch_of(p, "p");
	assert_int_equal(lease_run(p, &call, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_int_equal(daemon_stop(&p->drain.d), 0);
	lease_restart(p, SHORT, false);
	drain_send_complete(&p->drain.admin, "p", 0);
	data = drain_pending(wire_answer(&p->drain.admin), "reader-without-leases");
	json_decref(data);
	drain_send_complete(&p->drain.admin, "p", SOON_MS);
	drain_expect_completed(wire_answer(&p->drain.admin));
}

/* ---- for people -------------------------------------------------------------------------------------------------- */

static void the_tool_names_packet_programs(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);
	struct cli c;
	json_t *rows, *row;

	drain_put(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	assert_int_equal(lease_begin(p, "p", 0, 2), LEASE_OK);
	assert_int_equal(lease_end(p, 2, LEASE_NOT_KNOWN), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	cli_run(&c, &p->drain.d, "migrate", "status");
	cli_check(&c, 0, "writes are under way: a packet program (leases-open)", NULL);
	cli_free(&c);
	cli_run(&c, &p->drain.d, "migrate", "complete", "p");
	cli_check(&c, 1, NULL, "1 write on partition \"p\" is under way (a packet program) (leases-open)");
	cli_free(&c);
	cli_run(&c, &p->drain.d, "readers");
	cli_check(&c, 0, "packet programs: 1 writes under way, 1 that ended unknown", NULL);
	cli_free(&c);
	rows = cli_json(0, &p->drain.d, "readers");
	row = json_array_get(rows, json_array_size(rows) - 1);
	assert_string_equal(text_of(row, "comm"), "packet program");
	assert_int_equal(int_of(row, "n_leases"), 1);
	assert_int_equal(int_of(row, "n_unknown"), 1);
	assert_int_equal(json_array_size(json_object_get(row, "leases")), 2);
	json_decref(rows);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
}

#define LEASE_UNIT(test) cmocka_unit_test_teardown(test, lease_place_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEASE_UNIT(a_lease_is_taken_for_what_the_gate_lets_through_and_for_nothing_else),
		LEASE_UNIT(an_answer_says_where_the_write_goes),
		LEASE_UNIT(an_open_lease_holds_back_its_partition_until_it_ends),
		LEASE_UNIT(a_lease_of_before_an_abort_holds_back_the_next_cutover),
		LEASE_UNIT(leases_of_processes_and_of_programs_count_together),
		LEASE_UNIT(every_slot_holds_back),
		LEASE_UNIT(a_begin_that_has_its_lease_and_no_word_yet_is_waited_for_and_refused),
		LEASE_UNIT(a_begin_that_has_seen_the_word_is_waited_for_until_its_write_has_ended),
		LEASE_UNIT(an_unknown_end_is_waited_for_a_barrier),
		LEASE_UNIT(a_slot_that_ended_unknown_is_taken_again_and_counts_for_every_partition),
		LEASE_UNIT(a_slot_that_is_taken_again_between_two_looks_loses_no_end),
		LEASE_UNIT(a_program_that_gates_without_leases_makes_every_migration_wait_for_the_barrier),
		LEASE_UNIT(whatever_stands_in_the_map_is_about_packet_programs_writes_alone),
		LEASE_UNIT(leases_outlive_the_daemon),
		LEASE_UNIT(what_is_open_in_a_mirror_that_goes_is_waited_for_a_barrier),
		LEASE_UNIT(that_a_program_wrote_without_leases_outlives_its_mirror),
		LEASE_UNIT(the_tool_names_packet_programs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
