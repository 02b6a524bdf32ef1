/* SPDX-License-Identifier: MIT
 * The handler behind sigbus.h: it puts private zeros where a guarded mapping lost its file, from there to its end (one
 * mapping more, not one for each page), and the load is made again. A SIGBUS anywhere else ends the process as ever. Runs
 * in whichever thread faulted; touches nothing but the table of ranges, which the control thread alone writes. */
#include "sigbus.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../shm/layout.h"

static struct range {
	_Atomic uintptr_t base; /* stored last, cleared first */
	_Atomic size_t size;
	_Atomic bool hit;
} ranges[SHM_LEDGER_ROWS];

static uintptr_t page_size; /* the kernel's, which may be more than SHM_PAGE */

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	uintptr_t page = at & ~(page_size - 1);

	(void)context;
	for (uint32_t i = 0; i < SHM_LEDGER_ROWS; i++) {
		uintptr_t base = atomic_load_explicit(&ranges[i].base, memory_order_acquire);

		size_t size = atomic_load_explicit(&ranges[i].size, memory_order_relaxed);

		if (base && at >= base && at - base < size &&
		    mmap((void *)page, size - (page - base), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
			 0) != MAP_FAILED) {
			atomic_store_explicit(&ranges[i].hit, true, memory_order_relaxed);
			return;
		}
	}
	signal(signal_number, SIG_DFL); /* the fault comes again, and is not ours */
}

void sigbus_install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
	sigaction(SIGBUS, &action, NULL);
}

void sigbus_guard(uint32_t slot, const void *base, size_t size)
{
	atomic_store_explicit(&ranges[slot].size, size, memory_order_relaxed);
	atomic_store_explicit(&ranges[slot].hit, false, memory_order_relaxed);
	atomic_store_explicit(&ranges[slot].base, (uintptr_t)base, memory_order_release);
}

void sigbus_forget(uint32_t slot)
{
	atomic_store_explicit(&ranges[slot].base, 0, memory_order_release);
}

bool sigbus_hit(uint32_t slot)
{
	return atomic_load_explicit(&ranges[slot].hit, memory_order_relaxed);
}
