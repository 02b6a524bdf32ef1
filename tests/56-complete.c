/* SPDX-License-Identifier: MIT
 * `complete` that waits, through the real daemon, with writes of this process under way: when it is answered, and how the
 * wait ends by the clock. What is served meanwhile, how connections and the daemon end: 56-complete-meanwhile.c; many at
 * once, what it costs, what is shown of it: 56-complete-many.c. */
#include "drain_place.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_MS 15000 /* of waits that something else is to end */
#define SOON_MS 1000u /* generous: a sanitizer, a busy machine */

/* ---- the wait ---------------------------------------------------------------------------------------------- */

static void it_is_answered_when_the_last_old_write_has_ended(void **state)
{
	struct drain_place *p = *state;
	struct berth_write first, second, other;
	struct wire w;
	uint64_t ended;

	drain_put(p, "q");
	drain_put(p, "p");
	drain_begin_write(p, "q", &other); /* of another partition: in nobody's way */
	drain_begin_write(p, "p", &first);
	drain_begin_write(p, "p", &second);
	drain_cut_over(p, "p");
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 50));
	drain_end_write(p, &first, BERTH_DONE);
	assert_true(wire_silent(&w, 50));
	drain_expect_at(p, "p", "c1", "cutover");
	ended = test_now_ms();
	drain_end_write(p, &second, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	assert_true(test_now_ms() - ended < SOON_MS);
	drain_expect_at(p, "p", "c2", "settled");
	drain_end_write(p, &other, BERTH_DONE);
	wire_close(&w);
}

static void without_old_writes_it_is_answered_at_once(void **state)
{
	struct drain_place *p = *state;
	struct berth_write w;

	drain_put(p, "p");
	drain_begin_write(p, "p", &w);
	drain_end_write(p, &w, BERTH_DONE);
	drain_cut_over(p, "p");
	drain_expect_completed(wire_call(&p->admin, "complete", "{s:s, s:i}", "partition", "p", "wait_ms", LONG_MS));
	drain_prepare(p, "q", &w);
	drain_expect_completed(wire_call(&p->admin, "complete", "{s:s, s:i, s:b}", "partition", "q", "wait_ms", LONG_MS,
					 "force", 1)); /* the operator's word */
	drain_end_write(p, &w, BERTH_DONE);
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* From the end of the last write to the answer in the hands of the client. */
static void the_answer_comes_soon_after_the_end(void **state)
{
	enum { N = 200 };
	const struct timespec write = {.tv_nsec = 3000000};
	struct drain_place *p = *state;
	uint64_t took[N];
	struct wire w;

	wire_open(&w, &p->d, WIRE_ADMIN);
	for (int i = 0; i < N; i++) {
		struct berth_write one;
		char partition[16];

		snprintf(partition, sizeof(partition), "p%d", i);
		drain_prepare(p, partition, &one);
		drain_send_complete(&w, partition, LONG_MS);
		nanosleep(&write, NULL);
		took[i] = drain_now_us();
		drain_end_write(p, &one, BERTH_DONE);
		drain_expect_completed(wire_answer(&w));
		took[i] = drain_now_us() - took[i];
	}
	qsort(took, N, sizeof(took[0]), compare);
	print_message("%s: end of lease to answer: median %llu us, p90 %llu us, p99 %llu us, max %llu us\n", p->d.store,
		      (unsigned long long)took[N / 2], (unsigned long long)took[N * 9 / 10],
		      (unsigned long long)took[N * 99 / 100], (unsigned long long)took[N - 1]);
	assert_true(took[N / 2] < SOON_MS * 20);
	wire_close(&w);
}

static void the_end_of_the_wait_says_what_stands_against_it(void **state)
{
	struct drain_place *p = *state;
	struct berth_write first, second;
	struct wire w;
	uint64_t start;
	json_t *data;

	drain_put(p, "p");
	drain_begin_write(p, "p", &first);
	drain_begin_write(p, "p", &second);
	drain_cut_over(p, "p");
	start = test_now_ms();
	drain_open_complete(p, &w, "p", 250);
	data = drain_pending(wire_answer(&w), "leases-open");
	assert_in_range(test_now_ms() - start, 249, 250 + SOON_MS);
	assert_int_equal(int_of(data, "in_flight"), 2);
	assert_int_equal(int_of(data, "remaining_ms"), 0);
	assert_int_equal(json_array_size(json_object_get(data, "pids")), 1);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "pids"), 0)), getpid());
	json_decref(data);
	start = test_now_ms(); /* without one, and with 0: at once */
	json_decref(drain_pending(wire_call(&w, "complete", "{s:s}", "partition", "p"), "leases-open"));
	json_decref(
		drain_pending(wire_call(&w, "complete", "{s:s, s:i}", "partition", "p", "wait_ms", 0), "leases-open"));
	assert_true(test_now_ms() - start < SOON_MS);
	drain_end_write(p, &first, BERTH_DONE);
	drain_end_write(p, &second, BERTH_DONE);
	drain_send_complete(&w, "p", LONG_MS); /* the connection is as good as before */
	drain_expect_completed(wire_answer(&w));
	wire_close(&w);
}

static void a_wait_out_of_range_changes_nothing(void **state)
{
	static const int bad[] = {-1, 600001};
	struct drain_place *p = *state;
	struct berth_write w;
	json_t *error;

	drain_prepare(p, "p", &w);
	drain_end_write(p, &w, BERTH_DONE);
	for (int i = 0; i < 2; i++) {
		char value[16];

		error = wire_refused(&p->admin, "invalid", "complete", "{s:s, s:i}", "partition", "p", "wait_ms",
				     bad[i]);
		snprintf(value, sizeof(value), "%d", bad[i]);
		assert_non_null(strstr(text_of(error, "message"), "wait_ms"));
		assert_non_null(strstr(text_of(error, "message"), value));
		assert_string_equal(text_of(json_object_get(error, "data"), "path"), "$.wait_ms");
		json_decref(error);
	}
	wire_deny(&p->admin, "invalid", "complete", "{s:s, s:s}", "partition", "p", "wait_ms", "1000");
	wire_deny(&p->admin, "invalid", "complete", "{s:s, s:f}", "partition", "p", "wait_ms", 1.5);
	wire_deny(&p->admin, "invalid", "abort", "{s:s, s:i}", "partition", "p", "wait_ms", 1);
	drain_expect_at(p, "p", "c1", "cutover");
	/* The highest one, in a state in which there is nothing to wait for. */
	wire_deny(&p->admin, "unknown-partition", "complete", "{s:s, s:i}", "partition", "nobody", "wait_ms", 600000);
}

/* ---- ends without a lease's end ---------------------------------------------------------------------------- */

/* Barrier 300 ms: by the clock alone. */
static void what_ended_unknown_is_waited_for_a_barrier(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;
	uint64_t ended, took;
	json_t *data;

	drain_prepare(p, "p", &one);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 400)); /* open: no clock overrules it */
	ended = test_now_ms();
	drain_end_write(p, &one, BERTH_UNKNOWN);
	data = drain_pending(wire_call(&p->admin, "complete", "{s:s}", "partition", "p"), "unknown-outcome");
	assert_in_range(int_of(data, "remaining_ms"), 1, 312);
	assert_int_equal(int_of(data, "in_flight"), 0);
	json_decref(data);
	drain_expect_completed(wire_answer(&w));
	took = test_now_ms() - ended;
	assert_in_range(took, 309, 311 + SOON_MS);
	wire_close(&w);
}

static void a_writer_without_leases_is_waited_for_a_barrier(void **state)
{
	const struct berth_attach_options o = {.size = sizeof(o), .wait_ms = DAEMON_MS};
	struct drain_place *p = *state;
	struct berth *b;
	struct berth_write one;
	struct wire w;
	uint64_t start;
	json_t *data;

	assert_int_equal(berth_attach(p->d.dir, &o, &b), BERTH_OK); /* unbracketed */
	drain_prepare(p, "p", &one);
	drain_end_write(p, &one, BERTH_DONE);
	start = test_now_ms();
	drain_open_complete(p, &w, "p", 50);
	data = drain_pending(wire_answer(&w), "reader-without-leases");
	assert_in_range(int_of(data, "remaining_ms"), 1, 300);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "pids"), 0)), getpid());
	json_decref(data);
	drain_send_complete(&w, "p", LONG_MS);
	drain_expect_completed(wire_answer(&w));
	assert_in_range(test_now_ms() - start, 250, 311 + SOON_MS);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	wire_close(&w);
}

/* Another process begins a write, then is killed. */
static pid_t other_writer(struct drain_place *p, const char *partition)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		const struct berth_attach_options o = {
			.size = sizeof(o), .writes = BERTH_WRITES_BRACKETED, .wait_ms = DAEMON_MS};
		struct berth_reader *r = NULL;
		struct berth_write w;
		struct berth *b = NULL;

		if (berth_attach(p->d.dir, &o, &b) == BERTH_OK && berth_reader_open(b, &r) == BERTH_OK &&
		    berth_write_begin(r, partition, strlen(partition), 0, &w) == BERTH_OK &&
		    write(ready[1], "x", 1) == 1)
			poll(NULL, 0, 4 * DAEMON_MS);
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void a_writer_that_died_is_waited_for_a_barrier(void **state)
{
	struct drain_place *p = *state;
	struct wire w, early;
	uint64_t died;
	json_t *data;
	pid_t pid;

	drain_put(p, "p");
	pid = other_writer(p, "p");
	drain_cut_over(p, "p");
	drain_open_complete(p, &w, "p", LONG_MS);
	drain_open_complete(p, &early, "p", 100);
	data = drain_pending(wire_answer(&early), "leases-open");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "pids"), 0)), pid);
	json_decref(data);
	died = test_now_ms();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	drain_send_complete(&early, "p", 150);
	data = drain_pending(wire_answer(&early), "reader-died");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "pids"), 0)), pid);
	json_decref(data);
	drain_expect_completed(wire_answer(&w));
	assert_in_range(test_now_ms() - died, 305, 311 + 2 * SOON_MS);
	wire_close(&early);
	wire_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DRAIN_ON_BOTH(it_is_answered_when_the_last_old_write_has_ended),
		DRAIN_ON_BOTH(without_old_writes_it_is_answered_at_once),
		DRAIN_ON_BOTH(the_answer_comes_soon_after_the_end),
		DRAIN_TEST(the_end_of_the_wait_says_what_stands_against_it, "memory"),
		DRAIN_TEST(a_wait_out_of_range_changes_nothing, "memory"),
		DRAIN_TEST(what_ended_unknown_is_waited_for_a_barrier, "memory 300"),
		DRAIN_TEST(a_writer_without_leases_is_waited_for_a_barrier, "memory 300"),
		DRAIN_TEST(a_writer_that_died_is_waited_for_a_barrier, "memory 300"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
