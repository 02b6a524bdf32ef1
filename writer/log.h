/* SPDX-License-Identifier: MIT
 * What berthd says about itself, on stderr: one line an event, `key=value` (logfmt). Any thread; one write(2) a line,
 * so lines of two threads do not mix. Not for the work of a change: at the default level a change logs nothing.
 *
 * Under systemd (JOURNAL_STREAM names our stderr) a line starts with <N>, its syslog priority, and has no time. */
#ifndef BERTH_WRITER_LOG_H
#define BERTH_WRITER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(enum, name, syslog priority) */
#define LOG_LEVELS(X) \
	X(LEVEL_ERROR, "error", 3) \
	X(LEVEL_WARN, "warn", 4) \
	X(LEVEL_INFO, "info", 6) \
	X(LEVEL_DEBUG, "debug", 7)
enum log_level {
#define LOG_ENUM(e, name, priority) e,
	LOG_LEVELS(LOG_ENUM)
#undef LOG_ENUM
};

struct log_field {
	const char *key;
	const char *text; /* NULL: the number */
	int64_t number;
};
static inline struct log_field log_text(const char *key, const char *text)
{
	return (struct log_field){.key = key, .text = text ? text : ""};
}
#define LOG_S(key, text) log_text(key, text)
#define LOG_N(k, value) ((struct log_field){.key = (k), .number = (int64_t)(value)})

/* Before the first line. */
void log_open(enum log_level most);
/* False when name is none of the table's. */
bool log_level_parse(const char *name, enum log_level *);
bool log_wanted(enum log_level);
void log_write(enum log_level, const char *event, const struct log_field *, size_t n);

#define log_event(level, event, ...) \
	do { \
		if (log_wanted(level)) { \
			const struct log_field log_fields_[] = {__VA_ARGS__}; \
			log_write(level, event, log_fields_, sizeof(log_fields_) / sizeof(log_fields_[0])); \
		} \
	} while (0)

#endif
