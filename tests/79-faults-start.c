/* SPDX-License-Identifier: MIT
 * Each call of a start and of a stop fails once. A start serves all that was acknowledged, or says why it does not and
 * leaves everything for the next one; readers that are attached notice neither. A stop ends, whatever fails.
 * faults/interpose.c makes the failures. BERTH_LONG=1 goes through all passages of each class of calls. */
#include "fault_place.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fault_place *p;
static unsigned most, aborted; /* passages of one class that are tried; starts that libuv ended */

static const char *const *options(void)
{
	static const char *const none[] = {NULL};

	return none;
}

/* ---- a place with everything in it ------------------------------------------------------------------------------ */

static void set(const char *key, const char *index)
{
	wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", key, "placement", "mode", "dedicated-index",
		"cluster", "c1", "index", index);
}

static int make(void **state)
{
	if (!fault_possible())
		return 0;
	p = calloc(1, sizeof *p);
	fault_place_make(p, *state, options());
	wire_do(&p->admin, "default.set", "{s:{s:s, s:s, s:s}}", "placement", "mode", "dedicated-index", "cluster",
		"c1", "index", "default");
	set("globex", "globex-index");
	set("mover", "here");
	wire_do(&p->admin, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", "mover", "to", "mode", "dedicated-index",
		"cluster", "c2", "index", "there");
	wire_do(&p->admin, "cutover", "{s:s}", "partition", "mover");
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	if (!p)
		return 0;
	fault_place_remove(p);
	free(p);
	p = NULL;
	return 0;
}

#define NEEDS_PLACE() \
	do { \
		if (!p) \
			SKIP("ThreadSanitizer's own library stands where faults.so would"); \
		most = getenv("BERTH_LONG") ? 100000 : strcmp(*state, "sqlite") == 0 && !child_sanitized() ? 2 : 1; \
		aborted = 0; \
	} while (0)

/* ---- judging ---------------------------------------------------------------------------------------------------- */

static void gone(void)
{
	if (p->admin_open)
		wire_close(&p->admin);
	p->admin_open = false;
}

/* Under which number this process's registration is; a start that did not look at it would have made it come anew. */
static json_int_t registration(void)
{
	json_t *got = wire_ok(&p->admin, "readers", NULL);
	const json_t *all = json_object_get(got, "readers");
	json_int_t n = json_array_size(all) == 1 ? int_of(json_array_get(all, 0), "attach") : -1;

	json_decref(got);
	return n;
}

static void serves_all(const char *view)
{
	char *now = fault_view(p);
	json_t *answer;
	int rc;

	if (strcmp(view, now) != 0)
		fault_fail(p, "it was:\n%snow it is:\n%s", view, now);
	free(now);
	for (uint64_t deadline = 0; (rc = berth_maintain(p->b)) != BERTH_OK;)
		if (!within(&deadline))
			fault_fail(p, "the reader does not come back: %s", berth_strerror(rc));
	if (registration() != 1)
		fault_fail(p, "the reader's registration is number %lld now", (long long)registration());
	answer = fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c2", "endpoint",
			   p->turn++ % 2 ? "http://10.0.0.1:1" : "http://10.0.0.1:2");
	if (!fault_done(answer))
		fault_fail(p, "no change is taken: %s", answer ? json_dumps(answer, 0) : "(closed)");
	json_decref(answer);
}

/* What it said of its end. */
static void says_why(size_t from)
{
	char *log = daemon_log(&p->d), *line = strstr(log + from, "event=start"), *message;

	message = line ? strstr(line, "message=") : NULL;
	if (!message || strcspn(message, "\n") < 25)
		fault_fail(p, "it ends and does not say why: %s", log + from);
	if (getenv("FAULTS_SHOW") && *getenv("FAULTS_SHOW"))
		fprintf(stderr, "%-70s %.*s\n", p->doing, (int)strcspn(line, "\n"), line);
	free(log);
}

static size_t log_length(void)
{
	char *log = daemon_log(&p->d);
	size_t n = strlen(log);

	free(log);
	if (n > 900000) { /* daemon_log shows a million bytes */
		assert_int_equal(truncate(p->d.log, 0), 0);
		n = 0;
	}
	return n;
}

static void try_start(enum fault_call call, int64_t n, int error, const char *in_path, const char *view)
{
	size_t log = log_length();
	bool ready, fired;
	int status = 0;

	snprintf(p->doing, sizeof p->doing, "a start, passage %lld of %s fails with %s", (long long)n, fault_name(call),
		 fault_error_name(error));
	daemon_kill(&p->d);
	gone();
	fault_arm(p->plan, call, n, error, false, in_path);
	ready = fault_place_start(p, options(), &status);
	fired = fault_disarm(p->plan) != 0;
	p->tried++;
	p->fired += fired;
	if (!ready) {
		p->refused++;
		if ((error == EINTR && call != CALL_OPEN && call != CALL_GETRANDOM) || error == FAULT_SHORT)
			fault_fail(p, "it ended with %d, though nothing is wrong", status);
		/* libuv makes its loop before anything is open, and ends the process itself when it cannot. */
		if (status == 128 + SIGABRT && atomic_exchange(&p->plan->libuv_aborts, 0) == 1)
			aborted++;
		else if (status != 1)
			fault_fail(p, "it ended with %d", status);
		else
			says_why(log);
		if (!fault_place_start(p, options(), &status))
			fault_fail(p, "the next start, without a fault, ended with %d", status);
	}
	if (ready && call == CALL_GROUP && fired)
		fault_fail(p, "it serves with a group that it could not look up");
	serves_all(view);
}

/* The calls of a start that are on a path with this text; NULL: all. */
static void record(const char *in_path, const char *view, uint64_t passes[CALLS])
{
	int status;

	snprintf(p->doing, sizeof p->doing, "a start without a fault");
	daemon_kill(&p->d);
	gone();
	fault_count(p->plan);
	fault_arm(p->plan, CALL_OPEN, INT64_MAX, EIO, false, in_path);
	if (!fault_place_start(p, options(), &status))
		fault_fail(p, "it ended with %d", status);
	for (unsigned c = 0; c < CALLS; c++)
		passes[c] = atomic_load(&p->plan->passes[c]);
	fault_disarm(p->plan);
	serves_all(view);
}

static void try_starts(enum fault_call call, uint64_t passes, unsigned most_of_them, const char *in_path,
		       const char *view)
{
	for (unsigned k = 0; fault_nth(passes, most_of_them, k); k++)
		for (const int *error = fault_errors(call); *error; error++)
			try_start(call, fault_nth(passes, most_of_them, k), *error, in_path, view);
}

static void each_failing_call_of_a_start_is_told_or_all_is_served(void **state)
{
	/* Of these a start makes many that are not about the instance. */
	static const enum fault_call of_instance[] = {CALL_OPEN, CALL_MMAP, CALL_FSTAT};
	uint64_t passes[CALLS];
	unsigned n_calls = 0;
	char *view;

	(void)state;
	NEEDS_PLACE();
	view = fault_view(p);
	record(NULL, view, passes);
	for (enum fault_call call = 0; call < CALLS; call++) {
		n_calls += passes[call] != 0;
		try_starts(call, passes[call], most, NULL, view);
	}
	record("/berth-daemon-", view, passes);
	for (unsigned i = 0; i < sizeof of_instance / sizeof of_instance[0]; i++)
		try_starts(of_instance[i], passes[of_instance[i]], most > 40 ? 40 : 4 * most, "/berth-daemon-", view);
	free(view);
	printf("note: %u classes of calls, %u failures tried, %u met, %u starts refused, %u of them by libuv\n",
	       n_calls, p->tried, p->fired, p->refused, aborted);
	assert_true(p->fired > p->tried / 2 && aborted <= 3);
}

static void try_stop(enum fault_call call, int64_t n, int error, const char *view)
{
	int status;

	snprintf(p->doing, sizeof p->doing, "a stop, passage %lld of %s fails with %s", (long long)n, fault_name(call),
		 fault_error_name(error));
	fault_arm(p->plan, call, n, error, false, NULL);
	status = daemon_stop(&p->d);
	gone();
	p->tried++;
	p->fired += fault_disarm(p->plan) != 0;
	if (status != 0)
		fault_fail(p, "it ended with %d", status);
	if (!fault_place_start(p, options(), &status))
		fault_fail(p, "the start after it ended with %d", status);
	serves_all(view);
}

static void a_stop_ends_whatever_fails_and_loses_nothing(void **state)
{
	uint64_t passes[CALLS];
	unsigned n_calls = 0;
	char *view;
	int status;

	(void)state;
	NEEDS_PLACE();
	view = fault_view(p);
	fault_count(p->plan);
	assert_int_equal(daemon_stop(&p->d), 0);
	gone();
	for (unsigned c = 0; c < CALLS; c++)
		passes[c] = atomic_load(&p->plan->passes[c]);
	assert_true(fault_place_start(p, options(), &status));
	for (enum fault_call call = 0; call < CALLS; call++) {
		n_calls += passes[call] != 0;
		for (unsigned k = 0; fault_nth(passes[call], most, k); k++)
			for (const int *error = fault_errors(call); *error; error++)
				try_stop(call, fault_nth(passes[call], most, k), *error, view);
	}
	free(view);
	printf("note: %u classes of calls, %u failures tried, %u met\n", n_calls, p->tried, p->fired);
}

int main(void)
{
#define TEST(f, store) \
	{ \
#f " (" store ")", f, make, unmake, (void *)(uintptr_t)(store) \
	}
	const struct CMUnitTest tests[] = {
		TEST(each_failing_call_of_a_start_is_told_or_all_is_served, "sqlite"),
		TEST(each_failing_call_of_a_start_is_told_or_all_is_served, "memory"),
		TEST(a_stop_ends_whatever_fails_and_loses_nothing, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
