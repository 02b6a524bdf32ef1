/* SPDX-License-Identifier: MIT
 * Why a cutover needs its membarrier, and a lease its place before the word's load: both sides of shm/lease.h on two
 * processors of this machine, round after round. One thread takes a lease and loads the word, as berth_write_begin does;
 * the other stores the cutover, calls membarrier and looks for leases, as the daemon does. Lost is a round in which the
 * first saw the old word and the second saw no lease: a write that nobody waits for. That a broken order loses rounds
 * depends on the processor and on luck: where it does not happen in the time given, a note says so. SKIP where there are
 * fewer than two processors, or membarrier is refused. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../shm/grace.h"
#include "../shm/lease.h"

#define PARTITION 0x5eedull
#define BEFORE 1u
#define CUTOVER 2u
#define AHEAD_NS 1500u /* a round starts so long after it was agreed upon */
#define LATE_NS 500u   /* a side starts up to so much later */
#define PAUSE_NS 20000u
#define COLD_LINES (1u << 19) /* 32 MiB: more than the near caches hold */

enum order { LEASE_FIRST, WORD_FIRST };

struct how {
	enum order order;
	bool reader_fences, daemon_membarrier, daemon_fence;
	uint64_t time_ms;
	uint64_t enough; /* lost rounds after which it is over; 0: none */
};

static struct litmus {
	struct how how;
	int cpu[2];
	_Atomic uint64_t *cold; /* the reader's, COLD_LINES * 8 */
	/* by what the reader saw (0: the old word, 1: the cutover) and whether the daemon saw the lease */
	uint64_t seen[2][2];
	/* shared by the two threads; a pair of cache lines each */
	_Alignas(128) _Atomic uint64_t word;
	_Alignas(128) _Atomic uint64_t ready;    /* the round that the reader waits for */
	_Alignas(128) _Atomic uint64_t start_ns; /* of that round, once it is another than before; 1: over */
	_Alignas(128) _Atomic uint64_t answer;   /* round << 2 | the word that the reader saw */
	_Alignas(128) struct shm_leases array;
	struct shm_lease slot;
} it;
static_assert(offsetof(struct litmus, slot) == offsetof(struct litmus, array) + sizeof(struct shm_leases),
	      "slots follow their header");

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
}

/* The other side may have lost its processor: then it is left ours. */
static void turn_over(unsigned *turns)
{
	if (++*turns % 4096 == 0)
		sched_yield();
}

static uint64_t next(uint64_t *random)
{
	*random = *random * 6364136223846793005ull + 1442695040888963407ull;
	return *random >> 32;
}

static void until(uint64_t ns)
{
	while (clock_ns() < ns)
		;
}

/* Between the two steps, in half of the rounds: a reader may lose its processor anywhere. */
static void pause_perhaps(uint64_t random)
{
	if (random & 1)
		until(clock_ns() + (random >> 1) % PAUSE_NS);
}

static void *reader(void *arg)
{
	uint64_t random = 1, last = 0;

	(void)arg;
	if (!pin(it.cpu[0]))
		abort();
	for (uint64_t round = 1;; round++) {
		uint64_t start, word, pause = next(&random);
		_Atomic uint64_t *cold = &it.cold[(size_t)(next(&random) % COLD_LINES) * 8];
		unsigned turns = 0;

		atomic_store_explicit(&it.ready, round, memory_order_release);
		while ((start = atomic_load_explicit(&it.start_ns, memory_order_acquire)) == last)
			turn_over(&turns);
		if (start == 1)
			return NULL;
		last = start;
		/* A look ahead, so that the load that counts finds it in the cache, and may be early. */
		(void)atomic_load_explicit(&it.word, memory_order_relaxed);
		until(start + next(&random) % LATE_NS);
		if (it.how.order == LEASE_FIRST) {
			/* What a program has just written elsewhere: the lease's stores queue behind it. */
			atomic_store_explicit(cold, round, memory_order_relaxed);
			lease_take(&it.array, 0, PARTITION, lease_tag((uint32_t)round), round);
			section_fence(it.how.reader_fences);
			pause_perhaps(pause);
			word = atomic_load_explicit(&it.word, memory_order_acquire);
		} else {
			word = atomic_load_explicit(&it.word, memory_order_acquire);
			pause_perhaps(pause);
			lease_take(&it.array, 0, PARTITION, lease_tag((uint32_t)round), round);
			section_fence(it.how.reader_fences);
		}
		atomic_store_explicit(&it.answer, round << 2 | word, memory_order_release);
	}
}

/* As a look of the daemon: what lies below the mark. */
static bool lease_there(void)
{
	uint64_t state = 0;

	return atomic_load_explicit(&it.array.high, memory_order_acquire) > 0 &&
	       lease_look(&it.slot, &state) == PARTITION && lease_kind(state) == LEASE_OPEN;
}

/* The daemon's side. */
static void rounds(void)
{
	uint64_t random = 2, end = clock_ns() + it.how.time_ms * 1000000u, start, answer;
	unsigned turns = 0;

	for (uint64_t round = 1;; round++) {
		bool found;

		while (atomic_load_explicit(&it.ready, memory_order_acquire) != round)
			turn_over(&turns);
		if (clock_ns() >= end || (it.how.enough && it.seen[0][0] >= it.how.enough))
			break;
		/* All as before; the release below makes it visible first. */
		atomic_store_explicit(&it.word, BEFORE, memory_order_relaxed);
		atomic_store_explicit(&it.array.high, 0, memory_order_relaxed);
		atomic_store_explicit(&it.slot.state, lease_state(LEASE_UNKNOWN, 1), memory_order_relaxed);
		lease_clear(&it.slot);
		start = clock_ns() + AHEAD_NS;
		atomic_store_explicit(&it.start_ns, start, memory_order_release);
		until(start + next(&random) % LATE_NS);
		atomic_store_explicit(&it.word, CUTOVER, memory_order_release);
		if (it.how.daemon_fence)
			atomic_thread_fence(memory_order_seq_cst);
		if (it.how.daemon_membarrier)
			assert_int_equal(grace_barrier(), 0);
		found = lease_there();
		while ((answer = atomic_load_explicit(&it.answer, memory_order_acquire)) >> 2 != round)
			turn_over(&turns);
		it.seen[(answer & 3u) == CUTOVER][found]++;
	}
	atomic_store_explicit(&it.start_ns, 1, memory_order_release);
}

static int two_processors(int cpu[2])
{
	cpu_set_t set;
	int n = 0;

	if (sched_getaffinity(0, sizeof set, &set) != 0)
		return 0;
	for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (CPU_ISSET((size_t)i, &set))
			cpu[n++] = i;
	return n;
}

/* False: cannot be shown here. */
static bool play(const struct how *how)
{
	cpu_set_t before;
	pthread_t thread;

	memset(&it, 0, sizeof it);
	it.how = *how;
	if (two_processors(it.cpu) < 2) {
		print_message("SKIP: needs two processors\n");
		return false;
	}
	/* It leaves the reader's processor before it registers: nothing else may have run there since. (grace.c) */
	assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
	assert_true(pin(it.cpu[0]));
	until(clock_ns() + 1000000);
	assert_true(pin(it.cpu[1]));
	if (grace_register() != 0 || grace_barrier() != 0) {
		print_message("SKIP: membarrier is refused\n");
		return false;
	}
	it.cold = calloc((size_t)COLD_LINES * 8, sizeof *it.cold);
	assert_non_null(it.cold);
	assert_int_equal(pthread_create(&thread, NULL, reader, NULL), 0);
	rounds();
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
	free(it.cold);
	return true;
}

static void say(const char *what)
{
	unsigned long long lost = it.seen[0][0], old = it.seen[0][1], late = it.seen[1][0], both = it.seen[1][1];

	print_message("%s%s: %llu of %llu rounds lost; admitted and seen %llu, refused %llu, refused and seen %llu\n",
		      it.how.enough && !lost ? "note: not lost on this machine: " : "", what, lost,
		      lost + old + late + both, old, late, both);
}

static void with_the_membarrier_no_lease_is_missed(void **state)
{
	struct how how = {.order = LEASE_FIRST, .daemon_membarrier = true, .time_ms = 3000};

	(void)state;
	if (!play(&how))
		skip();
	say("lease, word | cutover, membarrier, look");
	assert_int_equal(it.seen[0][0], 0);
}

/* A reader that membarrier does not reach; the daemon's half of a fence is its own (grace_advance). */
static void fences_on_both_sides_do_as_well(void **state)
{
	struct how how = {.order = LEASE_FIRST, .reader_fences = true, .daemon_fence = true, .time_ms = 2000};

	(void)state;
	if (!play(&how))
		skip();
	say("lease, fence, word | cutover, fence, look");
	assert_int_equal(it.seen[0][0], 0);
}

static void without_it_leases_are_missed(void **state)
{
	struct how how = {.order = LEASE_FIRST, .daemon_fence = true, .time_ms = 3000, .enough = 1000};

	(void)state;
	if (!play(&how))
		skip();
	say("lease, word | cutover, fence, look");
}

static void a_lease_after_the_word_is_missed_in_spite_of_it(void **state)
{
	struct how how = {.order = WORD_FIRST, .daemon_membarrier = true, .time_ms = 2000, .enough = 1000};

	(void)state;
	if (!play(&how))
		skip();
	say("word, lease | cutover, membarrier, look");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_the_membarrier_no_lease_is_missed),
		cmocka_unit_test(fences_on_both_sides_do_as_well),
		cmocka_unit_test(without_it_leases_are_missed),
		cmocka_unit_test(a_lease_after_the_word_is_missed_in_spite_of_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
