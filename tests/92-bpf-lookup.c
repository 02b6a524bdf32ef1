/* SPDX-License-Identifier: MIT
 * The look-up of packet programs (bpf/berth.bpf.h) in mirrors that the test fills byte by byte: exact cases, damage. What
 * berthd makes of it is 92-bpf-lookup-daemon.c's; races are 92-bpf-lookup-races.c's. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "../bpf/answer.h"
#include "look_place.h"

#define HOMES 4096u

static int setup(void **state)
{
	static struct look_place place;

	look_open(&place, "look", HOMES, 1);
	*state = &place;
	return 0;
}

static int teardown(void **state)
{
	look_close(*state);
	return 0;
}

static void expect_cluster(const struct look_place *p, const void *key, size_t len, unsigned cluster)
{
	struct look_frame f = look_ask(p->object, key, len);

	assert_int_equal(f.code, BERTH_BPF_OK);
	assert_int_equal(f.cluster, cluster);
	assert_false(f.is_default);
}

static void expect_none(const struct look_place *p, const void *key, size_t len, int code, int why)
{
	struct look_frame f = look_ask(p->object, key, len);

	assert_int_equal(f.code, code);
	assert_int_equal(f.why, why);
}

static uint64_t seed = 1;
static uint8_t random_byte(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint8_t)(seed >> 56);
}

/* Found means: the program's hash is shm/hash.h's to the last bit, its home that of shm/index.h, its key equal. */
static void keys_of_all_lengths_are_found_by_the_same_hash(void **state)
{
	enum { EACH = 16 };
	static unsigned char keys[MIRROR_KEY_MAX + 1][EACH][MIRROR_KEY_MAX];
	struct look_place *p = *state;

	for (unsigned len = 1; len <= MIRROR_KEY_MAX; len++)
		for (unsigned i = 0; i < EACH; i++) {
			for (unsigned b = 0; b < len; b++)
				keys[len][i][b] = random_byte();
			keys[len][i][0] = (unsigned char)(i << 4 | (keys[len][i][0] & 15)); /* all different */
			look_put(p, keys[len][i], len, look_settled(p, len * EACH + i + 1));
		}
	for (unsigned len = 1; len <= MIRROR_KEY_MAX; len++)
		for (unsigned i = 0; i < EACH; i++)
			expect_cluster(p, keys[len][i], len, len * EACH + i + 1);
}

static void longer_keys_and_no_key_at_all_are_passed_on(void **state)
{
	struct look_place *p = *state;
	char key[255];

	memset(key, 'k', sizeof(key));
	p->head->dflt = look_settled(p, 7);
	look_put(p, key, MIRROR_KEY_MAX, look_settled(p, 1));
	expect_cluster(p, key, MIRROR_KEY_MAX, 1);
	expect_none(p, key, MIRROR_KEY_MAX + 1, BERTH_BPF_PASS, MIRROR_EVENT_KEY_LONG);
	expect_none(p, key, 255, BERTH_BPF_PASS, MIRROR_EVENT_KEY_LONG);
	expect_none(p, key, 0, BERTH_BPF_PASS, MIRROR_EVENT_KEY_LONG);
}

static void entry_of_a_longer_key_never_matches(void **state)
{
	struct look_place *p = *state;
	uint32_t slot = look_put(p, "acme", 4, MIRROR_WORD_PASS);

	memset(p->entries[slot].key, 0, sizeof(p->entries[slot].key));
	p->entries[slot].len = 0xff;
	expect_none(p, "acme", 4, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
}

static void default_answers_who_has_no_entry(void **state)
{
	struct look_place *p = *state;
	struct look_frame f;

	expect_none(p, "nobody", 6, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
	p->head->dflt = look_settled(p, 7);
	f = look_ask(p->object, "nobody", 6);
	assert_int_equal(f.code, BERTH_BPF_OK);
	assert_true(f.is_default);
	assert_int_equal(f.cluster, 7);
	assert_int_equal(f.epoch, p->epoch);
	p->head->dflt = MIRROR_WORD_PASS;
	expect_none(p, "nobody", 6, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	p->head->dflt = word_make(9, 7, 0, KIND_NONE, 0); /* none any more */
	expect_none(p, "nobody", 6, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
}

static void all_of_the_word_is_told(void **state)
{
	struct look_place *p = *state;

	for (unsigned kind = 1; kind <= 3; kind++)
		for (unsigned phase = PHASE_SETTLED; phase <= PHASE_CUTOVER; phase++) {
			char key[8];
			int n = snprintf(key, sizeof(key), "k%u-%u", kind, phase);
			uint64_t epoch = SHM_EPOCH_MAX - kind * 4 - phase;
			struct look_frame f;

			look_put(p, key, (size_t)n, word_make(epoch, 65535 - phase, kind & 1, kind, phase));
			f = look_ask(p->object, key, (size_t)n);
			assert_int_equal(f.code, BERTH_BPF_OK);
			assert_true(f.epoch == epoch);
			assert_int_equal(f.cluster, 65535 - phase);
			assert_int_equal(f.kind, kind);
			assert_int_equal(f.phase, phase);
			assert_false(f.is_default);
		}
}

static void word_that_says_pass_and_word_without_a_cluster_are_passed_on(void **state)
{
	struct look_place *p = *state;

	p->head->dflt = look_settled(p, 7);
	look_put(p, "held", 4, MIRROR_WORD_PASS);
	look_put(p, "damaged", 7, word_make(5, 0, 0, KIND_SHARED_INDEX, 0));
	expect_none(p, "held", 4, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	expect_none(p, "damaged", 7, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
}

static void tombstones_are_passed_over_and_empty_entries_end_a_probe(void **state)
{
	struct look_place *p = *state;
	uint32_t home = index_home(look_hash(p, "acme", 4), HOMES);

	p->head->longest_probe = 10;
	look_put_at(p, home, "acme", 4, word_make(3, 5, 0, KIND_NONE, 0)); /* its own, removed */
	look_put_at(p, home + 1, "other", 5, WORD_RESERVED);
	look_put_at(p, home + 2, "acme", 4, look_settled(p, 2));
	expect_cluster(p, "acme", 4, 2);
	p->entries[home + 2].word = word_make(4, 2, 0, KIND_NONE, 0);
	look_put_at(p, home + 4, "acme", 4, look_settled(p, 3)); /* behind an empty one: no writer does that */
	expect_none(p, "acme", 4, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
}

static void probes_end_at_the_longest_and_far_ones_are_passed_on(void **state)
{
	struct look_place *p = *state;
	uint32_t home = index_home(look_hash(p, "acme", 4), HOMES);

	p->head->dflt = look_settled(p, 7);
	for (uint32_t i = 0; i <= 2 * MIRROR_PROBE_MAX; i++)
		look_put_at(p, home + i, "other", 5, look_settled(p, 1));
	for (uint32_t i = 0; i <= 2 * MIRROR_PROBE_MAX; i++) {
		struct look_frame f;

		look_put_at(p, home + i, "acme", 4, look_settled(p, 2));
		p->head->longest_probe = i;
		f = look_ask(p->object, "acme", 4);
		assert_int_equal(f.code, i < MIRROR_PROBE_MAX ? BERTH_BPF_OK : BERTH_BPF_PASS);
		if (i < MIRROR_PROBE_MAX)
			assert_int_equal(f.cluster, 2);
		else
			assert_int_equal(f.why, MIRROR_EVENT_PROBE);
		if (i > 0) { /* where it cannot be is not looked at: the default answers */
			p->head->longest_probe = i - 1;
			f = look_ask(p->object, "acme", 4);
			assert_int_equal(f.code, i <= MIRROR_PROBE_MAX ? BERTH_BPF_OK : BERTH_BPF_PASS);
			assert_true(f.code == BERTH_BPF_PASS || f.is_default);
		}
		look_put_at(p, home + i, "other", 5, look_settled(p, 1));
	}
}

static void hash_or_a_prefix_alone_decides_nothing(void **state)
{
	static const char long_key[] = "0123456789abcdefghijklmnopqrstuvwxyzABC";
	struct look_place *p = *state;

	for (unsigned len = 1; len <= MIRROR_KEY_MAX; len++)
		for (unsigned bad = 0; bad <= len; bad++) {
			char other[MIRROR_KEY_MAX + 1] = {0};
			uint32_t slot = index_home(look_hash(p, long_key, len), HOMES);
			struct mirror_entry *e = &p->entries[slot];

			/* one byte is another one, or the key is a byte longer: a zero, as what pads it */
			memcpy(other, long_key, len);
			if (bad < len)
				other[bad] = (char)(other[bad] ^ 0x40);
			look_put_at(p, slot, long_key, len, look_settled(p, 1));
			memcpy(e->key, other, MIRROR_KEY_MAX);
			e->len = (uint8_t)(bad < len ? len : len + 1);
			expect_none(p, long_key, len, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
			memcpy(e->key, long_key, len);
			e->len = (uint8_t)len;
			expect_cluster(p, long_key, len, 1);
			e->hash ^= 1ull << (bad + 10);
			expect_none(p, long_key, len, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
			memset(e, 0, sizeof(*e));
		}
}

static void mirror_that_is_off_passes_everything_on(void **state)
{
	struct look_place *p = *state;

	look_put(p, "acme", 4, look_settled(p, 1));
	p->head->dflt = look_settled(p, 7);
	expect_cluster(p, "acme", 4, 1);
	p->control->state = 0;
	expect_none(p, "acme", 4, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	expect_none(p, "nobody", 6, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	assert_int_equal(look_admit(p->object, "acme", 4, p->epoch - 1).code, BERTH_BPF_PASS);
}

static void gate_admits_at_the_epoch_in_force_and_leaves_its_flag(void **state)
{
	static const struct {
		unsigned phase;
		uint64_t epoch;
		int code;
	} cases[] = {{PHASE_SETTLED, 77, BERTH_BPF_OK},       {PHASE_SETTLED, 76, BERTH_BPF_STALE},
		     {PHASE_SETTLED, 78, BERTH_BPF_STALE},    {PHASE_SETTLED, 0, BERTH_BPF_STALE},
		     {PHASE_DRAINING, 77, BERTH_BPF_OK},      {PHASE_DRAINING, 76, BERTH_BPF_STALE},
		     {PHASE_CUTOVER, 77, BERTH_BPF_CUTOVER},  {PHASE_CUTOVER, 76, BERTH_BPF_CUTOVER},
		     {MIRROR_PHASE_PASS, 77, BERTH_BPF_PASS}, {MIRROR_PHASE_PASS, 0, BERTH_BPF_PASS}};
	struct look_place *p = *state;
	uint32_t slot = look_put(p, "acme", 4, look_settled(p, 1));

	look_ask(p->object, "acme", 4);
	assert_true(p->control->gated == 0); /* who only asks gates nothing */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		p->entries[slot].word = word_make(77, 3, 0, KIND_SHARED_INDEX, cases[i].phase);
		p->control->gated = 0;
		assert_int_equal(look_admit(p->object, "acme", 4, cases[i].epoch).code, cases[i].code);
		assert_true(p->control->gated == 1);
	}
	p->control->gated = 0;
	assert_int_equal(look_admit(p->object, "nobody", 6, 77).code, BERTH_BPF_UNKNOWN);
	assert_true(p->control->gated == 1);
	p->head->dflt = word_make(80, 3, 0, KIND_SHARED_INDEX, 0);
	assert_int_equal(look_admit(p->object, "nobody", 6, 80).code, BERTH_BPF_OK);
	p->head->dflt = word_make(0, 3, 0, KIND_SHARED_INDEX, 0); /* an epoch that nothing has */
	assert_int_equal(look_admit(p->object, "nobody", 6, 0).code, BERTH_BPF_STALE);
}

static void addresses_of_clusters_are_told(void **state)
{
	struct look_place *p = *state;
	struct look_frame f;

	for (unsigned cluster = 1; cluster <= 4; cluster++) {
		char key = (char)('a' + cluster);

		look_put(p, &key, 1, look_settled(p, cluster == 4 ? 65535 : cluster));
	}
	p->clusters[1] = (struct mirror_cluster){.sequence = 2, .port = htons(9200), .family = MIRROR_IPV4};
	inet_pton(AF_INET, "10.1.2.3", p->clusters[1].address);
	p->clusters[2] = (struct mirror_cluster){.port = htons(443), .family = MIRROR_IPV6, .tls = 1};
	inet_pton(AF_INET6, "2001:db8::7", p->clusters[2].address);
	p->clusters[65535] = p->clusters[1];
	p->clusters[65535].port = htons(1);

	f = look_ask(p->object, "b", 1);
	assert_int_equal(f.family, MIRROR_IPV4);
	assert_int_equal(ntohs(f.port), 9200);
	assert_false(f.tls);
	assert_memory_equal(f.address, p->clusters[1].address, 4);
	f = look_ask(p->object, "c", 1);
	assert_int_equal(f.family, MIRROR_IPV6);
	assert_int_equal(ntohs(f.port), 443);
	assert_true(f.tls);
	assert_memory_equal(f.address, p->clusters[2].address, 16);
	f = look_ask(p->object, "d", 1); /* no address */
	assert_int_equal(f.code, BERTH_BPF_OK);
	assert_int_equal(f.family, MIRROR_NO_ADDRESS);
	f = look_ask(p->object, "e", 1);
	assert_int_equal(ntohs(f.port), 1);
	p->clusters[1].sequence = 3; /* being changed */
	f = look_ask(p->object, "b", 1);
	assert_int_equal(f.code, BERTH_BPF_OK);
	assert_int_equal(f.family, MIRROR_NO_ADDRESS);
	p->clusters[1].sequence = 4;
	assert_int_equal(look_ask(p->object, "b", 1).family, MIRROR_IPV4);
	p->clusters[1].family = 9; /* no family that there is */
	assert_int_equal(look_ask(p->object, "b", 1).family, MIRROR_NO_ADDRESS);
}

static void other_packets_go_on_untouched(void **state)
{
	struct look_place *p = *state;
	struct look_frame f = {.op = LOOK_ROUTE, .len = 1, .key = "a", .type = htons(0x0800)}, sent = f;

	assert_int_equal(look_run(p->object, "look", &f, 1), 2 /* XDP_PASS */);
	assert_memory_equal(&f, &sent, sizeof(f));
	f.type = sent.type = htons(LOOK_ETHERTYPE);
	f.op = sent.op = 9;
	assert_int_equal(look_run(p->object, "look", &f, 1), 2);
	assert_memory_equal(&f, &sent, sizeof(f));
}

/* ---- damage ---- */

#define KEYS 8u
#define SLOTS 64u /* where their homes are, and what is spoiled */

/* What an answer may be: the word of an entry with exactly this key and its hash, or the default's. */
static bool somewhere(const struct look_place *p, const char *key, size_t len, const struct look_frame *f)
{
	uint64_t hash = look_hash(p, key, len);
	char padded[MIRROR_KEY_WORDS * 8] = {0};

	memcpy(padded, key, len);
	for (uint32_t i = 0; i < p->head->n_entries + SHM_PROBE_MAX && i < SLOTS + SHM_PROBE_MAX; i++) {
		const struct mirror_entry *e = &p->entries[i];

		if (word_epoch(e->word) == f->epoch && word_cluster(e->word) == f->cluster && word_live(e->word) &&
		    word_phase(e->word) == f->phase && e->hash == hash && e->len == len &&
		    memcmp(e->key, padded, sizeof(padded)) == 0)
			return true;
	}
	return false;
}

static void spoil(struct look_place *p)
{
	unsigned char *bytes = (unsigned char *)p->entries;

	for (unsigned n = random_byte() % 8u; n > 0; n--) {
		size_t at = ((size_t)random_byte() << 8 | random_byte()) % (SLOTS * MIRROR_ENTRY);

		switch (random_byte() % 4) {
		case 0:
			bytes[at] = random_byte();
			break;
		case 1: /* a whole entry over another one */
			memmove(bytes + at / MIRROR_ENTRY * MIRROR_ENTRY, bytes + random_byte() % SLOTS * MIRROR_ENTRY,
				MIRROR_ENTRY);
			break;
		case 2: /* a word of one over another one's */
			memmove(bytes + at / 8 * 8, bytes + random_byte() % SLOTS * MIRROR_ENTRY + at % 8 * 8, 8);
			break;
		default:
			for (unsigned i = 0; i < 8; i++)
				bytes[at / 8 * 8 + i] = random_byte();
		}
	}
	if (random_byte() < 40) {
		static const uint32_t numbers[] = {0, 1, SLOTS, HOMES, 0x7fffffff, 0xffffffff};

		p->head->capacity = numbers[random_byte() % 6];
		p->head->n_entries = random_byte() < 128 ? HOMES : numbers[random_byte() % 6];
		p->head->longest_probe = numbers[random_byte() % 6];
	}
	if (random_byte() < 20)
		p->head->dflt = (uint64_t)random_byte() << 21 | random_byte();
}

static void damage_gives_nobody_anothers_placement(void **state)
{
	struct look_place *p = *state;
	unsigned found = 0, other = 0;
	const char *keys[KEYS] = {"a",
				  "acme",
				  "globex",
				  "globexx",
				  "tenant-00000001",
				  "tenant-000000012",
				  "a-name-of-twenty-seven-byte",
				  "0123456789abcdefghijklmnopqrstuvwxyzABC"};

	printf("note: seed %llu\n", (unsigned long long)seed);
	for (unsigned round = 0; round < (child_sanitized() ? 500u : 5000u); round++) {
		memset(p->head, 0, (SLOTS + SHM_PROBE_MAX) * MIRROR_ENTRY);
		p->head->n_entries = HOMES;
		p->head->capacity = SLOTS / 2;
		p->head->dflt = look_settled(p, 9);
		for (unsigned i = 0; i < KEYS; i++)
			look_put(p, keys[i], strlen(keys[i]), look_settled(p, i + 1));
		spoil(p);
		for (unsigned i = 0; i < KEYS; i++) {
			struct look_frame f = look_ask(p->object, keys[i], strlen(keys[i]));

			if (f.code != BERTH_BPF_OK) {
				other++;
				continue;
			}
			found++;
			if (f.is_default)
				assert_true(word_epoch(p->head->dflt) == f.epoch);
			else if (!somewhere(p, keys[i], strlen(keys[i]), &f))
				fail_msg("round %u: %s was answered cluster %u, epoch %llu", round, keys[i], f.cluster,
					 (unsigned long long)f.epoch);
		}
	}
	assert_true(found > 0 && other > 0);
}

#define LOOK_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOK_TEST(keys_of_all_lengths_are_found_by_the_same_hash),
		LOOK_TEST(longer_keys_and_no_key_at_all_are_passed_on),
		LOOK_TEST(entry_of_a_longer_key_never_matches),
		LOOK_TEST(default_answers_who_has_no_entry),
		LOOK_TEST(all_of_the_word_is_told),
		LOOK_TEST(word_that_says_pass_and_word_without_a_cluster_are_passed_on),
		LOOK_TEST(tombstones_are_passed_over_and_empty_entries_end_a_probe),
		LOOK_TEST(probes_end_at_the_longest_and_far_ones_are_passed_on),
		LOOK_TEST(hash_or_a_prefix_alone_decides_nothing),
		LOOK_TEST(mirror_that_is_off_passes_everything_on),
		LOOK_TEST(gate_admits_at_the_epoch_in_force_and_leaves_its_flag),
		LOOK_TEST(addresses_of_clusters_are_told),
		LOOK_TEST(other_packets_go_on_untouched),
		LOOK_TEST(damage_gives_nobody_anothers_placement),
	};

	return cmocka_run_group_tests_name("look-ups of packet programs", tests, NULL, NULL);
}
