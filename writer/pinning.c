/* SPDX-License-Identifier: MIT
 * Between the control thread's parts and the cursor thread: pinning.h.
 *
 *   attach.c -> registration with rings -> pinning_attach   \
 *   registry -> let_go, before one is removed                >  cursors.h  (its thread)
 *   core     -> clusters that there are, and that go        /
 *
 * A start: table of pins, rings of all who are attached, clusters; then what the last writer was doing is finished; then
 * the thread. So nothing is refused for a cluster that is not known yet, and nothing is removed with rings that are not
 * done. */
#include "pinning.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"

#define AGAIN_MS 10000u

static bool let_go(void *arg, uint32_t slot)
{
	return cursors_let_go(arg, slot);
}

static void open_cluster(void *arg, unsigned cluster)
{
	cursors_cluster_open(arg, cluster);
}

static uint32_t close_cluster(void *arg, unsigned cluster)
{
	return cursors_cluster_close(arg, cluster);
}

static void open_nothing(void *arg, unsigned cluster)
{
	(void)arg;
	(void)cluster;
}

static uint32_t nobody_knows(void *arg, unsigned cluster)
{
	(void)arg;
	(void)cluster;
	return CORE_PINS_UNKNOWN;
}

/* A file of pins that is there, and that nobody works on: readers go on resolving by it. */
static void pins_unknown(struct server *s)
{
	const struct core_pins unknown = {.open = open_nothing, .close = nobody_knows};

	if (atomic_load_explicit(&s->root->cursor_generation, memory_order_relaxed) != 0)
		core_set_pins(s->core, &unknown);
}

static void adopt(void *arg, const struct registry_rings *rings)
{
	cursors_attach(arg, rings, -1);
}

/* In pins; 0: no limit. */
static uint32_t share_of(const struct options *o)
{
	uint64_t share = o->cursor_capacity * o->cursor_owner_share / 100;

	return o->cursor_owner_share == 0 ? 0 : share == 0 ? 1 : (uint32_t)share;
}

enum refusal_code pinning_start(struct server *s, struct refusal *r)
{
	const struct options *o = s->options;
	struct table *t = core_table(s->core);
	const struct table_shared shared = table_shared(t);
	const struct cursors_options options = {.table = {.capacity = (uint32_t)o->cursor_capacity,
							  .ttl_ms = o->cursor_ttl_ms,
							  .owner_share = share_of(o)},
						.busy_poll = o->busy_poll.on,
						.cpu = o->busy_poll.cpu};
	struct core_pins pins = {.open = open_cluster, .close = close_cluster};
	uint64_t began_ns = uv_hrtime();
	struct cursors_stats stats;
	enum refusal_code code;

	if (s->cursors)
		return R_DONE;
	code = cursors_open(&shared, &options, &s->cursors, r);
	if (code != R_DONE) {
		pins_unknown(s);
		return code;
	}
	pins.arg = s->cursors;
	registry_rings_walk(table_registry(t), adopt, s->cursors);
	core_set_pins(s->core, &pins);
	code = cursors_run(s->cursors, r);
	if (code != R_DONE) {
		pinning_close(s);
		pins_unknown(s);
		return code;
	}
	registry_set_rings(table_registry(t), let_go, s->cursors);
	cursors_stats(s->cursors, &stats);
	log_event(LEVEL_INFO, "cursors", LOG_N("capacity", stats.capacity), LOG_N("pins", stats.pins),
		  LOG_N("processes", stats.processes), LOG_S("busy_poll", stats.busy_poll ? "yes" : "no"),
		  LOG_N("took_us", (uv_hrtime() - began_ns) / 1000));
	return R_DONE;
}

static void note(void *arg, const struct registry_rings *rings)
{
	(void)rings;
	*(bool *)arg = true;
}

void pinning_open(struct server *s)
{
	bool any = atomic_load_explicit(&s->root->cursor_generation, memory_order_relaxed) != 0;
	struct refusal r = {.code = R_DONE};

	registry_rings_walk(table_registry(core_table(s->core)), note, &any);
	if (!any || pinning_start(s, &r) == R_DONE) {
		s->pinning_again_ms = 0;
		return;
	}
	s->pinning_again_ms = uv_hrtime() / 1000000 + AGAIN_MS;
	log_event(LEVEL_ERROR, "cursors", LOG_S("code", refusal_name(r.code)), LOG_S("message", r.message),
		  LOG_S("do", "placements are served, pins are not: it is tried again every ten seconds"));
}

void pinning_again(struct server *s)
{
	if (!s->cursors && s->pinning_again_ms && uv_hrtime() / 1000000 >= s->pinning_again_ms)
		pinning_open(s);
}

void pinning_close(struct server *s)
{
	if (!s->cursors)
		return;
	core_set_pins(s->core, &(const struct core_pins){0});
	registry_set_rings(table_registry(core_table(s->core)), NULL, NULL);
	cursors_close(&s->cursors);
}

enum refusal_code pinning_bell(int bell[2], struct refusal *r)
{
	bell[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	bell[1] = bell[0] >= 0 ? fcntl(bell[0], F_DUPFD_CLOEXEC, 0) : -1;
	if (bell[1] >= 0)
		return R_DONE;
	refuse(r, R_LIMIT, "the daemon cannot make a doorbell: %s: raise its limit of open files (LimitNOFILE)",
	       strerror(errno));
	if (bell[0] >= 0)
		close(bell[0]);
	bell[0] = -1;
	return R_LIMIT;
}

void pinning_attach(struct server *s, uint32_t slot, uint64_t attach, int bell)
{
	struct registry_rings rings;

	if (registry_rings(table_registry(core_table(s->core)), slot, attach, &rings))
		cursors_attach(s->cursors, &rings, bell);
	else
		close(bell); /* cannot be */
}

void pinning_reattach(struct server *s, uint32_t slot, int bell)
{
	if (s->cursors)
		cursors_reattach(s->cursors, slot, bell);
	else
		close(bell); /* pinning_open will look at its rings by timer */
}

uint64_t pinning_bells(const struct server *s)
{
	struct cursors_stats stats;

	pinning_stats(s, &stats);
	return stats.processes;
}

bool pinning_stats(const struct server *s, struct cursors_stats *to)
{
	*to = (struct cursors_stats){0};
	if (s->cursors)
		cursors_stats(s->cursors, to);
	return s->cursors != NULL;
}
