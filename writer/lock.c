/* SPDX-License-Identifier: MIT
 * flock on the file `lock`, and one line in it that says who holds it:
 *
 *   pid=123 start=456789 boot=<32 hex digits> namespace=4026531836
 *
 * The kernel's lock decides; the line is only for messages and for --takeover, which believes it when four things
 * agree on a process that it already holds by a pidfd: pid, start time, boot id and pid namespace. A holder in another
 * pid namespace fails that: its pid means nobody here, or somebody else, who may have started in the same tick.
 *
 * The file is closed to the group that may look: flock needs no more than an open descriptor, and who could lock it
 * could keep a new writer from starting. */
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "../shm/segment.h"
#include "log.h"

struct holder {
	pid_t pid; /* 0: not known */
	uint64_t start;
	char boot[33];
	uint64_t namespace; /* in which the pid has its meaning; 0: not known */
};

static bool boot_hex(char hex[33])
{
	uint8_t id[16];

	if (seg_boot_id(id) != BERTH_OK)
		return false;
	for (int i = 0; i < 16; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	return true;
}

static enum refusal_code refuse_call(struct refusal *r, const char *dir, const char *call)
{
	return refuse(r, R_BACKEND, "%s/" LOCK_NAME ": %s: %s: the file must be a regular one of berthd's user", dir,
		      call, strerror(errno));
}

/* The file as it is named now: somebody may have replaced it between our open and our lock. */
static enum refusal_code lock_open(int dir_fd, const char *dir, int *fd, struct refusal *r)
{
	struct stat st;

	*fd = openat(dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (*fd < 0)
		return refuse_call(r, dir, "open");
	CRASH_POINT(lock_made);
	if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(*fd);
		return refuse(r, R_DENIED, "%s/" LOCK_NAME " is not a regular file: remove it", dir);
	}
	if (st.st_uid == geteuid())
		fchmod(*fd, 0600);
	CRASH_POINT(lock_modes_set);
	return R_DONE;
}

/* False with errno; EWOULDBLOCK: somebody has it. */
static bool lock_try(int fd)
{
	int rc;

	do
		rc = flock(fd, LOCK_EX | LOCK_NB);
	while (rc != 0 && errno == EINTR);
	return rc == 0;
}

static bool lock_current(int dir_fd, int fd)
{
	struct stat named, held;

	return fstatat(dir_fd, LOCK_NAME, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &held) == 0 &&
	       named.st_ino == held.st_ino && named.st_dev == held.st_dev;
}

static void holder_read(int dir_fd, int fd, struct holder *h)
{
	char text[128] = "", boot[33] = "";
	const struct shm_root *root;
	uint64_t start, namespace = 0;
	int pid;

	memset(h, 0, sizeof(*h));
	if (pread(fd, text, sizeof(text) - 1, 0) > 0 &&
	    sscanf(text, "pid=%d start=%" SCNu64 " boot=%32[0-9a-f] namespace=%" SCNu64, &pid, &start, boot,
		   &namespace) >= 3 &&
	    pid > 0) {
		h->pid = pid;
		h->start = start;
		h->namespace = namespace;
		memcpy(h->boot, boot, sizeof(boot));
		return;
	}
	if (seg_root_map(dir_fd, &root) == BERTH_OK) {
		h->pid = (pid_t)atomic_load_explicit(&root->writer_pid, memory_order_relaxed);
		h->start = atomic_load_explicit(&root->writer_start, memory_order_relaxed);
		for (int i = 0; i < 16; i++)
			snprintf(h->boot + 2 * i, 3, "%02x", root->boot_id[i]);
		seg_root_unmap(&root);
	}
}

static bool is_stopped(pid_t pid)
{
	char path[40], text[256] = "";
	const char *after;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	after = n > 0 ? strrchr(text, ')') : NULL;
	return after && after[1] == ' ' && (after[2] == 'T' || after[2] == 't');
}

static enum refusal_code refuse_held(struct refusal *r, const char *dir, const struct holder *h)
{
	if (h->pid == 0)
		return refuse(r, R_BUSY, "%s: another writer is starting on this instance: wait for it, or end it",
			      dir);
	return refuse(r, R_BUSY, "%s: the writer with pid %d%s serves this instance: stop it, or start with --takeover",
		      dir, h->pid, is_stopped(h->pid) ? " (stopped)" : "");
}

/* A pidfd of the holder, proved to be the process that wrote the line; -1 with *r filled. */
static int holder_pidfd(const char *dir, const struct holder *h, struct refusal *r)
{
	bool here = h->namespace && h->namespace == seg_pid_namespace(), gone;
	uint64_t start;
	char boot[33];
	int pidfd;

	if (h->pid == 0 || !boot_hex(boot) || strcmp(boot, h->boot) != 0) {
		refuse(r, R_BUSY, "%s: not taken over: the lock does not say who holds it: end that writer by hand",
		       dir);
		return -1;
	}
	/* A namespace's number is given out again when it has died: then the start's equality, below, is what remains. */
	pidfd = here ? (int)syscall(SYS_pidfd_open, h->pid, 0) : -1;
	gone = here && pidfd < 0 && errno == ESRCH;
	/* The descriptor first, then the comparison: from now on the pid cannot come to mean another process. */
	if (pidfd >= 0) {
		start = seg_process_start(h->pid);
		if (start == h->start)
			return pidfd;
		gone = start != 0;
		close(pidfd);
	}
	if (gone)
		refuse(r, R_BUSY,
		       "%s: not taken over: the writer that signed the lock (pid %d) is gone: another writer is "
		       "starting: try again",
		       dir, h->pid);
	else
		refuse(r, R_BUSY,
		       "%s: not taken over: the writer (pid %d where it runs) is not visible from here, it lives in "
		       "another pid namespace: stop it there",
		       dir, h->pid);
	return -1;
}

static int64_t now_ms(void)
{
	return (int64_t)seg_clock_ms(CLOCK_MONOTONIC);
}

/* Kills the holder and waits for the lock: once, and with a deadline. */
static enum refusal_code lock_takeover(int dir_fd, const char *dir, int fd, struct refusal *r)
{
	const struct timespec nap = {.tv_nsec = 5 * 1000 * 1000};
	int64_t deadline = now_ms() + TAKEOVER_MS, left;
	struct holder h;
	int pidfd;

	holder_read(dir_fd, fd, &h);
	pidfd = holder_pidfd(dir, &h, r);
	if (pidfd < 0)
		return R_BUSY;
	if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) != 0 && errno != ESRCH) {
		refuse(r, R_DENIED, "%s: not taken over: killing pid %d: %s: run as its user or as root", dir, h.pid,
		       strerror(errno));
		close(pidfd);
		return R_DENIED;
	}
	CRASH_POINT(holder_killed);
	while ((left = deadline - now_ms()) > 0) {
		struct pollfd p = {.fd = pidfd, .events = POLLIN};

		if (poll(&p, 1, (int)left) < 0 && errno != EINTR)
			break;
		if (lock_try(fd)) {
			close(pidfd);
			log_event(LEVEL_INFO, "taken-over", LOG_N("pid", h.pid),
				  LOG_S("message", "the writer that served this instance was killed"));
			return R_DONE;
		}
		nanosleep(&nap, NULL); /* dead, but its descriptors are still being closed */
	}
	close(pidfd);
	return refuse(r, R_BUSY,
		      "%s: killed the writer with pid %d, but the lock was not free within %d ms: start again", dir,
		      h.pid, TAKEOVER_MS);
}

static enum refusal_code refuse_sign(struct refusal *r, const char *dir, const char *call)
{
	return refuse(r, R_BACKEND, "%s/" LOCK_NAME ": %s: %s: look at its file system, then start again", dir, call,
		      strerror(errno));
}

static enum refusal_code lock_sign(int fd, const char *dir, struct refusal *r)
{
	uint64_t start = seg_process_start(getpid());
	char boot[33], line[128];
	int n;

	if (!boot_hex(boot) || !start)
		return refuse(r, R_BACKEND,
			      "/proc/sys/kernel/random/boot_id or /proc/%d/stat cannot be read: mount /proc, free "
			      "memory or descriptors, then start again",
			      getpid());
	n = snprintf(line, sizeof(line), "pid=%d start=%" PRIu64 " boot=%s namespace=%" PRIu64 "\n", getpid(), start,
		     boot, seg_pid_namespace());
	/* Over the line of the last holder, then cut: a full file system has no page for a new one. */
	for (int done = 0; done < n;) {
		ssize_t wrote = pwrite(fd, line + done, (size_t)(n - done), done);

		if (wrote < 0 && errno != EINTR)
			return refuse_sign(r, dir, "write");
		done += wrote > 0 ? (int)wrote : 0;
	}
	CRASH_POINT(lock_signed);
	if (ftruncate(fd, n) != 0)
		return refuse_sign(r, dir, "ftruncate");
	CRASH_POINT(lock_cut);
	return R_DONE;
}

enum refusal_code lock_take(int dir_fd, const char *dir, bool takeover, int *fd, struct refusal *r)
{
	struct holder h;
	enum refusal_code code;

	for (;;) {
		code = lock_open(dir_fd, dir, fd, r);
		if (code != R_DONE)
			return code;
		if (!lock_try(*fd)) {
			if (errno != EWOULDBLOCK) {
				code = refuse_call(r, dir, "flock");
			} else if (takeover) {
				code = lock_takeover(dir_fd, dir, *fd, r);
				takeover = false; /* once */
			} else {
				holder_read(dir_fd, *fd, &h);
				code = refuse_held(r, dir, &h);
			}
		}
		if (code == R_DONE && lock_current(dir_fd, *fd))
			break;
		close(*fd);
		if (code != R_DONE)
			return code;
	}
	code = lock_sign(*fd, dir, r);
	if (code != R_DONE)
		close(*fd);
	return code;
}
