/* SPDX-License-Identifier: MIT
 * What the mirror says while changes, growths and restarts go on, in one process with its writer: judged by a thread that
 * reads both all the time, while the writer is interrupted at any instruction. */
#include "mirror_place.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mirror_judge.h"

/* The writer is interrupted at any instruction, so that a reader on another processor sees every state in between. */
static void pause_a_little(int signal)
{
	const struct timespec nap = {.tv_nsec = 20000};
	int e = errno;

	(void)signal;
	nanosleep(&nap, NULL);
	errno = e;
}

static timer_t interrupt_me(long every_ns)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	struct itimerspec every = {.it_interval = {.tv_nsec = every_ns}, .it_value = {.tv_nsec = every_ns}};
	timer_t timer;

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	prctl(PR_SET_TIMERSLACK, 1);
	signal(SIGUSR1, pause_a_little);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
	return timer;
}

#define N_KEYS 2000u
#define N_CHANGES 150000u
static char keys[N_KEYS][40];
static uint8_t phase_of[N_KEYS]; /* 1 + enum word_phase; 0: no entry */

static void change(struct mirror_place *p, unsigned i)
{
	const struct shm_detail *c1 = mirror_place_on(1), *c2 = mirror_place_on(2);

	switch (phase_of[i]) {
	case 0:
		mirror_place_put(p, keys[i], PHASE_SETTLED, c1, NULL);
		phase_of[i] = 1 + PHASE_SETTLED;
		break;
	case 1 + PHASE_SETTLED:
		if (rand() % 2) {
			mirror_place_put(p, keys[i], PHASE_SETTLED, NULL, NULL);
			phase_of[i] = 0;
		} else {
			mirror_place_put(p, keys[i], PHASE_SETTLED, c1, NULL);
			mirror_place_put(p, keys[i], PHASE_DRAINING, c1, c2);
			phase_of[i] = 1 + PHASE_DRAINING;
		}
		break;
	case 1 + PHASE_DRAINING:
		mirror_place_put(p, keys[i], PHASE_CUTOVER, c1, c2);
		phase_of[i] = 1 + PHASE_CUTOVER;
		break;
	default:
		mirror_place_put(p, keys[i], PHASE_SETTLED, rand() % 4 ? c2 : c1, NULL);
		phase_of[i] = 1 + PHASE_SETTLED;
	}
}

static void expect_right(struct mirror_verdict v)
{
	print_message("looks %llu, judged %llu, passed up %llu, discarded %llu, wrong %llu (must be 0)\n",
		      (unsigned long long)v.looks, (unsigned long long)v.answers, (unsigned long long)v.passes,
		      (unsigned long long)v.discarded, (unsigned long long)v.wrong);
	if (v.wrong)
		fail_msg("%llu answers of the mirror were wrong, the first: %s", (unsigned long long)v.wrong, v.first);
	assert_true(v.answers > 10000);
	assert_true(v.passes > 0);
}

static void the_mirror_never_says_what_the_table_does_not(void **state)
{
	struct mirror_place *p = *state;
	unsigned seed = (unsigned)seg_clock_ns(CLOCK_MONOTONIC), generations = 0, n = 0, last = 0;
	struct mirror_judge *j;
	struct mirror_verdict v;
	struct table_stats st;
	timer_t timer;

	mirror_place_needed(p);
	print_message("seed %u\n", seed);
	srand(seed);
	memset(phase_of, 0, sizeof(phase_of));
	for (unsigned i = 0; i < N_KEYS; i++)
		snprintf(keys[i], sizeof(keys[i]), "tenant-%u%.*s", i, (int)(i % 25), "-abcdefghijklmnopqrstuvwxyz");
	j = mirror_judge_start(p->s.path, p->pins, keys, N_KEYS);
	timer = interrupt_me(80000);
	do {
		unsigned few = n < N_CHANGES / 2 ? 20 + n / 100 : N_KEYS;

		if (n % 50 == 0)
			mirror_place_put(p, NULL, PHASE_SETTLED,
					 rand() % 3 ? mirror_place_on(1 + (unsigned)rand() % 2) : NULL, NULL);
		change(p, (unsigned)rand() % (n % 4 ? 2 : few > N_KEYS ? N_KEYS : few));
		if (n++ % 16 == 0)
			table_step(p->t, 50);
		table_stats(p->t, &st);
		generations += st.generation != last;
		last = st.generation;
		v = n % 4096 ? v : mirror_judge_so_far(j);
	} while (n < N_CHANGES || (v.answers < 200000 && n < 40 * N_CHANGES));
	timer_delete(timer);
	v = mirror_judge_stop(&j);
	print_message("changes %u, generations %u\n", n, generations);
	assert_true(generations > 3);
	mirror_place_compare(p);
	expect_right(v);
}

struct hands { /* of a thread that looks whether programs may answer while another table is in force */
	const struct shm_root *root;
	const struct mirror_control *control;
	_Atomic bool stop;
	_Atomic uint64_t looks, wrong;
};

static uint64_t state_now(const struct hands *h)
{
	return atomic_load_explicit((const _Atomic uint64_t *)(uintptr_t)&h->control->state, memory_order_acquire);
}

static void *watch_hands(void *arg)
{
	struct hands *h = arg;

	while (!h->stop) {
		uint64_t before = state_now(h);
		uint64_t termgen = atomic_load_explicit(&h->root->termgen, memory_order_acquire);

		h->wrong += before != 0 && before != termgen && state_now(h) == before;
		h->looks++;
	}
	return NULL;
}

static void a_restart_shows_programs_one_table_or_none(void **state)
{
	struct mirror_place *p = *state;
	struct hands h = {0};
	struct mirror_judge *j;
	struct mirror_verdict v = {0};
	pthread_t thread;
	char path[352];

	mirror_place_needed(p);
	for (unsigned i = 0; i < 16; i++)
		snprintf(keys[i], sizeof(keys[i]), "tenant-%u", i);
	snprintf(path, sizeof(path), "%s/control", p->pins);
	h.control = mmap(NULL, sizeof(*h.control), PROT_READ, MAP_SHARED, bpf_obj_get(path), 0);
	assert_true(h.control != MAP_FAILED);
	assert_int_equal(seg_root_map(p->s.instance.dir_fd, &h.root), BERTH_OK);
	j = mirror_judge_start(p->s.path, p->pins, keys, 16);
	assert_int_equal(pthread_create(&thread, NULL, watch_hands, &h), 0);
	/* A new writer finds an empty store: whoever still answers by the last table is wrong. */
	for (unsigned round = 0; round < 20; round++) {
		uint64_t deadline = 0, answers = mirror_judge_so_far(j).answers;

		for (unsigned i = 0; i < 16; i++)
			mirror_place_put(p, keys[i], PHASE_SETTLED, mirror_place_on(1), NULL);
		while ((v = mirror_judge_so_far(j)).answers < answers + 1000 && within(&deadline))
			;
		table_close(&p->t);
		mirror_place_up(p, true);
	}
	v = mirror_judge_stop(&j);
	h.stop = true;
	pthread_join(thread, NULL);
	seg_root_unmap(&h.root);
	munmap((void *)(uintptr_t)h.control, sizeof(*h.control));
	assert_true(v.answers > 10000);
	if (v.wrong)
		fail_msg("%llu answers were wrong, the first: %s", (unsigned long long)v.wrong, v.first);
	assert_int_equal(h.wrong, 0);
	assert_true(h.looks > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MIRROR_TEST(the_mirror_never_says_what_the_table_does_not),
		MIRROR_TEST(a_restart_shows_programs_one_table_or_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
