/* SPDX-License-Identifier: MIT
 * See answer.h. Called by load.c after each piece that came; starts again each time, answers are short. */
#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BODY_MAX 65536u

/* Value of a header line, or NULL when it has another name. */
static const char *value_of(const char *line, const char *name)
{
	size_t n = strlen(name);

	if (strncasecmp(line, name, n) != 0 || line[n] != ':')
		return NULL;
	line += n + 1;
	while (*line == ' ')
		line++;
	return line;
}

/* The chunks of a body: its length with all, 0 when it is not whole, -1 when it is none. */
static long chunked(const char *body, size_t n)
{
	size_t at = 0;

	for (;;) {
		const char *end = memmem(body + at, n - at, "\r\n", 2);
		if (!end)
			return n - at > 20 ? -1 : 0;
		char *rest;
		unsigned long size = strtoul(body + at, &rest, 16);
		if (rest == body + at || size > BODY_MAX)
			return -1;
		at = (size_t)(end - body) + 2 + size + 2;
		if (at > n)
			return 0;
		if (size == 0)
			return (long)at;
	}
}

enum answer_state answer_parse(const char *bytes, size_t n, struct answer *out)
{
	const char *end = memmem(bytes, n, "\r\n\r\n", 4), *value;
	size_t head = end ? (size_t)(end - bytes) + 4 : 0, length = 0;
	bool is_chunked = false, has_length = false;
	char copy[8192], *line, *rest;

	if (!end)
		return n < sizeof(copy) ? ANSWER_PART : ANSWER_BAD;
	if (head >= sizeof(copy) || head < 16 || memcmp(bytes, "HTTP/1.1 ", 9) != 0)
		return ANSWER_BAD;
	memcpy(copy, bytes, head);
	copy[head] = '\0';
	*out = (struct answer){.status = (uint16_t)strtoul(copy + 9, NULL, 10)};
	for (line = strtok_r(copy, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
		if ((value = value_of(line, "Content-Length"))) {
			length = strtoul(value, NULL, 10);
			has_length = true;
		} else if ((value = value_of(line, "Transfer-Encoding"))) {
			is_chunked = strcasecmp(value, "chunked") == 0;
		} else if ((value = value_of(line, "Connection"))) {
			out->close = strcasecmp(value, "close") == 0;
		} else if ((value = value_of(line, "X-Berth-Epoch"))) {
			out->epoch = strtoull(value, NULL, 10);
		} else if ((value = value_of(line, "X-Cluster"))) {
			out->cluster = (uint16_t)strtoul(value, NULL, 10);
		} else if ((value = value_of(line, "X-Berth-Retry-Ms"))) {
			out->retry_ms = (uint16_t)strtoul(value, NULL, 10);
		} else if ((value = value_of(line, "X-Upstream-Status"))) {
			out->tries = *value != '\0';
			while ((value = strchr(value, ',')))
				value++, out->tries++;
		}
	}
	if (out->status < 100 || out->status > 599 || length > BODY_MAX)
		return ANSWER_BAD;
	if (is_chunked) {
		long all = chunked(bytes + head, n - head);
		return all < 0 ? ANSWER_BAD : all == 0 ? ANSWER_PART : ANSWER_WHOLE;
	}
	if (!has_length && out->status != 204 && out->status != 304)
		return ANSWER_BAD;
	return n >= head + length ? ANSWER_WHOLE : ANSWER_PART;
}
