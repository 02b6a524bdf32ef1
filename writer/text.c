/* SPDX-License-Identifier: MIT
 * Judging and showing text from outside. Called by the rules of placements, documents and messages, on any thread. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

/* Length of the character at s, and its code point; 0 when it is not one. left is at least 1. */
static size_t decode(const unsigned char *s, size_t left, uint32_t *code)
{
	static const uint32_t lowest[5] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

	if (n == 0 || n > left)
		return 0;
	*code = n == 1 ? s[0] : s[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (s[i] & 0x3fu);
	}
	if (*code < lowest[n] || *code > 0x10ffff || (*code >= 0xd800 && *code <= 0xdfff))
		return 0;
	return n;
}

static int is_control(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}

const char *text_fault(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text, *end = s + len;

	while (s < end) {
		uint32_t code;
		if (*s >= 0x20 && *s < 0x7f) {
			s++;
			continue;
		}
		size_t n = decode(s, (size_t)(end - s), &code);
		if (n == 0)
			return "is not valid UTF-8";
		if (is_control(code))
			return code ? "holds a control character" : "holds a NUL character";
		s += n;
	}
	return NULL;
}

const char *text_show(char *out, size_t room, const char *text, size_t len)
{
	static const char ellipsis[] = "\xe2\x80\xa6";
	const unsigned char *s = (const unsigned char *)text, *end = s + len;
	size_t at = 0;

	out[at++] = '"';
	while (s < end) {
		char piece[8];
		uint32_t code;
		size_t n = decode(s, (size_t)(end - s), &code), shown;
		if (n == 0) {
			n = 1;
			shown = (size_t)snprintf(piece, sizeof(piece), "\\ufffd");
		} else if (is_control(code)) {
			shown = (size_t)snprintf(piece, sizeof(piece), "\\u%04x", (unsigned)(code & 0xff));
		} else if (code == '"' || code == '\\') {
			shown = (size_t)snprintf(piece, sizeof(piece), "\\%c", (int)code);
		} else {
			memcpy(piece, s, n);
			shown = n;
		}
		/* Behind the piece: the closing quote and NUL, or, if more follows, the ellipsis too. */
		size_t behind = s + n < end ? sizeof(ellipsis) - 1 + 2 : 2;
		if (at + shown + behind > room) {
			memcpy(out + at, ellipsis, sizeof(ellipsis) - 1);
			at += sizeof(ellipsis) - 1;
			break;
		}
		memcpy(out + at, piece, shown);
		at += shown;
		s += n;
	}
	out[at++] = '"';
	out[at] = '\0';
	return out;
}

const char *text_step(char *out, size_t room, const char *key, size_t len)
{
	size_t word = 0;

	/* letters, '_', and digits behind the first */
	while (word < len && ((key[word] >= 'a' && key[word] <= 'z') || (key[word] >= 'A' && key[word] <= 'Z') ||
			      key[word] == '_' || (word && key[word] >= '0' && key[word] <= '9')))
		word++;
	if (len && word == len && len + 2 <= room) {
		snprintf(out, room, ".%.*s", (int)len, key);
		return out;
	}
	out[0] = '[';
	size_t end = 1 + strlen(text_show(out + 1, room - 2, key, len));
	out[end] = ']';
	out[end + 1] = '\0';
	return out;
}
