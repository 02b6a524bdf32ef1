/* SPDX-License-Identifier: MIT
 * `berth` when the daemon is dead, stopped, or was started anew: what still works, what says so, and that a dump of the
 * table does not tell. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void a_dead_daemon_leaves_the_looking_commands(void **state)
{
	static const char *const changing[][8] = {
		{"set", "x", "--mode", "dedicated-cluster", "--cluster", "c1", NULL},
		{"remove", "acme", NULL},
		{"cluster", "set", "c3", "--endpoint", "", NULL},
		{"cluster", "remove", "c2", NULL},
		{"default", "unset", NULL},
		{"load", "/dev/null", NULL},
		{"migrate", "begin", "acme", "--to", "c2", NULL},
		{"migrate", "abort", "acme", NULL},
		{"migrate", "run", "acme", "--to", "c2", NULL},
		{"history", NULL},
		{"watch", NULL},
		{"top", NULL},
	};
	struct daemon *d = *state;
	struct holder h;
	json_t *lines;
	struct cli before, after;

	two_clusters(d);
	cli_expect(0, d, "set", "acme", "--cluster", "c1", SHARED);
	cli_expect(0, d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c1");
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2");
	cli_run(&before, d, "dump");
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	holder_begin(&h, "globex");
	daemon_kill(d);
	lines = cli_json(0, d, "status");
	assert_string_equal(field(lines, 0, "writer"), "down");
	assert_int_equal(int_of(json_array_get(lines, 0), "partitions"), 2);
	assert_true(int_of(json_array_get(lines, 0), "heartbeat_age_ms") < DAEMON_MS);
	json_decref(lines);
	cli_run(&after, d, "status");
	cli_check(&after, 0, "not running", NULL);
	cli_free(&after);
	cli_run(&after, d, "dump");
	assert_string_equal(before.out, after.out);
	cli_free(&after);
	cli_free(&before);
	cli_expect(0, d, "list");
	cli_expect(0, d, "clusters");
	cli_expect(0, d, "get", "acme");
	cli_expect(1, d, "get", "nobody");
	cli_expect(0, d, "verify");
	cli_run(&after, d, "readers"); /* what it has under way only a daemon can see */
	cli_check(&after, 0, "lives", "from its ledger:");
	assert_non_null(strstr(after.out, "leases"));
	cli_free(&after);
	lines = cli_json(0, d, "readers");
	assert_int_equal(json_array_size(lines), 1);
	assert_string_equal(field(lines, 0, "writes"), "bracketed");
	assert_string_equal(field(lines, 0, "comm"), "holder");
	json_decref(lines);
	lines = cli_json(0, d, "migrate", "status");
	assert_int_equal(json_array_size(lines), 1);
	assert_string_equal(field(lines, 0, "partition"), "acme");
	json_decref(lines);
	for (size_t i = 0; i < sizeof(changing) / sizeof(changing[0]); i++) {
		const char *const *l = changing[i];

		lines = cli_json(3, d, l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]);
		json_t *error = json_object_get(json_array_get(lines, 0), "error");
		assert_string_equal(text_of(error, "code"), "unreachable");
		assert_non_null(strstr(text_of(error, "message"), "start it"));
		json_decref(lines);
	}
	holder_kill(&h);
}

/* What it waits for only a daemon can tell: `complete` is no advice while a write is under way. */
static void a_cutover_without_its_daemon_is_told_as_what_it_is(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	struct cli c;

	two_clusters(d);
	cli_expect(0, d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c1");
	cli_expect(0, d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c1");
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	unsigned number = holder_begin(&h, "acme");
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2");
	cli_expect(0, d, "migrate", "begin", "globex", "--to", "c2");
	cli_expect(0, d, "migrate", "cutover", "acme");
	daemon_kill(d);
	cli_run(&c, d, "migrate", "status");
	cli_check(&c, 0, "not known without berthd", "from its table:");
	assert_null(strstr(c.out, "migrate complete"));
	assert_non_null(strstr(c.out, "`berth migrate cutover`"));
	cli_free(&c);
	daemon_start(d, NULL);
	holder_end(&h, number, BERTH_DONE);
	uint64_t deadline = 0;
	for (bool free = false; !free;) { /* now it is */
		assert_true(within(&deadline));
		cli_run(&c, d, "migrate", "status");
		free = strstr(c.out, "`berth migrate complete`") != NULL;
		cli_free(&c);
	}
	holder_kill(&h);
}

static void a_stopped_daemon_is_given_up_after_a_while(void **state)
{
	struct daemon *d = *state;
	json_t *lines;
	struct cli c;

	two_clusters(d);
	cli_expect(0, d, "set", "acme", "--cluster", "c1", SHARED);
	daemon_signal(d, SIGSTOP);
	uint64_t start = test_now_ms();
	cli_expect(0, d, "get", "acme");
	cli_run(&c, d, "remove", "acme");
	cli_check(&c, 3, NULL, "has not answered");
	cli_free(&c);
	assert_true(test_now_ms() - start < DAEMON_MS);
	lines = cli_json(0, d, "status");
	assert_string_equal(field(lines, 0, "writer"), "silent");
	json_decref(lines);
	daemon_signal(d, SIGCONT);
	cli_expect(0, d, "status");
}

static void a_dump_is_the_same_after_a_restart(void **state)
{
	struct daemon *d = *state;
	struct cli before, after;
	char name[300];

	two_clusters(d);
	for (int i = 0; i < 60; i++) {
		int n = snprintf(name, sizeof(name), "tenant-%d", i * 7919 % 61);
		if (i % 3 == 0)
			snprintf(name + n, sizeof(name) - (size_t)n, "-with-a-name-that-does-not-fit-into-its-entry");
		cli_expect(0, d, "set", name, "--cluster", i % 2 ? "c1" : "c2", SHARED);
	}
	cli_expect(0, d, "remove", "tenant-1");
	cli_expect(0, d, "default", "set", "--cluster", "c1", SHARED);
	cli_expect(0, d, "migrate", "begin", "tenant-2", "--to", "c1");
	cli_run(&before, d, "dump");
	assert_int_equal(daemon_stop(d), 0);
	daemon_start(d, NULL);
	cli_run(&after, d, "dump");
	cli_check(&after, 0, NULL, NULL);
	assert_string_equal(before.out, after.out);
	/* Sorted by partition. */
	char last[300] = "", *save;
	unsigned n = 0;
	for (char *line = strtok_r(after.out, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (sscanf(line, "{\"partition\":\"%299[^\"]", name) != 1)
			continue;
		assert_true(strcmp(last, name) < 0);
		strcpy(last, name);
		n++;
	}
	assert_int_equal(n, 59);
	cli_free(&after);
	cli_free(&before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(a_dead_daemon_leaves_the_looking_commands, "sqlite"),
		DAEMON_TEST(a_cutover_without_its_daemon_is_told_as_what_it_is, "sqlite"),
		DAEMON_TEST(a_stopped_daemon_is_given_up_after_a_while, "memory"),
		DAEMON_TEST(a_dump_is_the_same_after_a_restart, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
