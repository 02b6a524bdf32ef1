/* SPDX-License-Identifier: MIT
 * Packet programs that begin and end writes under leases as fast as two processors can, while partitions are moved to and
 * fro. The barrier is so long that only the drain lets a migration end. What each program has under way, it says in memory
 * of its own, from after a begin until before its end; right after the answer of a `complete` nothing may stand there that
 * was admitted before its cutover, and nothing may be admitted at an epoch from before it any more. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "lease_place.h"

#define BARRIER "30000"
#define LONGEST_US 60000000u
#define TURNS 500u /* runs of the program in one system call */
#define SOON_MS 20000

struct hammer {
	pthread_t thread;
	unsigned processor;
	int program;
	struct hammer_call call;
	bool failed;
};
static _Atomic bool stop;

static void *strike(void *arg)
{
	struct hammer *h = arg;

	h->failed = !lease_pin_thread(h->processor);
	while (!h->failed && !atomic_load(&stop)) {
		struct hammer_call answer;
		LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = &h->call, .data_size_in = sizeof(h->call),
			    .data_out = &answer, .data_size_out = sizeof(answer), .repeat = TURNS);

		h->failed = bpf_prog_test_run_opts(h->program, &options) != 0;
		h->call = answer;
	}
	return NULL;
}

static void name(char key[8], unsigned k)
{
	snprintf(key, 8, "p%u", k);
}

static uint64_t change(struct lease_place *p, const char *what, unsigned k, const char *to)
{
	json_t *r;
	char key[8];
	uint64_t epoch;

	name(key, k);
	if (to)
		r = wire_ok(&p->drain.admin, what, "{s:s,s:{s:s}}", "partition", key, "to", "cluster", to);
	else if (strcmp(what, "complete") == 0)
		r = wire_ok(&p->drain.admin, what, "{s:s,s:i}", "partition", key, "wait_ms", SOON_MS);
	else
		r = wire_ok(&p->drain.admin, what, "{s:s}", "partition", key);
	epoch = (uint64_t)int_of(r, "epoch");
	json_decref(r);
	return epoch;
}

/* Writes on k that are under way and were admitted at an epoch before this one. */
static unsigned old_writes(const struct hammer_shared *shared, unsigned k, uint64_t cutover)
{
	unsigned n = 0;

	for (unsigned i = 0; i < HAMMER_PROCESSORS * HAMMER_SLOTS; i++) {
		uint64_t going = *(const volatile __u64 *)&shared->going[i];

		n += going && (going & 0xff) == k + 1 && going >> 8 < cutover;
	}
	return n;
}

/* kill_every: so many migrations, then the daemon is killed over a cutover, and another one completes it; 0: never. */
static void hammer(struct lease_place *p, unsigned n_migrations, unsigned enough, unsigned kill_every)
{
	static struct hammer
		hammers[HAMMER_PROCESSORS]; /* a test that fails leaves them running, until the process ends */
	uint64_t admitted = 0, refused = 0, late = 0, wrong = 0, start_us, longest_us = 0;
	unsigned old = 0, waited = 0, n = 0, n_moved = 0;
	struct hammer_shared *shared;
	struct bpf_object *object;
	int program;
	char key[8];

	if (lease_processors() < HAMMER_PROCESSORS)
		SKIP("needs %u processors", HAMMER_PROCESSORS);
	object = lease_object(p, "lease_hammer", &program, &shared);
	for (unsigned k = 0; k < HAMMER_KEYS; k++) {
		name(key, k);
		drain_put(&p->drain, key);
		memcpy(shared->keys[k].words, key, strlen(key));
		shared->keys[k].len = (uint32_t)strlen(key);
	}
	atomic_store(&stop, false);
	for (unsigned i = 0; i < HAMMER_PROCESSORS; i++, n++) {
		hammers[i] = (struct hammer){.processor = i, .program = program, .call.processor = i};
		assert_int_equal(pthread_create(&hammers[i].thread, NULL, strike, &hammers[i]), 0);
	}
	start_us = drain_now_us();
	/* Until `enough` cutovers had something to drain: longer where the hammers get little time. */
	for (; n_moved < n_migrations || (waited < enough && drain_now_us() - start_us < LONGEST_US); n_moved++) {
		unsigned k = n_moved % HAMMER_KEYS;
		uint64_t cutover, completed, from_us;

		change(p, "begin", k, n_moved / HAMMER_KEYS % 2 ? "c1" : "c2");
		cutover = change(p, "cutover", k, NULL);
		from_us = drain_now_us();
		waited += old_writes(shared, k, cutover) > 0;
		if (kill_every && n_moved % kill_every == 0) {
			daemon_kill(&p->drain.d);
			lease_restart(p, BARRIER, true);
		}
		completed = change(p, "complete", k, NULL);
		old += old_writes(shared, k, cutover);
		*(volatile __u64 *)&shared->completed[k] = completed;
		if (drain_now_us() - from_us > longest_us)
			longest_us = drain_now_us() - from_us;
	}
	start_us = drain_now_us() - start_us;
	atomic_store(&stop, true);
	while (n-- > 0) {
		assert_int_equal(pthread_join(hammers[n].thread, NULL), 0);
		assert_false(hammers[n].failed);
		admitted += hammers[n].call.admitted;
		refused += hammers[n].call.refused;
		late += hammers[n].call.late;
		wrong += hammers[n].call.wrong;
	}
	bpf_object__close(object);
	print_message("          %u migrations in %llu ms, the longest complete %llu us; writes: %llu admitted, %llu "
		      "refused; old ones seen at %u cutovers, %u after their complete; admitted late %llu\n",
		      n_moved, (unsigned long long)start_us / 1000, (unsigned long long)longest_us,
		      (unsigned long long)admitted, (unsigned long long)refused, waited, old, (unsigned long long)late);
	assert_int_equal(old, 0);
	assert_int_equal(late, 0);
	assert_int_equal(wrong, 0);
	assert_true(refused > 0);
	assert_true(waited >= enough);
}

static void no_write_of_before_a_cutover_is_under_way_after_its_complete(void **state)
{
	hammer(lease_place(state, "memory", BARRIER), 1000, 100, 0);
}

static void nor_when_the_daemon_was_killed_in_between(void **state)
{
	hammer(lease_place(state, "sqlite", BARRIER), 60, 15, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEASE_TEST(no_write_of_before_a_cutover_is_under_way_after_its_complete),
		LEASE_TEST(nor_when_the_daemon_was_killed_in_between),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
