/* SPDX-License-Identifier: MIT
 * torture_crash.h: scenes of files that are used again: what a dead writer left half-built, an old table that a reader
 * held back until after removals, a start and a growth. Whatever is in such a file, and whenever the writer dies on the way
 * from one use to the next, nothing of it is ever seen again. */
#include "torture_crash.h"

#define STANDING 8u
#define FULL_FIRST 8u
#define FULL 24u /* without a growth */
#define GROWING_FIRST 40u
#define GROWING 110u

static void held_open(struct crash *c)
{
	cr_children_open(c);
	cr_await_reserve(c);
}

static void full(struct crash *c)
{
	for (unsigned i = FULL_FIRST; i < FULL_FIRST + FULL; i++)
		cr_set(c, i, 1, true);
	cr_await_rest(c);
}

/* What it is built in is the reserve; what was in force becomes the next one. */
static void restart_full(struct crash *c)
{
	cr_restart(c);
	cr_await_reserve(c);
}

/* Half of it goes, the other half is elsewhere. */
static void emptied(struct crash *c)
{
	for (unsigned i = 0; i < FULL_FIRST + FULL; i++) {
		if (i % 2)
			cr_remove(c, i);
		else
			cr_set(c, i, 3, true);
	}
	cr_compare(c);
	for (unsigned i = 0; i < STANDING; i++)
		cr_set(c, i, 1 + i % 2, true);
	cr_await_reserve(c);
}

/* A reader stays in the table of before: its file waits, and the next ones are made anew. */
static void held_over_a_start(struct crash *c)
{
	full(c);
	cr_comes(c, 0, BERTH_WRITES_NONE, false);
	cr_tell_ok(c, 0, ENTER, 0, 0);
	cr_restart(c);
	for (unsigned i = FULL_FIRST; i < FULL_FIRST + FULL; i++)
		cr_remove(c, i);
	cr_set_many(c, GROWING_FIRST, GROWING, 2);
	cr_compare(c);
}

static void let_go(struct crash *c)
{
	cr_tell_ok(c, 0, LEAVE, 0, 0);
	cr_departs(c, 0, 0);
	cr_await_rest(c);
	cr_compare(c);
}

/* Into what has become of the old files: by a start, and by growths of it. */
static void used_again(struct crash *c)
{
	for (unsigned i = STANDING; i < CR_KEYS; i++)
		if (c->cells[i].state)
			cr_remove(c, i);
	cr_restart(c);
	cr_await_reserve(c);
	cr_set_many(c, GROWING_FIRST, GROWING, 1);
	cr_compare(c);
	for (unsigned i = STANDING; i < CR_KEYS; i++)
		if (c->cells[i].state)
			cr_remove(c, i);
	cr_compare(c);
	cr_restart(c);
	cr_await_reserve(c);
}

static const struct cr_step held[] = {{"a full table", full, CR_PLAIN},
				      {"a start of a full table", restart_full, CR_AGAIN},
				      {"removals after it", emptied, CR_PLAIN},
				      {"a table held over a start and a growth", held_over_a_start, CR_PLAIN},
				      {"let go", let_go, CR_PLAIN},
				      {"used again", used_again, CR_PLAIN},
				      {NULL, NULL, CR_PLAIN}};

#define BARRIER "--barrier-ms", "60"
const struct cr_scene cr_held_scenes[] = {
	{"files used again, memory", "memory", 0, false, held_open, NULL, held, {BARRIER}},
	{"files used again, sqlite", "sqlite", 0, false, held_open, NULL, held, {BARRIER}},
	{NULL, NULL, 0, false, NULL, NULL, NULL, {NULL}}};
