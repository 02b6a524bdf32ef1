/* SPDX-License-Identifier: MIT
 * The mirror of a real berthd: pins over restarts and kills, withdrawn, of another instance, missing, refused; what a change
 * costs; damage that a compare finds. 91-mirror-kill.c kills it in the middle. */
#include "bpf_place.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/word.h"
#include "child.h"

static void fill(struct bpf_place *p)
{
	struct wire w;

	wire_open(&w, &p->d, WIRE_ADMIN);
	bpf_cluster(&w, "c1", "http://10.0.0.1:9200");
	bpf_put(&w, "acme", "c1");
	wire_close(&w);
}

static json_t *bpf_status(const struct daemon *d)
{
	struct wire w;
	json_t *all, *bpf;

	wire_open(&w, d, WIRE_LOOK);
	all = wire_ok(&w, "status", NULL);
	bpf = json_incref(json_object_get(all, "bpf"));
	json_decref(all);
	wire_close(&w);
	assert_true(json_is_object(bpf));
	return bpf;
}

static void expect_on(const struct daemon *d, bool on)
{
	json_t *bpf = bpf_status(d);

	if (is_true(bpf, "on") != on)
		fail_msg("the mirror is %s: %s", on ? "off" : "on", text_of(bpf, "reason"));
	assert_int_equal(*text_of(bpf, "reason") == '\0', on);
	json_decref(bpf);
}

static uint32_t id_of(const struct bpf_place *p, const char *name)
{
	int fd = bpf_pinned(p, name);
	uint32_t id = bpf_map_id_of(fd);

	close(fd);
	return id;
}

/* ---- restarts ---------------------------------------------------------------------------------------------------- */

static void a_restart_takes_the_pins_over(void **state)
{
	struct bpf_place *p = *state;
	uint32_t control, leases;
	struct bpf_view v;
	uint64_t before, word;

	bpf_needed(p);
	fill(p);
	control = id_of(p, "control");
	leases = id_of(p, "leases");
	bpf_view_open(p, &v);
	word = bpf_view_find(&v, "acme", 4, NULL);
	assert_int_equal(word_phase(word), PHASE_SETTLED);
	assert_int_equal(v.clusters[word_cluster(word)].port, (9200 & 0xff) << 8 | 9200 >> 8);
	for (unsigned round = 0; round < 4; round++) {
		before = v.control->state;
		if (round % 2)
			daemon_kill(&p->d);
		else
			assert_int_equal(daemon_stop(&p->d), 0);
		assert_true(v.control->state == before); /* programs go on */
		assert_true(bpf_view_find(&v, "acme", 4, NULL) == word);
		daemon_start(&p->d, "--bpf", NULL);
		assert_true(v.control->state != before && v.control->state != 0);
		assert_int_equal(id_of(p, "control"), control);
		assert_int_equal(id_of(p, "leases"), leases);
		assert_true(bpf_view_again(p, &v));
		/* A new generation has bits `which` of its own. */
		assert_true(word_epoch(bpf_view_find(&v, "acme", 4, NULL)) == word_epoch(word));
		word = bpf_view_find(&v, "acme", 4, NULL);
		assert_int_equal(v.head->generation, (uint32_t)v.control->state);
		bpf_expect_equal(p);
	}
	expect_on(&p->d, true);
	bpf_view_close(&v);
}

static void a_start_without_it_withdraws_the_mirror(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view v;
	char path[192];

	bpf_needed(p);
	fill(p);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	assert_true(v.control->state != 0);
	daemon_start(&p->d, NULL);
	assert_true(v.control->state == 0);
	snprintf(path, sizeof(path), "%s/control", p->pins);
	assert_int_equal(access(path, F_OK), -1);
	expect_on(&p->d, false);
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, "--bpf", NULL);
	expect_on(&p->d, true);
	assert_true(v.control->state == 0); /* the new maps are others */
	bpf_expect_equal(p);
	bpf_view_close(&v);
}

static void pins_that_are_not_whole_are_made_anew(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view v;
	uint32_t control;
	char path[192];

	bpf_needed(p);
	fill(p);
	bpf_view_open(p, &v);
	control = id_of(p, "control");
	daemon_kill(&p->d);
	snprintf(path, sizeof(path), "%s/leases", p->pins);
	assert_int_equal(unlink(path), 0);
	daemon_start(&p->d, "--bpf", NULL);
	assert_true(v.control->state == 0);
	assert_int_not_equal(id_of(p, "control"), control);
	bpf_view_close(&v);
	bpf_view_open(p, &v);
	assert_int_equal(word_phase(bpf_view_find(&v, "acme", 4, NULL)), PHASE_SETTLED);
	bpf_view_close(&v);
}

/* Two directories may have one name; the pins are called after the name. */
static void another_instance_of_the_name_is_left_alone_while_it_is_there(void **state)
{
	struct bpf_place *p = *state, other;
	struct bpf_view v;
	uint32_t control;
	char pid[32];

	bpf_needed(p);
	bpf_view_open(p, &v);
	control = id_of(p, "control");
	bpf_place_make(&other, "memory");
	snprintf(other.d.dir, sizeof(other.d.dir), "%s%s", other.d.home, strrchr(p->d.dir, '/'));
	daemon_start(&other.d, "--bpf", NULL);
	expect_on(&other.d, false);
	snprintf(pid, sizeof(pid), "pid %d", p->d.pid);
	daemon_expect_log(&other.d, pid);
	assert_int_equal(daemon_stop(&other.d), 0);
	daemon_start(&other.d, NULL);
	assert_true(v.control->state != 0);
	assert_int_equal(id_of(p, "control"), control);
	daemon_kill(&p->d); /* its programs go on answering */
	assert_int_equal(daemon_stop(&other.d), 0);
	daemon_start(&other.d, NULL);
	assert_int_equal(daemon_stop(&other.d), 0);
	daemon_start(&other.d, "--bpf", NULL);
	expect_on(&other.d, false);
	daemon_expect_log(&other.d, p->d.dir);
	assert_true(v.control->state != 0);
	assert_int_equal(id_of(p, "control"), control);
	daemon_kill(&other.d);
	remove_tree(p->d.dir); /* now it is a leftover */
	daemon_start(&other.d, "--bpf", NULL);
	assert_true(v.control->state == 0);
	assert_int_not_equal(id_of(p, "control"), control);
	expect_on(&other.d, true);
	daemon_remove(&other.d);
	bpf_view_close(&v);
}

/* ---- without -------------------------------------------------------------------------------------------------------- */

static int serves_without_a_file_system(void *arg)
{
	struct bpf_place *p = arg;

	if (!own_mounts())
		return 77;
	while (umount2("/sys/fs/bpf", MNT_DETACH) == 0)
		;
	daemon_start(&p->d, "--bpf", NULL);
	daemon_expect_log(&p->d, "mount -t bpf bpf /sys/fs/bpf");
	fill(p);
	expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void without_a_bpf_file_system_everything_else_is_served(void **state)
{
	struct bpf_place *p = *state;
	int rc;

	bpf_needed(p);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	remove_tree(p->d.dir);
	rc = part_run(serves_without_a_file_system, p, CHILD_MS);
	if (rc == 77)
		SKIP("no mount namespace of its own");
	assert_int_equal(rc, 0);
}

#define STRANGER 54321
#define CLONE_NEWTIME_ 0x80 /* linux/sched.h, which is at odds with sched.h */

static int serves_without_capabilities(void *arg)
{
	struct bpf_place *p = arg;

	if (setgroups(0, NULL) != 0 || setgid(STRANGER) != 0 || setuid(STRANGER) != 0)
		return 77;
	if (access(daemon_program("berthd"), X_OK) != 0)
		return 78;
	daemon_start(&p->d, "--bpf", NULL);
	daemon_expect_log(&p->d, "CAP_BPF");
	fill(p);
	expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void without_capabilities_everything_else_is_served(void **state)
{
	struct bpf_place *p = *state;
	char command[300];
	int rc;

	bpf_needed(p);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	snprintf(command, sizeof(command), "rm -rf %s; chown %d:%d %s %s/*", p->d.dir, STRANGER, STRANGER, p->d.home,
		 p->d.home);
	assert_int_equal(system(command), 0);
	rc = part_run(serves_without_capabilities, p, CHILD_MS);
	if (rc == 77 || rc == 78)
		SKIP("another user cannot run berthd where it lies");
	assert_int_equal(rc, 0);
}

/* As systemd mounts it: nobody but root may look whether there is a mirror. */
static int serves_where_it_may_not_look(void *arg)
{
	struct bpf_place *p = arg;

	if (!own_mounts() || mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700") != 0)
		return 77;
	if (setgroups(0, NULL) != 0 || setgid(STRANGER) != 0 || setuid(STRANGER) != 0)
		return 77;
	if (access(daemon_program("berthd"), X_OK) != 0)
		return 78;
	daemon_start(&p->d, NULL);
	fill(p);
	expect_on(&p->d, false);
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, "--bpf", NULL);
	daemon_expect_log(&p->d, "event=bpf-off");
	expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void where_nobody_may_look_for_pins_everything_else_is_served(void **state)
{
	struct bpf_place *p = *state;
	char command[300];
	int rc;

	bpf_needed(p);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	snprintf(command, sizeof(command), "rm -rf %s; chown %d:%d %s %s/*", p->d.dir, STRANGER, STRANGER, p->d.home,
		 p->d.home);
	assert_int_equal(system(command), 0);
	rc = part_run(serves_where_it_may_not_look, p, CHILD_MS);
	if (rc == 77 || rc == 78)
		SKIP("no mount namespace of its own, or another user cannot run berthd where it lies");
	assert_int_equal(rc, 0);
}

/* Programs' leases have another clock than a berthd in there would compare them with. */
static int serves_in_a_time_namespace(void *arg)
{
	struct bpf_place *p = arg;
	FILE *f = unshare(CLONE_NEWTIME_) == 0 ? fopen("/proc/self/timens_offsets", "w") : NULL;

	if (!f || fputs("monotonic 1000 0\n", f) < 0 || fclose(f) != 0)
		return 77;
	daemon_start(&p->d, "--bpf", NULL);
	daemon_expect_log(&p->d, "time namespace");
	fill(p);
	expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void in_a_time_namespace_everything_else_is_served(void **state)
{
	struct bpf_place *p = *state;
	int rc;

	bpf_needed(p);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	remove_tree(p->d.dir);
	rc = part_run(serves_in_a_time_namespace, p, CHILD_MS);
	if (rc == 77)
		SKIP("no time namespace of its own");
	assert_int_equal(rc, 0);
}

/* A mirror that answers and cannot be withdrawn would go on with what is not so any more. */
static int is_refused(void *arg)
{
	struct bpf_place *p = arg;

	if (setgroups(0, NULL) != 0 || setgid(STRANGER) != 0 || setuid(STRANGER) != 0)
		return 77;
	if (access(daemon_program("berthd"), X_OK) != 0)
		return 78;
	return daemon_start_refused(&p->d, NULL);
}

static void a_mirror_that_cannot_be_withdrawn_keeps_a_writer_from_starting(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view v;
	char command[300];
	int rc;

	bpf_needed(p);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	snprintf(command, sizeof(command), "chown -R %d:%d %s", STRANGER, STRANGER, p->d.home);
	assert_int_equal(system(command), 0);
	rc = part_run(is_refused, p, CHILD_MS);
	if (rc == 77 || rc == 78)
		SKIP("another user cannot run berthd where it lies");
	assert_int_equal(rc, 1);
	daemon_expect_log(&p->d, "cannot be opened");
	assert_true(v.control->state != 0);
	bpf_view_close(&v);
}

/* Somebody removed the pins; programs that were loaded on them are still there. */
static void a_mirror_whose_pins_are_gone_is_found(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view v;
	char command[300];
	int rc;

	bpf_needed(p);
	fill(p);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	assert_true(v.control->state != 0);
	snprintf(command, sizeof(command), "chown -R %d:%d %s", STRANGER, STRANGER, p->d.home);
	assert_int_equal(system(command), 0);
	rc = part_run(is_refused, p, CHILD_MS);
	snprintf(command, sizeof(command), "chown -R 0:0 %s", p->d.home);
	assert_int_equal(system(command), 0);
	if (rc != 77 && rc != 78) {
		assert_int_equal(rc, 1);
		daemon_expect_log(&p->d, "pinned no more");
	}
	assert_true(v.control->state != 0);
	daemon_start(&p->d, NULL);
	assert_true(v.control->state == 0);
	daemon_kill(&p->d);
	daemon_start(&p->d, "--bpf", NULL);
	bpf_view_close(&v);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	assert_true(v.control->state != 0);
	daemon_start(&p->d, "--bpf", NULL);
	assert_true(v.control->state == 0);
	expect_on(&p->d, true);
	bpf_view_close(&v);
}

/* ---- changes -------------------------------------------------------------------------------------------------------- */

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
	fill(p);
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
	fill(p);
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
	fill(p);
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
		BPF_TEST(a_restart_takes_the_pins_over, "sqlite"),
		BPF_TEST(a_restart_takes_the_pins_over, "memory"),
		BPF_TEST(a_start_without_it_withdraws_the_mirror, "sqlite"),
		BPF_TEST(pins_that_are_not_whole_are_made_anew, "sqlite"),
		BPF_TEST(another_instance_of_the_name_is_left_alone_while_it_is_there, "memory"),
		BPF_TEST(without_a_bpf_file_system_everything_else_is_served, "memory"),
		BPF_TEST(without_capabilities_everything_else_is_served, "memory"),
		BPF_TEST(where_nobody_may_look_for_pins_everything_else_is_served, "memory"),
		BPF_TEST(in_a_time_namespace_everything_else_is_served, "memory"),
		BPF_TEST(a_mirror_that_cannot_be_withdrawn_keeps_a_writer_from_starting, "memory"),
		BPF_TEST(a_mirror_whose_pins_are_gone_is_found, "memory"),
		BPF_TEST(a_change_costs_no_system_call_of_the_mirror, "memory"),
		BPF_TEST(a_compare_finds_what_somebody_else_has_stored_and_mends_it, "memory"),
		BPF_TEST(many_who_ask_for_a_compare_are_all_answered, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
