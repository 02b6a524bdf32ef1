/* SPDX-License-Identifier: MIT
 * The methods that look, and the ones that change: thin, between the wire and core.h. Parameters are there and of the
 * right type when a handler is called (rpc.c). Control thread. */
#include <inttypes.h>

#include "../shm/grace.h"
#include "../shm/segment.h"
#include "json_read.h"
#include "log.h"
#include "rpc.h"
#include "status.h"

#define HISTORY_DEFAULT 100
#define HISTORY_MAX 10000
#define LEASES_MAX 10000u /* in one answer of `readers` */

static const char *truth(bool b)
{
	return b ? "true" : "false";
}

/* ---- looking ----------------------------------------------------------------------------------------------- */

enum refusal_code method_status(struct call *call, struct refusal *r)
{
	struct status status;

	(void)r;
	status_collect(call->server, &status);
	status_json(&status, call->out);
	return R_DONE;
}

static void put_state(struct server *s, struct buffer *out, const struct state *state)
{
	struct cluster_names names = table_names(core_table(s->core));
	json_t *json = state_to_json(state, &names);

	buffer_json(out, json);
	json_decref(json);
}

enum refusal_code method_get(struct call *call, struct refusal *r)
{
	const struct table *t = core_table(call->server->core);
	size_t len;
	const char *key = arg_string(call, 0, &len);
	bool is_default = false;
	struct state state;
	enum refusal_code code = check_partition(key, len, "$.partition", r);

	if (code != R_DONE)
		return code;
	if (!table_get(t, key, len, &state, NULL)) {
		is_default = true;
		if (!table_default(t, &state, NULL) || !state.at)
			return refuse(r, R_UNKNOWN_PARTITION,
				      "partition `%s` has no placement, and there is no default", key);
	}
	buffer_text(call->out, "{\"partition\":");
	buffer_string(call->out, key, len);
	buffer_format(call->out, ",\"epoch\":%" PRIu64 ",\"is_default\":%s,\"state\":", state.epoch, truth(is_default));
	put_state(call->server, call->out, &state);
	buffer_text(call->out, "}");
	return R_DONE;
}

enum refusal_code method_clusters(struct call *call, struct refusal *r)
{
	const struct table *t = core_table(call->server->core);
	const char *comma = "";

	(void)r;
	buffer_text(call->out, "{\"clusters\":[");
	for (uint64_t n = 1; n < table_next_cluster(t); n++) {
		const struct shm_cluster *c = table_cluster(t, (unsigned)n);

		if (!c)
			continue;
		buffer_format(call->out, "%s{\"id\":", comma);
		buffer_string(call->out, cluster_id(c), c->id_len);
		buffer_format(call->out, ",\"number\":%u,\"endpoint\":", c->number);
		buffer_string(call->out, cluster_endpoint(c), c->endpoint_len);
		buffer_format(call->out, ",\"uses\":%u}", table_cluster_uses(t, (unsigned)n));
		comma = ",";
	}
	buffer_text(call->out, "]}");
	return R_DONE;
}

struct listing { /* an array under way */
	struct server *server;
	struct buffer *out;
	const char *comma;
	uint64_t now_ms, grace; /* CLOCK_MONOTONIC */
	uint64_t boot_ms;       /* CLOCK_BOOTTIME */
	unsigned n_leases;      /* shown so far, of all readers */
};

static void put_ago(struct buffer *out, const char *name, uint64_t now_ms, uint64_t then_ms)
{
	if (then_ms == 0)
		buffer_format(out, ",\"%s\":null", name);
	else
		buffer_format(out, ",\"%s\":%" PRIu64, name, now_ms > then_ms ? now_ms - then_ms : 0);
}

/* Leases under way, and those that ended unknown and still count. */
static void put_leases(struct listing *l, const struct registry_row *row)
{
	const struct table *t = core_table(l->server->core);

	buffer_format(l->out, ",\"max_leases\":%" PRIu32 ",\"n_leases\":%" PRIu64 ",\"n_unknown\":%" PRIu64,
		      row->max_leases, row->n_leases, row->n_unknown);
	put_ago(l->out, "overflow_ms_ago", l->now_ms, row->overflow_ms);
	buffer_text(l->out, ",\"leases\":[");
	for (uint32_t i = 0; i < row->n_leases_shown && l->n_leases < LEASES_MAX; i++, l->n_leases++) {
		const struct registry_lease *lease = &row->leases[i];
		size_t len = 0;
		const char *key = table_key_of_hash(t, lease->hash, &len);

		buffer_format(l->out, "%s{\"reader\":%" PRIu32 ",\"partition\":", i ? "," : "", lease->reader);
		buffer_string(l->out, key, len);
		buffer_format(l->out, ",\"hash\":\"%016" PRIx64 "\",\"age_ms\":%" PRIu64 ",\"outcome\":\"%s\"}",
			      lease->hash, l->now_ms > lease->since_ms ? l->now_ms - lease->since_ms : 0,
			      lease->unknown ? "unknown" : "open");
	}
	buffer_text(l->out, "]");
}

static int put_reader(void *arg, const struct registry_row *row)
{
	static const char *const writes[] = {"none", "bracketed", "unbracketed"};
	struct listing *l = arg;
	const char *comma = "";

	buffer_format(l->out, "%s{\"slot\":%u,\"attach\":%" PRIu64 ",\"pid\":%d,\"uid\":%u,\"comm\":", l->comma,
		      row->slot, row->attach, row->pid, (unsigned)row->uid);
	buffer_string(l->out, row->comm, strnlen(row->comm, sizeof(row->comm)));
	buffer_format(
		l->out,
		",\"attached_ms_ago\":%" PRIu64 ",\"connected\":%s,\"writes\":\"%s\",\"unbracketed\":%s,\"fences\":%s,"
		"\"n_readers\":%u,\"n_open\":%u,\"held_bytes\":%" PRIu64 ",\"damaged\":%" PRIu64 ",\"sections\":[",
		l->boot_ms > row->attached_ms ? l->boot_ms - row->attached_ms : 0, truth(row->connected),
		writes[row->writes <= SHM_WRITES_UNBRACKETED ? row->writes : SHM_WRITES_UNBRACKETED],
		truth(row->unbracketed), truth(row->fences), row->n_readers, row->n_open, row->held_bytes,
		row->damaged);
	for (uint32_t i = 0; i < row->n_open; i++) {
		const struct registry_section *s = &row->sections[i];

		if (s->line == 0)
			continue;
		buffer_format(l->out,
			      "%s{\"reader\":%u,\"tid\":%u,\"grace_lag\":%" PRIu64 ",\"generation\":%u,\"moved\":%s}",
			      comma, s->reader, s->tid, (uint64_t)((l->grace - section_grace(s->line)) & GRACE_MASK),
			      section_generation(s->line), truth(section_moved(s->line)));
		comma = ",";
	}
	buffer_text(l->out, "]");
	put_leases(l, row);
	buffer_text(l->out, "}");
	l->comma = ",";
	return 0;
}

static void put_packet_programs(struct listing *l)
{
	struct table *t = core_table(l->server->core);
	struct registry_row row;

	if (!registry_packets(table_registry(t), table_mirror(t), table_mirror_pasts(t), &row))
		return;
	buffer_format(l->out, ",\"packet_programs\":{\"unbracketed\":%s", truth(row.unbracketed));
	put_leases(l, &row);
	buffer_text(l->out, "}");
}

enum refusal_code method_readers(struct call *call, struct refusal *r)
{
	struct listing l = {.server = call->server, .out = call->out, .comma = ""};

	(void)r;
	l.now_ms = seg_clock_ms(CLOCK_MONOTONIC);
	l.boot_ms = seg_clock_ms(CLOCK_BOOTTIME);
	l.grace = atomic_load_explicit(&call->server->root->grace, memory_order_relaxed);
	buffer_text(call->out, "{\"readers\":[");
	registry_walk(table_registry(core_table(call->server->core)), put_reader, &l);
	buffer_text(call->out, "]");
	put_packet_programs(&l);
	buffer_text(call->out, "}");
	return R_DONE;
}

static int put_migration(void *arg, const struct migration *m)
{
	struct listing *l = arg;

	buffer_format(l->out, "%s{\"partition\":", l->comma);
	buffer_string(l->out, m->key, m->key_len);
	buffer_format(l->out, ",\"epoch\":%" PRIu64 ",\"state\":", m->state.epoch);
	put_state(l->server, l->out, &m->state);
	put_ago(l->out, "begun_ms_ago", l->now_ms, m->begun_ms);
	put_ago(l->out, "cutover_ms_ago", l->now_ms, m->cutover_ms);
	buffer_text(l->out, ",\"reason\":");
	buffer_string(l->out, m->barrier.reason, m->barrier.reason ? strlen(m->barrier.reason) : 0);
	buffer_format(l->out, ",\"remaining_ms\":%" PRIu64 ",\"in_flight\":%" PRIu64, m->barrier.remaining_ms,
		      m->barrier.in_flight);
	rpc_pids(l->out, m->barrier.pids, m->barrier.n_pids, m->barrier.packet);
	buffer_text(l->out, "}");
	l->comma = ",";
	return 0;
}

enum refusal_code method_migrations(struct call *call, struct refusal *r)
{
	struct listing l = {.server = call->server, .out = call->out, .comma = ""};

	(void)r;
	l.now_ms = seg_clock_ms(CLOCK_MONOTONIC);
	buffer_text(call->out, "{\"migrations\":[");
	core_migrations(call->server->core, put_migration, &l);
	buffer_text(call->out, "]}");
	return R_DONE;
}

/* The state of an event is text in the store: it goes out only when it is JSON. Reading it is most of what `history`
 * costs. */
static void put_stored(struct buffer *out, const char *text)
{
	struct json_fault fault;
	json_t *json = text ? json_read(text, strlen(text), DEPTH_MAX, &fault) : NULL;

	if (json)
		buffer_json(out, json);
	else
		buffer_text(out, "null");
	json_decref(json);
}

static int put_event(void *arg, const struct store_event *e)
{
	struct listing *l = arg;

	buffer_format(l->out, "%s{\"at_ms\":%" PRId64 ",\"epoch\":%" PRIu64 ",\"who\":", l->comma, e->at_ms, e->epoch);
	buffer_string(l->out, e->who, e->who ? strlen(e->who) : 0);
	buffer_text(l->out, ",\"what\":");
	buffer_string(l->out, e->what, e->what ? strlen(e->what) : 0);
	buffer_text(l->out, ",\"key\":");
	buffer_string(l->out, e->key, e->key_len);
	buffer_text(l->out, ",\"state\":");
	put_stored(l->out, e->detail);
	buffer_format(l->out, ",\"forced\":%s}", truth(e->forced));
	l->comma = ",";
	return 0;
}

enum refusal_code method_history(struct call *call, struct refusal *r)
{
	struct listing l = {.server = call->server, .out = call->out, .comma = ""};
	const struct store_visitor visitor = {.event = put_event, .arg = &l};
	json_int_t limit = call->args[1] ? arg_integer(call, 1) : HISTORY_DEFAULT;
	const char *key = NULL;
	size_t len = 0;

	if (call->args[0]) {
		enum refusal_code code;

		key = arg_string(call, 0, &len);
		code = check_partition(key, len, "$.partition", r);
		if (code != R_DONE)
			return code;
	}
	if (limit < 1 || limit > HISTORY_MAX)
		return refuse_at(r, R_INVALID, "$.limit", "limit %" JSON_INTEGER_FORMAT ": give 1 to %d", limit,
				 HISTORY_MAX);
	buffer_text(call->out, "{\"events\":[");
	if (core_history(call->server->core, key, len, (unsigned)limit, &visitor, r) != 0)
		return r->code != R_DONE ? r->code : refuse(r, R_BACKEND, "the store could not be read: retry");
	buffer_text(call->out, "]}");
	return R_DONE;
}

enum refusal_code method_bpf_verify(struct call *call, struct refusal *r)
{
	struct table *t = core_table(call->server->core);
	const struct table_compared *last = table_compared(t);
	struct conn *c = call->conn;

	if (table_mirror_off(t)) {
		c->compare = 0;
		return refuse(r, R_INVALID, "there is no mirror to compare: %s", table_mirror_off(t));
	}
	if (c->compare == 0)
		c->compare = table_compare(t);
	if (last->run < c->compare) {
		call->parks = true;
		upkeep_soon(call->server, 0);
		return R_DONE;
	}
	c->compare = 0;
	buffer_format(call->out, "{\"entries\":%" PRIu64 ",\"differences\":%" PRIu64 ",\"first\":", last->entries,
		      last->n_differ);
	buffer_string(call->out, last->n_differ ? last->first : NULL, last->first_len);
	buffer_text(call->out, "}");
	return R_DONE;
}

/* ---- changing ---------------------------------------------------------------------------------------------- */

static void changed(struct call *call)
{
	upkeep_soon(call->server, 5);
}

static void put_result(struct call *call, const struct core_result *result)
{
	buffer_text(call->out, "{\"epoch\":");
	buffer_number(call->out, result->epoch);
	buffer_text(call->out, ",\"changed\":");
	buffer_text(call->out, truth(result->changed));
}

static void count_blackout(struct server *s, uint64_t ms)
{
	s->n_drains++;
	s->blackout_ms += ms;
	if (ms > s->blackout_ms_max)
		s->blackout_ms_max = ms;
}

/* partition, placement, force: number of the argument, -1: it has none. */
static enum refusal_code apply(struct call *call, enum operation op, int partition, int placement, int force,
			       struct refusal *r)
{
	const bool ends = op == OP_COMPLETE || op == OP_ABORT; /* a migration */
	struct core_result result = {0};
	const char *key = NULL;
	enum refusal_code code;
	size_t len = 0;

	if (partition >= 0)
		key = arg_string(call, partition, &len);
	code = core_apply(call->server->core, op, key, len, placement >= 0 ? call->args[placement] : NULL,
			  force >= 0 && arg_true(call, force), conn_who(call->conn), &result, r);
	if (code != R_DONE)
		return code;
	put_result(call, &result);
	if (ends) {
		buffer_text(call->out, ",\"blackout_ms\":");
		buffer_number(call->out, result.blackout_ms);
		completing_look_soon(call->server); /* another connection may wait for this one */
	}
	if (op == OP_COMPLETE)
		count_blackout(call->server, result.blackout_ms);
	buffer_text(call->out, "}");
	changed(call);
	return R_DONE;
}

static enum refusal_code set_many(struct call *call, const json_t *ids, const json_t *placement, bool force,
				  struct refusal *r)
{
	struct core_many many;
	enum refusal_code code =
		core_set_many(call->server->core, ids, placement, force, conn_who(call->conn), &many, r);

	if (code != R_DONE)
		return code;
	buffer_format(call->out, "{\"epoch\":%" PRIu64 ",\"changed\":%" PRIu64 ",\"unchanged\":%" PRIu64 "}",
		      many.epoch, many.changed, many.unchanged);
	changed(call);
	return R_DONE;
}

enum refusal_code method_set(struct call *c, struct refusal *r)
{
	enum { PARTITION, PLACEMENT, FORCE, PARTITIONS };

	if (!c->args[PARTITION] == !c->args[PARTITIONS])
		return refuse_at(r, R_INVALID, c->args[PARTITION] ? "$.partitions" : "$.partition",
				 "`set` has %s: give `partition`, a string, or `partitions`, an array of them",
				 c->args[PARTITION] ? "both `partition` and `partitions`" : "no `partition`");
	if (c->args[PARTITIONS])
		return set_many(c, c->args[PARTITIONS], c->args[PLACEMENT], arg_true(c, FORCE), r);
	return apply(c, OP_SET, PARTITION, PLACEMENT, FORCE, r);
}
enum refusal_code method_remove(struct call *c, struct refusal *r)
{
	return apply(c, OP_REMOVE, 0, -1, 1, r);
}
enum refusal_code method_default_set(struct call *c, struct refusal *r)
{
	return apply(c, OP_DEFAULT, -1, 0, 1, r);
}
enum refusal_code method_default_unset(struct call *c, struct refusal *r)
{
	return apply(c, OP_DEFAULT, -1, -1, 0, r);
}
enum refusal_code method_begin(struct call *c, struct refusal *r)
{
	return apply(c, OP_BEGIN, 0, 1, -1, r);
}
enum refusal_code method_cutover(struct call *c, struct refusal *r)
{
	return apply(c, OP_CUTOVER, 0, -1, -1, r);
}
enum refusal_code method_complete(struct call *c, struct refusal *r)
{
	enum { PARTITION, FORCE, WAIT_MS };
	json_int_t wait_ms = c->args[WAIT_MS] ? arg_integer(c, WAIT_MS) : 0;
	size_t len;
	const char *key = arg_string(c, PARTITION, &len);
	enum refusal_code code;

	if (wait_ms < 0 || wait_ms > WAIT_MS_MAX)
		return refuse_at(r, R_INVALID, "$.wait_ms", "wait_ms %" JSON_INTEGER_FORMAT ": give 0 to %u", wait_ms,
				 WAIT_MS_MAX);
	code = completing_same(c->conn, key, len, r);
	if (code == R_DONE)
		code = apply(c, OP_COMPLETE, PARTITION, -1, FORCE, r);
	if (code == R_BARRIER_PENDING)
		c->waits = completing_wait(c->conn, key, len, (uint64_t)wait_ms, r);
	return code;
}
enum refusal_code method_abort(struct call *c, struct refusal *r)
{
	return apply(c, OP_ABORT, 0, -1, -1, r);
}

enum refusal_code method_cluster_set(struct call *call, struct refusal *r)
{
	struct core_result result = {0};
	size_t id_len, endpoint_len = 0;
	const char *id = arg_string(call, 0, &id_len), *endpoint = NULL;
	enum refusal_code code;

	if (call->args[1])
		endpoint = arg_string(call, 1, &endpoint_len);
	code = core_cluster_set(call->server->core, id, id_len, endpoint, endpoint_len, conn_who(call->conn), &result,
				r);
	if (code != R_DONE)
		return code;
	buffer_format(call->out, "{\"number\":%u,\"changed\":%s}",
		      table_cluster_number(core_table(call->server->core), id, id_len), truth(result.changed));
	changed(call);
	return R_DONE;
}

enum refusal_code method_cluster_remove(struct call *call, struct refusal *r)
{
	struct core_result result = {0};
	size_t len;
	const char *id = arg_string(call, 0, &len);
	enum refusal_code code = core_cluster_remove(call->server->core, id, len, conn_who(call->conn), &result, r);

	if (code != R_DONE)
		return code;
	buffer_format(call->out, "{\"changed\":%s}", truth(result.changed));
	changed(call);
	return R_DONE;
}

enum refusal_code method_shutdown(struct call *call, struct refusal *r)
{
	(void)r;
	log_event(LEVEL_INFO, "shutdown", LOG_S("who", conn_who(call->conn)));
	buffer_text(call->out, "{}");
	server_stop(call->server);
	return R_DONE;
}
