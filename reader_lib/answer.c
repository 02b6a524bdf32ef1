/* SPDX-License-Identifier: MIT
 * The writer's answer to `attach` and `reattach`: one line of JSON-RPC 2.0, of which only three places matter, so that
 * libberth needs no JSON library: is there a `result`, or an `error`, and what is error.data.code. Pure, any thread;
 * reads nothing behind the NUL that ends the line. */
#include <string.h>

#include "internal.h"

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')
		p++;
	return p;
}

/* p at the opening quote; returns what follows the closing one, NULL when there is none. */
static const char *skip_string(const char *p)
{
	for (p++; *p && *p != '"'; p++)
		if (*p == '\\' && *++p == 0)
			return NULL;
	return *p ? p + 1 : NULL;
}

/* Behind the value at p: a string, a number or word, or everything between matching brackets. */
static const char *skip_value(const char *p)
{
	unsigned depth = 0;

	do {
		p = skip_space(p);
		if (*p == '"') {
			p = skip_string(p);
			if (!p)
				return NULL;
		} else if (*p == '{' || *p == '[') {
			depth++;
			p++;
		} else if (*p == '}' || *p == ']') {
			if (depth == 0)
				return NULL;
			depth--;
			p++;
		} else if (*p == ',' || *p == ':') {
			if (depth == 0)
				return NULL;
			p++;
		} else {
			size_t n = strcspn(p, " \t\r\n\",:{}[]");

			if (n == 0)
				return NULL; /* the end of the line, too early */
			p += n;
		}
	} while (depth > 0);
	return p;
}

/* The value of a member of the object at p; NULL when there is none, or no object. */
static const char *member(const char *p, const char *name)
{
	size_t len = strlen(name);

	if (!p || *p != '{')
		return NULL;
	p = skip_space(p + 1);
	while (*p == '"') {
		const char *key = p + 1, *end = skip_string(p);
		bool found;

		if (!end)
			return NULL;
		found = (size_t)(end - 1 - key) == len && memcmp(key, name, len) == 0;
		p = skip_space(end);
		if (*p != ':')
			return NULL;
		p = skip_space(p + 1);
		if (found)
			return p;
		p = skip_value(p);
		if (!p)
			return NULL;
		p = skip_space(p);
		if (*p != ',')
			return NULL;
		p = skip_space(p + 1);
	}
	return NULL;
}

static bool is_string(const char *p, const char *text)
{
	size_t len = strlen(text);

	return p && *p == '"' && strncmp(p + 1, text, len) == 0 && p[1 + len] == '"';
}

int bl_answer_parse(const char *line, bool *gone)
{
	const char *p = skip_space(line), *error = member(p, "error"), *code;

	*gone = false;
	if (!error)
		return member(p, "result") ? BERTH_OK : BERTH_E_PROTOCOL;
	code = member(member(error, "data"), "code");
	*gone = is_string(code, "invalid") || is_string(code, "unknown-registration");
	if (is_string(code, "limit") || is_string(code, "full"))
		return BERTH_E_FULL;
	if (is_string(code, "denied"))
		return BERTH_E_PERMISSION;
	if (is_string(code, "clock"))
		return BERTH_E_CLOCK;
	return BERTH_E_REFUSED;
}
