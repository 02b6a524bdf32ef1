/* SPDX-License-Identifier: MIT
 * Memory that nobody may look at any more is filled with what no writer stores there, so that a late look shows: as
 * BERTH_E_CORRUPT, as a tenant that is not found, as a lease that is never old. In the builds of the torture runs alone
 * (BERTH_TORTURE); everywhere else these are nothing, and freed memory keeps what it had until it is used again.
 *
 * Called by the thread that owns the memory, after everything that makes it free, and before anybody may use it anew. What
 * readers load as atomics, they may be loading while this stores: what they make of it is thrown away by the word that
 * they look at afterwards, or there is a fault to be found. */
#ifndef BERTH_SHM_POISON_H
#define BERTH_SHM_POISON_H

#ifdef BERTH_TORTURE
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define POISON_BYTE 0xdb
#define POISON_U64 0xdbdbdbdbdbdbdbdbull
#define POISON_U32 0xdbdbdbdbu

static inline void poison(void *memory, size_t size)
{
	memset(memory, POISON_BYTE, size);
}

/* The bytes of a file that is backed by memory as far as size. */
static inline void poison_file(int fd, uint64_t size)
{
	void *p = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return;
	memset(p, POISON_BYTE, (size_t)size);
	munmap(p, (size_t)size);
}
/* Before the atomics of memory whose readers find out by an acquire fence of theirs. */
#define poison_fence() atomic_thread_fence(memory_order_release)
#define poison_u64(atomic) atomic_store_explicit(atomic, POISON_U64, memory_order_relaxed)
#define poison_u32(atomic) atomic_store_explicit(atomic, POISON_U32, memory_order_relaxed)
#else
#define poison(memory, size) ((void)0)
#define poison_file(fd, size) ((void)0)
#define poison_fence() ((void)0)
#define poison_u64(atomic) ((void)0)
#define poison_u32(atomic) ((void)0)
#endif

#endif
