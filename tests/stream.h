/* SPDX-License-Identifier: MIT
 * A stream of random changes through admin.sock, what was acknowledged of it, and what a daemon that was killed in the
 * middle of it may hold afterwards: the acknowledged, and of the changes in flight a first part. Tells readers.h what
 * readers may see. The test's process. */
#ifndef BERTH_TESTS_STREAM_H
#define BERTH_TESTS_STREAM_H

#include "daemon.h"
#include "readers.h"

#define STREAM_CLUSTERS 4u /* c1 .. c4 */

enum stream_phase { GONE, AT, DRAINING, CUTOVER };

struct stream_item { /* one partition, as it was acknowledged */
	uint64_t epoch;
	uint32_t k, v, to_k, to_v;
	uint8_t phase; /* enum stream_phase */
};

#define STREAM_FLIGHTS 16u
struct stream_flight { /* a change that was sent and is not acknowledged */
	uint32_t i;
	struct stream_item after;
	bool adopted; /* found by stream_compare */
};

struct stream {
	struct daemon *d;
	struct wire wire; /* to admin.sock */
	struct readers *rs;
	uint32_t from, n;          /* partitions that it changes */
	struct stream_item *items; /* of 0 .. all - 1 */
	uint32_t all, beside;      /* partitions of the stream; others that it loaded */
	uint64_t random;
	uint32_t version;
	struct stream_flight flights[STREAM_FLIGHTS]; /* in the order in which they were sent, no partition twice */
	unsigned n_flights;
	uint64_t n_acknowledged, n_adopted, n_lost;
};

/* Clusters, then partitions 0 .. loaded - 1 by a document; of those up to all - 1 none is there. */
void stream_open(struct stream *, struct daemon *, uint32_t loaded, uint32_t all, uint64_t seed);
/* Changes go to n partitions, from `from` on; they are the hot ones of the readers, who are told what they may see. */
void stream_use(struct stream *, struct readers *, uint32_t from, uint32_t n);
void stream_close(struct stream *);
/* Sends another change; stream_answer waits for the oldest acknowledgement: false when the daemon went instead. */
void stream_send(struct stream *);
bool stream_answer(struct stream *);
void stream_do(struct stream *, unsigned n); /* so many, each acknowledged */
/* A daemon is there again: connects, compares every partition with what may be there, and goes on from what is. */
void stream_resume(struct stream *);
void stream_compare(struct stream *);

/* Sets partition i to c<k>, version v, with force; its epoch. */
uint64_t stream_set(struct stream *, uint32_t i, unsigned k, unsigned v);
/* Sets the n partitions from `from` on, none of which is there, one by one, without waiting for each. */
void stream_create(struct stream *, uint32_t from, uint32_t n);
void stream_remove(struct stream *, uint32_t i);
/* A document of the partitions from .. from + n - 1, beside those of the stream, applied whole. */
void stream_load(struct stream *, uint32_t from, uint32_t n);
void stream_prune(struct stream *, uint32_t n); /* ... of 0 .. n - 1; what is not in it goes */

#endif
