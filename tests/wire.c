/* SPDX-License-Identifier: MIT
 * A connection to berthd's sockets, for tests: daemon.h. */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void wire_open(struct wire *w, const struct daemon *d, enum wire_socket which)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(w, 0, sizeof(*w));
	w->passed = w->bell = -1;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", d->dir,
		 which == WIRE_ADMIN ? "admin.sock" : "berth.sock");
	w->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (w->fd < 0 || connect(w->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		fail_msg("%s: %s", address.sun_path, strerror(errno));
}

void wire_close(struct wire *w)
{
	close(w->fd);
	free(w->in);
	w->fd = -1;
	w->in = NULL;
}

static bool send_all(struct wire *w, const char *bytes, size_t n, int fd)
{
	uint64_t deadline = test_now_ms() + DAEMON_MS;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};

	while (n > 0) {
		struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
		struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
		struct pollfd p = {.fd = w->fd, .events = POLLOUT};
		ssize_t sent;

		if (fd >= 0) {
			control.header = (struct cmsghdr){
				.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
			memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
			m.msg_control = control.bytes;
			m.msg_controllen = sizeof(control.bytes);
		}
		sent = sendmsg(w->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0) {
			bytes += sent;
			n -= (size_t)sent;
			fd = -1;
		} else if (errno == EAGAIN) {
			if (test_now_ms() > deadline)
				fail_msg("berthd took nothing for %d ms", DAEMON_MS);
			poll(&p, 1, 100);
		} else {
			return false;
		}
	}
	return true;
}

bool wire_send(struct wire *w, const void *bytes, size_t n)
{
	return send_all(w, bytes, n, -1);
}

bool wire_text(struct wire *w, const char *text)
{
	return wire_send(w, text, strlen(text));
}

/* Some more bytes. 1, 0 when closed. */
static int receive(struct wire *w)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec part;
	struct msghdr m = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *h;
	ssize_t n;

	if (w->size - w->len < 65536) {
		w->size = w->size * 2 + 131072;
		w->in = realloc(w->in, w->size);
		assert_non_null(w->in);
	}
	part = (struct iovec){.iov_base = w->in + w->len, .iov_len = w->size - w->len};
	n = recvmsg(w->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && errno == EAGAIN)
		return 1;
	if (n <= 0)
		return 0;
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_RIGHTS) {
		memcpy(&w->passed, CMSG_DATA(h), sizeof(int));
		if (h->cmsg_len >= CMSG_LEN(2 * sizeof(int)))
			memcpy(&w->bell, CMSG_DATA(h) + sizeof(int), sizeof(int));
	}
	w->len += (size_t)n;
	return 1;
}

char *wire_line(struct wire *w, int deadline_ms)
{
	uint64_t deadline = test_now_ms() + (uint64_t)deadline_ms;

	for (;;) {
		char *end = w->len ? memchr(w->in, '\n', w->len) : NULL;
		struct pollfd p = {.fd = w->fd, .events = POLLIN};
		uint64_t now = test_now_ms();

		if (end) {
			size_t n = (size_t)(end - w->in);
			char *line = strndup(w->in, n);

			w->len -= n + 1;
			memmove(w->in, end + 1, w->len);
			return line;
		}
		if (now >= deadline)
			fail_msg("nothing came within %d ms", deadline_ms);
		if (poll(&p, 1, (int)(deadline - now)) == 1 && !receive(w))
			return NULL;
	}
}

bool wire_silent(struct wire *w, int ms)
{
	struct pollfd p = {.fd = w->fd, .events = POLLIN};

	return w->len == 0 && poll(&p, 1, ms) == 0;
}

json_t *wire_message(struct wire *w)
{
	char *line = wire_line(w, DAEMON_MS);
	json_error_t error;
	json_t *json;

	if (!line)
		fail_msg("the connection was closed instead of an answer");
	json = json_loads(line, JSON_REJECT_DUPLICATES, &error);
	if (!json_is_object(json))
		fail_msg("%s in: %.200s", error.text, line);
	free(line);
	return json;
}

bool wire_is_open(const struct wire *w)
{
	char byte;

	return recv(w->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

void wire_expect_last(struct wire *w, const char *code)
{
	answer_expect_refused(wire_message(w), code);
	assert_null(wire_line(w, DAEMON_MS));
}

/* ---- calls ------------------------------------------------------------------------------------------------- */

bool wire_request(struct wire *w, int fd, const char *method, json_t *params)
{
	json_t *whole = json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", (int)++w->id, "method", method,
				  "params", params);
	size_t len = json_dumpb(whole, NULL, 0, JSON_COMPACT);
	char *text = malloc(len + 1);
	bool sent;

	assert_non_null(text);
	json_dumpb(whole, text, len, JSON_COMPACT);
	text[len] = '\n';
	json_decref(whole);
	sent = send_all(w, text, len + 1, fd);
	free(text);
	return sent;
}

static void request(struct wire *w, int fd, const char *method, const char *params, va_list args)
{
	json_error_t error;
	json_t *packed = params ? json_vpack_ex(&error, 0, params, args) : NULL;

	if (params && !packed)
		fail_msg("params of %s: %s", method, error.text);
	if (!wire_request(w, fd, method, packed))
		fail_msg("the connection was closed before %s was sent", method);
}

json_t *wire_answer(struct wire *w)
{
	json_t *answer = wire_message(w);

	assert_string_equal(text_of(answer, "jsonrpc"), "2.0");
	if (int_of(answer, "id") != (json_int_t)w->id)
		fail_msg("answer to %lld instead of %u", (long long)int_of(answer, "id"), w->id);
	return answer;
}

static json_t *vcall(struct wire *w, const char *method, const char *params, va_list args)
{
	request(w, -1, method, params, args);
	return wire_answer(w);
}

void wire_send_with(struct wire *w, int fd, const char *method, const char *params, ...)
{
	va_list args;

	va_start(args, params);
	request(w, fd, method, params, args);
	va_end(args);
}

json_t *wire_call(struct wire *w, const char *method, const char *params, ...)
{
	json_t *answer;
	va_list args;

	va_start(args, params);
	answer = vcall(w, method, params, args);
	va_end(args);
	return answer;
}

json_t *answer_result(json_t *answer)
{
	json_t *result = json_incref(json_object_get(answer, "result"));

	if (!result)
		fail_msg("refused: %s", json_dumps(answer, 0));
	json_decref(answer);
	return result;
}

static json_t *answer_error(json_t *answer, const char *code)
{
	json_t *error = json_incref(json_object_get(answer, "error"));
	const char *is = json_string_value(json_object_get(json_object_get(error, "data"), "code"));

	if (!error || !is || strcmp(is, code) != 0)
		fail_msg("not refused with %s: %s", code, json_dumps(answer, 0));
	assert_true(json_is_integer(json_object_get(error, "code")));
	assert_true(json_is_string(json_object_get(error, "message")));
	assert_true(json_is_boolean(json_object_get(json_object_get(error, "data"), "retryable")));
	json_decref(answer);
	return error;
}

void answer_expect_refused(json_t *answer, const char *code)
{
	json_decref(answer_error(answer, code));
}

json_t *wire_ok(struct wire *w, const char *method, const char *params, ...)
{
	json_t *answer;
	va_list args;

	va_start(args, params);
	answer = vcall(w, method, params, args);
	va_end(args);
	return answer_result(answer);
}

json_t *wire_refused(struct wire *w, const char *code, const char *method, const char *params, ...)
{
	json_t *answer;
	va_list args;

	va_start(args, params);
	answer = vcall(w, method, params, args);
	va_end(args);
	return answer_error(answer, code);
}

void wire_do(struct wire *w, const char *method, const char *params, ...)
{
	json_t *answer;
	va_list args;

	va_start(args, params);
	answer = vcall(w, method, params, args);
	va_end(args);
	json_decref(answer_result(answer));
}

void wire_deny(struct wire *w, const char *code, const char *method, const char *params, ...)
{
	json_t *answer;
	va_list args;

	va_start(args, params);
	answer = vcall(w, method, params, args);
	va_end(args);
	json_decref(answer_error(answer, code));
}

json_t *daemon_ask(const struct daemon *d, const char *method)
{
	struct wire w;
	json_t *result;

	wire_open(&w, d, WIRE_LOOK);
	result = wire_ok(&w, method, NULL);
	wire_close(&w);
	return result;
}

json_int_t daemon_status(const struct daemon *d, const char *name)
{
	json_t *status = daemon_ask(d, "status");
	json_int_t n = int_of(status, name);

	json_decref(status);
	return n;
}

/* ---- values ------------------------------------------------------------------------------------------------ */

json_int_t int_of(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_integer(value))
		fail_msg("`%s` is no integer in %s", name, json_dumps(object, 0));
	return json_integer_value(value);
}

const char *text_of(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_string(value))
		fail_msg("`%s` is no string in %s", name, json_dumps(object, 0));
	return json_string_value(value);
}

bool is_true(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_boolean(value))
		fail_msg("`%s` is no boolean in %s", name, json_dumps(object, 0));
	return json_is_true(value);
}
