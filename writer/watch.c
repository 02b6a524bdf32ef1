/* SPDX-License-Identifier: MIT
 * One line a change, made once and appended to every watcher's buffer. Who is WATCH_BACKLOG_MAX behind gets an overrun
 * line as its last, and is closed when it has read it: it knows that it must look anew, and costs no more memory. */
#include "watch.h"

#include <inttypes.h>

#include "log.h"
#include "rpc.h"

static const char overrun[] = "{\"jsonrpc\":\"2.0\",\"method\":\"overrun\",\"params\":{}}\n";

static void tell(struct conn *c, const struct buffer *line)
{
	struct server *s = c->server;
	struct buffer *out = s->answering == c ? &s->watch_after : &c->out;

	if (c->closing)
		return;
	if (buffer_left(&c->out) == 0)
		c->sent_ms = uv_now(&s->loop); /* from now on it has something to read */
	if (buffer_left(out) + line->len > WATCH_BACKLOG_MAX || line->failed) {
		s->n_overruns++;
		c->closing = true;
		buffer_add(out, overrun, sizeof(overrun) - 1);
		log_event(LEVEL_INFO, "overrun", LOG_S("watcher", conn_who(c)), LOG_N("bytes", buffer_left(out)));
		return;
	}
	buffer_add(out, line->data, line->len);
}

static void on_change(void *arg, const struct core_event *e)
{
	struct server *s = arg;
	struct buffer *line = &s->watch_line;
	struct cluster_names names;
	struct conn *c;

	if (TAILQ_EMPTY(&s->watchers))
		return;
	buffer_cut(line, 0);
	buffer_text(line, "{\"jsonrpc\":\"2.0\",\"method\":\"change\",\"params\":{\"what\":");
	buffer_string(line, e->what, strlen(e->what));
	buffer_text(line, ",\"key\":");
	buffer_string(line, e->key, e->key_len);
	buffer_format(line, ",\"epoch\":%" PRIu64 ",\"state\":", e->epoch);
	if (e->after && e->after->at) {
		json_t *state;

		names = table_names(core_table(s->core));
		state = state_to_json(e->after, &names);
		buffer_json(line, state);
		json_decref(state);
	} else {
		buffer_text(line, "null");
	}
	buffer_text(line, ",\"who\":");
	buffer_string(line, e->who, e->who ? strlen(e->who) : 0);
	buffer_format(line, ",\"forced\":%s}}\n", e->forced ? "true" : "false");
	for (c = TAILQ_FIRST(&s->watchers); c; c = TAILQ_NEXT(c, watch_link))
		tell(c, line);
	s->watch_dirty = true;
}

void watch_open(struct server *s)
{
	core_listen(s->core, on_change, s);
}

void watch_flush(struct server *s)
{
	struct conn *c, *next;

	if (!s->watch_dirty)
		return;
	s->watch_dirty = false; /* first: conn_run comes back here */
	for (c = TAILQ_FIRST(&s->watchers); c; c = next) {
		next = TAILQ_NEXT(c, watch_link);
		if (buffer_left(&c->out) > 0 && !(c->events & UV_WRITABLE))
			conn_run(c);
	}
}

enum refusal_code method_watch(struct call *call, struct refusal *r)
{
	struct conn *c = call->conn, *other;
	unsigned all = 0, of_uid = 0;

	if (!c->watching) {
		for (other = TAILQ_FIRST(&call->server->watchers); other; other = TAILQ_NEXT(other, watch_link)) {
			all++;
			of_uid += other->uid == c->uid;
		}
		if (all >= WATCHERS_MAX || of_uid >= WATCHERS_OF_UID_MAX)
			return refuse(r, R_LIMIT, "too many connections watch (%u, %u of this user): end some", all,
				      of_uid);
		c->watching = true;
		TAILQ_INSERT_TAIL(&call->server->watchers, c, watch_link);
	}
	buffer_text(call->out, "{\"watching\":true}");
	return R_DONE;
}
