/* SPDX-License-Identifier: MIT
 * Bytes and JSON text: buffer.h. */
#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool buffer_reserve(struct buffer *b, size_t n)
{
	size_t size = b->size ? b->size : 512;
	char *data;

	if (b->size - b->len >= n)
		return true;
	if (b->head > 0) { /* what was taken makes room first */
		memmove(b->data, b->data + b->head, b->len - b->head);
		b->len -= b->head;
		b->head = 0;
		if (b->size - b->len >= n)
			return true;
	}
	while (size - b->len < n) {
		if (size > SIZE_MAX / 2) {
			b->failed = true;
			return false;
		}
		size *= 2;
	}
	data = realloc(b->data, size);
	if (!data) {
		b->failed = true;
		return false;
	}
	b->data = data;
	b->size = size;
	return true;
}

void buffer_add(struct buffer *b, const void *bytes, size_t n)
{
	if (n == 0 || !buffer_reserve(b, n))
		return;
	memcpy(b->data + b->len, bytes, n);
	b->len += n;
}

void buffer_number(struct buffer *b, uint64_t n)
{
	char text[20];
	size_t at = sizeof(text);

	do
		text[--at] = (char)('0' + n % 10);
	while ((n /= 10) != 0);
	buffer_add(b, text + at, sizeof(text) - at);
}

void buffer_format(struct buffer *b, const char *format, ...)
{
	size_t room = b->size - b->len;
	va_list args, again;
	int n;

	va_start(args, format);
	va_copy(again, args);
	n = vsnprintf(room ? b->data + b->len : NULL, room, format, args); /* mostly it fits */
	if (n < 0)
		b->failed = true;
	else if ((size_t)n < room)
		b->len += (size_t)n;
	else if (buffer_reserve(b, (size_t)n + 1))
		b->len += (size_t)vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
	va_end(again);
	va_end(args);
}

size_t utf8_length(const unsigned char *s, size_t n)
{
	unsigned char c = s[0], low = 0x80, high = 0xbf;
	size_t len;

	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (c == 0xe0)
		low = 0xa0;
	else if (c == 0xed)
		high = 0x9f;
	else if (c == 0xf0)
		low = 0x90;
	else if (c == 0xf4)
		high = 0x8f;
	if (n < len || s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

void buffer_string(struct buffer *b, const char *text, size_t n)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t plain = 0; /* bytes before i that wait to be copied as they are */

	if (!text) {
		buffer_add(b, "null", 4);
		return;
	}
	buffer_add(b, "\"", 1);
	for (size_t i = 0; i < n;) {
		size_t len = utf8_length(s + i, n - i);
		char escaped[8];

		if (len > 0 && s[i] >= ' ' && s[i] != '"' && s[i] != '\\') {
			plain += len;
			i += len;
			continue;
		}
		buffer_add(b, text + i - plain, plain);
		plain = 0;
		if (len == 0)
			buffer_add(b, "\\ufffd", 6);
		else if (s[i] == '"' || s[i] == '\\')
			buffer_add(b, s[i] == '"' ? "\\\"" : "\\\\", 2);
		else
			buffer_add(b, escaped, (size_t)snprintf(escaped, sizeof(escaped), "\\u%04x", s[i]));
		i++;
	}
	buffer_add(b, text + n - plain, plain);
	buffer_add(b, "\"", 1);
}

/* By hand: json_dumps costs several times as much, and is in the way of every change. Depth is bounded by whoever made
 * the value (json_read, placement.h). */
void buffer_json(struct buffer *b, const json_t *json)
{
	const char *comma = "", *key;
	char real[40];
	json_t *value;
	size_t i;

	if (!json) {
		b->failed = true;
		return;
	}
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		buffer_add(b, "{", 1);
		json_object_foreach((json_t *)(uintptr_t)json, key, value)
		{
			buffer_text(b, comma);
			buffer_string(b, key, strlen(key));
			buffer_add(b, ":", 1);
			buffer_json(b, value);
			comma = ",";
		}
		buffer_add(b, "}", 1);
		break;
	case JSON_ARRAY:
		buffer_add(b, "[", 1);
		json_array_foreach (json, i, value) {
			buffer_text(b, comma);
			buffer_json(b, value);
			comma = ",";
		}
		buffer_add(b, "]", 1);
		break;
	case JSON_STRING:
		buffer_string(b, json_string_value(json), json_string_length(json));
		break;
	case JSON_INTEGER:
		buffer_format(b, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
		break;
	case JSON_REAL:
		buffer_add(b, real, (size_t)snprintf(real, sizeof(real), "%.17g", json_real_value(json)));
		break;
	case JSON_TRUE:
		buffer_add(b, "true", 4);
		break;
	case JSON_FALSE:
		buffer_add(b, "false", 5);
		break;
	case JSON_NULL:
		buffer_add(b, "null", 4);
		break;
	}
}

void buffer_take(struct buffer *b, size_t n)
{
	b->head += n;
	if (b->head == b->len)
		b->head = b->len = 0;
}

void buffer_free(struct buffer *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}
