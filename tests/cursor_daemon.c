/* SPDX-License-Identifier: MIT
 * cursor_daemon.h. */
#include "cursor_daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void clusters(struct pin_place *p)
{
	wire_open(&p->admin, &p->d, WIRE_ADMIN);
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&p->admin, "cluster.set", "{s:s}", "id", "c2");
}

int pin_setup(void **state)
{
	struct pin_place *p = calloc(1, sizeof(*p));

	daemon_make(&p->d, *state);
	*state = p;
	daemon_start(&p->d, NULL);
	clusters(p);
	return 0;
}

int pin_teardown(void **state)
{
	struct pin_place *p = *state;

	pin_detach(p);
	wire_close(&p->admin);
	daemon_remove(&p->d);
	free(p);
	return 0;
}

void pin_restart_with(struct pin_place *p, const char *const *options)
{
	wire_close(&p->admin);
	daemon_start_with(&p->d, options);
	clusters(p);
}

void pin_attach(struct pin_place *p)
{
	const struct berth_attach_options options = {.size = sizeof(options),
						     .writes = BERTH_WRITES_NONE,
						     .cursors = BERTH_CURSORS_PIN,
						     .max_readers = 2,
						     .wait_ms = DAEMON_MS};

	assert_int_equal(berth_attach(p->d.dir, &options, &p->b), BERTH_OK);
	assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
}

void pin_detach(struct pin_place *p)
{
	if (!p->b)
		return;
	berth_reader_close(&p->r);
	berth_detach(&p->b);
}

static size_t name_of(char id[64], const char *what, unsigned i)
{
	return (size_t)snprintf(id, 64, "%s-%u", what, i);
}

int pin_one(struct pin_place *p, const char *what, unsigned i, const char *owner, uint16_t cluster, uint32_t ttl_ms)
{
	char id[64];
	size_t n = name_of(id, what, i);

	return berth_cursor_pin(p->r, id, n, cluster, owner, strlen(owner), ttl_ms, PIN_MS);
}

int pin_async(struct pin_place *p, const char *what, unsigned i, const char *owner, uint16_t cluster)
{
	char id[64];
	size_t n = name_of(id, what, i);

	return berth_cursor_pin(p->r, id, n, cluster, owner, strlen(owner), 0, 0);
}

int pin_resolve(struct pin_place *p, const char *what, unsigned i, const char *owner, uint16_t *cluster)
{
	char id[64];
	size_t n = name_of(id, what, i);

	return berth_cursor_resolve(p->r, id, n, owner, strlen(owner), 0, cluster);
}

int pin_release(struct pin_place *p, const char *what, unsigned i, const char *owner)
{
	char id[64];
	size_t n = name_of(id, what, i);

	return berth_cursor_release(p->r, id, n, owner, strlen(owner));
}

void pin_await(struct pin_place *p, const char *what, unsigned i, const char *owner, uint16_t cluster)
{
	uint64_t deadline = 0;
	uint16_t is = 0;

	while (within(&deadline))
		if (pin_resolve(p, what, i, owner, &is) == BERTH_OK) {
			assert_int_equal(is, cluster);
			return;
		}
	fail_msg("%s-%u of %s was not pinned in time", what, i, owner);
}

json_int_t pin_status(struct pin_place *p, const char *name)
{
	json_t *status = wire_ok(&p->admin, "status", NULL), *cursors = json_object_get(status, "cursors");
	json_int_t n = json_is_boolean(json_object_get(cursors, name)) ? is_true(cursors, name) : int_of(cursors, name);

	json_decref(status);
	return n;
}

void pin_await_status(struct pin_place *p, const char *name, json_int_t value)
{
	uint64_t deadline = 0;

	while (within(&deadline))
		if (pin_status(p, name) == value)
			return;
	fail_msg("status never said %s %lld, but %lld", name, (long long)value, (long long)pin_status(p, name));
}

void pin_await_readers(struct pin_place *p, json_int_t n)
{
	uint64_t deadline = 0;

	while (within(&deadline)) {
		json_t *status = wire_ok(&p->admin, "status", NULL);
		json_int_t is = int_of(status, "readers");

		json_decref(status);
		if (is == n)
			return;
	}
	fail_msg("there were never %lld registrations", (long long)n);
}

/* Of all threads of the daemon: how many have this text in a file of theirs. */
static unsigned count_threads(const struct pin_place *p, const char *file, const char *text, unsigned *all)
{
	DIR *d = daemon_proc(&p->d, "task");
	char path[320], line[400];
	struct dirent *e;
	unsigned n = 0;

	*all = 0;
	while ((e = readdir(d)) != NULL) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%s/%s", p->d.pid, e->d_name, file);
		f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
		if (!f)
			continue;
		++*all;
		n += fgets(line, sizeof(line), f) && strstr(line, text);
		fclose(f);
	}
	closedir(d);
	return n;
}

bool pin_thread_runs(const struct pin_place *p)
{
	unsigned all;

	return count_threads(p, "comm", "berthd-cursors", &all) == 1;
}

void pin_stop(const struct pin_place *p)
{
	uint64_t deadline = 0;
	unsigned all;

	assert_int_equal(kill(p->d.pid, SIGSTOP), 0);
	while (within(&deadline))
		if (count_threads(p, "stat", ") T ", &all) == all)
			return;
	fail_msg("the daemon did not stop");
}

/* ---- a process that the test plays ---- */

void player_attach(struct player *q, const struct pin_place *p, unsigned readers)
{
	const struct shm_root *root = NULL;
	struct stat st;
	json_t *answer;
	int dir;

	memset(q, 0, sizeof(*q));
	wire_open(&q->w, &p->d, WIRE_LOOK);
	answer = wire_ok(&q->w, "attach", "{s:i, s:i, s:i, s:s, s:b, s:I, s:I, s:b}", "version", 1, "pid",
			 (int)getpid(), "readers", (int)readers, "writes", "none", "fences", 0, "monotonic_ns",
			 (json_int_t)seg_clock_ns(CLOCK_MONOTONIC), "boottime_ns",
			 (json_int_t)seg_clock_ns(CLOCK_BOOTTIME), "cursors", 1);
	q->slot = (uint32_t)int_of(answer, "slot");
	q->attach = (uint64_t)int_of(answer, "attach");
	json_decref(answer);
	q->fd = q->w.passed;
	q->bell = q->w.bell;
	assert_true(q->fd >= 0 && q->bell >= 0);
	assert_int_equal(fstat(q->fd, &st), 0);
	q->size = (size_t)st.st_size;
	q->reg = mmap(NULL, q->size, PROT_READ | PROT_WRITE, MAP_SHARED, q->fd, 0);
	assert_ptr_not_equal(q->reg, MAP_FAILED);
	atomic_store(&q->reg->rings_high, readers);
	assert_int_equal(seg_dir_open(p->d.dir, &dir, NULL), BERTH_OK);
	assert_int_equal(seg_root_map(dir, &root), BERTH_OK);
	assert_int_equal(seg_ledger_map(dir, root, &q->ledger), BERTH_OK);
	seg_root_unmap(&root);
	close(dir);
}

void player_die(struct player *q)
{
	munmap(q->reg, q->size);
	close(q->fd);
	close(q->bell);
	seg_ledger_unmap(&q->ledger);
	wire_close(&q->w);
}

struct shm_ring *player_ring(const struct player *q, unsigned ring)
{
	return (struct shm_ring *)((char *)q->reg + q->reg->rings_off + (size_t)ring * SHM_RING_STRIDE);
}

uint64_t player_ack(const struct player *q, unsigned ring)
{
	return atomic_load_explicit(seg_ledger_acks(q->ledger) + q->reg->first_ack + ring, memory_order_acquire);
}

void player_push(const struct player *q, unsigned ring, enum shm_pin_op op, uint64_t hash, uint64_t owner,
		 uint32_t cluster, uint64_t expiry_ms)
{
	struct shm_ring *at = player_ring(q, ring);
	uint64_t head = atomic_load_explicit(&at->head, memory_order_relaxed);
	struct shm_ring_entry *e = (struct shm_ring_entry *)(at + 1) + head % SHM_RING_ENTRIES;

	atomic_store_explicit(&e->hash[0], hash, memory_order_relaxed);
	atomic_store_explicit(&e->hash[1], hash, memory_order_relaxed);
	atomic_store_explicit(&e->owner, owner, memory_order_relaxed);
	atomic_store_explicit(&e->expiry, expiry_ms, memory_order_relaxed);
	atomic_store_explicit(&e->op, op, memory_order_relaxed);
	atomic_store_explicit(&e->cluster, cluster, memory_order_relaxed);
	atomic_store_explicit(&at->head, head + 1, memory_order_release);
}

void player_ring_bell(const struct player *q)
{
	const uint64_t one = 1;

	assert_int_equal(write(q->bell, &one, sizeof(one)), sizeof(one));
}

unsigned player_await(const struct player *q, unsigned ring, uint64_t done)
{
	uint64_t deadline = 0, ack = 0;

	while (within(&deadline)) {
		ack = player_ack(q, ring);
		if (SHM_ACK_DONE(ack) >= done)
			return SHM_ACK_RESULT(ack);
	}
	fail_msg("%llu entries of ring %u are done, not %llu", (unsigned long long)SHM_ACK_DONE(ack), ring,
		 (unsigned long long)done);
	return 0;
}

uint64_t player_later(void)
{
	return seg_clock_ms(CLOCK_BOOTTIME) + 60000;
}

unsigned player_find(const struct pin_place *p, uint64_t hash, uint64_t owner)
{
	const uint64_t both[2] = {hash, hash};
	const struct shm_root *root = NULL;
	struct cursor_map map;
	uint64_t is, word;
	enum cursor_found found;
	int dir, tables;

	assert_int_equal(seg_dir_open(p->d.dir, &dir, NULL), BERTH_OK);
	assert_int_equal(seg_root_map(dir, &root), BERTH_OK);
	assert_int_equal(seg_tables_open(dir, &tables), BERTH_OK);
	assert_int_equal(cursor_map_open(tables, root, atomic_load(&root->cursor_generation), NULL, &map), BERTH_OK);
	do
		found = cursor_find(&map, both, &is, &word);
	while (found == CURSOR_CHANGED);
	cursor_map_close(&map);
	close(tables);
	close(dir);
	seg_root_unmap(&root);
	return found == CURSOR_HIT && is == owner ? cursor_cluster(word) : 0;
}
