/* SPDX-License-Identifier: MIT
 * steer and steer_mark on a device: frames that come in through a veth, native and generic. What is handed on is marked,
 * and delivered; what the gate holds is not. In a network namespace of its own. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shm/word.h"
#include "child.h"
#include "packet_steer.h"

#ifndef SO_RCVMARK
#define SO_RCVMARK 75
#endif

struct scene {
	struct steer_place place; /* first: steer_place_open */
	struct steer gated;
	int home; /* the namespace that the test came from */
	int sends, receives;
	unsigned index;
};
static struct scene scene;

static void shell(const char *commands)
{
	const char *const argv[] = {"/bin/sh", "-ec", commands, NULL};
	char out[512];

	if (child_run(argv, out, sizeof(out), CHILD_MS) != 0)
		fail_msg("%s: %s", commands, out);
}

/* A socket on a device: for frames of one protocol, which it gets behind TC; or of none, to send. */
static int packet_socket(const char *device, unsigned protocol)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET,
				 .sll_protocol = htons((uint16_t)protocol),
				 .sll_ifindex = (int)if_nametoindex(device)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	assert_true(fd >= 0);
	if (protocol && setsockopt(fd, SOL_SOCKET, SO_RCVMARK, &on, sizeof(on)) != 0)
		SKIP("this kernel does not tell a packet's mark: %s", strerror(errno));
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

static int setup(void **state)
{
	struct scene *c = &scene;

	c->home = c->sends = c->receives = -1;
	if (!steer_place_open(&c->place, state))
		return 0;
	steer_put(&c->place, "acme", "c2", PHASE_SETTLED);
	steer_put(&c->place, "cuts", "c3", PHASE_CUTOVER);
	steer_open(&c->gated, &c->place, &(struct oracle){.segment = 1}, true);
	c->home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return c->home < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	struct scene *c = *state;

	if (c->sends >= 0)
		close(c->sends);
	if (c->receives >= 0)
		close(c->receives);
	if (c->home >= 0) { /* the other one goes, with its devices, when nobody is in it */
		assert_int_equal(setns(c->home, CLONE_NEWNET), 0);
		close(c->home);
	}
	return steer_place_close(state);
}

static void send_request(struct scene *c, const char *request)
{
	struct frame f;

	frame_make(&f, &(struct shape){0}, request, strlen(request));
	assert_int_equal(send(c->sends, f.bytes, f.len, 0), (ssize_t)f.len);
}

/* The next frame's mark; its bytes must be this request's. */
static unsigned receive_request(struct scene *c, const char *request)
{
	struct pollfd ready = {.fd = c->receives, .events = POLLIN};
	char bytes[2048], control[CMSG_SPACE(sizeof(unsigned)) + 64];
	struct iovec part = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	struct msghdr m = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct frame f;
	unsigned mark;
	ssize_t n;

	frame_make(&f, &(struct shape){0}, request, strlen(request));
	assert_int_equal(poll(&ready, 1, DAEMON_MS), 1);
	n = recvmsg(c->receives, &m, 0);
	if (n != (ssize_t)f.len || memcmp(bytes, f.bytes, f.len) != 0)
		fail_msg("expected %s but another frame came", request);
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
		if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SO_MARK) {
			memcpy(&mark, CMSG_DATA(h), sizeof(mark));
			return mark;
		}
	fail_msg("the frame came without its mark");
	return 0;
}

static unsigned cluster_of(const struct scene *c, const char *tenant)
{
	return word_cluster(bpf_view_find(&c->place.view, tenant, strlen(tenant), NULL));
}

static void what_is_handed_on_is_marked_and_what_is_held_does_not_arrive(void **state)
{
	static const struct {
		const char *name;
		unsigned flag;
	} modes[] = {{"native", XDP_FLAGS_DRV_MODE}, {"generic", XDP_FLAGS_SKB_MODE}};
	static const char get[] = "GET /acme HTTP/1.1\r\n\r\n", read_cuts[] = "GET /cuts HTTP/1.1\r\n\r\n",
			  write_cuts[] = "PUT /cuts HTTP/1.1\r\n\r\n", other[] = "no request\n";
	struct scene *c = steer_needed(state);

	if (unshare(CLONE_NEWNET) != 0)
		SKIP("no network namespace can be made: %s", strerror(errno));
	shell("PATH=$PATH:/usr/sbin:/sbin; ip link add out type veth peer name in; ip link set out up; ip link set in "
	      "up");
	c->index = if_nametoindex("in");
	c->sends = packet_socket("out", 0);
	c->receives = packet_socket("in", ETH_P_IP);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		uint64_t no_meta = steer_events(&c->place, MIRROR_EVENT_NO_META);
		struct mirror_counts was = steer_counts(&c->place, cluster_of(c, "cuts"), PHASE_CUTOVER), is;
		LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)c->index, .attach_point = BPF_TC_INGRESS);
		LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = c->gated.mark_fd);

		if (bpf_xdp_attach((int)c->index, c->gated.fd, modes[i].flag, NULL) != 0)
			fail_msg("%s: %s", modes[i].name, strerror(errno));
		assert_int_equal(bpf_tc_hook_create(&hook), 0);
		assert_int_equal(bpf_tc_attach(&hook, &filter), 0);

		send_request(c, get);
		assert_int_equal(receive_request(c, get), STEER_MARK(cluster_of(c, "acme"), PHASE_SETTLED));
		send_request(c, other);
		assert_int_equal(receive_request(c, other), 0);
		send_request(c, write_cuts); /* the order of frames is kept: it would come before the next one */
		send_request(c, read_cuts);
		assert_int_equal(receive_request(c, read_cuts), STEER_MARK(cluster_of(c, "cuts"), PHASE_CUTOVER));
		is = steer_counts(&c->place, cluster_of(c, "cuts"), PHASE_CUTOVER);
		assert_int_equal(is.held - was.held, 1);
		assert_int_equal(is.requests - was.requests, 1);
		assert_int_equal(steer_events(&c->place, MIRROR_EVENT_NO_META), no_meta);

		hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS; /* and the filter with it */
		assert_int_equal(bpf_tc_hook_destroy(&hook), 0);
		assert_int_equal(bpf_xdp_detach((int)c->index, modes[i].flag, NULL), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_handed_on_is_marked_and_what_is_held_does_not_arrive),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
