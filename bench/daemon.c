/* SPDX-License-Identifier: MIT
 * A real berthd in a scratch directory, and requests to its admin socket. Called by the workloads. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define START_S 60u
#define ANSWER_S 300u
#define SAMPLE_MS 5

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

void remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- the process --------------------------------------------------------------------------------------------- */

static _Noreturn void run_berthd(const struct bench *b, const struct daemon *d, const struct daemon_how *how)
{
	char url[4200], barrier[16], capacity[16], share[16];
	const char *argv[20] = {"berthd", "--dir", d->dir, "--store", url};
	unsigned n = 5;
	int log = open(d->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (log >= 0) {
		dup2(log, STDOUT_FILENO);
		dup2(log, STDERR_FILENO);
	}
	pin_nowhere();
	if (how->cpu >= 0)
		pin_to(how->cpu);
	snprintf(url, sizeof(url), how->store ? "sqlite:%s" : "memory:", how->store);
	snprintf(barrier, sizeof(barrier), "%u", how->barrier_ms);
	if (how->fresh)
		argv[n++] = "--new-directory";
	if (how->barrier_ms) {
		argv[n++] = "--barrier-ms";
		argv[n++] = barrier;
	}
	snprintf(capacity, sizeof(capacity), "%u", how->cursor_capacity);
	if (how->cursor_capacity) {
		argv[n++] = "--cursor-capacity";
		argv[n++] = capacity;
	}
	snprintf(share, sizeof(share), "%u", how->cursor_share);
	if (how->cursor_share) {
		argv[n++] = "--cursor-owner-share";
		argv[n++] = share;
	}
	if (how->small_pages)
		argv[n++] = "--no-huge-pages";
	if (how->busy_poll)
		argv[n++] = "--busy-poll";
	if (how->bpf)
		argv[n++] = "--bpf";
	execv(b->berthd, (char *const *)(uintptr_t)argv);
	dprintf(STDERR_FILENO, "%s: %s\n", b->berthd, strerror(errno));
	_exit(127);
}

void daemon_spawn(const struct bench *b, struct daemon *d, const char *name, const struct daemon_how *how)
{
	d->fd = -1;
	snprintf(d->dir, sizeof(d->dir), "%s/%s", b->shm, name);
	snprintf(d->log, sizeof(d->log), "%s/%s.log", b->shm, name);
	fflush(stdout);
	d->pid = fork();
	if (d->pid < 0)
		fail("fork: %s", strerror(errno));
	if (d->pid == 0)
		run_berthd(b, d, how);
}

static _Noreturn void daemon_failed(const struct daemon *d, const char *what)
{
	char line[512];
	FILE *f = fopen(d->log, "r");

	while (f && fgets(line, sizeof(line), f))
		fputs(line, stderr);
	fail("berthd in %s %s; above is what it said", d->dir, what);
}

int socket_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || snprintf(a.sun_path, sizeof(a.sun_path), "%s", path) >= (int)sizeof(a.sun_path))
		fail("no socket for %s", path);
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	close(fd);
	return -1;
}

void daemon_start(const struct bench *b, struct daemon *d, const char *name, const struct daemon_how *how)
{
	uint64_t from = now_ns();
	char path[160];

	daemon_spawn(b, d, name, how);
	snprintf(path, sizeof(path), "%s/admin.sock", d->dir);
	while ((d->fd = socket_connect(path)) < 0) {
		if (waitpid(d->pid, NULL, WNOHANG) == d->pid)
			daemon_failed(d, "did not start");
		if (now_ns() - from > START_S * 1000000000ull)
			daemon_failed(d, "does not take connections");
		usleep(1000);
	}
}

void daemon_connect(struct daemon *d)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/admin.sock", d->dir);
	d->fd = socket_connect(path);
	if (d->fd < 0)
		daemon_failed(d, "takes no other connection");
}

void daemon_stop(struct daemon *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	kill(d->pid, SIGTERM);
	waitpid(d->pid, NULL, 0);
}

uint64_t daemon_anonymous_bytes(const struct daemon *d)
{
	char path[48], line[256];
	unsigned long long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/status", (long)d->pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * 1024;
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

void send_all(int fd, const char *bytes, size_t n, int pass_fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;

	while (n > 0) {
		struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
		ssize_t sent;

		if (pass_fd >= 0) { /* goes with the first byte */
			memset(&control, 0, sizeof(control));
			message.msg_control = control.bytes;
			message.msg_controllen = sizeof(control.bytes);
			CMSG_FIRSTHDR(&message)->cmsg_level = SOL_SOCKET;
			CMSG_FIRSTHDR(&message)->cmsg_type = SCM_RIGHTS;
			CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &pass_fd, sizeof(int));
		}
		sent = sendmsg(fd, &message, MSG_NOSIGNAL);
		if (sent < 0 && errno != EINTR)
			fail("a request cannot be sent: %s", strerror(errno));
		if (sent > 0) {
			bytes += sent;
			n -= (size_t)sent;
			pass_fd = -1;
		}
	}
}

size_t receive_line(int fd, char *line, size_t room)
{
	size_t n = 0;

	do {
		ssize_t got = recv(fd, line + n, room - 1 - n, 0);

		if (got <= 0)
			fail("the daemon is gone, or its answer too long");
		n += (size_t)got;
	} while (line[n - 1] != '\n');
	line[n] = 0;
	return n;
}

void daemon_call(struct daemon *d, const char *line, int pass_fd, char *answer, size_t size, uint64_t *peak)
{
	uint64_t from = now_ns();
	size_t n = 0;

	send_all(d->fd, line, strlen(line), pass_fd);
	do {
		struct pollfd p = {.fd = d->fd, .events = POLLIN};
		ssize_t got;

		if (peak) {
			uint64_t bytes = daemon_anonymous_bytes(d);

			*peak = bytes > *peak ? bytes : *peak;
		}
		if (now_ns() - from > ANSWER_S * 1000000000ull)
			daemon_failed(d, "does not answer");
		if (poll(&p, 1, SAMPLE_MS) == 0)
			continue;
		got = recv(d->fd, answer + n, size - 1 - n, 0);
		if (got <= 0 || n + (size_t)got >= size - 1)
			daemon_failed(d, "closed the connection, or its answer is too long");
		n += (size_t)got;
	} while (n == 0 || answer[n - 1] != '\n');
	answer[n] = 0;
	if (!strstr(answer, "\"result\":"))
		fail("%.200s was refused: %.400s", line, answer);
}

uint64_t answer_number(const char *answer, const char *name)
{
	char member[64];
	const char *at;

	snprintf(member, sizeof(member), "\"%s\":", name);
	at = strstr(answer, member);
	if (!at)
		fail("no %s in %.400s", name, answer);
	return strtoull(at + strlen(member), NULL, 10);
}

void daemon_load(struct daemon *d, int document, uint32_t n, uint64_t *peak)
{
	char answer[4096];

	if (lseek(document, 0, SEEK_SET) != 0)
		fail("the document cannot be read again");
	daemon_call(d, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"load\",\"params\":{}}\n", document, answer,
		    sizeof(answer), peak);
	if (answer_number(answer, "applied") < n)
		fail("not all of %u partitions were applied: %.400s", n, answer);
}
