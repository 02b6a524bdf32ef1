/* SPDX-License-Identifier: MIT
 * What the program `bench` measures: berth by itself. One row each, run in this order. */
#include "bench.h"

/* X(name, what it measures) */
#define WORKLOADS(X) \
	X(lookup, "berth_route, berth_route_bulk, berth_lookup, berth_admit by number of partitions") \
	X(keys, "berth_route by keys: uniform or few of them often, known or not, 15 or 200 bytes") \
	X(pages, "look-ups in a table on huge pages and on 4 KiB pages, against one cache miss each") \
	X(parts, "a section, the gate, a write in a lease by themselves and against berth_route, at 1,000 partitions") \
	X(tail, "single look-ups, from the median to the slowest, beside what the machine does to two time stamps") \
	X(processes, "look-ups of a process on each processor together; of one while partitions are changed") \
	X(seen, "from a store, and from a request, until a reader in another process sees it") \
	X(grace, "how long a grace period takes with 0, 2, 8 busy readers") \
	X(change, "a change through the admin socket against a bare socket ping-pong") \
	X(batch, "changes a second through the admin socket: one at a time, pipelined, many in one request") \
	X(growth, "pauses of the daemon and of look-ups while an instance grows from 1 M to 2 M partitions") \
	X(load, "a document of a million partitions: loading, memory, starting with it") \
	X(scale, "--full only: the same with ten million partitions") \
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
