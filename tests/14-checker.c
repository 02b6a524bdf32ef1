/* SPDX-License-Identifier: MIT
 * The checker of the end-to-end runs, on histories by hand: one that is right in every way that is allowed, and the same
 * with one thing wrong, for each rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "e2e/checker.h"

#define MS 1000000ull

static void change(struct history *h, enum hist_what what, uint64_t epoch, uint16_t at, uint64_t from, uint64_t to)
{
	*history_change(h) = (struct hist_change){.what = (uint8_t)what,
						  .epoch = epoch,
						  .at = at,
						  .call_ns = from * MS,
						  .answer_ns = to * MS,
						  .partition = 7};
}

static struct hist_call *call(struct history *h, uint64_t sequence, uint16_t attempt, enum hist_outcome outcome,
			      uint64_t from, uint64_t to)
{
	struct hist_call *c = history_call(h);

	*c = (struct hist_call){.partition = 7,
				.sequence = sequence,
				.attempt = attempt,
				.client = 3,
				.outcome = (uint8_t)outcome,
				.status = outcome == HIST_OK        ? 200
					  : outcome == HIST_REFUSED ? 409
								    : 0,
				.call_ns = from * MS,
				.answer_ns = to * MS};
	return c;
}

static void effect(struct history *h, uint64_t sequence, uint16_t attempt, uint64_t epoch, uint16_t cluster,
		   uint64_t at)
{
	*history_effect(h) = (struct hist_effect){.partition = 7,
						  .sequence = sequence,
						  .attempt = attempt,
						  .client = 3,
						  .epoch = epoch,
						  .cluster = cluster,
						  .at_ns = at * MS};
}

static void read_of(struct history *h, uint16_t cluster, uint64_t from, uint64_t to)
{
	struct hist_call *c = call(h, 0, 1, HIST_OK, from, to);

	c->cluster = cluster;
}

/* Partition 7: on c1 at epoch 10, moved to c2 (epochs 20, 21, 22), a move back undone (30, 31, 32), moved to c1 (40..42). */
static void good(struct history *h)
{
	*h = (struct history){.max_tries = 1};
	change(h, HIST_SET, 10, 1, 0, 1);
	change(h, HIST_BEGIN, 20, 1, 100, 102);
	change(h, HIST_CUTOVER, 21, 1, 110, 112);
	change(h, HIST_COMPLETE, 22, 2, 113, 150);
	change(h, HIST_BEGIN, 30, 2, 200, 202);
	change(h, HIST_CUTOVER, 31, 2, 210, 212);
	change(h, HIST_ABORT, 32, 2, 220, 222);
	change(h, HIST_BEGIN, 40, 2, 300, 302);
	change(h, HIST_CUTOVER, 41, 2, 310, 312);
	change(h, HIST_COMPLETE, 42, 1, 313, 350);

	call(h, 1, 1, HIST_OK, 10, 20)->epoch = 10;
	effect(h, 1, 1, 10, 1, 15);
	call(h, 2, 1, HIST_OK, 101, 145)->epoch = 10; /* in flight over begin and cutover */
	effect(h, 2, 1, 10, 1, 140);
	call(h, 3, 1, HIST_OK, 103, 106)->epoch = 20;
	effect(h, 3, 1, 20, 1, 105);
	call(h, 4, 1, HIST_REFUSED, 111, 112); /* refused twice, then at the new cluster */
	call(h, 4, 2, HIST_REFUSED, 120, 121);
	call(h, 4, 3, HIST_OK, 140, 160)->epoch = 22; /* visible before complete has returned */
	effect(h, 4, 3, 22, 2, 149);
	call(h, 5, 1, HIST_UNKNOWN, 104, 108); /* happened after its end, before complete returned */
	effect(h, 5, 1, 20, 1, 139);
	call(h, 6, 1, HIST_UNKNOWN, 170, 175);        /* never happened */
	call(h, 7, 1, HIST_OK, 209, 240)->epoch = 30; /* after an abort, in the same tenure */
	effect(h, 7, 1, 30, 2, 235);
	call(h, 8, 1, HIST_OK, 221, 230)->epoch = 32;
	effect(h, 8, 1, 32, 2, 225);
	call(h, 9, 1, HIST_REFUSED, 311, 312)->last = 1; /* the run ended */
	read_of(h, 1, 5, 6);
	read_of(h, 1, 90, 120);
	read_of(h, 1, 114, 149); /* either */
	read_of(h, 2, 114, 149);
	read_of(h, 2, 215, 216);
	read_of(h, 1, 400, 401);
}

static struct hist_call *write_of(struct history *h, uint64_t sequence, uint16_t attempt)
{
	for (size_t i = 0; i < h->n_calls; i++)
		if (h->calls[i].sequence == sequence && h->calls[i].attempt == attempt)
			return &h->calls[i];
	fail();
	return NULL;
}

static struct hist_effect *effect_of(struct history *h, uint64_t sequence)
{
	for (size_t i = 0; i < h->n_effects; i++)
		if (h->effects[i].sequence == sequence)
			return &h->effects[i];
	fail();
	return NULL;
}

/* Exactly this rule is broken; frees the history. */
static void expect(struct history *h, enum check_rule rule)
{
	struct check_report r;

	check_history(h, &r);
	for (unsigned i = 0; i < r.n_texts; i++)
		if (r.n_faults != r.by_rule[rule])
			print_message("%s\n", r.text[i]);
	assert_int_equal(r.by_rule[rule], 1);
	assert_int_equal(r.n_faults, 1);
	assert_int_equal(r.n_texts, 1);
	assert_memory_equal(r.text[0], check_rule_name(rule), strlen(check_rule_name(rule)));
	assert_non_null(strstr(r.text[0], check_rule_text(rule)));
	history_free(h);
}

static void a_history_in_which_all_is_right_has_no_fault(void **state)
{
	struct history h;
	struct check_report r;

	(void)state;
	good(&h);
	check_history(&h, &r);
	for (unsigned i = 0; i < r.n_texts; i++)
		print_message("%s\n", r.text[i]);
	assert_int_equal(r.n_faults, 0);
	assert_int_equal(r.n_reads, 6);
	assert_int_equal(r.n_acknowledged, 6);
	assert_int_equal(r.n_refused, 3);
	assert_int_equal(r.n_repeated, 1);
	assert_int_equal(r.n_unknown, 2);
	assert_int_equal(r.n_unknown_happened, 1);
	assert_int_equal(r.n_late, 1);
	assert_int_equal(r.n_effects, 7);
	assert_int_equal(r.n_tenures, 3);
	history_free(&h);
	check_history(&h, &r); /* an empty one */
	assert_int_equal(r.n_faults, 0);
}

static void an_acknowledged_write_that_no_cluster_has_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	call(&h, 50, 1, HIST_OK, 50, 60)->epoch = 10;
	expect(&h, CHECK_LOST);
}

static void an_acknowledged_write_that_took_effect_after_its_answer_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	effect_of(&h, 1)->at_ns = 21 * MS;
	expect(&h, CHECK_OUTSIDE);
}

static void a_write_that_took_effect_twice_is_found_unless_the_proxy_sent_it_twice(void **state)
{
	struct history h;
	struct check_report r;

	(void)state;
	good(&h);
	effect(&h, 1, 1, 10, 1, 16);
	expect(&h, CHECK_TWICE);
	good(&h);
	effect(&h, 5, 1, 20, 1, 112); /* of unknown outcome */
	expect(&h, CHECK_TWICE);
	good(&h);
	effect(&h, 1, 1, 10, 1, 16);
	write_of(&h, 1, 1)->tries = 2;
	check_history(&h, &r);
	assert_int_equal(r.n_faults, 0);
	history_free(&h);
}

static void a_refused_write_that_took_effect_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	effect(&h, 4, 1, 20, 1, 112);
	expect(&h, CHECK_REFUSED);
}

static void an_effect_that_nobody_called_for_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	effect(&h, 99, 1, 10, 1, 16); /* no such write */
	expect(&h, CHECK_NOBODY);
	good(&h);
	effect(&h, 4, 9, 22, 2, 170); /* no such attempt */
	expect(&h, CHECK_NOBODY);
	good(&h);
	effect_of(&h, 8)->client = 4;
	expect(&h, CHECK_NOBODY);
	good(&h);
	write_of(&h, 2, 1)->epoch = 20; /* its cluster was told 10 */
	expect(&h, CHECK_NOBODY);
	good(&h);
	call(&h, 50, 1, HIST_UNKNOWN, 60, 70);
	effect(&h, 50, 1, 10, 1, 50); /* before its call */
	expect(&h, CHECK_NOBODY);
}

static void a_write_at_another_cluster_than_its_epochs_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	effect_of(&h, 1)->cluster = 2;
	expect(&h, CHECK_CLUSTER);
	good(&h);
	call(&h, 50, 1, HIST_OK, 111, 130)->epoch = 21; /* of a cutover */
	effect(&h, 50, 1, 21, 1, 120);
	expect(&h, CHECK_CLUSTER);
	good(&h);
	call(&h, 50, 1, HIST_OK, 111, 130)->epoch = 25; /* of nothing */
	effect(&h, 50, 1, 25, 1, 120);
	expect(&h, CHECK_CLUSTER);
}

static void a_write_that_was_admitted_at_an_epoch_that_was_over_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	call(&h, 50, 1, HIST_OK, 113, 130)->epoch = 20; /* in the cutover */
	effect(&h, 50, 1, 20, 1, 120);
	expect(&h, CHECK_GATE);
	good(&h);
	call(&h, 50, 1, HIST_OK, 90, 130)->epoch = 20; /* before it began */
	effect(&h, 50, 1, 20, 1, 99);
	expect(&h, CHECK_GATE);
	good(&h);
	call(&h, 50, 1, HIST_OK, 223, 230)->epoch = 30; /* at an epoch from before an abort */
	effect(&h, 50, 1, 30, 2, 228);
	expect(&h, CHECK_GATE);
}

static void a_write_that_reached_the_old_cluster_after_complete_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	write_of(&h, 8, 1)->call_ns = 309 * MS; /* nothing after it in the next tenure */
	write_of(&h, 8, 1)->answer_ns = 360 * MS;
	write_of(&h, 8, 1)->epoch = 40;
	effect_of(&h, 8)->epoch = 40;
	effect_of(&h, 8)->at_ns = 355 * MS;
	expect(&h, CHECK_AFTER);
	good(&h);
	call(&h, 50, 1, HIST_UNKNOWN, 305, 311);
	effect(&h, 50, 1, 40, 2, 351);
	expect(&h, CHECK_AFTER);
}

static void a_write_of_an_earlier_tenure_after_one_of_a_later_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	write_of(&h, 2, 1)->answer_ns = 155 * MS;
	effect_of(&h, 2)->at_ns = 150 * MS; /* before complete returned, after write 4 */
	expect(&h, CHECK_ORDER);
}

static void a_write_that_was_refused_outside_of_a_cutover_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	call(&h, 50, 1, HIST_REFUSED, 101, 109); /* in draining */
	call(&h, 50, 2, HIST_UNKNOWN, 160, 161);
	expect(&h, CHECK_WHY);
}

static void a_refused_write_that_was_not_repeated_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	call(&h, 50, 1, HIST_REFUSED, 111, 112);
	expect(&h, CHECK_REPEAT);
	good(&h);
	call(&h, 50, 1, HIST_UNKNOWN, 60, 70); /* repeated although nobody knows */
	call(&h, 50, 2, HIST_UNKNOWN, 71, 72);
	expect(&h, CHECK_REPEAT);
}

static void a_read_without_an_answer_is_found_unless_a_proxy_was_killed_then(void **state)
{
	struct history h;
	struct check_report r;

	(void)state;
	good(&h);
	call(&h, 0, 1, HIST_UNKNOWN, 50, 60)->status = 503;
	expect(&h, CHECK_READ);
	good(&h);
	call(&h, 0, 1, HIST_UNKNOWN, 50, 60);
	expect(&h, CHECK_READ);
	good(&h);
	call(&h, 0, 1, HIST_UNKNOWN, 50, 60);
	*history_kill(&h) = (struct hist_kill){.from_ns = 55 * MS, .to_ns = 58 * MS};
	check_history(&h, &r);
	assert_int_equal(r.n_faults, 0);
	history_free(&h);
}

static void a_read_at_a_cluster_where_the_partition_was_not_is_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	read_of(&h, 2, 50, 112); /* the new one before complete was called */
	expect(&h, CHECK_PLACE);
	good(&h);
	read_of(&h, 1, 151, 160); /* the old one after it returned */
	expect(&h, CHECK_PLACE);
	good(&h);
	read_of(&h, 3, 151, 160);
	expect(&h, CHECK_PLACE);
}

static void changes_that_do_not_rise_are_found(void **state)
{
	struct history h;

	(void)state;
	good(&h);
	change(&h, HIST_BEGIN, 50, 1, 5, 6);
	expect(&h, CHECK_CHANGES);
	good(&h);
	change(&h, HIST_SET, 50, 2, 500, 501); /* moved without a migration */
	expect(&h, CHECK_CHANGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_history_in_which_all_is_right_has_no_fault),
		cmocka_unit_test(an_acknowledged_write_that_no_cluster_has_is_found),
		cmocka_unit_test(an_acknowledged_write_that_took_effect_after_its_answer_is_found),
		cmocka_unit_test(a_write_that_took_effect_twice_is_found_unless_the_proxy_sent_it_twice),
		cmocka_unit_test(a_refused_write_that_took_effect_is_found),
		cmocka_unit_test(an_effect_that_nobody_called_for_is_found),
		cmocka_unit_test(a_write_at_another_cluster_than_its_epochs_is_found),
		cmocka_unit_test(a_write_that_was_admitted_at_an_epoch_that_was_over_is_found),
		cmocka_unit_test(a_write_that_reached_the_old_cluster_after_complete_is_found),
		cmocka_unit_test(a_write_of_an_earlier_tenure_after_one_of_a_later_is_found),
		cmocka_unit_test(a_write_that_was_refused_outside_of_a_cutover_is_found),
		cmocka_unit_test(a_refused_write_that_was_not_repeated_is_found),
		cmocka_unit_test(a_read_without_an_answer_is_found_unless_a_proxy_was_killed_then),
		cmocka_unit_test(a_read_at_a_cluster_where_the_partition_was_not_is_found),
		cmocka_unit_test(changes_that_do_not_rise_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
