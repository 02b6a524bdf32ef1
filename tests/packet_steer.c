/* SPDX-License-Identifier: MIT
 * steer on single frames: packet_steer.h. */
#include "packet_steer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../bpf/programs.h"
#include "../shm/word.h"

#define PROCESSORS_MAX 1024

bool steer_place_open(struct steer_place *p, void **state)
{
	*state = p;
	memset(p, 0, sizeof(*p));
	bpf_place_make(&p->bpf, "memory");
	if (!p->bpf.able)
		return false;
	daemon_start(&p->bpf.d, "--bpf", NULL);
	wire_open(&p->admin, &p->bpf.d, WIRE_ADMIN);
	for (unsigned i = 1; i <= 4; i++) {
		char id[8], endpoint[32];

		snprintf(id, sizeof(id), "c%u", i);
		snprintf(endpoint, sizeof(endpoint), "http://10.0.0.%u:9200", i);
		bpf_cluster(&p->admin, id, endpoint);
	}
	bpf_view_open(&p->bpf, &p->view);
	p->events_fd = bpf_pinned(&p->bpf, "events");
	p->stats_fd = bpf_pinned(&p->bpf, "stats");
	return true;
}

int steer_place_close(void **state)
{
	struct steer_place *p = *state;

	while (p->steers)
		steer_close(p->steers);
	if (p->bpf.able) {
		close(p->stats_fd);
		close(p->events_fd);
		bpf_view_close(&p->view);
		wire_close(&p->admin);
	}
	bpf_place_remove(&p->bpf);
	return 0;
}

void *steer_needed(void **state)
{
	const struct steer_place *p = *state;

	bpf_needed(&p->bpf);
	return *state;
}

void steer_put(struct steer_place *p, const char *partition, const char *cluster, unsigned phase)
{
	bpf_put(&p->admin, partition, cluster);
	if (phase != PHASE_SETTLED)
		wire_do(&p->admin, "begin", "{s:s, s:{s:s}}", "partition", partition, "to", "cluster",
			strcmp(cluster, "c4") == 0 ? "c1" : "c4");
	if (phase == PHASE_CUTOVER)
		wire_do(&p->admin, "cutover", "{s:s}", "partition", partition);
	bpf_view_again(&p->bpf, &p->view); /* the table may have grown */
}

/* ---- one configuration -------------------------------------------------------------------------------------------- */

static int program_fd(const struct bpf_object *object, const char *name)
{
	const struct bpf_program *program = bpf_object__find_program_by_name(object, name);

	if (!program || bpf_program__fd(program) < 0)
		fail_msg("the object has no program %s", name);
	return bpf_program__fd(program);
}

static void configure(struct bpf_object *object, const struct steer_config *config)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, object)
	{
		if (strstr(bpf_map__name(map), ".rodata")) {
			assert_int_equal(bpf_map__set_initial_value(map, config, sizeof(*config)), 0);
			return;
		}
	}
	fail_msg("the object has no configuration");
}

void steer_open(struct steer *s, struct steer_place *p, const struct oracle *oracle, bool gate)
{
	struct steer_config config = {.gate = gate, .port = oracle->port};
	char text[512];

	*s = (struct steer){.place = p, .next = p->steers, .oracle = *oracle, .gate = gate};
	p->steers = s;
	s->object = bpf_object__open_file(daemon_program("bpf/steer.bpf.o"), NULL);
	if (!s->object)
		fail_msg("bpf/steer.bpf.o: %s", strerror(errno));
	if (oracle->header) {
		assert_int_equal(steer_config_header(&config, oracle->header), 0);
	} else {
		config.mode = STEER_SEGMENT;
		config.segment = oracle->segment;
	}
	configure(s->object, &config);
	if (programs_use_mirror(s->object, p->bpf.pins, text, sizeof(text)) != 0)
		fail_msg("%s", text);
	assert_int_equal(bpf_object__load(s->object), 0);
	s->fd = program_fd(s->object, "steer");
	s->mark_fd = program_fd(s->object, "steer_mark");
}

void steer_close(struct steer *s)
{
	struct steer **at = &s->place->steers;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	bpf_object__close(s->object);
	s->object = NULL;
}

/* ---- counts ------------------------------------------------------------------------------------------------------- */

static unsigned processors(void)
{
	int n = libbpf_num_possible_cpus();

	assert_in_range(n, 1, PROCESSORS_MAX);
	return (unsigned)n;
}

uint64_t steer_events(const struct steer_place *p, enum mirror_event event)
{
	static __u64 each[PROCESSORS_MAX];
	__u32 key = event;
	uint64_t sum = 0;

	assert_int_equal(bpf_map_lookup_elem(p->events_fd, &key, each), 0);
	for (unsigned i = 0; i < processors(); i++)
		sum += each[i];
	return sum;
}

struct mirror_counts steer_counts(const struct steer_place *p, unsigned cluster, unsigned phase)
{
	static struct mirror_counts each[PROCESSORS_MAX];
	struct mirror_counts sum = {0};
	__u32 key = cluster * MIRROR_PHASES + phase;

	assert_int_equal(bpf_map_lookup_elem(p->stats_fd, &key, each), 0);
	for (unsigned i = 0; i < processors(); i++) {
		sum.packets += each[i].packets;
		sum.bytes += each[i].bytes;
		sum.requests += each[i].requests;
		sum.writes += each[i].writes;
		sum.held += each[i].held;
	}
	return sum;
}

/* ---- runs --------------------------------------------------------------------------------------------------------- */

static struct steer_seen run(struct steer *s, const unsigned char *frame, size_t len)
{
	struct xdp_md in = {.data_end = (__u32)len}, out = {0};
	unsigned char bytes[4096];
	uint64_t before[MIRROR_EVENTS];
	struct steer_seen seen = {.event = -1};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = (__u32)len, .data_out = bytes,
		    .data_size_out = sizeof(bytes), .ctx_in = &in, .ctx_size_in = sizeof(in), .ctx_out = &out,
		    .ctx_size_out = sizeof(out), .repeat = 1);

	for (unsigned i = 0; i < MIRROR_EVENTS; i++)
		before[i] = steer_events(s->place, i);
	if (bpf_prog_test_run_opts(s->fd, &opts) != 0)
		fail_msg("a run with a frame of %zu bytes: %s", len, strerror(errno));
	for (unsigned i = 0; i < MIRROR_EVENTS; i++) {
		uint64_t rose = steer_events(s->place, i) - before[i];

		if (rose > 1 || (rose && i != MIRROR_EVENT_PACKETS && seen.event >= 0) ||
		    (i == MIRROR_EVENT_PACKETS && rose != 1))
			fail_msg("event %u was counted %lu times for one packet", i, (unsigned long)rose);
		if (rose && i != MIRROR_EVENT_PACKETS)
			seen.event = (int)i;
	}
	seen.action = opts.retval;
	seen.has_meta = out.data - out.data_meta == sizeof(seen.meta);
	if (out.data != out.data_meta && !seen.has_meta)
		fail_msg("%u bytes of metadata", out.data - out.data_meta);
	if (seen.has_meta)
		memcpy(&seen.meta, bytes, sizeof(seen.meta));
	if (opts.data_size_out != len + (seen.has_meta ? sizeof(seen.meta) : 0) ||
	    memcmp(bytes + (out.data - out.data_meta), frame, len) != 0)
		fail_msg("the program changed the frame");
	return seen;
}

static struct steer_seen expected(const struct steer *s, const unsigned char *frame, size_t len)
{
	struct oracle_answer a = oracle_frame(&s->oracle, frame, len);
	struct steer_seen e = {.action = XDP_PASS, .event = a.event};
	uint64_t word;

	if (a.event >= 0)
		return e;
	word = bpf_view_find(&s->place->view, (const char *)a.tenant, a.len, NULL);
	if (!word) {
		word = s->place->view.head->dflt;
		e.meta.kind = STEER_META_DEFAULT;
	}
	if (!word_live(word)) {
		e.event = MIRROR_EVENT_UNKNOWN;
		return e;
	}
	if (s->gate && a.write && word_phase(word) == PHASE_CUTOVER) {
		e.action = XDP_DROP;
		return e;
	}
	e.has_meta = true;
	e.meta.epoch = word_epoch(word);
	e.meta.cluster = word_cluster(word);
	e.meta.magic = STEER_META_MAGIC;
	e.meta.phase = (__u8)word_phase(word);
	e.meta.kind = (__u8)(e.meta.kind | word_kind(word));
	return e;
}

static void print_seen(const char *who, const struct steer_seen *s)
{
	static const char *const names[] = {
#define NAME(name, text) #name,
		MIRROR_EVENTS_TABLE(NAME)
#undef NAME
	};

	print_error("%s: %s, event %s", who, s->action == XDP_DROP ? "drop" : "pass",
		    s->event < 0 ? "none" : names[s->event]);
	if (s->has_meta)
		print_error(", cluster %u, epoch %lu, phase %u, kind %#x", s->meta.cluster,
			    (unsigned long)s->meta.epoch, s->meta.phase, s->meta.kind);
	print_error("\n");
}

struct steer_seen steer_run(struct steer *s, const unsigned char *frame, size_t len)
{
	struct steer_seen e = expected(s, frame, len), seen = run(s, frame, len);

	if (seen.action == e.action && seen.event == e.event && seen.has_meta == e.has_meta &&
	    (!e.has_meta || memcmp(&seen.meta, &e.meta, sizeof(e.meta)) == 0))
		return seen;
	for (size_t i = 0; i < len; i++)
		print_error(frame[i] >= ' ' && frame[i] < 127 ? "%c" : "\\%02x", frame[i]);
	print_error("\n");
	print_seen("expected", &e);
	print_seen("the program", &seen);
	fail_msg("program and oracle disagree (%s %s, segment %u, port %u, gate %d)",
		 s->oracle.header ? "header" : "path", s->oracle.header ? s->oracle.header : "", s->oracle.segment,
		 s->oracle.port, s->gate);
	return seen;
}

struct steer_seen steer_request(struct steer *s, const struct shape *shape, const char *request)
{
	struct frame f;

	frame_make(&f, shape ? shape : &(struct shape){0}, request, strlen(request));
	return steer_run(s, f.bytes, f.len);
}

void steer_expect(struct steer *s, const struct shape *shape, const char *request, const char *tenant)
{
	struct steer_seen seen = steer_request(s, shape, request);
	uint64_t word =
		tenant ? bpf_view_find(&s->place->view, tenant, strlen(tenant), NULL) : s->place->view.head->dflt;

	assert_true(word_live(word));
	if (!seen.has_meta || seen.meta.epoch != word_epoch(word) || seen.meta.cluster != word_cluster(word) ||
	    seen.meta.phase != word_phase(word) || !(seen.meta.kind & STEER_META_DEFAULT) != (tenant != NULL)) {
		print_seen("the program", &seen);
		fail_msg("expected the tenant %s of: %s", tenant ? tenant : "(default)", request);
	}
}

void steer_expect_event(struct steer *s, const struct shape *shape, const char *request, enum mirror_event event)
{
	struct steer_seen seen = steer_request(s, shape, request);

	if (seen.event != (int)event || seen.has_meta || seen.action != XDP_PASS) {
		print_seen("the program", &seen);
		fail_msg("expected event %d of: %s", (int)event, request);
	}
}
