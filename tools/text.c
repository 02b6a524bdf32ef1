/* SPDX-License-Identifier: MIT
 * Text for people (text.h). What comes from shared memory or a socket reaches a terminal through here alone. */
#include "text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tool.h"

/* Length of the UTF-8 character at s, 0 when it is none; *code is the character. */
static size_t utf8_character(const unsigned char *s, size_t len, uint32_t *code)
{
	static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc0 ? 2 : 0;
	uint32_t c = n == 1 ? s[0] : n == 0 ? 0 : s[0] & (0x7fu >> n);

	if (n == 0 || n > len || s[0] >= 0xf8)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3fu);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*code = c;
	return n;
}

/* Characters that do something to a terminal, or to the order of what stands beside them. */
static bool acts_on_terminal(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || (c >= 0x200e && c <= 0x200f) ||
	       (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

char *text_escape(char *out, size_t room, const char *s, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = (const unsigned char *)s;
	size_t at = 0;

	while (len) {
		uint32_t code = 0;
		size_t n = utf8_character(p, len, &code);
		bool plain = n && !acts_on_terminal(code);

		n = n ? n : 1;
		if (at + (plain ? n : 4 * n) >= room)
			break;
		for (size_t i = 0; i < n; i++) {
			if (plain) {
				out[at++] = (char)p[i];
				continue;
			}
			out[at++] = '\\';
			out[at++] = 'x';
			out[at++] = digits[p[i] >> 4];
			out[at++] = digits[p[i] & 15];
		}
		p += n;
		len -= n;
	}
	out[at] = '\0';
	return out;
}

json_t *text_json(const char *s, size_t len)
{
	json_t *json = json_stringn(s, len);

	if (json)
		return json;
	char *escaped = malloc(4 * len + 1);
	if (!escaped)
		return NULL;
	json = json_string(text_escape(escaped, 4 * len + 1, s, len));
	free(escaped);
	return json;
}

char *text_duration(char *out, uint64_t ms)
{
	uint64_t s = ms / 1000, min = s / 60, h = min / 60;

	if (ms < 1000)
		snprintf(out, TEXT_UNIT, "%" PRIu64 " ms", ms);
	else if (s < 60)
		snprintf(out, TEXT_UNIT, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
	else if (min < 60)
		snprintf(out, TEXT_UNIT, "%" PRIu64 " min %" PRIu64 " s", min, s % 60);
	else if (h < 48)
		snprintf(out, TEXT_UNIT, "%" PRIu64 " h %" PRIu64 " min", h, min % 60);
	else
		snprintf(out, TEXT_UNIT, "%" PRIu64 " d %" PRIu64 " h", h / 24, h % 24);
	return out;
}

char *text_blackout(char *out, uint64_t ms)
{
	if (ms)
		return text_duration(out, ms);
	snprintf(out, TEXT_UNIT, "less than 1 ms");
	return out;
}

char *text_bytes(char *out, uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	uint64_t tenths = bytes; /* of a KiB step, times 10 from the first on */
	unsigned unit = 0;

	if (bytes < 1024) {
		snprintf(out, TEXT_UNIT, "%" PRIu64 " B", bytes);
		return out;
	}
	while (tenths / 1024 >= 1024 && unit < 5) {
		tenths /= 1024;
		unit++;
	}
	snprintf(out, TEXT_UNIT, "%" PRIu64 ".%" PRIu64 " %s", tenths / 1024, tenths % 1024 * 10 / 1024, units[unit]);
	return out;
}

char *text_count(char *out, uint64_t n)
{
	char plain[24];
	int len = snprintf(plain, sizeof(plain), "%" PRIu64, n);
	char *at = out;

	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			*at++ = ',';
		*at++ = plain[i];
	}
	*at = '\0';
	return out;
}

char *text_time(char *out, int64_t realtime_ms)
{
	time_t t = (time_t)(realtime_ms / 1000);
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(out, TEXT_UNIT, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(out, TEXT_UNIT, "%" PRId64 " ms", realtime_ms);
	return out;
}

/* ---- tables ---- */

/* Columns on a terminal: characters, not bytes. The cell is UTF-8 by now. */
static size_t columns(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void grid_headings(struct grid *g, const char *const headings[])
{
	*g = (struct grid){0};
	while (headings[g->n_columns] && g->n_columns < sizeof(g->width) / sizeof(g->width[0])) {
		unsigned i = g->n_columns++;
		g->right[i] = headings[i][0] == '>';
		g->heading[i] = headings[i] + g->right[i];
		g->width[i] = columns(g->heading[i]);
	}
	g->headed = g->n_columns == 0 || g->heading[0][0] == '\0';
}

void grid_cell(struct grid *g, const char *s, size_t len)
{
	size_t need = 4 * len + 1;

	if (g->room - g->len < need) {
		size_t room = 2 * g->room + need;
		char *cells = realloc(g->cells, room);
		if (!cells)
			tool_no_memory();
		g->cells = cells;
		g->room = room;
	}
	text_escape(g->cells + g->len, need, s, len);
	g->len += strlen(g->cells + g->len) + 1;
}

void grid_text(struct grid *g, const char *s)
{
	grid_cell(g, s, strlen(s));
}

void grid_u64(struct grid *g, uint64_t n)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, n);
	grid_text(g, text);
}

static void put_cell(const struct grid *g, unsigned i, const char *s, FILE *out)
{
	size_t n = columns(s);
	int pad = n < g->width[i] ? (int)(g->width[i] - n) : 0;

	if (g->hidden[i])
		return;
	if (g->right[i])
		fprintf(out, "%*s%s", pad, "", s);
	else
		fprintf(out, "%s%*s", s, i + 1 < g->n_columns ? pad : 0, "");
	fputs(i + 1 < g->n_columns ? "  " : "\n", out);
}

static void measure(struct grid *g)
{
	unsigned i = 0;

	for (size_t at = 0; at < g->len; at += strlen(g->cells + at) + 1) {
		size_t n = columns(g->cells + at);
		if (n > g->width[i])
			g->width[i] = n;
		i = i + 1 < g->n_columns ? i + 1 : 0;
	}
}

void grid_fit(struct grid *g, size_t room, const char *const headings[])
{
	size_t all = columns(g->heading[g->n_columns - 1]);

	measure(g);
	for (unsigned i = 0; i + 1 < g->n_columns; i++)
		all += g->width[i] + 2;
	for (; *headings && all > room; headings++)
		for (unsigned i = 0; i + 1 < g->n_columns; i++)
			if (strcmp(g->heading[i], *headings) == 0) {
				g->hidden[i] = true;
				all -= g->width[i] + 2;
			}
}

void grid_flush(struct grid *g, FILE *out)
{
	unsigned i;

	measure(g);
	for (i = 0; !g->headed && i < g->n_columns; i++)
		put_cell(g, i, g->heading[i], out);
	g->headed = true;
	i = 0;
	for (size_t at = 0; at < g->len; at += strlen(g->cells + at) + 1) {
		put_cell(g, i, g->cells + at, out);
		i = i + 1 < g->n_columns ? i + 1 : 0;
	}
	g->len = 0;
}

void grid_end(struct grid *g)
{
	free(g->cells);
	g->cells = NULL;
}
