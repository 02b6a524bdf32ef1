/* SPDX-License-Identifier: MIT
 * Stops the daemon and maps its files writable: stand_in.h. Called by seen.c and grace.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/index.h"
#include "stand_in.h"

/* seg_root_map and seg_table_map check what they map, but for reading alone: this maps the same file once more. */
static void *map_writable(int dir_fd, const char *name, size_t size)
{
	int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC);
	void *m = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (m == MAP_FAILED)
		fail("%s of the instance cannot be mapped to be written: %s; run as the daemon's user", name,
		     strerror(errno));
	close(fd);
	return m;
}

void stand_in_make(struct stand_in *s, const struct daemon *d)
{
	const struct shm_root *root;
	char name[64];
	int tables_fd, spare = -1, rc;

	s->d = d;
	rc = seg_dir_open(d->dir, &s->dir_fd, NULL);
	if (rc == BERTH_OK)
		rc = seg_root_map(s->dir_fd, &root);
	if (rc == BERTH_OK)
		rc = seg_tables_open(s->dir_fd, &tables_fd);
	if (rc == BERTH_OK)
		rc = seg_table_map(tables_fd, root, atomic_load_explicit(&root->termgen, memory_order_acquire), &spare,
				   false, &s->map);
	if (rc != BERTH_OK)
		fail("the files in %s cannot be mapped: code %d", d->dir, rc);
	snprintf(name, sizeof(name), SEG_TABLES "/table.%u", s->map.generation);
	s->root = map_writable(s->dir_fd, "root", SHM_PAGE);
	s->table = map_writable(s->dir_fd, name, s->map.size);
	seg_root_unmap(&root);
	close(tables_fd);
}

void stand_in_remove(struct stand_in *s)
{
	munmap(s->table, s->map.size);
	munmap(s->root, SHM_PAGE);
	seg_table_unmap(&s->map);
	close(s->dir_fd);
}

void stand_in_begin(const struct stand_in *s)
{
	int status;

	if (kill(s->d->pid, SIGSTOP) != 0 || waitpid(s->d->pid, &status, WUNTRACED) != s->d->pid || !WIFSTOPPED(status))
		fail("the daemon in %s has ended; %s tells why", s->d->dir, s->d->log);
	if (atomic_load_explicit(&s->root->termgen, memory_order_acquire) != s->map.termgen)
		fail("the daemon in %s has made another table meanwhile; measure with fewer changes", s->d->dir);
}

void stand_in_end(const struct stand_in *s)
{
	kill(s->d->pid, SIGCONT);
}

_Atomic uint64_t *stand_in_word(const struct stand_in *s, const char *key, size_t len)
{
	const struct shm_entry *e;
	uint64_t word;

	if (index_find(&s->map, key, len, hash_key(s->root->secret, key, len), false, &e, &word) <= 0)
		fail("%.*s has no entry in %s", (int)len, key, s->d->dir);
	return &((struct shm_entry *)(void *)(s->table + ((const char *)e - (const char *)s->map.table)))->word;
}
