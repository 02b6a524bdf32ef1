/* SPDX-License-Identifier: MIT
 * Clocks that jump, in the daemon and in a reader of it alike: the day is set (CLOCK_REALTIME), the machine sleeps for
 * hours (CLOCK_BOOTTIME goes on without CLOCK_MONOTONIC). Pins end with the time that has passed; barriers and leases
 * wait for time that was lived through, over restarts too. faults/interpose.c moves the clocks of these processes alone. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fault_place.h"

#define KEY(k) (k), strlen(k)
#define HOUR_NS 3600000000000ll
#define HOUR_MS 3600000u

static struct faults *plan;
static struct daemon *d;
static struct wire admin;
static struct berth *b;
static struct berth_reader *r;

static void set(const char *key, const char *index)
{
	wire_do(&admin, "set", "{s:s, s:b, s:{s:s, s:s, s:s}}", "partition", key, "force", 1, "placement", "mode",
		"dedicated-index", "cluster", "c1", "index", index);
}

static void start(void)
{
	fault_share(true);
	daemon_start(d, "--barrier-ms", "600000", NULL); /* longer than this takes on any machine */
	fault_share(false);
	wire_open(&admin, d, WIRE_ADMIN);
}

static void restart(void)
{
	wire_close(&admin);
	daemon_kill(d);
	start();
}

static void maintained(void)
{
	int rc;

	for (uint64_t deadline = 0; (rc = berth_maintain(b)) != BERTH_OK;)
		if (!within(&deadline))
			fail_msg("berth_maintain answers %s", berth_strerror(rc));
}

static void attach(uint32_t writes)
{
	const struct berth_attach_options o = {.size = sizeof o, .writes = writes, .cursors = BERTH_CURSORS_PIN};

	assert_int_equal(berth_attach(d->dir, &o, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
}

static int make(void **state)
{
	(void)state;
	if (!plan)
		return 0;
	d = calloc(1, sizeof *d);
	daemon_make(d, "sqlite");
	start();
	wire_do(&admin, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&admin, "cluster.set", "{s:s}", "id", "c2");
	set("acme", "acme-index");
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	if (!plan)
		return 0;
	berth_reader_close(&r);
	if (b)
		assert_int_equal(berth_detach(&b), BERTH_OK);
	wire_close(&admin);
	daemon_remove(d);
	free(d);
	atomic_store(&plan->realtime_ns, 0);
	atomic_store(&plan->boottime_ns, 0);
	return 0;
}

static void cut_over(void)
{
	wire_do(&admin, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", "acme", "to", "mode", "dedicated-index",
		"cluster", "c2", "index", "there");
	wire_do(&admin, "cutover", "{s:s}", "partition", "acme");
}

/* `complete` is refused for this reason; what it says remains. */
static json_int_t pending(const char *reason)
{
	json_t *error = wire_refused(&admin, "barrier-pending", "complete", "{s:s}", "partition", "acme");
	const json_t *data = json_object_get(error, "data");
	json_int_t ms = int_of(data, "remaining_ms");

	assert_string_equal(text_of(data, "reason"), reason);
	json_decref(error);
	return ms;
}

static void all_goes_on(void)
{
	static unsigned n;
	struct berth_placement at;
	char index[32];

	snprintf(index, sizeof index, "index-%u", n++);
	set("globex", index);
	maintained();
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("globex"), &at), BERTH_OK);
	assert_string_equal(at.index, index);
	berth_read_end(r);
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static void sleep_does_not_shorten_a_barrier(void **state)
{
	json_int_t before, after;
	uint64_t began;

	(void)state;
	fault_plan_needed(plan);
	attach(BERTH_WRITES_UNBRACKETED);
	began = test_now_ms();
	cut_over();
	before = pending("reader-without-leases");
	atomic_store(&plan->boottime_ns, 5 * HOUR_NS);
	atomic_store(&plan->realtime_ns, 5 * HOUR_NS);
	after = pending("reader-without-leases");
	if (before < 1 || after + (json_int_t)(test_now_ms() - began) + 1 < before)
		fail_msg("%lld ms before the sleep, %lld ms after it", (long long)before, (long long)after);
	restart();
	maintained();
	after = pending("reader-without-leases");
	if (after + (json_int_t)(test_now_ms() - began) + 1 < before)
		fail_msg("%lld ms before the sleep, %lld ms after a restart", (long long)before, (long long)after);
	all_goes_on();
}

static void sleep_ends_no_write_that_is_under_way(void **state)
{
	struct berth_write w;

	(void)state;
	fault_plan_needed(plan);
	attach(BERTH_WRITES_BRACKETED);
	assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w), BERTH_OK);
	cut_over();
	for (int64_t hours = 0; hours < 50; hours += 10) {
		atomic_store(&plan->boottime_ns, hours * HOUR_NS);
		atomic_store(&plan->realtime_ns, hours * HOUR_NS);
		pending("leases-open");
		maintained();
	}
	restart();
	maintained();
	pending("leases-open");
	assert_int_equal(berth_write_end(r, &w, BERTH_UNKNOWN), BERTH_OK);
	assert_true(pending("unknown-outcome") > 0);
	atomic_store(&plan->boottime_ns, 100 * HOUR_NS);
	assert_true(pending("unknown-outcome") > 0);
	wire_do(&admin, "abort", "{s:s}", "partition", "acme");
	all_goes_on();
}

static void a_pin_ends_with_the_time_that_was_slept(void **state)
{
	uint16_t cluster = 0;

	(void)state;
	fault_plan_needed(plan);
	attach(BERTH_WRITES_NONE);
	assert_int_equal(berth_cursor_pin(r, KEY("short"), 1, KEY("acme"), HOUR_MS, DAEMON_MS), BERTH_OK);
	assert_int_equal(berth_cursor_pin(r, KEY("long"), 2, KEY("acme"), 10 * HOUR_MS, DAEMON_MS), BERTH_OK);
	atomic_store(&plan->boottime_ns, 5 * HOUR_NS);
	assert_int_equal(berth_cursor_resolve(r, KEY("short"), KEY("acme"), 0, &cluster), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_resolve(r, KEY("long"), KEY("acme"), 0, &cluster), BERTH_OK);
	assert_int_equal(cluster, 2);
	restart();
	maintained();
	assert_int_equal(berth_cursor_resolve(r, KEY("short"), KEY("acme"), 0, &cluster), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_resolve(r, KEY("long"), KEY("acme"), 0, &cluster), BERTH_OK);
	assert_int_equal(berth_cursor_pin(r, KEY("short"), 1, KEY("acme"), HOUR_MS, DAEMON_MS), BERTH_OK);
	assert_int_equal(berth_cursor_resolve(r, KEY("short"), KEY("acme"), 0, &cluster), BERTH_OK);
	all_goes_on();
}

static json_int_t epoch_of(const char *key)
{
	json_t *got = wire_ok(&admin, "get", "{s:s}", "partition", key);
	json_int_t epoch = int_of(got, "epoch");

	json_decref(got);
	return epoch;
}

/* The daemon's clock has been set indeed. */
static void history_says(int64_t hours)
{
	json_t *got = wire_ok(&admin, "history", "{s:i}", "limit", 1);
	json_int_t at = int_of(json_array_get(json_object_get(got, "events"), 0), "at_ms");
	struct timespec real;
	int64_t wrong;

	syscall(SYS_clock_gettime, CLOCK_REALTIME, &real); /* not through the library */
	wrong = (int64_t)at / 1000 - real.tv_sec - hours * 3600;

	json_decref(got);
	if (wrong < -3600 || wrong > 3600)
		fail_msg("%lld s off, with the clock set by %lld hours", (long long)wrong, (long long)hours);
}

static void the_day_may_be_set_at_any_time(void **state)
{
	static const int64_t hours[] = {0, 24, -24, 24 * 3650, -24 * 3650};
	json_int_t last = 0, waits;
	uint16_t cluster;

	(void)state;
	fault_plan_needed(plan);
	attach(BERTH_WRITES_UNBRACKETED);
	assert_int_equal(berth_cursor_pin(r, KEY("cursor"), 1, KEY("acme"), HOUR_MS, DAEMON_MS), BERTH_OK);
	cut_over();
	waits = pending("reader-without-leases");
	assert_true(waits > 0);
	for (unsigned i = 0; i < sizeof hours / sizeof hours[0]; i++) {
		atomic_store(&plan->realtime_ns, hours[i] * HOUR_NS);
		all_goes_on();
		history_says(hours[i]);
		if (epoch_of("globex") <= last)
			fail_msg("the epoch goes back from %lld to %lld", (long long)last,
				 (long long)epoch_of("globex"));
		last = epoch_of("globex");
		assert_int_equal(berth_cursor_resolve(r, KEY("cursor"), KEY("acme"), 0, &cluster), BERTH_OK);
		if (i % 2)
			restart();
		maintained();
		assert_true(pending("reader-without-leases") <= waits);
	}
}

int main(int argc, char **argv)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make, unmake)
	const struct CMUnitTest tests[] = {
		TEST(sleep_does_not_shorten_a_barrier),
		TEST(sleep_ends_no_write_that_is_under_way),
		TEST(a_pin_ends_with_the_time_that_was_slept),
		TEST(the_day_may_be_set_at_any_time),
	};

	(void)argc;
	plan = fault_possible() ? fault_run_self(argv) : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
