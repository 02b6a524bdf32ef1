/* SPDX-License-Identifier: MIT
 * The command line of `berth`: what is wrong with one and how that is told, help, man page, completion. No daemon. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "cli.h"

/* ---- the command line ---- */

static void wrong_lines_are_usage_errors(void **state)
{
	static const char *const lines[][6] = {
		{NULL},
		{"frobnicate", NULL},
		{"cluster", NULL},
		{"cluster", "frob", NULL},
		{"migrate", "begin", "p", NULL},
		{"set", "p", NULL},
		{"set", "p", "--mode", NULL},
		{"get", NULL},
		{"get", "a", "b", NULL},
		{"load", NULL},
		{"list", "--frob", NULL},
		{"list", "-x", NULL},
		{"list", "--force", NULL},
		{"list", "--json=yes", NULL},
		{"list", "--dir", "a", "--instance", "b", NULL},
		{"list", "--instance", "a/b", NULL},
		{"history", "--limit", "many", NULL},
		{"history", "--limit", "0", NULL},
		{"cluster", "set", "c1", NULL},
		{"migrate", "run", "p", "--to", NULL},
		{"remove", "a", "b", "c", "d", NULL},
		{"get", "", NULL},
		{"pin", "", "--cluster=c1", "--owner=p", NULL},
		{"set", "p", "", "--mode=dedicated-cluster", "--cluster=c1", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		const char *const *l = lines[i];
		struct cli c;

		cli_run(&c, NULL, l[0], l[1], l[2], l[3], l[4], l[5]);
		cli_check(&c, 2, NULL, "usage: berth");
		assert_string_equal(c.out, "");
		cli_free(&c);
	}
}

/* The values of options, too. */
static void wrong_values_are_usage_errors(void **state)
{
	char longest[300];

	(void)state;
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	cli_expect(2, NULL, "get", longest);
	cli_expect(2, NULL, "set", "p", "--mode", "sideways", "--cluster", "c1");
	cli_expect(2, NULL, "migrate", "begin", "p", "--to", "c1", "--mode", "native");
	cli_expect(2, NULL, "set", "p", "--mode", "shared-index", "--cluster", "c1", "--inject", "x");
	cli_expect(2, NULL, "pin", "id", "--cluster", "c1", "--owner", "");
	cli_expect(2, NULL, "resolve", "id", "--owner", longest);
	cli_expect(2, NULL, "seal", "inspect", "/nonexistent", "--partition", "p");
}

static void with_json_a_wrong_line_is_an_error_object(void **state)
{
	static const char *const lines[][6] = {
		{"--json", NULL},
		{"--json", "frobnicate", NULL},
		{"get", "--json", NULL},
		{"list", "--frob", "--json", NULL},
		{"cluster", "--json", NULL},
		{"history", "--limit", "0", "--json", NULL},
		{"list", "--dir", "a", "--instance=b", "--json", NULL},
		{"set", "p", "--mode=dedicated-index", "--cluster=c", "--inject=x", "--json"},
		{"seal", "inspect", "/nonexistent", "--partition=p", "--json", NULL},
		{"bpf", "load", "frob", "--json", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		const char *const *l = lines[i];
		struct cli c;

		cli_run(&c, NULL, l[0], l[1], l[2], l[3], l[4], l[5]);
		cli_check(&c, 2, NULL, NULL);
		assert_string_equal(c.err, "");
		json_t *line = json_loads(c.out, 0, NULL), *error = json_object_get(line, "error");
		if (!error)
			fail_msg("line %zu gave no error object: %s", i, c.out);
		assert_string_equal(text_of(error, "code"), "usage");
		assert_true(strlen(text_of(error, "message")) > 10);
		json_decref(line);
		cli_free(&c);
	}
}

/* Of the command that the line has named, with an example of it. */
static void a_wrong_line_is_told_the_usage_of_its_command(void **state)
{
	struct cli c;

	(void)state;
	cli_run(&c, NULL, "remove", "--frob", "p");
	cli_check(&c, 2, NULL, "usage: berth remove P [--force]\nexample: berth remove acme\n");
	cli_free(&c);
	cli_run(&c, NULL, "migrate", "cutover", "p", "--force=yes");
	cli_check(&c, 2, NULL, "usage: berth migrate cutover P");
	cli_free(&c);
	cli_run(&c, NULL, "history", "--limit", "0");
	cli_check(&c, 2, NULL, "usage: berth history [P]");
	cli_free(&c);
	cli_run(&c, NULL, "--frob", "remove", "p");
	cli_check(&c, 2, NULL, "COMMAND");
	cli_free(&c);
}

/* ---- help ---- */

static void expect_narrow(const char *text)
{
	for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
		if (strcspn(line, "\n") > 100)
			fail_msg("more than 100 columns: %.*s", (int)strcspn(line, "\n"), line);
}

/* The commands that help lists, as lines of `name`; and a callback for each. */
static void each_command(void (*each)(const char *name))
{
	struct cli c;
	char *save, *at;

	cli_run(&c, NULL, "--help");
	cli_check(&c, 0, "exit codes:", NULL);
	expect_narrow(c.out);
	at = strstr(c.out, "\ncommands");
	assert_non_null(at);
	unsigned n = 0;
	for (char *line = strtok_r(at + 1, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char name[64] = "", *end;

		if (strncmp(line, "with every", 10) == 0)
			break;
		if (strncmp(line, "  ", 2) != 0 || line[2] == ' ') /* a heading; the rest of a command's line */
			continue;
		end = strstr(line + 2, "  ");
		snprintf(name, sizeof(name), "%.*s", end ? (int)(end - line - 2) : 60, line + 2);
		for (char *p = name; *p; p++) /* without the operand */
			if (*p == ' ' && (p[1] == '[' || (p[1] >= 'A' && p[1] <= 'Z')))
				*p = '\0';
		n++;
		each(name);
	}
	assert_true(n > 20);
	cli_free(&c);
}

static struct cli completion, man;

static void has_help_man_and_completion(const char *name)
{
	char first[32] = "", second[32] = "", script[512];
	struct cli help;
	int words = sscanf(name, "%31s %31s", first, second);

	cli_run(&help, NULL, first, words > 1 ? second : "-h", words > 1 ? "-h" : NULL);
	cli_check(&help, 0, "example:\n  berth ", NULL);
	snprintf(script, sizeof(script), "berth %s", name);
	if (!strstr(help.out, script))
		fail_msg("the help of %s does not show it:\n%s", name, help.out);
	expect_narrow(help.out);

	/* What bash offers after the command is what its help lists. */
	char *list = strdup(help.out), *save;
	snprintf(script, sizeof(script), "\"%s\") options=\"", name);
	char *row = strstr(completion.out, script);
	if (!row)
		fail_msg("no completion for %s", name);
	char *offered = strndup(row, strcspn(row, "\n"));
	for (char *line = strtok_r(list, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char option[32];

		if (strncmp(line, "  --", 4) != 0 || sscanf(line, "  --%28s", option) != 1)
			continue;
		snprintf(script, sizeof(script), "--%s ", option);
		if (!strstr(offered, script))
			fail_msg("completion of %s lacks %s", name, script);
	}
	free(list);
	free(offered);
	snprintf(script, sizeof(script), ".SS %s\n", name);
	if (!strstr(man.out, script))
		fail_msg("the man page lacks %s", name);
	cli_free(&help);
}

static void help_man_and_completion_are_in_sync_with_the_table(void **state)
{
	(void)state;
	cli_run(&completion, NULL, "completion");
	cli_run(&man, NULL, "man");
	cli_check(&completion, 0, "complete -F _berth berth", NULL);
	cli_check(&man, 0, ".TH BERTH 1", NULL);
	each_command(has_help_man_and_completion);
	cli_free(&completion);
	cli_free(&man);
}

static void modes_are_told_where_they_belong(void **state)
{
	struct cli c;

	(void)state;
	cli_run(&c, NULL, "set", "-h");
	cli_check(&c, 0, "dedicated-cluster, dedicated-index or shared-index\n", NULL);
	assert_null(strstr(c.out, "native"));
	cli_free(&c);
	cli_run(&c, NULL, "bpf", "attach", "-h");
	cli_check(&c, 0, "native or generic", NULL);
	assert_null(strstr(c.out, "dedicated"));
	cli_free(&c);
}

/* ---- completion ---- */

/* Each line of `requests`, words with a bar between them, and what bash completes the last of them to, sorted. berth is a
 * function there that knows two clusters. */
static void expect_completed(const char *const requests[][2])
{
	char script[2048], line[512];

	for (; (*requests)[0]; requests++) {
		snprintf(script, sizeof(script),
			 "exec bash -c 'eval \"$(%s completion)\"; "
			 "berth() { echo \"{\\\"id\\\":\\\"c1\\\",x\"; echo \"{\\\"id\\\":\\\"\\$((6*7))\\\",x\"; }; "
			 "IFS=\"|\" read -ra COMP_WORDS <<<\"$0 \"; IFS=$'\\'' \\t\\n'\\''; "
			 "n=$((${#COMP_WORDS[@]} - 1)); COMP_WORDS[n]=${COMP_WORDS[n]%%%% }; "
			 "COMP_CWORD=$n; _berth; printf \"%%s\\n\" \"${COMPREPLY[@]}\" | LC_ALL=C sort | paste -sd\" "
			 "\"' '%s' 2>&1",
			 daemon_program("berth"), (*requests)[0]);
		FILE *f = popen(script, "r");
		assert_non_null(f);
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		pclose(f);
		if (strstr(line, "not found"))
			SKIP("no bash");
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, (*requests)[1]) != 0)
			fail_msg("`%s` is completed to `%s` instead of `%s`", (*requests)[0], line, (*requests)[1]);
	}
}

static void bash_completes_with_it(void **state)
{
	static const char *const requests[][2] = {
		{"berth|mig", "migrate"},
		{"berth|migrate|c", "complete cutover"},
		{"berth|--dir|/tmp|set|p|--mo", "--mode"},
		{"berth|set|p|--mode|s", "shared-index"},
		{"berth|set|p|--mode|n", ""},
		{"berth|bpf|attach|steer|--mode|", "generic native"},
		/* As bash has them, which makes three words of one with a '='. */
		{"berth|--dir|=|/tmp|set|p|--mode|=|s", "shared-index"},
		{"berth|set|p|--mode|=", "dedicated-cluster dedicated-index shared-index"},
		{"berth|--dir|=|/pro", "/proc"},
		{NULL, NULL},
	};

	(void)state;
	expect_completed(requests);
}

/* What others have named is offered as it is: a shell neither expands it now, nor when the line is run. */
static void completion_expands_nothing_that_others_have_named(void **state)
{
	static const char *const requests[][2] = {
		{"berth|bpf|attach|steer|--dev|", "\\$\\(\\(6\\*7\\)\\) eth0"},
		{"berth|bpf|attach|steer|--dev|=|e", "eth0"},
		{"berth|--instance|", "\\$\\(\\(6\\*7\\)\\) eu us"},
		{"berth|--instance|=|e", "eu"},
		{"berth|set|p|--cluster|", "\\$\\(\\(6\\*7\\)\\) c1"},
		{"berth|migrate|begin|p|--to|c", "c1"},
		{NULL, NULL},
	};
	static const char *const made[] = {"/dev/shm/net/$((6*7))", "/dev/shm/net/eth0", "/dev/shm/berth/$((6*7))",
					   "/dev/shm/berth/eu", "/dev/shm/berth/us"};

	(void)state;
	if (!own_mounts())
		skip();
	if (mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) != 0)
		SKIP("no tmpfs of its own");
	assert_int_equal(mkdir("/dev/shm/net", 0755), 0);
	assert_int_equal(mkdir("/dev/shm/berth", 0755), 0);
	for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++)
		assert_int_equal(mkdir(made[i], 0755), 0);
	assert_int_equal(mount("/dev/shm/net", "/sys/class/net", NULL, MS_BIND, NULL), 0);
	expect_completed(requests);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_lines_are_usage_errors),
		cmocka_unit_test(wrong_values_are_usage_errors),
		cmocka_unit_test(with_json_a_wrong_line_is_an_error_object),
		cmocka_unit_test(a_wrong_line_is_told_the_usage_of_its_command),
		cmocka_unit_test(help_man_and_completion_are_in_sync_with_the_table),
		cmocka_unit_test(modes_are_told_where_they_belong),
		cmocka_unit_test(bash_completes_with_it),
		cmocka_unit_test(completion_expands_nothing_that_others_have_named),
	};

	return cmocka_run_group_tests_name("tool line", tests, NULL, NULL);
}
