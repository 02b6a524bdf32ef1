/* SPDX-License-Identifier: MIT
 * What is set in packet programs before they are loaded: one struct for each, a `const volatile` in its .rodata, written
 * by bpf/programs.c and by tests; and what steer hands on to other programs. Compiled for both sides. */
#ifndef BERTH_BPF_CONFIG_H
#define BERTH_BPF_CONFIG_H

#include <linux/types.h>

/* ---- steer: `const volatile struct steer_config steer_config` ---- */

enum steer_mode { STEER_HEADER = 0, STEER_SEGMENT = 1 };
#define STEER_NAME_MAX 32u
#define STEER_NAME_WORDS 5u /* the name and the colon behind it */
#define STEER_SEGMENT_MAX 16u

struct steer_config {
	__u32 mode;    /* enum steer_mode */
	__u32 segment; /* of the path that names the tenant, 1..STEER_SEGMENT_MAX; STEER_SEGMENT only */
	__u32 gate;    /* 1: what begins a write of a partition in cutover is dropped, to be sent again */
	__u16 port;    /* TCP destination port, host byte order; 0: any */
	__u16 name_len;
	/* Set by steer_config_header. An eighth of a name a word, little-endian: a byte of a packet matches when it equals
	 * name after `fold` was set in it, where `care` has bits. Exact: fold has a bit for letters alone. */
	__u64 name[STEER_NAME_WORDS];
	__u64 fold[STEER_NAME_WORDS];
	__u64 care[STEER_NAME_WORDS];
};

/* The header field that names the tenant; its case does not matter. 0; -1: not 1..STEER_NAME_MAX characters that RFC 9110
 * allows in a field's name. */
static inline int steer_config_header(struct steer_config *c, const char *name)
{
	__u32 len = 0;

	c->mode = STEER_HEADER;
	for (__u32 i = 0; i < STEER_NAME_WORDS; i++)
		c->name[i] = c->fold[i] = c->care[i] = 0;
	for (int end = 0; !end; len++) {
		unsigned char ch = (unsigned char)name[len];
		unsigned char lower = (unsigned char)(ch | 0x20);
		int letter = lower >= 'a' && lower <= 'z';
		__u32 word = len / 8, shift = len % 8 * 8;

		if (!ch) {
			end = 1;
			ch = ':';
		} else if (len == STEER_NAME_MAX ||
			   !(letter || (ch >= '0' && ch <= '9') || __builtin_strchr("!#$%&'*+-.^_`|~", ch))) {
			return -1;
		}
		c->name[word] |= (__u64)(letter ? lower : ch) << shift;
		c->fold[word] |= (__u64)(letter ? 0x20 : 0) << shift;
		c->care[word] |= 0xffull << shift;
	}
	c->name_len = (__u16)(len - 1);
	return c->name_len ? 0 : -1;
}

/* In front of a steered packet, as XDP metadata: at ctx->data_meta of a TC program or a later XDP program, in the
 * sizeof(struct steer_meta) bytes before the frame for an AF_XDP socket. A packet that was not steered has none: who has
 * no other way to know (an AF_XDP socket gets no length of metadata) lets only packets through to it that have. */
#define STEER_META_MAGIC 0x6274u /* "tb" */
struct steer_meta {
	__u64 epoch;   /* that the answer was true at */
	__u32 cluster; /* its number */
	__u16 magic;   /* STEER_META_MAGIC */
	__u8 phase;    /* as in shm/word.h */
	__u8 kind;     /* as in shm/word.h; + STEER_META_DEFAULT: the default placement answered */
};
#define STEER_META_DEFAULT 0x80u

/* skb->mark after steer_mark */
#define STEER_MARK(cluster, phase) ((__u32)(cluster) | (__u32)(phase) << 16)

/* ---- connect: `const volatile struct connect_config connect_config` ---- */

/* Addresses that stand for clusters: the prefix, and in the last 16 bits the cluster's number. The defaults are for
 * benchmarks (RFC 2544) and for private use (RFC 4193), so nothing routes them. */
#define CONNECT_PREFIX4 "198.18.0.0"
#define CONNECT_PREFIX6 "fd62:6572:7468::"
struct connect_config { /* network byte order, the last 16 bits of each 0 */
	__u32 prefix4;
	__u32 prefix6[4];
};

_Static_assert(sizeof(struct steer_meta) == 16, "metadata");

#endif
