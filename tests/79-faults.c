/* SPDX-License-Identifier: MIT
 * Each call of a living daemon fails once: while it serves a request, every class of calls, at every passage, with every
 * errno that fits, or with a part of the bytes. The answer is a refusal with its reason, or the truth; what was there
 * before is there; what was acknowledged outlives a kill; nothing leaks, spins or hangs. faults/interpose.c makes the
 * failures. BERTH_LONG=1 goes through all passages, else those of the rarer calls and a sample of the others.
 * FAULTS_ONLY=TEXT tries the operations with this text in their name; FAULTS_SHOW=1 prints each refusal. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault_judge.h"
#include "fault_operations.h"

#define RESTART_EVERY 60u
#define AT_LEAST 10u /* failures of each operation that are met: what passed once does not always pass again */

static struct fault_place *p;
static bool all_of_it; /* BERTH_LONG */

/* An end that is not a failure: the kernel has only to be asked again. */
static bool must_be_done(enum fault_call call, int error)
{
	return (error == EINTR && call != CALL_OPEN) || error == FAULT_SHORT;
}

static void judge_refusal(const json_t *answer, bool must_do)
{
	const char *message = text_of(json_object_get(answer, "error"), "message"), *code = fault_code(answer);

	p->refused++;
	if (strlen(message) < 12)
		fault_fail(p, "this says nothing: `%s`", message);
	if (getenv("FAULTS_SHOW") && *getenv("FAULTS_SHOW"))
		fprintf(stderr, "%-70s %s: %s\n", p->doing, code, message);
	if (must_do)
		fault_fail(p, "refused (%s): %s", code, message);
}

/* Done, or refused; a change of which the store may know, though its answer was not heard, is adopted at times. */
static void judge(const struct fault_operation *o, json_t *answer, bool must_do, const char *before)
{
	bool done = fault_done(answer), unsure = !answer || (!done && strcmp(fault_code(answer), "backend") == 0);
	char *after, *more, *changes;

	if (answer && !done)
		judge_refusal(answer, must_do);
	if (!answer && must_do)
		fault_fail(p, "the connection was closed");
	if (done && !o->is_done(p))
		fault_fail(p, "it is acknowledged, and not done");
	fault_goes_on(p);
	after = fault_view(p);
	changes = fault_view_changes(before, after, NULL);
	more = fault_view_changes(before, after, o->changes);
	if (done && !o->is_done(p))
		fault_fail(p, "it was acknowledged, and is undone");
	if (!done && changes && !(unsure && o->is_done(p)))
		fault_fail(p, "it was refused (%s), and:\n%s", answer ? json_dumps(answer, 0) : "closed", changes);
	if (more)
		fault_fail(p, "it changed what it was not to change:\n%s", more);
	free(after);
	free(changes);
	if (p->tried % RESTART_EVERY == 0)
		fault_restart_in_turn(p);
}

static void try_one(const struct fault_operation *o, enum fault_call call, int64_t n, int error, unsigned descriptors)
{
	json_t *answer;
	unsigned fired;
	char *before;

	snprintf(p->doing, sizeof p->doing, "without a fault, before %s", o->name);
	p->turn++;
	o->prepare(p);
	before = fault_view(p);
	snprintf(p->doing, sizeof p->doing, "%s, passage %lld of %s fails with %s", o->name, (long long)n,
		 fault_name(call), fault_error_name(error));
	fault_arm(p->plan, call, n, error, false, NULL);
	answer = o->perform(p);
	berth_reader_close(&p->holder);
	fired = fault_disarm(p->plan);
	p->tried++;
	p->fired += fired != 0;
	if (!fired && !fault_done(answer))
		fault_fail(p, "nothing failed, and it is refused: %s", answer ? json_dumps(answer, 0) : "(closed)");
	judge(o, answer, must_be_done(call, error), before);
	fault_nothing_leaked(p, descriptors);
	json_decref(answer);
	free(before);
}

static void record(const struct fault_operation *o, uint64_t passes[CALLS])
{
	uint64_t now[CALLS];

	memset(passes, 0, CALLS * sizeof *passes);
	for (unsigned round = 0; round < 2; round++) {
		p->turn++;
		snprintf(p->doing, sizeof p->doing, "without a fault, %s", o->name);
		o->prepare(p);
		free(fault_view(p));
		fault_count(p->plan);
		fault_must(p, o->perform(p));
		berth_reader_close(&p->holder);
		fault_passes(p->plan, now);
		for (unsigned c = 0; c < CALLS; c++)
			passes[c] = now[c] > passes[c] ? now[c] : passes[c];
		if (!o->is_done(p))
			fault_fail(p, "it is not done");
	}
}

static void each_call_fails(const struct fault_operation *o)
{
	unsigned most = all_of_it ? 2000 : o->most, descriptors, tried = p->tried, fired = p->fired, n_calls = 0;
	uint64_t began = test_now_ms();
	uint64_t passes[CALLS];

	/* The log of the store is short again: after each failure it is read and written once more. */
	fault_restart_in_turn(p);
	record(o, passes);
	fault_goes_on(p);
	usleep(20000);
	descriptors = fault_descriptors(p);
	for (enum fault_call call = 0; call < CALLS; call++) {
		n_calls += passes[call] != 0;
		for (unsigned k = 0; fault_nth(passes[call], most, k); k++)
			for (const int *error = fault_errors(call); *error; error++)
				try_one(o, call, fault_nth(passes[call], most, k), *error, descriptors);
	}
	printf("note: %s: %u classes of calls, %u failures tried, %u of them met, %llu ms\n", o->name, n_calls,
	       p->tried - tried, p->fired - fired, (unsigned long long)(test_now_ms() - began));
	fflush(stdout);
	assert_in_range(p->fired - fired, AT_LEAST, UINT_MAX);
}

static void each_failing_call_of_a_request_is_refused_with_its_reason_or_the_request_is_done(void **state)
{
	const char *only = getenv("FAULTS_ONLY");

	p = fault_needed(state);
	all_of_it = getenv("BERTH_LONG") != NULL;
	fault_must(p, fault_set_default(p, "default"));
	for (const struct fault_operation *o = fault_operations; o->name; o++)
		if (!only || strstr(o->name, only))
			each_call_fails(o);
	printf("note: %u failures tried, %u met, %u refusals\n", p->tried, p->fired, p->refused);
	assert_true(only || p->fired > p->tried / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAULT_TEST(each_failing_call_of_a_request_is_refused_with_its_reason_or_the_request_is_done, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
