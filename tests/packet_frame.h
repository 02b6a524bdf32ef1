/* SPDX-License-Identifier: MIT
 * Frames that tests hand to packet programs: Ethernet, VLAN tags, IPv4 or IPv6 with what may come between, TCP. Checksums
 * are zero: the programs do not look. */
#ifndef BERTH_TESTS_PACKET_FRAME_H
#define BERTH_TESTS_PACKET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shape { /* all zero: plain IPv4 to port 0 */
	unsigned vlans;
	bool ip6;
	unsigned ip_options;      /* bytes, IPv4 */
	const char *extensions;   /* IPv6: a letter each: h hop-by-hop, r routing, d destination, f fragment */
	unsigned extension_bytes; /* of each; 0: 8 */
	unsigned tcp_options;
	unsigned fragment; /* IPv4: flags and offset, as a number */
	unsigned padding;  /* bytes behind the IP packet */
	uint16_t port;
	uint8_t protocol; /* 0: TCP */
	uint16_t ether;   /* 0: of the IP version */
};

struct frame {
	unsigned char bytes[3072];
	size_t len;
	size_t payload; /* where it begins */
};

void frame_make(struct frame *, const struct shape *, const void *payload, size_t len);

#endif
