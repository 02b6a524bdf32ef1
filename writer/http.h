/* SPDX-License-Identifier: MIT
 * /metrics, /status and a page, over HTTP, for whoever watches machines. A thread of its own, which reads one immutable
 * snapshot through RCU (liburcu, memb) and nothing else: it can neither wait for the control thread nor make it wait.
 */
#ifndef BERTH_WRITER_HTTP_H
#define BERTH_WRITER_HTTP_H

#include "server.h"

/* Is it an address? R_INVALID when not. */
enum refusal_code http_check(const char *address, struct refusal *);
/* address: ADDR:PORT, [ADDR6]:PORT or :PORT (loopback); port 0: any free one, told in the log. R_INVALID, R_BACKEND. */
enum refusal_code http_open(struct server *, const char *address, struct refusal *);
/* Makes the present numbers the ones that are served. Control thread. Does nothing when HTTP is off. */
void http_publish(struct server *);
void http_close(struct server *);

#endif
