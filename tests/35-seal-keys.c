/* SPDX-License-Identifier: MIT
 * Key files of sealed cursors: which are taken, which are refused and with which code, and which key seals when. */
#include "seal_place.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEX "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
#define T1 "2026-01-01T00:00:00Z"
#define T2 "2026-01-01T00:05:00Z"
#define KEY1 "1 " T1 " " T2 " " HEX "\n"

static int parse(const char *text, size_t len, struct seal_fault *fault)
{
	struct seal_keys *k = NULL;
	char *copy = malloc(len ? len : 1); /* whose end a sanitizer watches */

	memcpy(copy, text, len);
	int rc = bs_keys_parse(copy, len, &k, fault);
	assert_true((rc == BERTH_OK) == (k != NULL));
	bs_keys_free(k);
	free(copy);
	return rc;
}

static void a_file_is_taken_whole_or_refused_with_its_line(void **state)
{
	static const struct {
		const char *text;
		int line; /* -1: taken */
		const char *what;
	} rows[] = {
		{KEY1, -1, NULL},
		{"# a remark\n\n \t\n" KEY1 "  2\t" T1 "  " T1 " " HEX " # another\n", -1, NULL},
		{"1 " T1 " " T1 " " HEX, -1, NULL}, /* without an end of the line */
		{"4294967295 " T1 " " T1 " " HEX "\n", -1, NULL},
		{"", 0, "no key"},
		{"# a remark alone\n", 0, "no key"},
		{"rubbish\n", 1, "four fields"},
		{KEY1 "2 " T1 " " HEX "\n", 2, "four fields"},
		{KEY1 "2 " T1 " " T1 " " HEX " x\n", 2, "four fields"},
		{"0 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{"01 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{"-1 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{"+1 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{"0x1 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{"4294967296 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{"18446744073709551617 " T1 " " T1 " " HEX "\n", 1, "the id"},
		{KEY1 "\n" KEY1, 3, "another key's"},
		{"1 2026-02-30T00:00:00Z " T1 " " HEX "\n", 1, "created"},
		{"1 2026-01-01T24:00:00Z " T1 " " HEX "\n", 1, "created"},
		{"1 2026-01-01T00:00:60Z " T1 " " HEX "\n", 1, "created"},
		{"1 1969-12-31T23:59:59Z " T1 " " HEX "\n", 1, "created"},
		{"1 2026-01-01 " T1 " " HEX "\n", 1, "created"},
		{"1 " T1 " 2026-01-01T00:00:00+00:00 " HEX "\n", 1, "active-from"},
		{"1 " T1 " 2026-01-01t00:00:00z " HEX "\n", 1, "active-from"},
		{"1 " T1 " now " HEX "\n", 1, "active-from"},
		{"1 " T1 " " T1 " 0011\n", 1, "64 hex"},
		{"1 " T1 " " T1 " " HEX "00\n", 1, "64 hex"},
		{"1 " T1 " " T1 " g0112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", 1, "64 hex"},
		{"1 " T1 " " T1 " " HEX "\r\n", 1, "64 hex"},
		{"1 " T1 " " T1 " 0000000000000000000000000000000000000000000000000000000000000000\n", 1, "all zero"},
	};
	struct seal_fault fault;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int rc = parse(rows[i].text, strlen(rows[i].text), &fault);

		if (rc != (rows[i].line < 0 ? BERTH_OK : BERTH_E_CORRUPT))
			fail_msg("%s is answered with %d", rows[i].text, rc);
		if (rc == BERTH_OK)
			continue;
		if ((int)fault.line != rows[i].line || !strstr(fault.what, rows[i].what))
			fail_msg("of %s it is said, line %u: %s", rows[i].text, fault.line, fault.what);
	}
	assert_int_equal(parse(KEY1 "\0", sizeof(KEY1), &fault), BERTH_E_CORRUPT);
	/* Cut anywhere but between lines, it is refused. */
	for (size_t n = 0; n < sizeof(KEY1) - 2; n++)
		assert_int_equal(parse(KEY1, n, &fault), BERTH_E_CORRUPT);
}

static void at_most_64_keys_are_in_a_file(void **state)
{
	char text[65 * 120], *at = text;
	struct seal_fault fault;

	(void)state;
	for (unsigned i = 1; i <= 64; i++)
		at += sprintf(at, "%u " T1 " " T1 " " HEX "\n", i);
	assert_int_equal(parse(text, (size_t)(at - text), &fault), BERTH_OK);
	at += sprintf(at, "65 " T1 " " T1 " " HEX "\n");
	assert_int_equal(parse(text, (size_t)(at - text), &fault), BERTH_E_CORRUPT);
	assert_int_equal(fault.line, 65);
}

static void times_are_printed_as_they_are_read(void **state)
{
	static const struct {
		const char *text;
		int64_t s;
	} rows[] = {{"1970-01-01T00:00:00Z", 0},
		    {"2024-02-29T23:59:59Z", 1709251199},
		    {"2026-11-22T22:15:06Z", 1795385706},
		    {"9999-12-31T23:59:59Z", 253402300799}};
	int64_t s;
	char text[SEAL_TIME_SIZE];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_true(bs_time_parse(rows[i].text, 20, &s));
		assert_true(s == rows[i].s);
		bs_time_print(s, text);
		assert_string_equal(text, rows[i].text);
	}
}

static void the_newest_key_whose_time_has_come_seals(void **state)
{
	struct seal_keys *k;
	struct seal_fault fault;
	int64_t t0;

	(void)state;
	static const char text[] = "7 " T1 " 2026-01-01T00:10:00Z " HEX "\n" /* index 0 */
				   "3 " T1 " 2026-01-01T00:00:00Z " HEX "\n"
				   "5 " T1 " 2026-01-01T00:05:00Z " HEX "\n"
				   "4 " T1 " 2026-01-01T00:05:00Z " HEX "\n";
	assert_int_equal(bs_keys_parse(text, sizeof(text) - 1, &k, &fault), BERTH_OK);
	assert_true(bs_time_parse(T1, 20, &t0));
	assert_int_equal(bs_keys_sealing(k, t0 - 1), -1);
	assert_int_equal(bs_keys_sealing(k, t0), 1);
	assert_int_equal(bs_keys_sealing(k, t0 + 299), 1);
	assert_int_equal(bs_keys_sealing(k, t0 + 300), 2); /* of two that are as new, the higher id */
	assert_int_equal(bs_keys_sealing(k, t0 + 599), 2);
	assert_int_equal(bs_keys_sealing(k, t0 + 600), 0);
	assert_int_equal(bs_keys_sealing(k, INT64_MAX), 0);
	assert_int_equal(bs_keys_find(k, 4), 3);
	assert_int_equal(bs_keys_find(k, 6), -1);
	bs_keys_free(k);
}

/* ---- who may read and write it ------------------------------------------------------------------------------------ */

static int open_it(struct seal_place *p)
{
	struct berth_seal *s = (struct berth_seal *)(uintptr_t)&p->len, *before = s;
	int rc = berth_seal_open(p->path, &s);

	if (rc != BERTH_OK)
		assert_ptr_equal(s, before); /* left as it was */
	else
		berth_seal_close(&s);
	return rc;
}

static void a_file_that_others_may_read_or_write_is_refused(void **state)
{
	static const mode_t good[] = {0600, 0640, 0400, 0440, 0700};
	static const mode_t bad[] = {0604, 0644, 0602, 0601, 0660, 0620, 0666, 0777, 0622};
	struct seal_place *p = *state;

	seal_keys_are(p, {1, 0});
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(chmod(p->path, good[i]), 0);
		assert_int_equal(open_it(p), BERTH_OK);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(chmod(p->path, bad[i]), 0);
		if (open_it(p) != BERTH_E_UNSAFE)
			fail_msg("mode %o is taken", (unsigned)bad[i]);
	}
}

static void what_is_no_regular_file_is_refused(void **state)
{
	struct seal_place *p = *state;
	char other[96];

	snprintf(other, sizeof(other), "%s/other", p->home);
	assert_int_equal(open_it(p), BERTH_E_SYSTEM);
	assert_int_equal(errno, ENOENT);
	seal_keys_are(p, {1, 0});
	assert_int_equal(rename(p->path, other), 0);
	assert_int_equal(symlink("other", p->path), 0);
	assert_int_equal(open_it(p), BERTH_E_UNSAFE);
	assert_int_equal(unlink(p->path), 0);
	assert_int_equal(mkfifo(p->path, 0600), 0); /* nor waited for */
	assert_int_equal(open_it(p), BERTH_E_UNSAFE);
	assert_int_equal(unlink(p->path), 0);
	assert_int_equal(mkdir(p->path, 0700), 0);
	assert_int_equal(open_it(p), BERTH_E_UNSAFE);
	assert_int_equal(rmdir(p->path), 0);
	assert_int_equal(rename(other, p->path), 0);
	assert_int_equal(open_it(p), BERTH_OK);
	assert_int_equal(berth_seal_open("", &p->seal), BERTH_E_INVAL);
	assert_int_equal(berth_seal_open(NULL, &p->seal), BERTH_E_INVAL);
	assert_int_equal(berth_seal_open(p->path, NULL), BERTH_E_INVAL);
}

static void a_file_without_a_key_or_too_long_is_refused(void **state)
{
	struct seal_place *p = *state;
	char *text = malloc(SEAL_FILE_MAX + 1);

	seal_file_is(p, "", 0);
	assert_int_equal(open_it(p), BERTH_E_CORRUPT);
	seal_file_is(p, "# none\n", 7);
	assert_int_equal(open_it(p), BERTH_E_CORRUPT);
	memset(text, '#', SEAL_FILE_MAX + 1);
	memcpy(text, KEY1, sizeof(KEY1) - 1);
	seal_file_is(p, text, SEAL_FILE_MAX);
	assert_int_equal(open_it(p), BERTH_OK);
	seal_file_is(p, text, SEAL_FILE_MAX + 1);
	assert_int_equal(open_it(p), BERTH_E_CORRUPT);
	free(text);
}

/* berth_seal_open as another user; its answer. */
static int open_as(struct seal_place *p, uid_t uid, gid_t gid)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct berth_seal *s = NULL;

		if (setgid(gid) != 0 || setuid(uid) != 0)
			_exit(99);
		_exit(-berth_seal_open(p->path, &s));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 99);
	return -WEXITSTATUS(status);
}

static void a_file_of_another_user_is_refused(void **state)
{
	struct seal_place *p = *state;

	if (geteuid() != 0) {
		printf("SKIP: needs root\n");
		skip();
	}
	seal_keys_are(p, {1, 0});
	assert_int_equal(chown(p->path, 61001, 61001), 0);
	assert_int_equal(open_it(p), BERTH_E_UNSAFE);         /* who is root would otherwise read what they wrote */
	assert_int_equal(open_as(p, 61001, 61001), BERTH_OK); /* its own */
	assert_int_equal(open_as(p, 61002, 61002), BERTH_E_PERMISSION);
	assert_int_equal(chmod(p->path, 0640), 0);
	assert_int_equal(open_as(p, 61002, 61001), BERTH_E_UNSAFE);
	assert_int_equal(chown(p->path, 0, 61001), 0);
	assert_int_equal(open_as(p, 61002, 61001), BERTH_OK); /* root's, through its group */
	assert_int_equal(open_as(p, 61002, 61002), BERTH_E_PERMISSION);
}

static void every_code_has_a_text_of_its_own(void **state)
{
	(void)state;
#define NAMED(name, value, http, text) \
	assert_true(strlen(berth_seal_strerror(name)) > 5); \
	assert_string_not_equal(berth_seal_strerror(name), "not a code of berth");
	BERTH_ERRORS(NAMED)
	assert_string_equal(berth_seal_strerror(1), "not a code of berth");
	assert_non_null(strstr(berth_seal_strerror(BERTH_E_CORRUPT), "key file"));
}

static int start(void **state)
{
	(void)state;
	return sodium_init() < 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_taken_whole_or_refused_with_its_line),
		cmocka_unit_test(at_most_64_keys_are_in_a_file),
		cmocka_unit_test(times_are_printed_as_they_are_read),
		cmocka_unit_test(the_newest_key_whose_time_has_come_seals),
		SEAL_TEST(a_file_that_others_may_read_or_write_is_refused),
		SEAL_TEST(what_is_no_regular_file_is_refused),
		SEAL_TEST(a_file_without_a_key_or_too_long_is_refused),
		SEAL_TEST(a_file_of_another_user_is_refused),
		cmocka_unit_test(every_code_has_a_text_of_its_own),
	};

	return cmocka_run_group_tests(tests, start, NULL);
}
