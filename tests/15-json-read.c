/* SPDX-License-Identifier: MIT
 * The reader of requests against jansson's: the same texts are taken, and mean the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../writer/json_read.h"

#define DEPTH 32u

static const char *const seeds[] = {
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partition\":\"acme\",\"placement\":"
	"{\"mode\":\"shared-index\",\"cluster\":\"c1\",\"index\":\"i\",\"inject\":[{\"field\":\"t\",\"value\":"
	"{\"partition\":true}},{\"field\":\"u\",\"value\":\"k\"}]},\"force\":false}}",
	" { \"a\" : [ 1 , -2, 0, -0, 9223372036854775807, -9223372036854775808, null ] , \"b\" : { } , \"c\" : [ ] "
	"}\r\n",
	"[1.5, -0.0, 1e3, 1E+3, 1e-3, 12.34e5, 1e308, 1e-400]",
	"{\"\\u00e9\\n\\t\\\\\\\"\\/\\b\\f\\r\": \"\\ud83d\\ude00 \xf0\x9f\x98\x80 \xc3\xa9 \xe2\x82\xac\", \"\": "
	"\"\"}",
	"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
	"{\"a\":{\"a\":{\"a\":{\"a\":true}}},\"b\":false}",
};

static const char *const refused[] = {
	"",
	" ",
	"1",
	"\"a\"",
	"true",
	"null",
	"{",
	"}",
	"[",
	"]",
	"{]",
	"[}",
	"{,}",
	"[,]",
	"[1,]",
	"{\"a\":1,}",
	"{\"a\"}",
	"{\"a\" 1}",
	"{a:1}",
	"{'a':1}",
	"{\"a\":1}}",
	"{\"a\":1} x",
	"[1 2]",
	"[01]",
	"[1.]",
	"[.5]",
	"[+1]",
	"[-]",
	"[1e]",
	"[1e+]",
	"[0x1]",
	"[NaN]",
	"[Infinity]",
	"[tru]",
	"[truex]",
	"[True]",
	"[nul]",
	"[9223372036854775808]",
	"[-9223372036854775809]",
	"[1e999]",
	"[\"\\u0000\"]",
	"[\"\\ud800\"]",
	"[\"\\udc00\"]",
	"[\"\\ud800\\u0041\"]",
	"[\"\\u12\"]",
	"[\"\\x\"]",
	"[\"\\\"]",
	"[\"a]",
	"[\"\n\"]",
	"[\"\x01\"]",
	"[\"\xff\"]",
	"[\"\xc0\x80\"]",
	"[\"\xed\xa0\x80\"]",
	"[\"\xf4\x90\x80\x80\"]",
	"[\"\xe2\x82\"]",
	"{\"a\":1,\"a\":2}",
	"{\"a\":1,\"\\u0061\":2}",
	"// x\n[]",
	"[/* */]",
	"\xef\xbb\xbf[]",
	"[1]\v",
	"[\f]",
};

static json_t *ours(const char *text, size_t len)
{
	struct json_fault fault = {0};
	json_t *json = json_read(text, len, DEPTH, &fault);

	assert_true(json || fault.why);
	assert_true(json || fault.at <= len);
	return json;
}

static unsigned depth_of(const char *s, size_t len)
{
	unsigned depth = 0, most = 0;
	bool string = false;

	for (size_t i = 0; i < len; i++) {
		if (string && s[i] == '\\')
			i++;
		else if (s[i] == '"')
			string = !string;
		else if (!string && (s[i] == '{' || s[i] == '['))
			most = ++depth > most ? depth : most;
		else if (!string && (s[i] == '}' || s[i] == ']'))
			depth--;
	}
	return most;
}

/* Exact copies: reading one byte too many is a fault that a sanitizer sees. */
static void compare(const char *text, size_t len)
{
	char *exact = malloc(len ? len : 1);
	json_error_t error;
	json_t *a, *b;

	memcpy(exact, text, len);
	a = ours(exact, len);
	b = json_loadb(exact, len, JSON_REJECT_DUPLICATES, &error);
	/* Deeper than ours goes; and jansson swallows a NUL behind a number or a word. */
	if (b && (depth_of(text, len) > DEPTH || memchr(text, '\0', len))) {
		json_decref(b);
		b = NULL;
	}
	if (!a != !b || (a && !json_equal(a, b)))
		fail_msg("ours %s, jansson's %s: %.*s", a ? json_dumps(a, 0) : "refuses",
			 b ? json_dumps(b, 0) : error.text, (int)len, text);
	json_decref(a);
	json_decref(b);
	free(exact);
}

static void it_takes_what_jansson_takes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
		json_t *json = ours(seeds[i], strlen(seeds[i]));

		assert_non_null(json);
		json_decref(json);
		compare(seeds[i], strlen(seeds[i]));
		for (size_t cut = 0; cut < strlen(seeds[i]); cut++)
			compare(seeds[i], cut);
	}
}

static void it_refuses_what_jansson_refuses(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		if (ours(refused[i], strlen(refused[i])))
			fail_msg("taken: %s", refused[i]);
		compare(refused[i], strlen(refused[i]));
	}
	assert_null(ours("[\"a\0b\"]", 7));
	assert_null(ours("[1]\0", 4));
}

static void depth_and_names_have_limits(void **state)
{
	char deep[200], name[600];

	(void)state;
	for (unsigned depth = DEPTH - 1; depth <= DEPTH + 1; depth++) {
		json_t *json;

		memset(deep, '[', depth);
		memset(deep + depth, ']', depth);
		json = ours(deep, (size_t)2 * depth);
		assert_int_equal(json != NULL, depth <= DEPTH);
		json_decref(json);
	}
	for (int len = (int)JSON_READ_KEY_MAX; len <= (int)JSON_READ_KEY_MAX + 1; len++) {
		json_t *json;

		snprintf(name, sizeof(name), "{\"%0*d\":1}", len, 0);
		json = ours(name, strlen(name));
		assert_int_equal(json != NULL, len == (int)JSON_READ_KEY_MAX);
		json_decref(json);
	}
}

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void damaged_texts_mean_the_same_to_both(void **state)
{
	static const char pieces[][8] = {"{", "}", "[",  "]", ",",    ":",        "\"",   "\\", "\\u00",
					 "0", "-", "1e", ".", "\xc3", "\xed\xa0", "null", " "};
	uint64_t random = (uint64_t)time(NULL) | 1;

	(void)state;
	print_message("seed %llu\n", (unsigned long long)random);
	for (int i = 0; i < 200000; i++) {
		const char *seed = seeds[next(&random) % (sizeof(seeds) / sizeof(seeds[0]))];
		size_t len = strlen(seed), changes = next(&random) % 4;
		char text[1024];

		memcpy(text, seed, len);
		for (size_t k = 0; k <= changes; k++) {
			size_t at = next(&random) % len, n;
			const char *piece = pieces[next(&random) % (sizeof(pieces) / sizeof(pieces[0]))];

			switch (next(&random) % 4) {
			case 0:
				text[at] = (char)next(&random);
				break;
			case 1: /* a piece goes in */
				n = strlen(piece);
				memmove(text + at + n, text + at, len - at);
				memcpy(text + at, piece, n);
				len += n;
				break;
			case 2: /* some bytes go */
				n = 1 + next(&random) % 4;
				if (at + n < len) {
					memmove(text + at, text + at + n, len - at - n);
					len -= n;
				}
				break;
			default: /* a stretch is there twice */
				n = 1 + next(&random) % 24;
				if (at + n < len && len + n < sizeof(text) - 16) {
					memmove(text + at + n, text + at, len - at);
					len += n;
				}
			}
		}
		compare(text, len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_takes_what_jansson_takes),
		cmocka_unit_test(it_refuses_what_jansson_refuses),
		cmocka_unit_test(depth_and_names_have_limits),
		cmocka_unit_test(damaged_texts_mean_the_same_to_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
