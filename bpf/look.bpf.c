/* SPDX-License-Identifier: MIT
 * An example to start from, and what tests run: an XDP program that answers, from the mirror, frames that ask where a
 * tenant is (look.h), and sends them back to where they came from. All other packets go on as if it were not there. It
 * answers whoever can send a frame to the device that it is attached to.
 *
 * A program of one's own does the same four things: it includes berth.bpf.h, finds a tenant's name in a packet
 * (berth_key_set), asks (berth_lookup), and lets user space decide whenever the answer is BERTH_BPF_PASS. */
#define BERTH_USE_CLUSTERS
#include "berth.bpf.h"

#include <bpf/bpf_endian.h>

#include "look.h"

static __always_inline void swap_addresses(struct look_frame *f)
{
	__u8 to[6];

	__builtin_memcpy(to, f->to, 6);
	__builtin_memcpy(f->to, f->from, 6);
	__builtin_memcpy(f->from, to, 6);
}

static __always_inline void route(struct look_frame *f, const struct berth_key *key)
{
	struct berth_address address = {0};
	struct berth_answer answer;

	f->code = (__u8)berth_lookup(key, &answer);
	if (f->code != BERTH_BPF_OK) {
		f->why = answer.why;
		return;
	}
	f->epoch = answer.epoch;
	f->cluster = answer.cluster;
	f->kind = answer.kind;
	f->phase = answer.phase;
	f->is_default = answer.is_default;
	if (berth_address(answer.cluster, &address) != BERTH_BPF_OK)
		return;
	f->family = address.family;
	f->tls = address.tls;
	f->port = address.port;
	__builtin_memcpy(f->address, address.address, sizeof(f->address));
}

SEC("xdp")
int look(struct xdp_md *ctx)
{
	struct look_frame *f = (struct look_frame *)(long)ctx->data;
	struct berth_key key;

	if ((void *)(f + 1) > (void *)(long)ctx->data_end || f->type != bpf_htons(LOOK_ETHERTYPE))
		return XDP_PASS;
	berth_key_set(&key, f->key, f->len);
	if (f->op == LOOK_ROUTE)
		route(f, &key);
	else if (f->op == LOOK_ADMIT)
		f->code = (__u8)berth_admit(&key, f->epoch);
	else
		return XDP_PASS;
	swap_addresses(f);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
