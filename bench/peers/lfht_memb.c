/* SPDX-License-Identifier: MIT
 * Peer: cds_lfht of liburcu under its membarrier flavour: a read section is two stores without a fence, and threads
 * report nothing. Run by peers.c, in its thread. */
#define _LGPL_SOURCE /* liburcu's short functions inline, */
#define URCU_API_MAP /* under names that do not tell the flavour */
#include <urcu/urcu-memb.h>

static inline void lfht_batch_end(void) {}

#include "lfht.h"

const struct peer peer_lfht_memb = {
	.name = "cds_lfht, memb",
	.how = "liburcu, any number of writers; a read section for each look-up; threads of one process",
	.open = lfht_open,
	.run = lfht_run,
	.close = lfht_close,
};
