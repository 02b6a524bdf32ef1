/* SPDX-License-Identifier: MIT
 * How many pins each owner has, and which is its oldest: for the owner's share, and not made without one. Private memory of
 * the cursor thread: called by cursor_table.c and cursor_open.c alone. Allocates at open alone. */
#ifndef BERTH_WRITER_CURSOR_OWNERS_H
#define BERTH_WRITER_CURSOR_OWNERS_H

#include <stdbool.h>
#include <stdint.h>

struct cursor_owner {
	uint64_t hash;
	uint32_t n_pins;
	uint32_t oldest, youngest;
	uint32_t next; /* of the same bucket, or the next unused one: 1 + index; 0: none */
};

struct owned { /* of a pin; links are 1 + the number of a slot */
	uint32_t owner, older, younger;
};

struct cursor_owners {
	struct owned *pins; /* NULL: there is no share */
	struct cursor_owner *owners;
	uint32_t *buckets; /* 1 + index of an owner */
	uint32_t unused;
	unsigned shift;
};

/* False: no memory. */
bool owners_open(struct cursor_owners *, uint32_t capacity);
void owners_close(struct cursor_owners *);

/* NULL: it has no pin. */
const struct cursor_owner *owners_find(const struct cursor_owners *, uint64_t hash);
void owners_add(struct cursor_owners *, uint32_t at, uint64_t hash); /* as its youngest */
void owners_remove(struct cursor_owners *, uint32_t at);
void owners_renew(struct cursor_owners *, uint32_t at); /* the youngest from now on */

#endif
