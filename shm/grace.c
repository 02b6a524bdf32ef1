/* SPDX-License-Identifier: MIT
 * The writer's half of a grace period, and the system call under it. Guarantees and protocol: grace.h. */
#include "grace.h"
#include "crash_point.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CPUS_MAX 8192

static int membarrier_call(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

/* In a child with an address space of its own: runs on each processor that there may be, system calls alone. */
static _Noreturn void visit(long n_cpus)
{
	const unsigned bits = 8 * sizeof(unsigned long);

	for (unsigned cpu = 0; cpu < (unsigned)n_cpus; cpu++) {
		unsigned long set[CPUS_MAX / (8 * sizeof(unsigned long))] = {0};

		set[cpu / bits] = 1ul << cpu % bits;
		/* Refused: it is off, or this process may not run there either. */
		(void)!syscall(SYS_sched_setaffinity, 0, sizeof set, set);
	}
	syscall(SYS_exit_group, 0);
	__builtin_unreachable();
}

/* The kernel keeps for each processor whether a membarrier concerns it, and looks again when the address space changes
 * there. A processor that has been idle since a thread of this process left it still has this address space (lazy TLB):
 * a thread that comes back finds none changed, and membarriers pass that processor by. Seen on Linux 6.18, in one run of
 * a litmus test for as long as it took; so says kernel/sched (membarrier_switch_mm). After another address space was
 * there all is well: a short-lived child of this process, of which nobody is told (no signal, and no wait for any child
 * finds it), goes there. 0, or -1 with errno. */
static int visit_processors(void)
{
	unsigned long set[CPUS_MAX / (8 * sizeof(unsigned long))];
	/* Its answer is the size of the kernel's own sets, whatever is in this one. sysconf asks /sys, and where that is
	 * missing, as in a container, knows how many processors this process may use, not which numbers they have. */
	long n_cpus = 8 * syscall(SYS_sched_getaffinity, 0, sizeof set, set), pid, rc;
	sigset_t all, before;
	int status = -1;

	if (n_cpus < 1) {
		errno = ENOTSUP;
		return -1;
	}
	sigfillset(&all); /* no handler of the program may run in the child */
	if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0)
		return -1;
	pid = syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (pid == 0)
		visit(n_cpus);
	while (pid > 0 && (rc = syscall(SYS_wait4, pid, &status, __WALL, 0)) != pid)
		if (rc < 0 && errno != EINTR)
			break;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* Whose address space it is that has been taken off every processor; a forked child's is another one. */
static _Atomic pid_t visited_for;

int grace_register(void)
{
	const pid_t self = getpid();

	if (membarrier_call(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) != 0)
		return -1;
	/* Once is enough: from then on a processor that turns to this address space finds it registered. The visit takes
	 * as long as the processors are busy, so who attaches again does not wait for it. Pairs with the release below. */
	if (atomic_load_explicit(&visited_for, memory_order_acquire) == self)
		return 0;
	if (visit_processors() != 0)
		return -1;
	atomic_store_explicit(&visited_for, self, memory_order_release);
	return 0;
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
