/* SPDX-License-Identifier: MIT
 * Commands that change one thing by one call: clusters, placements, the default, the single steps of a migration; and
 * loading a document. `set` places many by one call too. The daemon judges values; here they are put into a request, and
 * its answer is told. */
#include "change.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "text.h"
#include "walk.h"

int change_string(const struct tool *t, json_t *object, const char *name, const char *value)
{
	json_t *json = json_string(value);

	if (json)
		json_object_set_new(object, name, json);
	else
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s %s is no UTF-8: give UTF-8 without control characters",
				 name, value);
	return EXIT_DONE;
}

static int add_inject(const struct tool *t, json_t *list, const char *text)
{
	const char *equals = strchr(text, '=');
	json_t *pair = tool_object();
	int rc = EXIT_DONE;

	if (!equals || equals == text) {
		json_decref(pair);
		return tool_fail(t, EXIT_USAGE, "usage",
				 "--inject %s: give FIELD=VALUE, as in --inject _tenant=@partition", text);
	}
	json_t *field = json_stringn(text, (size_t)(equals - text));
	if (!field)
		rc = tool_fail(t, EXIT_REFUSED, "invalid", "inject field %.*s is no UTF-8", (int)(equals - text), text);
	else
		tool_set(pair, "field", field);
	if (rc == EXIT_DONE && strcmp(equals + 1, "@partition") == 0)
		tool_set(pair, "value", json_pack("{s:b}", "partition", 1));
	else if (rc == EXIT_DONE)
		rc = change_string(t, pair, "value", equals + 1);
	if (json_array_append_new(list, pair) != 0)
		tool_no_memory();
	return rc;
}

static bool is_mode(const char *text)
{
	return strcmp(text, row_mode(KIND_DEDICATED_CLUSTER)) == 0 ||
	       strcmp(text, row_mode(KIND_DEDICATED_INDEX)) == 0 || strcmp(text, row_mode(KIND_SHARED_INDEX)) == 0;
}

int change_placement(const struct tool *t, const struct arguments *a, const char *cluster, json_t **out)
{
	json_t *placement = tool_object();
	int rc = change_string(t, placement, "cluster", cluster);

	if (rc == EXIT_DONE && a->given & OPT(MODE) && !is_mode(a->value[OPT_MODE]))
		rc = tool_fail(t, EXIT_USAGE, "invalid", "--mode %s: give %s, %s or %s", a->value[OPT_MODE],
			       row_mode(KIND_DEDICATED_CLUSTER), row_mode(KIND_DEDICATED_INDEX),
			       row_mode(KIND_SHARED_INDEX));
	if (rc == EXIT_DONE && a->given & OPT(MODE))
		rc = change_string(t, placement, "mode", a->value[OPT_MODE]);
	if (rc == EXIT_DONE && a->given & OPT(INDEX))
		rc = change_string(t, placement, "index", a->value[OPT_INDEX]);
	if (rc == EXIT_DONE && a->n_inject) {
		json_t *list = json_array();
		tool_set(placement, "inject", list);
		for (size_t i = 0; rc == EXIT_DONE && i < a->n_inject; i++)
			rc = add_inject(t, list, a->inject[i]);
	}
	if (rc == EXIT_DONE)
		*out = placement;
	else
		json_decref(placement);
	return rc;
}

static void tell(const struct change_words *words, const json_t *result)
{
	char shown[TEXT_KEY], span[TEXT_UNIT];
	bool changed = !json_is_false(json_object_get(result, "changed"));
	uint64_t epoch = tool_u64(result, "epoch");

	printf("%s: %s", text_escape(shown, sizeof(shown), words->subject, strlen(words->subject)),
	       changed ? words->done : "unchanged, it was so already");
	if (epoch)
		printf(", epoch %" PRIu64, epoch);
	if (json_is_integer(json_object_get(result, "blackout_ms")) && (words->held || tool_u64(result, "blackout_ms")))
		printf("; writes were held back for %s", text_blackout(span, tool_u64(result, "blackout_ms")));
	putchar('\n');
	if (changed && words->next)
		printf("%s\n", words->next);
}

int change_call(struct tool *t, const char *method, json_t *params, const struct change_words *words)
{
	json_t *result;
	int rc = client_once(t, CLIENT_ADMIN, method, params, &result);

	if (rc != EXIT_DONE)
		return rc;
	if (t->json) {
		tool_print_json(result);
		return EXIT_DONE;
	}
	tell(words, result);
	json_decref(result);
	return EXIT_DONE;
}

/* A call about the operand, with --force if it was given and the method takes it. */
static int change_operand(struct tool *t, const struct arguments *a, const char *method, const char *name, bool force,
			  struct change_words words)
{
	json_t *params = tool_object();
	int rc = change_string(t, params, name, a->operand);

	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	if (force && a->given & OPT(FORCE))
		tool_set(params, "force", json_true());
	words.subject = a->operand;
	return change_call(t, method, params, &words);
}

/* The placement that the options name, and --force. */
static int add_placed(struct tool *t, const struct arguments *a, json_t *params)
{
	json_t *placement = NULL;
	int rc = change_placement(t, a, a->value[OPT_CLUSTER], &placement);

	if (rc != EXIT_DONE)
		return rc;
	tool_set(params, "placement", placement);
	if (a->given & OPT(FORCE))
		tool_set(params, "force", json_true());
	return EXIT_DONE;
}

/* ---- set ---- */

static int add_id(const struct tool *t, json_t *ids, const char *id, size_t len)
{
	char shown[TEXT_KEY];
	json_t *json = json_stringn(id, len);

	if (!json)
		return tool_fail(t, EXIT_REFUSED, "invalid",
				 "partition %s is no UTF-8: give UTF-8 without control characters",
				 text_escape(shown, sizeof(shown), id, len));
	if (json_array_append_new(ids, json) != 0)
		tool_no_memory();
	return EXIT_DONE;
}

/* Standard input, a partition a line. */
static int read_ids(const struct tool *t, json_t *ids)
{
	static char text[CLIENT_REQUEST_MAX + 1];
	size_t len = fread(text, 1, sizeof(text), stdin);
	const char *at = text, *end = text + len;
	int rc = EXIT_DONE;

	if (ferror(stdin))
		return tool_fail(t, EXIT_REFUSED, "invalid", "standard input cannot be read: %s", strerror(errno));
	if (len > CLIENT_REQUEST_MAX)
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s", CLIENT_TOO_LONG);
	if (len == 0)
		return tool_fail(t, EXIT_REFUSED, "invalid", "standard input is empty: give a partition a line");
	while (rc == EXIT_DONE && at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline : end;

		rc = add_id(t, ids, at, (size_t)(stop - at));
		at = stop + 1;
	}
	return rc;
}

static void tell_many(const json_t *result)
{
	uint64_t changed = tool_u64(result, "changed"), unchanged = tool_u64(result, "unchanged");
	char count[TEXT_UNIT];

	printf("%s partition%s", text_count(count, changed + unchanged), changed + unchanged == 1 ? "" : "s");
	if (!changed)
		printf(": unchanged, it was so already");
	else if (!unchanged)
		printf(": set");
	else
		printf(": %s set,", text_count(count, changed));
	if (changed && unchanged)
		printf(" %s unchanged", text_count(count, unchanged));
	printf(", epoch %" PRIu64 "\n", tool_u64(result, "epoch"));
}

/* One request for all. */
static int set_many(struct tool *t, const struct arguments *a, json_t *params)
{
	json_t *ids = json_array(), *result;
	int rc = EXIT_DONE;

	tool_set(params, "partitions", ids);
	if (a->n_operands == 1)
		rc = read_ids(t, ids);
	for (size_t i = 0; a->n_operands > 1 && i < a->n_operands && rc == EXIT_DONE; i++)
		rc = add_id(t, ids, a->operands[i], strlen(a->operands[i]));
	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	rc = client_once(t, CLIENT_ADMIN, "set", params, &result);
	if (rc != EXIT_DONE)
		return rc;
	if (t->json) {
		tool_print_json(result);
		return EXIT_DONE;
	}
	tell_many(result);
	json_decref(result);
	return EXIT_DONE;
}

int change_set(struct tool *t, const struct arguments *a)
{
	json_t *params = tool_object();
	int rc = add_placed(t, a, params);

	for (unsigned i = 0; rc == EXIT_DONE && a->n_operands > 1 && i < a->n_operands; i++)
		if (strcmp(a->operands[i], "-") == 0)
			rc = tool_fail(t, EXIT_USAGE, "usage",
				       "`-` reads all names from standard input: give it alone, or names without it");
	if (rc == EXIT_DONE && (a->n_operands > 1 || strcmp(a->operand, "-") == 0))
		return set_many(t, a, params);
	if (rc == EXIT_DONE)
		rc = change_string(t, params, "partition", a->operand);
	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	return change_call(t, "set", params, &(struct change_words){.subject = a->operand, .done = "set"});
}

int change_default_set(struct tool *t, const struct arguments *a)
{
	json_t *params = tool_object();
	int rc = add_placed(t, a, params);

	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	return change_call(t, "default.set", params, &(struct change_words){.subject = "default", .done = "set"});
}

int change_default_unset(struct tool *t, const struct arguments *a)
{
	json_t *params = tool_object();

	if (a->given & OPT(FORCE))
		tool_set(params, "force", json_true());
	return change_call(t, "default.unset", params, &(struct change_words){.subject = "default", .done = "unset"});
}

int change_remove(struct tool *t, const struct arguments *a)
{
	return change_operand(t, a, "remove", "partition", true, (struct change_words){.done = "removed"});
}

int change_cluster_set(struct tool *t, const struct arguments *a)
{
	json_t *params = tool_object();
	int rc = change_string(t, params, "id", a->operand);

	if (rc == EXIT_DONE)
		rc = change_string(t, params, "endpoint", a->value[OPT_ENDPOINT]);
	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	return change_call(t, "cluster.set", params, &(struct change_words){.subject = a->operand, .done = "set"});
}

int change_cluster_remove(struct tool *t, const struct arguments *a)
{
	return change_operand(t, a, "cluster.remove", "id", false, (struct change_words){.done = "removed"});
}

int migrate_begin(struct tool *t, const struct arguments *a)
{
	json_t *params = tool_object(), *to = NULL;
	int rc = change_placement(t, a, a->value[OPT_TO], &to);

	if (rc == EXIT_DONE) {
		rc = change_string(t, params, "partition", a->operand);
		tool_set(params, "to", to);
	}
	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	return change_call(t, "begin", params,
			   &(struct change_words){
				   .subject = a->operand,
				   .done = "migration begun",
				   .next = "Reads and writes still go to the old cluster. Copy the data, then `berth "
					   "migrate cutover`.",
			   });
}

int migrate_cutover(struct tool *t, const struct arguments *a)
{
	return change_operand(
		t, a, "cutover", "partition", false,
		(struct change_words){
			.done = "writes are held back",
			.next = "Go on with `berth migrate complete`, or undo with `berth migrate abort`.",
		});
}

int migrate_complete(struct tool *t, const struct arguments *a)
{
	return change_operand(t, a, "complete", "partition", true,
			      (struct change_words){.done = "moved", .held = true});
}

int migrate_abort(struct tool *t, const struct arguments *a)
{
	return change_operand(t, a, "abort", "partition", false,
			      (struct change_words){.done = "migration undone, the old cluster keeps it"});
}
