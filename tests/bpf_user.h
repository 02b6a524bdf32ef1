/* SPDX-License-Identifier: MIT
 * Parsers of packet programs (bpf/NAME.bpf.h, bpf/steer.bpf.c), compiled for user space, where sanitizers watch them:
 * include this before them, in one file of a program. Their maps are asked for through user_map_lookup and their skb's
 * bytes come from memory of an exact size, both given by the includer. clang alone: they are written for it.
 *
 * The kernel's xdp_md and __sk_buff have addresses of 32 bits, which the verifier replaces: here are structs with the
 * members that the programs use. */
#ifndef BERTH_TESTS_BPF_USER_H
#define BERTH_TESTS_BPF_USER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define xdp_md kernel_xdp_md
#define __sk_buff kernel_sk_buff
#include <linux/bpf.h>
#undef xdp_md
#undef __sk_buff
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/types.h>

struct xdp_md {
	unsigned long data, data_end, data_meta;
	long headroom; /* bytes before data that metadata may have */
};
struct __sk_buff {
	__u32 len, mark;
	unsigned long data, data_end, data_meta;
	const unsigned char *bytes; /* len of them */
};

/* In place of <bpf/bpf_helpers.h>. */
#define __BPF_HELPERS__
#undef __always_inline
#define SEC(name) __attribute__((unused))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) __typeof__(value) *name
#define __array(name, value) __typeof__(value) *name[]
#include <bpf/bpf_endian.h>

void *user_map_lookup(const void *map, const void *key);
#define bpf_map_lookup_elem(map, key) user_map_lookup(map, key)

static inline int bpf_xdp_adjust_meta(struct xdp_md *ctx, int delta)
{
	if (-delta > ctx->headroom)
		return -95; /* EOPNOTSUPP */
	ctx->data_meta = ctx->data - (unsigned long)-delta;
	return 0;
}

/* As the kernel's: all of it or nothing, and then what was there is gone. */
static inline long bpf_skb_load_bytes(const struct __sk_buff *skb, __u32 off, void *to, __u32 n)
{
	if (n == 0 || off > skb->len || n > skb->len - off) {
		memset(to, 0, n);
		return -14; /* EFAULT */
	}
	memcpy(to, skb->bytes + off, n);
	return 0;
}

/* Assembly for the verifier's sake, which changes no value. `asm` is no keyword in C11. */
#define asm
#define volatile(...)

/* Loads of packet data need not be aligned; and these are compiled without -Wconversion for their own target. */
#pragma clang attribute push(__attribute__((no_sanitize("alignment"))), apply_to = function)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wconversion"
#pragma clang diagnostic ignored "-Wunused-function"
#pragma clang diagnostic ignored "-Wunused-parameter"
#pragma clang diagnostic ignored "-Wshadow"

/* Behind the programs. */
#define BPF_USER_END _Pragma("clang diagnostic pop") _Pragma("clang attribute pop") _Static_assert(1, "")

#endif
