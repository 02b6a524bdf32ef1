/* SPDX-License-Identifier: MIT
 * `berth bpf splice` without its command line: forwards the requests of kept-alive connections in the kernel, each to the
 * cluster of its tenant; what the programs of splice.bpf.c leave over is done here. Called by tools/bpf_splice.c. */
#ifndef BERTH_BPF_SPLICE_RUN_H
#define BERTH_BPF_SPLICE_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "splice.h"

struct splice_options {
	const char *instance;          /* its name, or the path of its directory */
	struct sockaddr_storage at;    /* where to listen; port 0: any */
	struct sockaddr_storage other; /* the fallback: a proxy with berth's gate */
	struct steer_config tenant;
	uint64_t answer_ms; /* how long an answer may make no progress */
	uint64_t idle_ms;   /* how long a client may ask for nothing */
	/* Called once, when connections are accepted. */
	void (*ready)(void *arg, unsigned port);
	void *arg;
};

struct splice_counts {
	uint64_t n_connections, n_spliced, n_relayed, n_copied, n_tunnels, n_failed;
};

/* Runs until SIGTERM or SIGINT: then it accepts no more, ends each connection when its answer is out, and returns after
 * SPLICE_DRAIN_MS at most, or a second signal. One for an instance at a time. 0, or -1 with a text: what was wrong and what
 * to do. */
#define SPLICE_DRAIN_MS 10000
#define SPLICE_ANSWER_MS 60000 /* as proxy_read_timeout of reader_lib/lua/nginx.conf */
#define SPLICE_IDLE_MS 600000
int splice_run(const struct splice_options *, struct splice_counts *, char *text, size_t size);

/* What it says of itself meanwhile. */
struct splice_process {
	uint64_t pid, start; /* field 22 of /proc/PID/stat */
	uint64_t n_clients;  /* connected now */
	uint64_t n_accepted;
	uint32_t leases_id; /* of the map that its programs take leases in */
	uint32_t pad;
	struct sockaddr_storage at; /* where it listens */
};
/* 1: of the one that runs, or was killed last. attached: its programs see its sockets end. stale: they are on a mirror that
 * went, so that everything goes to the fallback. 0: there is none; -1 with errno: it may not be seen, or (EPROTO) is of another
 * version. */
int splice_look(const char *instance, struct splice_process *, bool *attached, bool *stale);

#endif
