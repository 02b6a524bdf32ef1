/* SPDX-License-Identifier: MIT
 * torture_crash.h: scenes of leases, departures and deaths. Judged: no `complete` is acknowledged while the lease of a
 * living process is open, nor before a barrier after the death or the unknown end of one. */
#include "torture_crash.h"

#define DO_MS 60000u
#define BARRIER_MS 150 /* longer than a start takes: what is lost with a death is seen */

static void move_to_cutover(struct crash *c, unsigned key)
{
	cr_begin(c, key, 1 + c->cells[key].cluster % 3);
	cr_cutover(c, key);
}

static void complete_at_last(struct crash *c, unsigned key)
{
	uint64_t until = mp_now_ms() + DO_MS;

	while (!cr_complete(c, key, false, 5 * BARRIER_MS))
		if (mp_now_ms() > until)
			fail_msg("%s: the migration does not complete\n%s", c->where, cr_log(c));
}

static void attach_and_complete(struct crash *c)
{
	cr_comes(c, 0, BERTH_WRITES_BRACKETED, false);
	move_to_cutover(c, 3);
	complete_at_last(c, 3);
}

static void lease_in_the_way(struct crash *c)
{
	cr_tell_ok(c, 0, WRITE_BEGIN, 5, 0);
	move_to_cutover(c, 5);
	for (unsigned i = 0; i < 2; i++) {
		if (cr_complete(c, 5, false, 0))
			fail_msg("%s: INV-M5: complete was acknowledged over an open lease\n%s", c->where, cr_log(c));
		if (i == 0)
			cr_restart(c);
	}
	cr_tell_ok(c, 0, WRITE_END, 5, BERTH_DONE);
	complete_at_last(c, 5);
}

static void not_before_the_barrier(struct crash *c, unsigned key, uint64_t ended_ms)
{
	complete_at_last(c, key);
	if (mp_now_ms() < ended_ms + BARRIER_MS)
		fail_msg("%s: INV-M5: complete was acknowledged %llu ms after the end of a write, barrier %u\n%s",
			 c->where, (unsigned long long)(mp_now_ms() - ended_ms), BARRIER_MS, cr_log(c));
}

static void unknown_end(struct crash *c)
{
	uint64_t ended;

	cr_tell_ok(c, 0, WRITE_BEGIN, 6, 0);
	move_to_cutover(c, 6);
	ended = mp_now_ms();
	cr_tell_ok(c, 0, WRITE_END, 6, BERTH_UNKNOWN);
	not_before_the_barrier(c, 6, ended);
}

static void death_over_a_lease(struct crash *c)
{
	uint64_t ended;

	cr_comes(c, 1, BERTH_WRITES_BRACKETED, false);
	cr_tell_ok(c, 1, WRITE_BEGIN, 7, 0);
	move_to_cutover(c, 7);
	ended = mp_now_ms();
	cr_child_dies(c, 1);
	not_before_the_barrier(c, 7, ended);
	cr_await(c, "readers", 1, 1);
}

static void death_and_restart(struct crash *c)
{
	uint64_t ended;

	cr_comes(c, 1, BERTH_WRITES_BRACKETED, false);
	cr_tell_ok(c, 1, WRITE_BEGIN, 2, 0);
	cr_tell_ok(c, 1, WRITE_BEGIN, 1, 0);
	move_to_cutover(c, 2);
	if (!cr_dead(c, false))
		cr_kill(c);
	ended = mp_now_ms();
	cr_child_dies(c, 1);
	cr_settle(c);
	not_before_the_barrier(c, 2, ended);
	cr_restart(c); /* what it left is older than the barrier now */
	cr_await(c, "readers", 1, 1);
}

/* More unknown ends in one barrier than slots keep: the last is kept without its partition, so all of them wait. */
static void death_over_an_overflow(struct crash *c)
{
	uint64_t first, ended = 0;

	cr_comes(c, 1, BERTH_WRITES_BRACKETED, false);
	do {
		first = mp_now_ms();
		for (unsigned i = 0; i < 4; i++) {
			cr_tell_ok(c, 1, WRITE_BEGIN, 4, 0);
			ended = mp_now_ms();
			cr_tell_ok(c, 1, WRITE_END, 4, BERTH_UNKNOWN);
		}
	} while (mp_now_ms() - first >= BARRIER_MS); /* the daemon died meanwhile, and slots are free again */
	cr_child_dies(c, 1);
	cr_await(c, "readers", 1, 1);
	cr_restart(c); /* the ledger alone has it now */
	move_to_cutover(c, 0);
	not_before_the_barrier(c, 0, ended);
}

static void unbracketed_departure(struct crash *c)
{
	cr_comes(c, 1, BERTH_WRITES_UNBRACKETED, false);
	cr_departs(c, 1, 1);
}

static void all_depart(struct crash *c)
{
	cr_departs(c, 0, 0);
}

static const struct cr_step leases[] = {{"attach, complete", attach_and_complete, CR_PLAIN},
					{"a lease in the way", lease_in_the_way, CR_PLAIN},
					{"an unknown end", unknown_end, CR_PLAIN},
					{"a death over a lease", death_over_a_lease, CR_PLAIN},
					{"a death over a lease while no daemon runs", death_and_restart, CR_PLAIN},
					{"a death over an overflow", death_over_an_overflow, CR_PLAIN},
					{"a departure without leases", unbracketed_departure, CR_PLAIN},
					{"departure", all_depart, CR_PLAIN},
					{NULL, NULL, CR_PLAIN}};

#define TEXT_(n) #n
#define TEXT(n) TEXT_(n)
const struct cr_scene cr_lease_scenes[] = {
	{"leases, memory", "memory", 0, false, cr_children_open, NULL, leases, {"--barrier-ms", TEXT(BARRIER_MS)}},
	{NULL, NULL, 0, false, NULL, NULL, NULL, {NULL}}};
