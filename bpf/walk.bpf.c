/* SPDX-License-Identifier: MIT
 * Look-ups by the thousand, for tests and benchmarks: each run of a program takes the next key of a list and asks the
 * mirror, or a hash map of the kernel with the same keys, or nothing (what the rest costs). Run through
 * BPF_PROG_TEST_RUN, by one thread at a time; attached to nothing. */
#include "berth.bpf.h"

#include "walk.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk_state);
} walk_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set before loading, as walk_hash's */
	__type(key, __u32);
	__type(value, struct walk_key);
} walk_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, BERTH_KEY_ROOM);
	__uint(value_size, sizeof(__u64)); /* a word, as in an entry */
} walk_hash SEC(".maps");

static __always_inline struct walk_state *next_key(struct berth_key *key)
{
	const struct walk_key *k;
	struct walk_state *s;
	__u32 at = 0;

	s = bpf_map_lookup_elem(&walk_state, &at);
	if (!s)
		return 0;
	at = (__u32)(s->next++ & s->mask);
	k = bpf_map_lookup_elem(&walk_keys, &at);
	if (!k)
		return 0;
	berth_key_set(key, k->bytes, (__u32)k->len);
	return s;
}

static __always_inline void count(struct walk_state *s, int code, __u32 cluster)
{
	s->n_code[code & 7]++;
	if (code != BERTH_BPF_OK)
		return;
	s->sum += cluster;
	if (cluster == s->forbidden)
		s->n_forbidden++;
}

static __always_inline void see(struct walk_state *s, __u64 epoch)
{
	if (epoch > s->seen_epoch) {
		s->seen_ns = bpf_ktime_get_ns();
		*(volatile __u64 *)&s->seen_epoch = epoch; /* last: user space waits for it */
	}
}

/* A hash map's value is looked at as a word. */
static __always_inline const volatile __u64 *in_hash(const struct berth_key *key)
{
	return bpf_map_lookup_elem(&walk_hash, key->words);
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} walk_next SEC(".maps");

SEC("xdp")
int walk_empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* Runs the program in walk_next on a packet as it came: without the metadata that the run before has left. */
SEC("xdp")
int walk_anew(struct xdp_md *ctx)
{
	if (ctx->data_meta < ctx->data && bpf_xdp_adjust_meta(ctx, (int)(ctx->data - ctx->data_meta)) != 0)
		return XDP_ABORTED;
	bpf_tail_call(ctx, &walk_next, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int walk_nothing(struct xdp_md *ctx)
{
	struct berth_key key;
	struct walk_state *s = next_key(&key);

	if (s)
		count(s, BERTH_BPF_OK,
		      (__u32)(key.words[0] ^ key.words[1] ^ key.words[2] ^ key.words[3] ^ key.words[4]));
	return 0;
}

SEC("xdp")
int walk_mirror(struct xdp_md *ctx)
{
	struct berth_answer answer = {0};
	struct berth_key key;
	struct walk_state *s = next_key(&key);

	if (s) {
		int code = berth_lookup(&key, &answer);

		count(s, code, answer.cluster);
	}
	return 0;
}

SEC("xdp")
int walk_map(struct xdp_md *ctx)
{
	struct berth_key key;
	struct walk_state *s = next_key(&key);
	const volatile __u64 *word;

	if (s) {
		word = in_hash(&key);
		count(s, word ? BERTH_BPF_OK : BERTH_BPF_UNKNOWN, word ? (__u32)(*word >> 5 & 0xffff) : 0);
	}
	return 0;
}

SEC("xdp")
int walk_admit(struct xdp_md *ctx)
{
	struct berth_key key;
	struct walk_state *s = next_key(&key);

	if (s)
		count(s, berth_admit(&key, s->epoch), 0);
	return 0;
}

SEC("xdp")
int watch_mirror(struct xdp_md *ctx)
{
	struct berth_answer answer;
	struct berth_key key;
	struct walk_state *s = next_key(&key);

	if (s && berth_lookup(&key, &answer) == BERTH_BPF_OK)
		see(s, answer.epoch);
	return 0;
}

SEC("xdp")
int watch_map(struct xdp_md *ctx)
{
	struct berth_key key;
	struct walk_state *s = next_key(&key);
	const volatile __u64 *word;

	if (s && (word = in_hash(&key)))
		see(s, *word >> 21);
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
