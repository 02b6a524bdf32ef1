/* SPDX-License-Identifier: MIT
 * What a document may do to one partition: the table drawn in document.h. Called by whoever applies a document, for
 * each partition that the document or, to prune, the instance knows; pure. */
#include "document.h"

const char *plan_action_name(enum plan_action action)
{
	static const char *const names[] = {
#define PLAN_ROW(e, name) [e] = name,
		PLAN_ACTIONS(PLAN_ROW)
#undef PLAN_ROW
	};

	return (unsigned)action < sizeof(names) / sizeof(names[0]) ? names[action] : "unknown";
}

static struct plan missing(const struct plan_case *c)
{
	struct plan left = {PLAN_NOTHING, false, c->last};

	if (!c->prune)
		return left;
	if (c->migrating) {
		left.action = PLAN_MIGRATING;
		return left;
	}
	if (c->state == 0)
		return (struct plan){c->last ? PLAN_FORGET : PLAN_NOTHING, false, 0};
	if (c->state == c->last || c->override)
		return (struct plan){PLAN_REMOVE, c->override, 0};
	left.action = PLAN_DIVERGED;
	return left;
}

struct plan document_plan(const struct plan_case *c)
{
	if (c->says == 0)
		return missing(c);
	if (c->migrating)
		return (struct plan){PLAN_MIGRATING, false, c->says};
	if (c->state == c->says)
		return (struct plan){c->last == c->says ? PLAN_NOTHING : PLAN_ADOPT, false, c->says};
	if (c->state == c->last || c->override)
		return (struct plan){PLAN_SET, c->override, c->says};
	return (struct plan){PLAN_DIVERGED, false, c->says};
}
