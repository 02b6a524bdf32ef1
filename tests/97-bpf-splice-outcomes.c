/* SPDX-License-Identifier: MIT
 * What becomes of writes through `berth bpf splice`: a lease is open until the answer has ended; a write that did not get
 * its answer, also because the process was killed, has an unknown outcome, and holds back the next cutover for a barrier. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../bpf/splice_run.h"
#include "splice_place.h"

static void move(struct splice_place *p, const char *partition, const char *to)
{
	wire_do(&p->admin, "begin", "{s:s, s:{s:s, s:s}}", "partition", partition, "to", "mode", "dedicated-cluster",
		"cluster", to);
	wire_do(&p->admin, "cutover", "{s:s}", "partition", partition);
}

static void expect_pending(struct splice_place *p, const char *reason)
{
	json_t *e = wire_refused(&p->admin, "barrier-pending", "complete", "{s:s}", "partition", "acme");

	if (!strstr(json_string_value(json_object_get(json_object_get(e, "data"), "reason")), reason))
		fail_msg("%s instead of %s", json_dumps(e, 0), reason);
	json_decref(e);
}

static void a_lease_is_open_until_the_answer_has_ended(void **state)
{
	struct splice_place *p = splice_place(state);
	size_t len;
	char *text = splice_text(SPLICE_PUT(.body = 10, .act = "hold len=10"), &len);
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	for (int i = 0; i < 4; i++) { /* also of the first request, which is copied */
		atomic_store(&p->nodes->hold, true);
		splice_send(fd, text, len);
		splice_wait_for_waiting(p, 1);
		splice_expect_open_leases(p, 1);
		move(p, "acme", i % 2 ? "c1" : "c2");
		expect_pending(p, "leases-open");
		atomic_store(&p->nodes->hold, false);
		splice_expect(splice_answer(fd, false), 200, i % 2 ? NODE_C2 : NODE_C1, 10);
		splice_expect_open_leases(p, 0);
		wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 5000);
	}
	assert_int_equal(splice_leases(p).unknown, 0);
	free(text);
	close(fd);
}

static void the_answer_of_a_gateway_or_a_task_leaves_the_outcome_unknown(void **state)
{
	static const struct {
		const char *act;
		int status;
		size_t len;
	} rows[] = {
		{"status=502", 502, 10}, {"status=503", 503, 10}, {"status=504 chunked=20", 504, 20},
		{"status=499", 499, 10}, {"status=202", 202, 10}, {"status=202 chunked=20", 202, 20},
	};
	const int n = (int)(sizeof(rows) / sizeof(*rows));
	struct splice_place *p = splice_place(state);
	int fd;

	splice_start(p, NULL, NULL);
	for (int i = 0; i < n; i++) {
		fd = splice_connect(p->port);
		splice_expect(splice_go(fd, SPLICE_PUT(.body = 10, .act = rows[i].act)), rows[i].status, NODE_C1,
			      rows[i].len);
		splice_expect_open_leases(p, 0);
		assert_int_equal(splice_leases(p).unknown, i + 1);
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme"}), 200, NODE_C1, 10);
		close(fd);
	}
	move(p, "acme", "c2");
	expect_pending(p, "unknown-outcome");
	wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 5000); /* a barrier later */
}

static void say_port(void *arg, unsigned port)
{
	const struct splice_place *p = arg;

	dprintf(p->out, "%u\n", port);
}

struct limits {
	struct splice_place *p;
	uint64_t answer_ms, idle_ms;
};

static int limited(void *arg)
{
	const struct limits *l = arg;
	struct splice_place *p = l->p;
	struct splice_options o = {
		.instance = p->b->d.dir, .answer_ms = l->answer_ms, .idle_ms = l->idle_ms, .ready = say_port, .arg = p};
	struct sockaddr_in *at = (struct sockaddr_in *)&o.at, *other = (struct sockaddr_in *)&o.other;
	struct splice_counts counts;
	char text[2048];

	at->sin_family = other->sin_family = AF_INET;
	at->sin_addr.s_addr = other->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	other->sin_port = htons((uint16_t)p->nodes->ports[NODE_FALLBACK]);
	steer_config_header(&o.tenant, "X-Partition");
	if (splice_run(&o, &counts, text, sizeof(text)) == 0)
		return 0;
	dprintf(p->out, "%s\n", text);
	return 1;
}

/* splice in a process of the test's own, less patient than the command's. */
static void start_limited(struct splice_place *p, uint64_t answer_ms, uint64_t idle_ms)
{
	struct limits l = {.p = p, .answer_ms = answer_ms, .idle_ms = idle_ms};
	uint64_t deadline = 0;
	char text[4096] = "";

	p->pid = part_start(limited, &l);
	while (within(&deadline) && !strchr(text, '\n'))
		splice_output(p, text, sizeof(text));
	p->port = (unsigned)strtoul(text, NULL, 10);
}

static void a_client_that_asks_for_nothing_is_closed_and_no_other(void **state)
{
	struct splice_place *p = splice_place(state);
	int never, asked, fallback, waits;
	uint64_t start;
	size_t len;
	char *text = splice_text(SPLICE_PUT(.body = 10, .act = "hold len=10"), &len);

	start_limited(p, 30000, 1000);
	waits = splice_connect(p->port);
	atomic_store(&p->nodes->hold, true);
	splice_send(waits, text, len);
	splice_wait_for_waiting(p, 1);
	start = test_now_ms();
	never = splice_connect(p->port);
	asked = splice_connect(p->port);
	fallback = splice_connect(p->port);
	splice_expect(splice_go(asked, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	splice_expect(splice_go(fallback, SPLICE_PUT(.extra = "Expect: 100-continue\r\n")), 200, NODE_FALLBACK, 10);
	assert_true(splice_ended(never));
	assert_true(test_now_ms() - start >= 1000);
	assert_true(splice_ended(asked));
	assert_true(splice_ended(fallback));
	splice_expect_open_leases(p, 1); /* who waits for an answer asks for something */
	atomic_store(&p->nodes->hold, false);
	splice_expect(splice_answer(waits, false), 200, NODE_C1, 10);
	splice_expect_open_leases(p, 0);
	assert_int_equal(splice_leases(p).unknown, 0);
	close(never);
	close(asked);
	close(fallback);
	close(waits);
	free(text);
	assert_int_equal(splice_stop(p), 0);
}

static void an_answer_that_does_not_come_is_a_502_and_an_unknown_outcome(void **state)
{
	struct splice_place *p = splice_place(state);
	uint64_t start;
	int fd;

	start_limited(p, 400, SPLICE_IDLE_MS);
	atomic_store(&p->nodes->hold, true);
	for (int i = 0; i < 2; i++) {
		fd = splice_connect(p->port);
		if (i)
			splice_expect(splice_go(fd, SPLICE_PUT(.body = 10, .act = "delay=100 len=10")), 200, NODE_C1,
				      10);
		start = test_now_ms();
		splice_expect(splice_go(fd, SPLICE_PUT(.body = 10, .act = "hold len=10")), 502, -1, 0);
		assert_true(test_now_ms() - start >= 400);
		assert_true(splice_ended(fd));
		close(fd);
		splice_expect_open_leases(p, 0);
		assert_int_equal(splice_leases(p).unknown, i + 1);
	}
	assert_int_equal(splice_stop(p), 0);
}

#define KILLED 50
static void kill_9_with_writes_under_way_leaves_their_outcome_unknown(void **state)
{
	struct splice_place *p = splice_place(state);
	int fds[KILLED];
	size_t len, body = 100;
	char *text = splice_text(SPLICE_PUT(.body = body, .act = "hold len=10"), &len);
	uint64_t start;

	splice_start(p, NULL, NULL);
	atomic_store(&p->nodes->hold, true);
	for (int i = 0; i < KILLED; i++) {
		fds[i] = splice_connect(p->port);
		if (i % 2)
			splice_expect(splice_go(fds[i], SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
		splice_send(fds[i], text, i % 10 == 9 ? len - body / 2 : len); /* some are half sent */
	}
	splice_wait_for_waiting(p, KILLED - KILLED / 10);
	splice_expect_open_leases(p, KILLED);
	move(p, "acme", "c2");
	expect_pending(p, "leases-open");
	start = test_now_ms();
	child_kill(&p->pid);
	splice_expect_open_leases(p, 0);
	assert_int_equal(splice_leases(p).unknown, KILLED);
	expect_pending(p, "unknown-outcome");
	wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 10000);
	assert_true(test_now_ms() - start >= 1500); /* the barrier */
	for (int i = 0; i < KILLED; i++)
		close(fds[i]);
	atomic_store(&p->nodes->hold, false);
	free(text);
	splice_start(p, NULL, NULL);
	fds[0] = splice_connect(p->port);
	splice_expect(splice_go(fds[0], SPLICE_PUT(.body = 10)), 200, NODE_C2, 10);
	close(fds[0]);
}

static void sigterm_ends_each_connection_behind_its_answer(void **state)
{
	struct splice_place *p = splice_place(state);
	size_t len;
	char *text = splice_text(SPLICE_PUT(.body = 10, .act = "hold len=100000"), &len), said[4096];
	int fds[20], idle;

	splice_start(p, NULL, NULL);
	idle = splice_connect(p->port);
	splice_expect(splice_go(idle, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	atomic_store(&p->nodes->hold, true);
	for (int i = 0; i < 20; i++) {
		fds[i] = splice_connect(p->port);
		if (i % 2)
			splice_expect(splice_go(fds[i], SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
		splice_send(fds[i], text, len);
	}
	splice_wait_for_waiting(p, 20);
	kill(p->pid, SIGTERM);
	assert_true(splice_ended(idle));
	assert_int_equal(splice_connect(p->port), -1);
	atomic_store(&p->nodes->hold, false);
	for (int i = 0; i < 20; i++) {
		splice_expect(splice_answer(fds[i], false), 200, NODE_C1, 100000);
		assert_true(splice_ended(fds[i]));
		close(fds[i]);
	}
	assert_int_equal(child_wait(p->pid, CHILD_MS), 0);
	p->pid = 0;
	splice_output(p, said, sizeof(said));
	assert_non_null(strstr(said, "21 connections"));
	assert_int_equal(splice_leases(p).unknown + splice_leases(p).open, 0);
	free(text);
	close(idle);
}

static void it_goes_on_without_its_daemon(void **state)
{
	struct splice_place *p = splice_place(state);
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	wire_close(&p->admin);
	daemon_kill(&p->b->d);
	splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "initech"}), 200, NODE_C3, 10);
	daemon_start(&p->b->d, "--bpf", "--barrier-ms", "1500", NULL);
	wire_open(&p->admin, &p->b->d, WIRE_ADMIN);
	splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
	close(fd);
}

/* A write that takes longer than its mirror lives, and than any barrier. One of them is answered; of the other the process
 * is killed. */
static void a_write_that_outlives_its_mirror_holds_its_migration_back(void **state)
{
	struct splice_place *p = splice_place(state);
	size_t len;
	char *text = splice_text(SPLICE_PUT(.body = 10, .act = "hold len=10"), &len);
	int fd;

	splice_start(p, NULL, NULL);
	for (int killed = 0; killed < 2; killed++) {
		atomic_store(&p->nodes->hold, true);
		fd = splice_connect(p->port);
		splice_send(fd, text, len);
		splice_wait_for_waiting(p, 1);
		splice_expect_open_leases(p, 1);
		wire_close(&p->admin);
		daemon_kill(&p->b->d);
		daemon_start(&p->b->d, "--barrier-ms", "300", NULL); /* the mirror goes */
		wire_open(&p->admin, &p->b->d, WIRE_ADMIN);
		move(p, "acme", killed ? "c1" : "c2");
		usleep(1000000);
		expect_pending(p, "leases-open");
		if (killed) {
			child_kill(&p->pid);
		} else {
			atomic_store(&p->nodes->hold, false);
			splice_expect(splice_answer(fd, false), 200, NODE_C1, 10);
		}
		wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 5000);
		close(fd);
		if (killed)
			break;
		assert_int_equal(splice_stop(p), 0);
		wire_close(&p->admin);
		daemon_kill(&p->b->d);
		daemon_start(&p->b->d, "--bpf", "--barrier-ms", "300", NULL);
		wire_open(&p->admin, &p->b->d, WIRE_ADMIN);
		splice_start(p, NULL, NULL);
	}
	atomic_store(&p->nodes->hold, false);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLICE_TEST(a_lease_is_open_until_the_answer_has_ended, 30000),
		SPLICE_TEST(the_answer_of_a_gateway_or_a_task_leaves_the_outcome_unknown, 1000),
		SPLICE_TEST(an_answer_that_does_not_come_is_a_502_and_an_unknown_outcome, 30000),
		SPLICE_TEST(kill_9_with_writes_under_way_leaves_their_outcome_unknown, 1500),
		SPLICE_TEST(sigterm_ends_each_connection_behind_its_answer, 30000),
		SPLICE_TEST(it_goes_on_without_its_daemon, 1500),
		SPLICE_TEST(a_client_that_asks_for_nothing_is_closed_and_no_other, 30000),
		SPLICE_TEST(a_write_that_outlives_its_mirror_holds_its_migration_back, 300),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
