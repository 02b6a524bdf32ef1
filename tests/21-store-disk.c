/* SPDX-License-Identifier: MIT
 * What sqlite: keeps when its process is killed, and what it says when its disk fails: the acknowledged is there, the
 * refused is not, and `settle` tells the truth. */
#include "bad_disk.h"
#include "store_place.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- kills ----------------------------------------------------------------------------------------- */

static void must(bool condition) /* in a child: no unwinding into the parent's tests */
{
	if (!condition)
		_exit(1);
}

static void child_puts(struct place *p, const char *prefix, unsigned i, const char *state)
{
	char key[16];
	int n = snprintf(key, sizeof(key), "%s%u", prefix, i);
	struct store_partition row = {key, (size_t)n, i, state, 0};

	must(p->ops->put_partition(p->s, &row, &p->r) == STORE_OK);
}

/* Commits 1, 2, 3, … each acknowledged by a byte; after `commits` of them stops in the middle of the next one, with
 * more written than the cache holds, so that a part of it is in the log. */
static void child_commits(struct place *p, unsigned commits, int up)
{
	char big[4001];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memset(big, 'x', 4000);
	big[4000] = '\0';
	must(p->ops->open(p->path, &p->s, &p->r) == 0);
	for (unsigned i = 1; i <= commits; i++) {
		must(p->ops->begin(p->s, &p->r) == STORE_OK);
		child_puts(p, "k", i, "{}");
		must(p->ops->commit(p->s, &p->r) == STORE_OK);
		must(write(up, "x", 1) == 1);
	}
	must(p->ops->begin(p->s, &p->r) == STORE_OK);
	for (unsigned i = 0; i < 10000; i++)
		child_puts(p, "lost", i, big);
	must(write(up, "y", 1) == 1);
	for (;;)
		pause();
}

static void a_kill_loses_what_was_not_acknowledged_and_that_alone(void **state)
{
	struct place *p = *state;
	struct stat st;
	char wal[160], byte = 0;
	int up[2];
	pid_t child;

	assert_int_equal(pipe(up), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child)
		child_commits(p, 3, up[1]);
	close(up[1]);
	while (read(up[0], &byte, 1) == 1 && byte != 'y')
		;
	assert_int_equal(byte, 'y');
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(up[0]);
	snprintf(wal, sizeof(wal), "%s-wal", p->path);
	assert_int_equal(stat(wal, &st), 0);
	assert_true(st.st_size > 4 << 20); /* the lost one did reach the log */
	open_store(p);
	assert_holds(p, "k1|1|{}|0\nk2|2|{}|0\nk3|3|{}|0\n");
}

static void a_kill_between_acknowledgements_loses_none(void **state)
{
	struct place *p = *state;

	for (unsigned round = 1; round <= 5; round++) {
		unsigned acknowledged = 0;
		uint64_t n;
		char byte;
		int up[2];
		pid_t child;

		unlink(p->path);
		assert_int_equal(pipe(up), 0);
		child = fork();
		assert_true(child >= 0);
		if (!child)
			child_commits(p, 100000, up[1]);
		close(up[1]);
		while (acknowledged < 7 * round && read(up[0], &byte, 1) == 1)
			acknowledged++;
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, NULL, 0), child);
		while (read(up[0], &byte, 1) == 1)
			acknowledged++;
		close(up[0]);
		open_store(p);
		assert_int_equal(p->ops->count(p->s, &n, &p->r), 0);
		assert_in_range(n, acknowledged, acknowledged + 1);
		p->ops->close(&p->s);
	}
}

/* ---- a disk that fails ------------------------------------------------------------------------------ */

static ino_t unsyncable;

/* In place of libc's, for all of this program: fails for the file of that number. */
int fsync(int fd)
{
	struct stat st;

	if (unsyncable && !fstat(fd, &st) && st.st_ino == unsyncable) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static void copy(const char *from, const char *to)
{
	char buffer[65536];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ssize_t n;

	assert_true(out >= 0);
	while (in >= 0 && (n = read(in, buffer, sizeof(buffer))) > 0)
		assert_int_equal(write(out, buffer, (size_t)n), n);
	if (in >= 0)
		close(in);
	close(out);
}

/* What a daemon would find that starts after a kill at this moment. */
static void assert_crash_holds(struct place *p, const char *expected)
{
	struct place image = {.ops = p->ops};
	char from[160], to[160];

	snprintf(image.path, sizeof(image.path), "%.100s-image", p->path);
	copy(p->path, image.path);
	snprintf(from, sizeof(from), "%s-wal", p->path);
	snprintf(to, sizeof(to), "%s-wal", image.path);
	copy(from, to);
	open_store(&image);
	assert_holds(&image, expected);
	image.ops->close(&image.s);
}

/* One commit with a fault at its Nth write or sync, then settle. False when the fault was past its end. */
static bool commit_on_bad_disk(struct place *p, struct disk fault, unsigned *n_in, unsigned *n_out)
{
	static const char without[] = "a|1|{}|0\n", with[] = "a|1|{}|0\nb|2|{}|0\n";
	enum store_result result;
	bool in = false;

	unlink(p->path);
	open_store(p);
	commit_one(p, "a", 1);
	OK(p->ops->begin(p->s, &p->r));
	put(p, "b", 2, "{}", 0);
	disk = fault;
	result = p->ops->commit(p->s, &p->r);
	if (result == STORE_OK) {
		memset(&disk, 0, sizeof(disk));
		assert_crash_holds(p, with);
		p->ops->close(&p->s);
		return false;
	}
	assert_non_null(strstr(p->r.message, p->path));
	if (result == STORE_UNKNOWN) {
		struct listing l;
		struct store_visitor v = lister(&l);
		struct refusal r;

		assert_int_equal(p->ops->begin(p->s, &r), STORE_FAILED);
		assert_int_equal(p->ops->load(p->s, &v, &r), -1);
		p->ops->rollback(p->s); /* must not make it known */
		p->ops->idle(p->s);
		if (p->ops->settle(p->s, &in, &p->r) == STORE_UNKNOWN) { /* still failing */
			assert_non_null(strstr(p->r.message, p->path));
			assert_int_equal(p->ops->begin(p->s, &r), STORE_FAILED);
			memset(&disk, 0, sizeof(disk));
			OK(p->ops->settle(p->s, &in, &p->r));
		}
	}
	memset(&disk, 0, sizeof(disk));
	*(in ? n_in : n_out) += 1;
	assert_crash_holds(p, in ? with : without);
	assert_holds(p, in ? with : without);
	commit_one(p, "c", 3);
	assert_crash_holds(p, in ? "a|1|{}|0\nb|2|{}|0\nc|3|{}|0\n" : "a|1|{}|0\nc|3|{}|0\n");
	p->ops->close(&p->s);
	return true;
}

static void after_a_failed_commit_settle_tells_what_the_disk_holds(void **state)
{
	struct place *p = *state;
	unsigned in = 0, out = 0;

	for (int n = 1; commit_on_bad_disk(p, (struct disk){.fail_write = n, .code = SQLITE_IOERR_WRITE}, &in, &out);
	     n++)
		assert_true(n < 100);
	assert_int_equal(in, 0); /* its end was cut each time */
	assert_true(out > 2);
	out = 0;
	for (int n = 1; commit_on_bad_disk(p, (struct disk){.fail_sync = n}, &in, &out); n++)
		assert_true(n < 100);
	assert_int_equal(in, 1);
	assert_int_equal(out, 0);
}

static void a_full_disk_refuses_and_leaves_nothing(void **state)
{
	struct place *p = *state;

	open_store(p);
	commit_one(p, "a", 1);
	for (int n = 1;; n++) {
		enum store_result result;

		OK(p->ops->begin(p->s, &p->r));
		put(p, "b", 2, "{}", 0);
		disk = (struct disk){.fail_write = n, .code = SQLITE_FULL};
		result = p->ops->commit(p->s, &p->r);
		memset(&disk, 0, sizeof(disk));
		if (result == STORE_OK) {
			assert_true(n > 2);
			break;
		}
		assert_int_equal(result, STORE_FAILED);
		assert_int_equal(p->r.code, R_BACKEND);
		assert_non_null(strstr(p->r.message, "free space"));
		assert_holds(p, "a|1|{}|0\n");
		assert_crash_holds(p, "a|1|{}|0\n");
	}
	assert_crash_holds(p, "a|1|{}|0\nb|2|{}|0\n");
}

static void closed_in_doubt_the_next_daemon_finds_it_whole_or_not(void **state)
{
	struct place *p = *state;

	for (int i = 0; i < 2; i++) {
		unlink(p->path);
		open_store(p);
		commit_one(p, "a", 1);
		OK(p->ops->begin(p->s, &p->r));
		put(p, "b", 2, "{}", 0);
		if (i)
			disk.fail_sync = 1;
		else
			disk = (struct disk){.fail_write = 3, .code = SQLITE_IOERR_WRITE};
		assert_int_equal(p->ops->commit(p->s, &p->r), STORE_UNKNOWN);
		memset(&disk, 0, sizeof(disk));
		p->ops->close(&p->s);
		open_store(p);
		assert_holds(p, i ? "a|1|{}|0\nb|2|{}|0\n" : "a|1|{}|0\n");
		p->ops->close(&p->s);
	}
}

/* The log's end cannot be read when settle looks, and can again when the next daemon does: `not in` must stay true. */
static void what_settle_called_lost_stays_lost(void **state)
{
	struct place *p = *state;
	char wal[160];
	struct stat st;
	bool in = true;

	open_store(p);
	commit_one(p, "a", 1);
	snprintf(wal, sizeof(wal), "%s-wal", p->path);
	assert_int_equal(stat(wal, &st), 0);
	OK(p->ops->begin(p->s, &p->r));
	put(p, "b", 2, "{}", 0);
	disk.fail_sync = 1;
	assert_int_equal(p->ops->commit(p->s, &p->r), STORE_UNKNOWN);
	disk = (struct disk){.hide_from = st.st_size};
	OK(p->ops->settle(p->s, &in, &p->r));
	memset(&disk, 0, sizeof(disk));
	assert_false(in);
	assert_crash_holds(p, "a|1|{}|0\n");
}

static void in_doubt_the_store_stays_claimed(void **state)
{
	struct place *p = *state;
	bool in = true;
	int status;
	pid_t child;

	open_store(p);
	commit_one(p, "a", 1);
	OK(p->ops->begin(p->s, &p->r));
	disk = (struct disk){.fail_write = 1, .code = SQLITE_IOERR_WRITE};
	assert_int_equal(p->ops->commit(p->s, &p->r), STORE_UNKNOWN);
	assert_int_equal(p->ops->settle(p->s, &in, &p->r), STORE_UNKNOWN); /* nothing is open now but the claim */
	memset(&disk, 0, sizeof(disk));
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		struct store *s;
		struct refusal r;

		must(p->ops->open(p->path, &s, &r) == R_BACKEND && strstr(r.message, "in use by"));
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	OK(p->ops->settle(p->s, &in, &p->r));
	assert_false(in);
}

/* What the kernel still shows after a failed sync may be nowhere on the disk: it is written and synced before use. */
static void a_log_that_cannot_be_synced_is_not_believed(void **state)
{
	struct place *p = *state;
	struct store *s;
	char wal[160];
	struct stat st;

	open_store(p);
	commit_one(p, "a", 1);
	OK(p->ops->begin(p->s, &p->r));
	put(p, "b", 2, "{}", 0);
	disk.fail_sync = 1;
	assert_int_equal(p->ops->commit(p->s, &p->r), STORE_UNKNOWN);
	p->ops->close(&p->s);
	memset(&disk, 0, sizeof(disk));
	snprintf(wal, sizeof(wal), "%s-wal", p->path);
	assert_int_equal(stat(wal, &st), 0);
	unsyncable = st.st_ino;
	assert_int_equal(p->ops->open(p->path, &s, &p->r), R_BACKEND);
	unsyncable = 0;
	assert_non_null(strstr(p->r.message, "make its log (-wal) durable"));
	open_store(p);
	assert_holds(p, "a|1|{}|0\nb|2|{}|0\n");
}

static void a_failure_within_a_change_refuses_it_and_connects_anew(void **state)
{
	struct place *p = *state;
	char key[16], big[4001];
	enum store_result result = STORE_OK;
	unsigned opens;

	memset(big, 'x', 4000);
	big[4000] = '\0';
	open_store(p);
	commit_one(p, "a", 1);
	OK(p->ops->begin(p->s, &p->r));
	disk = (struct disk){.fail_write = 5, .code = SQLITE_IOERR_WRITE};
	for (unsigned i = 0; i < 20000 && result == STORE_OK; i++) { /* more than the cache holds */
		struct store_partition row = {key, (size_t)snprintf(key, sizeof(key), "b%u", i), 2, big, 0};

		result = p->ops->put_partition(p->s, &row, &p->r);
	}
	assert_int_equal(result, STORE_FAILED);
	p->ops->rollback(p->s);
	memset(&disk, 0, sizeof(disk));
	opens = disk_log_opens;
	commit_one(p, "c", 3);
	assert_int_equal(disk_log_opens, opens + 1);
	assert_crash_holds(p, "a|1|{}|0\nc|3|{}|0\n");
}

static void a_failure_when_idle_connects_anew_and_loses_nothing(void **state)
{
	struct place *p = *state;
	unsigned opens;
	sqlite3 *db;

	open_store(p);
	commit_one(p, "a", 1);
	p->ops->close(&p->s);
	assert_int_equal(sqlite3_open(p->path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db,
				      "PRAGMA locking_mode=EXCLUSIVE;"
				      "INSERT INTO history VALUES(1,0,0,'','','','',1),(9000000,0,0,'','','','',1)",
				      NULL, NULL, NULL),
			 SQLITE_OK);
	sqlite3_close(db);
	open_store(p);
	disk.fail_sync = 1;
	p->ops->idle(p->s);
	p->ops->idle(p->s);
	memset(&disk, 0, sizeof(disk));
	opens = disk_log_opens;
	commit_one(p, "b", 2);
	assert_int_equal(disk_log_opens, opens + 1);
	assert_crash_holds(p, "a|1|{}|0\nb|2|{}|0\n");
}

static int make_disk(void **state)
{
	memset(&disk, 0, sizeof(disk));
	return make_place(state);
}

static int remove_disk(void **state)
{
	memset(&disk, 0, sizeof(disk));
	return remove_place(state);
}

#define ON_DISK(test) \
	cmocka_unit_test_prestate_setup_teardown(test, make_disk, remove_disk, (void *)(uintptr_t)&store_sqlite)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_DISK(a_kill_loses_what_was_not_acknowledged_and_that_alone),
		ON_DISK(a_kill_between_acknowledgements_loses_none),
		ON_DISK(after_a_failed_commit_settle_tells_what_the_disk_holds),
		ON_DISK(a_full_disk_refuses_and_leaves_nothing),
		ON_DISK(what_settle_called_lost_stays_lost),
		ON_DISK(in_doubt_the_store_stays_claimed),
		ON_DISK(closed_in_doubt_the_next_daemon_finds_it_whole_or_not),
		ON_DISK(a_log_that_cannot_be_synced_is_not_believed),
		ON_DISK(a_failure_within_a_change_refuses_it_and_connects_anew),
		ON_DISK(a_failure_when_idle_connects_anew_and_loses_nothing),
	};

	disk_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
