/* SPDX-License-Identifier: MIT
 * Readers and the writer as threads of one process, over one mapping of each file, so that ThreadSanitizer sees both sides
 * of every word: mmap is ours (the linker's --wrap, for tests/46-*), and gives a file that is mapped already where it is.
 * Two mappings of a file are two pieces of memory to ThreadSanitizer: it sees no race between them. */
#ifndef BERTH_TESTS_ONE_MAPPING_H
#define BERTH_TESTS_ONE_MAPPING_H

/* Mappings that were there already when somebody asked for them. */
unsigned mappings_shared(void);

#endif
