/* SPDX-License-Identifier: MIT
 * Changes of the table of pins, made certain: another process makes one, stopped after each of its machine instructions in
 * turn. Wherever it stands, a search answers what was true before or after; also one that stands on any of the slots, led
 * there by links of a moment ago; and a writer that takes over a copy of the file as it is then (kill -9, right there) has
 * every pin that was not being changed. Reports SKIP where ptrace is refused. */
#include "cursor_place.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "../writer/log.h"
#include "child.h"

#define STEPS_MAX 1000000u
#define FILE_SIZE 8192u
#define CAPACITY 6u

struct is { /* how it is to be found: cluster 0: not */
	uint64_t owner;
	unsigned cluster;
};

struct known {
	struct cursor_id id;
	struct is before, after;
};

struct change {
	enum shm_pin_op op;
	struct cursor_id id;
	uint64_t owner;
	unsigned cluster;
};

static struct cursor_place next, *const p = &cursor_place;
static struct cursor_map reader;
static struct known known[CAPACITY + 2];
static unsigned n_known;

/* ---- what must be true at any instant --------------------------------------------------------------------------- */

static bool is(const struct is *i, uint64_t owner, uint64_t word)
{
	return i->cluster != 0 && i->owner == owner && i->cluster == cursor_cluster(word);
}

static void search_answers(const struct cursor_map *m, const struct known *k, bool astray, unsigned step,
			   const char *who)
{
	bool may_miss = k->before.cluster == 0 || k->after.cluster == 0 || k->before.owner != k->after.owner;
	uint64_t owner = 0, word = 0;
	enum cursor_found f = cursor_find(m, k->id.hash, &owner, &word);

	if (f == CURSOR_HIT && !is(&k->before, owner, word) && !is(&k->after, owner, word))
		fail_msg("instruction %u: %s finds id %u of owner %#llx, cluster %u", step, who, (unsigned)(k - known),
			 (unsigned long long)owner, cursor_cluster(word));
	if (f != CURSOR_HIT && !astray && (f != CURSOR_MISS || !may_miss))
		fail_msg("instruction %u: %s does not find id %u (%d)", step, who, (unsigned)(k - known), f);
}

static void searches_that_stand_on_a_slot_answer(unsigned step)
{
	for (uint32_t at = 1; at <= CAPACITY; at++) {
		const _Atomic uint64_t bucket = SHM_BUCKET(1, at);
		struct cursor_map m = reader;

		m.buckets = &bucket;
		m.mask = 0;
		for (unsigned i = 0; i < n_known; i++)
			search_answers(&m, &known[i], true, step, "a search on its way");
	}
}

static void the_next_writer_has_them(unsigned step)
{
	int fd = openat(next.s.instance.table_dir_fd, SEG_CURSORS "1", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	uint64_t highest = 0, n_found = 0;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, reader.file, FILE_SIZE), FILE_SIZE);
	close(fd);
	atomic_store(&next.root->cursor_generation, 1);
	for (uint32_t i = 0; i < CAPACITY; i++) {
		uint64_t version = cursor_load(&reader.slots[i].version);

		highest = version > highest ? version : highest;
	}
	next.now = p->now;
	cursor_place_restart(&next);
	assert_int_equal(cursor_load(&next.root->cursor_generation), 1);
	for (unsigned i = 0; i < n_known; i++) {
		uint64_t owner, word;

		search_answers(cursor_table_map(next.t), &known[i], false, step, "the next writer");
		n_found += cursor_find(cursor_table_map(next.t), known[i].id.hash, &owner, &word) == CURSOR_HIT;
	}
	assert_int_equal(cursor_table_count(next.t), n_found);
	if (COUNTED(&next, changes) < highest || cursor_load(&reader.file->changes) < highest)
		fail_msg("instruction %u: a slot carries number %llu, the header says %llu", step,
			 (unsigned long long)highest, (unsigned long long)COUNTED(&next, changes));
	for (unsigned i = 0; i < CAPACITY; i++) /* all room can be used */
		assert_pins(&next, cursor_id(50 + i), A, 9, CURSOR_TTL);
	for (unsigned i = 0; i < CAPACITY; i++)
		assert_seen(&next, cursor_id(50 + i), A, 9);
}

static void all_is_well(unsigned step)
{
	for (unsigned i = 0; i < n_known; i++)
		search_answers(&reader, &known[i], false, step, "a search");
	searches_that_stand_on_a_slot_answer(step);
	the_next_writer_has_them(step);
}

/* ---- the other process ------------------------------------------------------------------------------------------ */

static _Atomic uint32_t *done; /* by it */

static void other_process(const struct change *c)
{
	pid_t self = getpid();

	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
		_exit(77);
	kill(self, SIGSTOP);
	if (c->op == SHM_OP_PIN)
		cursor_pin(p, c->id, c->owner, c->cluster, CURSOR_TTL);
	else
		cursor_release(p, c->id, c->owner);
	atomic_store(done, 1);
	_exit(0);
}

static void step_through(const struct change *c)
{
	static unsigned char last[FILE_SIZE];
	unsigned steps = 0, states = 0;
	int status;
	pid_t pid;

	atomic_store(done, 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		other_process(c);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("ptrace is refused: %s", strerror(errno));
	assert_true(WIFSTOPPED(status));
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0);
	memset(last, 0, sizeof last);
	for (; !atomic_load(done) && steps < STEPS_MAX; steps++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSTOPPED(status))
			fail_msg("the writer died: status %#x", status);
		if (memcmp(last, reader.file, FILE_SIZE) == 0)
			continue;
		memcpy(last, reader.file, FILE_SIZE);
		states++;
		all_is_well(steps);
	}
	assert_true(atomic_load(done));
	child_kill(&pid);
	printf("note: %u instructions, %u states of the file\n", steps, states);
	assert_true(states > 3);
	for (unsigned i = 0; i < n_known; i++) { /* and now it is done */
		known[i].before = known[i].after;
		search_answers(&reader, &known[i], false, steps, "a search afterwards");
	}
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

static void know(struct cursor_id id, struct is before, struct is after)
{
	known[n_known++] = (struct known){id, before, after};
}

/* Pins of bucket 1 and 2 by turns: the first of them is the last of its chain. */
static void with_pins(unsigned n)
{
	WITH(CAPACITY);
	n_known = 0;
	for (unsigned i = 0; i < n; i++) {
		struct is as = {i % 3 ? A : B, 1 + i};

		assert_pins(p, cursor_id_in(1 + i % 2, i), as.owner, as.cluster, CURSOR_TTL);
		know(cursor_id_in(1 + i % 2, i), as, as);
	}
	assert_int_equal(cursor_table_map(p->t)->size, FILE_SIZE);
	assert_int_equal(cursor_map_open(p->s.instance.table_dir_fd, p->root, 1, NULL, &reader), BERTH_OK);
}

static int begin(void **state)
{
	(void)state;
	cursor_place_open(&next, CAPACITY, 0);
	done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return done == MAP_FAILED;
}

static int end(void **state)
{
	(void)state;
	cursor_map_close(&reader);
	cursor_place_close(&next);
	cursor_place_close(p);
	return munmap((void *)done, 4096);
}

static void a_new_pin(void **state)
{
	const struct change c = {SHM_OP_PIN, cursor_id_in(1, 77), A, 70};

	(void)state;
	with_pins(4);
	know(c.id, (struct is){0, 0}, (struct is){c.owner, c.cluster});
	step_through(&c);
}

static void a_new_pin_in_the_place_of_the_oldest(void **state)
{
	const struct change c = {SHM_OP_PIN, cursor_id_in(2, 77), A, 70};

	(void)state;
	with_pins(CAPACITY);
	assert_pins(p, known[0].id, B, 1, CURSOR_TTL); /* so the second of its chain goes, or the last of the other */
	assert_pins(p, known[1].id, A, 2, CURSOR_TTL);
	known[2].after.cluster = 0;
	know(c.id, (struct is){0, 0}, (struct is){c.owner, c.cluster});
	step_through(&c);
}

static void a_new_pin_in_the_place_of_an_expired_one(void **state)
{
	const struct change c = {SHM_OP_PIN, cursor_id_in(1, 77), A, 70};

	(void)state;
	with_pins(CAPACITY);
	assert_pins(p, known[3].id, B, 4, 10);
	p->now += 10;
	known[3].after.cluster = 0;
	know(c.id, (struct is){0, 0}, (struct is){c.owner, c.cluster});
	step_through(&c);
}

static void pinning_again(void **state)
{
	const struct change c = {SHM_OP_PIN, cursor_id_in(1, 2), A, 70};

	(void)state;
	with_pins(CAPACITY);
	known[2].after.cluster = 70;
	step_through(&c);
}

static void an_expired_id_for_another_owner(void **state)
{
	const struct change c = {SHM_OP_PIN, cursor_id_in(1, 2), B, 70};

	(void)state;
	with_pins(CAPACITY);
	assert_pins(p, known[2].id, A, 3, 10);
	p->now += 10;
	known[2].after = (struct is){B, 70};
	step_through(&c);
}

static void a_release(void **state)
{
	(void)state;
	with_pins(CAPACITY);
	for (unsigned i = 2; i < CAPACITY; i++) { /* the middle of a chain first; at last its first */
		const struct change c = {SHM_OP_RELEASE, known[i].id, i % 3 ? A : B, 0};

		known[i].after.cluster = 0;
		step_through(&c);
		cursor_place_restart(p); /* it was another process that did it */
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
	const struct CMUnitTest tests[] = {
		TEST(a_new_pin),
		TEST(a_new_pin_in_the_place_of_the_oldest),
		TEST(a_new_pin_in_the_place_of_an_expired_one),
		TEST(pinning_again),
		TEST(an_expired_id_for_another_owner),
		TEST(a_release),
	};

	log_open(LEVEL_ERROR); /* that something was mended is no news here */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
