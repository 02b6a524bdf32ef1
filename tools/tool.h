/* SPDX-License-Identifier: MIT
 * What every file of `berth` shares: the invocation, its exit codes, and the one way to say that something failed.
 * One thread; nothing here outlives the process. */
#ifndef BERTH_TOOLS_TOOL_H
#define BERTH_TOOLS_TOOL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../shm/segment.h"

struct berth;
struct berth_reader;
struct arguments; /* commands.h */

/* X(enum, code, meaning): help and man page print it. */
#define EXITS(X) \
	X(EXIT_DONE, 0, "done; of `status`: said what there is, a daemon that is down included") \
	X(EXIT_REFUSED, 1, \
	  "refused, nothing was changed; or `migrate run` could not end well, and the migration is undone; or the " \
	  "output could not be written") \
	X(EXIT_USAGE, 2, "the command line is wrong") \
	X(EXIT_UNREACHABLE, 3, \
	  "the daemon cannot be reached, or this user may not, or there is no instance, or no mirror for packet " \
	  "programs") \
	X(EXIT_DAMAGE, 4, \
	  "damage was found in shared memory, or the mirror for packet programs differed from the table") \
	X(EXIT_STANDS, 5, "of `migrate run`: the migration stands, or may stand, as the message says") \
	X(EXIT_INTERRUPTED, 130, "`migrate run` was interrupted, and has undone the migration")
enum tool_exit {
#define EXIT_ENUM(e, code, text) e = code,
	EXITS(EXIT_ENUM)
#undef EXIT_ENUM
};

struct tool {
	const char *where; /* of --dir or --instance, in the form of seg_dir_path; NULL: the default instance */
	bool json;
	/* instance.c */
	char path[4000]; /* of the directory */
	int dir_fd;      /* -1: not open */
	int tables_fd;   /* -1: not open */
	const struct shm_root *root;
	struct berth *berth; /* registration with a live daemon; NULL: none */
	struct berth_reader *reader;
	struct seg_map map; /* the generation that is looked at */
};

/* Says what failed and returns `code`. With --json: {"error": {"code": name, "message": …}} on stdout; else the message
 * on stderr. It names what was wrong, the value, and what to do. */
int tool_fail(const struct tool *, enum tool_exit code, const char *name, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* The same, with further members for the error object, which are taken over; NULL: none. */
int tool_fail_with(const struct tool *, enum tool_exit code, const char *name, json_t *members, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
/* The same of the error object of an answer (writer/PROTOCOL.md): EXIT_REFUSED. Keeps every field of `data`. */
int tool_refused(const struct tool *, const json_t *error);
/* The same of a code of berth_errors.h, while doing `what`: EXIT_DAMAGE for BERTH_E_CORRUPT, else EXIT_UNREACHABLE. */
int tool_fail_code(const struct tool *, int code, const char *what);
/* A remark on stderr, never on stdout; with --json too. */
void tool_note(const struct tool *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One JSON value on a line of stdout; takes the reference over. */
void tool_print_json(json_t *);
/* Flushes stdout: `exit`, or EXIT_REFUSED with a message when the output could not be written. */
int tool_finish(const struct tool *, int exit);

/* json_object_set_new and friends answer -1 when memory is short: then there is nothing left to do but to say so. */
void tool_no_memory(void) __attribute__((noreturn));
json_t *tool_object(void);
void tool_set(json_t *object, const char *name, json_t *value); /* takes value over; NULL value: out of memory */
static inline void tool_set_u64(json_t *object, const char *name, uint64_t v)
{
	tool_set(object, name, json_integer((json_int_t)v));
}

/* Fields of an answer that may be missing, or of another type in a later daemon. */
uint64_t tool_u64(const json_t *object, const char *name);
const char *tool_string(const json_t *object, const char *name); /* "" when there is none */

#endif
