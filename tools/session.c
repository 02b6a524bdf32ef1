/* SPDX-License-Identifier: MIT
 * The connection of a migration's run (run.h): when it breaks, a new one is tried for a while, and the state of the
 * partition tells what became of the step that was under way. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "run.h"
#include "tool.h"

#define RETRY_MS 250u

static uint64_t now_ms(void)
{
	return seg_clock_ms(CLOCK_MONOTONIC);
}

void session_close(struct run *r)
{
	client_close(&r->c);
}

/* A connection, waiting for a daemon that is being restarted. */
static enum step_result reach(struct run *r, bool stoppable)
{
	uint64_t start = now_ms();

	while (r->c.fd < 0) {
		if (client_connect(r->t, &r->c) == CALL_OK)
			break;
		if (r->c.denied || now_ms() - start >= RUN_RECONNECT_MS)
			return STEP_LOST;
		run_progress(r, "reconnect", "%s: waiting for berthd to come back, %u s at most", r->partition,
			     (unsigned)((RUN_RECONNECT_MS - (now_ms() - start)) / 1000));
		if (stoppable) {
			run_wait(RETRY_MS);
			if (run_interrupted())
				return STEP_STOPPED;
		} else {
			nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
		}
	}
	return STEP_DONE;
}

/* One call, on a connection that is there. */
static enum call_result call(struct run *r, const char *method, json_t *params, const struct client_stop *stop,
			     json_t **answer)
{
	struct client_request request = {
		.method = method,
		.params = json_incref(params),
		.pass_fd = -1,
		.patience_ms = CLIENT_PATIENCE_MS,
		.stop = stop,
	};

	return client_call(r->t, &r->c, &request, answer);
}

/* One that changes nothing, so that it may be made again. */
static enum step_result ask(struct run *r, const char *method, json_t *params, bool stoppable, json_t **answer)
{
	for (int i = 0; i < 10; i++) {
		enum step_result reached = reach(r, stoppable);
		if (reached != STEP_DONE)
			return reached;
		enum call_result called = call(r, method, params, NULL, answer);
		if (called != CALL_DOWN)
			return called == CALL_OK ? STEP_DONE : STEP_REFUSED;
	}
	return STEP_LOST;
}

enum step_result session_look(struct run *r, bool stoppable, json_t **answer)
{
	json_t *params = tool_object(), *result = NULL;

	tool_set(params, "partition", json_string(r->partition));
	enum step_result rc = ask(r, "get", params, stoppable, &result);
	json_decref(params);
	if (rc == STEP_REFUSED)
		*answer = result;
	if (rc != STEP_DONE)
		return rc;
	json_decref(r->state);
	r->state = json_incref(json_object_get(result, "state"));
	r->state_epoch = tool_u64(result, "epoch");
	json_decref(result);
	return STEP_DONE;
}

/* Is the placement (at, to) what was asked for? An abort and a completion differ in that: in the cluster, or in what
 * was given with --mode, --index, --inject. */
static bool as_asked(const struct run *r, const char *which)
{
	const json_t *where = json_object_get(r->state, which), *value;
	const char *key;

	json_object_foreach(r->to, key, value)
	{
		if (!json_equal(json_object_get(where, key), value))
			return false;
	}
	return true;
}

static bool reached_goal(const struct run *r, const struct step *s)
{
	if (r->state_epoch <= r->epoch || strcmp(tool_string(r->state, "phase"), s->phase) != 0)
		return false;
	if (s->phase[0])
		return as_asked(r, "to");
	return as_asked(r, "at") == s->target;
}

bool session_moved(const struct run *r)
{
	const struct step complete = {.phase = "", .target = true};

	return reached_goal(r, &complete);
}

enum step_result session_step(struct run *r, const struct step *s, json_t **answer)
{
	for (int i = 0; i < 10; i++) {
		*answer = NULL;
		enum step_result reached = reach(r, s->stoppable);
		if (reached != STEP_DONE)
			return reached;
		if (s->wait_ms)
			tool_set_u64(s->params, "wait_ms", s->wait_ms(r));
		enum call_result called = call(r, s->method, s->params, s->wait_ms ? &run_stop : NULL, answer);
		if (called == CALL_STOPPED)
			return STEP_STOPPED;
		if (called == CALL_OK) {
			r->epoch = tool_u64(*answer, "epoch");
			return STEP_DONE;
		}
		if (called == CALL_REFUSED)
			return STEP_REFUSED;
		/* Not known what became of it. */
		reached = session_look(r, s->stoppable, answer);
		if (reached != STEP_DONE)
			return reached;
		if (reached_goal(r, s)) {
			r->epoch = r->state_epoch;
			return STEP_DONE;
		}
		if (r->state_epoch != r->epoch)
			return STEP_FOREIGN;
	}
	return STEP_LOST;
}

void session_endpoint(struct run *r, const char *cluster, char *out)
{
	json_t *answer = NULL;
	const json_t *c;
	size_t i;

	out[0] = '\0';
	enum step_result rc = ask(r, "clusters", NULL, false, &answer);
	if (rc == STEP_DONE)
		json_array_foreach (json_object_get(answer, "clusters"), i, c)
			if (strcmp(tool_string(c, "id"), cluster) == 0 &&
			    strlen(tool_string(c, "endpoint")) <= SHM_ENDPOINT_MAX)
				snprintf(out, SHM_ENDPOINT_MAX + 1, "%s", tool_string(c, "endpoint"));
	if (rc == STEP_DONE || rc == STEP_REFUSED)
		json_decref(answer);
}
