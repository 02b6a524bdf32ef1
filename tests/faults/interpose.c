/* SPDX-License-Identifier: MIT
 * faults.so, to be preloaded: stands between a process (its libraries too) and libc, counts the calls and makes the
 * armed one fail as the kernel would: with an errno, or with a part of the bytes. Nothing else is changed. What libc
 * calls inside itself is not seen here: pthread_create stands for its mmap and clone, getgrnam_r for its files. The
 * armed order is faults.h's. Allocates nothing and calls nothing that is interposed.
 *
 * libuv ends the process when one of its calls to epoll_ctl fails, or a read or write of its eventfd, and no caller can
 * change that: these are let pass, unless the test is about that end (libuv_too). */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "faults.h"

#define EXPORT __attribute__((visibility("default")))
/* The next definition of a function: libc's, or jemalloc's. */
#define REAL(name) \
	static __typeof__(&name) real; \
	if (!real) \
	real = (__typeof__(&name))(uintptr_t)dlsym(RTLD_NEXT, #name)

static struct faults *plan;
static __thread bool within_libc __attribute__((tls_model("initial-exec"))); /* in a call that stands for its own */

/* ---- is it this one? -------------------------------------------------------------------------------------------- */

static bool path_matches(int fd, const char *path)
{
	char link[40], text[512];
	ssize_t n;

	if (!plan->in_path[0])
		return true;
	if (path && (path[0] == '/' || strstr(path, plan->in_path)))
		return strstr(path, plan->in_path) != NULL;
	if (fd < 0)
		return false;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = syscall(SYS_readlinkat, AT_FDCWD, link, text, sizeof text - 1);
	if (n < 0)
		return false;
	text[n] = '\0';
	return strstr(text, plan->in_path) != NULL;
}

/* Can the kernel answer so? Files, pipes and streams are served in parts, an eventfd or a datagram comes whole; read and
 * write of what is no file (libuv wakes itself so, and ends the process when that fails) are interrupted at most. */
static bool can_be(enum fault_call call, int fd, int error)
{
	struct stat st;
	int type = 0;
	socklen_t len = sizeof type;

	if (error != FAULT_SHORT && call != CALL_READ && call != CALL_WRITE)
		return true;
	if (atomic_load_explicit(&plan->libuv_too, memory_order_relaxed))
		return true;
	if (syscall(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH) != 0)
		return false;
	if (S_ISREG(st.st_mode) && call == CALL_READ && st.st_size == 0) /* of /proc: whole, and without a disk */
		return false;
	if (error != FAULT_SHORT)
		return error == EINTR || S_ISREG(st.st_mode);
	if (S_ISSOCK(st.st_mode))
		return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
	return S_ISREG(st.st_mode) || (S_ISFIFO(st.st_mode) && call == CALL_READ); /* few bytes go into a pipe whole */
}

/* Is the code at this address in that library? */
static bool in_library(void *address, const char *name)
{
	Dl_info info;

	return dladdr(address, &info) && info.dli_fname && strstr(info.dli_fname, name);
}

/* Counts a passage. 0: go on; else what it fails with. */
static int passes(enum fault_call call, int fd, const char *path)
{
	int saved = errno, error;
	int64_t left;

	if (!plan || within_libc || !path_matches(fd, path)) {
		errno = saved;
		return 0;
	}
	errno = saved;
	atomic_fetch_add_explicit(&plan->passes[call], 1, memory_order_relaxed);
	/* Acquire: pairs with fault_arm. */
	if (atomic_load_explicit(&plan->call, memory_order_acquire) != (uint32_t)call + 1)
		return 0;
	left = atomic_fetch_sub_explicit(&plan->left, 1, memory_order_relaxed);
	if (left != 1 && !(left < 1 && atomic_load_explicit(&plan->lasting, memory_order_relaxed)))
		return 0;
	error = atomic_load_explicit(&plan->error, memory_order_relaxed);
	if (!can_be(call, fd, error))
		error = 0;
	else if (error != FAULT_SHORT)
		atomic_fetch_add_explicit(&plan->fired, 1, memory_order_relaxed);
	errno = saved;
	return error;
}

#define FAIL_WITH(call, fd, path, value) \
	do { \
		int error_ = passes(call, fd, path); \
		if (error_ > 0) { \
			errno = error_; \
			return value; \
		} \
	} while (0)
#define FAIL(call, fd, path) FAIL_WITH(call, fd, path, -1)
/* Of calls that return their error. */
#define FAIL_CODE(call, fd, path) \
	do { \
		int error_ = passes(call, fd, path); \
		if (error_ > 0) \
			return error_; \
	} while (0)

/* 0, with *n to be used; or an errno. */
static int passes_bytes(enum fault_call call, int fd, size_t *n)
{
	int saved = errno, error = passes(call, fd, NULL);

	if (error == FAULT_SHORT) {
		error = 0;
		if (*n > 1) {
			*n /= 2;
			atomic_fetch_add_explicit(&plan->fired, 1, memory_order_relaxed);
		}
	}
	errno = error ? error : saved;
	return error;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

#define MODE_OF(flags) \
	mode_t mode = 0; \
	if ((flags) & (O_CREAT | O_TMPFILE)) { \
		va_list args; \
		va_start(args, flags); \
		mode = va_arg(args, mode_t); \
		va_end(args); \
	}

#define OPEN(name) \
	EXPORT int name(const char *path, int flags, ...) \
	{ \
		REAL(name); \
		MODE_OF(flags) \
		if (!in_library(__builtin_return_address(0), "/libasan.")) /* it reads its own symbols at the end */ \
			FAIL(CALL_OPEN, -1, path); \
		return real(path, flags, mode); \
	}
#define OPENAT(name) \
	EXPORT int name(int dir, const char *path, int flags, ...) \
	{ \
		REAL(name); \
		MODE_OF(flags) \
		FAIL(CALL_OPEN, dir, path); \
		return real(dir, path, flags, mode); \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* One call with these parameters and arguments; what it works on is a descriptor, a path, or nothing. */
#define CALL(type, call, name, fd, path, parameters, ...) \
	EXPORT type name parameters \
	{ \
		REAL(name); \
		FAIL(call, fd, path); \
		return real(__VA_ARGS__); \
	}
#define CALL_CODE(call, name, fd, path, parameters, ...) \
	EXPORT int name parameters \
	{ \
		REAL(name); \
		FAIL_CODE(call, fd, path); \
		return real(__VA_ARGS__); \
	}

CALL(int, CALL_FTRUNCATE, ftruncate, fd, NULL, (int fd, off_t n), fd, n)
CALL(int, CALL_FTRUNCATE, ftruncate64, fd, NULL, (int fd, off64_t n), fd, n)
CALL(int, CALL_FALLOCATE, fallocate, fd, NULL, (int fd, int mode, off_t at, off_t n), fd, mode, at, n)
CALL(int, CALL_FALLOCATE, fallocate64, fd, NULL, (int fd, int mode, off64_t at, off64_t n), fd, mode, at, n)
CALL_CODE(CALL_FALLOCATE, posix_fallocate, fd, NULL, (int fd, off_t at, off_t n), fd, at, n)
CALL_CODE(CALL_FALLOCATE, posix_fallocate64, fd, NULL, (int fd, off64_t at, off64_t n), fd, at, n)
CALL(int, CALL_RENAME, rename, -1, from, (const char *from, const char *to), from, to)
CALL(int, CALL_RENAME, renameat, -1, from, (int d, const char *from, int e, const char *to), d, from, e, to)
CALL(int, CALL_UNLINK, unlink, -1, path, (const char *path), path)
CALL(int, CALL_UNLINK, unlinkat, -1, path, (int dir, const char *path, int flags), dir, path, flags)
CALL(int, CALL_MKDIR, mkdir, -1, path, (const char *path, mode_t mode), path, mode)
CALL(int, CALL_MKDIR, mkdirat, -1, path, (int dir, const char *path, mode_t mode), dir, path, mode)
CALL(int, CALL_FSYNC, fsync, fd, NULL, (int fd), fd)
CALL(int, CALL_FSYNC, fdatasync, fd, NULL, (int fd), fd)
CALL(int, CALL_FSTAT, fstat, fd, NULL, (int fd, struct stat *st), fd, st)
CALL(int, CALL_FSTAT, fstat64, fd, NULL, (int fd, struct stat64 *st), fd, st)
CALL(int, CALL_FSTAT, fstatat, -1, path, (int d, const char *path, struct stat *st, int f), d, path, st, f)
CALL(int, CALL_FSTAT, stat, -1, path, (const char *path, struct stat *st), path, st)
CALL(int, CALL_FSTAT, stat64, -1, path, (const char *path, struct stat64 *st), path, st)
CALL(int, CALL_OWNER, fchown, fd, NULL, (int fd, uid_t u, gid_t g), fd, u, g)
CALL(int, CALL_OWNER, fchownat, -1, path, (int d, const char *path, uid_t u, gid_t g, int f), d, path, u, g, f)
CALL(int, CALL_MODE, fchmod, fd, NULL, (int fd, mode_t mode), fd, mode)
CALL(int, CALL_MODE, fchmodat, -1, path, (int d, const char *path, mode_t mode, int f), d, path, mode, f)
CALL(int, CALL_LOCK, flock, fd, NULL, (int fd, int how), fd, how)
CALL(int, CALL_DUP, dup3, from, NULL, (int from, int to, int flags), from, to, flags)

/* glibc's crashes when one of its first allocations fails. */
EXPORT int getgrnam_r(const char *name, struct group *g, char *bytes, size_t n, struct group **found)
{
	REAL(getgrnam_r);
	int rc;

	FAIL_CODE(CALL_GROUP, -1, NULL);
	within_libc = true;
	rc = real(name, g, bytes, n, found);
	within_libc = false;
	return rc;
}

EXPORT DIR *fdopendir(int fd)
{
	REAL(fdopendir);
	FAIL_WITH(CALL_READDIR, fd, NULL, NULL);
	return real(fd);
}

EXPORT struct dirent *readdir(DIR *d)
{
	REAL(readdir);
	FAIL_WITH(CALL_READDIR, dirfd(d), NULL, NULL);
	return real(d);
}

static int fcntl_passes(int fd, int command)
{
	switch (command) {
	case F_SETLEASE:
		return passes(CALL_SETLEASE, fd, NULL);
	case F_SETLK:
		return passes(CALL_RECORD_LOCK, fd, NULL);
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return passes(CALL_DUP, fd, NULL);
	default:
		return 0;
	}
}

#define FCNTL(name) \
	EXPORT int name(int fd, int command, ...) \
	{ \
		REAL(name); \
		int error; \
		va_list args; \
		void *arg; \
		va_start(args, command); \
		arg = va_arg(args, void *); \
		va_end(args); \
		error = fcntl_passes(fd, command); \
		if (error > 0) { \
			errno = error; \
			return -1; \
		} \
		return real(fd, command, arg); \
	}
FCNTL(fcntl)
FCNTL(fcntl64)

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

#define BYTES(call, name, parameters, ...) \
	EXPORT ssize_t name parameters \
	{ \
		REAL(name); \
		if (passes_bytes(call, fd, &n) > 0) \
			return -1; \
		return real(__VA_ARGS__); \
	}
BYTES(CALL_READ, read, (int fd, void *to, size_t n), fd, to, n)
BYTES(CALL_PREAD, pread, (int fd, void *to, size_t n, off_t at), fd, to, n, at)
BYTES(CALL_PREAD, pread64, (int fd, void *to, size_t n, off64_t at), fd, to, n, at)
BYTES(CALL_WRITE, write, (int fd, const void *from, size_t n), fd, from, n)
BYTES(CALL_PWRITE, pwrite, (int fd, const void *from, size_t n, off_t at), fd, from, n, at)
BYTES(CALL_PWRITE, pwrite64, (int fd, const void *from, size_t n, off64_t at), fd, from, n, at)
BYTES(CALL_SEND, send, (int fd, const void *from, size_t n, int flags), fd, from, n, flags)
BYTES(CALL_RECVMSG, recv, (int fd, void *to, size_t n, int flags), fd, to, n, flags)

#define MESSAGE(call, name, type) \
	EXPORT ssize_t name(int fd, type *m, int flags) \
	{ \
		REAL(name); \
		size_t n = m->msg_iovlen ? m->msg_iov[0].iov_len : 0, all = n; \
		struct iovec part; \
		struct msghdr less; \
		ssize_t rc; \
		if (passes_bytes(call, fd, &n) > 0) \
			return -1; \
		if (n == all) \
			return real(fd, m, flags); \
		part = (struct iovec){m->msg_iov[0].iov_base, n}; \
		memcpy(&less, m, sizeof less); \
		less.msg_iov = &part; \
		less.msg_iovlen = 1; \
		rc = real(fd, &less, flags); \
		MESSAGE_BACK_##call; \
		return rc; \
	}
#define MESSAGE_BACK_CALL_SENDMSG (void)0
#define MESSAGE_BACK_CALL_RECVMSG (m->msg_controllen = less.msg_controllen, m->msg_flags = less.msg_flags)
MESSAGE(CALL_SENDMSG, sendmsg, const struct msghdr)
MESSAGE(CALL_RECVMSG, recvmsg, struct msghdr)

/* ---- sockets, events -------------------------------------------------------------------------------------------- */

CALL(int, CALL_SOCKET, socket, -1, NULL, (int domain, int type, int protocol), domain, type, protocol)
CALL(int, CALL_SOCKET, socketpair, -1, NULL, (int domain, int type, int p, int fds[2]), domain, type, p, fds)
CALL(int, CALL_BIND, bind, fd, NULL, (int fd, const struct sockaddr *a, socklen_t n), fd, a, n)
CALL(int, CALL_LISTEN, listen, fd, NULL, (int fd, int n), fd, n)
CALL(int, CALL_ACCEPT, accept4, fd, NULL, (int fd, struct sockaddr *a, socklen_t *n, int flags), fd, a, n, flags)
CALL(int, CALL_CONNECT, connect, fd, NULL, (int fd, const struct sockaddr *a, socklen_t n), fd, a, n)
CALL(int, CALL_SOCKOPT, getsockopt, fd, NULL, (int fd, int level, int name, void *v, socklen_t *n), fd, level, name, v,
     n)
CALL(int, CALL_EVENTFD, eventfd, -1, NULL, (unsigned value, int flags), value, flags)
CALL(int, CALL_EPOLL_CREATE, epoll_create1, -1, NULL, (int flags), flags)
CALL(int, CALL_EPOLL_WAIT, epoll_wait, fd, NULL, (int fd, struct epoll_event *e, int n, int ms), fd, e, n, ms)
CALL(int, CALL_EPOLL_WAIT, epoll_pwait, fd, NULL, (int fd, struct epoll_event *e, int n, int ms, const sigset_t *s), fd,
     e, n, ms, s)
CALL(int, CALL_TIMERFD, timerfd_create, -1, NULL, (int clock, int flags), clock, flags)
CALL(int, CALL_POLL, poll, -1, NULL, (struct pollfd * p, nfds_t n, int ms), p, n, ms)
CALL(int, CALL_NANOSLEEP, nanosleep, -1, NULL, (const struct timespec *t, struct timespec *left), t, left)

EXPORT int epoll_ctl(int fd, int operation, int of, struct epoll_event *event)
{
	REAL(epoll_ctl);

	if ((plan && atomic_load_explicit(&plan->libuv_too, memory_order_relaxed)) ||
	    !in_library(__builtin_return_address(0), "/libuv."))
		FAIL(CALL_EPOLL_CTL, -1, NULL);
	return real(fd, operation, of, event);
}

EXPORT long syscall(long number, ...)
{
	REAL(syscall);
	long a[6];
	va_list args;

	va_start(args, number);
	for (unsigned i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_pidfd_open)
		FAIL(CALL_PIDFD_OPEN, -1, NULL);
	else if (number == SYS_membarrier)
		FAIL(CALL_MEMBARRIER, -1, NULL);
	else if (number == SYS_futex)
		FAIL(CALL_FUTEX, -1, NULL);
	else if (number == SYS_bpf)
		FAIL(CALL_BPF, -1, NULL);
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- memory, threads, chance ------------------------------------------------------------------------------------ */

CALL(int, CALL_MPROTECT, mprotect, -1, NULL, (void *at, size_t n, int how), at, n, how)
CALL(int, CALL_MADVISE, madvise, -1, NULL, (void *at, size_t n, int how), at, n, how)
CALL(int, CALL_MLOCK, mlockall, -1, NULL, (int flags), flags)
CALL(ssize_t, CALL_GETRANDOM, getrandom, -1, NULL, (void *to, size_t n, unsigned flags), to, n, flags)
CALL_CODE(CALL_THREAD, pthread_create, -1, NULL,
	  (pthread_t * thread, const pthread_attr_t *a, void *(*run)(void *), void *arg), thread, a, run, arg)

static void count_mapped(void *caller, void *at, size_t n, int64_t sign)
{
	if (plan && at != MAP_FAILED && !in_library(caller, "/libjemalloc."))
		atomic_fetch_add_explicit(&plan->mapped, sign * (int64_t)((n + 4095) / 4096 * 4096),
					  memory_order_relaxed);
}

#define MMAP(name, offset) \
	EXPORT void *name(void *at, size_t n, int how, int flags, int fd, offset from) \
	{ \
		REAL(name); \
		FAIL_WITH(CALL_MMAP, fd, NULL, MAP_FAILED); \
		at = real(at, n, how, flags, fd, from); \
		if (!(flags & MAP_FIXED)) /* such a one takes the place of another */ \
			count_mapped(__builtin_return_address(0), at, n, 1); \
		return at; \
	}
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

EXPORT int munmap(void *at, size_t n)
{
	REAL(munmap);

	count_mapped(__builtin_return_address(0), at, n, -1);
	return real(at, n);
}

/* So that a test can tell the library's word from a crash. */
EXPORT void abort(void)
{
	REAL(abort);
	if (plan && in_library(__builtin_return_address(0), "/libuv."))
		atomic_fetch_add_explicit(&plan->libuv_aborts, 1, memory_order_relaxed);
	real();
	__builtin_unreachable();
}

EXPORT void *malloc(size_t n)
{
	REAL(malloc);
	FAIL_WITH(CALL_MALLOC, -1, NULL, NULL);
	return real(n);
}

EXPORT void *calloc(size_t n, size_t size)
{
	REAL(calloc);
	FAIL_WITH(CALL_MALLOC, -1, NULL, NULL);
	return real(n, size);
}

EXPORT void *realloc(void *p, size_t n)
{
	REAL(realloc);
	FAIL_WITH(CALL_MALLOC, -1, NULL, NULL);
	return real(p, n);
}

EXPORT void *aligned_alloc(size_t to, size_t n)
{
	REAL(aligned_alloc);
	FAIL_WITH(CALL_MALLOC, -1, NULL, NULL);
	return real(to, n);
}

EXPORT void *mallocx(size_t n, int flags); /* jemalloc's: detail records in the table */
void *mallocx(size_t n, int flags)
{
	REAL(mallocx);
	FAIL_WITH(CALL_RECORD, -1, NULL, NULL);
	return real(n, flags);
}

/* ---- clocks ----------------------------------------------------------------------------------------------------- */

static void step(struct timespec *t, int64_t ns)
{
	ns += t->tv_nsec;
	t->tv_sec += ns / 1000000000;
	t->tv_nsec = ns % 1000000000;
	if (t->tv_nsec < 0) {
		t->tv_nsec += 1000000000;
		t->tv_sec--;
	}
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *t)
{
	REAL(clock_gettime);
	int rc = real(clock, t);

	if (rc == 0 && plan && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		step(t, atomic_load_explicit(&plan->realtime_ns, memory_order_relaxed));
	else if (rc == 0 && plan && clock == CLOCK_BOOTTIME)
		step(t, atomic_load_explicit(&plan->boottime_ns, memory_order_relaxed));
	return rc;
}

EXPORT int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	struct timespec now;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

EXPORT time_t time(time_t *to)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (to)
		*to = now.tv_sec;
	return now.tv_sec;
}

/* ---- start ------------------------------------------------------------------------------------------------------ */

static void on_storm(int number)
{
	(void)number;
	atomic_fetch_add_explicit(&plan->signals, 1, memory_order_relaxed);
}

__attribute__((constructor)) static void open_plan(void)
{
	const char *path = getenv("BERTH_FAULTS");
	struct faults *p;
	long us;
	int fd;

	fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
	if (fd < 0)
		return;
	p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return;
	plan = p;
	us = (long)atomic_load_explicit(&p->storm_us, memory_order_relaxed);
	if (us) {
		struct sigaction act = {.sa_handler = on_storm};
		struct itimerval often = {{0, us}, {0, us}};

		sigaction(SIGALRM, &act, NULL);
		setitimer(ITIMER_REAL, &often, NULL);
	}
}
