/* SPDX-License-Identifier: MIT
 * Leases of packet programs in the exact drain, with the real daemon and programs that run in this kernel: what holds a
 * `complete` back, by which reason and for how long, and what the begin of a write is answered. What holds it back for a
 * barrier: 94-bpf-leases-barrier.c; over restarts: 94-bpf-leases-past.c; under load: 94-bpf-leases-hammer.c. */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "cli.h"
#include "lease_place.h"

#define LONG "30000"
#define SOON_MS 5000 /* an exact drain takes far less, one that waits for LONG more */

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
	epoch = lease_epoch_of(p, "p");
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
	assert_int_equal(lease_begin(p, "p", lease_epoch_of(p, "p"), 3), LEASE_CUTOVER);
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
	assert_int_equal(call.answered, lease_epoch_of(p, "p"));
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

/* ---- for people -------------------------------------------------------------------------------------------------- */

/* One write under way, one that ended unknown, as text and as JSON: that, to be let go. */
static json_t *row_of_packet_programs(const struct lease_place *p)
{
	json_t *rows, *row;
	struct cli c;

	cli_run(&c, &p->drain.d, "readers");
	cli_check(&c, 0, "packet programs: 1 writes under way, 1 that ended unknown", NULL);
	cli_free(&c);
	rows = cli_json(0, &p->drain.d, "readers");
	row = json_incref(json_array_get(rows, json_array_size(rows) - 1));
	assert_string_equal(text_of(row, "comm"), "packet program");
	assert_int_equal(int_of(row, "n_leases"), 1);
	assert_int_equal(int_of(row, "n_unknown"), 1);
	json_decref(rows);
	return row;
}

static void the_tool_names_packet_programs(void **state)
{
	struct lease_place *p = lease_place(state, "memory", LONG);
	struct cli c;
	json_t *row;

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
	row = row_of_packet_programs(p);
	assert_int_equal(json_array_size(json_object_get(row, "leases")), 2);
	json_decref(row);
	/* and without the daemon, how many */
	daemon_kill(&p->drain.d);
	json_decref(row_of_packet_programs(p));
	lease_restart(p, LONG, true);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEASE_TEST(a_lease_is_taken_for_what_the_gate_lets_through_and_for_nothing_else),
		LEASE_TEST(an_answer_says_where_the_write_goes),
		LEASE_TEST(an_open_lease_holds_back_its_partition_until_it_ends),
		LEASE_TEST(a_lease_of_before_an_abort_holds_back_the_next_cutover),
		LEASE_TEST(leases_of_processes_and_of_programs_count_together),
		LEASE_TEST(every_slot_holds_back),
		LEASE_TEST(a_begin_that_has_its_lease_and_no_word_yet_is_waited_for_and_refused),
		LEASE_TEST(a_begin_that_has_seen_the_word_is_waited_for_until_its_write_has_ended),
		LEASE_TEST(the_tool_names_packet_programs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
