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

void run_from(struct run *r)
{
	snprintf(r->from, sizeof(r->from), "%s", tool_string(json_object_get(r->state, "at"), "cluster"));
}

static bool is_open(const struct run *r, const char *method)
{
	return r->open.method && strcmp(r->open.method, method) == 0;
}

/* It ends with the partition in this phase, or nobody knows in which (NULL): after `fault`, what to do. */
static int stands(struct run *r, const char *name, const char *phase, uint64_t epoch, const char *fault)
{
	const char *p = r->partition, *when = r->c.fd >= 0 ? "" : "once berthd runs, ";
	char message[8192];

	if (phase && strcmp(phase, "cutover") == 0)
		snprintf(message, sizeof(message),
			 "%s. The writes of %s are still held back: %sgo on with `berth migrate complete %s`, or undo "
			 "with `berth migrate abort %s`",
			 fault, p, when, p, p);
	else if (phase)
		snprintf(message, sizeof(message),
			 "%s. %s is still in its migration, reads and writes go to the old cluster: %sundo with `berth "
			 "migrate abort %s`, or go on with `berth migrate cutover %s` if the data is copied",
			 fault, p, when, p, p);
	else
		snprintf(message, sizeof(message),
			 "%s. Whether %s is still in its migration%s is not known: %slook with `berth migrate status`, "
			 "and undo what it shows with `berth migrate abort %s`",
			 fault, p, is_open(r, "begin") ? "" : ", its writes held back,", when, p);
	run_progress_end(r);
	json_t *members = tool_object();
	tool_set(members, "phase", json_string(phase ? phase : "unknown"));
	tool_set(members, "epoch", phase ? json_integer((json_int_t)epoch) : json_null());
	return tool_fail_with(r->t, EXIT_STANDS, name, members, "%s", message);
}

/* The same with no daemon to ask: the table says what holds. A begin or a cutover that may be in the store is not in the
 * table yet. */
static int stands_unseen(struct run *r, const char *name, const char *fault)
{
	uint64_t epoch = 0;
	const char *phase = session_table_phase(r, &epoch);
	bool known = phase && phase[0] && !(is_open(r, "cutover") && strcmp(phase, "cutover") != 0);

	return stands(r, name, known ? phase : NULL, epoch, fault);
}

static int lost(struct run *r)
{
	if (r->begun_ms || r->open.method)
		return stands_unseen(r, "unreachable", r->c.fault);
	run_progress_end(r);
	return tool_fail(r->t, EXIT_UNREACHABLE, "unreachable", "%s", r->c.fault);
}

/* A second signal: the end was looked for, and is not known. */
static int hurried(struct run *r)
{
	char fault[512];

	snprintf(fault, sizeof(fault), "%s: interrupted again before the migration was undone", r->partition);
	return stands_unseen(r, "interrupted", fault);
}

int run_foreign(struct run *r)
{
	const char *phase = tool_string(r->state, "phase");
	char text[1024];

	run_progress_end(r);
	snprintf(text, sizeof(text),
		 "somebody else changed %s meanwhile: it is %s at %s now, epoch %" PRIu64
		 ". Nothing more was done; look with `berth history %s`",
		 r->partition, phase[0] ? phase : "settled", tool_string(json_object_get(r->state, "at"), "cluster"),
		 r->state_epoch, r->partition);
	if (phase[0])
		return stands(r, "changed-meanwhile", phase, r->state_epoch, text);
	return tool_fail(r->t, EXIT_REFUSED, "changed-meanwhile", "%s", text);
}

static bool is_unknown(const json_t *error)
{
	return strcmp(tool_string(json_object_get(error, "data"), "code"), "unknown-partition") == 0;
}

static int refused(struct run *r, json_t *answer)
{
	int rc;

	if ((r->begun_ms || r->open.method) && !is_unknown(answer)) { /* a look was refused: that settles nothing */
		snprintf(r->c.fault, sizeof(r->c.fault), "%s", tool_string(answer, "message"));
		rc = lost(r);
	} else {
		run_progress_end(r);
		rc = tool_refused(r->t, answer);
	}
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
		run_wait(PAUSE_MS);
		if (run_hurried())
			break;
		json_decref(*answer);
		rc = session_step(r, &step, answer);
	}
	json_decref(params);
	return rc;
}

static int moved_after_all(struct run *r)
{
	r->epoch = r->state_epoch;
	return run_finished(r, NULL);
}

/* The abort was refused: because the last `complete` has reached its goal after all, or for a reason to be told. */
static int not_undone(struct run *r, json_t *answer, const char *name, const char *why)
{
	char message[2048];
	json_t *error = NULL;

	snprintf(message, sizeof(message), "%s: %s; and the migration could not be undone: %s", r->partition, why,
		 tool_string(answer, "message"));
	json_decref(answer);
	enum step_result rc = session_look(r, false, &error);
	bool gone = rc == STEP_REFUSED && is_unknown(error);
	if (rc == STEP_REFUSED)
		json_decref(error);
	if (rc == STEP_DONE && r->cutover_ms && session_moved(r))
		return moved_after_all(r);
	if (rc != STEP_DONE && !gone)
		return stands_unseen(r, name, message);
	const char *phase = gone ? "" : tool_string(r->state, "phase");
	if (phase[0])
		return stands(r, name, phase, r->state_epoch, message);
	run_progress_end(r);
	return tool_fail(r->t, EXIT_REFUSED, name, "%s. Look with `berth get %s` and `berth history %s`", message,
			 r->partition, r->partition);
}

int run_undo(struct run *r, enum tool_exit code, const char *name, const char *why)
{
	json_t *answer = NULL;
	char span[TEXT_UNIT], held[TEXT_UNIT + 64] = "";
	enum step_result rc = STEP_DONE;
	bool was_done = true;

	run_progress(r, "undo", "%s: undoing the migration", r->partition);
	if (is_open(r, "cutover")) { /* the abort's epoch is to be known from it */
		rc = session_look_open(r, false, &was_done, &answer);
		if (rc == STEP_DONE && !was_done)
			r->cutover_ms = 0;
	}
	if (rc == STEP_DONE)
		rc = abort_it(r, &answer);
	if (rc == STEP_LOST)
		return lost(r);
	if (rc == STEP_STOPPED)
		return hurried(r);
	if (rc == STEP_FOREIGN)
		return r->cutover_ms && session_moved(r) ? moved_after_all(r) : run_foreign(r);
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

/* A signal came while it was not known whether the partition is in its migration: r->open is the begin. */
static int undo_open_begin(struct run *r)
{
	json_t *answer = NULL;
	bool was_done;
	enum step_result rc = session_look_open(r, false, &was_done, &answer);

	if (rc == STEP_STOPPED)
		return hurried(r);
	if (rc != STEP_DONE)
		return run_ended(r, rc, answer);
	if (was_done)
		r->begun_ms = now_ms();
	return run_undo_interrupted(r);
}

int run_undo_interrupted(struct run *r)
{
	if (!r->begun_ms && r->open.method)
		return undo_open_begin(r);
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
