/* SPDX-License-Identifier: MIT
 * Failures that a test puts into another process: what is armed, and what passed, in a file that both map. The process
 * runs with faults.so preloaded (interpose.c) and BERTH_FAULTS naming the file; the test arms it with fault_plan.h.
 * Threads: the test writes the order, `call` last (release); any thread of the process loads `call` first (acquire). */
#ifndef BERTH_TESTS_FAULTS_H
#define BERTH_TESTS_FAULTS_H

#include <stdint.h>

/* Classes of calls: spellings of one (open, openat, open64) count as one. */
#define FAULT_CALLS(X) \
	X(OPEN, "open") \
	X(MMAP, "mmap") \
	X(MPROTECT, "mprotect") \
	X(MADVISE, "madvise") \
	X(FTRUNCATE, "ftruncate") \
	X(FALLOCATE, "fallocate") \
	X(RENAME, "rename") \
	X(UNLINK, "unlink") \
	X(MKDIR, "mkdir") \
	X(FSYNC, "fsync") \
	X(READ, "read") \
	X(PREAD, "pread") \
	X(WRITE, "write") \
	X(PWRITE, "pwrite") \
	X(SEND, "send") \
	X(SENDMSG, "sendmsg") \
	X(RECVMSG, "recvmsg") \
	X(SOCKET, "socket") \
	X(BIND, "bind") \
	X(LISTEN, "listen") \
	X(ACCEPT, "accept") \
	X(CONNECT, "connect") \
	X(SOCKOPT, "sockopt") \
	X(EVENTFD, "eventfd") \
	X(EPOLL_CREATE, "epoll_create") \
	X(EPOLL_CTL, "epoll_ctl") \
	X(EPOLL_WAIT, "epoll_wait") \
	X(TIMERFD, "timerfd") \
	X(PIDFD_OPEN, "pidfd_open") \
	X(MEMBARRIER, "membarrier") \
	X(FUTEX, "futex") \
	X(SETLEASE, "setlease") \
	X(LOCK, "flock") \
	X(RECORD_LOCK, "fcntl lock") \
	X(DUP, "dup") \
	X(THREAD, "pthread_create") \
	X(MALLOC, "malloc") \
	X(RECORD, "mallocx") \
	X(GETRANDOM, "getrandom") \
	X(FSTAT, "fstat") \
	X(OWNER, "chown") \
	X(MODE, "chmod") \
	X(POLL, "poll") \
	X(NANOSLEEP, "nanosleep") \
	X(GROUP, "getgrnam") \
	X(READDIR, "readdir") \
	X(MLOCK, "mlock") \
	X(BPF, "bpf")

enum fault_call {
#define FAULT_NAME(call, name) CALL_##call,
	FAULT_CALLS(FAULT_NAME)
#undef FAULT_NAME
		CALLS
};

#define FAULT_SHORT (-1) /* in place of an errno: half of the bytes, at least one */

struct faults {
	_Atomic uint64_t passes[CALLS]; /* while in_path is set, only those that are on such a path */
	_Atomic uint32_t call;          /* + 1; 0: nothing is armed */
	_Atomic int64_t left;           /* 1: the next passage fails */
	_Atomic uint32_t lasting;       /* and all after it */
	_Atomic int error;              /* errno or FAULT_SHORT */
	char in_path[128]; /* "": any; else calls on a path, or a descriptor of one, that holds this text */
	_Atomic uint32_t
		libuv_too; /* also the calls whose failure libuv answers with abort(): else they are let pass */
	_Atomic uint32_t libuv_aborts;
	_Atomic uint64_t fired;
	_Atomic int64_t mapped;                   /* bytes by mmap less those by munmap, but the allocator's */
	_Atomic uint32_t storm_us;                /* read at the start: a signal without SA_RESTART so often */
	_Atomic uint64_t signals;                 /* of that */
	_Atomic int64_t realtime_ns, boottime_ns; /* added to these clocks */
};

#endif
