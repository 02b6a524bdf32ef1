/* SPDX-License-Identifier: MIT
 * The control thread's time: the core's upkeep, the heartbeat, slices of a document, buffered requests, signals. Every
 * piece of work here is bounded to some milliseconds, so that the sockets are looked at in between. */
#include <signal.h>

#include "../shm/segment.h"
#include "control.h"
#include "http.h"
#include "load.h"
#include "log.h"
#include "notify.h"
#include "pinning.h"
#include "text.h"
#include "watch.h"

#define CORE_BUDGET_US 1000u
#define PUBLISH_MS 100u

/* Changes show over HTTP soon, but many of them cost one snapshot in PUBLISH_MS. */
static void publish_turn(struct server *s)
{
	uint64_t since = uv_now(&s->loop) - s->published_ms;

	if (!s->http || core_changes(s->core) == s->published_changes)
		return;
	if (since >= PUBLISH_MS)
		http_publish(s);
	else
		upkeep_soon(s, PUBLISH_MS - since);
}

/* Processor time of this thread: what another process took from it is not in it. */
static uint64_t busy_ns(void)
{
	return seg_clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static void took(struct server *s, uint64_t since_ns)
{
	uint64_t ns = busy_ns() - since_ns;

	if (ns > s->upkeep_ns_max)
		s->upkeep_ns_max = ns;
}

/* What the log has to say of the mirror; `bpf.verify` waits for a pass. */
static void mirror_turn(struct server *s)
{
	struct table *t = core_table(s->core);
	const struct table_compared *last = table_compared(t);
	char first[TEXT_SHOWN];

	mirror_tell(s);
	if (last->run == s->compared)
		return;
	s->compared = last->run;
	if (last->n_differ)
		log_event(LEVEL_ERROR, "bpf-difference", LOG_N("entries", last->entries),
			  LOG_N("differences", last->n_differ),
			  LOG_S("first", text_show(first, sizeof(first), last->first, last->first_len)),
			  LOG_S("message", "the mirror did not say what the table says: it was stored again"));
	conns_unpark(s);
}

void mirror_tell(struct server *s)
{
	const char *why = table_mirror_off(core_table(s->core));

	if (!why || s->bpf_told || !s->options->bpf)
		return;
	s->bpf_told = true;
	conns_unpark(s); /* `bpf.verify` waits for nothing any more */
	log_event(LEVEL_WARN, "bpf-off", LOG_S("reason", why),
		  LOG_S("message", "packet programs pass everything to user space; all else is served"));
}

/* Once, until there is room. Nothing is lost yet; the log is where somebody sees it before insertions are refused. */
static void growth_turn(struct server *s)
{
	const struct table *t = core_table(s->core);
	uint64_t lacks;
	const char *why = table_growth_failed(t, &lacks);
	struct table_stats stats;

	if (why && !s->growth_told) {
		table_stats(t, &stats);
		log_event(LEVEL_WARN, "growth-failed", LOG_N("partitions", stats.n_live),
			  LOG_N("capacity", stats.capacity), LOG_N("missing_bytes", lacks), LOG_S("reason", why),
			  LOG_S("message",
				"the table cannot grow: it is tried again each second, and when it is full new "
				"partitions are refused; changes of those that are there go on"));
	}
	s->growth_told = why != NULL;
}

static void core_turn(struct server *s)
{
	uint64_t from = busy_ns();
	bool loading = core_loading(s->core);
	uint64_t wait_ms = core_step(s->core, CORE_BUDGET_US);

	if (loading && !core_loading(s->core)) /* a document whose client went away after the commit */
		conns_unpark(s);
	s->core_busy = wait_ms == 0;
	if (s->core_busy)
		upkeep_wake(s);
	else if (wait_ms != UINT64_MAX)
		upkeep_soon(s, wait_ms);
	mirror_turn(s);
	growth_turn(s);
	publish_turn(s);
	took(s, from);
}

static void on_upkeep(uv_timer_t *timer)
{
	core_turn(timer->data);
}

static void on_idle(uv_idle_t *idle)
{
	struct server *s = idle->data;
	uint64_t from = s->load ? busy_ns() : 0;
	bool more = load_step(s);

	if (from)
		took(s, from);
	if (conns_run_waiting(s))
		more = true;
	watch_flush(s);
	if (s->core_busy)
		core_turn(s);
	/* core_turn may have queued some that waited for what it has ended. */
	if (!more && !s->core_busy && TAILQ_EMPTY(&s->waiting))
		uv_idle_stop(idle);
}

void upkeep_wake(struct server *s)
{
	if (!s->stopping)
		uv_idle_start(&s->idle, on_idle);
}

void upkeep_soon(struct server *s, uint64_t within_ms)
{
	if (s->stopping || (uv_is_active((uv_handle_t *)&s->upkeep) && uv_timer_get_due_in(&s->upkeep) <= within_ms))
		return;
	uv_timer_start(&s->upkeep, on_upkeep, within_ms, 0);
}

static void on_second(uv_timer_t *timer)
{
	struct server *s = timer->data;

	table_heartbeat(core_table(s->core));
	registry_trim(table_registry(core_table(s->core)));
	server_tell_ready(s);
	control_sweep(s);
	pinning_again(s);
	http_publish(s);
	upkeep_soon(s, 0);
}

/* A sign of life is one of both threads: it comes from this one's loop, and not while the other hangs. */
static void on_watchdog(uv_timer_t *timer)
{
	struct server *s = timer->data;

	if (!s->cursors || cursors_alive(s->cursors))
		notify_alive();
	else
		log_event(
			LEVEL_ERROR, "cursors-hang", LOG_N("for_ms", uv_timer_get_repeat(timer)),
			LOG_S("message", "the thread that takes pins does nothing: systemd is to restart the daemon"));
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct server *s = handle->data;

	if (number != SIGHUP) {
		log_event(LEVEL_INFO, "signal", LOG_S("name", number == SIGTERM ? "SIGTERM" : "SIGINT"));
		server_stop(s);
	} else if (s->options->document) {
		load_document(s);
	} else {
		log_event(LEVEL_WARN, "signal", LOG_S("name", "SIGHUP"),
			  LOG_S("message", "there is no --document to apply again"));
	}
}

int upkeep_open(struct server *s)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
	uint64_t interval_ms = notify_interval_ms();
	int rc = 0;

	uv_idle_init(&s->loop, &s->idle);
	uv_timer_init(&s->loop, &s->upkeep);
	uv_timer_init(&s->loop, &s->second);
	uv_timer_init(&s->loop, &s->watchdog);
	s->idle.data = s->upkeep.data = s->second.data = s->watchdog.data = s;
	for (int i = 0; i < 3 && rc == 0; i++) {
		rc = uv_signal_init(&s->loop, &s->signals[i]);
		if (rc != 0)
			break;
		s->n_signals++;
		s->signals[i].data = s;
		rc = uv_signal_start(&s->signals[i], on_signal, numbers[i]);
	}
	if (rc == 0)
		rc = uv_timer_start(&s->second, on_second, 1000, 1000);
	if (rc == 0 && interval_ms > 0)
		rc = uv_timer_start(&s->watchdog, on_watchdog, interval_ms, interval_ms);
	upkeep_soon(s, 0);
	return rc;
}

void upkeep_close(struct server *s)
{
	uv_close((uv_handle_t *)&s->idle, NULL);
	uv_close((uv_handle_t *)&s->upkeep, NULL);
	uv_close((uv_handle_t *)&s->second, NULL);
	uv_close((uv_handle_t *)&s->watchdog, NULL);
	for (int i = 0; i < s->n_signals; i++)
		uv_close((uv_handle_t *)&s->signals[i], NULL);
}
