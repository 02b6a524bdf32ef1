/* SPDX-License-Identifier: MIT
 * A plain parser of frames and requests: packet_oracle.h. */
#include "packet_oracle.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "../bpf/layout.h"

#define WINDOW 1536u

/* ---- the frame ---- */

static unsigned at16(const unsigned char *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* The payload of a TCP segment; false: none. */
static bool payload_of(const unsigned char *f, size_t len, unsigned *port, size_t *begin, size_t *end)
{
	size_t at = 14;
	unsigned ether, next;

	if (len < at)
		return false;
	ether = at16(f + 12);
	for (int tags = 0; tags < 2 && (ether == 0x8100 || ether == 0x88a8); tags++) {
		if (at + 4 > len)
			return false;
		ether = at16(f + at + 2);
		at += 4;
	}
	if (ether == 0x0800) {
		if (at + 20 > len || f[at] >> 4 != 4 || (f[at] & 15) < 5)
			return false;
		if (at16(f + at + 6) & 0x3fff)
			return false; /* a fragment */
		*end = at + at16(f + at + 2);
		next = f[at + 9];
		at += (f[at] & 15u) * 4;
	} else if (ether == 0x86dd) {
		if (at + 40 > len || f[at] >> 4 != 6)
			return false;
		*end = at + 40 + at16(f + at + 4);
		next = f[at + 6];
		at += 40;
		for (int n = 0; n < 4 && (next == 0 || next == 43 || next == 60); n++) {
			if (at + 2 > len)
				return false;
			next = f[at];
			at += (f[at + 1] + 1u) * 8;
		}
	} else {
		return false;
	}
	if (next != 6 || at > 451 || at + 20 > len || f[at + 12] >> 4 < 5)
		return false;
	*port = at16(f + at + 2);
	*begin = at + (f[at + 12] >> 4) * 4u;
	return *begin < *end && *end <= len;
}

/* ---- the request ---- */

static bool is_token(unsigned char c)
{
	return c < 128 && c != 0 && (isalnum(c) || strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

static bool is(const unsigned char *p, size_t len, const char *text)
{
	return len == strlen(text) && memcmp(p, text, len) == 0;
}

static bool names_search(const unsigned char *p, size_t n)
{
	static const char *const searches[] = {
		"_search",  "_msearch",     "_count",        "_mget",      "_pit",     "_field_caps",    "_validate",
		"_explain", "_termvectors", "_mtermvectors", "_rank_eval", "_analyze", "_search_shards", "_render"};

	for (size_t i = 0; i < sizeof(searches) / sizeof(searches[0]); i++)
		if (is(p, n, searches[i]))
			return true;
	return false;
}

static bool is_search(const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n && p[i] > ' ' && p[i] != '?'; i++) {
		size_t end = i + 1;

		if (p[i] != '/' || end == n || p[end] != '_' || end > 256)
			continue;
		while (end < n && p[end] > ' ' && p[end] != '?' && p[end] != '/')
			end++;
		if (names_search(p + i + 1, end - i - 1))
			return true;
	}
	return false;
}

static struct oracle_answer none(int event)
{
	return (struct oracle_answer){.event = event};
}

static struct oracle_answer tenant(const unsigned char *p, size_t len)
{
	if (len == 0)
		return none(MIRROR_EVENT_NO_TENANT);
	if (len > 39)
		return none(MIRROR_EVENT_KEY_LONG);
	for (size_t i = 0; i < len; i++)
		if (is_control(p[i]))
			return none(MIRROR_EVENT_NO_TENANT);
	return (struct oracle_answer){.event = -1, .tenant = p, .len = len};
}

/* p: the target and what follows it, a space at least. */
static struct oracle_answer in_path(const unsigned char *p, unsigned segment)
{
	const unsigned char *begin;

	if (*p++ != '/')
		return none(MIRROR_EVENT_NO_TENANT);
	for (unsigned number = 1;; number++) {
		begin = p;
		while (!is_control(*p) && !strchr("/?%# ", *p))
			p++;
		if (*p != '/' && *p != '?' && *p != ' ')
			return none(MIRROR_EVENT_NO_TENANT);
		if (p == begin || is(begin, (size_t)(p - begin), ".") || is(begin, (size_t)(p - begin), ".."))
			return none(MIRROR_EVENT_NO_TENANT);
		if (number == segment)
			return tenant(begin, (size_t)(p - begin));
		if (*p++ != '/')
			return none(MIRROR_EVENT_NO_TENANT);
	}
}

static struct oracle_answer in_lines(const unsigned char *p, const unsigned char *end, const char *name)
{
	for (;;) {
		const unsigned char *line_end = memchr(p, '\n', (size_t)(end - p)), *value = p + strlen(name);

		if (!line_end)
			return none(MIRROR_EVENT_CUT);
		if (line_end == p || (line_end == p + 1 && *p == '\r'))
			return none(MIRROR_EVENT_NO_TENANT);
		if (value < line_end && *value == ':' && strncasecmp((const char *)p, name, strlen(name)) == 0) {
			const unsigned char *value_end = line_end;

			if (line_end + 1 == end)
				return none(MIRROR_EVENT_CUT);
			if (line_end[1] == ' ' || line_end[1] == '\t')
				return none(MIRROR_EVENT_NO_TENANT);
			value++;
			while (*value == ' ' || *value == '\t')
				value++;
			if (value_end > value && value_end[-1] == '\r')
				value_end--;
			while (value_end > value && (value_end[-1] == ' ' || value_end[-1] == '\t'))
				value_end--;
			return tenant(value, (size_t)(value_end - value));
		}
		p = line_end + 1;
	}
}

static struct oracle_answer in_request(const struct oracle *o, const unsigned char *p, size_t n)
{
	const unsigned char *line_end, *end;
	struct oracle_answer a;
	size_t method = 0;
	bool write;

	while (method < n && method < 24 && is_token(p[method]))
		method++;
	if (method == 24)
		return none(MIRROR_EVENT_NOT_HTTP);
	if (method == n)
		return none(MIRROR_EVENT_CUT);
	if (method == 0 || p[method] != ' ')
		return none(MIRROR_EVENT_NOT_HTTP);
	line_end = memchr(p + method + 1, '\n', n - method - 1);
	if (!line_end)
		return none(MIRROR_EVENT_CUT);
	end = line_end[-1] == '\r' ? line_end - 1 : line_end;
	if (end - (p + method + 1) < 10 || !isdigit(end[-1]) || memcmp(end - 9, " HTTP/1.", 8) != 0)
		return none(MIRROR_EVENT_NOT_HTTP);
	write = !is(p, method, "GET") && !is(p, method, "HEAD") && !is(p, method, "OPTIONS") && !is(p, method, "TRACE");
	if ((is(p, method, "POST") || is(p, method, "DELETE")) &&
	    is_search(p + method + 1, (size_t)(line_end - p) - method - 1))
		write = false;
	a = o->header ? in_lines(line_end + 1, p + n, o->header) : in_path(p + method + 1, o->segment);
	a.write = write;
	return a;
}

struct oracle_answer oracle_frame(const struct oracle *o, const unsigned char *frame, size_t len)
{
	size_t begin, end;
	unsigned port;

	if (!payload_of(frame, len, &port, &begin, &end) || (o->port && port != o->port))
		return none(MIRROR_EVENT_NOT_HTTP);
	return in_request(o, frame + begin, end - begin < WINDOW ? end - begin : WINDOW);
}
