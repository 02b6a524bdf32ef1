/* SPDX-License-Identifier: MIT
 * What torture_sample.c looks at, and torture_flat.c judges: quantities, sampled. Coordinator only, one thread. */
#ifndef BERTH_TESTS_TORTURE_SAMPLE_H
#define BERTH_TESTS_TORTURE_SAMPLE_H

#include <stdint.h>

#define S_MOST 2048u /* samples */

/* Name; what the median may grow by: percent of it, and so much besides. of: the daemon's own, or not. Counts that go up
 * and down by the dice may differ by more. */
enum of { OF_DAEMON, OF_ALL };
#define QUANTITIES(X) \
	X(daemon_private_kb, 3, 1024, OF_DAEMON) \
	X(daemon_shared_kb, 15, 4096, OF_DAEMON) \
	X(daemon_descriptors, 0, 3, OF_DAEMON) \
	X(reader_private_kb, 10, 512, OF_ALL) \
	X(reader_shared_kb, 20, 4096, OF_ALL) \
	X(reader_descriptors, 0, 3, OF_ALL) \
	X(instance_kb, 15, 4096, OF_ALL) \
	X(registrations, 0, 4, OF_ALL) \
	X(ledger_rows, 0, 4, OF_ALL) \
	X(ledger_leases, 50, 50, OF_ALL) \
	X(leases, 100, 500, OF_ALL) \
	X(pins, 50, 200, OF_ALL) \
	X(capacity, 25, 0, OF_ALL) \
	X(tombstones, 50, 20000, OF_ALL) \
	X(records_kb, 50, 1024, OF_ALL) \
	X(held_kb, 50, 8192, OF_ALL) \
	X(retired, 50, 20000, OF_ALL) \
	X(connections, 0, 4, OF_DAEMON)
enum quantity {
#define X(name, percent, besides, of) Q_##name,
	QUANTITIES(X)
#undef X
		QUANTITIES_N
};

struct samples {
	unsigned n;
	uint64_t length_ms; /* of the whole run */
	double at[S_MOST];  /* seconds since its begin */
	double values[QUANTITIES_N][S_MOST];
};
extern struct samples t_samples;

#endif
