/* SPDX-License-Identifier: MIT
 * Leases of packet programs: a program's statement, where berthd sees it, that a write on a partition is under way. A
 * migration then ends with the last old write, not a barrier later. A program that forwards writes includes this in place
 * of berth_admit; the writer's side is writer/packet_leases.c and writer/drain.c. Define BERTH_USE_LEASES before including
 * berth.bpf.h.
 *
 *   free --(state := open, hash := h)--> open --(hash := 0)--> free              done, or the gate refused
 *    ^                                    |
 *    |                                    +--(state := unknown, end)--> unknown
 *    +--(overflow_ms := end, hash := 0)---------------------------------+        by the next begin in this slot
 *
 * A slot belongs to one connection, from before its first begin until after its last end; who loads the program hands them
 * out, and no two packets of one connection are here at once. All programs of an instance share the slots: two that take
 * leases need ranges of their own. A lease stays open until it is ended, whatever happens to the program: nothing proves
 * the death of a connection, so whoever finds it broken ends its lease as unknown.
 *
 * The letters are those of ../shm/lease.h; here fetching atomics do what membarrier and release do there. They are full
 * barriers: on x86-64 a locked instruction, on arm64 a swap with acquire and release, or without LSE one with `dmb ish`
 * behind it. (A mirror answers on x86-64 alone, see berth.bpf.h.)
 * G1 A write that the gate admitted is seen by every look that begins after the full fence that follows the cutover's word:
 *    the lease is stored by a fetching atomic before the loads that decide, so either the look finds it, or these loads
 *    find the cutover, and the lease is taken back.
 * G2 A slot is cleared by a fetching atomic after everything that the program did for the write.
 * G3 lease_high is raised by a fetching atomic before a slot above it is used.
 * G4 An unknown end stays to be seen: in its slot, or in overflow_ms, which is raised before the slot changes.
 * G5 state is stored before hash: who loads the hash, then the state, errs on the side of waiting.
 * Linux 5.12 has all that this needs; programs are compiled with -mcpu=v3.
 * Model: tests/model/packet_lease.pml. */
#ifndef BERTH_LEASE_BPF_H
#define BERTH_LEASE_BPF_H

#include "berth.bpf.h"

enum berth_lease_bpf {
	BERTH_BPF_BUSY = 5,   /* berth_write_begin: the slot's lease has not ended */
	BERTH_BPF_INVALID = 6 /* no such slot; berth_write_end: no lease is open in it */
};
enum berth_outcome {
	BERTH_BPF_DONE,      /* every attempt ended with a final answer of the node that does the write */
	BERTH_BPF_NOT_KNOWN, /* anything else: it may still arrive */
};

#define BERTH_LEASE_OPEN 1ull
#define BERTH_LEASE_UNKNOWN 2ull
#define BERTH_LEASE_TIME ((1ull << 48) - 1)
/* lease_high goes up in steps, so that it changes a few times in its life, and no loop over a lost race is long. */
#define BERTH_LEASE_STEP 4096u
#define BERTH_OVERFLOW_TRIES 16

/* ms of CLOCK_MONOTONIC, rounded up. */
static __always_inline __u64 berth_lease_now(void)
{
	return (bpf_ktime_get_ns() + 999999) / 1000000 & BERTH_LEASE_TIME;
}

/* *at becomes at least `least`. 0: not in so many tries. */
static __always_inline int berth_raise(__u64 *at, __u64 least, __u32 tries)
{
	__u64 was = *(volatile __u64 *)at;

	for (__u32 i = 0; i < tries && was < least; i++)
		was = __sync_val_compare_and_swap(at, was, least) == was ? least : *(volatile __u64 *)at;
	return was >= least;
}

/* Look up, gate and lease in one step; epoch 0: the one in force. BERTH_BPF_OK: the write may go where *answer says, and
 * berth_write_end is called once for it, by any program. Else nothing is held, and the code says why: _STALE, _CUTOVER,
 * _UNKNOWN, _PASS (ask in user space), _BUSY, _INVALID. */
static __always_inline int berth_write_begin(const struct berth_key *key, __u64 epoch, __u32 slot,
					     struct berth_answer *answer)
{
	struct mirror_lease *lease = bpf_map_lookup_elem(&berth_leases, &slot);
	struct mirror_control *control = berth_control_page();
	__u64 hash = berth_hash(key), state;
	int code;

	*answer = (struct berth_answer){}; /* clang may copy what has no value yet, which the verifier refuses */
	if (!lease || !control)
		return BERTH_BPF_INVALID;
	if (key->len - 1 >= MIRROR_KEY_MAX)
		return berth_no_answer(answer, BERTH_BPF_PASS, MIRROR_EVENT_KEY_LONG);
	if (*(volatile __u64 *)&lease->hash) {
		state = *(volatile __u64 *)&lease->state;
		if (state >> 62 != BERTH_LEASE_UNKNOWN ||
		    !berth_raise(&control->overflow_ms, state & BERTH_LEASE_TIME, BERTH_OVERFLOW_TRIES)) /* G4 */
			return BERTH_BPF_BUSY;
		__sync_lock_test_and_set(&lease->hash, 0);
	}
	/* G3. It fails no more often than there are steps. */
	if (!berth_raise(&control->lease_high, (slot / BERTH_LEASE_STEP + 1) * BERTH_LEASE_STEP,
			 MIRROR_LEASES / BERTH_LEASE_STEP + 1))
		return BERTH_BPF_BUSY;
	*(volatile __u64 *)&lease->state = BERTH_LEASE_OPEN << 62 | berth_lease_now(); /* G5, by the next */
	__sync_lock_test_and_set(&lease->hash, hash ? hash : 1);                       /* G1 */
	code = berth_lookup_hashed(key, hash, answer);
	if (code == BERTH_BPF_OK)
		code = berth_judge(answer, epoch ? epoch : answer->epoch);
	if (code != BERTH_BPF_OK)
		__sync_lock_test_and_set(&lease->hash, 0);
	return code;
}

/* The write in this slot has ended: all its attempts. BERTH_BPF_OK or _INVALID. */
static __always_inline int berth_write_end(__u32 slot, enum berth_outcome outcome)
{
	struct mirror_lease *lease = bpf_map_lookup_elem(&berth_leases, &slot);

	if (!lease || !*(volatile __u64 *)&lease->hash || *(volatile __u64 *)&lease->state >> 62 != BERTH_LEASE_OPEN)
		return BERTH_BPF_INVALID;
	if (outcome == BERTH_BPF_DONE)
		__sync_lock_test_and_set(&lease->hash, 0); /* G2 */
	else
		__sync_lock_test_and_set(&lease->state, BERTH_LEASE_UNKNOWN << 62 | berth_lease_now()); /* G4 */
	return BERTH_BPF_OK;
}

#endif
