/* SPDX-License-Identifier: MIT
 * Reads the command line by the table in options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "../shm/layout.h"

enum kind { TEXT, FLAG, LEVEL, CPU, BARRIER, CAPACITY, TTL, SHARE };

static const struct range { /* of the numbers, from 1 */
	uint64_t most;
	const char *say;
} ranges[] = {
	[BARRIER] = {BARRIER_MS_MAX, "give whole milliseconds, 1 to 86400000"},
	[CAPACITY] = {SHM_CURSORS_MAX, "give a number of pins, 1 to 16777216"},
	[TTL] = {UINT32_MAX, "give whole milliseconds, 1 to 4294967295"},
	[SHARE] = {100, "give percent of the capacity, 1 to 100"},
};

static const struct row {
	const char *name, *argument, *help;
	enum kind kind;
	size_t member;
} rows[] = {
#define OPTION_ROW(name, kind, member, argument, help) {name, argument, help, kind, offsetof(struct options, member)},
	OPTIONS(OPTION_ROW)
#undef OPTION_ROW
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static bool usage(const char *what, const char *value, const char *why)
{
	fprintf(stderr, "berthd: %s%s%s: %s; `berthd --help` lists the options\n", what, *value ? " " : "", value, why);
	return false;
}

void options_help(FILE *f)
{
	fputs("Usage: berthd [OPTION]...\n"
	      "The one writer of an instance: keeps the placement table in shared memory, serves its sockets.\n\n",
	      f);
	for (size_t i = 0; i < N_ROWS; i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s%s%s", rows[i].name,
			 rows[i].argument && rows[i].argument[0] != '[' ? " " : "",
			 rows[i].argument ? rows[i].argument : "");
		fprintf(f, "  %-24s %s\n", left, rows[i].help);
	}
	fputs("\nSIGTERM and SIGINT stop it, SIGHUP applies the document again.\n"
	      "Exit status: 0 stopped, 1 could not start or go on, 2 usage.\n"
	      "Example: berthd --instance eu --store sqlite:/var/lib/berth/eu.db --http :9187\n",
	      f);
}

/* A processor that this process may use; NULL: any. */
static bool take_cpu(struct option_cpu *to, const char *shown, const char *value)
{
	unsigned long n;
	cpu_set_t may;
	char *end;

	*to = (struct option_cpu){.on = true, .cpu = -1};
	if (!value)
		return true;
	errno = 0;
	n = strtoul(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno || n >= CPU_SETSIZE)
		return usage(shown, value, "give the number of a processor, from 0");
	if (sched_getaffinity(0, sizeof(may), &may) == 0 && !CPU_ISSET(n, &may))
		return usage(shown, value, "there is no such processor, or this process may not use it");
	to->cpu = (int)n;
	return true;
}

static bool take(struct options *o, const struct row *row, const char *value)
{
	char *member = (char *)o + row->member, *end;
	char shown[64];
	unsigned long long n;

	snprintf(shown, sizeof(shown), "--%s", row->name);
	switch (row->kind) {
	case FLAG:
		*(bool *)member = true;
		return true;
	case TEXT:
		if (!*value)
			return usage(shown, "", "the value is empty");
		*(const char **)member = value;
		return true;
	case CPU:
		return take_cpu((struct option_cpu *)member, shown, value);
	case BARRIER:
	case CAPACITY:
	case TTL:
	case SHARE:
		errno = 0;
		n = strtoull(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || errno || n < 1 || n > ranges[row->kind].most)
			return usage(shown, value, ranges[row->kind].say);
		*(uint64_t *)member = n;
		return true;
	case LEVEL:
		if (!log_level_parse(value, (enum log_level *)member))
			return usage(shown, value, "give error, warn, info or debug");
		return true;
	}
	return false;
}

/* The name of the instance, and what follows from it. */
static bool complete(struct options *o)
{
	const char *name = o->instance ? o->instance : "default";
	size_t len;

	if (o->dir && o->instance)
		return usage("--dir and --instance", "", "give one of them, both say where the instance is");
	o->where = o->instance;
	if (o->instance && strchr(o->instance, '/'))
		return usage("--instance", o->instance, "a name has no slash: for a path there is --dir");
	if (o->dir) {
		if (strlen(o->dir) >= 3900)
			return usage("--dir", "", "the path is longer than 3,900 bytes");
		snprintf(o->dir_buffer, sizeof(o->dir_buffer), "%s%s", strchr(o->dir, '/') ? "" : "./", o->dir);
		for (len = strlen(o->dir_buffer); len > 1 && o->dir_buffer[len - 1] == '/'; len--)
			o->dir_buffer[len - 1] = '\0';
		o->where = o->dir_buffer;
		name = strrchr(o->dir_buffer, '/') + 1;
		if (!*name)
			name = "root";
	}
	snprintf(o->name, sizeof(o->name), "%.*s", (int)sizeof(o->name) - 1, name);
	if (!o->store) {
		snprintf(o->store_buffer, sizeof(o->store_buffer), "sqlite:/var/lib/berth/%s.db", o->name);
		o->store = o->store_buffer;
	}
	return true;
}

bool options_parse(int argc, char **argv, struct options *o)
{
	struct option longs[N_ROWS + 1];
	int c, i;

	memset(o, 0, sizeof(*o));
	o->barrier_ms = BARRIER_MS_DEFAULT;
	o->log_level = LEVEL_INFO;
	o->cursor_capacity = CURSOR_CAPACITY_DEFAULT;
	o->cursor_ttl_ms = CURSOR_TTL_MS_DEFAULT;
	memset(longs, 0, sizeof(longs));
	for (size_t k = 0; k < N_ROWS; k++) {
		longs[k].name = rows[k].name;
		longs[k].has_arg = !rows[k].argument            ? no_argument
				   : rows[k].argument[0] == '[' ? optional_argument
								: required_argument;
	}
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", longs, &i)) != -1) {
		if (c == ':')
			return usage(argv[optind - 1], "", "it needs a value");
		if (c == '?') /* also a flag that was given a value */
			return usage(argv[optind - 1], "", "no such option, or not with a value");
		if (!take(o, &rows[i], optarg))
			return false;
	}
	if (optind < argc)
		return usage(argv[optind], "", "berthd takes options only");
	return complete(o);
}
