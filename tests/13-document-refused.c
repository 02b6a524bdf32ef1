/* SPDX-License-Identifier: MIT
 * Placement documents that are refused: each whole, at its path, with the same words however the bytes are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../writer/document.h"

/* The example of the README. */
static const char whole[] =
	"{\"version\": 7,\n"
	" \"clusters\": {\"c1\": {\"endpoint\": \"http://10.0.0.1:9200\"}},\n"
	" \"default\": {\"mode\": \"shared-index\", \"cluster\": \"c1\", \"index\": \"shared\"},\n"
	" \"partitions\": {\n"
	"   \"initech\": {\"mode\": \"dedicated-cluster\", \"cluster\": \"c1\"},\n"
	"   \"acme\":    {\"mode\": \"dedicated-index\", \"cluster\": \"c1\", \"index\": \"acme-idx\"},\n"
	"   \"globex\":  {\"mode\": \"shared-index\", \"cluster\": \"c1\", \"index\": \"shared\"}}}\n";
/* Writes at text + at; returns where it ended. */
__attribute__((format(printf, 3, 4))) static size_t append(char *text, size_t at, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int n = vsprintf(text + at, format, arguments);
	va_end(arguments);
	assert_true(n >= 0);
	return at + (size_t)n;
}

static enum refusal_code parse_cut(const char *s, size_t len, size_t cut, struct document **d, struct refusal *r)
{
	struct document_parser *p = document_parser_new();

	assert_non_null(p);
	for (size_t at = 0; at < len; at += cut)
		document_parser_feed(p, s + at, len - at < cut ? len - at : cut, r);
	enum refusal_code code = document_parser_finish(&p, d, r);
	assert_null(p);
	return code;
}

static void good(const char *text)
{
	struct document *d;
	struct refusal r = {0};

	if (document_parse(text, strlen(text), &d, &r) != R_DONE)
		fail_msg("refused at %s: %s", r.path, r.message);
	document_free(&d);
}

static void bad(const char *text, size_t len, const char *path, const char *message)
{
	struct document *d;
	struct refusal r = {0};
	enum refusal_code code = document_parse(text, len, &d, &r);

	if (code != R_BAD_DOCUMENT || r.code != code || strcmp(r.path, path) != 0 || !strstr(r.message, message))
		fail_msg("%.200s\n%s at %s: %s\nexpected %s: %s", text, refusal_name(code), r.path, r.message, path,
			 message);
	assert_null(d);
	for (size_t cut = 1; cut < 8; cut++) {
		struct refusal other = {0};
		assert_int_equal(parse_cut(text, len, cut, &d, &other), R_BAD_DOCUMENT);
		assert_null(d);
		assert_string_equal(other.path, r.path);
		assert_string_equal(other.message, r.message);
	}
}

#define X250 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" X50 X50 X50 X50
#define X50 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define PART(body) "{\"partitions\":{\"acme\":{" body "}}}"
#define DC "\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\""
#define SI "\"mode\":\"shared-index\",\"cluster\":\"c1\",\"index\":\"i\""
#define ACME "$.partitions[\"acme\"]"

static const struct {
	const char *text, *path, *message;
} bad_documents[] = {
	/* no JSON, or not one object */
	{"", "$", "premature EOF"},
	{" ", "$", "premature EOF"},
	{"{", "$", "premature EOF"},
	{"[]", "$", "the document is an array"},
	{"7", "$", "the document is a number"},
	{"\"x\"", "$", "the document is a string"},
	{"null", "$", "the document is null"},
	{"{}", "$", "the document is empty"},
	{"{\"version\":1} x", "$", "not JSON at byte 14"},
	{"{\"version\":1}{}", "$", "trailing garbage"},
	{"{\"version\":1}\"", "$", "trailing garbage"},
	{"{\"version\":1} \"without an end", "$", "not JSON at byte 14: trailing garbage"},
	{"{\"version\":1}\\", "$", "trailing garbage"},
	{"{\"version\":1}-", "$", "trailing garbage"},
	{"{\"version\":1}}", "$", "trailing garbage"},
	{"{\"version\":1,}", "$", "not JSON"},
	{"{\"version\":1 /* seven */}", "$", "not JSON"},
	{"{version:1}", "$", "not JSON"},
	{"{\"version\"\v:1}", "$.version", "not JSON at byte 10: a control character"},
	{"{\"version\":1\f}", "$.version", "a control character"},
	{"{\"version\":1}\f", "$", "trailing garbage"},
	{"{\"partitions\":{\"a\vb\":{}}}", "$.partitions", "a control character"},
	{"{'version':1}", "$", "not JSON"},
	{"\xef\xbb\xbf{\"version\":1}", "$", "not JSON"},
	{"{\"partitions\":{\"acme\":{\"mode\" \"x\"}}}", ACME ".mode", "not JSON"},
	{"{\"partitions\":{\"acme\":{\"mode\":\"dedicated-cluster\"", ACME, "premature EOF"},
	{"{\"partitions\":{\"acme\":{" SI ",\"inject\":[", ACME ".inject[0]", "premature EOF"},
	/* unknown keys */
	{"{\"colour\":1}", "$.colour", "\"colour\" is unknown: there are version clusters default partitions"},
	{"{\"Version\":1}", "$.Version", "unknown"},
	{"{\"a\\nb\":1}", "$[\"a\\u000ab\"]", "key \"a\\u000ab\" is unknown"},
	{"{\"mode\":\"x\"}", "$.mode", "unknown"},
	{"{\"clusters\":{\"c1\":{\"url\":\"http://h\"}}}", "$.clusters[\"c1\"].url",
	 "\"url\" is unknown: there are endpoint"},
	{PART(DC ",\"epoch\":1"), ACME ".epoch", "unknown"},
	{"{\"default\":{\"colour\":1}}", "$.default.colour", "unknown"},
	{PART(SI ",\"inject\":[{\"name\":1}]"), ACME ".inject[0].name", "unknown"},
	{PART(SI ",\"inject\":[{\"value\":{\"tenant\":true}}]"), ACME ".inject[0].value.tenant", "unknown"},
	{"{\"version\\u0000\":1}", "$[\"version\\u0000\"]", "unknown"},
	/* duplicate keys */
	{"{\"version\":1,\"version\":1}", "$.version", "is there twice"},
	{"{\"partitions\":{},\"version\":1,\"partitions\":{}}", "$.partitions", "is there twice"},
	{"{\"clusters\":{\"c1\":{},\"c2\":{},\"c1\":{}}}", "$.clusters[\"c1\"]", "this cluster is there twice"},
	{"{\"clusters\":{\"c1\":{\"endpoint\":\"\",\"endpoint\":\"\"}}}", "$.clusters[\"c1\"].endpoint", "twice"},
	{"{\"partitions\":{\"b\":{" DC "},\"a\":{" DC "},\"b\":{" DC "}}}", "$.partitions[\"b\"]",
	 "partition is there twice"},
	{"{\"partitions\":{\"longer-a\":{" DC "},\"longer-ab\":{" DC "},\"longer-a\":{" DC "}}}",
	 "$.partitions[\"longer-a\"]", "twice"},
	{"{\"partitions\":{\"a\":{" DC "},\"\\u0061\":{" DC "}}}", "$.partitions[\"a\"]", "twice"},
	{PART(DC ",\"mode\":\"dedicated-cluster\""), ACME ".mode", "twice"},
	{PART(SI ",\"inject\":[{\"field\":\"f\",\"field\":\"f\"}]"), ACME ".inject[0].field", "twice"},
	{PART(SI ",\"inject\":[{\"value\":{\"partition\":true,\"partition\":true}}]"),
	 ACME ".inject[0].value.partition", "twice"},
	/* wrong types */
	{"{\"version\":\"7\"}", "$.version", "version is a string: give a number"},
	{"{\"version\":null}", "$.version", "version is null"},
	{"{\"version\":{}}", "$.version", "version is an object"},
	{"{\"clusters\":[]}", "$.clusters", "clusters is an array: give an object"},
	{"{\"clusters\":{\"c1\":\"http://h\"}}", "$.clusters[\"c1\"]", "a cluster is a string"},
	{"{\"clusters\":{\"c1\":{\"endpoint\":null}}}", "$.clusters[\"c1\"].endpoint", "endpoint is null"},
	{"{\"default\":null}", "$.default", "default is null"},
	{"{\"partitions\":true}", "$.partitions", "partitions is true"},
	{"{\"partitions\":{\"acme\":[]}}", ACME, "a placement is an array"},
	{"{\"partitions\":{\"acme\":false}}", ACME, "a placement is false"},
	{PART("\"mode\":3"), ACME ".mode", "mode is a number"},
	{PART("\"cluster\":[]"), ACME ".cluster", "cluster is an array"},
	{PART("\"index\":{}"), ACME ".index", "index is an object"},
	{PART("\"inject\":{}"), ACME ".inject", "inject is an object: give an array"},
	{PART("\"inject\":[1]"), ACME ".inject[0]", "an inject item is a number"},
	{PART("\"inject\":[[]]"), ACME ".inject[0]", "an inject item is an array"},
	{PART("\"inject\":[{\"field\":{}}]"), ACME ".inject[0].field", "field is an object"},
	{PART("\"inject\":[{\"value\":1}]"), ACME ".inject[0].value", "value is a number"},
	{PART("\"inject\":[{\"value\":{\"partition\":false}}]"), ACME ".inject[0].value.partition", "give true"},
	{PART("\"inject\":[{\"value\":{}}]"), ACME ".inject[0].value", "inject value is {}"},
	/* values out of range */
	{"{\"version\":0}", "$.version", "version \"0\" is out of range"},
	{"{\"version\":-1}", "$.version", "out of range"},
	{"{\"version\":1.5}", "$.version", "out of range"},
	{"{\"version\":1e3}", "$.version", "out of range"},
	{"{\"version\":9007199254740993}", "$.version", "out of range"},
	{"{\"version\":99999999999999999999999999}", "$.version", "out of range"},
	{"{\"clusters\":{\"\":{}}}", "$.clusters[\"\"]", "cluster id \"\" is empty"},
	{"{\"clusters\":{\"a/b\":{}}}", "$.clusters[\"a/b\"]", "letters, digits"},
	{"{\"clusters\":{\"c1\":{\"endpoint\":\"h:9200\"}}}", "$.clusters[\"c1\"].endpoint", "http://"},
	{"{\"clusters\":{\"c1\":{\"endpoint\":\"http://" X250 "\"}}}", "$.clusters[\"c1\"].endpoint", "257 bytes"},
	{"{\"partitions\":{\"\":{" DC "}}}", "$.partitions[\"\"]", "partition id \"\" is empty"},
	{"{\"partitions\":{\"" X250 "yyyyyy\":{" DC "}}}", "$.partitions[\"" X250 "yyyyyy\"]", "256 bytes"},
	{"{\"partitions\":{\"a\\u0000b\":{" DC "}}}", "$.partitions[\"a\\u0000b\"]", "NUL"},
	{"{\"partitions\":{\"a\\u0007b\":{" DC "}}}", "$.partitions[\"a\\u0007b\"]", "control character"},
	{"{\"partitions\":{\"a\\u009fb\":{" DC "}}}", "$.partitions[\"a\\u009fb\"]", "control character"},
	{"{\"partitions\":{\"a\nb\":{" DC "}}}", "$.partitions", "not JSON"},
	{"{\"partitions\":{\"\x7f\":{" DC "}}}", "$.partitions[\"\\u007f\"]", "control character"},
	{"{\"partitions\":{\"\xff\":{" DC "}}}", "$.partitions[\"\\ufffd\"]", "not valid UTF-8"},
	{"{\"partitions\":{\"\xed\xa0\x80\":{" DC "}}}", "$.partitions[\"\\ufffd\\ufffd\\ufffd\"]", "not valid UTF-8"},
	{"{\"partitions\":{\"\\ud800\":{" DC "}}}", "$.partitions", "half a surrogate pair"},
	{"{\"partitions\":{\"\\ud800\\n\":{" DC "}}}", "$.partitions", "half a surrogate pair"},
	{"{\"partitions\":{\"\\ud800\\ud800\":{" DC "}}}", "$.partitions", "half a surrogate pair"},
	{"{\"partitions\":{\"\\udc00\":{" DC "}}}", "$.partitions", "half a surrogate pair"},
	{"{\"partitions\":{\"\\ud80g\":{" DC "}}}", "$.partitions", "not JSON"},
	{"{\"partitions\":{\"\\x\":{" DC "}}}", "$.partitions", "not JSON"},
	/* placements */
	{PART(""), ACME, "mode is missing"},
	{PART("\"mode\":\"dedicated\",\"cluster\":\"c1\""), ACME ".mode", "mode \"dedicated\" is none"},
	{PART("\"mode\":\"\""), ACME ".mode", "is none"},
	{PART("\"mode\":\"dedicated-cluster\""), ACME, "cluster is missing"},
	{PART("\"mode\":\"dedicated-cluster\",\"cluster\":\"\""), ACME ".cluster", "cluster id \"\" is empty"},
	{PART("\"mode\":\"dedicated-cluster\",\"cluster\":\"" X50 X50 "\""), ACME ".cluster", "100 bytes"},
	{PART("\"mode\":\"dedicated-index\",\"cluster\":\"c1\""), ACME, "index is missing"},
	{PART("\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"Acme\""), ACME ".index", "upper-case"},
	{PART("\"index\":\"" X250 "yyyyyy\""), ACME ".index", "256 bytes"},
	{PART(DC ",\"index\":\"i\""), ACME ".index", "no meaning"},
	{PART(DC ",\"inject\":[]"), ACME ".inject", "no meaning"},
	{PART("\"inject\":[],\"index\":\"i\",\"cluster\":\"c\",\"mode\":\"shared-index\""), ACME ".inject",
	 "an empty inject"},
	{PART(SI ",\"inject\":[{\"field\":\"f\"}]"), ACME ".inject[0]", "\"value\" is missing"},
	{PART(SI ",\"inject\":[{\"value\":\"v\"}]"), ACME ".inject[0]", "\"field\" is missing"},
	{PART(SI ",\"inject\":[{\"field\":\"f\",\"value\":\"v\"},{\"field\":\"f\",\"value\":\"w\"}]"),
	 ACME ".inject[1].field", "\"f\" is there twice"},
	{PART(SI ",\"inject\":[{\"field\":\"f\",\"value\":\"\\u0000\"}]"), ACME ".inject[0].value", "NUL"},
	{"{\"default\":{" SI ",\"inject\":[]}}", "$.default.inject", "an empty inject"},
	{"{\"default\":{\"mode\":\"x\"}}", "$.default.mode", "is none"},
	{"{\"partitions\":{\"a\\\"b\":{\"mode\":\"x\"}}}", "$.partitions[\"a\\\"b\"].mode", "is none"},
};

static void a_bad_document_is_refused_whole_at_its_path(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(bad_documents) / sizeof(bad_documents[0]); i++)
		bad(bad_documents[i].text, strlen(bad_documents[i].text), bad_documents[i].path,
		    bad_documents[i].message);
	bad("{\"version\":1}\0", 14, "$", "trailing garbage");
	bad("{\"version\":1\0}", 14, "$", "not JSON");
	bad("{\"partitions\":{\"a\0\":1}}", 23, "$.partitions", "not JSON");
}

static void each_cut_short_document_is_refused(void **state)
{
	struct document *d;
	struct refusal r = {0};

	(void)state;
	for (size_t len = 0; len + 2 < sizeof(whole); len++) { /* its last byte is a newline */
		assert_int_equal(document_parse(whole, len, &d, &r), R_BAD_DOCUMENT);
		assert_null(d);
	}
}

static void depth_is_bounded_without_recursion(void **state)
{
	static char deep[200100];

	(void)state;
	memset(deep, '[', 10000);
	bad(deep, 10000, "$", "the document is an array");
	size_t at = append(deep, 0, "{\"partitions\":{\"p\":{\"inject\":[{\"value\":");
	for (size_t i = 0; i < 10000; i++)
		at = append(deep, at, "{\"partition\":");
	bad(deep, at, "$.partitions[\"p\"].inject[0].value.partition", "partition is an object: give true");
}

static void inject_lists_have_their_limits(void **state)
{
	static char text[20000];
	size_t at = append(text, 0, "{\"default\":{" SI ",\"inject\":[");

	(void)state;
	for (int i = 0; i < 16; i++)
		at = append(text, at, "%s{\"field\":\"f%d\",\"value\":\"v\"}", i ? "," : "", i);
	append(text, at, "]}}");
	good(text);
	append(text, at, ",{\"field\":\"g\",\"value\":\"v\"}]}}");
	bad(text, strlen(text), "$.default.inject[16]", "more than 16 pairs");
	at = append(text, 0, "{\"default\":{" SI ",\"inject\":[{\"field\":\"f\",\"value\":\"");
	size_t most = SHM_RECORD_MAX - sizeof(struct shm_detail) - 2 - 4 - 2 - 1;
	memset(text + at, 'v', 5000);
	append(text, at + most, "\"}]}}");
	good(text);
	memset(text + at, 'v', 5000);
	append(text, at + most + 1, "\"}]}}");
	bad(text, strlen(text), "$.default.inject", "inject makes a placement of 4097 bytes");
	memset(text + at, 'v', 5000);
	append(text, at + 5000, "\"}]}}");
	bad(text, strlen(text), "$.default.inject[0].value", "inject is too long");
	at = append(text, 0, "{\"default\":{" SI ",\"inject\":[{\"value\":\"\",\"field\":\"");
	memset(text + at, 'f', 256);
	append(text, at + 256, "\"}]}}");
	bad(text, strlen(text), "$.default.inject[0].field", "256 bytes");
}

static void a_token_that_never_ends_is_refused_before_it_fills_memory(void **state)
{
	size_t len = 8u << 20, at, fed = 0;
	char *text = malloc(len);
	struct document_parser *p = document_parser_new();
	struct document *d;
	struct refusal r = {0};

	(void)state;
	assert_non_null(text);
	at = append(text, 0, "{\"partitions\":{\"");
	memset(text + at, 'x', len - at);
	while (document_parser_feed(p, text + fed, 16384, &r) == R_DONE)
		fed += 16384;
	assert_true(fed <= 1u << 20);
	assert_string_equal(r.path, "$.partitions");
	assert_int_equal(document_parser_feed(p, "}", 1, &r), R_BAD_DOCUMENT); /* says so again */
	assert_int_equal(document_parser_finish(&p, &d, &r), R_BAD_DOCUMENT);
	assert_int_equal(document_parse(text, len, &d, &r), R_BAD_DOCUMENT);
	free(text);
}

static void too_many_clusters_are_refused(void **state)
{
	size_t room = 65540u * 20, at = 0, last;
	char *text = malloc(room);
	struct document *d;
	struct refusal r = {0};

	(void)state;
	assert_non_null(text);
	at += (size_t)sprintf(text, "{\"clusters\":{\"c1\":{}");
	for (unsigned i = 2; i <= SHM_CLUSTERS_MAX; i++)
		at = append(text, at, ",\"c%u\":{}", i);
	last = at;
	at = append(text, at, "}}");
	assert_int_equal(document_parse(text, at, &d, &r), R_DONE);
	assert_int_equal(d->n_clusters, SHM_CLUSTERS_MAX);
	document_free(&d);
	at = append(text, last, ",\"more\":{}}}");
	assert_int_equal(document_parse(text, at, &d, &r), R_BAD_DOCUMENT);
	assert_string_equal(r.path, "$.clusters[\"more\"]");
	at = last +
	     (size_t)sprintf(text + last, "},\"default\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"more\"}}");
	assert_int_equal(document_parse(text, at, &d, &r), R_BAD_DOCUMENT);
	assert_string_equal(r.path, "$.default.cluster");
	free(text);
}

static void parsers_can_be_given_up_at_any_time(void **state)
{
	struct refusal r = {0};

	(void)state;
	for (size_t len = 0; len < sizeof(whole); len += 7) {
		struct document_parser *p = document_parser_new();
		assert_int_equal(document_parser_feed(p, whole, len, &r), R_DONE);
		document_parser_free(&p);
		assert_null(p);
		document_parser_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bad_document_is_refused_whole_at_its_path),
		cmocka_unit_test(each_cut_short_document_is_refused),
		cmocka_unit_test(depth_is_bounded_without_recursion),
		cmocka_unit_test(inject_lists_have_their_limits),
		cmocka_unit_test(a_token_that_never_ends_is_refused_before_it_fills_memory),
		cmocka_unit_test(too_many_clusters_are_refused),
		cmocka_unit_test(parsers_can_be_given_up_at_any_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
