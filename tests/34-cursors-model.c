/* SPDX-License-Identifier: MIT
 * Pins at random, beside a plain list of them: the same answers, the same pins, the same victims after each change, across
 * restarts too. And the timer wheel alone beside a plain array. BERTH_SEED repeats a run. */
#include "cursor_place.h"

#include <stdio.h>
#include <string.h>

#include "child.h"
#include "readers.h"

#define IDS 300u
#define OPERATIONS 50000u /* of each of four kinds of tables */
#define OWNERS 5u

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
	return mp_random(&seed) % below;
}

/* ---- the plain list --------------------------------------------------------------------------------------------- */

struct model_pin {
	unsigned number, cluster;
	uint64_t owner, expiry;
};

struct model {
	struct model_pin pins[IDS]; /* the oldest first */
	unsigned n, capacity, share, buckets;
	uint64_t evicted;
};

static void model_remove(struct model *m, unsigned i)
{
	memmove(&m->pins[i], &m->pins[i + 1], (m->n - i - 1) * sizeof *m->pins);
	m->n--;
}

static unsigned model_find(const struct model *m, unsigned number)
{
	unsigned i = 0;

	while (i < m->n && m->pins[i].number != number)
		i++;
	return i;
}

static void model_expire(struct model *m, uint64_t now)
{
	for (unsigned i = m->n; i-- > 0;)
		if (now >= m->pins[i].expiry)
			model_remove(m, i);
}

enum same { OF_ALL, OF_OWNER, OF_BUCKET };

/* Evicts the oldest of those that have this in common, when there are as many as may be. */
static void model_room(struct model *m, enum same what, uint64_t value, unsigned most)
{
	unsigned n = 0, oldest = m->n;

	for (unsigned i = m->n; i-- > 0;)
		if (what == OF_ALL || (what == OF_OWNER && m->pins[i].owner == value) ||
		    (what == OF_BUCKET && m->pins[i].number % m->buckets == value)) {
			oldest = i;
			n++;
		}
	if (n >= most) {
		model_remove(m, oldest);
		m->evicted++;
	}
}

static enum shm_pin_result model_pin(struct model *m, const struct model_pin *pin, uint64_t now)
{
	unsigned i = model_find(m, pin->number);
	bool again = i < m->n;

	if (again && m->pins[i].owner != pin->owner)
		return SHM_PIN_NOT_OWNER;
	if (again)
		model_remove(m, i);
	if (pin->expiry <= now)
		return SHM_PIN_OK;
	if (!again) {
		if (m->share)
			model_room(m, OF_OWNER, pin->owner, m->share);
		model_room(m, OF_BUCKET, pin->number % m->buckets, SHM_CHAIN_MAX);
		model_room(m, OF_ALL, 0, m->capacity);
	}
	m->pins[m->n++] = *pin;
	return SHM_PIN_OK;
}

static enum shm_pin_result model_release(struct model *m, unsigned number, uint64_t owner)
{
	unsigned i = model_find(m, number);

	if (i == m->n)
		return SHM_PIN_UNKNOWN;
	if (m->pins[i].owner != owner)
		return SHM_PIN_NOT_OWNER;
	model_remove(m, i);
	return SHM_PIN_OK;
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

static struct cursor_id id_of(const struct model *m, unsigned number)
{
	return cursor_id_in(number % m->buckets, number);
}

static void the_same(const struct cursor_place *p, const struct model *m, unsigned step)
{
	bool there[IDS] = {false};

	for (unsigned i = 0; i < m->n; i++) {
		const struct model_pin *pin = &m->pins[i];
		uint64_t owner = 0;
		unsigned cluster = cursor_seen(cursor_table_map(p->t), id_of(m, pin->number), p->now, &owner);

		there[pin->number] = true;
		if (cluster != pin->cluster || owner != pin->owner)
			fail_msg("operation %u: id %u is of cluster %u, owner %llu; not of %u, %llu", step, pin->number,
				 cluster, (unsigned long long)owner, pin->cluster, (unsigned long long)pin->owner);
	}
	for (unsigned number = 0; number < IDS; number++)
		if (!there[number] && cursor_seen(cursor_table_map(p->t), id_of(m, number), p->now, NULL))
			fail_msg("operation %u: id %u is there", step, number);
	if (COUNTED(p, n_evicted) != m->evicted)
		fail_msg("operation %u: %llu evicted, not %llu", step, (unsigned long long)COUNTED(p, n_evicted),
			 (unsigned long long)m->evicted);
}

static uint64_t some_ttl(void)
{
	switch (draw(8)) {
	case 0:
		return 0;
	case 1:
		return 1 + draw(3);
	case 2:
		return 1 + draw(1ull << draw(33));
	default:
		return 1 + draw(10000);
	}
}

static void some_operation(struct cursor_place *p, struct model *m, unsigned step)
{
	struct model_pin pin = {.number = (unsigned)draw(IDS), .cluster = 1 + (unsigned)draw(9)};
	unsigned kind = (unsigned)draw(1000), is, should;

	pin.owner = draw(8) ? pin.number % OWNERS : draw(OWNERS);
	if (kind < 300)
		p->now += draw(kind < 2 ? 5000 : 60);
	if (kind == 11 && draw(10) == 0)
		p->now += draw(1ull << draw(34));
	model_expire(m, p->now);
	if (kind < 900) {
		pin.expiry = p->now + some_ttl();
		should = model_pin(m, &pin, p->now);
		is = cursor_table_pin(p->t, id_of(m, pin.number).hash, pin.owner, (uint16_t)pin.cluster, pin.expiry,
				      p->now);
	} else if (kind < 990) {
		should = model_release(m, pin.number, pin.owner);
		is = cursor_release(p, id_of(m, pin.number), pin.owner);
	} else if (kind < 998) {
		while (cursor_table_expire(p->t, p->now, 1 + (unsigned)draw(20)))
			;
		should = m->n;
		is = (unsigned)cursor_table_count(p->t);
	} else {
		cursor_place_restart(p);
		should = is = 0;
	}
	if (is != should)
		fail_msg("operation %u: %u, not %u", step, is, should);
	the_same(p, m, step);
}

static void run(unsigned capacity, unsigned share, unsigned buckets)
{
	unsigned n = child_sanitized() ? OPERATIONS / 10 : OPERATIONS;
	struct model m = {.capacity = capacity, .share = share, .buckets = buckets};
	struct cursor_place place;

	cursor_place_open(&place, capacity, share);
	for (unsigned step = 0; step < n; step++)
		some_operation(&place, &m, step);
	printf("note: %u of %u, share %u: %llu evicted, %llu expired\n", m.n, capacity, share,
	       (unsigned long long)m.evicted, (unsigned long long)COUNTED(&place, n_expired));
	cursor_place_close(&place);
}

static void a_full_table_does_what_a_plain_list_does(void **state)
{
	(void)state;
	run(64, 0, 1024);
}
static void with_a_share_it_does_so_too(void **state)
{
	(void)state;
	run(60, 15, 1024);
}
static void with_long_chains_it_does_so_too(void **state)
{
	(void)state;
	run(200, 0, 2);
}
static void with_both_it_does_so_too(void **state)
{
	(void)state;
	run(140, 45, 2);
}

/* ---- the wheel -------------------------------------------------------------------------------------------------- */

#define TIMERS 64u

static void the_wheel_turns_as_a_plain_array_of_times_does(void **state)
{
	struct cursor_note notes[TIMERS + 1] = {{0}};
	uint64_t ends[TIMERS + 1] = {0}, now = draw(1ull << 40);
	struct cursor_wheel w;

	(void)state;
	assert_true(wheel_open(&w, notes, now));
	for (unsigned step = 0; step < OPERATIONS; step++) {
		uint32_t at = 1 + (uint32_t)draw(TIMERS), due;
		uint64_t end = now + 1 + draw(1ull << draw(47));
		unsigned work = UINT32_MAX;

		if (end > CURSOR_EXPIRY_MAX)
			now = 0;
		if (now == 0) { /* once around: empty, and from the start */
			wheel_close(&w);
			assert_true(wheel_open(&w, notes, now));
			memset(ends, 0, sizeof ends);
			now = 1;
			continue;
		}
		if (ends[at] && draw(2)) {
			wheel_take(&w, at);
			end = 0;
		} else if (ends[at]) {
			wheel_move(&w, at, end);
		} else {
			wheel_put(&w, at, end);
		}
		ends[at] = end;
		if (draw(4) == 0)
			now += draw(1ull << draw(40));
		while ((due = wheel_due(&w, now, &work)) != 0) {
			if (ends[due] == 0 || ends[due] > now)
				fail_msg("step %u: %u is due at %llu, not %llu", step, due, (unsigned long long)now,
					 (unsigned long long)ends[due]);
			wheel_take(&w, due);
			ends[due] = 0;
		}
		for (unsigned i = 1; i <= TIMERS; i++)
			if (ends[i] && ends[i] <= now)
				fail_msg("step %u: %u is not due at %llu, only at %llu", step, i,
					 (unsigned long long)now, (unsigned long long)ends[i]);
	}
	wheel_close(&w);
}

static void a_wheel_that_is_told_an_earlier_time_waits(void **state)
{
	struct cursor_note notes[4] = {{0}};
	unsigned work = UINT32_MAX;
	struct cursor_wheel w;

	(void)state;
	assert_true(wheel_open(&w, notes, 5000));
	wheel_put(&w, 1, 4000); /* late already */
	wheel_put(&w, 2, 5001);
	assert_int_equal(wheel_due(&w, 4999, &work), 0);
	assert_int_equal(wheel_due(&w, 5000, &work), 1);
	wheel_take(&w, 1);
	assert_int_equal(wheel_due(&w, 5000, &work), 0);
	assert_int_equal(wheel_due(&w, 5001, &work), 2);
	wheel_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_table_does_what_a_plain_list_does),
		cmocka_unit_test(with_a_share_it_does_so_too),
		cmocka_unit_test(with_long_chains_it_does_so_too),
		cmocka_unit_test(with_both_it_does_so_too),
		cmocka_unit_test(the_wheel_turns_as_a_plain_array_of_times_does),
		cmocka_unit_test(a_wheel_that_is_told_an_earlier_time_waits),
	};

	seed = mp_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
