/* SPDX-License-Identifier: MIT
 * Leases of packet programs as the writer sees them: the map `leases` of the instance's mirror (bpf/layout.h), which
 * programs store into (bpf/lease.bpf.h) and berthd has mapped. Called by drain.c and registry_leases.c, which treat it as
 * one array of leases more, and by whoever lets a mirror go. Control thread only; stores nothing into the map. */
#ifndef BERTH_WRITER_PACKET_LEASES_H
#define BERTH_WRITER_PACKET_LEASES_H

#include <stdbool.h>

#include "../bpf/mirror.h"
#include "../shm/layout.h"

/* In place of a process id, here and in the ledger: nobody knows which process a packet program belongs to. */
#define PACKET_PROGRAM UINT32_MAX

struct lease_array;
struct registry;

#define PACKET_ARRAYS (1u + MIRROR_PASTS)
/* The n-th array as it is now: 0 that of the mirror, behind it those of mirrors that went. False when there is none. */
bool packet_leases(const struct mirror *m, const struct mirror_past pasts[MIRROR_PASTS], unsigned n,
		   struct lease_array *);
/* A mirror goes: it is withdrawn, or made anew. Its programs pass everything up by now (state 0, and a kernel grace period
 * since), but what they have under way goes on. kept: to be seen in a past one. Else its ends will be seen by nobody: from
 * now on the ledger says so, for every partition. And that one of them may have written without leases until now. Before
 * the pins go, so that a writer that is killed in between finds them again, and says it again, with a later end. */
void packet_leases_left(struct registry *, const struct mirror_control *, const struct mirror_lease *, bool kept);
/* Nothing is open in this past mirror any more: what ended unknown there is the ledger's from now on. Before its pins go,
 * likewise. */
bool packet_leases_over(struct registry *, const struct mirror_past *);

#endif
