/* SPDX-License-Identifier: MIT
 * What registry.c (who is there: files, rows, attaching, proof of death), registry_look.c (what they are in: section
 * lines), registry_leases.c (which writes they have under way), registry_rings.c (their pin rings), registry_trim.c (what they
 * let grow) and drain.c share. Control thread only. */
#ifndef BERTH_WRITER_REGISTRY_INTERNAL_H
#define BERTH_WRITER_REGISTRY_INTERNAL_H

#include "../shm/lease.h"
#include "lease_book.h"
#include "table_internal.h"

struct registration {
	uint32_t slot, n_readers;
	uint32_t n_leases; /* slots of each reader's array, as the ledger's row has it; 0: no arrays */
	uint32_t n_rings;  /* one for each reader, as the ledger's ring record has it; 0: none */
	uint32_t first_ack;
	uint64_t attach, attached_ms;
	const struct shm_registration *file;
	size_t size;
	int fd, pidfd;
	pid_t pid;
	uid_t uid;
	enum shm_writes writes;
	bool fences, connected, suspect, hinted;
	bool handed_over;    /* its process has had it */
	bool trimmed;        /* registry_trim.c has said so */
	uint64_t hint_ms;    /* when to look at a hinted one */
	uint64_t checked_ms; /* when a drain last looked whether its process is dead; the kernel's clock */
	char comm[16];
};

struct registry {
	struct instance *instance;
	const struct shm_root *root;
	struct shm_ledger *ledger;
	bool membarrier;
	bool strange_pids; /* while it is opened: the rows' pids are of another namespace */
	uint32_t n, end;   /* registrations; above the highest slot that was ever in use */
	struct registration *slots[SHM_LEDGER_ROWS];
	uint64_t *blockers; /* lines that were in a section at the last look */
	size_t n_blockers, size_blockers;
	struct registry_section *sections; /* for registry_walk */
	size_t size_sections;
	uint64_t (*held)(void *arg, uint64_t line);
	void *held_arg;
	struct lease_book *book;      /* what those who are gone have left */
	uint64_t (*clock)(void *arg); /* CLOCK_MONOTONIC, ms, of everything about leases; NULL: the kernel's */
	void *clock_arg;
	bool (*let_go)(void *arg, uint32_t slot); /* registry.h */
	void *let_go_arg;
	struct registry_lease shown[REGISTRY_LEASES_SHOWN]; /* for registry_walk */
};

static inline const struct shm_line *line_of(const struct registration *g, uint32_t i)
{
	return (const struct shm_line *)((const char *)g->file + SHM_PAGE) + i;
}

/* Where a registration's lease arrays begin, and its bytes; sizes from our own side only. */
static inline size_t registration_leases_off(uint32_t n_readers)
{
	return SHM_PAGE + (size_t)n_readers * sizeof(struct shm_line); /* both are multiples of 128 */
}
/* Behind the lease arrays, the pin rings: both are multiples of 128. */
static inline size_t registration_rings_off(uint32_t n_readers, uint32_t n_leases)
{
	return registration_leases_off(n_readers) + (n_leases ? (size_t)n_readers * SHM_LEASE_STRIDE(n_leases) : 0);
}
static inline size_t registration_size(uint32_t n_readers, uint32_t n_leases, uint32_t n_rings)
{
	return registration_rings_off(n_readers, n_leases) + (size_t)n_rings * SHM_RING_STRIDE;
}
/* Ring i; i < n_rings. */
static inline const struct shm_ring *ring_of(const struct registration *g, uint32_t i)
{
	return (const struct shm_ring *)((const char *)g->file + registration_rings_off(g->n_readers, g->n_leases) +
					 (size_t)i * SHM_RING_STRIDE);
}
/* The array of reader i; n_leases > 0. */
static inline const struct shm_leases *leases_of(const struct registration *g, uint32_t i)
{
	return (const struct shm_leases *)((const char *)g->file + registration_leases_off(g->n_readers) +
					   (size_t)i * SHM_LEASE_STRIDE(g->n_leases));
}
static inline const struct shm_lease *lease_of(const struct shm_leases *a, uint32_t i)
{
	return (const struct shm_lease *)(a + 1) + i;
}
/* Slots of it that have been in use: what the owner says, and no more than there are. */
static inline uint32_t leases_high(const struct registration *g, const struct shm_leases *a)
{
	uint32_t high = atomic_load_explicit(&a->high, memory_order_acquire); /* G3 of lease.h */

	return high < g->n_leases ? high : g->n_leases;
}

/* One array of leases, whoever writes it. */
struct lease_array {
	const struct shm_lease *slots;
	const _Atomic uint64_t *overflow_ms;
	uint32_t high; /* slots that have been in use, as it was loaded before the slots are */
	uint32_t pid;
};
static inline struct lease_array lease_array_of(const struct registration *g, uint32_t reader)
{
	const struct shm_leases *a = leases_of(g, reader);

	return (struct lease_array){.slots = lease_of(a, 0),
				    .overflow_ms = &a->overflow_ms,
				    .high = leases_high(g, a),
				    .pid = (uint32_t)g->pid};
}

/* Of its file in readers/. */
void registration_name(uint32_t slot, char name[16]);
/* R1 of registry.c: is its process proved dead? */
bool registration_dead(const struct registration *);
/* Its rings are let go (registry_rings.c, P1), its leases are saved (registry_leases.c, L1), then file, row and memory go.
 * False: the rings are not done yet, nothing has happened, and registry_bury tries again soon. */
bool registration_bury(struct registry *, struct registration *);

/* ---- registry_rings.c ---- */
/* What the ledger says of the rings of a registration whose row was taken already. */
void registration_take_rings(const struct registry *, struct registration *);
/* Acks for so many rings, zeroed, into g->n_rings and g->first_ack: R_LIMIT when none are free. */
enum refusal_code registration_make_rings(struct registry *, struct registration *, struct refusal *);
/* Into the ledger, before the row. */
void registration_put_rings(const struct registry *, const struct registration *);
void registration_clear_rings(const struct registry *, const struct registration *);
/* P1: may it be removed? */
bool registration_let_go(struct registry *, struct registration *);

/* ---- registry_leases.c ---- */
/* What is left under way goes into the ledger, and that it may have written without leases. */
void registration_save_leases(struct registry *, const struct registration *);
/* May its process write without leases, now or until now? */
bool registration_unbracketed(const struct registration *);
void registration_row_leases(struct registry *, const struct registration *, struct registry_row *);

/* One more of the distinct processes in pids, while there is room; the new number of them. */
static inline unsigned pid_add(uint32_t pids[], unsigned n, unsigned room, uint32_t pid)
{
	for (unsigned i = 0; i < n; i++)
		if (pids[i] == pid)
			return n;
	if (n < room)
		pids[n++] = pid;
	return n;
}

#endif
