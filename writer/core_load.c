/* SPDX-License-Identifier: MIT
 * A document from core_load_start to its summary: which phase is next, and what happens when its client goes or the
 * store cannot say. The work of the phases is in core_load_plan.c and core_load_apply.c. Called through core.h; control
 * thread. */
#include "core_load.h"

#include <stdlib.h>
#include <string.h>

void core_load_next(struct core_load *l, enum load_phase phase)
{
	l->phase = phase;
	l->at = 0;
}

void core_load_refuse(struct core_load *l)
{
	core_load_next(l, l->phase < LOAD_RESERVE ? LOAD_DONE : LOAD_UNDO);
}

bool core_load_in_transaction(const struct core_load *l)
{
	return l->phase == LOAD_WRITE || l->phase == LOAD_COMMIT;
}

void core_load_free(struct core_load **load)
{
	struct core_load *l = *load;

	if (!l)
		return;
	for (uint32_t i = 0; l->texts && i < l->document->n_placements; i++)
		free(l->texts[i]);
	free(l->texts);
	document_free(&l->document);
	json_decref(l->summary.left);
	free(l->numbers);
	free(l->prints);
	free(l->clusters);
	free(l->fresh);
	free(l->sets.all);
	free(l->removals.all);
	free(l->names);
	free(l);
	*load = NULL;
}

static struct core_load *load_new(struct document *d, const struct core_load_options *options, const char *who)
{
	struct core_load *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->numbers = calloc(d->n_clusters + 1u, sizeof(*l->numbers));
	l->clusters = calloc(d->n_clusters + 1u, sizeof(*l->clusters));
	l->fresh = calloc(d->n_clusters + 1u, sizeof(*l->fresh));
	l->prints = calloc(d->n_placements + 1u, sizeof(*l->prints));
	if (d->n_placements <= LOAD_TEXTS_MAX)
		l->texts = calloc(d->n_placements + 1u, sizeof(*l->texts));
	l->summary.left = json_array();
	l->document = d;
	if (!l->numbers || !l->clusters || !l->fresh || !l->prints || !l->summary.left) {
		core_load_free(&l);
		return NULL;
	}
	l->options = *options;
	l->summary.partitions = d->n_partitions;
	if (who)
		strncat(l->who, who, sizeof(l->who) - 1);
	return l;
}

enum refusal_code core_load_start(struct core *c, struct document *document, const struct core_load_options *options,
				  const char *who, struct refusal *r)
{
	uint64_t last = table_document_version(c->table);
	enum refusal_code code = core_may_change(c, r);
	struct core_load *l;

	if (code == R_DONE && document->version && document->version <= last)
		code = refuse_at(
			r, R_STALE_DOCUMENT, "$.version",
			"version %llu is not above %llu, which was applied last: give the document a higher one",
			(unsigned long long)document->version, (unsigned long long)last);
	if (code == R_DONE && options->prune && !document->has_partitions)
		code = refuse_at(
			r, R_INVALID, "$.partitions",
			"a document without \"partitions\" would remove all of them: add them, or do not prune");
	if (code != R_DONE) {
		document_free(&document);
		return code;
	}
	l = load_new(document, options, who);
	if (!l) /* the document went with it */
		return refuse(r, R_FULL, "no memory for the document: give the daemon more, or load it in parts");
	l->summary.version = document->version ? document->version : last;
	c->load = l;
	return R_DONE;
}

static void load_run(struct core *c, uint64_t budget_us)
{
	uint64_t deadline = seg_clock_ns(CLOCK_MONOTONIC) + budget_us * 1000u;
	struct core_load *l = c->load;

	do {
		switch (l->phase) {
		case LOAD_CLUSTERS:
			core_load_plan_clusters(c, l);
			break;
		case LOAD_BIND:
			core_load_bind(l);
			break;
		case LOAD_PLAN:
			core_load_plan_partitions(c, l);
			break;
		case LOAD_NAMES:
			core_load_take_names(c, l);
			break;
		case LOAD_PRUNE:
			core_load_plan_prune(c, l);
			break;
		case LOAD_RESERVE:
			core_load_reserve(c, l);
			break;
		case LOAD_WRITE:
			core_load_write(c, l);
			break;
		case LOAD_COMMIT:
			core_load_commit(c, l);
			break;
		case LOAD_PUBLISH:
			core_load_publish(c, l);
			break;
		case LOAD_UNDO:
			core_load_undo(c, l);
			break;
		case LOAD_UNKNOWN:
		case LOAD_DONE:
			return;
		}
	} while (seg_clock_ns(CLOCK_MONOTONIC) < deadline);
}

enum refusal_code core_load_step(struct core *c, uint64_t budget_us, bool *done, struct core_load_summary *summary,
				 struct refusal *r)
{
	struct core_load *l = c->load;
	enum refusal_code code;

	*done = true;
	if (!l || l->orphan)
		return refuse(r, R_INVALID, "no document is being applied: start it first");
	load_run(c, budget_us);
	if (l->phase == LOAD_UNKNOWN) { /* adopted or undone without the caller */
		l->orphan = true;
		*r = l->refusal;
		return r->code;
	}
	*done = l->phase == LOAD_DONE;
	if (!*done)
		return R_DONE;
	code = l->refusal.code;
	if (code == R_DONE) {
		*summary = l->summary;
		l->summary.left = NULL; /* the caller's now */
	} else {
		*r = l->refusal;
	}
	core_load_free(&c->load);
	return code;
}

void core_load_cancel(struct core *c)
{
	struct core_load *l = c->load;

	if (!l)
		return;
	l->orphan = true;
	if (l->phase > LOAD_COMMIT)
		return; /* it is in the store, or may be; or it is undone already */
	if (core_load_in_transaction(l))
		c->ops->rollback(c->store);
	core_load_refuse(l);
	if (l->phase == LOAD_DONE) /* nothing was held yet */
		core_load_free(&c->load);
}

void core_load_settled(struct core *c, bool committed)
{
	core_load_next(c->load, committed ? LOAD_PUBLISH : LOAD_UNDO);
	if (committed)
		c->load->refusal.code = R_DONE;
}

bool core_load_orphan_step(struct core *c, uint64_t budget_us)
{
	if (!c->load || !c->load->orphan || c->load->phase == LOAD_UNKNOWN)
		return false;
	load_run(c, budget_us);
	if (c->load->phase != LOAD_DONE)
		return c->load->phase != LOAD_UNKNOWN;
	core_load_free(&c->load);
	return false;
}
