/* SPDX-License-Identifier: MIT
 * Writes that begin, and a cutover at each of their instructions (steps.h): whoever was admitted by what was before it has a
 * lease that the drain could see. */
#include <string.h>

#include "steps.h"

#define MOVED "moved-tenant"
static uint64_t draining_at;       /* epoch of the entry before the cutover */
static struct reader_place *place; /* for checks that undo it */

/* What a drain would see in the moment of the cutover. */
static bool lease_seen;

static void cut_over(struct reader_place *p, unsigned n)
{
	(void)n;
	place_phase(p, MOVED, PHASE_CUTOVER);
	lease_seen = slots_of(p, 0, NULL).open != 0;
}

static void draining_again(struct reader_place *p)
{
	static unsigned cluster;

	cluster = cluster % 2 + 1;
	draining_at = place_begin(p, MOVED, cluster, NULL);
}

static void check_begun(const struct answer *a)
{
	if (a->code == BERTH_OK && !lease_seen)
		fail_msg("after %u instructions: admitted, and no lease was to be seen at the cutover", steps_made);
	if (a->code == BERTH_OK && a->epoch != draining_at)
		fail_msg("after %u instructions: admitted at epoch %llu", steps_made, (unsigned long long)a->epoch);
	if (a->code != BERTH_OK && a->code != BERTH_E_CUTOVER)
		fail_msg("after %u instructions: %s", steps_made, berth_strerror(a->code));
	if (slots_of(place, 0, NULL).open)
		fail_msg("after %u instructions: a lease was left behind", steps_made);
	place_phase(place, MOVED, PHASE_SETTLED);
	draining_again(place);
}

static void admitted_write_was_to_be_seen_at_every_instruction(void **state)
{
	struct reader_place *p = *state;

	place = p;
	place_set(p, MOVED, 1, "index-1");
	draining_again(p);
	serve(p, ANSWER_REGISTER);
	at_each_instruction(p, MOVED, BEGIN, 1, cut_over, check_begun);
}

/* ---- of the default ---- */

static uint64_t default_at;

/* The partition gets an entry where it is, and is cut over. */
static void enters_and_is_cut_over(struct reader_place *p, unsigned n)
{
	place_set(p, MOVED, 1, NULL);
	place_begin(p, MOVED, 2, NULL);
	cut_over(p, n);
}

static void check_begun_by_default(const struct answer *a)
{
	if (a->code == BERTH_OK && !lease_seen)
		fail_msg("after %u instructions: admitted by the default, and no lease was to be seen at the cutover",
			 steps_made);
	if (a->code == BERTH_OK && (a->epoch != default_at || a->cluster != 1))
		fail_msg("after %u instructions: admitted at epoch %llu, cluster %u", steps_made,
			 (unsigned long long)a->epoch, a->cluster);
	if (a->code != BERTH_OK && a->code != BERTH_E_CUTOVER)
		fail_msg("after %u instructions: %s", steps_made, berth_strerror(a->code));
	if (slots_of(place, 0, NULL).open)
		fail_msg("after %u instructions: a lease was left behind", steps_made);
	place_phase(place, MOVED, PHASE_SETTLED);
	place_remove(place, MOVED);
	reclaim(place);
}

static void write_by_default_was_to_be_seen_at_every_instruction(void **state)
{
	struct reader_place *p = *state;

	place = p;
	default_at = place_set(p, NULL, 1, NULL);
	serve(p, ANSWER_REGISTER);
	for (enum call call = BEGIN; call <= BEGIN_BULK; call++)
		at_each_instruction(p, MOVED, call, call == BEGIN ? 2 : 5 /* a way of many hundreds */,
				    enters_and_is_cut_over, check_begun_by_default);
}

/* ---- a writer that starts ---- */

static void check_begun_anew(const struct answer *a)
{
	if (a->code != BERTH_OK || a->cluster != 1)
		fail_msg("after %u instructions: %s, cluster %u", steps_made, berth_strerror(a->code), a->cluster);
}

static void restart_of_the_writer_keeps_the_lease_at_every_instruction(void **state)
{
	place = *state;
	place_set(place, MOVED, 1, "index-1");
	serve(place, ANSWER_REGISTER);
	at_each_instruction(place, MOVED, BEGIN, 3, restart_it, check_begun_anew);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(admitted_write_was_to_be_seen_at_every_instruction),
		IN_PLACE(write_by_default_was_to_be_seen_at_every_instruction),
		IN_PLACE(restart_of_the_writer_keeps_the_lease_at_every_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
