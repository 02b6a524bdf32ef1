/* SPDX-License-Identifier: MIT
 * The look-up of packet programs in the mirror of a real berthd: a program that is loaded once is asked after each change
 * that berthd has acknowledged, over restarts and growth, and while berthd is dead. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../bpf/answer.h"
#include "../bpf/programs.h"
#include "bpf_place.h"
#include "look_place.h"

#define LONGEST 255u

struct scene {
	struct bpf_place place;
	struct bpf_object *object;
	struct wire w;
};

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	char text[512];

	*state = s;
	bpf_place_make(&s->place, "sqlite");
	if (!s->place.able)
		return 0;
	daemon_start(&s->place.d, "--bpf", NULL);
	wire_open(&s->w, &s->place.d, WIRE_ADMIN);
	bpf_cluster(&s->w, "c1", "http://10.0.0.1:9200");
	bpf_cluster(&s->w, "c2", "https://[2001:db8::2]");
	bpf_cluster(&s->w, "c3", "http://a-name:9200");
	s->object = bpf_object__open_file(daemon_program("bpf/look.bpf.o"), NULL);
	assert_non_null(s->object);
	if (programs_use_mirror(s->object, s->place.pins, text, sizeof(text)) != 0)
		fail_msg("%s", text);
	assert_int_equal(bpf_object__load(s->object), 0);
	return 0;
}

static int teardown(void **state)
{
	struct scene *s = *state;

	bpf_object__close(s->object);
	if (s->place.d.pid)
		wire_close(&s->w);
	bpf_place_remove(&s->place);
	free(s);
	return 0;
}

static struct scene *begin(void **state)
{
	bpf_needed(&((struct scene *)*state)->place);
	return *state;
}

static uint64_t epoch_of(json_t *result)
{
	uint64_t epoch = (uint64_t)int_of(result, "epoch");

	json_decref(result);
	return epoch;
}

#define CALL(s, method, ...) epoch_of(wire_ok(&(s)->w, method, __VA_ARGS__))
#define ON "{s:s,s:{s:s,s:s},s:b}"

static uint64_t put(struct scene *s, const char *partition, const char *cluster)
{
	return CALL(s, "set", ON, "partition", partition, "placement", "mode", "dedicated-cluster", "cluster", cluster,
		    "force", 1);
}

/* Cluster ci has the number i: they were made in this order. */
static void expect(const struct scene *s, const char *key, unsigned cluster, unsigned phase, uint64_t epoch)
{
	struct look_frame f = look_ask(s->object, key, strlen(key));

	assert_int_equal(f.code, BERTH_BPF_OK);
	assert_int_equal(f.cluster, cluster);
	assert_int_equal(f.phase, phase);
	assert_false(f.is_default);
	assert_true(f.epoch == epoch);
}

static void expect_code(const struct scene *s, const char *key, int code)
{
	assert_int_equal(look_ask(s->object, key, strlen(key)).code, code);
}

static void program_follows_every_change(void **state)
{
	struct scene *s = begin(state);
	struct look_frame f;
	uint64_t e, e0;

	expect_code(s, "acme", BERTH_BPF_UNKNOWN);
	e0 = put(s, "acme", "c1");
	expect(s, "acme", 1, PHASE_SETTLED, e0);
	assert_int_equal(look_admit(s->object, "acme", 4, e0).code, BERTH_BPF_OK);
	e = CALL(s, "begin", "{s:s,s:{s:s}}", "partition", "acme", "to", "cluster", "c2");
	expect(s, "acme", 1, PHASE_DRAINING, e);
	assert_int_equal(look_admit(s->object, "acme", 4, e0).code, BERTH_BPF_STALE);
	e = CALL(s, "cutover", "{s:s}", "partition", "acme");
	expect(s, "acme", 1, PHASE_CUTOVER, e);
	assert_int_equal(look_admit(s->object, "acme", 4, e).code, BERTH_BPF_CUTOVER);
	e = CALL(s, "abort", "{s:s}", "partition", "acme");
	expect(s, "acme", 1, PHASE_SETTLED, e);
	CALL(s, "begin", "{s:s,s:{s:s}}", "partition", "acme", "to", "cluster", "c2");
	CALL(s, "cutover", "{s:s}", "partition", "acme");
	e = CALL(s, "complete", "{s:s,s:b}", "partition", "acme", "force", 1);
	expect(s, "acme", 2, PHASE_SETTLED, e);
	assert_int_equal(look_admit(s->object, "acme", 4, e).code, BERTH_BPF_OK);
	wire_do(&s->w, "remove", "{s:s}", "partition", "acme");
	expect_code(s, "acme", BERTH_BPF_UNKNOWN);
	e = CALL(s, "default.set", "{s:{s:s,s:s}}", "placement", "mode", "dedicated-cluster", "cluster", "c3");
	f = look_ask(s->object, "acme", 4);
	assert_int_equal(f.code, BERTH_BPF_OK);
	assert_true(f.is_default);
	assert_int_equal(f.cluster, 3);
	assert_true(f.epoch == e);
	e = put(s, "acme", "c2");
	expect(s, "acme", 2, PHASE_SETTLED, e);
	wire_do(&s->w, "default.unset", NULL);
	expect_code(s, "other", BERTH_BPF_UNKNOWN);
	bpf_expect_equal(&s->place);
}

static void names_of_all_lengths_are_found_and_long_ones_passed_on(void **state)
{
	struct scene *s = begin(state);
	uint64_t epochs[LONGEST + 1];
	char name[LONGEST + 1];

	for (unsigned len = 1; len <= LONGEST; len++) {
		memset(name, 'a' + (int)(len % 26), len);
		name[len] = 0;
		epochs[len] = put(s, name, len % 2 ? "c1" : "c2");
	}
	for (unsigned len = 1; len <= LONGEST; len++) {
		memset(name, 'a' + (int)(len % 26), len);
		name[len] = 0;
		if (len <= MIRROR_KEY_MAX)
			expect(s, name, len % 2 ? 1 : 2, PHASE_SETTLED, epochs[len]);
		else
			expect_code(s, name, BERTH_BPF_PASS);
	}
}

static void addresses_follow_the_endpoints(void **state)
{
	struct scene *s = begin(state);
	uint32_t v4 = inet_addr("10.0.0.1");
	struct look_frame f;
	uint8_t v6[16];

	put(s, "one", "c1");
	put(s, "two", "c2");
	put(s, "three", "c3");
	f = look_ask(s->object, "one", 3);
	assert_int_equal(f.family, MIRROR_IPV4);
	assert_int_equal(ntohs(f.port), 9200);
	assert_true(f.address[0] == v4);
	f = look_ask(s->object, "two", 3);
	inet_pton(AF_INET6, "2001:db8::2", v6);
	assert_int_equal(f.family, MIRROR_IPV6);
	assert_int_equal(ntohs(f.port), 443);
	assert_true(f.tls);
	assert_memory_equal(f.address, v6, 16);
	assert_int_equal(look_ask(s->object, "three", 5).family, MIRROR_NO_ADDRESS);
	bpf_cluster(&s->w, "c3", "http://10.0.0.1");
	f = look_ask(s->object, "three", 5);
	assert_int_equal(f.family, MIRROR_IPV4);
	assert_int_equal(ntohs(f.port), 80);
	bpf_cluster(&s->w, "c1", "");
	assert_int_equal(look_ask(s->object, "one", 3).family, MIRROR_NO_ADDRESS);
}

static void answers_go_on_while_the_daemon_is_dead_and_after_it_came_back(void **state)
{
	struct scene *s = begin(state);
	uint64_t e = put(s, "acme", "c1"), later;

	CALL(s, "begin", "{s:s,s:{s:s}}", "partition", "acme", "to", "cluster", "c2");
	e = CALL(s, "cutover", "{s:s}", "partition", "acme");
	for (unsigned i = 0; i < 3; i++) {
		wire_close(&s->w);
		daemon_kill(&s->place.d);
		expect(s, "acme", 1, PHASE_CUTOVER, e);
		daemon_start(&s->place.d, "--bpf", NULL);
		expect(s, "acme", 1, PHASE_CUTOVER, e);
		wire_open(&s->w, &s->place.d, WIRE_ADMIN);
		later = put(s, "other", i % 2 ? "c1" : "c2");
		expect(s, "other", i % 2 ? 1 : 2, PHASE_SETTLED, later);
	}
}

static void growing_tables_lose_nobody(void **state)
{
	enum { N = 2000 };
	struct scene *s = begin(state);
	struct bpf_view v;
	char name[32];
	uint32_t first;

	bpf_view_open(&s->place, &v);
	first = v.head->capacity;
	for (unsigned i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "tenant-%08x", i);
		put(s, name, i % 2 ? "c2" : "c1");
	}
	assert_true(bpf_view_again(&s->place, &v)); /* it did grow */
	assert_true(v.head->capacity > first);
	bpf_view_close(&v);
	for (unsigned i = 0; i < N; i++) {
		struct look_frame f;

		snprintf(name, sizeof(name), "tenant-%08x", i);
		f = look_ask(s->object, name, strlen(name));
		if (f.code == BERTH_BPF_PASS && f.why == MIRROR_EVENT_PROBE)
			continue; /* further away than a program looks */
		if (f.code != BERTH_BPF_OK)
			fail_msg("%s: code %u, why %u", name, f.code, f.why);
		assert_int_equal(f.cluster, i % 2 ? 2 : 1);
	}
	bpf_expect_equal(&s->place);
}

#define SCENE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SCENE(program_follows_every_change),
		SCENE(names_of_all_lengths_are_found_and_long_ones_passed_on),
		SCENE(addresses_follow_the_endpoints),
		SCENE(answers_go_on_while_the_daemon_is_dead_and_after_it_came_back),
		SCENE(growing_tables_lose_nobody),
	};

	return cmocka_run_group_tests_name("look-ups of packet programs in a daemon's mirror", tests, NULL, NULL);
}
