/* SPDX-License-Identifier: MIT
 * holder.h. */
#include "holder.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "readers.h"

enum command { BEGIN, END, TRY, ADMIT, STOP };
struct request {
	enum command command;
	unsigned number;
	enum berth_outcome outcome;
	char partition[256];
};
struct reply {
	int code; /* of berth_errors.h */
	unsigned number;
};

static struct {
	pid_t pid;
} running[16];
#define RUNNING_MAX (sizeof(running) / sizeof(running[0]))

/* ---- in the process ---- */

struct place {
	struct berth *b;
	struct berth_reader *r;
	struct berth_write writes[HOLDER_WRITES];
	bool used[HOLDER_WRITES];
};

static int attach(struct place *p, const char *dir, enum berth_writes writes)
{
	struct berth_attach_options options = {
		.size = sizeof(options),
		.writes = writes,
		.max_readers = 2,
		.max_leases = writes == BERTH_WRITES_BRACKETED ? HOLDER_WRITES : 0,
		.wait_ms = DAEMON_MS,
	};
	int code = berth_attach(dir, &options, &p->b);

	return code == BERTH_OK ? berth_reader_open(p->b, &p->r) : code;
}

static struct reply obey(struct place *p, const struct request *q)
{
	struct reply reply = {0};
	struct berth_route route;
	struct berth_write write;
	size_t len = strnlen(q->partition, sizeof(q->partition));

	switch (q->command) {
	case BEGIN:
		while (reply.number < HOLDER_WRITES && p->used[reply.number])
			reply.number++;
		reply.code = reply.number == HOLDER_WRITES
				     ? BERTH_E_FULL
				     : berth_write_begin(p->r, q->partition, len, 0, &p->writes[reply.number]);
		if (reply.code == BERTH_OK)
			p->used[reply.number] = true;
		break;
	case END:
		reply.code = berth_write_end(p->r, &p->writes[q->number], q->outcome);
		p->used[q->number] = false;
		break;
	case TRY:
		reply.code = berth_write_begin(p->r, q->partition, len, 0, &write);
		if (reply.code == BERTH_OK)
			reply.code = berth_write_end(p->r, &write, BERTH_DONE);
		break;
	case ADMIT:
		reply.code = berth_route(p->r, q->partition, len, &route);
		if (reply.code == BERTH_OK)
			reply.code = berth_admit(p->r, q->partition, len, route.epoch);
		break;
	case STOP:
		for (unsigned i = 0; i < HOLDER_WRITES; i++)
			if (p->used[i])
				berth_write_end(p->r, &p->writes[i], BERTH_UNKNOWN);
		berth_reader_close(&p->r);
		reply.code = berth_detach(&p->b);
		break;
	}
	return reply;
}

static _Noreturn void live(int fd, const char *dir, enum berth_writes writes)
{
	static struct place place;
	struct request q = {0};
	struct reply reply = {0};

	prctl(PR_SET_NAME, "holder");
	reply.code = attach(&place, dir, writes);
	for (;;) {
		if (write(fd, &reply, sizeof(reply)) != sizeof(reply) || reply.code == BERTH_E_FORKED)
			_exit(1);
		if (q.command == STOP)
			_exit(0);
		while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 50) != 1)
			berth_maintain(place.b);
		if (read(fd, &q, sizeof(q)) != sizeof(q))
			_exit(0);
		reply = obey(&place, &q);
	}
}

/* ---- in the test ---- */

static struct reply hear(const struct holder *h)
{
	struct reply reply;

	if (poll(&(struct pollfd){.fd = h->fd, .events = POLLIN}, 1, DAEMON_MS) != 1)
		fail_msg("holder %d does not answer", (int)h->pid);
	if (read(h->fd, &reply, sizeof(reply)) != sizeof(reply))
		fail_msg("holder %d has ended", (int)h->pid);
	return reply;
}

static struct reply ask(const struct holder *h, struct request q, const char *partition)
{
	snprintf(q.partition, sizeof(q.partition), "%s", partition);
	if (send(h->fd, &q, sizeof(q), MSG_NOSIGNAL) != sizeof(q))
		fail_msg("holder %d: %s", (int)h->pid, strerror(errno));
	return hear(h);
}

static void keep(pid_t from, pid_t to)
{
	for (size_t i = 0; i < RUNNING_MAX; i++) {
		if (running[i].pid == from) {
			running[i].pid = to;
			return;
		}
	}
	fail_msg("more than %zu holders", RUNNING_MAX);
}

void holder_start(struct holder *h, const struct daemon *d, enum berth_writes writes)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	h->pid = mp_fork();
	if (h->pid == 0) {
		close(ends[0]);
		live(ends[1], d->dir, writes);
	}
	close(ends[1]);
	h->fd = ends[0];
	keep(0, h->pid);
	int code = hear(h).code;
	if (code != BERTH_OK)
		fail_msg("a holder could not attach: %s", berth_strerror(code));
}

unsigned holder_begin(const struct holder *h, const char *partition)
{
	struct reply reply = ask(h, (struct request){.command = BEGIN}, partition);

	if (reply.code != BERTH_OK)
		fail_msg("a write on %s: %s", partition, berth_strerror(reply.code));
	return reply.number;
}

void holder_end(const struct holder *h, unsigned number, enum berth_outcome outcome)
{
	struct reply reply = ask(h, (struct request){.command = END, .number = number, .outcome = outcome}, "");

	if (reply.code != BERTH_OK)
		fail_msg("the end of a write: %s", berth_strerror(reply.code));
}

int holder_try(const struct holder *h, const char *partition)
{
	return ask(h, (struct request){.command = TRY}, partition).code;
}

int holder_admit(const struct holder *h, const char *partition)
{
	return ask(h, (struct request){.command = ADMIT}, partition).code;
}

static void gone(struct holder *h)
{
	keep(h->pid, 0);
	close(h->fd);
	mp_reap(h->pid, DAEMON_MS);
	h->pid = 0;
}

void holder_stop(struct holder *h)
{
	struct reply reply = ask(h, (struct request){.command = STOP}, "");

	if (reply.code != BERTH_OK)
		fail_msg("a holder could not detach: %s", berth_strerror(reply.code));
	gone(h);
}

void holder_kill(struct holder *h)
{
	kill(h->pid, SIGKILL);
	gone(h);
}

void holder_kill_all(void)
{
	for (size_t i = 0; i < RUNNING_MAX; i++) {
		if (running[i].pid == 0)
			continue;
		kill(running[i].pid, SIGKILL);
		waitpid(running[i].pid, NULL, 0);
		running[i].pid = 0;
	}
}
