/* SPDX-License-Identifier: MIT
 * Pins through the real daemon: what an attach gives, that a pin is there for everybody once it has returned, whose it is,
 * clusters that are pinned to, full rings, and that nobody waits for a daemon that has gone to sleep. */
#include "cursor_daemon.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- attaching ------------------------------------------------------------------------------------------------- */

static bool file_exists(const struct pin_place *p, const char *name)
{
	char path[160];
	struct stat st;

	snprintf(path, sizeof(path), "%s/tables/%s", p->d.dir, name);
	return stat(path, &st) == 0;
}

static void who_does_not_pin_costs_no_thread_and_no_file(void **state)
{
	struct pin_place *p = *state;
	struct berth *b = NULL;
	struct player q;
	uint64_t ack;

	assert_int_equal(berth_attach(p->d.dir, NULL, &b), BERTH_OK);
	assert_false(pin_thread_runs(p));
	assert_false(file_exists(p, "cursors.1"));
	assert_int_equal(pin_status(p, "enabled"), 0);
	player_attach(&q, p, 3);
	assert_true(pin_thread_runs(p));
	assert_true(file_exists(p, "cursors.1"));
	assert_int_equal(pin_status(p, "enabled"), 1);
	assert_int_equal(pin_status(p, "processes"), 1);
	assert_int_equal(pin_status(p, "capacity"), 100000);
	assert_int_equal(q.reg->n_rings, 3);
	assert_int_equal(q.reg->rings_off % 128, 0);
	assert_true(q.reg->rings_off + 3 * SHM_RING_STRIDE <= q.size);
	assert_int_equal(q.reg->first_ack % 8, 0);
	for (unsigned i = 0; i < 3; i++) {
		ack = player_ack(&q, i);
		assert_int_equal(ack, 0);
	}
	player_die(&q);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

static void no_two_processes_share_a_line_of_acks_and_a_dead_ones_are_used_again(void **state)
{
	struct pin_place *p = *state;
	struct player a, b, c;
	uint32_t first;

	player_attach(&a, p, 3);
	player_attach(&b, p, 9);
	assert_true(b.reg->first_ack >= a.reg->first_ack + 8 || a.reg->first_ack >= b.reg->first_ack + 16);
	player_push(&a, 0, SHM_OP_PIN, 7, 1, 1, player_later());
	player_ring_bell(&a);
	assert_int_equal(player_await(&a, 0, 1), SHM_PIN_OK);
	first = a.reg->first_ack;
	player_die(&a);
	pin_await_readers(p, 1);
	player_attach(&c, p, 8);
	assert_int_equal(c.reg->first_ack, first);
	assert_int_equal(player_ack(&c, 0), 0);
	player_push(&c, 0, SHM_OP_PIN, 8, 1, 1, player_later());
	player_ring_bell(&c);
	assert_int_equal(player_await(&c, 0, 1), SHM_PIN_OK);
	player_die(&b);
	player_die(&c);
}

/* ---- pins ------------------------------------------------------------------------------------------------------ */

static int sees_the_pins(void *arg)
{
	struct pin_place *p = arg;
	uint16_t cluster = 0;
	int rc;

	p->b = NULL; /* the parent's */
	pin_attach(p);
	rc = pin_resolve(p, "scroll", 1, "acme", &cluster);
	if (rc != BERTH_OK || cluster != 1)
		return 1;
	rc = pin_resolve(p, "scroll", 1, "globex", &cluster);
	if (rc != BERTH_E_NOT_OWNER)
		return 2;
	if (pin_release(p, "scroll", 1, "globex") != BERTH_E_NOT_OWNER)
		return 3;
	if (pin_one(p, "scroll", 1, "globex", 2, 0) != BERTH_E_NOT_OWNER)
		return 4;
	if (pin_release(p, "scroll", 1, "acme") != BERTH_OK)
		return 5;
	return pin_release(p, "scroll", 1, "acme") == BERTH_E_UNKNOWN ? 0 : 6;
}

static void a_pin_that_has_returned_is_seen_by_all_and_belongs_to_one(void **state)
{
	struct pin_place *p = *state;
	uint16_t cluster = 0;

	pin_attach(p);
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 1, 0), BERTH_OK);
	assert_int_equal(part_run(sees_the_pins, p, child_patience(CHILD_MS)), 0);
	assert_int_equal(pin_resolve(p, "scroll", 1, "acme", &cluster), BERTH_E_UNKNOWN);
}

/* Each is looked for the moment that it is acknowledged. */
static void an_acknowledged_pin_is_there(void **state)
{
	struct pin_place *p = *state;
	uint16_t cluster = 0;

	pin_attach(p);
	for (unsigned i = 0; i < 20000; i++) {
		uint16_t on = i % 2 ? 1 : 2;

		assert_int_equal(pin_one(p, "scroll", i, "acme", on, 0), BERTH_OK);
		assert_int_equal(pin_resolve(p, "scroll", i, "acme", &cluster), BERTH_OK);
		assert_int_equal(cluster, on);
	}
	assert_int_equal(pin_status(p, "pinned"), 20000);
}

/* ---- clusters -------------------------------------------------------------------------------------------------- */

static void only_clusters_that_exist_are_pinned_to(void **state)
{
	struct pin_place *p = *state;
	uint16_t cluster = 0;
	json_t *answer;
	uint16_t number;

	pin_attach(p);
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 3, 0), BERTH_E_UNKNOWN);
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 65535, 0), BERTH_E_UNKNOWN);
	assert_int_equal(pin_resolve(p, "scroll", 1, "acme", &cluster), BERTH_E_UNKNOWN);
	assert_int_equal(pin_status(p, "refused"), 2);
	answer = wire_ok(&p->admin, "cluster.set", "{s:s}", "id", "c3");
	number = (uint16_t)int_of(answer, "number");
	json_decref(answer);
	assert_int_equal(pin_one(p, "scroll", 1, "acme", number, 0), BERTH_OK);
}

static void a_cluster_that_a_pin_names_is_in_use_until_the_pin_ends(void **state)
{
	struct pin_place *p = *state;
	uint64_t deadline = 0;
	json_t *error;

	pin_attach(p);
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 1, 0), BERTH_OK);
	assert_int_equal(pin_one(p, "scroll", 2, "acme", 1, 0), BERTH_OK);
	error = wire_refused(&p->admin, "cluster-in-use", "cluster.remove", "{s:s}", "id", "c1");
	assert_non_null(strstr(text_of(error, "message"), "2 pins"));
	json_decref(error);
	assert_int_equal(pin_one(p, "scroll", 3, "acme", 1, 0), BERTH_OK); /* it stays, so it may be pinned to */
	for (unsigned i = 1; i <= 3; i++)
		assert_int_equal(pin_release(p, "scroll", i, "acme"), BERTH_OK);
	wire_do(&p->admin, "cluster.remove", "{s:s}", "id", "c1");
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 1, 0), BERTH_E_UNKNOWN);
	assert_int_equal(pin_one(p, "scroll", 1, "acme", 2, 300), BERTH_OK);
	wire_deny(&p->admin, "cluster-in-use", "cluster.remove", "{s:s}", "id", "c2");
	while (within(&deadline)) { /* its ttl is over */
		json_t *answer = wire_call(&p->admin, "cluster.remove", "{s:s}", "id", "c2");
		bool done = json_object_get(answer, "result") != NULL;

		json_decref(answer);
		if (done)
			return;
	}
	fail_msg("c2 stayed in use by a pin that is over");
}

/* ---- full ------------------------------------------------------------------------------------------------------ */

static void a_full_ring_says_so_and_loses_nothing(void **state)
{
	struct pin_place *p = *state;
	unsigned n = 0;

	pin_attach(p);
	assert_int_equal(pin_one(p, "first", 0, "acme", 1, 0), BERTH_OK);
	pin_stop(p);
	while (n <= SHM_RING_ENTRIES && pin_async(p, "scroll", n, "acme", 1) == BERTH_OK)
		n++;
	assert_int_equal(n, SHM_RING_ENTRIES);
	assert_int_equal(pin_async(p, "scroll", n, "acme", 1), BERTH_E_AGAIN);
	daemon_signal(&p->d, SIGCONT);
	for (unsigned i = 0; i < n; i++)
		pin_await(p, "scroll", i, "acme", 1);
	assert_int_equal(pin_one(p, "scroll", n, "acme", 2, 0), BERTH_OK);
}

/* ---- sleep ----------------------------------------------------------------------------------------------------- */

static void a_doorbell_wakes_the_daemon(void **state)
{
	struct pin_place *p = *state;
	unsigned late = 0;

	pin_attach(p);
	for (unsigned i = 0; i < 50; i++) {
		uint64_t began;

		pin_await_status(p, "sleeping", 1);
		began = test_now_ms();
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
		late += test_now_ms() - began >= child_patience(700); /* a sleep takes a second */
	}
	assert_in_range(late, 0, 5); /* the machine's; without a bell nearly all are */
}

static void pause_ns(uint64_t ns)
{
	uint64_t until = seg_clock_ns(CLOCK_MONOTONIC) + ns;

	while (seg_clock_ns(CLOCK_MONOTONIC) < until)
		;
}

/* The thread says that it sleeps, and does. A moment of it is no sleep: it may wait for a lock of the kernel. */
static bool fast_asleep(const struct pin_place *p, const struct player *q)
{
	bool asleep = true;

	for (unsigned look = 0; asleep && look < 3; look++) {
		DIR *d = daemon_proc(&p->d, "task");
		char path[300], line[400];
		struct dirent *e;

		asleep = false;
		while ((e = readdir(d)) != NULL) {
			FILE *f;

			snprintf(path, sizeof(path), "/proc/%d/task/%.20s/stat", p->d.pid, e->d_name);
			f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
			if (!f)
				continue;
			asleep |= fgets(line, sizeof(line), f) && strstr(line, "(berthd-cursors) S ");
			fclose(f);
		}
		closedir(d);
		asleep &= atomic_load_explicit(&q->ledger->cursor_sleeping, memory_order_relaxed) != 0;
		usleep(20000);
	}
	return asleep;
}

/* Pushes just as it falls asleep, by a process that has seen the last acknowledgement at once: without its last look, some
 * of them would wait until its second of sleep is over. */
static void no_pin_is_overlooked_by_a_daemon_that_falls_asleep(void **state)
{
	struct pin_place *p = *state;
	struct player q;

	player_attach(&q, p, 1);
	for (unsigned i = 0; i < 30000; i++) {
		uint64_t began = test_now_ms();

		player_push(&q, 0, SHM_OP_PIN, i % 100, 1, 1, player_later());
		atomic_thread_fence(memory_order_seq_cst); /* as one that membarrier does not reach */
		if (atomic_load_explicit(&q.ledger->cursor_sleeping, memory_order_relaxed))
			player_ring_bell(&q);
		while (SHM_ACK_DONE(player_ack(&q, 0)) <= i) {
			if (test_now_ms() - began < 700)
				continue;
			if (fast_asleep(p, &q) && SHM_ACK_DONE(player_ack(&q, 0)) <= i)
				fail_msg("it sleeps, and request %u is not done", i);
			assert_true(test_now_ms() - began < DAEMON_MS);
		}
		pause_ns(i % 300 * 100);
	}
	player_die(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIN_TEST(who_does_not_pin_costs_no_thread_and_no_file),
		PIN_TEST(no_two_processes_share_a_line_of_acks_and_a_dead_ones_are_used_again),
		PIN_TEST(a_pin_that_has_returned_is_seen_by_all_and_belongs_to_one),
		PIN_TEST(an_acknowledged_pin_is_there),
		PIN_TEST(only_clusters_that_exist_are_pinned_to),
		PIN_TEST(a_cluster_that_a_pin_names_is_in_use_until_the_pin_ends),
		PIN_TEST(a_full_ring_says_so_and_loses_nothing),
		PIN_TEST(a_doorbell_wakes_the_daemon),
		PIN_TEST(no_pin_is_overlooked_by_a_daemon_that_falls_asleep),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
