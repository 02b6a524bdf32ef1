/* SPDX-License-Identifier: MIT
 * fault_operations.h. */
#include "fault_operations.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fault_judge.h"

#define MANY 100 /* partitions of a batch that makes the table grow */

static const char *other_index(struct fault_place *p)
{
	static char name[32];

	snprintf(name, sizeof name, "index-%u", p->turn);
	return name;
}

static void nothing(struct fault_place *p)
{
	(void)p;
}

/* Whatever the daemon says. */
static void forget(struct fault_place *p, const char *key)
{
	json_decref(fault_ask(p, "remove", "{s:s, s:b}", "partition", key, "force", 1));
}

static void without_globex(struct fault_place *p)
{
	forget(p, "globex");
}

static void with_globex(struct fault_place *p)
{
	fault_must(p, fault_set(p, "globex", "one"));
}

static json_t *set_globex(struct fault_place *p)
{
	return fault_set(p, "globex", other_index(p));
}

static bool globex_is_set(struct fault_place *p)
{
	return fault_index_is(p, "globex", other_index(p));
}

static json_t *remove_globex(struct fault_place *p)
{
	return fault_ask(p, "remove", "{s:s, s:b}", "partition", "globex", "force", 1);
}

static bool globex_is_gone(struct fault_place *p)
{
	struct berth_route route;

	return !fault_route(p, "globex", &route) || route.is_default;
}

static json_t *set_default(struct fault_place *p)
{
	return fault_set_default(p, other_index(p));
}

static bool default_is_set(struct fault_place *p)
{
	return fault_index_is(p, FAULT_DEFAULT, other_index(p));
}

static void settled(struct fault_place *p)
{
	json_decref(fault_ask(p, "abort", "{s:s}", "partition", "mover")); /* whatever it says */
	fault_must(p, fault_set(p, "mover", "here"));
}

static json_t *begin(struct fault_place *p)
{
	return fault_ask(p, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", "mover", "to", "mode", "dedicated-index",
			 "cluster", "c2", "index", "there");
}

static json_t *cutover(struct fault_place *p)
{
	return fault_ask(p, "cutover", "{s:s}", "partition", "mover");
}

static json_t *complete(struct fault_place *p)
{
	return fault_ask(p, "complete", "{s:s, s:b}", "partition", "mover", "force", 1);
}

static json_t *give_up(struct fault_place *p)
{
	return fault_ask(p, "abort", "{s:s}", "partition", "mover");
}

static void begun(struct fault_place *p)
{
	settled(p);
	fault_must(p, begin(p));
}

static void cut_over(struct fault_place *p)
{
	begun(p);
	fault_must(p, cutover(p));
}

static bool mover_in(struct fault_place *p, int phase, uint16_t cluster)
{
	struct berth_route route;

	return fault_route(p, "mover", &route) && route.phase == phase && route.cluster == cluster;
}

static bool is_begun(struct fault_place *p)
{
	return mover_in(p, BERTH_DRAINING, 1);
}

static bool is_cut_over(struct fault_place *p)
{
	return mover_in(p, BERTH_CUTOVER, 1);
}

static bool is_completed(struct fault_place *p)
{
	return mover_in(p, BERTH_SETTLED, 2);
}

static bool is_given_up(struct fault_place *p)
{
	return mover_in(p, BERTH_SETTLED, 1);
}

/* The first five are the same in each turn, the others its own. */
static const char *many_name(char text[32], unsigned i, unsigned turn)
{
	snprintf(text, 32, i < 5 ? "many-%u" : "many-%u-%u", i, turn);
	return text;
}

static json_t *set_many(struct fault_place *p, unsigned n)
{
	json_t *names = json_array();
	char text[32];

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(names, json_string(many_name(text, i, p->turn)));
	return fault_ask(p, "set", "{s:o, s:b, s:{s:s, s:s, s:s}}", "partitions", names, "force", 1, "placement",
			 "mode", "dedicated-index", "cluster", "c1", "index", other_index(p));
}

static json_t *set_some(struct fault_place *p)
{
	return set_many(p, 5);
}

static bool many_are_set(struct fault_place *p)
{
	return fault_index_is(p, "many-0", other_index(p)) && fault_index_is(p, "many-4", other_index(p));
}

/* So that the batch finds no room: what is removed while somebody reads cannot be used again. */
static void without_many(struct fault_place *p)
{
	char text[32];

	assert_int_equal(berth_reader_open(p->b, &p->holder), BERTH_OK);
	berth_read_begin(p->holder);
	berth_route(p->holder, "acme", 4, &(struct berth_route){0});
	for (unsigned i = 5; i < MANY; i++)
		forget(p, many_name(text, i, p->turn - 1));
}

static json_t *set_more_than_fit(struct fault_place *p)
{
	return set_many(p, MANY);
}

static bool is_more_than_fit(struct fault_place *p)
{
	char last[32];

	return many_are_set(p) && fault_index_is(p, many_name(last, MANY - 1, p->turn), other_index(p));
}

static json_t *set_cluster(struct fault_place *p)
{
	char endpoint[64];

	snprintf(endpoint, sizeof endpoint, "http://10.0.0.%u:9200", p->turn % 250);
	return fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c3", "endpoint", endpoint);
}

static bool cluster_is_set(struct fault_place *p)
{
	json_t *answer = fault_ask(p, "clusters", NULL), *c;
	char endpoint[64];
	bool is = false;
	size_t i;

	snprintf(endpoint, sizeof endpoint, "http://10.0.0.%u:9200", p->turn % 250);
	json_array_foreach (json_object_get(json_object_get(answer, "result"), "clusters"), i, c)
		is = is || (strcmp(text_of(c, "id"), "c3") == 0 && strcmp(text_of(c, "endpoint"), endpoint) == 0);
	json_decref(answer);
	return is;
}

static json_t *load(struct fault_place *p)
{
	fault_send_document(p, other_index(p));
	return fault_answer(p, "load");
}

static bool is_loaded(struct fault_place *p)
{
	return fault_index_is(p, "doc-a", other_index(p)) && fault_index_is(p, "doc-b", other_index(p));
}

static json_t *look(struct fault_place *p)
{
	static const char *const methods[] = {"status", "readers", "history", "migrations", "clusters"};

	return fault_ask(p, methods[p->turn % 5], NULL);
}

static bool is_seen(struct fault_place *p)
{
	(void)p;
	return true;
}

static json_t *come_anew(struct fault_place *p)
{
	fault_place_leave(p);
	return fault_ask(p, "get", "{s:s}", "partition", "acme");
}

static unsigned long long now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (unsigned long long)now.tv_sec * 1000000000 + (unsigned long long)now.tv_nsec;
}

static json_t *attach(struct fault_place *p, bool cursors)
{
	char text[400], *line;
	struct wire w;
	json_t *answer;
	int sent;

	wire_open(&w, &p->d, WIRE_LOOK);
	sent = snprintf(text, sizeof text,
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"attach\",\"params\":{\"version\":1,\"pid\":%d,"
			"\"readers\":2,\"writes\":\"none\",\"fences\":false,\"cursors\":%s,\"monotonic_ns\":%llu,"
			"\"boottime_ns\":%llu}}\n",
			(int)getpid(), cursors ? "true" : "false", now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_BOOTTIME));
	assert_true(sent < (int)sizeof text);
	line = wire_text(&w, text) ? wire_line(&w, DAEMON_MS) : NULL;
	answer = line ? json_loads(line, 0, NULL) : NULL;
	free(line);
	if (fault_done(answer) && (w.passed < 0 || (cursors && w.bell < 0)))
		fault_fail(p, "attached, but the descriptors did not come");
	if (w.passed >= 0)
		close(w.passed);
	if (w.bell >= 0)
		close(w.bell);
	wire_close(&w);
	if (!answer)
		fault_lives(p);
	return answer;
}

static json_t *attach_to_look(struct fault_place *p)
{
	return attach(p, false);
}

static json_t *attach_to_pin(struct fault_place *p)
{
	return attach(p, true);
}

const struct fault_operation fault_operations[] = {
	{"a set", without_globex, set_globex, globex_is_set, "globex", 40},
	{"a set of another placement", with_globex, set_globex, globex_is_set, "globex", 12},
	{"a set of many", nothing, set_some, many_are_set, "many-", 12},
	{"a remove", with_globex, remove_globex, globex_is_gone, "globex", 12},
	{"a default", nothing, set_default, default_is_set, FAULT_DEFAULT, 12},
	{"a begin", settled, begin, is_begun, "mover", 12},
	{"a cutover", begun, cutover, is_cut_over, "mover", 40},
	{"a complete", cut_over, complete, is_completed, "mover", 12},
	{"an abort", cut_over, give_up, is_given_up, "mover", 12},
	{"a cluster", nothing, set_cluster, cluster_is_set, NULL, 12},
	{"a document", nothing, load, is_loaded, "doc-", 12},
	/* After a start, what else starts with the first one can fail too. */
	{"a first document", fault_restart_in_turn, load, is_loaded, "doc-", 1},
	{"an attach", nothing, attach_to_look, is_seen, NULL, 40},
	{"an attach that pins", nothing, attach_to_pin, is_seen, NULL, 40},
	{"a look", nothing, look, is_seen, NULL, 12},
	{"a connection", nothing, come_anew, is_seen, NULL, 40},
	{"a growth", without_many, set_more_than_fit, is_more_than_fit, "many-", 2},
	{.name = NULL},
};
