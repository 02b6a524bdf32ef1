/* SPDX-License-Identifier: MIT
 * What the programs of splice.bpf.c share with the process that runs them (splice_run.c): one record for each client
 * connection, and which record a socket belongs to. Compiled for both sides.
 *
 * A request goes to the connection's own socket for that cluster ("upstream"), so a connection has at most one upstream
 * for each cluster, and one for the proxy that takes what is not spliced ("fallback").
 *
 *   KERNEL ------ what cannot be framed, or comes while an answer is outstanding ------> LEAVING -----> TUNNEL
 *     |                                                    no answer is outstanding, and the last one is out
 *     +---------- framing lost: more bytes than announced; an answer before its node had the request ---> DEAD
 *
 * Who stores: programs in softirq or process context, one at a time for each socket, the client's and the upstream's
 * possibly at once; and the process. Words that both sides store are changed by atomics. */
#ifndef BERTH_BPF_SPLICE_H
#define BERTH_BPF_SPLICE_H

#include "config.h"
#include "layout.h"

#define SPLICE_CONNECTIONS 16384u /* the number of one is also its slot in berth_leases */
#define SPLICE_FALLBACK 65536u    /* in place of a cluster's number: the fallback */
#define SPLICE_UPSTREAMS 65536u
/* A redirected packet waits in the kernel for as long as its receiver is slow, and nothing holds the sender back. So
 * longer bodies are copied by the process, which reads no faster than it can write; and a request is forwarded only when
 * its client has acknowledged every answer before, so that no more than one of each waits for a connection. */
#define SPLICE_UPLOAD_MAX (64u << 10)
#define SPLICE_DOWNLOAD_MAX (256u << 10)

enum splice_mode { SPLICE_KERNEL = 0, SPLICE_LEAVING = 1, SPLICE_TUNNEL = 2, SPLICE_DEAD = 3 };
/* TAKEN: nothing of the write has left yet; SENT: something may have. */
enum splice_lease { SPLICE_NO_LEASE = 0, SPLICE_TAKEN = 1, SPLICE_SENT = 2 };
/* of the answer: its head is awaited; the programs forward it; the process copies and frames it; the programs forward it,
 * and it leaves the outcome of a write unknown */
enum splice_answer { SPLICE_AWAITED = 0, SPLICE_FORWARDED = 1, SPLICE_COPIED = 2, SPLICE_DOUBTFUL = 3 };

struct splice_connection {
	/* both sides */
	__u32 mode;        /* enum splice_mode */
	__u32 outstanding; /* 1: from a request's head until its answer has ended */
	__u32 lease;       /* enum splice_lease; who takes it to 0 ends the lease */
	__u32 attention;   /* 1: in the ring */
	__u32 watched;     /* 1: the process wants to know when the answer has ended */
	/* stored by programs, loaded by the process */
	__u32 upstream; /* of the last request */
	__u32 leased;   /* 1: it took a lease */
	__u32 relayed;  /* 1: the process copies it */
	__u32 is_head;  /* 1: its answer has no body */
	__u32 answer;   /* enum splice_answer */
	__u32 stray;    /* an upstream that sent what nobody had asked for; 0: none */
	__u32 pad0;
	__u64 relay_left;   /* bytes of the request that the process is still to send: it counts them down */
	__u64 request_left; /* bytes of the request that are still to come */
	__u64 answer_left;
	__u64 to_client; /* bytes that programs have sent to the client */
	__u64 n_spliced; /* requests that went through the kernel alone */
	/* stored by the process, loaded by programs */
	__u64 from_process; /* bytes for the client that the process has sent or is about to send */
	__u64 pad1[4];
};

struct splice_socket { /* by socket cookie */
	__u32 connection;
	__u32 number; /* cluster, SPLICE_FALLBACK; 0: the client */
};
struct splice_key { /* of an upstream's socket */
	__u32 connection;
	__u32 number;
};

struct splice_address { /* of an upstream's socket */
	__u32 sequence; /* mirror_cluster.sequence of the address that it is connected to */
	__u32 spoiled;  /* 1: it has sent what nobody had asked for, and takes no more requests */
	__u64 acked;    /* tcp_sock.bytes_acked, when its node's TCP has all requests */
};

struct splice_config {              /* .rodata */
	struct steer_config tenant; /* mode, segment, name: how a request names its tenant */
	__u32 port;                 /* of the listening socket, host byte order */
};

/* The answer is a gateway's, or of a task that goes on: it says nothing about what becomes of the write. */
static inline int splice_leaves_unknown(__u32 status)
{
	return status == 202 || status == 499 || (status >= 502 && status <= 504);
}

_Static_assert(sizeof(struct splice_connection) == 128, "two cache lines");
_Static_assert(SPLICE_CONNECTIONS <= MIRROR_LEASES, "each connection has a lease slot");

#endif
