/* SPDX-License-Identifier: MIT
 * The reader of sandbox.h: what runs in the sandbox, and how the test talks to it. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox.h"

struct request {
	enum guest_does does;
	char partition[64];
};
struct reply {
	int code;
	long value;
};

/* ---- there ------------------------------------------------------------------------------------------------------ */

static struct {
	struct berth *b;
	struct berth_reader *r;
	struct berth_write write;
	const char *string;
	char copy[256];
} at;

/* What reader_lib/README.md says that a sandbox must allow, all its rows. `getpwnam` and malloc need nothing else here. */
static const unsigned documented[] = {
	SYS_openat,
	SYS_fstat,
	SYS_newfstatat,
	SYS_mmap,
	SYS_munmap,
	SYS_madvise,
	SYS_fcntl,
	SYS_close,
	SYS_faccessat,
	SYS_getcwd,
	SYS_geteuid,
	SYS_statx,
	SYS_fstatfs,
	SYS_membarrier,
	SYS_sched_getaffinity,
	SYS_rt_sigprocmask,
	SYS_clone,
	SYS_wait4,
	SYS_sched_setaffinity,
	SYS_exit_group,
	SYS_socket,
	SYS_connect,
	SYS_sendto,
	SYS_recvmsg,
	SYS_ppoll,
	SYS_getpid,
	SYS_dup3,
	SYS_write,
	SYS_sched_yield,
	SYS_gettid,
	SYS_futex,
#ifdef __x86_64__
	SYS_open,
	SYS_access,
	SYS_poll,
#endif
	SYS_recvfrom, /* of this program: what the test asks for; answers go by sendto */
};

#define N_DOCUMENTED (sizeof documented / sizeof documented[0])

static bool filter(void)
{
	struct sock_filter code[2 + 2 * N_DOCUMENTED];
	struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
	unsigned n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < N_DOCUMENTED; i++) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, documented[i], 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[n] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int attach(const struct guest_plan *plan)
{
	struct berth_attach_options o = {.size = sizeof o,
					 .writes = BERTH_WRITES_BRACKETED,
					 .max_readers = 1,
					 .max_leases = 64,
					 .wait_ms = DAEMON_MS,
					 .cursors = plan->how & GUEST_CURSORS ? BERTH_CURSORS_PIN : BERTH_CURSORS_OFF};
	int code = berth_attach(plan->dir, &o, &at.b);

	return code == BERTH_OK ? berth_reader_open(at.b, &at.r) : code;
}

static int hold(const char *key, size_t len)
{
	struct berth_placement p;
	int code;

	berth_read_begin(at.r);
	code = berth_lookup(at.r, key, len, &p);
	if (code != BERTH_OK) {
		berth_read_end(at.r);
		return code;
	}
	at.string = p.index;
	snprintf(at.copy, sizeof at.copy, "%s", p.index);
	return code;
}

static struct reply obey(const struct request *q)
{
	const char *key = q->partition;
	size_t len = strnlen(key, sizeof q->partition);
	struct berth_route route;
	struct reply r = {0};
	uint16_t cluster = 0;

	switch (q->does) {
	case GUEST_ROUTE:
		r.code = berth_route(at.r, key, len, &route);
		r.value = route.cluster;
		break;
	case GUEST_HOLD:
		r.code = hold(key, len);
		break;
	case GUEST_LOOK:
		r.value = strcmp(at.string, at.copy) == 0;
		berth_read_end(at.r);
		break;
	case GUEST_BEGIN:
		r.code = berth_write_begin(at.r, key, len, 0, &at.write);
		break;
	case GUEST_END:
	case GUEST_UNKNOWN:
		r.code = berth_write_end(at.r, &at.write, q->does == GUEST_END ? BERTH_DONE : BERTH_UNKNOWN);
		break;
	case GUEST_PIN:
		r.code = berth_cursor_pin(at.r, key, len, 1, key, len, 60000, DAEMON_MS);
		break;
	case GUEST_RESOLVE:
		r.code = berth_cursor_resolve(at.r, key, len, key, len, 0, &cluster);
		r.value = cluster;
		break;
	case GUEST_MAINTAIN:
		r.code = berth_maintain(at.b);
		break;
	case GUEST_SPAWN:
		r.value = fork();
		while (r.value == 0)
			pause();
		break;
	case GUEST_EXEC:
		execl("/bin/sleep", "sleep", "1000", (char *)NULL);
		_exit(127);
	case GUEST_DETACH:
		berth_reader_close(&at.r);
		r.code = berth_detach(&at.b);
		break;
	case GUEST_ATTACH:
		break;
	}
	return r;
}

int guest_live(void *arg, int fd)
{
	const struct guest_plan *plan = arg;
	struct request q = {.does = GUEST_ATTACH};
	struct reply r;

	prctl(PR_SET_NAME, "guest");
	if (plan->how & GUEST_FILTERED && !filter())
		return 1;
	r = (struct reply){.code = attach(plan), .value = getpid()};
	for (;;) {
		if (send(fd, &r, sizeof r, MSG_NOSIGNAL) != sizeof r)
			return 1;
		if (q.does == GUEST_DETACH || (q.does == GUEST_ATTACH && r.code != BERTH_OK))
			return 0;
		while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 50) != 1)
			berth_maintain(at.b);
		if (recv(fd, &q, sizeof q, 0) != sizeof q)
			return 0;
		r = obey(&q);
	}
}

/* ---- in the test ------------------------------------------------------------------------------------------------ */

static struct reply hear(const struct guest *g)
{
	struct reply r;

	if (poll(&(struct pollfd){.fd = g->fd, .events = POLLIN}, 1, DAEMON_MS) != 1)
		fail_msg("guest %d does not answer", (int)g->number);
	if (recv(g->fd, &r, sizeof r, 0) != sizeof r)
		fail_msg("guest %d ended with %d", (int)g->number, sandbox_wait(g->in, g->number));
	return r;
}

int guest_start(struct guest *g, struct sandbox *s, pid_t number, unsigned how)
{
	struct guest_plan plan = {.how = how};

	snprintf(plan.dir, sizeof plan.dir, "%s", s->dir);
	g->in = s;
	g->number = sandbox_fork(s, number, guest_live, &plan, sizeof plan, &g->fd);
	if (g->number < 0)
		fail_msg("a process %d cannot be made in a sandbox", (int)number);
	return guest_await(g);
}

int guest_await(const struct guest *g)
{
	struct reply r = hear(g);

	if (r.code == BERTH_OK)
		assert_int_equal(r.value, g->number);
	return r.code;
}

int guest_does(const struct guest *g, enum guest_does does, const char *partition, long *value)
{
	struct request q = {.does = does};
	struct reply r;

	snprintf(q.partition, sizeof q.partition, "%s", partition);
	if (send(g->fd, &q, sizeof q, MSG_NOSIGNAL) != sizeof q)
		fail_msg("guest %d is gone: %s", (int)g->number, strerror(errno));
	if (does == GUEST_EXEC)
		return BERTH_OK;
	r = hear(g);
	if (value)
		*value = r.value;
	return r.code;
}

void guest_until(const struct guest *g, int code)
{
	uint64_t deadline = 0;
	int last = code;

	while (within(&deadline))
		if ((last = guest_does(g, GUEST_MAINTAIN, "", NULL)) == code)
			return;
	assert_int_equal(last, code);
}

void guest_kill(struct guest *g)
{
	sandbox_signal(g->in, g->number, SIGKILL);
	guest_end(g);
}

int guest_end(struct guest *g)
{
	close(g->fd);
	return sandbox_wait(g->in, g->number);
}
