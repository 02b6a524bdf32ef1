/* SPDX-License-Identifier: MIT
 * Pins of a mirror, or of one that went with leases open in it, that somebody removes by hand: what may still be answered by,
 * or written under, what berthd cannot reach any more is not forgotten. With CAP_BPF alone, as its unit has it, and in one
 * process that may look at all. */
#include <bpf/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "../writer/lease_book.h"
#include "mirror_place.h"
#include "past_place.h"

/* All but what is of mirrors that went. */
static const char *const pins[] = {"table", "clusters", "stats", "leases", "events", "control"};
#define N_PINS (sizeof(pins) / sizeof(pins[0]))

static int loses_one_beside_a_past(void *arg)
{
	struct bpf_place *p = arg;
	struct past_maps past, now;

	if (!past_service())
		return PAST_CANNOT;
	past = past_make(p);
	daemon_start(&p->d, "--bpf", PAST_BARRIER, NULL);
	now = past_maps(p);
	past_take_lease(&now, 0, "acme");
	daemon_kill(&p->d);
	for (unsigned i = 0; i < N_PINS; i++)
		past_unpin(p, pins[i]);
	assert_true(past.control->state == 0 && now.control->state != 0); /* its programs answer still */
	for (unsigned i = 0; i < 4; i++) { /* a mirror that such a start leaves hides it as little */
		assert_int_equal(i % 2 ? daemon_start_refused(&p->d, "--bpf", NULL) : daemon_start_refused(&p->d, NULL),
				 1);
		daemon_expect_log(&p->d, "pinned no more");
		assert_int_equal(unlink(p->d.log), 0);
		assert_true(past_pinned(p, "past-0-control"));
	}
	return 0;
}

static void a_past_mirror_does_not_hide_one_that_answers_and_is_pinned_no_more(void **state)
{
	past_run(state, loses_one_beside_a_past);
}

static int loses_leases_of_a_past(void *arg)
{
	struct bpf_place *p = arg;

	if (!past_service())
		return PAST_CANNOT;
	past_make(p);
	past_unpin(p, "past-0-leases");
	daemon_start(&p->d, PAST_BARRIER, NULL);
	assert_false(past_pinned(p, "past-0-control"));
	past_expect_pending(p, "unknown-overflow", 0);
	return daemon_stop(&p->d);
}

static void a_past_mirror_whose_leases_are_pinned_no_more_counts_for_every_partition(void **state)
{
	past_run(state, loses_leases_of_a_past);
}

/* As root, in this process: it may look, and finds nothing, for the maps are gone with their pins. */
static void a_mirror_that_went_with_its_pins_counts_beside_a_past_one(void **state)
{
	struct mirror_place *p = *state;
	struct mirror_lease *leases;
	char path[352];
	uint64_t since;
	int fd;

	mirror_place_needed(p);
	snprintf(path, sizeof(path), "%s/leases", p->pins);
	fd = bpf_obj_get(path);
	leases = mmap(NULL, MIRROR_LEASES * sizeof(*leases), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(leases, MAP_FAILED);
	close(fd);
	leases[0].state = lease_state(LEASE_OPEN, test_now_ms());
	leases[0].hash = 77;
	mirror_control(table_mirror(p->t))->lease_high = 1;
	table_close(&p->t);
	mirror_place_up(p, false);
	assert_non_null(table_mirror_pasts(p->t)[0].control);
	table_close(&p->t);
	mirror_place_up(p, true);
	table_close(&p->t);
	for (unsigned i = 0; i < N_PINS; i++) {
		snprintf(path, sizeof(path), "%s/%s", p->pins, pins[i]);
		assert_int_equal(unlink(path), 0);
	}
	since = seg_clock_ms(CLOCK_MONOTONIC);
	mirror_place_up(p, false);
	assert_true(lease_book_overflown(registry_book(table_registry(p->t))).end_ms >= since);
	munmap(leases, MIRROR_LEASES * sizeof(*leases));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAST_TEST(a_past_mirror_does_not_hide_one_that_answers_and_is_pinned_no_more),
		PAST_TEST(a_past_mirror_whose_leases_are_pinned_no_more_counts_for_every_partition),
		MIRROR_TEST(a_mirror_that_went_with_its_pins_counts_beside_a_past_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
