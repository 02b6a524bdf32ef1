/* SPDX-License-Identifier: MIT
 * What the program `bench` measures: berth by itself. One row each, run in this order. */
#include "bench.h"

/* X(name, what it measures) */
#define WORKLOADS(X) \
	X(lookup, "berth_route, berth_route_bulk, berth_lookup, berth_admit by number of partitions") \
	X(lease, "berth_write_begin and berth_write_end against berth_route at 1,000 partitions") \
	X(change, "a change through the admin socket against a bare socket ping-pong") \
	X(load, "a document of a million partitions: loading, memory, starting with it") \
	X(cursor, "pins of cursors: resolve, pin, floods, cost by number of pins; --full: a million of them") \
	X(blackout, "how long a migration refuses writes, with writes under way; --full: 1,000 of each")

#define WORKLOAD_DECLARE(name, help) void workload_##name(const struct bench *);
WORKLOADS(WORKLOAD_DECLARE)
#undef WORKLOAD_DECLARE

const struct workload workloads[] = {
#define WORKLOAD_ROW(name, help) {#name, help, workload_##name},
	WORKLOADS(WORKLOAD_ROW)
#undef WORKLOAD_ROW
};
const size_t n_workloads = sizeof(workloads) / sizeof(workloads[0]);
const char program_name[] = "bench";
const char program_does[] =
	"Measures the berthd and libberth that it was built with; prints each figure's median, spread, goal, verdict.";
