/* SPDX-License-Identifier: MIT
 * Commands that change one thing by one call: clusters, placements, the default, the single steps of a migration; and
 * loading a document. The daemon judges values; here they are put into a request, and its answer is told. */
#include "change.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "commands.h"
#include "text.h"

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
		fprintf(stderr, "berth: --inject needs FIELD=VALUE, as in --inject _tenant=@partition\n");
		return EXIT_USAGE;
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

int change_placement(const struct tool *t, const struct arguments *a, const char *cluster, json_t **out)
{
	json_t *placement = tool_object();
	int rc = change_string(t, placement, "cluster", cluster);

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

static int change_placed(struct tool *t, const struct arguments *a, const char *method)
{
	json_t *params = tool_object(), *placement = NULL;
	int rc = change_placement(t, a, a->value[OPT_CLUSTER], &placement);

	if (rc == EXIT_DONE) {
		if (a->operand)
			rc = change_string(t, params, "partition", a->operand);
		tool_set(params, "placement", placement);
	}
	if (rc != EXIT_DONE) {
		json_decref(params);
		return rc;
	}
	if (a->given & OPT(FORCE))
		tool_set(params, "force", json_true());
	return change_call(t, method, params,
			   &(struct change_words){.subject = a->operand ? a->operand : "default", .done = "set"});
}

int change_set(struct tool *t, const struct arguments *a)
{
	return change_placed(t, a, "set");
}
int change_default_set(struct tool *t, const struct arguments *a)
{
	return change_placed(t, a, "default.set");
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
