/* SPDX-License-Identifier: MIT
 * The head of an HTTP/1.1 message at the start of a socket's skb: where it ends, how long its body is, and what speaks
 * against forwarding it unread. Included by splice.bpf.c alone.
 *
 * It accepts less than servers do: what is not plain is marked, never guessed, since a message that two parties frame
 * differently is how one tenant's request becomes another's. Each function is global, so that the verifier walks it
 * once, and keeps what it finds in *m, not in registers, so that the walk does not branch with the text. Nothing here
 * may use per-CPU scratch memory: a verdict runs in process context, too, where another may interrupt it. */
#ifndef BERTH_MESSAGE_BPF_H
#define BERTH_MESSAGE_BPF_H

#include "berth.bpf.h"
#include "splice.h"

#define MESSAGE_HEAD_MAX 4096u
#define MESSAGE_TARGET_MAX 1024u
#define MESSAGE_LINE 64u
#define MESSAGE_VALUE 64u
#define MESSAGE_LENGTH_MAX 1000000000000000ull /* of a body: so no sum of lengths overflows */

enum message_flags {
	MESSAGE_ODD = 1,       /* not to be framed here */
	MESSAGE_ELSEWHERE = 2, /* framed, but for the fallback to judge */
	MESSAGE_LENGTH = 4,    /* has a Content-Length */
	MESSAGE_TENANT = 8,
	MESSAGE_WRITE = 16,
	MESSAGE_HEAD = 32,
	MESSAGE_QUERY = 64
};

struct message {
	__u64 length; /* of the body */
	__u64 window; /* the last eight characters */
	__u32 flags;
	__u32 end;        /* of the head; 0: not in this skb */
	__u32 line_end;   /* of the first line: where its \n is */
	__u32 target_end; /* where the blank behind the target is */
	__u32 status;
	__u32 is_request;
	__u32 at, phase, segment;                               /* of a loop */
	__u32 tenant_len;                                       /* above MIRROR_KEY_MAX: longer than a key */
	__u32 tenant_at;                                        /* where its header's value is; 0: none */
	__u8 tenant[MESSAGE_VALUE] __attribute__((aligned(8))); /* the compiler copies words of it */
};

const volatile struct splice_config splice_config;

/* "text" as a little-endian word; fold: 0x20 where it has letters. */
#define WORD(a, b, c, d, e, f, g, h) \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 | (__u64)(f) << 40 | \
	 (__u64)(g) << 48 | (__u64)(h) << 56)
#define LETTERS(n) (0x2020202020202020ull >> (8 - (n)) * 8)
#define BYTES(n) (~0ull >> (8 - (n)) * 8)

/* How many bytes of at most `max` follow `at`; the compiler must not know what the verifier does not see. */
static __always_inline __u32 message_room(__u32 len, __u32 at, __u32 max)
{
	__u32 room = len - at;

	asm volatile("" : "+r"(room));
	return room > max ? max : room;
}

/* Decimal digits behind optional blanks, to the end of the line. */
__noinline int message_number(struct __sk_buff *skb, __u32 at, struct message *m)
{
	__u8 text[24] = {};
	__u32 room;

	if (!m)
		return 0;
	if (m->flags & MESSAGE_LENGTH || at > MESSAGE_HEAD_MAX || skb->len <= at) {
		m->flags |= MESSAGE_ODD;
		return 0;
	}
	m->flags |= MESSAGE_LENGTH;
	m->length = 0;
	m->phase = 0; /* 0 before, 1 in the number, 2 behind it, 3 done */
	room = message_room(skb->len, at, sizeof(text));
	if (room < 1 || bpf_skb_load_bytes(skb, at, text, room) < 0) {
		m->flags |= MESSAGE_ODD;
		return 0;
	}
	for (__u32 i = 0; i < 24; i++) {
		__u8 c = text[i];

		if (m->phase == 3)
			break;
		if (c >= '0' && c <= '9' && m->phase <= 1) {
			m->phase = 1;
			if (m->length >= MESSAGE_LENGTH_MAX / 10) {
				m->flags |= MESSAGE_ODD;
				break;
			}
			m->length = m->length * 10 + (c - '0');
		} else if (c == ' ' && (m->phase == 0 || m->phase == 2)) {
		} else if (c == ' ' && m->phase == 1) {
			m->phase = 2;
		} else if (c == '\r' && m->phase) {
			m->phase = 3;
		} else {
			m->flags |= MESSAGE_ODD;
			break;
		}
	}
	if (m->phase != 3)
		m->flags |= MESSAGE_ODD;
	return 0;
}

/* The line behind the one that ends at `at` - 1. */
__noinline int message_line(struct __sk_buff *skb, __u32 at, struct message *m)
{
	__u64 w[MESSAGE_LINE / 8] = {};
	__u64 first, second;
	__u32 room;

	if (!m || m->end || at > MESSAGE_HEAD_MAX || skb->len <= at)
		return 0;
	room = message_room(skb->len, at, MESSAGE_LINE);
	if (room < 1 || bpf_skb_load_bytes(skb, at, w, room) < 0)
		return 0;
	first = w[0];
	second = w[1];
	if ((first & 0xffff) == ('\r' | '\n' << 8)) {
		if (room >= 2)
			m->end = at + 2;
		return 0;
	}
	if ((first & 0xff) <= ' ' || (first & 0xff) >= 0x7f) {
		m->flags |= MESSAGE_ODD;
		return 0;
	}
	first |= LETTERS(8);
	second |= LETTERS(8);
	if (first == (WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') | LETTERS(8)) &&
	    (second & BYTES(6)) == (WORD('l', 'e', 'n', 'g', 't', 'h', 0, 0) | LETTERS(6))) {
		if ((w[1] >> 48 & 0xff) == ':')
			message_number(skb, at + 15, m);
		else
			m->flags |= MESSAGE_ODD;
		return 0;
	}
	if (first == (WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') | LETTERS(8)) ||
	    (first & BYTES(7)) == (WORD('u', 'p', 'g', 'r', 'a', 'd', 'e', 0) | LETTERS(7)) ||
	    (first & BYTES(6)) == (WORD('e', 'x', 'p', 'e', 'c', 't', 0, 0) | LETTERS(6))) {
		m->flags |= MESSAGE_ODD;
		return 0;
	}
	if (first == (WORD('c', 'o', 'n', 'n', 'e', 'c', 't', 'i') | LETTERS(8))) {
		/* "on: keep-alive" and nothing else, or one of another field that begins like it */
		__u64 third = w[2] | LETTERS(8);

		if (second != (WORD('o', 'n', ':', ' ', 'k', 'e', 'e', 'p') | LETTERS(8)) ||
		    (third & BYTES(6)) != (WORD('-', 'a', 'l', 'i', 'v', 'e', 0, 0) | LETTERS(6)) ||
		    (w[2] >> 48 & 0xff) != '\r')
			m->flags |= MESSAGE_ODD;
		return 0;
	}
	if (!m->is_request)
		return 0;
	/* X-HTTP-Method-Override and its like: a node may take the request for another one */
	if (first == (WORD('x', '-', 'h', 't', 't', 'p', '-', 'm') | LETTERS(8)) ||
	    first == (WORD('x', '-', 'm', 'e', 't', 'h', 'o', 'd') | LETTERS(8))) {
		m->flags |= MESSAGE_ELSEWHERE;
		return 0;
	}
	if (splice_config.tenant.mode == STEER_HEADER) {
		__u64 differs = 0;

#pragma clang loop unroll(full)
		for (__u32 i = 0; i < STEER_NAME_WORDS; i++)
			differs |= ((w[i] | splice_config.tenant.fold[i]) ^ splice_config.tenant.name[i]) &
				   splice_config.tenant.care[i];
		if (!differs) {
			if (m->tenant_at)
				m->flags |= MESSAGE_ELSEWHERE; /* named twice */
			m->tenant_at = at + splice_config.tenant.name_len + 1;
		}
	}
	return 0;
}

static __always_inline int message_has(__u64 word, __u8 byte)
{
	__u64 x = word ^ byte * 0x0101010101010101ull;

	return ((x - 0x0101010101010101ull) & ~x & 0x8080808080808080ull) != 0;
}

/* Eight bytes with the end of a line among them, or the rest of it; `before`: the eight before these. A \n without a \r
 * before it is odd, and so is a \r without a \n behind it. */
__noinline int message_word(struct __sk_buff *skb, __u32 at, __u64 word, __u64 before, struct message *m)
{
	if (!m)
		return 0;
	for (__u32 i = 0; i < 8; i++) {
		__u8 c = (__u8)word, last = (__u8)(before >> 56);

		before = word << 56;
		word >>= 8;
		if (m->end || at + i >= skb->len)
			continue;
		if ((last == '\r') != (c == '\n'))
			m->flags |= MESSAGE_ODD;
		if (c != '\n')
			continue;
		if (!m->line_end)
			m->line_end = at + i;
		message_line(skb, at + i + 1, m);
	}
	return 0;
}

/* Has every line but the first looked at, until the head has ended. */
__noinline int message_scan(struct __sk_buff *skb, struct message *m)
{
	__u64 w[8] = {}, before = 0;

	if (!m)
		return 0;
	for (__u32 at = 0; at < MESSAGE_HEAD_MAX; at += sizeof(w)) {
		__u32 room = message_room(skb->len, at, sizeof(w));

		if (skb->len <= at || m->end || m->flags & MESSAGE_ODD || room < 1 ||
		    bpf_skb_load_bytes(skb, at, w, room) < 0)
			break;
#pragma clang loop unroll(full)
		for (__u32 i = 0; i < 8; i++) {
			if (message_has(w[i], '\n') || message_has(w[i], '\r') || before >> 56 == '\r')
				message_word(skb, at + i * 8, w[i], before, m);
			before = w[i];
		}
	}
	return 0;
}

/* The tenant's name, from tenant_at to the end of the line, without blanks around it. */
__noinline int message_tenant(struct __sk_buff *skb, struct message *m)
{
	__u64 text[MESSAGE_VALUE / 8] = {};
	__u32 at, room;

	if (!m)
		return 0;
	at = m->tenant_at;
	m->tenant_len = m->phase = m->at = 0;
	room = message_room(skb->len, at, MESSAGE_VALUE);
	if (at > MESSAGE_HEAD_MAX || skb->len <= at || room < 1 || bpf_skb_load_bytes(skb, at, text, room) < 0)
		return 0;
	m->flags |= MESSAGE_TENANT;
	for (__u32 i = 0; i < MESSAGE_VALUE; i++) {
		__u8 c = (__u8)(text[i / 8] >> i % 8 * 8);
		__u32 to = m->at;

		if (c == '\r') {
			m->phase = 1;
			break;
		}
		if ((c == ' ' || c == '\t') && to == 0)
			continue;
		m->tenant[to & (MESSAGE_VALUE - 1)] = c;
		m->at = to + 1;
		if (c != ' ' && c != '\t')
			m->tenant_len = to + 1;
	}
	if (!m->phase || !m->tenant_len)
		m->tenant_len = MIRROR_KEY_MAX + 1;
	return 0;
}

/* A character of the target: the tenant's segment of the path, and what only user space can judge. 1: the target ends. */
__noinline int message_character(__u32 c, __u32 segment, struct message *m)
{
	__u32 to;

	if (!m)
		return 1;
	c &= 0xff;
	if (c <= ' ' || c >= 0x7f) {
		m->phase = 1;
		if (c != ' ')
			m->flags |= MESSAGE_ODD;
		return 1;
	}
	/* the first is no /, or which path a node makes of it is its own affair: //, /. */
	if (!m->window ? c != '/' : !(m->flags & MESSAGE_QUERY) && (m->window & 0xff) == '/' && (c == '/' || c == '.'))
		m->flags |= MESSAGE_ELSEWHERE;
	if (c == '?')
		m->flags |= MESSAGE_QUERY;
	if (c == '#' || (c == '%' && (segment || m->flags & MESSAGE_QUERY)))
		m->flags |= MESSAGE_ELSEWHERE;
	m->window = m->window << 8 | c;
	/* a write with wait_for_completion may go on behind its answer */
	if (m->window == __builtin_bswap64(WORD('a', 'i', 't', '_', 'f', 'o', 'r', '_')) && m->flags & MESSAGE_WRITE)
		m->flags |= MESSAGE_ELSEWHERE;
	/* scrolls and points in time belong to the cluster that began them: _search/scroll, point_in_time, _pit, scroll= */
	if (m->window == __builtin_bswap64(WORD('h', '/', 's', 'c', 'r', 'o', 'l', 'l')) ||
	    m->window == __builtin_bswap64(WORD('_', 'i', 'n', '_', 't', 'i', 'm', 'e')) ||
	    (m->window & BYTES(4)) == __builtin_bswap64(WORD(0, 0, 0, 0, '_', 'p', 'i', 't')) ||
	    (m->flags & MESSAGE_QUERY &&
	     (m->window & BYTES(7)) == __builtin_bswap64(WORD(0, 's', 'c', 'r', 'o', 'l', 'l', '='))))
		m->flags |= MESSAGE_ELSEWHERE;
	if (m->flags & MESSAGE_QUERY)
		return 0;
	if (c == '/') {
		m->segment++;
	} else if (segment && m->segment == segment) {
		to = m->at;
		m->tenant[to & (MESSAGE_VALUE - 1)] = (__u8)c;
		m->at = to + 1;
	}
	return 0;
}

/* The target, which begins at `from`. */
__noinline int message_target(struct __sk_buff *skb, __u32 from, struct message *m)
{
	__u32 segment = splice_config.tenant.mode == STEER_SEGMENT ? splice_config.tenant.segment : 0;
	__u64 word;

	if (!m)
		return 0;
	m->at = m->segment = m->phase = 0;
	m->window = 0;
	for (__u32 at = 0; at < MESSAGE_TARGET_MAX; at += 8) {
		/* a head is longer behind its target than this reads too far */
		if (from > 8 || bpf_skb_load_bytes(skb, from + at, &word, 8) < 0) {
			m->flags |= MESSAGE_ODD;
			return 0;
		}
#pragma clang loop unroll(full)
		for (__u32 i = 0; i < 8; i++, word >>= 8)
			if (message_character((__u32)word, segment, m)) {
				m->target_end = from + at + i;
				goto ended;
			}
	}
ended:
	if (!m->phase)
		m->flags |= MESSAGE_ELSEWHERE;
	if (segment) {
		m->flags |= MESSAGE_TENANT;
		m->tenant_len = m->at ? m->at : MIRROR_KEY_MAX + 1;
	}
	return 0;
}

/* The request line: method, target, version. The scan is done. */
static __always_inline void message_request_line(struct __sk_buff *skb, struct message *m)
{
	__u64 head = 0, tail[2] = {};
	__u32 from;

	if (m->line_end < 14 || m->line_end > MESSAGE_HEAD_MAX || bpf_skb_load_bytes(skb, 0, &head, 8) < 0 ||
	    bpf_skb_load_bytes(skb, m->line_end - 10, tail, 10) < 0) {
		m->flags |= MESSAGE_ODD;
		return;
	}
	if (tail[0] != WORD(' ', 'H', 'T', 'T', 'P', '/', '1', '.') || (tail[1] & 0xffff) != ('1' | '\r' << 8)) {
		m->flags |= MESSAGE_ODD;
		return;
	}
	if ((head & BYTES(4)) == WORD('G', 'E', 'T', ' ', 0, 0, 0, 0)) {
		from = 4;
	} else if ((head & BYTES(5)) == WORD('H', 'E', 'A', 'D', ' ', 0, 0, 0)) {
		from = 5;
		m->flags |= MESSAGE_HEAD;
	} else if (head == WORD('O', 'P', 'T', 'I', 'O', 'N', 'S', ' ')) {
		from = 8;
	} else {
		m->flags |= MESSAGE_WRITE;
		if ((head & BYTES(5)) == WORD('P', 'O', 'S', 'T', ' ', 0, 0, 0))
			from = 5;
		else if ((head & BYTES(4)) == WORD('P', 'U', 'T', ' ', 0, 0, 0, 0))
			from = 4;
		else if ((head & BYTES(7)) == WORD('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
			from = 7;
		else if ((head & BYTES(6)) == WORD('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
			from = 6;
		else {
			m->flags |= MESSAGE_ODD;
			return;
		}
	}
	message_target(skb, from, m);
	/* a target that ended (phase) is not empty and has the version behind it */
	if (m->phase && (m->target_end == from || m->target_end != m->line_end - 10))
		m->flags |= MESSAGE_ODD;
	if (m->tenant_at)
		message_tenant(skb, m);
}

/* The status line: 0 when the answer is not to be framed here. The scan is done. */
static __always_inline void message_status_line(struct __sk_buff *skb, struct message *m)
{
	__u64 head[2] = {};

	m->status = 0;
	/* three digits between blanks: a byte from 0x30 on that stays below 0x40 when six are added */
	if (bpf_skb_load_bytes(skb, 0, head, 13) < 0 || head[0] != WORD('H', 'T', 'T', 'P', '/', '1', '.', '1') ||
	    (head[1] & 0xfff0f0f0ff) != WORD(' ', '0', '0', '0', ' ', 0, 0, 0) ||
	    ((head[1] + WORD(0, 6, 6, 6, 0, 0, 0, 0)) & 0xf0f0f000) != WORD(0, '0', '0', '0', 0, 0, 0, 0)) {
		m->flags |= MESSAGE_ODD;
		return;
	}
	m->status = (__u32)((head[1] >> 8 & 0xf) * 100 + (head[1] >> 16 & 0xf) * 10 + (head[1] >> 24 & 0xf));
	if (m->status < 200 || m->status > 599)
		m->flags |= MESSAGE_ODD;
}

#endif
