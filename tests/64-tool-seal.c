/* SPDX-License-Identifier: MIT
 * `berth seal`, the real tool: key files made, rotated and looked into, and what the library then does with them. No
 * daemon runs. */
#include "seal_place.h"

#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

static char *file_text(const struct seal_place *p)
{
	char *text = calloc(1, SEAL_FILE_MAX + 1);
	FILE *f = fopen(p->path, "r");

	assert_non_null(f);
	assert_true(fread(text, 1, SEAL_FILE_MAX, f) > 0);
	fclose(f);
	return text;
}

static unsigned n_files(const struct seal_place *p)
{
	char command[128], line[32];

	snprintf(command, sizeof(command), "ls -A %s | wc -l", p->home);
	FILE *f = popen(command, "r");
	assert_non_null(fgets(line, sizeof(line), f));
	pclose(f);
	return (unsigned)atoi(line);
}

static json_t *row(json_t *lines, size_t i)
{
	return json_array_get(lines, i);
}

/* The states that `inspect` lists, as "1:opens 2:seals". */
static void expect_keys(const struct seal_place *p, const char *wanted)
{
	json_t *lines = cli_json(0, NULL, "seal", "inspect", p->path), *line;
	char all[2048] = "";
	size_t i, at = 0;

	json_array_foreach (lines, i, line)
		at += (size_t)snprintf(all + at, sizeof(all) - at, "%s%lld:%s", i ? " " : "",
				       (long long)int_of(line, "key"), text_of(line, "state"));
	assert_string_equal(all, wanted);
	json_decref(lines);
}

static void keygen_makes_a_file_that_the_library_takes(void **state)
{
	struct seal_place *p = *state;
	const struct group *readers = geteuid() == 0 ? getgrnam("berth") : NULL;
	struct stat st;
	struct cli c;

	cli_run(&c, NULL, "seal", "keygen", p->path);
	cli_check(&c, 0, "made, with key 1", NULL);
	cli_free(&c);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, readers ? 0640 : 0600);
	assert_int_equal(n_files(p), 1);
	expect_keys(p, "1:seals");
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	assert_int_equal(seal_one(p), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_OK);

	/* Twice: the first one's keys stay. */
	char *before = file_text(p);
	json_decref(cli_refused("exists", NULL, "seal", "keygen", p->path));
	char *after = file_text(p);
	assert_string_equal(before, after);
	free(before);
	free(after);
	assert_int_equal(n_files(p), 1);
}

static void two_files_have_two_secrets(void **state)
{
	struct seal_place *p = *state;
	char other[96];

	snprintf(other, sizeof(other), "%s/other", p->home);
	cli_expect(0, NULL, "seal", "keygen", p->path);
	cli_expect(0, NULL, "seal", "keygen", other);
	assert_int_equal(berth_seal_open(other, &p->seal), BERTH_OK);
	assert_int_equal(seal_one(p), BERTH_OK);
	berth_seal_close(&p->seal);
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_E_UNKNOWN);
}

static void rotate_adds_a_key_that_seals_later(void **state)
{
	struct seal_place *p = *state;
	json_t *lines;
	int64_t created, active;

	cli_expect(0, NULL, "seal", "keygen", p->path);
	lines = cli_json(0, NULL, "seal", "rotate", p->path);
	assert_int_equal(int_of(row(lines, 0), "key"), 2);
	assert_int_equal(int_of(row(lines, 0), "keys"), 2);
	assert_true(bs_time_parse(text_of(row(lines, 0), "created"), 20, &created));
	assert_true(bs_time_parse(text_of(row(lines, 0), "active_from"), 20, &active));
	assert_true(active == created + 300 && llabs(created - time(NULL)) < 30);
	json_decref(lines);
	expect_keys(p, "1:seals 2:waits");
	cli_expect(0, NULL, "seal", "rotate", p->path, "--after", "0");
	expect_keys(p, "1:opens 2:waits 3:seals");
	lines = cli_json(0, NULL, "seal", "rotate", p->path, "--after=0", "--keep", "2");
	assert_int_equal(json_array_size(json_object_get(row(lines, 0), "dropped")), 2);
	json_decref(lines);
	expect_keys(p, "3:opens 4:seals");
	assert_int_equal(n_files(p), 1);
}

static void a_running_process_follows_a_rotation(void **state)
{
	struct seal_place *p = *state;
	struct seal_place old;
	uint64_t deadline = 0;

	cli_expect(0, NULL, "seal", "keygen", p->path);
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	assert_int_equal(seal_one(p), BERTH_OK);
	old = *p;
	cli_expect(0, NULL, "seal", "rotate", p->path, "--after", "0");
	do {
		assert_int_equal(seal_one(p), BERTH_OK);
		assert_int_equal(unseal_one(p), BERTH_OK);
		assert_int_equal(unseal_one(&old), BERTH_OK);
	} while (p->u.key_id != 2 && within(&deadline));
	assert_int_equal(p->u.key_id, 2);
	cli_expect(0, NULL, "seal", "rotate", p->path, "--after", "0", "--keep", "1"); /* a key that leaked */
	deadline = 0;
	while (unseal_one(&old) == BERTH_OK)
		assert_true(within(&deadline));
	assert_int_equal(unseal_one(&old), BERTH_E_UNKNOWN);
}

static void rotate_keeps_owner_mode_and_remarks(void **state)
{
	static const char text[] =
		"# ours, by hand\n"
		"9 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z "
		"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff # old\n"
		"\n"
		"12 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z "
		"ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff # the last line has no end";
	struct seal_place *p = *state;
	bool root = geteuid() == 0;
	struct stat st;

	seal_file_is(p, text, sizeof(text) - 1);
	assert_int_equal(chmod(p->path, 0440), 0);
	if (root)
		assert_int_equal(chown(p->path, 0, 61001), 0);
	cli_expect(0, NULL, "seal", "rotate", p->path);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0440);
	if (root)
		assert_int_equal(st.st_gid, 61001);
	char *now = file_text(p);
	assert_memory_equal(now, text, sizeof(text) - 1);
	assert_memory_equal(now + sizeof(text) - 1, "\n13 20", 6);
	free(now);
	cli_expect(0, NULL, "seal", "rotate", p->path, "--keep", "3");
	now = file_text(p);
	assert_memory_equal(now, "# ours, by hand\n\n12 2026", 24);
	free(now);
	expect_keys(p, "12:seals 13:waits 14:waits");
}

static void a_rotation_that_cannot_be_changes_nothing(void **state)
{
	struct seal_place *p = *state;
	struct seal_spec full[SEAL_KEYS_MAX + 1] = {{0, 0}};
	char other[96];

	json_decref(cli_refused("system", NULL, "seal", "rotate", p->path));
	cli_expect(0, NULL, "seal", "keygen", p->path);
	char *before = file_text(p), *after;
	json_decref(cli_refused("no-key", NULL, "seal", "rotate", p->path, "--keep", "1"));
	cli_expect(2, NULL, "seal", "rotate", p->path, "--keep", "0");
	cli_expect(2, NULL, "seal", "rotate", p->path, "--keep", "65");
	cli_expect(2, NULL, "seal", "rotate", p->path, "--after", "-1");
	cli_expect(2, NULL, "seal", "rotate", p->path, "--after", "31536001");
	cli_expect(2, NULL, "seal", "rotate");
	snprintf(other, sizeof(other), "%s/", p->home);
	json_decref(cli_refused("invalid", NULL, "seal", "rotate", other));

	int dir = open(p->home, O_RDONLY | O_DIRECTORY); /* another one is at it */
	assert_int_equal(flock(dir, LOCK_EX), 0);
	json_decref(cli_refused("busy", NULL, "seal", "rotate", p->path));
	close(dir);
	assert_int_equal(chmod(p->path, 0644), 0);
	json_decref(cli_refused("unsafe", NULL, "seal", "rotate", p->path));
	assert_int_equal(chmod(p->path, 0600), 0);
	snprintf(other, sizeof(other), "%s/link", p->home);
	assert_int_equal(symlink("keys", other), 0);
	json_decref(cli_refused("unsafe", NULL, "seal", "rotate", other));
	assert_int_equal(unlink(other), 0);
	after = file_text(p);
	assert_string_equal(before, after);
	free(before);
	free(after);

	for (uint32_t i = 0; i < SEAL_KEYS_MAX; i++)
		full[i] = (struct seal_spec){i + 1, -1};
	seal_keys_write(p, full);
	json_decref(cli_refused("full", NULL, "seal", "rotate", p->path));
	cli_expect(0, NULL, "seal", "rotate", p->path, "--keep", "64");
	seal_keys_are(p, {UINT32_MAX, -1});
	json_decref(cli_refused("full", NULL, "seal", "rotate", p->path));
	expect_keys(p, "4294967295:seals");
	assert_int_equal(n_files(p), 1);
}

static void what_a_killed_run_left_is_removed(void **state)
{
	struct seal_place *p = *state;
	char left[96];

	cli_expect(0, NULL, "seal", "keygen", p->path);
	snprintf(left, sizeof(left), "%s/.keys.new", p->home);
	int fd = open(left, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, "half", 4), 4);
	close(fd);
	cli_expect(0, NULL, "seal", "rotate", p->path, "--after", "0");
	expect_keys(p, "1:opens 2:seals");
	assert_int_equal(n_files(p), 1);
}

static void no_secret_is_ever_printed(void **state)
{
	struct seal_place *p = *state;
	struct cli c[5];

	seal_keys_are(p, {1, -10}, {2, 3600});
	char *text = file_text(p), secret[9] = "";
	memcpy(secret, strrchr(text, ' ') + 1, 8);
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	assert_int_equal(seal_one(p), BERTH_OK);
	cli_run(&c[0], NULL, "seal", "inspect", p->path);
	cli_check(&c[0], 0, "KEY  CREATED ", NULL);
	cli_check(&c[0], 0, "waits\n", NULL);
	cli_run(&c[1], NULL, "--json", "seal", "inspect", p->path);
	cli_run(&c[2], NULL, "seal", "inspect", p->path, p->envelope);
	cli_run(&c[3], NULL, "seal", "rotate", p->path);
	strchr(text, '\n')[-1] = 'x'; /* a broken line is named, not shown */
	seal_file_is(p, text, strlen(text));
	cli_run(&c[4], NULL, "seal", "inspect", p->path);
	cli_check(&c[4], 1, NULL, "keys, line 1: the secret is not 64 hex digits");
	for (unsigned i = 0; i < 5; i++) {
		assert_null(strstr(c[i].out, secret));
		assert_null(strstr(c[i].err, secret));
		assert_null(strstr(c[i].out, "25262728292a")); /* of key 1 */
		assert_null(strstr(c[i].err, "25262728292a"));
		cli_free(&c[i]);
	}
	assert_non_null(strstr(text, "25262728292a"));
	free(text);
}

static void an_envelope_is_taken_apart_and_judged(void **state)
{
	struct seal_place *p = *state;
	json_t *lines, *wanted;
	struct cli c;

	seal_keys_are(p, {1, -10});
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	assert_int_equal(seal_one(p), BERTH_OK);
	cli_run(&c, NULL, "seal", "inspect", p->path, p->envelope, "--partition", "acme");
	cli_check(&c, 0, "key        1\ncluster    c1\npartition  acme\nid         id\nauthentic  yes\n", NULL);
	cli_free(&c);
	lines = cli_json(0, NULL, "seal", "inspect", p->path, p->envelope);
	wanted = json_pack("{s:i,s:s,s:s,s:s,s:b,s:n}", "key", 1, "cluster", "c1", "partition", "acme", "id", "id",
			   "authentic", 1, "refused");
	assert_true(json_equal(row(lines, 0), wanted));
	json_decref(lines);
	json_decref(wanted);

	lines = cli_json(1, NULL, "seal", "inspect", p->path, p->envelope, "--partition", "acm");
	assert_string_equal(text_of(row(lines, 0), "refused"), "not-owner");
	assert_true(is_true(row(lines, 0), "authentic"));
	json_decref(lines);
	cli_run(&c, NULL, "seal", "inspect", p->path, p->envelope, "--partition", "globex");
	cli_check(&c, 1, "authentic  yes\n", "another partition than globex");
	cli_free(&c);

	seal_keys_are(p, {2, -10});
	lines = cli_json(1, NULL, "seal", "inspect", p->path, p->envelope, "--partition", "acme");
	assert_string_equal(text_of(row(lines, 0), "refused"), "unknown-key");
	json_decref(lines);
	cli_run(&c, NULL, "seal", "inspect", p->path, p->envelope);
	cli_check(&c, 1, "key        1 (not in the file)\n", NULL);
	cli_check(&c, 1, "authentic  no", NULL);
	cli_free(&c);

	seal_keys_are(p, {1, -10});
	p->envelope[p->len / 2] = p->envelope[p->len / 2] == 'A' ? 'B' : 'A';
	lines = cli_json(1, NULL, "seal", "inspect", p->path, p->envelope);
	if (json_object_get(row(lines, 0), "error"))
		assert_string_equal(text_of(json_object_get(row(lines, 0), "error"), "code"), "no-envelope");
	else
		assert_string_equal(text_of(row(lines, 0), "refused"), "not-authentic");
	json_decref(lines);
	json_decref(cli_refused("no-envelope", NULL, "seal", "inspect", p->path, "DXF1ZXJ5QW5kRmV0Y2gBAAAA"));
	json_decref(cli_refused("no-envelope", NULL, "seal", "inspect", p->path, ""));
	cli_expect(2, NULL, "seal", "inspect", p->path, "--partition", "acme");
	cli_expect(2, NULL, "seal", "inspect", p->path, p->envelope, "more");
	cli_expect(2, NULL, "seal", "keygen", p->path, "more");
}

static void hostile_bytes_of_an_envelope_do_not_reach_the_terminal(void **state)
{
	struct seal_place *p = *state;
	struct cli c;

	seal_keys_are(p, {1, -10});
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	assert_int_equal(berth_seal_cursor(p->seal, "c1", 2, "a\033[2Jb", 6, "\n\0\xff", 3, p->envelope,
					   sizeof(p->envelope), &p->len),
			 BERTH_OK);
	cli_run(&c, NULL, "seal", "inspect", p->path, p->envelope);
	cli_check(&c, 0, "partition  a\\x1b[2Jb\n", NULL);
	cli_check(&c, 0, "id         \\x0a\\x00\\xff\n", NULL);
	cli_free(&c);
	json_decref(cli_json(0, NULL, "seal", "inspect", p->path, p->envelope));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SEAL_TEST(keygen_makes_a_file_that_the_library_takes),
		SEAL_TEST(two_files_have_two_secrets),
		SEAL_TEST(rotate_adds_a_key_that_seals_later),
		SEAL_TEST(a_running_process_follows_a_rotation),
		SEAL_TEST(rotate_keeps_owner_mode_and_remarks),
		SEAL_TEST(a_rotation_that_cannot_be_changes_nothing),
		SEAL_TEST(what_a_killed_run_left_is_removed),
		SEAL_TEST(no_secret_is_ever_printed),
		SEAL_TEST(an_envelope_is_taken_apart_and_judged),
		SEAL_TEST(hostile_bytes_of_an_envelope_do_not_reach_the_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
