/* SPDX-License-Identifier: MIT
 * Sealed cursors over time: keys that come, begin to seal and go, files that break, threads that seal meanwhile. */
#include "seal_place.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon.h"

static struct seal_place *opened(void **state)
{
	struct seal_place *p = *state;

	seal_keys_are(p, {1, -10});
	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_OK);
	return p;
}

/* The id of the key that seals. */
static uint32_t sealing(struct seal_place *p)
{
	struct seal_place other = *p;

	assert_int_equal(seal_one(&other), BERTH_OK);
	assert_int_equal(unseal_one(&other), BERTH_OK);
	return other.u.key_id;
}

/* ---- keys --------------------------------------------------------------------------------------------------------- */

static void without_a_key_every_call_is_refused(void **state)
{
	struct seal_place *p = *state;

	assert_int_equal(berth_seal_open(p->path, &p->seal), BERTH_E_SYSTEM);
	assert_int_equal(errno, ENOENT);
	assert_null(p->seal);
	strcpy(p->envelope, "as it was");
	p->len = 3;
	assert_int_equal(seal_one(p), BERTH_E_INVAL);
	assert_int_equal(unseal_one(p), BERTH_E_INVAL);
	assert_int_equal(berth_seal_reload(NULL), BERTH_E_INVAL);
	assert_string_equal(p->envelope, "as it was");
	assert_int_equal(p->len, 3);
	berth_seal_close(&p->seal);
	berth_seal_close(NULL);
}

static void while_every_key_waits_nothing_is_sealed(void **state)
{
	struct seal_place *p = opened(state);

	assert_int_equal(seal_one(p), BERTH_OK);
	char first = p->envelope[0];
	seal_keys_are(p, {1, 3600}, {2, 7200});
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_OK); /* it opens all the same */
	p->envelope[0] = '!';
	assert_int_equal(seal_one(p), BERTH_E_AGAIN);
	assert_int_equal(p->envelope[0], '!');
	p->envelope[0] = first;
	assert_int_equal(unseal_one(p), BERTH_OK);
}

static void after_a_rotation_the_new_key_seals_and_the_old_one_opens(void **state)
{
	struct seal_place *p = opened(state);

	assert_int_equal(seal_one(p), BERTH_OK);
	assert_int_equal(sealing(p), 1);
	seal_keys_are(p, {1, -10}, {2, -1});
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(sealing(p), 2);
	assert_int_equal(unseal_one(p), BERTH_OK);
	assert_int_equal(p->u.key_id, 1);
	seal_keys_are(p, {2, -1}); /* dropped */
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_E_UNKNOWN);
	seal_keys_are(p, {1, -10}, {2, -1}); /* and back */
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_OK);
}

static void a_key_of_later_opens_at_once_and_seals_when_its_time_comes(void **state)
{
	struct seal_place *p = opened(state);
	uint64_t deadline = 0;

	/* Another host whose clock is ahead, or that has the key active already. */
	seal_keys_are(p, {1, -10}, {2, -1});
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(seal_one(p), BERTH_OK);
	seal_keys_are(p, {1, -10}, {2, 3600});
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_OK);
	assert_int_equal(p->u.key_id, 2);
	assert_int_equal(sealing(p), 1);
	seal_keys_are(p, {1, -10}, {2, 2});
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(sealing(p), 1);
	while (within(&deadline))
		if (sealing(p) == 2)
			return;
	fail_msg("key 2 never sealed");
}

static void an_envelope_of_another_secret_under_the_same_id_is_refused(void **state)
{
	struct seal_place *p = opened(state);
	static const char file[] = "1 2026-01-01T00:00:00Z 2026-01-01T00:00:00Z "
				   "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

	assert_int_equal(seal_one(p), BERTH_OK);
	seal_file_is(p, file, sizeof(file) - 1);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK);
	assert_int_equal(unseal_one(p), BERTH_E_UNKNOWN);
}

/* ---- reading the file again --------------------------------------------------------------------------------------- */

static void an_envelope_of_a_key_not_seen_yet_makes_it_read_the_file(void **state)
{
	struct seal_place *p = opened(state);
	struct berth_seal *other = NULL;

	for (uint32_t id = 2; id < 40; id++) { /* many within a second: what is in the file is never refused */
		seal_keys_are(p, {1, -10}, {id, -1});
		assert_int_equal(berth_seal_open(p->path, &other), BERTH_OK);
		assert_int_equal(berth_seal_cursor(other, "c1", 2, "acme", 4, "id", 2, p->envelope, sizeof(p->envelope),
						   &p->len),
				 BERTH_OK);
		berth_seal_close(&other);
		assert_int_equal(unseal_one(p), BERTH_OK);
		assert_int_equal(p->u.key_id, id);
	}
}

static void a_changed_file_is_noticed_by_itself(void **state)
{
	struct seal_place *p = opened(state);
	uint64_t deadline = 0, start = test_now_ms();
	uint32_t id = 1;

	assert_int_equal(seal_one(p), BERTH_OK);
	seal_keys_are(p, {2, -1});
	while (id != 2 && within(&deadline))
		id = sealing(p);
	assert_int_equal(id, 2);
	assert_int_equal(unseal_one(p), BERTH_E_UNKNOWN);
	assert_true(test_now_ms() - start < 5000);

	/* In place, of the same size, with the same times. */
	struct stat st;
	int fd = open(p->path, O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(pwrite(fd, "3", 1, 0), 1);
	assert_int_equal(futimens(fd, (const struct timespec[]){st.st_atim, st.st_mtim}), 0);
	close(fd);
	deadline = 0;
	while (id != 3 && within(&deadline))
		id = sealing(p);
	assert_int_equal(id, 3);
}

static void a_file_that_breaks_leaves_the_keys_as_they_were(void **state)
{
	struct seal_place *p = opened(state);
	char elsewhere[96];

	snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", p->home);
	assert_int_equal(seal_one(p), BERTH_OK);
	seal_file_is(p, "rubbish\n", 8);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_E_CORRUPT);
	assert_int_equal(sealing(p), 1);
	assert_int_equal(unseal_one(p), BERTH_OK);
	seal_file_is(p, "", 0);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_E_CORRUPT);
	assert_int_equal(sealing(p), 1);
	seal_keys_are(p, {2, -1});
	assert_int_equal(chmod(p->path, 0644), 0);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_E_UNSAFE);
	assert_int_equal(sealing(p), 1);
	assert_int_equal(rename(p->path, elsewhere), 0);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_E_SYSTEM);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(sealing(p), 1);
	assert_int_equal(symlink("elsewhere", p->path), 0);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_E_UNSAFE);
	assert_int_equal(unlink(p->path), 0);
	assert_int_equal(chmod(elsewhere, 0600), 0);
	assert_int_equal(rename(elsewhere, p->path), 0);
	assert_int_equal(berth_seal_reload(p->seal), BERTH_OK); /* mended */
	assert_int_equal(sealing(p), 2);
}

static void a_forked_child_goes_on_with_it(void **state)
{
	struct seal_place *p = opened(state);
	int status;

	assert_int_equal(seal_one(p), BERTH_OK);
	pid_t child = fork();
	if (child == 0) {
		if (unseal_one(p) != BERTH_OK || seal_one(p) != BERTH_OK || unseal_one(p) != BERTH_OK)
			_exit(1);
		berth_seal_close(&p->seal);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(unseal_one(p), BERTH_OK);
}

/* ---- threads ------------------------------------------------------------------------------------------------------ */

#define THREADS 4

struct crew {
	struct seal_place *place;
	_Atomic bool over;
	_Atomic unsigned rounds, wrong, highest; /* highest: key id seen */
	pthread_barrier_t start;
	pthread_t thread[THREADS];
};

/* Seals, opens what it sealed now and in the round before; no assertion of cmocka's off its thread. */
static void *worker(void *argument)
{
	struct crew *c = argument;
	struct seal_place mine[2] = {*c->place, *c->place};

	for (unsigned i = 0; !atomic_load(&c->over); i++) {
		struct seal_place *now = &mine[i % 2], *before = &mine[(i + 1) % 2];

		if (seal_one(now) != BERTH_OK || unseal_one(now) != BERTH_OK || strcmp(now->u.id, "id") != 0 ||
		    unseal_as(now, "globex") != BERTH_E_NOT_OWNER || (i && unseal_one(before) != BERTH_OK))
			atomic_fetch_add(&c->wrong, 1);
		if (now->u.key_id > atomic_load(&c->highest))
			atomic_store(&c->highest, now->u.key_id);
		atomic_fetch_add(&c->rounds, 1);
	}
	return NULL;
}

static void threads_seal_and_open_while_keys_rotate(void **state)
{
	struct crew c = {.place = opened(state)};
	struct seal_spec spec[51] = {{1, -100}};
	uint64_t deadline = 0;

	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&c.thread[i], NULL, worker, &c), 0);
	for (unsigned n = 1; n < 50; n++) {
		unsigned rounds = atomic_load(&c.rounds);

		spec[n] = (struct seal_spec){n + 1, -1};
		seal_keys_write(c.place, spec);
		assert_int_equal(berth_seal_reload(c.place->seal), BERTH_OK);
		for (deadline = 0; atomic_load(&c.rounds) < rounds + 2 * THREADS && within(&deadline);)
			sched_yield();
	}
	for (deadline = 0; atomic_load(&c.highest) < 50 && within(&deadline);)
		sched_yield();
	atomic_store(&c.over, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(c.thread[i], NULL);
	assert_int_equal(atomic_load(&c.wrong), 0);
	assert_int_equal(atomic_load(&c.highest), 50);
}

static void *opener(void *argument)
{
	struct crew *c = argument;
	struct seal_place mine = *c->place;

	pthread_barrier_wait(&c->start);
	if (unseal_one(&mine) != BERTH_OK)
		atomic_fetch_add(&c->wrong, 1);
	return NULL;
}

static void threads_that_meet_a_new_key_together_all_open_it(void **state)
{
	struct crew c = {.place = opened(state)};
	struct berth_seal *other = NULL;

	assert_int_equal(pthread_barrier_init(&c.start, NULL, THREADS), 0);
	for (uint32_t id = 2; id < 60; id++) {
		seal_keys_are(c.place, {1, -10}, {id, -1});
		assert_int_equal(berth_seal_open(c.place->path, &other), BERTH_OK);
		assert_int_equal(berth_seal_cursor(other, "c1", 2, "acme", 4, "id", 2, c.place->envelope,
						   sizeof(c.place->envelope), &c.place->len),
				 BERTH_OK);
		berth_seal_close(&other);
		for (unsigned i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&c.thread[i], NULL, opener, &c), 0);
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(c.thread[i], NULL);
		assert_int_equal(atomic_load(&c.wrong), 0);
	}
	pthread_barrier_destroy(&c.start);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SEAL_TEST(without_a_key_every_call_is_refused),
		SEAL_TEST(while_every_key_waits_nothing_is_sealed),
		SEAL_TEST(after_a_rotation_the_new_key_seals_and_the_old_one_opens),
		SEAL_TEST(a_key_of_later_opens_at_once_and_seals_when_its_time_comes),
		SEAL_TEST(an_envelope_of_another_secret_under_the_same_id_is_refused),
		SEAL_TEST(an_envelope_of_a_key_not_seen_yet_makes_it_read_the_file),
		SEAL_TEST(a_changed_file_is_noticed_by_itself),
		SEAL_TEST(a_file_that_breaks_leaves_the_keys_as_they_were),
		SEAL_TEST(a_forked_child_goes_on_with_it),
		SEAL_TEST(threads_seal_and_open_while_keys_rotate),
		SEAL_TEST(threads_that_meet_a_new_key_together_all_open_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
