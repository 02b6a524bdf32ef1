/* SPDX-License-Identifier: MIT
 * The parts of the workload `processes`. Called by processes.c alone. */
#ifndef BERTH_BENCH_PROCESSES_H
#define BERTH_BENCH_PROCESSES_H

#include "place.h"

/* A reader while its instance is changed, by how many changes a second; the placements are others afterwards. */
void processes_changes(const struct bench *, const struct place *);

#endif
