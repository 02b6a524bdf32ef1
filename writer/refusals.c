/* SPDX-License-Identifier: MIT
 * Names of refusals, and filling one in. Called by whoever refuses, on any thread; keeps no state. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "refusals.h"

static const struct {
	const char *name;
	bool retryable;
} rows[R_COUNT] = {
#define REFUSAL_ROW(e, code, retry) [e] = {code, retry},
	REFUSALS(REFUSAL_ROW)
#undef REFUSAL_ROW
};

const char *refusal_name(enum refusal_code code)
{
	return (unsigned)code < R_COUNT ? rows[code].name : "unknown";
}

bool refusal_retryable(enum refusal_code code)
{
	return (unsigned)code < R_COUNT && rows[code].retryable;
}

/* What was too long for its field ends before a character, not within one: it goes into JSON. */
static void cut_at_character(char *text, size_t room, int wanted)
{
	if (wanted >= 0 && (size_t)wanted < room)
		return;
	size_t len = strlen(text), start = len;
	while (start && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
		start--;
	if (start == 0)
		return;
	unsigned char lead = (unsigned char)text[start - 1];
	size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
	if (len - (start - 1) < need)
		text[start - 1] = '\0';
}

static void fill(struct refusal *r, enum refusal_code code, const char *path, const char *format, va_list arguments)
{
	r->code = code;
	r->reason = NULL;
	r->remaining_ms = 0;
	r->in_flight = 0;
	r->packet = false;
	r->n_pids = 0;
	cut_at_character(r->path, sizeof(r->path), snprintf(r->path, sizeof(r->path), "%s", path));
	cut_at_character(r->message, sizeof(r->message), vsnprintf(r->message, sizeof(r->message), format, arguments));
}

enum refusal_code refuse(struct refusal *r, enum refusal_code code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fill(r, code, "", format, arguments);
	va_end(arguments);
	return code;
}

enum refusal_code refuse_at(struct refusal *r, enum refusal_code code, const char *path, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fill(r, code, path, format, arguments);
	va_end(arguments);
	return code;
}

enum refusal_code refuse_under(struct refusal *r, enum refusal_code code, const char *format, ...)
{
	char path[sizeof(r->path)];
	va_list arguments;

	if (code == R_DONE)
		return code;
	va_start(arguments, format);
	int step = vsnprintf(path, sizeof(path), format, arguments);
	va_end(arguments);
	if (step >= 0 && (size_t)step < sizeof(path)) {
		size_t room = sizeof(path) - (size_t)step, rest = strlen(r->path);
		memcpy(path + step, r->path, rest < room ? rest : room - 1);
		path[(size_t)step + (rest < room ? rest : room - 1)] = '\0';
		step += (int)rest;
	}
	cut_at_character(path, sizeof(path), step);
	memcpy(r->path, path, strlen(path) + 1);
	return code;
}
