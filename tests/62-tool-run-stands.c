/* SPDX-License-Identifier: MIT
 * `berth migrate run` that ends while the migration stands: exit code 5, and what it says of it. The daemon is killed,
 * stopped, or somebody else goes on with the migration; 62-tool-run-lost.c has answers that are lost on their way. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "cli.h"
#include "holder.h"

#define AT_ONCE_MS 3000u /* far from the 30 s that a daemon is waited for */

static const char *const partitions[] = {"acme", "globex", "initech"};

static void placed(struct daemon *d)
{
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "http://h1:9200");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "http://h2:9200");
	for (size_t i = 0; i < sizeof(partitions) / sizeof(partitions[0]); i++)
		cli_expect(0, d, "set", partitions[i], "--mode", "dedicated-cluster", "--cluster", "c1");
	holder_start(&(struct holder){0}, d, BERTH_WRITES_UNBRACKETED); /* each cutover waits the barrier, 30 s */
}

static int teardown(void **state)
{
	holder_kill_all();
	return daemon_teardown(state);
}

/* The error object that a run with --json ended with; with this code, phase and, where there is one, epoch. */
static void ended_standing(const struct cli *c, const char *code, const char *phase, json_int_t epoch)
{
	json_t *line = json_loads(c->out, 0, NULL);
	const json_t *error = json_object_get(line, "error");

	cli_check(c, 5, NULL, NULL);
	assert_string_equal(text_of(error, "code"), code);
	assert_string_equal(text_of(error, "phase"), phase);
	assert_int_equal(int_of(error, "epoch"), epoch);
	json_decref(line);
}

/* The row of `migrate status`: "" is none. */
static void is_in(const struct daemon *d, const char *partition, const char *phase, json_int_t *epoch)
{
	json_t *lines = cli_json(0, d, "migrate", "status");
	const json_t *row;
	const char *now = "";
	size_t i;

	json_array_foreach (lines, i, row) {
		if (strcmp(text_of(row, "partition"), partition) != 0)
			continue;
		now = text_of(json_object_get(row, "state"), "phase");
		*epoch = int_of(row, "epoch");
	}
	assert_string_equal(now, phase);
	json_decref(lines);
}

static void help_names_the_code(void **state)
{
	struct cli c;

	(void)state;
	cli_run(&c, NULL, "--help");
	cli_check(&c, 0, "5  ", NULL);
	cli_check(&c, 0, "the migration stands, or may stand", NULL);
	cli_free(&c);
}

/* Three at once, because each waits 30 s for the daemon. */
static void without_a_daemon_it_says_that_the_migration_stands(void **state)
{
	struct daemon *d = *state;
	struct cli drains, copies, stops;
	json_int_t epoch = 0;

	placed(d);
	cli_start(&drains, d, "--json", "migrate", "run", "acme", "--to", "c2");
	cli_start(&copies, d, "--json", "migrate", "run", "globex", "--to", "c2", "--copy", "echo started; sleep 1");
	cli_start(&stops, d, "migrate", "run", "initech", "--to", "c2");
	cli_expect_err(&drains, "waiting: ");
	cli_expect_err(&copies, "started");
	cli_expect_err(&stops, "waiting: ");
	daemon_kill(d);
	cli_expect_err(&stops, "waiting for berthd to come back");
	kill(stops.pid, SIGINT); /* not 3, and not 130: nothing is undone */
	cli_wait(&drains);
	is_in(d, "acme", "cutover", &epoch);
	ended_standing(&drains, "unreachable", "cutover", epoch);
	cli_check(&drains, 5, "The writes of acme are still held back", NULL);
	cli_wait(&copies);
	is_in(d, "globex", "draining", &epoch);
	ended_standing(&copies, "unreachable", "draining", epoch);
	cli_check(&copies, 5, "globex is still in its migration, reads and writes go to the old cluster", NULL);
	cli_wait(&stops);
	is_in(d, "initech", "cutover", &epoch);
	cli_check(&stops, 5, NULL, "The writes of initech are still held back");
	cli_free(&drains);
	cli_free(&copies);
	cli_free(&stops);
	/* Nothing was begun: nothing stands. */
	cli_expect(3, d, "migrate", "run", "acme", "--to", "c2");
}

/* Signals twice, in the drain; the time from the second to its end. */
static uint64_t interrupt_twice(struct cli *c, int first, int second)
{
	kill(c->pid, first);
	poll(NULL, 0, 300);
	assert_int_equal(kill(c->pid, 0), 0);
	kill(c->pid, second);
	uint64_t start = test_now_ms();
	cli_wait(c);
	return test_now_ms() - start;
}

static void a_second_signal_ends_it_at_once(void **state)
{
	struct daemon *d = *state;
	json_int_t epoch = 0;
	struct cli c;

	placed(d);
	/* It hangs: the abort is under way. */
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: ");
	is_in(d, "acme", "cutover", &epoch);
	daemon_signal(d, SIGSTOP);
	assert_true(interrupt_twice(&c, SIGINT, SIGINT) < child_patience(AT_ONCE_MS));
	ended_standing(&c, "interrupted", "cutover", epoch);
	cli_check(&c, 5, "interrupted again before the migration was undone. The writes of acme are still held back",
		  NULL);
	cli_free(&c);
	daemon_signal(d, SIGCONT);
	/* It is dead: a new one is waited for. */
	cli_start(&c, d, "migrate", "run", "globex", "--to", "c2");
	cli_expect_err(&c, "waiting: ");
	daemon_kill(d);
	assert_true(interrupt_twice(&c, SIGTERM, SIGINT) < child_patience(AT_ONCE_MS));
	cli_check(&c, 5, NULL, "The writes of globex are still held back");
	cli_free(&c);
	is_in(d, "globex", "cutover", &epoch);
}

/* What a terminal does that closes: the kernel's signal, and the shell's. */
static void the_same_signal_twice_at_once_is_one(void **state)
{
	struct daemon *d = *state;
	json_int_t epoch = 0;
	struct cli c;

	placed(d);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: ");
	daemon_signal(d, SIGSTOP);
	kill(c.pid, SIGHUP);
	poll(NULL, 0, 10);
	kill(c.pid, SIGHUP);
	poll(NULL, 0, 300);
	daemon_signal(d, SIGCONT);
	cli_wait(&c);
	cli_check(&c, 130, NULL, "interrupted. The migration is undone, c1 keeps the partition");
	cli_free(&c);
	is_in(d, "acme", "", &epoch);
}

static void a_second_signal_ends_a_copy_that_does_not_end(void **state)
{
	struct daemon *d = *state;
	json_int_t epoch = 0;
	struct cli c;

	placed(d);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2", "--copy",
		  "trap '' TERM; echo started; while :; do sleep 1; done");
	cli_expect_out(&c, "started");
	assert_true(interrupt_twice(&c, SIGINT, SIGINT) < child_patience(AT_ONCE_MS)); /* else 10 s */
	cli_check(&c, 130, NULL, "interrupted. The migration is undone, c1 keeps the partition");
	cli_free(&c);
	is_in(d, "acme", "", &epoch);
}

static void what_somebody_else_goes_on_with_stands(void **state)
{
	struct daemon *d = *state;
	json_int_t epoch = 0;
	struct cli c;

	placed(d);
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2", "--copy", "echo started; sleep 1");
	cli_expect_err(&c, "started");
	cli_expect(0, d, "migrate", "cutover", "acme");
	cli_wait(&c);
	is_in(d, "acme", "cutover", &epoch);
	ended_standing(&c, "changed-meanwhile", "cutover", epoch);
	cli_check(&c, 5, "The writes of acme are still held back", NULL);
	cli_free(&c);
	cli_expect(0, d, "migrate", "abort", "acme");
	/* Ended by somebody else, it is no more. */
	cli_start(&c, d, "--json", "migrate", "run", "acme", "--to", "c2", "--copy", "echo started; sleep 1");
	cli_expect_err(&c, "started");
	cli_expect(0, d, "migrate", "abort", "acme");
	cli_wait(&c);
	cli_check(&c, 1, "\"changed-meanwhile\"", NULL);
	cli_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(help_names_the_code),
		cmocka_unit_test_setup_teardown(without_a_daemon_it_says_that_the_migration_stands, daemon_setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_second_signal_ends_it_at_once, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(the_same_signal_twice_at_once_is_one, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(a_second_signal_ends_a_copy_that_does_not_end, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(what_somebody_else_goes_on_with_stands, daemon_setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
