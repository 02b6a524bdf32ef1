/* SPDX-License-Identifier: MIT
 * An HTTP/1.1 answer, as far as the load generator looks at it. Pure. */
#ifndef BERTH_E2E_ANSWER_H
#define BERTH_E2E_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct answer {
	uint16_t status;
	uint16_t cluster;  /* X-Cluster: that of the cluster itself; 0: none */
	uint64_t epoch;    /* X-Berth-Epoch; 0: none */
	uint8_t tries;     /* statuses in X-Upstream-Status; 0: none */
	uint16_t retry_ms; /* X-Berth-Retry-Ms */
	bool close;        /* the connection ends with this answer */
};

enum answer_state { ANSWER_WHOLE, ANSWER_PART, ANSWER_BAD };

/* bytes[0..n): what has come so far. ANSWER_WHOLE fills *out; ANSWER_BAD: no answer that is understood, or too long. */
enum answer_state answer_parse(const char *bytes, size_t n, struct answer *out);

#endif
