/* SPDX-License-Identifier: MIT
 * Hundreds of `complete`s that wait at once, what waiting costs, and what the daemon shows of leases: `readers`,
 * `migrations`, `status`. Attaching with leases, on the wire. One wait by itself: 56-complete.c. */
#include "drain_place.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../shm/layout.h"

#define LONG_MS 60000
#define MANY 300

static bool sanitized(void)
{
	return getenv("BERTH_SANITIZED") != NULL;
}

/* ---- many -------------------------------------------------------------------------------------------------- */

static unsigned timers_of(const struct daemon *d)
{
	DIR *dir = daemon_proc(d, "fd");
	char path[300], is[64];
	struct dirent *e;
	unsigned n = 0;

	while ((e = readdir(dir))) {
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", d->pid, e->d_name);
		len = readlink(path, is, sizeof(is) - 1);
		is[len > 0 ? len : 0] = '\0';
		n += strstr(is, "timerfd") != NULL;
	}
	closedir(dir);
	return n;
}

static void hundreds_wait_at_once(void **state)
{
	struct drain_place *p = *state;
	struct berth_write *writes = calloc(MANY, sizeof(*writes));
	struct wire *wires = calloc(MANY, sizeof(*wires));
	uint64_t start, cpu, deadline = 0;
	unsigned timers = timers_of(&p->d);
	char name[16];

	assert_true(writes && wires);
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "p%d", i);
		drain_prepare(p, name, &writes[i]);
	}
	start = test_now_ms();
	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "p%d", i);
		drain_open_complete(p, &wires[i], name, LONG_MS);
	}
	while (within(&deadline) && drain_status(p, "connections") != MANY + 2)
		;
	assert_int_equal(drain_status(p, "connections"), MANY + 2);
	assert_int_equal(drain_status(p, "cutovers"), MANY);
	assert_int_equal(timers_of(&p->d), timers);
	print_message("%s: %d waits taken up in %llu ms\n", p->d.store, MANY,
		      (unsigned long long)(test_now_ms() - start));
	cpu = drain_cpu_ms(&p->d);
	poll(NULL, 0, 1000);
	cpu = drain_cpu_ms(&p->d) - cpu;
	print_message("%s: %d waits cost %llu ms of processor time in a second\n", p->d.store, MANY,
		      (unsigned long long)cpu);
	assert_true(sanitized() || cpu < 300);
	for (int i = 0; i < MANY; i++)
		assert_true(wire_silent(&wires[i], 0));
	/* One by one, each is told alone; then the rest at once. */
	for (int i = 0; i < 10; i++) {
		drain_end_write(p, &writes[i], BERTH_DONE);
		drain_expect_completed(wire_answer(&wires[i]));
		assert_true(wire_silent(&wires[i + 1], 0));
	}
	start = test_now_ms();
	for (int i = 10; i < MANY; i++)
		drain_end_write(p, &writes[i], BERTH_DONE);
	for (int i = 10; i < MANY; i++)
		drain_expect_completed(wire_answer(&wires[i]));
	print_message("%s: %d completed in %llu ms\n", p->d.store, MANY - 10,
		      (unsigned long long)(test_now_ms() - start));
	assert_true(test_now_ms() - start < 5000);
	assert_int_equal(drain_status(p, "migrations"), 0);
	assert_int_equal(drain_status(p, "drains"), MANY);
	for (int i = 0; i < MANY; i++)
		wire_close(&wires[i]);
	free(wires);
	free(writes);
}

static void many_may_wait_for_the_same(void **state)
{
	enum { N = 100 };
	struct drain_place *p = *state;
	struct wire wires[N];
	struct berth_write one;
	int completed = 0;

	drain_prepare(p, "p", &one);
	for (int i = 0; i < N; i++)
		drain_open_complete(p, &wires[i], "p", i % 2 ? LONG_MS : 100);
	for (int i = 0; i < N; i += 2)
		json_decref(drain_pending(wire_answer(&wires[i]), "leases-open"));
	drain_end_write(p, &one, BERTH_DONE);
	for (int i = 1; i < N; i += 2) {
		json_t *answer = wire_answer(&wires[i]);

		completed += json_object_get(answer, "result") != NULL;
		if (json_object_get(answer, "error"))
			answer_expect_refused(answer, "not-migrating");
		else
			json_decref(answer);
	}
	assert_int_equal(completed, 1);
	for (int i = 0; i < N; i++)
		wire_close(&wires[i]);
}

/* ---- cost -------------------------------------------------------------------------------------------------- */

static void a_wait_for_a_write_that_hangs_costs_little(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	struct wire w;
	uint64_t cpu, switches, idle;

	drain_prepare(p, "p", &one);
	poll(NULL, 0, 200);
	idle = drain_switches(&p->d);
	poll(NULL, 0, 500);
	idle = drain_switches(&p->d) - idle;
	assert_true(idle < 20); /* nobody waits: no timer */
	cpu = drain_cpu_ms(&p->d);
	switches = drain_switches(&p->d);
	drain_open_complete(p, &w, "p", LONG_MS);
	assert_true(wire_silent(&w, 2000));
	cpu = drain_cpu_ms(&p->d) - cpu;
	switches = drain_switches(&p->d) - switches;
	print_message("2 s of waiting: %llu ms of processor time, %llu wake-ups\n", (unsigned long long)cpu,
		      (unsigned long long)switches);
	assert_true(sanitized() || cpu < 200);
	assert_in_range(switches, 200, 4000);
	drain_end_write(p, &one, BERTH_DONE);
	drain_expect_completed(wire_answer(&w));
	poll(NULL, 0, 100);
	idle = drain_switches(&p->d);
	poll(NULL, 0, 500);
	idle = drain_switches(&p->d) - idle;
	assert_true(idle < 20);
	/* Waiting for the clock alone: no need to look often. */
	drain_prepare(p, "q", &one);
	drain_end_write(p, &one, BERTH_UNKNOWN);
	drain_send_complete(&w, "q", LONG_MS);
	poll(NULL, 0, 100);
	idle = drain_switches(&p->d);
	assert_true(wire_silent(&w, 1000));
	idle = drain_switches(&p->d) - idle;
	print_message("1 s of waiting for the clock: %llu wake-ups\n", (unsigned long long)idle);
	assert_true(idle < 60);
	wire_close(&w);
}

/* ---- what is shown ----------------------------------------------------------------------------------------- */

static json_t *row_of(struct drain_place *p, const char *method)
{
	json_t *r = wire_ok(&p->admin, method, NULL), *row = json_incref(json_array_get(json_object_get(r, method), 0));

	assert_non_null(row);
	json_decref(r);
	return row;
}

static void readers_shows_the_writes_under_way(void **state)
{
	struct drain_place *p = *state;
	struct berth_write a, b, c;
	json_t *row, *leases, *lease;
	uint64_t deadline = 0;

	drain_put(p, "old");
	drain_put(p, "new");
	wire_do(&p->admin, "default.set", "{s:{s:s, s:s}}", "placement", "mode", "dedicated-cluster", "cluster", "c1");
	row = row_of(p, "readers");
	assert_string_equal(text_of(row, "writes"), "bracketed");
	assert_int_equal(int_of(row, "max_leases"), 1024);
	assert_int_equal(int_of(row, "n_leases"), 0);
	assert_int_equal(int_of(row, "n_unknown"), 0);
	assert_true(json_is_null(json_object_get(row, "overflow_ms_ago")));
	assert_int_equal(json_array_size(json_object_get(row, "leases")), 0);
	json_decref(row);
	drain_begin_write(p, "old", &a);
	poll(NULL, 0, 60);
	drain_begin_write(p, "new", &b);
	poll(NULL, 0, 30);
	drain_begin_write(p, "nobody's own", &c);
	drain_end_write(p, &b, BERTH_UNKNOWN);
	row = row_of(p, "readers");
	assert_int_equal(int_of(row, "n_leases"), 2);
	assert_int_equal(int_of(row, "n_unknown"), 1);
	leases = json_object_get(row, "leases");
	assert_int_equal(json_array_size(leases), 3);
	lease = json_array_get(leases, 0); /* the oldest first */
	assert_string_equal(text_of(lease, "partition"), "old");
	assert_string_equal(text_of(lease, "outcome"), "open");
	assert_in_range(int_of(lease, "age_ms"), 80, 5000);
	assert_int_equal(int_of(lease, "reader"), 0);
	assert_int_equal(strlen(text_of(lease, "hash")), 16);
	assert_int_equal(strspn(text_of(lease, "hash"), "0123456789abcdef"), 16);
	for (size_t i = 1; i < 3; i++) {
		lease = json_array_get(leases, i);
		if (strcmp(text_of(lease, "outcome"), "unknown") == 0) {
			assert_string_equal(text_of(lease, "partition"), "new");
		} else {
			assert_true(json_is_null(json_object_get(lease, "partition")));
			assert_int_equal(json_object_size(lease), 5);
		}
		assert_in_range(int_of(lease, "age_ms"), 0, 5000);
	}
	json_decref(row);
	while (within(&deadline) && drain_status(p, "leases") != 2)
		;
	assert_int_equal(drain_status(p, "leases"), 2);
	assert_int_equal(drain_status(p, "leases_unknown"), 1);
	drain_end_write(p, &a, BERTH_DONE);
	drain_end_write(p, &c, BERTH_DONE);
}

static void a_long_list_of_leases_is_cut(void **state)
{
	struct drain_place *p = *state;
	struct berth_write *writes = calloc(1020, sizeof(*writes));
	json_t *row;

	assert_non_null(writes);
	drain_put(p, "p");
	for (int i = 0; i < 1020; i++)
		drain_begin_write(p, "p", &writes[i]);
	row = row_of(p, "readers");
	assert_int_equal(int_of(row, "n_leases"), 1020);
	assert_int_equal(json_array_size(json_object_get(row, "leases")), 1000);
	json_decref(row);
	drain_cut_over(p, "p");
	row = row_of(p, "migrations");
	assert_int_equal(int_of(row, "in_flight"), 1020);
	json_decref(row);
	for (int i = 0; i < 1020; i++)
		drain_end_write(p, &writes[i], BERTH_DONE);
	free(writes);
}

static void migrations_and_status_show_the_drain(void **state)
{
	struct drain_place *p = *state;
	struct berth_write one;
	json_t *row, *pids, *status;

	drain_put(p, "p");
	wire_do(&p->admin, "begin", "{s:s, s:{s:s}}", "partition", "p", "to", "cluster", "c2");
	drain_begin_write(p, "p", &one);
	row = row_of(p, "migrations");
	assert_int_equal(json_array_size(json_object_get(row, "pids")), 0);
	assert_true(json_is_null(json_object_get(row, "reason")));
	json_decref(row);
	assert_int_equal(drain_status(p, "cutovers"), 0);
	wire_do(&p->admin, "cutover", "{s:s}", "partition", "p");
	json_decref(drain_pending(wire_call(&p->admin, "complete", "{s:s}", "partition", "p"), "leases-open"));
	row = row_of(p, "migrations");
	pids = json_object_get(row, "pids");
	assert_string_equal(text_of(row, "reason"), "leases-open");
	assert_int_equal(int_of(row, "in_flight"), 1);
	assert_int_equal(int_of(row, "remaining_ms"), 0);
	assert_int_equal(json_array_size(pids), 1);
	assert_int_equal(json_integer_value(json_array_get(pids, 0)), getpid());
	json_decref(row);
	assert_int_equal(drain_status(p, "cutovers"), 1);
	assert_int_equal(drain_status(p, "drains"), 0);
	poll(NULL, 0, 20);
	drain_end_write(p, &one, BERTH_DONE);
	wire_do(&p->admin, "complete", "{s:s, s:i}", "partition", "p", "wait_ms", LONG_MS);
	status = wire_ok(&p->admin, "status", NULL);
	assert_int_equal(int_of(status, "cutovers"), 0);
	assert_int_equal(int_of(status, "drains"), 1);
	assert_in_range(int_of(status, "blackout_ms"), 20, 5000);
	assert_int_equal(int_of(status, "blackout_ms_max"), int_of(status, "blackout_ms"));
	json_decref(status);
}

/* ---- attaching --------------------------------------------------------------------------------------------- */

static json_int_t clock_ns(int clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (json_int_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#define ATTACH(format, readers, writes) \
	"{s:i, s:i, s:i, s:s, s:b, s:I, s:I" format "}", "version", 1, "pid", getpid(), "readers", readers, "writes", \
		writes, "fences", 0, "monotonic_ns", clock_ns(CLOCK_MONOTONIC), "boottime_ns", \
		clock_ns(CLOCK_BOOTTIME)

static void expect_leases_refused(json_t *error, const char *value)
{
	assert_non_null(strstr(text_of(error, "message"), "leases"));
	assert_non_null(strstr(text_of(error, "message"), value));
	assert_string_equal(text_of(json_object_get(error, "data"), "path"), "$.leases");
	json_decref(error);
}

static void attach_checks_leases(void **state)
{
	struct drain_place *p = *state;
	struct shm_registration *file;
	struct stat st;
	struct wire w;
	json_t *r;

	wire_open(&w, &p->d, WIRE_LOOK);
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH("", 1, "bracketed")), "bracketed");
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH(", s:i", 1, "bracketed"), "leases", 0), "0");
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH(", s:i", 1, "bracketed"), "leases", -4),
			      "-4");
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH(", s:i", 1, "bracketed"), "leases", 65537),
			      "65537");
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH(", s:i", 4096, "bracketed"), "leases", 4097),
			      "4097");
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH(", s:i", 1, "none"), "leases", 16), "16");
	expect_leases_refused(wire_refused(&w, "invalid", "attach", ATTACH(", s:i", 1, "unbracketed"), "leases", 16),
			      "16");
	wire_deny(&w, "invalid", "attach", ATTACH(", s:s", 1, "bracketed"), "leases", "16");
	wire_deny(&w, "invalid", "attach", ATTACH(", s:i", 1, "Bracketed"), "leases", 16);
	assert_int_equal(w.passed, -1);
	assert_int_equal(drain_status(p, "readers"), 1);
	r = wire_ok(&w, "attach", ATTACH(", s:i", 3, "bracketed"), "leases", 65536);
	assert_true(int_of(r, "attach") > 0);
	json_decref(r);
	assert_int_equal(fstat(w.passed, &st), 0);
	file = mmap(NULL, SHM_PAGE, PROT_READ, MAP_SHARED, w.passed, 0);
	assert_ptr_not_equal(file, MAP_FAILED);
	assert_int_equal(file->n_leases, 65536);
	assert_int_equal(file->lease_stride, SHM_LEASE_STRIDE(65536));
	assert_true((uint64_t)st.st_size >= file->leases_off + 3ull * file->lease_stride);
	munmap(file, SHM_PAGE);
	close(w.passed);
	wire_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		DRAIN_ON_BOTH(hundreds_wait_at_once),
		DRAIN_TEST(many_may_wait_for_the_same, "memory"),
		DRAIN_TEST(a_wait_for_a_write_that_hangs_costs_little, "memory"),
		DRAIN_TEST(readers_shows_the_writes_under_way, "memory"),
		DRAIN_TEST(a_long_list_of_leases_is_cut, "memory"),
		DRAIN_TEST(migrations_and_status_show_the_drain, "memory"),
		DRAIN_TEST(attach_checks_leases, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
