/* SPDX-License-Identifier: MIT
 * Saying what failed, and small helpers around JSON (tool.h). */
#include "tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../reader_lib/berth.h"
#include "text.h"

void tool_no_memory(void)
{
	fputs("berth: out of memory: free some, then run it again\n", stderr);
	exit(EXIT_REFUSED);
}

json_t *tool_object(void)
{
	json_t *object = json_object();

	if (!object)
		tool_no_memory();
	return object;
}

void tool_set(json_t *object, const char *name, json_t *value)
{
	if (json_object_set_new(object, name, value) != 0)
		tool_no_memory();
}

uint64_t tool_u64(const json_t *object, const char *name)
{
	json_int_t v = json_integer_value(json_object_get(object, name));

	return v > 0 ? (uint64_t)v : 0;
}

const char *tool_string(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));

	return s ? s : "";
}

static int write_out(const char *bytes, size_t n, void *out)
{
	return fwrite(bytes, 1, n, out) == n ? 0 : -1;
}

void tool_print_json(json_t *json)
{
	json_dump_callback(json, write_out, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(json);
}

int tool_finish(const struct tool *t, int code)
{
	(void)t;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	fprintf(stderr, "berth: the output could not be written: %s\n", strerror(errno));
	return code == EXIT_DONE ? EXIT_REFUSED : code;
}

/* A message may quote what others named: no control character of it reaches the terminal. */
static void put_message(const char *message)
{
	size_t len = strlen(message), room = 4 * len + 1;
	char *escaped = malloc(room);

	if (!escaped)
		tool_no_memory();
	fflush(stdout);
	fprintf(stderr, "berth: %s\n", text_escape(escaped, room, message, len));
	free(escaped);
}

static int fail(const struct tool *t, enum tool_exit code, const char *name, json_t *members, const char *message)
{
	if (!t->json) {
		put_message(message);
		json_decref(members);
		return (int)code;
	}
	json_t *error = tool_object(), *line = tool_object();
	tool_set(error, "code", json_string(name));
	tool_set(error, "message", text_json(message, strlen(message)));
	if (members && json_object_update_missing(error, members) != 0)
		tool_no_memory();
	json_decref(members);
	tool_set(line, "error", error);
	tool_print_json(line);
	return (int)code;
}

int tool_fail(const struct tool *t, enum tool_exit code, const char *name, const char *format, ...)
{
	char message[8192];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	return fail(t, code, name, NULL, message);
}

int tool_fail_with(const struct tool *t, enum tool_exit code, const char *name, json_t *members, const char *format,
		   ...)
{
	char message[8192];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	return fail(t, code, name, members, message);
}

void tool_note(const struct tool *t, const char *format, ...)
{
	char message[8192];
	va_list arguments;

	(void)t;
	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	put_message(message);
}

int tool_refused(const struct tool *t, const json_t *answer)
{
	const json_t *data = json_object_get(answer, "data");
	const char *code = tool_string(data, "code"), *path = tool_string(data, "path");
	const char *message = tool_string(answer, "message");
	const char *key;
	json_t *value;

	if (t->json) {
		json_t *error = tool_object(), *line = tool_object();
		tool_set(error, "code", json_string(code[0] ? code : "refused"));
		tool_set(error, "message", json_string(message));
		json_object_foreach((json_t *)data, key, value)
		{
			tool_set(error, key, json_incref(value));
		}
		tool_set(line, "error", error);
		tool_print_json(line);
		return EXIT_REFUSED;
	}
	tool_note(t, "refused: %s%s%s%s%s%s", message[0] ? message : "the daemon gave no reason", code[0] ? " (" : "",
		  code, path[0] ? " at " : "", path, code[0] ? ")" : "");
	return EXIT_REFUSED;
}

/* BERTH_E_NO_INSTANCE -> "no-instance" */
static const char *code_name(int code)
{
	switch (code) {
	case BERTH_E_NO_INSTANCE:
		return "no-instance";
	case BERTH_E_CORRUPT:
		return "corrupt";
	case BERTH_E_ABI:
		return "abi";
	case BERTH_E_UNSAFE:
		return "unsafe";
	case BERTH_E_PERMISSION:
		return "permission";
	default:
		return "unreachable";
	}
}

int tool_fail_code(const struct tool *t, int code, const char *what)
{
	const char *cause = code == BERTH_E_SYSTEM && errno ? strerror(errno) : berth_strerror(code);

	return tool_fail(t, code == BERTH_E_CORRUPT ? EXIT_DAMAGE : EXIT_UNREACHABLE, code_name(code), "%s: %s", what,
			 cause);
}
