/* SPDX-License-Identifier: MIT
 * How steer finds the request in a frame, whatever lies around it; metadata and marks; pieces of requests. Each run is
 * also judged by the oracle (packet_steer.h). */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdio.h>
#include <string.h>

#include "../shm/word.h"
#include "child.h"
#include "packet_steer.h"

#define REQUEST \
	"POST /acme/_doc HTTP/1.1\r\nHost: search.example.com:9200\r\nAccept: */*\r\nX-Partition: acme\r\n" \
	"Content-Length: 2\r\n\r\n{}"

struct scene {
	struct steer_place place; /* first: steer_place_open */
	struct steer header, segment, port;
};
static struct scene scene;

static int setup(void **state)
{
	struct steer_place *p = &scene.place;

	if (!steer_place_open(p, state))
		return 0;
	/* beginnings of one another: what is cut off must not answer */
	steer_put(p, "a", "c1", PHASE_SETTLED);
	steer_put(p, "ac", "c2", PHASE_SETTLED);
	steer_put(p, "acm", "c3", PHASE_SETTLED);
	steer_put(p, "acme", "c4", PHASE_DRAINING);
	steer_open(&scene.header, p, &(struct oracle){.header = "X-Partition"}, true);
	steer_open(&scene.segment, p, &(struct oracle){.segment = 1}, true);
	steer_open(&scene.port, p, &(struct oracle){.segment = 1, .port = 9200}, true);
	return 0;
}

static const struct shape found[] = {
	{.vlans = 0},
	{.vlans = 1},
	{.vlans = 2},
	{.ip_options = 4},
	{.ip_options = 40},
	{.tcp_options = 12},
	{.tcp_options = 40},
	{.vlans = 2, .ip_options = 40, .tcp_options = 40},
	{.padding = 46},
	{.fragment = 0x4000}, /* may not be fragmented: is none */
	{.ip6 = true},
	{.ip6 = true, .vlans = 1},
	{.ip6 = true, .vlans = 2, .tcp_options = 40},
	{.ip6 = true, .extensions = "h"},
	{.ip6 = true, .extensions = "r", .extension_bytes = 24},
	{.ip6 = true, .extensions = "d"},
	{.ip6 = true, .extensions = "hdrd", .tcp_options = 12},
	{.ip6 = true, .extensions = "d", .extension_bytes = 392, .tcp_options = 40, .padding = 3},
};
static const struct shape passed[] = {
	{.vlans = 3},
	{.fragment = 0x2000}, /* the first one */
	{.fragment = 0x0001}, /* a later one */
	{.protocol = 17},
	{.ether = 0x0806},
	{.ether = 0x86dd},
	{.ip6 = true, .ether = 0x0800},
	{.ip6 = true, .extensions = "f"},
	{.ip6 = true, .extensions = "hf"},
	{.ip6 = true, .extensions = "hhhhh"},
	{.ip6 = true, .extensions = "d", .extension_bytes = 400}, /* further back than is looked */
	{.ip6 = true, .protocol = 59},
};

static void a_request_is_found_behind_every_header(void **state)
{
	struct scene *c = steer_needed(state);

	for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); i++) {
		steer_expect(&c->header, &found[i], REQUEST, "acme");
		steer_expect(&c->segment, &found[i], REQUEST, "acme");
	}
}

static void other_packets_pass(void **state)
{
	struct scene *c = steer_needed(state);

	for (size_t i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
		steer_expect_event(&c->segment, &passed[i], REQUEST, MIRROR_EVENT_NOT_HTTP);
	/* without a payload; the frame's padding is none */
	for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); i++) {
		struct shape s = found[i];

		s.padding = 100;
		steer_expect_event(&c->segment, &s, "", MIRROR_EVENT_NOT_HTTP);
	}
}

static void one_port_is_steered_when_one_is_named(void **state)
{
	struct scene *c = steer_needed(state);

	steer_expect(&c->port, &(struct shape){.port = 9200}, REQUEST, "acme");
	steer_expect_event(&c->port, &(struct shape){.port = 9201}, REQUEST, MIRROR_EVENT_NOT_HTTP);
	steer_expect(&c->segment, &(struct shape){.port = 9201}, REQUEST, "acme");
}

/* Lengths that lie, and frames that end early, at every byte. */
static void a_frame_that_ends_anywhere_is_no_other_request(void **state)
{
	struct scene *c = steer_needed(state);

	for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); i++) {
		struct frame f;

		frame_make(&f, &found[i], REQUEST, strlen(REQUEST));
		for (size_t len = 14; len < f.payload + 20; len++)
			assert_false(steer_run(&c->segment, f.bytes, len).has_meta);
		assert_false(steer_run(&c->header, f.bytes, f.len - found[i].padding - 1).has_meta);
	}
}

/* The same request, cut by TCP at every byte: the first piece answers only when the tenant's line is in it, whole, and
 * never for a shorter name; the second is no request. */
static void a_request_in_two_pieces_is_steered_by_the_first_or_not_at_all(void **state)
{
	static const struct shape *const shapes[] = {&found[0], &found[7], &found[16]};
	static const char *const requests[] = {
		REQUEST,
		"GET /acme HTTP/1.1\r\nX-Partition: acme\r\n\r\n",
		"X /acme/x HTTP/1.0\nx-partition:acme\n\n",
		"DELETE /acme/_search/scroll HTTP/1.1\r\nA: b\r\nX-PARTITION:\t acme\t\t\t\t\t\t\t\t\t\r\nB: c\n\n",
	};
	struct scene *c = steer_needed(state);

	for (size_t r = 0; r < sizeof(requests) / sizeof(requests[0]); r++) {
		const char *line = strchr(requests[r], '\n') + 1, *field = strstr(line, "acme");
		size_t len = strlen(requests[r]), line_len = (size_t)(line - requests[r]);
		size_t field_len = (size_t)(strchr(field, '\n') + 1 - requests[r]);

		for (size_t cut = 1; cut < len; cut++)
			for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
				struct steer_seen seen;
				struct frame f;

				frame_make(&f, shapes[i], requests[r], cut);
				seen = steer_run(&c->segment, f.bytes, f.len);
				assert_int_equal(seen.event, cut < line_len ? MIRROR_EVENT_CUT : -1);
				assert_int_equal(seen.meta.phase, cut < line_len ? 0 : PHASE_DRAINING);
				seen = steer_run(&c->header, f.bytes, f.len);
				assert_int_equal(seen.event, cut <= field_len ? MIRROR_EVENT_CUT : -1);
				assert_int_equal(seen.meta.phase, cut <= field_len ? 0 : PHASE_DRAINING);

				frame_make(&f, shapes[i], requests[r] + cut, len - cut);
				assert_false(cut > 6 && steer_run(&c->header, f.bytes, f.len).has_meta);
			}
	}
}

/* A run on a frame in front of which an earlier program put n bytes, each 'E'. The bytes of metadata afterwards; -1: this
 * kernel does not run it. */
static int behind_metadata(struct steer *s, unsigned n, unsigned char bytes[4096])
{
	unsigned char in[4096];
	struct xdp_md ctx = {.data = n}, out = {0};
	struct frame f;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = in, .data_out = bytes, .data_size_out = 4096, .ctx_in = &ctx,
		    .ctx_size_in = sizeof(ctx), .ctx_out = &out, .ctx_size_out = sizeof(out));

	frame_make(&f, &found[0], REQUEST, strlen(REQUEST));
	memset(in, 'E', n);
	memcpy(in + n, f.bytes, f.len);
	ctx.data_end = opts.data_size_in = (__u32)f.len + n;
	if (bpf_prog_test_run_opts(s->fd, &opts) != 0)
		return -1;
	assert_int_equal(opts.retval, XDP_PASS);
	assert_memory_equal(bytes + (out.data - out.data_meta), f.bytes, f.len);
	return (int)(out.data - out.data_meta);
}

static void metadata_of_an_earlier_program_stays_behind_ours(void **state)
{
	struct scene *c = steer_needed(state);
	unsigned char bytes[4096];
	struct steer_meta meta;
	int n = behind_metadata(&c->header, 8, bytes);

	if (n < 0)
		SKIP("this kernel runs no XDP program on metadata: %s", strerror(errno));
	assert_int_equal(n, 8 + sizeof(meta));
	memcpy(&meta, bytes, sizeof(meta));
	assert_int_equal(meta.magic, STEER_META_MAGIC);
	assert_int_equal(meta.phase, PHASE_DRAINING);
	assert_memory_equal(bytes + sizeof(meta), "EEEEEEEE", 8);
}

static void a_request_passes_without_metadata_where_there_is_no_room(void **state)
{
	struct scene *c = steer_needed(state);
	uint64_t no_meta = steer_events(&c->place, MIRROR_EVENT_NO_META);
	unsigned char bytes[4096];
	unsigned n_full = 0;

	for (unsigned n = 4; n <= 252; n += 4) { /* how much there is room for depends on the kernel */
		int now = behind_metadata(&c->header, n, bytes);

		if (now < 0)
			continue;
		assert_true(now == (int)n || now == (int)(n + sizeof(struct steer_meta)));
		if (now == (int)n) {
			n_full++;
			assert_int_equal(bytes[0], 'E');
		}
	}
	if (n_full == 0)
		SKIP("this kernel runs no XDP program on so much metadata that there is no room for more");
	assert_int_equal(steer_events(&c->place, MIRROR_EVENT_NO_META) - no_meta, n_full);
}

static void a_frame_without_metadata_keeps_its_mark(void **state)
{
	struct scene *c = steer_needed(state);
	struct __sk_buff in = {.mark = 5}, out = {0};
	struct frame f;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = f.bytes, .ctx_in = &in, .ctx_size_in = sizeof(in),
		    .ctx_out = &out, .ctx_size_out = sizeof(out));

	frame_make(&f, &found[0], REQUEST, strlen(REQUEST));
	opts.data_size_in = (__u32)f.len;
	assert_int_equal(bpf_prog_test_run_opts(c->header.mark_fd, &opts), 0);
	assert_int_equal((int)opts.retval, TC_ACT_UNSPEC);
	assert_int_equal(out.mark, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_is_found_behind_every_header),
		cmocka_unit_test(other_packets_pass),
		cmocka_unit_test(one_port_is_steered_when_one_is_named),
		cmocka_unit_test(a_frame_that_ends_anywhere_is_no_other_request),
		cmocka_unit_test(a_request_in_two_pieces_is_steered_by_the_first_or_not_at_all),
		cmocka_unit_test(metadata_of_an_earlier_program_stays_behind_ours),
		cmocka_unit_test(a_request_passes_without_metadata_where_there_is_no_room),
		cmocka_unit_test(a_frame_without_metadata_keeps_its_mark),
	};

	return cmocka_run_group_tests(tests, setup, steer_place_close);
}
