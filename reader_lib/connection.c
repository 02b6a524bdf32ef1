/* SPDX-License-Identifier: MIT
 * The socket to the writer: connect, one request line, one answer line with perhaps a descriptor. Never blocks: whoever
 * wants to wait polls connection.fd. Called by berth_attach, then by berth_maintain's thread alone. Stays open
 * afterwards and says nothing more: its end tells each side to look whether the other one lives. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define PASSED_MAX 8 /* descriptors that one message may bring; all but the first two are closed */

void bl_connection_init(struct connection *c)
{
	c->state = CONN_CLOSED;
	c->fd = c->passed[0] = c->passed[1] = -1;
	c->n = 0;
}

/* A child that is forked in between must not close what it has opened there itself. */
static void drop(int *fd)
{
	int was = *fd;

	*fd = -1;
	fork_order();
	if (was >= 0)
		close(was);
}

void bl_connection_drop_passed(struct connection *c)
{
	for (unsigned i = 0; i < 2; i++)
		drop(&c->passed[i]);
}

void bl_connection_close(struct connection *c)
{
	bl_connection_drop_passed(c);
	drop(&c->fd);
	bl_connection_init(c);
}

/* Through the directory's descriptor, for a path of any length and after a chroot; by path where /proc is missing. */
static bool socket_address(struct sockaddr_un *a, int dir_fd, const char *path)
{
	char link[48];
	int n;

	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	snprintf(link, sizeof link, "/proc/self/fd/%d", dir_fd);
	if (access(link, F_OK) == 0)
		n = snprintf(a->sun_path, sizeof a->sun_path, "%s/%s", link, SEG_SOCKET);
	else
		n = snprintf(a->sun_path, sizeof a->sun_path, "%s/%s", path, SEG_SOCKET);
	return n > 0 && (size_t)n < sizeof a->sun_path;
}

/* BERTH_OK: sent, the answer is to come. BERTH_E_AGAIN: the writer is there, but has not accepted others yet.
 * BERTH_E_WRITER_DOWN, BERTH_E_PERMISSION, BERTH_E_SYSTEM. The state is the caller's to set. */
int bl_connection_request(struct connection *c, int dir_fd, const char *path, const char *line, size_t len)
{
	struct sockaddr_un a;
	ssize_t sent;
	int rc;

	bl_connection_close(c);
	if (!socket_address(&a, dir_fd, path))
		return BERTH_E_WRITER_DOWN;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return BERTH_E_SYSTEM;
	do
		rc = connect(c->fd, (const struct sockaddr *)&a, sizeof a);
	while (rc != 0 && errno == EINTR);
	if (rc != 0) {
		rc = errno == EAGAIN ? BERTH_E_AGAIN : errno == EACCES ? BERTH_E_PERMISSION : BERTH_E_WRITER_DOWN;
		bl_connection_close(c);
		return rc;
	}
	do
		sent = send(c->fd, line, len, MSG_NOSIGNAL); /* a fresh socket takes a short line whole */
	while (sent < 0 && errno == EINTR);
	if (sent != (ssize_t)len) {
		bl_connection_close(c);
		return BERTH_E_WRITER_DOWN;
	}
	return BERTH_OK;
}

static void keep_passed(struct connection *c, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS || h->cmsg_len < CMSG_LEN(0))
			continue;
		n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
			if (c->passed[0] < 0)
				c->passed[0] = fd;
			else if (c->passed[1] < 0)
				c->passed[1] = fd;
			else
				close(fd);
		}
	}
}

/* 1: line holds an answer, NUL-terminated. 0: nothing yet. BERTH_E_WRITER_DOWN: the other side is gone.
 * BERTH_E_PROTOCOL: a line of more than the buffer. In CONN_UP what comes is dropped. */
int bl_connection_receive(struct connection *c)
{
	for (;;) {
		union {
			struct cmsghdr align;
			char bytes[CMSG_SPACE(sizeof(int) * PASSED_MAX)];
		} control;
		struct iovec part = {c->line + c->n, sizeof c->line - 1 - c->n};
		struct msghdr m = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		ssize_t n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		char *end;

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : BERTH_E_WRITER_DOWN;
		}
		keep_passed(c, &m);
		if (n == 0)
			return BERTH_E_WRITER_DOWN;
		if (c->state == CONN_UP)
			continue; /* n stays 0 */
		c->n += (size_t)n;
		c->line[c->n] = 0;
		end = memchr(c->line, '\n', c->n);
		if (end) {
			*end = 0;
			return 1;
		}
		if (c->n == sizeof c->line - 1)
			return BERTH_E_PROTOCOL;
	}
}
