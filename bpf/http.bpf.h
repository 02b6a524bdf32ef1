/* SPDX-License-Identifier: MIT
 * The line of an HTTP/1.x request that begins in a packet: where its parts are, and whether it is a write. And the rules
 * for all that is looked for in a request (the tenant: tenant.bpf.h). Looks at bytes alone, in place; what is in doubt has
 * no tenant, never another one's.
 *
 * What counts, and a parser that is written from this has to agree in all (tests/packet_oracle.c is one):
 * - A payload begins a request when it begins with a token (RFC 9110, at most HTTP_METHOD_MAX characters), a space, a
 *   target, " HTTP/1." and a digit, then CR LF or LF alone. Else NOT_HTTP; CUT when the payload ends before the line does.
 * - A write is what has another method than GET, HEAD, OPTIONS or TRACE, but for a POST or DELETE whose path names a search
 *   of OpenSearch's (HTTP_SEARCHES, as it is written, not decoded; in the first 256 bytes).
 * - A field counts only in a line of its own with the colon right behind the name; the first such line decides. Its value
 *   ends with its line, spaces and tabs around it stripped. The byte behind the line must be there (else CUT), and is no
 *   space or tab (a folded line: no tenant).
 * - A path begins with '/'; '?' or a space ends it. No tenant: an empty or a dot segment, '%' or '#' or a control
 *   character up to the end of the tenant's segment: nobody knows what the proxy makes of them. What comes behind it is
 *   not looked at; a proxy that resolves dot segments must not take a path's tenant from here.
 * - A tenant's name is 1..39 bytes without control characters (bytes below 0x20, 0x7f). Longer: KEY_LONG.
 * - Only the first HTTP_WINDOW bytes of the payload are looked at: the rest might as well not be there. */
#ifndef BERTH_HTTP_BPF_H
#define BERTH_HTTP_BPF_H

#include "layout.h"
#include "window.bpf.h"

#define HTTP_METHOD_MAX 23u

/* Functions that are not inlined are global, so that the verifier looks at each once, for any arguments: the payload's
 * part that begins at `at`, and the window's `end`. They return 0 or an enum mirror_event, unless they say otherwise. */

/* ---- the request line ---- */

#define HTTP_TEXT(a, b, c, d, e, f, g, h) \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 | (__u64)(f) << 40 | \
	 (__u64)(g) << 48 | (__u64)(h) << 56)

struct http_line {
	__u32 target; /* offset */
	__u32 next;   /* of the line behind */
	__u8 write;   /* not GET, HEAD, OPTIONS or TRACE: what nobody knows changes data */
	__u8 unsure;  /* POST, DELETE: searches come as these, too */
};

/* Sets *behind to the offset behind the line's LF. */
static __always_inline int http_line_end(const struct http *h, __u32 off, __u32 *behind)
{
	for (__u32 i = 0; i < HTTP_WORDS; i++) {
		__u64 w, found;

		if (!http_load(h, off, &w))
			break;
		found = http_equal(w, '\n');
		if (found) {
			*behind = http_any(h, off + http_count(found));
			return 1;
		}
		off = http_any(h, off + 8);
	}
	return 0;
}

/* A token of any characters that RFC 9110 allows, then a space: the offset behind it in *off. */
static __always_inline int http_token(const struct http *h, __u32 *off)
{
	/* bit c - 32: !#$%&'*+-. 0-9; bit c - 64: A-Z ^_ ` a-z |~ */
	const __u64 low = 0x03ff6cfa00000000ull, high = 0x57ffffffc7fffffeull;

	for (__u32 i = 0; i <= HTTP_METHOD_MAX; i++) {
		int c = http_byte(h, *off + i);

		if (c < 0)
			return MIRROR_EVENT_CUT;
		if (c == ' ' && i) {
			*off += i + 1;
			return 0;
		}
		if (c > 127 || !((c < 64 ? low : high) >> (c & 63) & 1))
			return MIRROR_EVENT_NOT_HTTP;
	}
	return MIRROR_EVENT_NOT_HTTP;
}

/* The line of the request that begins at `at`. */
__noinline int http_request_line(struct xdp_md *ctx, __u32 at, __u32 end, struct http_line *line)
{
	__u64 w, found, write = 0, unsure = 0;
	__u32 off, next;
	struct http h;
	int code;

	if (!line)
		return MIRROR_EVENT_NOT_HTTP;
	http_open(&h, ctx, end);
	off = http_any(&h, at);

	if (!http_load(&h, off, &w))
		return MIRROR_EVENT_NOT_HTTP;
	found = http_equal(w, ' ');
	w &= ((found & -found) << 1) - 1; /* up to the space, with it */
	if (w == HTTP_TEXT('G', 'E', 'T', ' ', 0, 0, 0, 0)) {
		off += 4;
	} else if (w == HTTP_TEXT('P', 'O', 'S', 'T', ' ', 0, 0, 0)) {
		write = unsure = 1;
		off += 5;
	} else if (w == HTTP_TEXT('P', 'U', 'T', ' ', 0, 0, 0, 0)) {
		write = 1;
		off += 4;
	} else {
		write = w != HTTP_TEXT('H', 'E', 'A', 'D', ' ', 0, 0, 0) &&
			w != HTTP_TEXT('O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') &&
			w != HTTP_TEXT('T', 'R', 'A', 'C', 'E', ' ', 0, 0);
		unsure = w == HTTP_TEXT('D', 'E', 'L', 'E', 'T', 'E', ' ', 0);
		code = http_token(&h, &off);
		if (code)
			return code;
	}
	line->write = write;
	line->unsure = unsure;
	line->target = off = http_any(&h, off);
	if (!http_line_end(&h, off, &next))
		return MIRROR_EVENT_CUT;
	line->next = next;
	end = next - 1;
	if (http_byte(&h, end - 1) == '\r')
		end--;
	if (end < off + 10) /* a target of one character at least */
		return MIRROR_EVENT_NOT_HTTP;
	code = http_byte(&h, end - 1);
	if (code < '0' || code > '9' || !http_load(&h, http_any(&h, end - 9), &w) ||
	    w != HTTP_TEXT(' ', 'H', 'T', 'T', 'P', '/', '1', '.'))
		return MIRROR_EVENT_NOT_HTTP;
	return 0;
}

/* What OpenSearch answers without changing data, though it comes as POST or DELETE; as in reader_lib/lua/berth_rules.lua. */
#define HTTP_SEARCHES(X) \
	X(HTTP_TEXT('_', 's', 'e', 'a', 'r', 'c', 'h', 0), 0) \
	X(HTTP_TEXT('_', 'm', 's', 'e', 'a', 'r', 'c', 'h'), 0) \
	X(HTTP_TEXT('_', 'c', 'o', 'u', 'n', 't', 0, 0), 0) \
	X(HTTP_TEXT('_', 'm', 'g', 'e', 't', 0, 0, 0), 0) \
	X(HTTP_TEXT('_', 'p', 'i', 't', 0, 0, 0, 0), 0) \
	X(HTTP_TEXT('_', 'f', 'i', 'e', 'l', 'd', '_', 'c'), HTTP_TEXT('a', 'p', 's', 0, 0, 0, 0, 0)) \
	X(HTTP_TEXT('_', 'v', 'a', 'l', 'i', 'd', 'a', 't'), HTTP_TEXT('e', 0, 0, 0, 0, 0, 0, 0)) \
	X(HTTP_TEXT('_', 'e', 'x', 'p', 'l', 'a', 'i', 'n'), 0) \
	X(HTTP_TEXT('_', 't', 'e', 'r', 'm', 'v', 'e', 'c'), HTTP_TEXT('t', 'o', 'r', 's', 0, 0, 0, 0)) \
	X(HTTP_TEXT('_', 'm', 't', 'e', 'r', 'm', 'v', 'e'), HTTP_TEXT('c', 't', 'o', 'r', 's', 0, 0, 0)) \
	X(HTTP_TEXT('_', 'r', 'a', 'n', 'k', '_', 'e', 'v'), HTTP_TEXT('a', 'l', 0, 0, 0, 0, 0, 0)) \
	X(HTTP_TEXT('_', 'a', 'n', 'a', 'l', 'y', 'z', 'e'), 0) \
	X(HTTP_TEXT('_', 's', 'e', 'a', 'r', 'c', 'h', '_'), HTTP_TEXT('s', 'h', 'a', 'r', 'd', 's', 0, 0)) \
	X(HTTP_TEXT('_', 'r', 'e', 'n', 'd', 'e', 'r', 0), 0)
#define HTTP_API_MAX 256u

/* Whether the segment at `at` is one of these. */
__noinline int http_names_search(struct xdp_md *ctx, __u32 at, __u32 end)
{
	__u64 first, second = 0, found;
	struct http h;

	http_open(&h, ctx, end);
	at = http_any(&h, at);
	if (!http_load(&h, at, &first))
		return 0;
	found = http_equal(first, '/') | http_equal(first, '?') | http_below(first, ' ' + 1);
	if (found) {
		first &= http_before(found);
	} else {
		if (!http_load(&h, at + 8, &second))
			return 0;
		found = http_equal(second, '/') | http_equal(second, '?') | http_below(second, ' ' + 1);
		if (!found)
			return 0;
		second &= http_before(found);
	}
#define HTTP_SEARCH(one, two) || (first == (one) && second == (two))
	return 0 HTTP_SEARCHES(HTTP_SEARCH);
}

/* Whether a segment of the path at `at`, that begins with an underscore in its first HTTP_API_MAX + 1 bytes, is one. */
__noinline int http_is_search(struct xdp_md *ctx, __u32 at, __u32 end)
{
	struct http h;
	__u32 off, start;

	http_open(&h, ctx, end);
	off = start = http_any(&h, at);
	/* from the second one on, a step goes on by two bytes at least */
	for (__u32 i = 0; i < HTTP_API_MAX / 2 + 4; i++) {
		__u64 w, found;
		__u32 n;

		if (!http_load(&h, off, &w))
			return 0;
		found = (http_each(w, '/') & http_each(w, '_') >> 8) | http_equal(w, '?') | http_below(w, ' ' + 1);
		if (!found) {
			off = http_any(&h, off + 7);
			continue;
		}
		n = http_count(found);
		off = http_any(&h, off + n);
		if ((w >> (n - 1) * 8 & 0xff) != '/' || (__u32)http_hide(&h, off - start) > HTTP_API_MAX)
			return 0;
		if (http_names_search(ctx, off, end))
			return 1;
	}
	return 0;
}

#endif
