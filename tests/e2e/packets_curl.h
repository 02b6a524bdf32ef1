/* SPDX-License-Identifier: MIT
 * Another client than ours: curl, one process after the other, each with a batch of requests on one connection. A write
 * that gets a 409 is in the next batch again. Partitions are its own, so that nobody else counts their writes. */
#ifndef BERTH_E2E_PACKETS_CURL_H
#define BERTH_E2E_PACKETS_CURL_H

#include "history.h"

struct curl_options {
	const char *address;
	uint16_t port;
	unsigned first, n_partitions;
};

struct curl;

/* What it needs and is not there; NULL: nothing. */
const char *curl_missing(void);
/* Starts the thread, in the caller's network namespace; fails as place_fail. */
struct curl *curl_start(const struct curl_options *);
/* No new requests; ends when all that was refused has been repeated. Adds all calls to the history, frees. */
void curl_stop(struct curl **, struct history *);

#endif
