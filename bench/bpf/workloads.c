/* SPDX-License-Identifier: MIT
 * What the program `bpf` measures: packet programs that answer from the mirror. */
#include "bpf.h"

const struct workload workloads[] = {
	{"lookup", "a look-up in a packet program, beside the kernel's hash map with the same keys", workload_lookup},
	{"steer", "the program `steer` on a request of 300 bytes", workload_steer},
	{"seen", "from a change's store until a packet program sees it", workload_seen},
};
const size_t n_workloads = sizeof(workloads) / sizeof(workloads[0]);
const char program_name[] = "bpf";
const char program_does[] = "Measures packet programs on berth's mirror, run by the kernel (BPF_PROG_TEST_RUN).";
