/* SPDX-License-Identifier: MIT
 * JSON-RPC over a connection: one table of methods, from which come dispatch, the check of parameters and the message
 * about an unknown one. Control thread only. The wire is described in PROTOCOL.md. */
#ifndef BERTH_WRITER_RPC_H
#define BERTH_WRITER_RPC_H

#include "control.h"

#define PARAMS_MAX 9

enum param_type { PARAM_STRING, PARAM_BOOLEAN, PARAM_INTEGER, PARAM_OBJECT, PARAM_ARRAY };
struct param {
	const char *name; /* NULL: none */
	enum param_type type;
	bool required;
};
#define NONE
#define MUST(name, type) {name, PARAM_##type, true},
#define MAY(name, type) {name, PARAM_##type, false},

enum method_socket {
	ON_BOTH,         /* looking */
	ON_LOOK,         /* berth.sock alone: belongs to a reader process */
	ON_ADMIN,        /* admin.sock alone: changes something */
	ON_ADMIN_PARKED, /* likewise, and waits while a document is being applied */
};

/* X(name on the wire, function, socket, parameters in the order of call.args) */
#define METHODS(X) \
	X("status", status, ON_BOTH, NONE) \
	X("get", get, ON_BOTH, MUST("partition", STRING)) \
	X("clusters", clusters, ON_BOTH, NONE) \
	X("readers", readers, ON_BOTH, NONE) \
	X("migrations", migrations, ON_BOTH, NONE) \
	X("history", history, ON_BOTH, MAY("partition", STRING) MAY("limit", INTEGER)) \
	X("watch", watch, ON_BOTH, NONE) \
	X("bpf.verify", bpf_verify, ON_BOTH, NONE) \
	X("attach", attach, ON_LOOK, \
	  MUST("version", INTEGER) MUST("pid", INTEGER) MUST("readers", INTEGER) MUST("writes", STRING) \
		  MUST("fences", BOOLEAN) MUST("monotonic_ns", INTEGER) MUST("boottime_ns", INTEGER) \
			  MAY("leases", INTEGER) MAY("cursors", BOOLEAN)) \
	X("reattach", reattach, ON_LOOK, \
	  MUST("slot", INTEGER) MUST("attach", INTEGER) MUST("pid", INTEGER) MAY("monotonic_ns", INTEGER) \
		  MAY("boottime_ns", INTEGER)) \
	X("cluster.set", cluster_set, ON_ADMIN_PARKED, MUST("id", STRING) MAY("endpoint", STRING)) \
	X("cluster.remove", cluster_remove, ON_ADMIN_PARKED, MUST("id", STRING)) \
	X("set", set, ON_ADMIN_PARKED, \
	  MAY("partition", STRING) MUST("placement", OBJECT) MAY("force", BOOLEAN) MAY("partitions", ARRAY)) \
	X("remove", remove, ON_ADMIN_PARKED, MUST("partition", STRING) MAY("force", BOOLEAN)) \
	X("default.set", default_set, ON_ADMIN_PARKED, MUST("placement", OBJECT) MAY("force", BOOLEAN)) \
	X("default.unset", default_unset, ON_ADMIN_PARKED, MAY("force", BOOLEAN)) \
	X("begin", begin, ON_ADMIN_PARKED, MUST("partition", STRING) MUST("to", OBJECT)) \
	X("cutover", cutover, ON_ADMIN_PARKED, MUST("partition", STRING)) \
	X("complete", complete, ON_ADMIN_PARKED, \
	  MUST("partition", STRING) MAY("force", BOOLEAN) MAY("wait_ms", INTEGER)) \
	X("abort", abort, ON_ADMIN_PARKED, MUST("partition", STRING)) \
	X("load", load, ON_ADMIN_PARKED, MAY("prune", BOOLEAN) MAY("override", BOOLEAN) MAY("name", STRING)) \
	X("shutdown", shutdown, ON_ADMIN, NONE)

struct call {
	struct server *server;
	struct conn *conn;
	const json_t *id;
	const json_t *args[PARAMS_MAX]; /* NULL: not given */
	struct buffer *out;             /* where the handler writes its result, one JSON value */
	bool later;                     /* set by the handler: it has taken the id and answers through conn.load */
	bool parks;                     /* nothing was done, try again when a compare, or a document, has ended */
	bool waits;                     /* set by the handler: nothing was done, the request waits for a drain */
};

/* A handler returns R_DONE with its result written, or a refusal with whatever it wrote thrown away (and the refusal
 * too, when the request waits). */
#define RPC_HANDLER(name, function, socket, params) \
	enum refusal_code method_##function(struct call *, struct refusal *);
METHODS(RPC_HANDLER)
#undef RPC_HANDLER

enum rpc_outcome {
	RPC_ANSWERED,
	RPC_LATER,  /* the frame is done with, its answer comes through conn.load */
	RPC_PARKED, /* nothing was done: try the frame again when the document is through */
	RPC_WAITS,  /* nothing was done: try the frame again when completing.c says so */
	RPC_AGAIN,  /* nothing was done: try it again when the answers before it have left */
};
/* One frame without its newline; the answer is appended to conn->out. */
enum rpc_outcome rpc_handle(struct conn *, const char *frame, size_t len);
/* An answer that belongs to no request that could be understood: id null. */
void rpc_refuse(struct buffer *out, const json_t *id, const struct refusal *);
/* Who a barrier is about: two members more of an object. */
void rpc_pids(struct buffer *out, const uint32_t *pids, unsigned n, bool packet);
/* The two halves of an answer around its result. */
void rpc_result_begin(struct buffer *out, const json_t *id);
void rpc_result_end(struct buffer *out);

/* Arguments, as their checked types. */
static inline const char *arg_string(const struct call *c, int i, size_t *len)
{
	*len = json_string_length(c->args[i]);
	return json_string_value(c->args[i]);
}
static inline bool arg_true(const struct call *c, int i)
{
	return json_is_true(c->args[i]);
}
static inline json_int_t arg_integer(const struct call *c, int i)
{
	return json_integer_value(c->args[i]);
}

#endif
