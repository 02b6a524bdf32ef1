/* SPDX-License-Identifier: MIT
 * Two network namespaces with a veth between them: clients in one, the proxy and all behind it in the other. They have no
 * names, so nothing of them is left when the last process in them ends, however it ends. A thread is in one namespace; its
 * threads and processes begin where it was when it made them. Every failure ends the run (place_fail). */
#ifndef BERTH_E2E_NET_H
#define BERTH_E2E_NET_H

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>

#define NET_CLIENT "10.77.0.1"
#define NET_PROXY "10.77.0.2"
#define NET_DEV "berth0" /* the veth's name at both ends */

struct net {
	int home, client, proxy; /* descriptors of namespaces */
};

/* What is missing to do this here; NULL: nothing. */
const char *net_missing(void);
void net_open(struct net *);   /* the calling thread is then in the proxy's namespace */
void net_close(struct net *);  /* and back where it came from */
void net_enter(int namespace); /* the calling thread */

/* What the clients' end of the veth and their TCP counted so far, whichever namespace the caller is in. */
struct net_counts {
	uint64_t packets; /* sent to the proxy */
	uint64_t again;   /* segments of TCP among them that had been sent before */
};
struct net_counts net_count(const struct net *);

/* Runs a command of a shell where the calling thread is, to its end. out: what it wrote to both outputs. Its exit code. */
int net_run(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same, and it has to succeed. */
void net_do(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
