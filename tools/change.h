/* SPDX-License-Identifier: MIT
 * Building requests that change something, for change.c, load.c and the migration's run. */
#ifndef BERTH_TOOLS_CHANGE_H
#define BERTH_TOOLS_CHANGE_H

#include "tool.h"

/* object[name] := value; refuses what is no UTF-8. EXIT_DONE or what tool_fail returned. */
int change_string(const struct tool *, json_t *object, const char *name, const char *value);
/* {"cluster": cluster, "mode", "index", "inject"} as far as given. EXIT_DONE with a new reference in *out. */
int change_placement(const struct tool *, const struct arguments *, const char *cluster, json_t **out);
/* Makes the call on admin.sock and tells the result: as JSON, or as "subject: done, epoch N", and what may come next
 * (NULL: nothing to say). Takes params over. */
struct change_words {
	const char *subject, *done, *next;
	bool held; /* writes were held back: for how long is told, however short */
};
int change_call(struct tool *, const char *method, json_t *params, const struct change_words *);

#endif
