/* SPDX-License-Identifier: MIT
 * `berth` and pins of cursors: `pin`, `resolve`, `release`, `cursors`, what `status` and `top` show of them; with a living
 * daemon, a stopped one, a dead one. What `verify` says of pins is in 66-tool-verify-cursors.c. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../reader_lib/berth.h"
#include "cli.h"

static void two_clusters(const struct daemon *d)
{
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "http://10.0.0.1:9200");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "http://10.0.0.2:9200");
	cli_expect(0, d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c1");
	cli_expect(0, d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c2");
}

/* Started with a little room for pins. */
static int small_setup(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));

	daemon_make(d, "memory");
	*state = d;
	daemon_start(d, "--cursor-capacity", "8", "--cursor-ttl-ms", "90000", NULL);
	return 0;
}

/* The one line of a run with --json. */
#define one_line(code, d, ...) only(cli_json(code, d, __VA_ARGS__))
static json_t *only(json_t *lines)
{
	json_t *line;

	assert_int_equal(json_array_size(lines), 1);
	line = json_incref(json_array_get(lines, 0));
	json_decref(lines);
	return line;
}

static void expect_line(json_t *line, json_t *wanted)
{
	if (!json_equal(line, wanted))
		fail_msg("%s instead of %s", json_dumps(line, 0), json_dumps(wanted, 0));
	json_decref(line);
	json_decref(wanted);
}

static void expect_error(json_t *line, const char *code, const char *words)
{
	const json_t *error = json_object_get(line, "error");

	assert_string_equal(text_of(error, "code"), code);
	if (!strstr(text_of(error, "message"), words))
		fail_msg("no `%s` in: %s", words, text_of(error, "message"));
	json_decref(line);
}

/* What `berth cursors` says of one owner; 0: it is not shown. partition NULL: those without a name. */
static json_int_t pins_of(const json_t *line, const char *partition)
{
	const json_t *row;
	json_int_t n = 0;
	size_t i;

	json_array_foreach (json_object_get(line, "owners"), i, row) {
		const char *name = json_string_value(json_object_get(row, "partition"));
		if (name ? partition && strcmp(name, partition) == 0 : !partition)
			n += int_of(row, "pins");
	}
	return n;
}

/* ---- the line ---- */

static void the_commands_are_in_help_man_and_completion(void **state)
{
	static const char *const names[] = {"cursors", "pin", "resolve", "release"};
	struct cli help, man, completion;
	char text[64];

	(void)state;
	cli_run(&help, NULL, "--help");
	cli_run(&man, NULL, "man");
	cli_run(&completion, NULL, "completion");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(text, sizeof(text), "\n  %s ", names[i]);
		cli_check(&help, 0, text, NULL);
		snprintf(text, sizeof(text), ".SS %s\n", names[i]);
		cli_check(&man, 0, text, NULL);
		snprintf(text, sizeof(text), "\"%s\") options=\"--", names[i]);
		cli_check(&completion, 0, text, NULL);
	}
	cli_free(&help);
	cli_free(&man);
	cli_free(&completion);
	cli_run(&help, NULL, "pin", "-h");
	cli_check(&help, 0, "usage: berth pin ID --cluster ID --owner P [--ttl-ms MS]\n", NULL);
	cli_free(&help);
}

static void wrong_lines_are_usage_errors(void **state)
{
	static const char *const lines[][8] = {
		{"pin", "x", "--owner", "acme", NULL},
		{"pin", "x", "--cluster", "c1", NULL},
		{"pin", "--cluster", "c1", "--owner", "acme", NULL},
		{"pin", "x", "--cluster", "c1", "--owner", "acme", "--ttl-ms=0", NULL},
		{"pin", "x", "--cluster", "c1", "--owner", "acme", "--ttl-ms=4294967296", NULL},
		{"resolve", "x", NULL},
		{"resolve", "x", "--owner", "acme", "--ttl-ms=1", NULL},
		{"release", "--owner", "acme", NULL},
		{"cursors", "x", NULL},
		{"cursors", "--limit", "0", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		const char *const *l = lines[i];
		struct cli c;

		cli_run(&c, NULL, l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]);
		cli_check(&c, 2, NULL, NULL);
		assert_string_equal(c.out, "");
		assert_non_null(strstr(c.err, "berth: "));
		cli_free(&c);
	}
	cli_expect(3, NULL, "--dir", "/nonexistent/i", "cursors");
	cli_expect(3, NULL, "--dir", "/nonexistent/i", "pin", "x", "--cluster", "c1", "--owner", "acme");
	cli_expect(3, NULL, "--dir", "/nonexistent/i", "resolve", "x", "--owner", "acme");
}

/* ---- one cursor ---- */

static void looking_makes_no_use_of_pins(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	two_clusters(d);
	cli_run(&c, d, "cursors");
	cli_check(&c, 0, "no process uses pins", NULL);
	cli_free(&c);
	json_decref(cli_refused("unknown-cursor", d, "resolve", "x", "--owner", "acme"));
	json_decref(cli_refused("unknown-cursor", d, "release", "x", "--owner", "acme"));
	cli_run(&c, d, "status");
	cli_check(&c, 0, NULL, NULL);
	assert_null(strstr(c.out, "cursors pinned"));
	cli_free(&c);
	cli_run(&c, d, "top");
	cli_check(&c, 0, NULL, NULL);
	assert_null(strstr(c.out, "cursors pinned"));
	cli_free(&c);
	expect_line(one_line(0, d, "cursors"), json_pack("{s:b,s:s,s:i}", "enabled", 0, "writer", "up", "pins", 0));
	cli_expect(0, d, "verify");
}

static void a_cursor_is_pinned_resolved_and_released(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	two_clusters(d);
	cli_run(&c, d, "pin", "scroll-1", "--cluster", "c1", "--owner", "acme");
	cli_check(&c, 0, "scroll-1: pinned to c1 (number 1) for acme, for 5 min 0 s\n", NULL);
	cli_free(&c);
	cli_run(&c, d, "resolve", "scroll-1", "--owner", "acme");
	cli_check(&c, 0, "scroll-1: pinned to c1 (number 1) for acme\n", NULL);
	cli_free(&c);
	/* Again: another cluster, another time. */
	expect_line(one_line(0, d, "pin", "scroll-1", "--cluster", "c2", "--owner", "acme", "--ttl-ms", "60000"),
		    json_pack("{s:s,s:s,s:s,s:i,s:i}", "cursor", "scroll-1", "owner", "acme", "cluster", "c2", "number",
			      2, "ttl_ms", 60000));
	expect_line(
		one_line(0, d, "resolve", "scroll-1", "--owner", "acme"),
		json_pack("{s:s,s:s,s:s,s:i}", "cursor", "scroll-1", "owner", "acme", "cluster", "c2", "number", 2));
	expect_line(one_line(0, d, "release", "scroll-1", "--owner", "acme"),
		    json_pack("{s:s,s:s}", "cursor", "scroll-1", "owner", "acme"));
	expect_error(one_line(1, d, "resolve", "scroll-1", "--owner", "acme"), "unknown-cursor", "scroll-1");
	expect_error(one_line(1, d, "release", "scroll-1", "--owner", "acme"), "unknown-cursor", "scroll-1");
	cli_run(&c, d, "pin", "scroll-1", "--cluster", "c1", "--owner", "acme");
	cli_free(&c);
	cli_run(&c, d, "release", "scroll-1", "--owner", "acme");
	cli_check(&c, 0, "scroll-1: released, for acme\n", NULL);
	cli_free(&c);
}

static void what_is_refused_has_a_code_and_says_what_to_do(void **state)
{
	static const char *const pin[] = {"pin", "x", "--cluster", "c1", "--owner"};
	struct daemon *d = *state;
	char longest[400];
	struct cli c;

	two_clusters(d);
	cli_expect(0, d, "pin", "x", "--cluster", "c1", "--owner", "acme");
	expect_error(one_line(1, d, pin[0], pin[1], pin[2], pin[3], pin[4], "globex"), "not-owner", "--owner");
	expect_error(one_line(1, d, "resolve", "x", "--owner", "globex"), "not-owner", "another partition than globex");
	expect_error(one_line(1, d, "release", "x", "--owner", "globex"), "not-owner", "another partition");
	cli_expect(0, d, "resolve", "x", "--owner", "acme");
	expect_error(one_line(1, d, "pin", "y", "--cluster", "c9", "--owner", "acme"), "unknown-cluster",
		     "`berth clusters`");
	expect_error(one_line(1, d, "resolve", "y", "--owner", "acme"), "unknown-cursor", "pin it again");
	expect_error(one_line(2, d, "resolve", "", "--owner", "acme"), "usage", "empty");
	memset(longest, 'o', sizeof(longest));
	longest[256] = '\0';
	expect_error(one_line(2, d, "resolve", "x", "--owner", longest), "invalid", "256 bytes");
	expect_error(one_line(2, d, "pin", "x", "--cluster", "c1", "--owner", ""), "invalid", "1 to 255");
	cli_run(&c, d, "resolve", "x", "--owner", "globex");
	cli_check(&c, 1, NULL, "berth: cursor x is pinned by another partition");
	assert_string_equal(c.out, "");
	cli_free(&c);
	/* What a pin names stays. */
	json_decref(cli_refused("cluster-in-use", d, "cluster", "remove", "c1"));
}

static void an_id_may_come_through_standard_input(void **state)
{
	struct daemon *d = *state;
	char id[4098];
	struct cli c;

	two_clusters(d);
	memset(id, 'i', sizeof(id));
	id[4097] = '\0';
	cli_run_with(&c, id, d, "pin", "-", "--cluster", "c1", "--owner", "acme");
	cli_check(&c, 1, NULL, "longer than 4096 bytes");
	cli_free(&c);
	id[4096] = '\0';
	cli_run_with(&c, id, d, "pin", "-", "--cluster", "c1", "--owner", "acme");
	cli_check(&c, 0, "iii...: pinned to c1", NULL);
	cli_free(&c);
	cli_expect(0, d, "resolve", id, "--owner", "acme");
	cli_run_with(&c, "", d, "resolve", "-", "--owner", "acme");
	cli_check(&c, 1, NULL, "is empty");
	cli_free(&c);
	/* Byte for byte. */
	cli_run_with(&c, "a\n", d, "pin", "-", "--cluster", "c1", "--owner", "acme");
	cli_check(&c, 0, "a\\x0a: pinned to c1", NULL);
	cli_free(&c);
	cli_expect(1, d, "resolve", "a", "--owner", "acme");
	cli_expect(0, d, "resolve", "a\n", "--owner", "acme");
	json_t *line = one_line(0, d, "resolve", "a\n", "--owner", "acme");
	assert_string_equal(text_of(line, "cursor"), "a\n");
	json_decref(line);
	cli_expect(0, d, "pin", "\xff\033[31m", "--cluster", "c1", "--owner", "acme");
	cli_run(&c, d, "release", "\xff\033[31m", "--owner", "acme");
	cli_check(&c, 0, "\\xff\\x1b[31m: released", NULL);
	cli_free(&c);
}

/* ---- all of them ---- */

static void pins_are_counted_by_cluster_and_owner(void **state)
{
	struct daemon *d = *state;
	const json_t *row;
	struct cli c;
	json_t *line;

	two_clusters(d);
	cli_expect(0, d, "pin", "a1", "--cluster", "c1", "--owner", "acme");
	poll(NULL, 0, 60);
	cli_expect(0, d, "pin", "a2", "--cluster", "c2", "--owner", "acme");
	cli_expect(0, d, "pin", "g1", "--cluster", "c2", "--owner", "globex");
	cli_expect(0, d, "pin", "n1", "--cluster", "c2", "--owner", "nobody");
	cli_expect(0, d, "pin", "a2", "--cluster", "c2", "--owner", "acme");
	cli_expect(1, d, "pin", "a2", "--cluster", "c2", "--owner", "globex");
	line = one_line(0, d, "cursors");
	assert_true(is_true(line, "enabled"));
	assert_string_equal(text_of(line, "writer"), "up");
	assert_int_equal(int_of(line, "pins"), 4);
	assert_int_equal(int_of(line, "not_swept"), 0);
	assert_int_equal(int_of(line, "capacity"), 8);
	assert_int_equal(int_of(line, "ttl_ms"), 90000);
	assert_int_equal(int_of(line, "pinned"), 4);
	assert_int_equal(int_of(line, "refreshed"), 1);
	assert_int_equal(int_of(line, "evicted"), 0);
	assert_true(int_of(line, "oldest_ms_ago") >= 60 && int_of(line, "oldest_ms_ago") < DAEMON_MS);
	assert_true(json_is_boolean(json_object_get(line, "sleeping")));
	assert_int_equal(json_array_size(json_object_get(line, "clusters")), 2);
	row = json_array_get(json_object_get(line, "clusters"), 1);
	assert_string_equal(text_of(row, "id"), "c2");
	assert_int_equal(int_of(row, "number"), 2);
	assert_int_equal(int_of(row, "pins"), 3);
	assert_int_equal(int_of(line, "n_owners"), 3);
	assert_int_equal(pins_of(line, "acme"), 2);
	assert_int_equal(pins_of(line, "globex"), 1);
	assert_int_equal(pins_of(line, NULL), 1); /* no partition of the table */
	row = json_array_get(json_object_get(line, "owners"), 0);
	assert_string_equal(text_of(row, "partition"), "acme"); /* most first */
	json_decref(line);

	line = one_line(0, d, "cursors", "--owner", "nobody");
	assert_int_equal(int_of(line, "pins"), 1);
	assert_int_equal(pins_of(line, "nobody"), 1);
	json_decref(line);
	line = one_line(0, d, "cursors", "--cluster", "c2", "--limit", "1");
	assert_int_equal(int_of(line, "pins"), 3);
	assert_int_equal(int_of(line, "n_owners"), 3);
	assert_int_equal(json_array_size(json_object_get(line, "owners")), 1);
	json_decref(line);
	json_decref(cli_refused("unknown-cluster", d, "cursors", "--cluster", "c9"));

	cli_run(&c, d, "cursors", "--limit", "1");
	cli_check(&c, 0, "4 of 8\n", NULL);
	cli_check(&c, 0, "CLUSTER  NUMBER  PINS\nc1            1     1\nc2            2     3\n", NULL);
	cli_check(&c, 0, "OWNER  PINS\nacme      2\nand 2 more owners", NULL);
	cli_free(&c);
	cli_run(&c, d, "cursors");
	cli_check(&c, 0, "(no partition of the table, hash ", NULL);
	cli_free(&c);
}

static void status_and_top_have_a_line_of_pins(void **state)
{
	struct daemon *d = *state;
	char id[16];
	struct cli c;

	two_clusters(d);
	for (int i = 0; i < 11; i++) { /* three more than there is room for */
		snprintf(id, sizeof(id), "s%d", i);
		cli_expect(0, d, "pin", id, "--cluster", "c1", "--owner", "acme");
	}
	json_decref(cli_refused("unknown-cursor", d, "resolve", "s2", "--owner", "acme"));
	cli_expect(0, d, "resolve", "s3", "--owner", "acme");
	cli_run(&c, d, "top");
	cli_check(&c, 0, "cursors pinned 8 of 8   new 11 in all   evicted 3 in all\n", NULL);
	cli_free(&c);
	cli_run(&c, d, "status");
	cli_check(&c, 0, "cursors pinned", NULL);
	cli_check(&c, 0, "8 of 8\n", NULL);
	cli_free(&c);
	json_t *line = one_line(0, d, "status");
	const json_t *cursors = json_object_get(line, "cursors");
	assert_int_equal(int_of(cursors, "pins"), 8);
	assert_int_equal(int_of(cursors, "evicted"), 3);
	json_decref(line);
}

/* ---- without a daemon ---- */

static void pins_can_be_looked_at_without_a_daemon(void **state)
{
	struct daemon *d = *state;
	const json_t *cursors;
	struct cli c;
	json_t *line;

	two_clusters(d);
	cli_expect(0, d, "pin", "stays", "--cluster", "c1", "--owner", "acme");
	cli_expect(0, d, "pin", "goes", "--cluster", "c2", "--owner", "acme", "--ttl-ms", "1500");
	daemon_kill(d);
	cli_run(&c, d, "resolve", "stays", "--owner", "acme");
	cli_check(&c, 0, "stays: pinned to c1 (number 1) for acme\n", "is not running");
	cli_free(&c);
	json_decref(cli_refused("not-owner", d, "resolve", "stays", "--owner", "globex"));
	json_decref(cli_refused("unknown-cursor", d, "resolve", "other", "--owner", "acme"));
	/* Time goes on without a daemon. */
	uint64_t deadline = 0;
	while (within(&deadline)) {
		cli_run(&c, d, "resolve", "goes", "--owner", "acme");
		int code = c.code;
		cli_free(&c);
		if (code == 1)
			break;
		assert_int_equal(code, 0);
	}
	json_decref(cli_refused("unknown-cursor", d, "resolve", "goes", "--owner", "acme"));
	json_decref(cli_refused("unknown-cursor", d, "resolve", "goes", "--owner", "globex"));
	line = one_line(0, d, "cursors");
	assert_string_equal(text_of(line, "writer"), "down");
	assert_int_equal(int_of(line, "pins"), 1);
	assert_int_equal(int_of(line, "not_swept"), 1);
	assert_true(json_is_null(json_object_get(line, "sleeping")));
	json_decref(line);
	cli_run(&c, d, "cursors");
	cli_check(&c, 0, "no daemon answers", "is not running");
	cli_free(&c);
	expect_error(one_line(3, d, "pin", "new", "--cluster", "c1", "--owner", "acme"), "unreachable", "start it");
	expect_error(one_line(3, d, "release", "stays", "--owner", "acme"), "unreachable", "start it");
	cli_run(&c, d, "status");
	cli_check(&c, 0, "2 of 8\n", NULL);
	cli_free(&c);
	line = one_line(0, d, "status");
	cursors = json_object_get(line, "cursors");
	assert_true(is_true(cursors, "enabled"));
	assert_int_equal(int_of(cursors, "pinned"), 2);
	json_decref(line);
	cli_expect(0, d, "verify");
	/* They outlive it. */
	daemon_start(d, "--cursor-capacity", "8", "--cursor-ttl-ms", "90000", NULL);
	cli_run(&c, d, "resolve", "stays", "--owner", "acme");
	cli_check(&c, 0, "pinned to c1", NULL);
	assert_string_equal(c.err, "");
	cli_free(&c);
	cli_expect(0, d, "release", "stays", "--owner", "acme");
}

static void a_stopped_daemon_is_given_up_after_a_while(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	two_clusters(d);
	cli_expect(0, d, "pin", "x", "--cluster", "c1", "--owner", "acme");
	daemon_signal(d, SIGSTOP);
	uint64_t start = test_now_ms();
	cli_expect(3, d, "pin", "y", "--cluster", "c1", "--owner", "acme");
	cli_expect(3, d, "release", "x", "--owner", "acme");
	cli_run(&c, d, "resolve", "x", "--owner", "acme");
	cli_check(&c, 0, "pinned to c1", "does not answer");
	cli_free(&c);
	assert_true(test_now_ms() - start < DAEMON_MS);
	daemon_signal(d, SIGCONT);
	cli_expect(0, d, "release", "x", "--owner", "acme");
}

int main(void)
{
#define SMALL(test) cmocka_unit_test_setup_teardown(test, small_setup, daemon_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_commands_are_in_help_man_and_completion),
		cmocka_unit_test(wrong_lines_are_usage_errors),
		DAEMON_TEST(looking_makes_no_use_of_pins, "memory"),
		DAEMON_TEST(a_cursor_is_pinned_resolved_and_released, "sqlite"),
		DAEMON_TEST(what_is_refused_has_a_code_and_says_what_to_do, "memory"),
		DAEMON_TEST(an_id_may_come_through_standard_input, "memory"),
		SMALL(pins_are_counted_by_cluster_and_owner),
		SMALL(status_and_top_have_a_line_of_pins),
		SMALL(pins_can_be_looked_at_without_a_daemon),
		SMALL(a_stopped_daemon_is_given_up_after_a_while),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
