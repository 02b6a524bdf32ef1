/* SPDX-License-Identifier: MIT
 * Streams of changes to the connections that asked for them (`watch`). Control thread only. */
#ifndef BERTH_WRITER_WATCH_H
#define BERTH_WRITER_WATCH_H

#include "server.h"

/* After core_open: changes are told from now on. */
void watch_open(struct server *);
/* Sends what the watchers' sockets take. After each request, and after each slice of a document: never between a change
 * and its answer. */
void watch_flush(struct server *);

#endif
