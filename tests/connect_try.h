/* SPDX-License-Identifier: MIT
 * Sockets of a test of connect(2): one attempt and where it went, servers and how a cluster's endpoint names them. */
#ifndef BERTH_TESTS_CONNECT_TRY_H
#define BERTH_TESTS_CONNECT_TRY_H

#include <arpa/inet.h>
#include <stdbool.h>

struct attempt {     /* in shared memory */
	bool inside; /* the cgroup */
	int family, type;
	char address[64]; /* asked for; port 9 */
	int error;
	char peer[80]; /* "127.0.0.1 9200": where the socket went */
};
/* a->error, and a->peer when that is 0. *keep: the socket; NULL: it is reset, and leaves no port behind. */
int connect_try(struct attempt *a, int *keep);
/* A listening socket on a free port, and the URL that names it. */
int connect_serve(const char *address, char url[64]);
/* "127.0.0.1 9200" of "http://127.0.0.1:9200"; valid until the next call. */
const char *connect_peer(const char *url);

#endif
