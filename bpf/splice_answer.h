/* SPDX-License-Identifier: MIT
 * Where an HTTP/1.1 answer ends, found while it goes by in pieces of any size. For the answers that the process copies:
 * chunked, long, of unknown length, or with a head that comes in pieces. Pure; called by splice_copy.c. */
#ifndef BERTH_BPF_SPLICE_ANSWER_H
#define BERTH_BPF_SPLICE_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANSWER_LINE 256 /* what is looked at of a line; the rest of it goes by */

struct answer_frame {
	int state;
	bool is_head; /* it answers a HEAD */
	bool closes;  /* the connection ends with it */
	bool chunked, has_length;
	unsigned status;
	uint64_t left; /* bytes of body or chunk */
	size_t len;
	char line[ANSWER_LINE];
};

enum answer_verdict { ANSWER_MORE, ANSWER_ENDED, ANSWER_BROKEN };

void answer_begin(struct answer_frame *, bool is_head);
/* Takes a piece. ENDED: with its last byte. BROKEN: no answer, or bytes behind its end. */
enum answer_verdict answer_piece(struct answer_frame *, const char *bytes, size_t len);
/* The node has closed: was that its end? */
bool answer_may_close(const struct answer_frame *);

#endif
