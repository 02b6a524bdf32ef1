/* SPDX-License-Identifier: MIT
 * A fork at any instruction of a call of libberth, as another thread's may come: the child, which berth.h allows to close
 * and detach what it has inherited, finds nothing twice and nothing that is gone. This process makes single steps through
 * its own calls (the processor's trap flag), and forks at each instruction of its own program; not in libc, whose
 * allocator waits for itself around a fork. x86-64; SKIP elsewhere, and under a sanitizer. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

#include "../reader_lib/internal.h"
#include "cursor_daemon.h"

#define CHILD_S 20 /* what a child may take: nothing comes near */

#ifdef __x86_64__

extern const char __executable_start[], etext[];

static struct berth *forked_with; /* the attachment that the calls are about */
static unsigned n_forks;
static int child_said; /* of the first that found something */
static uintptr_t child_said_at;

/* ---- the child ------------------------------------------------------------------------------------------------- */

enum { WHOLE, MAPPING_GONE, PINS_GONE, ATTACHMENT_GONE, COPIES_GONE, NO_DETACH };

/* What a handle holds has a count for each place that holds it. What is gone has none left. */
static unsigned places_of(const struct berth *b, const void *what)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < b->max_readers; i++) {
		const struct berth_reader *r = &b->readers[i];

		if (!atomic_load(&r->open) || !r->owner)
			continue;
		n += (unsigned)(r->mapping == what) + (unsigned)(r->pins_mapping == what) + (unsigned)(r->at == what);
		for (unsigned held = 0; held < r->n_held; held++)
			n += r->held[held] == what;
	}
	return n + (unsigned)(b->now == what) + (unsigned)(b->now->ready == what) + (unsigned)(b->now->pins == what);
}

static int look_at(const struct berth *b, const struct berth_reader *r)
{
	const struct mapping *m;
	void *same;

	for (unsigned i = 0; i <= r->n_held; i++) {
		m = i < r->n_held ? r->held[i] : r->mapping;
		if (m && atomic_load(&m->users) < places_of(b, m))
			return MAPPING_GONE;
	}
	if (r->pins_mapping && atomic_load(&r->pins_mapping->users) < places_of(b, r->pins_mapping))
		return PINS_GONE;
	if (r->at && atomic_load(&r->at->users) < places_of(b, r->at))
		return ATTACHMENT_GONE;
	same = malloc(sizeof *r->copies); /* what was freed last of this size is the next one */
	if (same && same == (void *)r->copies)
		return COPIES_GONE;
	free(same);
	return WHOLE;
}

static int child(void)
{
	static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP};
	struct berth *b = forked_with;

	for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++) /* they would go on with the test here */
		signal(crashes[i], SIG_DFL);
	alarm(CHILD_S);
	for (uint32_t i = 0; i < b->max_readers; i++)
		if (atomic_load(&b->readers[i].open) && b->readers[i].owner) {
			int found = look_at(b, &b->readers[i]);

			if (found != WHOLE)
				return found;
		}
	return berth_detach(&b) == BERTH_OK && !b ? WHOLE : NO_DETACH;
}

/* ---- the steps --------------------------------------------------------------------------------------------------- */

static void at_instruction(int signal, siginfo_t *info, void *context)
{
	const ucontext_t *u = context;
	uintptr_t at = (uintptr_t)u->uc_mcontext.gregs[REG_RIP];
	int status = 0;
	pid_t pid;

	(void)signal;
	(void)info;
	if (at < (uintptr_t)__executable_start || at >= (uintptr_t)etext || child_said)
		return;
	pid = fork();
	if (pid == 0)
		_exit(child());
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		status = -1;
	n_forks++;
	if (status) {
		child_said = status;
		child_said_at = at;
	}
}

#define TRAP_FLAG 0x100u
#define STEPS(calls) \
	do { \
		__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG); \
		calls; \
		__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(uint64_t)TRAP_FLAG); \
		check_steps(#calls); \
	} while (0)

static void check_steps(const char *calls)
{
	static const char *const found[] = {"whole",
					    "a mapping that is gone",
					    "pins that are gone",
					    "an attachment that is gone",
					    "copies that are gone",
					    "what it cannot detach"};
	unsigned forks = n_forks;

	n_forks = 0;
	if (child_said)
		fail_msg("%s: after %u forks, at %#lx, a child found %s (status %#x)", calls, forks,
			 (unsigned long)(child_said_at - (uintptr_t)__executable_start),
			 WIFEXITED(child_said) && WEXITSTATUS(child_said) <= NO_DETACH ? found[WEXITSTATUS(child_said)]
										       : "its end",
			 (unsigned)child_said);
	assert_true(forks > 20);
}

static void begin_steps(struct berth *b)
{
	struct sigaction action = {.sa_sigaction = at_instruction, .sa_flags = SA_SIGINFO};

	if (child_sanitized())
		SKIP("not under a sanitizer");
	if (!fork_wipes())
		skip();
	forked_with = b;
	n_forks = 0;
	child_said = 0;
	assert_int_equal(sigaction(SIGTRAP, &action, NULL), 0);
}

static void a_reader_that_opens_and_closes_leaves_a_forked_child_whole(void **state)
{
	struct pin_place *p = *state;
	struct berth_reader *r = NULL;
	struct berth_route at;
	uint64_t n;

	pin_attach(p);
	begin_steps(p->b);
	for (unsigned i = 0; i < 2; i++) { /* a place that was never used, and one that was */
		STEPS(berth_reader_open(p->b, &r));
		STEPS(berth_cursor_len(r, &n));
		assert_int_equal(berth_route(r, "nobody", 6, &at), BERTH_E_UNKNOWN);
		STEPS(berth_reader_close(&r));
	}
	pin_detach(p);
}

static void a_new_table_and_new_pins_leave_a_forked_child_whole(void **state)
{
	struct pin_place *p = *state;
	struct berth_reader *r = NULL;
	struct berth_route at;
	uint64_t n;
	int rc;

	pin_attach(p);
	assert_int_equal(berth_reader_open(p->b, &r), BERTH_OK);
	begin_steps(p->b);
	assert_int_equal(berth_route(p->r, "nobody", 6, &at), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_len(p->r, &n), BERTH_OK);
	assert_int_equal(berth_cursor_len(r, &n), BERTH_OK);
	berth_read_begin(p->r);
	daemon_stop(&p->d);
	pin_restart(p, "--cursor-capacity", "100", NULL);
	STEPS(rc = berth_route(p->r, "nobody", 6, &at)); /* in a section: the table before is held */
	assert_int_equal(rc, BERTH_E_UNKNOWN);
	assert_int_equal(p->r->n_held, 1);
	STEPS(rc = berth_cursor_len(p->r, &n));
	assert_int_equal(rc, BERTH_OK);
	STEPS(berth_read_end(p->r));
	assert_int_equal(p->r->n_held, 0);
	STEPS(rc = berth_route(r, "nobody", 6, &at)); /* outside one */
	assert_int_equal(rc, BERTH_E_UNKNOWN);
	berth_reader_close(&r);
	pin_detach(p);
}

#else

static void elsewhere(void)
{
	SKIP("single steps of this processor are not known here");
}
static void a_reader_that_opens_and_closes_leaves_a_forked_child_whole(void **state)
{
	(void)state;
	elsewhere();
}
static void a_new_table_and_new_pins_leave_a_forked_child_whole(void **state)
{
	(void)state;
	elsewhere();
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIN_TEST(a_reader_that_opens_and_closes_leaves_a_forked_child_whole),
		PIN_TEST(a_new_table_and_new_pins_leave_a_forked_child_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
