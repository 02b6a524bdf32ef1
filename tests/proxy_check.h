/* SPDX-License-Identifier: MIT
 * What the tests of the nginx module say: the one proxy_place of a program, placements and leases as the daemon tells
 * them, and requests with what has to come of them. One thread. */
#ifndef BERTH_TESTS_PROXY_CHECK_H
#define BERTH_TESTS_PROXY_CHECK_H

#include "proxy_place.h"

extern struct proxy_place proxy;
extern struct wire proxy_look, proxy_admin;
extern const char *proxy_skip; /* why there is none */

/* As cmocka wants them, of the group. */
int proxy_setup(void **state);
int proxy_teardown(void **state);
#define PROXY_NEEDED \
	(void)state; \
	if (proxy_skip) \
	SKIP("%s", proxy_skip)

/* ---- the daemon ---- */
void proxy_put(const char *partition, const char *cluster);
void proxy_cutover(const char *partition, const char *to);
struct proxy_leases {
	unsigned open, unknown;
};
/* Of one partition; NULL: of all. */
struct proxy_leases proxy_leases(const char *partition);
/* Waits until so many are open. */
void proxy_expect_open(const char *partition, unsigned n);

/* ---- requests ---- */
#define ASK(...) proxy_ask(&proxy, &(struct ask){__VA_ARGS__})
#define STATUS(...) proxy_status(&proxy, &(struct ask){__VA_ARGS__})
bool answer_has(const struct answer *, const char *text);
/* Asks, and fails the test unless the answer has this status and (NULL: any) this text. */
void proxy_expect(int status, const char *text, const struct ask *);
#define EXPECT(status, text, ...) proxy_expect(status, text, &(struct ask){__VA_ARGS__})
/* What an answer of this cluster's node has in it, from 0. */
const char *proxy_port_text(unsigned cluster);
#define PORT(n) proxy_port_text(n)

#endif
