/* SPDX-License-Identifier: MIT
 * What steer has to find in a frame, by a parser of its own that looks at a byte at a time: written from the rules at the
 * top of bpf/http.bpf.h and bpf/packet.bpf.h, not from their code. */
#ifndef BERTH_TESTS_PACKET_ORACLE_H
#define BERTH_TESTS_PACKET_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct oracle {
	const char *header; /* NULL: a segment of the path */
	unsigned segment;
	uint16_t port; /* 0: any */
};

struct oracle_answer {
	int event; /* an enum mirror_event; -1: a tenant is named */
	const unsigned char *tenant;
	size_t len;
	bool write;
};

struct oracle_answer oracle_frame(const struct oracle *, const unsigned char *frame, size_t len);

#endif
