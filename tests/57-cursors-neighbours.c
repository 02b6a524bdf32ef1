/* SPDX-License-Identifier: MIT
 * Pins when something beside them goes wrong or is refused: a member of the group that meddles with who sleeps, a removal
 * of a cluster that is refused, a file of pins that cannot be served. */
#include "cursor_daemon.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- sleepers ---- */

/* Moves whoever sleeps on an ack to a word that nobody wakes: a map that can be read is enough for that. */
static int moves_sleepers(void *arg)
{
	const struct pin_place *p = arg;
	const struct shm_root *root = NULL;
	const struct shm_ledger *ledger = NULL;
	int dir;

	if (seg_dir_open(p->d.dir, &dir, NULL) != BERTH_OK || seg_root_map(dir, &root) != BERTH_OK ||
	    seg_ledger_map(dir, root, &ledger) != BERTH_OK)
		return 1;
	for (;;)
		for (unsigned i = 0; i < 16; i++)
			syscall(SYS_futex, seg_ledger_acks(ledger) + i, FUTEX_REQUEUE, 0, INT_MAX,
				seg_ledger_acks(ledger) + 60000, 0);
}

static void who_moves_sleepers_away_makes_a_pin_later_by_milliseconds_only(void **state)
{
	struct pin_place *p = *state;
	pid_t meddler;

	pin_attach(p);
	meddler = fork();
	assert_true(meddler >= 0);
	if (meddler == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0)
		_exit(moves_sleepers(p));
	for (unsigned i = 0; i < 40; i++) {
		uint64_t began = test_now_ms();

		pin_await_status(p, "sleeping", 1);
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
		assert_true(test_now_ms() - began < PIN_MS / 4);
	}
	kill(meddler, SIGKILL);
	waitpid(meddler, NULL, 0);
}

/* ---- a refused removal ---- */

static int pins_all_the_time(void *arg)
{
	struct pin_place *p = arg;

	p->b = NULL; /* the parent's */
	pin_attach(p);
	for (unsigned i = 0;; i++)
		if (pin_one(p, "scroll", i % 1000, "acme", 1, 0) != BERTH_OK)
			return 1;
}

static void a_removal_that_is_refused_refuses_nobodys_pin(void **state)
{
	struct pin_place *p = *state;
	pid_t child;
	int status;

	pin_attach(p);
	assert_int_equal(pin_one(p, "first", 0, "acme", 1, 0), BERTH_OK);
	child = fork();
	assert_true(child >= 0);
	if (child == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0)
		_exit(pins_all_the_time(p));
	pin_await_readers(p, 2);
	for (unsigned i = 0; i < 2000; i++)
		wire_deny(&p->admin, "cluster-in-use", "cluster.remove", "{s:s}", "id", "c1");
	assert_int_equal(waitpid(child, &status, WNOHANG), 0); /* it goes on */
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* ---- a file that cannot be served ---- */

static void damage(const struct pin_place *p)
{
	char path[200];
	int fd;

	snprintf(path, sizeof path, "%s/" SEG_TABLES "/" SEG_CURSORS "1", p->d.dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "", 1, 0), 1); /* of the magic */
	close(fd);
}

static void placements_are_served_when_pins_cannot_be(void **state)
{
	struct pin_place *p = *state;
	char obstacle[200];

	pin_attach(p);
	assert_int_equal(pin_one(p, "scroll", 0, "acme", 1, 0), BERTH_OK);
	daemon_kill(&p->d);
	damage(p);
	snprintf(obstacle, sizeof obstacle, "%s/" SEG_TABLES "/" SEG_CURSORS "new", p->d.dir);
	assert_int_equal(mkdir(obstacle, 0700), 0); /* where another file would be made */
	pin_restart(p, NULL);
	daemon_expect_log(&p->d, "placements are served, pins are not");
	wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s}}", "partition", "acme", "placement", "mode", "dedicated-cluster",
		"cluster", "c2");
	wire_deny(&p->admin, "cluster-in-use", "cluster.remove", "{s:s}", "id", "c1"); /* a pin may name it */
	for (uint64_t deadline = 0; within(&deadline);) /* this process comes back all the same */
		if (berth_maintain(p->b) == BERTH_OK)
			break;
	assert_int_equal(berth_maintain(p->b), BERTH_OK);
	assert_int_equal(berth_cursor_pin(p->r, "s", 1, 1, "acme", 4, 0, 20), BERTH_E_AGAIN);
	assert_int_equal(rmdir(obstacle), 0);
	for (uint64_t deadline = 0; within(&deadline);) /* it is tried again */
		if (berth_cursor_pin(p->r, "s", 1, 1, "acme", 4, 0, 20) == BERTH_OK)
			break;
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 1, 0), BERTH_OK);
	assert_int_equal(daemon_stop(&p->d), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIN_TEST(who_moves_sleepers_away_makes_a_pin_later_by_milliseconds_only),
		PIN_TEST(a_removal_that_is_refused_refuses_nobodys_pin),
		PIN_TEST(placements_are_served_when_pins_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
