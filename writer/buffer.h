/* SPDX-License-Identifier: MIT
 * A growing run of bytes, and JSON written into it piece by piece: answers on the sockets, pages over HTTP. No globals,
 * one thread at a time. When memory runs out the buffer is marked `failed` and keeps what it has: look once, at the
 * end. */
#ifndef BERTH_WRITER_BUFFER_H
#define BERTH_WRITER_BUFFER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buffer {
	char *data;
	size_t len;  /* bytes there are */
	size_t head; /* bytes of them that were taken from the front */
	size_t size;
	bool failed;
};

/* Length of the UTF-8 sequence at s (n >= 1), 0 when there is none: shortest forms only, no surrogates. */
size_t utf8_length(const unsigned char *s, size_t n);

/* Room for n more bytes behind len. */
bool buffer_reserve(struct buffer *, size_t n);
void buffer_add(struct buffer *, const void *, size_t n);
static inline void buffer_text(struct buffer *b, const char *s)
{
	buffer_add(b, s, strlen(s));
}
void buffer_number(struct buffer *, uint64_t);
void buffer_format(struct buffer *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string, quotes included; bytes that are not UTF-8 become U+FFFD. NULL: null. */
void buffer_string(struct buffer *, const char *, size_t n);
/* Any JSON value, compact; NULL counts as failed (whoever made it had no memory). */
void buffer_json(struct buffer *, const json_t *);
/* n bytes from the front are done with. */
void buffer_take(struct buffer *, size_t n);
static inline size_t buffer_left(const struct buffer *b)
{
	return b->len - b->head;
}
/* Back to len, as if what came after had never been added: also forgets a failure. */
static inline void buffer_cut(struct buffer *b, size_t len)
{
	b->len = len;
	b->failed = false;
}
void buffer_free(struct buffer *);

#endif
