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

#define WIDTH 100 /* columns of what help prints; examples alone may be wider */
#define GLUE '\t' /* in put_text: a space at which no line ends */
#define SYNOPSIS 512

/* `left`, then the text in lines that begin at that column, the first one too when there is room. */
static void put_text(FILE *out, const char *left, size_t indent, const char *text)
{
	size_t column = (size_t)fprintf(out, "%-*s", (int)indent, left);
	bool begun = false;

	while (*text) {
		size_t n = strcspn(text, " ");
		if (begun && column + 1 + n > WIDTH) {
			fprintf(out, "\n%*s", (int)indent, "");
			column = indent;
			begun = false;
		}
		if (begun)
			fputc(' ', out);
		column += n + begun;
		begun = true;
		for (size_t i = 0; i < n; i++)
			fputc(text[i] == GLUE ? ' ' : text[i], out);
		text += n + (text[n] == ' ');
	}
	fputc('\n', out);
}

/* A device has modes of its own. */
static const char *option_help(const struct command *c, int option)
{
	return option == OPT_MODE && c && c->optional & OPT(DEV) ? "of the device: native or generic (native)"
								 : options[option].help;
}

/* "set P --mode MODE --cluster ID [--index NAME] [--inject FIELD=VALUE]... [--force]"; glue: between a name and its
 * value. */
static void synopsis(const struct command *c, char glue, char line[SYNOPSIS])
{
	FILE *out = fmemopen(line, SYNOPSIS, "w");

	if (!out)
		tool_no_memory();
	fprintf(out, "%s%s%s%s%s", c->name, c->operand ? " " : "", c->operand ? c->operand : "", c->second ? " " : "",
		c->second ? c->second : "");
	for (int i = 0; i < N_OPTIONS; i++) {
		bool required = (c->required & 1u << i) != 0;
		if (!required && !(c->optional & 1u << i))
			continue;
		fprintf(out, " %s--%s", required ? "" : "[", options[i].name);
		if (options[i].value)
			fprintf(out, "%c%s", glue, options[i].value);
		fprintf(out, "%s%s", required ? "" : "]", i == OPT_INJECT ? "..." : "");
	}
	fclose(out);
}

static void put_usage(const struct command *c, FILE *out)
{
	static const char usage[] = "usage: berth ";
	char line[SYNOPSIS];

	synopsis(c, GLUE, line);
	put_text(out, usage, sizeof(usage) - 1, line);
}

void help_usage(const struct command *c)
{
	if (!c) {
		fputs("usage: berth [--dir DIR | --instance NAME] [--json] COMMAND ...; `berth --help` lists the "
		      "commands\n",
		      stderr);
		return;
	}
	put_usage(c, stderr);
	fprintf(stderr, "example: %s\n", c->example);
}

static void put_options(const struct command *c, unsigned mask)
{
	for (int i = 0; i < N_OPTIONS; i++) {
		char left[64];
		if (!(mask & 1u << i))
			continue;
		snprintf(left, sizeof(left), "  --%s%s%s", options[i].name, options[i].value ? " " : "",
			 options[i].value ? options[i].value : "");
		put_text(stdout, left, 26, option_help(c, i));
	}
}

void help_command(const struct command *c)
{
	put_usage(c, stdout);
	printf("\n");
	put_text(stdout, "", 0, c->help);
	if (c->more)
		put_text(stdout, "", 0, c->more);
	if (c->required | c->optional) {
		printf("\n");
		put_options(c, c->required | c->optional);
	}
	printf("\nwith every command:\n");
	put_options(NULL, GLOBAL_OPTIONS);
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
		snprintf(left, sizeof(left), "  %s%s%s", c->name, c->operand ? " " : "", c->operand ? c->operand : "");
		put_text(stdout, left, 24, c->help);
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
	put_text(stdout, "", 0, about);
	printf("\n");
	put_commands(NULL);
	printf("\nwith every command:\n");
	put_options(NULL, GLOBAL_OPTIONS);
	printf("\nexit codes:\n");
	for (size_t i = 0; i < N_EXITS; i++) {
		char left[16];
		snprintf(left, sizeof(left), "  %d", exits[i].code);
		put_text(stdout, left, 7, exits[i].text);
	}
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

static void put_man_options(const struct command *c, unsigned mask)
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
		put_roff(option_help(c, i));
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
	put_man_options(NULL, GLOBAL_OPTIONS);
	printf(".SH COMMANDS\n");
	for (const struct command *c = commands; c->name; c++) {
		if (c->hidden)
			continue;
		printf(".SS ");
		put_roff(c->name);
		printf("\n.B berth\n");
		char line[SYNOPSIS];
		synopsis(c, ' ', line);
		put_roff(line);
		printf("\n.PP\n");
		put_roff(c->help);
		if (c->more) {
			putchar('\n');
			put_roff(c->more);
		}
		putchar('\n');
		put_man_options(c, c->required | c->optional);
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
	       "# Lines of standard input that begin with $cur. What they say is of others: nothing of it is expanded, "
	       "now\n"
	       "# or when the line is run.\n"
	       "_berth_lines()\n{\n"
	       "\tlocal one\n"
	       "\twhile IFS= read -r one; do\n"
	       "\t\t[[ $one && $one == \"$cur\"* ]] && COMPREPLY+=(\"$(printf %%q \"$one\")\")\n"
	       "\tdone\n}\n"
	       "_berth()\n{\n"
	       "\tlocal line=() words=() where=() options=\"\" operand=\"\" i command=\"\"\n"
	       "\tfor ((i = 0; i <= COMP_CWORD; i++)); do # bash makes three words of --dir=X\n"
	       "\t\tif [[ ${COMP_WORDS[i]} != = ]]; then line+=(\"${COMP_WORDS[i]}\")\n"
	       "\t\telif ((i == COMP_CWORD)); then line+=(\"\"); fi\n"
	       "\tdone\n"
	       "\tlocal n=$((${#line[@]} - 1))\n"
	       "\tlocal cur=\"${line[n]}\" previous=\"${line[n-1]}\"\n"
	       "\tfor ((i = 1; i < n; i++)); do\n"
	       "\t\tcase \"${line[i]}\" in\n"
	       "\t\t--dir|--instance) where=(\"${line[i]}\" \"${line[i+1]}\"); ((i++));;\n\t\t");
	for (int i = 0, first = 1; i < N_OPTIONS; i++) {
		if (!options[i].value || i == OPT_DIR || i == OPT_INSTANCE)
			continue;
		printf("%s--%s", first ? "" : "|", options[i].name);
		first = 0;
	}
	printf(") ((i++));;\n\t\t-*) ;;\n\t\t*) words+=(\"${line[i]}\");;\n\t\tesac\n\tdone\n");
	printf("\tCOMPREPLY=()\n\tcase \"$previous\" in\n"
	       "\t--dir|--cgroup) COMPREPLY=($(compgen -d -- \"$cur\")); return;;\n"
	       "\t--instance) _berth_lines <<<\"$(cd %s 2>/dev/null && compgen -d)\"; return;;\n"
	       "\t--mode)\n"
	       "\t\tif [[ ${words[0]} == bpf ]]; then COMPREPLY=($(compgen -W \"native generic\" -- \"$cur\"))\n"
	       "\t\telse COMPREPLY=($(compgen -W \"dedicated-cluster dedicated-index shared-index\" -- \"$cur\")); fi\n"
	       "\t\treturn;;\n"
	       "\t--cluster|--to) _berth_lines <<<\"$(berth \"${where[@]}\" clusters --json 2>/dev/null |\n"
	       "\t\tsed -n 's/^{\"id\":\"\\([^\"]*\\)\".*/\\1/p')\"; return;;\n"
	       "\t--dev) _berth_lines <<<\"$(cd /sys/class/net && compgen -d)\"; return;;\n"
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
