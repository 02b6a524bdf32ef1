/* SPDX-License-Identifier: MIT
 * The instance that a command looks at: its directory, root, the newest table, and a registration with the daemon when
 * one lives, so that what is being read is not reused. Everything is released by instance_close. */
#ifndef BERTH_TOOLS_INSTANCE_H
#define BERTH_TOOLS_INSTANCE_H

#include "tool.h"

/* Opens the directory and root. EXIT_DONE, or what tool_fail returned. */
int instance_open(struct tool *);
/* The same without a word: a code of berth_errors.h. */
int instance_try(struct tool *);
/* Tells what instance_try answered: which instances there are, or who may look into this one. EXIT_UNREACHABLE or
 * EXIT_DAMAGE. */
int instance_fail(const struct tool *, int code);
/* "; there are: --instance default, eu"; "" when there is none below SEG_DIR_BASE. */
#define INSTANCE_SHOWN 5
#define INSTANCE_NAMES ((INSTANCE_SHOWN + 1) * 64 + 32)
const char *instance_names(char out[INSTANCE_NAMES]);
#define INSTANCE_GROUP 48
const char *instance_group(uint32_t number, char out[INSTANCE_GROUP]); /* its name in backquotes, or "number 7" */
/* Further: registers with a living daemon (without one, or when it refuses: a remark, and reading goes on, which is
 * safe because every row is checked after it was copied), and maps the newest table. */
int instance_open_table(struct tool *);
void instance_register(struct tool *);
void instance_close(struct tool *);

/* A section: between begin and end, t->map is the newest generation there was at begin, and the memory that it shows is
 * not reused while the daemon knows of us. Short: no output, no waiting inside. EXIT_DONE, or what tool_fail returned
 * (then there is no section). */
int instance_section(struct tool *);
/* True when the generation stood from begin to end: what was read counts. Otherwise it is read again. */
bool instance_section_end(struct tool *);

/* How root's heartbeat looks. */
struct instance_pulse {
	bool this_boot;  /* root was made since the machine started */
	bool fresh;      /* a heartbeat within the last seconds */
	uint64_t age_ms; /* since the last one; 0 when not this_boot */
	uint64_t pid;    /* of the last writer; 0: never one */
	bool exists;     /* that process is still there */
};
/* Is this the process that started then, and does it run (a zombie does not)? */
bool instance_process_lives(uint64_t pid, uint64_t start);
void instance_pulse(const struct tool *, struct instance_pulse *);
/* "berthd is not running for DIR (process 123 is gone, last sign of life 3 min ago): start it" */
void instance_describe_down(const struct tool *, char *out, size_t room);

#endif
