/* SPDX-License-Identifier: MIT
 * `berth bpf splice` between sockets that take little, in a network namespace of the test's own: what the kernel has been
 * given for a socket then waits behind it for long, and nothing may overtake it, end its lease as done, or be lost. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../bpf/splice.h"
#include "../shm/lease.h"
#include "splice_place.h"

/* A loopback device with segments of a network's size, and buffers for a few of them. */
static const char *small_buffers(void)
{
	struct ifreq lo = {.ifr_name = "lo"};
	FILE *f;
	int fd;

	if (unshare(CLONE_NEWNET) != 0)
		return strerror(errno);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	lo.ifr_mtu = 1500;
	assert_int_equal(ioctl(fd, SIOCSIFMTU, &lo), 0);
	lo.ifr_flags = IFF_UP | IFF_LOOPBACK;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &lo), 0);
	close(fd);
	f = fopen("/proc/sys/net/ipv4/tcp_wmem", "we");
	assert_non_null(f);
	fputs("4096 16384 32768", f);
	assert_int_equal(fclose(f), 0);
	return NULL;
}

static int setup(void **state)
{
	static bool made;
	const char *why = made ? NULL : small_buffers();

	if (why) {
		fprintf(stderr, "no network namespace can be made: %s\n", why);
		return -1;
	}
	made = true;
	return splice_setup(state);
}
#define SMALL_TEST(test) \
	{ \
#test, test, setup, splice_teardown, (void *)(uintptr_t)30000 \
	}

/* ---- a node that the test plays itself: tenant own on cluster c4 ---- */

#define OWN_PUT(...) \
	&(struct splice_ask) \
	{ \
		.tenant = "own", .method = "PUT", __VA_ARGS__ \
	}

static int own_node(struct splice_place *p)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 2048;
	struct timeval patience = {.tv_sec = 10};
	socklen_t len = sizeof(a);
	char endpoint[64];

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u", ntohs(a.sin_port));
	bpf_cluster(&p->admin, "c4", endpoint);
	bpf_put(&p->admin, "own", "c4");
	return fd;
}

/* Takes a head and `body` bytes, no more; answers. */
static void own_answer(int fd, size_t body, const char *answer)
{
	char last[4] = "", byte;

	while (memcmp(last, "\r\n\r\n", 4) != 0) {
		memmove(last, last + 1, 3);
		assert_int_equal(recv(fd, last + 3, 1, 0), 1);
	}
	while (body--)
		assert_int_equal(recv(fd, &byte, 1, 0), 1);
	assert_true(splice_send(fd, answer, strlen(answer)));
}

/* What it is sent until its connection ends. */
static size_t own_rest(int fd, char *to, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while (len < size && (n = recv(fd, to + len, size - len, 0)) > 0)
		len += (size_t)n;
	assert_true(len < size && (n == 0 || errno == ECONNRESET));
	return len;
}

static const struct {
	const char *what;
	bool warm;
	size_t body;
} early[] = {
	{"forwarded by the programs", true, 60000},
	{"copied by the process, over a connection in use", true, 400000},
	{"copied by the process, over a new one", false, 400000},
};

static void an_answer_before_the_node_has_the_request_is_no_outcome_and_nothing_comes_behind(void **state)
{
	static const char said[] = "HTTP/1.1 429 Busy\r\nContent-Length: 1\r\n\r\na",
			  said_chunked[] = "HTTP/1.1 429 Busy\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
	struct splice_place *p = splice_place(state);
	static char rest[1 << 20];
	int listener = own_node(p);

	splice_start(p, NULL, NULL);
	for (unsigned i = 0; i < 2 * sizeof(early) / sizeof(*early); i++) {
		char *first, *second;
		size_t len, len2, sent = 0, n_rest;
		int fd = splice_connect(p->port), node = -1;
		ssize_t n;

		first = splice_text(OWN_PUT(.body = early[i / 2].body), &len);
		second = splice_text(OWN_PUT(.path = "/second", .body = 100000), &len2);
		if (early[i / 2].warm) {
			size_t small_len;
			char *small = splice_text(OWN_PUT(.body = 1), &small_len);

			assert_true(splice_send(fd, small, small_len));
			free(small);
			node = accept(listener, NULL, NULL);
			own_answer(node, 1, said);
			splice_expect(splice_answer(fd, false), 429, -1, 1);
			assert_int_equal(splice_leases(p).unknown, i);
		}
		while (sent < len && (n = send(fd, first + sent, len - sent, MSG_NOSIGNAL | MSG_DONTWAIT)) > 0)
			sent += (size_t)n;
		if (node < 0)
			node = accept(listener, NULL, NULL);
		own_answer(node, 0, i % 2 ? said_chunked : said);
		if (i == 1) /* it would wait behind the request */
			splice_expect(splice_answer(fd, false), 502, -1, 0);
		else
			splice_expect(splice_answer(fd, false), 429, -1, 1);
		splice_expect_open_leases(p, 0);
		if (splice_leases(p).unknown != i + 1)
			fail_msg("a write %s: %u unknown outcomes instead of %u", early[i / 2].what,
				 splice_leases(p).unknown, i + 1);
		if (sent == len) {
			for (sent = 0; sent < len2; sent += (size_t)n)
				if ((n = send(fd, second + sent, len2 - sent, MSG_NOSIGNAL | MSG_DONTWAIT)) <= 0)
					break;
		}
		assert_true(splice_ended(fd));
		n_rest = own_rest(node, rest, sizeof(rest));
		assert_true(n_rest < early[i / 2].body);
		for (size_t at = 0; at < n_rest; at++)
			if (rest[at] != 'a' + (char)(at % 23))
				fail_msg("a write %s: byte %zu of its body is another request's", early[i / 2].what,
					 at);
		free(first);
		free(second);
		close(node);
		close(fd);
	}
	close(listener);
}

/* Nor does more than one answer wait in the kernel. */
static void what_comes_behind_an_answer_that_is_not_out_comes_behind_it(void **state)
{
	struct splice_place *p = splice_place(state);
	int small = 4096, waiting;
	uint64_t deadline, before;
	size_t len, len2;
	char *text, *last;

	bpf_cluster(&p->admin, "c7", "http://127.0.0.1:1");
	bpf_put(&p->admin, "lost", "c7");
	splice_start(p, NULL, NULL);
	text = splice_text(&(struct splice_ask){.tenant = "acme", .act = "len=250000"}, &len);
	for (int round = 0; round < 8; round++) {
		int fd = splice_connect(p->port), more = round % 4;

		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "globex"}), 200, NODE_C2, 10);
		splice_expect(splice_go(fd, &(struct splice_ask){.tenant = "acme"}), 200, NODE_C1, 10);
		before = splice_events(p, MIRROR_EVENT_SPLICED);
		for (int i = 0; i <= more; i++) {
			unsigned asked = atomic_load(&p->nodes->n_requests[NODE_C1]);

			splice_send(fd, text, len);
			deadline = 0;
			waiting = 0;
			while (i == 0 && within(&deadline) &&
			       (atomic_load(&p->nodes->n_requests[NODE_C1]) == asked || waiting < 4096))
				ioctl(fd, FIONREAD, &waiting);
		}
		last = splice_text(&(struct splice_ask){.tenant = round < 4 ? "globex" : "lost", .act = "chunked=50"},
				   &len2);
		splice_send(fd, last, len2);
		splice_expect(splice_answer(fd, false), 200, NODE_C1, 250000);
		for (int i = 0; i < more; i++)
			splice_expect(splice_answer(fd, false), 200, NODE_FALLBACK, 250000);
		splice_expect(splice_answer(fd, false), 200, NODE_FALLBACK, 50);
		assert_int_equal(splice_events(p, MIRROR_EVENT_SPLICED) - before, 1);
		free(last);
		close(fd);
	}
	free(text);
}

/* It takes no more requests, also when the process has not had the time to close it. */
static void a_node_that_says_what_nobody_asked_for_is_not_asked_again_there(void **state)
{
	static const char said[] = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
			  unasked[] = "HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\na";
	struct splice_place *p = splice_place(state);
	int listener = own_node(p), left = 1, fd, node, again;
	uint64_t deadline = 0, before;
	size_t len;
	char *text = splice_text(OWN_PUT(.body = 1), &len);

	splice_start(p, NULL, NULL);
	fd = splice_connect(p->port);
	assert_true(splice_send(fd, text, len));
	node = accept(listener, NULL, NULL);
	own_answer(node, 1, said);
	splice_expect(splice_answer(fd, false), 200, -1, 1);
	kill(p->pid, SIGSTOP);
	assert_true(splice_send(node, unasked, 20));
	while (within(&deadline) && (ioctl(node, SIOCOUTQ, &left) != 0 || left)) /* acknowledged: the program has it */
		;
	assert_int_equal(left, 0);
	deadline = 0;
	before = splice_events(p, MIRROR_EVENT_SPLICED);
	assert_true(splice_send(fd, text, len));
	while (within(&deadline) && splice_events(p, MIRROR_EVENT_SPLICED) == before)
		;
	send(node, unasked, sizeof(unasked) - 1, MSG_NOSIGNAL);
	kill(p->pid, SIGCONT);
	again = accept(listener, NULL, NULL);
	if (again < 0)
		fail_msg("no new connection: %s", strerror(errno));
	own_answer(again, 1, said);
	splice_expect(splice_answer(fd, false), 200, -1, 1);
	splice_expect_open_leases(p, 0);
	assert_int_equal(splice_leases(p).unknown, 0);
	free(text);
	close(node);
	close(again);
	close(fd);
	close(listener);
}

/* ---- leases that nobody would end ---- */

static void a_write_to_a_connection_that_has_just_broken_leaves_no_open_lease(void **state)
{
	struct splice_place *p = splice_place(state);
	struct linger l = {.l_onoff = 1};
	uint64_t deadline = 0, before;
	int listener = own_node(p), fd, other, node;
	size_t len;
	char *text;

	splice_start(p, NULL, NULL);
	other = splice_connect(p->port);
	splice_expect(splice_go(other, &(struct splice_ask){.tenant = "globex"}), 200, NODE_C2, 10);
	fd = splice_connect(p->port);
	text = splice_text(OWN_PUT(.body = 1), &len);
	assert_true(splice_send(fd, text, len));
	node = accept(listener, NULL, NULL);
	own_answer(node, 1, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
	splice_expect(splice_answer(fd, false), 200, -1, 1);
	free(text);
	kill(p->pid, SIGSTOP);
	/* the process wakes up to this one's call first, and the node breaks off, unnoticed */
	before = splice_events(p, MIRROR_EVENT_SPLICED);
	text = splice_text(&(struct splice_ask){.tenant = "acme"}, &len);
	assert_true(splice_send(other, text, len));
	free(text);
	while (within(&deadline) && splice_events(p, MIRROR_EVENT_SPLICED) == before)
		;
	setsockopt(node, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(node);
	text = splice_text(OWN_PUT(.body = 1), &len);
	assert_true(splice_send(fd, text, len));
	free(text);
	splice_expect_open_leases(p, 1);
	kill(p->pid, SIGCONT);
	splice_expect(splice_answer(other, false), 200, NODE_C1, 10);
	splice_expect(splice_answer(fd, false), 502, -1, 0);
	assert_true(splice_ended(fd));
	splice_expect_open_leases(p, 0);
	assert_int_equal(splice_leases(p).unknown, 1);
	close(fd);
	close(other);
	close(listener);
}

static void what_an_earlier_process_has_left_open_is_unknown_from_the_start(void **state)
{
	struct splice_place *p = splice_place(state);
	int map = bpf_pinned(p->b, "leases");
	struct mirror_lease *all = mmap(NULL, MIRROR_LEASES * sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
	uint64_t start = test_now_ms();

	assert_ptr_not_equal(all, MAP_FAILED);
	all[7].state = all[SPLICE_CONNECTIONS].state = lease_state(LEASE_OPEN, 1);
	all[7].hash = all[SPLICE_CONNECTIONS].hash = 77;
	splice_start(p, NULL, NULL);
	assert_int_equal(lease_kind(all[7].state), LEASE_UNKNOWN);
	assert_in_range(lease_time(all[7].state), start, test_now_ms() + 1);
	assert_int_equal(all[SPLICE_CONNECTIONS].state, lease_state(LEASE_OPEN, 1)); /* another program's */
	all[SPLICE_CONNECTIONS].hash = 0;
	munmap(all, MIRROR_LEASES * sizeof(*all));
	close(map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SMALL_TEST(an_answer_before_the_node_has_the_request_is_no_outcome_and_nothing_comes_behind),
		SMALL_TEST(what_comes_behind_an_answer_that_is_not_out_comes_behind_it),
		SMALL_TEST(a_node_that_says_what_nobody_asked_for_is_not_asked_again_there),
		SMALL_TEST(a_write_to_a_connection_that_has_just_broken_leaves_no_open_lease),
		SMALL_TEST(what_an_earlier_process_has_left_open_is_unknown_from_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
