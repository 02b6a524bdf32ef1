/* SPDX-License-Identifier: MIT
 * The mirror of the table in one process with its writer: entries, the reuse of slots, what the kernel waits for, clusters'
 * addresses, and a mirror that cannot follow a growth. */
#include "mirror_place.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- slots ------------------------------------------------------------------------------------------------------ */

static const struct mirror_entry *slot_of(struct mirror_place *p, const char *key, uint32_t *slot)
{
	const struct shm_entry *e;
	static struct mirror_entry m;
	uint64_t word;

	assert_int_equal(
		index_find(&p->t->now->map, key, strlen(key), table_hash(p->t, key, strlen(key)), true, &e, &word), 1);
	*slot = (uint32_t)(e - p->t->now->map.entries);
	m = mirror_entry_get(p->t->now->mirror, *slot);
	return &m;
}

static void an_entry_has_its_slot_word_and_key(void **state)
{
	struct mirror_place *p = *state;
	char longest[40], longer[41];
	uint32_t slot;

	mirror_place_needed(p);
	memset(longest, 'l', 39);
	memset(longer, 'm', 40);
	longest[39] = longer[40] = '\0';
	mirror_place_put(p, "acme", PHASE_SETTLED, mirror_place_on(1), NULL);
	assert_true(slot_of(p, "acme", &slot)->word == gen_entry(p->t->now, slot)->word);
	assert_int_equal(slot_of(p, "acme", &slot)->len, 4);
	assert_memory_equal(slot_of(p, "acme", &slot)->key, "acme\0\0\0\0", 8);
	mirror_place_put(p, longest, PHASE_SETTLED, mirror_place_on(1), NULL);
	assert_true(slot_of(p, longest, &slot)->word == gen_entry(p->t->now, slot)->word);
	assert_memory_equal(slot_of(p, longest, &slot)->key, longest, 40);
	mirror_place_put(p, longer, PHASE_SETTLED, mirror_place_on(1), NULL);
	assert_true(slot_of(p, longer, &slot)->word == MIRROR_WORD_PASS);
	assert_int_equal(slot_of(p, longer, &slot)->len, 0xff);
	mirror_place_put(p, longer, PHASE_SETTLED, NULL, NULL);
	assert_true(slot_of(p, longer, &slot)->word == gen_entry(p->t->now, slot)->word);
	mirror_place_compare(p);
}

static void a_new_key_says_pass_before_the_table_has_it(void **state)
{
	struct mirror_place *p = *state;
	struct table_change c = {.key = "acme", .len = 4, .after = {.at = mirror_place_on(1)}};
	struct state st;
	uint32_t slot;

	mirror_place_needed(p);
	MIRROR_OK(table_reserve(p->t, &c, &p->why));
	assert_false(table_get(p->t, "acme", 4, &st, NULL));
	assert_true(slot_of(p, "acme", &slot)->word == MIRROR_WORD_PASS);
	assert_int_equal(slot_of(p, "acme", &slot)->len, 4);
	mirror_place_compare(p);
	table_cancel(p->t, &c);
	assert_false(word_live(slot_of(p, "acme", &slot)->word));
	mirror_place_compare(p);
}

/* Another key whose search begins at that slot. */
static void name_for(struct mirror_place *p, uint32_t slot, unsigned from, char key[40])
{
	do
		snprintf(key, 40, "other-%u", from++);
	while (index_home(table_hash(p->t, key, strlen(key)), p->t->now->map.capacity) != slot);
}

/* The table's own grace period may be over (nobody reads), the kernel's is not until the mirror says so. */
static void a_slot_is_used_again_only_after_a_grace_period_of_the_kernel(void **state)
{
	struct mirror_place *p = *state;
	uint32_t slot, other;
	uint64_t deadline = 0;
	char key[40];

	mirror_place_needed(p);
	mirror_place_put(p, "acme", PHASE_SETTLED, mirror_place_on(1), NULL);
	slot_of(p, "acme", &slot);
	mirror_place_put(p, "acme", PHASE_SETTLED, NULL, NULL);
	p->t->now->aged_epoch = table_epoch(p->t); /* as far as readers go */
	name_for(p, slot, 0, key);
	mirror_place_put(p, key, PHASE_SETTLED, mirror_place_on(1), NULL);
	slot_of(p, key, &other);
	assert_int_not_equal(other, slot);
	mirror_age(p->t->mirror, p->t->now->aged_epoch);
	while (mirror_aged(p->t->now->mirror) < p->t->now->aged_epoch && within(&deadline))
		;
	table_step(p->t, 1000); /* where the table takes notice of it */
	name_for(p, slot, 100000, key);
	mirror_place_put(p, key, PHASE_SETTLED, mirror_place_on(1), NULL);
	slot_of(p, key, &other);
	assert_int_equal(other, slot);
	mirror_place_compare(p);
}

/* An update of a map of maps waits for programs, one of another map does not: what mirror_grace rests on. */
static void the_kernel_waits_in_an_update_of_a_map_of_maps(void **state)
{
	struct mirror_place *p = *state;
	struct mirror *m = p->t ? table_mirror(p->t) : NULL;
	int plain;
	__u32 zero = 0;
	__u64 value = 1;
	uint64_t start, swap_ns = UINT64_MAX, plain_ns = UINT64_MAX;

	mirror_place_needed(p);
	plain = bpf_map_create(BPF_MAP_TYPE_ARRAY, "berth_plain", 4, 8, 1, NULL);
	assert_true(plain >= 0);
	for (unsigned i = 0; i < 10; i++) {
		start = seg_clock_ns(CLOCK_MONOTONIC);
		assert_int_equal(mirror_swap(m, p->t->now->mirror), 0);
		start = seg_clock_ns(CLOCK_MONOTONIC) - start;
		swap_ns = start < swap_ns ? start : swap_ns;
		start = seg_clock_ns(CLOCK_MONOTONIC);
		assert_int_equal(bpf_map_update_elem(plain, &zero, &value, 0), 0);
		start = seg_clock_ns(CLOCK_MONOTONIC) - start;
		plain_ns = start < plain_ns ? start : plain_ns;
	}
	close(plain);
	print_message("update of a map of maps: %llu us at least, of an array: %llu us\n",
		      (unsigned long long)swap_ns / 1000, (unsigned long long)plain_ns / 1000);
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
		assert_true(swap_ns > 5 * plain_ns);
}

static void a_compare_comes_by_itself(void **state)
{
	struct mirror_place *p = *state;
	uint64_t run;

	mirror_place_needed(p);
	table_step(p->t, 1000);
	run = table_compared(p->t)->run;
	table_step(p->t, 1000);
	assert_int_equal(table_compared(p->t)->run, run); /* not all the time */
	assert_true(p->t->compare.next_ms > seg_clock_ms(CLOCK_MONOTONIC) + 50000);
	p->t->compare.next_ms = seg_clock_ms(CLOCK_MONOTONIC); /* a minute has passed */
	table_step(p->t, 1000000);
	assert_int_equal(table_compared(p->t)->run, run + 1);
	assert_int_equal(table_compared(p->t)->entries, p->t->now->map.n_entries);
	assert_int_equal(table_compared(p->t)->n_differ, 0);
}

/* ---- a mirror that cannot follow -------------------------------------------------------------------------------- */

#define STRANGER 54321

static void a_growth_without_a_mirror_goes_on_and_switches_it_off(void **state)
{
	struct mirror_place *p = *state;
	const struct mirror_control *c;
	char command[128];
	struct state st;
	uint32_t before;

	mirror_place_needed(p);
	c = mirror_control(table_mirror(p->t));
	before = p->t->now->map.generation;
	mirror_place_put(p, "acme", PHASE_SETTLED, mirror_place_on(1), NULL);
	assert_true(c->state != 0);
	/* All threads lose the capability to make maps, and keep what they have open. */
	snprintf(command, sizeof(command), "chown -R %d %s", STRANGER, p->s.path);
	assert_int_equal(system(command), 0);
	assert_int_equal(seteuid(STRANGER), 0);
	if (table_expect(p->t, &(struct table_room){.partitions = 5000}, &p->why) != R_DONE) {
		assert_int_equal(seteuid(0), 0);
		fail_msg("%s", p->why.message);
	}
	assert_int_equal(seteuid(0), 0);
	assert_int_not_equal(p->t->now->map.generation, before);
	assert_true(c->state == 0);
	assert_non_null(table_mirror_off(p->t));
	assert_non_null(strstr(table_mirror_off(p->t), "the mirror of a larger table"));
	assert_true(table_get(p->t, "acme", 4, &st, NULL));
	mirror_place_put(p, "acme", PHASE_SETTLED, NULL, NULL);
	mirror_place_put(p, "globex", PHASE_SETTLED, mirror_place_on(2), NULL);
	MIRROR_OK(table_expect(p->t, &(struct table_room){.partitions = 50000},
			       &p->why)); /* able again, and it stays off */
	assert_true(c->state == 0);
	table_close(&p->t);
	mirror_place_up(p, true);
	assert_null(table_mirror_off(p->t));
	mirror_place_compare(p);
}

/* ---- clusters ---------------------------------------------------------------------------------------------------- */

static void a_cluster_has_the_address_of_its_endpoint(void **state)
{
	static const struct {
		const char *endpoint;
		uint8_t family, tls, address[16];
		uint16_t port;
	} rows[] = {
		{"http://10.0.0.1:9200", MIRROR_IPV4, 0, {10, 0, 0, 1}, 9200},
		{"http://10.0.0.1", MIRROR_IPV4, 0, {10, 0, 0, 1}, 80},
		{"https://10.0.0.1/path:1", MIRROR_IPV4, 1, {10, 0, 0, 1}, 443},
		{"https://[fd00::2]:8443/", MIRROR_IPV6, 1, {0xfd, [15] = 2}, 8443},
		{"http://[fd00::2]", MIRROR_IPV6, 0, {0xfd, [15] = 2}, 80},
		{"http://os.example:9200", MIRROR_NO_ADDRESS, 0, {0}, 0},
		{"http://10.0.0:9200", MIRROR_NO_ADDRESS, 0, {0}, 0},
		{"http://10.0.0.1:99999", MIRROR_NO_ADDRESS, 0, {0}, 0},
		{"http://u@10.0.0.1:9200", MIRROR_NO_ADDRESS, 0, {0}, 0},
		{"http://[fd00::2", MIRROR_NO_ADDRESS, 0, {0}, 0},
		{"", MIRROR_NO_ADDRESS, 0, {0}, 0},
	};
	struct mirror_place *p = *state;
	const struct mirror_cluster *c;
	uint32_t last = 0;
	char path[352];
	void *m;

	mirror_place_needed(p);
	snprintf(path, sizeof(path), "%s/clusters", p->pins);
	m = mmap(NULL, MIRROR_CLUSTERS * sizeof(*c), PROT_READ, MAP_SHARED, bpf_obj_get(path), 0);
	assert_true(m != MAP_FAILED);
	c = (const struct mirror_cluster *)m;
	assert_int_equal(c[1].family, MIRROR_IPV4); /* from the start */
	assert_int_equal(c[2].family, MIRROR_NO_ADDRESS);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct table_cluster_change change_it = {.number = 2, .id = "c2", .endpoint = rows[i].endpoint};

		MIRROR_OK(table_cluster_reserve(p->t, &change_it, &p->why));
		table_cluster_publish(p->t, &change_it);
		assert_int_equal(c[2].family, rows[i].family);
		assert_int_equal(c[2].port, (rows[i].port >> 8 | rows[i].port << 8) & 0xffff);
		assert_int_equal(c[2].tls, rows[i].tls);
		assert_memory_equal(c[2].address, rows[i].address, 16);
		assert_int_equal(c[2].sequence % 2, 0);
		last = c[2].sequence;
	}
	assert_true(last >= 10);
	munmap(m, MIRROR_CLUSTERS * sizeof(*c));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MIRROR_TEST(an_entry_has_its_slot_word_and_key),
		MIRROR_TEST(a_new_key_says_pass_before_the_table_has_it),
		MIRROR_TEST(the_kernel_waits_in_an_update_of_a_map_of_maps),
		MIRROR_TEST(a_slot_is_used_again_only_after_a_grace_period_of_the_kernel),
		MIRROR_TEST(a_compare_comes_by_itself),
		MIRROR_TEST(a_growth_without_a_mirror_goes_on_and_switches_it_off),
		MIRROR_TEST(a_cluster_has_the_address_of_its_endpoint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
