/* SPDX-License-Identifier: MIT
 * Races of libberth, made certain: another process looks up, is stopped after each of its machine instructions in turn,
 * and the writer makes its change right there. The other process has no registration, so memory is reused under it at
 * once: whatever its answer is, it must have been true before the change or after it. Reports SKIP where ptrace is
 * refused. */
#include "reader_place.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/index.h"

#define STEPS_MAX 20000

enum call { ROUTE, LOOKUP, CLUSTER, N_CALLS, BEGIN = N_CALLS /* needs a registration */ };

struct answer {         /* shared with the other process */
	enum call call; /* in: what to call */
	int code;
	uint64_t epoch;
	unsigned cluster;
	char text[64]; /* LOOKUP: the index; CLUSTER: the id */
	bool done;
};

/* ---- the other process ---------------------------------------------------------------------------------------- */

static void look(struct berth_reader *r, const char *key, struct answer *a)
{
	struct berth_route at = {0};
	struct berth_placement l;
	struct berth_cluster c;
	struct berth_write w = {0};

	if (a->call == BEGIN) {
		a->code = berth_write_begin(r, key, strlen(key), 0, &w);
		a->epoch = w.epoch;
		a->cluster = w.cluster;
		a->done = true;
		if (a->code == BERTH_OK)
			berth_write_end(r, &w, BERTH_DONE);
		return;
	}
	if (a->call == ROUTE) {
		a->code = berth_route(r, key, strlen(key), &at);
		a->epoch = at.epoch;
		a->cluster = at.cluster;
	} else {
		berth_read_begin(r);
		if (a->call == LOOKUP && (a->code = berth_lookup(r, key, strlen(key), &l)) == BERTH_OK) {
			a->epoch = l.epoch;
			a->cluster = l.cluster;
			memcpy(a->text, l.index, l.index_len + 1);
		}
		if (a->call == CLUSTER && (a->code = berth_cluster(r, 1, &c)) == BERTH_OK)
			memcpy(a->text, c.id, c.id_len + 1);
		berth_read_end(r);
	}
	a->done = true;
}

static void other_process(const char *dir, const char *key, struct answer *a)
{
	struct berth_attach_options o = {
		.size = sizeof o, .wait_ms = 10000, .writes = BERTH_WRITES_BRACKETED}; /* no wait when nobody serves */
	struct berth *b = NULL;
	struct berth_reader *r = NULL;
	pid_t self = getpid();

	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
		_exit(77);
	if (berth_attach(dir, &o, &b) != BERTH_OK || berth_reader_open(b, &r) != BERTH_OK)
		_exit(1);
	for (enum call call = 0; call <= BEGIN; call++) { /* whatever the first call of its kind does */
		a->call = call;
		look(r, key, a);
	}
	for (;;) {
		kill(self, SIGSTOP); /* fewer instructions than raise() */
		look(r, key, a);
		kill(self, SIGSTOP);
	}
}

static pid_t start(struct reader_place *p, const char *key, struct answer *a)
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		other_process(p->dir, key, a);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("SKIP: ptrace is refused: %s\n", strerror(errno));
		skip();
	}
	assert_true(WIFSTOPPED(status));
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0); /* not left behind by a failure */
	return pid;
}

static void resume(pid_t pid, enum __ptrace_request how)
{
	int status;

	assert_int_equal(ptrace(how, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSTOPPED(status))
		fail_msg("the reader died: status %#x", status);
}

/* The other process calls; after n of its instructions, `change` is made. False: it was through before that. */
static bool interrupted(pid_t pid, struct answer *a, unsigned n, void (*change)(struct reader_place *, unsigned),
			struct reader_place *p)
{
	enum call call = a->call;
	bool in_time;

	*a = (struct answer){.call = call};
	for (unsigned i = 0; i < n && !a->done; i++)
		resume(pid, PTRACE_SINGLESTEP);
	in_time = !a->done;
	change(p, n);
	resume(pid, PTRACE_CONT); /* to the stop behind the call */
	assert_true(a->done);
	resume(pid, PTRACE_CONT); /* to the one before the next */
	return in_time;
}

static void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static struct answer *shared_answer(void)
{
	struct answer *a = mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(a != MAP_FAILED);
	return a;
}

/* ---- changes -------------------------------------------------------------------------------------------------- */

#define MOVED "moved-tenant"
static uint64_t epochs[2];         /* before, after */
static unsigned at;                /* instructions before the change */
static struct reader_place *place; /* for checks that undo it */

/* Twice, so that both references of the entry lead to the other cluster. index-N… is on cluster N. */
static void move_it(struct reader_place *p, unsigned n)
{
	epochs[0] = epochs[1];
	place_set(p, MOVED, 1 + n % 2, n % 2 ? "index-2" : "index-1");
	epochs[1] = place_set(p, MOVED, 1 + n % 2, n % 2 ? "index-2-again" : "index-1-again");
	reclaim(p);
}

/* Makes `change` after each stride-th instruction of a call in turn, and has `check` judge each answer. */
static void at_each_instruction(struct reader_place *p, const char *key, enum call call, unsigned stride,
				void (*change)(struct reader_place *, unsigned), void (*check)(const struct answer *))
{
	struct answer *a = shared_answer();
	pid_t pid = start(p, key, a);

	a->call = call;
	at = 1;
	while (interrupted(pid, a, at, change, p)) {
		check(a);
		at += stride;
		if (at >= STEPS_MAX)
			fail_msg("the call takes more than %u instructions", at);
	}
	assert_true(at > 100);
	stop(pid);
	munmap(a, sizeof *a);
}

static void check_moved(const struct answer *a)
{
	char expected[32];

	if (a->code != BERTH_OK)
		fail_msg("after %u instructions: %s", at, berth_strerror(a->code));
	snprintf(expected, sizeof expected, "index-%u", a->cluster);
	if (a->call == LOOKUP && strncmp(a->text, expected, strlen(expected)) != 0)
		fail_msg("after %u instructions: cluster %u with %s", at, a->cluster, a->text);
	if (a->epoch < epochs[0] || a->epoch > epochs[1])
		fail_msg("after %u instructions: epoch %llu", at, (unsigned long long)a->epoch);
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
		fail_msg("after %u instructions: %s, epoch %llu, cluster %u", at, berth_strerror(a->code),
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

static void restart_it(struct reader_place *p, unsigned n)
{
	(void)n;
	restart_writer(p);
	reclaim(p); /* the table that the look-up may be in is given back: reads as zeros */
}

static void check_there(const struct answer *a)
{
	static const char *const texts[] = {"", "index-1", "c1"};

	if (a->code != BERTH_OK || strcmp(a->text, texts[a->call]) != 0)
		fail_msg("call %d, after %u instructions: %s, \"%s\"", a->call, at, berth_strerror(a->code), a->text);
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
	pid = start(p, MOVED, a);
	assert_int_equal(atomic_load(&p->n_attached), 1);
	assert_int_equal(atomic_load(&line_of(p, 0)->section), 0);
	for (*a = (struct answer){.call = ROUTE}; !a->done; resume(pid, PTRACE_SINGLESTEP))
		inside += atomic_load(&line_of(p, 0)->section) != 0;
	assert_int_equal(a->code, BERTH_OK);
	assert_int_equal(atomic_load(&line_of(p, 0)->section), 0);
	assert_true(inside > 30); /* instructions: hash, probe, comparison */
	stop(pid);
	munmap(a, sizeof *a);
}

/* What a drain would see in the moment of the cutover. */
static bool lease_seen;

static void cut_over(struct reader_place *p, unsigned n)
{
	const struct shm_leases *a = leases_of(p, 0);

	(void)n;
	epochs[1] = place_phase(p, MOVED, PHASE_CUTOVER);
	lease_seen = false;
	for (uint32_t i = 0; i < atomic_load(&a->high); i++)
		lease_seen = lease_seen || atomic_load(&lease_slots((struct shm_leases *)(uintptr_t)a)[i].hash) != 0;
}

static void draining_again(struct reader_place *p)
{
	static unsigned cluster;

	cluster = cluster % 2 + 1;
	epochs[0] = place_begin(p, MOVED, cluster, NULL);
}

static void check_begun(const struct answer *a)
{
	if (a->code == BERTH_OK && !lease_seen)
		fail_msg("after %u instructions: admitted, and no lease was to be seen at the cutover", at);
	if (a->code == BERTH_OK && a->epoch != epochs[0])
		fail_msg("after %u instructions: admitted at epoch %llu", at, (unsigned long long)a->epoch);
	if (a->code != BERTH_OK && a->code != BERTH_E_CUTOVER)
		fail_msg("after %u instructions: %s", at, berth_strerror(a->code));
	for (uint32_t i = 0; i < atomic_load(&leases_of(place, 0)->high); i++)
		if (atomic_load(&lease_slots(leases_of(place, 0))[i].hash) != 0)
			fail_msg("after %u instructions: a lease was left behind", at);
	place_phase(place, MOVED, PHASE_SETTLED);
	draining_again(place);
}

static void admitted_write_was_to_be_seen_at_every_instruction(void **state)
{
	struct reader_place *p = *state;

	place = p;
	place_set(p, MOVED, 1, "index-1");
	draining_again(p);
	serve(p, ANSWER_REGISTER);
	at_each_instruction(p, MOVED, BEGIN, 1, cut_over, check_begun);
}

static void check_begun_anew(const struct answer *a)
{
	if (a->code != BERTH_OK || a->cluster != 1)
		fail_msg("after %u instructions: %s, cluster %u", at, berth_strerror(a->code), a->cluster);
}

static void restart_of_the_writer_keeps_the_lease_at_every_instruction(void **state)
{
	place = *state;
	place_set(place, MOVED, 1, "index-1");
	serve(place, ANSWER_REGISTER);
	at_each_instruction(place, MOVED, BEGIN, 3, restart_it, check_begun_anew);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(details_never_mix_two_placements),
		IN_PLACE(reused_slot_never_answers_with_the_tenant_before),
		IN_PLACE(call_without_a_section_opens_one_of_its_own),
		IN_PLACE(restart_of_the_writer_is_invisible_at_every_instruction),
		IN_PLACE(admitted_write_was_to_be_seen_at_every_instruction),
		IN_PLACE(restart_of_the_writer_keeps_the_lease_at_every_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
