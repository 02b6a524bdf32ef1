/* SPDX-License-Identifier: MIT
 * Talking to the daemon: writer/PROTOCOL.md over berth.sock or admin.sock. Blocking calls with deadlines, one
 * connection at a time, one thread. */
#ifndef BERTH_TOOLS_CLIENT_H
#define BERTH_TOOLS_CLIENT_H

#include <signal.h>

#include "tool.h"

#define CLIENT_ANSWER_MS 5000
#define CLIENT_REQUEST_MAX 65536u /* bytes of a request (FRAME_MAX of the daemon) and its newline */
#define CLIENT_TOO_LONG \
	"the request is longer than 64 KiB: give less at once; a document (`berth load`) takes any number of " \
	"partitions"
/* Changes wait in the daemon while it applies a document, and a document takes its time: as long as the daemon beats.
 */
#define CLIENT_PATIENCE_MS 5000
#define CLIENT_LOAD_PATIENCE_MS 30000

enum client_socket { CLIENT_LOOK, CLIENT_ADMIN };

/* What ends the waiting for an answer: signals, which are let in with this mask, and, with `keys`, what is typed; asked()
 * says whether it has come, and reads what was typed. */
struct client_stop {
	const sigset_t *mask;
	bool (*asked)(void);
	bool keys; /* standard input is looked at too */
};

struct client {
	int fd; /* -1: not connected */
	uint64_t id;
	enum client_socket which;
	char *in;
	size_t len, room, scanned;
	const struct client_stop *stop; /* of connecting, and of each call that names none; NULL: none */
	bool denied;                    /* this user may not use the socket */
	char fault[4600];               /* after CALL_DOWN: what happened, for people */
};

/* CALL_DOWN: no connection, or it broke, or no answer in time: whether the request was carried out is not known once it
 * was sent. CALL_STOPPED, with a `stop` alone: so is it not known then. The connection is closed then. */
enum call_result { CALL_OK, CALL_REFUSED, CALL_DOWN, CALL_STOPPED };

void client_init(struct client *, enum client_socket);
/* Within CLIENT_ANSWER_MS. CALL_OK or CALL_DOWN, or CALL_STOPPED. t->dir_fd is open. */
enum call_result client_connect(const struct tool *, struct client *);
void client_close(struct client *);

/* A request and its answer. params: taken over; NULL: none. pass_fd: handed over with the request; -1: none.
 * patience_ms: after CLIENT_ANSWER_MS, wait on while root's heartbeat is younger than this; 0: do not.
 * stop: NULL: the client's; without one signals do not end it, those that are not blocked interrupt nothing.
 * *answer: the result, or the error object of CALL_REFUSED; new reference; untouched otherwise. */
struct client_request {
	const char *method;
	json_t *params;
	int pass_fd;
	uint64_t patience_ms;
	const struct client_stop *stop;
};
enum call_result client_call(const struct tool *, struct client *, const struct client_request *, json_t **answer);
/* The next notification, waiting at most wait_ms (-1: for ever); CALL_OK with *line NULL: none came. */
enum call_result client_next(struct client *, int wait_ms, json_t **line);

/* What most commands do: connect, one call, close; failures are told. EXIT_DONE: *result is a new reference. */
int client_once(struct tool *, enum client_socket, const char *method, json_t *params, json_t **result);
/* Tells a failure of client_connect or client_call; takes the answer over. */
int client_fail(const struct tool *, const struct client *, enum call_result, json_t *answer);

#endif
