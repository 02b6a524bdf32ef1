/* SPDX-License-Identifier: MIT
 * A real proxy for tests: berthd, the nginx of reader_lib/lua/nginx.conf before it, and another nginx that plays the nodes
 * of three clusters. Everything lives in the daemon's temporary directory and ends with the test program. One thread. */
#ifndef BERTH_TESTS_PROXY_PLACE_H
#define BERTH_TESTS_PROXY_PLACE_H

#include "child.h"

/* The proxy listens on one Unix socket for each way to set it up. */
enum proxy_way {
	WAY_HEADER,   /* the file as it is: the partition is a header */
	WAY_PATH,     /* the first segment of the path */
	WAY_STRIP,    /* the same, and the nodes do not see it */
	WAY_RETRY,    /* two attempts, also after 500 and 503 */
	WAY_REDIRECT, /* 502..504 are answered by a page of nginx, 500 is sent on to globex */
	WAY_FINISH,   /* a client that goes away does not end the request */
	WAY_FORGET,   /* set up wrongly: a log_by_lua and a body_filter_by_lua of its own */
	WAY_DEAF,     /* set up wrongly: a header_filter_by_lua of its own */
	WAY_BLIND,    /* set up wrongly: a body_filter_by_lua of its own */
	WAYS
};

struct proxy_place {
	struct daemon d;
	unsigned ports[4]; /* of the nodes of c1..c3; c4: where nobody listens */
	pid_t proxy, nodes;
	const char *cursors; /* what setup's line about cursors says instead; NULL: as the file has it */
};

/* A line of the reason when this machine has no nginx that can do it, or the tests run elsewhere; else NULL. */
const char *proxy_missing(void);
/* Daemon, clusters c1..c4 with endpoints, nodes and proxy; nothing is placed. */
void proxy_start(struct proxy_place *);
/* Ends and removes it all; may be called in any state. */
void proxy_end(struct proxy_place *);
/* Ends the proxy with SIGTERM; and starts it again, with `cursors` as it is now. */
void proxy_stop(struct proxy_place *);
void proxy_again(struct proxy_place *);
/* The proxy's error log, to be freed. */
char *proxy_log(const struct proxy_place *);
/* Its workers at present: how many, their numbers. */
unsigned proxy_workers(const struct proxy_place *, pid_t *pids, unsigned size);

/* ---- HTTP ---- */

struct answer {
	int status; /* 0: none, the connection was closed */
	size_t len; /* of all of it */
	char *text; /* head and body as they came; never NULL */
};

/* What is sent; NULL and 0 are what a plain GET / has. */
struct ask {
	enum proxy_way way;
	const char *method, *path, *partition, *body;
	const char *act;   /* X-Do: what the node does, see proxy_place.c */
	const char *extra; /* header lines, each ended by CRLF */
};
int proxy_connect(const struct proxy_place *, enum proxy_way);
void proxy_send(int fd, const struct ask *, bool keep_alive);
/* Reads to the end of the connection, closes it. */
struct answer proxy_answer(int fd);
/* One request on a connection of its own. */
struct answer proxy_ask(const struct proxy_place *, const struct ask *);
/* The same, for its status alone. */
int proxy_status(const struct proxy_place *, const struct ask *);

#endif
