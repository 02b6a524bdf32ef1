/* SPDX-License-Identifier: MIT
 * The real berthd in a temporary directory, and a connection to its sockets, for tests that go through them. Everything
 * has a deadline; what does not hold ends the test with what was expected, what came, and the daemon's log. The daemon
 * dies with the test program, however that ends. One thread; not for a process that has other children to wait for. */
#ifndef BERTH_TESTS_DAEMON_H
#define BERTH_TESTS_DAEMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#define DAEMON_MS 20000 /* deadline of everything that names none */

struct daemon {
	char home[64];  /* temporary: holds all of the below, and whatever the test puts there */
	char dir[80];   /* of the instance: home/i */
	char store[96]; /* URL */
	char log[80];   /* file: stderr of all its starts */
	pid_t pid;      /* 0: not running */
	int pidfd, notify_fd;
	unsigned watchdog_ms; /* of the next start: what systemd asks for; 0: nothing */
};

/* ---- process ---- */

/* A directory, no process yet. store: "memory" or "sqlite". */
void daemon_make(struct daemon *, const char *store);
/* Ends what runs, removes everything. */
void daemon_remove(struct daemon *);
/* As cmocka wants them: one that runs, with the store that the prestate names; *state is it. */
int daemon_setup(void **state);
int daemon_teardown(void **state);
#define DAEMON_TEST(test, store_name) \
	(struct CMUnitTest) \
	{ \
		.name = #test " (" store_name ")", .test_func = test, .setup_func = daemon_setup, \
		.teardown_func = daemon_teardown, .initial_state = (void *)(uintptr_t)(store_name) \
	}

/* Starts it with --dir, --store and the options given, NULL last; returns when it has told systemd that it is ready. */
#define daemon_start(d, ...) daemon_start_with(d, (const char *const[]){__VA_ARGS__})
void daemon_start_with(struct daemon *, const char *const *options);
/* The same without waiting. */
#define daemon_spawn(d, ...) daemon_spawn_with(d, (const char *const[]){__VA_ARGS__})
void daemon_spawn_with(struct daemon *, const char *const *options);
void daemon_wait_ready(struct daemon *);
/* A start that must not succeed: its exit status. A daemon that runs already goes on. */
#define daemon_start_refused(d, ...) daemon_start_refused_with(d, (const char *const[]){__VA_ARGS__})
int daemon_start_refused_with(struct daemon *, const char *const *options);
void daemon_signal(struct daemon *, int signal);
/* Waits for its end: exit status, or 128 + signal. */
int daemon_wait(struct daemon *);
int daemon_stop(struct daemon *); /* SIGTERM */
void daemon_kill(struct daemon *);
/* The whole log, to be freed; and whether it has this text, within the deadline. */
char *daemon_log(const struct daemon *);
void daemon_expect_log(const struct daemon *, const char *text);
/* Writes home/name and puts the path into path[128]. */
void daemon_file(const struct daemon *, const char *name, const char *text, char *path);
/* /proc/PID/name, a directory; the test's to close. */
DIR *daemon_proc(const struct daemon *, const char *name);
/* BERTH_BUILD/name, or the file beside the directory of this program. */
const char *daemon_program(const char *name);

/* ---- connection ---- */

enum wire_socket { WIRE_LOOK, WIRE_ADMIN };
struct wire {
	int fd;
	unsigned id; /* of the last request */
	int passed;  /* descriptor that came with the last line; the test's to close; -1: none */
	int bell;    /* the one after it, likewise: of a registration with pin rings */
	char *in;
	size_t len, size;
};

void wire_open(struct wire *, const struct daemon *, enum wire_socket);
void wire_close(struct wire *);
/* Bytes as they are; false when the peer has closed. */
bool wire_send(struct wire *, const void *, size_t);
bool wire_text(struct wire *, const char *);
/* The next line, without its end, to be freed; NULL: closed. Fails the test at the deadline. */
char *wire_line(struct wire *, int deadline_ms);
/* True when nothing comes for so long. */
bool wire_silent(struct wire *, int ms);
/* The next line, parsed; fails the test when the connection is closed or the line is no JSON object. */
json_t *wire_message(struct wire *);
/* True when it is not closed and nothing has come. */
bool wire_is_open(const struct wire *);
/* The last line is a refusal with this code, and then it is closed. */
void wire_expect_last(struct wire *, const char *code);

/* params: a format of json_pack, or NULL for none. Each checks jsonrpc and id of the answer. */
json_t *wire_call(struct wire *, const char *method, const char *params, ...); /* the whole answer */
json_t *wire_ok(struct wire *, const char *method, const char *params, ...);   /* its result, or the test fails */
/* Fails the test unless it is refused with this code; its error object. */
json_t *wire_refused(struct wire *, const char *code, const char *method, const char *params, ...);
/* As wire_ok and wire_refused, for those who do not look at it. */
void wire_do(struct wire *, const char *method, const char *params, ...);
void wire_deny(struct wire *, const char *code, const char *method, const char *params, ...);
/* A request that takes a descriptor along (not closed here); the answer is read with wire_answer. */
void wire_send_with(struct wire *, int fd, const char *method, const char *params, ...);
json_t *wire_answer(struct wire *);
/* The request alone, params as they are (taken; NULL: none), fd or -1; false when the peer has closed. */
bool wire_request(struct wire *, int fd, const char *method, json_t *params);
/* From an answer: its result or its error's code; fails the test when it is the other. Takes the answer. */
json_t *answer_result(json_t *answer);
void answer_expect_refused(json_t *answer, const char *code);
/* Asked on a connection of its own to berth.sock, without params: the result, to be freed; a number of `status`. */
json_t *daemon_ask(const struct daemon *, const char *method);
json_int_t daemon_status(const struct daemon *, const char *name);

/* ---- small things ---- */
uint64_t test_now_ms(void);
/* Runs the test body again and again until it holds: while (within(&deadline)). Sleeps a little in between. */
bool within(uint64_t *deadline_ms);
json_int_t int_of(const json_t *object, const char *name); /* fails the test when it is no integer */
const char *text_of(const json_t *object, const char *name);
bool is_true(const json_t *object, const char *name);

#endif
