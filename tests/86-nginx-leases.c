/* SPDX-License-Identifier: MIT
 * A real nginx with reader_lib/lua before a real daemon, over real HTTP: that each write is under one lease, which ends
 * once, as soon as the answer is whole, with the right outcome, whatever becomes of request, worker and daemon. */
#include "proxy_check.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void a_lease_is_open_as_long_as_the_node_works_and_no_longer(void **state)
{
	uint64_t start, took;
	json_t *error;
	int fd;

	PROXY_NEEDED;
	proxy_put("slow", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = "slow", .act = "sleep=1000"}, false);
	proxy_expect_open("slow", 1);
	proxy_cutover("slow", "c2");
	error = wire_refused(&proxy_admin, "barrier-pending", "complete", "{s:s}", "partition", "slow");
	assert_string_equal(text_of(json_object_get(error, "data"), "reason"), "leases-open");
	json_decref(error);
	start = test_now_ms();
	wire_do(&proxy_admin, "complete", "{s:s,s:i}", "partition", "slow", "wait_ms", 20000);
	took = test_now_ms() - start;
	assert_int_equal(proxy_leases("slow").open, 0);
	assert_true(took < 4500); /* far below the barrier */
	assert_int_equal(proxy_leases("slow").unknown, 0);
	free(proxy_answer(fd).text);
	EXPECT(200, PORT(1), .method = "PUT", .partition = "slow");
}

static void a_client_that_is_slow_to_send_or_to_read_holds_no_lease(void **state)
{
	static const char head[] = "PUT / HTTP/1.1\r\nHost: x\r\nX-Partition: slack\r\nConnection: close\r\n"
				   "Content-Length: 10\r\n\r\nhalf";
	struct answer a;
	int fd, small = 4096;

	PROXY_NEEDED;
	proxy_put("slack", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	assert_int_equal(send(fd, head, sizeof(head) - 1, MSG_NOSIGNAL), (ssize_t)sizeof(head) - 1);
	poll(NULL, 0, 200);
	assert_int_equal(proxy_leases("slack").open, 0);
	assert_int_equal(send(fd, "ISHALF", 6, MSG_NOSIGNAL), 6);
	a = proxy_answer(fd);
	assert_int_equal(a.status, 200);
	assert_true(answer_has(&a, "length=10"));
	free(a.text);
	/* gone in the middle of its body: nothing was begun */
	fd = proxy_connect(&proxy, WAY_HEADER);
	assert_int_equal(send(fd, head, sizeof(head) - 1, MSG_NOSIGNAL), (ssize_t)sizeof(head) - 1);
	close(fd);
	/* reads nothing of a long answer */
	fd = proxy_connect(&proxy, WAY_HEADER);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = "slack", .act = "big=800000"}, false);
	poll(NULL, 0, 300);
	proxy_expect_open("slack", 0);
	assert_int_equal(proxy_leases("slack").unknown, 0);
	a = proxy_answer(fd);
	assert_true(a.len > 800000);
	free(a.text);
}

enum end_as { DONE, UNKNOWN };

static void expect_outcome(const char *partition, enum end_as outcome, const char *what)
{
	struct proxy_leases n;

	proxy_expect_open(partition, 0);
	n = proxy_leases(partition);
	if (n.unknown != (outcome == UNKNOWN ? 1 : 0))
		fail_msg("%s: %u writes ended unknown", what, n.unknown);
}

static void the_outcome_is_what_the_node_said(void **state)
{
	static const struct {
		const char *act, *path;
		int status;
		enum end_as outcome;
		enum proxy_way way;
	} rows[] = {
		{"status=200", "/", 200, DONE, 0},
		{"status=201", "/", 201, DONE, 0},
		{"empty", "/", 204, DONE, 0},
		{"status=301", "/", 301, DONE, 0},
		{"status=400", "/", 400, DONE, 0},
		{"status=404", "/", 404, DONE, 0},
		{"status=409", "/", 409, DONE, 0},
		{"status=429", "/", 429, DONE, 0},
		{"status=500", "/", 500, DONE, 0},
		{"status=501", "/", 501, DONE, 0},
		{"big=100000", "/", 200, DONE, 0},
		{"status=502", "/", 502, UNKNOWN, 0},
		{"status=503", "/", 503, UNKNOWN, 0},
		{"status=504", "/", 504, UNKNOWN, 0},
		{"status=202", "/", 202, UNKNOWN, 0},
		{"drop", "/", 502, UNKNOWN, 0},
		{"cut", "/", 200, UNKNOWN, 0},
		{"sleep=3500", "/", 504, UNKNOWN, 0},
		{"", "/_reindex?wait_for_completion=false", 200, UNKNOWN, 0},
		{"", "/_reindex?x=1&wait%5ffor_completion=f%61lse", 200, UNKNOWN, 0},
		{"", "/_reindex?wait_for_completion=true", 200, DONE, 0},
		{"status=400", "/_reindex?wait_for_completion=false", 400, DONE, 0},
		/* two attempts, one lease */
		{"first-status=500", "/", 200, DONE, WAY_RETRY},
		{"first-status=503", "/", 200, UNKNOWN, WAY_RETRY},
		{"first-drop", "/", 200, UNKNOWN, WAY_RETRY},
		{"status=500", "/", 500, DONE, WAY_RETRY},
		{"drop", "/", 502, UNKNOWN, WAY_RETRY},
		/* pages of nginx, and requests that it redirects inside */
		{"status=404", "/", 404, DONE, WAY_REDIRECT},
		{"status=503", "/", 503, UNKNOWN, WAY_REDIRECT},
		{"drop", "/", 502, UNKNOWN, WAY_REDIRECT},
		{"status=500", "/", 200, DONE, WAY_REDIRECT},
	};
	char partition[32], what[128], extra[64];

	PROXY_NEEDED;
	proxy_put("globex", "c2");
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int status;

		snprintf(partition, sizeof(partition), "outcome-%u", i);
		snprintf(extra, sizeof(extra), "X-Id: %s\r\n", partition);
		proxy_put(partition, "c1");
		status = STATUS(.way = rows[i].way, .method = "PUT", .path = rows[i].path, .partition = partition,
				.act = rows[i].act, .body = "{}", .extra = extra);
		snprintf(what, sizeof(what), "row %u, %s %s, status %d", i, rows[i].act, rows[i].path, status);
		if (rows[i].status != status)
			fail_msg("%s", what);
		expect_outcome(partition, rows[i].outcome, what);
	}
	expect_outcome("globex", DONE, "the one that was sent on");
}

static void a_node_that_is_down_got_nothing(void **state)
{
	PROXY_NEEDED;
	proxy_put("down", "c4");
	EXPECT(502, NULL, .method = "PUT", .partition = "down");
	EXPECT(502, NULL, .way = WAY_RETRY, .method = "PUT", .partition = "down");
	expect_outcome("down", DONE, "connection refused");
	EXPECT(502, NULL, .partition = "down");
}

static void abandon(enum proxy_way way, const char *partition)
{
	int fd = proxy_connect(&proxy, way);

	proxy_put(partition, "c1");
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = partition, .act = "sleep=1000"}, false);
	proxy_expect_open(partition, 1);
	poll(NULL, 0, 200); /* a request that nginx has not sent yet when its client goes is done */
	close(fd);
}

static void a_client_that_goes_away_leaves_the_outcome_open(void **state)
{
	PROXY_NEEDED;
	abandon(WAY_HEADER, "left");
	expect_outcome("left", UNKNOWN, "aborted");
	abandon(WAY_FINISH, "left-to-finish");
	assert_int_equal(proxy_leases("left-to-finish").open, 1);
	expect_outcome("left-to-finish", DONE, "waited for");
}

static void pipelined_writes_have_a_lease_each(void **state)
{
	int fd;
	struct answer a;
	unsigned n = 0;

	PROXY_NEEDED;
	proxy_put("pipe", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	for (int i = 0; i < 8; i++)
		proxy_send(fd, &(struct ask){.method = i % 3 ? "PUT" : "GET", .partition = "pipe", .body = "{}"},
			   i < 7);
	a = proxy_answer(fd);
	for (char *at = a.text; (at = strstr(at, PORT(0))); at++)
		n++;
	assert_int_equal(n, 8);
	free(a.text);
	expect_outcome("pipe", DONE, "pipelined");
}

static void a_lease_that_a_location_forgot_is_found(void **state)
{
	char *log;
	int n = 0;

	PROXY_NEEDED;
	proxy_put("forgot", "c1");
	EXPECT(200, PORT(0), .way = WAY_FORGET, .method = "PUT", .partition = "forgot");
	assert_int_equal(proxy_leases("forgot").open, 1);
	/* until one of its worker lies where that one lay */
	while (proxy_leases("forgot").open && n++ < 1000)
		assert_int_equal(STATUS(.method = "PUT", .partition = "forgot"), 200);
	expect_outcome("forgot", UNKNOWN, "forgotten");
	log = proxy_log(&proxy);
	assert_non_null(strstr(log, "a request ended without log_by_lua"));
	free(log);
	proxy_stop(&proxy); /* with what else it may have forgotten */
	proxy_again(&proxy);
}

static void nginx_that_is_stopped_gives_up_its_leases(void **state)
{
	json_t *error;
	int fd;

	PROXY_NEEDED;
	proxy_put("stopped", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = "stopped", .act = "sleep=1200"}, false);
	proxy_expect_open("stopped", 1);
	proxy_stop(&proxy);
	free(proxy_answer(fd).text);
	proxy_expect_open(NULL, 0);
	proxy_cutover("stopped", "c2");
	error = wire_refused(&proxy_admin, "barrier-pending", "complete", "{s:s}", "partition", "stopped");
	assert_true(int_of(json_object_get(error, "data"), "remaining_ms") > 1000);
	json_decref(error);
	wire_do(&proxy_admin, "abort", "{s:s}", "partition", "stopped");
	proxy_again(&proxy);
	EXPECT(200, PORT(0), .method = "PUT", .partition = "stopped");
}

static void a_killed_worker_is_replaced_and_its_writes_count_as_died(void **state)
{
	pid_t before[8], after[8];
	bool died = false;
	unsigned n;
	json_t *error;
	int fd;

	PROXY_NEEDED;
	proxy_put("killed", "c1");
	proxy_put("other", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = "killed", .act = "sleep=1200"}, false);
	proxy_expect_open("killed", 1);
	n = proxy_workers(&proxy, before, 8);
	assert_int_equal(n, 4);
	for (unsigned i = 0; i < n; i++)
		kill(before[i], SIGKILL);
	free(proxy_answer(fd).text);
	proxy_cutover("killed", "c2");
	for (uint64_t deadline = 0; within(&deadline) && !died;) { /* leases-open, until it is noticed */
		error = wire_refused(&proxy_admin, "barrier-pending", "complete", "{s:s}", "partition", "killed");
		died = strcmp(text_of(json_object_get(error, "data"), "reason"), "reader-died") == 0;
		json_decref(error);
	}
	assert_true(died);
	for (uint64_t deadline = 0; within(&deadline);)
		if (proxy_workers(&proxy, after, 8) == 4 && after[0] > before[3] &&
		    STATUS(.method = "PUT", .partition = "other") == 200)
			break;
	for (int i = 0; i < 20; i++)
		EXPECT(200, PORT(0), .method = "PUT", .partition = "other");
	proxy_expect_open(NULL, 0);
	wire_do(&proxy_admin, "complete", "{s:s,s:i}", "partition", "killed", "wait_ms", 15000);
	EXPECT(200, PORT(1), .method = "PUT", .partition = "killed");
}

static void a_reload_loses_nothing(void **state)
{
	struct answer a;
	pid_t before[8], now[16];
	int fd, failed = 0;

	PROXY_NEEDED;
	proxy_put("reload", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = "reload", .act = "sleep=1200"}, false);
	proxy_expect_open("reload", 1);
	assert_int_equal(proxy_workers(&proxy, before, 8), 4);
	kill(proxy.proxy, SIGHUP);
	for (int i = 0; i < 100; i++)
		failed += STATUS(.method = "PUT", .partition = "reload") != 200;
	assert_int_equal(failed, 0);
	assert_int_equal(proxy_leases("reload").open, 1); /* the old worker's */
	a = proxy_answer(fd);
	assert_int_equal(a.status, 200);
	free(a.text);
	expect_outcome("reload", DONE, "an old worker's");
	for (uint64_t deadline = 0; within(&deadline);)
		if (proxy_workers(&proxy, now, 16) == 4 && now[0] > before[3])
			return;
	fail_msg("the old workers do not end");
}

static void the_daemon_may_stop_die_and_come_back(void **state)
{
	struct answer a;
	int fd;

	PROXY_NEEDED;
	proxy_put("steady", "c1");
	fd = proxy_connect(&proxy, WAY_HEADER);
	proxy_send(fd, &(struct ask){.method = "PUT", .partition = "steady", .act = "sleep=1200"}, false);
	proxy_expect_open("steady", 1);
	wire_close(&proxy_look);
	wire_close(&proxy_admin);
	daemon_kill(&proxy.d);
	for (int i = 0; i < 20; i++)
		EXPECT(200, PORT(0), .method = i % 2 ? "PUT" : "GET", .partition = "steady");
	daemon_start(&proxy.d, "--barrier-ms", "5000", NULL);
	wire_open(&proxy_look, &proxy.d, WIRE_LOOK);
	wire_open(&proxy_admin, &proxy.d, WIRE_ADMIN);
	assert_int_equal(proxy_leases("steady").open, 1); /* as before */
	a = proxy_answer(fd);
	assert_int_equal(a.status, 200);
	free(a.text);
	expect_outcome("steady", DONE, "over a restart");
	EXPECT(200, PORT(0), .method = "PUT", .partition = "steady");
	proxy_cutover("steady", "c2");
	EXPECT(409, "\"cutover\"", .method = "PUT", .partition = "steady");
	wire_do(&proxy_admin, "complete", "{s:s,s:i}", "partition", "steady", "wait_ms", 15000);
	EXPECT(200, PORT(1), .method = "PUT", .partition = "steady");
}

/* Whatever comes, in any order, some of it at the same time, some given up. */
static void after_a_thousand_requests_no_lease_is_open(void **state)
{
	static const char *const acts[] = {"",           "",           "",           "status=500",
					   "status=503", "drop",       "cut",        "sleep=20",
					   "empty",      "big=300000", "first-drop", "sleep=60 status=202"};
	static const char *const methods[] = {"PUT", "POST", "DELETE", "GET", "HEAD", "PATCH"};
	static const char *const partitions[] = {"r0", "r1", "r2", "nobody", NULL};
	unsigned seed = 7, answered = 0;
	int fds[8];

	PROXY_NEEDED;
	for (int i = 0; i < 3; i++)
		proxy_put(partitions[i], i == 2 ? "c4" : "c1");
	for (unsigned i = 0; i < 1000; i += 8) {
		if (i == 400)
			proxy_cutover("r0", "c2");
		else if (i == 800)
			wire_do(&proxy_admin, "abort", "{s:s}", "partition", "r0");
		for (unsigned j = 0; j < 8; j++) {
			char extra[32];

			snprintf(extra, sizeof(extra), "X-Id: r-%u\r\n", i + j);
			fds[j] = proxy_connect(&proxy, (enum proxy_way)(rand_r(&seed) % WAY_FORGET));
			assert_true(fds[j] >= 0);
			proxy_send(fds[j],
				   &(struct ask){.method = methods[rand_r(&seed) % 6],
						 .path = rand_r(&seed) % 2 ? "/r1/_doc/1" : "/r0/_search",
						 .partition = partitions[rand_r(&seed) % 5],
						 .act = acts[rand_r(&seed) % (int)(sizeof(acts) / sizeof(acts[0]))],
						 .body = rand_r(&seed) % 2 ? "{}" : NULL,
						 .extra = extra},
				   false);
		}
		for (unsigned j = 0; j < 8; j++) {
			struct answer a = {0};

			if (rand_r(&seed) % 5 == 0)
				close(fds[j]);
			else
				a = proxy_answer(fds[j]);
			answered += a.status > 0;
			free(a.text);
		}
	}
	assert_true(answered > 600);
	proxy_expect_open(NULL, 0);
	{
		char *log = proxy_log(&proxy);
		const char *fault = strstr(log, "lua entry thread aborted"), *emerg = strstr(log, "attempt to ");

		if (fault || emerg)
			fail_msg("%.2000s", fault ? fault : emerg);
		free(log);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lease_is_open_as_long_as_the_node_works_and_no_longer),
		cmocka_unit_test(a_client_that_is_slow_to_send_or_to_read_holds_no_lease),
		cmocka_unit_test(the_outcome_is_what_the_node_said),
		cmocka_unit_test(a_node_that_is_down_got_nothing),
		cmocka_unit_test(a_client_that_goes_away_leaves_the_outcome_open),
		cmocka_unit_test(pipelined_writes_have_a_lease_each),
		cmocka_unit_test(a_lease_that_a_location_forgot_is_found),
		cmocka_unit_test(nginx_that_is_stopped_gives_up_its_leases),
		cmocka_unit_test(a_killed_worker_is_replaced_and_its_writes_count_as_died),
		cmocka_unit_test(a_reload_loses_nothing),
		cmocka_unit_test(the_daemon_may_stop_die_and_come_back),
		cmocka_unit_test(after_a_thousand_requests_no_lease_is_open),
	};

	return cmocka_run_group_tests(tests, proxy_setup, proxy_teardown);
}
