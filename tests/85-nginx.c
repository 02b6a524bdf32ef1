/* SPDX-License-Identifier: MIT
 * A real nginx with reader_lib/lua before a real daemon, over real HTTP: that the binding has the layout of berth.h, where
 * requests go, what is a write, and what is refused and how. */
#include "proxy_check.h"

#include "../reader_lib/berth.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIELD(s, f) \
	{ \
#s, #f, offsetof(struct s, f) \
	}
static const struct {
	const char *name, *field;
	size_t offset;
} fields[] = {
	FIELD(berth_attach_options, size),
	FIELD(berth_attach_options, writes),
	FIELD(berth_attach_options, max_readers),
	FIELD(berth_attach_options, wait_ms),
	FIELD(berth_attach_options, max_leases),
	FIELD(berth_attach_options, cursors),
	FIELD(berth_attach_options, reserved),
	FIELD(berth_route, epoch),
	FIELD(berth_route, cluster),
	FIELD(berth_route, kind),
	FIELD(berth_route, phase),
	FIELD(berth_route, is_default),
	FIELD(berth_placement, epoch),
	FIELD(berth_placement, cluster),
	FIELD(berth_placement, kind),
	FIELD(berth_placement, phase),
	FIELD(berth_placement, is_default),
	FIELD(berth_placement, to_kind),
	FIELD(berth_placement, to_cluster),
	FIELD(berth_placement, index),
	FIELD(berth_placement, to_index),
	FIELD(berth_placement, index_len),
	FIELD(berth_placement, to_index_len),
	FIELD(berth_placement, n_inject),
	FIELD(berth_placement, opaque),
	FIELD(berth_placement, opaque_len),
	FIELD(berth_placement, reserved),
	FIELD(berth_inject, field),
	FIELD(berth_inject, value),
	FIELD(berth_inject, field_len),
	FIELD(berth_inject, value_len),
	FIELD(berth_inject, kind),
	FIELD(berth_cluster, id),
	FIELD(berth_cluster, endpoint),
	FIELD(berth_cluster, id_len),
	FIELD(berth_cluster, endpoint_len),
	FIELD(berth_cluster, number),
	FIELD(berth_write, epoch),
	FIELD(berth_write, cluster),
	FIELD(berth_write, kind),
	FIELD(berth_write, phase),
	FIELD(berth_write, is_default),
	FIELD(berth_write, opaque),
	FIELD(berth_write, reserved1),
};

/* Straight from the node: it loads berth.lua, as any program of LuaJIT may. */
static void the_binding_has_the_structs_and_codes_of_the_headers(void **state)
{
	char body[4096] = "", line[128];
	struct answer a;

	PROXY_NEEDED;
	proxy_put("layout", "c1");
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		snprintf(body + strlen(body), sizeof(body) - strlen(body), "%s %s\n", fields[i].name, fields[i].field);
	a = ASK(.method = "POST", .path = "/layout", .partition = "layout", .body = body);
	assert_int_equal(a.status, 200);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		snprintf(line, sizeof(line), "%s %s %zu\n", fields[i].name, fields[i].field, fields[i].offset);
		if (!answer_has(&a, line))
			fail_msg("berth.h says %s, berth.lua says: %s", line, a.text);
	}
	free(a.text);
	a = ASK(.path = "/errors", .partition = "layout");
#define ROW(name, value, http, meaning) \
	snprintf(line, sizeof(line), "%s %d %d %d\n", #name, value, http, value); \
	if (!answer_has(&a, line)) \
		fail_msg("berth_errors.h says %s, berth.lua says: %s", line, a.text);
	BERTH_ERRORS(ROW)
#undef ROW
	free(a.text);
}

static void requests_go_where_their_partition_lives(void **state)
{
	PROXY_NEEDED;
	proxy_put("acme", "c1");
	proxy_put("globex", "c2");
	EXPECT(200, PORT(0), .partition = "acme", .path = "/acme-idx/_doc/1?pretty");
	EXPECT(200, PORT(1), .partition = "globex");
	EXPECT(200, PORT(0), .method = "PUT", .partition = "acme", .path = "/i/_doc/1", .body = "{}");
	EXPECT(200, PORT(1), .method = "POST", .partition = "globex", .path = "/i/_bulk", .body = "{}\n");
	EXPECT(200, "uri=/a%2Fb/_doc/%20?x=%2F ", .method = "PUT", .partition = "acme",
	       .path = "/a%2Fb/_doc/%20?x=%2F");
	EXPECT(200, "X-Berth-Cluster: c2\r\n", .partition = "globex");
	EXPECT(200, "X-Berth-Epoch: ", .partition = "globex");
	EXPECT(200, "length=3", .method = "PATCH", .partition = "globex", .body = "abc");
	EXPECT(200, NULL, .method = "HEAD", .partition = "globex");
	/* another address is the same cluster: at once, without a reload */
	tool_ok(&proxy.d, "cluster", "set", "c2", "--endpoint", "http://localhost:1/", NULL);
	EXPECT(503, "no-endpoint", .partition = "globex");
	EXPECT(503, "no-endpoint", .method = "PUT", .partition = "globex");
	proxy_expect_open(NULL, 0);
	char url[64];
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/prefix/", proxy.ports[1]);
	tool_ok(&proxy.d, "cluster", "set", "c2", "--endpoint", url, NULL);
	EXPECT(200, "uri=/prefix/x?y ", .method = "PUT", .partition = "globex", .path = "/x?y");
	snprintf(url, sizeof(url), "http://127.0.0.1:%u", proxy.ports[1]);
	tool_ok(&proxy.d, "cluster", "set", "c2", "--endpoint", url, NULL);
	EXPECT(200, "uri=/x?y ", .method = "PUT", .partition = "globex", .path = "/x?y");
	proxy_expect_open(NULL, 0);
}

static void partitions_that_are_none_are_refused(void **state)
{
	char name[300];

	PROXY_NEEDED;
	EXPECT(400, "no-partition", .path = "/");
	EXPECT(400, "no-partition", .method = "POST", .body = "x");
	EXPECT(400, "no-partition", .partition = "");
	EXPECT(404, "\"unknown\"", .partition = "nobody");
	EXPECT(404, "\"unknown\"", .method = "PUT", .partition = "nobody", .body = "{}");
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	EXPECT(400, "bad-partition", .method = "PUT", .partition = name);
	name[255] = '\0';
	EXPECT(404, "\"unknown\"", .partition = name);
	proxy_put(name, "c2");
	EXPECT(200, PORT(1), .method = "PUT", .partition = name);
	EXPECT(400, "bad-partition", .partition = "a\001b");
	proxy_put("naïve 'q\"; \\ñ", "c1");
	EXPECT(200, PORT(0), .method = "PUT", .partition = "naïve 'q\"; \\ñ");
	EXPECT(404, NULL, .partition = "\xff\xfe");
}

static void the_first_segment_of_the_path_may_name_it(void **state)
{
	PROXY_NEEDED;
	proxy_put("a b/c+ü", "c1");
	proxy_put("acme", "c1");
	EXPECT(200, "uri=/acme/_doc/1?q ", .way = WAY_PATH, .path = "/acme/_doc/1?q");
	EXPECT(200, "uri=/_doc/1?q ", .way = WAY_STRIP, .path = "/acme/_doc/1?q");
	EXPECT(200, "uri=/ ", .way = WAY_STRIP, .path = "/acme");
	EXPECT(200, "uri=/?q=/ ", .way = WAY_STRIP, .path = "/acme?q=/");
	EXPECT(200, "uri=/x%2Fy ", .way = WAY_STRIP, .method = "PUT", .path = "/a%20b%2fc+%C3%BC/x%2Fy");
	EXPECT(404, NULL, .way = WAY_PATH, .path = "/a%20b/x");
	EXPECT(400, NULL, .way = WAY_PATH, .path = "/");
	EXPECT(400, NULL, .way = WAY_PATH, .path = "//acme/x");
	EXPECT(400, NULL, .way = WAY_PATH, .path = "/./acme/x");
	EXPECT(400, NULL, .way = WAY_PATH, .method = "PUT", .path = "/acme/../globex/x");
	EXPECT(400, NULL, .way = WAY_PATH, .method = "PUT", .path = "/acme/%2e%2e/globex/x");
	EXPECT(400, NULL, .way = WAY_PATH, .path = "/acme%00/x");
	EXPECT(400, NULL, .way = WAY_PATH, .path = "/acme%01/x");
	EXPECT(400, NULL, .way = WAY_PATH, .path = "/acme%zz/x");
	EXPECT(404, NULL, .way = WAY_PATH, .path = "/ACME/x");
}

/* In a cutover nothing that may change data goes through, and everything else does. */
static void what_counts_as_a_write(void **state)
{
	static const struct {
		const char *method, *path;
		bool write;
	} rows[] = {
		{"GET", "/i/_doc/1", false},
		{"HEAD", "/i", false},
		{"OPTIONS", "/", false},
		{"POST", "/i/_search?q", false},
		{"POST", "/_search", false},
		{"POST", "/_all/_search", false},
		{"POST", "/i,j/_search/template", false},
		{"POST", "/_search/scroll", false},
		{"DELETE", "/_search/scroll", false},
		{"POST", "/i/_search/point_in_time?keep_alive=1m", false},
		{"POST", "/i/_pit?keep_alive=1m", false},
		{"DELETE", "/_pit", false},
		{"PUT", "/_pit", true},
		{"DELETE", "/_search/point_in_time", false},
		{"POST", "/_msearch", false},
		{"POST", "/i/_count", false},
		{"POST", "/i/_mget", false},
		{"POST", "//i//_search", false},
		{"PUT", "/i/_doc/1", true},
		{"POST", "/i/_doc", true},
		{"POST", "/i/_doc/_search", true},
		{"POST", "/i/%5Fdoc/_search", true},
		{"POST", "/i/_update/_search", true},
		{"POST", "/i/x/../_search", true},
		{"POST", "/i%2F_search", true},
		{"POST", "/_bulk", true},
		{"POST", "/i/_delete_by_query", true},
		{"POST", "/i/_bulk?x=/_search", true},
		{"POST", "/", true},
		{"POST", "/_search/pipeline/x", true},
		{"PUT", "/_search/pipeline/x", true},
		{"DELETE", "/_search/pipeline/x", true},
		{"DELETE", "/i", true},
		{"DELETE", "/i/_count", true},
		{"PATCH", "/i", true},
		{"BREW", "/i", true},
	};

	PROXY_NEEDED;
	proxy_put("kinds", "c1");
	proxy_cutover("kinds", "c2");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		EXPECT(rows[i].write ? 409 : 200, NULL, .method = rows[i].method, .path = rows[i].path,
		       .partition = "kinds");
	wire_do(&proxy_admin, "abort", "{s:s}", "partition", "kinds");
}

static void a_cutover_answers_409_until_it_is_over(void **state)
{
	struct answer a;
	int fd;

	PROXY_NEEDED;
	proxy_put("mover", "c1");
	proxy_cutover("mover", "c2");
	a = ASK(.method = "PUT", .partition = "mover", .body = "{}");
	assert_int_equal(a.status, 409);
	assert_true(answer_has(&a, "\r\nRetry-After: 1\r\n") && answer_has(&a, "\r\nX-Berth-Retry-Ms: ") &&
		    answer_has(&a, "\"cutover\""));
	assert_true(answer_has(&a, "\r\nX-Berth-Epoch: "));
	free(a.text);
	EXPECT(200, PORT(0), .partition = "mover"); /* reads go on */
	/* the connection is good for what follows a refusal, its body is no request */
	fd = proxy_connect(&proxy, WAY_HEADER);
	for (int i = 0; i < 3; i++)
		proxy_send(fd, &(struct ask){.method = "PUT", .partition = "mover", .body = "GET /x HTTP/1.1\r\n\r\n"},
			   true);
	proxy_send(fd, &(struct ask){.partition = "mover"}, false);
	a = proxy_answer(fd);
	assert_int_equal(a.status, 409);
	assert_true(answer_has(&a, PORT(0)));
	assert_false(answer_has(&a, "400 Bad"));
	free(a.text);
	wire_do(&proxy_admin, "complete", "{s:s}", "partition", "mover");
	EXPECT(200, PORT(1), .method = "PUT", .partition = "mover");
	EXPECT(200, PORT(1), .partition = "mover");
	proxy_cutover("mover", "c1");
	EXPECT(409, "\"cutover\"", .method = "PUT", .partition = "mover");
	wire_do(&proxy_admin, "abort", "{s:s}", "partition", "mover");
	EXPECT(200, PORT(1), .method = "PUT", .partition = "mover");
}

static void a_client_may_say_which_epoch_it_means(void **state)
{
	char extra[64], *epoch;
	struct answer a;

	PROXY_NEEDED;
	proxy_put("dated", "c1");
	a = ASK(.partition = "dated");
	epoch = strstr(a.text, "X-Berth-Epoch: ");
	assert_non_null(epoch);
	snprintf(extra, sizeof(extra), "%.*s", (int)(strstr(epoch, "\r\n") + 2 - epoch), epoch);
	free(a.text);
	EXPECT(200, PORT(0), .method = "PUT", .partition = "dated", .extra = extra);
	proxy_cutover("dated", "c2");
	wire_do(&proxy_admin, "complete", "{s:s}", "partition", "dated");
	a = ASK(.method = "PUT", .partition = "dated", .extra = extra);
	assert_int_equal(a.status, 409);
	assert_true(answer_has(&a, "\"stale\"") && answer_has(&a, "Retry-After: 1") &&
		    answer_has(&a, "X-Berth-Retry-Ms: 0"));
	epoch = strstr(a.text, "X-Berth-Epoch: ");
	assert_non_null(epoch); /* with which it may come back at once */
	snprintf(extra, sizeof(extra), "%.*s", (int)(strstr(epoch, "\r\n") + 2 - epoch), epoch);
	free(a.text);
	EXPECT(200, PORT(1), .method = "PUT", .partition = "dated", .extra = extra);
	EXPECT(409, "\"stale\"", .method = "PUT", .partition = "dated",
	       .extra = "X-Berth-Epoch: 18446744073709551615\r\n");
	EXPECT(400, "bad-epoch", .method = "PUT", .partition = "dated",
	       .extra = "X-Berth-Epoch: 18446744073709551616\r\n");
	EXPECT(400, "bad-epoch", .method = "PUT", .partition = "dated", .extra = "X-Berth-Epoch: 0\r\n");
	EXPECT(400, "bad-epoch", .method = "PUT", .partition = "dated", .extra = "X-Berth-Epoch: 1e3\r\n");
	EXPECT(400, "bad-epoch", .method = "PUT", .partition = "dated", .extra = "X-Berth-Epoch: -1\r\n");
}

static void the_binding_is_closed_when_no_write_is_under_way(void **state)
{
	static const char *const lines[] = {"moved once true\n",
					    "moved on -6\n",
					    "nobody -2\n",
					    "begin true\n",
					    "busy -11 -11\n",
					    "open true true\n",
					    "end true close true again true\n",
					    "closed -1 -1 nil -1 -1 -1 -1\n"};
	struct answer a;

	PROXY_NEEDED;
	proxy_put("closing", "c1");
	a = ASK(.path = "/berth/closing?p=closing", .partition = "closing");
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (!answer_has(&a, lines[i]))
			fail_msg("berth.lua does not say `%s`, but: %s", lines[i], a.text);
	free(a.text);
}

/* A process that attaches on its own, unbracketed, while the proxy runs. */
static void the_binding_tells_the_whole_placement(void **state)
{
	static const char *const lines[] = {" shared-index shared settled false\n",
					    "inject _tenant=whole\n",
					    "inject kind=x\n",
					    "admit true -3\n",
					    "begin -1\n",
					    "end -1\n",
					    "maintain true close true\n"};
	struct answer a;

	PROXY_NEEDED;
	tool_ok(&proxy.d, "set", "whole", "--mode", "shared-index", "--cluster", "c1", "--index", "shared", "--inject",
		"_tenant=@partition", "--inject", "kind=x", NULL);
	proxy_put("layout", "c1");
	a = ASK(.path = "/lookup?p=whole", .partition = "layout");
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (!answer_has(&a, lines[i]))
			fail_msg("berth.lua does not say `%s`, but: %s", lines[i], a.text);
	free(a.text);
	wire_do(&proxy_admin, "begin", "{s:s,s:{s:s,s:s,s:s}}", "partition", "whole", "to", "mode", "dedicated-index",
		"cluster", "c2", "index", "own");
	wire_do(&proxy_admin, "cutover", "{s:s}", "partition", "whole");
	a = ASK(.path = "/lookup?p=whole", .partition = "layout");
	assert_true(answer_has(&a, " shared-index shared cutover false\n") &&
		    answer_has(&a, "\nto c2 http://127.0.0.1:") &&
		    answer_has(&a, " dedicated-index own\nadmit no -4\n"));
	free(a.text);
	wire_do(&proxy_admin, "abort", "{s:s}", "partition", "whole");
	EXPECT(200, "code -2\n", .path = "/lookup?p=nobody", .partition = "layout");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_binding_has_the_structs_and_codes_of_the_headers),
		cmocka_unit_test(requests_go_where_their_partition_lives),
		cmocka_unit_test(partitions_that_are_none_are_refused),
		cmocka_unit_test(the_first_segment_of_the_path_may_name_it),
		cmocka_unit_test(what_counts_as_a_write),
		cmocka_unit_test(a_cutover_answers_409_until_it_is_over),
		cmocka_unit_test(a_client_may_say_which_epoch_it_means),
		cmocka_unit_test(the_binding_is_closed_when_no_write_is_under_way),
		/* last: from here on each cutover waits for a barrier */
		cmocka_unit_test(the_binding_tells_the_whole_placement),
	};

	return cmocka_run_group_tests(tests, proxy_setup, proxy_teardown);
}
