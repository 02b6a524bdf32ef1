/* SPDX-License-Identifier: MIT
 * proxy_check.h. */
#include "proxy_check.h"

#include <stdlib.h>
#include <string.h>

struct proxy_place proxy;
struct wire proxy_look, proxy_admin;
const char *proxy_skip;

int proxy_setup(void **state)
{
	(void)state;
	proxy_skip = proxy_missing();
	if (proxy_skip)
		return 0;
	proxy_start(&proxy);
	wire_open(&proxy_look, &proxy.d, WIRE_LOOK);
	wire_open(&proxy_admin, &proxy.d, WIRE_ADMIN);
	return 0;
}

int proxy_teardown(void **state)
{
	(void)state;
	if (proxy_skip)
		return 0;
	wire_close(&proxy_look);
	wire_close(&proxy_admin);
	proxy_end(&proxy);
	return 0;
}

/* ---- the daemon ----------------------------------------------------------------------------------------------------- */

void proxy_put(const char *partition, const char *cluster)
{
	wire_do(&proxy_admin, "set", "{s:s,s:{s:s,s:s}}", "partition", partition, "placement", "mode",
		"dedicated-cluster", "cluster", cluster);
}

void proxy_cutover(const char *partition, const char *to)
{
	wire_do(&proxy_admin, "begin", "{s:s,s:{s:s,s:s}}", "partition", partition, "to", "mode", "dedicated-cluster",
		"cluster", to);
	wire_do(&proxy_admin, "cutover", "{s:s}", "partition", partition);
}

struct proxy_leases proxy_leases(const char *partition)
{
	json_t *result = wire_ok(&proxy_look, "readers", NULL), *row, *lease;
	struct proxy_leases n = {0, 0};
	size_t i, j;

	json_array_foreach (json_object_get(result, "readers"), i, row) {
		if (!partition) {
			n.open += (unsigned)int_of(row, "n_leases");
			n.unknown += (unsigned)int_of(row, "n_unknown");
		}
		json_array_foreach (json_object_get(row, "leases"), j, lease) {
			const char *name = json_string_value(json_object_get(lease, "partition"));

			if (!partition || !name || strcmp(name, partition) != 0)
				continue;
			n.open += strcmp(text_of(lease, "outcome"), "open") == 0;
			n.unknown += strcmp(text_of(lease, "outcome"), "unknown") == 0;
		}
	}
	json_decref(result);
	return n;
}

void proxy_expect_open(const char *partition, unsigned n)
{
	uint64_t deadline = 0;
	unsigned open = 0;

	while (within(&deadline)) {
		open = proxy_leases(partition).open;
		if (open == n)
			return;
	}
	fail_msg("%u leases are open on %s, not %u", open, partition ? partition : "all", n);
}

/* ---- requests ------------------------------------------------------------------------------------------------------- */

bool answer_has(const struct answer *a, const char *text)
{
	return strstr(a->text, text) != NULL;
}

void proxy_expect(int status, const char *text, const struct ask *q)
{
	struct answer a = proxy_ask(&proxy, q);

	if (a.status != status || (text && !answer_has(&a, text)))
		fail_msg("%s %s %s: not %d with `%s`, but %s", q->partition ? q->partition : "",
			 q->method ? q->method : "GET", q->path ? q->path : "/", status, text ? text : "", a.text);
	free(a.text);
}

const char *proxy_port_text(unsigned cluster)
{
	static char text[4][24];

	snprintf(text[cluster], sizeof(text[cluster]), "port=%u ", proxy.ports[cluster]);
	return text[cluster];
}
