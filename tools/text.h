/* SPDX-License-Identifier: MIT
 * Text for people: foreign bytes made harmless for a terminal, numbers with units, tables with aligned columns.
 * Pure but for the FILE that is written to. */
#ifndef BERTH_TOOLS_TEXT_H
#define BERTH_TOOLS_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Control characters, bytes that are no UTF-8 and the marks that turn text around become \xNN. Always ends with NUL;
 * what does not fit is cut before a character. Returns out. */
char *text_escape(char *out, size_t room, const char *s, size_t len);
#define TEXT_KEY (4 * 255 + 1) /* room for any escaped key */
/* A JSON string of any bytes: what is no UTF-8 is escaped first. New reference. */
json_t *text_json(const char *s, size_t len);

#define TEXT_UNIT 48                             /* room for each of these; they return out */
char *text_duration(char *out, uint64_t ms);     /* "312 ms", "1.2 s", "3 min 12 s", "2 h 5 min", "3 d 4 h" */
char *text_blackout(char *out, uint64_t ms);     /* the same; "less than 1 ms" */
char *text_bytes(char *out, uint64_t bytes);     /* "512 B", "64.0 MiB" */
char *text_count(char *out, uint64_t n);         /* "1,234,567" */
char *text_time(char *out, int64_t realtime_ms); /* "2026-01-31 23:59:58", local time */

/* A table of text, printed with columns as wide as their widest cell so far. The cells are kept until grid_flush, which
 * may come as often as wanted: later rows then never get narrower. */
struct grid {
	unsigned n_columns;
	size_t width[16];
	bool right[16], hidden[16];
	const char *heading[16];
	bool headed;
	char *cells; /* NUL-terminated one after the other */
	size_t len, room;
};
/* Headings, texts that outlive the grid; one that starts with '>' is aligned to the right. "" as the first: no heading
 * line. */
#define grid_start(g, ...) grid_headings(g, (const char *const[]){__VA_ARGS__, NULL})
void grid_headings(struct grid *, const char *const headings[]);
void grid_cell(struct grid *, const char *s, size_t len); /* escapes */
void grid_text(struct grid *, const char *s);
void grid_u64(struct grid *, uint64_t);
/* Leaves out columns, in the order of these headings, until the cells so far fit into so many columns of a terminal;
 * the last one counts as its heading alone. */
void grid_fit(struct grid *, size_t columns, const char *const headings[]);
void grid_flush(struct grid *, FILE *);
void grid_end(struct grid *); /* frees; what is not flushed is dropped */

#endif
