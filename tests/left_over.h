/* SPDX-License-Identifier: MIT
 * What a test program makes outside of itself goes with it: also when a test fails before it could clean up, or when the
 * program is told to end (SIGTERM, SIGINT, SIGHUP; tests/run sends the first at its limit). One thread. */
#ifndef BERTH_TESTS_LEFT_OVER_H
#define BERTH_TESTS_LEFT_OVER_H

/* A file, or a directory with all in it: of a cgroup its directory, of a mount point what is mounted there. Removed when
 * the process that named the first one ends; not when one that it forked does. */
void left_over_put(const char *path);
/* It is gone, or somebody else's now. */
void left_over_forget(const char *path);

#endif
