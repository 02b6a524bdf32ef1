/* SPDX-License-Identifier: MIT
 * What processes leave that are gone, by what `complete` answers: deaths over a lease, the
 * ledger's records over restarts and when they are full, those who write without leases. The clock stands until the test
 * moves it. What they may lie about: 33-drain-lies.c. */
#include "fake_reader.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../writer/lease_book.h"

static struct lease_book *book(struct core_place *p)
{
	return registry_book(table_registry(core_table(p->core)));
}

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

/* ---- the dead ---------------------------------------------------------------------------------------------------- */

static void who_dies_over_a_lease_is_found_by_the_drain_itself(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	start_moving(p, "q");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	done(p, OP_CUTOVER, "q", NULL);
	p->now_ms += 100;
	expect(p, "p", "leases-open", 1, 0, 77);
	p->now_ms += 100;
	fake_die(&f); /* its socket stays open: nobody tells the writer */
	pause_ms(21);
	expect_until(p, "p", "reader-died", WHOLE_MS, 77);
	done(p, OP_COMPLETE, "q", NULL);
	assert_int_equal(registry_count(table_registry(core_table(p->core))), 0);
}

static void who_comes_into_the_slot_of_a_dead_process_is_another(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	uint32_t slot;

	fake_attach(p, &f, 3, 500, 77);
	slot = f.slot;
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	fake_begin(p, &f, 2, 499, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 2, 0, 77);
	fake_die(&f);
	fake_hang_up(p, &f);
	table_step(core_table(p->core), 1000);
	fake_attach(p, &f, 1, 8, 78);
	assert_int_equal(f.slot, slot);
	fake_begin(p, &f, 0, 0, "p"); /* will be refused, and cleared */
	expect_until(p, "p", "reader-died", WHOLE_MS, 77);
	fake_die(&f);
}

static void a_killed_process_is_proved_dead_though_its_file_is_open(void **state)
{
	struct core_place *p = *state;
	struct registry_peer peer = {.uid = getuid()};
	struct fake_reader f;
	int pidfd;

	peer.pid = fork();
	if (peer.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
		for (;;)
			pause();
	}
	pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	assert_true(pidfd >= 0);
	fake_attach(p, &f, 1, 8, peer.pid);
	peer.pidfd = pidfd;
	assert_ok(registry_reattach(table_registry(core_table(p->core)), f.slot, f.attach, &peer, &p->r));
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	pause_ms(21);
	expect(p, "p", "leases-open", 1, 0, peer.pid);
	assert_int_equal(kill(peer.pid, SIGSTOP), 0); /* stopped is not dead */
	pause_ms(21);
	expect(p, "p", "leases-open", 1, 0, peer.pid);
	assert_int_equal(kill(peer.pid, SIGKILL), 0);
	assert_int_equal(waitpid(peer.pid, NULL, 0), peer.pid);
	pause_ms(21);
	expect(p, "p", "reader-died", 0, WHOLE_MS, peer.pid);
	fake_die(&f);
}

static void who_left_cleanly_leaves_nothing(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	fake_done(&f, 0, 0);
	fake_gone(p, &f);
	done(p, OP_CUTOVER, "p", NULL);
	done(p, OP_COMPLETE, "p", NULL);
	assert_int_equal(lease_book_count(book(p)), 0);
}

static void what_ended_unknown_keeps_its_own_end(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 3, 8, 77);
	start_moving(p, "p");
	start_moving(p, "q");
	start_moving(p, "r");
	fake_begin(p, &f, 0, 0, "p");
	fake_begin(p, &f, 1, 1, "p");
	fake_unknown(&f, 0, 0, p->now_ms - 700);
	fake_unknown(&f, 1, 1, p->now_ms - 300);
	fake_begin(p, &f, 0, 1, "q");
	fake_unknown(&f, 0, 1, p->now_ms - WHOLE_MS); /* older than the barrier */
	fake_gone(p, &f);
	assert_int_equal(lease_book_count(book(p)), 1);
	done(p, OP_CUTOVER, "p", NULL);
	done(p, OP_CUTOVER, "q", NULL);
	done(p, OP_COMPLETE, "q", NULL);
	expect_until(p, "p", "unknown-outcome", WHOLE_MS - 300, 77);
}

static void the_latest_end_of_all_who_are_gone_counts(void **state)
{
	struct core_place *p = *state;
	struct fake_reader a, b, c;

	fake_attach(p, &a, 1, 8, 77);
	fake_attach(p, &b, 1, 8, 78);
	fake_attach(p, &c, 1, 8, 79);
	start_moving(p, "p");
	fake_begin(p, &a, 0, 0, "p");
	fake_begin(p, &b, 0, 0, "p");
	fake_begin(p, &c, 0, 0, "p");
	fake_unknown(&c, 0, 0, p->now_ms - 5);
	fake_gone(p, &a);
	p->now_ms += 50;
	fake_gone(p, &b);
	p->now_ms += 50;
	fake_gone(p, &c); /* an earlier end, though found later */
	done(p, OP_CUTOVER, "p", NULL);
	expect_until(p, "p", "reader-died", WHOLE_MS - 50, 78);
}

static void the_overflow_of_the_departed_counts_for_every_partition(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 2, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 1, 0, "other");
	fake_overflow(&f, 1, 0, p->now_ms - 20);
	fake_gone(p, &f);
	done(p, OP_CUTOVER, "p", NULL);
	expect_until(p, "p", "unknown-overflow", WHOLE_MS - 20, 77);
}

/* ---- restarts ---------------------------------------------------------------------------------------------------- */

static void what_the_departed_left_survives_the_writer(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	fake_gone(p, &f);
	p->now_ms += 1000;
	restart(p);
	done(p, OP_CUTOVER, "p", NULL);
	p->now_ms += 1000;
	restart(p);
	expect_until(p, "p", "reader-died", WHOLE_MS - 2000, 77);
}

static void a_living_process_is_taken_over_with_its_leases(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 3, 100, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 2, 99, "p");
	done(p, OP_CUTOVER, "p", NULL);
	p->now_ms += 1000000;
	f.file->n_leases = 1; /* whatever it says: the ledger knows */
	f.file->n_readers = 1;
	f.file->leases_off = 0;
	restart(p);
	expect(p, "p", "leases-open", 1, 0, 77);
	atomic_store(&lease_slots((struct shm_leases *)((char *)f.file + SHM_PAGE + 3 * sizeof(struct shm_line) +
							2 * (size_t)SHM_LEASE_STRIDE(100)))[99]
			      .hash,
		     0);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

/* A start that cannot open the registrations is none: they are not taken for files that nobody has. */
static void a_start_without_descriptors_buries_nobody(void **state)
{
	struct core_place *p = *state;
	struct core_options options = {.barrier_ms = p->barrier_ms};
	struct rlimit files, few;
	struct instance instance;
	struct fake_reader f;
	enum refusal_code code = R_BACKEND;
	struct core *core;
	bool refused = false;

	fake_attach(p, &f, 1, 8, getpid());
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	down(p);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	assert_ok(instance_open(p->dir, NULL, false, &instance, &p->r));
	for (few = files, few.rlim_cur = 4; few.rlim_cur < 64 && code != R_DONE; few.rlim_cur++) {
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		code = core_open_with(&instance, &options, p->ops, p->argument, &core, &p->r);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
		refused = refused || (code != R_DONE && strstr(p->r.message, "/" SEG_READERS "/"));
	}
	assert_int_equal(code, R_DONE);
	assert_true(refused);
	core_close(&core);
	instance_close(&instance);
	up(p);
	expect(p, "p", "leases-open", 1, 0, getpid());
	fake_done(&f, 0, 0);
	done(p, OP_COMPLETE, "p", NULL);
	fake_die(&f);
}

static void a_registration_is_one_process_s(void **state)
{
	struct core_place *p = *state;
	struct registry_peer other = {.pid = 78, .uid = getuid(), .pidfd = -1};
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	assert_code(registry_reattach(table_registry(core_table(p->core)), f.slot, f.attach, &other, &p->r), R_INVALID);
	expect(p, "p", "leases-open", 1, 0, 77);
	fake_die(&f);
	assert_code(registry_reattach(table_registry(core_table(p->core)), f.slot, f.attach, &other, &p->r), R_INVALID);
	expect_until(p, "p", "reader-died", WHOLE_MS, 77); /* it is buried with what it had */
}

static void a_death_without_a_writer_counts_from_its_discovery(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 2, 8, 77);
	start_moving(p, "p");
	fake_begin(p, &f, 1, 3, "p");
	done(p, OP_CUTOVER, "p", NULL);
	down(p);
	fake_die(&f);
	p->now_ms += 500000;
	up(p);
	expect_until(p, "p", "reader-died", WHOLE_MS, 77);
}

/* ---- the ledger's room ------------------------------------------------------------------------------------------- */

static void what_finds_no_record_counts_for_every_partition(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;
	char key[16];

	fake_attach(p, &f, 1, SHM_LEDGER_LEASES + 100, 77);
	start_moving(p, "p");
	for (unsigned i = 0; i < SHM_LEDGER_LEASES; i++) {
		snprintf(key, sizeof(key), "x%u", i);
		fake_begin(p, &f, 0, i, key);
	}
	fake_gone(p, &f);
	assert_int_equal(lease_book_count(book(p)), SHM_LEDGER_LEASES);
	done(p, OP_CUTOVER, "p", NULL);
	done(p, OP_COMPLETE, "p", NULL); /* just enough */
	done(p, OP_BEGIN, "p", on("c1"));
	p->now_ms += 1000;
	fake_attach(p, &f, 1, 8, 78);
	fake_begin(p, &f, 0, 0, "x5"); /* has one */
	fake_gone(p, &f);
	done(p, OP_CUTOVER, "p", NULL);
	done(p, OP_COMPLETE, "p", NULL);
	done(p, OP_BEGIN, "p", on("c2"));
	fake_attach(p, &f, 1, 8, 79);
	fake_begin(p, &f, 0, 0, "one more");
	fake_gone(p, &f);
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "unknown-overflow", 0, WHOLE_MS, 79);
	restart(p);
	p->now_ms += WHOLE_MS - 1000;
	fake_attach(p, &f, 1, 8, 80);
	fake_begin(p, &f, 0, 0, "p"); /* the old ones make room */
	fake_gone(p, &f);
	assert_int_equal(lease_book_count(book(p)), 2); /* that one, and x5's later end */
	expect_until(p, "p", "reader-died", WHOLE_MS, 80);
	core_step(p->core, 1000);
}

/* ---- those who write without leases ------------------------------------------------------------------------------ */

static void one_admit_under_bracketed_counts_from_then_on(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 8, 77);
	cut_over(p, "q", on("c1"), on("c2"));
	atomic_store(&f.file->unbracketed, 1);
	expect(p, "q", "reader-without-leases", 0, WHOLE_MS, 77);
	p->now_ms += 20;
	start_moving(p, "p");
	fake_begin(p, &f, 0, 0, "p");
	done(p, OP_CUTOVER, "p", NULL);
	expect(p, "p", "leases-open", 1, 0, 77); /* in their order */
	fake_unknown(&f, 0, 0, p->now_ms);
	p->now_ms += 5;
	expect(p, "p", "unknown-outcome", 0, WHOLE_MS - 5, 77);
	p->now_ms += WHOLE_MS - 5;
	done(p, OP_COMPLETE, "p", NULL);
	done(p, OP_COMPLETE, "q", NULL);
	fake_die(&f);
}

static void who_left_within_a_barrier_before_counts(void **state)
{
	struct core_place *p = *state;
	struct fake_reader f;

	fake_attach(p, &f, 1, 0, 77);
	fake_gone(p, &f);
	p->now_ms += 30010;
	cut_over(p, "p", on("c1"), on("c2"));
	p->now_ms += 1;
	cut_over(p, "q", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "q", NULL);
	p->now_ms -= 1;
	expect_until(p, "p", "reader-without-leases", WHOLE_MS, 0);
	fake_attach(p, &f, 1, 8, 77);
	atomic_store(&f.file->unbracketed, 1);
	cut_over(p, "r", on("c1"), on("c2"));
	fake_gone(p, &f);
	p->now_ms += 100;
	expect_until(p, "r", "reader-without-leases", WHOLE_MS - 100, 0);
	fake_attach_as(p, &f, 1, 0, SHM_WRITES_NONE, 77);
	cut_over(p, "s", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "s", NULL); /* who cannot write holds nobody */
	fake_gone(p, &f);
	cut_over(p, "t", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "t", NULL);
}

static void a_root_that_the_store_does_not_find_again_has_lost_its_readers(void **state)
{
	struct core_place *p = *state;
	char path[80];

	cut_over(p, "p", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "p", NULL);
	restart(p); /* the same root knows that nobody was there */
	cut_over(p, "q", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "q", NULL);
	down(p);
	snprintf(path, sizeof(path), "%s/root", p->dir);
	assert_int_equal(unlink(path), 0);
	p->new_directory = true;
	p->now_ms += 10;
	up(p);
	cut_over(p, "r", on("c1"), on("c2"));
	expect_until(p, "r", "reader-without-leases", WHOLE_MS, 0);
	cut_over(p, "s", on("c1"), on("c2"));
	done(p, OP_COMPLETE, "s", NULL);
	down(p);
	snprintf(path, sizeof(path), "%s/ledger", p->dir);
	assert_int_equal(unlink(path), 0);
	up(p); /* nor does a ledger that is gone */
	cut_over(p, "t", on("c1"), on("c2"));
	expect(p, "t", "reader-without-leases", 0, WHOLE_MS, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CORE_ON(who_dies_over_a_lease_is_found_by_the_drain_itself, store_memory),
		CORE_ON(who_comes_into_the_slot_of_a_dead_process_is_another, store_memory),
		CORE_ON(a_killed_process_is_proved_dead_though_its_file_is_open, store_memory),
		CORE_ON(who_left_cleanly_leaves_nothing, store_memory),
		CORE_ON(what_ended_unknown_keeps_its_own_end, store_memory),
		CORE_ON(the_latest_end_of_all_who_are_gone_counts, store_memory),
		CORE_ON(the_overflow_of_the_departed_counts_for_every_partition, store_memory),
		CORE_ON_BOTH(what_the_departed_left_survives_the_writer),
		CORE_ON_BOTH(a_living_process_is_taken_over_with_its_leases),
		CORE_ON_BOTH(a_start_without_descriptors_buries_nobody),
		CORE_ON_BOTH(a_registration_is_one_process_s),
		CORE_ON_BOTH(a_death_without_a_writer_counts_from_its_discovery),
		CORE_ON(what_finds_no_record_counts_for_every_partition, store_memory),
		CORE_ON(one_admit_under_bracketed_counts_from_then_on, store_memory),
		CORE_ON(who_left_within_a_barrier_before_counts, store_memory),
		CORE_ON(a_root_that_the_store_does_not_find_again_has_lost_its_readers, store_sqlite),
	};

	return cmocka_run_group_tests_name("drain-left", tests, NULL, NULL);
}
