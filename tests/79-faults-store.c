/* SPDX-License-Identifier: MIT
 * What goes on failing: syncs of the store, every write to it, a file system that is read-only, calls that a signal
 * interrupts all the time, transfers that are never whole. A change that was not acknowledged is taken back or adopted
 * before the next one; what was acknowledged is there after a kill; the daemon neither spins nor ends. Real files;
 * faults/interpose.c makes the failures. Root for the file system that is read-only. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault_judge.h"

static struct fault_place *p;

static void refused(json_t *answer, const char *code)
{
	if (!answer || fault_done(answer) || strcmp(fault_code(answer), code) != 0)
		fault_fail(p, "not refused with %s: %s", code, answer ? json_dumps(answer, 0) : "(closed)");
	json_decref(answer);
}

/* ---- the disk --------------------------------------------------------------------------------------------------- */

/* The sync of a commit fails, alone or with all after it. */
static void sync_fails(bool lasting)
{
	char next[32];

	fault_must(p, fault_set(p, "globex", "one"));
	fault_count(p->plan);
	fault_arm(p->plan, CALL_FSYNC, 1, EIO, lasting, "store.db-wal");
	refused(fault_set(p, "globex", "two"), "backend");
	if (!fault_index_is(p, "globex", "one"))
		fault_fail(p, "readers see what was not acknowledged");
	/* Nothing is taken before the log has been read back and synced anew, and that fails too. */
	for (unsigned i = 0; lasting && i < 5; i++)
		refused(fault_set(p, "acme", "late"), "backend");
	assert_true(fault_disarm(p->plan) > 0);
	snprintf(next, sizeof next, "next-%u", p->turn++);
	fault_must(p, fault_set(p, "many-0", next));
	/* The log was opened, which no commit does, and synced once more before that of this change. */
	if (atomic_load(&p->plan->passes[CALL_OPEN]) == 0 || atomic_load(&p->plan->passes[CALL_FSYNC]) < 3)
		fault_fail(p,
			   "the next change is written behind a log that was not read back: opened %llu times, synced "
			   "%llu",
			   (unsigned long long)atomic_load(&p->plan->passes[CALL_OPEN]),
			   (unsigned long long)atomic_load(&p->plan->passes[CALL_FSYNC]));
	if (!fault_index_is(p, "globex", "one") && !fault_index_is(p, "globex", "two"))
		fault_fail(p, "globex is neither where it was nor where it was to go");
	assert_true(fault_index_is(p, "many-0", next));
	assert_true(fault_index_is(p, "acme", "acme-index"));
	fault_restart(p, true);
}

static void a_sync_that_failed_is_not_believed_the_next_time(void **state)
{
	p = fault_needed(state);
	snprintf(p->doing, sizeof p->doing, "one sync fails");
	for (unsigned i = 0; i < 10; i++)
		sync_fails(false);
}

static void while_syncs_fail_nothing_is_taken(void **state)
{
	p = fault_needed(state);
	snprintf(p->doing, sizeof p->doing, "all syncs fail");
	for (unsigned i = 0; i < 5; i++)
		sync_fails(true);
}

/* A sync that fails, and a kill before anything was asked: whole or not at all, and the next daemon agrees with itself. */
static void killed_after_a_failed_sync_it_starts_with_the_change_or_without(void **state)
{
	struct berth_route was, is;

	p = fault_needed(state);
	snprintf(p->doing, sizeof p->doing, "a sync fails, then a kill");
	for (unsigned i = 0; i < 10; i++) {
		fault_must(p, fault_set(p, "globex", "one"));
		assert_true(fault_route(p, "globex", &was));
		fault_arm(p->plan, CALL_FSYNC, 1, EIO, i % 2, "store.db");
		refused(fault_set(p, "globex", "two"), "backend");
		daemon_kill(&p->d);
		fault_disarm(p->plan);
		fault_place_again(p);
		assert_true(fault_route(p, "globex", &is));
		if (!(fault_index_is(p, "globex", "one") && is.epoch == was.epoch) &&
		    !(fault_index_is(p, "globex", "two") && is.epoch > was.epoch))
			fault_fail(p, "globex has epoch %llu, it had %llu", (unsigned long long)is.epoch,
				   (unsigned long long)was.epoch);
		fault_restart(p, true);
	}
}

/* As a disk does that the kernel has made read-only: what is open for writing is not written any more. */
static void a_store_that_becomes_read_only_refuses_changes_and_serves_the_rest(void **state)
{
	static const enum fault_call calls[] = {CALL_PWRITE, CALL_FTRUNCATE, CALL_OPEN};
	uint64_t cpu;

	p = fault_needed(state);
	fault_must(p, fault_set(p, "globex", "one"));
	for (unsigned i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		char *before = fault_view(p);

		snprintf(p->doing, sizeof p->doing, "every %s of the store fails with EROFS", fault_name(calls[i]));
		fault_arm(p->plan, calls[i], 1, EROFS, true, "store.db");
		cpu = fault_cpu_ms(p);
		for (unsigned k = 0; k < 10; k++) {
			json_t *answer = fault_set(p, "globex", "two");

			if (calls[i] == CALL_PWRITE)
				refused(answer, "backend");
			else
				json_decref(answer); /* a commit neither opens nor cuts, as a rule */
			if (calls[i] != CALL_PWRITE)
				fault_must(p, fault_set(p, "globex", "one"));
			usleep(20000);
		}
		if (fault_cpu_ms(p) - cpu > 150)
			fault_fail(p, "it took %llu ms of 200 to do nothing",
				   (unsigned long long)(fault_cpu_ms(p) - cpu));
		assert_true(fault_index_is(p, "globex", "one"));
		fault_disarm(p->plan);
		fault_must(p, fault_set(p, "globex", "one"));
		fault_expect_view(p, before, calls[i] == CALL_PWRITE ? NULL : "globex");
		free(before);
		fault_restart(p, true);
	}
}

static void a_start_on_a_read_only_file_system_is_refused_and_changes_nothing(void **state)
{
	char place[76], *log;

	p = fault_needed(state);
	if (!own_mounts())
		skip();
	daemon_stop(&p->d);
	snprintf(place, sizeof place, "%s/disk", p->d.home);
	assert_int_equal(mkdir(place, 0755), 0);
	if (mount("disk", place, "tmpfs", 0, "size=8m,mode=0755") != 0)
		SKIP("a tmpfs cannot be mounted: %s", strerror(errno));
	snprintf(p->d.store, sizeof p->d.store, "sqlite:%s/store.db", place);
	snprintf(p->d.dir, sizeof p->d.dir, "%s/j", p->d.home);
	snprintf(p->doing, sizeof p->doing, "a read-only file system");
	fault_place_again(p);
	fault_place_admin(p);
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c1");
	fault_must(p, fault_set(p, "globex", "one"));
	daemon_kill(&p->d);
	assert_int_equal(mount("disk", place, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
	assert_int_equal(truncate(p->d.log, 0), 0);
	assert_int_equal(daemon_start_refused(&p->d, NULL), 1);
	log = daemon_log(&p->d);
	if (!strstr(log, "Read-only file system") || !strstr(log, "store.db") || !strstr(log, "must be writable"))
		fault_fail(p, "it does not say why");
	free(log);
	assert_int_equal(mount("disk", place, NULL, MS_REMOUNT, NULL), 0);
	fault_place_again(p);
	answer_expect_refused(fault_ask(p, "cutover", "{s:s}", "partition", "globex"),
			      "not-migrating"); /* it is there */
	daemon_stop(&p->d);
	assert_int_equal(umount(place), 0);
}

/* ---- interrupted, and in parts ---------------------------------------------------------------------------------- */

static void a_load_of_work(unsigned n)
{
	json_t *names = json_array();
	char index[32];
	struct berth *b;

	for (unsigned i = 0; i < n; i++) {
		snprintf(index, sizeof index, "index-%u", i);
		fault_must(p, fault_set(p, "globex", index));
		if (!fault_index_is(p, "globex", index))
			fault_fail(p, "it is acknowledged, and not done");
	}
	for (unsigned i = 0; i < 400; i++)
		json_array_append_new(names, json_sprintf("many-%u", i));
	fault_must(p, fault_ask(p, "set", "{s:o, s:{s:s, s:s}}", "partitions", names, "placement", "mode",
				"dedicated-cluster", "cluster", "c1")); /* it grows */
	fault_send_document(p, "loaded");
	fault_must(p, fault_answer(p, "load"));
	assert_true(fault_index_is(p, "doc-a", "loaded") && fault_index_is(p, "doc-b", "loaded"));
	fault_must(p, fault_set(p, "mover", "here"));
	fault_must(p, fault_ask(p, "begin", "{s:s, s:{s:s, s:s}}", "partition", "mover", "to", "mode",
				"dedicated-cluster", "cluster", "c2"));
	fault_must(p, fault_ask(p, "cutover", "{s:s}", "partition", "mover"));
	fault_must(p, fault_ask(p, "complete", "{s:s, s:b}", "partition", "mover", "force", 1));
	for (unsigned i = 0; i < 5; i++) {
		const struct berth_attach_options o = {.size = sizeof o, .cursors = BERTH_CURSORS_PIN};
		struct berth_reader *r;

		assert_int_equal(berth_attach(p->d.dir, &o, &b), BERTH_OK);
		assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
		for (uint64_t deadline = 0; berth_maintain(b) != BERTH_OK;)
			assert_true(within(&deadline));
		assert_int_equal(berth_cursor_pin(r, "cursor", 6, 1, "acme", 4, 60000, DAEMON_MS), BERTH_OK);
		berth_reader_close(&r);
		assert_int_equal(berth_detach(&b), BERTH_OK);
	}
}

/* libuv answers some failures with abort(): of epoll_ctl when a connection comes, of its eventfd when a document has been
 * read. The end of a process like another one: what was in flight is there whole or not at all. */
static void when_libuv_aborts_the_next_start_has_all_that_was_acknowledged(void **state)
{
	static const enum fault_call calls[] = {CALL_EPOLL_CTL, CALL_WRITE, CALL_READ};
	char index[32];

	p = fault_needed(state);
	for (unsigned i = 0; i < 12; i++) {
		enum fault_call call = calls[i % 3];
		struct wire w;
		char *before;
		int status;

		snprintf(p->doing, sizeof p->doing, "a %s of libuv fails", fault_name(call));
		snprintf(index, sizeof index, "index-%u", i);
		fault_must(p, fault_set(p, "globex", index));
		before = fault_view(p);
		atomic_store(&p->plan->libuv_too, 1);
		/* Of a connection: tries, with an error for us; takes back; forgets, unasked; adds. */
		fault_arm(p->plan, call, call == CALL_EPOLL_CTL ? 2 + i / 3 % 2 * 2 : 1, EIO, false,
			  call == CALL_EPOLL_CTL ? NULL : "eventfd");
		if (call == CALL_EPOLL_CTL) {
			wire_open(&w, &p->d, WIRE_ADMIN);
			wire_close(&w);
		} else {
			fault_send_document(p, index);
		}
		if (poll(&(struct pollfd){.fd = p->d.pidfd, .events = POLLIN}, 1, DAEMON_MS) != 1)
			fault_fail(p, "it lives on, %u failed", fault_disarm(p->plan));
		status = daemon_wait(&p->d);
		fault_disarm(p->plan);
		atomic_store(&p->plan->libuv_too, 0);
		if (status != 128 + SIGABRT || atomic_load(&p->plan->libuv_aborts) != i + 1)
			fault_fail(p, "it ended with %d", status);
		fault_place_again(p);
		fault_expect_view(p, before, NULL);
		free(before);
		fault_send_document(p, index);
		fault_must(p, fault_answer(p, "load"));
		assert_true(fault_index_is(p, "doc-a", index) && fault_index_is(p, "doc-b", index));
	}
}

static void signals_all_the_time_fail_nothing(void **state)
{
	uint64_t signals;

	p = fault_needed(state);
	snprintf(p->doing, sizeof p->doing, "a signal every 150 us");
	daemon_kill(&p->d);
	atomic_store(&p->plan->storm_us, 150);
	fault_place_again(p); /* under them already */
	fault_maintained(p);
	a_load_of_work(100);
	fault_restart(p, true);
	signals = atomic_load(&p->plan->signals);
	assert_int_equal(daemon_stop(&p->d), 0);
	printf("note: %llu signals\n", (unsigned long long)signals);
	assert_true(signals > 100);
	atomic_store(&p->plan->storm_us, 0);
	fault_place_again(p);
}

static void transfers_that_are_never_whole_fail_nothing(void **state)
{
	static const enum fault_call calls[] = {CALL_READ, CALL_PREAD,   CALL_WRITE,  CALL_PWRITE,
						CALL_SEND, CALL_SENDMSG, CALL_RECVMSG};
	unsigned met = 0;

	p = fault_needed(state);
	for (unsigned i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		snprintf(p->doing, sizeof p->doing, "every %s is half of it", fault_name(calls[i]));
		daemon_kill(&p->d);
		fault_arm(p->plan, calls[i], 1, FAULT_SHORT, true, NULL);
		fault_place_again(p);
		a_load_of_work(10);
		met += fault_disarm(p->plan) > 0;
		fault_restart(p, true);
		fault_must(p, fault_ask(p, "remove", "{s:s, s:b}", "partition", "mover", "force", 1));
		daemon_stop(&p->d); /* what the next one makes grow is there already: another place */
		fault_place_remove(p);
		fault_place_make(p, "sqlite", (const char *const[]){NULL});
	}
	assert_true(met >= 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(a_sync_that_failed_is_not_believed_the_next_time, "sqlite"),
		FAULT_TEST(while_syncs_fail_nothing_is_taken, "sqlite"),
		FAULT_TEST(killed_after_a_failed_sync_it_starts_with_the_change_or_without, "sqlite"),
		FAULT_TEST(a_store_that_becomes_read_only_refuses_changes_and_serves_the_rest, "sqlite"),
		FAULT_TEST(a_start_on_a_read_only_file_system_is_refused_and_changes_nothing, "sqlite"),
		FAULT_TEST(when_libuv_aborts_the_next_start_has_all_that_was_acknowledged, "sqlite"),
		FAULT_TEST(signals_all_the_time_fail_nothing, "sqlite"),
		FAULT_TEST(transfers_that_are_never_whole_fail_nothing, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
