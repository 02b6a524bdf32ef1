/* SPDX-License-Identifier: MIT
 * Placements and states from and to jansson's JSON: what stores keep and sockets speak. Takes JSON apart into a draft
 * and leaves its judgement to placement.c. Called by the control thread; pure. */
#include <string.h>

#include "placement.h"
#include "text.h"

static const char *type_name(const json_t *json)
{
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		break;
	}
	return "null";
}

static enum refusal_code bad_type(struct refusal *r, const char *what, const char *wanted, const json_t *found)
{
	return refuse_at(r, R_INVALID, "", "%s is %s: give %s", what, found ? type_name(found) : "missing", wanted);
}

static enum refusal_code unknown_key(struct refusal *r, const char *key, const char *known)
{
	char shown[TEXT_SHOWN];

	text_show(shown, sizeof(shown), key, strlen(key));
	return refuse_at(r, R_INVALID, "", "key %s is unknown: there are %s", shown, known);
}

/* The path's step for a key of a JSON object. */
static enum refusal_code under_key(struct refusal *r, enum refusal_code code, const char *key)
{
	char step[TEXT_SHOWN];

	return code == R_DONE ? code : refuse_under(r, code, "%s", text_step(step, sizeof(step), key, strlen(key)));
}

static enum refusal_code value_from_json(const json_t *json, struct detail_inject *pair, struct refusal *r)
{
	if (json_is_string(json)) {
		pair->kind = INJECT_CONSTANT;
		pair->value = json_string_value(json);
		pair->value_len = json_string_length(json);
		return R_DONE;
	}
	if (!json_is_object(json))
		return bad_type(r, "inject value", "a string or {\"partition\": true}", json);
	if (json_object_size(json) != 1 || !json_is_true(json_object_get(json, "partition")))
		return refuse_at(r, R_INVALID, "",
				 "inject value is another object than {\"partition\": true}: give that, or a string");
	pair->kind = INJECT_PARTITION;
	pair->value = "";
	pair->value_len = 0;
	return R_DONE;
}

static enum refusal_code pair_from_json(const json_t *json, struct detail_inject *pair, struct refusal *r)
{
	const char *key;
	json_t *value;

	if (!json_is_object(json))
		return bad_type(r, "inject item", "an object of field and value", json);
	json_object_foreach((json_t *)json, key, value)
	{
		enum refusal_code code = R_DONE;
		if (strcmp(key, "value") == 0) {
			code = value_from_json(value, pair, r);
		} else if (strcmp(key, "field") != 0) {
			code = unknown_key(r, key, "field and value");
		} else if (!json_is_string(value)) {
			code = bad_type(r, "inject field", "a string", value);
		} else {
			pair->field = json_string_value(value);
			pair->field_len = json_string_length(value);
		}
		if (code != R_DONE)
			return under_key(r, code, key);
	}
	return R_DONE;
}

static enum refusal_code inject_from_json(const json_t *json, struct placement_draft *d, struct refusal *r)
{
	size_t n = json_array_size(json);

	if (!json_is_array(json))
		return bad_type(r, "inject", "an array of {\"field\", \"value\"}", json);
	d->has_inject = true;
	d->n_inject = n > SHM_INJECT_MAX ? SHM_INJECT_MAX + 1 : (unsigned)n;
	for (unsigned i = 0; i < d->n_inject && i < SHM_INJECT_MAX; i++) {
		enum refusal_code code = pair_from_json(json_array_get(json, i), &d->inject[i], r);
		if (code != R_DONE)
			return refuse_under(r, code, "[%u]", i);
	}
	return R_DONE;
}

static enum refusal_code part_from_json(const char *key, const json_t *value, struct placement_draft *d,
					struct refusal *r)
{
	bool is_mode = strcmp(key, "mode") == 0, is_cluster = strcmp(key, "cluster") == 0;
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);

	if (strcmp(key, "inject") == 0)
		return inject_from_json(value, d, r);
	if (!is_mode && !is_cluster && strcmp(key, "index") != 0)
		return unknown_key(r, key, "mode, cluster, index and inject");
	if (!text)
		return bad_type(r, key, "a string", value);
	if (is_mode) {
		d->kind = mode_kind(text, len);
		return d->kind == KIND_NONE ? refuse_mode(r, "", text, len) : R_DONE;
	}
	if (is_cluster) {
		d->cluster = text;
		d->cluster_len = len;
	} else {
		d->index = text;
		d->index_len = len;
	}
	return R_DONE;
}

static enum refusal_code draft_from_json(const json_t *json, struct placement_draft *d, struct refusal *r)
{
	const char *key;
	json_t *value;

	if (!json_is_object(json))
		return bad_type(r, "placement", "an object", json);
	json_object_foreach((json_t *)json, key, value)
	{
		enum refusal_code code = part_from_json(key, value, d, r);
		if (code != R_DONE)
			return under_key(r, code, key);
	}
	return R_DONE;
}

enum refusal_code placement_from_json(const json_t *json, bool default_inject, const struct cluster_names *names,
				      const char *path, union detail_buffer *out, struct refusal *r)
{
	struct placement_draft draft = {0};
	char shown[TEXT_SHOWN];
	enum refusal_code code = draft_from_json(json, &draft, r);

	if (code == R_DONE)
		code = placement_check(&draft, default_inject, "", r);
	if (code != R_DONE)
		return refuse_under(r, code, "%s", path);
	unsigned number = names->number(names->arg, draft.cluster, draft.cluster_len);
	if (number == 0) {
		code = refuse_at(r, R_UNKNOWN_CLUSTER, ".cluster",
				 "cluster %s is unknown: make it first, with `berth cluster set`",
				 text_show(shown, sizeof(shown), draft.cluster, draft.cluster_len));
		return refuse_under(r, code, "%s", path);
	}
	placement_make(&draft, default_inject, number, out);
	return R_DONE;
}

static json_t *inject_to_json(const struct shm_detail *d)
{
	json_t *list = json_array();
	struct detail_inject pair;

	for (unsigned i = 0; list && detail_inject(d, i, &pair); i++) {
		json_t *value = pair.kind == INJECT_PARTITION ? json_pack("{s:b}", "partition", 1)
							      : json_stringn(pair.value, pair.value_len);
		json_t *item = json_object();
		if (!value || json_object_set_new(item, "field", json_stringn(pair.field, pair.field_len)) ||
		    json_object_set(item, "value", value) || json_array_append(list, item)) {
			json_decref(list);
			list = NULL;
		}
		json_decref(value);
		json_decref(item);
	}
	return list;
}

json_t *placement_to_json(const struct shm_detail *d, const struct cluster_names *names)
{
	const char *id = names->id(names->arg, d->cluster);
	json_t *json = id ? json_object() : NULL;
	int failed = !json;

	if (json) {
		failed |= json_object_set_new(json, "mode", json_string(mode_name(d->kind)));
		failed |= json_object_set_new(json, "cluster", json_string(id));
		if (d->kind != KIND_DEDICATED_CLUSTER)
			failed |= json_object_set_new(json, "index", json_stringn(detail_index(d), d->index_len));
		if (d->n_inject)
			failed |= json_object_set_new(json, "inject", inject_to_json(d));
	}
	if (failed) {
		json_decref(json);
		return NULL;
	}
	return json;
}

json_t *state_to_json(const struct state *s, const struct cluster_names *names)
{
	if (!s->at)
		return json_null();
	json_t *json = json_object();
	int failed = !json;
	if (s->to)
		failed |= json_object_set_new(json, "phase", json_string(phase_name(s->phase)));
	failed |= json_object_set_new(json, "at", placement_to_json(s->at, names));
	if (s->to)
		failed |= json_object_set_new(json, "to", placement_to_json(s->to, names));
	if (failed) {
		json_decref(json);
		return NULL;
	}
	return json;
}

static enum refusal_code phase_from_json(const json_t *json, enum word_phase *phase, struct refusal *r)
{
	const char *name = json_string_value(json);
	char shown[TEXT_SHOWN];

	if (!name)
		return bad_type(r, "phase", "draining or cutover", json);
	if (strcmp(name, phase_name(PHASE_DRAINING)) == 0)
		*phase = PHASE_DRAINING;
	else if (strcmp(name, phase_name(PHASE_CUTOVER)) == 0)
		*phase = PHASE_CUTOVER;
	else
		return refuse_at(r, R_INVALID, "", "phase %s is none: give draining or cutover",
				 text_show(shown, sizeof(shown), name, json_string_length(json)));
	return R_DONE;
}

static enum refusal_code parts_from_json(const json_t *json, const struct cluster_names *names, union detail_buffer *at,
					 union detail_buffer *to, struct state *s, struct refusal *r)
{
	enum refusal_code code;
	const char *key;
	json_t *value;

	if (!json_is_object(json))
		return bad_type(r, "state", "an object or null", json);
	json_object_foreach((json_t *)json, key, value)
	{
		if (strcmp(key, "at") == 0) {
			code = placement_from_json(value, false, names, "", at, r);
			s->at = &at->detail;
		} else if (strcmp(key, "to") == 0) {
			code = placement_from_json(value, false, names, "", to, r);
			s->to = &to->detail;
		} else if (strcmp(key, "phase") == 0) {
			code = phase_from_json(value, &s->phase, r);
		} else {
			code = unknown_key(r, key, "phase, at and to");
		}
		if (code != R_DONE)
			return under_key(r, code, key);
	}
	if (!s->at)
		return refuse_at(r, R_INVALID, "", "at is missing: give the placement that reads go to");
	if ((s->to != NULL) != (s->phase != PHASE_SETTLED))
		return refuse_at(r, R_INVALID, "", "%s is missing: phase and to belong together",
				 s->to ? "phase" : "to");
	return R_DONE;
}

enum refusal_code state_from_json(const json_t *json, const struct cluster_names *names, union detail_buffer *at,
				  union detail_buffer *to, struct state *out, struct refusal *r)
{
	struct state s = {0};

	if (json_is_null(json)) {
		*out = s;
		return R_DONE;
	}
	enum refusal_code code = parts_from_json(json, names, at, to, &s, r);
	if (code == R_DONE)
		*out = s;
	return refuse_under(r, code, "$");
}
