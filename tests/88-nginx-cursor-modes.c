/* SPDX-License-Identifier: MIT
 * As 87-nginx-cursors.c, what is of one mode alone: pins run out, and stand without the daemon; envelopes are refused when
 * a bit of them is another, and their keys rotate; and ids pass as they are where nothing is set. */
#include "proxy_cursors.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- pins ----------------------------------------------------------------------------------------------------------- */

static void the_binding_pins(void **state)
{
	static const char *const lines[] = {"unknown -2\n",           "pin true resolve 1\n", "foreign -21 -21 -21\n",
					    "again true resolve 2\n", "no cluster -2\n",      "empty -1 long -1\n",
					    "async true\n",           "later 3 len true\n",   "release true -2 -2\n",
					    "cluster 2 2 nil\n",      "off -1 -1\n",          "close true true false"};
	struct said s;

	PROXY_NEEDED;
	pc_use(NULL);
	s = TALK(&pc_at[0], .path = "/berth/pins", .partition = pc_tenant("binding"));
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		said_expect(&s, 200, lines[i]);
	said_free(&s);
}

static void an_id_is_found_at_its_place_alone(void **state)
{
	PROXY_NEEDED;
	pc_use(NULL);
	TALK_EXPECT(&pc_at[0], 200, "all as they should be", .path = "/berth/scan", .partition = pc_tenant("scan"));
}

static void times_are_read_as_the_nodes_do(void **state)
{
	static const char *const rows[][2] = {
		{"1m", "60000"},    {"30s", "30000"}, {"2h", "7200000"}, {"1d", "86400000"},
		{"9d", "86400000"}, {"250ms", "250"}, {"5micros", "1"},  {"1nanos", "1"},
		{"0s", "1"},        {"1M", "60000"},  {"-1", "nil"},     {"0", "nil"},
		{"1.5h", "nil"},    {"m", "nil"},     {"1w", "nil"},     {"", "nil"}};

	PROXY_NEEDED;
	pc_use(NULL);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		TALK_EXPECT(&pc_at[0], 200, pc_text("ms %s ", rows[i][1]),
			    .path = pc_text("/berth/time?t=%s", rows[i][0]), .partition = pc_tenant("time"));
}

static void a_pin_runs_out_when_the_cursor_does(void **state)
{
	const char *p;
	char *id, *point;

	PROXY_NEEDED;
	pc_use("pin");
	p = pc_tenant("brief");
	id = pc_open(&pc_at[0], p, "node", "/i/_search?scroll=1s", 0);
	point = pc_open(&pc_at[0], p, "node", "/i/_search/point_in_time?keep_alive=1m", 0);
	for (int i = 0; i < 3; i++) { /* each continue is another second */
		usleep(600000);
		NODE_EXPECT(&pc_at[i % 2], 200, PORT(0), .path = "/_search/scroll", .partition = p,
			    .body = pc_text("{\"scroll\":\"1s\",\"scroll_id\":\"%s\"}", id));
	}
	usleep(1050000);
	NODE_EXPECT(&pc_at[0], 404, "unknown-cursor", .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	/* without a time, it stays as it was */
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .path = "/_search", .partition = p,
		    .body = pc_text("{\"pit\":{\"id\":\"%s\"}}", point));
	free(id);
	free(point);
}

static void without_the_daemon_what_is_pinned_goes_on_and_nothing_is_opened(void **state)
{
	const char *p;
	char *id;
	struct said s;
	int status = 0;

	PROXY_NEEDED;
	pc_use("pin");
	p = pc_tenant("alone");
	id = pc_scroll(&pc_at[0], p, 0);
	wire_close(&proxy_look);
	wire_close(&proxy_admin);
	daemon_kill(&proxy.d);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	for (uint64_t deadline = 0; status != 503 && within(&deadline);) { /* cut off, until it is noticed */
		s = NODE(&pc_at[1], .method = "POST", .path = "/i/_search?scroll=1m", .partition = p, .body = "{}");
		assert_false(s.status == 200 && (s.whole || strstr(s.body, "DXF1")));
		status = s.status;
		said_free(&s);
	}
	assert_int_equal(status, 503);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	NODE_EXPECT(&pc_at[0], 200, PORT(0), .path = "/i/_search", .partition = p);
	s = TALK(&pc_at[0], .act = "node new", .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	assert_false(s.whole); /* one that nobody else would know */
	assert_null(strstr(s.body, "DXF1"));
	said_free(&s);
	daemon_start(&proxy.d, "--barrier-ms", "5000", NULL);
	wire_open(&proxy_look, &proxy.d, WIRE_LOOK);
	wire_open(&proxy_admin, &proxy.d, WIRE_ADMIN);
	free(id);
	id = NULL;
	for (uint64_t deadline = 0; !id && within(&deadline);) {
		s = NODE(&pc_at[0], .method = "POST", .path = "/i/_search?scroll=1m", .partition = p, .body = "{}");
		id = s.whole && s.status == 200 ? strdup(s.id) : NULL;
		said_free(&s);
	}
	assert_non_null(id);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	free(id);
}

static void a_daemon_that_hangs_costs_a_worker_little(void **state)
{
	const char *p;
	char *id, *other;
	uint64_t start;
	struct said s;

	PROXY_NEEDED;
	pc_use("pin");
	p = pc_tenant("hung");
	id = pc_scroll(&pc_at[0], p, 0);
	other = pc_scroll(&pc_at[1], p, 0);
	daemon_signal(&proxy.d, SIGSTOP);
	start = test_now_ms();
	for (int i = 0; i < 4; i++) /* the worker waits for the pin once at most, and not for ever */
		NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(other));
	NODE_EXPECT(&pc_at[1], 200, NULL, .method = "DELETE", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(other));
	NODE_EXPECT(&pc_at[1], 503, "writer-down", .method = "POST", .path = "/i/_search?scroll=1m", .partition = p,
		    .body = "{}");
	assert_true(test_now_ms() - start < child_patience(5000));
	s = NODE(&pc_at[0], .method = "POST", .path = "/i/_search?scroll=1m", .partition = p, .body = "{}");
	assert_false(s.whole);
	assert_null(strstr(s.body, "DXF1"));
	said_free(&s);
	daemon_signal(&proxy.d, SIGCONT);
	assert_true(test_now_ms() - start < child_patience(10000));
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	free(id);
	free(other);
	usleep(1100000); /* the worker asks again */
	free(pc_scroll(&pc_at[0], p, 0));
}

#define ALL 4   /* workers */
#define MANY 24 /* opens at the same time */

/* Has this answer come from a node? Then without an id. */
static unsigned reached(int status, const char *text)
{
	assert_null(strstr(text, "DXF1"));
	if (status == 503)
		assert_non_null(strstr(text, "writer-down"));
	return status != 503;
}

/* An open through each of these; how many of them a node had. */
static unsigned opens(struct talk *t, const char *partition)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ALL; i++) {
		struct said s = NODE(&t[i], .method = "POST", .path = "/i/_search?scroll=1m", .partition = partition,
				     .body = "{}");

		n += reached(s.status, s.body);
		assert_int_equal(s.whole, s.status == 503);
		said_free(&s);
	}
	return n;
}

/* Many at once, which the node lets wait: how many it had; kept: how many gave an id. */
static unsigned opens_at_once(const char *partition, bool kept)
{
	const struct ask q = {.act = "node wait=400",
			      .method = "POST",
			      .path = "/i/_search?scroll=1m",
			      .partition = partition,
			      .body = "{}"};
	unsigned n = 0;
	int fds[MANY];

	for (unsigned i = 0; i < MANY; i++) {
		fds[i] = proxy_connect(&proxy, q.way);
		assert_true(fds[i] >= 0);
		proxy_send(fds[i], &q, false);
	}
	for (unsigned i = 0; i < MANY; i++) {
		struct answer a = proxy_answer(fds[i]);

		n += kept ? a.status == 200 && strstr(a.text, "DXF1") : reached(a.status, a.text);
		free(a.text);
	}
	return n;
}

/* So many may reach the nodes from then on: one a second and worker. */
static unsigned allowed(uint64_t since_ms)
{
	return ALL * (unsigned)((test_now_ms() - since_ms) / 1000 + 1);
}

static void a_daemon_that_hangs_for_long_lets_a_probe_a_second_reach_the_nodes(void **state)
{
	struct talk all[ALL];
	const char *p;
	unsigned n, later;
	uint64_t start;
	int before;

	PROXY_NEEDED;
	pc_use("pin");
	p = pc_tenant("long");
	talk_open(all, ALL);
	before = pc_asked();
	daemon_signal(&proxy.d, SIGSTOP);
	usleep(3300000); /* its heart has not beaten: nothing waits for it any more */
	start = test_now_ms();
	n = opens(all, p);
	assert_int_equal(n, ALL); /* nobody knew */
	while (test_now_ms() - start < 2300) {
		talk_close(all, ALL); /* those that were cut off are at other workers now */
		talk_open(all, ALL);
		n += opens(all, p);
		assert_in_range(n, 1, allowed(start));
	}
	assert_in_range(n, ALL + 1, allowed(start));
	usleep(1100000);
	start = test_now_ms();
	later = opens_at_once(p, false);
	assert_in_range(later, 1, allowed(start));
	daemon_signal(&proxy.d, SIGCONT);
	assert_int_equal(pc_asked() - before, n + later);
	talk_close(all, ALL);
	talk_open(all, ALL);
	for (unsigned i = 0; i < ALL; i++) {
		char *id = NULL;

		for (uint64_t deadline = 0; !id && within(&deadline);) {
			struct said s = NODE(&all[i], .method = "POST", .path = "/i/_search?scroll=1m", .partition = p,
					     .body = "{}");

			id = s.whole && s.status == 200 ? strdup(s.id) : NULL;
			said_free(&s);
		}
		assert_non_null(id);
		NODE_EXPECT(&all[(i + 1) % ALL], 200, PORT(0), .path = "/_search/scroll", .partition = p,
			    .body = NEXT(id));
		free(id);
	}
	assert_int_equal(opens_at_once(p, true), MANY); /* no doubt is left */
	talk_close(all, ALL);
}

/* ---- seals ---------------------------------------------------------------------------------------------------------- */

static void every_changed_bit_of_an_envelope_is_refused(void **state)
{
	const char *p, *allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char *id;
	size_t len;
	int before;

	PROXY_NEEDED;
	pc_use("seal");
	p = pc_tenant("flip");
	id = pc_open(&pc_at[0], p, "node", "/i/_search?scroll=1m", 0);
	len = strlen(id);
	assert_int_equal(strspn(id, allowed), len);
	before = pc_asked();
	for (size_t i = 0; i < len; i++)
		for (int bit = 0; bit < 7; bit++) {
			char saved = id[i], c = (char)(saved ^ (1 << bit));

			if ((bit != 0 && !strchr(allowed, c)) || c == '\0' || c == '"' || c == '\\')
				continue; /* of letters outside of the alphabet, one for each place */
			id[i] = c;
			NODE_EXPECT(&pc_at[i % 2], 404, "unknown-cursor", .path = "/_search/scroll", .partition = p,
				    .body = NEXT(id));
			id[i] = saved;
		}
	assert_int_equal(pc_asked(), before);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	/* all bits, and bytes too many and too few, by the binding itself */
	TALK_EXPECT(&pc_at[0], 200, " cluster c1 same true foreign -21",
		    .path = pc_text("/berth/flip?p=a&id=x&keys=%s", pc_keys), .partition = p);
	TALK_EXPECT(&pc_at[0], 200, " opened 0 ", .path = pc_text("/berth/flip?p=a&id=x&keys=%s", pc_keys),
		    .partition = p);
	TALK_EXPECT(&pc_at[0], 200, " opened 0 ",
		    .path = pc_text("/berth/flip?p=a-longer-partition&keys=%s&id=%0300d", pc_keys, 7), .partition = p);
	free(id);
}

static void keys_rotate_under_way(void **state)
{
	const char *p;
	char *old, *new;

	PROXY_NEEDED;
	pc_use("seal");
	p = pc_tenant("rotate");
	old = pc_scroll(&pc_at[0], p, 0);
	tool_ok(&proxy.d, "seal", "rotate", pc_keys, "--after", "0", NULL);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(old));
	usleep(1100000); /* looked at once a second */
	new = pc_scroll(&pc_at[0], p, 0);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(new));
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(old));
	tool_ok(&proxy.d, "seal", "rotate", pc_keys, "--after", "0", "--keep", "1", NULL);
	usleep(1100000);
	for (unsigned i = 0; i < WORKERS; i++) {
		free(pc_scroll(&pc_at[i], p, 0));
		NODE_EXPECT(&pc_at[i], 404, "unknown-cursor", .path = "/_search/scroll", .partition = p,
			    .body = NEXT(old));
	}
	free(old);
	free(new);
}

static void without_a_key_every_cursor_is_refused(void **state)
{
	const char *p;
	char away[160], *id = NULL, *log;
	int before, status = 0;

	PROXY_NEEDED;
	pc_use("seal");
	p = pc_tenant("keyless");
	id = pc_scroll(&pc_at[0], p, 0);
	snprintf(away, sizeof(away), "%s.away", pc_keys);
	assert_int_equal(rename(pc_keys, away), 0);
	pc_use(NULL);
	pc_use("seal");
	before = pc_asked();
	NODE_EXPECT(&pc_at[0], 503, "no-key", .method = "POST", .path = "/i/_search?scroll=1m", .partition = p,
		    .body = "{}");
	NODE_EXPECT(&pc_at[0], 503, "no-key", .method = "POST", .path = "/i/_search/point_in_time?keep_alive=1m",
		    .partition = p);
	NODE_EXPECT(&pc_at[1], 503, "no-key", .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	NODE_EXPECT(&pc_at[1], 503, "no-key", .path = "/_search", .partition = p, .body = "{\"pit\":{\"id\":\"x\"}}");
	NODE_EXPECT(&pc_at[1], 503, "no-key", .method = "DELETE", .path = "/_search/scroll", .partition = p,
		    .body = NEXT(id));
	assert_int_equal(pc_asked(), before);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/i/_search", .partition = p);
	log = proxy_log(&proxy);
	assert_non_null(strstr(log, "No such file or directory: every cursor is refused"));
	free(log);
	assert_int_equal(rename(away, pc_keys), 0);
	for (uint64_t deadline = 0; status != 200 && within(&deadline);) {
		struct said s = NODE(&pc_at[1], .path = "/_search/scroll", .partition = p, .body = NEXT(id));

		status = s.status;
		said_free(&s);
	}
	assert_int_equal(status, 200);
	log = proxy_log(&proxy);
	assert_non_null(strstr(log, " read: cursors are sealed from now on"));
	free(log);
	free(id);
}

/* ---- off ------------------------------------------------------------------------------------------------------------ */

static void without_the_setting_ids_pass_and_follow_the_placement(void **state)
{
	const char *p;
	char *id;

	PROXY_NEEDED;
	pc_use(NULL);
	p = pc_tenant("off");
	id = pc_scroll(&pc_at[0], p, 0);
	NODE_EXPECT(&pc_at[1], 200, PORT(0), .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	assert_int_equal(strncmp(id, "DXF1", 4), 0);
	pc_move(p, "c2");
	NODE_EXPECT(&pc_at[1], 404, "has no context", .path = "/_search/scroll", .partition = p, .body = NEXT(id));
	free(id);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_binding_pins),
		cmocka_unit_test(an_id_is_found_at_its_place_alone),
		cmocka_unit_test(times_are_read_as_the_nodes_do),
		cmocka_unit_test(without_the_setting_ids_pass_and_follow_the_placement),
		cmocka_unit_test(every_changed_bit_of_an_envelope_is_refused),
		cmocka_unit_test(keys_rotate_under_way),
		cmocka_unit_test(without_a_key_every_cursor_is_refused),
		cmocka_unit_test(a_pin_runs_out_when_the_cursor_does),
		cmocka_unit_test(a_daemon_that_hangs_costs_a_worker_little),
		cmocka_unit_test(a_daemon_that_hangs_for_long_lets_a_probe_a_second_reach_the_nodes),
		cmocka_unit_test(without_the_daemon_what_is_pinned_goes_on_and_nothing_is_opened),
		cmocka_unit_test(pc_nothing_went_wrong),
	};

	return cmocka_run_group_tests(tests, pc_setup, pc_teardown);
}
