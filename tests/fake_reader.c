/* SPDX-License-Identifier: MIT
 * fake_reader.h, by the writer's own registry and lease.h. */
#include "fake_reader.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../writer/registry.h"

void fake_attach_as(struct core_place *p, struct fake_reader *f, uint32_t n_readers, uint32_t n_leases,
		    enum shm_writes writes, pid_t pid)
{
	struct registry *registry = table_registry(core_table(p->core));
	const struct registry_peer peer = {.pid = pid, .uid = getuid(), .pidfd = -1};
	struct stat st;
	const struct registry_wish wish = {.n_readers = n_readers,
					   .n_leases = n_leases,
					   .writes = writes,
					   .fences = !table_shared(core_table(p->core)).membarrier};

	*f = (struct fake_reader){.n_leases = n_leases};
	assert_ok(registry_attach(registry, &peer, &wish, &f->fd, &f->slot, &f->attach, &p->r));
	assert_int_equal(fstat(f->fd, &st), 0);
	f->size = (size_t)st.st_size;
	f->file = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	assert_ptr_not_equal(f->file, MAP_FAILED);
}

void fake_attach(struct core_place *p, struct fake_reader *f, uint32_t n_readers, uint32_t n_leases, pid_t pid)
{
	fake_attach_as(p, f, n_readers, n_leases, n_leases ? SHM_WRITES_BRACKETED : SHM_WRITES_UNBRACKETED, pid);
}

void fake_die(struct fake_reader *f)
{
	munmap(f->file, f->size);
	close(f->fd);
	f->file = NULL;
}

void fake_hang_up(struct core_place *p, const struct fake_reader *f)
{
	registry_hint(table_registry(core_table(p->core)), f->slot, f->attach);
}

struct shm_leases *fake_array(const struct fake_reader *f, uint32_t reader)
{
	return (struct shm_leases *)((char *)f->file + f->file->leases_off + (size_t)reader * f->file->lease_stride);
}

struct shm_lease *fake_slot(const struct fake_reader *f, uint32_t reader, uint32_t index)
{
	return &lease_slots(fake_array(f, reader))[index];
}

void fake_begin(struct core_place *p, const struct fake_reader *f, uint32_t reader, uint32_t index, const char *key)
{
	lease_take(fake_array(f, reader), index, table_hash(core_table(p->core), key, strlen(key)), lease_tag(index),
		   p->now_ms);
}

void fake_done(const struct fake_reader *f, uint32_t reader, uint32_t index)
{
	lease_clear(fake_slot(f, reader, index));
}

void fake_unknown(const struct fake_reader *f, uint32_t reader, uint32_t index, uint64_t end_ms)
{
	lease_end_unknown(fake_slot(f, reader, index), end_ms);
}

void fake_overflow(const struct fake_reader *f, uint32_t reader, uint32_t index, uint64_t end_ms)
{
	lease_overflow(fake_array(f, reader), fake_slot(f, reader, index), end_ms);
}

void start_moving(struct core_place *p, const char *key)
{
	done(p, OP_SET, key, on("c1"));
	done(p, OP_BEGIN, key, on("c2"));
}

void fake_gone(struct core_place *p, struct fake_reader *f)
{
	uint32_t before = registry_count(table_registry(core_table(p->core)));

	fake_die(f);
	fake_hang_up(p, f);
	for (unsigned i = 0; i < 3; i++)
		core_step(p->core, 1000);
	assert_int_equal(registry_count(table_registry(core_table(p->core))), before - 1);
}
