/* SPDX-License-Identifier: MIT
 * The cursor thread: works off the pin rings of all registrations, keeps the table of pins, sleeps on doorbells. Its own
 * thread alone stores into cursors.<generation> and acknowledgements; it never calls libuv, the store or the table of
 * partitions, and nothing of it is on the way of a placement's change. The calls below are the control thread's; those that
 * take its lock get it after one piece of work, at most 64 entries of one ring. */
#ifndef BERTH_WRITER_CURSORS_H
#define BERTH_WRITER_CURSORS_H

#include "cursor_table.h"
#include "registry.h"
#include "table.h"

struct cursors;

struct cursors_options {
	struct cursor_table_options table;
	bool busy_poll; /* never sleeps */
	int cpu;        /* -1: any */
};

/* Opens the table of pins: R_FULL, R_BACKEND. No thread yet: then come those who are attached already, and the clusters
 * that there are. */
enum refusal_code cursors_open(const struct table_shared *, const struct cursors_options *, struct cursors **,
			       struct refusal *);
/* Finishes what a writer before this one was doing, then starts the thread. */
enum refusal_code cursors_run(struct cursors *, struct refusal *);
/* Ends the thread; what is queued stays queued. */
void cursors_close(struct cursors **);

/* bell: an eventfd, taken over; -1: none yet, the thread looks every 2 ms. */
void cursors_attach(struct cursors *, const struct registry_rings *, int bell);
/* Its process has come back and gets another bell. */
void cursors_reattach(struct cursors *, uint32_t slot, int bell);
/* Its process is dead: true when all that it had pushed is done; then its rings are not looked at any more. False: soon. */
bool cursors_let_go(struct cursors *, uint32_t slot);

/* This cluster may be pinned to from now on. */
void cursors_cluster_open(struct cursors *, unsigned cluster);
/* No more; how many pins of it there are. */
uint32_t cursors_cluster_close(struct cursors *, unsigned cluster);

/* Has the thread done anything since it was asked last? It is woken for it; asked at intervals in which any thread gets
 * the processor. */
bool cursors_alive(struct cursors *);

struct cursors_stats {
	uint64_t pins, capacity, owner_share;
	uint64_t pinned, refreshed, released, expired, evicted, refused; /* since the file was made */
	uint64_t processes;
	bool sleeping, busy_poll;
};
void cursors_stats(const struct cursors *, struct cursors_stats *);

#endif
