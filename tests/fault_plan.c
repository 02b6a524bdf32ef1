/* SPDX-License-Identifier: MIT
 * fault_plan.h. */
#include "fault_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "child.h"
#include "left_over.h"

struct faults *fault_plan_make(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct faults *plan = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof *plan) == 0)
		plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (plan == MAP_FAILED)
		fail_msg("%s: %s", path, strerror(errno));
	close(fd);
	return plan;
}

void fault_plan_free(struct faults **plan)
{
	munmap(*plan, sizeof **plan);
	*plan = NULL;
}

static const char *library(void)
{
	static char path[PATH_MAX];

	if (!realpath(daemon_program("tests/faults.so"), path))
		fail_msg("%s: %s", daemon_program("tests/faults.so"), strerror(errno));
	return path;
}

bool fault_possible(void)
{
#ifdef __SANITIZE_THREAD__
	return false;
#else
	return true;
#endif
}

void fault_plan_needed(const struct faults *plan)
{
	if (!plan)
		SKIP("ThreadSanitizer's own library stands where faults.so would");
}

/* Under AddressSanitizer a malloc can fail too, and a process that has lost memory, or done worse, ends with 99. */
void fault_preload(const char *plan)
{
	static const char more[] = "verify_asan_link_order=0:allocator_may_return_null=1:exitcode=99";
	static char before[512];
	char options[700];

	if (!plan) {
		unsetenv("LD_PRELOAD");
		unsetenv("BERTH_FAULTS");
		setenv("ASAN_OPTIONS", before, 1);
		return;
	}
	setenv("LD_PRELOAD", library(), 1);
	setenv("BERTH_FAULTS", plan, 1);
	snprintf(before, sizeof before, "%s", getenv("ASAN_OPTIONS") ? getenv("ASAN_OPTIONS") : "");
	snprintf(options, sizeof options, "%s:%s:detect_leaks=1", before, more);
	setenv("ASAN_OPTIONS", options, 1);
}

static char own_plan[] = "/tmp/berth-faults-XXXXXX";

void fault_share(bool on)
{
	fault_preload(on ? own_plan : NULL);
}

struct faults *fault_run_self(char **argv)
{
	const char *given = getenv("BERTH_FAULTS");
	struct faults *plan;
	int fd;

	if (!given) {
		fd = mkstemp(own_plan);
		if (fd < 0 || ftruncate(fd, sizeof *plan) != 0) {
			perror(own_plan);
			exit(1);
		}
		fault_share(true);
		execv("/proc/self/exe", argv);
		perror("/proc/self/exe");
		exit(1);
	}
	snprintf(own_plan, sizeof own_plan, "%s", given);
	fault_share(false);
	left_over_put(own_plan);
	fd = open(own_plan, O_RDWR | O_CLOEXEC);
	plan = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (plan == MAP_FAILED) {
		perror(own_plan);
		exit(1);
	}
	close(fd);
	return plan;
}

const char *fault_name(enum fault_call call)
{
#define NAME(c, name) [CALL_##c] = name,
	static const char *const names[] = {FAULT_CALLS(NAME)};
#undef NAME

	return names[call];
}

const int *fault_errors(enum fault_call call)
{
	static const int errors[CALLS][5] = {
		[CALL_OPEN] = {EMFILE, ENOMEM, EINTR},
		[CALL_MMAP] = {ENOMEM},
		[CALL_MPROTECT] = {ENOMEM},
		[CALL_MADVISE] = {ENOMEM},
		[CALL_FTRUNCATE] = {EIO},
		[CALL_FALLOCATE] = {ENOSPC, EINTR},
		[CALL_RENAME] = {ENOSPC},
		[CALL_UNLINK] = {EROFS},
		[CALL_MKDIR] = {ENOSPC},
		[CALL_FSYNC] = {EIO, ENOSPC},
		[CALL_READ] = {EIO, EINTR, FAULT_SHORT},
		[CALL_PREAD] = {EIO, EINTR, FAULT_SHORT},
		[CALL_WRITE] = {ENOSPC, EINTR, FAULT_SHORT},
		[CALL_PWRITE] = {ENOSPC, EIO, EINTR, FAULT_SHORT},
		[CALL_SEND] = {ENOBUFS, EINTR, FAULT_SHORT},
		[CALL_SENDMSG] = {ENOBUFS, EINTR, FAULT_SHORT},
		[CALL_RECVMSG] = {ENOMEM, EINTR, FAULT_SHORT},
		[CALL_SOCKET] = {EMFILE},
		[CALL_BIND] = {ENOSPC},
		[CALL_LISTEN] = {EADDRINUSE},
		[CALL_ACCEPT] = {EMFILE, ENOMEM, EINTR, ECONNABORTED},
		[CALL_CONNECT] = {EINTR, EAGAIN, ECONNREFUSED},
		[CALL_SOCKOPT] = {ENOBUFS},
		[CALL_EVENTFD] = {EMFILE},
		[CALL_EPOLL_CREATE] = {EMFILE},
		[CALL_EPOLL_CTL] = {ENOSPC},
		[CALL_EPOLL_WAIT] = {EINTR},
		[CALL_TIMERFD] = {EMFILE},
		[CALL_PIDFD_OPEN] = {EMFILE},
		[CALL_MEMBARRIER] = {ENOMEM},
		[CALL_FUTEX] = {EINTR},
		[CALL_SETLEASE] = {ENOMEM},
		[CALL_LOCK] = {ENOLCK, EINTR},
		[CALL_RECORD_LOCK] = {ENOLCK},
		[CALL_DUP] = {EMFILE},
		[CALL_THREAD] = {EAGAIN},
		[CALL_MALLOC] = {ENOMEM},
		[CALL_RECORD] = {ENOMEM},
		[CALL_GETRANDOM] = {EINTR},
		[CALL_FSTAT] = {EIO},
		[CALL_OWNER] = {EPERM},
		[CALL_MODE] = {EROFS},
		[CALL_POLL] = {EINTR, ENOMEM},
		[CALL_NANOSLEEP] = {EINTR},
		[CALL_GROUP] = {EMFILE},
		[CALL_READDIR] = {ENOMEM},
		[CALL_MLOCK] = {ENOMEM},
		[CALL_BPF] = {EPERM, ENOMEM},
	};

	return errors[call];
}

const char *fault_error_name(int error)
{
	return error == FAULT_SHORT ? "a part of the bytes" : strerrorname_np(error);
}

void fault_arm(struct faults *plan, enum fault_call call, int64_t n, int error, bool lasting, const char *in_path)
{
	atomic_store(&plan->call, 0);
	snprintf(plan->in_path, sizeof plan->in_path, "%s", in_path ? in_path : "");
	atomic_store(&plan->left, n);
	atomic_store(&plan->lasting, lasting);
	atomic_store(&plan->error, error);
	atomic_store(&plan->fired, 0);
	atomic_store(&plan->call, (uint32_t)call + 1); /* last: pairs with passes() */
}

unsigned fault_disarm(struct faults *plan)
{
	atomic_store(&plan->call, 0);
	return (unsigned)atomic_load(&plan->fired);
}

void fault_count(struct faults *plan)
{
	for (unsigned i = 0; i < CALLS; i++)
		atomic_store(&plan->passes[i], 0);
}

unsigned fault_passes(const struct faults *plan, uint64_t passes[CALLS])
{
	unsigned n = 0;

	for (unsigned i = 0; i < CALLS; i++) {
		passes[i] = atomic_load(&plan->passes[i]);
		n += passes[i] != 0;
	}
	return n;
}

int64_t fault_nth(uint64_t passes, unsigned most, unsigned k)
{
	if (passes <= most)
		return k < passes ? (int64_t)k + 1 : 0;
	return k < most ? (int64_t)(k * passes / most) + 1 : 0;
}
