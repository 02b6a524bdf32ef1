/* SPDX-License-Identifier: MIT
 * torture_crash.h: the test. In each scene all steps are done, to see which points each of them passes; then again and
 * again, until the writer has died at every point of every step (torture_crash_points.c); then a point that only a start
 * after a death passes, behind that death; then at random passages. A point that nothing reached fails the test, by name.
 *
 * CRASH_SECONDS: a dose. At each point it dies once, in the first step that passes it, and what time is left for no more is
 * told; the seed says with which scene to begin. BERTH_SEED repeats the dice, not the scheduler. One thread. */
#include "torture_crash.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "left_over.h"

#define RANDOM_CYCLES 2u
#define SCENES_MAX 40u

static bool dose;
static uint64_t n_pairs, n_missed;

/* ---- a scene ----------------------------------------------------------------------------------------------- */

/* All steps once. False: nothing was armed in any, or the time is up. */
static bool cycle(struct crash *c, enum cr_mode mode)
{
	bool any = false;

	for (unsigned i = 0; c->scene->steps[i].name; i++) {
		bool quiet = mode == CR_AT_RANDOM && cr_random(2);

		any = cr_step(c, i, quiet ? CR_NO_DEATH : mode, 0, 0) || any;
		if (mode != CR_NO_DEATH && cr_time_is_up())
			return false;
	}
	return any;
}

static void scene(const struct cr_scene *scene)
{
	static struct crash c;
	uint64_t began = mp_now_ms(), kills = cr_counts.kills;
	unsigned n, missed, cycles = 1;

	cr_points_of_scene();
	cr_place_open(&c, scene);
	if (!dose)
		cycle(&c, CR_NO_DEATH);
	for (; !cr_time_is_up() && cycle(&c, CR_EACH); cycles++)
		if (cr_random(16) == 0)
			cr_await_reserve(&c);
	while (!dose && cr_behind_a_death(&c))
		;
	for (unsigned i = 0; i < RANDOM_CYCLES && !dose; i++)
		cycle(&c, CR_AT_RANDOM);
	cr_place_close(&c);
	cr_points_count(scene, &n, &missed);
	n_pairs += n;
	n_missed += missed;
	printf("note: %s: %llu kills, %u cycles, %llu ms", scene->name, (unsigned long long)(cr_counts.kills - kills),
	       cycles, (unsigned long long)(mp_now_ms() - began));
	if (!dose)
		printf("; %u points of steps, %u of them not met again", n, missed);
	printf("\n");
	fflush(stdout);
}

/* ---- the test ---------------------------------------------------------------------------------------------- */

static int open_file(void **state)
{
	static char path[] = "/dev/shm/berth-crash-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	if (fd < 0 || ftruncate(fd, sizeof *cr_file) != 0)
		return -1;
	cr_file = mmap(NULL, sizeof *cr_file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	left_over_put(path);
	setenv(CRASH_FILE_ENV, path, 1);
	return cr_file == MAP_FAILED ? -1 : 0;
}

static int close_file(void **state)
{
	(void)state;
	readers_kill_all();
	unlink(getenv(CRASH_FILE_ENV));
	left_over_forget(getenv(CRASH_FILE_ENV));
	return 0;
}

static unsigned all_scenes(const struct cr_scene *all[SCENES_MAX])
{
	const struct cr_scene *const sets[] = {cr_start_scenes, cr_change_scenes, cr_held_scenes, cr_lease_scenes,
					       cr_pin_scenes};
	const char *only = getenv("CRASH_ONLY"); /* a part of a name */
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof sets / sizeof sets[0]; i++)
		for (const struct cr_scene *s = sets[i]; s->name; s++) {
			assert_true(n < SCENES_MAX);
			if (!only || strstr(s->name, only))
				all[n++] = s;
		}
	assert_true(n > 0);
	return n;
}

/* In the order of the source, or from a place that the seed says; those that mostly wait come last then. */
static void all_of(const struct cr_scene *all[], unsigned n, unsigned *gone)
{
	unsigned first = dose ? (unsigned)cr_random(n) : 0;

	for (unsigned late = 0; late < 2; late++)
		for (unsigned i = 0; i < n && !cr_time_is_up(); i++) {
			const struct cr_scene *s = all[(first + i) % n];

			if (late != (dose && s->steps[0].how == CR_ONLY_MISSING))
				continue;
			scene(s);
			++*gone;
		}
}

static void a_writer_that_dies_at_any_point_has_what_was_acknowledged_when_it_comes_back(void **state)
{
	const struct cr_scene *all[SCENES_MAX];
	unsigned n = all_scenes(all), seconds = mp_number("CRASH_SECONDS", 0, 0), covered = 0, gone = 0;
	const char *why = bpf_unable();
	char missing[12000] = "";
	uint64_t seed;

	(void)state;
	if (why) {
		printf("SKIP: %s\n", why);
		skip();
	}
	seed = mp_seed();
	dose = seconds > 0;
	cr_points_open(seed, dose ? mp_now_ms() + 1000ull * seconds : 0);
	all_of(all, n, &gone);
	for (uint32_t row = 0; row < cr_n_points(); row++) {
		size_t at = strlen(missing);

		covered += cr_covered(row);
		if (!cr_covered(row))
			snprintf(missing + at, sizeof missing - at, " %s%s", cr_file->rows[row].name,
				 atomic_load(&cr_file->rows[row].passed) ? "" : "(never passed)");
	}
	printf("note: points covered %u of %u; kills %llu, starts %llu, operations %llu, comparisons %llu, look-ups "
	       "judged %llu; scenes %u of %u; seed %llu\n",
	       covered, cr_n_points(), (unsigned long long)cr_counts.kills, (unsigned long long)cr_counts.starts,
	       (unsigned long long)cr_counts.operations, (unsigned long long)cr_counts.comparisons,
	       (unsigned long long)cr_counts.looks, gone, n, (unsigned long long)seed);
	if (!dose)
		printf("note: points of steps %llu, of them not met again %llu; deaths behind a death %llu\n",
		       (unsigned long long)n_pairs, (unsigned long long)n_missed, (unsigned long long)cr_counts.behind);
	if (covered < cr_n_points())
		printf("note: not covered:%s\n", missing);
	if (!seconds && !getenv("CRASH_ONLY") && covered < cr_n_points())
		fail_msg("%u points were not covered:%s", cr_n_points() - covered, missing);
	assert_true(cr_counts.kills > 0 && cr_counts.comparisons > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_writer_that_dies_at_any_point_has_what_was_acknowledged_when_it_comes_back),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, open_file, close_file);
}
