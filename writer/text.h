/* SPDX-License-Identifier: MIT
 * Text from outside: whether it may come in, and how it is shown in a message or a JSON path. Pure, any thread. */
#ifndef BERTH_WRITER_TEXT_H
#define BERTH_WRITER_TEXT_H

#include <stddef.h>

/* NULL when s is valid UTF-8 (shortest forms, no surrogates, at most U+10FFFF) without control characters (C0, DEL,
 * C1); else what is wrong with it, to follow the text in a message: "is not valid UTF-8". */
const char *text_fault(const char *s, size_t len);

#define TEXT_SHOWN 96 /* a comfortable room for a value in a message */
/* s as a JSON string, quotes included: escaped, what is not UTF-8 as \ufffd, and cut to fit into room (at least 16)
 * with an ellipsis. Always NUL-terminated and valid UTF-8. Returns out. */
const char *text_show(char *out, size_t room, const char *s, size_t len);
/* A key as a step of a JSON path: .name, or ["any other key"], cut to fit into room (at least 24). */
const char *text_step(char *out, size_t room, const char *key, size_t len);

#endif
