/* SPDX-License-Identifier: MIT
 * The names themselves (process.h). One thread. */
#include "process.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ledger.h"

#define SHOWN 3u /* of one line */

static struct process_name *find(const struct processes *p, uint64_t pid)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->at[i].pid == pid)
			return &p->at[i];
	return NULL;
}

static struct process_name *add(struct processes *p, uint64_t pid)
{
	if (p->n == p->room) {
		size_t room = 2 * p->room + 64;
		struct process_name *at = realloc(p->at, room * sizeof(*at));
		if (!at)
			tool_no_memory();
		p->at = at;
		p->room = room;
	}
	p->at[p->n] = (struct process_name){.pid = pid};
	return &p->at[p->n++];
}

void processes_learn(const struct tool *t, struct processes *p)
{
	struct ledger ledger;
	struct ledger_reader r;

	if (ledger_open(t, &ledger) != BERTH_OK)
		return;
	for (uint32_t slot = 0; slot < ledger.n_rows; slot++) {
		if (!ledger_read(&ledger, slot, &r) || r.pid == 0)
			continue;
		struct process_name *known = find(p, r.pid);
		memcpy((known ? known : add(p, r.pid))->comm, r.comm, sizeof(r.comm));
	}
	ledger_close(&ledger);
}

char *processes_text(const struct tool *t, struct processes *names, const json_t *pids, char *out, size_t room)
{
	size_t n = json_array_size(pids), at = 0;
	bool learned = false;

	out[0] = '\0';
	for (size_t i = 0; i < n && at < room; i++) {
		uint64_t pid = (uint64_t)json_integer_value(json_array_get(pids, i));
		const struct process_name *known = names && i < SHOWN ? find(names, pid) : NULL;

		if (i == SHOWN) {
			snprintf(out + at, room - at, " and others");
			break;
		}
		if (names && !known && !learned && pid) {
			processes_learn(t, names);
			learned = true;
			known = find(names, pid);
		}
		at += (size_t)snprintf(out + at, room - at, "%s", i ? ", " : n > 1 ? "processes " : "process ");
		if (at < room && pid == 0)
			at += (size_t)snprintf(out + at, room - at, "one that is not visible from here");
		else if (at < room)
			at += (size_t)snprintf(out + at, room - at, "%" PRIu64 "%s%s%s", pid, known ? " (" : "",
					       known ? known->comm : "", known ? ")" : "");
	}
	return out;
}

void processes_end(struct processes *p)
{
	free(p->at);
	*p = (struct processes){0};
}
