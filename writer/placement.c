/* SPDX-License-Identifier: MIT
 * The rules of a placement: ids, endpoints, index names, and which mode has which parts. What speaks
 * JSON is in placement_json.c. Called by the control thread and by parsers of documents; pure. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "../shm/berth_errors.h"
#include "placement.h"
#include "text.h"

#define DEFAULT_INJECT_FIELD "_tenant"

static const struct {
	const char *name;
	unsigned kind;
} modes[] = {
	{"dedicated-cluster", KIND_DEDICATED_CLUSTER},
	{"dedicated-index", KIND_DEDICATED_INDEX},
	{"shared-index", KIND_SHARED_INDEX},
};

const char *mode_name(unsigned kind)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (modes[i].kind == kind)
			return modes[i].name;
	return "none";
}

unsigned mode_kind(const char *name, size_t len)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strlen(modes[i].name) == len && memcmp(modes[i].name, name, len) == 0)
			return modes[i].kind;
	return KIND_NONE;
}

const char *phase_name(enum word_phase phase)
{
	switch (phase) {
	case PHASE_SETTLED:
		return "settled";
	case PHASE_DRAINING:
		return "draining";
	case PHASE_CUTOVER:
		return "cutover";
	}
	return "unknown";
}

enum refusal_code refuse_mode(struct refusal *r, const char *path, const char *mode, size_t len)
{
	char shown[TEXT_SHOWN];

	return refuse_at(r, R_INVALID, path, "mode %s is none: use dedicated-cluster, dedicated-index or shared-index",
			 text_show(shown, sizeof(shown), mode, len));
}

/* The common form of a message: what, the value, which rule it breaks and what would do. */
static enum refusal_code bad(struct refusal *r, const char *path, const char *what, const char *value, size_t len,
			     const char *rule)
{
	char shown[TEXT_SHOWN];

	return refuse_at(r, R_INVALID, path, "%s %s %s", what, text_show(shown, sizeof(shown), value, len), rule);
}

static enum refusal_code check_text(const char *what, const char *s, size_t len, size_t least, size_t most,
				    const char *path, struct refusal *r)
{
	char rule[96];
	const char *fault = text_fault(s, len);

	if (len < least) {
		snprintf(rule, sizeof(rule), "is empty: give %zu to %zu bytes", least, most);
	} else if (len > most) {
		snprintf(rule, sizeof(rule), "is %zu bytes long: give at most %zu", len, most);
	} else if (fault) {
		snprintf(rule, sizeof(rule), "%s: give UTF-8 without control characters", fault);
	} else {
		return R_DONE;
	}
	return bad(r, path, what, s, len, rule);
}

enum refusal_code check_partition(const char *id, size_t len, const char *path, struct refusal *r)
{
	return check_text("partition id", id, len, 1, SHM_KEY_MAX, path, r);
}

enum refusal_code check_cluster_id(const char *id, size_t len, const char *path, struct refusal *r)
{
	enum refusal_code code = check_text("cluster id", id, len, 1, SHM_CLUSTER_ID_MAX, path, r);

	for (size_t i = 0; code == R_DONE && i < len; i++) {
		char c = id[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
		      c == '_' || c == '-'))
			code = bad(r, path, "cluster id", id, len,
				   "has another character than letters, digits, '.', '_' and '-': leave it out");
	}
	return code;
}

/* What follows http:// or https:// has a host: name, address or [IPv6], with or without user and port. */
static const char *authority_fault(const char *s, size_t len)
{
	size_t n = 0, host = 0;

	while (n < len && s[n] != '/' && s[n] != '?' && s[n] != '#')
		n++;
	for (size_t i = 0; i < n; i++)
		if (s[i] == '@')
			host = i + 1;
	size_t end = host;
	if (end < n && s[end] == '[') {
		const char *close = memchr(s + end, ']', n - end);
		if (!close || close == s + end + 1)
			return "has a '[' without an IPv6 address and a ']': give http://[ADDRESS]:PORT";
		end = (size_t)(close - s) + 1;
	} else {
		while (end < n && s[end] != ':')
			end++;
	}
	if (end == host)
		return "has no host: give http://HOST:PORT or https://HOST:PORT";
	if (end == n)
		return NULL;
	unsigned long port = 0;
	size_t at = end + 1;
	while (s[end] == ':' && at < n && s[at] >= '0' && s[at] <= '9' && port <= 65535)
		port = port * 10 + (unsigned long)(s[at++] - '0');
	if (at < n || port == 0 || port > 65535)
		return "has no port from 1 to 65535 behind its host: give http://HOST:PORT";
	return NULL;
}

enum refusal_code check_endpoint(const char *url, size_t len, const char *path, struct refusal *r)
{
	enum refusal_code code = check_text("endpoint", url, len, 0, SHM_ENDPOINT_MAX, path, r);
	size_t scheme = 0;
	const char *fault = NULL;

	if (code != R_DONE || len == 0)
		return code;
	if (len >= 7 && memcmp(url, "http://", 7) == 0)
		scheme = 7;
	else if (len >= 8 && memcmp(url, "https://", 8) == 0)
		scheme = 8;
	else
		fault = "does not start with http:// or https://: give http://HOST:PORT";
	for (size_t i = 0; !fault && i < len; i++)
		if ((unsigned char)url[i] <= 0x20 || (unsigned char)url[i] >= 0x7f)
			fault = "has a space or a character outside ASCII: percent-encode it";
	if (!fault)
		fault = authority_fault(url + scheme, len - scheme);
	return fault ? bad(r, path, "endpoint", url, len, fault) : R_DONE;
}

/* OpenSearch's own list, ':' included (it would name another cluster). Capitals of other scripts than ASCII are left
 * for OpenSearch to refuse. */
enum refusal_code check_index(const char *name, size_t len, const char *path, struct refusal *r)
{
	enum refusal_code code = check_text("index", name, len, 1, SHM_INDEX_MAX, path, r);
	const char *fault = NULL;

	if (code != R_DONE)
		return code;
	if (name[0] == '-' || name[0] == '_' || name[0] == '+')
		fault = "starts with '-', '_' or '+': OpenSearch refuses that, give another name";
	else if ((len == 1 && name[0] == '.') || (len == 2 && name[0] == '.' && name[1] == '.'))
		fault = "is no name for OpenSearch: give another";
	for (size_t i = 0; !fault && i < len; i++) {
		if (name[i] >= 'A' && name[i] <= 'Z')
			fault = "has an upper-case letter: OpenSearch wants lower case";
		else if (strchr("\\/*?\"<>| ,#:", name[i]))
			fault = "has one of \\ / * ? \" < > | space , # : in it: OpenSearch refuses that, leave it out";
	}
	return fault ? bad(r, path, "index", name, len, fault) : R_DONE;
}

static enum refusal_code check_pair(const struct placement_draft *d, unsigned i, struct refusal *r)
{
	const struct detail_inject *pair = &d->inject[i];
	char shown[TEXT_SHOWN];

	if (!pair->field || !pair->value)
		return refuse_at(r, R_INVALID, "", "inject needs \"field\" and \"value\", \"%s\" is missing: give both",
				 pair->field ? "value" : "field");
	enum refusal_code code = check_text("inject field", pair->field, pair->field_len, 1, UINT8_MAX, ".field", r);
	if (code != R_DONE)
		return code;
	for (unsigned k = 0; k < i; k++)
		if (d->inject[k].field_len == pair->field_len &&
		    memcmp(d->inject[k].field, pair->field, pair->field_len) == 0)
			return refuse_at(r, R_INVALID, ".field", "inject field %s is there twice: keep one",
					 text_show(shown, sizeof(shown), pair->field, pair->field_len));
	return check_text("inject value", pair->value, pair->value_len, 0, SHM_RECORD_MAX, ".value", r);
}

static enum refusal_code check_inject(const struct placement_draft *d, bool default_inject, struct refusal *r)
{
	size_t size = sizeof(struct shm_detail) + d->index_len + 1;

	if (!d->has_inject && default_inject)
		return R_DONE;
	if (d->n_inject == 0)
		return refuse_at(r, R_INVALID, "",
				 "mode shared-index has %s inject: give at least one {\"field\": NAME, \"value\": "
				 "{\"partition\": true}}, or tenants would see each other's documents",
				 d->has_inject ? "an empty" : "no");
	if (d->n_inject > SHM_INJECT_MAX)
		return refuse_at(r, R_INVALID, "", "inject has more than %u pairs: give fewer", SHM_INJECT_MAX);
	for (unsigned i = 0; i < d->n_inject; i++) {
		enum refusal_code code = check_pair(d, i, r);
		if (code != R_DONE)
			return refuse_under(r, code, "[%u]", i);
		size += 4 + d->inject[i].field_len + 1 + d->inject[i].value_len + 1;
	}
	if (size > SHM_RECORD_MAX)
		return refuse_at(r, R_INVALID, "",
				 "inject makes a placement of %zu bytes: give fewer or shorter pairs, at most %u bytes "
				 "in all",
				 size, SHM_RECORD_MAX);
	return R_DONE;
}

static enum refusal_code check_parts(const struct placement_draft *d, bool default_inject, struct refusal *r)
{
	enum refusal_code code;

	if (d->kind == KIND_NONE)
		return refuse_at(r, R_INVALID, "",
				 "mode is missing: give dedicated-cluster, dedicated-index or shared-index");
	if (!d->cluster)
		return refuse_at(r, R_INVALID, "", "cluster is missing: give a cluster id");
	if (!d->index && d->kind != KIND_DEDICATED_CLUSTER)
		return refuse_at(r, R_INVALID, "", "index is missing: mode %s needs one", mode_name(d->kind));
	if ((code = check_cluster_id(d->cluster, d->cluster_len, ".cluster", r)) != R_DONE)
		return code;
	if (d->kind == KIND_DEDICATED_CLUSTER) {
		if (d->index)
			return bad(r, ".index", "index", d->index, d->index_len,
				   "has no meaning for mode dedicated-cluster: leave it out");
	} else if ((code = check_index(d->index, d->index_len, ".index", r)) != R_DONE) {
		return code;
	}
	if (d->kind == KIND_SHARED_INDEX)
		return refuse_under(r, check_inject(d, default_inject, r), ".inject");
	if (d->has_inject)
		return refuse_at(r, R_INVALID, ".inject",
				 "inject has no meaning for mode %s: leave it out, or give mode shared-index",
				 mode_name(d->kind));
	return R_DONE;
}

enum refusal_code placement_check(const struct placement_draft *d, bool default_inject, const char *path,
				  struct refusal *r)
{
	return refuse_under(r, check_parts(d, default_inject, r), "%s", path);
}

void placement_make(const struct placement_draft *d, bool default_inject, unsigned cluster, union detail_buffer *out)
{
	int rc = detail_start(out, d->kind, cluster, d->index, d->index ? d->index_len : 0);

	for (unsigned i = 0; rc == BERTH_OK && i < d->n_inject; i++)
		rc = detail_add_inject(out, d->inject[i].field, d->inject[i].field_len, d->inject[i].kind,
				       d->inject[i].value, d->inject[i].value_len);
	if (rc == BERTH_OK && d->kind == KIND_SHARED_INDEX && !d->has_inject && default_inject)
		rc = detail_add_inject(out, DEFAULT_INJECT_FIELD, strlen(DEFAULT_INJECT_FIELD), INJECT_PARTITION, "",
				       0);
	assert(rc == BERTH_OK); /* placement_check has passed it */
	(void)rc;
	detail_finish(out);
}
