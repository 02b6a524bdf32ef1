/* SPDX-License-Identifier: MIT
 * Look-ups, and a change at each of their instructions (steps.h). Who looks has no registration, so memory is reused under
 * it at once. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "steps.h"

#include "../shm/index.h"

/* ---- changes -------------------------------------------------------------------------------------------------- */

#define MOVED "moved-tenant"
static uint64_t epochs[2];         /* before, after */
static struct reader_place *place; /* for checks that undo it */

/* Twice, so that both references of the entry lead to the other cluster. index-N… is on cluster N. */
static void move_it(struct reader_place *p, unsigned n)
{
	epochs[0] = epochs[1];
	place_set(p, MOVED, 1 + n % 2, n % 2 ? "index-2" : "index-1");
	epochs[1] = place_set(p, MOVED, 1 + n % 2, n % 2 ? "index-2-again" : "index-1-again");
	reclaim(p);
}

static void check_moved(const struct answer *a)
{
	char expected[32];

	if (a->code != BERTH_OK)
		fail_msg("after %u instructions: %s", steps_made, berth_strerror(a->code));
	snprintf(expected, sizeof expected, "index-%u", a->cluster);
	if (a->call == LOOKUP && strncmp(a->text, expected, strlen(expected)) != 0)
		fail_msg("after %u instructions: cluster %u with %s", steps_made, a->cluster, a->text);
	if (a->epoch < epochs[0] || a->epoch > epochs[1])
		fail_msg("after %u instructions: epoch %llu", steps_made, (unsigned long long)a->epoch);
}

static void details_never_mix_two_placements(void **state)
{
	move_it(*state, 0);
	at_each_instruction(*state, MOVED, LOOKUP, 1, move_it, check_moved);
}

/* Two keys with one home, so that the second moves into the slot that the first has left. */
static char first[24], second[24];
static const struct shm_entry *slot;

static uint32_t home_of(struct reader_place *p, const struct seg_map *m, const char *key)
{
	return index_home(hash_key(p->root->secret, key, strlen(key)), m->capacity);
}

static void swap_tenants(struct reader_place *p, unsigned n)
{
	(void)n;
	place_remove(p, first);
	reclaim(p);
	epochs[1] = place_set(p, second, 2, "index-2");
	assert_memory_equal(slot->key, second, strlen(second));
}

static void swap_back(struct reader_place *p)
{
	place_remove(p, second);
	reclaim(p);
	place_set(p, first, 1, "index-1");
	assert_memory_equal(slot->key, first, strlen(first));
}

static void check_swapped(const struct answer *a)
{
	if (a->code != BERTH_E_UNKNOWN && (a->code != BERTH_OK || a->epoch != epochs[1] || a->cluster != 2))
		fail_msg("after %u instructions: %s, epoch %llu, cluster %u", steps_made, berth_strerror(a->code),
			 (unsigned long long)a->epoch, a->cluster);
	swap_back(place);
}

static void reused_slot_never_answers_with_the_tenant_before(void **state)
{
	struct reader_place *p = *state;
	struct seg_map m;
	uint32_t home;

	place = p;
	assert_int_equal(
		seg_table_map(p->instance.table_dir_fd, p->root, atomic_load(&p->root->termgen), NULL, false, &m), 0);
	strcpy(first, "tenant-0");
	home = home_of(p, &m, first);
	for (unsigned i = 1; snprintf(second, sizeof second, "tenant-%u", i), home_of(p, &m, second) != home; i++)
		;
	place_set(p, first, 1, "index-1");
	slot = &m.entries[home];
	for (enum call call = ROUTE; call <= LOOKUP; call++) {
		at_each_instruction(p, second, call, 1, swap_tenants, check_swapped);
		swap_back(p);
	}
	seg_table_unmap(&m);
}

static void check_there(const struct answer *a)
{
	static const char *const texts[] = {"", "index-1", "c1"};

	if (a->code != BERTH_OK || strcmp(a->text, texts[a->call]) != 0)
		fail_msg("call %d, after %u instructions: %s, \"%s\"", a->call, steps_made, berth_strerror(a->code),
			 a->text);
}

static void restart_of_the_writer_is_invisible_at_every_instruction(void **state)
{
	place_set(*state, MOVED, 1, "index-1");
	for (enum call call = 0; call < N_CALLS; call++)
		at_each_instruction(*state, MOVED, call, call == ROUTE ? 1 : 3 /* a restart takes its time */,
				    restart_it, check_there);
}

static void call_without_a_section_opens_one_of_its_own(void **state)
{
	struct reader_place *p = *state;
	struct answer *a = shared_answer();
	unsigned inside = 0;
	pid_t pid;

	place_set(p, MOVED, 1, "index-1");
	serve(p, ANSWER_REGISTER);
	pid = steps_start(p, MOVED, a);
	assert_int_equal(atomic_load(&p->n_attached), 1);
	assert_int_equal(atomic_load(&line_of(p, 0)->section), 0);
	for (*a = (struct answer){.call = ROUTE}; !a->done; steps_resume(pid, PTRACE_SINGLESTEP))
		inside += atomic_load(&line_of(p, 0)->section) != 0;
	assert_int_equal(a->code, BERTH_OK);
	assert_int_equal(atomic_load(&line_of(p, 0)->section), 0);
	assert_true(inside > 30); /* instructions: hash, probe, comparison */
	steps_stop(pid);
	munmap(a, sizeof *a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(details_never_mix_two_placements),
		IN_PLACE(reused_slot_never_answers_with_the_tenant_before),
		IN_PLACE(call_without_a_section_opens_one_of_its_own),
		IN_PLACE(restart_of_the_writer_is_invisible_at_every_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
