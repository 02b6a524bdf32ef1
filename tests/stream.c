/* SPDX-License-Identifier: MIT
 * stream.h. */
#include "stream.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOAD_MS 120000
#define BATCH 64u /* requests that are on their way at the same time, when order does not matter */

static unsigned cluster_of(uint32_t i)
{
	return 1 + i % STREAM_CLUSTERS;
}

/* ---- documents --------------------------------------------------------------------------------------------- */

static json_t *load(struct stream *s, uint32_t from, uint32_t n, bool prune)
{
	char path[128], key[READERS_KEY_SIZE], placement[READERS_JSON_SIZE];
	json_t *summary;
	char *line;
	FILE *f;
	int fd;

	snprintf(path, sizeof path, "%s/document", s->d->home);
	f = fopen(path, "w");
	if (!f)
		fail_msg("%s cannot be written", path);
	fputs("{\"partitions\":{", f);
	for (uint32_t i = from; i < from + n; i++) {
		readers_key(key, i);
		fprintf(f, "%s\"%s\":%s", i == from ? "" : ",\n", key,
			readers_placement(placement, i, cluster_of(i), 1));
	}
	fputs("}}", f);
	if (fclose(f) != 0)
		fail_msg("%s cannot be written", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	wire_send_with(&s->wire, fd, "load", "{s:b, s:b}", "prune", prune, "override", prune);
	close(fd);
	unlink(path);
	line = wire_line(&s->wire, LOAD_MS);
	summary = answer_result(json_loads(line, 0, NULL));
	free(line);
	return summary;
}

void stream_load(struct stream *s, uint32_t from, uint32_t n)
{
	json_t *summary = load(s, from, n, false);

	assert_int_equal(int_of(summary, "applied"), n);
	json_decref(summary);
	s->beside += from >= s->all ? n : 0;
}

void stream_prune(struct stream *s, uint32_t n)
{
	json_t *summary = load(s, 0, n, true);

	assert_int_equal(int_of(summary, "removed"), s->all + s->beside - n);
	json_decref(summary);
	for (uint32_t i = n; i < s->all; i++)
		s->items[i] = (struct stream_item){.phase = GONE};
	s->beside = 0;
}

void stream_open(struct stream *s, struct daemon *d, uint32_t loaded, uint32_t all, uint64_t seed)
{
	memset(s, 0, sizeof *s);
	s->d = d;
	s->random = seed;
	s->version = 1;
	s->all = all;
	s->items = calloc(all, sizeof *s->items);
	wire_open(&s->wire, d, WIRE_ADMIN);
	for (unsigned k = 1; k <= STREAM_CLUSTERS; k++) {
		char id[16];

		snprintf(id, sizeof id, "c%u", k);
		wire_do(&s->wire, "cluster.set", "{s:s, s:s}", "id", id, "endpoint", "http://10.0.0.1:9200");
	}
	if (loaded > 0)
		stream_load(s, 0, loaded);
	for (uint32_t i = 0; i < loaded; i++)
		s->items[i] = (struct stream_item){.k = cluster_of(i), .v = 1, .phase = AT};
	stream_compare(s); /* learns the epochs */
}

void stream_use(struct stream *s, struct readers *rs, uint32_t from, uint32_t n)
{
	s->rs = rs;
	s->from = from;
	s->n = n;
	for (uint32_t i = from; i < from + n && atomic_load(&rs->s->n_hot) < READERS_HOT; i++)
		readers_heat(rs, i);
}

void stream_close(struct stream *s)
{
	wire_close(&s->wire);
	free(s->items);
	s->items = NULL;
}

/* ---- one change -------------------------------------------------------------------------------------------- */

static enum presence presence_of(const struct stream_item *item)
{
	return item->phase == GONE ? ABSENT : PRESENT;
}

/* The request that turns partition i into `after`. */
static void send_change(struct stream *s, uint32_t i, const struct stream_item *after, const char *method,
			const char *placement, bool force)
{
	char key[READERS_KEY_SIZE], line[READERS_JSON_SIZE + 400];
	int n;

	readers_key(key, i);
	n = snprintf(line, sizeof line,
		     "{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"%s\",\"params\":{\"partition\":\"%s\"%s%s%s}}\n",
		     ++s->wire.id, method, key,
		     !placement                     ? ""
		     : strcmp(method, "begin") == 0 ? ",\"to\":"
						    : ",\"placement\":",
		     placement ? placement : "", force ? ",\"force\":true" : "");
	assert_true(s->n_flights < STREAM_FLIGHTS);
	s->flights[s->n_flights++] = (struct stream_flight){.i = i, .after = *after};
	if (s->rs)
		readers_may_change(s->rs, i, presence_of(after));
	wire_send(&s->wire, line, (size_t)n); /* a daemon that is gone shows in the answer */
}

static unsigned other_cluster(struct stream *s, unsigned k)
{
	return 1 + (k - 1 + 1 + (unsigned)(mp_random(&s->random) % (STREAM_CLUSTERS - 1))) % STREAM_CLUSTERS;
}

static bool flies(const struct stream *s, uint32_t i)
{
	for (unsigned f = 0; f < s->n_flights; f++)
		if (s->flights[f].i == i)
			return true;
	return false;
}

void stream_send(struct stream *s)
{
	unsigned dice = (unsigned)(mp_random(&s->random) % 100), v = ++s->version;
	char placement[READERS_JSON_SIZE];
	struct stream_item after;
	uint32_t i;

	do
		i = s->from + (uint32_t)(mp_random(&s->random) % s->n);
	while (flies(s, i));
	after = s->items[i];
	switch ((enum stream_phase)after.phase) {
	case DRAINING:
	case CUTOVER:
		if (dice < 30) {
			after = (struct stream_item){.k = after.k, .v = after.v, .phase = AT};
			send_change(s, i, &after, "abort", NULL, false);
		} else if (after.phase == DRAINING) {
			after.phase = CUTOVER;
			send_change(s, i, &after, "cutover", NULL, false);
		} else {
			after = (struct stream_item){.k = after.to_k, .v = after.to_v, .phase = AT};
			send_change(s, i, &after, "complete", NULL, true);
		}
		return;
	case AT:
		if (dice < 15) {
			after = (struct stream_item){.phase = GONE};
			send_change(s, i, &after, "remove", NULL, true);
			return;
		}
		if (dice < 50) {
			after.to_k = other_cluster(s, after.k);
			after.to_v = v;
			after.phase = DRAINING;
			send_change(s, i, &after, "begin", readers_placement(placement, i, after.to_k, v), false);
			return;
		}
		/* fall through */
	case GONE:
		after = (struct stream_item){.k = other_cluster(s, after.k ? after.k : 1), .v = v, .phase = AT};
		send_change(s, i, &after, "set", readers_placement(placement, i, after.k, v), true);
	}
}

static void take(struct stream *s, const struct stream_flight *f, uint64_t epoch)
{
	s->items[f->i] = f->after;
	s->items[f->i].epoch = epoch;
	if (s->rs)
		readers_changed(s->rs, f->i, presence_of(&f->after), epoch);
}

bool stream_answer(struct stream *s)
{
	char *line = wire_line(&s->wire, DAEMON_MS);
	struct stream_flight f = s->flights[0];
	json_t *answer, *result;

	if (!line)
		return false;
	answer = json_loads(line, 0, NULL);
	result = json_object_get(answer, "result");
	if (!result || json_integer_value(json_object_get(answer, "id")) != s->wire.id - s->n_flights + 1)
		fail_msg("partition %u in phase %u -> %u is answered %s", f.i, s->items[f.i].phase, f.after.phase,
			 line);
	free(line);
	if ((uint64_t)int_of(result, "epoch") <= s->items[f.i].epoch)
		fail_msg("partition %u: epoch %llu is followed by %llu", f.i, (unsigned long long)s->items[f.i].epoch,
			 (unsigned long long)int_of(result, "epoch"));
	memmove(s->flights, s->flights + 1, --s->n_flights * sizeof f);
	take(s, &f, (uint64_t)int_of(result, "epoch"));
	json_decref(answer);
	s->n_acknowledged++;
	return true;
}

void stream_do(struct stream *s, unsigned n)
{
	while (n-- > 0) {
		stream_send(s);
		if (!stream_answer(s))
			fail_msg("berthd closed the connection:\n%s", daemon_log(s->d));
	}
}

uint64_t stream_set(struct stream *s, uint32_t i, unsigned k, unsigned v)
{
	struct stream_item after = {.k = k, .v = v, .phase = AT};
	char placement[READERS_JSON_SIZE];

	send_change(s, i, &after, "set", readers_placement(placement, i, k, v), true);
	assert_true(stream_answer(s));
	return s->items[i].epoch;
}

void stream_create(struct stream *s, uint32_t from, uint32_t n)
{
	char placement[READERS_JSON_SIZE];

	for (uint32_t i = from; i < from + n; i++) {
		struct stream_item after = {.k = cluster_of(i), .v = 1, .phase = AT};

		if (s->n_flights == STREAM_FLIGHTS)
			assert_true(stream_answer(s));
		send_change(s, i, &after, "set", readers_placement(placement, i, after.k, 1), false);
	}
	while (s->n_flights > 0)
		assert_true(stream_answer(s));
}

void stream_remove(struct stream *s, uint32_t i)
{
	struct stream_item after = {.phase = GONE};

	send_change(s, i, &after, "remove", NULL, true);
	assert_true(stream_answer(s));
}

/* ---- what is there ----------------------------------------------------------------------------------------- */

static bool placement_is(const json_t *placement, uint32_t i, unsigned k, unsigned v)
{
	char text[READERS_JSON_SIZE];
	json_t *wanted = json_loads(readers_placement(text, i, k, v), 0, NULL);
	bool equal = placement && json_equal(placement, wanted);

	json_decref(wanted);
	return equal;
}

/* Is this answer of `get` what the item says? */
static bool matches(const json_t *answer, uint32_t i, const struct stream_item *item)
{
	const json_t *result = json_object_get(answer, "result"), *state = json_object_get(result, "state");
	const char *phase = json_string_value(json_object_get(state, "phase"));
	enum stream_phase is = !phase ? AT : strcmp(phase, "cutover") == 0 ? CUTOVER : DRAINING;

	if (!result || item->phase == GONE)
		return !result && item->phase == GONE;
	if (is != item->phase || !placement_is(json_object_get(state, "at"), i, item->k, item->v))
		return false;
	return is == AT || placement_is(json_object_get(state, "to"), i, item->to_k, item->to_v);
}

/* The change in flight was kept, or it was not. */
static void judge_flight(struct stream *s, struct stream_flight *f, const json_t *answer, uint64_t epoch)
{
	/* A change may lead to what was there before: then only the epoch tells. */
	f->adopted = matches(answer, f->i, &f->after) && (f->after.phase == GONE || epoch > s->items[f->i].epoch);
	if (f->adopted)
		take(s, f, epoch);
	else if (s->rs)
		readers_changed(s->rs, f->i, presence_of(&s->items[f->i]), 0);
}

static void compare_one(struct stream *s, uint32_t i)
{
	char *line = wire_line(&s->wire, DAEMON_MS);
	json_t *answer = line ? json_loads(line, 0, NULL) : NULL;
	uint64_t epoch = (uint64_t)json_integer_value(json_object_get(json_object_get(answer, "result"), "epoch"));
	struct stream_item *item = &s->items[i];

	if (!answer)
		fail_msg("no answer to get of partition %u", i);
	for (unsigned f = 0; f < s->n_flights; f++)
		if (s->flights[f].i == i)
			judge_flight(s, &s->flights[f], answer, epoch);
	if (!matches(answer, i, item))
		fail_msg("partition %u was acknowledged in phase %u on c%u version %u (to c%u), and is %s", i,
			 item->phase, item->k, item->v, item->to_k, line);
	if (item->epoch && item->phase != GONE && epoch != item->epoch)
		fail_msg("partition %u was acknowledged with epoch %llu, and is %s", i, (unsigned long long)item->epoch,
			 line);
	if (item->phase != GONE)
		item->epoch = epoch;
	free(line);
	json_decref(answer);
}

/* Of the changes in flight the daemon did the first ones, and no later one. */
static void end_flights(struct stream *s)
{
	for (unsigned f = 0; f < s->n_flights; f++) {
		if (!s->flights[f].adopted)
			s->n_lost++;
		else if (f > 0 && !s->flights[f - 1].adopted)
			fail_msg("partition %u was changed, and an earlier change, of %u, is lost", s->flights[f].i,
				 s->flights[f - 1].i);
		else
			s->n_adopted++;
	}
	s->n_flights = 0;
}

void stream_compare(struct stream *s)
{
	uint64_t present = 0;
	json_t *status;

	for (uint32_t at = 0; at < s->all; at += BATCH) {
		static char text[BATCH * (READERS_KEY_SIZE + 90)];
		uint32_t n = s->all - at < BATCH ? s->all - at : BATCH;
		size_t len = 0;

		for (uint32_t i = at; i < at + n; i++) {
			char key[READERS_KEY_SIZE];

			readers_key(key, i);
			len += (size_t)snprintf(text + len, sizeof text - len,
						"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"get\",\"params\":{"
						"\"partition\":\"%s\"}}\n",
						++s->wire.id, key);
		}
		assert_true(wire_send(&s->wire, text, len));
		for (uint32_t i = at; i < at + n; i++)
			compare_one(s, i);
	}
	end_flights(s);
	for (uint32_t i = 0; i < s->all; i++)
		present += s->items[i].phase != GONE;
	status = wire_ok(&s->wire, "status", NULL);
	assert_int_equal(int_of(status, "partitions"), present + s->beside);
	json_decref(status);
}

void stream_resume(struct stream *s)
{
	wire_close(&s->wire);
	wire_open(&s->wire, s->d, WIRE_ADMIN);
	stream_compare(s);
}
