/* SPDX-License-Identifier: MIT
 * What `berth` shows of writes under way: `readers`, `migrate status`, `top`, `status`, for people and as JSON. */
#include <ctype.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "cli.h"
#include "holder.h"

static void placed(const struct daemon *d)
{
	cli_expect(0, d, "cluster", "set", "c1", "--endpoint", "");
	cli_expect(0, d, "cluster", "set", "c2", "--endpoint", "");
	cli_expect(0, d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c1");
	cli_expect(0, d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c1");
}

static int teardown(void **state)
{
	holder_kill_all();
	return daemon_teardown(state);
}

/* Does a line of the text hold these words one after the other? `*` is any word; before the first and behind the last
 * there may be more. */
static bool has_words(const char *text, const char *words)
{
	for (const char *line = text; *line; line += strcspn(line, "\n") + (line[strcspn(line, "\n")] == '\n')) {
		size_t len = strcspn(line, "\n");

		for (size_t from = 0; from < len; from++) {
			const char *w = words, *at = line + from, *end = line + len;

			if (from && !isspace((unsigned char)at[-1]))
				continue;
			while (*w) {
				size_t n = strcspn(w, " "), m = 0;
				while (at < end && isspace((unsigned char)*at))
					at++;
				while (at + m < end && !isspace((unsigned char)at[m]))
					m++;
				if (m == 0 || (!(n == 1 && *w == '*') && (n != m || memcmp(w, at, n) != 0)))
					break;
				at += m;
				w += n + (w[n] == ' ');
			}
			if (!*w)
				return true;
		}
	}
	return false;
}

static void expect_words(const char *text, const char *words)
{
	if (!has_words(text, words))
		fail_msg("no line with `%s`:\n%s", words, text);
}

static const char *format(char out[256], const char *form, int pid)
{
	snprintf(out, 256, form, pid);
	return out;
}

static json_t *reader_of(json_t *lines, const struct holder *h)
{
	json_t *row;
	size_t i;

	json_array_foreach (lines, i, row) {
		if (int_of(row, "pid") == h->pid)
			return row;
	}
	fail_msg("process %d is not listed", (int)h->pid);
	return NULL;
}

static void each_process_is_shown_with_how_it_writes(void **state)
{
	struct daemon *d = *state;
	struct holder looks, leases, without, both;
	char words[256];
	struct cli c;

	placed(d);
	holder_start(&looks, d, BERTH_WRITES_NONE);
	holder_start(&leases, d, BERTH_WRITES_BRACKETED);
	holder_start(&without, d, BERTH_WRITES_UNBRACKETED);
	holder_start(&both, d, BERTH_WRITES_BRACKETED);
	cli_run(&c, d, "readers");
	cli_check(&c, 0, NULL, NULL);
	expect_words(c.out, format(words, "%d holder * * * leases 0 0", both.pid));
	assert_null(strstr(c.out, "PARTITION")); /* no write is under way */
	cli_free(&c);

	assert_int_equal(holder_admit(&both, "acme"), BERTH_OK);
	assert_int_equal(holder_admit(&without, "acme"), BERTH_OK);
	holder_begin(&leases, "acme");
	holder_end(&leases, holder_begin(&leases, "globex"), BERTH_UNKNOWN);
	cli_run(&c, d, "readers");
	cli_check(&c, 0, NULL, NULL);
	expect_words(c.out, format(words, "%d holder * * * none - - 1/2", looks.pid));
	expect_words(c.out, format(words, "%d holder * * * leases 1 1 1/2", leases.pid));
	expect_words(c.out, format(words, "%d holder * * * without leases - - 1/2", without.pid));
	expect_words(c.out, format(words, "%d holder * * * without leases 0 0 1/2", both.pid));
	expect_words(c.out, "attached for leases, but called berth_admit");
	cli_free(&c);
}

static void writes_under_way_are_listed_oldest_first(void **state)
{
	struct daemon *d = *state;
	struct holder a, b;
	char words[256];
	struct cli c;

	placed(d);
	cli_expect(0, d, "default", "set", "--mode", "dedicated-cluster", "--cluster", "c1");
	holder_start(&a, d, BERTH_WRITES_BRACKETED);
	holder_start(&b, d, BERTH_WRITES_BRACKETED);
	holder_begin(&b, "acme");
	poll(NULL, 0, 50);
	holder_begin(&a, "nobody"); /* the default answers */
	poll(NULL, 0, 50);
	holder_end(&b, holder_begin(&b, "globex"), BERTH_UNKNOWN);
	poll(NULL, 0, 50);
	holder_begin(&a, "acme");
	cli_run(&c, d, "readers");
	cli_check(&c, 0, NULL, NULL);
	char *list = strstr(c.out, "\nPARTITION");
	assert_non_null(list);
	expect_words(list, format(words, "acme * ms %d holder under way", b.pid));
	expect_words(list, format(words, "default, hash * * ms %d holder under way", a.pid));
	expect_words(list, format(words, "globex * ms %d holder unknown since then", b.pid));
	expect_words(list, format(words, "acme * ms %d holder under way", a.pid));
	char *second = strstr(list, "(by the default"), *third = strstr(list, "\nglobex"),
	     *fourth = strstr(third, "\nacme");
	assert_true(second && third && fourth && strstr(list, "\nacme") < second && second < third);
	cli_free(&c);

	json_t *lines = cli_json(0, d, "readers");
	assert_int_equal(json_array_size(lines), 2);
	const json_t *row = reader_of(lines, &b), *leases = json_object_get(row, "leases");
	assert_int_equal(int_of(row, "n_leases"), 1);
	assert_int_equal(int_of(row, "n_unknown"), 1);
	assert_int_equal(int_of(row, "max_leases"), HOLDER_WRITES);
	assert_true(json_is_null(json_object_get(row, "overflow_ms_ago")));
	assert_int_equal(json_array_size(leases), 2);
	assert_string_equal(text_of(json_array_get(leases, 0), "partition"), "acme");
	assert_string_equal(text_of(json_array_get(leases, 0), "outcome"), "open");
	assert_true(int_of(json_array_get(leases, 0), "age_ms") >= 140);
	assert_string_equal(text_of(json_array_get(leases, 1), "outcome"), "unknown");
	leases = json_object_get(reader_of(lines, &a), "leases");
	assert_true(json_is_null(json_object_get(json_array_get(leases, 0), "partition")));
	assert_int_equal(strlen(text_of(json_array_get(leases, 0), "hash")), 16);
	json_decref(lines);
}

static void a_long_list_says_that_there_are_more(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	for (unsigned i = 0; i < 1200; i++)
		holder_begin(&h, "acme");
	cli_run(&c, d, "readers");
	cli_check(&c, 0, "\nand 200 more, which berthd does not list\n", NULL);
	cli_free(&c);
	/* Short of slots: what ends unknown then counts for every partition. */
	for (unsigned i = 0; i < 800; i++)
		holder_begin(&h, "acme");
	for (unsigned i = 0; i < 600; i++)
		holder_end(&h, i, BERTH_UNKNOWN);
	json_t *lines = cli_json(0, d, "readers");
	assert_true(json_is_integer(json_object_get(reader_of(lines, &h), "overflow_ms_ago")));
	json_decref(lines);
	cli_run(&c, d, "readers");
	cli_check(&c, 0, " and more ", NULL);
	cli_check(&c, 0, "short of leases ", NULL);
	cli_free(&c);
}

static void cutovers_are_shown_with_what_they_wait_for(void **state)
{
	struct daemon *d = *state;
	struct holder h;
	char words[256];
	struct cli c;

	placed(d);
	holder_start(&h, d, BERTH_WRITES_BRACKETED);
	holder_begin(&h, "acme");
	unsigned number = holder_begin(&h, "acme");
	cli_expect(0, d, "migrate", "begin", "acme", "--to", "c2");
	cli_expect(0, d, "migrate", "begin", "globex", "--to", "c2");
	cli_run(&c, d, "migrate", "status");
	cli_check(&c, 0, NULL, NULL);
	expect_words(c.out, "acme draining c1 c2 * * ms - - - `berth migrate cutover`");
	cli_free(&c);
	cli_expect(0, d, "migrate", "cutover", "acme");
	cli_expect(0, d, "migrate", "cutover", "globex");
	json_t *error = cli_refused("barrier-pending", d, "migrate", "complete", "acme");
	assert_string_equal(text_of(error, "reason"), "leases-open");
	assert_int_equal(int_of(error, "in_flight"), 2);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(error, "pids"), 0)), h.pid);
	json_decref(error);
	cli_run(&c, d, "migrate", "status");
	cli_check(&c, 0, NULL, NULL);
	expect_words(c.out, format(words, "2 - writes are under way: process %d (holder)", h.pid));
	expect_words(c.out, "globex cutover c1 c2 * * ms * ms 0 - `berth migrate complete`");
	cli_free(&c);
	cli_expect(0, d, "migrate", "complete", "globex");
	holder_end(&h, number, BERTH_UNKNOWN);
	json_t *lines = cli_json(0, d, "migrate", "status");
	assert_int_equal(int_of(json_array_get(lines, 0), "in_flight"), 1);
	json_decref(lines);

	cli_run(&c, d, "top");
	cli_check(&c, 0, "1 in cutover", NULL);
	cli_check(&c, 0, "writes under way 1   ended unknown 1\n", NULL);
	expect_words(c.out, format(words, "1 - writes are under way: process %d (holder)", h.pid));
	assert_null(strstr(c.out, "[...")); /* nobody knows for how long */
	cli_free(&c);
	cli_run(&c, d, "status");
	cli_check(&c, 0, NULL, NULL);
	expect_words(c.out, "of them in cutover 1");
	expect_words(c.out, "writes under way, in leases 1");
	expect_words(c.out, "writes ended unknown 1");
	cli_free(&c);

	/* A dead one leaves a time to wait for. */
	int pid = (int)h.pid;
	holder_kill(&h);
	uint64_t deadline = 0;
	do {
		assert_true(within(&deadline));
		lines = cli_json(0, d, "migrate", "status");
		snprintf(words, sizeof(words), "%s", text_of(json_array_get(lines, 0), "reason"));
		json_decref(lines);
	} while (strcmp(words, "leases-open") == 0);
	cli_run(&c, d, "migrate", "status");
	cli_check(&c, 0, NULL, NULL);
	snprintf(words, sizeof(words), "of a process that died may still arrive: process %d", pid);
	if (!strstr(c.out, words))
		fail_msg("no `%s`:\n%s", words, c.out);
	expect_words(c.out, "0 * s *");
	cli_free(&c);
	cli_run(&c, d, "top");
	cli_check(&c, 0, "acme                 [", NULL);
	cli_free(&c);
	cli_run(&c, d, "migrate", "complete", "acme", "--force");
	cli_check(&c, 0, "acme: moved, epoch ", NULL);
	cli_check(&c, 0, "; writes were held back for ", NULL);
	cli_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_process_is_shown_with_how_it_writes, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(writes_under_way_are_listed_oldest_first, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(a_long_list_says_that_there_are_more, daemon_setup, teardown),
		cmocka_unit_test_setup_teardown(cutovers_are_shown_with_what_they_wait_for, daemon_setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
