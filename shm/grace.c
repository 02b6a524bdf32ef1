/* SPDX-License-Identifier: MIT
 * The writer's half of a grace period, and the system call under it. Guarantees and protocol: grace.h. */
#include "grace.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

static int membarrier_call(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

int grace_register(void)
{
	return membarrier_call(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
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
	return 0;
}
