/* SPDX-License-Identifier: MIT
 * Each call of a start and of a stop fails once. A start serves all that was acknowledged, or says why it does not and
 * leaves everything for the next one; readers that are attached notice neither. A stop ends, whatever fails.
 * faults/interpose.c makes the failures. BERTH_LONG=1 goes through all passages of each class of calls. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault_judge.h"

static struct fault_place *p;
static unsigned most, aborted; /* passages of one class that are tried; starts that libuv ended */

/* A place with everything in it. */
static void furnish(void **state)
{
	p = fault_needed(state);
	most = getenv("BERTH_LONG") ? 100000 : strncmp(p->d.store, "sqlite:", 7) == 0 && !child_sanitized() ? 2 : 1;
	aborted = 0;
	fault_must(p, fault_set_default(p, "default"));
	fault_must(p, fault_set(p, "globex", "globex-index"));
	fault_must(p, fault_set(p, "mover", "here"));
	wire_do(&p->admin, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", "mover", "to", "mode", "dedicated-index",
		"cluster", "c2", "index", "there");
	wire_do(&p->admin, "cutover", "{s:s}", "partition", "mover");
}

/* ---- judging ---------------------------------------------------------------------------------------------------- */

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
	fault_expect_view(p, view, NULL);
	fault_maintained(p);
	if (registration() != 1)
		fault_fail(p, "the reader's registration is number %lld now", (long long)registration());
	fault_must(p, fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c2", "endpoint",
				p->turn++ % 2 ? "http://10.0.0.1:1" : "http://10.0.0.1:2"));
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
	fault_place_leave(p);
	fault_arm(p->plan, call, n, error, false, in_path);
	ready = fault_place_start(p, (const char *const[]){NULL}, &status);
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
		fault_place_again(p);
	}
	if (ready && call == CALL_GROUP && fired)
		fault_fail(p, "it serves with a group that it could not look up");
	serves_all(view);
}

/* The calls of a start that are on a path with this text, NULL: all; of how many classes they are. */
static unsigned record(const char *in_path, const char *view, uint64_t passes[CALLS])
{
	unsigned n_calls;

	snprintf(p->doing, sizeof p->doing, "a start without a fault");
	daemon_kill(&p->d);
	fault_count(p->plan);
	fault_arm(p->plan, CALL_OPEN, INT64_MAX, EIO, false, in_path);
	fault_place_again(p);
	n_calls = fault_passes(p->plan, passes);
	fault_disarm(p->plan);
	serves_all(view);
	return n_calls;
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
	unsigned n_calls;
	char *view;

	furnish(state);
	view = fault_view(p);
	n_calls = record(NULL, view, passes);
	for (enum fault_call call = 0; call < CALLS; call++)
		try_starts(call, passes[call], most, NULL, view);
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
	p->tried++;
	p->fired += fault_disarm(p->plan) != 0;
	if (status != 0)
		fault_fail(p, "it ended with %d", status);
	fault_place_again(p);
	serves_all(view);
}

static void a_stop_ends_whatever_fails_and_loses_nothing(void **state)
{
	uint64_t passes[CALLS];
	unsigned n_calls;
	char *view;

	furnish(state);
	view = fault_view(p);
	fault_count(p->plan);
	assert_int_equal(daemon_stop(&p->d), 0);
	n_calls = fault_passes(p->plan, passes);
	fault_place_again(p);
	for (enum fault_call call = 0; call < CALLS; call++)
		for (unsigned k = 0; fault_nth(passes[call], most, k); k++)
			for (const int *error = fault_errors(call); *error; error++)
				try_stop(call, fault_nth(passes[call], most, k), *error, view);
	free(view);
	printf("note: %u classes of calls, %u failures tried, %u met\n", n_calls, p->tried, p->fired);
	assert_true(p->fired > p->tried / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(each_failing_call_of_a_start_is_told_or_all_is_served, "sqlite"),
		FAULT_TEST(each_failing_call_of_a_start_is_told_or_all_is_served, "memory"),
		FAULT_TEST(a_stop_ends_whatever_fails_and_loses_nothing, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
