/* SPDX-License-Identifier: MIT
 * libberth against the writer's own table, without the daemon: look-ups with and without a registration, the gate,
 * sections over restarts of the writer, damage. 41-reader-attach.c has the rest. */
#include "reader_place.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void long_key(char *key, size_t len, char last)
{
	memset(key, 'k', len);
	key[len - 1] = last;
	key[len] = 0;
}

/* ---- look-ups, with and without a registration --------------------------------------------------------------- */

static void check_lookups(struct reader_place *p, struct berth_reader *r)
{
	uint64_t acme = place_set(p, "acme", 1, "acme-idx"), globex, moving;
	struct berth_route at;
	struct berth_placement l;
	struct berth_inject pair;
	struct berth_cluster c;

	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(at.epoch, acme);
	assert_int_equal(at.cluster, 1);
	assert_int_equal(at.kind, BERTH_DEDICATED_INDEX);
	assert_int_equal(at.phase, BERTH_SETTLED);
	assert_int_equal(at.is_default, 0);
	assert_int_equal(berth_route(r, KEY("nobody"), &at), BERTH_E_UNKNOWN);
	assert_int_equal(at.epoch, acme); /* out is left alone */

	globex = place_shared(p, "globex", 2, "shared");
	place_set(p, "initech", 1, NULL);
	moving = place_begin(p, "acme", 2, "acme-new");
	berth_read_begin(r);
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("globex"), &l), BERTH_OK);
	assert_int_equal(l.epoch, globex);
	assert_int_equal(l.kind, BERTH_SHARED_INDEX);
	assert_string_equal(l.index, "shared");
	assert_int_equal(l.index_len, 6);
	assert_string_equal(l.to_index, "");
	assert_int_equal(l.n_inject, 2);
	assert_int_equal(berth_inject(&l, 0, &pair), BERTH_OK);
	assert_string_equal(pair.field, "_tenant");
	assert_int_equal(pair.kind, BERTH_INJECT_PARTITION);
	assert_int_equal(berth_inject(&l, 1, &pair), BERTH_OK);
	assert_string_equal(pair.value, "eu");
	assert_int_equal(pair.value_len, 2);
	assert_int_equal(berth_inject(&l, 2, &pair), BERTH_E_INVAL);
	assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_OK);
	assert_int_equal(l.epoch, moving);
	assert_int_equal(l.phase, BERTH_DRAINING);
	assert_int_equal(l.cluster, 1);
	assert_string_equal(l.index, "acme-idx");
	assert_int_equal(l.to_cluster, 2);
	assert_int_equal(l.to_kind, BERTH_DEDICATED_INDEX);
	assert_string_equal(l.to_index, "acme-new");
	assert_int_equal(berth_lookup(r, KEY("initech"), &l), BERTH_OK);
	assert_string_equal(l.index, "");
	berth_read_end(r);
	assert_int_equal(berth_cluster(r, 1, &c), BERTH_OK);
	assert_string_equal(c.id, "c1");
	assert_string_equal(c.endpoint, "http://10.0.0.1:9200");
	assert_int_equal(c.endpoint_len, strlen(c.endpoint));
	assert_int_equal(berth_cluster(r, 2, &c), BERTH_OK);
	assert_string_equal(c.endpoint, "");
	assert_int_equal(berth_cluster(r, 0, &c), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cluster(r, 3, &c), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cluster(r, 65535, &c), BERTH_E_UNKNOWN);
	berth_read_end(r);

	place_phase(p, "acme", PHASE_CUTOVER);
	place_phase(p, "acme", PHASE_SETTLED);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(at.cluster, 2);
	place_remove(p, "acme");
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_E_UNKNOWN);
}

static void registered_reader_sees_each_change_at_once(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);

	check_lookups(p, r);
	close_all(b, r);
}

static void reader_without_a_writer_sees_the_same_from_copies(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = copying(p);
	struct berth_reader *r = opened(b);

	check_lookups(p, r);
	assert_int_equal(berth_admit(r, KEY("globex"), 1), BERTH_E_WRITER_DOWN);
	close_all(b, r);
}

static void keys_of_every_length_are_told_apart(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	char key[300];
	struct berth_route at;

	for (unsigned len = 1; len <= 255; len++) {
		uint64_t epoch;

		long_key(key, len, 'a');
		epoch = place_set(p, key, 1 + len % 2, "x");
		assert_int_equal(berth_route(r, key, len, &at), BERTH_OK);
		assert_int_equal(at.epoch, epoch);
		assert_int_equal(at.cluster, 1 + len % 2);
		key[len - 1] = 'b';
		assert_int_equal(berth_route(r, key, len, &at), BERTH_E_UNKNOWN);
	}
	long_key(key, 256, 'a');
	assert_int_equal(berth_route(r, key, 256, &at), BERTH_E_INVAL);
	assert_int_equal(berth_route(r, key, 0, &at), BERTH_E_INVAL);
	assert_int_equal(berth_route(r, key, SIZE_MAX, &at), BERTH_E_INVAL);
	assert_int_equal(berth_route(r, NULL, 3, &at), BERTH_E_INVAL);
	close_all(b, r);
}

static void default_answers_only_who_has_no_entry(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	uint64_t dflt = place_shared(p, NULL, 1, "shared"), own;
	struct berth_route at;
	struct berth_placement l;

	assert_int_equal(berth_route(r, KEY("newcomer"), &at), BERTH_OK);
	assert_int_equal(at.is_default, 1);
	assert_int_equal(at.epoch, dflt);
	assert_int_equal(berth_admit(r, KEY("newcomer"), dflt), BERTH_OK);
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("newcomer"), &l), BERTH_OK);
	assert_int_equal(l.is_default, 1);
	assert_string_equal(l.index, "shared");
	assert_int_equal(l.n_inject, 2);
	berth_read_end(r);
	own = place_set(p, "newcomer", 2, "own");
	assert_int_equal(berth_admit(r, KEY("newcomer"), dflt), BERTH_E_STALE);
	assert_int_equal(berth_admit(r, KEY("newcomer"), own), BERTH_OK);
	place_remove(p, NULL);
	assert_int_equal(berth_route(r, KEY("stranger"), &at), BERTH_E_UNKNOWN);
	close_all(b, r);
}

static void check_bulk(struct reader_place *p, struct berth_reader *r)
{
	enum { N = 100 };
	static char names[N][16];
	struct berth_key keys[N];
	struct berth_route out[N], one;
	int status[N];

	for (unsigned i = 0; i < N; i++) {
		snprintf(names[i], sizeof names[i], "bulk-%u", i);
		keys[i] = (struct berth_key){names[i], i % 10 == 9 ? 0 : strlen(names[i])};
		if (i % 3 == 0)
			place_set(p, names[i], 1 + i % 2, "x");
	}
	for (unsigned pass = 0; pass < 2; pass++) {
		assert_int_equal(berth_route_bulk(r, keys, N, out, status), BERTH_OK);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(status[i], berth_route(r, keys[i].key, keys[i].len, &one));
			if (status[i] == BERTH_OK)
				assert_memory_equal(&out[i], &one, sizeof one);
		}
		place_set(p, NULL, 2, NULL); /* second pass: with a default */
	}
	assert_int_equal(berth_route_bulk(r, NULL, 0, NULL, NULL), BERTH_OK);
}

static void bulk_answers_what_single_calls_answer(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = copying(p);
	struct berth_reader *r = opened(b);

	check_bulk(p, r);
	close_all(b, r);
	b = attached(p);
	r = opened(b);
	check_bulk(p, r);
	close_all(b, r);
}

static void calls_that_hand_out_strings_need_a_section(void **state)
{
	struct berth *b = attached(*state);
	struct berth_reader *r = opened(b);
	struct berth_placement l;
	struct berth_cluster c;

	place_set(*state, "acme", 1, "x");
	assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_E_INVAL);
	assert_int_equal(berth_cluster(r, 1, &c), BERTH_E_INVAL);
	berth_read_end(r); /* one too many does no harm */
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_OK);
	berth_read_end(r);
	assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_E_INVAL);
	close_all(b, r);
}

/* ---- the gate ------------------------------------------------------------------------------------------------ */

static void gate_admits_the_present_epoch_alone(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	struct shm_registration *reg = atomic_load(&p->registration);
	uint64_t first = place_set(p, "acme", 1, "a"), begun, cut, done;

	assert_int_equal(atomic_load(&reg->unbracketed), 0);
	assert_int_equal(berth_admit(r, KEY("acme"), first), BERTH_OK);
	assert_int_equal(atomic_load(&reg->unbracketed), 1);
	assert_int_equal(berth_admit(r, KEY("acme"), 0), BERTH_E_STALE);
	assert_int_equal(berth_admit(r, KEY("acme"), first + 1), BERTH_E_STALE);
	assert_int_equal(berth_admit(r, KEY("nobody"), first), BERTH_E_UNKNOWN);
	place_set(p, "globex", 1, "g"); /* another partition's change makes nothing stale */
	assert_int_equal(berth_admit(r, KEY("acme"), first), BERTH_OK);
	begun = place_begin(p, "acme", 2, "a");
	assert_int_equal(berth_admit(r, KEY("acme"), first), BERTH_E_STALE);
	assert_int_equal(berth_admit(r, KEY("acme"), begun), BERTH_OK);
	cut = place_phase(p, "acme", PHASE_CUTOVER);
	assert_int_equal(berth_admit(r, KEY("acme"), begun), BERTH_E_CUTOVER);
	assert_int_equal(berth_admit(r, KEY("acme"), cut), BERTH_E_CUTOVER);
	assert_int_equal(berth_admit(r, KEY("acme"), 0), BERTH_E_CUTOVER);
	done = place_phase(p, "acme", PHASE_SETTLED);
	assert_int_equal(berth_admit(r, KEY("acme"), cut), BERTH_E_STALE);
	assert_int_equal(berth_admit(r, KEY("acme"), done), BERTH_OK);
	close_all(b, r);
}

static void gate_closes_behind_the_fence_and_when_superseded(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	uint64_t epoch = place_set(p, "acme", 1, "a");
	struct berth_route at;

	atomic_store(&p->root->fence_deadline_ms, seg_clock_ms(CLOCK_BOOTTIME) + 60000);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_OK);
	atomic_store(&p->root->fence_deadline_ms, seg_clock_ms(CLOCK_BOOTTIME) - 1);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_E_FENCED);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch + 1), BERTH_E_STALE);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	atomic_store(&p->root->fence_deadline_ms, 0);
	atomic_store(&p->root->superseded, 1);
	assert_int_equal(berth_admit(r, KEY("acme"), epoch), BERTH_E_WRITER_DOWN);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	close_all(b, r);
}

static void process_that_only_reads_has_no_gate(void **state)
{
	struct reader_place *p = *state;
	struct berth_attach_options o = {.size = sizeof o, .writes = BERTH_WRITES_NONE, .wait_ms = 10000};
	struct berth *b;
	struct berth_reader *r;

	serve(p, ANSWER_REGISTER);
	b = attach_with(p, &o, BERTH_OK);
	r = opened(b);
	assert_int_equal(berth_admit(r, KEY("acme"), place_set(p, "acme", 1, "a")), BERTH_E_INVAL);
	assert_int_equal(atomic_load(&((struct shm_registration *)atomic_load(&p->registration))->unbracketed), 0);
	close_all(b, r);
}

/* ---- sections ------------------------------------------------------------------------------------------------ */

static void section_is_on_the_line_from_begin_to_outermost_end(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	struct shm_line *line = line_of(p, 0);
	struct berth_route at;

	place_set(p, "acme", 1, "a");
	assert_int_equal(atomic_load(&line->in_use), 1);
	assert_int_equal(atomic_load(&line->tid), gettid());
	assert_int_equal(atomic_load(&line->section), 0);
	berth_read_begin(r);
	berth_read_begin(r);
	assert_int_equal(section_generation(atomic_load(&line->section)),
			 SHM_GENERATION(atomic_load(&p->root->termgen)));
	assert_int_equal(section_grace(atomic_load(&line->section)), atomic_load(&p->root->grace));
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	berth_read_end(r);
	assert_int_not_equal(atomic_load(&line->section), 0);
	berth_read_end(r);
	assert_int_equal(atomic_load(&line->section), 0);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(atomic_load(&line->section), 0);
	berth_read_begin(r);
	close_all(b, r); /* closing ends it */
	assert_int_equal(atomic_load(&line->section), 0);
	assert_int_equal(atomic_load(&line->in_use), 0);
}

static void section_moves_to_a_new_generation_and_keeps_its_strings(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	struct shm_line *line = line_of(p, 0);
	struct berth_placement before, after;
	uint32_t generation;
	uint64_t epoch;

	place_set(p, "acme", 1, "old");
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("acme"), &before), BERTH_OK);
	generation = SHM_GENERATION(atomic_load(&p->root->termgen));
	for (unsigned i = 0; i < 3; i++)
		restart_writer(p);
	epoch = place_set(p, "acme", 2, "new");
	assert_false(section_moved(atomic_load(&line->section)));
	assert_int_equal(berth_lookup(r, KEY("acme"), &after), BERTH_OK);
	assert_true(section_moved(atomic_load(&line->section)));
	assert_int_equal(section_generation(atomic_load(&line->section)), generation);
	assert_int_equal(after.epoch, epoch);
	assert_string_equal(after.index, "new");
	assert_string_equal(before.index, "old"); /* still mapped */
	berth_read_end(r);
	berth_read_begin(r);
	assert_false(section_moved(atomic_load(&line->section)));
	assert_int_equal(section_generation(atomic_load(&line->section)), generation + 3);
	berth_read_end(r);
	close_all(b, r);
}

static void section_over_too_many_generations_is_told_to_end(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	struct berth_route at;
	int rc = BERTH_OK;

	place_set(p, "acme", 1, "a");
	berth_read_begin(r);
	for (unsigned i = 0; i < 20 && rc == BERTH_OK; i++) {
		restart_writer(p);
		rc = berth_route(r, KEY("acme"), &at);
	}
	assert_int_equal(rc, BERTH_E_AGAIN);
	berth_read_end(r);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	close_all(b, r);
}

static void restart_of_the_writer_fails_no_look_up_even_without_descriptors(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b), *other = opened(b);
	struct rlimit limit, none;
	struct berth_route at;
	uint64_t epoch = place_set(p, "acme", 1, "a");
	int top = dup(0);

	close(top);
	restart_writer(p);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (int fd = dup(0); fd >= 0 && fd < 200; fd = dup(0)) /* fill the gaps below */
		top = fd;
	none = (struct rlimit){(rlim_t)top + 1, limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_true(dup(0) < 0);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK);
	assert_int_equal(berth_admit(other, KEY("acme"), epoch), BERTH_OK);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(at.epoch, epoch);
	berth_reader_close(&other);
	close_all(b, r);
}

/* ---- damage -------------------------------------------------------------------------------------------------- */

static int add_damaged(void *arg, const struct registry_row *row)
{
	*(uint64_t *)arg += row->damaged;
	return 0;
}

static void damage_is_answered_and_nothing_else_happens(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = attached(p);
	struct berth_reader *r = opened(b);
	char path[160];
	uint32_t generation = SHM_GENERATION(atomic_load(&p->root->termgen));
	struct shm_table *t;
	struct shm_entry *e = NULL;
	struct berth_route at;
	struct berth_placement l;
	uint64_t word, damaged = 0;
	int fd;

	place_set(p, "acme", 1, "a");
	snprintf(path, sizeof path, "%s/tables/table.%u", p->dir, generation);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	t = mmap(NULL, SHM_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(t != MAP_FAILED);
	word = t->size;
	munmap(t, SHM_PAGE);
	t = mmap(NULL, word, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(t != MAP_FAILED);
	close(fd);
	for (uint32_t i = 0; i < t->capacity + SHM_PROBE_MAX && !e; i++) {
		struct shm_entry *x = (struct shm_entry *)((char *)t + t->entries_off) + i;

		if (x->n == 4 && memcmp(x->key, "acme", 4) == 0)
			e = x;
	}
	assert_non_null(e);
	word = atomic_load(&e->word);
	atomic_store(&e->word, word | 3); /* a phase that there is not */
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_E_CORRUPT);
	assert_int_equal(berth_admit(r, KEY("acme"), word_epoch(word)), BERTH_E_CORRUPT);
	atomic_store(&e->word, word_make(word_epoch(word), 2, word_which(word), KIND_DEDICATED_INDEX, 0));
	berth_read_begin(r);
	assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_E_CORRUPT); /* the details name cluster 1 */
	atomic_store(&e->word, word);
	for (unsigned i = 0; i < 32; i++) {
		atomic_store(&e->det[word_which(word)], 1u << i);
		assert_int_equal(berth_lookup(r, KEY("acme"), &l), BERTH_E_CORRUPT);
	}
	berth_read_end(r);
	atomic_store(&t->longest_probe, UINT32_MAX);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_OK); /* found where it was guessed: no probe */
	assert_int_equal(berth_route(r, KEY("nobody"), &at), BERTH_E_CORRUPT);
	atomic_store(&p->root->termgen, 0);
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_E_CORRUPT);
	atomic_store(&p->root->termgen, SHM_TERMGEN(9, generation + 100));
	assert_int_equal(berth_route(r, KEY("acme"), &at), BERTH_E_NO_INSTANCE);
	assert_int_equal(berth_admit(r, KEY("acme"), word_epoch(word)), BERTH_E_WRITER_DOWN); /* in the gate's words */
	registry_walk(table_registry(p->table), add_damaged, &damaged);
	assert_int_equal(damaged, 5 + 32); /* each was counted where the writer sees it */
	munmap(t, t->size);
	close_all(b, r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(registered_reader_sees_each_change_at_once),
		IN_PLACE(reader_without_a_writer_sees_the_same_from_copies),
		IN_PLACE(keys_of_every_length_are_told_apart),
		IN_PLACE(default_answers_only_who_has_no_entry),
		IN_PLACE(bulk_answers_what_single_calls_answer),
		IN_PLACE(calls_that_hand_out_strings_need_a_section),
		IN_PLACE(gate_admits_the_present_epoch_alone),
		IN_PLACE(gate_closes_behind_the_fence_and_when_superseded),
		IN_PLACE(process_that_only_reads_has_no_gate),
		IN_PLACE(section_is_on_the_line_from_begin_to_outermost_end),
		IN_PLACE(section_moves_to_a_new_generation_and_keeps_its_strings),
		IN_PLACE(section_over_too_many_generations_is_told_to_end),
		IN_PLACE(restart_of_the_writer_fails_no_look_up_even_without_descriptors),
		IN_PLACE(damage_is_answered_and_nothing_else_happens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
