/* SPDX-License-Identifier: MIT
 * Between the files of splice_place.h. */
#ifndef BERTH_TESTS_SPLICE_NODES_H
#define BERTH_TESTS_SPLICE_NODES_H

#include "splice_place.h"

struct splice_nodes *splice_nodes_start(void);
void splice_nodes_stop(struct splice_nodes **);

/* The byte of every body at this place. */
static inline char splice_byte(size_t i)
{
	return (char)('a' + i % 23);
}

#endif
