/* SPDX-License-Identifier: MIT
 * Peer: cds_lfht of liburcu under QSBR: a read section costs nothing, instead every thread reports after each batch of
 * requests that it holds nothing any more. Run by peers.c, in its thread. */
#define _LGPL_SOURCE /* liburcu's short functions inline, */
#define URCU_API_MAP /* under names that do not tell the flavour */
#include <urcu/urcu-qsbr.h>

static inline void lfht_batch_end(void)
{
	rcu_quiescent_state();
}

#include "lfht.h"

const struct peer peer_lfht_qsbr = {
	.name = "cds_lfht, qsbr",
	.how = "liburcu, any number of writers; quiescent state every 32 look-ups; threads of one process",
	.open = lfht_open,
	.run = lfht_run,
	.close = lfht_close,
};
