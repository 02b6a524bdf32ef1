/* SPDX-License-Identifier: MIT
 * Frames for packet programs: packet_frame.h. */
#include "packet_frame.h"

#include <assert.h>
#include <string.h>

static void put(struct frame *f, const void *bytes, size_t n)
{
	assert(f->len + n <= sizeof(f->bytes));
	memcpy(f->bytes + f->len, bytes, n);
	f->len += n;
}

static void put8(struct frame *f, unsigned v)
{
	put(f, &(unsigned char){(unsigned char)v}, 1);
}

static void put16(struct frame *f, unsigned v)
{
	put8(f, v >> 8 & 0xff);
	put8(f, v & 0xff);
}

static void fill(struct frame *f, size_t n)
{
	assert(f->len + n <= sizeof(f->bytes));
	memset(f->bytes + f->len, 0, n);
	f->len += n;
}

static unsigned number_of(char extension)
{
	switch (extension) {
	case 'h':
		return 0;
	case 'r':
		return 43;
	case 'f':
		return 44;
	default:
		return 60;
	}
}

void frame_make(struct frame *f, const struct shape *s, const void *payload, size_t len)
{
	const char *extensions = s->extensions ? s->extensions : "";
	size_t each = s->extension_bytes ? s->extension_bytes : 8, n_extensions = strlen(extensions);
	size_t tcp = 20 + s->tcp_options + len;
	unsigned protocol = s->protocol ? s->protocol : 6, ether = s->ether ? s->ether : s->ip6 ? 0x86dd : 0x0800;

	f->len = 0;
	put(f, "\x02\0\0\0\0\1\x02\0\0\0\0\2", 12);
	for (unsigned i = 0; i < s->vlans; i++) {
		put16(f, i + 1 < s->vlans ? 0x88a8 : 0x8100);
		put16(f, 100 + i);
	}
	put16(f, ether);
	if (s->ip6) {
		put16(f, 0x6000);
		put16(f, 0);
		put16(f, (unsigned)(n_extensions * each + tcp));
		put8(f, n_extensions ? number_of(extensions[0]) : protocol);
		put8(f, 64);
		fill(f, 32);
		for (size_t i = 0; i < n_extensions; i++) {
			put8(f, i + 1 < n_extensions ? number_of(extensions[i + 1]) : protocol);
			put8(f, (unsigned)(each / 8 - 1));
			fill(f, each - 2);
		}
	} else {
		put8(f, 0x40 | (5 + s->ip_options / 4));
		put8(f, 0);
		put16(f, (unsigned)(20 + s->ip_options + tcp));
		put16(f, 1);
		put16(f, s->fragment);
		put8(f, 64);
		put8(f, protocol);
		fill(f, 10);
		fill(f, s->ip_options);
	}
	put16(f, 40000);
	put16(f, s->port);
	fill(f, 8);
	put8(f, (5 + s->tcp_options / 4) << 4);
	put8(f, 0x18);
	fill(f, 6);
	fill(f, s->tcp_options);
	f->payload = f->len;
	put(f, payload, len);
	for (unsigned i = 0; i < s->padding; i++)
		put8(f, 'P'); /* what a program that reads it would take for text */
}
