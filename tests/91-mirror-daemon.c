/* SPDX-License-Identifier: MIT
 * The mirror of a real berthd: what a change costs; damage that a compare finds. Restarts are in 91-mirror-restarts.c, what
 * is missing or forbidden in 91-mirror-strangers.c; 91-mirror-kill.c kills it in the middle. */
#include "bpf_place.h"

#include <bpf/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/word.h"
#include "child.h"

static void set_many(struct wire *w, unsigned from, unsigned n, const char *cluster)
{
	json_t *ids = json_array();

	for (unsigned i = from; i < from + n; i++) {
		char id[24];

		snprintf(id, sizeof(id), "tenant-%u", i);
		json_array_append_new(ids, json_string(id));
	}
	wire_do(w, "set", "{s:o,s:b,s:{s:s,s:s}}", "partitions", ids, "force", 1, "placement", "mode",
		"dedicated-cluster", "cluster", cluster);
}

#define MANY 50000u
#define REMOVED 500u

static void a_change_costs_no_system_call_of_the_mirror(void **state)
{
	struct bpf_place *p = *state;
	char out[128], pid[16], line[256];
	const char *argv[] = {"/usr/bin/strace", "-f", "-c", "-e", "trace=bpf", "-o", out, "-p", pid, NULL};
	unsigned long calls = 0;
	uint64_t deadline = 0, began, changes;
	struct wire w;
	json_t *before, *after;
	pid_t strace;
	bool attached = false;
	FILE *f;

	bpf_needed(p);
	if (access(argv[0], X_OK) != 0)
		SKIP("strace is not installed");
	bpf_fill(p);
	wire_open(&w, &p->d, WIRE_ADMIN);
	bpf_cluster(&w, "c2", "http://10.0.0.2:9200");
	snprintf(out, sizeof(out), "%s/trace", p->d.home);
	snprintf(pid, sizeof(pid), "%d", p->d.pid);
	before = bpf_status(&p->d);
	strace = child_start(argv, STDERR_FILENO);
	while (!attached && within(&deadline)) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/status", p->d.pid);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f))
			attached = attached || (strncmp(line, "TracerPid:", 10) == 0 && atoi(line + 10) == strace);
		if (f)
			fclose(f);
	}
	if (!attached) {
		child_kill(&strace);
		SKIP("strace may not trace here");
	}
	began = test_now_ms();
	for (unsigned i = 0; i < MANY; i += 2000)
		set_many(&w, i, 2000, "c1");
	for (unsigned i = 0; i < MANY; i += 2000)
		set_many(&w, i, 2000, "c2");
	for (unsigned i = 0; i < REMOVED; i++) {
		char id[24];

		snprintf(id, sizeof(id), "tenant-%u", i);
		wire_do(&w, "remove", "{s:s,s:b}", "partition", id, "force", 1);
	}
	began = test_now_ms() - began;
	after = bpf_status(&p->d);
	kill(strace, SIGINT);
	child_wait(strace, CHILD_MS);
	f = fopen(out, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, " bpf\n"))
			assert_int_equal(sscanf(line, "%*f %*f %*f %lu", &calls), 1);
	fclose(f);
	changes = (uint64_t)(int_of(after, "changes") - int_of(before, "changes"));
	print_message("%llu changes in %llu ms, %lld swaps: %lu calls of bpf()\n", (unsigned long long)changes,
		      (unsigned long long)began, (long long)(int_of(after, "swaps") - int_of(before, "swaps")), calls);
	assert_true(changes >= 2 * MANY + REMOVED);
	assert_true(int_of(after, "swaps") > int_of(before, "swaps"));
	assert_true(calls > 0);
	/* A growth takes a handful; the removed get old together, some milliseconds at a time. */
	assert_true(calls < 400);
	json_decref(before);
	json_decref(after);
	wire_close(&w);
	bpf_expect_equal(p);
}

/* ---- damage --------------------------------------------------------------------------------------------------------- */

static void a_compare_finds_what_somebody_else_has_stored_and_mends_it(void **state)
{
	struct bpf_place *p = *state;
	struct mirror_entry *entries, *e = NULL;
	struct wire w;
	struct bpf_view v;
	json_t *result;
	uint64_t word;
	int fd;

	bpf_needed(p);
	bpf_fill(p);
	bpf_expect_equal(p);
	bpf_view_open(p, &v);
	word = bpf_view_find(&v, "acme", 4, NULL);
	fd = bpf_map_get_fd_by_id(v.inner_id);
	entries = mmap(NULL, v.mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(entries, MAP_FAILED);
	close(fd);
	for (size_t i = 1; i < v.mapped / MIRROR_ENTRY; i++)
		if (entries[i].word == word)
			e = &entries[i];
	assert_non_null(e);
	e->word = word_make(word_epoch(word), 7, 0, KIND_DEDICATED_CLUSTER, PHASE_SETTLED);
	((struct mirror_head *)entries)->dflt = word;
	wire_open(&w, &p->d, WIRE_LOOK);
	result = wire_ok(&w, "bpf.verify", NULL);
	assert_int_equal(int_of(result, "differences"), 2);
	assert_string_equal(text_of(result, "first"), "acme");
	json_decref(result);
	assert_true(e->word == word);
	assert_true(v.head->dflt == 0);
	e->key[0] ^= 1; /* another tenant's name */
	result = wire_ok(&w, "bpf.verify", NULL);
	assert_int_equal(int_of(result, "differences"), 1);
	json_decref(result);
	assert_true(bpf_view_find(&v, "acme", 4, NULL) == word);
	bpf_expect_equal(p);
	daemon_expect_log(&p->d, "event=bpf-difference");
	result = bpf_status(&p->d);
	assert_int_equal(int_of(result, "differences"), 3);
	json_decref(result);
	wire_close(&w);
	munmap(entries, v.mapped);
	bpf_view_close(&v);
}

static void many_who_ask_for_a_compare_are_all_answered(void **state)
{
	struct bpf_place *p = *state;
	struct wire w[20];

	bpf_needed(p);
	bpf_fill(p);
	for (unsigned i = 0; i < 20; i++) {
		wire_open(&w[i], &p->d, WIRE_LOOK);
		wire_text(&w[i], "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"bpf.verify\"}\n"
				 "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"bpf.verify\"}\n");
	}
	for (unsigned i = 0; i < 20; i++) {
		for (unsigned n = 0; n < 2; n++)
			json_decref(answer_result(wire_message(&w[i])));
		wire_close(&w[i]);
	}
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, NULL);
	wire_open(&w[0], &p->d, WIRE_LOOK);
	wire_deny(&w[0], "invalid", "bpf.verify", NULL);
	wire_close(&w[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(a_change_costs_no_system_call_of_the_mirror, "memory"),
		BPF_TEST(a_compare_finds_what_somebody_else_has_stored_and_mends_it, "memory"),
		BPF_TEST(many_who_ask_for_a_compare_are_all_answered, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
