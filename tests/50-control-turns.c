/* SPDX-License-Identifier: MIT
 * Requests of berth.sock that cost much, many at once: those of admin.sock come in between, and none of them is lost. */
#include "daemon.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { LOOKING = 16, EVENTS = 10000, BATCH = 2500 };

static const char history[] = "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"history\",\"params\":{\"limit\":10000}}\n";
static const char status[] = "{\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"status\"}\n";

/* A history that takes a while to tell. */
static void many_changes(struct wire *w)
{
	wire_do(w, "cluster.set", "{s:s}", "id", "c1");
	for (int n = 0; n < EVENTS; n += BATCH) {
		json_t *ids = json_array();
		char id[16];

		for (int i = n; i < n + BATCH; i++) {
			snprintf(id, sizeof(id), "t%d", i);
			json_array_append_new(ids, json_string(id));
		}
		wire_do(w, "set", "{s:o, s:{s:s, s:s, s:s}}", "partitions", ids, "placement", "mode", "dedicated-index",
			"cluster", "c1", "index", "an-index-of-a-name-that-takes-some-room");
	}
}

/* Stops its control thread, the main one; returns when it has stopped. */
static void stop(struct daemon *d)
{
	char path[40], line[200] = "";

	daemon_signal(d, SIGSTOP);
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)d->pid);
	for (uint64_t deadline = 0; within(&deadline) && !strstr(line, ") T ");) {
		FILE *f = fopen(path, "re");

		assert_non_null(f);
		assert_non_null(fgets(line, sizeof(line), f));
		fclose(f);
	}
	assert_non_null(strstr(line, ") T "));
}

/* The newest event of a history that has to be whole. */
static bool newest_is(json_t *result, const char *key)
{
	json_t *events = json_object_get(result, "events");
	bool is;

	assert_int_equal(json_array_size(events), EVENTS);
	is = strcmp(text_of(json_array_get(events, 0), "key"), key) == 0;
	json_decref(result);
	return is;
}

static void a_change_does_not_wait_for_all_who_look(void **state)
{
	const int half = (int)sizeof(history) / 2;
	struct wire admin, look[LOOKING], gone;
	struct daemon *d = *state;
	int before = 0;

	wire_open(&admin, d, WIRE_ADMIN);
	many_changes(&admin);
	for (int i = 0; i < LOOKING; i++) {
		wire_open(&look[i], d, WIRE_LOOK);
		if (i % 2) /* the beginning of the request is in the daemon's buffer, the rest is to come */
			assert_true(wire_send(&look[i], history, (size_t)half));
	}
	wire_open(&gone, d, WIRE_LOOK);
	json_decref(daemon_ask(d, "status")); /* all are accepted: those of before first */
	json_decref(daemon_ask(d, "status")); /* and what they sent is read */
	/* All of them ask in one turn of the daemon's loop, and the change comes last. */
	stop(d);
	for (int i = 0; i < LOOKING; i++) {
		assert_true(wire_text(&look[i], i % 2 ? history + half : history));
		if (i % 4 >= 2)
			assert_true(wire_text(&look[i], status));
	}
	assert_true(wire_text(&gone, history));
	wire_close(&gone);
	assert_true(wire_request(&admin, -1, "set",
				 json_pack("{s:s, s:{s:s, s:s}}", "partition", "late", "placement", "mode",
					   "dedicated-cluster", "cluster", "c1")));
	daemon_signal(d, SIGCONT);
	json_decref(answer_result(wire_answer(&admin)));
	for (int i = 0; i < LOOKING; i++) {
		before += !newest_is(answer_result(wire_message(&look[i])), "late");
		if (i % 4 >= 2)
			json_decref(answer_result(wire_message(&look[i])));
		assert_true(wire_is_open(&look[i]));
	}
	print_message("%d of %d histories were told before the change\n", before, LOOKING);
	assert_true(before <= 2);
	for (int i = 0; i < LOOKING; i++) { /* they are as good as before */
		wire_do(&look[i], "status", NULL);
		wire_close(&look[i]);
	}
	for (uint64_t deadline = 0; within(&deadline) && daemon_status(d, "connections") > 2;)
		;
	assert_true(daemon_status(d, "connections") <= 2); /* admin's, and the one that asks */
	wire_close(&admin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(a_change_does_not_wait_for_all_who_look, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
