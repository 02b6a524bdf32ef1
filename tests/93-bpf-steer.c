/* SPDX-License-Identifier: MIT
 * Where steer finds the tenant of a request: in a header, by names of every length. Each case is also judged by the oracle
 * (packet_steer.h). Paths and what is done are 93-bpf-steer-verdicts.c's, frames 93-bpf-steer-frames.c's, chance
 * 93-bpf-steer-random.c's. */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shm/word.h"
#include "child.h"
#include "packet_steer.h"

#define LINE "GET /i/_search HTTP/1.1\r\n"
#define UMLAUTS "gr\303\266\303\237e"
#define HOST "Host: search.example.com\r\n"

struct scene {
	struct steer_place place; /* first: steer_place_open */
	struct steer header, segment;
	char t39[40], t40[41], t255[256];
};
static struct scene scene;

static int setup(void **state)
{
	struct steer_place *p = &scene.place;

	if (!steer_place_open(p, state))
		return 0;
	memset(scene.t39, 'k', 39);
	memset(scene.t40, 'k', 40);
	memset(scene.t255, 'k', 255);
	steer_put(p, "a", "c1", PHASE_SETTLED);
	steer_put(p, "acme", "c1", PHASE_SETTLED);
	steer_put(p, "globex", "c2", PHASE_SETTLED);
	steer_put(p, UMLAUTS, "c3", PHASE_SETTLED);
	steer_put(p, "a b", "c2", PHASE_SETTLED);
	steer_put(p, "!a !", "c2", PHASE_SETTLED);
	steer_put(p, scene.t39, "c3", PHASE_SETTLED);
	steer_put(p, scene.t40, "c1", PHASE_SETTLED);
	steer_put(p, scene.t255, "c2", PHASE_SETTLED);
	steer_open(&scene.header, p, &(struct oracle){.header = "X-Partition"}, false);
	steer_open(&scene.segment, p, &(struct oracle){.segment = 1}, false);
	return 0;
}

/* ---- headers ------------------------------------------------------------------------------------------------------ */

static void a_header_is_found_wherever_it_stands(void **state)
{
	struct scene *c = steer_needed(state);
	struct steer *s = &c->header;

	steer_expect(s, NULL, LINE "X-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE HOST "X-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition: acme\r\n" HOST "\r\n", "acme");
	steer_expect(s, NULL, LINE HOST "A: b\r\nX-Partition: acme\r\nAccept: */*\r\n\r\nbody", "acme");
	steer_expect(s, NULL, "GET / HTTP/1.0\nX-Partition: acme\n\n", "acme");
	steer_expect(s, NULL, LINE "x:y\r\na:\r\n:\r\nX-Partition:acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "x\n\rx\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition: acme\r\nX-Partition: globex\r\n\r\n", "acme");
}

static void its_case_and_the_blanks_around_its_value_do_not_matter(void **state)
{
	struct scene *c = steer_needed(state);
	struct steer *s = &c->header;

	steer_expect(s, NULL, LINE "x-partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-PARTITION: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "x-PaRtItIoN:acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition: \t acme\t \t\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition:          acme                       \r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition:\tacme\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition: a b \r\n\r\n", "a b");
	steer_expect(s, NULL, LINE "X-Partition:  !a !\r\n\r\n", "!a !"); /* a bit from a blank */
}

static void what_only_looks_like_it_is_not_it(void **state)
{
	struct scene *c = steer_needed(state);
	struct steer *s = &c->header;

	steer_expect(s, NULL, LINE "X-Other: X-Partition: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "Cookie: aaaaaX-Partition: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "Cookie: X-Partition: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partitions: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "XX-Partition: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partitio: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X\rPartition: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "X-Partition : globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, LINE "A: b\r\n X-Partition: globex\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect(s, NULL, "GET /X-Partition:globex HTTP/1.1\r\nX-Partition: acme\r\n\r\n", "acme");
	steer_expect_event(s, NULL, LINE HOST "\r\nX-Partition: acme\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, "PUT /i/_doc/1 HTTP/1.1\r\n\nX-Partition: acme\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE HOST "\r\n", MIRROR_EVENT_NO_TENANT);
}

static void a_value_in_doubt_names_no_tenant(void **state)
{
	struct scene *c = steer_needed(state);
	struct steer *s = &c->header;

	steer_expect_event(s, NULL, LINE "X-Partition:\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition: \t \r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition:\n\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition: ac\tme\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition: acme\r\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition: acme\x7f\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	/* a folded line */
	steer_expect_event(s, NULL, LINE "X-Partition: acme\r\n -corp\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition: acme\r\n\tcorp\r\n\r\n", MIRROR_EVENT_NO_TENANT);
	steer_expect_event(s, NULL, LINE "X-Partition: acme\r\n", MIRROR_EVENT_CUT);
}

static void a_header_at_the_end_of_the_window_is_found_and_one_behind_it_is_cut(void **state)
{
	enum { WINDOW = 1536 };
	static const char last[] = "\r\nX-Partition: acme\r\n\r\n";
	struct scene *c = steer_needed(state);
	struct steer *s = &c->header;
	char text[2 * WINDOW];

	for (size_t length = WINDOW - 64; length < WINDOW + 64; length++) { /* of all up to the line's end */
		int at = snprintf(text, sizeof(text), LINE "X-Long: ");
		struct steer_seen seen;

		memset(text + at, 'x', length - (size_t)at);
		memcpy(text + length - (sizeof(last) - 3), last, sizeof(last));
		seen = steer_request(s, NULL, text);
		/* the byte behind the line, too */
		assert_int_equal(seen.has_meta, length + 1 <= WINDOW);
		assert_int_equal(seen.event, length + 1 <= WINDOW ? -1 : MIRROR_EVENT_CUT);
	}
}

static void names_of_headers_are_of_any_length_up_to_32(void **state)
{
	struct scene *c = steer_needed(state);
	char name[STEER_NAME_MAX + 2] = "", request[256];
	struct steer_config config = {0};

	for (unsigned len = 1; len <= STEER_NAME_MAX; len++) {
		static struct steer s; /* the place closes it when this fails */

		for (unsigned i = 0; i < len; i++)
			name[i] = "xY-9"[i % 4];
		if (len % 5 > 1 && len != STEER_NAME_MAX)
			continue; /* around whole words, and some others */
		steer_open(&s, &c->place, &(struct oracle){.header = name}, false);
		snprintf(request, sizeof(request), LINE "%sx: globex\r\n%.*s: globex\r\n%s: acme\r\n\r\n", name,
			 (int)len - 1, name, name);
		steer_expect(&s, NULL, request, "acme");
		steer_close(&s);
	}
	assert_int_equal(steer_config_header(&config, name), 0);
	name[STEER_NAME_MAX] = 'x';
	assert_int_equal(steer_config_header(&config, name), -1);
	assert_int_equal(steer_config_header(&config, ""), -1);
	assert_int_equal(steer_config_header(&config, "x:"), -1);
	assert_int_equal(steer_config_header(&config, "x y"), -1);
	assert_int_equal(steer_config_header(&config, "x\xc3\xa4"), -1);
}

/* ---- tenants ------------------------------------------------------------------------------------------------------ */

static void tenants_of_every_length_are_told_from_their_neighbours(void **state)
{
	struct scene *c = steer_needed(state);
	char request[512];

	steer_expect(&c->header, NULL, LINE "X-Partition: a\r\n\r\n", "a");
	steer_expect(&c->header, NULL, LINE "X-Partition: " UMLAUTS "\r\n\r\n", UMLAUTS);
	snprintf(request, sizeof(request), LINE "X-Partition: %s\r\n\r\n", c->t39);
	steer_expect(&c->header, NULL, request, c->t39);
	snprintf(request, sizeof(request), LINE "X-Partition: %s\r\n\r\n", c->t40);
	steer_expect_event(&c->header, NULL, request, MIRROR_EVENT_KEY_LONG);
	snprintf(request, sizeof(request), LINE "X-Partition: %s\r\n\r\n", c->t255);
	steer_expect_event(&c->header, NULL, request, MIRROR_EVENT_KEY_LONG);
	for (unsigned len = 1; len < 39; len++) { /* none of these is placed but by the default */
		if (len == 1)
			continue;
		snprintf(request, sizeof(request), LINE "X-Partition: %.*s\r\n\r\n", (int)len, c->t39);
		steer_expect_event(&c->header, NULL, request, MIRROR_EVENT_UNKNOWN);
		snprintf(request, sizeof(request), "GET /%.*s/_search HTTP/1.1\r\n\r\n", (int)len, c->t39);
		steer_expect_event(&c->segment, NULL, request, MIRROR_EVENT_UNKNOWN);
	}
	snprintf(request, sizeof(request), "GET /%s HTTP/1.1\r\n\r\n", c->t39);
	steer_expect(&c->segment, NULL, request, c->t39);
	snprintf(request, sizeof(request), "GET /%s HTTP/1.1\r\n\r\n", c->t40);
	steer_expect_event(&c->segment, NULL, request, MIRROR_EVENT_KEY_LONG);
	snprintf(request, sizeof(request), "GET /%s HTTP/1.1\r\n\r\n", c->t255);
	steer_expect_event(&c->segment, NULL, request, MIRROR_EVENT_KEY_LONG);
}

static void the_default_answers_who_has_no_placement(void **state)
{
	struct scene *c = steer_needed(state);

	steer_expect_event(&c->header, NULL, LINE "X-Partition: nobody\r\n\r\n", MIRROR_EVENT_UNKNOWN);
	wire_do(&c->place.admin, "default.set", "{s:{s:s,s:s}}", "placement", "mode", "dedicated-cluster", "cluster",
		"c4");
	steer_expect(&c->header, NULL, LINE "X-Partition: nobody\r\n\r\n", NULL);
	steer_expect(&c->header, NULL, LINE "X-Partition: acme\r\n\r\n", "acme");
	steer_expect_event(&c->header, NULL, LINE HOST "\r\n", MIRROR_EVENT_NO_TENANT);
	wire_do(&c->place.admin, "default.unset", NULL);
	steer_expect_event(&c->header, NULL, LINE "X-Partition: nobody\r\n\r\n", MIRROR_EVENT_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_is_found_wherever_it_stands),
		cmocka_unit_test(its_case_and_the_blanks_around_its_value_do_not_matter),
		cmocka_unit_test(what_only_looks_like_it_is_not_it),
		cmocka_unit_test(a_value_in_doubt_names_no_tenant),
		cmocka_unit_test(a_header_at_the_end_of_the_window_is_found_and_one_behind_it_is_cut),
		cmocka_unit_test(names_of_headers_are_of_any_length_up_to_32),
		cmocka_unit_test(tenants_of_every_length_are_told_from_their_neighbours),
		cmocka_unit_test(the_default_answers_who_has_no_placement),
	};

	return cmocka_run_group_tests(tests, setup, steer_place_close);
}
