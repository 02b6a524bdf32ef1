/* SPDX-License-Identifier: MIT
 * logfmt lines on stderr: log.h. A line that does not fit is cut, never split. */
#include "log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096u

static const struct {
	const char *name;
	int priority;
} levels[] = {
#define LOG_ROW(e, name, priority) [e] = {name, priority},
	LOG_LEVELS(LOG_ROW)
#undef LOG_ROW
};

static enum log_level threshold = LEVEL_INFO;
static bool journal;

void log_open(enum log_level most)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	threshold = most;
	/* The variable is inherited by whatever a service starts: it counts only when it names our own stderr. */
	journal = stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
		  st.st_dev == device && st.st_ino == inode;
}

bool log_level_parse(const char *name, enum log_level *level)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(levels[i].name, name) == 0) {
			*level = (enum log_level)i;
			return true;
		}
	}
	return false;
}

bool log_wanted(enum log_level level)
{
	return level <= threshold;
}

struct line {
	size_t len;
	char bytes[LINE_MAX_BYTES];
};

static void put(struct line *l, const char *s, size_t n)
{
	size_t room = LINE_MAX_BYTES - 1 - l->len; /* one is kept for the newline */

	if (n > room)
		n = room;
	memcpy(l->bytes + l->len, s, n);
	l->len += n;
}

static void put_text(struct line *l, const char *s)
{
	put(l, s, strlen(s));
}

/* Bare when it is one plain word, else in quotes with the quote, the backslash and control characters escaped: nothing
 * that a client sends can begin a new line or a new field. */
static void put_value(struct line *l, const char *s)
{
	bool plain = *s != '\0';

	for (const char *p = s; *p && plain; p++)
		plain = (unsigned char)*p > ' ' && *p != '"' && *p != '=' && *p != '\\' && *p != 0x7f;
	if (plain) {
		put_text(l, s);
		return;
	}
	put(l, "\"", 1);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		char escaped[8];

		if (c == '"' || c == '\\') {
			put(l, "\\", 1);
			put(l, s, 1);
		} else if (c < ' ' || c == 0x7f) {
			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
			put_text(l, escaped);
		} else {
			put(l, s, 1);
		}
	}
	put(l, "\"", 1);
}

static void put_time(struct line *l)
{
	struct timespec now;
	struct tm tm;
	char text[48];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(text, sizeof(text), "time=%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(text + n, sizeof(text) - n, ".%03ldZ ", now.tv_nsec / 1000000);
	put(l, text, n);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t n)
{
	struct line l = {0};
	char text[32];
	int len;

	if (journal) {
		len = snprintf(text, sizeof(text), "<%d>", levels[level].priority);
		put(&l, text, (size_t)len);
	} else {
		put_time(&l);
	}
	put_text(&l, "level=");
	put_text(&l, levels[level].name);
	put_text(&l, " event=");
	put_text(&l, event);
	for (size_t i = 0; i < n; i++) {
		put(&l, " ", 1);
		put_text(&l, fields[i].key);
		put(&l, "=", 1);
		if (fields[i].text) {
			put_value(&l, fields[i].text);
		} else {
			len = snprintf(text, sizeof(text), "%" PRId64, fields[i].number);
			put(&l, text, (size_t)len);
		}
	}
	l.bytes[l.len++] = '\n';
	if (write(STDERR_FILENO, l.bytes, l.len) < 0)
		return; /* nobody reads our stderr: there is no other place to say so */
}
