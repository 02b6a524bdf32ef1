/* SPDX-License-Identifier: MIT
 * Help, man page and completion, all printed from the command table (commands.h). */
#include <stdio.h>
#include <string.h>

#include "commands.h"

static const char about[] =
	"berth looks at, and changes, where the partitions of an instance live: in the shared memory "
	"that its daemon berthd writes and that proxies read.";

static const struct {
	int code;
	const char *text;
} exits[] = {
#define EXIT_ROW(e, code, text) {code, text},
	EXITS(EXIT_ROW)
#undef EXIT_ROW
};
#define N_EXITS (sizeof(exits) / sizeof(exits[0]))

/* "set P --mode MODE --cluster ID [--index NAME] [--inject FIELD=VALUE]... [--force]" */
static void put_synopsis(const struct command *c, FILE *out)
{
	fprintf(out, "%s%s%s%s%s", c->name, c->operand ? " " : "", c->operand ? c->operand : "", c->second ? " " : "",
		c->second ? c->second : "");
	for (int i = 0; i < N_OPTIONS; i++) {
		bool required = (c->required & 1u << i) != 0;
		if (!required && !(c->optional & 1u << i))
			continue;
		fprintf(out, " %s--%s%s%s%s%s", required ? "" : "[", options[i].name, options[i].value ? " " : "",
			options[i].value ? options[i].value : "", required ? "" : "]", i == OPT_INJECT ? "..." : "");
	}
}

void help_usage(const struct command *c)
{
	if (!c) {
		fputs("usage: berth [--dir DIR | --instance NAME] [--json] COMMAND ...; `berth --help` lists the "
		      "commands\n",
		      stderr);
		return;
	}
	fputs("usage: berth ", stderr);
	put_synopsis(c, stderr);
	fprintf(stderr, "\nexample: %s\n", c->example);
}

static void put_options(unsigned mask)
{
	for (int i = 0; i < N_OPTIONS; i++) {
		char left[64];
		if (!(mask & 1u << i))
			continue;
		snprintf(left, sizeof(left), "--%s%s%s", options[i].name, options[i].value ? " " : "",
			 options[i].value ? options[i].value : "");
		printf("  %-22s  %s\n", left, options[i].help);
	}
}

/* At most 100 columns. */
static void put_wrapped(const char *text, const char *indent)
{
	size_t column = 0;

	while (*text) {
		size_t n = strcspn(text, " ");
		if (column && column + 1 + n > 100) {
			putchar('\n');
			column = 0;
		}
		column += (size_t)printf("%s%.*s", column ? " " : indent, (int)n, text);
		text += n + (text[n] == ' ');
	}
	putchar('\n');
}

void help_command(const struct command *c)
{
	fputs("usage: berth ", stdout);
	put_synopsis(c, stdout);
	printf("\n\n");
	put_wrapped(c->help, "");
	if (c->more)
		put_wrapped(c->more, "");
	if (c->required | c->optional) {
		printf("\n");
		put_options(c->required | c->optional);
	}
	printf("\nwith every command:\n");
	put_options(GLOBAL_OPTIONS);
	printf("\nexample:\n  %s\n", c->example);
}

/* group: only those with this first word; NULL: all. */
static void put_commands(const char *group)
{
	size_t len = group ? strlen(group) : 0;

	printf("commands (`berth COMMAND -h` tells more, with an example):\n");
	for (const struct command *c = commands; c->name; c++) {
		char left[64];
		if (c->hidden || (group && (strncmp(c->name, group, len) != 0 || c->name[len] != ' ')))
			continue;
		snprintf(left, sizeof(left), "%s%s%s", c->name, c->operand ? " " : "", c->operand ? c->operand : "");
		printf("  %-20s  %s\n", left, c->help);
	}
}

void help_group(const char *group)
{
	printf("usage: berth %s COMMAND ...\n\n", group);
	put_commands(group);
}

void help_all(void)
{
	printf("usage: berth [--dir DIR | --instance NAME] [--json] COMMAND ...\n\n");
	put_wrapped(about, "");
	printf("\n");
	put_commands(NULL);
	printf("\nwith every command:\n");
	put_options(GLOBAL_OPTIONS);
	printf("\nexit codes:\n");
	for (size_t i = 0; i < N_EXITS; i++)
		printf("  %-4d %s\n", exits[i].code, exits[i].text);
}

/* ---- man page ---- */

static void put_roff(const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", stdout);
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\e", stdout);
		else if (*text == '-')
			fputs("\\-", stdout);
		else
			putchar(*text);
	}
}

static void put_man_options(unsigned mask)
{
	for (int i = 0; i < N_OPTIONS; i++) {
		if (!(mask & 1u << i))
			continue;
		printf(".TP\n\\fB\\-\\-");
		put_roff(options[i].name);
		printf("\\fR");
		if (options[i].value) {
			printf(" \\fI");
			put_roff(options[i].value);
			printf("\\fR");
		}
		putchar('\n');
		put_roff(options[i].help);
		putchar('\n');
	}
}

int help_man(struct tool *t, const struct arguments *a)
{
	(void)a;
	printf(".TH BERTH 1 \"\" \"berth %s\" \"User Commands\"\n.SH NAME\n", BERTH_VERSION);
	printf("berth \\- look at and change where partitions live\n.SH SYNOPSIS\n");
	printf(".B berth\n[\\fB\\-\\-dir\\fR \\fIDIR\\fR | \\fB\\-\\-instance\\fR \\fINAME\\fR] [\\fB\\-\\-json\\fR] "
	       "\\fICOMMAND\\fR ...\n.SH DESCRIPTION\n");
	put_roff(about);
	printf("\n.SH OPTIONS\nThey may stand anywhere on the line. A lone\n.B \\-\\-\nends them.\n");
	put_man_options(GLOBAL_OPTIONS);
	printf(".SH COMMANDS\n");
	for (const struct command *c = commands; c->name; c++) {
		if (c->hidden)
			continue;
		printf(".SS ");
		put_roff(c->name);
		printf("\n.B berth\n");
		char line[512];
		FILE *out = fmemopen(line, sizeof(line), "w");
		if (!out)
			tool_no_memory();
		put_synopsis(c, out);
		fclose(out);
		put_roff(line);
		printf("\n.PP\n");
		put_roff(c->help);
		if (c->more) {
			putchar('\n');
			put_roff(c->more);
		}
		putchar('\n');
		put_man_options(c->required | c->optional);
		printf(".PP\nExample:\n.PP\n.nf\n.RS\n");
		put_roff(c->example);
		printf("\n.RE\n.fi\n");
	}
	printf(".SH EXIT STATUS\n");
	for (size_t i = 0; i < N_EXITS; i++) {
		printf(".TP\n.B %d\n", exits[i].code);
		put_roff(exits[i].text);
		putchar('\n');
	}
	printf(".SH FILES\n.TP\n.I ");
	put_roff(SEG_DIR_BASE);
	printf("/\\fINAME\\fR\nThe directory of the instance NAME.\n.SH SEE ALSO\n.BR berth (3);\n.B berthd "
	       "\\-\\-help\n");
	return tool_finish(t, EXIT_DONE);
}

/* ---- bash completion ---- */

static void put_case_options(const struct command *c)
{
	printf("\t\"%s\") options=\"", c->name);
	for (int i = 0; i < N_OPTIONS; i++)
		if ((c->required | c->optional | GLOBAL_OPTIONS) & 1u << i)
			printf("--%s ", options[i].name);
	printf("\"; operand=\"%s\";;\n", c->operand ? c->operand : "");
}

/* The words that may come next: the first words of commands, or the second ones of those that have two. */
static void put_words(const char *first)
{
	size_t len = first ? strlen(first) : 0;

	for (const struct command *c = commands; c->name; c++) {
		size_t n = strcspn(c->name, " ");
		if (c->hidden)
			continue;
		if (first && (n != len || memcmp(c->name, first, len) != 0 || !c->name[n]))
			continue;
		if (!first && c != commands && strncmp(c->name, c[-1].name, n) == 0 && strcspn(c[-1].name, " ") == n)
			continue; /* the rows of one first word stand together */
		printf("%.*s ", first ? (int)strlen(c->name + n + 1) : (int)n, first ? c->name + n + 1 : c->name);
	}
}

int help_completion(struct tool *t, const struct arguments *a)
{
	(void)a;
	printf("# Completion of berth for bash; printed by `berth completion`.\n"
	       "_berth()\n{\n"
	       "\tlocal cur=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
	       "\tlocal words=() where=() options=\"\" operand=\"\" i command=\"\"\n"
	       "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	       "\t\tcase \"${COMP_WORDS[i]}\" in\n"
	       "\t\t--dir|--instance) where=(\"${COMP_WORDS[i]}\" \"${COMP_WORDS[i+1]}\"); ((i++));;\n\t\t");
	for (int i = 0, first = 1; i < N_OPTIONS; i++) {
		if (!options[i].value || i == OPT_DIR || i == OPT_INSTANCE)
			continue;
		printf("%s--%s", first ? "" : "|", options[i].name);
		first = 0;
	}
	printf(") ((i++));;\n\t\t-*) ;;\n\t\t*) words+=(\"${COMP_WORDS[i]}\");;\n\t\tesac\n\tdone\n");
	printf("\tCOMPREPLY=()\n\tcase \"$previous\" in\n"
	       "\t--dir|--cgroup) COMPREPLY=($(compgen -d -- \"$cur\")); return;;\n"
	       "\t--instance) COMPREPLY=($(cd %s 2>/dev/null && compgen -d -- \"$cur\")); return;;\n"
	       "\t--mode) COMPREPLY=($(compgen -W \"dedicated-cluster dedicated-index shared-index native generic\" "
	       "-- \"$cur\")); "
	       "return;;\n"
	       "\t--cluster|--to) COMPREPLY=($(compgen -W \"$(berth \"${where[@]}\" clusters --json 2>/dev/null |\n"
	       "\t\tsed -n 's/^{\"id\":\"\\([^\"]*\\)\".*/\\1/p')\" -- \"$cur\")); return;;\n"
	       "\t--dev) COMPREPLY=($(cd /sys/class/net && compgen -W \"$(echo *)\" -- \"$cur\")); return;;\n"
	       "\t--gate) COMPREPLY=(drop); return;;\n"
	       "\t--copy) COMPREPLY=($(compgen -c -- \"$cur\")); return;;\n"
	       "\tesac\n",
	       SEG_DIR_BASE);
	printf("\tif ((${#words[@]} == 0)); then\n\t\tcommand=\"\"\n\telse\n\t\tcase \"${words[0]}\" in\n");
	for (const struct command *c = commands; c->name; c++) {
		size_t n = strcspn(c->name, " ");
		char first[32];
		if (c->hidden || !c->name[n] || (c != commands && strncmp(c->name, c[-1].name, n + 1) == 0))
			continue;
		snprintf(first, sizeof(first), "%.*s", (int)n, c->name);
		printf("\t\t%s)\n\t\t\tif ((${#words[@]} == 1)); then\n\t\t\t\tCOMPREPLY=($(compgen -W \"", first);
		put_words(first);
		printf("\" -- \"$cur\")); return\n\t\t\tfi\n\t\t\tcommand=\"${words[0]} ${words[1]}\";;\n");
	}
	printf("\t\t*) command=\"${words[0]}\";;\n\t\tesac\n\tfi\n\tcase \"$command\" in\n\t\"\") options=\"");
	put_words(NULL);
	for (int i = 0; i < N_OPTIONS; i++)
		if (GLOBAL_OPTIONS & 1u << i)
			printf("--%s ", options[i].name);
	printf("\";;\n");
	for (const struct command *c = commands; c->name; c++)
		if (!c->hidden)
			put_case_options(c);
	printf("\tesac\n"
	       "\tif [[ $operand == FILE && $cur != -* ]]; then COMPREPLY=($(compgen -f -- \"$cur\")); return; fi\n"
	       "\tif [[ $operand == PROGRAM && $cur != -* ]]; then "
	       "COMPREPLY=($(compgen -W \"steer connect\" -- \"$cur\")); return; fi\n"
	       "\tCOMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n}\ncomplete -F _berth berth\n");
	return tool_finish(t, EXIT_DONE);
}
