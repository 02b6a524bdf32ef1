// SPDX-License-Identifier: MIT
/* lease.bpf.h for tests: one call of it for each "packet" (struct lease_call), through BPF_PROG_TEST_RUN. Attached to
 * nothing. A begin can be held at two of its steps, for as long as a test needs it there: that takes bpf_loop, of Linux
 * 5.17; what it tests does not. */
#define BERTH_USE_LEASES
#include "lease_test.h"
#include "berth.bpf.h"

volatile struct lease_hold lease_hold;

static long turn(__u32 i, void *step)
{
	return lease_hold.at != *(__u32 *)step;
}

static long turns(__u32 i, void *step)
{
	return bpf_loop(1 << 20, turn, step, 0) < 1 << 20;
}

/* Until it is let go, some seconds at most: nothing else runs on this processor. */
static __always_inline void hold(__u32 step)
{
	if (lease_hold.at != step)
		return;
	lease_hold.come = step;
	bpf_loop(1 << 12, turns, &step, 0);
}

/* The look-up of a begin, with a step before and behind it. */
static __always_inline int held_lookup(const struct berth_key *key, __u64 hash, struct berth_answer *answer)
{
	int code;

	hold(1);
	code = berth_lookup_hashed(key, hash, answer);
	hold(2);
	return code;
}
#define berth_lookup_hashed held_lookup
#include "lease.bpf.h"
#undef berth_lookup_hashed

SEC("xdp")
int lease_test(struct xdp_md *ctx)
{
	struct lease_call *call = (void *)(long)ctx->data;
	struct berth_answer answer = {};
	struct berth_key key;

	if ((void *)(call + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	berth_key_set(&key, call->key, call->len);
	if (call->op == LEASE_BEGIN)
		call->code = (__u32)berth_write_begin(&key, call->epoch, call->slot, &answer);
	else if (call->op == LEASE_END)
		call->code = (__u32)berth_write_end(call->slot, call->outcome);
	else
		call->code = (__u32)berth_admit(&key, call->epoch);
	call->n_ok += call->code == BERTH_BPF_OK;
	call->cluster = answer.cluster;
	call->answered = answer.epoch;
	call->slot += call->step;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
