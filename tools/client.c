/* SPDX-License-Identifier: MIT
 * The connection to the daemon (client.h). Sockets are reached through the directory's descriptor: their path may be
 * longer than a socket address has room for. */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "instance.h"
#include "text.h"

#define ANSWER_MAX (1u << 30)

void client_init(struct client *c, enum client_socket which)
{
	*c = (struct client){.fd = -1, .which = which};
}

void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	free(c->in);
	c->in = NULL;
	c->len = c->room = c->scanned = 0;
}

static enum call_result down(struct client *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static enum call_result down(struct client *c, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(c->fault, sizeof(c->fault), format, arguments);
	va_end(arguments);
	client_close(c);
	return CALL_DOWN;
}

static uint64_t now_ms(void)
{
	return seg_clock_ms(CLOCK_MONOTONIC);
}

/* Waits for events until the deadline. 1, 0 when it passed, -1 with errno (EINTR: `stop` has been asked for). */
static int wait_for(int fd, short events, uint64_t deadline_ms, const struct client_stop *stop)
{
	struct pollfd p[2] = {{.fd = fd, .events = events}, {.fd = STDIN_FILENO, .events = POLLIN}};
	int n;

	do {
		uint64_t now = now_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
		struct timespec ts = {.tv_nsec = (long)(left % 1000) * 1000000L};
		ts.tv_sec = (time_t)(left / 1000 < INT32_MAX ? left / 1000 : INT32_MAX);
		if (stop && stop->asked()) {
			errno = EINTR;
			return -1;
		}
		n = ppoll(p, stop && stop->keys ? 2 : 1, &ts, stop ? stop->mask : NULL);
	} while (((n < 0 && errno == EINTR) || (n > 0 && !p[0].revents)) && now_ms() < deadline_ms);
	return n > 0 ? p[0].revents != 0 : n;
}

static const char *socket_name(const struct client *c)
{
	return c->which == CLIENT_ADMIN ? SEG_ADMIN_SOCKET : SEG_SOCKET;
}

static enum call_result connect_failed(const struct tool *t, struct client *c, int error)
{
	char what[4400], group[INSTANCE_GROUP];
	struct stat st;

	c->denied = error == EACCES || error == EPERM;
	if (c->denied && fstatat(t->dir_fd, socket_name(c), &st, AT_SYMLINK_NOFOLLOW) == 0)
		return down(c, "%s/%s may not be used by this user: %s group %s", t->path, socket_name(c),
			    c->which == CLIENT_ADMIN ? "changing commands need" : "be a member of",
			    instance_group(st.st_gid, group));
	if (c->denied)
		return down(c, "%s/%s may not be used by this user: %s", t->path, socket_name(c), strerror(error));
	if (error == EAGAIN)
		return down(c, "%s/%s: berthd does not take connections: it is stopped or overloaded", t->path,
			    socket_name(c));
	if (error != ECONNREFUSED && error != ENOENT)
		return down(c, "%s/%s: %s", t->path, socket_name(c), strerror(error));
	if (!t->root)
		return down(c, "berthd is not running for %s: start it", t->path);
	instance_describe_down(t, what, sizeof(what));
	return down(c,
		    "%s. Until then readers go on with the table as it is; `berth list`, `get` and `verify` still look "
		    "at it",
		    what);
}

enum call_result client_connect(const struct tool *t, struct client *c)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint64_t deadline = now_ms() + CLIENT_ANSWER_MS;

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", t->dir_fd, socket_name(c));
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return down(c, "socket: %s", strerror(errno));
	while (connect(c->fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
		int error = errno;
		if ((error != EAGAIN && error != EINTR) || now_ms() >= deadline)
			return connect_failed(t, c, error);
		wait_for(-1, 0, now_ms() + 20, c->stop); /* EAGAIN: the queue is full; nothing tells when it is not */
		if (c->stop && c->stop->asked()) {
			client_close(c);
			return CALL_STOPPED;
		}
	}
	return CALL_OK;
}

/* The descriptor goes with the first byte. */
static ssize_t send_some(int fd, const char *bytes, size_t n, int pass_fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (pass_fd >= 0) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *h = CMSG_FIRSTHDR(&message);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &pass_fd, sizeof(int));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL);
}

static enum call_result send_all(struct client *c, const char *bytes, size_t n, int pass_fd)
{
	uint64_t deadline = now_ms() + CLIENT_ANSWER_MS;

	for (size_t at = 0; at < n;) {
		ssize_t sent = send_some(c->fd, bytes + at, n - at, at == 0 ? pass_fd : -1);
		if (sent > 0)
			at += (size_t)sent;
		else if (errno == EAGAIN && wait_for(c->fd, POLLOUT, deadline, NULL) == 1)
			continue;
		else if (errno != EINTR || now_ms() >= deadline)
			return down(c, "berthd does not take the request: %s", strerror(errno));
	}
	return CALL_OK;
}

/* A whole line that is in the buffer already, taken out of it. */
static bool take_line(struct client *c, json_t **line)
{
	char *end = c->len > c->scanned ? memchr(c->in + c->scanned, '\n', c->len - c->scanned) : NULL;

	if (!end) {
		c->scanned = c->len;
		return false;
	}
	size_t n = (size_t)(end - c->in);
	*line = json_loadb(c->in, n, JSON_DECODE_ANY, NULL); /* NULL: no JSON */
	c->len -= n + 1;
	memmove(c->in, end + 1, c->len);
	c->scanned = 0;
	return true;
}

/* More bytes, by the deadline. CALL_OK with *quiet: none came. */
static enum call_result receive(struct client *c, uint64_t deadline_ms, const struct client_stop *stop, bool *quiet)
{
	*quiet = false;
	if (c->room - c->len < 65536) {
		size_t room = 2 * c->room + 65536;
		char *in = room > ANSWER_MAX ? NULL : realloc(c->in, room);
		if (!in)
			return down(c, "the answer of berthd does not fit into memory");
		c->in = in;
		c->room = room;
	}
	for (;;) {
		ssize_t n = recv(c->fd, c->in + c->len, c->room - c->len, 0);
		if (n > 0) {
			c->len += (size_t)n;
			return CALL_OK;
		}
		if (n == 0)
			return down(c, "berthd closed the connection");
		if (errno != EAGAIN && errno != EINTR)
			return down(c, "the connection to berthd broke: %s", strerror(errno));
		if (wait_for(c->fd, POLLIN, deadline_ms, stop) == 1)
			continue;
		if (stop && stop->asked()) {
			client_close(c);
			return CALL_STOPPED;
		}
		if (now_ms() >= deadline_ms) {
			*quiet = true;
			return CALL_OK;
		}
	}
}

static bool daemon_lives(const struct tool *t, uint64_t patience_ms)
{
	struct instance_pulse p;

	if (!t->root || !patience_ms)
		return false;
	instance_pulse(t, &p);
	return p.age_ms < patience_ms;
}

static enum call_result silent(const struct tool *t, struct client *c)
{
	uint64_t pid = t->root ? atomic_load_explicit(&t->root->writer_pid, memory_order_relaxed) : 0;

	return down(c,
		    "berthd (process %" PRIu64
		    ") has not answered for %d s: it is stopped or overloaded; if it hangs, start "
		    "another one with --takeover%s",
		    pid, CLIENT_ANSWER_MS / 1000,
		    c->which == CLIENT_ADMIN
			    ? ". Whether the change was made is not known: look with `berth history` then"
			    : "");
}

static enum call_result receive_answer(const struct tool *t, struct client *c, const struct client_request *r,
				       json_t **line)
{
	uint64_t deadline = now_ms() + CLIENT_ANSWER_MS;
	bool quiet;

	while (!take_line(c, line)) {
		enum call_result rc = receive(c, deadline, r->stop ? r->stop : c->stop, &quiet);
		if (rc != CALL_OK)
			return rc;
		if (!quiet) {
			deadline = now_ms() + CLIENT_ANSWER_MS; /* bytes flow */
			continue;
		}
		if (!daemon_lives(t, r->patience_ms))
			return silent(t, c);
		deadline = now_ms() + CLIENT_ANSWER_MS;
	}
	return CALL_OK;
}

static char *make_request(struct client *c, const struct client_request *r, size_t *len)
{
	json_t *request = tool_object();

	tool_set(request, "jsonrpc", json_string("2.0"));
	tool_set_u64(request, "id", ++c->id);
	tool_set(request, "method", json_string(r->method));
	if (r->params)
		tool_set(request, "params", r->params);
	char *line = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!line)
		tool_no_memory();
	*len = strlen(line);
	line[(*len)++] = '\n'; /* over the NUL */
	return line;
}

enum call_result client_call(const struct tool *t, struct client *c, const struct client_request *r, json_t **answer)
{
	size_t len;
	char *request = make_request(c, r, &len);
	enum call_result rc;
	json_t *line = NULL;

	if (len > CLIENT_REQUEST_MAX) {
		free(request);
		*answer = json_pack("{s:s,s:{s:s}}", "message", CLIENT_TOO_LONG, "data", "code", "invalid");
		return CALL_REFUSED;
	}
	rc = send_all(c, request, len, r->pass_fd);
	free(request);
	while (rc == CALL_OK) {
		rc = receive_answer(t, c, r, &line);
		if (rc != CALL_OK)
			break;
		const json_t *id = json_object_get(line, "id");
		json_t *result = json_object_get(line, "result"), *error = json_object_get(line, "error");
		if (json_is_object(error) && (json_is_null(id) || (uint64_t)json_integer_value(id) == c->id)) {
			*answer = json_incref(error);
			rc = CALL_REFUSED;
		} else if (result && (uint64_t)json_integer_value(id) == c->id) {
			*answer = json_incref(result);
		} else if (json_object_get(line, "method")) {
			json_decref(line); /* a notification */
			continue;
		} else {
			rc = down(c, "berthd gave an answer that this berth does not understand: use the one that came "
				     "with it");
		}
		json_decref(line);
		break;
	}
	return rc;
}

enum call_result client_next(struct client *c, int wait_ms, json_t **line)
{
	uint64_t deadline = wait_ms < 0 ? UINT64_MAX : now_ms() + (uint64_t)wait_ms;
	bool quiet = false;

	*line = NULL;
	while (!take_line(c, line)) {
		if (receive(c, deadline, NULL, &quiet) != CALL_OK)
			return CALL_DOWN;
		if (quiet)
			return CALL_OK;
	}
	return *line ? CALL_OK : down(c, "berthd sent a line that is no JSON");
}

int client_fail(const struct tool *t, const struct client *c, enum call_result rc, json_t *answer)
{
	if (rc == CALL_DOWN)
		return tool_fail(t, EXIT_UNREACHABLE, c->denied ? "permission" : "unreachable", "%s", c->fault);
	int code = tool_refused(t, answer);
	json_decref(answer);
	return code;
}

int client_once(struct tool *t, enum client_socket which, const char *method, json_t *params, json_t **result)
{
	struct client_request request = {
		.method = method,
		.params = params,
		.pass_fd = -1,
		.patience_ms = which == CLIENT_ADMIN ? CLIENT_PATIENCE_MS : 0,
	};
	struct client c;
	int code = instance_open(t);

	if (code != EXIT_DONE) {
		json_decref(params);
		return code;
	}
	client_init(&c, which);
	enum call_result rc = client_connect(t, &c);
	if (rc == CALL_OK)
		rc = client_call(t, &c, &request, result);
	else
		json_decref(params);
	if (rc != CALL_OK)
		code = client_fail(t, &c, rc, rc == CALL_REFUSED ? *result : NULL);
	client_close(&c);
	return code;
}
