/* SPDX-License-Identifier: MIT
 * When which pin ends: a timer wheel of milliseconds. Four levels of 4096 lists cover all 48 bits of an expiry; a pin lies
 * in the level of the highest digit (of 12 bits) in which its expiry and the wheel's time differ, and comes down a level
 * when the wheel's time reaches that digit: three times at most, once for a pin of five minutes. So putting in, taking out
 * and, for each pin, becoming due cost O(1); bitmaps skip the empty lists. Private memory of the cursor thread: called by
 * cursor_table.c and cursor_open.c alone. Allocates once, reads no clock, touches no shared memory. */
#ifndef BERTH_WRITER_CURSOR_WHEEL_H
#define BERTH_WRITER_CURSOR_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#define WHEEL_BITS 12u
#define WHEEL_LISTS (1u << WHEEL_BITS)
#define WHEEL_LEVELS 4u

/* What the writer knows of one pin beside its slot: half a cache line, so that a change touches few. Links are 1 + the
 * number of a slot, the index into the array of notes; 0 is none. */
struct cursor_note {
	/* the wheel's */
	uint64_t expiry_ms;
	uint32_t before, after;
	uint32_t list;
	/* the table's */
	uint32_t bucket;
	uint32_t older, younger; /* in the order of pinning; younger: the next free one, too */
};
_Static_assert(sizeof(struct cursor_note) == 32, "two notes a cache line");

struct wheel_level {
	uint32_t first[WHEEL_LISTS];
	uint64_t some[WHEEL_LISTS / 64]; /* a bit for each list that is not empty */
	uint64_t any;                    /* a bit for each word of `some` that is not 0 */
};

struct cursor_wheel {
	struct cursor_note *notes;
	struct wheel_level *levels;
	uint64_t now_ms;   /* nothing in it ends before, but what was put in late */
	uint32_t bringing; /* the list that is being brought down a level; 0: none (it is none of the lowest level) */
};

/* False: no memory. notes stay the caller's. */
bool wheel_open(struct cursor_wheel *, struct cursor_note *notes, uint64_t now_ms);
void wheel_close(struct cursor_wheel *);

void wheel_put(struct cursor_wheel *, uint32_t at, uint64_t expiry_ms);
void wheel_take(struct cursor_wheel *, uint32_t at);
void wheel_move(struct cursor_wheel *, uint32_t at, uint64_t expiry_ms);
/* One whose expiry is now_ms or earlier; it stays where it is until it is taken. 0: none; or, with *work 0, that is not
 * known yet. *work: how many may be brought down a level on the way. */
uint32_t wheel_due(struct cursor_wheel *, uint64_t now_ms, unsigned *work);

#endif
