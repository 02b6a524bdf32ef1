/* SPDX-License-Identifier: MIT
 * The listening sockets: bound below the directory's descriptor, with modes that do not depend on the umask; who may
 * connect, how many, and how long they may do nothing. Control thread only.
 *
 * Limits are for connections that are not attached: a reader process holds its own open for as long as it lives, and
 * the registry limits those. admin.sock has limits of its own, so that nobody who may look keeps out who may change. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"
#include "log.h"
#include "pinning.h"
#include "registry.h"
#include "rpc.h"

#define ACCEPTS_A_TURN 32
#define ACCEPT_PAUSE_MS 100
#define STARVED_LOG_MS 60000u

static const char *const names[] = {SEG_SOCKET, SEG_ADMIN_SOCKET};

/* ---- accepting --------------------------------------------------------------------------------------------- */

static bool waits_for_nothing(const struct conn *c)
{
	return !c->attached && !c->watching && !c->load && !c->queued && buffer_left(&c->out) == 0;
}

/* May it be closed for a newcomer? Not who waits, nor who came or asked just now, nor whose bytes have not been read yet. */
static bool may_go(const struct conn *c)
{
	return waits_for_nothing(c) && !c->unread && uv_now(&c->server->loop) - c->heard_ms >= CONN_SPARED_MS;
}

/* First who has never sent a whole request, then who has sent none for longest. */
static bool goes_before(const struct conn *c, const struct conn *other)
{
	if (!other || c->asked != other->asked)
		return !other || !c->asked;
	return c->heard_ms < other->heard_ms;
}

/* The loop may have been away for long (a commit): what a peer has sent meanwhile is still in its socket. */
static bool has_sent(struct conn *c)
{
	char byte;

	c->unread = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
	return c->unread;
}

/* What one more connection of this user has to share in. */
enum share {
	CONNECTIONS, /* those that are not attached, on its socket */
	DESCRIPTORS, /* all on it */
};

static bool shares(const struct conn *c, bool admin, enum share share)
{
	return c->admin == admin && (share == DESCRIPTORS || !c->attached);
}

static unsigned share_of(struct server *s, bool admin, uid_t uid, enum share share)
{
	unsigned n = 0;
	struct conn *c;

	for (c = TAILQ_FIRST(&s->conns); c; c = TAILQ_NEXT(c, link))
		n += c->uid == uid && shares(c, admin, share);
	return n;
}

/* Who is closed for one more of this user; NULL: nobody. One of its own if there is one; of another user only if that one
 * has more: who takes many does not take them from those who have few. */
static struct conn *who_goes(struct server *s, bool admin, uid_t uid, enum share share)
{
	struct conn *c, *own = NULL, *others = NULL;
	unsigned mine = share_of(s, admin, uid, share);
	uid_t looked_at = uid;
	bool has_more = false;

	for (c = TAILQ_FIRST(&s->conns); c; c = TAILQ_NEXT(c, link)) {
		if (c->admin != admin || !may_go(c) || !goes_before(c, c->uid == uid ? own : others))
			continue;
		if (c->uid != uid && c->uid != looked_at) {
			looked_at = c->uid;
			has_more = share_of(s, admin, c->uid, share) > mine;
		}
		if ((c->uid != uid && (own || !has_more)) || has_sent(c))
			continue;
		*(c->uid == uid ? &own : &others) = c;
	}
	return own ? own : others;
}

/* What stands against one more connection; NULL: nothing. *idle: the one that may be closed for it; NULL: none may. */
static const char *over_limit(struct server *s, bool admin, uid_t uid, struct conn **idle)
{
	unsigned all = 0, of_uid = 0;
	struct conn *c;

	*idle = NULL;
	for (c = TAILQ_FIRST(&s->conns); c; c = TAILQ_NEXT(c, link)) {
		if (!shares(c, admin, CONNECTIONS))
			continue;
		all++;
		of_uid += c->uid == uid;
	}
	if (of_uid >= (admin ? ADMIN_CONNS_OF_UID_MAX : CONNS_OF_UID_MAX)) {
		*idle = who_goes(s, admin, uid, CONNECTIONS); /* nobody has more */
		return "too many connections of this user";
	}
	if (all >= (admin ? ADMIN_CONNS_MAX : CONNS_MAX)) {
		*idle = who_goes(s, admin, uid, CONNECTIONS);
		return "too many connections";
	}
	/* A registration costs a descriptor beside its connection's, and a doorbell if it has one. */
	if (!admin &&
	    s->n_conns + registry_count(table_registry(core_table(s->core))) + pinning_bells(s) + DESCRIPTORS_KEPT >=
		    s->n_descriptors_max) {
		*idle = who_goes(s, admin, uid, DESCRIPTORS);
		return "the daemon's limit of open files is near";
	}
	return NULL;
}

/* The first and last line of somebody who is turned away, the last of somebody who goes for another one. */
static void tell(int fd, const char *why)
{
	struct refusal r = {.code = R_DONE};
	struct buffer line = {0};

	refuse(&r, R_LIMIT, "%s: close some, or retry later", why);
	rpc_refuse(&line, NULL, &r);
	if (!line.failed && send(fd, line.data, line.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_event(LEVEL_DEBUG, "refused", LOG_S("why", why), LOG_S("send", strerror(errno)));
	buffer_free(&line);
}

static void turn_away(struct server *s, int fd, const char *why)
{
	s->n_conns_refused++;
	tell(fd, why);
	close(fd);
}

static void admit(struct listener *l, int fd)
{
	struct server *s = l->server;
	struct ucred peer = {.pid = 0, .uid = (uid_t)-1};
	socklen_t len = sizeof(peer);
	struct conn *idle;
	const char *why;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
		close(fd);
		return;
	}
	why = over_limit(s, l->admin, peer.uid, &idle);
	if (why && idle) {
		log_event(LEVEL_DEBUG, "closed", LOG_S("why", why), LOG_S("peer", conn_who(idle)));
		tell(idle->fd, why);
		conn_close(idle);
		why = NULL;
	}
	if (why)
		turn_away(s, fd, why);
	else
		conn_open(s, fd, l->admin, peer.uid, peer.pid);
}

static void on_incoming(uv_poll_t *, int status, int events);

static void listeners_poll(struct server *s, bool on)
{
	for (int i = 0; i < 2; i++) {
		struct listener *l = &s->listeners[i];

		if (l->fd < 0)
			continue;
		if (on)
			uv_poll_start(&l->poll, UV_READABLE, on_incoming);
		else
			uv_poll_stop(&l->poll);
	}
}

static void on_pause_over(uv_timer_t *timer)
{
	struct server *s = timer->data;

	if (s->spare_fd < 0)
		s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	listeners_poll(s, true);
}

/* Out of descriptors: the first in the queue is told so with the one that was kept, then nobody is accepted for a
 * moment; the others wait in the kernel's queue. Polling on would spin: the queue stays readable. */
static void out_of_descriptors(struct listener *l)
{
	struct server *s = l->server;
	int fd;

	if (s->starved_ms == 0 || uv_now(&s->loop) - s->starved_ms > STARVED_LOG_MS) {
		s->starved_ms = uv_now(&s->loop);
		log_event(LEVEL_WARN, "descriptors", LOG_S("error", strerror(errno)), LOG_N("connections", s->n_conns),
			  LOG_S("do", "raise LimitNOFILE"));
	}
	if (s->spare_fd >= 0) {
		close(s->spare_fd);
		fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			turn_away(s, fd, "the daemon has no descriptor left");
		s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	listeners_poll(s, false);
	uv_timer_start(&s->accept_pause, on_pause_over, ACCEPT_PAUSE_MS, 0);
}

static void on_incoming(uv_poll_t *poll, int status, int events)
{
	struct listener *l = poll->data;

	if (status < 0 || !(events & UV_READABLE))
		return;
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			admit(l, fd);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			out_of_descriptors(l);
			return;
		} else if (errno != ECONNABORTED && errno != EINTR) {
			return;
		}
	}
}

/* ---- time limits ------------------------------------------------------------------------------------------- */

void control_sweep(struct server *s)
{
	uint64_t now = uv_now(&s->loop);
	struct conn *c, *next;

	for (c = TAILQ_FIRST(&s->conns); c; c = next) {
		const char *why = NULL;

		next = TAILQ_NEXT(c, link);
		if (buffer_left(&c->out) > 0) {
			/* Answers that nobody takes. heard_ms: the first of them cannot be older than its request. */
			uint64_t since = c->sent_ms > c->heard_ms ? c->sent_ms : c->heard_ms;

			if (now - since > CONN_IDLE_MS)
				why = "answers not read";
		} else if (c->queued == &s->parked && conn_gone(c)) {
			why = "gone";
		} else if (waits_for_nothing(c) && now - c->heard_ms > CONN_IDLE_MS) {
			why = "idle";
		}
		if (!why)
			continue;
		log_event(LEVEL_DEBUG, "closed", LOG_S("why", why), LOG_S("peer", conn_who(c)));
		conn_close(c);
	}
}

/* ---- start and end ----------------------------------------------------------------------------------------- */

/* Nobody can connect before listen(), so group and mode are right before it counts. */
static enum refusal_code listener_open(struct server *s, struct listener *l, bool admin, struct refusal *r)
{
	struct instance *in = &s->instance;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	gid_t group = admin ? in->admin_group : in->group;
	const char *name = names[admin], *doing = "socket";
	mode_t old;
	int rc;

	l->server = s;
	l->admin = admin;
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", in->dir_fd, name);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd < 0)
		goto fail;
	doing = "removing what an earlier writer left";
	if (unlinkat(in->dir_fd, name, 0) != 0 && errno != ENOENT)
		goto fail;
	CRASH_POINT(socket_cleared);
	doing = "bind (is /proc mounted?)";
	old = umask(0177);
	rc = bind(l->fd, (struct sockaddr *)&address, sizeof(address));
	umask(old);
	if (rc != 0)
		goto fail;
	CRASH_POINT(socket_bound);
	doing = "group and mode";
	if (fchownat(in->dir_fd, name, (uid_t)-1, group, AT_SYMLINK_NOFOLLOW) != 0 ||
	    fchmodat(in->dir_fd, name, 0660, 0))
		goto fail;
	CRASH_POINT(socket_modes_set);
	doing = "listen";
	if (listen(l->fd, 1024) != 0)
		goto fail;
	rc = uv_poll_init(&s->loop, &l->poll, l->fd);
	if (rc == 0) {
		l->poll.data = l;
		rc = uv_poll_start(&l->poll, UV_READABLE, on_incoming);
	}
	if (rc == 0)
		return R_DONE;
	errno = -rc;
fail:
	refuse(r, R_BACKEND, "%s/%s: %s: %s", in->path, name, doing, strerror(errno));
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	return R_BACKEND;
}

enum refusal_code control_open(struct server *s, struct refusal *r)
{
	enum refusal_code code;
	int rc;

	TAILQ_INIT(&s->conns);
	TAILQ_INIT(&s->waiting);
	TAILQ_INIT(&s->parked);
	TAILQ_INIT(&s->completing);
	TAILQ_INIT(&s->watchers);
	s->listeners[0].fd = s->listeners[1].fd = -1;
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uv_timer_init(&s->loop, &s->accept_pause);
	s->accept_pause.data = s;
	s->drain_timer.fd = -1;
	s->input = malloc(FRAME_MAX + 1);
	if (!s->input)
		return refuse(r, R_FULL, "no memory for the control sockets: give the daemon more");
	rc = completing_open(s);
	if (rc != 0)
		return refuse(r, R_BACKEND, "the timer of drains: %s", uv_strerror(rc));
	code = listener_open(s, &s->listeners[0], false, r);
	if (code == R_DONE)
		code = listener_open(s, &s->listeners[1], true, r);
	return code;
}

void control_stop_listening(struct server *s)
{
	uv_timer_stop(&s->accept_pause);
	for (int i = 0; i < 2; i++) {
		struct listener *l = &s->listeners[i];

		if (l->fd < 0)
			continue;
		unlinkat(s->instance.dir_fd, names[i], 0);
		CRASH_POINT(socket_removed);
		uv_close((uv_handle_t *)&l->poll, NULL);
		close(l->fd);
		l->fd = -1;
	}
}

void control_close(struct server *s)
{
	struct conn *c;

	control_stop_listening(s);
	conns_answer_completing(s);
	while ((c = TAILQ_FIRST(&s->conns)))
		conn_close(c);
	completing_close(s);
	uv_close((uv_handle_t *)&s->accept_pause, NULL);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	buffer_free(&s->spare);
	buffer_free(&s->watch_line);
	buffer_free(&s->watch_after);
	free(s->input);
	s->input = NULL;
}
