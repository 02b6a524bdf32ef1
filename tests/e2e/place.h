/* SPDX-License-Identifier: MIT
 * The processes of an end-to-end run: berthd, an nginx that plays the clusters, and the nginx that is the proxy under
 * test, with libberth. Each in the foreground, a child of the run. Main thread only (a child dies with the thread that
 * made it). Everything that fails ends the run with a message. */
#ifndef BERTH_E2E_PLACE_H
#define BERTH_E2E_PLACE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PLACE_CLUSTERS 8u
/* Attempts of a write, where the proxy is told to try again. */
#define PLACE_TRIES_MOST 2u

struct place {
	/* Set by the caller, before place_open. */
	unsigned n_clusters, n_workers, barrier_ms;
	unsigned tries;      /* how often the proxy sends a write that got no answer */
	unsigned leases;     /* of each worker: writes under way */
	const char *cursors; /* "pin" or "seal"; NULL: off */
	unsigned hold_ms;    /* of the proxy: how long a write waits for the end of a cutover */
	const char *address; /* that the proxy listens on; NULL: 127.0.0.1 */
	bool bpf;            /* berthd mirrors its table for packet programs */
	bool killed;         /* a worker was: what the proxy's master says of that is no fault */
	/* Set by place_open. */
	char home[96], dir[96]; /* directories, in memory: of configurations and logs; of the instance */
	char store[96];         /* SQLite's file, on disk */
	uint16_t cluster_port[PLACE_CLUSTERS + 1], proxy_port; /* clusters count from 1 */
	pid_t berthd, clusters, proxy;                         /* 0: not running */
	unsigned starts;                                       /* of berthd */
};

/* What the whole program does, in a child: when it ends, or when we are told to end (SIGINT, SIGTERM, SIGHUP), all that
 * came from it is ended, and the temporary directories are removed. Returns the exit code for main. */
int place_guard(int (*body)(void *arg), void *arg);

/* A file that has to be installed and is not; NULL: all are there. */
const char *place_missing(void);
/* Starts everything; clusters c1.. exist in berthd then, no partition does. */
void place_open(struct place *);
/* Stops everything; fails when one of the three had ended by itself, or what it logged says that something broke. */
void place_close(struct place *);
void place_kill_berthd(struct place *);            /* -9 */
void place_restart_berthd(struct place *);         /* returns when it is ready */
bool place_is_worker(const struct place *, pid_t); /* of the proxy, now? */
/* BERTH_BUILD/name */
const char *place_program(const char *name, char out[512]);

/* Says what is wrong on stderr and ends the run with exit code 1. */
void place_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- rpc.c: calls on admin.sock; a connection is one thread's ---- */
struct rpc {
	const char *dir;
	int fd; /* -1: none */
	uint64_t id;
	size_t n;
	char in[65536];
};
enum rpc_result { RPC_OK, RPC_REFUSED, RPC_LOST /* the daemon is gone: whether it was done is not known */ };

void rpc_init(struct rpc *, const char *dir);
void rpc_close(struct rpc *);
/* Connects when it is not; params: taken over, may be NULL. *answer: the result, or the error object; a new reference. */
enum rpc_result rpc_call(struct rpc *, const char *method, json_t *params, json_t **answer);
/* The same, and it has to succeed. */
json_t *rpc_do(struct rpc *, const char *method, json_t *params);

#endif
