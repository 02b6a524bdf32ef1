/* SPDX-License-Identifier: MIT
 * The tenant of a request: in a header field, or in a segment of the path, as the configuration says. The rules are at the
 * top of http.bpf.h. Included by steer.bpf.c. */
#ifndef BERTH_TENANT_BPF_H
#define BERTH_TENANT_BPF_H

#include "berth.bpf.h"
#include "config.h"
#include "http.bpf.h"

const volatile struct steer_config steer_config = {};

/* A tenant's name of `len` bytes at `start`. 0, or an enum mirror_event. */
static __always_inline int http_key(const struct http *h, __u32 start, __u32 len, struct berth_key *key)
{
	__u64 odd = 0;

	if (len - 1 >= MIRROR_KEY_MAX)
		return len ? MIRROR_EVENT_KEY_LONG : MIRROR_EVENT_NO_TENANT;
	key->len = len;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < MIRROR_KEY_WORDS; i++) {
		__u64 w = 0, spaces = 0;

		if (len > i * 8) {
			if (!http_load(h, start + i * 8, &w))
				return MIRROR_EVENT_CUT;
			if (len < i * 8 + 8) {
				w &= (1ull << ((len & 7) * 8)) - 1;
				spaces = HTTP_ALL(' ') << (len & 7) * 8;
			}
			odd |= http_below(w | spaces, ' ') | http_equal(w, 0x7f);
		}
		key->words[i] = w;
	}
	return odd ? MIRROR_EVENT_NO_TENANT : 0;
}

/* The top bits of the bytes that are neither space nor tab, exact in each. */
static __always_inline __u64 http_not_blank(__u64 w)
{
	return ~(http_each(w, ' ') | http_each(w, '\t')) & HTTP_TOPS;
}

/* The tenant of the field whose value begins at `at`, behind the colon. */
__noinline int http_value(struct xdp_md *ctx, __u32 at, __u32 end, struct berth_key *key)
{
	__u32 off, len, behind;
	struct http h;

	if (!key)
		return MIRROR_EVENT_NO_TENANT;
	http_open(&h, ctx, end);
	off = http_any(&h, at);
	for (__u32 i = 0; i < HTTP_WORDS; i++) {
		__u64 w, found;

		if (!http_load(&h, off, &w))
			return MIRROR_EVENT_CUT;
		found = http_not_blank(w);
		if (found) {
			off = http_any(&h, off + http_count(found) - 1);
			break;
		}
		off = http_any(&h, off + 8);
	}
	if (!http_line_end(&h, off, &behind))
		return MIRROR_EVENT_CUT;
	switch (http_byte(&h, behind)) {
	case -1:
		return MIRROR_EVENT_CUT;
	case ' ':
	case '\t':
		return MIRROR_EVENT_NO_TENANT;
	}
	len = http_hide(&h, behind - 1 - off);
	if (len && http_byte(&h, http_any(&h, off + len - 1)) == '\r')
		len = http_hide(&h, len - 1);
	if (!len)
		return MIRROR_EVENT_NO_TENANT;
	for (__u32 i = 0; i < HTTP_WORDS; i++) { /* the value's first byte is not blank: that ends it */
		__u64 w, found;

		if (!http_load(&h, http_any(&h, off + len - 8), &w))
			return MIRROR_EVENT_CUT;
		found = http_not_blank(w);
		if (found) {
			len = http_hide(&h, len - 8 + http_count_last(found));
			break;
		}
		len = http_hide(&h, len - 8);
	}
	return http_key(&h, off, len, key);
}

/* The words of the configuration's field behind the first one, in the line at `at`. */
__noinline int http_name_differs(struct xdp_md *ctx, __u32 at, __u32 end)
{
	struct http h;
	__u64 differs = 0;

	http_open(&h, ctx, end);
	for (__u32 i = 1; i < STEER_NAME_WORDS && steer_config.care[i]; i++) {
		__u64 w;

		if (!http_load(&h, http_any(&h, at + i * 8), &w))
			return 1;
		differs |= ((w | steer_config.fold[i]) ^ steer_config.name[i]) & steer_config.care[i];
	}
	return differs != 0;
}

/* Where the value of the configuration's field begins, in lines from `at` on; an event is negative. */
__noinline int http_field(struct xdp_md *ctx, __u32 at, __u32 end)
{
	__u64 name = steer_config.name[0], fold = steer_config.fold[0], care = steer_config.care[0], inside = 0;
	struct http h;
	__u32 off;

	http_open(&h, ctx, end);
	off = http_any(&h, at);
	/* A line that is not the last has two bytes, so a step goes on by two on average at least. */
	for (__u32 i = 0; i < HTTP_WINDOW / 2 + 1; i++) {
		__u64 w, found;
		__u32 n;

		if (!http_load(&h, off, &w))
			return -MIRROR_EVENT_CUT;
		if (!((((w | fold) ^ name) & care) | inside) &&
		    !(steer_config.care[1] && http_name_differs(ctx, off, end)))
			return off + steer_config.name_len + 1;
		found = http_equal(w, '\n');
		if (!found) {
			inside = 1;
			off = http_any(&h, off + 8);
			continue;
		}
		n = http_count(found);
		if (!inside && (n == 1 || (n == 2 && (w & 0xff) == '\r')))
			return -MIRROR_EVENT_NO_TENANT; /* the head's end */
		inside = 0;
		off = http_any(&h, off + n);
	}
	return -MIRROR_EVENT_CUT;
}

static __always_inline int http_is_dots(const struct http *h, __u32 start, __u32 len)
{
	const __u8 *p = h->data + start;

	return len <= 2 && (const void *)(p + 2) <= h->data_end && p[0] == '.' && (len == 1 || p[1] == '.');
}

/* The tenant in segment number steer_config.segment of the path at `at`. */
__noinline int http_segment(struct xdp_md *ctx, __u32 at, __u32 end, struct berth_key *key)
{
	__u32 off, start, left;
	struct http h;

	if (!key)
		return MIRROR_EVENT_NO_TENANT;
	http_open(&h, ctx, end);
	if (http_byte(&h, at) != '/')
		return MIRROR_EVENT_NO_TENANT;
	off = start = http_any(&h, at + 1);
	left = http_hide(&h, steer_config.segment);
	for (__u32 i = 0; i < HTTP_WORDS + STEER_SEGMENT_MAX; i++) {
		__u64 w, found;
		__u32 n, len, byte;

		if (!http_load(&h, off, &w))
			break;
		found = http_equal(w, '/') | http_equal(w, '?') | http_equal(w, '%') | http_equal(w, '#') |
			http_below(w, ' ' + 1) | http_equal(w, 0x7f);
		if (!found) {
			off = http_any(&h, off + 8);
			continue;
		}
		n = http_count(found);
		byte = w >> (n - 1) * 8 & 0xff;
		off = http_any(&h, off + n);
		len = off - 1 - start;
		if (byte != '/' && byte != '?' && byte != ' ')
			break;
		if (len == 0 || http_is_dots(&h, start, len))
			break;
		if (--left == 0)
			return http_key(&h, start, len, key);
		if (byte != '/')
			break;
		start = off;
	}
	return MIRROR_EVENT_NO_TENANT;
}

#endif
