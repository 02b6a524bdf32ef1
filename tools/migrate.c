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

/* Reason on the wire, what an operator should know. */
static const struct {
	const char *reason, *text;
} reasons[] = {
	{"not-published", "the daemon could not reach all readers yet"},
	{"leases-open", "writes are under way"},
	{"unknown-outcome", "writes that ended unknown may still arrive"},
	{"unknown-overflow", "many writes that ended unknown may still arrive"},
	{"reader-died", "writes of a process that died may still arrive"},
	{"reader-without-leases", "writes without leases may be under way"},
};

const char *migrate_reason(const char *reason)
{
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (strcmp(reasons[i].reason, reason) == 0)
			return reasons[i].text;
	return reason;
}

/* Who it waits for: processes by name, and packet programs, which have none. */
static void who_text(const struct tool *t, struct processes *names, const json_t *barrier, char *out, size_t room)
{
	size_t n;

	processes_text(t, names, json_object_get(barrier, "pids"), out, room);
	n = strlen(out);
	if (json_is_true(json_object_get(barrier, "packet_programs")))
		snprintf(out + n, room - n, "%sa packet program", n ? ", " : "");
}

void migrate_wait_text(const struct tool *t, struct processes *names, const json_t *barrier, char *out, size_t room)
{
	const char *reason = tool_string(barrier, "reason");
	uint64_t in_flight = tool_u64(barrier, "in_flight"), remaining_ms = tool_u64(barrier, "remaining_ms");
	char what[160], at_most[TEXT_UNIT + 24] = "", left[TEXT_UNIT], who[256];

	snprintf(what, sizeof(what), "%s", migrate_reason(reason));
	if (strcmp(reason, "leases-open") == 0 && in_flight)
		snprintf(what, sizeof(what), "%" PRIu64 " write%s under way", in_flight, in_flight == 1 ? "" : "s");
	if (remaining_ms)
		snprintf(at_most, sizeof(at_most), ", at most %s more", text_duration(left, remaining_ms));
	who_text(t, names, barrier, who, sizeof(who));
	snprintf(out, room, "%s%s%s%s (%s)", what, at_most, who[0] ? ", " : "", who, reason);
}

static void put_number(struct grid *g, const json_t *migration, const char *field, bool told, bool duration)
{
	char text[TEXT_UNIT];

	if (!told || !json_is_integer(json_object_get(migration, field)))
		grid_text(g, "-");
	else if (duration)
		grid_text(g, text_duration(text, tool_u64(migration, field)));
	else
		grid_u64(g, tool_u64(migration, field));
}

/* The same as migrate_wait_text, without what has columns of its own. A row of the table has no reason; null is one that
 * nothing stands against. */
static void put_waits_for(const struct tool *t, struct processes *names, struct grid *g, const json_t *m, bool cutover)
{
	const char *reason = tool_string(m, "reason");
	char text[512], who[256] = "";

	if (reason[0])
		who_text(t, names, m, who, sizeof(who));
	snprintf(text, sizeof(text), "%s%s%s (%s)", migrate_reason(reason), who[0] ? ": " : "", who, reason);
	grid_text(g, !cutover                       ? "`berth migrate cutover`"
		     : reason[0]                    ? text
		     : json_object_get(m, "reason") ? "`berth migrate complete`"
						    : "not known without berthd");
}

void migrate_grid(const struct tool *t, struct processes *names, struct grid *g, const json_t *migrations)
{
	const json_t *m;
	size_t i;

	grid_start(g, "PARTITION", "PHASE", "FROM", "TO", ">EPOCH", ">BEGUN AGO", ">WRITES HELD FOR", ">IN FLIGHT",
		   ">AT MOST", "WAITS FOR");
	json_array_foreach (migrations, i, m) {
		const json_t *state = json_object_get(m, "state");
		const char *phase = tool_string(state, "phase");
		bool cutover = strcmp(phase, "cutover") == 0;

		grid_text(g, tool_string(m, "partition"));
		grid_text(g, phase);
		grid_text(g, tool_string(json_object_get(state, "at"), "cluster"));
		grid_text(g, tool_string(json_object_get(state, "to"), "cluster"));
		grid_u64(g, tool_u64(m, "epoch"));
		put_number(g, m, "begun_ms_ago", true, true);
		put_number(g, m, "cutover_ms_ago", true, true);
		put_number(g, m, "in_flight", cutover, false);
		put_number(g, m, "remaining_ms", cutover && tool_u64(m, "remaining_ms"), true);
		put_waits_for(t, names, g, m, cutover);
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
	struct processes names = {0};
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
		json_array_foreach (list, i, m) {
			tool_print_json(json_incref(m));
		}
	} else if (list) {
		migrate_grid(t, &names, &g, list);
		grid_flush(&g, stdout);
		grid_end(&g);
		processes_end(&names);
		if (json_array_size(list) == 0)
			puts("no migration is under way");
	}
	json_decref(list);
	if (called == CALL_OK)
		json_decref(answer);
	return rc;
}
