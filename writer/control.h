/* SPDX-License-Identifier: MIT
 * The two sockets of an instance and the connections on them. control.c listens and limits; conn.c moves bytes and cuts
 * them into frames; rpc.c (rpc.h) understands a frame. Control thread only.
 *
 * A connection, by what it waits for (exactly one; conn_settle arms the poll accordingly):
 *
 *   its peer's next bytes        readable
 *   its peer reading answers     writable; no request is looked at meanwhile
 *   its turn                     on server.waiting: whole requests are buffered, or bytes are in its socket; the idle
 *                                handle goes on with them, with those of admin.sock first
 *   the end of a document        on server.parked: a changing request stays in the buffer and is read again then
 *   the end of a compare         on server.parked too: `bpf.verify` is read again when a pass has ended
 *   the end of old writes        on server.completing: `complete` with wait_ms stays in the buffer and is read again then
 *   its own document             conn.load
 *
 * What came behind a request that waits stays behind it:
 *
 *   conn.in | {complete p, wait_ms} | {begin q} | {sta...     not read from the socket meanwhile
 *             ^ read again: the drain is over -> its answer, then on with {begin q}
 *
 * Answers leave in the order of the requests. Each wait has a limit but those for a document (control.c, wait_ms). No
 * request that has waited is done when its peer has closed the connection meanwhile (conn_gone).
 *
 * What requests of berth.sock cost, those of admin.sock do not wait for, but for the one that is being answered and those
 * of some ms: beyond that a connection of berth.sock that has something to be read is put on server.waiting. */
#ifndef BERTH_WRITER_CONTROL_H
#define BERTH_WRITER_CONTROL_H

#include "server.h"

#define FRAME_MAX 65536u /* bytes of a request, newline excluded */
#define DEPTH_MAX 32u    /* nesting of a request */
#define WATCH_BACKLOG_MAX 1048576u
#define WATCHERS_MAX 256u
#define WATCHERS_OF_UID_MAX 64u
#define BACKLOG_MAX 268435456u /* of all answers that wait for their readers: above it, no more looking */
#define CONNS_MAX 1024u        /* on berth.sock, attached ones not counted */
#define CONNS_OF_UID_MAX 512u
#define ADMIN_CONNS_MAX 2048u /* on admin.sock; each waits for at most one drain */
#define ADMIN_CONNS_OF_UID_MAX 1024u
#define WAIT_MS_MAX 600000u   /* of `complete` */
#define CONN_IDLE_MS 30000u   /* without a whole request, or without reading an answer */
#define CONN_SPARED_MS 100u   /* ... before it may be closed for a new one, above a limit */
#define DESCRIPTORS_KEPT 128u /* of RLIMIT_NOFILE, not for connections on berth.sock */

struct conn {
	TAILQ_ENTRY(conn) link;       /* server.conns */
	TAILQ_ENTRY(conn) queue_link; /* *queued */
	TAILQ_ENTRY(conn) watch_link; /* server.watchers */
	struct conn_list *queued;     /* server.waiting, server.parked, server.completing, or NULL */
	struct server *server;
	uv_poll_t poll;
	int fd;
	int events; /* that poll is armed for */
	bool admin, attached, watching;
	bool asked;   /* it has sent a whole request */
	bool unread;  /* bytes of it were seen in its socket, and its turn to be read has not come yet */
	bool eof;     /* the peer sends no more */
	bool closing; /* close once the answers have left */
	bool closed;  /* memory goes at the end of the loop's turn */

	uid_t uid;
	pid_t pid;    /* as seen from here; 0: not visible */
	char who[80]; /* for the history; "" until it is wanted */

	struct buffer in, out;
	size_t scanned;             /* bytes of in without a newline */
	size_t counted;             /* bytes of out in server.backlog */
	int passed_fd;              /* came with the request that is being read; -1: none */
	int send_fds[2];            /* go with the first byte of out; -1: none */
	uint64_t heard_ms, sent_ms; /* of the loop's clock: last whole request, last byte taken by the peer */

	uint32_t slot; /* attached: of its registration */
	uint64_t attach;
	uint64_t compare;              /* pass of table against mirror that its request waits for; 0: none */
	struct load *load;             /* whose answer this connection waits for */
	struct completing *completing; /* of the `complete` at the front of in, which was looked at and waits */
};

/* ---- control.c ---- */
enum refusal_code control_open(struct server *, struct refusal *);
/* No more new connections; the sockets' names go. */
void control_stop_listening(struct server *);
void control_close(struct server *);
/* Once a second: closes who is idle or does not read, and who is parked and gone. */
void control_sweep(struct server *);

/* ---- conn.c ---- */
/* Takes fd. NULL: it cannot be served, and is closed. */
struct conn *conn_open(struct server *, int fd, bool admin, uid_t, pid_t);
void conn_close(struct conn *);
/* Goes on with buffered requests, sends what there is to send, arms the poll. Whoever appended to conn.out from outside
 * of a request (a notification, a late answer) calls it afterwards. */
void conn_run(struct conn *);
/* A slice of what is on server.waiting for each socket. True when more is left. */
bool conns_run_waiting(struct server *);
/* The document is through, or its fate is unknown: parked requests may be tried again. */
void conns_unpark(struct server *);
/* What it waited for has come, or will not come: its request is read again soon. */
void conn_again(struct conn *);
/* A connection that waits is not read: whether its peer is still there shows only here. Who has only closed its sending
 * half still wants its answer. */
bool conn_gone(const struct conn *);
/* At a stop: each `complete` that waits is answered with what is true now. */
void conns_answer_completing(struct server *);
const char *conn_who(struct conn *);
/* The descriptor that came with the present request, now the caller's; -1: none. */
int conn_take_fd(struct conn *);

/* ---- completing.c ---- */
/* 0, or an error of libuv. */
int completing_open(struct server *);
void completing_close(struct server *);
/* `complete` of this partition was refused with barrier-pending: true when its request is to wait (the caller puts the
 * connection on server.completing), false when its time is up. Called again each time that it is still refused. */
bool completing_wait(struct conn *, const char *key, size_t len, uint64_t wait_ms, const struct refusal *);
/* Before such a request is tried again: R_NOT_MIGRATING when the cutover that it waits for has ended and there is another
 * one now. */
enum refusal_code completing_same(struct conn *, const char *key, size_t len, struct refusal *);
/* Its request was answered, or its connection closes. */
void completing_end(struct conn *);
/* A migration has ended: somebody may wait in vain. */
void completing_look_soon(struct server *);

#endif
