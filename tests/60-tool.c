/* SPDX-License-Identifier: MIT
 * `berth` against a real daemon: exit codes, JSON forms, every command. The command line itself is in 60-tool-line.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "cli.h"
#include "holder.h"

#define SHARED "--mode", "shared-index", "--index", "shared", "--inject", "_tenant=@partition"

static void two_clusters(const struct daemon *d)
{
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "http://10.0.0.1:9200");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "http://10.0.0.2:9200");
}

static const char *field(const json_t *lines, size_t i, const char *name)
{
	return text_of(json_array_get(lines, i), name);
}

static void an_instance_that_is_not_there_cannot_be_reached(void **state)
{
	json_t *lines;
	struct cli c;

	(void)state;
	cli_run(&c, NULL, "--dir", "/nonexistent/i", "status");
	cli_check(&c, 3, NULL, "/nonexistent/i");
	cli_free(&c);
	lines = cli_json(3, NULL, "--dir=/nonexistent/i", "list");
	assert_string_equal(text_of(json_object_get(json_array_get(lines, 0), "error"), "code"), "no-instance");
	json_decref(lines);
	cli_expect(3, NULL, "verify", "--dir", "/nonexistent/i");
	cli_expect(0, NULL, "--version");
}

/* ---- changing and looking ---- */

static void placements_are_made_and_shown(void **state)
{
	struct daemon *d = *state;
	struct cli c;
	json_t *lines;

	two_clusters(d);
	cli_run(&c, d, "set", "acme", "--cluster", "c1", SHARED, "--inject", "tier=gold");
	cli_check(&c, 0, "acme: set, epoch 1\n", NULL);
	cli_free(&c);
	lines = cli_json(0, d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c2");
	assert_int_equal(int_of(json_array_get(lines, 0), "epoch"), 2);
	assert_true(is_true(json_array_get(lines, 0), "changed"));
	json_decref(lines);
	cli_run(&c, d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c2");
	cli_check(&c, 0, "unchanged", NULL);
	cli_free(&c);

	lines = cli_json(0, d, "get", "acme");
	json_t *wanted =
		json_pack("{s:s,s:i,s:b,s:{s:{s:s,s:s,s:s,s:[{s:s,s:{s:b}},{s:s,s:s}]}}}", "partition", "acme", "epoch",
			  1, "is_default", 0, "state", "at", "mode", "shared-index", "cluster", "c1", "index", "shared",
			  "inject", "field", "_tenant", "value", "partition", 1, "field", "tier", "value", "gold");
	assert_true(json_equal(json_array_get(lines, 0), wanted));
	json_decref(wanted);
	json_decref(lines);

	lines = cli_json(0, d, "list");
	assert_int_equal(json_array_size(lines), 2);
	assert_string_equal(field(lines, 0, "partition"), "acme");
	assert_string_equal(field(lines, 0, "phase"), "settled");
	assert_string_equal(field(lines, 1, "cluster"), "c2");
	assert_string_equal(field(lines, 1, "mode"), "dedicated-cluster");
	json_decref(lines);
	cli_run(&c, d, "list");
	cli_check(&c, 0, "PARTITION  PHASE    CLUSTER  MODE               INDEX   EPOCH\n", NULL);
	cli_free(&c);

	lines = cli_json(0, d, "clusters");
	assert_string_equal(field(lines, 0, "id"), "c1");
	assert_int_equal(int_of(json_array_get(lines, 1), "number"), 2);
	json_decref(lines);

	cli_expect(0, d, "remove", "globex");
	cli_expect(0, d, "cluster", "remove", "c2");
	json_decref(cli_refused("cluster-in-use", d, "cluster", "remove", "c1"));
	lines = cli_json(0, d, "status");
	assert_string_equal(field(lines, 0, "writer"), "up");
	assert_int_equal(int_of(json_array_get(lines, 0), "partitions"), 1);
	json_decref(lines);
	cli_run(&c, d, "status");
	cli_check(&c, 0, "partitions", NULL);
	cli_check(&c, 0, "documents applied or refused ", NULL);
	cli_free(&c);
	cli_expect(0, d, "verify");
}

static void the_default_answers_for_the_rest(void **state)
{
	struct daemon *d = *state;
	json_t *lines;
	struct cli c;

	two_clusters(d);
	json_decref(cli_refused("unknown-partition", d, "get", "acme"));
	cli_run(&c, d, "history", "acme");
	cli_check(&c, 0, "no change is recorded", NULL);
	assert_null(strstr(c.out, "EPOCH"));
	cli_free(&c);
	cli_expect(0, d, "default", "set", "--cluster", "c1", SHARED);
	lines = cli_json(0, d, "get", "acme");
	assert_true(is_true(json_array_get(lines, 0), "is_default"));
	json_decref(lines);
	cli_run(&c, d, "get", "acme");
	cli_check(&c, 0, "the default answers", NULL);
	cli_free(&c);
	json_decref(cli_refused("would-move", d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c2"));
	cli_expect(0, d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c2", "--force");
	json_decref(cli_refused("would-move", d, "remove", "acme"));
	cli_expect(0, d, "remove", "acme", "--force");
	cli_expect(0, d, "default", "unset");
	json_decref(cli_refused("unknown-partition", d, "get", "acme"));
}

static void a_refusal_is_told_on_stderr_or_as_json(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	cli_run(&c, d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "nowhere");
	cli_check(&c, 1, NULL, "unknown-cluster");
	assert_string_equal(c.out, "");
	cli_free(&c);
	json_t *error = cli_refused("invalid", d, "cluster", "set", "c1", "--endpoint", "ftp://x");
	assert_non_null(strstr(text_of(error, "message"), "ftp://x"));
	assert_true(strlen(text_of(error, "path")) > 0);
	json_decref(error);
	json_decref(cli_refused("invalid", d, "set", "a\xff", "--mode", "dedicated-cluster", "--cluster", "c1"));
	/* A partition that looks like an option. */
	two_clusters(d);
	cli_expect(0, d, "set", "--mode=dedicated-cluster", "--cluster=c1", "--", "--json");
	cli_expect(0, d, "get", "--", "--json");
}

static void documents_are_loaded_from_files(void **state)
{
	static const char document[] =
		"{\"version\":1,\"clusters\":{\"c1\":{\"endpoint\":\"http://h:1\"}},\"partitions\":"
		"{\"a\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},\"b\":{\"mode\":\"dedicated-cluster\","
		"\"cluster\":\"c1\"}}}";
	struct daemon *d = *state;
	char path[128];
	json_t *lines;

	daemon_file(d, "doc.json", document, path);
	lines = cli_json(0, d, "load", path);
	assert_int_equal(int_of(json_array_get(lines, 0), "applied"), 2);
	json_decref(lines);
	json_decref(cli_refused("stale-document", d, "load", path));
}

static void a_document_comes_through_a_pipe_and_leaves_commands_alone(void **state)
{
	struct daemon *d = *state;
	char path[128];
	struct cli c;

	cli_run_with(&c,
		     "{\"partitions\":{\"a\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},"
		     "\"b\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}}",
		     d, "load", "-");
	cli_check(&c, 0, "2 partitions: 2 applied", NULL);
	cli_free(&c);
	cli_run_with(&c, "{\"partitions\":{\"a\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}}", d, "load",
		     "-");
	cli_check(&c, 0, "1 partitions: 0 applied, 1 unchanged", NULL);
	cli_free(&c);
	cli_expect(0, d, "set", "a", "--mode", "dedicated-index", "--index", "mine", "--cluster", "c1");
	cli_run_with(&c,
		     "{\"partitions\":{\"a\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"other\"}}}",
		     d, "load", "-");
	cli_check(&c, 0, "left alone: a", NULL);
	assert_non_null(strstr(c.out, "applies a document there too\n")); /* it has no version */
	cli_free(&c);
	cli_run_with(&c,
		     "{\"partitions\":{\"a\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"other\"}}}",
		     d, "load", "-", "--override", "--prune");
	cli_check(&c, 0, "1 applied, 1 removed", NULL);
	cli_free(&c);
	cli_run_with(&c, "{\"partitions\":{\"a\":1}}", d, "load", "-");
	cli_check(&c, 1, NULL, "$.partitions");
	cli_free(&c);
	json_decref(cli_refused("invalid", d, "load", "/nonexistent"));
	json_decref(cli_refused("invalid", d, "load", d->home));
	daemon_file(d, "bad.json", "{", path);
	json_decref(cli_refused("bad-document", d, "load", path));
}

static void a_migration_goes_step_by_step(void **state)
{
	struct daemon *d = *state;
	struct holder without_leases;
	json_t *lines, *error;
	struct cli c;

	holder_start(&without_leases, d, BERTH_WRITES_UNBRACKETED); /* each cutover waits the barrier */
	two_clusters(d);
	cli_expect(0, d, "set", "acme", "--cluster", "c1", SHARED);
	json_decref(cli_refused("not-migrating", d, "migrate", "cutover", "acme"));
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2");
	json_decref(cli_refused("already-migrating", d, "migrate", "begin", "acme", "--to", "c2"));
	cli_run(&c, d, "get", "acme");
	cli_check(&c, 0, "moves to   c2", NULL);
	cli_free(&c);
	lines = cli_json(0, d, "list");
	assert_string_equal(field(lines, 0, "phase"), "draining");
	assert_string_equal(field(lines, 0, "to"), "c2");
	json_decref(lines);
	cli_expect(0, d, "migrate", "abort", "acme");
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2", "--mode", "dedicated-index", "--index", "acme",
		   NULL);
	json_decref(cli_refused("not-cutover", d, "migrate", "complete", "acme"));
	cli_expect(0, d, "migrate", "cutover", "acme");
	error = cli_refused("barrier-pending", d, "migrate", "complete", "acme");
	assert_true(int_of(error, "remaining_ms") > 0);
	assert_true(strlen(text_of(error, "reason")) > 0);
	assert_int_equal(int_of(error, "in_flight"), 0);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(error, "pids"), 0)), without_leases.pid);
	json_decref(error);
	lines = cli_json(0, d, "migrate", "status");
	assert_string_equal(field(lines, 0, "partition"), "acme");
	assert_string_equal(text_of(json_object_get(json_array_get(lines, 0), "state"), "phase"), "cutover");
	json_decref(lines);
	cli_run(&c, d, "migrate", "status");
	cli_check(&c, 0, "cutover", NULL);
	cli_free(&c);
	cli_run(&c, d, "top");
	cli_check(&c, 0, "1 in cutover", NULL);
	cli_free(&c);
	cli_run(&c, d, "migrate", "complete", "acme", "--force");
	cli_check(&c, 0, "writes were held back for", NULL);
	cli_free(&c);
	lines = cli_json(0, d, "history", "acme", "--limit", "2");
	assert_int_equal(json_array_size(lines), 2);
	assert_string_equal(field(lines, 0, "what"), "complete");
	assert_true(is_true(json_array_get(lines, 0), "forced"));
	json_decref(lines);
	cli_run(&c, d, "history");
	cli_check(&c, 0, "complete (forced)", NULL);
	cli_free(&c);
	cli_run(&c, d, "migrate", "status");
	cli_check(&c, 0, "no migration is under way", NULL);
	cli_free(&c);
	holder_stop(&without_leases);
}

static void watch_prints_each_change(void **state)
{
	struct daemon *d = *state;
	struct cli human, json;

	cli_start(&human, d, "watch");
	cli_start(&json, d, "watch", "--json");
	cli_expect_err(&human, "watching");
	uint64_t deadline = 0;
	json_t *lines = NULL;
	while (within(&deadline)) { /* until both are there */
		lines = cli_json(0, d, "status");
		json_int_t watchers = int_of(json_array_get(lines, 0), "watchers");
		json_decref(lines);
		if (watchers == 2)
			break;
	}
	two_clusters(d);
	cli_expect(0, d, "set", "acme", "--cluster", "c1", SHARED);
	cli_expect_out(&human, "epoch 1  set acme  settled at c1 (shared-index, shared)");
	cli_expect_out(&json, "\"key\":\"acme\"");
	cli_expect_out(&json, "\"at_ms\":");
	daemon_kill(d);
	cli_wait(&human);
	cli_check(&human, 3, NULL, "berth history");
	cli_free(&human);
	cli_wait(&json);
	cli_check(&json, 3, "\"error\"", NULL);
	cli_free(&json);
}

static void readers_are_listed_with_harmless_names(void **state)
{
	struct daemon *d = *state;
	struct berth *b;
	struct berth_reader *r;
	json_t *lines;
	char name[16];
	struct cli c;

	prctl(PR_GET_NAME, name);
	prctl(PR_SET_NAME, "\033[31mred");
	assert_int_equal(berth_attach(d->dir, NULL, &b), BERTH_OK);
	prctl(PR_SET_NAME, name);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	berth_read_begin(r);
	cli_run(&c, d, "readers");
	cli_check(&c, 0, "\\x1b[31mred", NULL);
	assert_null(strchr(c.out, '\033'));
	cli_free(&c);
	lines = cli_json(0, d, "readers");
	assert_int_equal(int_of(json_array_get(lines, 0), "pid"), getpid());
	assert_int_equal(json_array_size(json_object_get(json_array_get(lines, 0), "sections")), 1);
	json_decref(lines);
	lines = cli_json(0, d, "top");
	assert_int_equal(json_array_size(json_object_get(json_array_get(lines, 0), "readers")), 1);
	json_decref(lines);
	daemon_kill(d);
	cli_run(&c, d, "readers");
	cli_check(&c, 0, "\\x1b[31mred", "not running");
	cli_free(&c);
	lines = cli_json(0, d, "readers");
	assert_int_equal(int_of(json_array_get(lines, 0), "pid"), getpid());
	assert_true(is_true(json_array_get(lines, 0), "process_exists"));
	json_decref(lines);
	berth_read_end(r);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

static void a_long_path_is_no_obstacle(void **state)
{
	struct daemon *d = *state;
	char path[600];
	size_t n = (size_t)snprintf(path, sizeof(path), "%s/", d->home);

	while (n < 500)
		n += (size_t)snprintf(path + n, sizeof(path) - n, "./");
	snprintf(path + n, sizeof(path) - n, "i");
	cli_expect(0, NULL, "--dir", path, "cluster", "set", "c1", "--endpoint", "");
	cli_expect(0, NULL, "--dir", path, "list");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_instance_that_is_not_there_cannot_be_reached),
		DAEMON_TEST(placements_are_made_and_shown, "sqlite"),
		DAEMON_TEST(the_default_answers_for_the_rest, "memory"),
		DAEMON_TEST(a_refusal_is_told_on_stderr_or_as_json, "memory"),
		DAEMON_TEST(documents_are_loaded_from_files, "memory"),
		DAEMON_TEST(a_document_comes_through_a_pipe_and_leaves_commands_alone, "memory"),
		DAEMON_TEST(a_migration_goes_step_by_step, "sqlite"),
		DAEMON_TEST(watch_prints_each_change, "memory"),
		DAEMON_TEST(readers_are_listed_with_harmless_names, "memory"),
		DAEMON_TEST(a_long_path_is_no_obstacle, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
