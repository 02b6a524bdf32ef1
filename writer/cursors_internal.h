/* SPDX-License-Identifier: MIT
 * What cursors.c (the thread, its lock, who is attached) and cursor_bells.c (falling asleep and waking) share. */
#ifndef BERTH_WRITER_CURSORS_INTERNAL_H
#define BERTH_WRITER_CURSORS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "cursor_rings.h"
#include "cursors.h"

struct cursor_client { /* a registration with rings */
	struct cursor_rings rings;
	uint32_t at;   /* in cursors.clients */
	int bell;      /* eventfd; -1: none */
	bool deaf;     /* it is attached, and has none that can be waited for */
	bool leaving;  /* its process is dead */
	uint32_t next; /* ring that its next turn begins with */
	uint64_t owed; /* leaving: entries that are still to be done at most */
};

struct cursors {
	struct table_shared place;
	struct cursors_options options;
	struct cursor_table *table;
	_Atomic uint64_t exists[(SHM_CLUSTERS_MAX + 1) / 64]; /* clusters: a bit for each number */

	pthread_mutex_t lock;    /* of all below but what is atomic, and of the table while the thread runs */
	_Atomic uint32_t wanted; /* by the control thread */
	_Atomic uint32_t n_deaf; /* clients without a bell */
	uint32_t n_clients;
	struct cursor_client *clients[SHM_LEDGER_ROWS]; /* n_clients of them, in no order */
	struct cursor_client by_slot[SHM_LEDGER_ROWS];

	uint64_t started_ms;   /* CLOCK_MONOTONIC */
	int epoll_fd, wake_fd; /* all bells; the control thread's own */
	pthread_t thread;
	_Atomic uint64_t passes; /* of the thread's loop: stored by it, loaded by cursors_alive */
	uint64_t passes_seen;    /* the control thread's */
	bool runs;
	_Atomic bool stop;
};

/* ---- cursors.c ---- */
/* Has any ring anything that is not done? Takes the lock. */
bool cursors_any_pending(struct cursors *);
bool cursor_client_pending(const struct cursor_client *); /* under the lock */

/* ---- cursor_bells.c ---- */
enum refusal_code cursor_bells_open(struct cursors *, struct refusal *);
void cursor_bells_close(struct cursors *);
/* A client's bell, taken over, in place of the one before; -1: none. Under the lock. */
void cursor_bells_put(struct cursors *, struct cursor_client *, int bell);
/* Under the lock, or without a thread. */
void cursor_bells_drop(struct cursors *, struct cursor_client *);
/* The thread looks again soon, if it sleeps. Any thread. */
void cursor_bells_wake(struct cursors *);
/* Returns when there may be something to do. Cursor thread. */
void cursor_bells_sleep(struct cursors *);

#endif
