/* SPDX-License-Identifier: MIT
 * The arrays of a history. Each array is one thread's at a time; the caller sees to that. */
#include "history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *append(void **array, size_t *n, size_t *room, size_t size)
{
	if (*n == *room) {
		size_t wanted = *room ? *room * 2 : 1024;
		void *grown = realloc(*array, wanted * size);
		if (!grown) {
			fprintf(stderr, "out of memory for a history of %zu items of %zu bytes\n", wanted, size);
			exit(2);
		}
		*array = grown;
		*room = wanted;
	}
	void *item = (char *)*array + (*n)++ * size;
	memset(item, 0, size);
	return item;
}

#define APPEND(field) \
	do { \
		void *array = h->field; \
		void *item = append(&array, &h->n_##field, &h->room_##field, sizeof(*h->field)); \
		h->field = array; \
		return item; \
	} while (0)

struct hist_call *history_call(struct history *h)
{
	APPEND(calls);
}

struct hist_effect *history_effect(struct history *h)
{
	APPEND(effects);
}

struct hist_change *history_change(struct history *h)
{
	APPEND(changes);
}

struct hist_kill *history_kill(struct history *h)
{
	APPEND(kills);
}

void history_free(struct history *h)
{
	free(h->calls);
	free(h->effects);
	free(h->changes);
	free(h->kills);
	*h = (struct history){0};
}
