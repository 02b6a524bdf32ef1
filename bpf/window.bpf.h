/* SPDX-License-Identifier: MIT
 * A window on the payload of a packet, and bytes looked for in it, eight at a time: bytes in a loop cost a nanosecond or
 * two each, so a byte of a word is found by arithmetic on all eight (http_equal). Included by http.bpf.h. Stores nothing,
 * and loads nothing outside the frame. Little-endian machines: the first byte is the lowest. */
#ifndef BERTH_WINDOW_BPF_H
#define BERTH_WINDOW_BPF_H

#include "packet.bpf.h"

#define HTTP_WINDOW 1536u
#define HTTP_WORDS (HTTP_WINDOW / 8 + 1)
#define HTTP_OFFSET_MASK 4095u
_Static_assert(PACKET_AT_MAX + HTTP_WINDOW + 8 <= HTTP_OFFSET_MASK, "every byte that is looked at has an offset");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a word is its lowest");

struct http {
	const void *data, *data_end;
	__u32 end;  /* offset in the frame: nothing behind it is looked at */
	__u32 last; /* end - 8 */
	__u64 salt; /* any number that the verifier knows nothing of */
};

/* ---- words ---- */

#define HTTP_ONES 0x0101010101010101ull
#define HTTP_TOPS 0x8080808080808080ull
#define HTTP_ALL(byte) (HTTP_ONES * (byte))

/* The top bit of the first byte that is zero, equal to `byte`, or below `limit` (1..128); bits above it may be wrong. */
static __always_inline __u64 http_zero(__u64 w)
{
	return (w - HTTP_ONES) & ~w & HTTP_TOPS;
}
static __always_inline __u64 http_equal(__u64 w, __u64 byte)
{
	return http_zero(w ^ HTTP_ALL(byte));
}
static __always_inline __u64 http_below(__u64 w, __u64 limit)
{
	return (w - HTTP_ALL(limit)) & ~w & HTTP_TOPS;
}
/* The same, exact in every byte. */
static __always_inline __u64 http_each(__u64 w, __u64 byte)
{
	__u64 differs = w ^ HTTP_ALL(byte);

	return ~((differs & ~HTTP_TOPS) + ~HTTP_TOPS | differs) & HTTP_TOPS;
}
/* All bits of the bytes before the first one that such bits name. */
static __always_inline __u64 http_before(__u64 bits)
{
	return ((bits & -bits) >> 7) - 1;
}
/* Of such bits: how many bytes up to the first one, itself included. 1..8 */
static __always_inline __u32 http_count(__u64 bits)
{
	return (__u32)(((bits - 1) & ~bits & HTTP_ONES) * HTTP_ONES >> 56);
}

/* Up to the last one. */
static __always_inline __u32 http_count_last(__u64 bits)
{
	bits |= bits >> 8;
	bits |= bits >> 16;
	bits |= bits >> 32;
	return (__u32)((bits >> 7 & HTTP_ONES) * HTTP_ONES >> 56);
}

/* What x is, but for the verifier any number: states that differ in nothing else are the same to it then, so that it looks
 * at a step of a loop once, not once for each way that leads there. To be used wherever a number changes that outlives the
 * step. http_any: of an offset. */
static __always_inline __u64 http_hide(const struct http *h, __u64 x)
{
	asm volatile("%0 -= %1\n\t%0 += %1" : "+r"(x) : "r"(h->salt));
	return x;
}
static __always_inline __u32 http_any(const struct http *h, __u64 off)
{
	return http_hide(h, off) & HTTP_OFFSET_MASK;
}

/* `end`: of the window, which has less than HTTP_WINDOW bytes. A frame has more than eight bytes before its payload. */
static __always_inline void http_open(struct http *h, const struct xdp_md *ctx, __u32 end)
{
	h->data = (void *)(long)ctx->data;
	h->data_end = (void *)(long)ctx->data_end;
	h->salt = end * 3ull;
	h->end = end;
	h->last = http_any(h, end - 8);
}

/* The word at `off`, with zeros for what is behind the window; 0: all of it is. What is compared is what is left, so that
 * the verifier learns nothing of `off` from it. */
static __always_inline int http_load(const struct http *h, __u32 off, __u64 *w)
{
	__s64 left = (__s64)h->end - off;
	__u64 shift = 0;
	const void *p;

	if (left < 8) {
		if (left <= 0)
			return 0;
		shift = (8 - left) * 8;
		off = h->last;
	}
	p = h->data + off;
	if (p + 8 > h->data_end)
		return 0;
	*w = *(const volatile __u64 *)p >> shift;
	return 1;
}

/* The byte at `off`; -1: none. */
static __always_inline int http_byte(const struct http *h, __u32 off)
{
	__s64 left = (__s64)h->end - off;
	const __u8 *p;

	p = h->data + (off & HTTP_OFFSET_MASK);
	return left <= 0 || (const void *)(p + 1) > h->data_end ? -1 : *p;
}

#endif
