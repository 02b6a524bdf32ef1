/* SPDX-License-Identifier: MIT
 * A server of others that a peer asks, redis.c's and etcd.c's: found in PATH, started in a scratch directory of its own,
 * ended with the process that started it however that ends. Nothing here knows what it serves. */
#ifndef BERTH_BENCH_PEERS_SERVER_H
#define BERTH_BENCH_PEERS_SERVER_H

#include "../bench.h"

#define SERVER_START_S 30u

struct server {
	pid_t pid; /* 0: not running */
	char program[1024];
	char dir[96]; /* its scratch directory, in shared memory: a sync costs it nothing there */
	char log[112];
};

/* Looks for the program and makes the directory. False: it is not there, and a note said so. */
bool server_prepare(const struct bench *, struct server *, const char *program, const char *package);
/* argv[0] is for ps; ends with NULL. cpu: where it is pinned, -1: nowhere. Returns at once; an environment is not
 * passed on: only argv is to count. */
void server_start(struct server *, const char *const *argv, int cpu);
/* Does it still run? Where it has ended, it is reaped. */
bool server_runs(struct server *);
/* Says in a note that it did not start, and the last it wrote to its log. */
void server_note_failure(const struct bench *, const struct server *);
/* Ends and reaps it if it runs, and removes its directory. */
void server_stop(struct server *);

#endif
