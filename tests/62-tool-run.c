/* SPDX-License-Identifier: MIT
 * `berth migrate run` against a real daemon: a whole migration, and everything that may go wrong in one. A reader that
 * writes without leases is attached, so that each cutover waits the barrier; 62-tool-drain.c has those with leases,
 * 62-tool-run-stands.c and 62-tool-run-lost.c runs that end while the migration stands. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"
#include "holder.h"

static void placed(struct daemon *d)
{
	struct wire w;

	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "cluster.set", "{s:s,s:s}", "id", "c1", "endpoint", "http://h1:9200");
	wire_do(&w, "cluster.set", "{s:s,s:s}", "id", "c2", "endpoint", "http://h2:9200");
	wire_do(&w, "set", "{s:s,s:{s:s,s:s,s:s}}", "partition", "acme", "placement", "mode", "dedicated-index",
		"cluster", "c1", "index", "old");
	wire_close(&w);
	holder_start(&(struct holder){0}, d, BERTH_WRITES_UNBRACKETED);
}

static int teardown(void **state)
{
	holder_kill_all();
	return daemon_teardown(state);
}

static void is_settled_at(const struct daemon *d, const char *cluster)
{
	json_t *lines = cli_json(0, d, "get", "acme");
	const json_t *state = json_object_get(json_array_get(lines, 0), "state");

	assert_null(json_object_get(state, "phase"));
	assert_string_equal(text_of(json_object_get(state, "at"), "cluster"), cluster);
	json_decref(lines);
}

/* A daemon whose barrier a test can wait for: from the start, because a shorter one counts after the longer one only.
 */
static int short_barrier(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));

	daemon_make(d, "sqlite");
	*state = d;
	daemon_start(d, "--barrier-ms", "500", NULL);
	return 0;
}

static void restart(struct daemon *d)
{
	daemon_kill(d);
	daemon_start(d, "--barrier-ms", "500", NULL);
}

static void a_run_copies_waits_and_moves(void **state)
{
	struct daemon *d = *state;
	struct cli c;
	json_t *lines;

	placed(d);
	cli_run(&c, d, "migrate", "run", "acme", "--to", "c2", "--index", "new", "--copy",
		"echo $BERTH_PARTITION $BERTH_FROM $BERTH_FROM_ENDPOINT $BERTH_FROM_INDEX $BERTH_FROM_MODE; "
		"echo $BERTH_TO $BERTH_TO_ENDPOINT $BERTH_TO_INDEX $BERTH_TO_MODE $BERTH_EPOCH; "
		"echo $BERTH_DIR; echo an error >&2");
	cli_check(&c, 0, "acme c1 http://h1:9200 old dedicated-index\nc2 http://h2:9200 new dedicated-index 2\n",
		  "waiting: ");
	cli_check(&c, 0, d->dir, "an error\n");
	cli_check(&c, 0, "acme: moved from c1 to c2, epoch 4; writes were held back for ", NULL);
	cli_free(&c);
	is_settled_at(d, "c2");
	/* Output of the copy stays out of the JSON. */
	lines = cli_json(0, d, "migrate", "run", "acme", "--to", "c1", "--copy", "echo copying");
	assert_int_equal(json_array_size(lines), 1);
	const json_t *end = json_array_get(lines, 0);
	assert_string_equal(text_of(end, "from"), "c2");
	assert_string_equal(text_of(end, "to"), "c1");
	assert_int_equal(int_of(end, "epoch"), 7);
	assert_true(int_of(end, "blackout_ms") >= 400);
	assert_true(int_of(end, "blackout_ms") < DAEMON_MS);
	json_decref(lines);
	is_settled_at(d, "c1");
}

static void a_run_that_is_refused_changes_nothing(void **state)
{
	struct daemon *d = *state;

	placed(d);
	json_decref(cli_refused("unknown-partition", d, "migrate", "run", "nobody", "--to", "c2"));
	json_decref(cli_refused("unknown-cluster", d, "migrate", "run", "acme", "--to", "c9"));
	json_decref(cli_refused("same-placement", d, "migrate", "run", "acme", "--to", "c1"));
	json_decref(cli_refused("invalid", d, "migrate", "run", "acme", "--to", "c2", "--index", "NO"));
	cli_expect(2, d, "migrate", "run", "acme", "--to", "c2", "--max-blackout", "soon");
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2");
	json_decref(cli_refused("already-migrating", d, "migrate", "run", "acme", "--to", "c2"));
	json_t *lines = cli_json(0, d, "migrate", "status");
	assert_int_equal(json_array_size(lines), 1);
	json_decref(lines);
}

static void a_copy_that_fails_undoes_it(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	placed(d);
	cli_run(&c, d, "migrate", "run", "acme", "--to", "c2", "--copy", "exit 7");
	cli_check(&c, 1, NULL, "the copy command failed with exit code 7");
	cli_check(&c, 1, NULL, "The migration is undone, c1 keeps the partition (epoch 3)");
	cli_free(&c);
	is_settled_at(d, "c1");
	json_decref(cli_refused("copy-failed", d, "migrate", "run", "acme", "--to", "c2", "--copy", "kill -9 $$"));
	is_settled_at(d, "c1");
}

static void a_blackout_that_lasts_too_long_undoes_it(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	placed(d); /* the barrier is 30 s */
	cli_run(&c, d, "migrate", "run", "acme", "--to", "c2", "--max-blackout", "400");
	cli_check(&c, 1, NULL, "not completed within --max-blackout 400 ms");
	cli_check(&c, 1, NULL, "writes were held back for");
	cli_free(&c);
	is_settled_at(d, "c1");
	json_t *error = cli_refused("max-blackout", d, "migrate", "run", "acme", "--to", "c2", "--max-blackout", "50");
	json_decref(error);
	is_settled_at(d, "c1");
}

static void signals_undo_it(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
	struct daemon *d = *state;
	struct cli c;
	char path[128], command[256];
	struct stat st;

	placed(d);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) { /* while the barrier is waited for */
		cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
		cli_expect_err(&c, "waiting: ");
		kill(c.pid, SIGTTOU); /* the terminal is another job's: it goes on */
		kill(c.pid, signals[i]);
		cli_wait(&c);
		cli_check(&c, 130, NULL, "interrupted. The migration is undone, c1 keeps the partition");
		cli_free(&c);
		is_settled_at(d, "c1");
	}
	/* While it copies: the command is ended too, with all that it started. */
	snprintf(path, sizeof(path), "%s/ended", d->home);
	snprintf(command, sizeof(command), "trap 'touch %s; exit 1' TERM; echo started; sleep 60 & wait", path);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2", "--copy", command);
	cli_expect_out(&c, "started");
	kill(c.pid, SIGTERM);
	cli_wait(&c);
	cli_check(&c, 130, NULL, "interrupted");
	cli_free(&c);
	assert_int_equal(stat(path, &st), 0);
	is_settled_at(d, "c1");
}

static void a_restart_of_the_daemon_is_waited_for(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	placed(d);
	/* In the barrier. */
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: ");
	daemon_kill(d);
	cli_expect_err(&c, "waiting for berthd to come back");
	daemon_start(d, "--barrier-ms", "500", NULL);
	cli_wait(&c);
	cli_check(&c, 0, "acme: moved from c1 to c2", NULL);
	cli_free(&c);
	is_settled_at(d, "c2");
	/* While it copies. */
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c1", "--copy", "echo started; sleep 1");
	cli_expect_out(&c, "started");
	restart(d);
	cli_wait(&c);
	cli_check(&c, 0, "acme: moved from c2 to c1", NULL);
	cli_free(&c);
	is_settled_at(d, "c1");
}

static void whoever_meddles_is_left_alone(void **state)
{
	struct daemon *d = *state;
	struct cli c;

	placed(d);
	/* Undone by somebody else in the barrier, and begun anew: not ours to touch. */
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: ");
	cli_expect(0, d, "migrate", "abort", "acme");
	cli_wait(&c);
	cli_check(&c, 1, NULL, "somebody else changed acme meanwhile: it is settled at c1");
	cli_free(&c);
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2", "--copy", "echo started; sleep 1");
	cli_expect_out(&c, "started");
	cli_expect(0, d, "migrate", "abort", "acme");
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2");
	cli_wait(&c);
	cli_check(&c, 5, NULL, "somebody else changed acme meanwhile: it is draining at c1");
	cli_free(&c);
	cli_expect(0, d, "migrate", "abort", "acme");
	/* Completed by force: the goal is reached. */
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: ");
	cli_expect(0, d, "migrate", "complete", "acme", "--force");
	cli_wait(&c);
	cli_check(&c, 0, "acme: moved from c1 to c2", "somebody else completed");
	cli_free(&c);
	is_settled_at(d, "c2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_run_copies_waits_and_moves, short_barrier, teardown),
		cmocka_unit_test_setup_teardown(a_run_that_is_refused_changes_nothing, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(a_copy_that_fails_undoes_it, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(a_blackout_that_lasts_too_long_undoes_it, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(signals_undo_it, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(a_restart_of_the_daemon_is_waited_for, short_barrier, teardown),
		cmocka_unit_test_setup_teardown(whoever_meddles_is_left_alone, daemon_setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
