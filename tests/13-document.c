/* SPDX-License-Identifier: MIT
 * Placement documents that are good: how they are staged, however their bytes are cut; and what a document may do to a
 * partition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../shm/word.h"
#include "../writer/document.h"

/* The examples of the README. */
static const char whole[] =
	"{\"version\": 7,\n"
	" \"clusters\": {\"c1\": {\"endpoint\": \"http://10.0.0.1:9200\"}},\n"
	" \"default\": {\"mode\": \"shared-index\", \"cluster\": \"c1\", \"index\": \"shared\"},\n"
	" \"partitions\": {\n"
	"   \"initech\": {\"mode\": \"dedicated-cluster\", \"cluster\": \"c1\"},\n"
	"   \"acme\":    {\"mode\": \"dedicated-index\", \"cluster\": \"c1\", \"index\": \"acme-idx\"},\n"
	"   \"globex\":  {\"mode\": \"shared-index\", \"cluster\": \"c1\", \"index\": \"shared\"}}}\n";
static const char bare[] = "{\"partitions\": {\"b\": {\"cluster\": \"x\", \"mode\": \"dedicated-cluster\"},"
			   "\"a\": {\"index\": \"i\", \"cluster\": \"y\", \"mode\": \"shared-index\"},"
			   "\"c\": {\"cluster\": \"x\", \"mode\": \"dedicated-cluster\"}}}";

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

static struct document *good(const char *text)
{
	struct document *d, *again;
	struct refusal r = {0};
	size_t len = strlen(text);

	if (document_parse(text, len, &d, &r) != R_DONE)
		fail_msg("%s\nis refused at %s: %s", text, r.path, r.message);
	for (size_t cut = 1; cut < 8; cut++) {
		if (parse_cut(text, len, cut, &again, &r) != R_DONE)
			fail_msg("cut after %zu bytes, refused at %s: %s", cut, r.path, r.message);
		assert_int_equal(again->n_partitions, d->n_partitions);
		assert_int_equal(again->n_placements, d->n_placements);
		document_free(&again);
	}
	return d;
}

static void key_is(const struct document *d, uint32_t i, const char *expected)
{
	size_t len;
	const char *key = document_key(d, i, &len);

	assert_int_equal(len, strlen(expected));
	assert_string_equal(key, expected);
}

static const struct shm_detail *placement_of(const struct document *d, uint32_t i)
{
	return document_placement(d, d->partitions[i].placement);
}

/* ---- what is accepted -------------------------------------------------------------------------------------- */

static void a_whole_document_is_staged_in_key_order(void **state)
{
	struct document *d = good(whole);
	struct detail_inject pair;

	(void)state;
	assert_int_equal(d->version, 7);
	assert_true(d->has_clusters && d->has_partitions);
	assert_int_equal(d->n_clusters, 1);
	assert_string_equal(d->clusters[0].id, "c1");
	assert_string_equal(d->clusters[0].endpoint, "http://10.0.0.1:9200");
	assert_int_equal(d->clusters[0].endpoint_len, 20);
	assert_false(d->clusters[0].implicit);
	assert_int_equal(d->n_partitions, 3);
	key_is(d, 0, "acme");
	key_is(d, 1, "globex");
	key_is(d, 2, "initech");
	assert_string_equal(detail_index(placement_of(d, 0)), "acme-idx");
	assert_int_equal(placement_of(d, 0)->kind, KIND_DEDICATED_INDEX);
	assert_int_equal(placement_of(d, 2)->kind, KIND_DEDICATED_CLUSTER);
	/* globex and the default are equal: one placement, injecting the partition */
	assert_int_equal(d->n_placements, 3);
	assert_int_equal(d->partitions[1].placement, d->dflt);
	assert_true(detail_inject(placement_of(d, 1), 0, &pair));
	assert_string_equal(pair.field, "_tenant");
	assert_int_equal(pair.kind, INJECT_PARTITION);
	assert_false(detail_inject(placement_of(d, 1), 1, &pair));
	document_free(&d);
	assert_null(d);
	document_free(&d);
}

static void partitions_alone_make_their_clusters(void **state)
{
	struct document *d = good(bare);

	(void)state;
	assert_int_equal(d->version, 0);
	assert_false(d->has_clusters);
	assert_int_equal(d->dflt, DOCUMENT_NO_PLACEMENT);
	assert_int_equal(d->n_clusters, 2);
	assert_string_equal(d->clusters[0].id, "x");
	assert_string_equal(d->clusters[1].id, "y");
	assert_true(d->clusters[0].implicit && d->clusters[1].implicit);
	assert_null(d->clusters[0].endpoint);
	key_is(d, 0, "a");
	key_is(d, 1, "b");
	key_is(d, 2, "c");
	assert_int_equal(d->partitions[1].placement, d->partitions[2].placement);
	assert_int_equal(placement_of(d, 0)->cluster, 2);
	assert_int_equal(placement_of(d, 1)->cluster, 1);
	document_free(&d);
}

static void clusters_may_come_after_the_partitions_that_use_them(void **state)
{
	struct document *d = good("{\"partitions\":{\"p\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"},"
				  "\"q\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c2\"}},"
				  "\"clusters\":{\"c1\":{\"endpoint\":\"\"},\"c3\":{}}}");

	(void)state;
	assert_true(d->has_clusters);
	assert_int_equal(d->n_clusters, 3);
	assert_false(d->clusters[0].implicit);
	assert_string_equal(d->clusters[0].endpoint, "");
	assert_true(d->clusters[1].implicit); /* the caller's question to the instance */
	assert_false(d->clusters[2].implicit);
	assert_null(d->clusters[2].endpoint);
	document_free(&d);
}

static void any_one_key_makes_a_document(void **state)
{
	static const char *const texts[] = {
		"{\"version\": 1}",
		"{\"version\": 9007199254740992}",
		"{\"clusters\": {}}",
		"{\"partitions\": {}}",
		"{\"default\": {\"mode\": \"dedicated-cluster\", \"cluster\": \"c\"}}",
		" \t\r\n{ \"partitions\" : { } } \n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct document *d = good(texts[i]);
		assert_int_equal(d->has_partitions, strstr(texts[i], "partitions") != NULL);
		document_free(&d);
	}
}

static void escapes_and_other_scripts_are_the_same_key_as_their_bytes(void **state)
{
	struct document *d = good("{\"partitions\":{"
				  "\"\\ud83d\\ude00\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c\"},"
				  "\"\\u00e9\\\"\\\\\\/\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"\\u0063\"},"
				  "\"\xe2\x82\xac\":{\"\\u006dode\":\"dedicated-cluster\",\"cluster\":\"c\"}}}");

	(void)state;
	assert_int_equal(d->n_clusters, 1);
	key_is(d, 0, "\xc3\xa9\"\\/");
	key_is(d, 1, "\xe2\x82\xac");
	key_is(d, 2, "\xf0\x9f\x98\x80");
	document_free(&d);
}

static void bind_gives_the_instances_numbers(void **state)
{
	struct document *d = good(bare);
	const uint16_t numbers[] = {40000, 3};
	union detail_buffer b;

	(void)state;
	document_bind(d, numbers, 0, 1);
	document_bind(d, numbers, 1, UINT32_MAX);
	assert_int_equal(placement_of(d, 0)->cluster, 3);
	assert_int_equal(placement_of(d, 1)->cluster, 40000);
	assert_int_equal(detail_start(&b, KIND_DEDICATED_CLUSTER, 40000, NULL, 0), 0);
	detail_finish(&b);
	assert_true(detail_equal(&b.detail, placement_of(d, 1)));
	assert_int_equal(b.detail.check, placement_of(d, 1)->check);
	assert_true(detail_fingerprint(&b.detail) == detail_fingerprint(placement_of(d, 2)));
	document_free(&d);
}

/* A document of n partitions, whose keys make() writes. */
static char *many(uint32_t n, void (*make)(char *, uint32_t), size_t *len)
{
	size_t room = 400 * (size_t)n + 100;
	char *text = malloc(room), key[300];

	assert_non_null(text);
	*len = append(text, 0, "{\"partitions\":{");
	for (uint32_t i = 0; i < n; i++) {
		make(key, i);
		*len = append(text, *len,
			      "%s\"%s\":{\"mode\":\"dedicated-index\",\"cluster\":\"c%u\",\"index\":\"i%u\"}",
			      i ? "," : "", key, i % 7, i % 1000);
	}
	*len = append(text, *len, "}}");
	return text;
}

static void shuffled(char *key, uint32_t i)
{
	sprintf(key, "%s%u", i % 3 ? "tenant-" : "", i * 7919u % 100003u);
}

static void long_alike(char *key, uint32_t i)
{
	memset(key, 'k', 255);
	sprintf(key + 200 + i % 40, "%u", i);
}

static void prefixes(char *key, uint32_t i) /* each is the beginning of the next */
{
	memset(key, 'p', i + 1);
	key[i + 1] = '\0';
}

static void sorted_and_whole(uint32_t n, void (*make)(char *, uint32_t))
{
	size_t len, a_len, b_len;
	char *text = many(n, make, &len), index[16];
	struct document *d;
	struct refusal r = {0};

	if (document_parse(text, len, &d, &r) != R_DONE)
		fail_msg("refused at %s: %s", r.path, r.message);
	assert_int_equal(d->n_partitions, n);
	for (uint32_t i = 1; i < n; i++) {
		const char *a = document_key(d, i - 1, &a_len), *b = document_key(d, i, &b_len);
		int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
		assert_true(order < 0 || (order == 0 && a_len < b_len));
	}
	/* each key kept its own placement */
	for (uint32_t i = 0; i < n; i++) {
		char key[300];
		uint32_t low = 0, high = n;
		make(key, i);
		while (low + 1 < high) {
			uint32_t middle = (low + high) / 2;
			const char *k = document_key(d, middle, &a_len);
			if (strcmp(k, key) <= 0)
				low = middle;
			else
				high = middle;
		}
		key_is(d, low, key);
		sprintf(index, "i%u", i % 1000);
		assert_string_equal(detail_index(placement_of(d, low)), index);
	}
	document_free(&d);
	free(text);
}

static void partitions_come_out_in_key_order(void **state)
{
	(void)state;
	sorted_and_whole(20000, shuffled);
	sorted_and_whole(3000, long_alike);
	sorted_and_whole(255, prefixes);
}

/* ---- the plan ---------------------------------------------------------------------------------------------- */

#define C1 11u
#define C2 22u
#define C3 33u

static void a_document_never_undoes_a_command(void **state)
{
	static const struct {
		const char *what;
		struct plan_case in;
		enum plan_action action;
		bool force;
		uint64_t remember;
	} cases[] = {
		{"first document, empty table", {.says = C1}, PLAN_SET, false, C1},
		{"the same again", {.says = C1, .last = C1, .state = C1}, PLAN_NOTHING, false, C1},
		{"a newer one moves p", {.says = C2, .last = C1, .state = C1}, PLAN_SET, false, C2},
		{"a command moved p, the document stays",
		 {.says = C1, .last = C1, .state = C2},
		 PLAN_DIVERGED,
		 false,
		 C1},
		{"a command moved p, the document follows",
		 {.says = C2, .last = C1, .state = C2},
		 PLAN_ADOPT,
		 false,
		 C2},
		{"a command moved p, the document goes elsewhere",
		 {.says = C3, .last = C1, .state = C2},
		 PLAN_DIVERGED,
		 false,
		 C3},
		{"a command removed p", {.says = C1, .last = C1}, PLAN_DIVERGED, false, C1},
		{"a command removed p, the document goes elsewhere",
		 {.says = C2, .last = C1},
		 PLAN_DIVERGED,
		 false,
		 C2},
		{"a command made p elsewhere", {.says = C1, .state = C2}, PLAN_DIVERGED, false, C1},
		{"a command made p the same", {.says = C1, .state = C1}, PLAN_ADOPT, false, C1},
		{"migrating", {.says = C1, .last = C1, .state = C1, .migrating = true}, PLAN_MIGRATING, false, C1},
		{"migrating, override",
		 {.says = C2, .last = C1, .state = C1, .migrating = true, .override = true},
		 PLAN_MIGRATING,
		 false,
		 C2},
		{"override of a command", {.says = C1, .last = C1, .state = C2, .override = true}, PLAN_SET, true, C1},
		{"override of a removal", {.says = C1, .last = C1, .override = true}, PLAN_SET, true, C1},
		{"override where nothing differs",
		 {.says = C1, .last = C1, .state = C1, .override = true},
		 PLAN_NOTHING,
		 false,
		 C1},
		{"missing, from a document", {.last = C1, .state = C1}, PLAN_NOTHING, false, C1},
		{"missing, migrating", {.last = C1, .state = C1, .migrating = true}, PLAN_NOTHING, false, C1},
		{"missing, override", {.last = C1, .state = C2, .override = true}, PLAN_NOTHING, false, C1},
		{"prune, from a document", {.last = C1, .state = C1, .prune = true}, PLAN_REMOVE, false, 0},
		{"prune, changed by a command", {.last = C1, .state = C2, .prune = true}, PLAN_DIVERGED, false, C1},
		{"prune, made by a command", {.state = C2, .prune = true}, PLAN_DIVERGED, false, 0},
		{"prune, removed by a command", {.last = C1, .prune = true}, PLAN_FORGET, false, 0},
		{"prune, nothing at all", {.prune = true}, PLAN_NOTHING, false, 0},
		{"prune, migrating",
		 {.last = C1, .state = C1, .migrating = true, .prune = true},
		 PLAN_MIGRATING,
		 false,
		 C1},
		{"prune, override", {.last = C1, .state = C2, .prune = true, .override = true}, PLAN_REMOVE, true, 0},
		{"prune, override, made by a command",
		 {.state = C2, .prune = true, .override = true},
		 PLAN_REMOVE,
		 true,
		 0},
		{"prune, p is named", {.says = C1, .last = C1, .state = C1, .prune = true}, PLAN_NOTHING, false, C1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct plan p = document_plan(&cases[i].in);
		if (p.action != cases[i].action || p.force != cases[i].force || p.remember != cases[i].remember)
			fail_msg("%s: %s, force %d, remember %u", cases[i].what, plan_action_name(p.action), p.force,
				 (unsigned)p.remember);
	}
	assert_string_equal(plan_action_name(PLAN_DIVERGED), "diverged");
	assert_string_equal(plan_action_name((enum plan_action)99), "unknown");
}

/* Whatever happened before, the same document twice changes nothing the second time. */
static void the_same_document_again_is_a_no_op(void **state)
{
	static const uint64_t voices[] = {0, C1, C2, C3};

	(void)state;
	for (unsigned i = 0; i < 4 * 4 * 4 * 8; i++) {
		struct plan_case c = {.says = voices[i % 4], .last = voices[i / 4 % 4], .state = voices[i / 16 % 4]};
		c.migrating = (i >> 6 & 1) && c.state;
		c.override = i >> 7 & 1;
		c.prune = i >> 8 & 1;
		struct plan first = document_plan(&c);
		c.last = first.remember;
		if (first.action == PLAN_SET)
			c.state = c.says;
		if (first.action == PLAN_REMOVE)
			c.state = 0;
		struct plan second = document_plan(&c);
		assert_true(second.action == PLAN_NOTHING || second.action == PLAN_DIVERGED ||
			    second.action == PLAN_MIGRATING);
		assert_true(second.remember == c.last);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_document_is_staged_in_key_order),
		cmocka_unit_test(partitions_alone_make_their_clusters),
		cmocka_unit_test(clusters_may_come_after_the_partitions_that_use_them),
		cmocka_unit_test(any_one_key_makes_a_document),
		cmocka_unit_test(escapes_and_other_scripts_are_the_same_key_as_their_bytes),
		cmocka_unit_test(bind_gives_the_instances_numbers),
		cmocka_unit_test(partitions_come_out_in_key_order),
		cmocka_unit_test(a_document_never_undoes_a_command),
		cmocka_unit_test(the_same_document_again_is_a_no_op),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
