/* SPDX-License-Identifier: MIT
 * A frame becomes a call, a call an answer: rpc.h. Everything that can be said about a request without knowing what its
 * method does is said here. Called by conn.c; calls the handlers of methods.c, attach.c, watch.c and load.c. */
#include "rpc.h"

#include <inttypes.h>
#include <stdio.h>

#include "../shm/segment.h"
#include "json_read.h"
#include "text.h"

#define ID_MAX 256u /* bytes of a string that is an id: it is copied into the answer */

static const char *const param_types[] = {
	[PARAM_STRING] = "a string",  [PARAM_BOOLEAN] = "true or false", [PARAM_INTEGER] = "an integer",
	[PARAM_OBJECT] = "an object", [PARAM_ARRAY] = "an array",
};

#define METHOD_PARAMS(name, function, socket, params) \
	static const struct param params_of_##function[] = {params{NULL, PARAM_STRING, false}};
METHODS(METHOD_PARAMS)
#undef METHOD_PARAMS

static const struct method {
	const char *name;
	enum method_socket socket;
	enum refusal_code (*handle)(struct call *, struct refusal *);
	const struct param *params;
} methods[] = {
#define METHOD_ROW(name, function, socket, params) {name, socket, method_##function, params_of_##function},
	METHODS(METHOD_ROW)
#undef METHOD_ROW
};
#define N_METHODS (sizeof(methods) / sizeof(methods[0]))

/* ---- answers ----------------------------------------------------------------------------------------------- */

static void put_id(struct buffer *out, const json_t *id)
{
	buffer_text(out, "{\"jsonrpc\":\"2.0\",\"id\":");
	if (json_is_string(id))
		buffer_string(out, json_string_value(id), json_string_length(id));
	else if (json_is_integer(id) && json_integer_value(id) >= 0)
		buffer_number(out, (uint64_t)json_integer_value(id));
	else if (json_is_integer(id))
		buffer_format(out, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
	else
		buffer_text(out, "null");
}

void rpc_result_begin(struct buffer *out, const json_t *id)
{
	put_id(out, id);
	buffer_text(out, ",\"result\":");
}

void rpc_result_end(struct buffer *out)
{
	buffer_text(out, "}\n");
}

/* JSON-RPC has numbers of its own for some; the rest counts down from -32000. */
static int error_number(enum refusal_code code)
{
	switch (code) {
	case R_PARSE:
		return -32700;
	case R_NO_METHOD:
		return -32601;
	case R_INVALID:
		return -32602;
	default:
		return -32000 - (int)code;
	}
}

void rpc_pids(struct buffer *out, const uint32_t *pids, unsigned n, bool packet)
{
	buffer_text(out, ",\"pids\":[");
	for (unsigned i = 0; i < n; i++)
		buffer_format(out, "%s%" PRIu32, i ? "," : "", pids[i]);
	buffer_format(out, "],\"packet_programs\":%s", packet ? "true" : "false");
}

void rpc_refuse(struct buffer *out, const json_t *id, const struct refusal *r)
{
	put_id(out, id);
	buffer_format(out, ",\"error\":{\"code\":%d,\"message\":", error_number(r->code));
	buffer_string(out, r->message, strlen(r->message));
	buffer_format(out, ",\"data\":{\"code\":\"%s\",\"retryable\":%s", refusal_name(r->code),
		      refusal_retryable(r->code) ? "true" : "false");
	if (r->path[0]) {
		buffer_text(out, ",\"path\":");
		buffer_string(out, r->path, strlen(r->path));
	}
	if (r->reason) {
		buffer_format(out, ",\"reason\":\"%s\",\"remaining_ms\":%" PRIu64 ",\"in_flight\":%" PRIu64, r->reason,
			      r->remaining_ms, r->in_flight);
		rpc_pids(out, r->pids, r->n_pids, r->packet);
	}
	buffer_text(out, "}}}\n");
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

struct request {
	const json_t *version, *id, *method, *params;
};

/* Takes the members apart; the id is there even when the rest is refused. */
static enum refusal_code request_read(json_t *root, struct request *q, struct refusal *r)
{
	const char *unknown = NULL;
	char shown[TEXT_SHOWN];
	const char *key;
	json_t *value;

	memset(q, 0, sizeof(*q));
	if (json_is_array(root))
		return refuse(r, R_PARSE, "a batch is not taken: send one request object a line");
	if (!json_is_object(root))
		return refuse(r, R_PARSE, "a request is a JSON object");
	json_object_foreach(root, key, value)
	{
		if (strcmp(key, "jsonrpc") == 0)
			q->version = value;
		else if (strcmp(key, "id") == 0)
			q->id = value;
		else if (strcmp(key, "method") == 0)
			q->method = value;
		else if (strcmp(key, "params") == 0)
			q->params = value;
		else
			unknown = key;
	}
	if (!json_is_integer(q->id) && !(json_is_string(q->id) && json_string_length(q->id) <= ID_MAX)) {
		bool missing = !q->id;

		q->id = NULL;
		return refuse(r, R_PARSE,
			      missing ? "the request has no `id`: every request is answered"
				      : "`id` must be an integer or a string of at most 256 bytes");
	}
	if (unknown)
		return refuse(r, R_PARSE, "%s is no member of a request: it has jsonrpc, id, method and params",
			      text_show(shown, sizeof(shown), unknown, strlen(unknown)));
	if (!json_is_string(q->version) || strcmp(json_string_value(q->version), "2.0") != 0)
		return refuse(r, R_PARSE, "`jsonrpc` must be \"2.0\"");
	if (!json_is_string(q->method))
		return refuse(r, R_PARSE, "`method` must be a string");
	if (q->params && !json_is_object(q->params))
		return refuse_at(r, R_INVALID, "$", "`params` must be an object, with parameters by name");
	return R_DONE;
}

static const struct method *method_find(const char *name)
{
	for (size_t i = 0; i < N_METHODS; i++) {
		if (strcmp(methods[i].name, name) == 0)
			return &methods[i];
	}
	return NULL;
}

static enum refusal_code refuse_method(const json_t *name, struct refusal *r)
{
	char shown[TEXT_SHOWN], all[400];
	size_t n = 0;

	for (size_t i = 0; i < N_METHODS && n < sizeof(all); i++)
		n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? " " : "", methods[i].name);
	return refuse(r, R_NO_METHOD, "no method %s; there are: %s",
		      text_show(shown, sizeof(shown), json_string_value(name), json_string_length(name)), all);
}

static bool type_fits(const json_t *value, enum param_type type)
{
	switch (type) {
	case PARAM_STRING:
		return json_is_string(value);
	case PARAM_BOOLEAN:
		return json_is_boolean(value);
	case PARAM_INTEGER:
		return json_is_integer(value);
	case PARAM_OBJECT:
		return json_is_object(value);
	case PARAM_ARRAY:
		return json_is_array(value);
	}
	return false;
}

static const char *type_of(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a number with a fraction or an exponent";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		return "null";
	}
	return "unknown";
}

static enum refusal_code refuse_unknown(const struct method *m, const char *key, struct refusal *r)
{
	char shown[TEXT_SHOWN], path[TEXT_SHOWN], takes[200] = "";
	size_t n = 0;

	for (const struct param *p = m->params; p->name && n < sizeof(takes); p++)
		n += (size_t)snprintf(takes + n, sizeof(takes) - n, "%s%s", n ? ", " : "", p->name);
	refuse_at(r, R_INVALID, text_step(path, sizeof(path), key, strlen(key)), "unknown parameter %s: `%s` takes %s",
		  text_show(shown, sizeof(shown), key, strlen(key)), m->name, n ? takes : "none");
	return refuse_under(r, R_INVALID, "$");
}

static enum refusal_code params_read(const struct method *m, const json_t *params, struct call *call, struct refusal *r)
{
	const char *key;
	json_t *value;
	char path[80];

	json_object_foreach((json_t *)(uintptr_t)params, key, value)
	{
		const struct param *p = m->params;

		while (p->name && strcmp(p->name, key) != 0)
			p++;
		if (!p->name)
			return refuse_unknown(m, key, r);
		if (!type_fits(value, p->type)) {
			snprintf(path, sizeof(path), "$.%s", p->name);
			return refuse_at(r, R_INVALID, path, "parameter `%s` of `%s` is %s, it must be %s", p->name,
					 m->name, type_of(value), param_types[p->type]);
		}
		call->args[p - m->params] = value;
	}
	for (const struct param *p = m->params; p->name; p++) {
		if (p->required && !call->args[p - m->params]) {
			snprintf(path, sizeof(path), "$.%s", p->name);
			return refuse_at(r, R_INVALID, path, "parameter `%s` of `%s` is missing: give %s", p->name,
					 m->name, param_types[p->type]);
		}
	}
	return R_DONE;
}

static enum refusal_code socket_check(const struct conn *c, const struct method *m, struct refusal *r)
{
	if (!c->admin && m->socket >= ON_ADMIN)
		return refuse(r, R_DENIED, "`%s` changes things: send it to %s, as a member of group berth-admin",
			      m->name, SEG_ADMIN_SOCKET);
	if (c->admin && m->socket == ON_LOOK)
		return refuse(r, R_DENIED, "`%s` is for reader processes: send it to %s", m->name, SEG_SOCKET);
	return R_DONE;
}

/* Must the request wait for a document? `load` waits for the whole of the one before it, the others only while that one
 * is being applied. Nobody waits while the fate of one is unknown: that may take as long as a disk is bad, and the core
 * says so. */
static bool must_park(const struct server *s, const struct method *m)
{
	if (m->socket != ON_ADMIN_PARKED)
		return false;
	return (core_loading(s->core) && !s->load_unknown) || (s->load && m->handle == method_load);
}

/* The store has just said what became of a document, and it is published or undone now: the request waits after all. */
static void park_after_all(struct call *call)
{
	call->parks = true;
	call->server->load_unknown = false;
	upkeep_soon(call->server, 0);
}

/* Of changes that this connection's request has made, or brought to light. */
static void put_notifications(struct conn *c)
{
	struct buffer *after = &c->server->watch_after;

	if (after->len == 0)
		return;
	buffer_add(&c->out, after->data, after->len);
	buffer_cut(after, 0);
}

static enum rpc_outcome dispatch(struct conn *c, json_t *root, struct refusal *r)
{
	struct call call = {.server = c->server, .conn = c, .out = &c->out};
	struct request q;
	enum refusal_code code = request_read(root, &q, r);
	const struct method *m = NULL;
	size_t start = c->out.len;

	call.id = q.id;
	if (code == R_DONE) {
		m = method_find(json_string_value(q.method));
		code = m ? socket_check(c, m, r) : refuse_method(q.method, r);
	}
	if (code == R_DONE && m)
		code = params_read(m, q.params, &call, r);
	if (code == R_DONE && m) {
		if (must_park(c->server, m))
			return RPC_PARKED;
		if (m->socket == ON_LOOK && start > 0)
			return RPC_AGAIN; /* its descriptor goes with the first byte of what is sent */
		if (m->socket == ON_BOTH && c->server->backlog > BACKLOG_MAX)
			code = refuse(r, R_LIMIT, "too many answers wait to be read by others: retry later");
	}
	if (code == R_DONE && m) {
		rpc_result_begin(call.out, q.id);
		c->server->answering = c;
		code = m->handle(&call, r);
		c->server->answering = NULL;
		if (code == R_BUSY && m->socket == ON_ADMIN_PARKED && core_loading(c->server->core))
			park_after_all(&call);
		if (call.later) {
			buffer_cut(call.out, start);
			return RPC_LATER;
		}
		if (call.parks) {
			buffer_cut(call.out, start);
			return RPC_PARKED;
		}
		if (call.waits) {
			buffer_cut(call.out, start);
			put_notifications(c);
			return RPC_WAITS;
		}
		rpc_result_end(call.out);
		if (code == R_DONE && call.out->failed)
			code = refuse(r, R_FULL, "out of memory for the answer: retry later");
	}
	if (code != R_DONE) {
		c->server->n_refused++;
		buffer_cut(call.out, start);
		rpc_refuse(call.out, q.id, r);
	}
	put_notifications(c);
	return RPC_ANSWERED;
}

enum rpc_outcome rpc_handle(struct conn *c, const char *frame, size_t len)
{
	enum rpc_outcome outcome = RPC_ANSWERED;
	struct refusal r = {.code = R_DONE};
	struct json_fault fault = {0};
	json_t *root = json_read(frame, len, DEPTH_MAX, &fault);

	if (root) {
		outcome = dispatch(c, root, &r);
		json_decref(root);
		return outcome;
	}
	if (fault.why)
		refuse(&r, R_PARSE, "the line is not a JSON request: %s (byte %zu)", fault.why, fault.at);
	else
		refuse(&r, R_FULL, "out of memory for the request: retry later");
	c->server->n_refused++;
	rpc_refuse(&c->out, NULL, &r);
	return RPC_ANSWERED;
}
