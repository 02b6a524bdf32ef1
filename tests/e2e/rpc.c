/* SPDX-License-Identifier: MIT
 * Calls on the daemon's admin.sock (writer/PROTOCOL.md), blocking, with a deadline. See place.h. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"
#include "place.h"

#define ANSWER_MS 30000

void rpc_init(struct rpc *r, const char *dir)
{
	r->dir = dir;
	r->fd = -1;
	r->id = 0;
	r->n = 0;
}

void rpc_close(struct rpc *r)
{
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
	r->n = 0;
}

static bool connect_to(struct rpc *r)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};

	if (r->fd >= 0)
		return true;
	if ((size_t)snprintf(to.sun_path, sizeof(to.sun_path), "%s/admin.sock", r->dir) >= sizeof(to.sun_path))
		place_fail("the path of the socket in %s is too long", r->dir);
	r->n = 0;
	r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (r->fd >= 0 && connect(r->fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return true;
	rpc_close(r);
	return false;
}

/* The next line, without its end; NULL: the connection is gone. Lives until the next call. */
static char *line_of(struct rpc *r, char *out, size_t room)
{
	uint64_t until = load_now_ns() + ANSWER_MS * 1000000ull;

	for (;;) {
		char *end = memchr(r->in, '\n', r->n);
		struct pollfd p = {.fd = r->fd, .events = POLLIN};
		ssize_t n;

		if (end) {
			size_t len = (size_t)(end - r->in);
			if (len >= room)
				return NULL;
			memcpy(out, r->in, len);
			out[len] = '\0';
			r->n -= len + 1;
			memmove(r->in, end + 1, r->n);
			return out;
		}
		if (r->n == sizeof(r->in))
			return NULL;
		if (load_now_ns() > until)
			place_fail("berthd did not answer within %d ms", ANSWER_MS);
		if (poll(&p, 1, 1000) <= 0)
			continue;
		n = recv(r->fd, r->in + r->n, sizeof(r->in) - r->n, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL;
		r->n += (size_t)n;
	}
}

enum rpc_result rpc_call(struct rpc *r, const char *method, json_t *params, json_t **answer)
{
	char line[65536], *text, *told = NULL;
	json_t *message = NULL, *found;
	bool sent = false;
	int n;

	*answer = NULL;
	text = params ? json_dumps(params, JSON_COMPACT) : NULL;
	n = snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%" PRIu64 ",\"method\":\"%s\"%s%s}\n", ++r->id,
		     method, text ? ",\"params\":" : "", text ? text : "");
	free(text);
	json_decref(params);
	if (connect_to(r) && send(r->fd, line, (size_t)n, MSG_NOSIGNAL) == n)
		sent = true;
	if (sent)
		told = line_of(r, line, sizeof(line));
	if (told)
		message = json_loads(told, 0, NULL);
	if (!message) {
		rpc_close(r);
		return RPC_LOST;
	}
	found = json_object_get(message, "result");
	*answer = json_incref(found ? found : json_object_get(message, "error"));
	json_decref(message);
	return found ? RPC_OK : RPC_REFUSED;
}

json_t *rpc_do(struct rpc *r, const char *method, json_t *params)
{
	json_t *answer;
	enum rpc_result rc = rpc_call(r, method, params, &answer);

	if (rc == RPC_LOST)
		place_fail("%s: berthd did not answer; it ended, or %s/admin.sock is missing", method, r->dir);
	if (rc == RPC_REFUSED)
		place_fail("%s was refused: %s", method, json_string_value(json_object_get(answer, "message")));
	return answer;
}
