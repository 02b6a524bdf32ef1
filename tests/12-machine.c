/* SPDX-License-Identifier: MIT
 * The table of transitions: each transition, each refusal by its name, and the order in which they are checked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../writer/machine.h"

static union detail_buffer on_c1, on_c1_again, on_c1_index, on_c2, on_c3;
static struct state nothing, settled, draining, cut, default_c1, default_c2, gone;

static void place(union detail_buffer *b, unsigned cluster, const char *index)
{
	unsigned kind = index ? KIND_DEDICATED_INDEX : KIND_DEDICATED_CLUSTER;

	assert_int_equal(detail_start(b, kind, cluster, index, index ? strlen(index) : 0), 0);
	detail_finish(b);
}

static int make_states(void **state)
{
	(void)state;
	place(&on_c1, 1, NULL);
	place(&on_c1_again, 1, NULL);
	place(&on_c1_index, 1, "i");
	place(&on_c2, 2, NULL);
	place(&on_c3, 3, NULL);
	nothing = (struct state){0};
	gone = (struct state){.epoch = 4};
	settled = (struct state){.epoch = 5, .at = &on_c1.detail};
	draining = (struct state){.epoch = 6, .phase = PHASE_DRAINING, .at = &on_c1.detail, .to = &on_c2.detail};
	cut = (struct state){.epoch = 7, .phase = PHASE_CUTOVER, .at = &on_c1.detail, .to = &on_c2.detail};
	default_c1 = (struct state){.epoch = 2, .at = &on_c1.detail};
	default_c2 = (struct state){.epoch = 3, .at = &on_c2.detail};
	return 0;
}

static struct step step_of(enum operation op, const union detail_buffer *placement)
{
	return (struct step){.op = op,
			     .key = op == OP_DEFAULT ? NULL : "acme",
			     .key_len = op == OP_DEFAULT ? 0 : 4,
			     .placement = placement ? &placement->detail : NULL,
			     .placement_cluster_known = true,
			     .cluster_id = "c9"};
}

static void refused(const struct state *now, const struct state *dflt, struct step step, enum refusal_code expected)
{
	struct state after = {.epoch = 77, .at = &on_c3.detail};
	struct refusal r = {0};
	bool changed = true;

	assert_string_equal(refusal_name(machine_step(now, dflt, &step, &after, &changed, &r)), refusal_name(expected));
	assert_int_equal(r.code, expected);
	assert_true(strlen(r.message) > 0);
	assert_non_null(strstr(r.message, expected == R_UNKNOWN_CLUSTER ? "\"c9\""
					  : step.key                    ? "partition \"acme\""
									: "the default placement"));
	assert_true(after.epoch == 77 && after.at == &on_c3.detail && !after.to && changed);
}

static void refused_and_not_by_force(const struct state *now, const struct state *dflt, struct step step,
				     enum refusal_code expected)
{
	refused(now, dflt, step, expected);
	step.force = true;
	refused(now, dflt, step, expected);
}

static struct state done(const struct state *now, const struct state *dflt, struct step step, bool changes)
{
	struct state after = {.epoch = 77, .phase = PHASE_CUTOVER, .to = &on_c3.detail};
	struct refusal r = {0};
	bool changed = !changes;

	if (machine_step(now, dflt, &step, &after, &changed, &r) != R_DONE)
		fail_msg("%s is refused: %s", operation_name(step.op), r.message);
	assert_int_equal(changed, changes);
	return after;
}

static void is(struct state s, enum word_phase phase, const union detail_buffer *at, const union detail_buffer *to)
{
	assert_int_equal(s.phase, phase);
	assert_ptr_equal(s.at, at ? &at->detail : NULL);
	assert_ptr_equal(s.to, to ? &to->detail : NULL);
}

static struct step unknown(struct step step)
{
	step.placement_cluster_known = false;
	return step;
}

static struct step forced(struct step step)
{
	step.force = true;
	return step;
}

/* ---- transitions ------------------------------------------------------------------------------------------- */

static void set_places_and_replaces(void **state)
{
	(void)state;
	is(done(&nothing, &nothing, step_of(OP_SET, &on_c1), true), PHASE_SETTLED, &on_c1, NULL);
	is(done(&gone, &nothing, step_of(OP_SET, &on_c2), true), PHASE_SETTLED, &on_c2, NULL);
	is(done(&settled, &nothing, step_of(OP_SET, &on_c1_index), true), PHASE_SETTLED, &on_c1_index, NULL);
	is(done(&settled, &default_c2, forced(step_of(OP_SET, &on_c2)), true), PHASE_SETTLED, &on_c2, NULL);
	is(done(&nothing, &default_c1, step_of(OP_SET, &on_c1), true), PHASE_SETTLED, &on_c1, NULL);
	is(done(&nothing, &default_c1, forced(step_of(OP_SET, &on_c2)), true), PHASE_SETTLED, &on_c2, NULL);
}

static void what_is_there_already_is_unchanged(void **state)
{
	(void)state;
	struct state after = done(&settled, &default_c2, step_of(OP_SET, &on_c1_again), false);
	assert_int_equal(after.epoch, settled.epoch);
	is(after, PHASE_SETTLED, &on_c1, NULL);
	done(&settled, &nothing, forced(step_of(OP_SET, &on_c1)), false);
	done(&default_c1, &default_c1, step_of(OP_DEFAULT, &on_c1_again), false);
	done(&nothing, &nothing, step_of(OP_DEFAULT, NULL), false);
	done(&gone, &gone, step_of(OP_DEFAULT, NULL), false);
}

static void remove_leaves_nothing(void **state)
{
	(void)state;
	is(done(&settled, &nothing, step_of(OP_REMOVE, NULL), true), PHASE_SETTLED, NULL, NULL);
	is(done(&settled, &gone, step_of(OP_REMOVE, NULL), true), PHASE_SETTLED, NULL, NULL);
	is(done(&settled, &default_c1, step_of(OP_REMOVE, NULL), true), PHASE_SETTLED, NULL, NULL);
	is(done(&settled, &default_c2, forced(step_of(OP_REMOVE, NULL)), true), PHASE_SETTLED, NULL, NULL);
}

static void the_default_is_set_changed_and_unset(void **state)
{
	(void)state;
	is(done(&nothing, &nothing, step_of(OP_DEFAULT, &on_c1), true), PHASE_SETTLED, &on_c1, NULL);
	is(done(&default_c1, &default_c1, step_of(OP_DEFAULT, &on_c1_index), true), PHASE_SETTLED, &on_c1_index, NULL);
	is(done(&default_c1, &default_c1, forced(step_of(OP_DEFAULT, &on_c2)), true), PHASE_SETTLED, &on_c2, NULL);
	is(done(&default_c1, &default_c1, step_of(OP_DEFAULT, NULL), true), PHASE_SETTLED, NULL, NULL);
	struct step unset = step_of(OP_DEFAULT, NULL);
	unset.placement_cluster_known = false; /* there is none to know */
	is(done(&default_c1, &default_c1, unset, true), PHASE_SETTLED, NULL, NULL);
}

static void a_migration_goes_from_begin_through_cutover_to_complete(void **state)
{
	(void)state;
	struct state s = done(&settled, &default_c2, step_of(OP_BEGIN, &on_c2), true);
	is(s, PHASE_DRAINING, &on_c1, &on_c2);
	s = done(&s, &default_c2, step_of(OP_CUTOVER, NULL), true);
	is(s, PHASE_CUTOVER, &on_c1, &on_c2);
	s = done(&s, &default_c2, step_of(OP_COMPLETE, NULL), true);
	is(s, PHASE_SETTLED, &on_c2, NULL);
	is(done(&settled, &nothing, step_of(OP_BEGIN, &on_c1_index), true), PHASE_DRAINING, &on_c1, &on_c1_index);
}

static void abort_goes_back_from_either_phase(void **state)
{
	(void)state;
	is(done(&draining, &nothing, step_of(OP_ABORT, NULL), true), PHASE_SETTLED, &on_c1, NULL);
	is(done(&cut, &default_c2, step_of(OP_ABORT, NULL), true), PHASE_SETTLED, &on_c1, NULL);
}

/* ---- refusals ---------------------------------------------------------------------------------------------- */

static void unknown_cluster(void **state)
{
	(void)state;
	refused_and_not_by_force(&nothing, &nothing, unknown(step_of(OP_SET, &on_c2)), R_UNKNOWN_CLUSTER);
	refused_and_not_by_force(&settled, &nothing, unknown(step_of(OP_BEGIN, &on_c2)), R_UNKNOWN_CLUSTER);
	refused_and_not_by_force(&nothing, &nothing, unknown(step_of(OP_DEFAULT, &on_c2)), R_UNKNOWN_CLUSTER);
	/* before the others of set and default */
	refused(&draining, &default_c1, unknown(step_of(OP_SET, &on_c2)), R_UNKNOWN_CLUSTER);
	refused(&settled, &nothing, unknown(step_of(OP_SET, &on_c2)), R_UNKNOWN_CLUSTER);
	refused(&default_c1, &default_c1, unknown(step_of(OP_DEFAULT, &on_c2)), R_UNKNOWN_CLUSTER);
}

static void already_migrating(void **state)
{
	const struct state *const both[] = {&draining, &cut};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		refused_and_not_by_force(both[i], &nothing, step_of(OP_SET, &on_c1), R_ALREADY_MIGRATING);
		refused_and_not_by_force(both[i], &default_c2, step_of(OP_REMOVE, NULL), R_ALREADY_MIGRATING);
		refused_and_not_by_force(both[i], &nothing, step_of(OP_BEGIN, &on_c2), R_ALREADY_MIGRATING);
		/* before would-move, unknown-cluster and same-placement */
		refused(both[i], &nothing, step_of(OP_SET, &on_c3), R_ALREADY_MIGRATING);
		refused(both[i], &nothing, unknown(step_of(OP_BEGIN, &on_c3)), R_ALREADY_MIGRATING);
		refused(both[i], &nothing, step_of(OP_BEGIN, &on_c1), R_ALREADY_MIGRATING);
	}
}

static void would_move(void **state)
{
	(void)state;
	refused(&settled, &nothing, step_of(OP_SET, &on_c2), R_WOULD_MOVE);
	refused(&settled, &default_c2, step_of(OP_SET, &on_c2), R_WOULD_MOVE);
	refused(&nothing, &default_c1, step_of(OP_SET, &on_c2), R_WOULD_MOVE);
	refused(&gone, &default_c1, step_of(OP_SET, &on_c2), R_WOULD_MOVE);
	refused(&settled, &default_c2, step_of(OP_REMOVE, NULL), R_WOULD_MOVE);
	refused(&default_c1, &default_c1, step_of(OP_DEFAULT, &on_c2), R_WOULD_MOVE);
}

static void unknown_partition(void **state)
{
	const struct state *const both[] = {&nothing, &gone};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		refused_and_not_by_force(both[i], &default_c1, step_of(OP_REMOVE, NULL), R_UNKNOWN_PARTITION);
		refused_and_not_by_force(both[i], &default_c1, step_of(OP_BEGIN, &on_c2), R_UNKNOWN_PARTITION);
		refused_and_not_by_force(both[i], &default_c1, unknown(step_of(OP_BEGIN, &on_c2)), R_UNKNOWN_PARTITION);
		refused_and_not_by_force(both[i], &default_c1, step_of(OP_CUTOVER, NULL), R_UNKNOWN_PARTITION);
		refused_and_not_by_force(both[i], &default_c1, step_of(OP_COMPLETE, NULL), R_UNKNOWN_PARTITION);
		refused_and_not_by_force(both[i], &default_c1, step_of(OP_ABORT, NULL), R_UNKNOWN_PARTITION);
	}
}

static void same_placement(void **state)
{
	(void)state;
	refused_and_not_by_force(&settled, &nothing, step_of(OP_BEGIN, &on_c1_again), R_SAME_PLACEMENT);
	refused(&settled, &nothing, unknown(step_of(OP_BEGIN, &on_c1_again)), R_UNKNOWN_CLUSTER);
}

static void not_migrating(void **state)
{
	(void)state;
	refused_and_not_by_force(&settled, &nothing, step_of(OP_CUTOVER, NULL), R_NOT_MIGRATING);
	refused_and_not_by_force(&settled, &nothing, step_of(OP_COMPLETE, NULL), R_NOT_MIGRATING);
	refused_and_not_by_force(&settled, &nothing, step_of(OP_ABORT, NULL), R_NOT_MIGRATING);
}

static void not_draining(void **state)
{
	(void)state;
	refused_and_not_by_force(&cut, &nothing, step_of(OP_CUTOVER, NULL), R_NOT_DRAINING);
}

static struct step pending(struct step step)
{
	step.barrier = (struct barrier){.reason = "leases-open", .remaining_ms = 1200, .in_flight = 3};
	return step;
}

static void not_cutover(void **state)
{
	(void)state;
	refused_and_not_by_force(&draining, &nothing, step_of(OP_COMPLETE, NULL), R_NOT_CUTOVER);
	refused_and_not_by_force(&draining, &nothing, pending(step_of(OP_COMPLETE, NULL)), R_NOT_CUTOVER);
}

static void barrier_pending_with_its_reason_unless_forced(void **state)
{
	struct step step = pending(step_of(OP_COMPLETE, NULL));
	struct state after;
	struct refusal r = {0};
	bool changed;

	(void)state;
	refused(&cut, &nothing, step, R_BARRIER_PENDING);
	assert_int_equal(machine_step(&cut, &nothing, &step, &after, &changed, &r), R_BARRIER_PENDING);
	assert_string_equal(r.reason, "leases-open");
	assert_int_equal(r.remaining_ms, 1200);
	assert_int_equal(r.in_flight, 3);
	assert_true(refusal_retryable(r.code));
	is(done(&cut, &nothing, forced(step), true), PHASE_SETTLED, &on_c2, NULL);
	step.op = OP_ABORT; /* clears the barrier */
	is(done(&cut, &nothing, step, true), PHASE_SETTLED, &on_c1, NULL);
	step.op = OP_COMPLETE;
	refused(&settled, &nothing, step, R_NOT_MIGRATING);
	refused(&nothing, &nothing, step, R_UNKNOWN_PARTITION);
}

static void operations_have_their_names(void **state)
{
	(void)state;
	assert_string_equal(operation_name(OP_SET), "set");
	assert_string_equal(operation_name(OP_ABORT), "abort");
	assert_string_equal(operation_name((enum operation)99), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_places_and_replaces),
		cmocka_unit_test(what_is_there_already_is_unchanged),
		cmocka_unit_test(remove_leaves_nothing),
		cmocka_unit_test(the_default_is_set_changed_and_unset),
		cmocka_unit_test(a_migration_goes_from_begin_through_cutover_to_complete),
		cmocka_unit_test(abort_goes_back_from_either_phase),
		cmocka_unit_test(unknown_cluster),
		cmocka_unit_test(already_migrating),
		cmocka_unit_test(would_move),
		cmocka_unit_test(unknown_partition),
		cmocka_unit_test(same_placement),
		cmocka_unit_test(not_migrating),
		cmocka_unit_test(not_draining),
		cmocka_unit_test(not_cutover),
		cmocka_unit_test(barrier_pending_with_its_reason_unless_forced),
		cmocka_unit_test(operations_have_their_names),
	};

	return cmocka_run_group_tests(tests, make_states, NULL);
}
