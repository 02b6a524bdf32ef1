/* SPDX-License-Identifier: MIT
 * base64url without padding, for envelope.c. libsodium has one that takes the same time whatever the bytes are, which no
 * envelope needs: it is public. This one takes a quarter of that, and is stricter: a text that is not the one text of its
 * bytes is refused, where that of libsodium 1.0.18 takes a byte above 0x7f for a `_`. Pure; any thread. */
#include "internal.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* The value of a digit, plus one; 0: no digit. */
#define V(c, v) [c] = (v) + 1
static const unsigned char values[256] = {
	V('A', 0),  V('B', 1),  V('C', 2),  V('D', 3),  V('E', 4),  V('F', 5),  V('G', 6),  V('H', 7),
	V('I', 8),  V('J', 9),  V('K', 10), V('L', 11), V('M', 12), V('N', 13), V('O', 14), V('P', 15),
	V('Q', 16), V('R', 17), V('S', 18), V('T', 19), V('U', 20), V('V', 21), V('W', 22), V('X', 23),
	V('Y', 24), V('Z', 25), V('a', 26), V('b', 27), V('c', 28), V('d', 29), V('e', 30), V('f', 31),
	V('g', 32), V('h', 33), V('i', 34), V('j', 35), V('k', 36), V('l', 37), V('m', 38), V('n', 39),
	V('o', 40), V('p', 41), V('q', 42), V('r', 43), V('s', 44), V('t', 45), V('u', 46), V('v', 47),
	V('w', 48), V('x', 49), V('y', 50), V('z', 51), V('0', 52), V('1', 53), V('2', 54), V('3', 55),
	V('4', 56), V('5', 57), V('6', 58), V('7', 59), V('8', 60), V('9', 61), V('-', 62), V('_', 63),
};
#undef V

size_t bs_base64_write(const unsigned char *bytes, size_t n, char *out)
{
	char *at = out;
	uint32_t held = 0;
	unsigned bits = 0;

	for (size_t i = 0; i < n; i++) {
		held = held << 8 | bytes[i];
		for (bits += 8; bits >= 6;) {
			bits -= 6;
			*at++ = digits[held >> bits & 63];
		}
	}
	if (bits)
		*at++ = digits[held << (6 - bits) & 63]; /* zeros behind the last bits */
	*at = '\0';
	return (size_t)(at - out);
}

bool bs_base64_read(const char *text, size_t len, unsigned char *out, size_t room, size_t *n)
{
	uint32_t held = 0;
	unsigned bits = 0;
	size_t at = 0;

	if (len % 4 == 1 || len / 4 * 3 + len % 4 * 3 / 4 > room)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned value = values[(unsigned char)text[i]];

		if (value == 0)
			return false;
		held = held << 6 | (value - 1);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			out[at++] = (unsigned char)(held >> bits);
		}
	}
	/* What is left carries nothing: zeros, or this is another text of the same bytes. */
	if (held & ((1u << bits) - 1))
		return false;
	*n = at;
	return true;
}
