/* SPDX-License-Identifier: MIT
 * Pins when somebody dies or lies: the daemon is killed, a process is killed with requests that nobody has looked at yet,
 * rings hold what no library writes. What was acknowledged stays, what was asked is done, and nobody else is disturbed. */
#include "cursor_daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- the daemon is killed -------------------------------------------------------------------------------------- */

static void maintain(struct pin_place *p)
{
	uint64_t deadline = 0;

	while (within(&deadline))
		if (berth_maintain(p->b) == BERTH_OK)
			return;
	fail_msg("this process did not come back to the daemon");
}

static void pins_outlive_the_daemon_and_what_was_queued_is_done(void **state)
{
	struct pin_place *p = *state;
	struct player q;
	uint16_t cluster = 0;

	pin_attach(p);
	player_attach(&q, p, 2);
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
	pin_stop(p);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(pin_async(p, "queued", i, "acme", 2), BERTH_OK);
	player_push(&q, 1, SHM_OP_PIN, 77, 5, 2, player_later());
	daemon_kill(&p->d);
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(pin_resolve(p, "scroll", i, "acme", &cluster), BERTH_OK);
		assert_int_equal(cluster, 1);
	}
	pin_restart(p, NULL);
	/* Before anybody has come back: no bell has been rung. */
	assert_int_equal(player_await(&q, 1, 1), SHM_PIN_OK);
	assert_int_equal(player_find(p, 77, 5), 2);
	for (unsigned i = 0; i < 100; i++)
		pin_await(p, "queued", i, "acme", 2);
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(pin_resolve(p, "scroll", i, "acme", &cluster), BERTH_OK);
	maintain(p);
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(pin_one(p, "later", i, "acme", 1, 0), BERTH_OK);
		assert_int_equal(pin_release(p, "scroll", i, "acme"), BERTH_OK);
	}
	player_die(&q);
}

/* The one that came back rings its new bell, also once nobody is without one. */
static void a_reattached_process_has_a_bell_again(void **state)
{
	struct pin_place *p = *state;
	struct player q;
	unsigned late = 0;

	player_attach(&q, p, 1);
	daemon_kill(&p->d);
	pin_restart(p, NULL);
	wire_close(&q.w);
	wire_open(&q.w, &p->d, WIRE_LOOK);
	wire_do(&q.w, "reattach", "{s:I, s:I, s:i}", "slot", (json_int_t)q.slot, "attach", (json_int_t)q.attach, "pid",
		(int)getpid());
	close(q.bell);
	q.bell = q.w.passed;
	assert_true(q.bell >= 0);
	assert_int_equal(q.w.bell, -1);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t began;

		pin_await_status(p, "sleeping", 1);
		player_push(&q, 0, SHM_OP_PIN, 100 + i, 5, 1, player_later());
		began = test_now_ms();
		player_ring_bell(&q);
		assert_int_equal(player_await(&q, 0, i + 1), SHM_PIN_OK);
		late += test_now_ms() - began >= child_patience(700); /* a sleep takes a second */
	}
	assert_in_range(late, 0, 2); /* the machine's; without a bell nearly all are */
	player_die(&q);
}

static void write_doing(const struct pin_place *p, uint64_t doing)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/ledger", p->d.dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &doing, sizeof(doing), offsetof(struct shm_ledger, cursor_doing)), sizeof(doing));
	close(fd);
}

/* Its entry may have been applied and not acknowledged: applied after another one, it would say something else. */
static void the_ring_that_was_worked_on_comes_first_after_a_restart(void **state)
{
	struct pin_place *p = *state;
	struct player a, b;

	player_attach(&a, p, 4);
	player_attach(&b, p, 4);
	pin_await_status(p, "sleeping", 1);
	for (unsigned last = 0; last < 8; last++) { /* whichever ring would come first by itself */
		struct player *winner = last < 4 ? &a : &b;

		pin_stop(p);
		for (unsigned i = 0; i < 4; i++) {
			player_push(&a, i, SHM_OP_PIN, 500 + last, 10 + i, 1, player_later());
			player_push(&b, i, SHM_OP_PIN, 500 + last, 20 + i, 1, player_later());
		}
		write_doing(p, 1 + winner->reg->first_ack + last % 4);
		daemon_kill(&p->d);
		pin_restart(p, NULL);
		for (unsigned i = 0; i < 8; i++) {
			unsigned result = player_await(i < 4 ? &a : &b, i % 4, last + 1);

			assert_int_equal(result, i == last ? SHM_PIN_OK : SHM_PIN_NOT_OWNER);
		}
	}
	player_die(&a);
	player_die(&b);
}

/* Does a thread of this process besides the first sleep in futex(2)? pthread_join does not yet. */
static bool thread_sleeps(void)
{
	DIR *d = opendir("/proc/self/task");
	bool sleeps = false;
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d)) && !sleeps) {
		char path[300], text[64] = "";
		FILE *f;

		snprintf(path, sizeof path, "/proc/self/task/%s/wchan", e->d_name);
		f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
		if (f && fgets(text, sizeof text, f))
			sleeps = strncmp(text, "futex", 5) == 0;
		if (f)
			fclose(f);
	}
	closedir(d);
	return sleeps;
}

struct sleeper {
	const _Atomic uint64_t *ack;
	long woken; /* 0: by somebody */
};

static void *sleeps_on_its_ack(void *arg)
{
	struct sleeper *s = arg;
	const struct timespec patience = {.tv_sec = DAEMON_MS / 1000};
	uint32_t low = (uint32_t)atomic_load_explicit(s->ack, memory_order_relaxed);

	s->woken = syscall(SYS_futex, s->ack, FUTEX_WAIT, low, &patience, NULL, 0);
	return NULL;
}

/* Killed between the ack of an entry and the wake: its reader had seen an older ack before it slept, or would not sleep. */
static void a_reader_that_a_killed_daemon_had_not_woken_is_woken_by_the_next(void **state)
{
	struct pin_place *p = *state;
	struct sleeper s;
	struct player a;
	pthread_t thread;

	player_attach(&a, p, 2);
	player_push(&a, 1, SHM_OP_PIN, 500, 10, 1, player_later());
	player_ring_bell(&a);
	assert_int_equal(player_await(&a, 1, 1), SHM_PIN_OK);
	daemon_kill(&p->d);
	s.ack = seg_ledger_acks(a.ledger) + a.reg->first_ack + 1;
	atomic_store(&player_ring(&a, 1)->waiting, 1);
	assert_int_equal(pthread_create(&thread, NULL, sleeps_on_its_ack, &s), 0);
	for (uint64_t deadline = 0; within(&deadline);) /* it sleeps: in futex(2) */
		if (thread_sleeps())
			break;
	pin_restart(p, NULL);
	pthread_join(thread, NULL);
	assert_int_equal(s.woken, 0);
	player_die(&a);
}

/* ---- a process is killed ---------------------------------------------------------------------------------------- */

static int asks_and_dies(void *arg)
{
	struct pin_place *p = arg;

	p->b = NULL; /* the parent's */
	pin_attach(p);
	if (pin_one(p, "first", 0, "acme", 1, 0) != BERTH_OK)
		return 1;
	pin_stop(p);
	for (unsigned i = 0; i < SHM_RING_ENTRIES; i++)
		if (pin_async(p, "left", i, "acme", 2) != BERTH_OK)
			return 2;
	kill(getpid(), SIGKILL);
	return 3;
}

static void what_a_dead_process_asked_for_is_done(void **state)
{
	struct pin_place *p = *state;

	pin_attach(p);
	assert_int_equal(part_run(asks_and_dies, p, child_patience(CHILD_MS)), ENDED_BY_SIGNAL + SIGKILL);
	daemon_signal(&p->d, SIGCONT);
	pin_await_readers(p, 1);
	/* It is gone now, so all of it must have been done before. */
	for (unsigned i = 0; i < SHM_RING_ENTRIES; i++) {
		uint16_t cluster = 0;

		assert_int_equal(pin_resolve(p, "left", i, "acme", &cluster), BERTH_OK);
		assert_int_equal(cluster, 2);
	}
	assert_int_equal(pin_status(p, "processes"), 1);
}

static void what_it_asked_for_is_done_by_the_next_daemon_too(void **state)
{
	struct pin_place *p = *state;

	pin_attach(p);
	assert_int_equal(part_run(asks_and_dies, p, child_patience(CHILD_MS)), ENDED_BY_SIGNAL + SIGKILL);
	daemon_kill(&p->d);
	pin_restart(p, NULL);
	pin_await_readers(p, 1);
	for (unsigned i = 0; i < SHM_RING_ENTRIES; i++) {
		uint16_t cluster = 0;

		assert_int_equal(pin_resolve(p, "left", i, "acme", &cluster), BERTH_OK);
	}
}

#define MANY_RINGS 300u

static int fills_many_rings_and_dies(void *arg)
{
	struct pin_place *p = arg;
	struct player q;

	player_attach(&q, p, MANY_RINGS);
	pin_stop(p);
	for (unsigned i = 0; i < MANY_RINGS; i++)
		for (unsigned k = 0; k < SHM_RING_ENTRIES; k++)
			player_push(&q, i, SHM_OP_PIN, 1 + i * SHM_RING_ENTRIES + k, 9, 1, player_later());
	kill(getpid(), SIGKILL);
	return 1;
}

/* More than is done until the daemon has found out that the process is dead. */
static void a_registration_stays_until_its_rings_are_done(void **state)
{
	struct pin_place *p = *state;

	pin_attach(p);
	for (unsigned restart = 0; restart < 2; restart++) {
		assert_int_equal(part_run(fills_many_rings_and_dies, p, child_patience(CHILD_MS)),
				 ENDED_BY_SIGNAL + SIGKILL);
		if (restart) {
			daemon_kill(&p->d);
			pin_restart(p, NULL);
		}
		daemon_signal(&p->d, SIGCONT);
		pin_await_readers(p, 1);
		assert_int_equal(pin_status(p, "pinned") + pin_status(p, "refreshed"),
				 (restart + 1) * MANY_RINGS * SHM_RING_ENTRIES);
		assert_int_equal(pin_status(p, "pins"), MANY_RINGS * SHM_RING_ENTRIES);
	}
}

/* ---- lies ------------------------------------------------------------------------------------------------------ */

static void everybody_else_goes_on(struct pin_place *p)
{
	static unsigned n;
	uint16_t cluster = 0;

	for (unsigned i = 0; i < 20; i++, n++) {
		assert_int_equal(pin_one(p, "mine", n, "acme", 1, 0), BERTH_OK);
		assert_int_equal(pin_resolve(p, "mine", n, "acme", &cluster), BERTH_OK);
	}
	wire_do(&p->admin, "status", NULL);
}

static void what_no_library_sends_is_refused(void **state)
{
	static const struct {
		uint32_t op, cluster;
		uint64_t expiry;
	} bad[] = {{0, 1, 1},
		   {3, 1, 1},
		   {UINT32_MAX, 1, 1},
		   {SHM_OP_PIN, 0, 1},
		   {SHM_OP_PIN, 65536, 1},
		   {SHM_OP_PIN, UINT32_MAX, 1},
		   {SHM_OP_PIN, 1, UINT64_MAX}};
	struct pin_place *p = *state;
	struct player q;
	unsigned n = sizeof(bad) / sizeof(bad[0]);

	pin_attach(p);
	player_attach(&q, p, 1);
	for (unsigned i = 0; i < n; i++) {
		player_push(&q, 0, bad[i].op, 9, 9, bad[i].cluster,
			    bad[i].expiry == 1 ? player_later() : bad[i].expiry);
		player_ring_bell(&q);
		assert_int_equal(player_await(&q, 0, i + 1), SHM_PIN_INVALID);
	}
	assert_int_equal(pin_status(p, "refused"), n);
	player_push(&q, 0, SHM_OP_PIN, 9, 9, 1, 0); /* over before it began: no pin */
	player_ring_bell(&q);
	assert_int_equal(player_await(&q, 0, n + 1), SHM_PIN_OK);
	assert_int_equal(player_find(p, 9, 9), 0);
	everybody_else_goes_on(p);
	player_die(&q);
}

static void a_head_that_cannot_be_is_skipped(void **state)
{
	struct pin_place *p = *state;
	struct player q;

	pin_attach(p);
	player_attach(&q, p, 2);
	for (unsigned i = 0; i < 64; i++) {
		atomic_store(&player_ring(&q, 0)->head, i % 2 ? UINT64_MAX >> i : 1ull << i | 1000);
		atomic_store(&q.reg->rings_high, UINT32_MAX - i);
		atomic_store(&player_ring(&q, 0)->waiting, 1);
		player_ring_bell(&q);
		everybody_else_goes_on(p);
	}
	player_push(&q, 1, SHM_OP_PIN, 9, 9, 1, player_later());
	player_ring_bell(&q);
	assert_int_equal(player_await(&q, 1, 1), SHM_PIN_OK);
	player_die(&q);
	pin_await_readers(p, 1);
	everybody_else_goes_on(p);
}

static int spoils_its_rings(void *arg)
{
	struct pin_place *p = arg;
	struct player q;
	uint64_t until = test_now_ms() + 1500;

	player_attach(&q, p, 8);
	for (unsigned seed = 1; test_now_ms() < until;) {
		unsigned char *at = (unsigned char *)player_ring(&q, 0);

		for (unsigned i = 0; i < 1000; i++)
			at[(unsigned)rand_r(&seed) % (8 * SHM_RING_STRIDE)] = (unsigned char)rand_r(&seed);
		player_ring_bell(&q);
	}
	if (ftruncate(q.fd, (off_t)SHM_PAGE) != 0)
		return 1;
	player_ring_bell(&q);
	usleep(200000);
	return 0;
}

static void garbage_and_a_file_that_is_cut_off_disturb_nobody(void **state)
{
	struct pin_place *p = *state;
	pid_t pid;

	pin_attach(p);
	pid = part_start(spoils_its_rings, p);
	for (unsigned i = 0; i < 50; i++) {
		everybody_else_goes_on(p);
		usleep(30000);
	}
	assert_int_equal(child_wait(pid, child_patience(CHILD_MS)), 0);
	pin_await_readers(p, 1);
	everybody_else_goes_on(p);
	assert_true(pin_thread_runs(p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIN_TEST(pins_outlive_the_daemon_and_what_was_queued_is_done),
		PIN_TEST(a_reattached_process_has_a_bell_again),
		PIN_TEST(the_ring_that_was_worked_on_comes_first_after_a_restart),
		PIN_TEST(a_reader_that_a_killed_daemon_had_not_woken_is_woken_by_the_next),
		PIN_TEST(what_a_dead_process_asked_for_is_done),
		PIN_TEST(what_it_asked_for_is_done_by_the_next_daemon_too),
		PIN_TEST(a_registration_stays_until_its_rings_are_done),
		PIN_TEST(what_no_library_sends_is_refused),
		PIN_TEST(a_head_that_cannot_be_is_skipped),
		PIN_TEST(garbage_and_a_file_that_is_cut_off_disturb_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
