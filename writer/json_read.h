/* SPDX-License-Identifier: MIT
 * Strict JSON text to jansson values, for requests. jansson's own parser takes most of the time of a small change (it
 * reads through a function per character); this one makes the same values from the same texts in a quarter of it, and
 * bounds depth while it goes. tests/15-json-read.c holds the two against each other. Pure, any thread. */
#ifndef BERTH_WRITER_JSON_READ_H
#define BERTH_WRITER_JSON_READ_H

#include <jansson.h>
#include <stddef.h>

#define JSON_READ_KEY_MAX 255u /* bytes of a member's name */

struct json_fault {
	const char *why; /* static; NULL: out of memory */
	size_t at;       /* byte */
};

/* One object or array and nothing else. Refused: what RFC 8259 does not allow, duplicate names, names longer than
 * JSON_READ_KEY_MAX, NUL in strings, lone surrogates, integers beyond 64 bits, nesting deeper than depth_max. New
 * reference, or NULL with *fault filled. */
json_t *json_read(const char *text, size_t len, unsigned depth_max, struct json_fault *fault);

#endif
