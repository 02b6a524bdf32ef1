/* SPDX-License-Identifier: MIT
 * sandbox.h: the namespaces, and the first process in them, which forks and waits for the others. guest.c is what runs
 * there. */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#define BUILD_AT "/mnt" /* where the new root is put together, in a mount namespace of its own */

enum order { FORK, SIGNAL, WAIT };
struct request {
	enum order order;
	pid_t number;
	int signal;
	int (*part)(void *, int);
	char arg[SANDBOX_ARG];
};
struct reply {
	int value, error;
	const char *failed; /* a literal of this program */
};

#define TRY(call) \
	do { \
		if ((call) < 0) { \
			r->error = errno; \
			r->failed = #call; \
			return false; \
		} \
	} while (0)

/* ---- making it: in the process that becomes it ------------------------------------------------------------------ */

static bool put(const char *path, const char *text, struct reply *r)
{
	int fd;

	TRY(fd = open(path, O_WRONLY | O_CLOEXEC));
	TRY(write(fd, text, strlen(text)));
	close(fd);
	return true;
}

static struct { /* of the sandbox that this process is in */
	uid_t uid;
	gid_t group;
	bool later; /* each process becomes the user by itself: the first one needs its privileges */
} user;

static bool become_user(struct reply *r)
{
	if (!user.uid)
		return true;
	TRY(setgroups(1, &user.group));
	TRY(setresgid(user.uid, user.uid, user.uid));
	TRY(setresuid(user.uid, user.uid, user.uid));
	TRY(prctl(PR_SET_DUMPABLE, 1)); /* else its files in /proc are root's */
	return true;
}

static bool change_users(struct reply *r)
{
	char map[64];

	if (!become_user(r))
		return false;
	TRY(unshare(CLONE_NEWUSER));
	snprintf(map, sizeof map, "%u %u 1", SANDBOX_UID, user.uid);
	return put("/proc/self/setgroups", "deny", r) && put("/proc/self/uid_map", map, r) &&
	       put("/proc/self/gid_map", map, r);
}

static bool change_root(const char *dir, struct reply *r)
{
	TRY(mount("tmpfs", BUILD_AT, "tmpfs", 0, "size=64k"));
	TRY(mkdir(BUILD_AT SANDBOX_DIR, 0755));
	TRY(mount(dir, BUILD_AT SANDBOX_DIR, NULL, MS_BIND, NULL));
	TRY(mount(NULL, BUILD_AT SANDBOX_DIR, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL));
	TRY(chdir(BUILD_AT));
	TRY(syscall(SYS_pivot_root, ".", "."));
	TRY(umount2(".", MNT_DETACH));
	TRY(chdir("/"));
	return true;
}

static bool say(int fd, const struct reply *r)
{
	return send(fd, r, sizeof *r, MSG_NOSIGNAL) == sizeof *r;
}

/* A request, and the descriptor that came with it (-1: none). */
static bool hear(int fd, struct request *q, int *passed)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = {q, sizeof *q};
	struct msghdr m = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *h;

	*passed = -1;
	if (recvmsg(fd, &m, MSG_CMSG_CLOEXEC) != sizeof *q)
		return false;
	h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_RIGHTS)
		memcpy(passed, CMSG_DATA(h), sizeof *passed);
	return true;
}

static pid_t fork_as(int last_pid, pid_t number)
{
	char text[16];
	int n = snprintf(text, sizeof text, "%d", (int)number - 1);

	/* Of a namespace of our own, in which we are the first: never of the machine's. */
	if (number && (getpid() != 1 || pwrite(last_pid, text, (size_t)n, 0) != n))
		return -1;
	return fork();
}

static _Noreturn void serve(int fd, int last_pid)
{
	struct request q;
	int passed, status;

	while (hear(fd, &q, &passed)) {
		struct reply r = {.value = -1};

		switch (q.order) {
		case FORK:
			r.value = fork_as(last_pid, q.number);
			if (r.value == 0) {
				if (user.later && !become_user(&r))
					_exit(127);
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				close(fd);
				_exit(q.part(q.arg, passed));
			}
			r.error = errno;
			if (r.value > 0 && q.number && r.value != q.number) { /* the number is somebody's */
				kill(r.value, SIGKILL);
				waitpid(r.value, NULL, 0);
				r.value = -1;
			}
			break;
		case SIGNAL:
			r.value = kill(q.number, q.signal);
			break;
		case WAIT:
			if (waitpid(q.number, &status, 0) == q.number)
				r.value =
					WIFSIGNALED(status) ? ENDED_BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
			break;
		}
		if (passed >= 0)
			close(passed);
		if (!say(fd, &r))
			break;
	}
	_exit(0);
}

static bool enter(const struct sandbox *s, uid_t uid, gid_t group, const char *dir, int *last_pid, struct reply *r)
{
	unsigned flags = (s->what & SANDBOX_PID ? CLONE_NEWPID : 0) | (s->what & SANDBOX_TIME ? CLONE_NEWTIME : 0) |
			 (s->what & (SANDBOX_PID | SANDBOX_ROOT) ? CLONE_NEWNS : 0);
	pid_t first = 0, parent = getpid();

	if (s->what & SANDBOX_TIME) { /* needs a privilege that the user has not */
		TRY(unshare(CLONE_NEWTIME));
		if (!put("/proc/self/timens_offsets", "monotonic 3600 0\nboottime 3600 0\n", r))
			return false;
		flags &= ~(unsigned)CLONE_NEWTIME;
	}
	user.uid = uid;
	user.group = group;
	user.later = !(s->what & SANDBOX_USER);
	if (!user.later && !change_users(r))
		return false;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* was lost */
	TRY(unshare((int)flags));
	if (s->what & (SANDBOX_PID | SANDBOX_TIME))
		TRY(first = fork());
	if (first > 0) { /* the namespaces are the child's */
		close(s->fd);
		waitpid(first, NULL, 0);
		_exit(0);
	}
	if (getpid() != parent)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (s->what & SANDBOX_PID)
		TRY(*last_pid = open("/proc/sys/kernel/ns_last_pid", O_RDWR | O_CLOEXEC));
	if (s->what & (SANDBOX_PID | SANDBOX_ROOT))
		TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	if (s->what & SANDBOX_ROOT)
		return change_root(dir, r);
	if (s->what & SANDBOX_PID)
		TRY(mount("proc", "/proc", "proc", 0, NULL));
	return true;
}

static _Noreturn void begin(struct sandbox *s, uid_t uid, gid_t group, const char *dir)
{
	struct reply r = {0};
	int last_pid = -1;
	bool entered = enter(s, uid, group, dir, &last_pid, &r);

	if (!say(s->fd, &r) || !entered)
		_exit(1);
	serve(s->fd, last_pid);
}

/* ---- in the test ------------------------------------------------------------------------------------------------ */

static struct reply answer(const struct sandbox *s)
{
	struct reply r = {0};

	if (poll(&(struct pollfd){.fd = s->fd, .events = POLLIN}, 1, DAEMON_MS) != 1 ||
	    recv(s->fd, &r, sizeof r, 0) != sizeof r)
		fail_msg("the first process of a sandbox does not answer");
	return r;
}

static struct reply order(const struct sandbox *s, const struct request *q, int passed)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {
		.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof passed)}};
	struct iovec part = {(void *)(uintptr_t)q, sizeof *q};
	struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};

	if (passed >= 0) {
		memcpy(CMSG_DATA(&control.header), &passed, sizeof passed);
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof passed);
	}
	assert_int_equal(sendmsg(s->fd, &m, MSG_NOSIGNAL), sizeof *q);
	return answer(s);
}

void sandbox_open(struct sandbox *s, unsigned what, uid_t uid, gid_t group, const struct daemon *d)
{
	int ends[2];
	struct reply r;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	*s = (struct sandbox){.what = what, .fd = ends[0], .dir = what & SANDBOX_ROOT ? SANDBOX_DIR : d->dir};
	fflush(NULL);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		for (int number = 1; number < 32; number++) /* cmocka's handlers would go on with the tests here */
			if (number != SIGKILL && number != SIGSTOP)
				signal(number, SIG_DFL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[0]);
		s->fd = ends[1];
		begin(s, uid, group, d->dir);
	}
	close(ends[1]);
	r = answer(s);
	if (r.failed) {
		sandbox_close(s);
		SKIP("a sandbox cannot be made here: %s: %s", r.failed, strerror(r.error));
	}
}

pid_t sandbox_fork(struct sandbox *s, pid_t number, int (*part)(void *, int), const void *arg, size_t size, int *fd)
{
	struct request q = {.order = FORK, .number = number, .part = part};
	int ends[2];
	struct reply r;

	assert_true(size <= sizeof q.arg);
	if (size)
		memcpy(q.arg, arg, size);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	r = order(s, &q, ends[1]);
	close(ends[1]);
	*fd = ends[0];
	if (r.value < 0)
		close(ends[0]);
	return r.value;
}

int sandbox_stay(void *arg, int fd)
{
	char c;

	(void)arg;
	return recv(fd, &c, 1, 0) == 1;
}

void sandbox_signal(struct sandbox *s, pid_t number, int signal_number)
{
	struct request q = {.order = SIGNAL, .number = number, .signal = signal_number};

	assert_int_equal(order(s, &q, -1).value, 0);
}

int sandbox_wait(struct sandbox *s, pid_t number)
{
	struct request q = {.order = WAIT, .number = number};

	return order(s, &q, -1).value;
}

void sandbox_close(struct sandbox *s)
{
	if (!s->pid)
		return;
	close(s->fd);
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}
