/* SPDX-License-Identifier: MIT
 * steer and the oracle (packet_oracle.h) judge frames that chance made: requests put together from pieces, then spoiled,
 * in frames of any shape, which are spoiled too. They agree on each. BERTH_SEED repeats a run; BERTH_LONG=1 makes more. */
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../shm/word.h"
#include "child.h"
#include "packet_steer.h"

#define N_TENANTS 120
#define N_PROGRAMS 6

static struct steer_place place;
static struct steer programs[N_PROGRAMS];
static char tenants[N_TENANTS][40];
static uint64_t state_of_chance;

static unsigned chance(unsigned n)
{
	state_of_chance ^= state_of_chance << 13;
	state_of_chance ^= state_of_chance >> 7;
	state_of_chance ^= state_of_chance << 17;
	return (unsigned)(state_of_chance >> 33) % n;
}

static int setup(void **state)
{
	static const struct oracle oracles[N_PROGRAMS] = {
		{.header = "X-Partition"}, {.header = "X-T"}, {.segment = 1}, {.segment = 2}, {.segment = 3},
		{.segment = 1, .port = 80}};
	if (!steer_place_open(&place, state))
		return 0;
	for (unsigned i = 0; i < N_TENANTS; i++) {
		unsigned len = 1 + i % 39;

		for (unsigned b = 0; b < len; b++) /* one begins as the next one does */
			tenants[i][b] = "abcdefghijklmnopqrstuvwxyz"[b % 26];
		tenants[i][len - 1] = "0123"[i / 39];
		steer_put(&place, tenants[i], i % 2 ? "c1" : "c2", i % 3);
	}
	for (unsigned i = 0; i < N_PROGRAMS; i++)
		steer_open(&programs[i], &place, &oracles[i], i % 2 == 0);
	return 0;
}

/* ---- texts by chance ---------------------------------------------------------------------------------------------- */

struct text {
	char bytes[2000];
	size_t len;
};

static void add(struct text *t, const char *bytes, size_t n)
{
	if (t->len + n > sizeof(t->bytes))
		n = sizeof(t->bytes) - t->len;
	memcpy(t->bytes + t->len, bytes, n);
	t->len += n;
}

static void add_text(struct text *t, const char *text)
{
	add(t, text, strlen(text));
}

static void add_one_of(struct text *t, const char *const *texts, unsigned n)
{
	add_text(t, texts[chance(n)]);
}
#define ADD_ONE_OF(t, ...) \
	do { \
		static const char *const texts[] = {__VA_ARGS__}; \
		add_one_of(t, texts, sizeof(texts) / sizeof(texts[0])); \
	} while (0)

static void add_tenant(struct text *t)
{
	if (chance(8))
		add_text(t, tenants[chance(N_TENANTS)]);
	else
		ADD_ONE_OF(t, "", ".", "..", "nobody", "a b", "a%20b", "a,b", "\xc3\xa4", "a\tb",
			   "forty-bytes-forty-bytes-forty-bytes-40-b", "\x7f", "a#", "!", " !a !");
}

static void add_long(struct text *t, unsigned n)
{
	while (n--)
		add(t, &"xyz/ :_-"[chance(8)], 1);
}

static void add_path(struct text *t)
{
	for (unsigned n = chance(4) + 1; n; n--) {
		add_text(t, chance(30) ? "/" : "//");
		if (chance(3))
			add_tenant(t);
		else
			ADD_ONE_OF(t, "_doc", "_search", "_bulk", "_msearch", "_count", "_search_shards", "_searches",
				   "_mtermvectors", "_field_caps", "%5fsearch", "index-name-of-some-length", "_all");
	}
	if (!chance(3))
		ADD_ONE_OF(t, "?q=a", "?x=/_search", "/", "?", " ", "#x", "?/a/b/c");
	if (!chance(60))
		add_long(t, chance(1500));
}

static void add_line_end(struct text *t)
{
	add_text(t, chance(12) ? "\r\n" : chance(4) ? "\n" : chance(2) ? "\r\r\n" : "\n\n");
}

static void add_request(struct text *t)
{
	ADD_ONE_OF(t, "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH", "get", "GETX",
		   "VERSION-CONTROL", "PROPFIND", "A-METHOD-OF-23-LETTERS_", "A-METHOD-OF-24-LETTERS__", "");
	add_text(t, chance(40) ? " " : "  ");
	add_path(t);
	if (chance(6))
		add_text(t, " HTTP/1.1");
	else
		ADD_ONE_OF(t, " HTTP/1.0", " HTTP/2.0", " HTTP/1.x", "");
	add_line_end(t);
	for (unsigned n = chance(6); n; n--) {
		ADD_ONE_OF(t, "Host", "A", "X-Partition", "x-partition", "X-PARTITION", "X-T", "x-t", "X-Tt",
			   "X-Partitio", "X-Partition ", " X-Partition", "\tx", "",
			   "X-Long-Name-Of-A-Header-That-Nobody-Has-Seen");
		add_text(t, chance(20) ? ":" : "");
		ADD_ONE_OF(t, " ", " ", " ", "", "\t", " \t  ", "         ", "X-Partition: ");
		if (chance(2))
			add_tenant(t);
		else
			add_long(t, chance(40));
		if (!chance(50))
			add_long(t, chance(1400));
		ADD_ONE_OF(t, "", "", "", " ", "\t", "            ");
		add_line_end(t);
	}
	if (chance(4))
		add_text(t, "\r\n");
}

/* A few bytes changed, taken out, or put in; the end cut off. */
static void spoil(char *bytes, size_t *len, size_t from)
{
	for (unsigned n = chance(4); n && *len > from; n--) {
		size_t at = from + chance((unsigned)(*len - from));

		switch (chance(5)) {
		case 0:
			bytes[at] = (char)chance(256);
			break;
		case 1:
			bytes[at] = "\r\n \t:/?%#_.\0\x7f"[chance(13)];
			break;
		case 2:
			memmove(bytes + at, bytes + at + 1, *len - at - 1);
			--*len;
			break;
		case 3:
			bytes[at] = (char)(bytes[at] ^ 0x20);
			break;
		case 4:
			*len = at;
			break;
		}
	}
}

/* ---- the test ----------------------------------------------------------------------------------------------------- */

static void program_and_oracle_agree_on_whatever_comes(void **state)
{
	unsigned n = getenv("BERTH_LONG") ? 500000 : 30000, n_found = 0, n_dropped = 0, n_events[MIRROR_EVENTS] = {0};
	const char *seed = getenv("BERTH_SEED");

	steer_needed(state);
	state_of_chance = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) * 1000003 + (uint64_t)getpid();
	printf("note: seed %llu (BERTH_SEED repeats it)\n", (unsigned long long)state_of_chance);
	fflush(stdout);
	if (state_of_chance == 0)
		state_of_chance = 1;
	for (unsigned i = 0; i < n; i++) {
		static const char *const extensions[] = {"", "", "h", "r", "dd", "hrdd", "f", "hhhhh"};
		struct shape shape = {.port = 80};
		struct text t = {.len = 0};
		struct steer_seen seen;
		struct frame f;

		add_request(&t);
		if (!chance(3))
			spoil(t.bytes, &t.len, 0);
		if (!chance(4))
			shape = (struct shape){.vlans = chance(4),
					       .ip6 = chance(2),
					       .ip_options = chance(11) * 4,
					       .extensions = extensions[chance(8)],
					       .extension_bytes = (chance(8) + 1) * 8,
					       .tcp_options = chance(11) * 4,
					       .padding = chance(50),
					       .port = (uint16_t)(80 + chance(2))};
		frame_make(&f, &shape, t.bytes, t.len);
		if (!chance(4))
			spoil((char *)f.bytes, &f.len, 14); /* a shorter frame is none to the kernel */
		if (!chance(100))
			f.bytes[12 + chance(2)] = (unsigned char)chance(256);
		seen = steer_run(&programs[chance(N_PROGRAMS)], f.bytes, f.len);
		n_found += seen.has_meta;
		n_dropped += seen.action == XDP_DROP;
		if (seen.event >= 0)
			n_events[seen.event]++;
	}
	printf("%u frames: %u steered, %u held, %u not HTTP, %u cut, %u no tenant, %u long, %u unknown\n", n, n_found,
	       n_dropped, n_events[MIRROR_EVENT_NOT_HTTP], n_events[MIRROR_EVENT_CUT], n_events[MIRROR_EVENT_NO_TENANT],
	       n_events[MIRROR_EVENT_KEY_LONG], n_events[MIRROR_EVENT_UNKNOWN]);
	/* chance has seen all of it */
	assert_true(n_found > n / 20 && n_dropped > n / 500 && n_events[MIRROR_EVENT_NOT_HTTP] > n / 20 &&
		    n_events[MIRROR_EVENT_CUT] > n / 50 && n_events[MIRROR_EVENT_NO_TENANT] > n / 20 &&
		    n_events[MIRROR_EVENT_KEY_LONG] > n / 1000 && n_events[MIRROR_EVENT_UNKNOWN] > n / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(program_and_oracle_agree_on_whatever_comes),
	};

	return cmocka_run_group_tests(tests, setup, steer_place_close);
}
