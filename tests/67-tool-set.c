/* SPDX-License-Identifier: MIT
 * `berth set` of many partitions: on the command line, from standard input, what it prints and how it ends. Of one it
 * is in 60-tool.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define ON_C1 "--mode", "dedicated-cluster", "--cluster", "c1"
#define IX_C1 "--mode", "dedicated-index", "--cluster", "c1", "--index", "i"

static void clusters(const struct daemon *d)
{
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "");
}

static void expect_text(const struct daemon *d, const char *text, const char *input, const char *const args[])
{
	struct cli c;

	if (input)
		cli_run_with_args(&c, input, d, args);
	else
		cli_run_args(&c, d, args);
	cli_check(&c, 0, NULL, NULL);
	assert_string_equal(c.out, text);
	assert_string_equal(c.err, "");
	cli_free(&c);
}
#define expect_out(d, text, ...) expect_text(d, text, NULL, CLI_ARGS(__VA_ARGS__))
#define expect_out_of(d, text, input, ...) expect_text(d, text, input, CLI_ARGS(__VA_ARGS__))

static unsigned n_partitions(const struct daemon *d)
{
	json_t *lines = cli_json(0, d, "list");
	unsigned n = (unsigned)json_array_size(lines);

	json_decref(lines);
	return n;
}

static void several_are_set_by_one_request(void **state)
{
	struct daemon *d = *state;
	json_t *lines, *one;

	clusters(d);
	expect_out(d, "2 partitions: set, epoch 2\n", "set", "p", "q", ON_C1);
	expect_out(d, "3 partitions: 1 set, 2 unchanged, epoch 3\n", "set", ON_C1, "p", "r", "q");
	expect_out(d, "2 partitions: unchanged, it was so already, epoch 2\n", "set", "p", "q", ON_C1);
	lines = cli_json(0, d, "set", "p", "s", IX_C1);
	assert_int_equal(json_array_size(lines), 1);
	one = json_array_get(lines, 0);
	assert_int_equal(int_of(one, "epoch"), 5);
	assert_int_equal(int_of(one, "changed"), 2);
	assert_int_equal(int_of(one, "unchanged"), 0);
	json_decref(lines);
	expect_out(d, "a: set, epoch 6\n", "set", "a", ON_C1); /* one is as ever */
	expect_out(d, "2 partitions: set, epoch 8\n", "set", ON_C1, "--", "-x", "-y");
	lines = cli_json(0, d, "history", "--", "-y");
	assert_int_equal(json_array_size(lines), 1);
	json_decref(lines);
	cli_expect(0, d, "verify");
}

static void names_come_from_standard_input(void **state)
{
	struct daemon *d = *state;
	json_t *lines;

	clusters(d);
	expect_out_of(d, "3 partitions: set, epoch 3\n", "p\nq\nwith space", "set", "-", ON_C1);
	expect_out_of(d, "1 partition: set, epoch 4\n", "x\n", "set", "-", ON_C1);
	lines = cli_json(0, d, "get", "with space");
	assert_int_equal(int_of(json_array_get(lines, 0), "epoch"), 3);
	json_decref(lines);
}

/* Runs `set - …` with this input, expects exit code 1 and this on stderr. */
static void expect_refused(const struct daemon *d, const char *input, const char *says)
{
	struct cli c;

	cli_run_with(&c, input, d, "set", "-", IX_C1);
	cli_check(&c, 1, NULL, says);
	assert_string_equal(c.out, "");
	cli_free(&c);
}

static void what_refuses_one_refuses_all(void **state)
{
	struct daemon *d = *state;
	char *text = malloc(100000), *at = text;
	struct cli c;
	json_t *error;

	clusters(d);
	cli_expect(0, d, "set", "moving", ON_C1);
	cli_expect(0, d, "migrate", "begin", "moving", "--to", "c2");
	error = cli_refused("already-migrating", d, "set", "p", "moving", ON_C1);
	assert_string_equal(text_of(error, "path"), "$.partitions[1]");
	json_decref(error);
	json_decref(cli_refused("invalid", d, "set", "p", "q", "p", ON_C1));
	json_decref(cli_refused("invalid", d, "set", "p", "a\xff", ON_C1));
	json_decref(
		cli_refused("unknown-cluster", d, "set", "p", "q", "--mode", "dedicated-cluster", "--cluster", "c9"));
	expect_refused(d, "", "standard input is empty");
	expect_refused(d, "p\n\nq\n", "$.partitions[1]");
	expect_refused(d, "p\nq\np\n", "\"p\" is there twice");
	expect_refused(d, "p\na\xff\n", "is no UTF-8");
	for (unsigned i = 0; i < 5000; i++)
		at += sprintf(at, "tenant-%06u\n", i);
	expect_refused(d, text, "`berth load`");
	at = text;
	for (unsigned i = 0; i < 90000; i++) /* one name of them all */
		*at++ = 'x';
	*at = '\0';
	expect_refused(d, text, "`berth load`");
	text[60000] = '\0';
	expect_refused(d, text, "at most 255");
	cli_run(&c, d, "set", "--mode", "dedicated-cluster", "--cluster", "c1");
	cli_check(&c, 2, NULL, "`set` needs P...");
	cli_free(&c);
	cli_run(&c, d, "set", "p", "q", "--cluster", "c1");
	cli_check(&c, 2, NULL, "needs --mode");
	cli_free(&c);
	assert_int_equal(n_partitions(d), 1);
	free(text);
}

static void thousands_fit_into_one_request(void **state)
{
	struct daemon *d = *state;
	char *text = malloc(100000), *at = text;

	clusters(d);
	for (unsigned i = 0; i < 3000; i++)
		at += sprintf(at, "tenant-%09u\n", i);
	expect_out_of(d, "3,000 partitions: set, epoch 3000\n", text, "set", "-", ON_C1);
	assert_int_equal(n_partitions(d), 3000);
	cli_expect(0, d, "verify");
	free(text);
}

static void a_daemon_that_is_down_is_exit_code_3(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	daemon_stop(d);
	cli_run(&c, d, "set", "p", "q", ON_C1);
	cli_check(&c, 3, NULL, "berthd");
	cli_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(several_are_set_by_one_request, "memory"),
		DAEMON_TEST(names_come_from_standard_input, "sqlite"),
		DAEMON_TEST(what_refuses_one_refuses_all, "memory"),
		DAEMON_TEST(thousands_fit_into_one_request, "sqlite"),
		DAEMON_TEST(a_daemon_that_is_down_is_exit_code_3, "memory"),
	};

	return cmocka_run_group_tests_name("tool set", tests, NULL, NULL);
}
