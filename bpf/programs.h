/* SPDX-License-Identifier: MIT
 * Packet programs as user space has them: loaded on an instance's mirror, attached, detached, counted. Called by the
 * tool, and by tests and benchmarks; root, or the capabilities that README.md names. */
#ifndef BERTH_BPF_PROGRAMS_H
#define BERTH_BPF_PROGRAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

struct bpf_object;

/* Before bpf_object__load: each map of the object whose name is berth_NAME becomes the one that the instance has pinned as
 * NAME. instance: its name, or the path of its directory. 0, or -1 with a text: what was wrong and what to do. */
int programs_use_mirror(struct bpf_object *, const char *instance, char *text, size_t size);

#endif
