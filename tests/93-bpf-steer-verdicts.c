/* SPDX-License-Identifier: MIT
 * Where steer finds the tenant in a path, and what it does with a request: for each placement's phase, method and search;
 * what is no request. Each case is also judged by the oracle (packet_steer.h). */
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>

#include "../shm/word.h"
#include "packet_steer.h"

#define UMLAUTS "gr\303\266\303\237e"

struct scene {
	struct steer_place place; /* first: steer_place_open */
	struct steer header, gated, segment[5];
};
static struct scene scene;

static int setup(void **state)
{
	struct steer_place *p = &scene.place;

	if (!steer_place_open(p, state))
		return 0;
	steer_put(p, "acme", "c1", PHASE_SETTLED);
	steer_put(p, "globex", "c2", PHASE_SETTLED);
	steer_put(p, "drains", "c2", PHASE_DRAINING);
	steer_put(p, "cuts", "c3", PHASE_CUTOVER);
	steer_put(p, UMLAUTS, "c3", PHASE_SETTLED);
	steer_open(&scene.header, p, &(struct oracle){.header = "X-Partition"}, false);
	steer_open(&scene.gated, p, &(struct oracle){.header = "X-Partition"}, true);
	for (unsigned i = 1; i <= 4; i++)
		steer_open(&scene.segment[i], p, &(struct oracle){.segment = i}, false);
	return 0;
}

/* ---- paths -------------------------------------------------------------------------------------------------------- */

static void a_segment_of_the_path_names_the_tenant(void **state)
{
	struct scene *c = steer_needed(state);

	steer_expect(&c->segment[1], NULL, "GET /acme HTTP/1.1\r\n\r\n", "acme");
	steer_expect(&c->segment[1], NULL, "GET /acme/ HTTP/1.1\r\n\r\n", "acme");
	steer_expect(&c->segment[1], NULL, "GET /acme?x=/globex HTTP/1.1\r\n\r\n", "acme");
	steer_expect(&c->segment[1], NULL, "PUT /acme/_doc/a%20b HTTP/1.1\r\nHost: x\r\n", "acme");
	steer_expect(&c->segment[1], NULL, "GET /" UMLAUTS "/x HTTP/1.1\n", UMLAUTS);
	steer_expect(&c->segment[2], NULL, "GET /globex/acme/x HTTP/1.1\r\n\r\n", "acme");
	steer_expect(&c->segment[3], NULL, "GET /x/globex/acme HTTP/1.1\r\n\r\n", "acme");
	steer_expect(&c->segment[4], NULL, "DELETE /t/some-quite-long-segment/z/acme/_doc/1 HTTP/1.1\r\n\r\n", "acme");
	steer_expect_event(&c->segment[2], NULL, "GET /acme HTTP/1.1\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(&c->segment[2], NULL, "GET /x?/acme HTTP/1.1\r\n\r\n", MIRROR_EVENT_NO_TENANT);
}

static void a_path_in_doubt_names_no_tenant(void **state)
{
	static const char *const paths[] = {"/",
					    "/?acme",
					    "//acme",
					    "/./acme",
					    "/../acme",
					    "/acm%65/x/y/z",
					    "/x/%2e/acme/acme",
					    "/acme%",
					    "/acme#x/acme/acme/acme",
					    "/acme\x01/acme/acme/acme",
					    "/ac\x7fme",
					    "acme",
					    "*",
					    "http://acme/acme/acme/acme",
					    "/x/../acme/acme",
					    "/x//acme/acme",
					    "/\tacme/acme/acme/acme"};
	struct scene *c = steer_needed(state);
	char request[128];

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n\r\n", paths[i]);
		for (unsigned n = 1; n <= 4; n++)
			assert_false(steer_request(&c->segment[n], NULL, request).has_meta);
	}
}

/* ---- what is done ------------------------------------------------------------------------------------------------- */

static void each_phase_and_method_gets_its_due(void **state)
{
	static const struct {
		const char *line;
		bool write;
	} lines[] = {{"GET /i/_doc/1", false},
		     {"HEAD /i", false},
		     {"OPTIONS *", false},
		     {"TRACE /", false},
		     {"POST /i/_doc", true},
		     {"PUT /i/_doc/1", true},
		     {"DELETE /i", true},
		     {"PATCH /i", true},
		     {"CONNECT x:1", true},
		     {"get /i", true},
		     {"GETS /i", true},
		     {"PROPPATCH /i", true},
		     {"VERSION-CONTROL /i", true},
		     {"X!#$%&'*+-.^_`|~9z /i", true},
		     {"POST /i/_search", false},
		     {"POST /i/_search?q=a", false},
		     {"POST /_search/scroll", false},
		     {"DELETE /_search/scroll", false},
		     {"POST /_msearch", false},
		     {"POST /i/_search_shards", false},
		     {"POST /i/_field_caps?fields=_doc", false},
		     {"POST /i/_searches", true},
		     {"POST /i/_sear%63h", true},
		     {"POST /i/._search", true},
		     {"POST /i/._x/_search", false},
		     {"POST /i/_doc?_search", true},
		     {"POST /i/_doc?x=/_search", true},
		     {"PUT /i/_search", true},
		     {"POST /_bulk", true}};
	static const char *const tenants[] = {"acme", "drains", "cuts"};
	struct scene *c = steer_needed(state);
	char request[256];

	for (size_t l = 0; l < sizeof(lines) / sizeof(lines[0]); l++)
		for (unsigned phase = 0; phase < 3; phase++) {
			uint64_t word = bpf_view_find(&c->place.view, tenants[phase], strlen(tenants[phase]), NULL);
			unsigned cluster = word_cluster(word);
			struct mirror_counts was = steer_counts(&c->place, cluster, phase), is;
			bool held = phase == PHASE_CUTOVER && lines[l].write;

			assert_int_equal(word_phase(word), phase);
			snprintf(request, sizeof(request), "%s HTTP/1.1\r\nX-Partition: %s\r\n\r\n", lines[l].line,
				 tenants[phase]);
			steer_expect(&c->header, NULL, request, tenants[phase]);
			is = steer_counts(&c->place, cluster, phase);
			assert_int_equal(is.packets - was.packets, 1);
			assert_int_equal(is.bytes - was.bytes, strlen(request) + 54);
			assert_int_equal(is.requests - was.requests, 1);
			assert_int_equal(is.writes - was.writes, lines[l].write);
			assert_int_equal(is.held - was.held, 0);

			was = is;
			if (held)
				assert_int_equal(steer_request(&c->gated, NULL, request).action, XDP_DROP);
			else
				steer_expect(&c->gated, NULL, request, tenants[phase]);
			is = steer_counts(&c->place, cluster, phase);
			assert_int_equal(is.packets - was.packets, 1);
			assert_int_equal(is.requests - was.requests, !held);
			assert_int_equal(is.writes - was.writes, lines[l].write && !held);
			assert_int_equal(is.held - was.held, held);
		}
	assert_int_equal(c->place.view.control->gated, 0);
}

static void a_search_is_a_read_though_it_is_a_post(void **state)
{
	static const char *const names[] = {
		"_search",  "_msearch",     "_count",        "_mget",      "_pit",     "_field_caps",    "_validate",
		"_explain", "_termvectors", "_mtermvectors", "_rank_eval", "_analyze", "_search_shards", "_render"};
	static const char *const behind[] = {"", "/x", "?x", "/"};
	struct scene *c = steer_needed(state);
	struct steer *s = &c->gated;
	char request[512], path[256];

	memset(path, 'p', sizeof(path));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		for (size_t b = 0; b < sizeof(behind) / sizeof(behind[0]); b++)
			for (int before = 0; before < 9; before++) {
				snprintf(request, sizeof(request),
					 "POST /%.*s/%s%s HTTP/1.1\r\nX-Partition: cuts\r\n\r\n", before, path,
					 names[i], behind[b]);
				steer_expect(s, NULL, request, "cuts");
			}
	for (int before = 245; before < 256; before++) { /* its underscore has the number before + 2 */
		snprintf(request, sizeof(request), "POST /%.*s/_search HTTP/1.1\r\nX-Partition: cuts\r\n\r\n", before,
			 path);
		assert_int_equal(steer_request(s, NULL, request).action, before + 2 <= 256 ? XDP_PASS : XDP_DROP);
	}
}

static void what_is_no_request_passes(void **state)
{
	static const char *const texts[] = {"\x16\x03\x01\x02",
					    " / HTTP/1.1\r\n\r\n",
					    "\r\nGET / HTTP/1.1\r\n\r\n",
					    "GET  HTTP/1.1\r\n\r\n",
					    "GET / HTTP/2.0\r\n\r\n",
					    "GET / HTTP/1.\r\n\r\n",
					    "GET / HTTP/1.x\r\n\r\n",
					    "GET /\r\n\r\n",
					    "GET / http/1.1\r\n\r\n",
					    "GET /HTTP/1.1\r\n\r\n",
					    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
					    "GE(T / HTTP/1.1\r\n\r\n",
					    "METHOD-OF-24-CHARACTERS- / HTTP/1.1\r\n\r\n",
					    "HTTP/1.1 200 OK\r\n\r\n",
					    "{\"a\": 1}\n",
					    "\xff\xff\xff\xff\xff\xff\xff\xff\xff"};
	struct scene *c = steer_needed(state);

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		steer_expect_event(&c->gated, NULL, texts[i], MIRROR_EVENT_NOT_HTTP);
		steer_expect_event(&c->segment[1], NULL, texts[i], MIRROR_EVENT_NOT_HTTP);
	}
	steer_expect(&c->gated, NULL, "METHOD-OF-23-CHARACTERS / HTTP/1.9\r\nX-Partition: acme\r\n\r\n", "acme");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_segment_of_the_path_names_the_tenant),
		cmocka_unit_test(a_path_in_doubt_names_no_tenant),
		cmocka_unit_test(each_phase_and_method_gets_its_due),
		cmocka_unit_test(a_search_is_a_read_though_it_is_a_post),
		cmocka_unit_test(what_is_no_request_passes),
	};

	return cmocka_run_group_tests(tests, setup, steer_place_close);
}
