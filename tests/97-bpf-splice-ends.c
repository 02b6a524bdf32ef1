/* SPDX-License-Identifier: MIT
 * Connections of `berth bpf splice` that end, by the client or by the node, at every stage: nobody else notices, no answer
 * is lost that was on its way, and no lease stays open. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "splice_place.h"

static void reset(int fd)
{
	struct linger l = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

/* ---- clients ---- */

static void a_client_that_half_closes_gets_its_answer(void **state)
{
	static const char *const acts[] = {"len=10", "len=200000", "chunked=100000", "delay=20 len=30", "close=10"};
	struct splice_place *p = splice_place(state);
	size_t len;
	char *text;

	splice_start(p, NULL, NULL);
	for (int round = 0; round < 40; round++) {
		const char *act = acts[round / 2 % 5];
		int fd = splice_connect(p->port);

		if (round % 2)
			splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
		text = splice_text(SPLICE_PUT(.body = 10, .act = act), &len);
		splice_send(fd, text, len);
		shutdown(fd, SHUT_WR);
		splice_expect(splice_answer(fd, false), 200, round % 2 ? NODE_C1 : NODE_ANY,
			      strtoul(strrchr(act, '=') + 1, NULL, 10));
		free(text);
		assert_true(splice_ended(fd));
		close(fd);
	}
	splice_expect_open_leases(p, 0);
}

static void a_client_that_goes_away_at_any_stage_leaves_no_open_lease(void **state)
{
	struct splice_place *p = splice_place(state);
	size_t len;
	char *text;

	splice_start(p, NULL, NULL);
	for (int round = 0; round < 64; round++) {
		size_t body = round & 8 ? 100000 : 1000;
		int fd = splice_connect(p->port);

		text = splice_text(SPLICE_PUT(.body = body, .act = round & 16 ? "len=3000000" : "delay=5 len=100"),
				   &len);
		if (round & 32)
			splice_expect(splice_go(fd, SPLICE_PUT(.body = 1)), 200, NODE_C1, 10);
		switch (round % 4) {
		case 0: /* nothing, or idle */
			break;
		case 1: /* a head */
			splice_send(fd, text, len - body);
			break;
		case 2: /* half of a request */
			splice_send(fd, text, len - body / 2);
			break;
		case 3: /* a request */
			splice_send(fd, text, len);
			if (round & 16) /* and part of its answer */
				recv(fd, text, 1000, 0);
		}
		free(text);
		if (round & 4)
			reset(fd);
		else
			close(fd);
	}
	splice_expect_open_leases(p, 0);
	splice_expect_alive(p);
	splice_expect_open_leases(p, 0);
}

/* ---- nodes ---- */

static void a_node_that_goes_away_at_any_stage_ends_the_client_that_waits_for_it(void **state)
{
	static const char *const acts[] = {"drop", "cut=1000", "cut=500000", "delay=3 drop"};
	struct splice_place *p = splice_place(state);

	splice_start(p, NULL, NULL);
	for (int round = 0; round < 32; round++) {
		struct splice_answer_got a;
		int fd = splice_connect(p->port);

		if (round & 4)
			splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
		if (round & 8)
			splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "globex"}), 200, NODE_C2, 10);
		a = splice_go(fd, SPLICE_PUT(.body = round & 16 ? 100000 : 10, .act = acts[round % 4]));
		if (round % 4 == 1 || round % 4 == 2)
			assert_true(a.status == 200 && !a.whole);
		else
			splice_expect(a, 502, -1, 0);
		assert_true(splice_ended(fd));
		close(fd);
	}
	splice_expect_open_leases(p, 0);
	assert_true(splice_leases(p).unknown > 0);
	splice_expect_alive(p);
}

static void a_node_that_is_not_there_is_a_502_and_no_unknown_outcome(void **state)
{
	struct splice_place *p = splice_place(state);

	bpf_cluster(&p->admin, "c7", "http://127.0.0.1:1");
	bpf_put(&p->admin, "lost", "c7");
	splice_start(p, NULL, NULL);
	for (int i = 0; i < 10; i++) {
		int fd = splice_connect(p->port);

		if (i % 2)
			splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "lost", .method = "PUT", .body = 100}), 502,
			      -1, 0);
		assert_true(splice_ended(fd));
		close(fd);
	}
	splice_expect_open_leases(p, 0);
	assert_int_equal(splice_leases(p).unknown, 0);
}

static void a_warm_connection_that_the_node_closes_is_made_again(void **state)
{
	struct splice_place *p = splice_place(state);
	uint64_t deadline;
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	for (int i = 0; i < 20; i++) {
		unsigned before = atomic_load(&p->nodes->n_connections);

		splice_expect(splice_go(fd, SPLICE_PUT(.body = 10)), 200, NODE_C1, 10);
		/* the other's connection ends while this one's are idle, and again */
		int other = splice_connect(p->port);
		splice_go(other, SPLICE_PUT(.act = "drop"));
		close(other);
		deadline = 0;
		while (within(&deadline) && atomic_load(&p->nodes->n_connections) > before + 1)
			;
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "globex"}), 200, NODE_C2, 10);
	}
	close(fd);
}

/* A client that does not read holds up its node, not the memory of the kernel: a long answer is copied, and waits. */
static void a_slow_reader_gets_all_of_a_long_answer(void **state)
{
	struct splice_place *p = splice_place(state);
	int small = 128 << 10, fd;
	char *text;
	size_t len;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	text = splice_text(&(struct splice_ask){.tenant = "acme", .act = "len=4000000"}, &len);
	splice_send(fd, text, len);
	free(text);
	splice_expect_alive(p);
	splice_expect(splice_answer(fd, false), 200, NODE_C1, 4000000);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .act = "len=262000"}), 200, NODE_C1, 262000);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLICE_TEST(a_client_that_half_closes_gets_its_answer, 30000),
		SPLICE_TEST(a_client_that_goes_away_at_any_stage_leaves_no_open_lease, 30000),
		SPLICE_TEST(a_node_that_goes_away_at_any_stage_ends_the_client_that_waits_for_it, 30000),
		SPLICE_TEST(a_node_that_is_not_there_is_a_502_and_no_unknown_outcome, 30000),
		SPLICE_TEST(a_warm_connection_that_the_node_closes_is_made_again, 30000),
		SPLICE_TEST(a_slow_reader_gets_all_of_a_long_answer, 30000),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
