/* SPDX-License-Identifier: MIT
 * How a migration's run ends (run.h): moved, undone, refused, or left as it stands because somebody else has changed it
 * or no daemon is there; and what is told then. Called by run.c. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "run.h"
#include "text.h"

#define PAUSE_MS 250u /* between two attempts to undo */

static uint64_t now_ms(void)
{
	return seg_clock_ms(CLOCK_MONOTONIC);
}

const char *run_to(const struct run *r)
{
	return tool_string(r->to, "cluster");
}

json_t *run_params(const struct run *r)
{
	json_t *params = tool_object();

	tool_set(params, "partition", json_string(r->partition));
	return params;
}

static int lost(struct run *r)
{
	run_progress_end(r);
	if (!r->begun_ms)
		return tool_fail(r->t, EXIT_UNREACHABLE, "unreachable", "%s", r->c.fault);
	if (r->cutover_ms)
		return tool_fail(r->t, EXIT_UNREACHABLE, "unreachable",
				 "%s. The writes of %s are still held back: once berthd runs, go on with `berth "
				 "migrate complete "
				 "%s`, or undo with `berth migrate abort %s`",
				 r->c.fault, r->partition, r->partition, r->partition);
	return tool_fail(
		r->t, EXIT_UNREACHABLE, "unreachable",
		"%s. %s is still in its migration, reads and writes go to the old cluster: once berthd runs, undo with "
		"`berth migrate abort %s`, or go on with `berth migrate cutover %s` if the data is copied",
		r->c.fault, r->partition, r->partition, r->partition);
}

int run_foreign(struct run *r)
{
	const char *phase = tool_string(r->state, "phase");

	run_progress_end(r);
	return tool_fail(r->t, EXIT_REFUSED, "changed-meanwhile",
			 "somebody else changed %s meanwhile: it is %s at %s now, epoch %" PRIu64
			 ". Nothing more was done; look with `berth history %s`",
			 r->partition, phase[0] ? phase : "settled",
			 tool_string(json_object_get(r->state, "at"), "cluster"), r->state_epoch, r->partition);
}

static int refused(struct run *r, json_t *answer)
{
	run_progress_end(r);
	int rc = tool_refused(r->t, answer);
	json_decref(answer);
	return rc;
}

int run_finished(struct run *r, const json_t *answer)
{
	const char *to = run_to(r);
	char span[TEXT_UNIT], shown[TEXT_KEY];

	r->blackout_ms = answer && json_object_get(answer, "blackout_ms") ? tool_u64(answer, "blackout_ms")
									  : now_ms() - r->cutover_ms;
	run_progress_end(r);
	if (r->t->json) {
		json_t *line = tool_object();
		tool_set(line, "partition", json_string(r->partition));
		tool_set(line, "from", json_string(r->from));
		tool_set(line, "to", json_string(to));
		tool_set_u64(line, "epoch", r->epoch);
		tool_set_u64(line, "blackout_ms", r->blackout_ms);
		tool_set_u64(line, "copy_ms", r->copy_ms);
		tool_set_u64(line, "total_ms", now_ms() - r->begun_ms);
		tool_print_json(line);
		return EXIT_DONE;
	}
	printf("%s: moved from %s to %s, epoch %" PRIu64 "; writes were held back for %s\n",
	       text_escape(shown, sizeof(shown), r->partition, strlen(r->partition)), r->from, to, r->epoch,
	       text_blackout(span, r->blackout_ms));
	return EXIT_DONE;
}

static enum step_result abort_it(struct run *r, json_t **answer)
{
	json_t *params = run_params(r);
	const struct step step = {.method = "abort", .params = params, .phase = ""};
	uint64_t start = now_ms();
	enum step_result rc = session_step(r, &step, answer);

	while (rc == STEP_REFUSED && json_is_true(json_object_get(json_object_get(*answer, "data"), "retryable")) &&
	       now_ms() - start < RUN_RETRYABLE_MS) {
		json_decref(*answer);
		nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
		rc = session_step(r, &step, answer);
	}
	json_decref(params);
	return rc;
}

/* The abort was refused: because the last `complete` has reached its goal after all, or for a reason to be told. */
static int not_undone(struct run *r, json_t *answer, const char *name, const char *why)
{
	char message[1024];
	json_t *ignored = NULL;

	snprintf(message, sizeof(message), "%s", tool_string(answer, "message"));
	json_decref(answer);
	enum step_result rc = session_look(r, false, &ignored);
	if (rc == STEP_REFUSED)
		json_decref(ignored);
	if (rc == STEP_DONE && r->cutover_ms && session_moved(r)) {
		r->epoch = r->state_epoch;
		return run_finished(r, NULL);
	}
	return tool_fail(
		r->t, EXIT_REFUSED, name,
		"%s: %s; and the migration could not be undone: %s. Look with `berth get %s` and `berth history %s`",
		r->partition, why, message, r->partition, r->partition);
}

int run_undo(struct run *r, enum tool_exit code, const char *name, const char *why)
{
	json_t *answer = NULL;
	char span[TEXT_UNIT], held[TEXT_UNIT + 64] = "";

	run_progress(r, "undo", "%s: undoing the migration", r->partition);
	enum step_result rc = abort_it(r, &answer);
	if (rc == STEP_LOST)
		return lost(r);
	if (rc == STEP_FOREIGN)
		return run_foreign(r);
	run_progress_end(r);
	if (rc == STEP_REFUSED)
		return not_undone(r, answer, name, why);
	if (r->cutover_ms) {
		const json_t *told = json_object_get(answer, "blackout_ms");
		text_blackout(span, told ? tool_u64(answer, "blackout_ms") : now_ms() - r->cutover_ms);
		snprintf(held, sizeof(held), "; writes were held back for %s", span);
	}
	json_decref(answer);
	return tool_fail(r->t, code, name,
			 "%s: %s. The migration is undone, %s keeps the partition (epoch %" PRIu64 ")%s", r->partition,
			 why, r->from, r->epoch, held);
}

int run_undo_interrupted(struct run *r)
{
	if (!r->begun_ms) {
		run_progress_end(r);
		return tool_fail(r->t, EXIT_INTERRUPTED, "interrupted", "%s: interrupted before anything was done",
				 r->partition);
	}
	return run_undo(r, EXIT_INTERRUPTED, "interrupted", "interrupted");
}

int run_ended(struct run *r, enum step_result rc, json_t *answer)
{
	switch (rc) {
	case STEP_REFUSED:
		return refused(r, answer);
	case STEP_FOREIGN:
		return run_foreign(r);
	case STEP_STOPPED:
		return run_undo_interrupted(r);
	default:
		return lost(r);
	}
}
