/* SPDX-License-Identifier: MIT
 * The rules of ids, endpoints, index names and placements, their JSON, and the form of refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../writer/placement.h"
#include "../writer/text.h"

#define LEN(s) (sizeof(s) - 1)

static unsigned number_of(void *arg, const char *id, size_t len)
{
	(void)arg;
	return len == 2 && id[0] == 'c' && id[1] >= '1' && id[1] <= '9' ? (unsigned)(id[1] - '0') : 0;
}

static const char *id_of(void *arg, unsigned number)
{
	static const char *const ids[] = {NULL, "c1", "c2", "c3"};

	(void)arg;
	return number < 4 ? ids[number] : NULL;
}

static const struct cluster_names names = {number_of, id_of, NULL};

typedef enum refusal_code rule(const char *, size_t, const char *, struct refusal *);

struct text_case {
	const char *s;
	size_t len;
	const char *rule; /* in the message; NULL: it is good */
};

static void run(rule *check, const struct text_case *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct refusal r = {0};
		enum refusal_code code = check(cases[i].s, cases[i].len, "$.x", &r);
		if (!cases[i].rule) {
			if (code != R_DONE)
				fail_msg("%zu (%s) is refused: %s", i, cases[i].s, r.message);
			continue;
		}
		if (code != R_INVALID || r.code != R_INVALID || strcmp(r.path, "$.x") != 0 ||
		    !strstr(r.message, cases[i].rule))
			fail_msg("%zu (%s): %s at %s: %s", i, cases[i].s, refusal_name(code), r.path, r.message);
		if (text_fault(r.message, strlen(r.message)))
			fail_msg("%zu: the message is no clean text", i);
	}
}
#define RUN(check, cases) run(check, cases, sizeof(cases) / sizeof((cases)[0]))

static char long_text[5000]; /* 'a' */

static void partition_ids_are_utf8_without_control_characters(void **state)
{
	static const struct text_case cases[] = {
		{"acme", 4, NULL},
		{"A c/m\"e\\", 8, NULL},
		{"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, NULL},
		{"\xf4\x8f\xbf\xbf", 4, NULL},
		{"\xc2\xa0", 2, NULL}, /* U+00A0, after C1 */
		{long_text, 255, NULL},
		{"", 0, "partition id \"\" is empty"},
		{long_text, 256, "256 bytes"},
		{"a\0b", 3, "\"a\\u0000b\" holds a NUL"},
		{"a\nb", 3, "\"a\\u000ab\" holds a control character"},
		{"\x7f", 1, "control"},
		{"\xc2\x80", 2, "control"}, /* C1 */
		{"\xc2\x9f", 2, "control"},
		{"\x80", 1, "\"\\ufffd\" is not valid UTF-8"},
		{"\xc3", 1, "UTF-8"},
		{"\xc3\x28", 2, "UTF-8"},
		{"\xc0\xaf", 2, "UTF-8"},     /* overlong */
		{"\xe0\x9f\xbf", 3, "UTF-8"}, /* overlong */
		{"\xf0\x8f\xbf\xbf", 4, "UTF-8"},
		{"\xed\xa0\x80", 3, "UTF-8"}, /* surrogate */
		{"\xf4\x90\x80\x80", 4, "UTF-8"},
		{"\xff", 1, "UTF-8"},
	};

	(void)state;
	RUN(check_partition, cases);
}

static void cluster_ids_are_short_plain_words(void **state)
{
	static const struct text_case cases[] = {
		{"c1", 2, NULL},   {"A-z.0_9", 7, NULL},          {long_text, 63, NULL}, {long_text, 64, "64 bytes"},
		{"", 0, "empty"},  {"a b", 3, "letters, digits"}, {"a/b", 3, "letters"}, {"\xc3\xa9", 2, "letters"},
		{"a\0", 2, "NUL"},
	};

	(void)state;
	RUN(check_cluster_id, cases);
}

static void endpoints_are_http_urls_with_a_host_or_empty(void **state)
{
	static char long_url[300] = "http://";
#define GOOD(s) \
	{ \
		s, LEN(s), NULL \
	}
#define BAD(s, rule) \
	{ \
		s, LEN(s), rule \
	}
	static const struct text_case cases[] = {
		GOOD(""),
		GOOD("http://10.0.0.1:9200"),
		GOOD("https://search.example"),
		GOOD("https://user:word@h:1/path?q#f"),
		GOOD("http://[::1]:9200"),
		GOOD("http://[::1]"),
		{long_url, 255, NULL},
		{long_url, 256, "256 bytes"},
		BAD("10.0.0.1:9200", "http://"),
		BAD("ftp://host", "http://"),
		BAD("http:/host", "http://"),
		BAD("http", "http://"),
		BAD("HTTP://host", "http://"),
		BAD("http://", "no host"),
		BAD("https:///path", "no host"),
		BAD("http://:9200", "no host"),
		BAD("http://user@", "no host"),
		BAD("http://a b", "space"),
		BAD("http://a\tb", "control"),
		BAD("http://\xc3\xa9", "ASCII"),
		BAD("http://h:", "port"),
		BAD("http://h:0", "port"),
		BAD("http://h:65536", "port"),
		BAD("http://h:99999999999999999999999", "port"),
		BAD("http://h:9a", "port"),
		BAD("http://[::1", "IPv6"),
		BAD("http://[]", "IPv6"),
		BAD("http://[::1]x", "port"),
	};

	(void)state;
	memset(long_url + 7, 'h', sizeof(long_url) - 8);
	RUN(check_endpoint, cases);
}

static void index_names_follow_opensearch(void **state)
{
	static const struct text_case cases[] = {
		GOOD("acme-idx"),
		GOOD(".hidden"),
		GOOD("a.b_c-d+1"),
		GOOD("..."),
		GOOD("\xc3\xa9t\xc3\xa9"),
		{long_text, 255, NULL},
		{long_text, 256, "256 bytes"},
		BAD("", "empty"),
		BAD("Acme", "upper-case"),
		BAD("-a", "starts with"),
		BAD("_a", "starts with"),
		BAD("+a", "starts with"),
		BAD(".", "no name"),
		BAD("..", "no name"),
		BAD("a\\b", "in it"),
		BAD("a/b", "in it"),
		BAD("a*", "in it"),
		BAD("a?", "in it"),
		BAD("a\"", "in it"),
		BAD("a<", "in it"),
		BAD("a>", "in it"),
		BAD("a|", "in it"),
		BAD("a b", "in it"),
		BAD("a,b", "in it"),
		BAD("a#", "in it"),
		BAD("c2:a", "in it"),
		BAD("a\0b", "NUL"),
		BAD("a\x80", "UTF-8"),
	};

	(void)state;
	RUN(check_index, cases);
}

/* ---- JSON -------------------------------------------------------------------------------------------------- */

static json_t *parse(const char *text)
{
	json_error_t error;
	json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);

	if (!json)
		fail_msg("%s: %s", text, error.text);
	return json;
}

static enum refusal_code read_placement(const char *text, bool default_inject, union detail_buffer *b,
					struct refusal *r)
{
	json_t *json = parse(text);
	enum refusal_code code = placement_from_json(json, default_inject, &names, "$.p", b, r);

	json_decref(json);
	return code;
}

static void a_placement_survives_json(void **state)
{
	static const char *const texts[] = {
		"{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}",
		"{\"mode\":\"dedicated-index\",\"cluster\":\"c2\",\"index\":\"acme-idx\"}",
		"{\"mode\":\"shared-index\",\"cluster\":\"c3\",\"index\":\"shared\",\"inject\":[{\"field\":\"_tenant\","
		"\"value\":{\"partition\":true}},{\"field\":\"region\",\"value\":\"eu \\\"x\\\"\"},{\"field\":\"e\","
		"\"value\":\"\"}]}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		union detail_buffer b, again;
		struct refusal r = {0};
		assert_int_equal(read_placement(texts[i], false, &b, &r), R_DONE);
		assert_true(detail_bounds(&b.detail, b.detail.size));
		json_t *json = placement_to_json(&b.detail, &names);
		char *text = json_dumps(json, JSON_COMPACT);
		assert_string_equal(text, texts[i]);
		assert_int_equal(read_placement(text, false, &again, &r), R_DONE);
		assert_true(detail_equal(&b.detail, &again.detail));
		free(text);
		json_decref(json);
	}
}

static void shared_index_without_inject_takes_the_default_only_where_it_may(void **state)
{
	static const char text[] = "{\"index\": \"shared\", \"cluster\": \"c1\", \"mode\": \"shared-index\"}";
	union detail_buffer b;
	struct refusal r = {0};
	struct detail_inject pair;

	(void)state;
	assert_int_equal(read_placement(text, true, &b, &r), R_DONE);
	assert_int_equal(b.detail.n_inject, 1);
	assert_true(detail_inject(&b.detail, 0, &pair));
	assert_string_equal(pair.field, "_tenant");
	assert_int_equal(pair.kind, INJECT_PARTITION);
	assert_int_equal(read_placement(text, false, &b, &r), R_INVALID);
	assert_string_equal(r.path, "$.p.inject");
	assert_non_null(strstr(r.message, "no inject"));
}

#define P "\"mode\": \"shared-index\", \"cluster\": \"c1\", \"index\": \"i\""
#define DI "\"mode\": \"dedicated-index\", \"cluster\": \"c1\""
#define PAIR "{\"field\": \"f\", \"value\": \"v\"}"
static const struct {
	const char *text, *path, *message;
} bad_placements[] = {
	{"[]", "$.p", "placement is an array"},
	{"{}", "$.p", "mode is missing"},
	{"{\"mode\": 1}", "$.p.mode", "mode is a number"},
	{"{\"mode\": \"sharded\"}", "$.p.mode", "mode \"sharded\" is none"},
	{"{\"mode\": \"\"}", "$.p.mode", "dedicated-cluster"},
	{"{\"mode\": \"shared-index\\u0000\"}", "$.p.mode", "is none"},
	{"{\"mode\": \"dedicated-cluster\"}", "$.p", "cluster is missing"},
	{"{\"mode\": \"dedicated-cluster\", \"cluster\": null}", "$.p.cluster", "cluster is null"},
	{"{\"mode\": \"dedicated-cluster\", \"cluster\": \"\"}", "$.p.cluster", "is empty"},
	{"{\"mode\": \"dedicated-cluster\", \"cluster\": \"c1\", \"index\": \"i\"}", "$.p.index", "has no meaning"},
	{"{\"mode\": \"dedicated-cluster\", \"cluster\": \"c1\", \"inject\": [" PAIR "]}", "$.p.inject", "no meaning"},
	{"{" DI "}", "$.p", "index is missing"},
	{"{" DI ", \"index\": \"Acme\"}", "$.p.index", "\"Acme\" has an upper-case letter"},
	{"{" DI ", \"index\": {}}", "$.p.index", "index is an object"},
	{"{" DI ", \"index\": \"i\", \"inject\": [" PAIR "]}", "$.p.inject", "dedicated-index"},
	{"{" DI ", \"index\": \"i\", \"colour\": 1}", "$.p.colour", "key \"colour\" is unknown"},
	{"{" DI ", \"index\": \"i\", \"a b\": 1}", "$.p[\"a b\"]", "key \"a b\" is unknown"},
	{"{" P ", \"inject\": []}", "$.p.inject", "an empty inject"},
	{"{" P ", \"inject\": {}}", "$.p.inject", "inject is an object"},
	{"{" P ", \"inject\": [1]}", "$.p.inject[0]", "inject item is a number"},
	{"{" P ", \"inject\": [" PAIR ", {}]}", "$.p.inject[1]", "\"field\" is missing"},
	{"{" P ", \"inject\": [{\"field\": \"f\"}]}", "$.p.inject[0]", "\"value\" is missing"},
	{"{" P ", \"inject\": [{\"field\": \"\", \"value\": \"v\"}]}", "$.p.inject[0].field", "is empty"},
	{"{" P ", \"inject\": [{\"field\": 1, \"value\": \"v\"}]}", "$.p.inject[0].field", "inject field is a number"},
	{"{" P ", \"inject\": [{\"field\": \"f\", \"value\": 1}]}", "$.p.inject[0].value", "inject value is a number"},
	{"{" P ", \"inject\": [{\"field\": \"f\", \"value\": {}}]}", "$.p.inject[0].value", "another object"},
	{"{" P ", \"inject\": [{\"field\": \"f\", \"value\": {\"partition\": false}}]}", "$.p.inject[0].value",
	 "another"},
	{"{" P ", \"inject\": [{\"field\": \"f\", \"value\": \"a\\u0000\"}]}", "$.p.inject[0].value", "NUL"},
	{"{" P ", \"inject\": [{\"field\": \"f\", \"value\": \"v\", \"x\": 1}]}", "$.p.inject[0].x", "unknown"},
	{"{" P ", \"inject\": [" PAIR ", " PAIR "]}", "$.p.inject[1].field", "\"f\" is there twice"},
};

static void a_bad_placement_is_refused_at_its_path(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(bad_placements) / sizeof(bad_placements[0]); i++) {
		union detail_buffer b;
		struct refusal r = {0};
		enum refusal_code code = read_placement(bad_placements[i].text, false, &b, &r);
		if (code != R_INVALID || strcmp(r.path, bad_placements[i].path) != 0 ||
		    !strstr(r.message, bad_placements[i].message))
			fail_msg("%s: %s at %s: %s", bad_placements[i].text, refusal_name(code), r.path, r.message);
	}
}

static void an_inject_list_that_is_too_long_is_refused(void **state)
{
	union detail_buffer b;
	struct refusal r = {0};
	json_t *list = json_array(), *pair = json_pack("{s:s, s:s%}", "field", "f", "value", long_text, (size_t)4096);
	json_t *json = json_pack("{s:s, s:s, s:s, s:O}", "mode", "shared-index", "cluster", "c1", "index", "i",
				 "inject", list);

	(void)state;
	json_array_append(list, pair);
	assert_int_equal(placement_from_json(json, false, &names, "$", &b, &r), R_INVALID);
	assert_string_equal(r.path, "$.inject");
	assert_non_null(strstr(r.message, "bytes in all"));
	json_array_clear(list);
	for (int i = 0; i < 17; i++)
		json_array_append_new(list,
				      json_pack("{s:s+, s:s}", "field", "f", &"0123456789abcdefg"[i], "value", "v"));
	assert_int_equal(placement_from_json(json, false, &names, "$", &b, &r), R_INVALID);
	assert_string_equal(r.path, "$.inject");
	assert_non_null(strstr(r.message, "more than 16"));
	json_array_remove(list, 16);
	assert_int_equal(placement_from_json(json, false, &names, "$", &b, &r), R_DONE);
	assert_int_equal(b.detail.n_inject, 16);
	json_decref(json);
	json_decref(list);
	json_decref(pair);
}

static void a_cluster_that_nobody_knows_is_unknown_cluster_after_all_other_rules(void **state)
{
	union detail_buffer b;
	struct refusal r = {0};

	(void)state;
	assert_int_equal(read_placement("{\"mode\": \"dedicated-cluster\", \"cluster\": \"zz\"}", false, &b, &r),
			 R_UNKNOWN_CLUSTER);
	assert_string_equal(r.path, "$.p.cluster");
	assert_non_null(strstr(r.message, "\"zz\""));
	assert_int_equal(
		read_placement("{\"mode\": \"dedicated-index\", \"cluster\": \"zz\", \"index\": \"X\"}", false, &b, &r),
		R_INVALID);
	assert_int_equal(placement_from_json(NULL, false, &names, "$.p", &b, &r), R_INVALID);
	assert_non_null(strstr(r.message, "missing"));
}

static void a_placement_whose_cluster_has_no_name_has_no_json(void **state)
{
	union detail_buffer b;

	(void)state;
	assert_int_equal(detail_start(&b, KIND_DEDICATED_CLUSTER, 9, NULL, 0), 0);
	detail_finish(&b);
	assert_null(placement_to_json(&b.detail, &names));
	struct state s = {.at = &b.detail};
	assert_null(state_to_json(&s, &names));
}

static void states_survive_json(void **state)
{
	static const char *const texts[] = {
		"null",
		"{\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}}",
		"{\"phase\":\"draining\",\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},"
		"\"to\":{\"mode\":\"dedicated-index\",\"cluster\":\"c2\",\"index\":\"i\"}}",
		"{\"phase\":\"cutover\",\"at\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},"
		"\"to\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c2\"}}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		union detail_buffer at, to;
		struct state s;
		struct refusal r = {0};
		json_t *json = parse(texts[i]);
		assert_int_equal(state_from_json(json, &names, &at, &to, &s, &r), R_DONE);
		json_decref(json);
		assert_true(s.epoch == 0 && (s.at != NULL) == (i > 0) && (s.to != NULL) == (i > 1));
		json = state_to_json(&s, &names);
		char *text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
		assert_string_equal(text, texts[i]);
		free(text);
		json_decref(json);
	}
}

static void a_bad_state_is_refused_at_its_path(void **state)
{
#define AT "\"at\": {\"mode\": \"dedicated-cluster\", \"cluster\": \"c1\"}"
#define TO "\"to\": {\"mode\": \"dedicated-cluster\", \"cluster\": \"c2\"}"
	static const struct {
		const char *text, *path;
		enum refusal_code code;
	} cases[] = {
		{"[]", "$", R_INVALID},
		{"{}", "$", R_INVALID},
		{"{" TO ", \"phase\": \"draining\"}", "$", R_INVALID},
		{"{" AT ", " TO "}", "$", R_INVALID},
		{"{" AT ", \"phase\": \"cutover\"}", "$", R_INVALID},
		{"{" AT ", " TO ", \"phase\": \"settled\"}", "$.phase", R_INVALID},
		{"{" AT ", " TO ", \"phase\": 1}", "$.phase", R_INVALID},
		{"{" AT ", \"epoch\": 1}", "$.epoch", R_INVALID},
		{"{\"at\": {\"mode\": \"x\"}}", "$.at.mode", R_INVALID},
		{"{" AT ", \"to\": {\"mode\": \"dedicated-cluster\", \"cluster\": \"zz\"}}", "$.to.cluster",
		 R_UNKNOWN_CLUSTER},
		{"{\"at\": {" P "}}", "$.at.inject", R_INVALID},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		union detail_buffer at, to;
		struct state s;
		struct refusal r = {0};
		json_t *json = parse(cases[i].text);
		enum refusal_code code = state_from_json(json, &names, &at, &to, &s, &r);
		if (code != cases[i].code || strcmp(r.path, cases[i].path) != 0)
			fail_msg("%s: %s at %s: %s", cases[i].text, refusal_name(code), r.path, r.message);
		json_decref(json);
	}
}

/* ---- refusals and shown text ------------------------------------------------------------------------------- */

static void each_refusal_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (unsigned i = 0; i < R_COUNT; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(refusal_name(i), refusal_name(k));
	assert_string_equal(refusal_name(R_WOULD_MOVE), "would-move");
	assert_string_equal(refusal_name(R_COUNT), "unknown");
	assert_true(refusal_retryable(R_BARRIER_PENDING) && refusal_retryable(R_BACKEND));
	assert_false(refusal_retryable(R_WOULD_MOVE) || refusal_retryable(R_COUNT));
}

static void a_long_message_is_cut_at_a_character(void **state)
{
	char euros[900] = "";
	struct refusal r = {0};

	(void)state;
	for (size_t i = 0; i + 3 < sizeof(euros); i += 3)
		memcpy(euros + i, "\xe2\x82\xac", 4);
	for (int shift = 0; shift < 3; shift++) {
		refuse_at(&r, R_INVALID, euros, "%.*s%s", shift, "xx", euros);
		assert_null(text_fault(r.message, strlen(r.message)));
		assert_null(text_fault(r.path, strlen(r.path)));
		assert_true(strlen(r.message) > sizeof(r.message) - 4);
		refuse_under(&r, R_INVALID, "%.*s", shift, "xx");
		assert_null(text_fault(r.path, strlen(r.path)));
		assert_int_equal(memcmp(r.path, "xx", (size_t)shift), 0);
	}
	assert_int_equal(refuse(&r, R_FULL, "no room"), R_FULL);
	assert_string_equal(r.path, "");
	assert_int_equal(refuse_under(&r, R_DONE, "$"), R_DONE);
	assert_string_equal(r.path, "");
	refuse_under(&r, R_FULL, ".b");
	refuse_under(&r, R_FULL, "$");
	assert_string_equal(r.path, "$.b");
}

static void shown_text_is_clean_and_fits_whatever_it_shows(void **state)
{
	char bytes[64], out[400];

	(void)state;
	srand(1);
	for (int round = 0; round < 20000; round++) {
		size_t len = (size_t)rand() % sizeof(bytes), room = 16 + (size_t)rand() % 100;
		for (size_t i = 0; i < len; i++)
			bytes[i] = (char)(rand() % 2 ? rand() : 'a' + rand() % 26);
		memset(out, 'Z', sizeof(out));
		text_show(out, room, bytes, len);
		assert_true(strlen(out) < room && out[room] == 'Z');
		assert_null(text_fault(out, strlen(out)));
		assert_true(out[0] == '"' && out[strlen(out) - 1] == '"');
		text_step(out, room + 8, bytes, len);
		assert_true(strlen(out) < room + 8);
	}
	assert_string_equal(text_show(out, 16, "abcdefghijk", 11), "\"abcdefghijk\"");
	assert_string_equal(text_show(out, 16, "abcdefghijklmn", 14), "\"abcdefghij\xe2\x80\xa6\"");
	assert_string_equal(text_step(out, 16, "mode", 4), ".mode");
	assert_string_equal(text_step(out, 32, "1st", 3), "[\"1st\"]");
	assert_string_equal(text_step(out, 32, "", 0), "[\"\"]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(partition_ids_are_utf8_without_control_characters),
		cmocka_unit_test(cluster_ids_are_short_plain_words),
		cmocka_unit_test(endpoints_are_http_urls_with_a_host_or_empty),
		cmocka_unit_test(index_names_follow_opensearch),
		cmocka_unit_test(a_placement_survives_json),
		cmocka_unit_test(shared_index_without_inject_takes_the_default_only_where_it_may),
		cmocka_unit_test(a_bad_placement_is_refused_at_its_path),
		cmocka_unit_test(an_inject_list_that_is_too_long_is_refused),
		cmocka_unit_test(a_cluster_that_nobody_knows_is_unknown_cluster_after_all_other_rules),
		cmocka_unit_test(a_placement_whose_cluster_has_no_name_has_no_json),
		cmocka_unit_test(states_survive_json),
		cmocka_unit_test(a_bad_state_is_refused_at_its_path),
		cmocka_unit_test(each_refusal_has_a_name_of_its_own),
		cmocka_unit_test(a_long_message_is_cut_at_a_character),
		cmocka_unit_test(shown_text_is_clean_and_fits_whatever_it_shows),
	};

	memset(long_text, 'a', sizeof(long_text) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
