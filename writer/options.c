/* SPDX-License-Identifier: MIT
 * Reads the command line by the table in options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, FLAG, BARRIER, LEVEL };

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

		snprintf(left, sizeof(left), "--%s%s%s", rows[i].name, rows[i].argument ? " " : "",
			 rows[i].argument ? rows[i].argument : "");
		fprintf(f, "  %-20s %s\n", left, rows[i].help);
	}
	fputs("\nSIGTERM and SIGINT stop it, SIGHUP applies the document again.\n"
	      "Exit status: 0 stopped, 1 could not start or go on, 2 usage.\n"
	      "Example: berthd --instance eu --store sqlite:/var/lib/berth/eu.db --http :9187\n",
	      f);
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
	case BARRIER:
		errno = 0;
		n = strtoull(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || errno || n < 1 || n > BARRIER_MS_MAX)
			return usage(shown, value, "give whole milliseconds, 1 to 86400000");
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
	memset(longs, 0, sizeof(longs));
	for (size_t k = 0; k < N_ROWS; k++) {
		longs[k].name = rows[k].name;
		longs[k].has_arg = rows[k].argument ? required_argument : no_argument;
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
