/* SPDX-License-Identifier: MIT
 * splice_run.h: the loop of splice's process. It waits in one place for new connections, for the programs' calls for
 * attention, for signals, and for what the connections themselves wait for. */
#include <bpf/libbpf.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "splice_internal.h"

#define EVENTS 256
#define ACCEPT_MS 100
#define DESCRIPTORS_OF_ITS_OWN 64

static int fail(char *text, size_t size, const char *what)
{
	snprintf(text, size, "%s: %s", what, strerror(errno));
	return -1;
}

static socklen_t length_of(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static int listen_at(struct splicer *s, unsigned *port, struct sockaddr_storage *at, char *text, size_t size)
{
	struct sockaddr_storage a = s->options->at;
	socklen_t len = length_of(&a);
	int fd = socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	s->listener.fd = fd;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
	    bind(fd, (struct sockaddr *)&a, len) != 0 || getsockname(fd, (struct sockaddr *)&a, &len) != 0)
		return fail(text, size, "cannot listen at the address of --listen");
	*port = ntohs(((struct sockaddr_in *)&a)->sin_port); /* IPv6 has it at the same place */
	*at = a;
	return 0;
}

static int wait_on(struct splicer *s, struct splice_end *end, enum splice_end_kind kind, int fd)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = end};

	end->kind = kind;
	end->fd = fd;
	return fd < 0 ? -1 : epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

static int called(void *arg, void *data, size_t len)
{
	struct splicer *s = arg;
	uint64_t index;

	if (len == sizeof(index)) {
		memcpy(&index, data, sizeof(index));
		if (index < SPLICE_CONNECTIONS && s->by_index[index])
			flow_attend(s->by_index[index]);
	}
	return 0;
}

/* What is not accepted waits in the listener's queue. It would be an event all the time: so it is not waited on for a
 * while. */
static void accept_all(struct splicer *s)
{
	for (int i = 0; i < 64; i++) {
		int fd = s->n_clients < s->max_clients
				 ? accept4(s->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
				 : -1;

		if (fd >= 0) {
			flow_accept(s, fd);
			continue;
		}
		if (s->n_clients >= s->max_clients || (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)) {
			epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->listener.fd, NULL);
			s->accept_ms = splice_now_ms() + ACCEPT_MS;
		}
		return;
	}
}

static void accept_again(struct splicer *s)
{
	if (!s->accept_ms || splice_now_ms() < s->accept_ms)
		return;
	s->accept_ms = 0;
	if (s->listener.fd >= 0 && wait_on(s, &s->listener, END_LISTENER, s->listener.fd) != 0)
		s->accept_ms = splice_now_ms() + ACCEPT_MS;
}

static void start_draining(struct splicer *s)
{
	struct signalfd_siginfo info;
	struct splice_client *next;

	while (read(s->signals.fd, &info, sizeof(info)) > 0)
		s->drain_end = s->draining ? 1 : splice_now_ms() + SPLICE_DRAIN_MS;
	s->draining = true;
	if (s->listener.fd >= 0)
		close(s->listener.fd);
	s->listener.fd = -1;
	for (struct splice_client *k = s->all; k; k = next) {
		next = k->next;
		swap32(&k->c->watched, 1);
		flow_attend(k);
	}
}

static void dispatch(struct splicer *s, struct splice_end *end, uint32_t events)
{
	switch (end->kind) {
	case END_LISTENER:
		if (s->listener.fd >= 0)
			accept_all(s);
		break;
	case END_SIGNALS:
		start_draining(s);
		break;
	case END_ATTENTION:
		ring_buffer__consume(s->ring);
		break;
	case END_CLIENT:
		if (!end->client->closed)
			flow_event(end->client, events);
		break;
	case END_UPSTREAM:
		if (end->client && !end->client->closed)
			upstream_event(end->client, (struct splice_upstream *)end, events);
		break;
	}
}

/* Those that wait until what was sent to them is out. True: there are some left. */
static bool look_at_lingering(struct splicer *s)
{
	struct splice_client *next;
	bool left = false;

	for (struct splice_client *k = s->all; k; k = next) {
		next = k->next;
		uint64_t end = k->linger_end ? k->linger_end : k->leaving_end;

		if (!end)
			continue;
		if (!flow_is_out(k) && splice_now_ms() < end)
			left = true;
		else if (k->linger_end || !flow_is_out(k))
			flow_close(k);
		else
			flow_attend(k);
	}
	return left;
}

/* How often it is looked for what makes no progress. */
static uint64_t patience_ms(const struct splicer *s)
{
	const struct splice_options *o = s->options;

	return (o->answer_ms < o->idle_ms ? o->answer_ms : o->idle_ms) / 8;
}

static void look_for_expired(struct splicer *s)
{
	struct splice_client *next;
	uint64_t now = splice_now_ms();

	if (now - s->expired_ms < patience_ms(s))
		return;
	s->expired_ms = now;
	for (struct splice_client *k = s->all; k; k = next) {
		next = k->next;
		flow_expire(k, now);
	}
}

static int loop(struct splicer *s, char *text, size_t size)
{
	struct epoll_event events[EVENTS];
	int patience = (int)patience_ms(s), idle = patience < 100 ? patience : 100;
	bool lingering = false;

	while (!s->draining || (s->n_clients && splice_now_ms() < s->drain_end)) {
		int n = epoll_wait(s->epoll_fd, events, EVENTS,
				   lingering                     ? 1
				   : s->draining || s->accept_ms ? idle
								 : patience);

		if (n < 0 && errno != EINTR)
			return fail(text, size, "cannot wait for connections");
		for (int i = 0; i < n; i++)
			dispatch(s, events[i].data.ptr, events[i].events);
		accept_again(s);
		lingering = look_at_lingering(s);
		look_for_expired(s);
		s->process->n_clients = s->n_clients;
		s->process->n_accepted = s->counts->n_connections;
		flow_free_closed(s);
	}
	return 0;
}

static int start(struct splicer *s, char *text, size_t size)
{
	struct rlimit files;
	struct sockaddr_storage at;
	sigset_t signals;
	unsigned port;

	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->by_index = calloc(SPLICE_CONNECTIONS, sizeof(struct splice_client *));
	s->free_slots = calloc(SPLICE_CONNECTIONS, sizeof(*s->free_slots));
	if (s->epoll_fd < 0 || !s->by_index || !s->free_slots)
		return fail(text, size, "cannot start");
	for (uint32_t i = 0; i < SPLICE_CONNECTIONS; i++)
		s->free_slots[s->n_free++] = i;
	s->max_clients = SPLICE_CONNECTIONS;
	if (splice_load(s, text, size) != 0 || listen_at(s, &port, &at, text, size) != 0 ||
	    splice_load_for(s, port, text, size) != 0)
		return -1;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < DESCRIPTORS_OF_ITS_OWN + 2 * SPLICE_CONNECTIONS)
		s->max_clients = files.rlim_cur < DESCRIPTORS_OF_ITS_OWN + 2
					 ? 1
					 : (uint32_t)(files.rlim_cur - DESCRIPTORS_OF_ITS_OWN) / 2; /* and upstreams */
	s->ring = ring_buffer__new(s->attention_fd, called, s, NULL);
	if (!s->ring)
		return fail(text, size, "cannot read what the programs say");
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	if (wait_on(s, &s->signals, END_SIGNALS, signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC)) != 0 ||
	    wait_on(s, &s->attention, END_ATTENTION, ring_buffer__epoll_fd(s->ring)) != 0 ||
	    listen(s->listener.fd, 4096) != 0 || wait_on(s, &s->listener, END_LISTENER, s->listener.fd) != 0)
		return fail(text, size, "cannot start");
	if (splice_say(s, &at) != 0)
		return fail(text, size, "cannot pin what it says of itself beside the mirror");
	if (s->options->ready)
		s->options->ready(s->options->arg, port);
	return 0;
}

int splice_run(const struct splice_options *options, struct splice_counts *counts, char *text, size_t size)
{
	struct splicer s = {.options = options, .counts = counts, .lock_fd = -1};
	int rc;

	memset(counts, 0, sizeof(*counts));
	s.listener.fd = s.signals.fd = s.epoll_fd = -1;
	rc = start(&s, text, size);
	if (rc == 0)
		rc = loop(&s, text, size);
	while (s.all)
		flow_close(s.all);
	flow_free_closed(&s);
	ring_buffer__free(s.ring);
	splice_say_end(&s);
	splice_unload(&s);
	close(s.listener.fd);
	close(s.signals.fd);
	close(s.epoll_fd);
	free(s.by_index);
	free(s.free_slots);
	return rc;
}
