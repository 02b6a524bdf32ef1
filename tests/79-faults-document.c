/* SPDX-License-Identifier: MIT
 * The syncs of the store fail from the commit of a document on, so that nobody knows whether the store has it: requests
 * are told so and none waits, also of those that came while it was read; nothing is done later for clients that have gone;
 * a stop takes its time and no processor. faults/interpose.c makes the failures. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault_judge.h"

#define SOON_MS 3000 /* an answer, on a busy machine: it comes at once, or when the disk is well again */

static struct fault_place *p;

static void refused(json_t *answer, const char *code)
{
	if (!answer || fault_done(answer) || strcmp(fault_code(answer), code) != 0)
		fault_fail(p, "not refused with %s: %s", code, answer ? json_dumps(answer, 0) : "(closed)");
	json_decref(answer);
}

static json_t *soon(struct wire *w, const char *what)
{
	char *line;
	json_t *answer;

	if (!wire_is_open(w) || !wire_silent(w, SOON_MS)) {
		line = wire_line(w, DAEMON_MS);
		answer = line ? json_loads(line, 0, NULL) : NULL;
		free(line);
		return answer;
	}
	fault_fail(p, "no answer to %s within %d ms while the disk is bad", what, SOON_MS);
}

static void send_set(struct wire *w, const char *key)
{
	wire_open(w, &p->d, WIRE_ADMIN);
	assert_true(wire_request(w, -1, "set",
				 json_pack("{s:s, s:{s:s, s:s}}", "partition", key, "placement", "mode",
					   "dedicated-cluster", "cluster", "c1")));
}

/* The document's commit fails, and all syncs after it. */
static void load_of_unknown_fate(const char *index)
{
	fault_arm(p->plan, CALL_FSYNC, 1, EIO, true, "store.db");
	fault_send_document(p, index);
	refused(fault_answer(p, "load"), "backend");
}

static void connections_go_down_to(json_int_t most)
{
	for (uint64_t deadline = 0; daemon_status(&p->d, "connections") > most;)
		if (!within(&deadline))
			fault_fail(p, "connections of clients that have gone stay: %lld",
				   (long long)daemon_status(&p->d, "connections"));
}

/* The disk is well again: the change that finds it so waits for the document, it is not refused with `busy`. */
static void a_change_waits_for_the_rest_of_it(void)
{
	json_t *answer = NULL;

	assert_true(fault_disarm(p->plan) > 0);
	for (uint64_t deadline = 0; !fault_done(answer) && within(&deadline);) {
		json_decref(answer);
		answer = fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c2", "endpoint", "http://10.2.0.1:9200");
		if (!fault_done(answer) && strcmp(fault_code(answer), "backend") != 0)
			break;
	}
	fault_must(p, answer);
}

static void cut_over_mover(void)
{
	fault_must(p, fault_set(p, "mover", "here"));
	fault_must(p, fault_ask(p, "begin", "{s:s, s:{s:s}}", "partition", "mover", "to", "cluster", "c2"));
	fault_must(p, fault_ask(p, "cutover", "{s:s}", "partition", "mover"));
}

static void expect_mover_in_cutover(void)
{
	json_t *answer = fault_ask(p, "get", "{s:s}", "partition", "mover");
	const json_t *state = json_object_get(json_object_get(answer, "result"), "state");

	if (!json_object_get(state, "phase") || strcmp(text_of(state, "phase"), "cutover") != 0)
		fault_fail(p, "a request that nobody waited for was done: %s", json_dumps(answer, 0));
	json_decref(answer);
}

static void a_document_of_unknown_fate_holds_nobody(void **state)
{
	enum { GONE = 20 };
	struct wire w, gone;
	char *before;

	p = fault_needed(state);
	cut_over_mover();
	before = fault_view(p);
	snprintf(p->doing, sizeof p->doing, "a document's fate is unknown");
	load_of_unknown_fate("one");
	refused(fault_ask(p, "get", "{s:s}", "partition", "doc-a"), "unknown-partition");
	send_set(&w, "late");
	refused(soon(&w, "set"), "backend");
	assert_true(wire_request(&w, -1, "abort", json_pack("{s:s}", "partition", "mover")));
	refused(soon(&w, "abort"), "backend");
	assert_true(wire_request(&w, -1, "complete", json_pack("{s:s, s:i}", "partition", "mover", "wait_ms", 60000)));
	refused(soon(&w, "complete"), "backend");
	fault_send_document(p, "two");
	refused(soon(&p->admin, "load"), "backend");
	for (int i = 0; i < GONE; i++) {
		send_set(&gone, "gone");
		wire_close(&gone);
	}
	wire_close(&w);
	connections_go_down_to(3); /* admin's, the reader's, and the one that asks */
	a_change_waits_for_the_rest_of_it();
	expect_mover_in_cutover();
	refused(fault_ask(p, "get", "{s:s}", "partition", "gone"), "unknown-partition");
	refused(fault_ask(p, "get", "{s:s}", "partition", "late"), "unknown-partition");
	if (!fault_index_is(p, "doc-a", "one") && fault_index_is(p, "doc-b", "one"))
		fault_fail(p, "half of the document is there");
	fault_expect_view(p, before, "doc-");
	free(before);
	fault_restart(p, true);
}

/* While the document is read from a pipe, another one is sent, which waits for the whole of the first. */
static void who_has_waited_for_it_is_answered(void **state)
{
	static const char text[] = "{\"partitions\":{\"doc-a\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}}";
	struct wire first;
	int pipes[2];

	p = fault_needed(state);
	snprintf(p->doing, sizeof p->doing, "a document waits for one whose fate is unknown");
	wire_open(&first, &p->d, WIRE_ADMIN);
	assert_int_equal(pipe(pipes), 0);
	wire_send_with(&first, pipes[0], "load", NULL);
	close(pipes[0]);
	for (bool loading = false; !loading;) {
		json_t *status = daemon_ask(&p->d, "status");

		loading = is_true(status, "loading");
		json_decref(status);
	}
	fault_send_document(p, "two");
	assert_true(wire_silent(&p->admin, 50));
	fault_arm(p->plan, CALL_FSYNC, 1, EIO, true, "store.db");
	assert_int_equal(write(pipes[1], text, strlen(text)), strlen(text));
	close(pipes[1]);
	refused(wire_answer(&first), "backend");
	refused(soon(&p->admin, "load"), "backend");
	wire_close(&first);
	a_change_waits_for_the_rest_of_it();
	fault_send_document(p, "two");
	fault_must(p, fault_answer(p, "load"));
	fault_restart(p, false);
}

static void a_stop_takes_its_time_and_no_processor(void **state)
{
	enum { STOP_MS = 3000, WATCHED_MS = 1500 };
	uint64_t start, took, cpu;
	int status;

	p = fault_needed(state);
	snprintf(p->doing, sizeof p->doing, "a stop while a document's fate is unknown");
	load_of_unknown_fate("one");
	fault_place_leave(p);
	cpu = fault_cpu_ms(p);
	start = test_now_ms();
	daemon_signal(&p->d, SIGTERM);
	usleep(WATCHED_MS * 1000);
	fault_lives(p);
	cpu = fault_cpu_ms(p) - cpu;
	status = daemon_wait(&p->d);
	took = test_now_ms() - start;
	print_message("the stop took %d ms, and %d ms of the processor in the first %d\n", (int)took, (int)cpu,
		      WATCHED_MS);
	if (status != 0)
		fault_fail(p, "it was stopped and ended with %d", status);
	assert_true(cpu < WATCHED_MS / 3);
	assert_in_range(took, WATCHED_MS, STOP_MS + 2000);
	assert_true(fault_disarm(p->plan) > 0);
	fault_place_again(p);
	fault_maintained(p);
	fault_goes_on(p);
	free(fault_view(p)); /* the daemon and the reader agree */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(a_document_of_unknown_fate_holds_nobody, "sqlite"),
		FAULT_TEST(who_has_waited_for_it_is_answered, "sqlite"),
		FAULT_TEST(a_stop_takes_its_time_and_no_processor, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
