/* SPDX-License-Identifier: MIT
 * `berth readers`: the processes that read the table, and the writes that they have under way; or, when the daemon is
 * down, what its ledger says of them. */
#include "readers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../bpf/programs.h"
#include "client.h"
#include "commands.h"
#include "instance.h"
#include "ledger.h"

/* ---- processes ---- */

static uint64_t highest_lag(const json_t *reader)
{
	const json_t *section;
	uint64_t highest = 0;
	size_t i;

	json_array_foreach (json_object_get(reader, "sections"), i, section) {
		uint64_t lag = tool_u64(section, "grace_lag");
		highest = lag > highest ? lag : highest;
	}
	return highest;
}

uint64_t readers_sum(const json_t *readers, const char *field)
{
	const json_t *r;
	uint64_t sum = 0;
	size_t i;

	json_array_foreach (readers, i, r) {
		sum += tool_u64(r, field);
	}
	return sum;
}

/* "none", "leases", "without leases" */
static const char *how(const char *writes, bool unbracketed)
{
	if (strcmp(writes, "none") == 0)
		return "none";
	if (strcmp(writes, "bracketed") == 0 && !unbracketed)
		return "leases";
	return strcmp(writes, "bracketed") == 0 || strcmp(writes, "unbracketed") == 0 ? "without leases" : writes;
}

static void put_writes(struct grid *g, const json_t *r)
{
	const char *writes = tool_string(r, "writes");
	char unknown[TEXT_UNIT];

	grid_text(g, how(writes, json_is_true(json_object_get(r, "unbracketed"))));
	if (strcmp(writes, "bracketed") != 0) {
		grid_text(g, "-");
		grid_text(g, "-");
		return;
	}
	grid_u64(g, tool_u64(r, "n_leases"));
	snprintf(unknown, sizeof(unknown), "%" PRIu64 "%s", tool_u64(r, "n_unknown"),
		 json_is_integer(json_object_get(r, "overflow_ms_ago")) ? " and more" : "");
	grid_text(g, unknown);
}

/* What is not as it should be, in words. */
static void put_remarks(struct grid *g, const json_t *r)
{
	char text[256] = "", span[TEXT_UNIT];
	size_t at = 0;

	if (strcmp(tool_string(r, "writes"), "bracketed") == 0 && json_is_true(json_object_get(r, "unbracketed")))
		at += (size_t)snprintf(text + at, sizeof(text) - at, "; attached for leases, but called berth_admit");
	if (json_is_integer(json_object_get(r, "overflow_ms_ago")))
		at += (size_t)snprintf(text + at, sizeof(text) - at, "; short of leases %s ago",
				       text_duration(span, tool_u64(r, "overflow_ms_ago")));
	if (json_is_false(json_object_get(r, "connected")))
		at += (size_t)snprintf(text + at, sizeof(text) - at, "; not connected");
	if (tool_u64(r, "damaged"))
		snprintf(text + at, sizeof(text) - at, "; found damage %" PRIu64 " times", tool_u64(r, "damaged"));
	grid_text(g, text[0] ? text + 2 : "-");
}

void readers_grid(struct grid *g, const json_t *readers)
{
	const json_t *r;
	char text[TEXT_UNIT];
	size_t i;

	grid_start(g, ">SLOT", ">PID", "COMMAND", ">UID", ">ATTACHED FOR", "WRITES", ">UNDER WAY", ">UNKNOWN",
		   ">READERS", ">IN SECTION", ">LAG", ">HELD BACK", "REMARKS");
	json_array_foreach (readers, i, r) {
		char open[2 * TEXT_UNIT];

		snprintf(open, sizeof(open), "%" PRIu64 "/%" PRIu64, tool_u64(r, "n_open"), tool_u64(r, "n_readers"));
		grid_u64(g, tool_u64(r, "slot"));
		grid_u64(g, tool_u64(r, "pid"));
		grid_text(g, tool_string(r, "comm"));
		grid_u64(g, tool_u64(r, "uid"));
		grid_text(g, text_duration(text, tool_u64(r, "attached_ms_ago")));
		put_writes(g, r);
		grid_text(g, json_object_get(r, "n_open") ? open : "-");
		grid_u64(g, json_array_size(json_object_get(r, "sections")));
		grid_u64(g, highest_lag(r));
		grid_text(g, text_bytes(text, tool_u64(r, "held_bytes")));
		put_remarks(g, r);
	}
}

/* What packet programs have under way, as one more of the readers: a copy. NULL: there is no mirror. */
static json_t *packet_reader(const json_t *answer)
{
	const json_t *packets = json_object_get(answer, "packet_programs");
	json_t *r = packets ? json_copy((json_t *)(uintptr_t)packets) : NULL;

	if (packets && !r)
		tool_no_memory();
	if (r)
		tool_set(r, "comm", json_string("packet program"));
	return r;
}

static void tell_packets(const json_t *r)
{
	uint64_t open = tool_u64(r, "n_leases"), unknown = tool_u64(r, "n_unknown");
	bool without = json_is_true(json_object_get(r, "unbracketed"));
	char n_open[TEXT_UNIT], n_unknown[TEXT_UNIT], ago[TEXT_UNIT];

	printf("\npacket programs: %s writes under way, %s that ended unknown", text_count(n_open, open),
	       text_count(n_unknown, unknown));
	if (json_is_integer(json_object_get(r, "overflow_ms_ago")))
		printf("; more of them, the last %s ago", text_duration(ago, tool_u64(r, "overflow_ms_ago")));
	puts(without ? "; one of them admits writes without leases" : "");
}

/* ---- writes under way ---- */

struct write { /* borrowed from the answer */
	const json_t *reader, *lease;
	uint64_t age_ms;
};

static int older_first(const void *a, const void *b)
{
	uint64_t x = ((const struct write *)a)->age_ms, y = ((const struct write *)b)->age_ms;

	return x > y ? -1 : x < y;
}

/* All of them, oldest first, to be freed. *more: so many there are that the answer does not list. */
static struct write *collect(const json_t *readers, size_t *n, uint64_t *more)
{
	const json_t *r, *lease;
	struct write *list;
	size_t i, k, room = 1;

	*n = 0;
	*more = 0;
	json_array_foreach (readers, i, r) {
		room += json_array_size(json_object_get(r, "leases"));
	}
	list = calloc(room, sizeof(*list));
	if (!list)
		tool_no_memory();
	json_array_foreach (readers, i, r) {
		uint64_t all = tool_u64(r, "n_leases") + tool_u64(r, "n_unknown");
		size_t listed = json_array_size(json_object_get(r, "leases"));

		json_array_foreach (json_object_get(r, "leases"), k, lease) {
			list[(*n)++] = (struct write){.reader = r, .lease = lease, .age_ms = tool_u64(lease, "age_ms")};
		}
		*more += all > listed ? all - listed : 0;
	}
	qsort(list, *n, sizeof(*list), older_first);
	return list;
}

static void tell_writes(const json_t *readers)
{
	struct grid g;
	char text[300], count[TEXT_UNIT];
	uint64_t more;
	size_t n;
	struct write *list = collect(readers, &n, &more);

	grid_start(&g, "PARTITION", ">AGE", ">PID", "COMMAND", "OUTCOME");
	for (size_t i = 0; i < n; i++) {
		const char *partition = tool_string(list[i].lease, "partition");
		const char *outcome = tool_string(list[i].lease, "outcome");

		snprintf(text, sizeof(text), "(by the default, hash %s)", tool_string(list[i].lease, "hash"));
		grid_text(&g, partition[0] ? partition : text);
		grid_text(&g, text_duration(text, list[i].age_ms));
		if (json_object_get(list[i].reader, "pid"))
			grid_u64(&g, tool_u64(list[i].reader, "pid"));
		else
			grid_text(&g, "-");
		grid_text(&g, tool_string(list[i].reader, "comm"));
		grid_text(&g, strcmp(outcome, "open") == 0      ? "under way"
			      : strcmp(outcome, "unknown") == 0 ? "unknown since then"
								: outcome);
	}
	if (n) {
		putchar('\n');
		grid_flush(&g, stdout);
	}
	if (more)
		printf("and %s more, which berthd does not list\n", text_count(count, more));
	grid_end(&g);
	free(list);
}

/* ---- without a daemon ---- */

/* As the daemon's answer has it, from the mirror's pins. NULL: there is none, or it may not be seen. */
static json_t *packets_without_daemon(const struct tool *t)
{
	uint64_t now = seg_clock_ms(CLOCK_MONOTONIC);
	struct programs_leases n;
	json_t *r;

	if (programs_leases(t->path, t->root->uuid, &n) != 0)
		return NULL;
	r = tool_object();
	tool_set(r, "comm", json_string("packet program"));
	tool_set(r, "unbracketed", json_boolean(n.gated));
	tool_set_u64(r, "n_leases", n.n_open);
	tool_set_u64(r, "n_unknown", n.n_unknown);
	if (n.overflow_ms)
		tool_set_u64(r, "overflow_ms_ago", n.overflow_ms < now ? now - n.overflow_ms : 0);
	return r;
}

static int from_ledger(struct tool *t, const char *fault)
{
	struct ledger ledger;
	struct ledger_reader r;
	struct grid g;
	char age[TEXT_UNIT];
	uint64_t now = seg_clock_ms(CLOCK_BOOTTIME);
	int rc = ledger_open(t, &ledger);

	if (rc != BERTH_OK)
		return tool_fail_code(t, rc, "ledger");
	tool_note(t, "%s; from its ledger:", fault);
	grid_start(&g, ">SLOT", ">PID", "COMMAND", ">UID", ">ATTACHED FOR", "WRITES", ">READERS", "PROCESS");
	for (uint32_t slot = 0; slot < ledger.n_rows; slot++) {
		if (!ledger_read(&ledger, slot, &r))
			continue;
		uint64_t ago = r.attached_ms < now ? now - r.attached_ms : 0;
		if (t->json) {
			json_t *line = tool_object();
			tool_set_u64(line, "slot", slot);
			tool_set_u64(line, "attach", r.attach);
			tool_set_u64(line, "pid", r.pid);
			tool_set_u64(line, "uid", r.uid);
			tool_set(line, "comm", text_json(r.comm, strlen(r.comm)));
			tool_set_u64(line, "attached_ms_ago", ago);
			tool_set(line, "connected", json_false());
			tool_set(line, "writes", json_string(ledger_writes(r.writes)));
			tool_set_u64(line, "n_readers", r.n_readers);
			tool_set(line, "process_exists", r.seen ? json_boolean(r.exists) : json_null());
			tool_print_json(line);
			continue;
		}
		grid_u64(&g, slot);
		grid_u64(&g, r.pid);
		grid_text(&g, r.comm);
		grid_u64(&g, r.uid);
		grid_text(&g, text_duration(age, ago));
		grid_text(&g, how(ledger_writes(r.writes), false));
		grid_u64(&g, r.n_readers);
		grid_text(&g, r.exists ? "lives" : r.seen ? "gone" : "not visible from here");
	}
	if (!t->json)
		grid_flush(&g, stdout);
	grid_end(&g);
	json_t *packets = packets_without_daemon(t);
	if (packets && t->json)
		tool_print_json(json_incref(packets));
	else if (packets)
		tell_packets(packets);
	json_decref(packets);
	ledger_close(&ledger);
	return EXIT_DONE;
}

int readers_show(struct tool *t, const struct arguments *a)
{
	struct client_request request = {.method = "readers", .pass_fd = -1};
	struct client c;
	json_t *answer = NULL;
	const json_t *readers, *reader;
	json_t *packets, *all;
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
	if (called == CALL_DOWN)
		rc = from_ledger(t, c.fault);
	else if (called == CALL_REFUSED)
		rc = client_fail(t, &c, called, answer);
	client_close(&c);
	if (called != CALL_OK)
		return rc;
	readers = json_object_get(answer, "readers");
	packets = packet_reader(answer);
	if (t->json) {
		json_array_foreach (readers, i, reader) {
			tool_print_json(json_incref((json_t *)(uintptr_t)reader));
		}
		if (packets)
			tool_print_json(json_incref(packets));
	} else {
		readers_grid(&g, readers);
		grid_flush(&g, stdout);
		grid_end(&g);
		if (packets)
			tell_packets(packets);
		all = json_copy((json_t *)(uintptr_t)readers);
		if (!all || (packets && json_array_append(all, packets) != 0))
			tool_no_memory();
		tell_writes(all);
		json_decref(all);
	}
	json_decref(packets);
	json_decref(answer);
	return EXIT_DONE;
}
