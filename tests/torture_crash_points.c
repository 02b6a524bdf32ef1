/* SPDX-License-Identifier: MIT
 * torture_crash.h: at which points the writer dies in which step. A step is done with all points armed at which it has not
 * died there yet; it dies at the first that it comes to, is started again, and dies at the next. So each point of each
 * operation has its turn, and few repetitions of a step are needed. Half of the points at a time, so that the order of
 * deaths, and what they leave to each other, is not always that of the source. One thread. */
#include "torture_crash.h"

#include <stdio.h>
#include <string.h>

#define TRIES 2u
#define DEATHS_MAX 24u      /* in one repetition of a step */
#define START_DEATHS_MAX 3u /* one after the other in starts, then one gets through: what it finds is not only ruins */
#define DOSE_DEATHS_MAX 100u
#define DOSE_START_DEATHS_MAX 10u
#define FEW 4u          /* points that are armed all at once */
#define RANDOM_MAX 500u /* passages */

struct crash_file *cr_file;
struct cr_counts cr_counts;

struct chance {       /* a point in a step */
	bool passed;  /* while the daemon was ready */
	bool started; /* in a start that was no recovery */
	bool done;
	uint8_t tries;
	uint32_t n; /* passages in the first repetition */
};

static struct {
	uint64_t random, until_ms; /* 0: no dose */
	bool covered[CRASH_POINTS_MAX];
	struct chance chances[CR_STEPS_MAX][CRASH_POINTS_MAX]; /* of the scene */
	struct { /* a start after a death there, in this step, passes the point */
		unsigned step, before;
		bool known;
		uint8_t tries;
	} after[CRASH_POINTS_MAX];
	/* A plain start is one operation, in whichever step: by store, and with or without a mirror. */
	bool start_done[4][CRASH_POINTS_MAX];
	/* the step: */
	const struct cr_step *is;
	unsigned step, kind; /* kind: of start_done */
	enum cr_mode mode;
	bool starting, paused, armed[CRASH_POINTS_MAX];
	unsigned n_deaths, n_start_deaths;
	uint32_t died_at, then; /* 1 + row; then: armed after the next death */
	uint64_t seen[CRASH_POINTS_MAX];
} now;

void cr_points_open(uint64_t seed, uint64_t until_ms)
{
	now.random = seed;
	now.until_ms = until_ms;
}

bool cr_time_is_up(void)
{
	return now.until_ms && mp_now_ms() >= now.until_ms;
}

uint64_t cr_random(uint64_t below)
{
	return mp_random(&now.random) % below;
}

uint32_t cr_n_points(void)
{
	return atomic_load_explicit(&cr_file->n, memory_order_acquire);
}

bool cr_covered(uint32_t row)
{
	return now.covered[row];
}

void cr_points_of_scene(void)
{
	memset(now.chances, 0, sizeof now.chances);
	memset(now.after, 0, sizeof now.after);
	atomic_store(&cr_file->armed, CRASH_NOWHERE);
}

/* ---- arming ------------------------------------------------------------------------------------------------ */

static void arm(uint32_t how)
{
	atomic_store_explicit(&cr_file->armed, how, memory_order_release); /* pairs with crash_point_pass */
}

static void arm_nothing(void)
{
	arm(CRASH_NOWHERE);
	for (uint32_t row = 0; row < cr_n_points(); row++)
		atomic_store(&cr_file->rows[row].left, 0);
}

static void arm_any(void)
{
	arm_nothing();
	atomic_store(&cr_file->left, (int64_t)(1 + cr_random(RANDOM_MAX)));
	arm(CRASH_ANY);
}

static void arm_one(uint32_t row)
{
	arm_nothing();
	atomic_store(&cr_file->rows[row].left, 1);
	arm(CRASH_ROWS);
}

static bool own_starts(enum cr_how how)
{
	return how == CR_OWN_STARTS || how == CR_AGAIN;
}

/* Is this one of those at which it has to die in this step? */
static bool wanted(unsigned step, enum cr_how how, uint32_t row)
{
	const struct chance *chance = &now.chances[step][row];

	if (how == CR_ONLY_MISSING && now.covered[row] && !chance->done)
		return false;
	return chance->passed ||
	       (chance->started && (own_starts(how) || chance->done || !now.start_done[now.kind][row]));
}

/* A dose does not ask which step passes what: it arms all that is missing. */
static bool open_chance(uint32_t row)
{
	const struct chance *chance = &now.chances[now.step][row];

	if (now.until_ms)
		return !now.covered[row] && !cr_time_is_up();
	return wanted(now.step, now.is->how, row) && !chance->done && chance->tries < TRIES;
}

/* The first passage, or any of them. False: there is nothing to arm. */
static bool arm_wanted(void)
{
	unsigned n_open = 0, n = 0;

	arm_nothing();
	memset(now.armed, 0, sizeof now.armed);
	for (uint32_t row = 0; row < cr_n_points(); row++)
		n_open += open_chance(row);
	while (n_open && n == 0)
		for (uint32_t row = 0; row < cr_n_points(); row++) {
			const struct chance *chance = &now.chances[now.step][row];
			bool first = now.until_ms || chance->tries || chance->n < 2 || cr_random(2);

			if (!open_chance(row) || (n_open > FEW && !now.until_ms && cr_random(2)))
				continue;
			atomic_store(&cr_file->rows[row].left, first ? 1 : (int64_t)(1 + cr_random(chance->n)));
			now.armed[row] = true;
			n++;
		}
	if (n)
		arm(CRASH_ROWS);
	return n > 0;
}

/* ---- what happens ------------------------------------------------------------------------------------------ */

/* What was passed since: in this step, in a start in it, or after a death in it. */
static void note_passed(void)
{
	for (uint32_t row = 0; row < cr_n_points(); row++) {
		uint64_t passed = atomic_load_explicit(&cr_file->rows[row].passed, memory_order_relaxed);

		if (passed != now.seen[row]) {
			struct chance *chance = &now.chances[now.step][row];

			if (!now.died_at) {
				*(now.starting ? &chance->started : &chance->passed) = true;
				if (now.mode == CR_NO_DEATH)
					chance->n += (uint32_t)(passed - now.seen[row]);
			} else if (!now.after[row].known) {
				now.after[row].known = true;
				now.after[row].step = now.step;
				now.after[row].before = now.died_at - 1;
			}
		}
		now.seen[row] = passed;
	}
}

static bool may_die(void)
{
	return now.n_deaths < (now.until_ms ? DOSE_DEATHS_MAX : DEATHS_MAX) && !cr_time_is_up();
}

/* On to the next of those that are armed; where starts are what the step is about, only outside of those that follow. */
static void go_on(void)
{
	now.n_deaths++;
	now.n_start_deaths += now.starting;
	now.paused = now.until_ms ? now.n_start_deaths >= DOSE_START_DEATHS_MAX
				  : own_starts(now.is->how) || now.n_start_deaths >= START_DEATHS_MAX;
	if (!now.paused && may_die())
		arm(CRASH_ROWS);
}

void cr_died(struct crash *c)
{
	uint32_t died = atomic_exchange(&cr_file->died, 0), row = died - 1;

	note_passed();
	cr_counts.kills++;
	now.covered[row] = true;
	now.died_at = died;
	snprintf(c->where, sizeof c->where, "%s, %s, after a death at %s", c->scene->name, now.is->name,
		 cr_file->rows[row].name);
	if (now.mode == CR_EACH) {
		now.chances[now.step][row].done = true;
		now.start_done[now.kind][row] = now.start_done[now.kind][row] || now.starting;
		go_on();
	} else if (now.then) {
		arm_one(now.then - 1);
		now.then = 0;
	} else if (now.mode == CR_AT_RANDOM && cr_random(3) == 0) {
		arm_any();
	}
	now.starting = false;
}

void cr_starts(bool begin)
{
	note_passed();
	if (!begin && now.starting) { /* it is ready */
		now.n_start_deaths = 0;
		if (now.paused && may_die())
			arm(CRASH_ROWS);
		now.paused = false;
	}
	now.starting = begin;
}

void cr_recovered(void)
{
	note_passed();
}

bool cr_mirrored(const char *const options[CR_OPTIONS])
{
	for (unsigned i = 0; options[i]; i++)
		if (strcmp(options[i], "--bpf") == 0)
			return true;
	return false;
}

static unsigned kind_of(const struct crash *c)
{
	return (cr_mirrored(c->options) ? 2u : 0u) + cr_durable(c);
}

/* ---- a step ------------------------------------------------------------------------------------------------ */

bool cr_step(struct crash *c, unsigned number, enum cr_mode mode, uint32_t before, uint32_t then)
{
	bool any = true;
	unsigned n;

	now.is = &c->scene->steps[number];
	now.step = number;
	now.mode = mode;
	now.kind = kind_of(c);
	now.died_at = now.then = 0;
	now.n_deaths = now.n_start_deaths = 0;
	now.starting = now.paused = false;
	snprintf(c->where, sizeof c->where, "%s, %s", c->scene->name, now.is->name);
	for (uint32_t row = 0; row < cr_n_points(); row++)
		now.seen[row] = atomic_load_explicit(&cr_file->rows[row].passed, memory_order_relaxed);
	if (mode == CR_EACH) {
		any = arm_wanted();
	} else if (mode == CR_BEHIND) {
		now.then = then + 1;
		arm_one(before);
	} else if (mode == CR_AT_RANDOM) {
		arm_any();
	}
	do {
		n = now.n_deaths;
		now.is->run(c);
		if (cr_dead(c, false)) /* by what goes on beside the requests */
			cr_settle(c);
	} while (now.is->how == CR_AGAIN && n < now.n_deaths && may_die());
	arm_nothing();
	if (cr_dead(c, false))
		cr_settle(c);
	note_passed();
	for (uint32_t row = 0; row < cr_n_points(); row++)
		if (mode == CR_EACH && !now.n_deaths && now.armed[row])
			now.chances[number][row].tries++;
	return now.until_ms ? now.n_deaths > 0 : any;
}

bool cr_behind_a_death(struct crash *c)
{
	for (uint32_t row = 0; row < cr_n_points(); row++)
		if (!now.covered[row] && now.after[row].known && now.after[row].tries < TRIES) {
			now.after[row].tries++;
			cr_counts.behind++;
			for (unsigned i = 0; c->scene->steps[i].name; i++)
				cr_step(c, i, i == now.after[row].step ? CR_BEHIND : CR_NO_DEATH, now.after[row].before,
					row);
			return true;
		}
	return false;
}

void cr_points_count(const struct cr_scene *scene, unsigned *n, unsigned *missed)
{
	*n = *missed = 0;
	for (unsigned s = 0; scene->steps[s].name; s++)
		for (uint32_t row = 0; row < cr_n_points(); row++) {
			bool there = wanted(s, scene->steps[s].how, row);

			*n += there;
			*missed += there && !now.chances[s][row].done;
		}
}
