/* SPDX-License-Identifier: MIT
 * Mirrors that went with leases open in them, and berthd killed while it makes one or lets one go, or without memory or
 * places for them. With CAP_BPF alone, as its unit has it. Pins that are removed by hand: 91-mirror-unpinned.c. */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child.h"
#include "past_place.h"

static void pin(const struct bpf_place *p, const char *map, const char *name)
{
	int fd = bpf_pinned(p, map);
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
}

#define ANY UINT32_MAX /* first argument */

/* From here on this process, and what it starts, dies with this system call, or is told an error: a verdict of seccomp(2). */
static bool from_now_on(uint32_t call, uint32_t first, uint32_t verdict)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | (first == ANY ? BPF_JGE : BPF_JEQ) | BPF_K, first == ANY ? 0 : first, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, verdict),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

#define KILLED (128 + SIGSYS)

/* Killed when the last pin has gone, before its directory is removed: the end of a start without a mirror. */
static int start_killed_at_rmdir(void *arg)
{
	struct bpf_place *p = arg;

	return from_now_on(SYS_rmdir, ANY, SECCOMP_RET_KILL_PROCESS) ? daemon_start_refused(&p->d, PAST_BARRIER, NULL)
								     : PAST_CANNOT;
}

/* ---- killed --------------------------------------------------------------------------------------------------------- */

static int withdraws_and_is_killed(void *arg)
{
	struct bpf_place *p = arg;

	if (!past_service())
		return PAST_CANNOT;
	daemon_start(&p->d, "--bpf", NULL);
	bpf_fill(p);
	daemon_kill(&p->d);
	assert_int_equal(part_run(start_killed_at_rmdir, p, CHILD_MS), KILLED);
	assert_false(past_pinned(p, "control"));
	daemon_start(&p->d, NULL);
	bpf_expect_on(&p->d, false);
	daemon_kill(&p->d);
	daemon_start(&p->d, "--bpf", NULL);
	bpf_expect_on(&p->d, true);
	bpf_expect_equal(p);
	return daemon_stop(&p->d);
}

static void killed_when_it_has_unpinned_its_mirror_berthd_starts_again(void **state)
{
	past_run(state, withdraws_and_is_killed);
}

static int lets_a_past_go_and_is_killed(void *arg)
{
	struct bpf_place *p = arg;
	struct past_maps m;

	if (!past_service())
		return PAST_CANNOT;
	m = past_make(p);
	m.leases[0].hash = 0; /* it ends */
	/* It is ready before it finds that nothing is open any more: so this start does not wait for that. */
	assert_int_equal(part_run(start_killed_at_rmdir, p, CHILD_MS), KILLED);
	assert_false(past_pinned(p, "past-0-control"));
	daemon_start(&p->d, NULL);
	bpf_expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void killed_when_it_has_unpinned_a_past_mirror_berthd_starts_again(void **state)
{
	past_run(state, lets_a_past_go_and_is_killed);
}

/* Killed when past-0 is pinned, and the mirror still is: the next one takes the mirror over. */
static int takes_over_what_is_kept_as_well(void *arg)
{
	struct bpf_place *p = arg;
	struct past_maps m;

	if (!past_service())
		return PAST_CANNOT;
	daemon_start(&p->d, "--bpf", PAST_BARRIER, NULL);
	bpf_fill(p);
	m = past_maps(p);
	past_take_lease(&m, 0, "acme");
	daemon_kill(&p->d);
	pin(p, "leases", "past-0-leases");
	pin(p, "control", "past-0-control");
	daemon_start(&p->d, "--bpf", PAST_BARRIER, NULL);
	past_expect_pending(p, "leases-open", 1);
	assert_false(past_pinned(p, "past-0-control"));
	assert_false(past_pinned(p, "past-0-leases"));
	assert_true(m.control->state != 0);
	return daemon_stop(&p->d);
}

static void a_lease_in_a_mirror_that_was_kept_and_taken_over_counts_once(void **state)
{
	past_run(state, takes_over_what_is_kept_as_well);
}

/* Killed between the pins of leases and control, which come and go in turn. */
static int finds_leases_without_control(void *arg)
{
	struct bpf_place *p = arg;

	if (!past_service())
		return PAST_CANNOT;
	for (unsigned i = 0; i < 2; i++) {
		daemon_start(&p->d, "--bpf", NULL);
		pin(p, "leases", "past-2-leases");
		daemon_kill(&p->d);
		if (i == 0)
			daemon_start(&p->d, "--bpf", NULL);
		else
			daemon_start(&p->d, NULL);
		assert_false(past_pinned(p, "past-2-leases"));
		daemon_kill(&p->d);
	}
	assert_int_equal(access(p->pins, F_OK), -1);
	return 0;
}

static void leases_that_were_pinned_without_their_control_go(void **state)
{
	past_run(state, finds_leases_without_control);
}

/* ---- no memory ------------------------------------------------------------------------------------------------------ */

static int start_without_new_pins(void *arg)
{
	struct bpf_place *p = arg;

	if (!from_now_on(SYS_bpf, BPF_OBJ_PIN, SECCOMP_RET_ERRNO | ENOMEM))
		return PAST_CANNOT;
	daemon_start(&p->d, "--bpf", NULL);
	bpf_expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static int withdraws_and_cannot_make(void *arg)
{
	struct bpf_place *p = arg;
	struct past_maps m;

	if (!past_service())
		return PAST_CANNOT;
	daemon_start(&p->d, "--bpf", NULL);
	m = past_maps(p);
	daemon_kill(&p->d);
	m.control->secret[0] ^= 1; /* one that is not taken over */
	assert_int_equal(part_run(start_without_new_pins, p, CHILD_MS), 0);
	assert_true(m.control->state == 0);
	return 0;
}

static void a_mirror_that_cannot_be_made_anew_is_no_reason_not_to_serve(void **state)
{
	past_run(state, withdraws_and_cannot_make);
}

/* ---- more than there are places for --------------------------------------------------------------------------------- */

static int lets_five_go(void *arg)
{
	struct bpf_place *p = arg;
	struct past_maps m;

	if (!past_service())
		return PAST_CANNOT;
	for (unsigned i = 0; i < MIRROR_PASTS; i++)
		past_make(p);
	daemon_start(&p->d, "--bpf", PAST_BARRIER, NULL);
	m = past_maps(p);
	past_take_lease(&m, 0, "acme");
	daemon_kill(&p->d);
	daemon_start(&p->d, PAST_BARRIER, NULL);
	daemon_expect_log(&p->d, "leases-not-kept");
	past_expect_pending(p, "leases-open", MIRROR_PASTS);
	assert_false(past_pinned(p, "control"));
	return daemon_stop(&p->d);
}

static void more_mirrors_with_open_leases_than_there_are_places_for_keep_nobody_from_starting(void **state)
{
	past_run(state, lets_five_go);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAST_TEST(killed_when_it_has_unpinned_its_mirror_berthd_starts_again),
		PAST_TEST(killed_when_it_has_unpinned_a_past_mirror_berthd_starts_again),
		PAST_TEST(a_lease_in_a_mirror_that_was_kept_and_taken_over_counts_once),
		PAST_TEST(leases_that_were_pinned_without_their_control_go),
		PAST_TEST(a_mirror_that_cannot_be_made_anew_is_no_reason_not_to_serve),
		PAST_TEST(more_mirrors_with_open_leases_than_there_are_places_for_keep_nobody_from_starting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
