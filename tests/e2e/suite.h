/* SPDX-License-Identifier: MIT
 * A program of end-to-end tests: its settings from the environment, its tests under the guard (place.h). Main thread.
 *
 * E2E_MIGRATIONS=n  so many migrations (200); E2E_ONLY=pattern  tests whose names match; BERTH_SEED=n */
#ifndef BERTH_E2E_SUITE_H
#define BERTH_E2E_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

extern uint64_t suite_seed;
extern unsigned suite_migrations;

/* The whole of main; the exit code. */
int suite_run(const struct CMUnitTest *tests, size_t n);

#endif
