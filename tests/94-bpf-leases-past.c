/* SPDX-License-Identifier: MIT
 * Leases of packet programs that outlive a daemon, or the mirror that they were taken in. */
#include <stdio.h>
#include <unistd.h>

#include "child.h"
#include "lease_place.h"

#define LONG "30000"
#define MIDDLE "2000" /* the daemon is there again before it has passed, also on a busy machine */
#define SHORT "400"
#define SHORT_MS 400
#define SOON_MS 5000 /* an exact drain takes far less, one that waits for LONG more */

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

/* Is there a pin of a past mirror? */
static bool past_pinned(const struct lease_place *p)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/past-0-control", p->bpf.pins);
	return access(path, F_OK) == 0;
}

/* However long it takes: a write that a client sends slowly, or a node answers late, outlives its mirror by more than any
 * barrier. */
static void what_is_open_in_a_mirror_that_goes_holds_back_until_it_has_ended(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", SHORT);
	uint64_t end_ms, deadline = 0;

	drain_put(&p->drain, "p");
	drain_put(&p->drain, "q");
	drain_put(&p->drain, "r");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	assert_int_equal(lease_begin(p, "q", 0, 40000), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_int_equal(daemon_stop(&p->drain.d), 0);
	lease_restart(p, SHORT, false);
	assert_true(past_pinned(p));
	assert_int_equal(lease_begin(p, "p", 0, 2), LEASE_PASS);
	usleep(2 * SHORT_MS * 1000); /* no barrier ends it */
	lease_held(p, "p", "leases-open", 1);
	drain_cut_over(&p->drain, "r");
	assert_true(lease_complete(p, "r") < SHORT_MS); /* nor does it hold back anybody else */
	drain_cut_over(&p->drain, "q");
	lease_held(p, "q", "leases-open", 1);
	daemon_kill(&p->drain.d);
	lease_restart(p, SHORT, false); /* nor a writer that never had the mirror, */
	lease_held(p, "p", "leases-open", 1);
	lease_held(p, "q", "leases-open", 1);
	daemon_kill(&p->drain.d);
	lease_restart(p, SHORT, true); /* nor one that has another */
	lease_held(p, "p", "leases-open", 1);
	assert_int_equal(lease_end(p, 1, LEASE_DONE), LEASE_OK);
	assert_true(lease_complete(p, "p") < SOON_MS);
	end_ms = test_now_ms();
	assert_int_equal(lease_end(p, 40000, LEASE_NOT_KNOWN), LEASE_OK);
	assert_in_range(lease_await_complete(p, "q", SOON_MS) - end_ms, SHORT_MS + 10, SOON_MS);
	while (past_pinned(p)) { /* it goes when it is over */
		assert_true(within(&deadline));
		drain_put(&p->drain, "z"); /* the writer's upkeep runs behind changes */
		wire_do(&p->drain.admin, "remove", "{s:s,s:b}", "partition", "z", "force", 1);
	}
}

static void an_unknown_end_outlives_its_mirror_by_a_barrier(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", SHORT);
	uint64_t gone_ms;

	drain_put(&p->drain, "p");
	assert_int_equal(lease_begin(p, "p", 0, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	gone_ms = test_now_ms();
	assert_int_equal(lease_end(p, 1, LEASE_NOT_KNOWN), LEASE_OK);
	assert_int_equal(daemon_stop(&p->drain.d), 0);
	lease_restart(p, SHORT, false);
	assert_false(past_pinned(p));
	assert_in_range(lease_await_complete(p, "p", SOON_MS) - gone_ms, SHORT_MS + 10, SOON_MS);
}

static void that_a_program_wrote_without_leases_outlives_its_mirror(void **state)
{
	struct lease_place *p = lease_place(state, "sqlite", MIDDLE);
	struct lease_call call = {.op = LEASE_ADMIT, .len = 1, .key = "p"};
	json_t *data;

	drain_put(&p->drain, "p");
	call.epoch = lease_epoch_of(p, "p");
	assert_int_equal(lease_run(p, &call, 1), LEASE_OK);
	drain_cut_over(&p->drain, "p");
	assert_int_equal(daemon_stop(&p->drain.d), 0);
	lease_restart(p, MIDDLE, false);
	drain_send_complete(&p->drain.admin, "p", 0);
	data = drain_pending(wire_answer(&p->drain.admin), "reader-without-leases");
	json_decref(data);
	lease_await_complete(p, "p", SOON_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEASE_TEST(leases_outlive_the_daemon),
		LEASE_TEST(what_is_open_in_a_mirror_that_goes_holds_back_until_it_has_ended),
		LEASE_TEST(an_unknown_end_outlives_its_mirror_by_a_barrier),
		LEASE_TEST(that_a_program_wrote_without_leases_outlives_its_mirror),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
