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

#include "fault_place.h"

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

#define NEEDS_PLACE() \
	do { \
		if (!plan) \
			SKIP("ThreadSanitizer's own library stands where faults.so would"); \
	} while (0)

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

static void try_attach(const struct berth_attach_options *o, enum fault_call call, int64_t n, int error)
{
	int64_t mapped = atomic_load(&plan->mapped);
	unsigned before = descriptors();
	struct berth *b = NULL;
	int rc;

	snprintf(doing, sizeof doing, "attaching (writes %u, cursors %u), passage %lld of %s fails with %s", o->writes,
		 o->cursors, (long long)n, fault_name(call), fault_error_name(error));
	fault_arm(plan, call, n, error, false, NULL);
	rc = berth_attach(d->dir, o, &b);
	fired += fault_disarm(plan) != 0;
	tried++;
	if (rc == BERTH_OK) {
		works(b, o);
		assert_int_equal(berth_detach(&b), BERTH_OK);
	} else {
		must_be_error(rc);
		if (b)
			FAIL("refused with %s, and something handed out", berth_strerror(rc));
		if (!may_be_refused(call, error))
			FAIL("refused with %s", berth_strerror(rc));
		assert_int_equal(berth_attach(d->dir, o, &b), BERTH_OK);
		works(b, o);
		assert_int_equal(berth_detach(&b), BERTH_OK);
	}
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
	NEEDS_PLACE();
	for (unsigned i = 0; i < sizeof sorts / sizeof sorts[0]; i++) {
		fault_count(plan);
		assert_int_equal(berth_attach(d->dir, &sorts[i], &b), BERTH_OK);
		for (unsigned c = 0; c < CALLS; c++)
			passes[c] = atomic_load(&plan->passes[c]);
		works(b, &sorts[i]);
		assert_int_equal(berth_detach(&b), BERTH_OK);
		for (enum fault_call call = 0; call < CALLS; call++)
			for (int64_t n = 1; n <= (int64_t)passes[call] && n <= 40; n++)
				for (const int *error = fault_errors(call); *error; error++)
					try_attach(&sorts[i], call, n, *error);
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
static int follow(struct berth *b, struct berth_reader *r, bool maintain)
{
	struct berth_placement at;
	int rc, ahead = maintain ? berth_maintain(b) : BERTH_OK;

	berth_read_begin(r);
	rc = berth_lookup(r, KEY("acme"), &at);
	if (rc == BERTH_OK && strcmp(at.index, "acme-index") != 0)
		FAIL("the look-up finds `%s`", at.index);
	berth_read_end(r);
	if (ahead != BERTH_OK)
		must_be_error(ahead);
	return rc;
}

static void try_follow(struct berth *b, struct berth_reader *r, bool maintain, enum fault_call call, int64_t n,
		       int error)
{
	unsigned before;
	int rc;

	maintained(b);
	finds_acme(r);
	before = descriptors();
	flip(b);
	snprintf(doing, sizeof doing, "%s after a flip, passage %lld of %s fails with %s",
		 maintain ? "maintaining" : "the first look-up", (long long)n, fault_name(call),
		 fault_error_name(error));
	fault_arm(plan, call, n, error, false, NULL);
	rc = follow(b, r, maintain);
	fired += fault_disarm(plan) != 0;
	tried++;
	if (rc != BERTH_OK) {
		must_be_error(rc);
		if (!may_be_refused(call, error))
			FAIL("the look-up answers %s", berth_strerror(rc));
	}
	finds_acme(r); /* at once, without maintain */
	maintained(b);
	finds_acme(r);
	if (descriptors() != before)
		FAIL("%u descriptors instead of %u", descriptors(), before);
}

static void a_failing_call_after_a_flip_costs_a_look_up_at_most_and_none_is_wrong(void **state)
{
	int64_t mapped = plan ? atomic_load(&plan->mapped) : 0;
	uint64_t passes[CALLS];
	struct berth_reader *r;
	struct berth *b;

	(void)state;
	NEEDS_PLACE();
	assert_int_equal(berth_attach(d->dir, &sorts[2], &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	for (int maintain = 0; maintain < 2; maintain++) {
		flip(b);
		fault_count(plan);
		assert_int_equal(follow(b, r, maintain), BERTH_OK);
		for (unsigned c = 0; c < CALLS; c++)
			passes[c] = atomic_load(&plan->passes[c]);
		for (enum fault_call call = 0; call < CALLS; call++)
			for (int64_t n = 1; n <= (int64_t)passes[call]; n++)
				for (const int *error = fault_errors(call); *error; error++)
					try_follow(b, r, maintain, call, n, *error);
	}
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
	if (atomic_load(&plan->mapped) != mapped)
		FAIL("or before: %lld bytes are left mapped", (long long)(atomic_load(&plan->mapped) - mapped));
	assert_true(fired > tried / 2);
}

/* The kernel's own refusal, and not once: sections that begin and look-ups both map a new table. */
static void without_a_free_descriptor_the_kept_one_serves_each_look_up_after_a_flip(void **state)
{
	struct rlimit limit, none;
	struct berth_reader *r;
	int full[256], n = 0;
	struct berth *b;

	(void)state;
	NEEDS_PLACE();
	assert_int_equal(berth_attach(d->dir, &sorts[2], &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	maintained(b);
	finds_acme(r);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){sizeof full / sizeof full[0], limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	while ((full[n] = dup(0)) >= 0)
		n++;
	snprintf(doing, sizeof doing, "no descriptor is free");
	for (unsigned i = 0; i < 6; i++) {
		int rc;

		flip(b);
		assert_true(dup(0) < 0);
		rc = follow(b, r, i % 2);
		if (rc != BERTH_OK)
			FAIL("look-up %u after a flip answers %s", i, berth_strerror(rc));
		tried++;
	}
	while (n)
		close(full[--n]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

/* ---- the daemon comes back -------------------------------------------------------------------------------------- */

static void restart(void)
{
	wire_close(&admin);
	daemon_kill(d);
	daemon_start(d, NULL);
	wire_open(&admin, d, WIRE_ADMIN);
}

static void try_come_back(struct berth *b, struct berth_reader *r, enum fault_call call, int64_t n, int error)
{
	unsigned before = descriptors();
	int rc;

	snprintf(doing, sizeof doing, "coming back, passage %lld of %s fails with %s", (long long)n, fault_name(call),
		 fault_error_name(error));
	restart();
	fault_arm(plan, call, n, error, false, NULL);
	for (uint64_t deadline = 0; (rc = berth_maintain(b)) == BERTH_E_WRITER_DOWN || rc == BERTH_E_AGAIN;)
		if (!within(&deadline))
			FAIL("the daemon is not found again");
	fired += fault_disarm(plan) != 0;
	tried++;
	if (rc != BERTH_OK) {
		must_be_error(rc);
		if (!may_be_refused(call, error))
			FAIL("refused with %s", berth_strerror(rc));
	}
	finds_acme(r);
	maintained(b);
	finds_acme(r);
	if (berth_cursor_pin(r, KEY("cursor"), 1, KEY("acme"), 1000, DAEMON_MS) != BERTH_OK)
		FAIL("no pin is taken afterwards");
	if (descriptors() != before)
		FAIL("%u descriptors instead of %u", descriptors(), before);
}

static void a_process_comes_back_to_a_new_daemon_whichever_call_fails(void **state)
{
	uint64_t passes[CALLS];
	struct berth_reader *r;
	struct berth *b;

	(void)state;
	NEEDS_PLACE();
	assert_int_equal(berth_attach(d->dir, &sorts[2], &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	restart();
	fault_count(plan);
	maintained(b);
	for (unsigned c = 0; c < CALLS; c++)
		passes[c] = atomic_load(&plan->passes[c]);
	for (enum fault_call call = 0; call < CALLS; call++)
		for (int64_t n = 1; n <= (int64_t)passes[call] && n <= 6; n++)
			for (const int *error = fault_errors(call); *error; error++)
				try_come_back(b, r, call, n, *error);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

/* ---- pins ------------------------------------------------------------------------------------------------------- */

static void a_pin_is_there_or_said_not_to_be_whichever_call_fails(void **state)
{
	static const enum fault_call calls[] = {CALL_WRITE, CALL_FUTEX, CALL_POLL, CALL_NANOSLEEP};
	struct berth_reader *r;
	struct berth *b;

	(void)state;
	NEEDS_PLACE();
	assert_int_equal(berth_attach(d->dir, &sorts[2], &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	for (unsigned i = 0; i < 60; i++) {
		enum fault_call call = calls[i % 4];
		uint16_t cluster = 0;
		char id[32];
		int rc;

		snprintf(id, sizeof id, "cursor-%u", i);
		snprintf(doing, sizeof doing, "pinning, passage %u of %s is interrupted", 1 + i / 4 % 3,
			 fault_name(call));
		fault_arm(plan, call, 1 + i / 4 % 3, EINTR, false, NULL);
		rc = berth_cursor_pin(r, KEY(id), 1, KEY("acme"), 60000, DAEMON_MS);
		fired += fault_disarm(plan) != 0;
		tried++;
		if (rc != BERTH_OK)
			FAIL("%s", berth_strerror(rc));
		if (berth_cursor_resolve(r, KEY(id), KEY("acme"), 0, &cluster) != BERTH_OK || cluster != 1)
			FAIL("it was acknowledged, and is not there");
		usleep(5000); /* the cursor thread falls asleep: the next one rings */
	}
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
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
