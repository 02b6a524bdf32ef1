/* SPDX-License-Identifier: MIT
 * `memory:`: the store that keeps nothing. The writer rebuilds from the words of the last generation; what is here is
 * the newest HISTORY_MAX events, so that `history` works until the daemon ends. Nothing but open can fail: an event for
 * which there is no memory is dropped. Control thread only. */
#include "store.h"

#include <stdlib.h>
#include <string.h>

#include "../shm/crash_point.h"

#define HISTORY_MAX 1000u

struct event { /* one allocation: the strings follow */
	struct store_event e;
	size_t room; /* bytes of strings */
	char strings[];
};
struct ring {
	struct event *slot[HISTORY_MAX]; /* NULL, or memory that is used again and again */
	uint64_t n;                      /* added; the newest is slot[(n - 1) % HISTORY_MAX] */
};
struct store {
	struct ring kept;
	struct ring pending; /* of the open transaction */
	bool committed;      /* the last transaction was */
};

static void ring_free(struct ring *ring)
{
	for (size_t i = 0; i < HISTORY_MAX; i++)
		free(ring->slot[i]);
}

static const char *keep(char **at, const char *from, size_t len)
{
	char *to = *at;

	if (!from)
		return NULL;
	memcpy(to, from, len);
	to[len] = '\0';
	*at += len + 1;
	return to;
}

/* into: memory for it, if that is enough; NULL: none. What is returned takes its place; NULL: there is no memory, and
 * `into` is as it was. */
static struct event *event_copy(struct event *into, const struct store_event *from)
{
	size_t who = from->who ? strlen(from->who) : 0, what = from->what ? strlen(from->what) : 0;
	size_t detail = from->detail ? strlen(from->detail) : 0, key = from->key ? from->key_len : 0;
	size_t room = who + what + detail + key + 4;
	struct event *to = into;
	char *at;

	if (!to || to->room < room) {
		to = malloc(sizeof(*to) + room);
		if (!to)
			return NULL;
		free(into);
		to->room = room;
	}
	at = to->strings;
	to->e = *from;
	to->e.who = keep(&at, from->who ? from->who : "", who);
	to->e.what = keep(&at, from->what ? from->what : "", what);
	to->e.key = key ? keep(&at, from->key, key) : NULL;
	to->e.key_len = key;
	to->e.detail = keep(&at, from->detail, detail);
	return to;
}

static enum refusal_code memory_open(const char *argument, struct store **out, struct refusal *r)
{
	*out = NULL;
	if (argument && *argument)
		return refuse(r, R_INVALID, "store \"memory:%.200s\": memory: takes no argument", argument);
	*out = calloc(1, sizeof(**out));
	return *out ? R_DONE : refuse(r, R_BACKEND, "memory: out of memory");
}

static void memory_close(struct store **sp)
{
	if (!*sp)
		return;
	ring_free(&(*sp)->kept);
	ring_free(&(*sp)->pending);
	free(*sp);
	*sp = NULL;
}

static int memory_count(struct store *s, uint64_t *n, struct refusal *r)
{
	(void)s;
	(void)r;
	*n = 0;
	return 0;
}

static int memory_load(struct store *s, const struct store_visitor *v, struct refusal *r)
{
	(void)s;
	(void)v;
	(void)r;
	return 0;
}

static int memory_history(struct store *s, const char *key, size_t key_len, unsigned limit,
			  const struct store_visitor *v, struct refusal *r)
{
	const struct ring *ring = &s->kept;
	uint64_t oldest = ring->n > HISTORY_MAX ? ring->n - HISTORY_MAX : 0;

	(void)r;
	if (!v->event)
		return 0;
	for (uint64_t i = ring->n; i > oldest && limit; i--) {
		const struct store_event *e = &ring->slot[(i - 1) % HISTORY_MAX]->e;
		int stop;

		if (key && (e->key_len != key_len || (key_len && memcmp(e->key, key, key_len) != 0)))
			continue;
		limit--;
		stop = v->event(v->arg, e);
		if (stop)
			return stop;
	}
	return 0;
}

static enum store_result memory_begin(struct store *s, struct refusal *r)
{
	(void)r;
	s->pending.n = 0;
	return STORE_OK;
}

static enum store_result memory_put_meta(struct store *s, const char *name, const char *value, struct refusal *r)
{
	(void)s;
	(void)name;
	(void)value;
	(void)r;
	return STORE_OK;
}

static enum store_result memory_put_cluster(struct store *s, const struct store_cluster *c, struct refusal *r)
{
	(void)s;
	(void)c;
	(void)r;
	return STORE_OK;
}

static enum store_result memory_put_partition(struct store *s, const struct store_partition *p, struct refusal *r)
{
	(void)s;
	(void)p;
	(void)r;
	return STORE_OK;
}

static enum store_result memory_put_event(struct store *s, const struct store_event *e, struct refusal *r)
{
	struct event **slot = &s->pending.slot[s->pending.n % HISTORY_MAX], *copy = event_copy(*slot, e);

	(void)r;
	if (copy) {
		*slot = copy;
		s->pending.n++;
	}
	return STORE_OK;
}

static enum store_result memory_commit(struct store *s, struct refusal *r)
{
	struct ring *new = &s->pending;
	uint64_t oldest = new->n > HISTORY_MAX ? new->n - HISTORY_MAX : 0;

	(void)r;
	for (uint64_t i = oldest; i < new->n; i++) {
		struct event **to = &s->kept.slot[s->kept.n++ % HISTORY_MAX], *old = *to;

		*to = new->slot[i % HISTORY_MAX];
		new->slot[i % HISTORY_MAX] = old;
	}
	new->n = 0;
	s->committed = true;
	CRASH_POINT(memory_committed);
	return STORE_OK;
}

static void memory_rollback(struct store *s)
{
	s->pending.n = 0;
	s->committed = false;
}

static enum store_result memory_settle(struct store *s, bool *committed, struct refusal *r)
{
	(void)r;
	*committed = s->committed;
	return STORE_OK;
}

const struct store_ops store_memory = {
	.scheme = "memory",
	.durable = false,
	.open = memory_open,
	.close = memory_close,
	.count = memory_count,
	.load = memory_load,
	.history = memory_history,
	.begin = memory_begin,
	.put_meta = memory_put_meta,
	.put_cluster = memory_put_cluster,
	.put_partition = memory_put_partition,
	.put_event = memory_put_event,
	.commit = memory_commit,
	.rollback = memory_rollback,
	.settle = memory_settle,
};
