/* SPDX-License-Identifier: MIT
 * A compromised proxy lies about writes: what it can delay, how it is named, and that it hides nobody else's. Needs root.
 * What each content of a registration means is in 33-drain-lies.c, 81-spoiled.c and 81-garbage.c; rings are in
 * 57-cursors-faults.c. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../shm/hash.h"
#include "../shm/lease.h"
#include "../shm/segment.h"
#include "liar.h"

static uint64_t hash_of(const char *key)
{
	const struct shm_root *root;
	uint64_t hash = 0;
	int dir;

	if (seg_dir_open(place->dir, &dir, NULL) == BERTH_OK && seg_root_map(dir, &root) == BERTH_OK) {
		hash = hash_key(root->secret, key, strlen(key));
		seg_root_unmap(&root);
		close(dir);
	}
	return hash;
}

static struct shm_leases *my_leases(void)
{
	return (struct shm_leases *)(void *)((char *)liar_registration + liar_registration->leases_off);
}

/* `theirs` is to move, and this process alone is why it cannot yet. */
static void is_held_up(const char *reason, pid_t by)
{
	json_int_t pids[8];

	begin_moving(&liars.admin, "theirs", "c2");
	expect_pending(&liars.admin, "theirs", reason);
	assert_int_equal(pending_pids(&liars.admin, "theirs", pids), 1);
	assert_int_equal(pids[0], by);
}

/* ---- leases ----------------------------------------------------------------------------------------------------- */

static int claims_a_write(void *arg, int fd)
{
	(void)arg;
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	lease_take(my_leases(), 0, hash_of("theirs"), lease_tag(1), seg_clock_ms(CLOCK_MONOTONIC));
	return liar_done(fd, 0);
}

static void a_write_that_is_only_claimed_delays_its_partition_and_names_the_process(void **state)
{
	json_t *answer;
	char out[8192], said[32];
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(claims_a_write, MEMBER);
	everybody_else_is_whole();
	is_held_up("leases-open", pid);
	assert_int_equal(tool_run(place, out, sizeof out, "readers", NULL), 0);
	snprintf(said, sizeof said, "%d", (int)pid);
	if (!strstr(out, said) || !strstr(out, "theirs"))
		fail_msg("`berth readers` does not say that %s claims a write on `theirs`:\n%s", said, out);
	/* the operator's word */
	answer = wire_ok(&liars.admin, "complete", "{s:s, s:b}", "partition", "theirs", "force", 1);
	json_decref(answer);
	liar_ends(pid);
}

static int takes_its_leases_back(void *arg, int fd)
{
	(void)arg;
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	lease_take(my_leases(), 0, hash_of("theirs"), lease_tag(1), seg_clock_ms(CLOCK_MONOTONIC));
	memset(lease_slots(my_leases()), 0, LIAR_LEASES * sizeof(struct shm_lease)); /* as if it did not write */
	my_leases()->high = 0;
	return liar_done(fd, 0);
}

static void who_hides_its_write_hides_nobody_else_s(void **state)
{
	struct berth_write write;
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	assert_int_equal(berth_write_begin(liars.r, "theirs", 6, 0, &write), BERTH_OK);
	pid = liar_start(takes_its_leases_back, MEMBER);
	everybody_else_is_whole();
	is_held_up("leases-open", getpid());
	assert_int_equal(berth_write_end(liars.r, &write, BERTH_DONE), BERTH_OK);
	wire_do(&liars.admin, "complete", "{s:s, s:i}", "partition", "theirs", "wait_ms", 10000);
	liar_ends(pid);
}

static int fills_its_leases_with_noise(void *arg, int fd)
{
	unsigned char *p;

	(void)arg;
	LIAR_MUST(liar_attach(4, LIAR_LEASES));
	p = (unsigned char *)liar_registration;
	srand(11);
	for (size_t i = 64; i < liar_registration->leases_off + 4 * SHM_LEASE_STRIDE(LIAR_LEASES); i++)
		if (i < offsetof(struct shm_registration, size) || i >= SHM_PAGE)
			p[i] = (unsigned char)(rand() >> 9);
	for (unsigned i = 0; i < 4; i++) /* what lies in the past may hold memory back: 81-spoiled.c */
		p[SHM_PAGE + i * sizeof(struct shm_line) + 7] = 0xff;
	for (unsigned i = 0; i < 4; i++) { /* an overflow would count for every partition: a test of its own */
		struct shm_leases *a = (struct shm_leases *)(void *)(p + SHM_PAGE + 4 * sizeof(struct shm_line) +
								     i * SHM_LEASE_STRIDE(LIAR_LEASES));

		atomic_store(&a->overflow_ms, 0);
	}
	return liar_done(fd, 0);
}

static void noise_in_its_leases_is_nobody_s_write(void **state)
{
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(fills_its_leases_with_noise, MEMBER);
	everybody_else_is_whole();
	liar_ends(pid);
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

#define TOO_MUCH (8u << 20)

static int lengthens_its_registration(void *arg, int fd)
{
	struct stat st;

	(void)arg;
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	LIAR_MUST(fstat(liar_file, &st) == 0 && fallocate(liar_file, 0, st.st_size, TOO_MUCH) == 0);
	return liar_done(fd, 0);
}

static int takes_room_behind_the_end_of_its_registration(void *arg, int fd)
{
	struct stat st;

	(void)arg;
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	LIAR_MUST(fstat(liar_file, &st) == 0);
	LIAR_MUST(fallocate(liar_file, FALLOC_FL_KEEP_SIZE, st.st_size, TOO_MUCH) == 0);
	return liar_done(fd, 0);
}

static uint64_t bytes_of_registrations(bool *longer)
{
	uint64_t sum = 0;
	struct dirent *e;
	struct stat st;
	DIR *readers;
	int dir;

	*longer = false;
	assert_int_equal(seg_dir_open(place->dir, &dir, NULL), BERTH_OK);
	readers = fdopendir(openat(dir, "readers", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(readers);
	while ((e = readdir(readers)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		assert_int_equal(fstatat(dirfd(readers), e->d_name, &st, AT_SYMLINK_NOFOLLOW), 0);
		sum += (uint64_t)st.st_blocks * 512;
		*longer |= st.st_size > (off_t)TOO_MUCH;
	}
	closedir(readers);
	close(dir);
	return sum;
}

static void what_it_lets_its_registration_grow_by_is_cut_off_and_it_is_named(void **state)
{
	int (*const worst[])(void *, int) = {lengthens_its_registration, takes_room_behind_the_end_of_its_registration};
	char said[64];
	bool longer;

	(void)state;
	NEEDS_USERS();
	for (unsigned i = 0; i < 2; i++) {
		uint64_t until;
		pid_t pid;

		pid = liar_start(worst[i], MEMBER);
		for (until = test_now_ms() + child_patience(10000);
		     bytes_of_registrations(&longer) > TOO_MUCH || longer;) {
			assert_true(test_now_ms() < until);
			usleep(20000);
		}
		snprintf(said, sizeof said, "pid=%d uid=%u bytes=", (int)pid, MEMBER);
		daemon_expect_log(place, "event=registration-grown");
		daemon_expect_log(place, said);
		everybody_else_is_whole();
		liar_ends(pid);
	}
}

#define BARRIER_MS 2000

static int setup_with_a_short_barrier(void **state)
{
	static const char *const options[] = {"--barrier-ms", "2000", NULL};
	int rc;

	users_options = options;
	rc = liar_setup(state);
	users_options = NULL;
	return rc;
}
#define SHORT_TEST(f) cmocka_unit_test_setup_teardown(f, setup_with_a_short_barrier, liar_teardown)

static int says_that_it_overflowed(void *arg, int fd)
{
	(void)arg;
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	atomic_store(&my_leases()->overflow_ms, UINT64_MAX);
	return liar_done(fd, 0);
}

static void who_says_that_it_may_have_written_anywhere_delays_everybody_by_a_barrier_and_is_named(void **state)
{
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(says_that_it_overflowed, MEMBER);
	is_held_up("unknown-overflow", pid);
	wire_do(&liars.admin, "complete", "{s:s, s:i}", "partition", "theirs", "wait_ms", 10000); /* by the barrier */
	liar_ends(pid);
}

static int says_that_it_needs_no_lease(void *arg, int fd)
{
	(void)arg;
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	atomic_store(&liar_registration->unbracketed, 1); /* as berth_admit does */
	return liar_done(fd, 0);
}

static void who_says_that_it_writes_without_leases_makes_each_migration_wait_the_barrier_and_is_named(void **state)
{
	char out[8192], said[32];
	json_t *result;
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(says_that_it_needs_no_lease, MEMBER);
	begin_moving(&liars.admin, "theirs", "c2");
	expect_pending(&liars.admin, "theirs", "reader-without-leases");
	assert_int_equal(tool_run(place, out, sizeof out, "readers", NULL), 0);
	snprintf(said, sizeof said, "%u", MEMBER);
	if (!strstr(out, said))
		fail_msg("`berth readers` does not name user %s:\n%s", said, out);
	result = wire_ok(&liars.admin, "complete", "{s:s, s:i}", "partition", "theirs", "wait_ms", 10000);
	assert_true(int_of(result, "blackout_ms") >= BARRIER_MS);
	json_decref(result);
	liar_ends(pid);
}

/* ---- cursors ---------------------------------------------------------------------------------------------------- */

static bool attach_for_cursors(struct berth **b, struct berth_reader **r)
{
	struct berth_attach_options o = {.size = sizeof o, .max_readers = 1, .cursors = BERTH_CURSORS_PIN};

	return berth_attach(place->dir, &o, b) == BERTH_OK && berth_reader_open(*b, r) == BERTH_OK;
}

static int releases_and_pins_for_theirs(void *arg, int fd)
{
	struct berth_reader *r;
	struct berth *b;

	(void)arg;
	LIAR_MUST(attach_for_cursors(&b, &r));
	LIAR_MUST(berth_cursor_release(r, "scroll-1", 8, "theirs", 6) == BERTH_OK);
	LIAR_MUST(berth_cursor_pin(r, "scroll-2", 8, 2, "theirs", 6, 60000, 10000) == BERTH_OK);
	return liar_done(fd, 0);
}

static void it_can_release_and_pin_any_tenant_s_cursor(void **state)
{
	struct berth_reader *r;
	struct berth *b;
	uint16_t cluster = 0;
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	assert_true(attach_for_cursors(&b, &r));
	assert_int_equal(berth_cursor_pin(r, "scroll-1", 8, 1, "theirs", 6, 60000, 10000), BERTH_OK);
	assert_int_equal(berth_cursor_resolve(r, "scroll-1", 8, "theirs", 6, 0, &cluster), BERTH_OK);
	assert_int_equal(cluster, 1);
	pid = liar_start(releases_and_pins_for_theirs, MEMBER);
	assert_int_equal(berth_cursor_resolve(r, "scroll-1", 8, "theirs", 6, 0, &cluster), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_resolve(r, "scroll-2", 8, "theirs", 6, 0, &cluster), BERTH_OK);
	assert_int_equal(cluster, 2);
	liar_ends(pid);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LIAR_TEST(a_write_that_is_only_claimed_delays_its_partition_and_names_the_process),
		LIAR_TEST(who_hides_its_write_hides_nobody_else_s),
		LIAR_TEST(noise_in_its_leases_is_nobody_s_write),
		LIAR_TEST(what_it_lets_its_registration_grow_by_is_cut_off_and_it_is_named),
		SHORT_TEST(who_says_that_it_may_have_written_anywhere_delays_everybody_by_a_barrier_and_is_named),
		SHORT_TEST(who_says_that_it_writes_without_leases_makes_each_migration_wait_the_barrier_and_is_named),
		LIAR_TEST(it_can_release_and_pin_any_tenant_s_cursor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
