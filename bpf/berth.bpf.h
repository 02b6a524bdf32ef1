/* SPDX-License-Identifier: MIT
 * What a packet program includes to ask an instance's mirror: which cluster is this tenant on, and may a write go there
 * now? Everything is inlined into the program; nothing waits, allocates, or stores, but for berth_admit's one flag. User
 * space gives the maps below the ones that berthd has pinned (programs_use_mirror in programs.h, or a libbpf
 * bpf_map__reuse_fd each). look.bpf.c is an example.
 *
 * Define before including, for what the program uses besides look-ups: BERTH_USE_CLUSTERS (berth_address),
 * BERTH_USE_STATS (berth_counts), BERTH_USE_EVENTS (berth_event), BERTH_USE_LEASES (the map alone; lease.bpf.h).
 *
 * Linux 5.15 has all that this needs; berth_admit needs the fetching atomics of 5.12 (-mcpu=v3).
 *
 * G1 The word is loaded before the hash and the key that are compared, so they are the key's that the word is of: a slot
 *    is given to another key only after a kernel grace period (mirror.h, M2). A hash alone never decides: the key is
 *    compared in full.
 * G2 A miss is answered by the default only if its word, loaded before the probe, is unchanged after it.
 * G3 control.state, loaded first, is loaded again last: what was found while the table changed hands does not count.
 * G4 berth_admit's flag is stored by a fetching atomic, a full barrier, before the first load that decides.
 * G5 Whatever the maps hold, at most MIRROR_PROBE_MAX entries are looked at, and nobody gets another key's entry.
 * G1..G3 are the order of loads as written (volatile) on x86-64, whose loads are not reordered. Elsewhere they could be:
 * berthd enables a mirror on x86-64 alone, so that state is 0 and every answer is "pass". */
#ifndef BERTH_BPF_H
#define BERTH_BPF_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "answer.h"
#include "layout.h"

/* ---- the maps: types and sizes as berthd makes them ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mirror_control);
} berth_control SEC(".maps");

struct berth_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1); /* the real ones have more: BPF_F_INNER_MAP */
	__uint(key_size, sizeof(__u32));
	__uint(value_size, MIRROR_ENTRY);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct berth_inner);
} berth_table SEC(".maps");

#ifdef BERTH_USE_CLUSTERS
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MIRROR_CLUSTERS);
	__type(key, __u32);
	__type(value, struct mirror_cluster);
} berth_clusters SEC(".maps");
#endif

#ifdef BERTH_USE_LEASES
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MIRROR_LEASES);
	__type(key, __u32);
	__type(value, struct mirror_lease);
} berth_leases SEC(".maps");
#endif

#ifdef BERTH_USE_STATS
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MIRROR_STATS);
	__type(key, __u32);
	__type(value, struct mirror_counts);
} berth_stats SEC(".maps");
#endif

#ifdef BERTH_USE_EVENTS
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MIRROR_EVENTS);
	__type(key, __u32);
	__type(value, __u64);
} berth_events SEC(".maps");
#endif

/* ---- keys ---- */

struct berth_key {
	__u64 words[MIRROR_KEY_WORDS]; /* the bytes, little-endian, then zeros */
	__u32 len;
};
#define BERTH_KEY_ROOM (MIRROR_KEY_WORDS * 8)

/* From `len` bytes where BERTH_KEY_ROOM may be read, whatever follows them: a map's value, or packet data that has been
 * checked against its end. A length that no key in the mirror has (0, above MIRROR_KEY_MAX) gives a key without an
 * answer. The words need not be aligned, which x86-64 and aarch64 kernels allow (a type that says so would be loaded byte
 * by byte). */
static __always_inline void berth_key_set(struct berth_key *k, const void *bytes, __u32 len)
{
	const __u64 *from = bytes;

	k->len = len;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < MIRROR_KEY_WORDS; i++) {
		__u64 word = from[i];

		if (len <= i * 8)
			word = 0;
		else if (len < i * 8 + 8)
			word &= (1ull << ((len & 7) * 8)) - 1;
		k->words[i] = word;
	}
}

/* ---- the hash: hash_key of ../shm/hash.h, from whole words ---- */

/* The low half, by one instruction: left to itself, clang 14 takes two shifts. */
static __always_inline __u64 berth_low(__u64 a)
{
#ifdef __bpf__
	__asm__("%0 = le32 %0" : "+r"(a));
	return a;
#else /* user space: tests alone */
	return (__u32)a;
#endif
}

static __always_inline __u64 berth_mum(__u64 a, __u64 b)
{
	__u64 a_low = berth_low(a), a_high = a >> 32, b_low = berth_low(b), b_high = b >> 32;
	__u64 low = a_low * b_low, across = a_high * b_low, middle = a_low * b_high + (low >> 32) + berth_low(across);

	return (a * b) ^ (a_high * b_high + (across >> 32) + (middle >> 32));
}

/* Eight bytes that begin `shift` bits (0..56) into the first word. */
static __always_inline __u64 berth_straddle(__u64 first, __u64 next, __u32 shift)
{
	return first >> shift | next << 1 << (63 - shift);
}

static __always_inline __u64 berth_hash_words(const volatile __u64 secret[4], const struct berth_key *k)
{
	const __u64 *w = k->words;
	__u32 len = k->len, shift = (len & 7) * 8;
	__u64 a, b = 0, lanes = secret[2];

	if (len < 4) {
		a = (w[0] & 0xff) << 16 | (w[0] >> (len >> 1) * 8 & 0xff) << 8 | (w[0] >> ((len - 1) & 3) * 8 & 0xff);
	} else if (len < 8) {
		a = w[0] << 32 | (__u32)(w[0] >> (shift - 32));
	} else if (len <= 16) {
		a = w[0];
		b = len == 16 ? w[1] : berth_straddle(w[0], w[1], shift);
	} else {
		lanes ^= berth_mum(w[0] ^ secret[1], w[1] ^ secret[2]);
		if (len > 32) {
			lanes ^= secret[2] ^ berth_mum(w[2] ^ secret[3], w[3] ^ secret[2]);
			a = w[3];
			b = berth_straddle(w[3], w[4], shift);
		} else if (len > 24) {
			a = w[2];
			b = len == 32 ? w[3] : berth_straddle(w[2], w[3], shift);
		} else {
			a = w[1];
			b = len == 24 ? w[2] : berth_straddle(w[1], w[2], shift);
		}
	}
	return berth_mum(secret[3] ^ lanes ^ len, berth_mum(a ^ secret[0], b ^ secret[1]));
}

/* ---- look-ups ---- */

static __always_inline int berth_no_answer(struct berth_answer *a, int code, __u8 why)
{
	a->why = why;
	return code;
}

static __always_inline struct mirror_control *berth_control_page(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&berth_control, &zero);
}

/* The hash that entries and leases of this key carry. */
static __always_inline __u64 berth_hash(const struct berth_key *k)
{
	const struct mirror_control *c = berth_control_page();

	return c ? berth_hash_words(c->secret, k) : 0;
}

static __always_inline int berth_word_answer(__u64 word, struct berth_answer *a)
{
	a->epoch = word >> 21;
	a->cluster = word >> 5 & 0xffff;
	a->kind = word >> 2 & 3;
	a->phase = word & 3;
	/* no cluster: what no writer stores */
	return (word & 3) == MIRROR_PHASE_PASS || a->cluster == 0
		       ? berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS)
		       : BERTH_BPF_OK;
}

static __always_inline int berth_same_key(const volatile struct mirror_entry *e, const struct berth_key *k)
{
	return ((e->key[0] ^ k->words[0]) | (e->key[1] ^ k->words[1]) | (e->key[2] ^ k->words[2]) |
		(e->key[3] ^ k->words[3]) | (e->key[4] ^ k->words[4])) == 0 &&
	       e->len == k->len;
}

static __always_inline int berth_find(const volatile struct mirror_control *c, const struct berth_key *k, __u64 hash,
				      struct berth_answer *a)
{
	const volatile struct mirror_head *head;
	const volatile struct mirror_entry *e;
	__u32 zero = 0, at, longest;
	__u64 state, dflt, word = 0;
	void *table;

	a->is_default = 0;
	if (k->len - 1 >= MIRROR_KEY_MAX)
		return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_KEY_LONG);
	state = c->state;
	if (!state)
		return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	table = bpf_map_lookup_elem(&berth_table, &zero);
	if (!table || !(head = bpf_map_lookup_elem(table, &zero)))
		return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	dflt = head->dflt; /* G2 */
	longest = head->longest_probe;
	at = (__u32)((hash >> 32) * head->capacity >> 32) + 1; /* index_home of ../shm/index.h, behind the head */

	for (__u32 i = 0; i < MIRROR_PROBE_MAX; i++, at++) {
		e = bpf_map_lookup_elem(table, &at);
		if (!e)
			return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
		word = e->word; /* G1 */
		if (!word)
			goto miss;
		if (e->hash == hash && word & 0xc && berth_same_key(e, k)) {
			if (c->state != state) /* G3 */
				return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
			return berth_word_answer(word, a);
		}
		if (i >= longest)
			goto miss;
	}
	return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PROBE);
miss:
	if (head->dflt != dflt || c->state != state) /* G2, G3 */
		return berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
	if (!(dflt & 0xc))
		return berth_no_answer(a, BERTH_BPF_UNKNOWN, MIRROR_EVENT_UNKNOWN);
	a->is_default = 1;
	return berth_word_answer(dflt, a);
}

/* BERTH_BPF_OK and *a, or _PASS, or _UNKNOWN. */
static __always_inline int berth_lookup(const struct berth_key *k, struct berth_answer *a)
{
	const struct mirror_control *c = berth_control_page();

	return c ? berth_find(c, k, berth_hash_words(c->secret, k), a)
		 : berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
}

/* The same by a hash that is known already (berth_hash of this key). */
static __always_inline int berth_lookup_hashed(const struct berth_key *k, __u64 hash, struct berth_answer *a)
{
	const struct mirror_control *c = berth_control_page();

	return c ? berth_find(c, k, hash, a) : berth_no_answer(a, BERTH_BPF_PASS, MIRROR_EVENT_PASS);
}

/* The gate's judgement of an answer: may a write go by it at this epoch? BERTH_BPF_OK, _STALE or _CUTOVER. */
static __always_inline int berth_judge(const struct berth_answer *a, __u64 epoch)
{
	if (a->phase == 2)
		return BERTH_BPF_CUTOVER;
	return a->epoch == epoch && epoch ? BERTH_BPF_OK : BERTH_BPF_STALE;
}

/* The write gate without a lease: BERTH_BPF_OK, _STALE, _CUTOVER, _UNKNOWN or _PASS. Its use makes every migration of the
 * instance wait for the whole barrier (control.gated); with the leases of lease.bpf.h it ends with the last write. */
static __always_inline int berth_admit(const struct berth_key *k, __u64 epoch)
{
	struct mirror_control *c = berth_control_page();
	struct berth_answer a;
	int code;

	if (!c)
		return BERTH_BPF_PASS;
	if (!*(volatile __u64 *)&c->gated)
		__sync_lock_test_and_set(&c->gated, 1); /* G4 */
	code = berth_lookup(k, &a);
	return code == BERTH_BPF_OK ? berth_judge(&a, epoch) : code;
}

/* ---- clusters, counts, events ---- */

#ifdef BERTH_USE_CLUSTERS
struct berth_address {
	__u16 port;       /* network byte order */
	__u8 family;      /* MIRROR_IPV4 or MIRROR_IPV6 */
	__u8 tls;         /* 1: https */
	__u32 address[4]; /* network byte order; IPv4 in the first */
};

#define BERTH_ADDRESS_TRIES 4

/* Of a cluster's endpoint. BERTH_BPF_OK; _UNKNOWN: no such cluster, no endpoint, or one that names a host; _PASS: it is
 * being changed. */
static __always_inline int berth_address(__u32 cluster, struct berth_address *out)
{
	const volatile struct mirror_cluster *c = bpf_map_lookup_elem(&berth_clusters, &cluster);

	if (!c)
		return BERTH_BPF_UNKNOWN;
	for (__u32 i = 0; i < BERTH_ADDRESS_TRIES; i++) {
		const volatile __u32 *words = (const volatile __u32 *)c->address;
		__u32 sequence = c->sequence;

		out->port = c->port;
		out->family = c->family;
		out->tls = c->tls;
		out->address[0] = words[0];
		out->address[1] = words[1];
		out->address[2] = words[2];
		out->address[3] = words[3];
		if (!(sequence & 1) && c->sequence == sequence)
			return out->family == MIRROR_IPV4 || out->family == MIRROR_IPV6 ? BERTH_BPF_OK
											: BERTH_BPF_UNKNOWN;
	}
	return BERTH_BPF_PASS;
}
#endif

#ifdef BERTH_USE_STATS
/* This processor's counts of the answer's cluster and phase, to be added to; NULL never, but the verifier cannot know. */
static __always_inline struct mirror_counts *berth_counts(const struct berth_answer *a)
{
	__u32 cluster = a->cluster < MIRROR_STATS_CLUSTERS ? a->cluster : 0;
	__u32 at = cluster * MIRROR_PHASES + (a->phase & (MIRROR_PHASES - 1));

	return bpf_map_lookup_elem(&berth_stats, &at);
}
#endif

#ifdef BERTH_USE_EVENTS
static __always_inline void berth_event(__u32 event)
{
	__u64 *n = bpf_map_lookup_elem(&berth_events, &event);

	if (n)
		++*n;
}
#endif

#endif
