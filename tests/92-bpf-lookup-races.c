/* SPDX-License-Identifier: MIT
 * The look-up of packet programs while another thread changes the mirror under it as berthd does, as fast as it can: what
 * was never in force together is never answered (G2, G3 of bpf/berth.bpf.h), an address is whole. A program runs without
 * a pause, a hundred thousand times a call. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "../bpf/answer.h"
#include "look_place.h"

#define HOMES 64u
#define REPEAT 100000u
#define GOOD 3u
#define BAD 4u           /* the cluster that is never to be answered */
#define ENOUGH 200u      /* answers that show that a change came in between */
#define ROUNDS 3000000u  /* of the changer, */
#define ANSWERS 3000000u /* and answers meanwhile */

static struct look_place place;
static struct walk_state *walk;
static uint32_t slot;           /* of the key */
static _Atomic uint32_t rounds; /* of the changer */
static _Atomic bool stop;

static void store(__u64 *at, uint64_t value)
{
	__atomic_store_n(at, value, __ATOMIC_RELEASE);
}

/* So long that a look-up or two fit in. */
static void pause_a_little(void)
{
	for (volatile unsigned i = 0; i < 100; i++)
		;
}

static int setup_walk(void **state)
{
	struct walk_key *keys;

	(void)state;
	look_open(&place, "walk", HOMES, 1);
	walk = look_map(&place, "walk_state", sizeof(*walk));
	keys = look_map(&place, "walk_keys", sizeof(*keys));
	memcpy(keys->bytes, "acme", 4);
	keys->len = 4;
	walk->forbidden = BAD;
	slot = look_put(&place, "acme", 4, look_settled(&place, GOOD));
	atomic_store(&stop, false);
	atomic_store(&rounds, 0);
	return 0;
}

static int setup_look(void **state)
{
	(void)state;
	look_open(&place, "look", HOMES, 1);
	look_put(&place, "acme", 4, look_settled(&place, 1));
	atomic_store(&stop, false);
	atomic_store(&rounds, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	look_close(&place);
	return 0;
}

/* Runs the program while all of that happens; nothing forbidden may be among the answers. */
static void race(void *(*changer)(void *), void *argument)
{
	struct look_frame f = {0};
	uint64_t deadline = 0;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, changer, argument), 0);
	while (within(&deadline)) {
		look_run(place.object, "walk_mirror", &f, REPEAT);
		if (walk->n_code[BERTH_BPF_OK] > ANSWERS && walk->n_code[BERTH_BPF_PASS] > ENOUGH &&
		    atomic_load(&rounds) > ROUNDS)
			break;
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&rounds) > ROUNDS);
	assert_true(walk->n_code[BERTH_BPF_OK] > ANSWERS);
	assert_true(walk->n_code[BERTH_BPF_PASS] > ENOUGH);
	assert_true(walk->n_forbidden == 0);
}

/* The default is BAD only while the key has an entry. */
static void *change_default(void *unused)
{
	(void)unused;
	for (; !atomic_load(&stop); atomic_fetch_add(&rounds, 1)) {
		store(&place.head->dflt, look_settled(&place, BAD));
		pause_a_little();
		store(&place.head->dflt, look_settled(&place, GOOD));
		store(&place.entries[slot].word, word_make(++place.epoch, GOOD, 0, KIND_NONE, 0));
		pause_a_little();
		store(&place.entries[slot].word, look_settled(&place, GOOD));
	}
	return NULL;
}

static void miss_is_answered_by_no_default_that_was_in_force_only_with_the_entry(void **state)
{
	(void)state;
	race(change_default, NULL);
}

/* The word, the entry's or the default's, is BAD only while the mirror is off. */
static void *change_state(void *word)
{
	uint64_t termgen = place.control->state;

	for (; !atomic_load(&stop); atomic_fetch_add(&rounds, 1)) {
		store(&place.control->state, 0);
		store(word, look_settled(&place, BAD));
		pause_a_little();
		store(word, look_settled(&place, GOOD));
		store(&place.control->state, ++termgen);
		pause_a_little();
	}
	return NULL;
}

static void entry_that_was_found_while_the_table_changed_hands_does_not_count(void **state)
{
	(void)state;
	race(change_state, &place.entries[slot].word);
}

static void default_that_was_found_while_the_table_changed_hands_does_not_count(void **state)
{
	(void)state;
	store(&place.entries[slot].word, word_make(place.epoch, GOOD, 0, KIND_NONE, 0));
	race(change_state, &place.head->dflt);
}

/* Every part of an address is the same number. */
static void *change_address(void *unused)
{
	struct mirror_cluster *c = &place.clusters[1];

	(void)unused;
	for (uint8_t n = 1; !atomic_load(&stop); n = (uint8_t)(n == 255 ? 1 : n + 1)) {
		__atomic_store_n(&c->sequence, c->sequence + 1, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_RELEASE);
		c->port = (__u16)(n << 8 | n);
		c->family = n & 1 ? MIRROR_IPV4 : MIRROR_IPV6;
		c->tls = n & 1;
		memset(c->address, n, sizeof(c->address));
		__atomic_store_n(&c->sequence, c->sequence + 1, __ATOMIC_RELEASE);
		pause_a_little();
	}
	return NULL;
}

static void address_is_whole_while_it_is_changed(void **state)
{
	unsigned whole = 0, ports[256] = {0}, different = 0;
	uint64_t deadline = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, change_address, NULL), 0);
	while ((whole < 100000 || different < 200) && within(&deadline))
		for (unsigned i = 0; i < 10000; i++) {
			struct look_frame f = look_ask(place.object, "acme", 4);
			unsigned char *address = (unsigned char *)f.address;

			if (f.family == MIRROR_NO_ADDRESS)
				continue;
			whole++;
			different += ports[address[0]]++ == 0;
			for (unsigned at = 0; at < 16; at++)
				assert_int_equal(address[at], f.port & 0xff);
			assert_int_equal(f.port >> 8, f.port & 0xff);
			assert_int_equal(f.tls, f.port & 1);
			assert_int_equal(f.family, f.port & 1 ? MIRROR_IPV4 : MIRROR_IPV6);
		}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_true(whole >= 100000 && different >= 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(miss_is_answered_by_no_default_that_was_in_force_only_with_the_entry,
						setup_walk, teardown),
		cmocka_unit_test_setup_teardown(entry_that_was_found_while_the_table_changed_hands_does_not_count,
						setup_walk, teardown),
		cmocka_unit_test_setup_teardown(default_that_was_found_while_the_table_changed_hands_does_not_count,
						setup_walk, teardown),
		cmocka_unit_test_setup_teardown(address_is_whole_while_it_is_changed, setup_look, teardown),
	};

	return cmocka_run_group_tests_name("look-ups of packet programs, raced", tests, NULL, NULL);
}
