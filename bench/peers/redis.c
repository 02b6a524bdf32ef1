/* SPDX-License-Identifier: MIT
 * Redis: a server with its data in memory, asked through a socket of the file system, key by key and pipelined. Called
 * by peers.c, in its one thread; the server is started here, on the same processor, and saves nothing.
 *
 * Both peers ask one server over one connection: who opens second, with as many keys, shares what is there. It must
 * not touch a server that it did not start. */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "peer.h"
#include "server.h"

#define DEPTH 64u /* requests under way in the pipelined form */
#define FILL_DEPTH 1000u
#define ANSWER_S 30

struct redis {
	struct server server;
	char socket[128];
	redisContext *c;
	uint32_t n;
	unsigned users;
};

static struct redis *shared; /* NULL: none is open */

/* Waits until it answers PING. False: it did not start. */
static bool wait_for_answer(struct redis *r)
{
	const struct timeval patience = {.tv_sec = ANSWER_S};
	uint64_t from = now_ns();

	while (server_runs(&r->server) && now_ns() - from < SERVER_START_S * 1000000000ull) {
		redisReply *reply;
		bool pong;

		r->c = redisConnectUnix(r->socket);
		reply = NULL;
		if (r->c && !r->c->err && redisSetTimeout(r->c, patience) == REDIS_OK)
			reply = redisCommand(r->c, "PING");
		pong = reply && reply->type == REDIS_REPLY_STATUS && strcmp(reply->str, "PONG") == 0;
		freeReplyObject(reply);
		if (pong)
			return true;
		if (r->c)
			redisFree(r->c);
		r->c = NULL;
		usleep(1000);
	}
	return false;
}

static void append(struct redis *r, int argc, const char **argv, const size_t *lengths)
{
	if (redisAppendCommandArgv(r->c, argc, argv, lengths) != REDIS_OK)
		fail("Redis: no request: %s", r->c->errstr);
}

static redisReply *next_reply(struct redis *r)
{
	void *reply = NULL;

	if (redisGetReply(r->c, &reply) != REDIS_OK || !reply)
		fail("Redis: no answer: %s", r->c->errstr);
	return reply;
}

static void fill(struct redis *r)
{
	for (uint32_t at = 0; at < r->n;) {
		uint32_t count = r->n - at > FILL_DEPTH ? FILL_DEPTH : r->n - at;

		for (uint32_t i = at; i < at + count; i++) {
			char key[KEY_ROOM], value[24];
			const char *argv[] = {"SET", key, value};
			size_t lengths[] = {3, KEY_LEN, 0};

			key_name(key, i);
			lengths[2] =
				(size_t)snprintf(value, sizeof(value), "%llu", (unsigned long long)value_of_key(i));
			append(r, 3, argv, lengths);
		}
		for (uint32_t i = 0; i < count; i++) {
			redisReply *reply = next_reply(r);

			if (reply->type != REDIS_REPLY_STATUS)
				fail("Redis: SET was refused: %s", reply->str ? reply->str : "no reason");
			freeReplyObject(reply);
		}
		at += count;
	}
}

static void *redis_open(const struct bench *b, uint32_t n)
{
	struct redis *r = shared;
	const char *argv[] = {"redis-server", "--port", "0", "--unixsocket", NULL, "--dir",
			      NULL,           "--save", "",  "--appendonly", "no", "--daemonize",
			      "no",           NULL};

	if (r && r->n == n) {
		r->users++;
		return r;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		fail("no memory for a Redis connection");
	if (!server_prepare(b, &r->server, "redis-server", "redis-server")) {
		free(r);
		return NULL;
	}
	snprintf(r->socket, sizeof(r->socket), "%s/redis.sock", r->server.dir);
	argv[4] = r->socket;
	argv[6] = r->server.dir;
	server_start(&r->server, argv, CPU_SELF);
	if (!wait_for_answer(r)) {
		server_note_failure(b, &r->server);
		server_stop(&r->server);
		free(r);
		return NULL;
	}
	r->n = n;
	r->users = 1;
	fill(r);
	if (!shared)
		shared = r;
	return r;
}

static uint64_t value_of_reply(redisReply *reply, const char *name)
{
	unsigned long long value;
	char *end;

	if (!reply || reply->type != REDIS_REPLY_STRING)
		fail("Redis: %.15s: %s", name,
		     !reply                           ? "no answer"
		     : reply->type == REDIS_REPLY_NIL ? "no such key"
		     : reply->str                     ? reply->str
						      : "not a string");
	value = strtoull(reply->str, &end, 10);
	if (end == reply->str || *end)
		fail("Redis: %.15s: `%s` is not a number", name, reply->str);
	freeReplyObject(reply);
	return value;
}

static uint64_t redis_run(void *state, const struct sequence *q, size_t n)
{
	static const size_t lengths[] = {3, KEY_LEN};
	struct redis *r = state;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		const char *argv[] = {"GET", q->names[i & (q->n - 1)]};

		sum += value_of_reply(redisCommandArgv(r->c, 2, argv, lengths), argv[1]);
	}
	return sum;
}

static uint64_t redis_run_pipelined(void *state, const struct sequence *q, size_t n)
{
	static const size_t lengths[] = {3, KEY_LEN};
	struct redis *r = state;
	uint64_t sum = 0;

	for (size_t at = 0; at < n;) {
		size_t count = n - at > DEPTH ? DEPTH : n - at;

		for (size_t i = at; i < at + count; i++) {
			const char *argv[] = {"GET", q->names[i & (q->n - 1)]};

			append(r, 2, argv, lengths);
		}
		for (size_t i = at; i < at + count; i++)
			sum += value_of_reply(next_reply(r), q->names[i & (q->n - 1)]);
		at += count;
	}
	return sum;
}

static void redis_close(void *state)
{
	struct redis *r = state;

	if (--r->users > 0)
		return;
	if (shared == r)
		shared = NULL;
	redisFree(r->c);
	server_stop(&r->server);
	free(r);
}

const struct peer peer_redis = {
	.name = "Redis",
	.how = "a server of its own on the same processor, which is faster than two that wake each other, a GET a "
	       "look-up through a Unix socket",
	.shared = true,
	.most = 1000000,
	.waits = true,
	.calls = 5000,
	.open = redis_open,
	.run = redis_run,
	.close = redis_close,
};

const struct peer peer_redis_pipelined = {
	.name = "Redis, pipelined",
	.how = "the same server, 64 GETs sent before the first answer is read",
	.shared = true,
	.bulk = true,
	.most = 1000000,
	.waits = true,
	.calls = 128000,
	.open = redis_open,
	.run = redis_run_pipelined,
	.close = redis_close,
};
