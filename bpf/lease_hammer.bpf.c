// SPDX-License-Identifier: MIT
/* Writers for tests: begins and ends of leases one after the other, each run one of them, on partitions and slots taken at
 * random. What is under way is in `going` from after the begin until before the end, so that a test can look whether a
 * write was let through that should not have been. Run through BPF_PROG_TEST_RUN, on several processors; attached to
 * nothing. bpf_loop is of Linux 5.17; what is tested does without. */
#define BERTH_USE_LEASES
#include "berth.bpf.h"

#include "lease_test.h"

#define DAWDLE_ONE_IN 32
#define DAWDLE_TURNS (1u << 17) /* at most: a fraction of a millisecond */

static long turn(__u32 i, void *nothing)
{
	return 0;
}

/* Now and then a begin takes its time before and behind its look-up, so that a cutover and its `complete` fit in. */
static __always_inline void dawdle(void)
{
	__u32 random = bpf_get_prandom_u32();

	if (random % DAWDLE_ONE_IN == 0)
		bpf_loop(random / DAWDLE_ONE_IN % DAWDLE_TURNS, turn, 0, 0);
}

static __always_inline int slow_lookup(const struct berth_key *key, __u64 hash, struct berth_answer *answer)
{
	int code;

	dawdle();
	code = berth_lookup_hashed(key, hash, answer);
	dawdle();
	return code;
}
#define berth_lookup_hashed slow_lookup
#include "lease.bpf.h"
#undef berth_lookup_hashed

volatile struct hammer_shared hammer_shared;
_Static_assert(sizeof(hammer_shared.keys[0]) == sizeof(struct berth_key), "keys as look-ups take them");

SEC("xdp")
int lease_hammer(struct xdp_md *ctx)
{
	struct hammer_call *call = (void *)(long)ctx->data;
	volatile struct hammer_shared *shared = &hammer_shared;
	struct berth_answer answer;
	__u32 random = bpf_get_prandom_u32(), at = random % HAMMER_KEYS, slot;
	int code;

	if ((void *)(call + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	slot = call->processor % HAMMER_PROCESSORS * HAMMER_SLOTS + (random >> 8) % HAMMER_SLOTS;
	if (slot >= HAMMER_PROCESSORS * HAMMER_SLOTS || at >= HAMMER_KEYS)
		return XDP_ABORTED;
	if (shared->going[slot]) {
		shared->going[slot] = 0;
		code = berth_write_end(slot, BERTH_BPF_DONE);
		call->ended++;
		call->wrong += code != BERTH_BPF_OK;
		return XDP_PASS;
	}
	code = berth_write_begin((const struct berth_key *)&shared->keys[at], 0, slot, &answer);
	if (code == BERTH_BPF_OK) {
		shared->going[slot] = answer.epoch << 8 | (at + 1);
		call->admitted++;
		call->late += answer.epoch < shared->completed[at];
	} else if (code == BERTH_BPF_CUTOVER || code == BERTH_BPF_PASS) {
		call->refused++;
	} else {
		call->wrong++;
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
