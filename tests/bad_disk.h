/* SPDX-License-Identifier: MIT
 * A disk that fails on command under sqlite's write-ahead log: real databases in real files. It offers no shared
 * memory, so a store that would let other processes in could not open its log at all. One thread. */
#ifndef BERTH_TESTS_BAD_DISK_H
#define BERTH_TESTS_BAD_DISK_H

#include <stdint.h>

extern struct disk {
	int fail_write, fail_sync; /* the how-manieth from now fails, and all after it; 0: none */
	int code;                  /* of a failed write, half of which arrives */
	int64_t hide_from;         /* what is read from this offset on is zeros; 0: nothing is hidden */
} disk;
extern unsigned disk_log_opens; /* how often a log was opened, ever */

void disk_install(void); /* as sqlite's default, for the rest of the process */

#endif
