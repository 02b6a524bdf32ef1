/* SPDX-License-Identifier: MIT
 * splice_answer.h. A state machine over lines and counted bytes:
 *
 *   STATUS -> FIELDS -> (1xx: STATUS) | BODY | SIZE -> CHUNK -> CHUNK_END -> SIZE … -> TRAILER | UNTIL_CLOSE -> OVER */
#include "splice_answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { STATUS, FIELDS, BODY, SIZE, CHUNK, CHUNK_END, TRAILER, UNTIL_CLOSE, OVER, BROKEN };

void answer_begin(struct answer_frame *f, bool is_head)
{
	memset(f, 0, sizeof(*f));
	f->is_head = is_head;
}

static const char *field(const char *line, const char *name)
{
	size_t len = strlen(name);

	if (strncasecmp(line, name, len) != 0 || line[len] != ':')
		return NULL;
	line += len + 1;
	return line + strspn(line, " \t");
}

/* The digits at the beginning: strtoull would take a sign, and 0x, too. */
static int number(const char *text, int base, uint64_t *n)
{
	const char *end = text + strspn(text, base == 10 ? "0123456789" : "0123456789abcdefABCDEF");
	const char *behind = end + strspn(end, " \t");

	errno = 0;
	*n = strtoull(text, NULL, base);
	if (end == text || errno || *n > 1ull << 50)
		return -1;
	return *behind && !(base == 16 && *behind == ';') ? -1 : 0;
}

static int status_line(struct answer_frame *f)
{
	uint64_t status;

	if (strncmp(f->line, "HTTP/1.", 7) != 0 || strlen(f->line) < 12 || f->line[8] != ' ')
		return BROKEN;
	if (f->line[7] != '1')
		f->closes = true;
	f->line[12] = '\0';
	if (number(f->line + 9, 10, &status) != 0 || status < 100 || status > 599)
		return BROKEN;
	f->status = (unsigned)status;
	return FIELDS;
}

static int head_ended(struct answer_frame *f)
{
	if (f->status == 101)
		return BROKEN; /* nobody asked for it: requests that do are not spliced */
	if (f->chunked && f->has_length)
		return BROKEN; /* which of them counts is the reader's choice */
	if (f->status < 200) {
		f->chunked = f->has_length = false;
		f->left = 0;
		return STATUS;
	}
	if (f->is_head || f->status == 204 || f->status == 304)
		return OVER;
	if (f->chunked)
		return SIZE;
	if (f->has_length)
		return f->left ? BODY : OVER;
	f->closes = true;
	return UNTIL_CLOSE;
}

static int field_line(struct answer_frame *f, bool cut)
{
	const char *value;
	uint64_t length;

	if (f->line[strcspn(f->line, ": \t")] != ':')
		return BROKEN; /* a name with a blank behind it is the same field to some, another one to others */
	if ((value = field(f->line, "content-length"))) {
		if (cut || number(value, 10, &length) != 0 || (f->has_length && length != f->left))
			return BROKEN;
		f->has_length = true;
		f->left = length;
	} else if ((value = field(f->line, "transfer-encoding"))) {
		if (strcasecmp(value, "chunked") != 0)
			return BROKEN;
		f->chunked = true;
	} else if ((value = field(f->line, "connection")) && strcasecmp(value, "close") == 0) {
		f->closes = true;
	}
	return FIELDS;
}

static int line_ended(struct answer_frame *f)
{
	bool cut = f->len == ANSWER_LINE - 1; /* there may be more digits, or what is none */

	if (memchr(f->line, '\0', f->len))
		return BROKEN;
	if (f->len && f->line[f->len - 1] == '\r')
		f->len--;
	f->line[f->len] = '\0';
	bool empty = f->len == 0;
	f->len = 0;
	switch (f->state) {
	case STATUS:
		return status_line(f);
	case FIELDS:
		return empty ? head_ended(f) : field_line(f, cut);
	case SIZE:
		if (cut || number(f->line, 16, &f->left) != 0)
			return BROKEN;
		return f->left ? CHUNK : TRAILER;
	case CHUNK_END:
		return empty ? SIZE : BROKEN;
	default:
		return empty ? OVER : TRAILER;
	}
}

enum answer_verdict answer_piece(struct answer_frame *f, const char *bytes, size_t len)
{
	while (len && f->state != BROKEN && f->state != OVER) {
		if (f->state == UNTIL_CLOSE)
			return ANSWER_MORE;
		if (f->state == BODY || f->state == CHUNK) {
			size_t n = len < f->left ? len : (size_t)f->left;

			bytes += n;
			len -= n;
			f->left -= n;
			if (!f->left)
				f->state = f->state == BODY ? OVER : CHUNK_END;
			continue;
		}
		const char *end = memchr(bytes, '\n', len);
		size_t n = end ? (size_t)(end - bytes) : len, room = ANSWER_LINE - 1 - f->len;

		memcpy(f->line + f->len, bytes, n < room ? n : room);
		f->len += n < room ? n : room;
		bytes += n;
		len -= n;
		if (end) {
			bytes++;
			len--;
			f->state = line_ended(f);
		}
	}
	if (f->state == BROKEN || len)
		return ANSWER_BROKEN;
	return f->state == OVER ? ANSWER_ENDED : ANSWER_MORE;
}

bool answer_may_close(const struct answer_frame *f)
{
	return f->state == UNTIL_CLOSE;
}
