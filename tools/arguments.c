/* SPDX-License-Identifier: MIT
 * The command line, against the command table: options anywhere, the words of a command, its operands. Every mistake is
 * named, with the usage line of the command below it, as far as the line has named one by then; with --json as an error
 * object. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "text.h"

struct line { /* the command line, sorted */
	const char **words;
	size_t n_words;
};

static struct tool *told;           /* the one that is being set up: how mistakes are told */
static const struct command *named; /* by the line, as far as it was read; NULL: none yet */

static int wrong(const struct command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int wrong(const struct command *c, const char *format, ...)
{
	char message[2048];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	int code = tool_fail(told, EXIT_USAGE, "usage", "%s", message);
	if (!told->json)
		help_usage(c);
	return code;
}

/* How many of the words are the name of the command; 0: they are another's. */
static size_t matches(const struct command *c, const struct line *line)
{
	const char *space = strchr(c->name, ' ');
	size_t first = space ? (size_t)(space - c->name) : strlen(c->name);

	if (line->n_words == 0 || strlen(line->words[0]) != first || memcmp(line->words[0], c->name, first) != 0)
		return 0;
	if (!space)
		return 1;
	return line->n_words > 1 && strcmp(line->words[1], space + 1) == 0 ? 2 : 0;
}

/* The command that the words name, in *named; how many words that takes. */
static size_t find_command(const struct line *line)
{
	size_t used = 0;

	named = NULL;
	for (const struct command *c = commands; c->name && !used; c++) {
		used = matches(c, line);
		named = used ? c : NULL;
	}
	return used;
}

static int find_option(const char *name, size_t len)
{
	for (int i = 0; i < N_OPTIONS; i++)
		if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
			return i;
	return -1;
}

/* An option at argv[*i]; *i moves on when its value is the next word. */
static int take_option(int argc, char **argv, int *i, struct arguments *a)
{
	const char *text = argv[*i], *equals = strchr(text, '=');
	size_t len = equals ? (size_t)(equals - text) : strlen(text);
	int o = strcmp(text, "-h") == 0 ? OPT_HELP : len > 2 && text[1] == '-' ? find_option(text + 2, len - 2) : -1;
	const char *value = equals ? equals + 1 : NULL;

	if (o < 0)
		return wrong(named,
			     "unknown option %s: see `berth --help`; what starts with '-' and is none goes behind `--`",
			     text);
	if (!options[o].value && value)
		return wrong(named, "--%s takes no value: leave out =%s", options[o].name, value);
	if (options[o].value && !value) {
		if (*i + 1 >= argc)
			return wrong(named, "--%s needs a value: --%s %s", options[o].name, options[o].name,
				     options[o].value);
		value = argv[++*i];
	}
	if (o == OPT_INJECT)
		a->inject[a->n_inject++] = value;
	else if (options[o].value && (a->given & 1u << o))
		return wrong(named, "--%s is given twice: keep one", options[o].name);
	a->given |= 1u << o;
	a->value[o] = value;
	return EXIT_DONE;
}

static int sort_line(int argc, char **argv, struct arguments *a, struct line *line)
{
	bool only_words = false;

	for (int i = 1; i < argc; i++) {
		if (!only_words && strcmp(argv[i], "--") == 0) {
			only_words = true;
		} else if (!only_words && argv[i][0] == '-' && argv[i][1] != '\0') {
			int rc = take_option(argc, argv, &i, a);
			if (rc != EXIT_DONE)
				return rc;
		} else {
			line->words[line->n_words++] = argv[i];
			if (line->n_words <= 2)
				find_command(line);
		}
	}
	return EXIT_DONE;
}

/* The first word of commands of two? */
static bool is_group(const char *word)
{
	size_t len = strlen(word);

	for (const struct command *c = commands; c->name; c++)
		if (strncmp(c->name, word, len) == 0 && c->name[len] == ' ')
			return true;
	return false;
}

/* "cluster", and what may follow it: for the message of a command that is not whole. */
static int half_command(const struct line *line)
{
	char list[256] = "";
	size_t len = strlen(line->words[0]), at = 0;

	for (const struct command *c = commands; c->name; c++)
		if (strncmp(c->name, line->words[0], len) == 0 && c->name[len] == ' ')
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", c->name + len + 1);
	if (at == 0)
		return wrong(NULL, "unknown command %s: see `berth --help`", line->words[0]);
	if (line->n_words > 1)
		return wrong(NULL, "unknown command %s %s: after `%s` comes one of %s", line->words[0], line->words[1],
			     line->words[0], list);
	return wrong(NULL, "`%s` is not a whole command: one of %s follows it", line->words[0], list);
}

static int check_options(const struct command *c, const struct arguments *a)
{
	unsigned allowed = c->required | c->optional | GLOBAL_OPTIONS;

	for (int i = 0; i < N_OPTIONS; i++) {
		if ((a->given & ~allowed) & 1u << i)
			return wrong(c, "`%s` has no option --%s", c->name, options[i].name);
		if ((c->required & ~a->given) & 1u << i)
			return wrong(c, "`%s` needs --%s %s", c->name, options[i].name, options[i].value);
	}
	return EXIT_DONE;
}

static int check_operand(const struct command *c, const struct line *line, size_t used, struct arguments *a)
{
	const char *dots = c->operand ? strstr(c->operand, "...") : NULL;
	size_t n = line->n_words - used, most = dots ? SIZE_MAX : c->second ? 2 : c->operand ? 1 : 0;

	a->operands = line->words + used;
	a->n_operands = n;
	if (c->operand && n)
		a->operand = line->words[used];
	else if (c->operand && c->operand[0] != '[')
		return wrong(c, "`%s` needs %s", c->name, c->operand);
	if (c->second && n > 1)
		a->second = line->words[used + 1];
	for (size_t i = 0; c->operand && i < n; i++)
		if (a->operands[i][0] == '\0' && (dots || i == 0))
			return wrong(c, "`%s`: %s is empty", c->name, c->operand);
	if (n > most)
		return wrong(c, "`%s` does not know what to do with %s: quote what belongs together", c->name,
			     line->words[used + most]);
	return EXIT_DONE;
}

static int set_instance(const struct arguments *a, struct tool *t)
{
	static char relative[4000];
	const char *dir = a->value[OPT_DIR], *name = a->value[OPT_INSTANCE];

	if (dir && name)
		return wrong(NULL, "--dir %s and --instance %s are both given: keep one", dir, name);
	if (dir && dir[0] == '\0')
		return wrong(NULL, "--dir is empty: give the directory of the instance");
	if (dir &&
	    (size_t)snprintf(relative, sizeof(relative), "%s%s", strchr(dir, '/') ? "" : "./", dir) >= sizeof(relative))
		return wrong(NULL, "--dir is longer than %zu bytes", sizeof(relative) - 1);
	t->where = dir ? relative : name;
	if (seg_dir_path(t->where, t->path, sizeof(t->path)) != BERTH_OK || (name && strchr(name, '/')))
		return wrong(NULL,
			     "--instance %s is no name: give 1 to 63 of A-Z a-z 0-9 . _ -, or a directory with --dir",
			     name ? name : "");
	return EXIT_DONE;
}

int arguments_parse(int argc, char **argv, const char **room, struct tool *t, struct arguments *a,
		    const struct command **command)
{
	struct line line = {.words = room};

	*a = (struct arguments){.inject = room + argc};
	*command = NULL;
	told = t;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) /* also behind the first mistake */
		t->json = t->json || strcmp(argv[i], "--json") == 0;
	int rc = sort_line(argc, argv, a, &line);
	if (rc != EXIT_DONE)
		return rc;
	t->json = (a->given & OPT(JSON)) != 0;
	size_t used = find_command(&line);
	*command = named;
	if (a->given & (OPT(HELP) | OPT(VERSION)) && (*command || line.n_words == 0))
		return EXIT_DONE;
	if (line.n_words == 0)
		return wrong(NULL, "no command is given");
	if (!*command && a->given & OPT(HELP) && line.n_words == 1 && is_group(line.words[0])) {
		a->operand = line.words[0];
		return EXIT_DONE;
	}
	if (!*command)
		return half_command(&line);
	rc = check_operand(*command, &line, used, a);
	if (rc == EXIT_DONE)
		rc = check_options(*command, a);
	return rc == EXIT_DONE ? set_instance(a, t) : rc;
}

int arguments_number(const struct arguments *a, enum option o, uint64_t least, uint64_t most, uint64_t *out)
{
	const char *text = a->value[o];
	char *end;

	if (!text)
		return EXIT_DONE;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno || n < least || n > most)
		return wrong(named, "--%s %s: give a number from %llu to %llu", options[o].name, text,
			     (unsigned long long)least, (unsigned long long)most);
	*out = n;
	return EXIT_DONE;
}
