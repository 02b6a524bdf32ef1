/* SPDX-License-Identifier: MIT
 * `berth bpf splice` with real sockets: where requests go, and that requests and answers of every form arrive as they were
 * sent. Ends of connections, leases and migrations: 97-bpf-splice-*.c. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "splice_place.h"

static void each_request_of_a_connection_goes_to_the_cluster_of_its_tenant(void **state)
{
	static const char *const tenants[] = {"acme", "globex", "initech"};
	struct splice_place *p = splice_place(state);
	uint64_t before;
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	before = splice_events(p, MIRROR_EVENT_SPLICED);
	for (int i = 0; i < 300; i++)
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = tenants[i % 3],
								 .method = i % 2 ? "POST" : "GET",
								 .body = i % 2 ? (size_t)i : 0}),
			      200, NODE_C1 + i % 3, 10);
	assert_int_equal(splice_events(p, MIRROR_EVENT_SPLICED) - before, 300);
	assert_int_equal(atomic_load(&p->nodes->n_bad), 0);
	assert_int_equal(atomic_load(&p->nodes->n_connections), 3); /* warm ones are used again */
	close(fd);
	assert_int_equal(splice_stop(p), 0);
}

static void a_tenant_may_be_named_by_a_segment_of_the_path(void **state)
{
	struct splice_place *p = splice_place(state);
	int fd;

	splice_start(p, NULL, "2");
	fd = splice_connect(p->port);
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1/acme/x?y=/globex"}), 200, NODE_C1, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1/globex"}), 200, NODE_C2, 10);
	/* what a node might understand otherwise is the fallback's to judge */
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1//acme"}), 200, NODE_FALLBACK, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1/acme/../globex/x"}), 200, NODE_FALLBACK, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1/ac%6de/x"}), 200, NODE_FALLBACK, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1"}), 200, NODE_FALLBACK, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.path = "/v1/initech/x"}), 200, NODE_C3, 10);
	close(fd);
}

static void what_has_no_answer_here_goes_to_the_fallback_alone(void **state)
{
	struct splice_place *p = splice_place(state);
	static const struct {
		struct splice_ask ask;
		int node;
	} rows[] = {
		{{.tenant = "nobody"}, NODE_FALLBACK},
		{{.tenant = NULL}, NODE_FALLBACK},
		{{.tenant = "acme", .extra = "X-Partition: globex\r\n"}, NODE_FALLBACK},
		{{.tenant = "acme", .extra = "X-HTTP-Method-Override: DELETE\r\n"}, NODE_FALLBACK},
		{{.tenant = "0123456789012345678901234567890123456789"}, NODE_FALLBACK},
		{{.tenant = "acme", .method = "POST", .path = "/_reindex?wait_for_completion=false"}, NODE_FALLBACK},
		{{.tenant = "acme", .method = "POST", .path = "/i/_search?size=1&scroll=1m"}, NODE_FALLBACK},
		{{.tenant = "acme", .method = "POST", .path = "/_search/scroll"}, NODE_FALLBACK},
		{{.tenant = "acme", .method = "POST", .path = "/i/_search/point_in_time?keep_alive=1m"}, NODE_FALLBACK},
		{{.tenant = "acme", .method = "POST", .path = "/i/_pit"}, NODE_FALLBACK},
		{{.tenant = "acme", .method = "POST", .path = "/scroll=/_pi/_search"}, NODE_C1},
		{{.tenant = "acme", .method = "POST", .path = "/i/_doc?refresh=wait_for"}, NODE_C1},
		{{.tenant = "  globex  "}, NODE_C2},
		{{.tenant = "acme", .extra = "Connection: keep-alive\r\n"}, NODE_C1},
		{{.tenant = "acme", .extra = "X-Partitions: globex\r\nX-Partitio: globex\r\n"}, NODE_C1},
		{{.tenant = "acme"}, NODE_C1},
	};
	int fd;

	bpf_put(&p->admin, "0123456789012345678901234567890123456789", "c1");
	bpf_cluster(&p->admin, "c8", "https://127.0.0.1:9");
	bpf_cluster(&p->admin, "c9", "http://some.name:9");
	bpf_put(&p->admin, "secret", "c8");
	bpf_put(&p->admin, "named", "c9");
	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		splice_expect(splice_go(fd, &rows[i].ask), 200, rows[i].node, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "secret", .method = "PUT"}), 200, NODE_FALLBACK, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "named"}), 200, NODE_FALLBACK, 10);
	wire_do(&p->admin, "begin", "{s:s, s:{s:s, s:s}}", "partition", "acme", "to", "mode", "dedicated-cluster",
		"cluster", "c2");
	wire_do(&p->admin, "cutover", "{s:s}", "partition", "acme");
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .method = "PUT"}), 200, NODE_FALLBACK, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme"}), 200, NODE_C1, 10);
	wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "acme", "wait_ms", 5000);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .method = "PUT"}), 200, NODE_C2, 10);
	close(fd);
}

static void what_cannot_be_framed_takes_its_connection_to_the_fallback(void **state)
{
	struct splice_place *p = splice_place(state);
	static const char *const odd[] = {
		"POST /x HTTP/1.1\r\nX-Partition: acme\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"GET /x HTTP/1.1\r\nX-Partition: acme\r\nUpgrade: h2c\r\n\r\n",
		"GET /x HTTP/1.1\r\nX-Partition: acme\r\nConnection: close\r\n\r\n",
		"GET /x HTTP/1.0\r\nX-Partition: acme\r\n\r\n",
		"POST /x HTTP/1.1\r\nX-Partition: acme\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"POST /x HTTP/1.1\r\nX-Partition: acme\r\nContent-Length : 0\r\n\r\n",
		"POST /x HTTP/1.1\r\nX-Partition: acme\r\nContent-Length: +0\r\n\r\n",
		"POST /x ?wait_for_completion=false HTTP/1.1\r\nX-Partition: acme\r\nContent-Length: 0\r\n\r\n",
		"GET /x HTTP/1.0 HTTP/1.1\r\nX-Partition: acme\r\n\r\n",
		"GET  HTTP/1.1\r\nX-Partition: acme\r\n\r\n",
		"GET /x HTTP/1.1\nX-Partition: acme\r\n\r\n",
		"GET /x HTTP/1.1\r\nX-Partition: acme\r\n folded: globex\r\n\r\n",
		"GET /x HTTP/1.1\r\nX-Partition: acme\rX: y\r\n\r\n",
		"GET /x HTTP/1.1\r\nX-Partition: acme\r\n\vTransfer-Encoding: x\r\n\r\n",
		"PURGE /x HTTP/1.1\r\nX-Partition: acme\r\n\r\n",
		"GET /x HTTP/1.1\r\nX-Partition: acme\r\n\r\nGET /y HTTP/1.1\r\nX-Partition: globex\r\n\r\n",
	};

	splice_start(p, NULL, NULL);
	for (size_t i = 0; i < sizeof(odd) / sizeof(*odd); i++) {
		int fd = splice_connect(p->port);

		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme"}), 200, NODE_C1, 10);
		splice_send(fd, odd[i], strlen(odd[i]));
		splice_expect(splice_answer(fd, false), 200, NODE_FALLBACK, 10);
		if (i + 1 == sizeof(odd) / sizeof(*odd)) /* pipelined in one piece */
			splice_expect(splice_answer(fd, false), 200, NODE_FALLBACK, 10);
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "globex", .body = 5, .method = "PUT"}), 200,
			      NODE_FALLBACK, 10);
		close(fd);
	}
}

/* The fallback would wait for so much. The first is 2^64: 0, when a sum overflows. */
static void a_length_that_is_no_length_is_not_framed(void **state)
{
	static const char *const lengths[] = {"18446744073709551616", "18446744073709551621", "10000000000000000"};
	struct splice_place *p = splice_place(state);
	char text[256];

	splice_start(p, NULL, NULL);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		uint64_t deadline = 0, fallback = splice_events(p, MIRROR_EVENT_FALLBACK),
			 spliced = splice_events(p, MIRROR_EVENT_SPLICED);
		int fd = splice_connect(p->port);

		snprintf(text, sizeof(text), "POST /x HTTP/1.1\r\nX-Partition: acme\r\nContent-Length: %s\r\n\r\n",
			 lengths[i]);
		splice_send(fd, text, strlen(text));
		while (within(&deadline) && splice_events(p, MIRROR_EVENT_FALLBACK) == fallback &&
		       splice_events(p, MIRROR_EVENT_SPLICED) == spliced)
			;
		assert_int_equal(splice_events(p, MIRROR_EVENT_FALLBACK), fallback + 1);
		assert_int_equal(splice_events(p, MIRROR_EVENT_SPLICED), spliced);
		close(fd);
	}
}

static void bodies_of_every_length_arrive_whole(void **state)
{
	static const size_t lens[] = {0, 1, 100, 1400, 16384, 65536, 65537, 300000, 1 << 20};
	struct splice_place *p = splice_place(state);
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	for (int round = 0; round < 3; round++)
		for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++)
			splice_expect(splice_go(fd, &(struct splice_ask){.tenant = round == 1 ? "globex" : "acme",
									 .method = "POST",
									 .body = lens[i]}),
				      200, round == 1 ? NODE_C2 : NODE_C1, 10);
	assert_int_equal(atomic_load(&p->nodes->n_bad), 0);
	close(fd);
}

static void answers_of_every_form_and_length_arrive_whole(void **state)
{
	static const size_t lens[] = {0, 1, 1400, 65536, 262144, 262145, 4 << 20};
	static const char *const forms[] = {"len", "chunked", "len", "informed len", "chunked"};
	struct splice_place *p = splice_place(state);
	char act[64];
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	for (size_t form = 0; form < sizeof(forms) / sizeof(*forms); form++)
		for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
			snprintf(act, sizeof(act), "%s=%zu", forms[form], lens[i]);
			splice_expect(splice_go(fd, &(struct splice_ask){.tenant = i % 2 ? "globex" : "acme",
									 .method = form % 2 ? "POST" : "GET",
									 .act = act}),
				      200, i % 2 ? NODE_C2 : NODE_C1, lens[i]);
		}
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .act = "status=204"}), 204, NODE_C1, 0);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .act = "status=304"}), 304, NODE_C1, 0);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .method = "HEAD", .act = "len=77"}), 200,
		      NODE_C1, 0);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .method = "PUT", .act = "status=503"}), 503,
		      NODE_C1, 10);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "globex", .act = "slow len=900"}), 200, NODE_C2,
		      900);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .act = "slow chunked=900"}), 200, NODE_C1,
		      900);
	splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme"}), 200, NODE_C1, 10);
	close(fd);
	for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
		fd = splice_connect(p->port);
		snprintf(act, sizeof(act), "close=%zu", lens[i]);
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .act = act}), 200, NODE_C1, lens[i]);
		assert_true(splice_ended(fd));
		close(fd);
	}
}

/* A byte at a time: the head comes in pieces, so the fallback gets it. The body may. */
static void a_slow_writer_is_understood(void **state)
{
	struct splice_place *p = splice_place(state);
	size_t len, head;
	char *text;
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	text = splice_text(&(struct splice_ask){.tenant = "acme", .method = "PUT", .body = 500}, &len);
	head = (size_t)(strstr(text, "\r\n\r\n") - text) + 4;
	for (int connection = 0; connection < 2; connection++) {
		splice_send(fd, text, head);
		for (size_t i = head; i < len; i++)
			splice_send(fd, text + i, 1);
		splice_expect(splice_answer(fd, false), 200, NODE_C1, 10);
	}
	for (size_t i = 0; i < len; i++)
		splice_send(fd, text + i, 1);
	splice_expect(splice_answer(fd, false), 200, NODE_FALLBACK, 10);
	assert_int_equal(atomic_load(&p->nodes->n_bad), 0);
	free(text);
	close(fd);
}

static void a_pipelined_request_is_answered_behind_the_first_by_the_fallback(void **state)
{
	struct splice_place *p = splice_place(state);
	uint64_t deadline = 0;
	size_t len;
	char *text;
	int fd;

	splice_start(p, NULL, NULL);
	for (int i = 0; i < 20; i++) {
		fd = splice_connect(p->port);
		if (i % 2)
			splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme"}), 200, NODE_C1, 10);
		atomic_store(&p->nodes->hold, true);
		text = splice_text(
			&(struct splice_ask){.tenant = "acme", .act = i % 4 < 2 ? "hold len=50" : "hold chunked=50"},
			&len);
		splice_send(fd, text, len);
		free(text);
		deadline = 0;
		while (within(&deadline) && atomic_load(&p->nodes->n_waiting) == 0)
			;
		text = splice_text(&(struct splice_ask){.tenant = "globex", .act = "len=20"}, &len);
		splice_send(fd, text, len);
		free(text);
		atomic_store(&p->nodes->hold, false);
		splice_expect(splice_answer(fd, false), 200, NODE_C1, 50);
		splice_expect(splice_answer(fd, false), 200, NODE_FALLBACK, 20);
		close(fd);
	}
}

static void a_cluster_with_a_new_endpoint_is_found_there(void **state)
{
	struct splice_place *p = splice_place(state);
	char endpoint[64];
	int fd;

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	for (int i = 0; i < 6; i++) {
		int node = i % 2 ? NODE_C1 : NODE_C3;

		snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", p->nodes->ports[node]);
		bpf_cluster(&p->admin, "c1", endpoint);
		for (int k = 0; k < 3; k++)
			splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme", .method = "PUT", .body = 9}),
				      200, node, 10);
	}
	close(fd);
}

static void a_second_one_and_one_without_a_mirror_are_refused(void **state)
{
	struct splice_place *p = splice_place(state);
	struct cli c;

	splice_start(p, NULL, NULL);
	cli_run(&c, &p->b->d, "bpf", "splice", "--listen", "127.0.0.1:0", "--fallback", "127.0.0.1:1");
	cli_check(&c, 1, NULL, "another `berth bpf splice` runs");
	cli_free(&c);
	cli_run(&c, &p->b->d, "bpf", "splice", "--listen", "here:0", "--fallback", "127.0.0.1:1");
	cli_check(&c, 2, NULL, "--listen here:0");
	cli_free(&c);
	assert_int_equal(splice_stop(p), 0);
	splice_start(p, NULL, NULL); /* the one before has left nothing */
	assert_int_equal(splice_stop(p), 0);
	daemon_stop(&p->b->d);
	daemon_start(&p->b->d, NULL);
	cli_run(&c, &p->b->d, "bpf", "splice", "--listen", "127.0.0.1:0", "--fallback", "127.0.0.1:1");
	cli_check(&c, 3, NULL, "--bpf");
	cli_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLICE_TEST(each_request_of_a_connection_goes_to_the_cluster_of_its_tenant, 30000),
		SPLICE_TEST(a_tenant_may_be_named_by_a_segment_of_the_path, 30000),
		SPLICE_TEST(what_has_no_answer_here_goes_to_the_fallback_alone, 30000),
		SPLICE_TEST(what_cannot_be_framed_takes_its_connection_to_the_fallback, 30000),
		SPLICE_TEST(a_length_that_is_no_length_is_not_framed, 30000),
		SPLICE_TEST(bodies_of_every_length_arrive_whole, 30000),
		SPLICE_TEST(answers_of_every_form_and_length_arrive_whole, 30000),
		SPLICE_TEST(a_slow_writer_is_understood, 30000),
		SPLICE_TEST(a_pipelined_request_is_answered_behind_the_first_by_the_fallback, 30000),
		SPLICE_TEST(a_cluster_with_a_new_endpoint_is_found_there, 30000),
		SPLICE_TEST(a_second_one_and_one_without_a_mirror_are_refused, 30000),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
