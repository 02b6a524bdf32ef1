/* SPDX-License-Identifier: MIT
 * Each call of libberth fails once, in this process: while it attaches, follows the table to a new generation, comes
 * back to a daemon that was started anew, and pins. What cannot be done is an error of BERTH_E_*, leaves no descriptor
 * and no mapping behind, and can be done afterwards; no look-up gives a wrong answer. The program runs itself once more
 * with faults.so preloaded (faults/interpose.c). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "child.h"
#include "fault_plan.h"

#define KEY(k) (k), strlen(k)
#define MANY 60 /* partitions of a batch, so that one soon finds no room: what was removed goes on filling the table */

static struct faults *plan; /* of this process */
static struct daemon *d;
static struct wire admin;
static unsigned tried, fired, refused;
static char doing[200];

#define FAIL(format, ...) fail_msg("%s: " format, doing, ##__VA_ARGS__)

/* ---- a place ---------------------------------------------------------------------------------------------------- */

static int make(void **state)
{
	(void)state;
	if (!plan)
		return 0;
	tried = fired = refused = 0;
	d = calloc(1, sizeof *d);
	daemon_make(d, "memory");
	daemon_start(d, NULL);
	wire_open(&admin, d, WIRE_ADMIN);
	wire_do(&admin, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&admin, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", "acme", "placement", "mode", "dedicated-index",
		"cluster", "c1", "index", "acme-index");
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	if (!plan)
		return 0;
	fault_disarm(plan);
	wire_close(&admin);
	daemon_remove(d);
	free(d);
	printf("note: %u failures tried, %u met, %u errors\n", tried, fired, refused);
	return 0;
}

static unsigned descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static const struct berth_attach_options sorts[] = {
	{.size = sizeof sorts[0], .writes = BERTH_WRITES_NONE},
	{.size = sizeof sorts[0], .writes = BERTH_WRITES_BRACKETED, .max_leases = 16},
	{.size = sizeof sorts[0], .writes = BERTH_WRITES_NONE, .cursors = BERTH_CURSORS_PIN},
};

static void must_be_error(int rc)
{
	if (rc >= 0 || strstr(berth_strerror(rc), "unknown"))
		FAIL("%d (%s) is no error of libberth", rc, berth_strerror(rc));
	refused++;
}

static bool may_be_refused(enum fault_call call, int error)
{
	return (error != EINTR || call == CALL_OPEN) && error != FAULT_SHORT;
}

static void maintained(struct berth *b)
{
	int rc;

	for (uint64_t deadline = 0; (rc = berth_maintain(b)) != BERTH_OK;)
		if (!within(&deadline))
			FAIL("berth_maintain answers %s, though nothing fails any more", berth_strerror(rc));
}

static void finds_acme(struct berth_reader *r)
{
	struct berth_placement at;
	int rc;

	berth_read_begin(r);
	rc = berth_lookup(r, KEY("acme"), &at);
	if (rc != BERTH_OK || strcmp(at.index, "acme-index") != 0)
		FAIL("the look-up answers %s, `%s`", berth_strerror(rc), rc == BERTH_OK ? at.index : "");
	berth_read_end(r);
}

/* What is attached here while the calls of a test fail. */
struct attached {
	const struct berth_attach_options *o;
	bool maintain; /* the table is followed by berth_maintain */
	struct berth *b;
	struct berth_reader *r;
};

static struct attached come(const struct berth_attach_options *o)
{
	struct attached a = {.o = o};

	assert_int_equal(berth_attach(d->dir, o, &a.b), BERTH_OK);
	assert_int_equal(berth_reader_open(a.b, &a.r), BERTH_OK);
	return a;
}

static void go(struct attached *a)
{
	berth_reader_close(&a->r);
	assert_int_equal(berth_detach(&a->b), BERTH_OK);
}

/* Each of the calls that are counted, at up to `most` passages, fails in each way that it can. */
static void each_fails(const uint64_t passes[CALLS], int64_t most, struct attached *a,
		       void (*try_one)(struct attached *, enum fault_call, int64_t n, int error))
{
	for (enum fault_call call = 0; call < CALLS; call++)
		for (int64_t n = 1; n <= (int64_t)passes[call] && n <= most; n++)
			for (const int *error = fault_errors(call); *error; error++)
				try_one(a, call, n, *error);
}

/* The answer of what was performed while a call was to fail: done, or an error that this failure is worth. */
static void judge(int rc, enum fault_call call, int error)
{
	bool met = fault_disarm(plan) != 0;

	tried++;
	fired += met;
	if (rc == BERTH_OK)
		return;
	must_be_error(rc);
	if (!met || !may_be_refused(call, error))
		FAIL("answered with %s%s", berth_strerror(rc), met ? "" : ", though nothing failed");
}

/* Nothing fails any more: it reads at once, without berth_maintain, and is followed up; no descriptor is left. */
static void recovers(struct attached *a, unsigned before)
{
	finds_acme(a->r);
	maintained(a->b);
	finds_acme(a->r);
	if (descriptors() != before)
		FAIL("%u descriptors instead of %u", descriptors(), before);
}

/* ---- attach ----------------------------------------------------------------------------------------------------- */

/* All that it can do. */
static void works(struct berth *b, const struct berth_attach_options *o)
{
	struct berth_reader *r;
	struct berth_write w;

	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	finds_acme(r);
	maintained(b);
	finds_acme(r);
	if (o->writes == BERTH_WRITES_BRACKETED) {
		assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &w), BERTH_OK);
		assert_int_equal(berth_write_end(r, &w, BERTH_DONE), BERTH_OK);
	}
	if (o->cursors)
		assert_int_equal(berth_cursor_pin(r, KEY("cursor"), 1, KEY("acme"), 1000, DAEMON_MS), BERTH_OK);
	berth_reader_close(&r);
}

static void try_attach(struct attached *a, enum fault_call call, int64_t n, int error)
{
	const struct berth_attach_options *o = a->o;
	int64_t mapped = atomic_load(&plan->mapped);
	unsigned before = descriptors();
	struct berth *b = NULL;
	int rc;

	snprintf(doing, sizeof doing, "attaching (writes %u, cursors %u), passage %lld of %s fails with %s", o->writes,
		 o->cursors, (long long)n, fault_name(call), fault_error_name(error));
	fault_arm(plan, call, n, error, false, NULL);
	rc = berth_attach(d->dir, o, &b);
	judge(rc, call, error);
	if (rc != BERTH_OK) {
		if (b)
			FAIL("refused with %s, and something handed out", berth_strerror(rc));
		assert_int_equal(berth_attach(d->dir, o, &b), BERTH_OK);
	}
	works(b, o);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	if (descriptors() != before)
		FAIL("%u descriptors instead of %u", descriptors(), before);
	if (atomic_load(&plan->mapped) != mapped)
		FAIL("%lld bytes more are mapped", (long long)(atomic_load(&plan->mapped) - mapped));
}

static void each_failing_call_of_an_attach_is_an_error_that_leaves_nothing(void **state)
{
	uint64_t passes[CALLS];
	struct berth *b;

	(void)state;
	fault_plan_needed(plan);
	for (unsigned i = 0; i < sizeof sorts / sizeof sorts[0]; i++) {
		struct attached a = {.o = &sorts[i]};

		fault_count(plan);
		assert_int_equal(berth_attach(d->dir, &sorts[i], &b), BERTH_OK);
		fault_passes(plan, passes);
		works(b, &sorts[i]);
		assert_int_equal(berth_detach(&b), BERTH_OK);
		each_fails(passes, 40, &a, try_attach);
	}
	assert_true(fired > tried / 2);
}

/* ---- a new generation ------------------------------------------------------------------------------------------- */

static json_int_t generation(void)
{
	json_t *status = wire_ok(&admin, "status", NULL);
	json_int_t n = int_of(status, "generation");

	json_decref(status);
	return n;
}

/* By growth: what is removed while somebody reads cannot be used again, so the table fills. */
static void flip(struct berth *b)
{
	json_int_t before = generation();
	struct berth_reader *holder;
	static unsigned n;
	char name[32];

	assert_int_equal(berth_reader_open(b, &holder), BERTH_OK);
	berth_read_begin(holder);
	finds_acme(holder);
	for (unsigned round = 0; generation() == before; round++) {
		json_t *names = json_array();

		assert_true(round < 20);
		for (unsigned i = 0; i < MANY; i++)
			json_array_append_new(names, json_sprintf("many-%u", n + i));
		wire_do(&admin, "set", "{s:o, s:{s:s, s:s}}", "partitions", names, "placement", "mode",
			"dedicated-cluster", "cluster", "c1");
		for (unsigned i = 0; i < MANY; i++) {
			snprintf(name, sizeof name, "many-%u", n++);
			wire_do(&admin, "remove", "{s:s, s:b}", "partition", name, "force", 1);
		}
	}
	berth_read_end(holder);
	berth_reader_close(&holder);
}

/* Maintain, then a look-up; or the look-up alone, the first after a flip. */
static int follow(const struct attached *a)
{
	struct berth_placement at;
	int rc, ahead = a->maintain ? berth_maintain(a->b) : BERTH_OK;

	berth_read_begin(a->r);
	rc = berth_lookup(a->r, KEY("acme"), &at);
	if (rc == BERTH_OK && strcmp(at.index, "acme-index") != 0)
		FAIL("the look-up finds `%s`", at.index);
	berth_read_end(a->r);
	if (ahead != BERTH_OK)
		must_be_error(ahead);
	return rc;
}

static void try_follow(struct attached *a, enum fault_call call, int64_t n, int error)
{
	unsigned before;

	maintained(a->b);
	finds_acme(a->r);
	before = descriptors();
	flip(a->b);
	snprintf(doing, sizeof doing, "%s after a flip, passage %lld of %s fails with %s",
		 a->maintain ? "maintaining" : "the first look-up", (long long)n, fault_name(call),
		 fault_error_name(error));
	fault_arm(plan, call, n, error, false, NULL);
	judge(follow(a), call, error);
	recovers(a, before);
}

static void a_failing_call_after_a_flip_costs_a_look_up_at_most_and_none_is_wrong(void **state)
{
	uint64_t passes[CALLS];
	struct attached a;
	int64_t mapped;

	(void)state;
	fault_plan_needed(plan);
	mapped = atomic_load(&plan->mapped);
	a = come(&sorts[2]);
	for (int maintain = 0; maintain < 2; maintain++) {
		a.maintain = maintain;
		flip(a.b);
		fault_count(plan);
		assert_int_equal(follow(&a), BERTH_OK);
		fault_passes(plan, passes);
		each_fails(passes, INT64_MAX, &a, try_follow);
	}
	go(&a);
	if (atomic_load(&plan->mapped) != mapped)
		FAIL("or before: %lld bytes are left mapped", (long long)(atomic_load(&plan->mapped) - mapped));
	assert_true(fired > tried / 2);
}

/* The kernel's own refusal, and not once: sections that begin and look-ups both map a new table. */
static void without_a_free_descriptor_the_kept_one_serves_each_look_up_after_a_flip(void **state)
{
	struct rlimit limit, none;
	int full[256], n = 0;
	struct attached a;

	(void)state;
	fault_plan_needed(plan);
	a = come(&sorts[2]);
	maintained(a.b);
	finds_acme(a.r);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){sizeof full / sizeof full[0], limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	while ((full[n] = dup(0)) >= 0)
		n++;
	snprintf(doing, sizeof doing, "no descriptor is free");
	for (unsigned i = 0; i < 6; i++) {
		int rc;

		flip(a.b);
		assert_true(dup(0) < 0);
		a.maintain = i % 2;
		rc = follow(&a);
		if (rc != BERTH_OK)
			FAIL("look-up %u after a flip answers %s", i, berth_strerror(rc));
		tried++;
	}
	while (n)
		close(full[--n]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	go(&a);
}

/* ---- the daemon comes back -------------------------------------------------------------------------------------- */

static void restart(void)
{
	wire_close(&admin);
	daemon_kill(d);
	daemon_start(d, NULL);
	wire_open(&admin, d, WIRE_ADMIN);
}

static void try_come_back(struct attached *a, enum fault_call call, int64_t n, int error)
{
	unsigned before = descriptors();
	int rc;

	snprintf(doing, sizeof doing, "coming back, passage %lld of %s fails with %s", (long long)n, fault_name(call),
		 fault_error_name(error));
	restart();
	fault_arm(plan, call, n, error, false, NULL);
	for (uint64_t deadline = 0; (rc = berth_maintain(a->b)) == BERTH_E_WRITER_DOWN || rc == BERTH_E_AGAIN;)
		if (!within(&deadline))
			FAIL("the daemon is not found again");
	judge(rc, call, error);
	recovers(a, before);
	if (berth_cursor_pin(a->r, KEY("cursor"), 1, KEY("acme"), 1000, DAEMON_MS) != BERTH_OK)
		FAIL("no pin is taken afterwards");
	if (descriptors() != before)
		FAIL("%u descriptors instead of %u after a pin", descriptors(), before);
}

static void a_process_comes_back_to_a_new_daemon_whichever_call_fails(void **state)
{
	uint64_t passes[CALLS];
	struct attached a;

	(void)state;
	fault_plan_needed(plan);
	a = come(&sorts[2]);
	restart();
	fault_count(plan);
	maintained(a.b);
	fault_passes(plan, passes);
	each_fails(passes, 6, &a, try_come_back);
	go(&a);
	assert_true(fired > tried / 2);
}

/* ---- pins ------------------------------------------------------------------------------------------------------- */

static void a_pin_is_there_or_said_not_to_be_whichever_call_fails(void **state)
{
	static const enum fault_call calls[] = {CALL_WRITE,
						CALL_FUTEX}; /* the ring of the bell, the wait for the answer */
	unsigned met[CALLS] = {0};
	struct attached a;

	(void)state;
	fault_plan_needed(plan);
	a = come(&sorts[2]);
	for (unsigned i = 0; i < 60; i++) {
		enum fault_call call = calls[i % 2];
		uint16_t cluster = 0;
		char id[32];
		int rc;

		snprintf(id, sizeof id, "cursor-%u", i);
		snprintf(doing, sizeof doing, "pinning, passage %u of %s is interrupted", 1 + i / 2 % 3,
			 fault_name(call));
		fault_arm(plan, call, 1 + i / 2 % 3, EINTR, false, NULL);
		rc = berth_cursor_pin(a.r, KEY(id), 1, KEY("acme"), 60000, DAEMON_MS);
		met[call] += fault_disarm(plan) != 0;
		tried++;
		if (rc != BERTH_OK)
			FAIL("%s", berth_strerror(rc));
		if (berth_cursor_resolve(a.r, KEY(id), KEY("acme"), 0, &cluster) != BERTH_OK || cluster != 1)
			FAIL("it was acknowledged, and is not there");
		usleep(5000); /* the cursor thread falls asleep: the next one rings */
	}
	go(&a);
	fired = met[CALL_WRITE] + met[CALL_FUTEX];
	assert_in_range(met[CALL_WRITE], 3, 60); /* of ten first passages, which are there when the thread sleeps */
	assert_in_range(met[CALL_FUTEX], 3, 60);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_failing_call_of_an_attach_is_an_error_that_leaves_nothing, make,
						unmake),
		cmocka_unit_test_setup_teardown(a_failing_call_after_a_flip_costs_a_look_up_at_most_and_none_is_wrong,
						make, unmake),
		cmocka_unit_test_setup_teardown(without_a_free_descriptor_the_kept_one_serves_each_look_up_after_a_flip,
						make, unmake),
		cmocka_unit_test_setup_teardown(a_process_comes_back_to_a_new_daemon_whichever_call_fails, make,
						unmake),
		cmocka_unit_test_setup_teardown(a_pin_is_there_or_said_not_to_be_whichever_call_fails, make, unmake),
	};

	(void)argc;
	plan = fault_possible() ? fault_run_self(argv) : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
