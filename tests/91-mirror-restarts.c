/* SPDX-License-Identifier: MIT
 * The mirror's pins over restarts and kills of a real berthd: taken over, withdrawn, made anew, and left alone when they are
 * another instance's. */
#include "bpf_place.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../shm/word.h"
#include "child.h"

static uint32_t id_of(const struct bpf_place *p, const char *name)
{
	int fd = bpf_pinned(p, name);
	uint32_t id = bpf_map_id_of(fd);

	close(fd);
	return id;
}

static void a_restart_takes_the_pins_over(void **state)
{
	struct bpf_place *p = *state;
	uint32_t control, leases;
	struct bpf_view v;
	uint64_t before, word;

	bpf_needed(p);
	bpf_fill(p);
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
	bpf_expect_on(&p->d, true);
	bpf_view_close(&v);
}

static void a_start_without_it_withdraws_the_mirror(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view v;
	char path[192];

	bpf_needed(p);
	bpf_fill(p);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	assert_true(v.control->state != 0);
	daemon_start(&p->d, NULL);
	assert_true(v.control->state == 0);
	snprintf(path, sizeof(path), "%s/control", p->pins);
	assert_int_equal(access(path, F_OK), -1);
	bpf_expect_on(&p->d, false);
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, "--bpf", NULL);
	bpf_expect_on(&p->d, true);
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
	bpf_fill(p);
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
	bpf_expect_on(&other.d, false);
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
	bpf_expect_on(&other.d, false);
	daemon_expect_log(&other.d, p->d.dir);
	assert_true(v.control->state != 0);
	assert_int_equal(id_of(p, "control"), control);
	daemon_kill(&other.d);
	remove_tree(p->d.dir); /* now it is a leftover */
	daemon_start(&other.d, "--bpf", NULL);
	assert_true(v.control->state == 0);
	assert_int_not_equal(id_of(p, "control"), control);
	bpf_expect_on(&other.d, true);
	daemon_remove(&other.d);
	bpf_view_close(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(a_restart_takes_the_pins_over, "sqlite"),
		BPF_TEST(a_restart_takes_the_pins_over, "memory"),
		BPF_TEST(a_start_without_it_withdraws_the_mirror, "sqlite"),
		BPF_TEST(pins_that_are_not_whole_are_made_anew, "sqlite"),
		BPF_TEST(another_instance_of_the_name_is_left_alone_while_it_is_there, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
