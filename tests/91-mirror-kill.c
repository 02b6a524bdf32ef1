/* SPDX-License-Identifier: MIT
 * A berthd with a mirror that is killed again and again in the middle of changes. All the time a thread (mirror_judge.h)
 * compares what programs see with what the table says, while no writer runs too; after each start both are equal. */
#include "bpf_place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mirror_judge.h"

#define N_KEYS 12u
#define CHANGES 5000u /* in each of two stores */
#define BATCH 600u    /* requests that are under way when it is killed */

static char keys[N_KEYS][40];

/* A change of a random partition, or of the default; some are refused. */
static int request(char *to, size_t size, unsigned id)
{
	static const char *const simple[] = {"cutover", "abort"};
	const char *key = keys[(unsigned)rand() % (rand() % 2 ? 2 : N_KEYS)];
	unsigned cluster = 1 + (unsigned)rand() % 2;
	unsigned what = (unsigned)rand() % 16;

	if (what < 5)
		return snprintf(to, size,
				"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"set\",\"params\":{\"partition\":\"%s\","
				"\"placement\":{\"mode\":\"dedicated-cluster\",\"cluster\":\"c%u\"},\"force\":true}}\n",
				id, key, cluster);
	if (what < 8)
		return snprintf(to, size,
				"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"begin\",\"params\":{\"partition\":\"%s\","
				"\"to\":{\"cluster\":\"c%u\"}}}\n",
				id, key, cluster);
	if (what < 12)
		return snprintf(to, size,
				"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"%s\",\"params\":{\"partition\":\"%s\"}}\n",
				id, simple[what == 11], key);
	if (what < 14)
		return snprintf(to, size,
				"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"%s\",\"params\":{\"partition\":\"%s\","
				"\"force\":true}}\n",
				id, what == 12 ? "complete" : "remove", key);
	if (what < 15)
		return snprintf(to, size,
				"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"default.set\",\"params\":{\"placement\":{"
				"\"mode\":\"dedicated-cluster\",\"cluster\":\"c%u\"},\"force\":true}}\n",
				id, cluster);
	return snprintf(to, size,
			"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"default.unset\",\"params\":{\"force\":true}}\n",
			id);
}

static void some_time(long most_ns)
{
	struct timespec nap = {.tv_nsec = rand() % most_ns};

	nanosleep(&nap, NULL);
}

static void killed_at_any_moment_the_mirror_says_nothing_that_the_table_does_not(void **state)
{
	struct bpf_place *p = *state;
	static char requests[BATCH * 256];
	unsigned seed = (unsigned)test_now_ms(), kills = 0;
	json_int_t changes = 0, before;
	struct mirror_judge *j;
	struct mirror_verdict v;
	struct wire w;

	bpf_needed(p);
	print_message("seed %u\n", seed);
	srand(seed);
	for (unsigned i = 0; i < N_KEYS; i++)
		snprintf(keys[i], sizeof(keys[i]), "tenant-%u", i);
	wire_open(&w, &p->d, WIRE_ADMIN);
	bpf_cluster(&w, "c1", "http://10.0.0.1:9200");
	bpf_cluster(&w, "c2", "http://10.0.0.2:9200");
	wire_close(&w);
	j = mirror_judge_start(p->d.dir, p->pins, keys, N_KEYS);
	before = daemon_status(&p->d, "epoch");
	while (changes < CHANGES) {
		size_t n = 0;

		for (unsigned i = 0; i < BATCH; i++)
			n += (size_t)request(requests + n, sizeof(requests) - n, i + 1);
		wire_open(&w, &p->d, WIRE_ADMIN);
		assert_true(wire_send(&w, requests, n));
		some_time(strcmp(p->d.store, "memory:") == 0 ? 12000000 : 60000000);
		daemon_kill(&p->d);
		wire_close(&w);
		kills++;
		daemon_start(&p->d, "--bpf", NULL);
		bpf_expect_equal(p);
		changes += daemon_status(&p->d, "epoch") - before;
		before = daemon_status(&p->d, "epoch");
	}
	v = mirror_judge_stop(&j);
	print_message(
		"changes %lld, kills %u; looks %llu, judged %llu, passed up %llu, discarded %llu, wrong %llu (must be "
		"0)\n",
		(long long)changes, kills, (unsigned long long)v.looks, (unsigned long long)v.answers,
		(unsigned long long)v.passes, (unsigned long long)v.discarded, (unsigned long long)v.wrong);
	if (v.wrong)
		fail_msg("%llu answers of the mirror were wrong, the first: %s", (unsigned long long)v.wrong, v.first);
	assert_true(v.answers > 100 * (uint64_t)kills);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(killed_at_any_moment_the_mirror_says_nothing_that_the_table_does_not, "memory"),
		BPF_TEST(killed_at_any_moment_the_mirror_says_nothing_that_the_table_does_not, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
