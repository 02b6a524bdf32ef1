/* SPDX-License-Identifier: MIT
 * `berth migrate run` while readers in other processes hold writes open: for what it waits, when it ends, what it says.
 * The barrier is the usual 30 s where a test does not say otherwise, and no test waits for it: who does not see the end
 * of a write fails at its deadline. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "cli.h"
#include "holder.h"

#define ROUNDS 9
#define SOON_MS 60u /* from the end of a write to the end of `berth`: no polling interval fits into the median of it */
#define BARRIER_MS 2000u

static void place(const struct daemon *d, const char *partition)
{
	cli_expect(0, d, "set", partition, "--mode", "dedicated-cluster", "--cluster", "c1");
}

static void placed(const struct daemon *d)
{
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "http://h1:9200");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "http://h2:9200");
	place(d, "acme");
	place(d, "globex");
}

static const char *where(const struct daemon *d, const char *partition)
{
	static char cluster[64];
	json_t *lines = cli_json(0, d, "get", partition);
	const json_t *state = json_object_get(json_array_get(lines, 0), "state");

	if (json_object_get(state, "phase"))
		fail_msg("%s is still in its migration", partition);
	snprintf(cluster, sizeof(cluster), "%s", text_of(json_object_get(state, "at"), "cluster"));
	json_decref(lines);
	return cluster;
}

/* "process 4711 (holder)" */
static const char *process_of(const struct holder *h)
{
	static char text[64];

	snprintf(text, sizeof(text), "process %d (holder)", (int)h->pid);
	return text;
}

static const char *other(const char *cluster)
{
	return strcmp(cluster, "c1") == 0 ? "c2" : "c1";
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t values[ROUNDS])
{
	qsort(values, ROUNDS, sizeof(values[0]), by_value);
	return values[ROUNDS / 2];
}

static int teardown(void **state)
{
	holder_kill_all();
	return daemon_teardown(state);
}

static int short_barrier(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));
	char ms[16];

	daemon_make(d, "memory");
	*state = d;
	snprintf(ms, sizeof(ms), "%u", BARRIER_MS);
	daemon_start(d, "--barrier-ms", ms, NULL);
	return 0;
}

/* ---- what is waited for ---- */

static void who_only_looks_or_has_no_write_open_is_not_waited_for(void **state)
{
	struct daemon *d = *state;
	struct holder looks, idle;
	struct cli c;

	placed(d);
	holder_start(&looks, d, BERTH_WRITES_NONE);
	holder_start(&idle, d, BERTH_WRITES_BRACKETED);
	assert_int_equal(holder_try(&idle, "acme"), BERTH_OK);
	cli_expect(0, d, "list"); /* the tool registers to look, and leaves again */
	cli_expect(0, d, "get", "acme");
	cli_expect(0, d, "dump");
	json_t *lines = cli_json(0, d, "migrate", "run", "acme", "--to", "c2");
	assert_true(int_of(json_array_get(lines, 0), "blackout_ms") < child_patience(1000));
	json_decref(lines);
	cli_run(&c, d, "migrate", "run", "acme", "--to", "c1", "--copy", "true");
	cli_check(&c, 0, "acme: moved from c2 to c1, epoch ", NULL);
	cli_check(&c, 0, "writes were held back for ", NULL);
	cli_check(&c, 0, " ms\n", NULL);
	assert_null(strstr(c.out, "for 0 ms"));
	cli_free(&c);
	assert_int_equal(holder_try(&idle, "acme"), BERTH_OK);
}

static void an_open_write_is_waited_for_and_no_longer(void **state)
{
	struct daemon *d = *state;
	struct holder h, elsewhere;
	uint64_t late_ms[ROUNDS];
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	holder_start(&elsewhere, d, BERTH_WRITES_BRACKETED);
	holder_begin(&elsewhere, "globex"); /* of another partition: to the end of the test */
	for (unsigned i = 0; i < ROUNDS; i++) {
		const char *to = other(where(d, "acme"));
		unsigned first = holder_begin(&h, "acme"), second = holder_begin(&h, "acme");

		cli_start(&c, d, "migrate", "run", "acme", "--to", to);
		cli_expect_err(&c, "waiting: 2 writes under way, ");
		cli_expect_err(&c, process_of(&h));
		assert_int_equal(holder_try(&h, "acme"), BERTH_E_CUTOVER);
		assert_int_equal(holder_try(&h, "globex"), BERTH_OK);
		holder_end(&h, first, BERTH_DONE);
		poll(NULL, 0, (int)(i * 37)); /* all over the tool's slices */
		assert_int_equal(kill(c.pid, 0), 0);
		holder_end(&h, second, BERTH_DONE);
		uint64_t end = test_now_ms();
		cli_wait(&c);
		late_ms[i] = test_now_ms() - end;
		cli_check(&c, 0, "writes were held back for ", NULL);
		cli_free(&c);
		assert_string_equal(where(d, "acme"), to);
		assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
	}
	uint64_t late = median(late_ms);
	print_message("note: `migrate run` ends %u ms after the last write\n", (unsigned)late);
	assert_true(late <= child_patience(SOON_MS));
}

static void a_killed_holder_is_waited_for_by_the_clock(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	holder_begin(&h, "acme");
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: 1 write under way, ");
	const char *process = process_of(&h);
	int pid = (int)h.pid;
	uint64_t death = test_now_ms();
	holder_kill(&h);
	cli_expect_err(&c, "waiting: writes of a process that died may still arrive, at most ");
	json_t *lines = cli_json(0, d, "migrate", "status");
	const json_t *row = json_array_get(lines, 0);
	assert_string_equal(text_of(row, "reason"), "reader-died");
	assert_true(int_of(row, "remaining_ms") > 0);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(row, "pids"), 0)), pid);
	json_decref(lines);
	cli_wait(&c);
	assert_true(test_now_ms() - death >= BARRIER_MS);
	cli_check(&c, 0, "acme: moved from c1 to c2", process);
	const char *told = strstr(c.err, "a process that died"); /* its name is known still */
	assert_non_null(told);
	assert_non_null(strstr(told, process));
	cli_free(&c);
}

static void a_restart_of_the_daemon_forgets_no_open_write(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	unsigned number = holder_begin(&h, "acme");
	cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
	cli_expect_err(&c, "waiting: 1 write under way, ");
	daemon_kill(d);
	cli_expect_err(&c, "waiting for berthd to come back");
	daemon_start(d, NULL);
	uint64_t deadline = 0;
	for (json_int_t in_flight = 0; in_flight != 1;) {
		assert_true(within(&deadline));
		json_t *lines = cli_json(0, d, "migrate", "status");
		in_flight = int_of(json_array_get(lines, 0), "in_flight");
		json_decref(lines);
	}
	assert_int_equal(holder_try(&h, "acme"), BERTH_E_CUTOVER);
	holder_end(&h, number, BERTH_DONE);
	cli_wait(&c);
	cli_check(&c, 0, "acme: moved from c1 to c2", NULL);
	cli_free(&c);
	assert_true(test_now_ms() < deadline); /* long before the barrier */
	assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
}

static void an_unknown_outcome_is_waited_for_by_the_clock(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	holder_end(&h, holder_begin(&h, "acme"), BERTH_UNKNOWN);
	uint64_t end = test_now_ms();
	/* Of another partition: not waited for. */
	json_t *lines = cli_json(0, d, "migrate", "run", "globex", "--to", "c2");
	assert_true(int_of(json_array_get(lines, 0), "blackout_ms") < BARRIER_MS);
	json_decref(lines);
	cli_run(&c, d, "migrate", "run", "acme", "--to", "c2");
	assert_true(test_now_ms() - end >= BARRIER_MS);
	cli_check(&c, 0, "acme: moved from c1 to c2",
		  "waiting: writes that ended unknown may still arrive, at most 1.");
	cli_check(&c, 0, NULL, process_of(&h));
	cli_free(&c);
}

/* ---- going back ---- */

static void a_drain_that_takes_too_long_is_undone(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	char wanted[256];
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	unsigned number = holder_begin(&h, "acme");
	uint64_t start = test_now_ms();
	cli_run(&c, d, "migrate", "run", "acme", "--to", "c2", "--max-blackout", "400");
	uint64_t took = test_now_ms() - start;
	snprintf(wanted, sizeof(wanted),
		 "acme: not completed within --max-blackout 400 ms: 1 write under way, %s (leases-open). The migration "
		 "is undone, c1 "
		 "keeps the partition (epoch 5); writes were held back for ",
		 process_of(&h));
	cli_check(&c, 1, NULL, wanted);
	unsigned held_ms = (unsigned)atoi(strstr(c.err, wanted) + strlen(wanted));
	assert_true(held_ms > 350 && held_ms < 400 + child_patience(80)); /* not to the end of a slice */
	cli_free(&c);
	assert_true(took >= 400 && took < 400 + child_patience(200));
	assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
	assert_string_equal(where(d, "acme"), "c1");
	json_t *error = cli_refused("max-blackout", d, "migrate", "run", "acme", "--to", "c2", "--max-blackout", "1");
	assert_non_null(strstr(text_of(error, "message"), process_of(&h)));
	json_decref(error);
	assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
	holder_end(&h, number, BERTH_DONE);
	cli_expect(0, d, "migrate", "run", "acme", "--to", "c2", "--max-blackout", "5000");
	assert_string_equal(where(d, "acme"), "c2");
}

static void a_signal_undoes_it_at_once(void **state)
{
	struct daemon *d = *state;
	uint64_t late_ms[ROUNDS];
	struct holder h;
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	/* As the copy ends: before the cutover, or told as the end of the copy. */
	for (unsigned i = 0; i < ROUNDS; i++) {
		cli_run(&c, d, "migrate", "run", "acme", "--to", "c2", "--copy", "kill -INT $PPID");
		cli_check(&c, 130, NULL, "acme: interrupted. The migration is undone, c1 keeps the partition");
		assert_null(strstr(c.err, "held back"));
		cli_free(&c);
		assert_string_equal(where(d, "acme"), "c1");
	}
	/* In the drain: at any moment of a slice. */
	holder_begin(&h, "acme");
	for (unsigned i = 0; i < ROUNDS; i++) {
		cli_start(&c, d, "migrate", "run", "acme", "--to", "c2");
		cli_expect_err(&c, "waiting: 1 write under way, ");
		poll(NULL, 0, (int)(i * 29));
		uint64_t signal_ms = test_now_ms();
		kill(c.pid, i % 2 ? SIGINT : SIGTERM);
		cli_wait(&c);
		late_ms[i] = test_now_ms() - signal_ms;
		cli_check(&c, 130, NULL, "acme: interrupted. The migration is undone, c1 keeps the partition");
		cli_check(&c, 130, NULL, "writes were held back for");
		cli_free(&c);
		assert_string_equal(where(d, "acme"), "c1");
		assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
	}
	uint64_t late = median(late_ms);
	print_message("note: `migrate run` is gone %u ms after Ctrl-C\n", (unsigned)late);
	assert_true(late <= child_patience(SOON_MS));
}

static void a_signal_together_with_the_last_end_leaves_it_on_one_side(void **state)
{
	struct daemon *d = *state;
	unsigned moved = 0, undone = 0;
	struct holder h;
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	for (unsigned i = 0; i < 24; i++) {
		const char *to = other(where(d, "acme"));
		unsigned number = holder_begin(&h, "acme");

		cli_start(&c, d, "migrate", "run", "acme", "--to", to);
		cli_expect_err(&c, "waiting: 1 write under way, ");
		if (i % 2)
			kill(c.pid, SIGINT);
		holder_end(&h, number, BERTH_DONE);
		if (i % 2 == 0)
			kill(c.pid, SIGINT);
		cli_wait(&c);
		if (c.code == 0) {
			assert_string_equal(where(d, "acme"), to);
			moved++;
		} else {
			cli_check(&c, 130, NULL, "The migration is undone");
			assert_string_equal(where(d, "acme"), other(to));
			undone++;
		}
		cli_free(&c);
		assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
	}
	print_message("note: a signal as the last write ends: %u moved, %u undone\n", moved, undone);
}

/* ---- many ---- */

#define MANY 50u

static unsigned in_cutover(const struct daemon *d, json_int_t in_flight)
{
	json_t *lines = cli_json(0, d, "migrate", "status");
	const json_t *row;
	unsigned n = 0;
	size_t i;

	json_array_foreach (lines, i, row) {
		const char *phase = json_string_value(json_object_get(json_object_get(row, "state"), "phase"));
		n += phase && strcmp(phase, "cutover") == 0 && int_of(row, "in_flight") == in_flight;
	}
	json_decref(lines);
	return n;
}

static void fifty_at_once(void **state)
{
	struct daemon *d = *state;
	static struct cli runs[MANY];
	unsigned writes[MANY];
	struct holder h;
	char name[16];
	uint64_t deadline = 0;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		place(d, name);
		writes[i] = holder_begin(&h, name);
	}
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		cli_start(&runs[i], d, "migrate", "run", name, "--to", "c2", "--copy", "true");
	}
	while (in_cutover(d, 1) < MANY)
		assert_true(within(&deadline));
	assert_int_equal(holder_try(&h, "acme"), BERTH_OK);
	for (unsigned i = 0; i < MANY; i++) { /* each ends with its own write */
		holder_end(&h, writes[i], BERTH_DONE);
		cli_wait(&runs[i]);
		cli_check(&runs[i], 0, "moved from c1 to c2", NULL);
		cli_free(&runs[i]);
		if (i % 10 == 0)
			assert_int_equal(in_cutover(d, 1), MANY - 1 - i);
	}
	assert_int_equal(in_cutover(d, 1), 0);
	cli_expect(0, d, "verify");
}

#define DRAIN_TEST(test, setup) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		DRAIN_TEST(who_only_looks_or_has_no_write_open_is_not_waited_for, daemon_setup),
		DRAIN_TEST(an_open_write_is_waited_for_and_no_longer, daemon_setup),
		DRAIN_TEST(a_killed_holder_is_waited_for_by_the_clock, short_barrier),
		cmocka_unit_test_prestate_setup_teardown(a_restart_of_the_daemon_forgets_no_open_write, daemon_setup,
							 teardown, (void *)(uintptr_t) "sqlite"),
		DRAIN_TEST(an_unknown_outcome_is_waited_for_by_the_clock, short_barrier),
		DRAIN_TEST(a_drain_that_takes_too_long_is_undone, daemon_setup),
		DRAIN_TEST(a_signal_undoes_it_at_once, daemon_setup),
		DRAIN_TEST(a_signal_together_with_the_last_end_leaves_it_on_one_side, daemon_setup),
		DRAIN_TEST(fifty_at_once, daemon_setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
