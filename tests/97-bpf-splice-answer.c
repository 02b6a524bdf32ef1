/* SPDX-License-Identifier: MIT
 * Where an answer ends (bpf/splice_answer.h), whatever the pieces that it comes in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "../bpf/splice_answer.h"

static const struct {
	const char *text;
	unsigned status;
	bool is_head, closes;
} whole[] = {
	{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, false, false},
	{"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", 200, false, false},
	{"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", 200, true, false},
	{"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", 204, false, false},
	{"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, false, false},
	{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: "
	 "1\r\n\r\nx",
	 201, false, false},
	{"HTTP/1.1 503 Busy\r\nTransfer-Encoding: "
	 "chunked\r\n\r\n3\r\nabc\r\n1f;x=y\r\n0123456789012345678901234567890\r\n0\r\n\r\n",
	 503, false, false},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nTrailer: 0\r\n\r\n", 200,
	 false, true},
	{"HTTP/1.0 200 OK\nContent-Length: 2\n\nab", 200, false, true},
};

static const char *const broken[] = {
	"HTTP/1.1 20\r\n\r\n",
	"HTTP/2.0 200 OK\r\n\r\n",
	"220 mail\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\na",
	"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\na",
	"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 1\r\n\r\na",
	"HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 1\r\n\r\na",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
};

static void an_answer_ends_with_its_last_byte_in_pieces_of_any_size(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(whole) / sizeof(*whole); i++) {
		size_t len = strlen(whole[i].text);

		for (size_t piece = 1; piece <= len; piece++) {
			enum answer_verdict v = ANSWER_MORE;
			struct answer_frame f;

			answer_begin(&f, whole[i].is_head);
			for (size_t at = 0; at < len; at += piece) {
				assert_int_equal(v, ANSWER_MORE);
				v = answer_piece(&f, whole[i].text + at, len - at < piece ? len - at : piece);
			}
			assert_int_equal(v, ANSWER_ENDED);
			assert_int_equal(f.status, whole[i].status);
			assert_int_equal(f.closes, whole[i].closes);
			assert_false(answer_may_close(&f));
		}
	}
}

static void expect_broken(const char *text, size_t len)
{
	for (size_t piece = 1; piece <= len; piece++) {
		enum answer_verdict v = ANSWER_MORE;
		struct answer_frame f;

		answer_begin(&f, false);
		for (size_t at = 0; at < len && v != ANSWER_BROKEN; at += piece)
			v = answer_piece(&f, text + at, len - at < piece ? len - at : piece);
		assert_int_equal(v, ANSWER_BROKEN);
	}
}

static void what_is_no_answer_or_goes_on_behind_its_end_is_broken(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++)
		expect_broken(broken[i], strlen(broken[i]));
}

static void a_line_with_a_nul_is_broken(void **state)
{
	static const char length[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\0zz\r\n\r\nabcde";
	static const char size[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\0zz\r\nabcde\r\n0\r\n\r\n";
	static const char status[] = "HTTP/1.1 200\0zz\r\nContent-Length: 0\r\n\r\n";

	(void)state;
	expect_broken(length, sizeof(length) - 1);
	expect_broken(size, sizeof(size) - 1);
	expect_broken(status, sizeof(status) - 1);
}

/* What is looked at of it are zeros. */
static void a_number_longer_than_what_is_looked_at_is_broken(void **state)
{
	char text[1000];

	(void)state;
	snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: %0300u\r\n\r\nabcde", 5);
	expect_broken(text, strlen(text));
	snprintf(text, sizeof(text),
		 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%0300u\r\nabcde\r\n0\r\n\r\n", 5);
	expect_broken(text, strlen(text));
}

static void an_answer_without_a_length_ends_with_its_connection(void **state)
{
	struct answer_frame f;

	(void)state;
	answer_begin(&f, false);
	assert_int_equal(answer_piece(&f, "HTTP/1.1 200 OK\r\n", 17), ANSWER_MORE);
	assert_false(answer_may_close(&f)); /* in its head */
	assert_int_equal(answer_piece(&f, "\r\nabc", 5), ANSWER_MORE);
	assert_true(answer_may_close(&f));
	assert_int_equal(answer_piece(&f, "\r\n0\r\n\r\n", 7), ANSWER_MORE);
	assert_true(answer_may_close(&f) && f.closes);
}

static void a_line_longer_than_what_is_looked_at_goes_by(void **state)
{
	static char text[5000];
	struct answer_frame f;
	size_t n;

	(void)state;
	n = (size_t)snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nX-Long: ");
	memset(text + n, 'x', 4000);
	strcpy(text + n + 4000, "\r\nContent-Length: 2\r\n\r\nab");
	answer_begin(&f, false);
	assert_int_equal(answer_piece(&f, text, strlen(text)), ANSWER_ENDED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_answer_ends_with_its_last_byte_in_pieces_of_any_size),
		cmocka_unit_test(what_is_no_answer_or_goes_on_behind_its_end_is_broken),
		cmocka_unit_test(a_line_with_a_nul_is_broken),
		cmocka_unit_test(a_number_longer_than_what_is_looked_at_is_broken),
		cmocka_unit_test(an_answer_without_a_length_ends_with_its_connection),
		cmocka_unit_test(a_line_longer_than_what_is_looked_at_goes_by),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
