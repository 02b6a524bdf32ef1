/* SPDX-License-Identifier: MIT
 * Changes, past and present: `berth history` lists what the store keeps, `berth watch` prints each as it comes. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client.h"
#include "commands.h"
#include "instance.h"
#include "text.h"

#define STATE_TEXT 1024

/* "c1 (shared-index, shared)" */
static void describe_placement(char *out, size_t room, const json_t *placement)
{
	const char *index = tool_string(placement, "index");

	snprintf(out, room, "%s (%s%s%s)", tool_string(placement, "cluster"), tool_string(placement, "mode"),
		 index[0] ? ", " : "", index);
}

/* "settled at c1 (…)", "draining: c1 (…) -> c2 (…)", "none" */
static void describe_state(char *out, size_t room, const json_t *state)
{
	char at[STATE_TEXT / 2 - 16], to[STATE_TEXT / 2 - 16];
	const char *phase = tool_string(state, "phase");

	if (!json_is_object(state)) {
		snprintf(out, room, "none");
		return;
	}
	describe_placement(at, sizeof(at), json_object_get(state, "at"));
	describe_placement(to, sizeof(to), json_object_get(state, "to"));
	if (json_object_get(state, "to"))
		snprintf(out, room, "%s: %s -> %s", phase, at, to);
	else
		snprintf(out, room, "settled at %s", at);
}

/* Without a key it is about the default, or about all (a document). */
static const char *subject(const json_t *event)
{
	const char *key = tool_string(event, "key");

	return key[0] ? key : strcmp(tool_string(event, "what"), "load") == 0 ? "-" : "(default)";
}

static bool about_clusters(const json_t *event)
{
	const char *what = tool_string(event, "what");

	return strncmp(what, "cluster-", 8) == 0 || strcmp(what, "load") == 0;
}

/* ---- history ---- */

int history_show(struct tool *t, const struct arguments *a)
{
	json_t *params = tool_object(), *result, *event;
	char time_text[TEXT_UNIT], state[STATE_TEXT];
	uint64_t limit = 100;
	struct grid g;
	size_t i;
	int rc = arguments_number(a, OPT_LIMIT, 1, 10000, &limit);

	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	tool_set_u64(params, "limit", limit);
	if (a->operand)
		tool_set(params, "partition", text_json(a->operand, strlen(a->operand)));
	rc = client_once(t, CLIENT_LOOK, "history", params, &result);
	if (rc != EXIT_DONE)
		return rc;
	grid_start(&g, "TIME", ">EPOCH", "WHAT", "PARTITION", "STATE AFTER IT", "BY");
	json_array_foreach (json_object_get(result, "events"), i, event) {
		if (t->json) {
			tool_print_json(json_incref(event));
			continue;
		}
		describe_state(state, sizeof(state), json_object_get(event, "state"));
		grid_text(&g, text_time(time_text, (int64_t)json_integer_value(json_object_get(event, "at_ms"))));
		if (tool_u64(event, "epoch"))
			grid_u64(&g, tool_u64(event, "epoch"));
		else
			grid_text(&g, "-");
		char what[64];
		snprintf(what, sizeof(what), "%s%s", tool_string(event, "what"),
			 json_is_true(json_object_get(event, "forced")) ? " (forced)" : "");
		grid_text(&g, what);
		grid_text(&g, subject(event));
		grid_text(&g, about_clusters(event) ? "" : state);
		grid_text(&g, tool_string(event, "who"));
	}
	if (!t->json && i)
		grid_flush(&g, stdout);
	else if (!t->json)
		puts("no change is recorded (a `memory:` store forgets at a restart)");
	grid_end(&g);
	json_decref(result);
	return EXIT_DONE;
}

/* ---- watch ---- */

static void tell_change(const struct tool *t, json_t *change)
{
	char time_text[TEXT_UNIT], state[STATE_TEXT], line[2 * STATE_TEXT], shown[4 * sizeof(line)], epoch[32] = "";

	if (t->json) {
		if (json_is_object(change) &&
		    !json_object_get(change, "at_ms")) /* as in `history`; here: when it came */
			tool_set_u64(change, "at_ms", seg_clock_ms(CLOCK_REALTIME));
		tool_print_json(json_incref(change));
		fflush(stdout);
		return;
	}
	describe_state(state, sizeof(state), json_object_get(change, "state"));
	if (tool_u64(change, "epoch"))
		snprintf(epoch, sizeof(epoch), "epoch %" PRIu64 "  ", tool_u64(change, "epoch"));
	snprintf(line, sizeof(line), "%s  %s%s%s %s%s%s  (%s)",
		 text_time(time_text, (int64_t)seg_clock_ms(CLOCK_REALTIME)), epoch, tool_string(change, "what"),
		 json_is_true(json_object_get(change, "forced")) ? " (forced)" : "", subject(change),
		 about_clusters(change) ? "" : "  ", about_clusters(change) ? "" : state, tool_string(change, "who"));
	puts(text_escape(shown, sizeof(shown), line, strlen(line)));
	fflush(stdout);
}

static int watch_lines(const struct tool *t, struct client *c)
{
	json_t *line;

	while (!ferror(stdout)) {
		if (client_next(c, -1, &line) != CALL_OK)
			return tool_fail(t, EXIT_UNREACHABLE, "unreachable",
					 "%s: watch again once it runs; what changed meanwhile is in `berth history`",
					 c->fault);
		const char *method = tool_string(line, "method");
		if (strcmp(method, "change") == 0) {
			tell_change(t, json_object_get(line, "params"));
		} else if (strcmp(method, "overrun") == 0) {
			json_decref(line);
			return tool_fail(
				t, EXIT_REFUSED, "overrun",
				"changes came faster than they were read, some were dropped: watch again; what was "
				"missed is in `berth history`");
		}
		json_decref(line);
	}
	return EXIT_REFUSED;
}

int watch_run(struct tool *t, const struct arguments *a)
{
	struct client_request request = {.method = "watch", .pass_fd = -1};
	struct client c;
	json_t *answer = NULL;
	int rc = instance_open(t);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	client_init(&c, CLIENT_LOOK);
	enum call_result called = client_connect(t, &c);
	if (called == CALL_OK)
		called = client_call(t, &c, &request, &answer);
	if (called == CALL_OK) {
		json_decref(answer);
		if (!t->json)
			tool_note(t, "watching %s; Ctrl-C ends it", t->path);
		rc = watch_lines(t, &c);
	} else {
		rc = client_fail(t, &c, called, answer);
	}
	client_close(&c);
	return rc;
}
