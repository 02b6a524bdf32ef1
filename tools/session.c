/* SPDX-License-Identifier: MIT
 * The connection of a migration's run (run.h): when it breaks, a new one is tried for a while, and the state of the
 * partition tells what became of the step that was under way. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../reader_lib/berth.h"
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
		run_wait(RETRY_MS);
		if (stoppable ? run_interrupted() : run_hurried())
			return STEP_STOPPED;
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
		enum call_result called = call(r, method, params, stoppable ? &run_stop : &run_stop_hurried, answer);
		if (called == CALL_STOPPED)
			return STEP_STOPPED;
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

enum step_result session_look_open(struct run *r, bool stoppable, bool *was_done, json_t **answer)
{
	enum step_result rc = session_look(r, stoppable, answer);

	*was_done = rc == STEP_DONE && reached_goal(r, &r->open);
	if (rc != STEP_DONE)
		return rc;
	r->open.method = NULL;
	if (*was_done)
		r->epoch = r->state_epoch;
	return r->state_epoch == r->epoch ? STEP_DONE : STEP_FOREIGN;
}

/* It was sent again because the first answer did not come, and is refused: perhaps because the first one was carried
 * out. */
static enum step_result refused_again(struct run *r, const struct step *s, json_t **answer)
{
	json_t *error = *answer;
	bool was_done;

	*answer = NULL;
	enum step_result rc = session_look_open(r, s->stoppable, &was_done, answer);
	if ((rc == STEP_DONE && !was_done) || rc == STEP_FOREIGN) {
		*answer = error;
		return STEP_REFUSED;
	}
	json_decref(error);
	return rc;
}

enum step_result session_step(struct run *r, const struct step *s, json_t **answer)
{
	bool was_done;

	for (int i = 0; i < 10; i++) {
		*answer = NULL;
		enum step_result rc = reach(r, s->stoppable);
		if (rc != STEP_DONE)
			return rc;
		if (s->wait_ms)
			tool_set_u64(s->params, "wait_ms", s->wait_ms(r));
		r->open = *s;
		enum call_result called =
			call(r, s->method, s->params, s->wait_ms ? &run_stop : &run_stop_hurried, answer);
		if (called == CALL_STOPPED)
			return STEP_STOPPED;
		if (called == CALL_REFUSED && i > 0)
			return refused_again(r, s, answer);
		if (called != CALL_DOWN) {
			r->open.method = NULL;
			r->epoch = called == CALL_OK ? tool_u64(*answer, "epoch") : r->epoch;
			return called == CALL_OK ? STEP_DONE : STEP_REFUSED;
		}
		rc = session_look_open(r, s->stoppable, &was_done, answer);
		if (rc != STEP_DONE || was_done)
			return rc;
	}
	return STEP_LOST;
}

const char *session_table_phase(const struct run *r, uint64_t *epoch)
{
	static const char *const phases[] = {
		[BERTH_SETTLED] = "", [BERTH_DRAINING] = "draining", [BERTH_CUTOVER] = "cutover"};
	const struct berth_attach_options options = {
		.size = sizeof(options),
		.writes = BERTH_WRITES_NONE,
		.max_readers = 1,
		.wait_ms = BERTH_NO_WAIT,
	};
	struct berth *b = NULL;
	struct berth_reader *reader = NULL;
	struct berth_route route;
	const char *phase = NULL;

	if (berth_attach(r->t->path, &options, &b) != BERTH_OK)
		return NULL;
	if (berth_reader_open(b, &reader) == BERTH_OK &&
	    berth_route(reader, r->partition, strlen(r->partition), &route) == BERTH_OK && !route.is_default &&
	    route.phase <= BERTH_CUTOVER) {
		phase = phases[route.phase];
		*epoch = route.epoch;
	}
	berth_reader_close(&reader);
	berth_detach(&b);
	return phase;
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
