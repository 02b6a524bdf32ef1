/* SPDX-License-Identifier: MIT
 * The state machine of a partition and of the default: the table of transitions, one function a row, each with its
 * refusals in the order of that table. Called by the control thread before anything is reserved or stored; pure. */
#include "machine.h"

#include <stdio.h>
#include <string.h>

#include "text.h"

const char *operation_name(enum operation op)
{
	static const char *const names[] = {
#define OPERATION_ROW(e, name) [e] = name,
		OPERATIONS(OPERATION_ROW)
#undef OPERATION_ROW
	};

	return (unsigned)op < sizeof(names) / sizeof(names[0]) ? names[op] : "unknown";
}

/* "partition "acme"", or "the default placement": the subject of each message. */
struct subject {
	char text[TEXT_SHOWN + 16];
};

static const char *subject(struct subject *s, const struct step *step)
{
	static const char noun[] = "partition ";

	if (!step->key)
		return "the default placement";
	for (size_t i = 0; i < sizeof(noun); i++)
		s->text[i] = noun[i];
	text_show(s->text + sizeof(noun) - 1, sizeof(s->text) - sizeof(noun), step->key, step->key_len);
	return s->text;
}

static enum refusal_code unknown_cluster(const struct step *step, struct refusal *r)
{
	char shown[TEXT_SHOWN];
	const char *id = step->cluster_id ? step->cluster_id : "";
	size_t len = 0;

	while (id[len])
		len++;
	return refuse(r, R_UNKNOWN_CLUSTER, "cluster %s is unknown: make it first, with `berth cluster set`",
		      text_show(shown, sizeof(shown), id, len));
}

static enum refusal_code unknown_partition(const struct step *step, struct refusal *r)
{
	struct subject s;

	return refuse(r, R_UNKNOWN_PARTITION, "%s has no entry: place it first, with `berth set`", subject(&s, step));
}

static enum refusal_code already_migrating(const struct state *now, const struct step *step, struct refusal *r)
{
	struct subject s;

	return refuse(r, R_ALREADY_MIGRATING, "%s is in a migration (%s): complete it or abort it first",
		      subject(&s, step), phase_name(now->phase));
}

static enum refusal_code not_migrating(const struct step *step, struct refusal *r)
{
	struct subject s;

	return refuse(r, R_NOT_MIGRATING, "%s is settled: start with `berth migrate begin`", subject(&s, step));
}

static enum refusal_code would_move(const struct step *step, const char *remedy, struct refusal *r)
{
	struct subject s;

	return refuse(r, R_WOULD_MOVE, "%s of %s would make another cluster answer, without moving the data: %s",
		      operation_name(step->op), subject(&s, step), remedy);
}

/* Another cluster would answer than does now. Where nothing answers, before or after, nothing is moved. */
static bool moves(const struct shm_detail *before, const struct shm_detail *after)
{
	return before && after && before->cluster != after->cluster;
}

static bool same(const struct shm_detail *a, const struct shm_detail *b)
{
	return a == b || (a && b && detail_equal(a, b));
}

/* The new state is settled at `at`, or nothing when it is NULL. */
static enum refusal_code settle(const struct shm_detail *at, struct state *after, bool *changed)
{
	*after = (struct state){.phase = PHASE_SETTLED, .at = at};
	*changed = true;
	return R_DONE;
}

static enum refusal_code keep(const struct state *now, struct state *after, bool *changed)
{
	*after = *now;
	*changed = false;
	return R_DONE;
}

static enum refusal_code set(const struct state *now, const struct state *dflt, const struct step *step,
			     struct state *after, bool *changed, struct refusal *r)
{
	if (!step->placement_cluster_known)
		return unknown_cluster(step, r);
	if (now->to)
		return already_migrating(now, step, r);
	if (same(now->at, step->placement))
		return keep(now, after, changed);
	if (!step->force && moves(now->at ? now->at : dflt->at, step->placement))
		return would_move(step, "use `berth migrate`, or force it if there is no data to move", r);
	return settle(step->placement, after, changed);
}

static enum refusal_code take_away(const struct state *now, const struct state *dflt, const struct step *step,
				   struct state *after, bool *changed, struct refusal *r)
{
	if (!now->at)
		return unknown_partition(step, r);
	if (now->to)
		return already_migrating(now, step, r);
	if (!step->force && moves(now->at, dflt->at))
		return would_move(step, "the default placement is elsewhere; migrate it there first, or force it", r);
	return settle(NULL, after, changed);
}

static enum refusal_code set_default(const struct state *now, const struct step *step, struct state *after,
				     bool *changed, struct refusal *r)
{
	if (step->placement && !step->placement_cluster_known)
		return unknown_cluster(step, r);
	if (same(now->at, step->placement))
		return keep(now, after, changed);
	if (!step->force && moves(now->at, step->placement))
		return would_move(step, "place the partitions that use it first, or force it if none has data", r);
	return settle(step->placement, after, changed);
}

static enum refusal_code begin(const struct state *now, const struct step *step, struct state *after, bool *changed,
			       struct refusal *r)
{
	struct subject s;

	if (!now->at)
		return unknown_partition(step, r);
	if (now->to)
		return already_migrating(now, step, r);
	if (!step->placement_cluster_known)
		return unknown_cluster(step, r);
	if (same(now->at, step->placement))
		return refuse(r, R_SAME_PLACEMENT, "%s is there already: give another cluster, mode, index or inject",
			      subject(&s, step));
	*after = (struct state){.phase = PHASE_DRAINING, .at = now->at, .to = step->placement};
	*changed = true;
	return R_DONE;
}

static enum refusal_code cutover(const struct state *now, const struct step *step, struct state *after, bool *changed,
				 struct refusal *r)
{
	struct subject s;

	if (!now->at)
		return unknown_partition(step, r);
	if (!now->to)
		return not_migrating(step, r);
	if (now->phase != PHASE_DRAINING)
		return refuse(r, R_NOT_DRAINING, "%s is in %s already: complete it or abort it", subject(&s, step),
			      phase_name(now->phase));
	*after = (struct state){.phase = PHASE_CUTOVER, .at = now->at, .to = now->to};
	*changed = true;
	return R_DONE;
}

/* Which processes: " (process 12, 34 and more)", " (a packet program)", or nothing. */
static const char *processes(const struct barrier *b, char *text, size_t room)
{
	size_t n = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < b->n_pids && n < room; i++) {
		if (b->pids[i])
			n += (size_t)snprintf(text + n, room - n, "%s%u", i ? ", " : " (process ", b->pids[i]);
		else
			n += (size_t)snprintf(text + n, room - n, "%sone in another container",
					      i ? ", " : " (process ");
	}
	if (b->n_pids && n < room)
		n += (size_t)snprintf(text + n, room - n, "%s", b->n_pids == BARRIER_PIDS ? " and more" : "");
	if (b->packet && n < room)
		n += (size_t)snprintf(text + n, room - n, "%sa packet program", b->n_pids ? ", " : " (");
	if (n && n < room)
		snprintf(text + n, room - n, ")");
	return text;
}

/* What stands against it, in words. */
static enum refusal_code barrier_pending(const struct step *step, struct refusal *r)
{
	const struct barrier *b = &step->barrier;
	struct subject s;
	char who[240];

	processes(b, who, sizeof(who));
	if (b->in_flight)
		refuse(r, R_BARRIER_PENDING,
		       "%llu write%s on %s %s under way%s (%s): wait, `berth readers` shows them, or abort; to end a "
		       "process "
		       "over its writes costs a barrier%s",
		       (unsigned long long)b->in_flight, b->in_flight == 1 ? "" : "s", subject(&s, step),
		       b->in_flight == 1 ? "is" : "are", who, b->reason,
		       b->packet ? "; what a `berth bpf splice` that was killed left open ends when it is started again"
				 : "");
	else if (b->remaining_ms)
		refuse(r, R_BARRIER_PENDING,
		       "writes on %s may still be under way%s (%s), for %llu.%03llu s at most: try again then",
		       subject(&s, step), who, b->reason, (unsigned long long)b->remaining_ms / 1000,
		       (unsigned long long)b->remaining_ms % 1000);
	else
		refuse(r, R_BARRIER_PENDING,
		       "it is still being looked whether writes on %s are under way (%s): try again", subject(&s, step),
		       b->reason);
	r->reason = b->reason;
	r->remaining_ms = b->remaining_ms;
	r->in_flight = b->in_flight;
	r->packet = b->packet;
	r->n_pids = b->n_pids;
	memcpy(r->pids, b->pids, sizeof(r->pids));
	return R_BARRIER_PENDING;
}

static enum refusal_code complete(const struct state *now, const struct step *step, struct state *after, bool *changed,
				  struct refusal *r)
{
	struct subject s;

	if (!now->at)
		return unknown_partition(step, r);
	if (!now->to)
		return not_migrating(step, r);
	if (now->phase != PHASE_CUTOVER)
		return refuse(r, R_NOT_CUTOVER, "%s is in %s, writes still go to the old placement: cut it over first",
			      subject(&s, step), phase_name(now->phase));
	if (step->barrier.reason && !step->force)
		return barrier_pending(step, r);
	return settle(now->to, after, changed);
}

static enum refusal_code give_up(const struct state *now, const struct step *step, struct state *after, bool *changed,
				 struct refusal *r)
{
	if (!now->at)
		return unknown_partition(step, r);
	if (!now->to)
		return not_migrating(step, r);
	return settle(now->at, after, changed);
}

enum refusal_code machine_step(const struct state *now, const struct state *dflt, const struct step *step,
			       struct state *after, bool *changed, struct refusal *r)
{
	switch (step->op) {
	case OP_SET:
		return set(now, dflt, step, after, changed, r);
	case OP_REMOVE:
		return take_away(now, dflt, step, after, changed, r);
	case OP_DEFAULT:
		return set_default(now, step, after, changed, r);
	case OP_BEGIN:
		return begin(now, step, after, changed, r);
	case OP_CUTOVER:
		return cutover(now, step, after, changed, r);
	case OP_COMPLETE:
		return complete(now, step, after, changed, r);
	case OP_ABORT:
		return give_up(now, step, after, changed, r);
	}
	return refuse(r, R_NO_METHOD, "operation %d is none", (int)step->op);
}
