/* SPDX-License-Identifier: MIT
 * Where the TCP payload of a frame is: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension headers, TCP
 * with options. Included by XDP programs. What it does not know, and fragments (a later one has no port), is no payload:
 * the program lets it pass. Checksums are the kernel's business, which looks at the packet afterwards. */
#ifndef BERTH_PACKET_BPF_H
#define BERTH_PACKET_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PACKET_VLANS 2
#define PACKET_EXTENSIONS 4
#define PACKET_AT_MAX 511u /* a payload that begins further back is not looked for */

struct packet {
	__u32 at, end; /* of the payload, offsets in the frame; the frame's padding is not a part of it */
	__u16 port;    /* destination, host byte order */
};

struct packet_vlan {
	__be16 tag, proto;
};

/* A header at `off`; NULL: the frame ends before it does. */
#define PACKET_HEADER(type, data, data_end, off) \
	((void *)((type *)((data) + (off)) + 1) <= (data_end) ? (type *)((data) + (off)) : (type *)0)

/* 1: *p is set, and the payload has a byte at least. */
static __always_inline int packet_payload(const struct xdp_md *ctx, struct packet *p)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	const struct ethhdr *eth = data;
	const struct tcphdr *tcp;
	__u32 off = sizeof *eth, end;
	__be16 proto;
	__u8 next;

	if ((void *)(eth + 1) > data_end)
		return 0;
	proto = eth->h_proto;
#pragma clang loop unroll(full)
	for (int i = 0; i < PACKET_VLANS; i++) {
		const struct packet_vlan *vlan;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		vlan = PACKET_HEADER(const struct packet_vlan, data, data_end, off);
		if (!vlan)
			return 0;
		proto = vlan->proto;
		off += sizeof *vlan;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = PACKET_HEADER(const struct iphdr, data, data_end, off);

		if (!ip || ip->version != 4 || ip->ihl < 5 || ip->frag_off & bpf_htons(0x3fff)) /* MF, offset */
			return 0;
		next = ip->protocol;
		end = off + bpf_ntohs(ip->tot_len);
		off += ip->ihl * 4u;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = PACKET_HEADER(const struct ipv6hdr, data, data_end, off);

		if (!ip || ip->version != 6)
			return 0;
		next = ip->nexthdr;
		off += sizeof *ip;
		end = off + bpf_ntohs(ip->payload_len);
		for (int i = 0; i < PACKET_EXTENSIONS; i++) {
			const struct ipv6_opt_hdr *more;

			if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
				break;
			if (off > PACKET_AT_MAX)
				return 0;
			more = PACKET_HEADER(const struct ipv6_opt_hdr, data, data_end, off);
			if (!more)
				return 0;
			next = more->nexthdr;
			off += (more->hdrlen + 1u) * 8;
		}
	} else {
		return 0;
	}
	if (next != IPPROTO_TCP || off > PACKET_AT_MAX - 60)
		return 0;
	tcp = PACKET_HEADER(const struct tcphdr, data, data_end, off);
	if (!tcp || tcp->doff < 5)
		return 0;
	p->port = bpf_ntohs(tcp->dest);
	p->at = off + tcp->doff * 4u;
	p->end = end;
	/* a length beyond the frame's is damage: the kernel drops it */
	return p->at < end && end <= (__u32)(data_end - data);
}

#endif
