/* SPDX-License-Identifier: MIT
 * Connections to the proxy that stay open, so that a test knows which worker answers: nginx gives a connection to one
 * worker for good. One thread. */
#ifndef BERTH_TESTS_PROXY_TALK_H
#define BERTH_TESTS_PROXY_TALK_H

#include "proxy_check.h"

struct talk {
	int fd;
	int worker; /* its process id */
};

struct said {
	int status;     /* 0: no answer at all */
	bool whole;     /* the body came to its end */
	char *head;     /* status line and header lines */
	char *body;     /* without the marks of chunks */
	json_t *json;   /* NULL: it is none */
	const char *id; /* its _scroll_id, pit_id or id at the top; NULL: none */
};

/* n connections, all to different workers. */
void talk_open(struct talk *, unsigned n);
void talk_close(struct talk *, unsigned n);
struct said talk_ask(struct talk *, const struct ask *);
#define TALK(t, ...) talk_ask(t, &(struct ask){__VA_ARGS__})
void said_free(struct said *);
/* Fails the test unless the answer is whole and has this status and (NULL: any) this text in its body. */
void said_expect(const struct said *, int status, const char *text);
/* Asks, expects, forgets. */
#define TALK_EXPECT(t, status, text, ...) \
	do { \
		struct said said_ = TALK(t, __VA_ARGS__); \
		said_expect(&said_, status, text); \
		said_free(&said_); \
	} while (0)

#endif
