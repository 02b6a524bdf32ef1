/* SPDX-License-Identifier: MIT
 * torture_cursor.h: a process, of one thread: attaches, keeps up, and lets the dice choose a call after the other
 * until it is told to be quiet or all have made enough. Must not
 * use cmocka. */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "drain_workers.h"
#include "torture_ambush.h"
#include "torture_cursor.h"

#define HELD_UP_US 3000u
#define FENCES 3u /* the process whose reader fences for itself */

struct c_shared *c_shared;

void c_wrong(const char *format, ...)
{
	va_list args;

	if (atomic_fetch_add(&c_shared->wrong, 1) > 0)
		return;
	va_start(args, format);
	vsnprintf(c_shared->first, sizeof c_shared->first, format, args);
	va_end(args);
	atomic_store(&c_shared->told, 1);
}

uint64_t c_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t c_ms(void)
{
	return c_ns() / 1000000;
}

uint64_t c_die(struct c_me *me, uint64_t below)
{
	return mp_random(&me->random) % below;
}

const char *c_text(unsigned outcome)
{
	static const char *const texts[C_OUTCOMES] = {"ok", "unknown", "not-owner", "again", "writer-down"};

	return texts[outcome];
}

enum c_outcome c_outcome(struct c_me *me, enum c_kind kind, int rc)
{
	enum c_outcome outcome = C_DOWN;

	switch (rc) {
	case BERTH_OK:
		outcome = C_OK;
		break;
	case BERTH_E_UNKNOWN:
		outcome = C_UNKNOWN;
		break;
	case BERTH_E_NOT_OWNER:
		outcome = C_NOT_OWNER;
		break;
	case BERTH_E_AGAIN:
		outcome = C_AGAIN;
		break;
	case BERTH_E_WRITER_DOWN:
		if (kind < C_RESOLVE)
			break;
		/* fall through */
	default:
		c_wrong("process %u, call %u of kind %u is answered %s", me->number, atomic_load(&me->p->number), kind,
			berth_strerror(rc));
	}
	if (kind == C_ASYNC && outcome == C_UNKNOWN)
		c_wrong("process %u, call %u: a pin that does not wait is answered %s", me->number,
			atomic_load(&me->p->number), berth_strerror(rc));
	atomic_fetch_add(&me->p->counts[kind][outcome], 1);
	return outcome;
}

/* Ids of all lengths, owners of three partitions. */
struct berth_cursor c_name(char id[BERTH_CURSOR_ID_MAX], char set, unsigned process, unsigned number, unsigned owner)
{
	static const char *const owners[C_OWNERS + 1] = {"", "acme", "globex-with-a-longer-name", "i"};
	unsigned kind = number % 16;
	size_t len = kind == 0 ? 4096 : kind == 1 ? 300 : kind < 8 ? 20 : 24 + number % 200;
	int n = snprintf(id, BERTH_CURSOR_ID_MAX, "%c%u-%u-", set, process, number);

	memset(id + n, 'x', len - (size_t)n);
	return (struct berth_cursor){id, len, owners[owner], strlen(owners[owner])};
}

bool c_definite(unsigned kind, unsigned outcome)
{
	return outcome <= C_NOT_OWNER && (kind != C_ASYNC || outcome != C_OK);
}

void c_confirmed(struct c_me *me, uint32_t number, uint64_t at_ns)
{
	atomic_store(&me->p->confirmed_ms, at_ns / 1000000);
	atomic_store(&me->p->confirmed, number);
	for (unsigned i = 0; i < me->n_open; i++)
		me->p->events[me->open[i]].done_ns = at_ns;
	me->n_open = 0;
}

/* ---- attachment -------------------------------------------------------------------------------------------- */

void c_keep_up(struct c_me *me)
{
	int rc = berth_maintain(me->b);

	if (rc == BERTH_OK)
		me->registered = true;
	else if (rc != BERTH_E_WRITER_DOWN)
		c_wrong("upkeep is answered %s", berth_strerror(rc));
}

bool c_attach(struct c_me *me)
{
	struct berth_attach_options options = {.size = sizeof options, .max_readers = 1 + (uint32_t)c_die(me, 9)};
	uint64_t until = mp_now_ms() + 20000;
	int rc;

	options.writes = BERTH_WRITES_NONE;
	options.cursors = BERTH_CURSORS_PIN;
	options.wait_ms = 3000;
	rc = berth_attach(c_shared->dir, &options, &me->b);
	if (rc == BERTH_OK)
		rc = berth_reader_open(me->b, &me->r);
	if (rc != BERTH_OK) {
		c_wrong("attach is answered %s", berth_strerror(rc));
		return false;
	}
	for (c_keep_up(me); !me->registered; c_keep_up(me)) {
		if (mp_now_ms() > until) {
			c_wrong("no registration within 20 s");
			return false;
		}
		mp_pause();
	}
	return true;
}

void c_leave(struct c_me *me)
{
	int rc;

	berth_reader_close(&me->r);
	rc = berth_detach(&me->b);
	if (rc != BERTH_OK)
		c_wrong("detach is answered %s", berth_strerror(rc));
}

/* ---- the process ------------------------------------------------------------------------------------------- */

/* Acknowledges itself all that it has pushed. */
static void settle(struct c_me *me)
{
	uint64_t until = mp_now_ms() + 20000;
	uint32_t before = atomic_load(&me->p->number);

	while (atomic_load(&me->p->confirmed) <= before && !atomic_load(&c_shared->wrong)) {
		if (mp_now_ms() > until)
			c_wrong("process %u: no call is acknowledged for 20 s", me->number);
		c_own_change(me);
	}
}

static void live(struct c_me *me)
{
	for (unsigned i = 0; !atomic_load(&c_shared->stop) && !atomic_load(&c_shared->wrong); i++) {
		struct pollfd p = {.fd = i % 32 ? -1 : berth_maintain_fd(me->b), .events = POLLIN};

		if (i % 1024 == 0 || (p.fd >= 0 && poll(&p, 1, 0) == 1))
			c_keep_up(me);
		if (atomic_load(&c_shared->quiet) ||
		    atomic_fetch_add(&c_shared->ops, 1) >= atomic_load(&c_shared->most_ops)) {
			if (!atomic_load(&me->p->quiet) && atomic_load(&c_shared->phase) == C_LARGE)
				settle(me);
			atomic_store(&me->p->quiet, 1);
			mp_pause();
			c_keep_up(me);
			continue;
		}
		atomic_store(&me->p->quiet, 0);
		if (atomic_load(&c_shared->phase) == C_LARGE)
			c_large_step(me);
		else
			c_small_step(me);
	}
}

int c_process_run(unsigned number, uint64_t seed)
{
	struct c_me *me = calloc(1, sizeof *me);

	if (!me)
		return 1;
	me->number = number;
	me->p = &c_shared->processes[number];
	me->random = seed;
	if (number == FENCES && order_refuse_membarrier(NULL, 0, 0) != BERTH_OK)
		c_wrong("membarrier cannot be refused");
	ambush_open(HELD_UP_US);
	c_own_taken_over(me->p);
	if (!c_attach(me))
		return 1;
	atomic_store(&me->p->running, 1);
	live(me);
	if (!atomic_load(&c_shared->wrong))
		c_leave(me);
	return 0;
}
