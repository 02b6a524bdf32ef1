/* SPDX-License-Identifier: MIT
 * The timer wheel of pins (cursor_wheel.h). The cursor thread. Knows neither slots nor owners. */
#include "cursor_wheel.h"

#include <stdlib.h>

#define NONE UINT64_MAX

static unsigned digit(uint64_t ms, unsigned level)
{
	return (unsigned)(ms >> level * WHEEL_BITS) & (WHEEL_LISTS - 1);
}

static struct wheel_level *level_of(const struct cursor_wheel *w, uint32_t list)
{
	return &w->levels[list >> WHEEL_BITS];
}

bool wheel_open(struct cursor_wheel *w, struct cursor_note *notes, uint64_t now_ms)
{
	*w = (struct cursor_wheel){.notes = notes, .now_ms = now_ms};
	w->levels = calloc(WHEEL_LEVELS, sizeof *w->levels);
	return w->levels != NULL;
}

void wheel_close(struct cursor_wheel *w)
{
	free(w->levels);
	w->levels = NULL;
}

static uint32_t list_for(const struct cursor_wheel *w, uint64_t expiry_ms)
{
	uint64_t at_ms = expiry_ms < w->now_ms ? w->now_ms : expiry_ms;
	unsigned differ = 63u - (unsigned)__builtin_clzll((at_ms ^ w->now_ms) | 1);
	unsigned level = differ / WHEEL_BITS;

	if (level >= WHEEL_LEVELS)
		level = WHEEL_LEVELS - 1;
	return level << WHEEL_BITS | digit(at_ms, level);
}

static void put(struct cursor_wheel *w, uint32_t at, uint32_t list)
{
	struct wheel_level *l = level_of(w, list);
	struct cursor_note *n = &w->notes[at];
	unsigned i = list & (WHEEL_LISTS - 1);

	n->list = list;
	n->before = 0;
	n->after = l->first[i];
	if (n->after)
		w->notes[n->after].before = at;
	l->first[i] = at;
	l->some[i / 64] |= 1ull << i % 64;
	l->any |= 1ull << i / 64;
}

void wheel_put(struct cursor_wheel *w, uint32_t at, uint64_t expiry_ms)
{
	w->notes[at].expiry_ms = expiry_ms;
	put(w, at, list_for(w, expiry_ms));
}

void wheel_take(struct cursor_wheel *w, uint32_t at)
{
	const struct cursor_note *n = &w->notes[at];
	struct wheel_level *l = level_of(w, n->list);
	unsigned i = n->list & (WHEEL_LISTS - 1);

	if (n->after)
		w->notes[n->after].before = n->before;
	if (n->before) {
		w->notes[n->before].after = n->after;
		return;
	}
	l->first[i] = n->after;
	if (n->after)
		return;
	l->some[i / 64] &= ~(1ull << i % 64);
	if (l->some[i / 64] == 0)
		l->any &= ~(1ull << i / 64);
}

void wheel_move(struct cursor_wheel *w, uint32_t at, uint64_t expiry_ms)
{
	uint32_t list = list_for(w, expiry_ms);

	w->notes[at].expiry_ms = expiry_ms;
	if (list == w->notes[at].list)
		return;
	wheel_take(w, at);
	put(w, at, list);
}

/* The first list behind number `i` that is not empty; WHEEL_LISTS: none. */
static unsigned next_list(const struct wheel_level *l, unsigned i)
{
	unsigned word = i / 64;
	uint64_t bits = i % 64 == 63 ? 0 : l->some[word] & ~0ull << (i % 64 + 1);

	if (bits)
		return word * 64 + (unsigned)__builtin_ctzll(bits);
	bits = word == 63 ? 0 : l->any & ~0ull << (word + 1);
	if (!bits)
		return WHEEL_LISTS;
	word = (unsigned)__builtin_ctzll(bits);
	return word * 64 + (unsigned)__builtin_ctzll(l->some[word]);
}

/* When something becomes due, or is to be brought down; NONE: never. The lists of the wheel's own digits are empty. */
static uint64_t next_time(const struct cursor_wheel *w, uint32_t *list)
{
	for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
		unsigned i = next_list(&w->levels[level], digit(w->now_ms, level));

		if (i < WHEEL_LISTS) {
			*list = level << WHEEL_BITS | i;
			return w->now_ms >> (level + 1) * WHEEL_BITS << (level + 1) * WHEEL_BITS |
			       (uint64_t)i << level * WHEEL_BITS;
		}
	}
	return NONE;
}

static bool bring_down(struct cursor_wheel *w, unsigned *work)
{
	const uint32_t *first = &level_of(w, w->bringing)->first[w->bringing & (WHEEL_LISTS - 1)];

	while (*first) {
		uint32_t at = *first;

		if (*work == 0)
			return false;
		--*work;
		wheel_take(w, at);
		put(w, at, list_for(w, w->notes[at].expiry_ms));
	}
	w->bringing = 0;
	return true;
}

uint32_t wheel_due(struct cursor_wheel *w, uint64_t now_ms, unsigned *work)
{
	while (now_ms >= w->now_ms) {
		uint32_t list = 0, at;
		uint64_t next_ms;

		if (w->bringing && !bring_down(w, work))
			return 0;
		at = w->levels[0].first[digit(w->now_ms, 0)];
		if (at || now_ms == w->now_ms)
			return at;
		next_ms = next_time(w, &list);
		if (next_ms > now_ms) {
			w->now_ms = now_ms;
			return 0;
		}
		w->now_ms = next_ms;
		w->bringing = list >= WHEEL_LISTS ? list : 0;
	}
	return 0;
}
