/* SPDX-License-Identifier: MIT
 * What registry.c (who is there: files, rows, attaching, proof of death) and registry_look.c (what they are in: section
 * lines) share. Control thread only. */
#ifndef BERTH_WRITER_REGISTRY_INTERNAL_H
#define BERTH_WRITER_REGISTRY_INTERNAL_H

#include "table_internal.h"

struct registration {
	uint32_t slot, n_readers;
	uint64_t attach, attached_ms;
	const struct shm_registration *file;
	size_t size;
	int fd, pidfd;
	pid_t pid;
	uid_t uid;
	enum shm_writes writes;
	bool fences, connected, suspect, hinted;
	uint64_t hint_ms; /* when to look at a hinted one */
	char comm[16];
};

struct blocker {
	uint64_t line;
	uint32_t slot;
};

struct registry {
	struct instance *instance;
	const struct shm_root *root;
	struct shm_ledger *ledger;
	bool membarrier;
	uint32_t n;
	struct registration *slots[SHM_LEDGER_ROWS];
	struct blocker *blockers; /* lines that were in a section at the last look */
	size_t n_blockers, size_blockers;
	struct registry_section *sections; /* for registry_walk */
	size_t size_sections;
	uint64_t (*held)(void *arg, uint64_t line);
	void *held_arg;
};

static inline const struct shm_line *line_of(const struct registration *g, uint32_t i)
{
	return (const struct shm_line *)((const char *)g->file + SHM_PAGE) + i;
}

/* R1 of registry.c: is its process proved dead? */
bool registration_dead(const struct registration *);
/* File, row and memory go. */
void registration_bury(struct registry *, struct registration *);

#endif
