/* SPDX-License-Identifier: MIT
 * How the cursor thread falls asleep and is woken: an eventfd for each registration, so that nobody can take another's
 * bell, and one for the control thread. Called by cursors.c.
 *
 *   here:    cursor_sleeping := 1; barrier; look at all rings once more; epoll_wait; cursor_sleeping := 0
 *   reader:  head := n + 1; [fence]; cursor_sleeping? write to the eventfd
 *
 * S1 No entry waits for a sleeping thread: the barrier is on all processes (membarrier; a fence for those that fence for
 *    themselves). A reader that pushed before it is seen by the look; one that pushed after it sees cursor_sleeping.
 * S2 A barrier that failed is none: then it sleeps for a millisecond at a time.
 * S3 Bells are edge-triggered: each write wakes once, and no read is needed. A bell that somebody has filled up is their
 *    own loss, until their next push finds the thread awake, or the second is over. */
#include "cursors_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/grace.h"
#include "../shm/segment.h"

#define EVENTS_MAX 64
#define SLEEP_MS 1000 /* pins expire meanwhile */
#define DEAF_MS \
	2 /* for the first DEAF_FOR_MS, while a registration has no bell: after a restart, until its process has come back */
#define DEAF_FOR_MS 10000u
#define DEAF_LATE_MS 20 /* for one that does not come back: its pins wait so long */
#define UNSURE_MS 1     /* S2 */

enum refusal_code cursor_bells_open(struct cursors *c, struct refusal *r)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (c->wake_fd < 0 || c->epoll_fd < 0 || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wake_fd, &event) != 0)
		return refuse(r, R_BACKEND, "the bells of the cursor thread: %s: raise the limit of open files",
			      strerror(errno));
	return R_DONE;
}

void cursor_bells_close(struct cursors *c)
{
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
}

void cursor_bells_put(struct cursors *c, struct cursor_client *g, int bell)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	cursor_bells_drop(c, g);
	if (bell >= 0 && epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, bell, &event) == 0) {
		g->bell = bell;
		return;
	}
	if (bell >= 0)
		close(bell);
	g->deaf = true;
	c->n_deaf++;
}

void cursor_bells_drop(struct cursors *c, struct cursor_client *g)
{
	c->n_deaf -= g->deaf;
	g->deaf = false;
	if (g->bell < 0)
		return;
	epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, g->bell, NULL); /* its process has it too: closing is not enough */
	close(g->bell);
	g->bell = -1;
}

void cursor_bells_wake(struct cursors *c)
{
	const uint64_t one = 1;
	ssize_t written = write(c->wake_fd, &one, sizeof(one));

	(void)written; /* it cannot be full: nobody else has it */
}

static bool barrier(const struct cursors *c)
{
	atomic_thread_fence(memory_order_seq_cst); /* pairs with section_fence of a reader that fences for itself */
	return !c->place.membarrier || grace_barrier() == 0;
}

void cursor_bells_sleep(struct cursors *c)
{
	_Atomic uint32_t *sleeping = &c->place.ledger->cursor_sleeping;
	struct epoll_event events[EVENTS_MAX];
	int within = SLEEP_MS;

	atomic_store_explicit(sleeping, 1, memory_order_relaxed);
	CRASH_POINT(bell_armed);
	if (!barrier(c)) /* S1, S2 */
		within = UNSURE_MS;
	else if (atomic_load_explicit(&c->n_deaf, memory_order_relaxed))
		within = seg_clock_ms(CLOCK_MONOTONIC) - c->started_ms < DEAF_FOR_MS ? DEAF_MS : DEAF_LATE_MS;
	if (!cursors_any_pending(c))
		epoll_wait(c->epoll_fd, events, EVENTS_MAX, within);
	atomic_store_explicit(sleeping, 0, memory_order_relaxed);
	CRASH_POINT(bell_disarmed);
}
