/* SPDX-License-Identifier: MIT
 * berthd's one object: what the files of the control thread share. Made by main.c, lives as long as the process.
 *
 *   main.c -> control.c (listeners) -> conn.c (bytes, frames) -> rpc.c (requests) -> methods.c, attach.c, watch.c, load.c
 *                                                               attach.c -> pinning.c -> cursors.c (its own thread)
 *          -> upkeep.c (time)       -> core.h <- completing.c (requests that wait for a drain)
 *                                                            -> status.c -> http.c (its own thread) */
#ifndef BERTH_WRITER_SERVER_H
#define BERTH_WRITER_SERVER_H

#include <sys/queue.h>
#include <uv.h>

#include "buffer.h"
#include "core.h"
#include "instance.h"
#include "options.h"

struct conn;
struct cursors;
TAILQ_HEAD(conn_list, conn);

struct listener {
	uv_poll_t poll;
	int fd; /* -1: closed */
	bool admin;
	struct server *server;
};

struct drain_timer { /* completing.c: one for all that wait */
	uv_poll_t poll;
	int fd; /* timerfd; -1: none */
	bool armed;
	uint64_t look_ns;       /* uv_hrtime: somebody is due then */
	uint64_t open_since_ns; /* since when the youngest waits that waits for open leases; 0: none does */
	uint64_t rest_ns;       /* ... but not before this */
	uint64_t swept_ns;      /* when peers were last looked for */
};

struct server {
	uv_loop_t loop;
	const struct options *options;
	struct instance instance;
	struct core *core;
	struct cursors *cursors;   /* pinning.c; NULL: nobody has attached with cursors yet, or they cannot be served */
	uint64_t pinning_again_ms; /* CLOCK_MONOTONIC: when that is tried again; 0: it has not failed */
	const struct shm_root *root; /* read-only view */
	uint64_t started_ms;         /* CLOCK_MONOTONIC */
	bool ready, told_ready, stopping;

	/* control.c, conn.c */
	struct listener listeners[2];
	uv_timer_t accept_pause;
	int spare_fd; /* given up for a moment when there are no descriptors left */
	uint64_t n_descriptors_max;
	uint64_t starved_ms;         /* when the log was last told that there are none */
	struct conn_list conns;      /* all */
	struct conn_list waiting;    /* have something to be looked at and may go on (conn.queued) */
	struct conn *waiting_admin;  /* the last on waiting that is one of admin.sock: these come first; NULL: none */
	struct conn_list parked;     /* wait for the document that is being applied */
	struct conn_list completing; /* wait for the drain of a partition */
	char *input;                 /* FRAME_MAX bytes that whoever reads right now may use */
	struct buffer spare;         /* likewise, for answers */
	uint64_t backlog;            /* bytes of answers that peers have not taken yet */
	uint64_t looks_ms, looks_ns; /* a turn of the loop, by its clock, and what requests of berth.sock took in it */
	uint64_t n_conns, n_requests, n_refused, n_conns_refused, n_overruns;

	struct conn_list watchers; /* watch.c */
	struct buffer watch_line;
	bool watch_dirty;
	struct conn *answering;    /* in the middle of an answer: its own notifications come after it */
	struct buffer watch_after; /* ... and wait here */

	struct drain_timer drain_timer;
	uint64_t n_drains, blackout_ms, blackout_ms_max; /* of `complete`: how often, how long in all, the longest */

	struct load *load;   /* load.c: the one that runs; NULL: none */
	bool document_again; /* SIGHUP came while it ran */
	bool load_unknown;   /* core_loading goes on because nobody knows whether the last one is in the store */
	uint64_t n_loads, n_loads_refused;

	/* upkeep.c */
	uv_idle_t idle;
	uv_timer_t upkeep, second, watchdog;
	uv_signal_t signals[3];
	int n_signals;
	bool core_busy;         /* core_step wants to be called again at once */
	uint64_t compared;      /* pass of table against mirror that was last told of */
	bool bpf_told;          /* that the mirror is off */
	bool growth_told;       /* that the table cannot grow */
	uint64_t upkeep_ns_max; /* of one turn, what is done between requests: processor time of this thread alone. The
				 * sockets wait longer when it waits, for the disk, the processor, or the thread that gets
				 * memory for a table that a document needs at once */

	/* status.c, http.c */
	uint64_t counted_changes, n_clusters;
	uint64_t leases_again_ns, n_leases, n_leases_unknown;
	bool n_clusters_known;
	struct http *http;
	uint64_t published_ms, published_changes;
};

/* upkeep.c */
int upkeep_open(struct server *);
/* Something was changed or closed: look at it within so many ms. */
void upkeep_soon(struct server *, uint64_t within_ms);
/* There is work for the idle handle: slices of a document, buffered requests. */
void upkeep_wake(struct server *);
void upkeep_close(struct server *);
/* Tells the log, once, that --bpf was asked for and that there is no mirror (any more). */
void mirror_tell(struct server *);

/* main.c: as on SIGTERM. */
void server_stop(struct server *);
/* main.c: everything that was to come before it is done; tell systemd. Once. */
void server_ready(struct server *);
void server_tell_ready(struct server *); /* systemd, if that has failed until now */

#endif
