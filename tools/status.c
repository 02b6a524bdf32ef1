/* SPDX-License-Identifier: MIT
 * `berth status`: what the daemon says of itself, or, when it is down, what it left in shared memory. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client.h"
#include "commands.h"
#include "cursor_file.h"
#include "instance.h"
#include "ledger.h"
#include "text.h"

enum unit { UNIT_NUMBER, UNIT_COUNT, UNIT_BYTES, UNIT_MS };

/* What people are shown, in this order; a field that the daemon does not send is left out, one that is not here is
 * shown below by its own name. */
static const struct {
	const char *field, *text;
	enum unit unit;
} lines[] = {
	{"writer", "writer", UNIT_NUMBER},
	{"version", "version", UNIT_NUMBER},
	{"pid", "process", UNIT_NUMBER},
	{"process_exists", "process is there", UNIT_NUMBER},
	{"instance", "instance", UNIT_NUMBER},
	{"store", "store", UNIT_NUMBER},
	{"uptime_ms", "up for", UNIT_MS},
	{"heartbeat_age_ms", "last heartbeat, ago", UNIT_MS},
	{"term", "term", UNIT_NUMBER},
	{"generation", "table generation", UNIT_NUMBER},
	{"epoch", "epoch", UNIT_NUMBER},
	{"document_version", "document version", UNIT_NUMBER},
	{"barrier_ms", "barrier", UNIT_MS},
	{"partitions", "partitions", UNIT_COUNT},
	{"migrations", "migrations under way", UNIT_COUNT},
	{"cutovers", "of them in cutover", UNIT_COUNT},
	{"leases", "writes under way, in leases", UNIT_COUNT},
	{"leases_unknown", "writes ended unknown", UNIT_COUNT},
	{"drains", "migrations completed", UNIT_COUNT},
	{"blackout_ms", "they held writes back, in all", UNIT_MS},
	{"blackout_ms_max", "the longest of them", UNIT_MS},
	{"clusters", "clusters", UNIT_COUNT},
	{"readers", "reader processes", UNIT_COUNT},
	{"changes", "changes since the start", UNIT_COUNT},
	{"tombstones", "tombstones", UNIT_COUNT},
	{"capacity", "capacity, partitions", UNIT_COUNT},
	{"longest_probe", "longest probe, entries", UNIT_COUNT},
	{"bytes", "table size", UNIT_BYTES},
	{"reserve_bytes", "reserve for the next table", UNIT_BYTES},
	{"record_bytes_used", "used by records", UNIT_BYTES},
	{"held_bytes", "held back by readers", UNIT_BYTES},
	{"retired", "waiting for readers, pieces", UNIT_COUNT},
	{"grace_periods", "grace periods", UNIT_COUNT},
	{"growing", "table is growing", UNIT_NUMBER},
	{"upkeep_us_max", "longest piece of upkeep, us", UNIT_COUNT},
	{"loading", "a document is being applied", UNIT_NUMBER},
	{"documents", "documents applied or refused", UNIT_COUNT},
	{"documents_refused", "documents refused", UNIT_COUNT},
	{"connections", "connections", UNIT_COUNT},
	{"connections_refused", "connections refused", UNIT_COUNT},
	{"requests", "requests", UNIT_COUNT},
	{"requests_refused", "requests refused", UNIT_COUNT},
	{"watchers", "watchers", UNIT_COUNT},
	{"watch_overruns", "watchers that were too slow", UNIT_COUNT},
	{"membarrier", "membarrier", UNIT_NUMBER},
};
#define N_LINES (sizeof(lines) / sizeof(lines[0]))

/* Of its object `cursors`, when processes use pins. */
static const struct {
	const char *field, *text;
} pin_lines[] = {
	{"pinned", "pins made"},     {"refreshed", "pins made again"}, {"released", "pins released"},
	{"expired", "pins expired"}, {"evicted", "pins evicted"},      {"refused", "requests for pins refused"},
};
#define N_PIN_LINES (sizeof(pin_lines) / sizeof(pin_lines[0]))

static void put_value(struct grid *g, const char *text, const json_t *value, enum unit unit)
{
	char shown[TEXT_UNIT];
	uint64_t n = json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;

	if (!value || json_is_null(value) || json_is_object(value) || json_is_array(value))
		return;
	grid_text(g, text);
	if (json_is_string(value))
		grid_cell(g, json_string_value(value), json_string_length(value));
	else if (json_is_boolean(value))
		grid_text(g, json_is_true(value) ? "yes" : "no");
	else if (json_is_real(value))
		grid_text(g, (snprintf(shown, sizeof(shown), "%g", json_real_value(value)), shown));
	else if (unit == UNIT_BYTES)
		grid_text(g, text_bytes(shown, n));
	else if (unit == UNIT_MS)
		grid_text(g, text_duration(shown, n));
	else if (unit == UNIT_COUNT)
		grid_text(g, text_count(shown, n));
	else
		grid_u64(g, n);
}

static void put_cursors(struct grid *g, const json_t *cursors)
{
	char text[2 * TEXT_UNIT + 8], pins[TEXT_UNIT], capacity[TEXT_UNIT];

	if (!json_is_true(json_object_get(cursors, "enabled")))
		return;
	snprintf(text, sizeof(text), "%s of %s", text_count(pins, tool_u64(cursors, "pins")),
		 text_count(capacity, tool_u64(cursors, "capacity")));
	grid_text(g, "cursors pinned");
	grid_text(g, text);
	for (size_t i = 0; i < N_PIN_LINES; i++)
		put_value(g, pin_lines[i].text, json_object_get(cursors, pin_lines[i].field), UNIT_COUNT);
}

static void tell_status(const json_t *status)
{
	struct grid g;
	const char *key;
	json_t *value;

	grid_start(&g, "", "");
	for (size_t i = 0; i < N_LINES; i++)
		put_value(&g, lines[i].text, json_object_get(status, lines[i].field), lines[i].unit);
	json_object_foreach((json_t *)status, key, value)
	{
		bool known = false;
		for (size_t i = 0; i < N_LINES && !known; i++)
			known = strcmp(lines[i].field, key) == 0;
		if (!known)
			put_value(&g, key, value, UNIT_NUMBER);
	}
	put_cursors(&g, json_object_get(status, "cursors"));
	grid_flush(&g, stdout);
	grid_end(&g);
}

/* What the header of the file of pins says; nothing when there is none. */
static void cursors_from_memory(const struct tool *t, json_t *status)
{
	struct cursor_map map;

	if (cursor_file_try(t, &map) != BERTH_OK || !map.file)
		return;
	json_t *cursors = tool_object();
	tool_set(cursors, "enabled", json_true());
	tool_set_u64(cursors, "pins", atomic_load_explicit(&map.file->n_live, memory_order_relaxed));
	cursor_file_counters(&map, cursors);
	tool_set(status, "cursors", cursors);
	cursor_map_close(&map);
}

/* What root, table, ledger and pins say, by the names that the daemon uses. */
static int status_from_memory(struct tool *t, json_t *status)
{
	struct instance_pulse pulse;
	struct ledger ledger;
	uint64_t termgen = atomic_load_explicit(&t->root->termgen, memory_order_acquire);

	instance_pulse(t, &pulse);
	tool_set_u64(status, "pid", pulse.pid);
	tool_set(status, "process_exists", json_boolean(pulse.exists));
	if (pulse.this_boot)
		tool_set_u64(status, "heartbeat_age_ms", pulse.age_ms);
	else
		tool_set(status, "since_boot", json_false());
	tool_set_u64(status, "term", SHM_TERM(termgen));
	tool_set_u64(status, "generation", SHM_GENERATION(termgen));
	tool_set_u64(status, "barrier_ms", atomic_load_explicit(&t->root->barrier_ms, memory_order_relaxed));
	if (atomic_load_explicit(&t->root->superseded, memory_order_relaxed))
		tool_set(status, "superseded", json_true());
	if (ledger_open(t, &ledger) == BERTH_OK) {
		tool_set_u64(status, "readers", ledger_count(&ledger));
		ledger_close(&ledger);
	}
	cursors_from_memory(t, status);
	if (SHM_GENERATION(termgen) == 0)
		return EXIT_DONE;
	int rc = instance_section(t);
	if (rc != EXIT_DONE)
		return rc;
	const struct shm_table *h = t->map.table;
	unsigned clusters = 0;
	for (unsigned n = 1; n < t->map.n_cluster_slots; n++)
		clusters += atomic_load_explicit(&t->map.clusters[n], memory_order_relaxed) != 0;
	tool_set_u64(status, "epoch", atomic_load_explicit(&h->epoch, memory_order_relaxed));
	tool_set_u64(status, "document_version", atomic_load_explicit(&h->document_version, memory_order_relaxed));
	tool_set_u64(status, "partitions", atomic_load_explicit(&h->n_live, memory_order_relaxed));
	tool_set_u64(status, "clusters", clusters);
	tool_set_u64(status, "tombstones", atomic_load_explicit(&h->n_tombstones, memory_order_relaxed));
	tool_set_u64(status, "capacity", t->map.capacity);
	tool_set_u64(status, "longest_probe", atomic_load_explicit(&h->longest_probe, memory_order_relaxed));
	tool_set_u64(status, "bytes", t->map.size);
	instance_section_end(t);
	return EXIT_DONE;
}

int status_show(struct tool *t, const struct arguments *a)
{
	struct client_request request = {.method = "status", .pass_fd = -1};
	struct client c;
	json_t *answer = NULL, *status;
	int rc = instance_open(t);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	client_init(&c, CLIENT_LOOK);
	enum call_result called = client_connect(t, &c);
	bool connected = called == CALL_OK, denied = c.denied;
	if (connected)
		called = client_call(t, &c, &request, &answer);
	if (called == CALL_REFUSED)
		return client_fail(t, &c, called, answer);
	const char *writer = called == CALL_OK ? "up" : connected ? "silent" : denied ? "unknown" : "down";
	status = tool_object();
	tool_set(status, "writer", json_string(writer));
	if (called == CALL_OK) {
		if (json_object_update_missing(status, answer) != 0)
			tool_no_memory();
		json_decref(answer);
	} else {
		rc = status_from_memory(t, status);
	}
	if (rc == EXIT_DONE && t->json) {
		tool_print_json(json_incref(status));
	} else if (rc == EXIT_DONE) {
		tell_status(status);
		if (called != CALL_OK)
			printf("\n%s.\n%s", c.fault,
			       denied ? "" : "Nothing can be changed and no migration completed meanwhile.\n");
	}
	json_decref(status);
	client_close(&c);
	return rc;
}
