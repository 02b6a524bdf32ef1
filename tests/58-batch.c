/* SPDX-License-Identifier: MIT
 * Many partitions placed by one request over the sockets of the real daemon: what it answers and refuses, what watchers
 * and readers see, what is left after a kill. The core's part is in 36-core-batch.c. */
#include "../reader_lib/berth.h"
#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N 1000u

static const char many[] = "{s:O, s:{s:s, s:s, s:s}}"; /* partitions, placement: a dedicated index */
#define MANY(ids, index) \
	many, "partitions", ids, "placement", "mode", "dedicated-index", "cluster", "c1", "index", index

static void clusters(struct wire *w)
{
	wire_do(w, "cluster.set", "{s:s}", "id", "c1");
	wire_do(w, "cluster.set", "{s:s}", "id", "c2");
}

static json_t *names(unsigned from, unsigned n)
{
	json_t *ids = json_array();
	char key[32];

	for (unsigned i = from; i < from + n; i++) {
		snprintf(key, sizeof(key), "tenant-%06u", i);
		json_array_append_new(ids, json_string(key));
	}
	return ids;
}

static void expect_many(json_t *r, json_int_t epoch, json_int_t changed, json_int_t unchanged)
{
	assert_int_equal(json_object_size(r), 3);
	assert_int_equal(int_of(r, "epoch"), epoch);
	assert_int_equal(int_of(r, "changed"), changed);
	assert_int_equal(int_of(r, "unchanged"), unchanged);
	json_decref(r);
}

static void many_are_answered_with_numbers_and_one_as_ever(void **state)
{
	json_t *ids = names(0, 3), *r;
	struct wire w;

	wire_open(&w, *state, WIRE_ADMIN);
	clusters(&w);
	r = wire_ok(&w, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "tenant-000001", "placement", "mode",
		    "dedicated-index", "cluster", "c1", "index", "a");
	assert_int_equal(int_of(r, "epoch"), 1);
	assert_true(is_true(r, "changed"));
	json_decref(r);
	expect_many(wire_ok(&w, "set", MANY(ids, "a")), 3, 2, 1);
	expect_many(wire_ok(&w, "set", MANY(ids, "a")), 3, 0, 3);
	expect_many(wire_ok(&w, "set", MANY(ids, "b")), 6, 3, 0);
	json_decref(ids);
	wire_close(&w);
}

static void what_is_wrong_is_named(void **state)
{
	static const char both[] = "{s:s, s:[s], s:{s:s, s:s}}", neither[] = "{s:{s:s, s:s}}",
			  text[] = "{s:s, s:{s:s, s:s}}", list[] = "{s:[s,s,s], s:{s:s, s:s}}";
	json_t *r, *ids;
	struct wire w, look;
	char *line;

	wire_open(&w, *state, WIRE_ADMIN);
	clusters(&w);
	r = wire_refused(&w, "invalid", "set", both, "partition", "p", "partitions", "q", "placement", "mode",
			 "dedicated-cluster", "cluster", "c1");
	assert_string_equal(text_of(json_object_get(r, "data"), "path"), "$.partitions");
	json_decref(r);
	r = wire_refused(&w, "invalid", "set", neither, "placement", "mode", "dedicated-cluster", "cluster", "c1");
	assert_string_equal(text_of(json_object_get(r, "data"), "path"), "$.partition");
	json_decref(r);
	wire_deny(&w, "invalid", "set", text, "partitions", "p", "placement", "mode", "dedicated-cluster", "cluster",
		  "c1");
	r = wire_refused(&w, "invalid", "set", list, "partitions", "p", "q", "p", "placement", "mode",
			 "dedicated-cluster", "cluster", "c1");
	assert_string_equal(text_of(json_object_get(r, "data"), "path"), "$.partitions[2]");
	assert_non_null(strstr(text_of(r, "message"), "\"p\""));
	json_decref(r);
	wire_do(&w, "set", "{s:s, s:{s:s, s:s}}", "partition", "q", "placement", "mode", "dedicated-cluster", "cluster",
		"c1");
	wire_do(&w, "begin", "{s:s, s:{s:s}}", "partition", "q", "to", "cluster", "c2");
	r = wire_refused(&w, "already-migrating", "set", list, "partitions", "p", "q", "r", "placement", "mode",
			 "dedicated-cluster", "cluster", "c1");
	assert_string_equal(text_of(json_object_get(r, "data"), "path"), "$.partitions[1]");
	json_decref(r);
	wire_deny(&w, "unknown-partition", "get", "{s:s}", "partition", "p");
	wire_open(&look, *state, WIRE_LOOK);
	wire_deny(&look, "denied", "set", list, "partitions", "a", "b", "c", "placement", "mode", "dedicated-cluster",
		  "cluster", "c1");
	wire_close(&look);

	ids = names(0, 5000); /* longer than a line may be */
	line = json_dumps(ids, JSON_COMPACT);
	wire_text(&w, line);
	wire_text(&w, "\n");
	free(line);
	json_decref(ids);
	line = wire_line(&w, DAEMON_MS);
	assert_non_null(strstr(line, "longer than 65536 bytes"));
	assert_non_null(strstr(line, "`load`"));
	free(line);
	wire_close(&w);
}

static void watchers_are_told_of_each(void **state)
{
	struct wire w, admin, own;
	json_t *ids = names(0, N), *m, *params;
	const char *key;

	wire_open(&admin, *state, WIRE_ADMIN);
	clusters(&admin);
	wire_open(&w, *state, WIRE_LOOK);
	wire_do(&w, "watch", NULL);
	wire_open(&own, *state, WIRE_ADMIN); /* both over one connection: the answer comes first */
	wire_do(&own, "watch", NULL);
	expect_many(wire_ok(&own, "set", MANY(ids, "a")), N, N, 0);
	for (unsigned i = 0; i < N; i++) {
		struct wire *of[2] = {&w, &own};

		key = json_string_value(json_array_get(ids, i));
		for (unsigned k = 0; k < 2; k++) {
			m = wire_message(of[k]);
			params = json_object_get(m, "params");
			assert_string_equal(text_of(m, "method"), "change");
			assert_string_equal(text_of(params, "what"), "set");
			assert_string_equal(text_of(params, "key"), key);
			assert_int_equal(int_of(params, "epoch"), i + 1);
			json_decref(m);
		}
	}
	expect_many(wire_ok(&admin, "set", MANY(ids, "a")), N, 0, N);
	assert_true(wire_silent(&w, 50));
	json_decref(ids);
	wire_close(&own);
	wire_close(&w);
	wire_close(&admin);
}

static void a_reader_sees_all_once_it_is_answered(void **state)
{
	struct daemon *d = *state;
	struct berth_attach_options o = {.size = sizeof(o), .writes = BERTH_WRITES_NONE, .wait_ms = 10000};
	json_t *ids = names(0, N), *status, *id;
	struct berth_reader *r = NULL;
	struct berth *b = NULL;
	struct berth_route at;
	json_int_t graces;
	struct wire w;
	size_t i;

	wire_open(&w, d, WIRE_ADMIN);
	clusters(&w);
	assert_int_equal(berth_attach(d->dir, &o, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	status = wire_ok(&w, "status", NULL);
	graces = int_of(status, "grace_periods");
	json_decref(status);
	for (unsigned round = 0; round < 20; round++) {
		expect_many(wire_ok(&w, "set", MANY(ids, round % 2 ? "b" : "a")), (round + 1) * N, N, 0);
		json_array_foreach (ids, i, id) {
			assert_int_equal(berth_route(r, json_string_value(id), json_string_length(id), &at), BERTH_OK);
			assert_int_equal(at.epoch, round * N + i + 1);
		}
	}
	status = wire_ok(&w, "status", NULL);
	assert_int_equal(int_of(status, "epoch"), 20 * N);
	assert_int_equal(int_of(status, "partitions"), N);
	assert_true(int_of(status, "grace_periods") - graces < 100); /* of 20,000 changes */
	json_decref(status);
	berth_reader_close(&r);
	berth_detach(&b);
	json_decref(ids);
	wire_close(&w);
}

static void what_was_answered_is_there_after_a_kill(void **state)
{
	struct daemon *d = *state;
	json_t *ids = names(0, N), *r, *id;
	struct wire w;
	size_t i;

	wire_open(&w, d, WIRE_ADMIN);
	clusters(&w);
	expect_many(wire_ok(&w, "set", MANY(ids, "a")), N, N, 0);
	daemon_kill(d);
	wire_close(&w);
	daemon_start(d, NULL);
	wire_open(&w, d, WIRE_ADMIN);
	json_array_foreach (ids, i, id) {
		r = wire_ok(&w, "get", "{s:O}", "partition", id);
		assert_int_equal(int_of(r, "epoch"), i + 1);
		json_decref(r);
	}
	expect_many(wire_ok(&w, "set", MANY(ids, "a")), N, 0, N);
	r = wire_ok(&w, "set", MANY(ids, "b"));
	assert_true(int_of(r, "epoch") >= 2 * N);
	json_decref(r);
	json_decref(ids);
	wire_close(&w);
}

/* A daemon that is killed at some moment of a batch: with a store that lasts, all of it or nothing is there. */
static void a_kill_leaves_all_or_nothing_of_a_batch(void **state)
{
	struct daemon *d = *state;
	json_t *ids = names(0, N), *request, *r;
	char first[16], index[16], *line;
	struct wire w;

	wire_open(&w, d, WIRE_ADMIN);
	clusters(&w);
	wire_do(&w, "set", MANY(ids, "start"));
	for (unsigned round = 0; round < 12; round++) {
		snprintf(index, sizeof(index), "round%u", round);
		request = json_pack("{s:s, s:i, s:s, s:{s:O, s:{s:s, s:s, s:s}}}", "jsonrpc", "2.0", "id", 1, "method",
				    "set", "params", "partitions", ids, "placement", "mode", "dedicated-index",
				    "cluster", "c1", "index", index);
		line = json_dumps(request, JSON_COMPACT);
		json_decref(request);
		wire_text(&w, line);
		wire_text(&w, "\n");
		free(line);
		usleep(round * 1500);
		daemon_kill(d);
		wire_close(&w);
		daemon_start(d, NULL);
		wire_open(&w, d, WIRE_ADMIN);
		for (unsigned i = 0; i < N; i++) {
			const char *found;

			r = wire_ok(&w, "get", "{s:O}", "partition", json_array_get(ids, i));
			found = text_of(json_object_get(json_object_get(r, "state"), "at"), "index");
			if (i == 0)
				snprintf(first, sizeof(first), "%s", found);
			assert_string_equal(found, first);
			json_decref(r);
		}
	}
	json_decref(ids);
	wire_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(many_are_answered_with_numbers_and_one_as_ever, "memory"),
		DAEMON_TEST(many_are_answered_with_numbers_and_one_as_ever, "sqlite"),
		DAEMON_TEST(what_is_wrong_is_named, "memory"),
		DAEMON_TEST(watchers_are_told_of_each, "memory"),
		DAEMON_TEST(a_reader_sees_all_once_it_is_answered, "memory"),
		DAEMON_TEST(what_was_answered_is_there_after_a_kill, "memory"),
		DAEMON_TEST(what_was_answered_is_there_after_a_kill, "sqlite"),
		DAEMON_TEST(a_kill_leaves_all_or_nothing_of_a_batch, "sqlite"),
	};

	return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
