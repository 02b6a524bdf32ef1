/* SPDX-License-Identifier: MIT
 * What both stores promise, what sqlite: keeps, and whom it refuses. 21-store-disk.c has the kills and the failing
 * disks. */
#include "store_place.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void sql(struct place *p, const char *text)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(p->path, &db), SQLITE_OK);
	if (sqlite3_exec(db, "PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL) ||
	    sqlite3_exec(db, text, NULL, NULL, NULL))
		fail_msg("%s: %s", text, sqlite3_errmsg(db));
	sqlite3_close(db);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
}

static void assert_refused(struct place *p, const char *path, enum refusal_code code, const char *words)
{
	struct store *s = (void *)p;

	memset(&p->r, 0, sizeof(p->r));
	assert_int_equal(p->ops->open(path, &s, &p->r), code);
	assert_null(s);
	assert_int_equal(p->r.code, code);
	if (!strstr(p->r.message, words))
		fail_msg("\"%s\" is not in \"%s\"", words, p->r.message);
}

/* ---- both stores ------------------------------------------------------------------------------------------- */

static void url_picks_a_store_or_is_refused_by_name(void **state)
{
	const struct store_ops *ops;
	const char *argument;
	struct refusal r;

	(void)state;
	assert_int_equal(store_find("sqlite:/a:b", &ops, &argument, &r), R_DONE);
	assert_ptr_equal(ops, &store_sqlite);
	assert_string_equal(argument, "/a:b");
	assert_int_equal(store_find("memory:", &ops, &argument, &r), R_DONE);
	assert_ptr_equal(ops, &store_memory);
	assert_string_equal(argument, "");
	assert_int_equal(store_find("sqlit:/x", &ops, &argument, &r), R_INVALID);
	assert_non_null(strstr(r.message, "sqlit:/x"));
	assert_non_null(strstr(r.message, "sqlite: memory:"));
	assert_int_equal(store_find("sqlite", &ops, &argument, &r), R_INVALID);
	assert_int_equal(store_find(NULL, &ops, &argument, &r), R_INVALID);
}

static void history_is_newest_first_and_of_one_partition_if_asked(void **state)
{
	struct place *p = *state;

	open_store(p);
	for (unsigned i = 0; i < 2; i++) {
		OK(p->ops->begin(p->s, &p->r));
		put_event(p, "a", 3 * i + 1);
		put_event(p, "ab'c", 3 * i + 2);
		put_event(p, NULL, 3 * i + 3);
		OK(p->ops->commit(p->s, &p->r));
	}
	assert_history(p, NULL, 4, "6 set \n5 set ab'c\n4 set a\n3 set \n");
	assert_history(p, "a", 9, "4 set a\n1 set a\n");
	assert_history(p, "ab'c", 1, "5 set ab'c\n");
	assert_history(p, "", 9, "6 set \n3 set \n");
	assert_history(p, "ab", 9, "");
	assert_history(p, NULL, 0, "");
}

static void rollback_leaves_nothing(void **state)
{
	struct place *p = *state;
	bool committed = true;

	open_store(p);
	OK(p->ops->begin(p->s, &p->r));
	OK(p->ops->put_meta(p->s, "epoch", "1", &p->r));
	put(p, "a", 1, "{}", 1);
	put_event(p, "a", 1);
	p->ops->rollback(p->s);
	p->ops->rollback(p->s);
	OK(p->ops->settle(p->s, &committed, &p->r));
	assert_false(committed);
	assert_holds(p, "");
	assert_history(p, NULL, 9, "");
	OK(p->ops->begin(p->s, &p->r));
	OK(p->ops->commit(p->s, &p->r));
	OK(p->ops->settle(p->s, &committed, &p->r));
	assert_true(committed);
	assert_holds(p, "");
	assert_history(p, NULL, 9, "");
}

static void a_visitor_may_leave_out_callbacks_and_stop_early(void **state)
{
	struct place *p = *state;
	struct listing l;
	struct store_visitor v = lister(&l), none = {0};
	uint64_t n = 99;

	open_store(p);
	OK(p->ops->begin(p->s, &p->r));
	for (unsigned i = 1; i < 6; i++) {
		put(p, (char[]){(char)('a' + i), 0}, i, "{}", 0);
		put_event(p, "x", i);
	}
	OK(p->ops->commit(p->s, &p->r));
	assert_int_equal(p->ops->load(p->s, &none, &p->r), 0);
	assert_int_equal(p->ops->history(p->s, NULL, 0, 9, &none, &p->r), 0);
	assert_int_equal(p->ops->count(p->s, &n, &p->r), 0);
	assert_int_equal(n, p->ops->durable ? 5 : 0);
	l.stop_after = 2;
	assert_int_equal(p->ops->history(p->s, NULL, 0, 9, &v, &p->r), 7);
	assert_string_equal(l.text, "5 set x\n4 set x\n");
	l.stop_after = 2;
	assert_int_equal(p->ops->load(p->s, &v, &p->r), p->ops->durable ? 7 : 0);
	l.stop_after = 0; /* and the next one starts at the front again */
	assert_history(p, "x", 1, "5 set x\n");
}

/* ---- memory: ----------------------------------------------------------------------------------------------- */

static void memory_keeps_the_newest_thousand_events(void **state)
{
	struct place *p = *state;
	struct listing l;
	struct store_visitor v = lister(&l);

	open_store(p);
	commit_one(p, "a", 1);
	assert_holds(p, "");
	for (unsigned i = 0; i < 3; i++) {
		OK(p->ops->begin(p->s, &p->r));
		for (unsigned j = 1; j <= 700 * (i + 1); j++)
			put_event(p, j == 1 ? "old" : "new", j);
		OK(p->ops->commit(p->s, &p->r));
	}
	assert_history(p, NULL, 2, "2100 set new\n2099 set new\n");
	assert_history(p, "old", 2, "");
	l.stop_after = 1000;
	v.event = NULL;
	assert_int_equal(p->ops->history(p->s, NULL, 0, 9999, &v, &p->r), 0);
	assert_refused(p, "x", R_INVALID, "memory:x");
}

/* ---- sqlite: round trips ----------------------------------------------------------------------------------- */

static void every_row_comes_back_as_it_was(void **state)
{
	struct place *p = *state;
	char longest[256], expected[2048];
	const char *rows = ""
			   "|9|{\"at\":1}|0\n" /* the default */
			   "%s%n'\"|3|{\"%\":\"'\"}|8000000000000000\n"
			   "a|8796093022207|{}|ffffffffffffffff\n"
			   "gone|5|(none)|2a\n"
			   "p;--|4|{\"x\":\"\xc3\xbc\"}|1\n";

	memset(longest, 'z', 255);
	longest[255] = '\0';
	snprintf(expected, sizeof(expected),
		 "barrier_ms=30000\nepoch=9\n1 c1 http://h:9\n2 (removed) \n65535 c3 \n%s"
		 "%s|6|{}|7\n\xe6\x97\xa5\xe6\x9c\xac|2|{}|0\n",
		 rows, longest);
	open_store(p);
	OK(p->ops->begin(p->s, &p->r));
	OK(p->ops->put_meta(p->s, "epoch", "1", &p->r));
	OK(p->ops->put_meta(p->s, "epoch", "9", &p->r));
	OK(p->ops->put_meta(p->s, "barrier_ms", "30000", &p->r));
	OK(p->ops->put_cluster(p->s, &(struct store_cluster){65535, "c3", ""}, &p->r));
	OK(p->ops->put_cluster(p->s, &(struct store_cluster){1, "c1", "http://h:9"}, &p->r));
	OK(p->ops->put_cluster(p->s, &(struct store_cluster){2, "c2", "http://h:8"}, &p->r));
	OK(p->ops->put_cluster(p->s, &(struct store_cluster){2, NULL, NULL}, &p->r));
	put(p, "\xe6\x97\xa5\xe6\x9c\xac", 2, "{}", 0);
	put(p, "a", SIZE_MAX >> 21, "{}", UINT64_MAX);
	put(p, "%s%n'\"", 3, "{\"%\":\"'\"}", 1ull << 63);
	put(p, "p;--", 4, "{\"x\":\"\xc3\xbc\"}", 1);
	put(p, "gone", 4, "{}", 42);
	put(p, "gone", 5, NULL, 42);
	put(p, "forgotten", 4, "{}", 42);
	put(p, "forgotten", 5, NULL, 0);
	put(p, "never", 5, NULL, 0);
	put(p, longest, 6, "{}", 7);
	OK(p->ops->put_partition(p->s, &(struct store_partition){NULL, 0, 9, "{\"at\":1}", 0}, &p->r));
	put_event(p, NULL, 9);
	OK(p->ops->commit(p->s, &p->r));
	assert_holds(p, expected);
	reopen(p);
	assert_holds(p, expected);
	assert_history(p, "", 5, "9 set \n");
}

static void one_failed_put_fails_the_whole_change(void **state)
{
	struct place *p = *state;
	struct store_partition late = {"b", 1, 2, "{}", 0};

	open_store(p);
	commit_one(p, "kept", 1);
	OK(p->ops->begin(p->s, &p->r));
	put(p, "a", 2, "{}", 0);
	assert_int_equal(p->ops->put_meta(p->s, "epoch", NULL, &p->r), STORE_FAILED);
	assert_non_null(strstr(p->r.message, p->path));
	assert_int_equal(p->ops->put_partition(p->s, &late, &p->r), STORE_FAILED);
	assert_int_equal(p->ops->commit(p->s, &p->r), STORE_FAILED);
	assert_int_equal(p->ops->put_partition(p->s, &late, &p->r), STORE_FAILED); /* outside of any change */
	assert_holds(p, "kept|1|{}|0\n");
	commit_one(p, "c", 3);
	reopen(p);
	assert_holds(p, "c|3|{}|0\nkept|1|{}|0\n");
}

static void only_its_owner_may_read_the_file(void **state)
{
	struct place *p = *state;
	char wal[160];
	struct stat st;
	mode_t mask = umask(0);

	open_store(p);
	umask(mask);
	commit_one(p, "a", 1);
	snprintf(wal, sizeof(wal), "%s-wal", p->path);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(wal, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void idle_shrinks_the_log_and_trims_the_history(void **state)
{
	struct place *p = *state;
	char wal[160], big[4001], key[16];
	struct stat st;

	memset(big, 'x', 4000);
	big[4000] = '\0';
	open_store(p);
	OK(p->ops->begin(p->s, &p->r));
	for (unsigned i = 0; i < 6000; i++) {
		snprintf(key, sizeof(key), "%u", i);
		put(p, key, i, big, 0);
	}
	for (unsigned i = 1; i <= 3; i++)
		put_event(p, "a", i);
	OK(p->ops->commit(p->s, &p->r));
	snprintf(wal, sizeof(wal), "%s-wal", p->path);
	assert_int_equal(stat(wal, &st), 0);
	assert_true(st.st_size > 16 << 20);
	p->ops->idle(p->s);
	assert_int_equal(stat(wal, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_history(p, "a", 9, "3 set a\n2 set a\n1 set a\n");
	p->ops->close(&p->s);
	sql(p, "INSERT INTO history VALUES(1000002,9000,9,'uid=0 pid=1 comm=test','set','a','',1)");
	open_store(p);
	p->ops->idle(p->s);
	assert_history(p, "a", 9, "9 set a\n3 set a\n");
}

/* ---- sqlite: whom it refuses ------------------------------------------------------------------------------- */

static void a_second_daemon_is_refused_and_told_of_the_first(void **state)
{
	struct place *p = *state;
	char pid[32];
	int status;
	pid_t child;

	open_store(p);
	snprintf(pid, sizeof(pid), "process %ld:", (long)getpid());
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		struct store *s;
		struct refusal r;

		_exit(p->ops->open(p->path, &s, &r) == R_BACKEND && strstr(r.message, pid) ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	commit_one(p, "a", 1);
	reopen(p);
	assert_holds(p, "a|1|{}|0\n");
}

static void a_foreign_reader_keeps_the_daemon_out(void **state)
{
	struct place *p = *state;
	int up[2], down[2], status;
	char byte;
	pid_t child;

	sql(p, "PRAGMA user_version=0"); /* an empty database */
	assert_int_equal(pipe(up) | pipe(down), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		sqlite3 *db;

		sqlite3_open(p->path, &db);
		if (sqlite3_exec(db, "PRAGMA journal_mode=DELETE; BEGIN EXCLUSIVE", NULL, NULL, NULL) ||
		    write(up[1], "x", 1) != 1)
			_exit(1);
		close(down[1]);
		_exit(read(down[0], &byte, 1) == 0 ? 0 : 1);
	}
	close(down[0]);
	assert_int_equal(read(up[0], &byte, 1), 1);
	assert_refused(p, p->path, R_BACKEND, "in use by process");
	close(down[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(up[0]);
	close(up[1]);
	open_store(p);
}

static void what_is_not_ours_is_refused_untouched(void **state)
{
	struct place *p = *state;
	struct stat before, after;

	sql(p, "CREATE TABLE recipes(x); INSERT INTO recipes VALUES(1)");
	chmod(p->path, 0600);
	assert_int_equal(stat(p->path, &before), 0);
	assert_refused(p, p->path, R_INVALID, "another application");
	assert_int_equal(stat(p->path, &after), 0);
	assert_int_equal(before.st_size, after.st_size);
	assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim));
	unlink(p->path);

	write_file(p->path, "Dear diary, this is no database, and long enough to tell by a look at its first bytes.",
		   0600);
	assert_refused(p, p->path, R_INVALID, "not a database");
	unlink(p->path);

	open_store(p);
	p->ops->close(&p->s);
	sql(p, "PRAGMA user_version=2");
	assert_refused(p, p->path, R_INVALID, "schema 2");
}

static void a_path_that_cannot_work_is_refused_in_words(void **state)
{
	struct place *p = *state;
	char path[512];

	assert_refused(p, "", R_INVALID, "needs a path");
	assert_refused(p, p->dir, R_INVALID, "is a directory");
	assert_refused(p, "/dev/null", R_INVALID, "not a regular file");
	snprintf(path, sizeof(path), "%s/no/db", p->dir);
	assert_refused(p, path, R_BACKEND, "make its directory first");
	assert_non_null(strstr(p->r.message, path));
	write_file(p->path, "", 0600);
	snprintf(path, sizeof(path), "%s/db/db", p->dir);
	assert_refused(p, path, R_BACKEND, "a part of the path is a file");
	snprintf(path, sizeof(path), "%s/%0300d", p->dir, 0);
	assert_refused(p, path, R_BACKEND, "too long");
	assert_non_null(strstr(p->r.message, "can be opened"));
	chmod(p->path, 0620);
	assert_refused(p, p->path, R_BACKEND, "chmod 600");
}

static void a_directory_without_write_permission_is_refused_in_words(void **state)
{
	struct place *p = *state;

	if (!geteuid()) {
		print_message("SKIP: root is not bound by the modes of directories\n");
		skip();
	}
	chmod(p->dir, 0500);
	assert_refused(p, p->path, R_BACKEND, "must be writable");
	chmod(p->dir, 0700);
	write_file(p->path, "", 0400);
	assert_refused(p, p->path, R_BACKEND, "must be writable");
}

static void a_file_that_was_taken_away_takes_no_change(void **state)
{
	struct place *p = *state;
	char aside[160];

	open_store(p);
	commit_one(p, "a", 1);
	snprintf(aside, sizeof(aside), "%s-aside", p->path);
	rename(p->path, aside);
	assert_int_equal(p->ops->begin(p->s, &p->r), STORE_FAILED);
	write_file(p->path, "", 0600);
	assert_int_equal(p->ops->begin(p->s, &p->r), STORE_FAILED);
	assert_non_null(strstr(p->r.message, "not the file that was opened"));
	rename(aside, p->path);
	commit_one(p, "b", 2);
	reopen(p);
	assert_holds(p, "a|1|{}|0\nb|2|{}|0\n");
}

#define ON_ALL(test) ON(test, store_sqlite), ON(test, store_memory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(url_picks_a_store_or_is_refused_by_name),
		ON_ALL(history_is_newest_first_and_of_one_partition_if_asked),
		ON_ALL(rollback_leaves_nothing),
		ON_ALL(a_visitor_may_leave_out_callbacks_and_stop_early),
		ON(memory_keeps_the_newest_thousand_events, store_memory),
		ON(every_row_comes_back_as_it_was, store_sqlite),
		ON(one_failed_put_fails_the_whole_change, store_sqlite),
		ON(only_its_owner_may_read_the_file, store_sqlite),
		ON(idle_shrinks_the_log_and_trims_the_history, store_sqlite),
		ON(a_second_daemon_is_refused_and_told_of_the_first, store_sqlite),
		ON(a_foreign_reader_keeps_the_daemon_out, store_sqlite),
		ON(what_is_not_ours_is_refused_untouched, store_sqlite),
		ON(a_path_that_cannot_work_is_refused_in_words, store_sqlite),
		ON(a_directory_without_write_permission_is_refused_in_words, store_sqlite),
		ON(a_file_that_was_taken_away_takes_no_change, store_sqlite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
