/* SPDX-License-Identifier: MIT
 * connect (bpf/connect.bpf.c) with real sockets: in a network of this program's own, from processes inside and outside a
 * cgroup of its own, against a real berthd --bpf. Every address of 198.18.0.0/16 and fd62:6572:7468::/112 is routed to
 * loopback, where nobody listens: what is not taken to an endpoint is refused there. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../bpf/programs.h"
#include "bpf_place.h"
#include "cgroup_place.h"
#include "child.h"
#include "connect_try.h"

static struct shared {
	struct attempt attempt;
	unsigned n_connected;
	int stop;
} * shared;

/* ---- connections ---- */

static int attempt_part(void *arg)
{
	struct attempt *a = arg;

	if (a->inside && !cgroup_join(&own_cgroup))
		return 1;
	connect_try(a, NULL);
	return 0;
}

/* Where a connection to `address` goes: "127.0.0.1 9200", or the name of the error. */
static const char *goes(bool inside, int type, const char *address)
{
	struct attempt *a = &shared->attempt;

	*a = (struct attempt){.inside = inside, .type = type, .family = strchr(address, ':') ? AF_INET6 : AF_INET};
	snprintf(a->address, sizeof(a->address), "%s", address);
	assert_int_equal(part_run(attempt_part, a, CHILD_MS), 0);
	return a->error ? strerrorname_np(a->error) : a->peer;
}
#define expect_goes(address, where) assert_string_equal(goes(true, SOCK_STREAM, address), where)

/* ---- clusters and programs ---- */

static unsigned set_cluster(const struct bpf_place *p, const char *id, const char *url)
{
	struct wire w;

	wire_open(&w, &p->d, WIRE_ADMIN);
	json_t *result = wire_ok(&w, "cluster.set", "{s:s,s:s}", "id", id, "endpoint", url);
	unsigned number = (unsigned)int_of(result, "number");
	json_decref(result);
	wire_close(&w);
	return number;
}

static const char *virtual4(const char *prefix, unsigned number)
{
	static char text[64];

	snprintf(text, sizeof(text), "%s%u.%u", prefix, number >> 8, number & 0xff);
	return text;
}
static const char *virtual6(unsigned number)
{
	static char text[64];

	snprintf(text, sizeof(text), "fd62:6572:7468::%x", number);
	return text;
}

static void load(const struct bpf_place *p, const char *four)
{
	struct connect_config config = {0};
	struct programs_fault fault;

	inet_pton(AF_INET, four, &config.prefix4);
	inet_pton(AF_INET6, CONNECT_PREFIX6, config.prefix6);
	if (programs_load_connect(p->d.dir, &config, &fault) != 0)
		fail_msg("%s", fault.text);
}

static void load_and_attach(const struct bpf_place *p)
{
	struct programs_fault fault;

	load(p, CONNECT_PREFIX4);
	if (programs_attach_connect(p->d.dir, own_cgroup.path, &fault) != 0)
		fail_msg("%s", fault.text);
}

static void detach(const struct bpf_place *p, unsigned links)
{
	struct programs_fault fault;
	unsigned n;

	if (programs_detach(p->d.dir, "connect", NULL, NULL, &n, &fault) != 0)
		fail_msg("%s", fault.text);
	assert_int_equal(n, links);
}

static uint64_t counted(const struct bpf_place *p, enum mirror_event event)
{
	struct programs_stats *stats = malloc(sizeof(*stats));
	struct programs_fault fault;

	if (programs_stats(p->d.dir, stats, &fault) != 0)
		fail_msg("%s", fault.text);
	uint64_t n = stats->events[event];
	free(stats);
	return n;
}

/* ---- tests ---- */

static void a_connection_to_a_clusters_address_goes_to_its_endpoint(void **state)
{
	struct bpf_place *p = *state;
	char four[64], six[64], mapped[80], address[80];

	own_place_needed(p);
	int four_fd = connect_serve("127.0.0.2", four), six_fd = connect_serve("::1", six);
	unsigned n4 = set_cluster(p, "c4", four), n6 = set_cluster(p, "c6", six);
	load_and_attach(p);
	expect_goes(virtual4("198.18.", n4), connect_peer(four));
	expect_goes(virtual6(n6), connect_peer(six));
	/* an IPv6 socket speaks to both, and may ask by either prefix */
	snprintf(mapped, sizeof(mapped), "::ffff:%s", connect_peer(four));
	expect_goes(virtual6(n4), mapped);
	snprintf(address, sizeof(address), "::ffff:%s", virtual4("198.18.", n4));
	expect_goes(address, mapped);
	snprintf(address, sizeof(address), "::ffff:%s", virtual4("198.18.", n6));
	expect_goes(address, connect_peer(six));
	assert_int_equal(counted(p, MIRROR_EVENT_CONNECTED), 5);
	assert_int_equal(counted(p, MIRROR_EVENT_NO_ADDRESS), 0);
	close(four_fd);
	close(six_fd);
}

static void a_cluster_without_an_address_is_refused_and_counted(void **state)
{
	struct bpf_place *p = *state;
	char url[64];
	struct wire w;

	own_place_needed(p);
	int fd = connect_serve("127.0.0.1", url);
	unsigned none = set_cluster(p, "none", ""), host = set_cluster(p, "host", "http://localhost:9200"),
		 six = set_cluster(p, "six", "http://[::1]:9200"), gone = set_cluster(p, "gone", url);
	load_and_attach(p);
	expect_goes(virtual4("198.18.", none), "EPERM");
	expect_goes(virtual4("198.18.", host), "EPERM");
	expect_goes(virtual4("198.18.", six), "EPERM"); /* an IPv4 socket cannot */
	expect_goes(virtual4("198.18.", gone), connect_peer(url));
	wire_open(&w, &p->d, WIRE_ADMIN);
	wire_do(&w, "cluster.remove", "{s:s}", "id", "gone");
	wire_close(&w);
	expect_goes(virtual4("198.18.", gone), "EPERM");
	expect_goes("198.18.0.0", "EPERM");
	expect_goes("198.18.255.255", "EPERM");
	expect_goes(virtual6(none), "EPERM");
	expect_goes(virtual6(0xffff), "EPERM");
	assert_int_equal(counted(p, MIRROR_EVENT_NO_ADDRESS), 8);
	assert_int_equal(counted(p, MIRROR_EVENT_CONNECTED), 1);
	close(fd);
}

static void everything_else_passes_untouched(void **state)
{
	struct bpf_place *p = *state;
	char url[64], other[64], asked[80];

	own_place_needed(p);
	int fd = connect_serve("127.0.0.1", url), other_fd = connect_serve("127.0.0.3", other);
	unsigned number = set_cluster(p, "c", url);
	load_and_attach(p);
	/* UDP to a cluster's address */
	snprintf(asked, sizeof(asked), "%s 9", virtual4("198.18.", number));
	assert_string_equal(goes(true, SOCK_DGRAM, virtual4("198.18.", number)), asked);
	snprintf(asked, sizeof(asked), "%s 9", virtual6(number));
	assert_string_equal(goes(true, SOCK_DGRAM, virtual6(number)), asked);
	/* the neighbours of the prefixes, and what only ends like one */
	expect_goes("198.17.0.1", "ENETUNREACH");
	expect_goes("198.19.0.1", "ENETUNREACH");
	expect_goes("fd62:6572:7468::1:1", "ENETUNREACH");
	expect_goes("127.0.0.1", "ECONNREFUSED");
	expect_goes("::1", "ECONNREFUSED");
	/* a process outside the cgroup */
	assert_string_equal(goes(false, SOCK_STREAM, virtual4("198.18.", number)), "ECONNREFUSED");
	assert_string_equal(goes(false, SOCK_STREAM, virtual6(number)), "ECONNREFUSED");
	assert_int_equal(counted(p, MIRROR_EVENT_CONNECTED), 0);
	expect_goes(virtual4("198.18.", number), connect_peer(url));
	close(fd);
	close(other_fd);
}

/* The socket that stays, with its process inside. */
static int stays_part(void *arg)
{
	struct attempt a = *(struct attempt *)arg; /* the test goes on with it once this is connected */
	char byte = 0;
	int fd = -1;

	if (!cgroup_join(&own_cgroup) || connect_try(&a, &fd) != 0)
		return 1;
	return read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1 ? byte : 1; /* when the test has moved the cluster */
}

static void a_new_endpoint_counts_from_the_next_connection_on(void **state)
{
	struct bpf_place *p = *state;
	char first[64], second[64], byte = 42, back = 0;

	own_place_needed(p);
	int first_fd = connect_serve("127.0.0.1", first), second_fd = connect_serve("127.0.0.2", second);
	unsigned number = set_cluster(p, "c", first);
	load_and_attach(p);
	shared->attempt = (struct attempt){.family = AF_INET, .type = SOCK_STREAM};
	snprintf(shared->attempt.address, sizeof(shared->attempt.address), "%s", virtual4("198.18.", number));
	pid_t pid = part_start(stays_part, &shared->attempt);
	int old = accept4(first_fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(old >= 0);
	assert_int_equal(set_cluster(p, "c", second), number);
	expect_goes(virtual4("198.18.", number), connect_peer(second));
	assert_int_equal(write(old, &byte, 1), 1);
	assert_int_equal(read(old, &back, 1), 1);
	assert_int_equal(back, byte);
	assert_int_equal(child_wait(pid, CHILD_MS), byte);
	close(old);
	close(first_fd);
	close(second_fd);
}

static void detached_it_takes_nothing_any_more(void **state)
{
	struct bpf_place *p = *state;
	struct programs_fault fault;
	char url[64];
	unsigned n;

	own_place_needed(p);
	int fd = connect_serve("127.0.0.1", url);
	unsigned number = set_cluster(p, "c", url);
	load_and_attach(p);
	expect_goes(virtual4("198.18.", number), connect_peer(url));
	assert_int_equal(programs_detach(p->d.dir, "connect", NULL, own_cgroup.path, &n, &fault), 0);
	assert_int_equal(n, 2);
	expect_goes(virtual4("198.18.", number), "ECONNREFUSED");
	expect_goes(virtual6(number), "ECONNREFUSED");
	if (programs_attach_connect(p->d.dir, own_cgroup.path, &fault) != 0) /* it is loaded still */
		fail_msg("%s", fault.text);
	expect_goes(virtual4("198.18.", number), connect_peer(url));
	detach(p, 2);
	expect_goes(virtual4("198.18.", number), "ECONNREFUSED");
	close(fd);
}

static void it_outlives_the_daemon_and_follows_the_next_one(void **state)
{
	struct bpf_place *p = *state;
	char first[64], second[64];

	own_place_needed(p);
	int first_fd = connect_serve("127.0.0.1", first), second_fd = connect_serve("127.0.0.2", second);
	unsigned number = set_cluster(p, "c", first);
	load_and_attach(p);
	daemon_kill(&p->d);
	expect_goes(virtual4("198.18.", number), connect_peer(first));
	daemon_start(&p->d, "--bpf", NULL);
	expect_goes(virtual4("198.18.", number), connect_peer(first));
	set_cluster(p, "c", second);
	expect_goes(virtual4("198.18.", number), connect_peer(second));
	/* one without --bpf keeps no addresses true: better none than an old one */
	daemon_kill(&p->d);
	daemon_start(&p->d, NULL);
	expect_goes(virtual4("198.18.", number), "EPERM");
	close(first_fd);
	close(second_fd);
}

static int connects_part(void *arg)
{
	if (!cgroup_join(&own_cgroup))
		return 1;
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		if (connect_try(arg, NULL) != 0)
			return 2;
		__atomic_add_fetch(&shared->n_connected, 1, __ATOMIC_RELAXED);
	}
	return 0;
}

static int accepts_part(void *arg)
{
	for (int taken; (taken = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC)) >= 0;)
		close(taken);
	return 1;
}

static void loaded_again_it_is_replaced_with_no_connection_in_between(void **state)
{
	struct bpf_place *p = *state;
	char url[64];

	own_place_needed(p);
	int fd = connect_serve("127.0.0.1", url), loads;
	unsigned number = set_cluster(p, "c", url);
	load_and_attach(p);
	shared->attempt = (struct attempt){.family = AF_INET, .type = SOCK_STREAM};
	snprintf(shared->attempt.address, sizeof(shared->attempt.address), "%s", virtual4("198.18.", number));
	pid_t accepts = part_start(accepts_part, &fd), connects = part_start(connects_part, &shared->attempt);
	for (loads = 0; loads < 20; loads++) {
		unsigned before = __atomic_load_n(&shared->n_connected, __ATOMIC_RELAXED);
		uint64_t deadline = 0;

		load(p, CONNECT_PREFIX4);
		while (__atomic_load_n(&shared->n_connected, __ATOMIC_RELAXED) < before + 2)
			assert_true(within(&deadline));
	}
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
	assert_int_equal(child_wait(connects, CHILD_MS), 0);
	child_kill(&accepts);
	printf("%u connections over %d loads\n", shared->n_connected, loads);
	assert_true(shared->n_connected >= 40);
	/* and what was loaded last counts: another prefix */
	load(p, "198.19.0.0");
	expect_goes(virtual4("198.19.", number), connect_peer(url));
	expect_goes(virtual4("198.18.", number), "ECONNREFUSED");
	close(fd);
}

static int group_setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!own_place_make())
		return 0;
	ip_run("route", "add", "local", "198.18.0.0/16", "dev", "lo");
	ip_run("-6", "route", "add", "local", "fd62:6572:7468::/112", "dev", "lo");
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(a_connection_to_a_clusters_address_goes_to_its_endpoint, "memory"),
		BPF_TEST(a_cluster_without_an_address_is_refused_and_counted, "memory"),
		BPF_TEST(everything_else_passes_untouched, "memory"),
		BPF_TEST(a_new_endpoint_counts_from_the_next_connection_on, "memory"),
		BPF_TEST(detached_it_takes_nothing_any_more, "memory"),
		BPF_TEST(it_outlives_the_daemon_and_follows_the_next_one, "memory"),
		BPF_TEST(loaded_again_it_is_replaced_with_no_connection_in_between, "memory"),
	};

	return cmocka_run_group_tests(tests, group_setup, own_place_remove);
}
