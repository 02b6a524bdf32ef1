/* SPDX-License-Identifier: MIT
 * Takes the TCP connections of a cgroup's processes to clusters, for clients that know nothing of berth: an address of one
 * prefix names a cluster by its number, 198.18.0.7 the one with number 7, and the connection goes to that cluster's
 * endpoint instead, its port too. Loaded and attached by programs.c; the kernel runs it in connect(2), before the socket
 * has an address.
 *
 * A cluster without an address, an endpoint that the socket cannot speak to (IPv6 from an IPv4 socket), a mirror that was
 * withdrawn: the call fails with EPERM, and nothing is sent. Everything else passes untouched: other addresses, UDP. An
 * AF_INET6 socket may name a cluster in either prefix, the IPv4 one as ::ffff:198.18.0.7, and goes to an IPv4 endpoint by
 * the address that maps it. Addresses are followed while a berthd --bpf runs; without one the last ones stand.
 *
 * It is no gate and knows no tenant. It decides once: a connection stays where it was taken when the endpoint changes, and
 * getpeername(2) names the endpoint, not the address that was asked for. */
#include <linux/in.h>

#include <bpf/bpf_endian.h>

#define BERTH_USE_CLUSTERS
#define BERTH_USE_EVENTS
#include "berth.bpf.h"

#include "config.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
const volatile struct connect_config connect_config = {0};

enum { REFUSED = 0, GOES_ON = 1 };

static __always_inline int in_prefix4(__u32 address)
{
	return ((address ^ connect_config.prefix4) & bpf_htonl(0xffff0000)) == 0;
}

/* A mirror that was withdrawn has no table any more, and nobody keeps its addresses true. (control.state says less: it is 0
 * while a writer starts, and the addresses stand.) */
static __always_inline int kept(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&berth_table, &zero) != 0;
}

/* Counts, too. v6: an AF_INET6 socket, which may speak to both families. */
static __always_inline int find(__u32 low_word, int v6, struct berth_address *to)
{
	int code = kept() ? berth_address(bpf_ntohl(low_word) & 0xffff, to) : BERTH_BPF_PASS;
	int fits = code == BERTH_BPF_OK;

	if (fits && !v6)
		fits = to->family == MIRROR_IPV4;
	berth_event(fits                     ? MIRROR_EVENT_CONNECTED
		    : code == BERTH_BPF_PASS ? MIRROR_EVENT_PASS
					     : MIRROR_EVENT_NO_ADDRESS);
	return fits;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct berth_address to = {0}; /* whole also where it is not filled: verifiers before 6.3 want that */

	if (ctx->protocol != IPPROTO_TCP || !in_prefix4(ctx->user_ip4))
		return GOES_ON;
	if (!find(ctx->user_ip4, 0, &to))
		return REFUSED;
	ctx->user_ip4 = to.address[0];
	ctx->user_port = to.port;
	return GOES_ON;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	const __u32 a = ctx->user_ip6[0], b = ctx->user_ip6[1], c = ctx->user_ip6[2], d = ctx->user_ip6[3];
	struct berth_address to = {0}; /* whole also where it is not filled: verifiers before 6.3 want that */

	if (ctx->protocol != IPPROTO_TCP)
		return GOES_ON;
	if (!(a == 0 && b == 0 && c == bpf_htonl(0xffff) && in_prefix4(d)) &&
	    !(a == connect_config.prefix6[0] && b == connect_config.prefix6[1] && c == connect_config.prefix6[2] &&
	      ((d ^ connect_config.prefix6[3]) & bpf_htonl(0xffff0000)) == 0))
		return GOES_ON;
	if (!find(d, 1, &to))
		return REFUSED;
	if (to.family == MIRROR_IPV4) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = bpf_htonl(0xffff);
		ctx->user_ip6[3] = to.address[0];
	} else {
		ctx->user_ip6[0] = to.address[0];
		ctx->user_ip6[1] = to.address[1];
		ctx->user_ip6[2] = to.address[2];
		ctx->user_ip6[3] = to.address[3];
	}
	ctx->user_port = to.port;
	return GOES_ON;
}
