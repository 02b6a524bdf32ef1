/* SPDX-License-Identifier: MIT
 * Reader processes as the writer sees them: the files readers/<slot>, their rows in the ledger, proof of death.
 * Control thread only. Nothing that a reader wrote is trusted but what its section lines mean for itself; a file that
 * its owner truncated reads as zeros (SIGBUS guard). */
#ifndef BERTH_WRITER_REGISTRY_H
#define BERTH_WRITER_REGISTRY_H

#include <stdbool.h>
#include <sys/types.h>

#include "../shm/layout.h"
#include "instance.h"

struct mirror;
struct mirror_past;
struct registry;

struct registry_peer {
	pid_t pid; /* as seen from here; 0: not visible */
	uid_t uid;
	int pidfd; /* taken over on R_DONE; -1: none */
};

struct registry_wish { /* what a process asks for */
	uint32_t n_readers;
	uint32_t n_leases; /* slots of each reader with SHM_WRITES_BRACKETED, else 0 */
	enum shm_writes writes;
	bool fences;
	bool cursors; /* a pin ring for each reader */
};
/* Makes readers/<slot> and its row. *fd: open read-write, to be sent and then closed by the caller. R_LIMIT (1,024
 * registrations of a uid, all slots, all acks), R_FULL (no room), R_INVALID (n_readers, n_leases). */
enum refusal_code registry_attach(struct registry *, const struct registry_peer *, const struct registry_wish *,
				  int *fd, uint32_t *slot, uint64_t *attach, struct refusal *);
/* The process of a registration has come back (a new writer, a new socket). R_INVALID when there is no such one. */
enum refusal_code registry_reattach(struct registry *, uint32_t slot, uint64_t attach, const struct registry_peer *,
				    struct refusal *);
struct registry_rings { /* a registration's pin rings; valid until let_go has said yes */
	uint32_t slot;
	uint64_t attach;
	const struct shm_registration *file;
	const struct shm_ring *rings; /* the first of n, SHM_RING_STRIDE bytes each */
	uint32_t n;
	uint32_t first_ack; /* of the first ring, in the ledger */
};
/* False when there is no such registration, or it has no rings. */
bool registry_rings(const struct registry *, uint32_t slot, uint64_t attach, struct registry_rings *);
void registry_rings_walk(const struct registry *, void (*)(void *arg, const struct registry_rings *), void *arg);
/* Whoever works on rings. let_go: the process of this registration is dead; true when all that it had pushed is done and
 * nobody looks at its rings any more, false: ask again soon. A registration with rings is not removed before, and none is
 * while let_go is NULL, as it is until this is called. */
void registry_set_rings(struct registry *, bool (*let_go)(void *arg, uint32_t slot), void *arg);
/* Cuts off what processes have made their registrations longer by; of each the log says so once. Every second. */
void registry_trim(struct registry *);
/* Its socket was closed: look soon whether it is dead. */
void registry_hint(struct registry *, uint32_t slot, uint64_t attach);

struct registry_section { /* one open reader of a registration */
	uint32_t reader, tid;
	uint64_t line; /* 0: outside any section (shm/grace.h) */
};
struct registry_lease { /* one write under way, or one that ended unknown and is younger than the barrier */
	uint32_t reader;
	uint64_t hash;     /* of the partition, as lease_hash */
	uint64_t since_ms; /* CLOCK_MONOTONIC: begun, or ended when unknown */
	bool unknown;
};
#define REGISTRY_LEASES_SHOWN 1000u /* of one registration, the oldest first come */
struct registry_row {
	uint32_t slot;
	uint64_t attach;
	pid_t pid;
	uid_t uid;
	char comm[16];
	uint64_t attached_ms;       /* CLOCK_BOOTTIME */
	uint32_t n_readers, n_open; /* lines there are; lines in use */
	bool fences, unbracketed, connected;
	enum shm_writes writes;
	uint64_t damaged;                        /* answers that found damage in the table */
	uint64_t held_bytes;                     /* memory that waits for this one alone or among others */
	const struct registry_section *sections; /* n_open of them, valid during the callback */
	uint32_t max_leases;                     /* slots of each reader; 0: it takes no leases */
	uint64_t n_leases, n_unknown;            /* open; ended unknown and younger than the barrier */
	uint64_t overflow_ms;                /* latest overflow younger than the barrier, CLOCK_MONOTONIC; 0: none */
	const struct registry_lease *leases; /* at most REGISTRY_LEASES_SHOWN, by since_ms */
	uint32_t n_leases_shown;
};
/* All registrations, by slot. */
int registry_walk(struct registry *, int (*)(void *arg, const struct registry_row *), void *arg);
/* What packet programs have under way, as a row whose other fields are empty; unbracketed: one of them admits writes
 * without leases. False when there is no mirror. What it points to is valid until the next row of anybody. */
bool registry_packets(struct registry *, const struct mirror *, const struct mirror_past *pasts, struct registry_row *);
uint32_t registry_count(const struct registry *);
/* Is a process attached that may write without leases? The first of them. */
bool registry_unbracketed(const struct registry *, uint32_t pids[], unsigned room, unsigned *n_pids);
/* What processes that are gone have left (lease_book.h), and the clock that all of it is on. */
struct lease_book *registry_book(struct registry *);
uint64_t registry_now(const struct registry *);

#endif
