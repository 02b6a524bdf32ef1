/* SPDX-License-Identifier: MIT
 * The writer's half of a grace period, and the system call under it. Guarantees and protocol: grace.h. */
#include "grace.h"
#include "crash_point.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CPUS_MAX 8192
#define WORD_BITS (8 * sizeof(unsigned long))
#define LONG_MS 10000u  /* of grace_register: a writer has time, but not for ever */
#define RECALL_MS 100u  /* for a child that is called back */
#define RECALL_TRY_MS 5 /* until the next processor is tried */
#define LOOK_MS 1       /* between two looks, where there is no descriptor of the child's end */

struct cpu_bits { /* as the kernel has it; cpu_set_t is too small for large machines */
	unsigned long words[CPUS_MAX / WORD_BITS];
};

static int membarrier_call(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

static void cpu_only(struct cpu_bits *set, unsigned cpu)
{
	*set = (struct cpu_bits){0};
	set->words[cpu / WORD_BITS] = 1ul << cpu % WORD_BITS;
}

static bool cpu_in(const struct cpu_bits *set, unsigned cpu)
{
	return (set->words[cpu / WORD_BITS] >> cpu % WORD_BITS & 1u) != 0;
}

/* In a child with an address space of its own: runs on each processor that there may be, system calls alone. */
static _Noreturn void visit(unsigned n_cpus)
{
	struct cpu_bits set;
	int status = 0;

	for (unsigned cpu = 0; cpu < n_cpus && status == 0; cpu++) {
		cpu_only(&set, cpu);
		/* Refused: it is off, or this process may not run there either. */
		if (syscall(SYS_sched_setaffinity, 0, sizeof set, &set) != 0)
			continue;
		/* Sent elsewhere meanwhile: called back. */
		if (syscall(SYS_sched_getaffinity, 0, sizeof set, &set) > 0 && !cpu_in(&set, cpu))
			status = 1;
	}
	syscall(SYS_exit_group, status);
	__builtin_unreachable();
}

struct visitor {
	pid_t pid;
	int pidfd;  /* -1: no descriptor was free, or the kernel has none */
	int status; /* once it has ended */
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Has it ended, within so long? */
static bool visitor_ended(struct visitor *v, unsigned within_ms)
{
	struct pollfd end = {.fd = v->pidfd, .events = POLLIN};
	uint64_t until = now_ms() + within_ms, now;

	for (;;) {
		/* Not waited for in there: it may hang on a processor that others keep busy. */
		long rc = syscall(SYS_wait4, v->pid, &v->status, __WALL | WNOHANG, 0);

		if (rc != 0) {
			if (rc < 0)
				v->status = -1;
			return true;
		}
		now = now_ms();
		if (now >= until)
			return false;
		poll(&end, 1, v->pidfd >= 0 ? (int)(until - now) : LOOK_MS);
	}
}

/* A child that waits for its turn on a processor could not even die there: it is sent to the processors that this process
 * may use, one after the other, until one of them has time for it. */
static bool visitor_recall(struct visitor *v, const struct cpu_bits *own, unsigned n_cpus)
{
	uint64_t until = now_ms() + RECALL_MS;
	unsigned cpu = 0;

	while (now_ms() < until) {
		struct cpu_bits set;

		for (unsigned i = 0; i < n_cpus && !cpu_in(own, cpu); i++)
			cpu = (cpu + 1) % n_cpus;
		cpu_only(&set, cpu);
		(void)!syscall(SYS_sched_setaffinity, v->pid, sizeof set, &set);
		if (visitor_ended(v, RECALL_TRY_MS))
			return true;
		cpu = (cpu + 1) % n_cpus;
	}
	return false;
}

static int visitor_start(struct visitor *v, unsigned n_cpus)
{
	sigset_t all, before;
	long pid;

	v->pidfd = v->status = -1;
	sigfillset(&all); /* no handler of the program may run in the child */
	if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0)
		return -1;
	pid = syscall(SYS_clone, CLONE_PIDFD, 0, &v->pidfd, 0, 0);
	if (pid < 0)
		pid = syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (pid == 0)
		visit(n_cpus);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	v->pid = (pid_t)pid;
	return pid > 0 ? 0 : -1;
}

/* The kernel keeps for each processor whether a membarrier concerns it, and looks again when the address space changes
 * there. A processor that has been idle since a thread of this process left it still has this address space (lazy TLB):
 * a thread that comes back finds none changed, and membarriers pass that processor by. Seen on Linux 6.18, in one run of
 * a litmus test for as long as it took; so says kernel/sched (membarrier_switch_mm). After another address space was
 * there all is well: a short-lived child of this process, of which nobody is told (no signal, and no wait for any child
 * finds it), goes there. 0, or -1 with errno: ETIMEDOUT when a processor had no time for it within limit_ms. One that
 * could not be called back then is left to itself: it ends when it gets its turn. */
static int visit_processors(unsigned limit_ms)
{
	struct cpu_bits own = {0};
	/* Its answer is the size of the kernel's own sets, whatever is in this one. sysconf asks /sys, and where that is
	 * missing, as in a container, knows how many processors this process may use, not which numbers they have. */
	long n_cpus = 8 * syscall(SYS_sched_getaffinity, 0, sizeof own, &own);
	struct visitor v;
	bool in_time;

	if (n_cpus < 1 || n_cpus > CPUS_MAX) {
		errno = ENOTSUP;
		return -1;
	}
	if (visitor_start(&v, (unsigned)n_cpus) != 0)
		return -1;
	in_time = visitor_ended(&v, limit_ms);
	if (!in_time)
		visitor_recall(&v, &own, (unsigned)n_cpus);
	if (v.pidfd >= 0)
		close(v.pidfd);
	if (in_time && WIFEXITED(v.status) && WEXITSTATUS(v.status) == 0)
		return 0;
	errno = in_time ? ECANCELED : ETIMEDOUT;
	return -1;
}

/* Whose address space it is that has been taken off every processor; a forked child's is another one. */
static _Atomic pid_t visited_for;

int grace_register_within(unsigned limit_ms)
{
	const pid_t self = getpid();

	if (membarrier_call(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) != 0)
		return -1;
	/* Once is enough: from then on a processor that turns to this address space finds it registered. The visit takes
	 * milliseconds where the processors are busy: who attaches again is spared them. Pairs with the release below. */
	if (atomic_load_explicit(&visited_for, memory_order_acquire) == self)
		return 0;
	if (visit_processors(limit_ms) != 0)
		return -1;
	atomic_store_explicit(&visited_for, self, memory_order_release);
	return 0;
}

int grace_register(void)
{
	return grace_register_within(LONG_MS);
}

int grace_barrier(void)
{
	return membarrier_call(MEMBARRIER_CMD_GLOBAL_EXPEDITED);
}

int grace_advance(struct shm_root *root, bool membarrier)
{
	/* The kernel's command orders this processor too; where all readers fence for themselves, so do we. */
	atomic_thread_fence(memory_order_seq_cst); /* pairs with section_fence of a reader with fences */
	if (membarrier && grace_barrier() != 0)
		return -1;
	/* After the barrier, never before it (model: grace.pml, GP_FIRST fails): a reader that stores the new number
	 * has loaded it after the barrier, so it cannot see what was unlinked before. Release pairs with the section's
	 * load on machines where that load may pass others. */
	atomic_store_explicit(&root->grace, (atomic_load_explicit(&root->grace, memory_order_relaxed) + 1) & GRACE_MASK,
			      memory_order_release);
	CRASH_POINT(grace_advanced);
	return 0;
}
