/* SPDX-License-Identifier: MIT
 * The file root: found or made at start. Control thread only; the table's files alone include this. */
#ifndef BERTH_WRITER_ROOT_H
#define BERTH_WRITER_ROOT_H

#include "table_internal.h"

/* Maps root, or makes a fresh instance in the directory (then *fresh, and nothing of an older one is left).
 * *first: there was no root at all, not even one that gave way. */
enum refusal_code root_open(struct table *, const struct table_options *, bool *fresh, bool *first, struct refusal *);
void root_close(struct table *);

#endif
