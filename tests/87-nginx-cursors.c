/* SPDX-License-Identifier: MIT
 * A real nginx with reader_lib/lua before a real daemon, over real HTTP: that a scroll or point in time is continued at
 * the cluster that made it, through any worker, wherever its partition has moved, and by nobody else; pinned and sealed
 * alike. What is of one mode alone is in 88-nginx-cursor-modes.c. */
#include "proxy_cursors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BOTH(name) \
	static void name##_pinned(void **state) \
	{ \
		PROXY_NEEDED; \
		pc_use("pin"); \
		name(); \
	} \
	static void name##_sealed(void **state) \
	{ \
		PROXY_NEEDED; \
		pc_use("seal"); \
		name(); \
	}
#define BOTH_TESTS(name) cmocka_unit_test(name##_pinned), cmocka_unit_test(name##_sealed)

static void a_scroll_goes_on_through_any_worker(void)
{
	const char *p = pc_tenant("acme"), *data = pc_text("\"data\":\"of %s\"", p);
	struct said s = NODE(&pc_at[0], .method = "POST", .path = "/i/_search?scroll=1m", .partition = p, .body = "{}",
			     .extra = "Accept-Encoding: gzip\r\n");
	char *id, *escaped;

	said_expect(&s, 200, data);
	/* all but the id as the node wrote it, and asked without compression */
	assert_non_null(strstr(s.body,
			       ",\"took\":1.50e0,\"z\":1234567890123456789, \"hits\":{\"_scroll_id\":\"decoy-1\","
			       "\"hits\":[{\"_source\":{\"_scroll_id\":\"decoy-2\",\"pit_id\":\"decoy-3\",\"t\":"
			       "\"\\\"_scroll_id\\\":\\\"decoy-4\\\"}\"}}]},\"cluster\""));
	assert_non_null(strstr(s.body, "\"encoding\":\"\",") &&
			strstr(s.body, "\"end\":{\"_scroll_id\":\"decoy-5\"}}\n"));
	id = strdup(s.id);
	said_free(&s);
	assert_null(strstr(id, "decoy"));
	NODE_EXPECT(&pc_at[1], 200, data, .method = "POST", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(id));
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .path = "/_search/scroll?pretty", .partition = p, .body = NEXT(id));
	/* percent-encoded, in query and path */
	escaped = pc_encoded(id);
	NODE_EXPECT(&pc_at[1], 200, "\"asked\":\"\\/_search\\/scroll\"", .partition = p,
		    .path = pc_text("/_search/scroll?scroll_id=%s&scroll=1m", escaped));
	NODE_EXPECT(&pc_at[0], 200, data, .partition = p,
		    .path = pc_text("//%%5fsearch//scroll/%s?scroll=1m", escaped));
	NODE_EXPECT(&pc_at[1], 200, data, .partition = p, .path = pc_text("/_search/scroll?x=1;scroll_id=%s", escaped));
	free(escaped);
	/* a new id with each answer */
	for (unsigned i = 0; i < 4; i++) {
		s = TALK(&pc_at[i % 2], .act = "node new late slow", .method = "POST", .path = "/_search/scroll",
			 .partition = p, .body = NEXT(id));
		said_expect(&s, 200, data);
		assert_string_not_equal(s.id, id);
		free(id);
		id = strdup(s.id);
		said_free(&s);
	}
	free(id);
}
BOTH(a_scroll_goes_on_through_any_worker)

static void it_stays_where_it_was_opened_when_its_partition_moves(void)
{
	const char *p = pc_tenant("mover");
	char *first = pc_scroll(&pc_at[0], p, 0), *second, *point = pc_pit(&pc_at[0], p, 0), *third;
	const char *search = pc_text("{\"query\":{},\"pit\":{\"id\":\"%s\",\"keep_alive\":\"1m\"}}", point);

	pc_move(p, "c2");
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .method = "POST", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(first));
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .method = "POST", .path = "/_search", .partition = p, .body = search);
	NODE_EXPECT(&pc_at[1], 200, PORT(1), .method = "POST", .path = "/i/_search", .partition = p, .body = "{}");
	second = pc_scroll(&pc_at[1], p, 1);
	NODE_EXPECT(&pc_at[0], 200, PORT(1), .method = "POST", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(second));
	/* in a cutover, writes wait, and nothing of this does */
	proxy_cutover(p, "c3");
	NODE_EXPECT(&pc_at[0], 409, "cutover", .method = "PUT", .path = "/i/_doc/1", .partition = p, .body = "{}");
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .method = "POST", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(first));
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .method = "POST", .path = "/_search", .partition = p, .body = search);
	third = pc_scroll(&pc_at[0], p, 1);
	wire_do(&proxy_admin, "complete", "{s:s}", "partition", p);
	NODE_EXPECT(&pc_at[1], 200, PORT(1), .path = "/_search/scroll", .partition = p, .body = NEXT(third));
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(first));
	NODE_EXPECT(&pc_at[1], 400, "several-clusters", .method = "DELETE", .path = "/_search/scroll", .partition = p,
		    .body = pc_text("{\"scroll_id\":[\"%s\",\"%s\"]}", first, second));
	NODE_EXPECT(&pc_at[1], 200, "\"num_freed\":1", .method = "DELETE", .path = "/_search/scroll", .partition = p,
		    .body = pc_text("{\"scroll_id\":[\"%s\"]}", first));
	NODE_EXPECT(&pc_at[0], 404, "search_context_missing_exception", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(first));
	NODE_EXPECT(&pc_at[1], 200, "\"successful\":true", .method = "DELETE", .path = "/_search/point_in_time",
		    .partition = p, .body = pc_text("{\"pit_id\":[\"%s\"]}", point));
	proxy_expect_open(NULL, 0);
	free(first);
	free(second);
	free(third);
	free(point);
}
BOTH(it_stays_where_it_was_opened_when_its_partition_moves)

/* The proxy writes another body, of another length, in the place of one that came in chunks. */
static void bodies_may_come_in_chunks(void)
{
	const char *p = pc_tenant("chunks");
	char *id = pc_scroll(&pc_at[0], p, 0), *point = pc_pit(&pc_at[0], p, 0);

	for (unsigned i = 0; i < 2; i++) {
		const char *body = i ? pc_text("{\"pit\":{\"id\":\"%s\"}}", point) : NEXT(id);
		const char *text = pc_text("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Do: node\r\n"
					   "X-Partition: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
					   "5\r\n%.5s\r\n%zx\r\n%s\r\n0\r\n\r\n",
					   i ? "/_search" : "/_search/scroll", p, body, strlen(body + 5), body + 5);
		int fd = proxy_connect(&proxy, WAY_HEADER);
		struct answer a;

		assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
		a = proxy_answer(fd);
		if (a.status != 200 || !answer_has(&a, PORT(0)))
			fail_msg("%s", a.text);
		free(a.text);
	}
	free(id);
	free(point);
}
BOTH(bodies_may_come_in_chunks)

static void another_partition_gets_nothing_of_it(void)
{
	const char *p = pc_tenant("acme"), *q = pc_tenant("globex");
	char *id = pc_scroll(&pc_at[0], p, 0), *point = pc_pit(&pc_at[0], p, 0), *escaped = pc_encoded(id);
	int before = pc_asked();

	for (unsigned i = 0; i < WORKERS; i++) {
		NODE_EXPECT(&pc_at[i], 403, "not-owner", .path = "/_search/scroll", .partition = q, .body = NEXT(id));
		NODE_EXPECT(&pc_at[i], 403, "security_exception", .path = pc_text("/_search/scroll/%s", escaped),
			    .partition = q);
		NODE_EXPECT(&pc_at[i], 403, NULL, .path = pc_text("/_search/scroll?x;scroll_id=%s", escaped),
			    .partition = q);
		NODE_EXPECT(&pc_at[i], 403, NULL, .method = "DELETE", .path = "/_search/scroll", .partition = q,
			    .body = pc_text("{\"scroll_id\":[\"%s\"]}", id));
		NODE_EXPECT(&pc_at[i], 403, NULL, .method = "POST", .path = "/_search", .partition = q,
			    .body = pc_text("{\"p\\u0069t\":{\"keep_alive\":\"1m\",\"id\":\"%s\"}}", point));
		NODE_EXPECT(&pc_at[i], 403, NULL, .method = "POST", .path = "/i/_search?scroll=1m", .partition = q,
			    .body = pc_text("{\"pit\":{\"id\":\"%s\"}}", point));
		NODE_EXPECT(&pc_at[i], 403, NULL, .method = "DELETE", .path = "/_search/point_in_time", .partition = q,
			    .body = pc_text("{\"pit_id\":\"%s\"}", point));
		NODE_EXPECT(&pc_at[i], 403, NULL, .method = "DELETE", .path = "/_pit", .partition = q,
			    .body = pc_text("{\"id\":\"%s\"}", point));
	}
	assert_int_equal(pc_asked(), before);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	NODE_EXPECT(&pc_at[1], 200, pc_text("of %s", p), .path = "/_search", .partition = p,
		    .body = pc_text("{\"pit\":{\"id\":\"%s\"}}", point));
	free(id);
	free(escaped);
	free(point);
}
BOTH(another_partition_gets_nothing_of_it)

static void what_is_cleared_is_gone(void)
{
	const char *p = pc_tenant("clear");
	char *id[6], *escaped[3];

	for (unsigned i = 0; i < 6; i++)
		id[i] = pc_scroll(&pc_at[i % 2], p, 0);
	NODE_EXPECT(&pc_at[0], 200, "\"num_freed\":1", .method = "DELETE", .path = "/_search/scroll", .partition = p,
		    .body = pc_text("{\"scroll_id\":\"%s\"}", id[0]));
	NODE_EXPECT(&pc_at[0], 200, "\"num_freed\":2", .method = "DELETE", .path = "/_search/scroll", .partition = p,
		    .body = pc_text("{\"scroll_id\":[\"%s\",\"nothing\",\"%s\"]}", id[1], id[2]));
	for (unsigned i = 0; i < 3; i++)
		escaped[i] = pc_encoded(id[3 + i]);
	NODE_EXPECT(&pc_at[0], 200, "\"num_freed\":1", .method = "DELETE",
		    .path = pc_text("/_search/scroll?scroll_id=%s", escaped[0]), .partition = p);
	NODE_EXPECT(&pc_at[0], 200, "\"num_freed\":2", .method = "DELETE",
		    .path = pc_text("/_search/scroll/%s,%s", escaped[1], escaped[2]), .partition = p);
	for (unsigned i = 0; i < 3; i++)
		free(escaped[i]);
	for (unsigned i = 0; i < 6; i++) {
		NODE_EXPECT(&pc_at[1], 404, "search_context_missing_exception", .path = "/_search/scroll",
			    .partition = p, .body = NEXT(id[i]));
		NODE_EXPECT(&pc_at[1], 404, NULL, .method = "DELETE", .path = "/_search/scroll", .partition = p,
			    .body = pc_text("{\"scroll_id\":[\"%s\"]}", id[i]));
		free(id[i]);
	}
}
BOTH(what_is_cleared_is_gone)

static void points_in_time(void)
{
	const char *p = pc_tenant("pit");
	char *one = pc_pit(&pc_at[0], p, 0), *two = pc_pit(&pc_at[0], p, 0),
	     *elastic = pc_open(&pc_at[0], p, "node", "/i/_pit?keep_alive=1m", 0);
	const char *search;
	struct said s;

	search = pc_text("{ \"query\":{\"match\":{\"pit\":{\"id\":\"x\"}}},\"n\":1.50, \"pit\" : {\"id\" : \"%s\"}}",
			 one);
	s = TALK(&pc_at[1], .act = "node new", .method = "POST", .path = "/_search", .partition = p, .body = search,
		 .extra = "Content-Type: application/json\r\n");
	said_expect(&s, 200, "\"hits\":{\"pit_id\":\"decoy-1\"");
	assert_string_not_equal(s.id, one);
	free(one);
	one = strdup(s.id);
	said_free(&s);
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .path = "/_search", .partition = p,
		    .body = pc_text("{\"pit\":{\"id\":\"%s\",\"keep_alive\":\"2m\"}}", one));
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .path = "/_search", .partition = p,
		    .body = pc_text("{\"pit\":{\"id\":\"%s\"}}", elastic));
	s = NODE(&pc_at[1], .method = "DELETE", .path = "/_search/point_in_time", .partition = p,
		 .body = pc_text("{\"pit_id\":[\"%s\",\"%s\"]}", one, two));
	said_expect(&s, 200, NULL);
	for (size_t i = 0; i < 2; i++) { /* by the names that the client has for them */
		const json_t *row = json_array_get(json_object_get(s.json, "pits"), i);

		assert_true(is_true(row, "successful"));
		assert_string_equal(text_of(row, "pit_id"), i ? two : one);
	}
	said_free(&s);
	NODE_EXPECT(&pc_at[0], 404, NULL, .path = "/_search", .partition = p,
		    .body = pc_text("{\"pit\":{\"id\":\"%s\"}}", one));
	NODE_EXPECT(&pc_at[0], 200, "\"num_freed\":1", .method = "DELETE", .path = "/_pit", .partition = p,
		    .body = pc_text("{\"id\":\"%s\"}", elastic));
	NODE_EXPECT(&pc_at[1], 404, NULL, .path = "/_search", .partition = p,
		    .body = pc_text("{\"pit\":{\"id\":\"%s\"}}", elastic));
	free(one);
	free(two);
	free(elastic);
}
BOTH(points_in_time)

static void what_cannot_be_understood_goes_to_no_node(void)
{
	const char *p = pc_tenant("odd");
	char *id = pc_scroll(&pc_at[0], p, 0), *point = pc_pit(&pc_at[0], p, 0), *long_id = malloc(7001);
	const char *scroll_path = "/_search/scroll", *named = pc_text("{\"pit\":{\"id\":\"%s\"}}", point);
	int before = pc_asked();
	const struct {
		int status;
		const char *text, *method, *path, *body, *extra;
	} rows[] = {
		{404, "unknown-cursor", "POST", scroll_path, NEXT("nothing"), NULL},
		{404, NULL, "POST", scroll_path, NEXT(""), NULL},
		{404, NULL, "POST", "/_search", "{\"pit\":{\"id\":\"nothing\"}}", NULL},
		{400, "missing", "POST", scroll_path, "{\"scroll\":\"1m\"}", NULL},
		{400, "missing or no text", "POST", scroll_path, NULL, NULL},
		{400, "missing or no text", "POST", scroll_path, "{\"scroll_id\":123}", NULL},
		{400, "missing or no text", "POST", scroll_path, "{\"scroll_id\":null}", NULL},
		{400, "bad-json", "POST", scroll_path, pc_text("{/* */\"scroll_id\":\"%s\"}", id), NULL},
		{400, "bad-json", "POST", scroll_path, id, NULL},
		{400, "twice", "POST", scroll_path, pc_text("{\"scroll_id\":\"x\",\"scroll_id\":\"%s\"}", id), NULL},
		{400, "twice", "POST", pc_text("/_search/scroll/%s", "x"), NEXT(id), NULL},
		{400, "twice", "GET", "/_search/scroll?scroll_id=a&scroll_id=b", NULL, NULL},
		{400, "a text", "POST", scroll_path, "{\"scroll_id\":[1]}", NULL},
		{400, "belong", "POST", scroll_path, pc_text("{\"scroll_id\":\"%s\",\"x\":1}", id), NULL},
		{400, "one scroll", "POST", scroll_path, pc_text("{\"scroll_id\":[\"%s\",\"%s\"]}", id, id), NULL},
		{400, "source", "GET", "/_search/scroll?source=%7b%7d&source_content_type=application/json", NULL,
		 NULL},
		{400, "bad-path", "GET", "/_search/scroll/a/b", NULL, NULL},
		{400, "bad-path", "GET", "/x/../_search/scroll", NEXT(id), NULL},
		{400, "bad-format", "POST", "/i/_search?scroll=1m&format=yaml", "{}", NULL},
		{415, "compressed", "POST", scroll_path, NEXT(id), "Content-Encoding: gzip\r\n"},
		{415, "application/json", "POST", scroll_path, NEXT(id), "Content-Type: application/cbor\r\n"},
		{415, "application/json", "POST", "/_search", named, "Content-Type: application/yaml\r\n"},
		{415, "compressed", "POST", "/_search", named, "Content-Encoding: gzip\r\n"},
		{413, "16384 bytes", "POST", "/_search", pc_text("{\"a\":\"%016500d\"}", 0), NULL},
		{403, "all-cursors", "DELETE", "/_search/scroll/_all", NULL, NULL},
		{403, "all-cursors", "DELETE", scroll_path, "{\"scroll_id\":\"_all\"}", NULL},
		{403, "all-cursors", "DELETE", "/_search/point_in_time/_all", NULL, NULL},
		{403, "all-cursors", "GET", "/_search/point_in_time/_all", NULL, NULL},
		{400, "twice", "POST", "/_search", pc_text("{\"pit\":{\"id\":\"x\"},\"pit\":{\"id\":\"%s\"}}", point),
		 NULL},
		{400, "twice", "POST", "/_search",
		 pc_text("{\"\\u0070it\":{\"id\":\"%s\",\"\\u0069d\":\"%s\"}}", id, point), NULL},
	};
	const struct {
		int status;
		const char *path, *body;
	} more[] = {
		{400, "/_search", "{\"pit\":[]}"},
		{400, "/_search", "{pit:{id:\"x\"}}"},
		{400, "/_search", "{\"pit\":{\"id\":7}}"},
		{400, "/_search", "{\"pit\":null}"},
		{400, "/_search", "{\"\xc1\xb0it\":{\"id\":\"x\"}}\\u"},
		{400, "/_search?source=%7b%22pit%22:%7b%22id%22:%22x%22%7d%7d&source_content_type=application/json",
		 NULL},
		{400, "/_msearch", "{}\n{\"pit\":{\"id\":\"x\"}}\n"},
		{400, "/i/_msearch", "{}\n{\"\\u0070it\":{\"id\":\"x\"}}\n"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		NODE_EXPECT(&pc_at[i % 2], rows[i].status, rows[i].text, .method = rows[i].method, .path = rows[i].path,
			    .partition = p, .body = rows[i].body, .extra = rows[i].extra);
	for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++)
		NODE_EXPECT(&pc_at[i % 2], more[i].status, NULL, .method = "POST", .path = more[i].path, .partition = p,
			    .body = more[i].body);
	memset(long_id, 'A', 7000);
	long_id[7000] = '\0';
	NODE_EXPECT(&pc_at[0], 404, NULL, .method = "POST", .path = scroll_path, .partition = p, .body = NEXT(long_id));
	assert_int_equal(pc_asked(), before);
	/* and what only looks so, does */
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .method = "POST", .path = "/_search", .partition = p,
		    .body = "{\"query\":{\"pit\":{\"id\":\"\\u0041\"}}}");
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .method = "POST", .path = "/_msearch", .partition = p,
		    .body = "{}\n{\"query\":\"\\\"pit\\\"\"}\n{}\n{\"q\":\"\\u0041\"}\n",
		    .extra = "Content-Type: application/x-ndjson\r\n");
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .method = "POST", .path = "/i/_search?scroll=", .partition = p,
		    .body = "{}");
	free(id);
	free(point);
	free(long_id);
}
BOTH(what_cannot_be_understood_goes_to_no_node)

static void answers_in_pieces_long_ids_and_answers_that_cannot_be_read(void)
{
	static const char *const acts[] = {"node late", "node slow", "node late slow", "node long=4096"};
	const char *p = pc_tenant("pieces"), *path = "/i/_search?scroll=1m";
	struct said s;

	for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
		char *id = pc_open(&pc_at[0], p, acts[i], path, 0);

		assert_null(strstr(id, "decoy"));
		NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
		free(id);
	}
	/* an id that cannot be kept: the client does not get it */
	s = TALK(&pc_at[0], .act = "node long=4097", .method = "POST", .path = path, .partition = p, .body = "{}");
	assert_false(s.whole);
	assert_null(strstr(s.body, "DXF1"));
	said_free(&s);
	s = TALK(&pc_at[0], .act = "node late slow long=4097", .method = "POST", .path = path, .partition = p,
		 .body = "{}");
	assert_false(s.whole);
	assert_null(strstr(s.body, "DXF1"));
	said_free(&s);
	for (unsigned i = 0; i < 2; i++) {
		s = TALK(&pc_at[1], .act = i ? "node plain" : "node gzip", .method = "POST", .path = path,
			 .partition = p, .body = "{}");
		said_expect(&s, 502, "bad-answer");
		assert_null(strstr(s.body, "DXF1"));
		said_free(&s);
	}
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/i/_search", .partition = p);
}
BOTH(answers_in_pieces_long_ids_and_answers_that_cannot_be_read)

static void a_location_with_filters_of_its_own_hands_out_no_cursor_or_is_told_of(void)
{
	const char *p = pc_tenant("filters"), *path = "/i/_search?scroll=1m";
	struct answer a =
		ASK(.way = WAY_DEAF, .act = "node", .method = "POST", .path = path, .partition = p, .body = "{}");
	char *log;

	assert_null(strstr(a.text, "DXF1"));
	assert_null(strstr(a.text, "AQAAA"));
	free(a.text);
	EXPECT(200, PORT(0), .way = WAY_DEAF, .path = "/i/_search", .partition = p, .act = "node");
	log = proxy_log(&proxy);
	assert_null(strstr(log, "was not looked at"));
	free(log);
	a = ASK(.way = WAY_BLIND, .act = "node", .method = "POST", .path = path, .partition = p, .body = "{}");
	assert_int_equal(a.status, 200);
	free(a.text);
	for (uint64_t deadline = 0; within(&deadline);) {
		bool told;

		log = proxy_log(&proxy);
		told = strstr(log, "was not looked at") != NULL;
		free(log);
		if (told)
			break;
	}
	pc_forget_log();
}
BOTH(a_location_with_filters_of_its_own_hands_out_no_cursor_or_is_told_of)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH_TESTS(a_scroll_goes_on_through_any_worker),
		BOTH_TESTS(it_stays_where_it_was_opened_when_its_partition_moves),
		BOTH_TESTS(bodies_may_come_in_chunks),
		BOTH_TESTS(another_partition_gets_nothing_of_it),
		BOTH_TESTS(what_is_cleared_is_gone),
		BOTH_TESTS(points_in_time),
		BOTH_TESTS(what_cannot_be_understood_goes_to_no_node),
		BOTH_TESTS(answers_in_pieces_long_ids_and_answers_that_cannot_be_read),
		cmocka_unit_test(pc_nothing_went_wrong),
		/* last: the log has words about it */
		BOTH_TESTS(a_location_with_filters_of_its_own_hands_out_no_cursor_or_is_told_of),
	};

	return cmocka_run_group_tests(tests, pc_setup, pc_teardown);
}
