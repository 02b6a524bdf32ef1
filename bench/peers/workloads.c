/* SPDX-License-Identifier: MIT
 * What the program `peers` measures: berth beside what else could be used in its place. */
#include "../bench.h"

void workload_peers(const struct bench *);

const struct workload workloads[] = {
	{"peers", "look-ups by number of partitions: 1,000, 100,000, 1,000,000; --full: 10,000,000 too",
	 workload_peers},
};
const size_t n_workloads = sizeof(workloads) / sizeof(workloads[0]);
const char program_name[] = "peers";
const char program_does[] =
	"Measures look-ups of berth in turn with those of other tables, of the same keys, in one run.";
