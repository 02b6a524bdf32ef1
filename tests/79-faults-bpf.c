/* SPDX-License-Identifier: MIT
 * A daemon with a mirror for packet programs whose calls of bpf(2), of bpffs and of the mirror's memory fail, each once: in
 * a start, and while the table grows. (A stop has none: the mirror stays.) It serves as ever, or, where packet programs may
 * still answer by the last table, refuses to start and says so; no request is refused. The mirror says what the table
 * says, or it is off, and status and log have the reason; the next start has it again. faults/interpose.c makes the
 * failures. BERTH_LONG=1 goes through all passages. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../bpf/mirror.h"
#include "../shm/word.h"
#include "bpf_place.h"
#include "fault_judge.h"
#include "left_over.h"

#define MANY 3000u /* partitions of a request: the table grows */
#define MANY_NAME "bpf-%u"
#define MANY_FIRST "bpf-0"
#define MANY_LAST "bpf-2999"

static const char *const with_mirror[] = {"--bpf", NULL};
/* What a mirror asks of the kernel. */
static const struct {
	enum fault_call call;
	const char *in_path;
} kinds[] = {
	{CALL_BPF, NULL},           {CALL_MMAP, "bpf-map"}, {CALL_MKDIR, "/sys/fs/bpf"}, {CALL_UNLINK, "/sys/fs/bpf"},
	{CALL_OPEN, "/sys/fs/bpf"}, {CALL_THREAD, NULL},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

struct mirrored {
	struct fault_place *p;
	struct bpf_place b; /* the same daemon's pins */
	unsigned most, off; /* passages of one class that are tried; how often the mirror was off then */
};

static int make_mirrored(void **state)
{
	struct mirrored *m = calloc(1, sizeof *m);

	if (fault_possible() && !bpf_unable()) {
		m->p = calloc(1, sizeof *m->p);
		fault_place_make(m->p, *state, with_mirror);
		mirror_path(m->p->d.dir, m->b.pins, sizeof m->b.pins);
		left_over_put(m->b.pins);
	}
	m->most = getenv("BERTH_LONG") ? 100000 : 40;
	*state = m;
	return 0;
}

static int remove_mirrored(void **state)
{
	struct mirrored *m = *state;

	if (m->p) {
		fault_place_remove(m->p);
		remove_tree(m->b.pins);
		left_over_forget(m->b.pins);
	}
	free(m->p);
	free(m);
	return 0;
}

static struct mirrored *needed(void **state)
{
	struct mirrored *m = *state;

	if (!m->p && fault_possible())
		SKIP("%s", bpf_unable());
	fault_plan_needed(m->p ? m->p->plan : NULL);
	fault_must(m->p, fault_set_default(m->p, "default"));
	return m;
}

/* ---- judging ---------------------------------------------------------------------------------------------------- */

/* What packet programs find by the pins is what the table says of these. */
static void programs_find(struct mirrored *m)
{
	const char *const keys[] = {"acme", MANY_FIRST, MANY_LAST};
	struct bpf_view v;

	m->b.d = m->p->d;
	bpf_view_open(&m->b, &v);
	for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		struct berth_route route = {0};
		bool there = fault_route(m->p, keys[i], &route) && !route.is_default;
		uint64_t word = bpf_view_find(&v, keys[i], strlen(keys[i]), NULL);

		if (word_live(word) != there || (there && word_epoch(word) != route.epoch))
			fault_fail(m->p, "%s has epoch %llu, and programs find %016llx", keys[i],
				   (unsigned long long)route.epoch, (unsigned long long)word);
	}
	bpf_view_close(&v);
}

/* It is on and equal, or off with its reason. */
static bool mirror_is_on(struct mirrored *m)
{
	json_t *compared = fault_ask(m->p, "bpf.verify", NULL), *status = bpf_status(&m->p->d);
	const json_t *result = json_object_get(compared, "result");
	bool on = json_is_true(json_object_get(status, "on"));
	char *log = daemon_log(&m->p->d);

	if (!compared || on != (result != NULL))
		fault_fail(m->p, "the mirror is %s, and a compare is answered %s", on ? "on" : "off",
			   compared ? json_dumps(compared, 0) : "(closed)");
	if (on && (int_of(result, "differences") != 0 || int_of(result, "entries") < 1))
		fault_fail(m->p, "the mirror says something else than the table: %s", json_dumps(compared, 0));
	if (on)
		programs_find(m);
	if (!on && (strlen(text_of(status, "reason")) < 12 || !strstr(log, "event=bpf-off")))
		fault_fail(m->p, "the mirror is off, and status says why: `%s`; and the log:\n%s",
			   text_of(status, "reason"), log);
	m->off += !on;
	free(log);
	json_decref(status);
	json_decref(compared);
	return on;
}

/* False: it was refused, because programs might answer by what was there before it. */
static bool start(struct mirrored *m)
{
	int status = 0;
	char *log;

	fault_place_leave(m->p);
	if (fault_place_start(m->p, with_mirror, &status))
		return true;
	log = daemon_log(&m->p->d);
	if (status != 1 || !strstr(log, "packet programs may still answer by the last table"))
		fault_fail(m->p, "a start is refused, with exit status %d", status);
	free(log);
	return false;
}

/* After it all: the daemon before is dead, this one has everything, the mirror too. */
static void start_anew(struct mirrored *m, const char *view)
{
	fault_disarm(m->p->plan);
	daemon_kill(&m->p->d);
	if (!start(m))
		fault_fail(m->p, "nothing fails any more, and a start is refused");
	fault_expect_view(m->p, view, NULL);
	if (!mirror_is_on(m))
		fault_fail(m->p, "nothing fails any more, and the mirror is off");
}

static void say(struct mirrored *m, const char *what, unsigned kind, int64_t n, int error)
{
	snprintf(m->p->doing, sizeof m->p->doing, "%s, passage %lld of %s%s%s fails with %s", what, (long long)n,
		 fault_name(kinds[kind].call), kinds[kind].in_path ? " on " : "",
		 kinds[kind].in_path ? kinds[kind].in_path : "", fault_error_name(error));
}

/* Does something with each passage of each kind failing once, each time with another errno that fits. */
static void with_each_failure(struct mirrored *m, const char *what, void (*act)(struct mirrored *),
			      void (*afterwards)(struct mirrored *, const char *view))
{
	char *view = fault_view(m->p);

	for (unsigned kind = 0; kind < N_KINDS; kind++) {
		uint64_t passes;

		snprintf(m->p->doing, sizeof m->p->doing, "%s without a fault", what);
		fault_count(m->p->plan);
		fault_arm(m->p->plan, kinds[kind].call, INT64_MAX, 1, false, kinds[kind].in_path);
		act(m);
		passes = atomic_load(&m->p->plan->passes[kinds[kind].call]);
		afterwards(m, view);
		for (unsigned k = 0; fault_nth(passes, m->most, k); k++)
			for (const int *error = fault_errors(kinds[kind].call); *error; error++) {
				int64_t n = fault_nth(passes, m->most, k);

				say(m, what, kind, n, *error);
				fault_arm(m->p->plan, kinds[kind].call, n, *error, false, kinds[kind].in_path);
				act(m);
				m->p->tried++;
				m->p->fired += atomic_load(&m->p->plan->fired) != 0;
				afterwards(m, view);
			}
	}
	printf("note: %u failures tried, %u met, %u starts refused, the mirror off %u times\n", m->p->tried,
	       m->p->fired, m->p->refused, m->off);
	assert_true(m->p->fired > m->p->tried / 2);
	free(view);
}

/* ---- the tests -------------------------------------------------------------------------------------------------- */

static void die_and_start(struct mirrored *m)
{
	daemon_kill(&m->p->d);
	if (start(m))
		return;
	m->p->refused++;
	fault_disarm(m->p->plan);
	if (!start(m))
		fault_fail(m->p, "the next start is refused too");
}

static void has_all_but_perhaps_the_mirror(struct mirrored *m, const char *view)
{
	fault_expect_view(m->p, view, NULL);
	fault_maintained(m->p);
	fault_goes_on(m->p);
	mirror_is_on(m);
	start_anew(m, view);
}

static void a_start_serves_whatever_fails_of_the_mirror(void **state)
{
	struct mirrored *m = needed(state);

	with_each_failure(m, "a start", die_and_start, has_all_but_perhaps_the_mirror);
	assert_true(m->off > 0);
}

static json_t *names(void)
{
	json_t *all = json_array();
	char name[24];

	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, MANY_NAME, i);
		json_array_append_new(all, json_string(name));
	}
	return all;
}

static void grow(struct mirrored *m)
{
	fault_must(m->p, fault_ask(m->p, "set", "{s:o, s:b, s:{s:s, s:s}}", "partitions", names(), "force", 1,
				   "placement", "mode", "dedicated-cluster", "cluster", "c1"));
	mirror_is_on(m);
}

static void has_grown(struct mirrored *m, const char *view)
{
	struct berth_route route;
	char name[24];

	fault_disarm(m->p->plan);
	fault_expect_view(m->p, view, NULL);
	fault_maintained(m->p);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, MANY_NAME, i);
		if (!fault_route(m->p, name, &route) || route.is_default)
			fault_fail(m->p, "%s was acknowledged, and is not there", name);
	}
	fault_goes_on(m->p);
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof name, MANY_NAME, i);
		fault_must(m->p, fault_ask(m->p, "remove", "{s:s, s:b}", "partition", name, "force", 1));
	}
	mirror_is_on(m);
	start_anew(m, view);
}

static void a_table_grows_whatever_fails_of_the_mirror(void **state)
{
	with_each_failure(needed(state), "a growth", grow, has_grown);
}

static void a_mark_that_finds_room_for_a_part_of_it_is_told_as_that(void **state)
{
	struct mirrored *m = needed(state);
	json_t *status;

	snprintf(m->p->doing, sizeof m->p->doing, "a start whose mark is written in part");
	daemon_kill(&m->p->d);
	fault_arm(m->p->plan, CALL_WRITE, 1, FAULT_SHORT, false, "/mirrored.new");
	assert_true(start(m));
	assert_true(fault_disarm(m->p->plan) > 0);
	assert_false(mirror_is_on(m));
	status = bpf_status(&m->p->d);
	assert_non_null(strstr(text_of(status, "reason"), strerror(ENOSPC)));
	json_decref(status);
}

#define MIRROR_TEST(test) \
	{ \
#test, test, make_mirrored, remove_mirrored, (void *)(uintptr_t) "memory" \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MIRROR_TEST(a_start_serves_whatever_fails_of_the_mirror),
		MIRROR_TEST(a_table_grows_whatever_fails_of_the_mirror),
		MIRROR_TEST(a_mark_that_finds_room_for_a_part_of_it_is_told_as_that),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
