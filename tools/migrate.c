/* SPDX-License-Identifier: MIT
 * `berth migrate status`: the migrations under way, from the daemon with what they wait for, or, when it is down, from
 * the table. The steps of a migration are in change.c, a whole one is in run.c. */
#include "migrate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "instance.h"
#include "walk.h"

/* X: reason on the wire, what an operator should know. */
static const struct {
	const char *reason, *text;
} reasons[] = {
	{"not-published", "the daemon could not reach all readers yet"},
	{"leases-open", "writes are under way"},
	{"unknown-outcome", "writes ended without an answer: they may still arrive"},
	{"unknown-overflow", "many writes ended without an answer: they may still arrive"},
	{"reader-died", "a process died with writes under way: they may still arrive"},
	{"reader-without-leases", "writes without leases may still be under way"},
};

const char *migrate_reason(const char *reason)
{
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (strcmp(reasons[i].reason, reason) == 0)
			return reasons[i].text;
	return reason;
}

void migrate_wait_text(char *out, size_t room, const char *reason, uint64_t in_flight, uint64_t remaining_ms)
{
	char left[TEXT_UNIT], flight[TEXT_UNIT] = "", at_most[TEXT_UNIT + 16] = "";

	if (in_flight)
		snprintf(flight, sizeof(flight), ", %" PRIu64 " in flight", in_flight);
	if (remaining_ms)
		snprintf(at_most, sizeof(at_most), ", at most %s more", text_duration(left, remaining_ms));
	snprintf(out, room, "%s%s%s", migrate_reason(reason), flight, at_most);
}

static void put_age(struct grid *g, const json_t *migration, const char *field)
{
	const json_t *age = json_object_get(migration, field);
	char text[TEXT_UNIT];

	grid_text(g, json_is_integer(age) ? text_duration(text, tool_u64(migration, field)) : "-");
}

void migrate_grid(struct grid *g, const json_t *migrations)
{
	const json_t *m;
	size_t i;

	grid_start(g, "PARTITION", "PHASE", "FROM", "TO", ">EPOCH", ">BEGUN AGO", ">WRITES HELD FOR", "WAITS FOR",
		   NULL);
	json_array_foreach(migrations, i, m)
	{
		const json_t *state = json_object_get(m, "state");
		const char *phase = tool_string(state, "phase"), *reason = tool_string(m, "reason");
		char waits[256];

		if (strcmp(phase, "cutover") != 0)
			snprintf(waits, sizeof(waits), "`berth migrate cutover`");
		else if (reason[0])
			migrate_wait_text(waits, sizeof(waits), reason, tool_u64(m, "in_flight"),
					  tool_u64(m, "remaining_ms"));
		else
			snprintf(waits, sizeof(waits), "`berth migrate complete`");
		grid_text(g, tool_string(m, "partition"));
		grid_text(g, phase);
		grid_text(g, tool_string(json_object_get(state, "at"), "cluster"));
		grid_text(g, tool_string(json_object_get(state, "to"), "cluster"));
		grid_u64(g, tool_u64(m, "epoch"));
		put_age(g, m, "begun_ms_ago");
		put_age(g, m, "cutover_ms_ago");
		grid_text(g, waits);
	}
}

static void collect_migrating(void *arg, const struct row *row, FILE *out)
{
	if (word_phase(row->word) == PHASE_SETTLED)
		return;
	json_t *m = tool_object();
	tool_set(m, "partition", text_json(row->key, row->key_len));
	tool_set_u64(m, "epoch", word_epoch(row->word));
	tool_set(m, "state", row_state(row));
	char *line = json_dumps(m, JSON_COMPACT);
	if (!line)
		tool_no_memory();
	fprintf(out, "%s\n", line);
	free(line);
	json_decref(m);
	(void)arg;
}

/* A batch's lines become objects of the list once they count. */
static void keep_migrating(void *arg, const char *text, size_t len)
{
	while (len) {
		const char *end = memchr(text, '\n', len);
		size_t n = end ? (size_t)(end - text) : len;
		if (json_array_append_new(arg, json_loadb(text, n, 0, NULL)) != 0)
			tool_no_memory();
		n += end != NULL;
		text += n;
		len -= n;
	}
}

static int from_table(struct tool *t, const char *fault, json_t **list)
{
	struct walk walk = {.each = collect_migrating, .batch = keep_migrating};
	uint64_t n_damaged = 0;

	if (SHM_GENERATION(atomic_load_explicit(&t->root->termgen, memory_order_acquire)) == 0)
		return tool_fail(t, EXIT_UNREACHABLE, "unreachable", "%s", fault);
	tool_note(t, "%s; from its table:", fault);
	*list = json_array();
	walk.arg = *list;
	int rc = walk_rows(t, &walk, &n_damaged);
	return rc == EXIT_DONE ? walk_verdict(t, n_damaged) : rc;
}

int migrate_status(struct tool *t, const struct arguments *a)
{
	struct client_request request = {.method = "migrations", .pass_fd = -1};
	struct client c;
	json_t *answer = NULL, *list = NULL, *m;
	struct grid g;
	size_t i;
	int rc = instance_open(t);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	client_init(&c, CLIENT_LOOK);
	enum call_result called = client_connect(t, &c);
	if (called == CALL_OK)
		called = client_call(t, &c, &request, &answer);
	if (called == CALL_OK)
		list = json_incref(json_object_get(answer, "migrations"));
	else if (called == CALL_DOWN)
		rc = from_table(t, c.fault, &list);
	else
		rc = client_fail(t, &c, called, answer);
	client_close(&c);
	if (list && t->json) {
		json_array_foreach(list, i, m)
		{
			tool_print_json(json_incref(m));
		}
	} else if (list) {
		migrate_grid(&g, list);
		grid_flush(&g, stdout);
		grid_end(&g);
		if (json_array_size(list) == 0)
			puts("no migration is under way");
	}
	json_decref(list);
	if (called == CALL_OK)
		json_decref(answer);
	return rc;
}
