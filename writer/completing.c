/* SPDX-License-Identifier: MIT
 * `complete` with wait_ms: requests that wait for the last old write of their partition to end. Each stays in the buffer
 * of its connection, as a parked one does, and is read again when nothing stands against it any more, or when its time
 * is up; what it is answered then is the core's word alone.
 *
 *   method_complete -- barrier-pending --> server.completing --+-- nothing stands against it, or not in cutover --> again
 *        ^                                                     +-- wait_ms are over, the daemon stops ------------> again
 *        +---------------------- again ------------------------+-- its peer is gone ------------------> conn_close
 *
 * While somebody waits, one timer for all asks the core (core_drain) whether leases have ended: readers tell nobody, a
 * write's end is one store. It is a timerfd, since libuv counts milliseconds and poll is subject to timer slack; it is
 * off when nobody waits. How often: a share of what has been waited, so that looking adds little to a blackout (a quarter of
 * a processor in its first seconds), and costs little when a write hangs.
 * Called by methods.c, conn.c, control.c; control thread. Nothing here changes a placement. */
#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "control.h"
#include "rpc.h"
#include "text.h"

#define DRAIN_BUDGET_US 500u
#define TICK_NS 50000ull        /* between two looks at leases that are open: at least, */
#define TICK_SHARE 512u         /* what has been waited, divided by this, */
#define TICK_MAX_NS 2000000ull  /* at most */
#define LOOK_MAX_NS 50000000ull /* each who waits is looked at after so long, whatever it waits for */
#define LOOK_SHARE 4u           /* a look at all who wait comes so many times what the last one took later */
#define GONE_NS 100000000ull    /* between two looks whether peers are still there */

struct completing {
	uint64_t since_ns, until_ns; /* uv_hrtime */
	uint64_t epoch;              /* of the cutover that it waits for */
	size_t key_len;
	char key[];
};

/* ---- the timer --------------------------------------------------------------------------------------------- */

static void set_timer(struct server *s, uint64_t ns)
{
	const struct itimerspec when = {
		.it_value = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)}};

	/* Setting it also takes back an expiry that was not read. It fails for times that cannot be. */
	timerfd_settime(s->drain_timer.fd, 0, &when, NULL);
}

static uint64_t tick_ns(uint64_t waited_ns)
{
	uint64_t tick = waited_ns / TICK_SHARE;

	return tick < TICK_NS ? TICK_NS : tick > TICK_MAX_NS ? TICK_MAX_NS : tick;
}

static void on_tick(uv_poll_t *, int status, int events);

/* For the next look: when one is due, and before that when leases are open. */
static void start(struct server *s, uint64_t now)
{
	struct drain_timer *d = &s->drain_timer;
	uint64_t next = d->look_ns > d->rest_ns ? d->look_ns : d->rest_ns, wait = next > now ? next - now : 1;

	if (d->open_since_ns && tick_ns(now - d->open_since_ns) < wait)
		wait = tick_ns(now - d->open_since_ns);
	set_timer(s, wait);
	if (!d->armed)
		uv_poll_start(&d->poll, UV_READABLE, on_tick);
	d->armed = true;
}

static void stop(struct server *s)
{
	if (s->drain_timer.armed) {
		set_timer(s, 0);
		uv_poll_stop(&s->drain_timer.poll);
	}
	s->drain_timer.armed = false;
}

int completing_open(struct server *s)
{
	int rc;

	s->drain_timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->drain_timer.fd < 0)
		return -errno;
	rc = uv_poll_init(&s->loop, &s->drain_timer.poll, s->drain_timer.fd);
	if (rc != 0) {
		close(s->drain_timer.fd);
		s->drain_timer.fd = -1;
	}
	s->drain_timer.poll.data = s;
	return rc;
}

void completing_close(struct server *s)
{
	if (s->drain_timer.fd < 0)
		return;
	uv_close((uv_handle_t *)&s->drain_timer.poll, NULL);
	close(s->drain_timer.fd);
	s->drain_timer.fd = -1;
}

/* ---- looking ----------------------------------------------------------------------------------------------- */

/* What the core said of this one, for the time of the next look. remaining_ms 0: only a look can tell. */
static void note(struct server *s, const struct completing *w, uint64_t remaining_ms, uint64_t in_flight, uint64_t now)
{
	struct drain_timer *d = &s->drain_timer;
	uint64_t due = w->until_ns < now + LOOK_MAX_NS ? w->until_ns : now + LOOK_MAX_NS;

	if (remaining_ms > 0 && now + remaining_ms * 1000000 < due)
		due = now + remaining_ms * 1000000;
	if (due < d->look_ns)
		d->look_ns = due;
	if ((in_flight > 0 || remaining_ms == 0) && w->since_ns > d->open_since_ns)
		d->open_since_ns = w->since_ns; /* the youngest says how often */
}

static void look(struct server *s, uint64_t now)
{
	struct drain_timer *d = &s->drain_timer;
	bool sweep = now - d->swept_ns >= GONE_NS;
	struct conn *c, *next;

	d->look_ns = UINT64_MAX;
	d->open_since_ns = 0;
	if (sweep)
		d->swept_ns = now;
	for (c = TAILQ_FIRST(&s->completing); c; c = next) {
		struct completing *w = c->completing;
		const struct barrier b = core_barrier(s->core, w->key, w->key_len);
		bool over = !b.reason || now >= w->until_ns;

		next = TAILQ_NEXT(c, queue_link);
		if ((over || sweep) && conn_gone(c))
			conn_close(c);
		else if (over)
			conn_again(c);
		else
			note(s, w, b.remaining_ms, b.in_flight, now);
	}
	d->rest_ns = uv_hrtime();
	d->rest_ns += LOOK_SHARE * (d->rest_ns - now);
}

static void on_tick(uv_poll_t *poll, int status, int events)
{
	struct server *s = poll->data;
	uint64_t now;

	(void)status;
	(void)events;
	if (core_drain(s->core, DRAIN_BUDGET_US))
		s->drain_timer.look_ns = 0;
	now = uv_hrtime();
	if (now >= s->drain_timer.look_ns && now >= s->drain_timer.rest_ns)
		look(s, now);
	if (TAILQ_EMPTY(&s->completing))
		stop(s);
	else
		start(s, uv_hrtime());
}

void completing_look_soon(struct server *s)
{
	s->drain_timer.look_ns = 0;
	if (s->drain_timer.armed)
		start(s, uv_hrtime());
}

/* ---- one that waits ---------------------------------------------------------------------------------------- */

static uint64_t cutover_epoch(struct server *s, const char *key, size_t len)
{
	struct state state;

	if (!table_get(core_table(s->core), key, len, &state, NULL) || !state.to || state.phase != PHASE_CUTOVER)
		return 0;
	return state.epoch;
}

enum refusal_code completing_same(struct conn *c, const char *key, size_t len, struct refusal *r)
{
	const struct completing *w = c->completing;
	uint64_t epoch = w ? cutover_epoch(c->server, key, len) : 0;
	char shown[TEXT_SHOWN];

	if (epoch == 0 || epoch == w->epoch)
		return R_DONE;
	return refuse(
		r, R_NOT_MIGRATING,
		"the migration of partition %s that this call waited for has ended, and another has begun: look at "
		"it, then complete that one",
		text_show(shown, sizeof(shown), key, len));
}

bool completing_wait(struct conn *c, const char *key, size_t len, uint64_t wait_ms, const struct refusal *r)
{
	struct server *s = c->server;
	struct completing *w = c->completing;
	uint64_t now = uv_hrtime();

	if (s->stopping || wait_ms == 0 || (w && now >= w->until_ns))
		return false;
	if (!w) {
		w = malloc(sizeof(*w) + len);
		if (!w)
			return false; /* it is told what it would have waited for */
		*w = (struct completing){
			.since_ns = now, .until_ns = now + wait_ms * 1000000, .epoch = cutover_epoch(s, key, len)};
		w->key_len = len;
		memcpy(w->key, key, len);
		c->completing = w;
	}
	if (!s->drain_timer.armed) {
		s->drain_timer.look_ns = UINT64_MAX;
		s->drain_timer.open_since_ns = 0;
		s->drain_timer.swept_ns = now;
	}
	note(s, w, r->remaining_ms, r->in_flight, now);
	start(s, now);
	return true;
}

void completing_end(struct conn *c)
{
	free(c->completing);
	c->completing = NULL;
}
