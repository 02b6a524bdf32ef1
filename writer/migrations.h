/* SPDX-License-Identifier: MIT
 * The migrations under way, by partition id, and what stands against `complete`. Held by the core
 * beside the table: a word says that a partition is in cutover, this says since when, whether every reader can know,
 * and what the drain has found. Control thread only; no clock of its own, no I/O, nothing that fails between a commit
 * and its publication. */
#ifndef BERTH_WRITER_MIGRATIONS_H
#define BERTH_WRITER_MIGRATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "drain.h"

struct migration_item {
	uint64_t begun_ms;     /* 0: before this writer started */
	uint64_t epoch;        /* of the cutover; 0: draining */
	uint64_t held_ms;      /* when the cutover's word was stored: writes are held back since then */
	uint64_t proved_ms;    /* the ledger proves that a writer before this one published it then; 0: it does not */
	uint64_t published_ms; /* when the barrier after the word had returned; counts only if */
	bool published;
	struct drained drained; /* published: what the looks know of it */
	size_t key_len;
	char key[]; /* NUL-terminated */
};

struct migrations {
	struct migration_item **items; /* sorted by key */
	size_t n, room;
	size_t n_unpublished; /* in cutover, without a barrier after the word */
};

void migrations_free(struct migrations *);
/* NULL: not under way. */
struct migration_item *migrations_find(const struct migrations *, const char *key, size_t len);
/* An item that is not in the list yet, and room for it, so that migrations_insert cannot fail. NULL: out of memory.
 * Freed with free() when the migration does not begin after all. One at a time. */
struct migration_item *migrations_reserve(struct migrations *, const char *key, size_t len);
void migrations_insert(struct migrations *, struct migration_item *);
/* At the end of the list, out of order: for many at once. migrations_sort before anything is looked for. */
void migrations_append(struct migrations *, struct migration_item *);
void migrations_sort(struct migrations *);
/* The migration is over; frees the item. */
void migrations_end(struct migrations *, struct migration_item *);

/* The cutover's word is stored. Not published yet. */
void migrations_hold(struct migrations *, struct migration_item *, uint64_t epoch, uint64_t now_ms);
/* A barrier has returned after the word was stored: published now, or when it is proved to have been. */
void migrations_published(struct migrations *, struct migration_item *, uint64_t now_ms);

/* Which barrier counts, on CLOCK_MONOTONIC:
 *
 *   since start  | old < new: nothing completes before one new barrier since the start
 *                | old > new: the old one counts until it has passed since the start
 *                | old = new, or no writer before: no rule */
struct barrier_rule {
	uint64_t barrier_ms; /* of this writer */
	uint64_t old_ms;     /* of the one before; 0: there was none */
	uint64_t start_ms;
};
/* The first ms at which neither rule of the start says anything any more. */
uint64_t barrier_rule_ends_ms(const struct barrier_rule *);
/* The first ms at which what may have been sent at this moment is over. */
uint64_t barrier_over_ms(const struct barrier_rule *, uint64_t moment_ms);

struct barrier_who { /* processes, the first of them */
	bool packet; /* and a packet program: nobody knows its process */
	unsigned n;
	uint32_t pids[BARRIER_PIDS];
};
struct barrier_facts {      /* what is known of one cutover, all of it since its publication */
	bool looked;        /* every slot has been looked at */
	uint64_t in_flight; /* leases open */
	struct barrier_who open;
	struct {
		uint64_t end_ms; /* the latest; 0: none */
		struct barrier_who who;
	} unknown, overflow, died;
	bool unbracketed; /* a process is attached, or a packet program runs, that may write without leases */
	uint64_t left_ms; /* when the last one of those was found gone; 0: never */
	struct barrier_who without;
};
/* What `complete` would answer now; item is in cutover. */
struct barrier barrier_judge(const struct barrier_rule *, const struct migration_item *, const struct barrier_facts *,
			     uint64_t now_ms);

#endif
