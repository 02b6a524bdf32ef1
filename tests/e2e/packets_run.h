/* SPDX-License-Identifier: MIT
 * One run with packet programs: two network namespaces, the processes of place.h in one of them, clients in the other. The
 * steps are called in the order in which they stand here. Main thread; every failure ends the run (place_fail). */
#ifndef BERTH_E2E_PACKETS_RUN_H
#define BERTH_E2E_PACKETS_RUN_H

#include "packets_counts.h"
#include "packets_curl.h"
#include "packets_wrk.h"
#include "verdict.h"

#define RUN_PARTITIONS 50u /* of which the last RUN_CURLS are curl's, and RUN_WRKS before them wrk's, if it runs */
#define RUN_CURLS 4u
#define RUN_WRKS 4u
#define RUN_CLUSTERS 3u

struct run {
	struct place place;
	struct net net;
	struct history history;
	struct load *load;
	struct curl *curl;
	struct wrk *wrk;
	struct move *move;
	unsigned moving; /* migrations that were begun, or will be */
	size_t n_moves;
	struct check_report report;
	struct net_counts before, sent; /* sent: since before */
	struct counts counts;
	struct hist_kill away; /* berthd was; to_ns 0: never */
	bool late;             /* effects may come after their connection broke */
	bool spliced;          /* writes go by a way that tells clusters no epoch */
	bool with_wrk;         /* wrk is among the clients */
	uint64_t n_wrk;        /* of its requests were answered */
};

/* What a run needs and is not here; NULL: nothing. Mounts the file system of pins when it is missing. */
const char *run_missing(void);
/* bpf: berthd has a mirror. hold_ms: as in place.h. All partitions are placed. */
void run_open(struct run *, bool bpf, unsigned hold_ms);
/* `berth ...` on the run's instance, which has to succeed. */
void run_berth(const struct run *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Loads and attaches steer, for requests to this port. options: of `bpf load steer`; mode: of `bpf attach`. */
void run_steer(const struct run *, const char *options, unsigned port, const char *mode);
/* Clients, which go to this port at the proxy's end of the veth. mix: how clusters are asked to behave; NULL: well, now and
 * then slowly. Returns when the clients are well under way. */
void run_clients(struct run *, uint16_t port, const struct load_mix *mix);
/* percent: of suite_migrations. */
struct moves *run_moves(struct run *, unsigned percent);
void run_wait(struct moves *, unsigned n); /* until n have ended; fails when they take too long */
void run_kill_berthd(struct run *);        /* and starts it again at once */
/* Waits for the moves, ends the clients: no request is under way then. */
void run_end_clients(struct run *, struct moves **);
/* True: steer saw as many packets as the clients sent. What else it counted, splice counts too. */
bool run_seen(struct run *);
/* Reads what steer counted, alone. True: it is what the clients sent. */
bool run_counts(struct run *);
/* Ends all and judges. True: every write is where it belongs. */
bool run_close(struct run *);

/* A cgroup of this run's own, empty; and its end: nobody may be in it. */
const char *run_cgroup(char path[256]);
/* Removes what runs left in the file systems of pins and of cgroups, however they ended. Called where the guard was. */
void run_remove_left(void);

#endif
