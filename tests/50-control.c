/* SPDX-License-Identifier: MIT
 * The methods of the sockets, through the real daemon: what each answers, and how each refusal of the table of transitions looks
 * on the wire. What hostile clients do is in 51-control-abuse.c, starts and ends in 52-instance.c, documents in
 * 53-control-load.c. */
#include "daemon.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char on[] = "{s:s, s:{s:s, s:s}}"; /* partition, placement: a dedicated cluster */

static void place(struct wire *w, const char *partition, const char *cluster)
{
	wire_do(w, "set", on, "partition", partition, "placement", "mode", "dedicated-cluster", "cluster", cluster);
}

static void clusters(struct wire *w)
{
	wire_do(w, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "http://10.0.0.1:9200");
	wire_do(w, "cluster.set", "{s:s}", "id", "c2");
	wire_do(w, "cluster.set", "{s:s}", "id", "c3");
}

static json_int_t clock_ns(int clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (json_int_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static const char attach[] = "{s:i, s:i, s:i, s:s, s:b, s:I, s:I}";
#define ATTACH_AT(version, pid, readers, writes, monotonic, boottime) \
	attach, "version", version, "pid", pid, "readers", readers, "writes", writes, "fences", 0, "monotonic_ns", \
		(json_int_t)(monotonic), "boottime_ns", (json_int_t)(boottime)
#define ATTACH(version, pid, readers, writes) \
	ATTACH_AT(version, pid, readers, writes, clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_BOOTTIME))

/* A reader whose writes are not seen: the barrier counts for it. */
static void writer_without_leases(struct wire *w, void **state)
{
	wire_open(w, *state, WIRE_LOOK);
	wire_do(w, "attach", ATTACH(1, getpid(), 1, "unbracketed"));
}

static void end_writer(struct wire *w)
{
	close(w->passed);
	wire_close(w);
}

static void status_tells_what_the_writer_is(void **state)
{
	struct daemon *d = *state;
	struct wire admin, look;
	json_t *status;

	wire_open(&admin, d, WIRE_ADMIN);
	wire_open(&look, d, WIRE_LOOK);
	clusters(&admin);
	place(&admin, "p", "c1");
	status = wire_ok(&look, "status", NULL);
	assert_int_equal(int_of(status, "pid"), d->pid);
	assert_int_equal(int_of(status, "partitions"), 1);
	assert_int_equal(int_of(status, "clusters"), 3);
	assert_int_equal(int_of(status, "connections"), 2);
	assert_int_equal(int_of(status, "epoch"), 1);
	assert_int_equal(int_of(status, "barrier_ms"), 30000);
	assert_int_equal(int_of(status, "term"), 1);
	assert_string_equal(text_of(status, "instance"), "i");
	assert_string_equal(text_of(status, "store"), "memory");
	assert_false(is_true(status, "loading"));
	json_decref(status);
	wire_close(&admin);
	wire_close(&look);
}

static void a_cluster_is_set_moved_and_removed(void **state)
{
	struct wire w;
	json_t *r, *list;

	wire_open(&w, *state, WIRE_ADMIN);
	r = wire_ok(&w, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "http://a:1");
	assert_int_equal(int_of(r, "number"), 1);
	assert_true(is_true(r, "changed"));
	json_decref(r);
	r = wire_ok(&w, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "http://a:1");
	assert_false(is_true(r, "changed"));
	json_decref(r);
	r = wire_ok(&w, "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "https://b:2");
	assert_int_equal(int_of(r, "number"), 1);
	json_decref(r);
	place(&w, "p", "c1");
	r = wire_ok(&w, "clusters", NULL);
	list = json_object_get(r, "clusters");
	assert_int_equal(json_array_size(list), 1);
	assert_string_equal(text_of(json_array_get(list, 0), "endpoint"), "https://b:2");
	assert_int_equal(int_of(json_array_get(list, 0), "uses"), 1);
	json_decref(r);
	wire_deny(&w, "cluster-in-use", "cluster.remove", "{s:s}", "id", "c1");
	wire_do(&w, "remove", "{s:s}", "partition", "p");
	wire_do(&w, "cluster.remove", "{s:s}", "id", "c1");
	wire_deny(&w, "unknown-cluster", "cluster.remove", "{s:s}", "id", "c1");
	wire_deny(&w, "invalid", "cluster.set", "{s:s}", "id", "no spaces");
	wire_deny(&w, "invalid", "cluster.set", "{s:s, s:s}", "id", "c1", "endpoint", "ftp://x");
	wire_close(&w);
}

static void get_shows_the_entry_or_the_default(void **state)
{
	struct wire w;
	json_t *r;

	wire_open(&w, *state, WIRE_ADMIN);
	clusters(&w);
	wire_deny(&w, "unknown-partition", "get", "{s:s}", "partition", "p");
	place(&w, "p", "c1");
	r = wire_ok(&w, "get", "{s:s}", "partition", "p");
	assert_string_equal(text_of(r, "partition"), "p");
	assert_false(is_true(r, "is_default"));
	assert_string_equal(text_of(json_object_get(json_object_get(r, "state"), "at"), "cluster"), "c1");
	json_decref(r);
	r = wire_ok(&w, "default.set", "{s:{s:s, s:s, s:s}}", "placement", "mode", "dedicated-index", "cluster", "c2",
		    "index", "idx");
	assert_int_equal(int_of(r, "epoch"), 2);
	json_decref(r);
	r = wire_ok(&w, "get", "{s:s}", "partition", "other");
	assert_true(is_true(r, "is_default"));
	assert_int_equal(int_of(r, "epoch"), 2);
	json_decref(r);
	wire_do(&w, "default.unset", NULL);
	wire_deny(&w, "unknown-partition", "get", "{s:s}", "partition", "other");
	wire_deny(&w, "invalid", "get", "{s:s}", "partition", "");
	wire_close(&w);
}

static void a_change_tells_its_epoch_and_unchanged_takes_none(void **state)
{
	struct wire w;
	json_t *r;

	wire_open(&w, *state, WIRE_ADMIN);
	clusters(&w);
	for (int i = 0; i < 2; i++) {
		r = wire_ok(&w, "set", on, "partition", "p", "placement", "mode", "dedicated-cluster", "cluster", "c1");
		assert_int_equal(int_of(r, "epoch"), 1);
		assert_int_equal(is_true(r, "changed"), i == 0);
		json_decref(r);
	}
	wire_close(&w);
}

/* Every refusal of the table of transitions that a client can bring about; the order of the checks is 12-machine.c's. */
static void each_refusal_has_its_code_on_the_wire(void **state)
{
	struct wire w, reader;
	json_t *error;

	wire_open(&w, *state, WIRE_ADMIN);
	writer_without_leases(&reader, state);
	clusters(&w);
	wire_deny(&w, "unknown-cluster", "set", on, "partition", "p", "placement", "mode", "dedicated-cluster",
		  "cluster", "c9");
	wire_deny(&w, "unknown-partition", "remove", "{s:s}", "partition", "p");
	wire_deny(&w, "unknown-partition", "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c2");
	wire_deny(&w, "unknown-partition", "cutover", "{s:s}", "partition", "p");
	wire_deny(&w, "unknown-partition", "complete", "{s:s}", "partition", "p");
	wire_deny(&w, "unknown-partition", "abort", "{s:s}", "partition", "p");
	place(&w, "p", "c1");
	wire_deny(&w, "would-move", "set", on, "partition", "p", "placement", "mode", "dedicated-cluster", "cluster",
		  "c2");
	wire_deny(&w, "not-migrating", "cutover", "{s:s}", "partition", "p");
	wire_deny(&w, "not-migrating", "complete", "{s:s}", "partition", "p");
	wire_deny(&w, "not-migrating", "abort", "{s:s}", "partition", "p");
	wire_deny(&w, "unknown-cluster", "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c9");
	wire_deny(&w, "same-placement", "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c1");
	wire_do(&w, "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c2");
	wire_deny(&w, "already-migrating", "set", on, "partition", "p", "placement", "mode", "dedicated-cluster",
		  "cluster", "c1");
	wire_deny(&w, "already-migrating", "remove", "{s:s}", "partition", "p");
	wire_deny(&w, "already-migrating", "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c3");
	wire_deny(&w, "not-cutover", "complete", "{s:s}", "partition", "p");
	wire_do(&w, "cutover", "{s:s}", "partition", "p");
	wire_deny(&w, "not-draining", "cutover", "{s:s}", "partition", "p");
	error = wire_refused(&w, "barrier-pending", "complete", "{s:s}", "partition", "p");
	assert_true(is_true(json_object_get(error, "data"), "retryable"));
	assert_string_equal(text_of(json_object_get(error, "data"), "reason"), "reader-without-leases");
	assert_in_range(int_of(json_object_get(error, "data"), "remaining_ms"), 1, 30011);
	assert_int_equal(int_of(json_object_get(error, "data"), "in_flight"), 0);
	assert_int_equal(json_array_size(json_object_get(json_object_get(error, "data"), "pids")), 1);
	json_decref(error);
	wire_do(&w, "complete", "{s:s, s:b}", "partition", "p", "force", 1);
	end_writer(&reader);
	wire_close(&w);
}

static void a_migration_is_listed_and_ends_with_its_blackout(void **state)
{
	struct wire w, reader;
	json_t *r, *m;

	wire_open(&w, *state, WIRE_ADMIN);
	writer_without_leases(&reader, state);
	clusters(&w);
	place(&w, "p", "c1");
	wire_do(&w, "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c2");
	r = wire_ok(&w, "migrations", NULL);
	m = json_array_get(json_object_get(r, "migrations"), 0);
	assert_string_equal(text_of(m, "partition"), "p");
	assert_string_equal(text_of(json_object_get(m, "state"), "phase"), "draining");
	assert_true(int_of(m, "begun_ms_ago") >= 0);
	assert_true(json_is_null(json_object_get(m, "cutover_ms_ago")));
	json_decref(r);
	wire_do(&w, "cutover", "{s:s}", "partition", "p");
	r = wire_ok(&w, "migrations", NULL);
	m = json_array_get(json_object_get(r, "migrations"), 0);
	assert_string_equal(text_of(m, "reason"), "reader-without-leases");
	assert_true(int_of(m, "remaining_ms") > 0);
	json_decref(r);
	r = wire_ok(&w, "abort", "{s:s}", "partition", "p");
	assert_true(int_of(r, "blackout_ms") >= 0);
	json_decref(r);
	r = wire_ok(&w, "migrations", NULL);
	assert_int_equal(json_array_size(json_object_get(r, "migrations")), 0);
	json_decref(r);
	end_writer(&reader);
	wire_close(&w);
}

static void history_says_who_did_what(void **state)
{
	struct wire w;
	json_t *r, *events, *e;
	char who[64];

	wire_open(&w, *state, WIRE_ADMIN);
	clusters(&w);
	place(&w, "p", "c1");
	place(&w, "q", "c1");
	wire_do(&w, "set", "{s:s, s:{s:s, s:s}, s:b}", "partition", "p", "placement", "mode", "dedicated-cluster",
		"cluster", "c2", "force", 1);
	r = wire_ok(&w, "history", "{s:s, s:i}", "partition", "p", "limit", 10);
	events = json_object_get(r, "events");
	assert_int_equal(json_array_size(events), 2);
	e = json_array_get(events, 0);
	assert_string_equal(text_of(e, "what"), "set");
	assert_true(is_true(e, "forced"));
	assert_false(is_true(json_array_get(events, 1), "forced"));
	snprintf(who, sizeof(who), "uid=%u pid=%d comm=", getuid(), getpid());
	assert_memory_equal(text_of(e, "who"), who, strlen(who));
	assert_string_equal(text_of(json_object_get(json_object_get(e, "state"), "at"), "cluster"), "c2");
	assert_in_range(int_of(e, "at_ms"), (json_int_t)(time(NULL) - 60) * 1000, (json_int_t)(time(NULL) + 60) * 1000);
	json_decref(r);
	r = wire_ok(&w, "history", NULL);
	assert_int_equal(json_array_size(json_object_get(r, "events")), 6);
	json_decref(r);
	wire_deny(&w, "invalid", "history", "{s:i}", "limit", 0);
	wire_deny(&w, "invalid", "history", "{s:i}", "limit", 10001);
	wire_close(&w);
}

static void changing_on_the_looking_socket_is_denied(void **state)
{
	static const char *const changing[] = {"set",         "remove",         "default.set", "default.unset",
					       "begin",       "cutover",        "complete",    "abort",
					       "cluster.set", "cluster.remove", "load",        "shutdown"};
	struct wire look, admin;

	wire_open(&look, *state, WIRE_LOOK);
	wire_open(&admin, *state, WIRE_ADMIN);
	for (size_t i = 0; i < sizeof(changing) / sizeof(changing[0]); i++)
		wire_deny(&look, "denied", changing[i], NULL);
	wire_deny(&admin, "denied", "attach", NULL);
	wire_deny(&admin, "denied", "reattach", NULL);
	wire_close(&look);
	wire_close(&admin);
}

static void parameters_are_checked_by_name_and_type(void **state)
{
	struct wire w;
	json_t *error;

	wire_open(&w, *state, WIRE_ADMIN);
	error = wire_refused(&w, "invalid", "set", "{s:s, s:i}", "partition", "p", "placemnt", 1);
	assert_non_null(strstr(text_of(error, "message"), "placemnt"));
	assert_string_equal(text_of(json_object_get(error, "data"), "path"), "$.placemnt");
	assert_int_equal(int_of(error, "code"), -32602);
	json_decref(error);
	error = wire_refused(&w, "invalid", "set", "{s:i}", "partition", 7);
	assert_non_null(strstr(text_of(error, "message"), "an integer"));
	json_decref(error);
	error = wire_refused(&w, "invalid", "set", "{s:s}", "partition", "p");
	assert_non_null(strstr(text_of(error, "message"), "placement"));
	json_decref(error);
	wire_deny(&w, "invalid", "remove", "{s:s, s:s}", "partition", "p", "force", "yes");
	wire_deny(&w, "invalid", "history", "{s:f}", "limit", 1.5);
	wire_deny(&w, "invalid", "status", "{s:i}", "x", 1);
	wire_deny(&w, "invalid", "set", "{s:s, s:{s:s, s:s, s:i}}", "partition", "p", "placement", "mode",
		  "dedicated-cluster", "cluster", "c1", "colour", 1);
	wire_deny(&w, "no-such-method", "frobnicate", NULL);
	wire_close(&w);
}

/* ---- watching ---------------------------------------------------------------------------------------------- */

static json_t *expect_change(struct wire *w, const char *what)
{
	json_t *m = wire_message(w), *params = json_incref(json_object_get(m, "params"));

	assert_string_equal(text_of(m, "method"), "change");
	assert_string_equal(text_of(params, "what"), what);
	json_decref(m);
	return params;
}

static void a_watcher_is_told_of_each_change(void **state)
{
	struct wire w, admin;
	json_t *r;

	wire_open(&w, *state, WIRE_LOOK);
	wire_open(&admin, *state, WIRE_ADMIN);
	r = wire_ok(&w, "watch", NULL);
	assert_true(is_true(r, "watching"));
	json_decref(r);
	clusters(&admin);
	for (int i = 0; i < 3; i++)
		json_decref(expect_change(&w, "cluster-set"));
	place(&admin, "p", "c1");
	r = expect_change(&w, "set");
	assert_string_equal(text_of(r, "key"), "p");
	assert_int_equal(int_of(r, "epoch"), 1);
	assert_false(is_true(r, "forced"));
	assert_string_equal(text_of(json_object_get(json_object_get(r, "state"), "at"), "cluster"), "c1");
	json_decref(r);
	wire_do(&admin, "remove", "{s:s}", "partition", "p");
	r = expect_change(&w, "remove");
	assert_true(json_is_null(json_object_get(r, "state")));
	json_decref(r);
	wire_do(&w, "status", NULL); /* it may still ask */
	wire_close(&w);
	place(&admin, "p", "c1");
	wire_close(&admin);
}

static void a_watcher_that_changes_things_gets_answers_in_one_piece(void **state)
{
	struct wire w;

	wire_open(&w, *state, WIRE_ADMIN);
	wire_do(&w, "watch", NULL);
	wire_do(&w, "cluster.set", "{s:s}", "id", "c1"); /* the answer first */
	json_decref(expect_change(&w, "cluster-set"));
	place(&w, "p", "c1");
	json_decref(expect_change(&w, "set"));
	wire_close(&w);
}

/* ---- attaching --------------------------------------------------------------------------------------------- */

static void attach_hands_over_the_registration(void **state)
{
	struct daemon *d = *state;
	struct wire w, look;
	struct stat st;
	json_t *r, *readers;
	uint64_t deadline = 0;

	wire_open(&w, d, WIRE_LOOK);
	wire_open(&look, d, WIRE_LOOK);
	wire_do(&w, "status", NULL);
	r = wire_ok(&w, "attach", ATTACH(1, getpid(), 3, "unbracketed"));
	assert_true(int_of(r, "slot") >= 0);
	assert_true(int_of(r, "attach") > 0);
	assert_true(w.passed >= 0);
	assert_int_equal(fstat(w.passed, &st), 0);
	assert_true(S_ISREG(st.st_mode) && st.st_size >= 4096 + 3 * 128);
	readers = wire_ok(&look, "readers", NULL);
	assert_int_equal(json_array_size(json_object_get(readers, "readers")), 1);
	{
		json_t *row = json_array_get(json_object_get(readers, "readers"), 0);

		assert_int_equal(int_of(row, "pid"), getpid());
		assert_int_equal(int_of(row, "uid"), getuid());
		assert_int_equal(int_of(row, "n_readers"), 3);
		assert_string_equal(text_of(row, "writes"), "unbracketed");
		assert_true(is_true(row, "connected"));
		assert_int_equal(json_array_size(json_object_get(row, "sections")), 0);
	}
	json_decref(readers);
	wire_deny(&w, "invalid", "attach", ATTACH(1, getpid(), 3, "none")); /* one a connection */
	json_decref(r);
	close(w.passed);
	wire_close(&w);
	/* We live, but hold nothing of it open: it is dead. */
	while (within(&deadline)) {
		r = wire_ok(&look, "status", NULL);
		if (int_of(r, "readers") == 0)
			break;
		json_decref(r);
	}
	assert_int_equal(int_of(r, "readers"), 0);
	json_decref(r);
	wire_close(&look);
}

static void attach_is_refused_for_what_is_wrong(void **state)
{
	struct wire w;

	wire_open(&w, *state, WIRE_LOOK);
	wire_deny(&w, "invalid", "attach", ATTACH(2, getpid(), 1, "none"));
	wire_deny(&w, "invalid", "attach", ATTACH(1, getpid(), 0, "none"));
	wire_deny(&w, "invalid", "attach", ATTACH(1, getpid(), 5000, "none"));
	wire_deny(&w, "invalid", "attach", ATTACH(1, getpid(), 1, "sometimes"));
	wire_deny(&w, "invalid", "attach", ATTACH(1, 0, 1, "none"));
	wire_deny(&w, "invalid", "attach", ATTACH(1, getpid() + 1, 1, "none")); /* another's connection */
	wire_deny(&w, "clock", "attach",
		  ATTACH_AT(1, getpid(), 1, "none", clock_ns(CLOCK_MONOTONIC) + 60000000000, clock_ns(CLOCK_BOOTTIME)));
	wire_deny(&w, "clock", "attach",
		  ATTACH_AT(1, getpid(), 1, "none", clock_ns(CLOCK_MONOTONIC) - 11000000000, clock_ns(CLOCK_BOOTTIME)));
	wire_deny(&w, "clock", "attach", ATTACH_AT(1, getpid(), 1, "none", clock_ns(CLOCK_MONOTONIC), 1));
	wire_deny(&w, "invalid", "reattach", "{s:i, s:i, s:i}", "slot", 0, "attach", 77, "pid", getpid());
	assert_int_equal(w.passed, -1);
	wire_do(&w, "attach", ATTACH(1, getpid(), 1, "none"));
	close(w.passed);
	wire_close(&w);
}

static void a_reader_comes_back_over_another_connection(void **state)
{
	struct daemon *d = *state;
	struct wire first, second;
	json_int_t slot, number;
	json_t *r;

	wire_open(&first, d, WIRE_LOOK);
	r = wire_ok(&first, "attach", ATTACH(1, getpid(), 1, "none"));
	slot = int_of(r, "slot");
	number = int_of(r, "attach");
	json_decref(r);
	daemon_kill(d);
	daemon_start(d, NULL);
	for (int i = 0; i < 2; i++) {
		wire_open(&second, d, WIRE_LOOK);
		wire_do(&second, "reattach", "{s:I, s:I, s:i}", "slot", slot, "attach", number, "pid", getpid());
		if (i == 0) {
			wire_close(&first);
			first = second;
		}
	}
	assert_null(wire_line(&first, DAEMON_MS)); /* one connection stands for a registration: the last */
	r = wire_ok(&second, "readers", NULL);
	assert_true(is_true(json_array_get(json_object_get(r, "readers"), 0), "connected"));
	json_decref(r);
	close(first.passed);
	wire_close(&first);
	wire_close(&second);
}

static void shutdown_answers_then_stops(void **state)
{
	struct daemon *d = *state;
	struct wire w;

	wire_open(&w, d, WIRE_ADMIN);
	wire_do(&w, "shutdown", NULL);
	assert_null(wire_line(&w, DAEMON_MS));
	assert_int_equal(daemon_wait(d), 0);
	wire_close(&w);
}

#define ON_BOTH(test) DAEMON_TEST(test, "memory"), DAEMON_TEST(test, "sqlite")

int main(void)
{
	const struct CMUnitTest tests[] = {
		DAEMON_TEST(status_tells_what_the_writer_is, "memory"),
		ON_BOTH(a_cluster_is_set_moved_and_removed),
		ON_BOTH(get_shows_the_entry_or_the_default),
		ON_BOTH(a_change_tells_its_epoch_and_unchanged_takes_none),
		ON_BOTH(each_refusal_has_its_code_on_the_wire),
		ON_BOTH(a_migration_is_listed_and_ends_with_its_blackout),
		ON_BOTH(history_says_who_did_what),
		DAEMON_TEST(changing_on_the_looking_socket_is_denied, "memory"),
		DAEMON_TEST(parameters_are_checked_by_name_and_type, "memory"),
		DAEMON_TEST(a_watcher_is_told_of_each_change, "memory"),
		DAEMON_TEST(a_watcher_that_changes_things_gets_answers_in_one_piece, "memory"),
		DAEMON_TEST(attach_hands_over_the_registration, "memory"),
		DAEMON_TEST(attach_is_refused_for_what_is_wrong, "memory"),
		ON_BOTH(a_reader_comes_back_over_another_connection),
		ON_BOTH(shutdown_answers_then_stops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
