/* SPDX-License-Identifier: MIT
 * A berthd that has not what a mirror needs, or is started by a stranger, who may not see one that is there: it serves all
 * but the mirror, and does not start beside one that goes on answering. */
#include "bpf_place.h"

#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include "child.h"

#define CLONE_NEWTIME_ 0x80 /* linux/sched.h, which is at odds with sched.h */
#define STRANGER 54321u
#define CANNOT 77 /* of a part: what it takes is not to be had here */

/* All files of the instance. */
static void give_home(const struct bpf_place *p, unsigned user)
{
	char command[300];

	snprintf(command, sizeof(command), "chown -R %u:%u %s", user, user, p->d.home);
	assert_int_equal(system(command), 0);
}

/* This process, from here on; and it can run berthd where that lies. */
static bool become_stranger(void)
{
	return setgroups(0, NULL) == 0 && setgid(STRANGER) == 0 && setuid(STRANGER) == 0 &&
	       access(daemon_program("berthd"), X_OK) == 0;
}

/* ---- without -------------------------------------------------------------------------------------------------------- */

/* A part in a process of its own, for this user, where there was no instance yet and no mirror. */
static void serves(struct bpf_place *p, unsigned user, int (*part)(void *), const char *cannot)
{
	int rc;

	bpf_needed(p);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	remove_tree(p->d.dir);
	give_home(p, user);
	rc = part_run(part, p, CHILD_MS);
	if (rc == CANNOT)
		SKIP("%s", cannot);
	assert_int_equal(rc, 0);
}

/* Asked for a mirror; the log says why there is none. */
static int serves_without(struct bpf_place *p, const char *why)
{
	daemon_start(&p->d, "--bpf", NULL);
	daemon_expect_log(&p->d, why);
	bpf_fill(p);
	bpf_expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static int without_a_file_system(void *arg)
{
	if (!own_mounts())
		return CANNOT;
	while (umount2("/sys/fs/bpf", MNT_DETACH) == 0)
		;
	return serves_without(arg, "mount -t bpf bpf /sys/fs/bpf");
}

static void without_a_bpf_file_system_everything_else_is_served(void **state)
{
	serves(*state, 0, without_a_file_system, "no mount namespace of its own");
}

static int without_capabilities(void *arg)
{
	return become_stranger() ? serves_without(arg, "CAP_BPF") : CANNOT;
}

static void without_capabilities_everything_else_is_served(void **state)
{
	serves(*state, STRANGER, without_capabilities, "another user cannot run berthd where it lies");
}

/* As systemd mounts it: nobody but root may look whether there is a mirror. */
static int where_it_may_not_look(void *arg)
{
	struct bpf_place *p = arg;

	if (!own_mounts() || mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700") != 0 || !become_stranger())
		return CANNOT;
	daemon_start(&p->d, NULL);
	bpf_fill(p);
	bpf_expect_on(&p->d, false);
	assert_int_equal(daemon_stop(&p->d), 0);
	daemon_start(&p->d, "--bpf", NULL);
	daemon_expect_log(&p->d, "event=bpf-off");
	bpf_expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void where_nobody_may_look_for_pins_everything_else_is_served(void **state)
{
	serves(*state, STRANGER, where_it_may_not_look,
	       "no mount namespace of its own, or another user cannot run berthd where it lies");
}

/* Programs' leases have another clock than a berthd in there would compare them with. */
static int in_a_time_namespace(void *arg)
{
	FILE *f = unshare(CLONE_NEWTIME_) == 0 ? fopen("/proc/self/timens_offsets", "w") : NULL;

	if (!f || fputs("monotonic 1000 0\n", f) < 0 || fclose(f) != 0)
		return CANNOT;
	return serves_without(arg, "time namespace");
}

static void in_a_time_namespace_everything_else_is_served(void **state)
{
	serves(*state, 0, in_a_time_namespace, "no time namespace of its own");
}

/* ---- a mirror that is there ----------------------------------------------------------------------------------------- */

static int refused_part(void *arg)
{
	struct bpf_place *p = arg;

	return become_stranger() ? daemon_start_refused(&p->d, NULL) : CANNOT;
}

/* Exit code of a start by a stranger whose files they are; or CANNOT. */
static int start_as_a_stranger(struct bpf_place *p)
{
	give_home(p, STRANGER);
	return part_run(refused_part, p, CHILD_MS);
}

/* A mirror that answers and cannot be withdrawn would go on with what is not so any more. */
static void a_mirror_that_cannot_be_withdrawn_keeps_a_writer_from_starting(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view v;
	int rc;

	bpf_needed(p);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	rc = start_as_a_stranger(p);
	if (rc == CANNOT)
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
	int rc;

	bpf_needed(p);
	bpf_fill(p);
	bpf_view_open(p, &v);
	daemon_kill(&p->d);
	remove_tree(p->pins);
	assert_true(v.control->state != 0);
	rc = start_as_a_stranger(p);
	give_home(p, 0);
	if (rc != CANNOT) {
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
	bpf_expect_on(&p->d, true);
	bpf_view_close(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(without_a_bpf_file_system_everything_else_is_served, "memory"),
		BPF_TEST(without_capabilities_everything_else_is_served, "memory"),
		BPF_TEST(where_nobody_may_look_for_pins_everything_else_is_served, "memory"),
		BPF_TEST(in_a_time_namespace_everything_else_is_served, "memory"),
		BPF_TEST(a_mirror_that_cannot_be_withdrawn_keeps_a_writer_from_starting, "memory"),
		BPF_TEST(a_mirror_whose_pins_are_gone_is_found, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
