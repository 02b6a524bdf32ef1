/* SPDX-License-Identifier: MIT
 * Watches a stream of JSON for \u escapes that are half a surrogate pair. yajl would read those as other text than was
 * written, so that two documents could mean the same: they are refused instead. Used by document.c; pure. */
#ifndef BERTH_WRITER_ESCAPES_H
#define BERTH_WRITER_ESCAPES_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct escapes { /* all zero at the start of a stream */
	enum { ESCAPE_NONE, ESCAPE_BACKSLASH, ESCAPE_HEX } at;
	unsigned n_hex, unit;
	bool half; /* a high surrogate was read: the low one must follow */
};

/* The four digits are complete. */
static inline bool escapes_unit_good(struct escapes *e)
{
	bool high = e->unit >= 0xd800 && e->unit < 0xdc00, low = e->unit >= 0xdc00 && e->unit < 0xe000;
	bool good = low == e->half;

	e->half = high;
	return good;
}

/* How many of the next len bytes may be read: len, or less when the one after them shows a broken pair. What is no
 * escape at all passes, for the JSON reader to refuse. */
static inline size_t escapes_scan(struct escapes *e, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char c = s[i];
		if (e->at == ESCAPE_NONE && e->half && c != '\\')
			return i;
		if (e->at == ESCAPE_NONE) {
			const char *next = memchr(s + i, '\\', len - i);
			if (!next)
				return len;
			i = (size_t)(next - s);
			e->at = ESCAPE_BACKSLASH;
		} else if (e->at == ESCAPE_BACKSLASH) {
			if (e->half && c != 'u')
				return i;
			e->at = c == 'u' ? ESCAPE_HEX : ESCAPE_NONE;
			e->n_hex = e->unit = 0;
		} else {
			unsigned lower = (unsigned char)c | 0x20u;
			unsigned digit = c >= '0' && c <= '9' ? lower - '0' : lower - 'a' + 10;
			if (digit > 15) {
				*e = (struct escapes){0};
				continue;
			}
			e->unit = e->unit << 4 | digit;
			if (++e->n_hex < 4)
				continue;
			e->at = ESCAPE_NONE;
			if (!escapes_unit_good(e))
				return i;
		}
	}
	return len;
}

#endif
