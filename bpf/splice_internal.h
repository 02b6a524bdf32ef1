/* SPDX-License-Identifier: MIT
 * What the files of splice's process share. One thread.
 *
 *   splice_load.c        programs, maps, the hook on the process's cgroup
 *   splice_run.c         the loop: accepts, waits, drains
 *   splice_status.c      what it says of itself
 *   splice_connection.c  a client connection: made, watched, ended
 *   splice_upstream.c    its sockets to clusters and fallback: connected, closed
 *   splice_copy.c        what goes through this process: requests without an upstream yet, long bodies, answers that the
 *                        programs do not frame, tunnels
 *
 * A socket is waited on for data (EPOLLIN) only while its data is this process's to read: else each packet that the
 * programs forward would wake it. */
#ifndef BERTH_BPF_SPLICE_INTERNAL_H
#define BERTH_BPF_SPLICE_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "splice_answer.h"
#include "splice_run.h"

#define SPLICE_COPY (64u << 10) /* bytes under way in each direction */

struct splice; /* the skeleton: splice_load.c */
struct splicer;

struct splice_end { /* what an event of epoll belongs to */
	enum splice_end_kind { END_LISTENER, END_SIGNALS, END_ATTENTION, END_CLIENT, END_UPSTREAM } kind;
	int fd;
	uint32_t interest; /* events waited for; 0: not waited on yet */
	struct splice_client *client;
};

struct splice_upstream {
	struct splice_end end;
	struct splice_upstream *next;
	uint32_t number, sequence; /* of the cluster's address */
	uint64_t cookie;
	bool connected;
	bool blocked; /* sending would wait */
	bool ended;   /* it has sent all; noticed, not to be waited for again */
	bool hung;    /* both directions have ended, or it is broken: nor is that */
};

struct splice_buffer {
	size_t at, len; /* what is left to send */
	char bytes[SPLICE_COPY];
};

struct splice_client {
	struct splice_end end;
	struct splicer *s;
	struct splice_connection *c; /* shared with the programs */
	uint32_t index;
	uint64_t cookie;
	struct splice_upstream *upstreams;
	struct splice_buffer *up, *down; /* NULL: nothing is copied */
	struct answer_frame frame;
	uint64_t up_left; /* bytes of the request in `up` that are still to be read */
	uint64_t n_up;    /* bytes that this process has taken from the client */
	uint64_t
		linger_end; /* ms: it is closed once what the programs have sent is out, at the latest then; 0: not yet */
	uint64_t leaving_end; /* ms; 0: not leaving */
	uint64_t progress, progress_ms;
	uint32_t was_outstanding; /* at the last look */
	bool copying;             /* an answer */
	bool answered;            /* and all of it is in `down` */
	bool released;            /* and the next request may begin */
	bool tunnel;
	bool blocked;                          /* sending to the client would wait */
	bool done;                             /* the client has sent all */
	bool up_ended;                         /* read to its end */
	bool up_shut;                          /* and the upstream knows */
	bool closed;                           /* freed after this round */
	struct splice_client *next, *previous; /* of all */
};

struct splicer {
	const struct splice_options *options;
	struct splice_counts *counts;
	struct splice *bpf;
	struct splice_connection *connections; /* mapped */
	struct mirror_lease *leases;           /* mapped */
	const struct mirror_cluster *clusters; /* mapped */
	struct ring_buffer *ring;
	int clients_fd, upstreams_fd, sockets_fd, addresses_fd, attention_fd; /* maps */
	int lock_fd;
	struct splice_process *process; /* mapped; NULL: not yet */
	char pin[4200];
	struct bpf_link *link;
	int epoll_fd;
	struct splice_end listener, signals, attention;
	bool draining;
	uint64_t drain_end;  /* ms */
	uint64_t expired_ms; /* when it was last looked for answers that do not come */
	uint64_t accept_ms;  /* ms: no descriptors or memory are left, the listener is waited on again then; 0: it is */
	uint32_t *free_slots; /* ring of connection numbers */
	uint32_t n_free, first_free;
	struct splice_client *all, *closed, **by_index;
	struct splice_upstream *dead_upstreams;
	uint32_t n_clients, max_clients;
};

/* splice_load.c. 0, or -1 with a text. close: in any state. */
int splice_load(struct splicer *, char *text, size_t size);                    /* the instance is ours */
int splice_load_for(struct splicer *, unsigned port, char *text, size_t size); /* the programs run */
void splice_unload(struct splicer *);

/* splice_status.c: tells where it listens, until the end. 0, or -1 with errno. */
int splice_say(struct splicer *, const struct sockaddr_storage *at);
void splice_say_end(struct splicer *);

/* splice_connection.c */
void flow_accept(struct splicer *, int fd);
void flow_event(struct splice_client *, uint32_t events);
void flow_attend(struct splice_client *); /* programs or process have changed something: what is to be done? */
void flow_close(struct splice_client *);  /* now */
void flow_finish(struct splice_client *); /* when what is on its way to it is out */
bool flow_is_out(struct splice_client *);
void flow_fail(struct splice_client *); /* answers 502, closes */
void flow_arm(struct splice_client *);  /* waits for what is to be waited for */
void flow_expire(struct splice_client *, uint64_t now_ms);
void flow_free_closed(struct splicer *);
/* Ends the lease: every attempt ended with a final answer, or there was none. */
void lease_end_done(struct splice_client *);
/* Whatever is left of it: unknown, when something may have been sent. Programs do not reach its slot any more. */
void lease_end_left(struct splice_client *);
void lease_make_unknown(struct mirror_lease *);
uint64_t splice_now_ms(void);

/* splice_upstream.c */
void upstream_event(struct splice_client *, struct splice_upstream *, uint32_t events);
struct splice_upstream *upstream_get(struct splice_client *,
				     uint32_t number); /* connects; NULL: the client is closed */
struct splice_upstream *upstream_find(struct splice_client *, uint32_t number);
void upstream_close(struct splice_client *, struct splice_upstream *); /* freed after this round */
/* The same for one that no request is out to, unless the programs send one just now: that fails. */
void upstream_close_idle(struct splice_client *, struct splice_upstream *);
/* It has sent what nobody had asked for: the programs drop what comes from it. */
bool upstream_is_spoiled(struct splice_client *, struct splice_upstream *);
/* Its TCP has acknowledged every request to it. */
bool upstream_has_all(struct splice_client *, struct splice_upstream *);
void socket_no_delay(int fd);
/* Waits until the kernel is done with what it was doing to this socket, and has it show what has arrived to the program
 * once more. */
void socket_settle(int fd);
int socket_register(struct splice_client *, int fd, uint32_t number, uint64_t *cookie);

/* splice_copy.c */
void copy_request(struct splice_client *);
void copy_answer(struct splice_client *, struct splice_upstream *);
void copy_start_answer(struct splice_client *);
void copy_start_tunnel(struct splice_client *);
void copy_free(struct splice_client *);

static inline uint32_t load32(uint32_t *p)
{
	return atomic_load((_Atomic uint32_t *)p);
}
static inline uint32_t swap32(uint32_t *p, uint32_t v)
{
	return atomic_exchange((_Atomic uint32_t *)p, v);
}
static inline bool change32(uint32_t *p, uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong((_Atomic uint32_t *)p, &from, to);
}
static inline __u64 load64(const __u64 *p)
{
	return atomic_load((const _Atomic __u64 *)p);
}

#endif
