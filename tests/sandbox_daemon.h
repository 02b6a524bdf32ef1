/* SPDX-License-Identifier: MIT
 * The daemon of users.h as the tests of isolation use it: run in a sandbox, asked, and told to change. One at a time. */
#ifndef BERTH_TESTS_SANDBOX_DAEMON_H
#define BERTH_TESTS_SANDBOX_DAEMON_H

#include "sandbox.h"
#include "users.h"

/* Starts `place`, which is not running, in there, with one option or none; returns when it serves. What of it (its store
 * and directory) has to be set before the sandbox is opened. One at a time. */
void sandbox_serve(struct sandbox *, const char *option);
/* Stops `place`, opens the sandbox as a pid namespace and no more, and starts it in there. */
void sandbox_move_daemon(struct sandbox *);
void sandbox_serve_signal(int signal);                /* SIGSTOP or SIGCONT */
void sandbox_serve_end(struct sandbox *, int signal); /* SIGTERM or SIGKILL; returns when it has ended */

void expect_readers(json_int_t n); /* are attached, at once or soon */
void place_often(struct wire *, const char *partition,
		 unsigned n); /* changes that leave records behind; on c1 in the end */
void begin_moving(struct wire *, const char *partition, const char *to);
/* `complete` is refused for this reason, at once or soon; the pids that it names (the first 8; how many). */
void expect_pending(struct wire *, const char *partition, const char *reason);
unsigned pending_pids(struct wire *, const char *partition, json_int_t pids[8]);

#endif
