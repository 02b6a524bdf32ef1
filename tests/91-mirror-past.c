/* SPDX-License-Identifier: MIT
 * Mirrors that went with leases open in them, and berthd killed while it lets one go, or with its pins removed by hand: with
 * CAP_BPF alone, as its unit has it, so that it may not look among all maps of the kernel. In a mount namespace with a BPF
 * file system of its own. */
#include "bpf_place.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../bpf/mirror.h"
#include "../shm/hash.h"
#include "../shm/lease.h"
#include "../writer/lease_book.h"
#include "child.h"
#include "mirror_place.h"

#define SERVICE 54321u
#define CANNOT 77 /* of a part: what it takes is not to be had here */
#define BARRIER "--barrier-ms", "30000"

/* ---- berthd as its unit starts it ----------------------------------------------------------------------------------- */

/* This process, and what it starts, from here on. */
static bool become_service(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2] = {{0}};

	caps[1].permitted = caps[1].inheritable = caps[1].effective = 1u << (CAP_BPF - 32);
	return own_mounts() && mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL) == 0 && setgroups(0, NULL) == 0 &&
	       prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0 && setgid(SERVICE) == 0 && setuid(SERVICE) == 0 &&
	       syscall(SYS_capset, &header, caps) == 0 &&
	       prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_BPF, 0, 0) == 0 &&
	       access(daemon_program("berthd"), X_OK) == 0;
}

static int setup(void **state)
{
	struct bpf_place *p = calloc(1, sizeof(*p));

	bpf_place_make(p, "sqlite");
	*state = p;
	return 0;
}

static void as_service(void **state, int (*part)(void *))
{
	struct bpf_place *p = *state;
	char command[200];
	int rc;

	bpf_needed(p);
	snprintf(command, sizeof(command), "chown -R %u:%u %s", SERVICE, SERVICE, p->d.home);
	assert_int_equal(system(command), 0);
	rc = part_run(part, p, 6 * CHILD_MS);
	if (rc == CANNOT)
		SKIP("no mount namespace of its own, or another user cannot run berthd where it lies");
	assert_int_equal(rc, 0);
}

static bool pinned(const struct bpf_place *p, const char *name)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	return access(path, F_OK) == 0;
}

static void pin(const struct bpf_place *p, const char *map, const char *name)
{
	int fd = bpf_pinned(p, map);
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
}

static void unpin(const struct bpf_place *p, const char *name)
{
	char path[192];

	snprintf(path, sizeof(path), "%s/%s", p->pins, name);
	assert_int_equal(unlink(path), 0);
}

/* As somebody does who removes them by hand: all but what is of mirrors that went. */
static void unpin_mirror(const struct bpf_place *p)
{
	static const char *const names[] = {"table", "clusters", "stats", "leases", "events", "control"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unpin(p, names[i]);
}

struct maps {
	volatile struct mirror_control *control;
	struct mirror_lease *leases;
};

static void *map_of(const struct bpf_place *p, const char *name, size_t size)
{
	int fd = bpf_pinned(p, name);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

/* As a packet program does that takes a lease on acme. The maps outlive their pins while this process has them. */
static struct maps take_lease(const struct bpf_place *p)
{
	struct maps m = {.control = map_of(p, "control", sizeof(*m.control)),
			 .leases = map_of(p, "leases", MIRROR_LEASES * sizeof(*m.leases))};
	uint64_t secret[4];

	for (unsigned i = 0; i < 4; i++)
		secret[i] = m.control->secret[i];
	m.leases[0].state = lease_state(LEASE_OPEN, test_now_ms());
	m.leases[0].hash = lease_hash(hash_key(secret, "acme", 4));
	m.control->lease_high = 1;
	return m;
}

static void end_lease(struct maps *m)
{
	m->leases[0].hash = 0;
}

/* `complete` of a migration that begins now, without waiting: why not. */
static void expect_pending(const struct bpf_place *p, const char *reason, json_int_t in_flight)
{
	struct wire w;
	json_t *e, *data;

	wire_open(&w, &p->d, WIRE_ADMIN);
	bpf_cluster(&w, "c2", "http://10.0.0.2:9200");
	wire_do(&w, "begin", "{s:s,s:{s:s}}", "partition", "acme", "to", "cluster", "c2");
	wire_do(&w, "cutover", "{s:s}", "partition", "acme");
	e = wire_refused(&w, "barrier-pending", "complete", "{s:s}", "partition", "acme");
	data = json_object_get(e, "data");
	assert_string_equal(text_of(data, "reason"), reason);
	assert_int_equal(int_of(data, "in_flight"), in_flight);
	json_decref(e);
	wire_do(&w, "abort", "{s:s}", "partition", "acme");
	wire_close(&w);
}

/* A mirror with a lease open in it has gone, and berthd is killed. */
static struct maps one_past(struct bpf_place *p)
{
	struct maps m;

	daemon_start(&p->d, "--bpf", BARRIER, NULL);
	bpf_fill(p);
	m = take_lease(p);
	daemon_kill(&p->d);
	daemon_start(&p->d, BARRIER, NULL);
	assert_true(pinned(p, "past-0-control"));
	daemon_kill(&p->d);
	return m;
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

	return from_now_on(SYS_rmdir, ANY, SECCOMP_RET_KILL_PROCESS) ? daemon_start_refused(&p->d, BARRIER, NULL)
								     : CANNOT;
}

/* ---- killed --------------------------------------------------------------------------------------------------------- */

static int withdraws_and_is_killed(void *arg)
{
	struct bpf_place *p = arg;

	if (!become_service())
		return CANNOT;
	daemon_start(&p->d, "--bpf", NULL);
	bpf_fill(p);
	daemon_kill(&p->d);
	assert_int_equal(part_run(start_killed_at_rmdir, p, CHILD_MS), KILLED);
	assert_false(pinned(p, "control"));
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
	as_service(state, withdraws_and_is_killed);
}

static int lets_a_past_go_and_is_killed(void *arg)
{
	struct bpf_place *p = arg;
	struct maps m;

	if (!become_service())
		return CANNOT;
	m = one_past(p);
	end_lease(&m);
	/* It is ready before it finds that nothing is open any more: so this start does not wait for that. */
	assert_int_equal(part_run(start_killed_at_rmdir, p, CHILD_MS), KILLED);
	assert_false(pinned(p, "past-0-control"));
	daemon_start(&p->d, NULL);
	bpf_expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static void killed_when_it_has_unpinned_a_past_mirror_berthd_starts_again(void **state)
{
	as_service(state, lets_a_past_go_and_is_killed);
}

/* Killed when past-0 is pinned, and the mirror still is: the next one takes the mirror over. */
static int takes_over_what_is_kept_as_well(void *arg)
{
	struct bpf_place *p = arg;
	struct maps m;

	if (!become_service())
		return CANNOT;
	daemon_start(&p->d, "--bpf", BARRIER, NULL);
	bpf_fill(p);
	m = take_lease(p);
	daemon_kill(&p->d);
	pin(p, "leases", "past-0-leases");
	pin(p, "control", "past-0-control");
	daemon_start(&p->d, "--bpf", BARRIER, NULL);
	expect_pending(p, "leases-open", 1);
	assert_false(pinned(p, "past-0-control"));
	assert_false(pinned(p, "past-0-leases"));
	assert_true(m.control->state != 0);
	return daemon_stop(&p->d);
}

static void a_lease_in_a_mirror_that_was_kept_and_taken_over_counts_once(void **state)
{
	as_service(state, takes_over_what_is_kept_as_well);
}

/* Killed between the pins of leases and control, which come and go in turn. */
static int finds_leases_without_control(void *arg)
{
	struct bpf_place *p = arg;

	if (!become_service())
		return CANNOT;
	for (unsigned i = 0; i < 2; i++) {
		daemon_start(&p->d, "--bpf", NULL);
		pin(p, "leases", "past-2-leases");
		daemon_kill(&p->d);
		if (i == 0)
			daemon_start(&p->d, "--bpf", NULL);
		else
			daemon_start(&p->d, NULL);
		assert_false(pinned(p, "past-2-leases"));
		daemon_kill(&p->d);
	}
	assert_int_equal(access(p->pins, F_OK), -1);
	return 0;
}

static void leases_that_were_pinned_without_their_control_go(void **state)
{
	as_service(state, finds_leases_without_control);
}

/* ---- no memory ------------------------------------------------------------------------------------------------------ */

static int start_without_new_pins(void *arg)
{
	struct bpf_place *p = arg;

	if (!from_now_on(SYS_bpf, BPF_OBJ_PIN, SECCOMP_RET_ERRNO | ENOMEM))
		return CANNOT;
	daemon_start(&p->d, "--bpf", NULL);
	bpf_expect_on(&p->d, false);
	return daemon_stop(&p->d);
}

static int withdraws_and_cannot_make(void *arg)
{
	struct bpf_place *p = arg;
	struct maps m;

	if (!become_service())
		return CANNOT;
	daemon_start(&p->d, "--bpf", NULL);
	m.control = map_of(p, "control", sizeof(*m.control));
	daemon_kill(&p->d);
	m.control->secret[0] ^= 1; /* one that is not taken over */
	assert_int_equal(part_run(start_without_new_pins, p, CHILD_MS), 0);
	assert_true(m.control->state == 0);
	return 0;
}

static void a_mirror_that_cannot_be_made_anew_is_no_reason_not_to_serve(void **state)
{
	as_service(state, withdraws_and_cannot_make);
}

/* ---- pins that are removed by hand ---------------------------------------------------------------------------------- */

static int loses_one_beside_a_past(void *arg)
{
	struct bpf_place *p = arg;
	struct maps past, now;

	if (!become_service())
		return CANNOT;
	past = one_past(p);
	daemon_start(&p->d, "--bpf", BARRIER, NULL);
	now = take_lease(p);
	daemon_kill(&p->d);
	unpin_mirror(p);
	assert_true(past.control->state == 0 && now.control->state != 0); /* its programs answer still */
	for (unsigned i = 0; i < 4; i++) { /* a mirror that such a start leaves hides it as little */
		assert_int_equal(i % 2 ? daemon_start_refused(&p->d, "--bpf", NULL) : daemon_start_refused(&p->d, NULL),
				 1);
		daemon_expect_log(&p->d, "pinned no more");
		assert_int_equal(unlink(p->d.log), 0);
		assert_true(pinned(p, "past-0-control"));
	}
	return 0;
}

static void a_past_mirror_does_not_hide_one_that_answers_and_is_pinned_no_more(void **state)
{
	as_service(state, loses_one_beside_a_past);
}

static int loses_leases_of_a_past(void *arg)
{
	struct bpf_place *p = arg;

	if (!become_service())
		return CANNOT;
	one_past(p);
	unpin(p, "past-0-leases");
	daemon_start(&p->d, BARRIER, NULL);
	assert_false(pinned(p, "past-0-control"));
	expect_pending(p, "unknown-overflow", 0);
	return daemon_stop(&p->d);
}

static void a_past_mirror_whose_leases_are_pinned_no_more_counts_for_every_partition(void **state)
{
	as_service(state, loses_leases_of_a_past);
}

/* As root, in this process: it may look, and finds nothing, for the maps are gone with their pins. */
static void a_mirror_that_went_with_its_pins_counts_beside_a_past_one(void **state)
{
	struct mirror_place *p = *state;
	struct mirror_lease *leases;
	char path[352];
	uint64_t since;
	int fd;

	mirror_place_needed(p);
	snprintf(path, sizeof(path), "%s/leases", p->pins);
	fd = bpf_obj_get(path);
	leases = mmap(NULL, MIRROR_LEASES * sizeof(*leases), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(leases, MAP_FAILED);
	close(fd);
	leases[0].state = lease_state(LEASE_OPEN, test_now_ms());
	leases[0].hash = 77;
	mirror_control(table_mirror(p->t))->lease_high = 1;
	table_close(&p->t);
	mirror_place_up(p, false);
	assert_non_null(table_mirror_pasts(p->t)[0].control);
	table_close(&p->t);
	mirror_place_up(p, true);
	table_close(&p->t);
	for (unsigned i = 0; i < 6; i++) {
		static const char *const names[] = {"table", "clusters", "stats", "leases", "events", "control"};

		snprintf(path, sizeof(path), "%s/%s", p->pins, names[i]);
		assert_int_equal(unlink(path), 0);
	}
	since = seg_clock_ms(CLOCK_MONOTONIC);
	mirror_place_up(p, false);
	assert_true(lease_book_overflown(registry_book(table_registry(p->t))).end_ms >= since);
	munmap(leases, MIRROR_LEASES * sizeof(*leases));
}

/* ---- more than there are places for --------------------------------------------------------------------------------- */

static int lets_five_go(void *arg)
{
	struct bpf_place *p = arg;

	if (!become_service())
		return CANNOT;
	for (unsigned i = 0; i < MIRROR_PASTS; i++)
		one_past(p);
	daemon_start(&p->d, "--bpf", BARRIER, NULL);
	take_lease(p);
	daemon_kill(&p->d);
	daemon_start(&p->d, BARRIER, NULL);
	daemon_expect_log(&p->d, "leases-not-kept");
	expect_pending(p, "leases-open", MIRROR_PASTS);
	assert_false(pinned(p, "control"));
	return daemon_stop(&p->d);
}

static void more_mirrors_with_open_leases_than_there_are_places_for_keep_nobody_from_starting(void **state)
{
	as_service(state, lets_five_go);
}

#define SERVICE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, bpf_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVICE_TEST(killed_when_it_has_unpinned_its_mirror_berthd_starts_again),
		SERVICE_TEST(killed_when_it_has_unpinned_a_past_mirror_berthd_starts_again),
		SERVICE_TEST(a_lease_in_a_mirror_that_was_kept_and_taken_over_counts_once),
		SERVICE_TEST(leases_that_were_pinned_without_their_control_go),
		SERVICE_TEST(a_mirror_that_cannot_be_made_anew_is_no_reason_not_to_serve),
		SERVICE_TEST(a_past_mirror_does_not_hide_one_that_answers_and_is_pinned_no_more),
		SERVICE_TEST(a_past_mirror_whose_leases_are_pinned_no_more_counts_for_every_partition),
		SERVICE_TEST(more_mirrors_with_open_leases_than_there_are_places_for_keep_nobody_from_starting),
		MIRROR_TEST(a_mirror_that_went_with_its_pins_counts_beside_a_past_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
