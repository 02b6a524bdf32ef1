/* SPDX-License-Identifier: MIT
 * The file `mirrored` in the instance's directory: by which mirror packet programs may answer. It has the uuid of its root,
 * the boot, and its number among the kernel's maps (mirror_id). It is there before the first enable, outlives the root, and
 * goes when no mirror is left, nor one that went with leases open. Where it is not, no mirror ever answered, and a writer that
 * may not look at the pins starts. Called by mirror_follow.c; control thread only.
 *
 * G1 At most one mirror of a root answers, and it is the one that the file names. Number 0 is in its place from when no
 *    program answers by it and the ledger says what was under way, until the next one is named: so before its pins go, and
 *    a writer that is killed between two of them is followed by one that need not look for it. */
#ifndef BERTH_WRITER_MIRROR_MARK_H
#define BERTH_WRITER_MIRROR_MARK_H

#include "table_internal.h"

#define MIRROR_MARK "mirrored"
#define MIRROR_SILENT 0u           /* number of a mirror by which nothing answers any more */
#define MIRROR_NOT_TOLD UINT32_MAX /* the file does not say which, or cannot be read */

struct mirror_mark {
	bool there;
	int error;        /* errno: it cannot be read */
	uint8_t uuid[16]; /* of the root: this one's or, when a new one was made since, the one's before */
	uint32_t id;
};

struct mirror_mark mirror_mark_read(const struct table *);
/* Whole: a writer that is killed leaves this one or the one before. 0, or -1 with errno. */
int mirror_mark_write(const struct table *, const uint8_t uuid[16], uint32_t id);

#endif
