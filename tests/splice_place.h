/* SPDX-License-Identifier: MIT
 * The place of a test of `berth bpf splice`: berthd with --bpf, the real command, and real sockets around it: nodes of
 * three clusters and the fallback's, all served by one thread of the test, and clients. Bodies of requests and answers
 * carry a pattern, so that a lost, doubled or strayed byte shows. What is asked for is said in the header X-Do:
 *
 *   len=N       an answer of N bytes with its length (the default: 10)
 *   chunked=N   the same in chunks         close=N   the same until the connection ends
 *   status=N    with this status           early     before the request's body has been read
 *   delay=MS    after so long              hold      when nodes.hold is 0 again
 *   slow        a byte at a time           informed  after a 103
 *   drop        none, and the connection ends
 *   cut=N       of N bytes, half of them, and the connection ends */
#ifndef BERTH_TESTS_SPLICE_PLACE_H
#define BERTH_TESTS_SPLICE_PLACE_H

#include <pthread.h>
#include <stdatomic.h>

#include "bpf_place.h"
#include "child.h"

#define SPLICE_IDS (1u << 16)
enum { NODE_FALLBACK, NODE_C1, NODE_C2, NODE_C3, NODES, NODE_ANY };

struct splice_nodes {
	pthread_t thread;
	int epoll_fd, listeners[NODES];
	unsigned ports[NODES];
	_Atomic unsigned n_requests[NODES]; /* whole, also unanswered ones */
	_Atomic unsigned n_waiting;         /* held or delayed */
	_Atomic unsigned n_connections;
	_Atomic unsigned n_bad; /* requests whose body was not what was sent */
	_Atomic bool hold, stop;
	_Atomic unsigned char seen[NODES][SPLICE_IDS]; /* X-Id: how often */
	/* Asked when a request with X-Id is answered, after its delay: may this node do this now? */
	bool (*may)(void *arg, int node, unsigned id);
	void *arg;
	_Atomic unsigned n_wrong; /* how often it might not */
};

struct splice_place {
	struct bpf_place *b;
	struct wire admin;
	struct splice_nodes *nodes;
	pid_t pid;
	unsigned port;
	int out;
};

/* cmocka: prestate: options of berthd (a barrier in ms), *state: the place. Tenants acme on c1, globex on c2, initech on
 * c3. */
int splice_setup(void **state);
int splice_teardown(void **state);
#define SPLICE_TEST(test, barrier_ms) \
	{ \
#test, test, splice_setup, splice_teardown, (void *)(uintptr_t)(barrier_ms) \
	}
struct splice_place *splice_place(void **state); /* or SKIP */
/* header: NULL for the default; segment: 0 for none. */
void splice_start(struct splice_place *, const char *header, const char *segment);
int splice_stop(struct splice_place *); /* SIGTERM; its exit code */
void splice_output(struct splice_place *, char *text, size_t size);
uint64_t splice_events(struct splice_place *, enum mirror_event); /* so far */

struct splice_leases {
	unsigned open, unknown;
};
struct splice_leases splice_leases(const struct splice_place *);
/* Within the deadline: so many leases are open; so many requests are held or delayed by nodes. */
void splice_expect_open_leases(const struct splice_place *, unsigned n);
void splice_wait_for_waiting(const struct splice_place *, unsigned n);
/* Whatever has happened: others go on. */
void splice_expect_alive(const struct splice_place *);

/* ---- a client ---- */

struct splice_ask {
	const char *method, *path, *tenant, *act;
	size_t body;       /* bytes of it */
	const char *extra; /* header lines */
	unsigned id;       /* X-Id; 0: none */
};
#define SPLICE_PUT(...) \
	&(struct splice_ask) \
	{ \
		.tenant = "acme", .method = "PUT", __VA_ARGS__ \
	}
struct splice_answer_got {
	int status; /* 0: the connection ended before an answer's head */
	int node;   /* -1: did not say */
	size_t len; /* of the body */
	bool whole; /* all of it, and every byte right */
};
int splice_connect(unsigned port); /* blocking, with a deadline for each read */
/* Text of the request, to be freed. */
char *splice_text(const struct splice_ask *, size_t *len);
bool splice_send(int fd, const char *text, size_t len);
struct splice_answer_got splice_answer(int fd, bool is_head);
/* Both; the status. */
struct splice_answer_got splice_go(int fd, const struct splice_ask *);
void splice_expect(struct splice_answer_got, int status, int node, size_t len);
bool splice_ended(int fd); /* the connection, within the deadline */

#endif
