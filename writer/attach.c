/* SPDX-License-Identifier: MIT
 * Reader processes come and come back: `attach` makes a registration and answers with its descriptor (and that of its
 * doorbell, if it pins cursors), `reattach` tells a new writer, or a new connection, whose registration one is. The connection then stands for the process: it may be
 * silent for ever, and its end is a hint to look whether the process died. Called by rpc.c, control thread. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "pinning.h"
#include "registry.h"
#include "rpc.h"
#include "text.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define ATTACH_VERSION 1
#define CLOCK_LAG_MAX_NS 10000000000ll /* between the reader's look at its clocks and ours */

/* What the process calls itself in its innermost pid namespace; 0: cannot be told. */
static json_int_t innermost_pid(pid_t pid)
{
	char path[40], text[4096], *at, *end;
	long long innermost = 0, n;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return 0;
	text[len] = '\0';
	at = strstr(text, "\nNSpid:");
	if (!at)
		return 0;
	for (at += 7; *at && *at != '\n'; at = end) {
		n = strtoll(at, &end, 10);
		if (end == at)
			break;
		innermost = n;
	}
	return innermost;
}

/* The socket's credentials are of whoever connected it. A child that attached over its parent's connection would be
 * taken for dead when its parent ends, while it still writes. */
static enum refusal_code peer_find(struct call *call, int pid_arg, struct registry_peer *peer, struct refusal *r)
{
	struct conn *c = call->conn;
	json_int_t says = arg_integer(call, pid_arg), is = 0;
	socklen_t len = sizeof(peer->pidfd);

	if (says < 1 || says > INT_MAX)
		return refuse_at(r, R_INVALID, "$.pid", "pid %" JSON_INTEGER_FORMAT " is no process: send getpid()",
				 says);
	if (c->pid > 0 && says != c->pid)
		is = innermost_pid(c->pid);
	if (is > 0 && is != says)
		return refuse_at(r, R_INVALID, "$.pid",
				 "pid %" JSON_INTEGER_FORMAT " attaches over a connection of pid %" JSON_INTEGER_FORMAT
				 ": each process connects for itself",
				 says, is);
	*peer = (struct registry_peer){.pid = c->pid, .uid = c->uid, .pidfd = -1};
	if (c->pid <= 0)
		return R_DONE;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERPIDFD, &peer->pidfd, &len) != 0)
		peer->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (peer->pidfd < 0)
		peer->pidfd = -1; /* the registry has another proof of death */
	else
		fcntl(peer->pidfd, F_SETFD, FD_CLOEXEC);
	return R_DONE;
}

/* The registry takes the descriptor over with a registration, not with a refusal. */
static enum refusal_code peer_refused(const struct registry_peer *peer, enum refusal_code code)
{
	if (peer->pidfd >= 0)
		close(peer->pidfd);
	return code;
}

static enum refusal_code clock_check(const char *name, int clock, json_int_t theirs, struct refusal *r)
{
	json_int_t ours = (json_int_t)seg_clock_ns(clock);

	if (theirs > 0 && theirs <= ours && ours - theirs <= CLOCK_LAG_MAX_NS)
		return R_DONE;
	return refuse(r, R_CLOCK,
		      "%s reads %" JSON_INTEGER_FORMAT " ns in the process that attaches, %" JSON_INTEGER_FORMAT
		      " ns here: run it in the time namespace of berthd",
		      name, theirs, ours);
}

/* From now on the connection stands for the registration, and no other one does. */
static void bind_conn(struct conn *c, uint32_t slot, uint64_t attach)
{
	struct conn *other, *next;

	for (other = TAILQ_FIRST(&c->server->conns); other; other = next) {
		next = TAILQ_NEXT(other, link);
		if (other != c && other->attached && other->slot == slot && other->attach == attach) {
			other->attached = false; /* not an end of the process: no hint */
			conn_close(other);
		}
	}
	c->attached = true;
	c->slot = slot;
	c->attach = attach;
}

static enum refusal_code refuse_second(const struct conn *c, struct refusal *r)
{
	return refuse(r, R_INVALID, "this connection stands for registration %u already: open another one", c->slot);
}

static enum refusal_code writes_read(struct call *call, int arg, enum shm_writes *writes, struct refusal *r)
{
	char shown[TEXT_SHOWN];
	size_t len;
	const char *text = arg_string(call, arg, &len);

	if (strcmp(text, "none") == 0)
		*writes = SHM_WRITES_NONE;
	else if (strcmp(text, "bracketed") == 0)
		*writes = SHM_WRITES_BRACKETED;
	else if (strcmp(text, "unbracketed") == 0)
		*writes = SHM_WRITES_UNBRACKETED;
	else
		return refuse_at(r, R_INVALID, "$.writes", "writes %s: give none, bracketed or unbracketed",
				 text_show(shown, sizeof(shown), text, len));
	return R_DONE;
}

/* Slots of each reader's array of leases. */
static enum refusal_code leases_read(struct call *call, int arg, enum shm_writes writes, json_int_t readers,
				     uint32_t *leases, struct refusal *r)
{
	json_int_t n = call->args[arg] ? arg_integer(call, arg) : 0;

	*leases = 0;
	if (writes != SHM_WRITES_BRACKETED && !call->args[arg])
		return R_DONE;
	if (writes != SHM_WRITES_BRACKETED)
		return refuse_at(r, R_INVALID, "$.leases",
				 "leases %" JSON_INTEGER_FORMAT " go with writes bracketed: leave them out", n);
	if (!call->args[arg])
		return refuse_at(
			r, R_INVALID, "$.leases",
			"writes bracketed need leases: give 1 to %u, the writes that a reader may have under way",
			SHM_LEASES_MAX);
	if (n < 1 || n > SHM_LEASES_MAX)
		return refuse_at(r, R_INVALID, "$.leases", "leases %" JSON_INTEGER_FORMAT ": give 1 to %u", n,
				 SHM_LEASES_MAX);
	if (n * readers > SHM_LEASES_TOTAL_MAX)
		return refuse_at(r, R_INVALID, "$.leases",
				 "leases %" JSON_INTEGER_FORMAT " of each of %" JSON_INTEGER_FORMAT
				 " readers: at most %u in all, give %" JSON_INTEGER_FORMAT,
				 n, readers, SHM_LEASES_TOTAL_MAX, SHM_LEASES_TOTAL_MAX / readers);
	*leases = (uint32_t)n;
	return R_DONE;
}

static void drop_bell(int bell[2])
{
	for (unsigned i = 0; i < 2; i++)
		if (bell[i] >= 0)
			close(bell[i]);
}

enum refusal_code method_attach(struct call *call, struct refusal *r)
{
	enum { VERSION, PID, READERS, WRITES, FENCES, MONOTONIC, BOOTTIME, LEASES, CURSORS };
	json_int_t version = arg_integer(call, VERSION), readers = arg_integer(call, READERS);
	struct registry *registry = table_registry(core_table(call->server->core));
	struct conn *c = call->conn;
	struct registry_peer peer = {.pidfd = -1};
	struct registry_wish wish = {.fences = arg_true(call, FENCES), .cursors = arg_true(call, CURSORS)};
	enum refusal_code code;
	uint64_t attach;
	uint32_t slot;
	int fd, bell[2] = {-1, -1};

	if (version != ATTACH_VERSION)
		return refuse_at(r, R_INVALID, "$.version",
				 "version %" JSON_INTEGER_FORMAT " of attach: this berthd speaks %d", version,
				 ATTACH_VERSION);
	if (readers < 1 || readers > SHM_READERS_MAX)
		return refuse_at(r, R_INVALID, "$.readers", "readers %" JSON_INTEGER_FORMAT ": give 1 to %u", readers,
				 SHM_READERS_MAX);
	if (c->attached)
		return refuse_second(c, r);
	wish.n_readers = (uint32_t)readers;
	code = writes_read(call, WRITES, &wish.writes, r);
	if (code == R_DONE)
		code = leases_read(call, LEASES, wish.writes, readers, &wish.n_leases, r);
	if (code == R_DONE)
		code = clock_check("CLOCK_MONOTONIC", CLOCK_MONOTONIC, arg_integer(call, MONOTONIC), r);
	if (code == R_DONE)
		code = clock_check("CLOCK_BOOTTIME", CLOCK_BOOTTIME, arg_integer(call, BOOTTIME), r);
	if (code == R_DONE && !buffer_reserve(call->out, 128)) /* first: the descriptor must not go with a refusal */
		code = refuse(r, R_FULL, "out of memory: retry later");
	if (code == R_DONE && wish.cursors)
		code = pinning_start(call->server, r);
	if (code == R_DONE && wish.cursors)
		code = pinning_bell(bell, r);
	if (code == R_DONE)
		code = peer_find(call, PID, &peer, r);
	if (code == R_DONE)
		code = registry_attach(registry, &peer, &wish, &fd, &slot, &attach, r);
	if (code != R_DONE) {
		drop_bell(bell);
		return peer_refused(&peer, code);
	}
	c->send_fds[0] = fd;
	c->send_fds[1] = bell[0];
	if (wish.cursors)
		pinning_attach(call->server, slot, attach, bell[1]);
	bind_conn(c, slot, attach);
	buffer_format(call->out, "{\"slot\":%u,\"attach\":%llu}", slot, (unsigned long long)attach);
	return R_DONE;
}

enum refusal_code method_reattach(struct call *call, struct refusal *r)
{
	enum { SLOT, ATTACH, PID, MONOTONIC, BOOTTIME };
	json_int_t slot = arg_integer(call, SLOT), attach = arg_integer(call, ATTACH);
	struct registry *registry = table_registry(core_table(call->server->core));
	struct conn *c = call->conn;
	struct registry_peer peer = {.pidfd = -1};
	struct registry_rings rings;
	enum refusal_code code = R_DONE;
	int bell[2] = {-1, -1};

	if (slot < 0 || slot > UINT32_MAX)
		return refuse_at(r, R_INVALID, "$.slot", "slot %" JSON_INTEGER_FORMAT " does not exist", slot);
	if (attach < 1)
		return refuse_at(r, R_INVALID, "$.attach", "attach %" JSON_INTEGER_FORMAT " was never given out",
				 attach);
	if (c->attached)
		return refuse_second(c, r);
	if (call->args[MONOTONIC])
		code = clock_check("CLOCK_MONOTONIC", CLOCK_MONOTONIC, arg_integer(call, MONOTONIC), r);
	if (code == R_DONE && call->args[BOOTTIME])
		code = clock_check("CLOCK_BOOTTIME", CLOCK_BOOTTIME, arg_integer(call, BOOTTIME), r);
	if (code == R_DONE && !buffer_reserve(call->out, 128)) /* first: the doorbell must not go with a refusal */
		code = refuse(r, R_FULL, "out of memory: retry later");
	if (code == R_DONE && registry_rings(registry, (uint32_t)slot, (uint64_t)attach, &rings))
		code = pinning_bell(bell, r);
	if (code == R_DONE)
		code = peer_find(call, PID, &peer, r);
	if (code == R_DONE)
		code = registry_reattach(registry, (uint32_t)slot, (uint64_t)attach, &peer, r);
	if (code != R_DONE) {
		drop_bell(bell);
		return peer_refused(&peer, code);
	}
	c->send_fds[0] = bell[0];
	if (bell[1] >= 0)
		pinning_reattach(call->server, (uint32_t)slot, bell[1]);
	bind_conn(c, (uint32_t)slot, (uint64_t)attach);
	buffer_text(call->out, "{}");
	return R_DONE;
}
