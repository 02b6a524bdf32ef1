/* SPDX-License-Identifier: MIT
 * Rows of the table, copied out of shared memory and checked after the copy, and walks over all of them. */
#ifndef BERTH_TOOLS_WALK_H
#define BERTH_TOOLS_WALK_H

#include <stdio.h>

#include "../shm/details.h"
#include "../shm/word.h"
#include "tool.h"

struct placement {                                               /* a private copy */
	_Alignas(struct shm_detail) char record[SHM_RECORD_MAX]; /* a struct shm_detail, whole and checked */
	char cluster[SHM_CLUSTER_ID_MAX + 1];
};

static inline const struct shm_detail *placement_detail(const struct placement *p)
{
	return (const struct shm_detail *)(const void *)p->record;
}

struct row {
	char key[SHM_KEY_MAX + 1];
	size_t key_len;
	uint64_t word;           /* what decides; all of the row was true while it stood */
	struct placement at, to; /* to: when the phase is not PHASE_SETTLED */
};

struct cluster_copy {
	unsigned number;
	char id[SHM_CLUSTER_ID_MAX + 1];
	char endpoint[SHM_ENDPOINT_MAX + 1];
};

enum row_result { ROW_OK, ROW_NONE /* no live entry */, ROW_DAMAGED, ROW_RESTLESS /* changed under every look */ };
/* Inside a section. */
enum row_result row_read(const struct seg_map *, uint32_t slot, struct row *);
enum row_result row_read_default(const struct seg_map *, struct row *); /* key_len 0 */
enum row_result cluster_read(const struct seg_map *, unsigned number, struct cluster_copy *);

const char *row_mode(unsigned kind);   /* "dedicated-index", …; "?" */
const char *row_phase(unsigned phase); /* "settled", …; "?" */
/* The state of a partition in the form of the sockets: {"at": placement} or {"phase", "at", "to"}. New reference. */
json_t *row_state(const struct row *);

/* All rows, sorted by partition id (as bytes). Rows that come or go meanwhile may be told or not; each row told was
 * true at an instant. `each` writes to `out`, inside a section: memory, never a file; `batch` is called after the
 * section, when what `each` wrote counts, and may take its time. *n_damaged: rows that were left out. EXIT_DONE or what
 * tool_fail returned. Memory: 16 bytes a row, and a batch of text. */
struct walk {
	void (*each)(void *arg, const struct row *, FILE *out);
	void (*batch)(void *arg, const char *text, size_t len);
	void (*discard)(
		void *arg); /* what `each` did since the last batch does not count; NULL: it wrote to out alone */
	void *arg;
};
int walk_rows(struct tool *, const struct walk *, uint64_t *n_damaged);
/* All clusters, by id; *out is malloc's. EXIT_DONE or what tool_fail returned. */
int walk_clusters(struct tool *, struct cluster_copy **out, size_t *n, uint64_t *n_damaged);
/* The exit code after a walk: EXIT_DONE, or EXIT_DAMAGE with a message when rows were left out. */
int walk_verdict(const struct tool *, uint64_t n_damaged);

#endif
