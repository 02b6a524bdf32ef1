/* SPDX-License-Identifier: MIT
 * proxy_talk.h. */
#include "proxy_talk.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* Some more bytes behind text; false: the connection is closed. */
static bool more(int fd, char **text, size_t *len)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char piece[16384];
	ssize_t n;

	if (poll(&p, 1, DAEMON_MS) <= 0)
		fail_msg("no answer in time; so far: %.*s", (int)*len, *text);
	n = recv(fd, piece, sizeof(piece), 0);
	if (n <= 0)
		return false;
	*text = realloc(*text, *len + (size_t)n + 1);
	assert_non_null(*text);
	memcpy(*text + *len, piece, (size_t)n);
	*len += (size_t)n;
	(*text)[*len] = '\0';
	return true;
}

static const char *header_of(const char *head, const char *name)
{
	size_t n = strlen(name);

	for (const char *at = head; (at = strstr(at, "\r\n")); at++)
		if (strncasecmp(at + 2, name, n) == 0 && at[2 + n] == ':')
			return at + 2 + n + 2;
	return NULL;
}

/* Undoes the chunks of a body; true: it is whole. What is there of it is in out either way. */
static bool dechunk(const char *body, size_t len, char *out)
{
	size_t at = 0, to = 0;

	out[0] = '\0';
	for (;;) {
		const char *line = memmem(body + at, len - at, "\r\n", 2);
		size_t size, left;

		if (!line)
			return false;
		size = strtoul(body + at, NULL, 16);
		at = (size_t)(line - body) + 2;
		left = len - at < size ? len - at : size;
		memcpy(out + to, body + at, left);
		to += left;
		out[to] = '\0';
		if (len - at < size + 2)
			return false;
		at += size + 2;
		if (size == 0)
			return true;
	}
}

static struct said read_answer(int fd)
{
	static const char *const names[] = {"_scroll_id", "pit_id", "id"};
	struct said s = {0};
	char *text = strdup(""), *end;
	size_t len = 0, head;
	const char *length;
	bool open = true;

	while (!(end = strstr(text, "\r\n\r\n")) && (open = more(fd, &text, &len)))
		;
	if (!end) {
		s.head = text;
		s.body = strdup("");
		return s;
	}
	head = (size_t)(end - text) + 4;
	s.head = strndup(text, head);
	s.status = (int)strtol(s.head + 9, NULL, 10);
	length = header_of(s.head, "Content-Length");
	if (length) {
		size_t want = strtoul(length, NULL, 10);

		while (len - head < want && (open = more(fd, &text, &len)))
			;
		s.whole = len - head == want;
		s.body = strdup(text + head);
	} else {
		s.body = malloc(len + 1);
		while (!(s.whole = dechunk(text + head, len - head, s.body)) && (open = more(fd, &text, &len)))
			s.body = realloc(s.body, len + 1);
	}
	free(text);
	s.json = s.whole ? json_loads(s.body, 0, NULL) : NULL;
	for (size_t i = 0; i < 3 && !s.id; i++)
		s.id = json_string_value(json_object_get(s.json, names[i]));
	return s;
}

struct said talk_ask(struct talk *t, const struct ask *q)
{
	struct said s;

	if (t->fd < 0)
		t->fd = proxy_connect(&proxy, q->way);
	assert_true(t->fd >= 0);
	proxy_send(t->fd, q, true);
	s = read_answer(t->fd);
	if (!s.whole || strstr(s.head, "Connection: close")) {
		close(t->fd);
		t->fd = -1; /* and the worker may be another one from here on */
	}
	return s;
}

/* One that is answered soon; its worker, 0: it was not. */
static int connect_soon(struct talk *t)
{
	struct pollfd p = {.fd = proxy_connect(&proxy, WAY_HEADER), .events = POLLIN};
	int worker = 0;

	assert_true(p.fd >= 0);
	t->fd = p.fd;
	proxy_send(p.fd, &(struct ask){.path = "/berth-status"}, true);
	if (poll(&p, 1, 100) > 0) {
		struct said s = read_answer(p.fd);

		worker = (int)json_integer_value(json_object_get(s.json, "pid"));
		said_free(&s);
	} else
		close(p.fd);
	return worker;
}

void talk_open(struct talk *t, unsigned n)
{
	/* A worker that is stopped leaves the next connection to the others; unless it was woken for it just before. */
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < 100; k++) {
			for (unsigned j = 0; j < i; j++)
				kill(t[j].worker, SIGSTOP);
			t[i].worker = connect_soon(&t[i]);
			for (unsigned j = 0; j < i; j++)
				kill(t[j].worker, SIGCONT);
			if (t[i].worker)
				break;
		}
	for (unsigned i = 0; i < n; i++) {
		if (!t[i].worker)
			fail_msg("no worker answers");
		for (unsigned j = 0; j < i; j++)
			assert_int_not_equal(t[i].worker, t[j].worker);
	}
}

void talk_close(struct talk *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (t[i].fd >= 0)
			close(t[i].fd);
}

void said_free(struct said *s)
{
	json_decref(s->json);
	free(s->head);
	free(s->body);
	*s = (struct said){0};
}

void said_expect(const struct said *s, int status, const char *text)
{
	if (s->status != status || !s->whole || (text && !strstr(s->body, text)))
		fail_msg("not %d with `%s`, but %s%s%s", status, text ? text : "", s->head, s->body,
			 s->whole ? "" : " (cut off)");
}
