/* SPDX-License-Identifier: MIT
 * What is left of a mirror when its pins, its root or its control are not what they were: what programs had under way is
 * waited for, none of them answers by what is gone, and what a compare finds damaged is mended. In one process with the
 * writer. */
#include "mirror_place.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../writer/lease_book.h"
#include "child.h"

/* A pin's map, which outlives the pin while it is open or mapped. */
static volatile struct mirror_control *control_of(const struct mirror_place *p)
{
	char path[352];
	void *c;
	int fd;

	snprintf(path, sizeof(path), "%s/control", p->pins);
	fd = bpf_obj_get(path);
	assert_true(fd >= 0);
	c = mmap(NULL, sizeof(struct mirror_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(c, MAP_FAILED);
	close(fd);
	return c;
}

static void control_close(volatile struct mirror_control *c)
{
	munmap((void *)(uintptr_t)c, sizeof(*c));
}

/* The ledger says for every partition that something may be under way, and that something wrote without leases. */
static void expect_told(const struct mirror_place *p, uint64_t since_ms)
{
	const struct lease_book *book = registry_book(table_registry(p->t));

	assert_true(lease_book_overflown(book).end_ms >= since_ms);
	assert_true(lease_book_left_ms(book) >= since_ms);
}

static void what_was_under_way_counts_when_pins_are_lost(void **state)
{
	struct mirror_place *p = *state;
	volatile struct mirror_control *old;
	uint64_t since;

	mirror_place_needed(p);
	assert_true(lease_book_overflown(registry_book(table_registry(p->t))).end_ms == 0);
	for (unsigned i = 0; i < 4; i++) {
		bool bpf = i % 2, programs = i / 2; /* there are some, that hold the maps */

		old = control_of(p);
		since = seg_clock_ms(CLOCK_MONOTONIC);
		table_close(&p->t);
		assert_true(old->state != 0);
		remove_tree(p->pins);
		if (!programs)
			control_close(old);
		mirror_place_up(p, bpf);
		expect_told(p, since);
		if (programs) {
			assert_true(old->state == 0);
			control_close(old);
		}
		if (!bpf) {
			assert_int_equal(faccessat(p->s.instance.dir_fd, "mirrored", F_OK, 0), -1);
			table_close(&p->t);
			mirror_place_up(p, true);
		}
	}
}

static void what_was_under_way_counts_when_the_leases_are_not_pinned(void **state)
{
	struct mirror_place *p = *state;
	char path[352];
	uint64_t since = seg_clock_ms(CLOCK_MONOTONIC);

	mirror_place_needed(p);
	table_close(&p->t);
	snprintf(path, sizeof(path), "%s/leases", p->pins);
	assert_int_equal(unlink(path), 0);
	mirror_place_up(p, true);
	assert_null(table_mirror_off(p->t));
	expect_told(p, since);
}

/* Somebody removed root while its mirror went on: pinned, and not. */
static void the_mirror_of_the_root_before_is_found(void **state)
{
	struct mirror_place *p = *state;
	volatile struct mirror_control *old;

	mirror_place_needed(p);
	for (unsigned i = 0; i < 4; i++) {
		bool bpf = i % 2, pinned = i / 2;
		uint64_t since = seg_clock_ms(CLOCK_MONOTONIC);

		old = control_of(p);
		table_close(&p->t);
		assert_int_equal(unlinkat(p->s.instance.dir_fd, "root", 0), 0);
		if (!pinned)
			remove_tree(p->pins);
		assert_true(old->state != 0);
		mirror_place_up(p, bpf);
		assert_true(old->state == 0);
		if (!pinned)
			expect_told(p, since);
		assert_true((table_mirror_off(p->t) == NULL) == bpf);
		control_close(old);
		if (!bpf) {
			table_close(&p->t);
			mirror_place_up(p, true);
		}
	}
}

static void a_mirror_with_another_secret_is_made_anew(void **state)
{
	struct mirror_place *p = *state;
	volatile struct mirror_control *old, *new;

	mirror_place_needed(p);
	old = control_of(p);
	old->secret[3] ^= 1;
	table_close(&p->t);
	mirror_place_up(p, true);
	assert_null(table_mirror_off(p->t));
	new = control_of(p);
	assert_true(old->state == 0);
	assert_true(new->state == p->t->now->map.termgen);
	assert_int_equal(new->secret[3], p->t->secret[3]);
	control_close(old);
	control_close(new);
}

static uint64_t compared(struct mirror_place *p)
{
	uint64_t run = table_compare(p->t), deadline = 0;

	while (table_compared(p->t)->run < run && within(&deadline))
		table_step(p->t, 100000);
	assert_true(table_compared(p->t)->run >= run);
	return table_compared(p->t)->n_differ;
}

static void a_compare_mends_what_programs_go_by(void **state)
{
	struct mirror_place *p = *state;
	struct mirror_control *c;
	struct mirror_head *head;
	char path[352];
	__u32 zero = 0, id;
	int outer, inner;

	mirror_place_needed(p);
	mirror_place_put(p, "acme", PHASE_SETTLED, mirror_place_on(1), NULL);
	c = mirror_control(table_mirror(p->t));
	snprintf(path, sizeof(path), "%s/table", p->pins);
	outer = bpf_obj_get(path);
	assert_int_equal(bpf_map_lookup_elem(outer, &zero, &id), 0);
	inner = bpf_map_get_fd_by_id(id);
	head = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, inner, 0);
	assert_ptr_not_equal(head, MAP_FAILED);
	close(inner);
	close(outer);
	assert_int_equal(compared(p), 0);
	c->secret[0] ^= 1;
	assert_int_equal(compared(p), 1);
	assert_int_equal(c->secret[0], p->t->secret[0]);
	c->state = 0;
	assert_int_equal(compared(p), 1);
	assert_true(c->state == p->t->now->map.termgen);
	c->state += 1;
	assert_int_equal(compared(p), 1);
	assert_true(c->state == p->t->now->map.termgen);
	head->capacity = 1;
	assert_int_equal(compared(p), 1);
	assert_int_equal(head->capacity, p->t->now->map.capacity);
	head->n_entries += 1;
	assert_int_equal(compared(p), 1);
	assert_int_equal(head->n_entries, p->t->now->map.n_entries);
	assert_true(c->state == p->t->now->map.termgen);
	assert_null(table_mirror_off(p->t));
	mirror_place_compare(p);
	munmap(head, 4096);
}

static void a_mirror_that_is_off_has_no_entries_and_stays_off(void **state)
{
	struct mirror_place *p = *state;
	char path[352];
	__u32 zero = 0, id;
	int outer;

	mirror_place_needed(p);
	snprintf(path, sizeof(path), "%s/table", p->pins);
	outer = bpf_obj_get(path);
	assert_int_equal(bpf_map_lookup_elem(outer, &zero, &id), 0);
	assert_int_equal(mirror_switch_off(table_mirror(p->t)), 0);
	assert_int_not_equal(bpf_map_lookup_elem(outer, &zero, &id), 0);
	assert_int_equal(compared(p), 0);
	assert_true(mirror_control(table_mirror(p->t))->state == 0);
	close(outer);
	/* As after a growth that failed: changes go on, and who waits for a compare is not left waiting. */
	mirror_table_drop(&p->t->now->mirror);
	mirror_place_put(p, "acme", PHASE_SETTLED, mirror_place_on(1), NULL);
	mirror_place_put(p, "acme", PHASE_SETTLED, NULL, NULL);
	assert_int_equal(compared(p), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MIRROR_TEST(what_was_under_way_counts_when_pins_are_lost),
		MIRROR_TEST(what_was_under_way_counts_when_the_leases_are_not_pinned),
		MIRROR_TEST(the_mirror_of_the_root_before_is_found),
		MIRROR_TEST(a_mirror_with_another_secret_is_made_anew),
		MIRROR_TEST(a_compare_mends_what_programs_go_by),
		MIRROR_TEST(a_mirror_that_is_off_has_no_entries_and_stays_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
