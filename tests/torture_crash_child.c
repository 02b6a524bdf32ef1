/* SPDX-License-Identifier: MIT
 * torture_crash.h: processes that attach. A child does one thing at a time, told over memory that both share, and keeps its
 * attachment up in between; who waits for it starts the daemon when that dies meanwhile. */
#include "torture_crash.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"

#define CHILD_WAIT_MS 30000u
#define DO_MS 60000u

/* ---- the child ----------------------------------------------------------------------------------------------- */

struct own {
	struct berth *b;
	struct berth_reader *r;
	struct berth_write write;
	bool inside; /* a section */
};

static int attach(struct own *me, const struct cr_mailbox *box, const char *dir)
{
	const struct berth_attach_options options = {.size = sizeof options,
						     .writes = box->a,
						     .cursors = box->cursors ? BERTH_CURSORS_PIN : 0,
						     .max_readers = 1,
						     .max_leases = box->a == BERTH_WRITES_BRACKETED ? 4 : 0,
						     .wait_ms = CHILD_WAIT_MS};
	int rc = berth_attach(dir, &options, &me->b);

	return rc == BERTH_OK ? berth_reader_open(me->b, &me->r) : rc;
}

/* Again while there is no daemon, or it was killed before it had answered: pinning and releasing again are safe. */
static int again(struct own *me, struct cr_mailbox *box, int (*call)(struct own *, struct cr_mailbox *))
{
	uint64_t until = mp_now_ms() + CHILD_WAIT_MS;
	int rc;

	while (((rc = call(me, box)) == BERTH_E_WRITER_DOWN || rc == BERTH_E_AGAIN) && mp_now_ms() < until) {
		berth_maintain(me->b);
		mp_pause();
	}
	return rc;
}

static int pin_once(struct own *me, struct cr_mailbox *box)
{
	char id[32];

	return berth_cursor_pin(me->r, id, (size_t)snprintf(id, sizeof id, "cursor-%u", box->a), (uint16_t)box->b,
				"owner", 5, box->ttl_ms, box->act == PIN ? 200 : 0);
}

static int release_once(struct own *me, struct cr_mailbox *box)
{
	char id[32];

	return berth_cursor_release(me->r, id, (size_t)snprintf(id, sizeof id, "cursor-%u", box->a), "owner", 5);
}

static int resolve_once(struct own *me, struct cr_mailbox *box)
{
	char id[32];

	return berth_cursor_resolve(me->r, id, (size_t)snprintf(id, sizeof id, "cursor-%u", box->a), "owner", 5, 0,
				    &box->cluster);
}

static int begin_once(struct own *me, struct cr_mailbox *box)
{
	char key[READERS_KEY_SIZE];

	return berth_write_begin(me->r, key, readers_key(key, box->a), 0, &me->write);
}

/* It has looked something up there, so it holds that generation back. */
static int enter(struct own *me, struct cr_mailbox *box)
{
	char key[READERS_KEY_SIZE];
	struct berth_route route;

	berth_read_begin(me->r);
	me->inside = true;
	return berth_route(me->r, key, readers_key(key, box->a), &route);
}

static int act(struct own *me, struct cr_mailbox *box, const char *dir)
{
	switch (box->act) {
	case ATTACH:
		return attach(me, box, dir);
	case DETACH:
		berth_reader_close(&me->r);
		return berth_detach(&me->b);
	case WRITE_BEGIN:
		return again(me, box, begin_once);
	case WRITE_END:
		return berth_write_end(me->r, &me->write, (enum berth_outcome)box->b);
	case PIN:
	case PIN_ASYNC:
		return again(me, box, pin_once);
	case RELEASE:
		return again(me, box, release_once);
	case RESOLVE:
		return again(me, box, resolve_once);
	case ENTER:
		return enter(me, box);
	case LEAVE:
		berth_read_end(me->r);
		me->inside = false;
		return BERTH_OK;
	}
	return BERTH_E_INVAL;
}

static void child(struct cr_mailbox *box, const char *dir)
{
	const struct timespec nap = {.tv_nsec = 200000};
	struct own me = {0};

	for (;;) {
		uint32_t asked = atomic_load_explicit(&box->asked, memory_order_acquire);

		if (asked != atomic_load(&box->answered)) {
			box->rc = act(&me, box, dir);
			atomic_store_explicit(&box->answered, asked, memory_order_release); /* pairs with tell's load */
		} else {
			if (me.b && !me.inside)
				berth_maintain(me.b);
			nanosleep(&nap, NULL);
		}
	}
}

/* ---- its parent ---------------------------------------------------------------------------------------------- */

static struct cr_one *child_of(struct crash *c, unsigned i)
{
	return &c->child->one[i];
}

static void be_born(struct crash *c, unsigned i)
{
	struct cr_one *o = child_of(c, i);

	assert_int_equal(o->pid, 0);
	if (!o->box)
		o->box = mmap(NULL, sizeof *o->box, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(o->box != MAP_FAILED);
	memset(o->box, 0, sizeof *o->box);
	o->pid = mp_fork();
	if (o->pid == 0) {
		child(o->box, c->d->dir);
		_exit(0);
	}
}

void cr_child_dies(struct crash *c, unsigned i)
{
	struct cr_one *o = child_of(c, i);

	if (o->pid <= 0)
		return;
	kill(o->pid, SIGKILL);
	waitpid(o->pid, NULL, 0);
	o->pid = 0;
}

static void ask(struct crash *c, unsigned i, enum cr_act what, unsigned a, unsigned b)
{
	struct cr_mailbox *box = child_of(c, i)->box;

	box->act = what;
	box->a = a;
	box->b = b;
	atomic_store_explicit(&box->asked, atomic_load(&box->asked) + 1, memory_order_release);
}

/* Its answer, over as many deaths of the daemon as there are. */
int cr_tell(struct crash *c, unsigned i, enum cr_act what, unsigned a, unsigned b)
{
	const struct timespec nap = {.tv_nsec = 200000};
	struct cr_mailbox *box = child_of(c, i)->box;
	uint64_t until = mp_now_ms() + DO_MS;

	cr_counts.operations++;
	ask(c, i, what, a, b);
	while (atomic_load_explicit(&box->answered, memory_order_acquire) != atomic_load(&box->asked)) {
		if (cr_dead(c, false))
			cr_settle(c);
		if (mp_now_ms() > until)
			fail_msg("%s: child %u does not come to an end with %u of %u\n%s", c->where, i, (unsigned)what,
				 a, cr_log(c));
		nanosleep(&nap, NULL);
	}
	return box->rc;
}

void cr_tell_ok(struct crash *c, unsigned i, enum cr_act what, unsigned a, unsigned b)
{
	int rc = cr_tell(c, i, what, a, b);

	if (rc != BERTH_OK)
		fail_msg("%s: child %u is answered %s (%u of %u)\n%s", c->where, i, berth_strerror(rc), (unsigned)what,
			 a, cr_log(c));
}

void cr_comes(struct crash *c, unsigned i, unsigned writes, bool cursors)
{
	be_born(c, i);
	child_of(c, i)->box->cursors = cursors;
	cr_tell_ok(c, i, ATTACH, writes, 0);
}

/* Its registration is gone; the look for that comes with a grace period, or when its process is asked for. */
void cr_departs(struct crash *c, unsigned i, json_int_t left)
{
	cr_tell_ok(c, i, DETACH, 0, 0);
	cr_child_dies(c, i);
	cr_await(c, "readers", left, left);
}

void cr_children_open(struct crash *c)
{
	c->child = calloc(1, sizeof *c->child);
	assert_non_null(c->child);
	for (unsigned k = 1; k <= 3; k++)
		cr_cluster(c, k, "http://10.0.0.1:9200");
	for (unsigned i = 0; i < 8; i++)
		cr_set(c, i, 1 + i % 2, false);
}

void cr_child_end(struct crash *c)
{
	if (!c->child)
		return;
	for (unsigned i = 0; i < CR_CHILDREN; i++) {
		cr_child_dies(c, i);
		if (child_of(c, i)->box)
			munmap(child_of(c, i)->box, sizeof(struct cr_mailbox));
	}
	free(c->child);
	c->child = NULL;
}
