/* SPDX-License-Identifier: MIT
 * `berth pin`, `resolve`, `release`: one cursor, by the calls of libberth that proxies use. Without a daemon `resolve`
 * reads the file of pins instead: a pin's end is decided by the clock, not by the daemon. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../reader_lib/berth.h"
#include "commands.h"
#include "cursor_file.h"
#include "instance.h"
#include "text.h"
#include "walk.h"

#define WAIT_MS 1000u

struct cursor { /* what the command line names */
	char id[SHM_CURSOR_ID_MAX + 1];
	size_t len;
	const char *owner;
	size_t owner_len;
};

/* ---- the command line ---- */

static int read_id(const struct tool *t, const char *operand, struct cursor *c)
{
	const bool standard = strcmp(operand, "-") == 0;
	const size_t n = strlen(operand);

	if (standard) {
		c->len = fread(c->id, 1, sizeof(c->id), stdin);
		if (ferror(stdin))
			return tool_fail(t, EXIT_REFUSED, "invalid", "the cursor id on standard input: %s",
					 strerror(errno));
	} else {
		c->len = n < sizeof(c->id) ? n : sizeof(c->id);
		memcpy(c->id, operand, c->len);
	}
	if (c->len == 0)
		return tool_fail(t, EXIT_REFUSED, "invalid", "the cursor id is empty: give 1 to %u bytes",
				 SHM_CURSOR_ID_MAX);
	if (c->len > SHM_CURSOR_ID_MAX)
		return tool_fail(t, standard ? EXIT_REFUSED : EXIT_USAGE, "invalid",
				 "the cursor id is longer than %u bytes: give at most those", SHM_CURSOR_ID_MAX);
	return EXIT_DONE;
}

static int read_cursor(const struct tool *t, const struct arguments *a, struct cursor *c)
{
	c->len = 0;
	c->owner = a->value[OPT_OWNER];
	c->owner_len = strlen(c->owner);
	if (c->owner_len == 0 || c->owner_len > SHM_KEY_MAX)
		return tool_fail(t, EXIT_USAGE, "invalid", "--owner of %zu bytes: give 1 to %u", c->owner_len,
				 SHM_KEY_MAX);
	return read_id(t, a->operand, c);
}

/* ---- the instance ---- */

static int fail_down(const struct tool *t)
{
	char down[4400];

	instance_describe_down(t, down, sizeof(down));
	return tool_fail(t, EXIT_UNREACHABLE, "unreachable", "%s", down);
}

/* A registration with pins: what is read in the table meanwhile is not reused. A code of berth_errors.h. */
static int attach(struct tool *t)
{
	struct berth_attach_options wanted = {
		.size = sizeof(wanted),
		.writes = BERTH_WRITES_NONE,
		.max_readers = 1,
		.wait_ms = WAIT_MS,
		.cursors = BERTH_CURSORS_PIN,
	};
	int rc = berth_attach(t->path, &wanted, &t->berth);

	if (rc == BERTH_OK)
		rc = berth_maintain(t->berth);
	return rc == BERTH_OK ? berth_reader_open(t->berth, &t->reader) : rc;
}

static int reach(struct tool *t)
{
	int rc = attach(t);
	char what[sizeof(t->path) + 40];

	if (rc == BERTH_OK)
		return EXIT_DONE;
	if (rc == BERTH_E_WRITER_DOWN)
		return fail_down(t);
	snprintf(what, sizeof(what), "registering with berthd in %s", t->path);
	return tool_fail_code(t, rc, what);
}

/* Of the cluster with this id, or this number. */
static int find_cluster(struct tool *t, const char *id, unsigned number, struct cluster_copy *out, bool *found)
{
	struct cluster_copy *list = NULL;
	uint64_t n_damaged = 0;
	size_t n = 0;
	int rc = walk_clusters(t, &list, &n, &n_damaged);

	*found = false;
	for (size_t i = 0; rc == EXIT_DONE && i < n && !*found; i++) {
		*found = id ? strcmp(list[i].id, id) == 0 : list[i].number == number;
		*out = list[i];
	}
	free(list);
	return rc;
}

/* ---- telling ---- */

#define SHOWN 60u /* bytes of an id */
#define SHOWN_ROOM (4 * SHOWN + 4)
static const char *shown(const struct cursor *c, char out[SHOWN_ROOM])
{
	text_escape(out, 4 * SHOWN + 1, c->id, c->len < SHOWN ? c->len : SHOWN);
	if (c->len > SHOWN)
		memcpy(out + strlen(out), "...", 4);
	return out;
}

/* What a call answered, other than BERTH_OK. command: that may have been carried out; NULL: it only looked. */
static int fail_call(const struct tool *t, const struct cursor *c, int rc, const char *command)
{
	char id[SHOWN_ROOM];

	switch (rc) {
	case BERTH_E_NOT_OWNER:
		return tool_fail(t, EXIT_REFUSED, "not-owner",
				 "cursor %s is pinned by another partition than %s: name its owner with --owner",
				 shown(c, id), c->owner);
	case BERTH_E_UNKNOWN:
		return tool_fail(
			t, EXIT_REFUSED, "unknown-cursor",
			"cursor %s is not pinned, or not any more: its time was over, it was released, or evicted "
			"(`berth cursors` counts those). To use it, pin it again",
			shown(c, id));
	case BERTH_E_AGAIN:
		if (!command)
			return tool_fail(t, EXIT_REFUSED, "busy", "cursor %s changes all the time: try again",
					 shown(c, id));
		return tool_fail(
			t, EXIT_UNREACHABLE, "again",
			"berthd did not say within %u ms that it is done: it may be, or not. `berth %s` again does "
			"no harm; `berth status` says whether berthd is there",
			WAIT_MS, command);
	case BERTH_E_WRITER_DOWN:
		return fail_down(t);
	default:
		return tool_fail_code(t, rc, "the pins");
	}
}

static void tell(const struct tool *t, const struct cursor *c, const char *done, const struct cluster_copy *cluster,
		 bool known, const uint64_t *ttl_ms)
{
	char id[SHOWN_ROOM], owner[TEXT_KEY], span[TEXT_UNIT];

	if (t->json) {
		json_t *line = tool_object();
		tool_set(line, "cursor", text_json(c->id, c->len));
		tool_set(line, "owner", text_json(c->owner, c->owner_len));
		if (cluster) {
			tool_set(line, "cluster", known ? text_json(cluster->id, strlen(cluster->id)) : json_null());
			tool_set_u64(line, "number", cluster->number);
		}
		if (ttl_ms)
			tool_set_u64(line, "ttl_ms", *ttl_ms);
		tool_print_json(line);
		return;
	}
	printf("%s: %s", shown(c, id), done);
	if (cluster)
		printf(" %s (number %u)", known ? cluster->id : "a cluster that is not in the table", cluster->number);
	printf(" for %s", text_escape(owner, sizeof(owner), c->owner, c->owner_len));
	if (ttl_ms)
		printf(", for %s", text_duration(span, *ttl_ms));
	putchar('\n');
}

static int tell_resolved(struct tool *t, const struct cursor *c, unsigned number)
{
	struct cluster_copy cluster = {0};
	bool known = false;
	int rc = find_cluster(t, NULL, number, &cluster, &known);

	if (rc != EXIT_DONE)
		return rc;
	cluster.number = number;
	tell(t, c, "pinned to", &cluster, known, NULL);
	return EXIT_DONE;
}

/* ---- the commands ---- */

/* The default, from the header of the file that is there by now. */
static void default_ttl(const struct tool *t, uint64_t *ttl_ms)
{
	struct cursor_map map;

	if (cursor_file_try(t, &map) != BERTH_OK || !map.file)
		return;
	*ttl_ms = atomic_load_explicit(&map.file->ttl_ms, memory_order_relaxed);
	cursor_map_close(&map);
}

int pin_pin(struct tool *t, const struct arguments *a)
{
	struct cluster_copy cluster = {0};
	struct cursor c;
	uint64_t ttl_ms = 0;
	bool known = false;
	int rc = arguments_number(a, OPT_TTL_MS, 1, UINT32_MAX, &ttl_ms);

	if (rc == EXIT_DONE)
		rc = read_cursor(t, a, &c);
	if (rc == EXIT_DONE)
		rc = instance_open(t);
	if (rc == EXIT_DONE)
		rc = reach(t);
	if (rc == EXIT_DONE)
		rc = find_cluster(t, a->value[OPT_CLUSTER], 0, &cluster, &known);
	if (rc != EXIT_DONE)
		return rc;
	if (known)
		rc = berth_cursor_pin(t->reader, c.id, c.len, (uint16_t)cluster.number, c.owner, c.owner_len,
				      (uint32_t)ttl_ms, WAIT_MS);
	if (!known || rc == BERTH_E_UNKNOWN)
		return tool_fail(t, EXIT_REFUSED, "unknown-cluster",
				 "cluster %s is not known: `berth clusters` lists those that are",
				 a->value[OPT_CLUSTER]);
	if (rc != BERTH_OK)
		return fail_call(t, &c, rc, "pin");
	if (ttl_ms == 0)
		default_ttl(t, &ttl_ms);
	tell(t, &c, "pinned to", &cluster, true, ttl_ms ? &ttl_ms : NULL);
	return EXIT_DONE;
}

/* No registration, for the reason given: as berth_cursor_resolve decides, from the file. */
static int resolve_from_file(struct tool *t, const struct cursor *c, int refused)
{
	struct cursor_map map;
	uint64_t owner = 0, word = 0, own;
	enum cursor_found found;
	int rc = cursor_file_open(t, &map);
	char down[4400];

	if (rc != EXIT_DONE)
		return rc;
	if (!map.file)
		return fail_call(t, c, BERTH_E_UNKNOWN, NULL);
	found = cursor_file_find(&map, c->id, c->len, &owner, &word);
	own = cursor_owner(&map.file->keys, c->owner, c->owner_len);
	cursor_map_close(&map);
	instance_describe_down(t, down, sizeof(down));
	tool_note(t, "this is what the file of pins says; %s%s",
		  refused == BERTH_E_WRITER_DOWN ? "" : "the daemon gave no registration: ",
		  refused == BERTH_E_WRITER_DOWN ? down : berth_strerror(refused));
	if (found == CURSOR_CHANGED)
		return fail_call(t, c, BERTH_E_AGAIN, NULL);
	if (found == CURSOR_DAMAGED)
		return fail_call(t, c, BERTH_E_CORRUPT, NULL);
	if (found == CURSOR_MISS || cursor_expiry(word) <= seg_clock_ms(CLOCK_BOOTTIME))
		return fail_call(t, c, BERTH_E_UNKNOWN, NULL);
	if (owner != own)
		return fail_call(t, c, BERTH_E_NOT_OWNER, NULL);
	return tell_resolved(t, c, cursor_cluster(word));
}

/* Nobody has asked for pins: then neither does a command that makes none. */
static bool unused(const struct tool *t)
{
	return atomic_load_explicit(&t->root->cursor_generation, memory_order_acquire) == 0;
}

int pin_resolve(struct tool *t, const struct arguments *a)
{
	struct cursor c;
	uint16_t number = 0;
	int rc = read_cursor(t, a, &c);

	if (rc == EXIT_DONE)
		rc = instance_open(t);
	if (rc != EXIT_DONE)
		return rc;
	if (unused(t))
		return fail_call(t, &c, BERTH_E_UNKNOWN, NULL);
	rc = attach(t);
	if (rc != BERTH_OK)
		return resolve_from_file(t, &c, rc);
	rc = berth_cursor_resolve(t->reader, c.id, c.len, c.owner, c.owner_len, 0, &number);
	return rc == BERTH_OK ? tell_resolved(t, &c, number) : fail_call(t, &c, rc, NULL);
}

int pin_release(struct tool *t, const struct arguments *a)
{
	struct cursor c;
	int rc = read_cursor(t, a, &c);

	if (rc == EXIT_DONE)
		rc = instance_open(t);
	if (rc != EXIT_DONE)
		return rc;
	if (unused(t))
		return fail_call(t, &c, BERTH_E_UNKNOWN, "release");
	rc = reach(t);
	if (rc != EXIT_DONE)
		return rc;
	rc = berth_cursor_release(t->reader, c.id, c.len, c.owner, c.owner_len);
	if (rc != BERTH_OK)
		return fail_call(t, &c, rc, "release");
	tell(t, &c, "released,", NULL, false, NULL);
	return EXIT_DONE;
}
