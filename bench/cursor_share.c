/* SPDX-License-Identifier: MIT
 * --cursor-owner-share: one owner floods, and another owner's pins, older than all of those, are counted afterwards. With
 * a share of half of the capacity, of which the other owner has used all, so that the table is full; and without a share. */
#include <stdio.h>

#include "cursor.h"

#define CAPACITY 10000u
#define FLOOD 5u /* times the capacity */
#define OWNER_QUIET 1u
#define OWNER_LOUD 2u

/* How many of the quiet owner's are left. */
static uint64_t measure(const struct bench *b, unsigned share)
{
	static struct pins p;
	uint64_t number = 0, left = 0, first_loud, now;

	pins_make(b, &p, "share", ID_SHORT,
		  &(struct daemon_how){.cpu = -1, .cursor_capacity = CAPACITY, .cursor_share = share});
	for (unsigned i = 0; i < CAPACITY / 2; i++)
		pin_one(&p, number++ * OWNERS + OWNER_QUIET, PIN_WAIT_MS);
	first_loud = number;
	for (unsigned i = 0; i < FLOOD * CAPACITY; i++)
		pin_one(&p, number++ * OWNERS + OWNER_LOUD, i + 1 == FLOOD * CAPACITY ? PIN_WAIT_MS : 0);
	pins_expect(&p, CAPACITY);
	now = boottime_ms();
	for (uint64_t i = 0; i < first_loud; i++)
		left += pin_seen(&p, i * OWNERS + OWNER_QUIET, now);
	for (uint64_t i = number - (CAPACITY - left); i < number; i++)
		if (!pin_seen(&p, i * OWNERS + OWNER_LOUD, now))
			fail("the newest pins of the flood are not there");
	pins_remove(&p);
	return left;
}

void cursor_share(const struct bench *b)
{
	struct figure f = {.workload = "cursor", .unit = "pins", .at_least = true};

	for (unsigned share = 50;; share = 0) {
		f.s.n = 0;
		add_sample(&f.s, (double)measure(b, share));
		f.goal = share ? CAPACITY / 2 : 0;
		snprintf(f.name, sizeof(f.name), "of %u pins left by another owner's flood", CAPACITY / 2);
		snprintf(f.parameters, sizeof(f.parameters), "owner_share=%u", share);
		report(b, &f);
		if (!share)
			break;
	}
}
