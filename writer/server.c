/* SPDX-License-Identifier: MIT
 * The two turning points of the daemon's life that others cause: ready (the first document is in, or there is none) and
 * the stop (a signal, `shutdown`, a heartbeat that fails). Control thread. */
#include <stdio.h>
#include <unistd.h>

#include "control.h"
#include "log.h"
#include "notify.h"

void server_ready(struct server *s)
{
	if (s->ready)
		return;
	s->ready = true;
	log_event(LEVEL_INFO, "ready", LOG_S("version", BERTH_VERSION), LOG_S("instance", s->options->name),
		  LOG_S("dir", s->instance.path), LOG_S("store", s->options->store), LOG_N("pid", getpid()),
		  LOG_N("term", table_term(core_table(s->core))), LOG_N("epoch", table_epoch(core_table(s->core))),
		  LOG_N("barrier_ms", core_barrier_ms(s->core)),
		  LOG_N("took_ms", uv_hrtime() / 1000000 - s->started_ms));
	server_tell_ready(s);
}

void server_tell_ready(struct server *s)
{
	char text[320];

	if (!s->ready || s->told_ready)
		return;
	snprintf(text, sizeof(text), "serving instance %s", s->options->name);
	s->told_ready = notify_ready(text);
}

void server_stop(struct server *s)
{
	if (s->stopping)
		return;
	s->stopping = true;
	notify_stopping();
	control_stop_listening(s);
	uv_stop(&s->loop); /* at the end of this turn: the answer of `shutdown` leaves in it */
}
