/* SPDX-License-Identifier: MIT
 * The list of stores, and which of them a URL means. Called at start by whoever parses --store. A new store is one file
 * with a struct store_ops, its declaration in store.h, and one row here. No I/O; any thread. */
#include "store.h"

#include <string.h>

const struct store_ops *const stores[] = {&store_sqlite, &store_memory, NULL};

enum refusal_code store_find(const char *url, const struct store_ops **ops, const char **argument, struct refusal *r)
{
	char known[128] = "";
	size_t used = 0;

	for (size_t i = 0; stores[i]; i++) {
		size_t n = strlen(stores[i]->scheme);

		if (url && !strncmp(url, stores[i]->scheme, n) && url[n] == ':') {
			*ops = stores[i];
			*argument = url + n + 1;
			return R_DONE;
		}
		if (used + n + 4 > sizeof(known))
			continue;
		if (used)
			known[used++] = ' ';
		memcpy(known + used, stores[i]->scheme, n);
		used += n;
		known[used++] = ':';
		known[used] = '\0';
	}
	return refuse(r, R_INVALID,
		      "store \"%.200s\": not a store; it starts with one of %s (such as sqlite:/var/lib/berth.db)",
		      url ? url : "", known);
}
