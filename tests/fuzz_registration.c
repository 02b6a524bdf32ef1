/* SPDX-License-Identifier: MIT
 * libFuzzer target for registrations: a process writes anything into the one file that is its own (header, section lines,
 * leases, pin rings), cuts it, lengthens it, punches holes into it; and the ledger is damaged while no writer runs. Read by
 * the writer's registry, drain and pin rings, by a start over what is there, and by what `berth` reads of the ledger.
 * Whatever it is, a write of another process stays in flight until it ends, and nothing but what the file says of a
 * partition (or of all: `unbracketed`, an overflow) holds its migration up. One thread; the clock is ours; what an input
 * left is older than the barrier in the next one.
 *
 * First byte of the input: its lowest two bits 3: the ledger is overwritten. Else the shape of a registration, then
 * operations on it (enum op). */
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shm/lease.h"
#include "../shm/segment.h"
#include "../writer/core_internal.h"
#include "../writer/cursor_rings.h"
#include "../writer/cursor_table.h"
#include "../writer/log.h"
#include "../writer/registry_internal.h"
#include "fuzz.h"

/* The tool has its own functions of these names. Whether a process lives is the kernel's business. */
#define ledger_open tool_ledger_open
#define ledger_close tool_ledger_close
#define instance_open tool_instance_open
#define instance_close tool_instance_close
#include "../tools/ledger.c"
#undef ledger_open
#undef ledger_close
#undef instance_open
#undef instance_close
bool instance_process_lives(uint64_t pid, uint64_t start)
{
	return pid == start;
}

#define BARRIER_MS 1000u
#define CAPACITY 16u
#define HONEST_LEASES 8u

enum op {
	OVERWRITE,
	OVERWRITE_LEASES,
	OVERWRITE_RINGS,
	CUT,
	LENGTHEN,
	PUNCH,
	PLANT,
	LOOK,
	WALK,
	STEP,
	SERVE,
	MOVE_G,
	N_OPS
};

static char dir[64];
static struct instance instance;
static struct core *core;
static struct cursor_table *pins;
static _Atomic uint64_t exists[(SHM_CLUSTERS_MAX + 1) / 64];
static uint64_t now_ms = 1000000;
static bool to_c2; /* where the last migration of h went */

struct process { /* a registration, mapped as its process has it */
	unsigned char *file;
	size_t size;
	int fd;
	uint32_t slot, n_readers, n_leases;
	uint64_t attach;
	enum shm_writes writes;
	bool cursors, cut;
};
static struct process honest;

static uint64_t clock_of_test(void *arg)
{
	(void)arg;
	return now_ms;
}

static bool let_go(void *arg, uint32_t slot)
{
	(void)arg;
	(void)slot;
	return true;
}

static struct registry *registry(void)
{
	return table_registry(core_table(core));
}

/* ---- up and down -------------------------------------------------------------------------------------------------- */

static enum refusal_code apply(enum operation op, const char *key, const char *text, bool force)
{
	json_t *placement = text ? json_loads(text, 0, NULL) : NULL;
	struct core_result result;
	struct refusal r = {0};
	enum refusal_code code = core_apply(core, op, key, 1, placement, force, "fuzz", &result, &r);

	json_decref(placement);
	return code;
}

static void attach(struct process *p, enum shm_writes writes, uint32_t n_readers, uint32_t n_leases, bool cursors)
{
	const struct registry_peer peer = {.pid = 77, .uid = getuid(), .pidfd = -1};
	const struct registry_wish wish = {
		.n_readers = n_readers, .n_leases = n_leases, .writes = writes, .cursors = cursors};
	struct refusal r = {0};
	struct stat st;

	*p = (struct process){.n_readers = n_readers, .n_leases = n_leases, .writes = writes, .cursors = cursors};
	HOLDS(registry_attach(registry(), &peer, &wish, &p->fd, &p->slot, &p->attach, &r) == R_DONE);
	HOLDS(fstat(p->fd, &st) == 0);
	p->size = (size_t)st.st_size;
	p->file = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	HOLDS(p->file != MAP_FAILED);
}

static enum refusal_code open_core(void)
{
	const struct core_options options = {
		.store_url = "memory:", .barrier_ms = BARRIER_MS, .new_directory = true, .monotonic_ms = clock_of_test};
	struct refusal r = {0};

	HOLDS(instance_open(dir, NULL, false, &instance, &r) == R_DONE);
	instance.small_pages = true;
	return core_open(&instance, &options, &core, &r);
}

static void start(void)
{
	const struct cursor_table_options options = {.capacity = CAPACITY, .ttl_ms = 60000};
	struct core_result result;
	struct refusal r = {0};

	snprintf(dir, sizeof(dir), "%s/i", fuzz_home());
	HOLDS(mkdir(dir, 0700) == 0 && open_core() == R_DONE);
	registry_set_rings(registry(), let_go, NULL);
	const struct table_shared shared = table_shared(core_table(core));
	HOLDS(cursor_table_open(&instance, shared.root, &options, seg_clock_ms(CLOCK_BOOTTIME), &pins, &r) == R_DONE);
	atomic_store(&exists[0], 6);
	HOLDS(core_cluster_set(core, "c1", 2, "", 0, "fuzz", &result, &r) == R_DONE);
	HOLDS(core_cluster_set(core, "c2", 2, "", 0, "fuzz", &result, &r) == R_DONE);
	HOLDS(apply(OP_SET, "h", "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}", false) == R_DONE);
	HOLDS(apply(OP_SET, "g", "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c1\"}", false) == R_DONE);
	to_c2 = false;
	attach(&honest, SHM_WRITES_BRACKETED, 1, HONEST_LEASES, false);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void leave(struct process *p)
{
	munmap(p->file, p->size);
	close(p->fd);
	p->file = NULL;
}

static void stop(void)
{
	if (honest.file)
		leave(&honest);
	cursor_table_close(&pins);
	core_close(&core);
	instance_close(&instance);
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void end(void)
{
	stop();
	fuzz_no_leak();
}

/* ---- what its owner does to a file -------------------------------------------------------------------------------- */

static size_t leases_at(const struct process *p)
{
	return registration_leases_off(p->n_readers);
}

static size_t rings_at(const struct process *p)
{
	return registration_rings_off(p->n_readers, p->n_leases);
}

/* By write(2), which does not care how long the file is now; never longer than it was made. */
static void overwrite(struct process *p, struct fuzz_input *in, size_t from, size_t to)
{
	size_t at = (size_t)fuzz_bytes(in, 2), n;
	const unsigned char *bytes = fuzz_take(in, fuzz_u8(in), &n);
	struct stat st;

	if (to <= from)
		return;
	at = from + at % (to - from);
	HOLDS(fstat(p->fd, &st) == 0);
	if (at >= (size_t)st.st_size)
		return;
	n = n < (size_t)st.st_size - at ? n : (size_t)st.st_size - at;
	HOLDS(pwrite(p->fd, bytes, n, (off_t)at) == (ssize_t)n);
}

/* A lease of a partition, whose hash nobody would guess. */
static void plant(struct process *p, struct fuzz_input *in)
{
	unsigned which = fuzz_u8(in), slot = fuzz_u8(in), kind = fuzz_u8(in);
	uint64_t ago = fuzz_bytes(in, 2);
	const char *key = which & 1 ? "h" : "g";
	uint64_t entry[2] = {table_hash(core_table(core), key, 1), lease_state(kind & 1 ? LEASE_OPEN : LEASE_UNKNOWN,
									       kind & 2 ? now_ms + ago : now_ms - ago)};
	uint32_t high = kind & 4 ? UINT32_MAX : slot + 1;
	size_t array;
	struct stat st;

	if (!p->n_leases)
		return;
	array = leases_at(p) + (which >> 1) % p->n_readers * SHM_LEASE_STRIDE(p->n_leases);
	HOLDS(fstat(p->fd, &st) == 0);
	if ((size_t)st.st_size < p->size)
		return;
	slot %= p->n_leases + 1; /* one behind the last, too */
	if (array + sizeof(struct shm_leases) + (slot + 1) * sizeof(entry) > p->size)
		return;
	HOLDS(pwrite(p->fd, entry, sizeof(entry), (off_t)(array + sizeof(struct shm_leases) + slot * sizeof(entry))) ==
	      sizeof(entry));
	HOLDS(pwrite(p->fd, &high, sizeof(high), (off_t)array) == sizeof(high));
}

/* ---- what the writer makes of it ---------------------------------------------------------------------------------- */

static int judge_row(void *arg, const struct registry_row *row)
{
	const struct process *p = arg;
	uint64_t last = 0;

	HOLDS(row->n_open <= row->n_readers && row->n_leases_shown <= REGISTRY_LEASES_SHOWN);
	HOLDS(row->n_leases + row->n_unknown <= (uint64_t)row->n_readers * row->max_leases);
	for (uint32_t i = 0; i < row->n_open; i++)
		HOLDS(row->sections[i].reader < row->n_readers);
	for (uint32_t i = 0; i < row->n_leases_shown; i++) {
		HOLDS(row->leases[i].reader < row->n_readers && row->leases[i].since_ms >= last &&
		      row->leases[i].since_ms <= now_ms);
		last = row->leases[i].since_ms;
	}
	HOLDS(row->overflow_ms <= now_ms);
	if (row->slot == honest.slot)
		HOLDS(row->attach == honest.attach && row->max_leases == HONEST_LEASES && !row->unbracketed);
	else
		HOLDS(row->attach == p->attach && row->n_readers == p->n_readers && row->max_leases == p->n_leases);
	return 0;
}

static void serve(const struct process *p)
{
	const struct table_shared shared = table_shared(core_table(core));
	const struct cursor_desk desk = {.table = pins, .ledger = shared.ledger, .exists = exists};
	struct registry_rings rings;
	struct cursor_rings served;

	if (!registry_rings(registry(), p->slot, p->attach, &rings)) {
		HOLDS(!p->cursors);
		return;
	}
	HOLDS(p->cursors && rings.n == p->n_readers);
	served = (struct cursor_rings){.file = rings.file,
				       .rings = rings.rings,
				       .acks = shared.acks + rings.first_ack,
				       .n = rings.n,
				       .first_ack = rings.first_ack};
	HOLDS(cursor_rings_high(&served) <= rings.n);
	for (uint32_t i = 0; i < rings.n; i++) {
		for (unsigned turn = 0; cursor_ring_pending(&served, i); turn++) {
			/* nobody writes meanwhile: it ends */
			HOLDS(turn <= SHM_RING_ENTRIES / 64 + 1);
			HOLDS(cursor_ring_serve(&served, i, 64, &desk) <= 64);
		}
	}
	HOLDS(cursor_table_count(pins) <= CAPACITY);
	HOLDS(cursor_table_cluster_uses(pins, 1) + cursor_table_cluster_uses(pins, 2) == cursor_table_count(pins));
}

static void look(void)
{
	registry_look(registry());
	registry_lowest(registry(), 1);
	registry_bury(registry());
	HOLDS(registry_count(registry()) == 2);
}

static void operate(struct process *p, struct fuzz_input *in)
{
	off_t at;

	switch (fuzz_u8(in) % N_OPS) {
	case OVERWRITE:
		overwrite(p, in, 0, p->size);
		break;
	case OVERWRITE_LEASES:
		overwrite(p, in, leases_at(p), rings_at(p));
		break;
	case OVERWRITE_RINGS:
		overwrite(p, in, rings_at(p), p->size);
		break;
	case CUT:
		at = (off_t)(fuzz_bytes(in, 3) % p->size);
		p->cut = true;
		HOLDS(ftruncate(p->fd, at) == 0);
		break;
	case LENGTHEN:
		at = (off_t)p->size + (off_t)fuzz_bytes(in, 3) * 100;
		HOLDS(ftruncate(p->fd, at) == 0);
		break;
	case PUNCH:
		at = (off_t)(fuzz_bytes(in, 3) % p->size);
		(void)fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 1 + (off_t)fuzz_bytes(in, 2));
		break;
	case PLANT:
		plant(p, in);
		break;
	case LOOK:
		look();
		break;
	case WALK:
		registry_walk(registry(), judge_row, p);
		break;
	case STEP:
		now_ms += fuzz_u8(in);
		core_step(core, 1000);
		break;
	case SERVE:
		serve(p);
		break;
	case MOVE_G: /* its own partition, from any state: it may be refused */
		apply(OP_BEGIN, "g", fuzz_u8(in) & 1 ? "{\"cluster\":\"c2\"}" : "{\"cluster\":\"c1\"}", false);
		apply(OP_CUTOVER, "g", NULL, false);
		apply(OP_COMPLETE, "g", NULL, fuzz_u8(in) & 1);
		break;
	}
}

/* May the file be a reason why a partition's migration waits? By the bytes alone. */
static bool holds_up(const struct process *p, const char *key)
{
	struct shm_registration h = {0};
	uint64_t hash = lease_hash(table_hash(core_table(core), key, 1));

	if (p->cut || p->writes == SHM_WRITES_UNBRACKETED)
		return true;
	if (pread(p->fd, &h, sizeof(h), 0) != sizeof(h) || atomic_load(&h.unbracketed))
		return true;
	for (uint32_t i = 0; p->n_leases && i < p->n_readers; i++) {
		off_t at = (off_t)(leases_at(p) + i * SHM_LEASE_STRIDE(p->n_leases));
		struct shm_leases a;
		uint32_t high;
		uint64_t slot[2], overflow;

		HOLDS(pread(p->fd, &a, sizeof(a), at) == sizeof(a));
		high = atomic_load(&a.high) < p->n_leases ? atomic_load(&a.high) : p->n_leases;
		overflow = atomic_load(&a.overflow_ms);
		if (overflow && !lease_old(overflow < now_ms ? overflow : now_ms, BARRIER_MS, now_ms))
			return true;
		for (uint32_t s = 0; s < high; s++) {
			uint64_t ended;

			HOLDS(pread(p->fd, slot, sizeof(slot), at + (off_t)(sizeof(a) + s * sizeof(slot))) ==
			      sizeof(slot));
			ended = lease_time(slot[1]) < now_ms ? lease_time(slot[1]) : now_ms;
			if (slot[0] == hash &&
			    (lease_kind(slot[1]) != LEASE_UNKNOWN || !lease_old(ended, BARRIER_MS, now_ms)))
				return true;
		}
	}
	return false;
}

/* A migration of h, in which the honest process has a write, then not any more. */
static void judge_migration(const struct process *p)
{
	struct shm_leases *own = (struct shm_leases *)(void *)(honest.file + leases_at(&honest));
	enum refusal_code code;

	to_c2 = !to_c2;
	HOLDS(apply(OP_BEGIN, "h", to_c2 ? "{\"cluster\":\"c2\"}" : "{\"cluster\":\"c1\"}", false) == R_DONE);
	lease_take(own, 3, table_hash(core_table(core), "h", 1), lease_tag(1), now_ms);
	HOLDS(apply(OP_CUTOVER, "h", NULL, false) == R_DONE);
	HOLDS(apply(OP_COMPLETE, "h", NULL, false) == R_BARRIER_PENDING);
	core_step(core, 1000);
	HOLDS(apply(OP_COMPLETE, "h", NULL, false) == R_BARRIER_PENDING);
	lease_clear(&lease_slots(own)[3]);
	code = apply(OP_COMPLETE, "h", NULL, false);
	HOLDS(code == R_DONE || code == R_BARRIER_PENDING);
	if (!p->cut)
		HOLDS((code == R_BARRIER_PENDING) == holds_up(p, "h"));
	if (code != R_DONE)
		HOLDS(apply(OP_COMPLETE, "h", NULL, true) == R_DONE);
}

static void registration(unsigned shape, struct fuzz_input *in)
{
	static const enum shm_writes writes[] = {SHM_WRITES_NONE, SHM_WRITES_BRACKETED, SHM_WRITES_BRACKETED,
						 SHM_WRITES_UNBRACKETED};
	static const uint32_t leases[] = {1, 7, 8, 200};
	enum shm_writes w = writes[shape >> 2 & 3];
	struct process p;
	struct registry *r = registry();

	now_ms += 1000 * BARRIER_MS; /* what others have left counts no more */
	core_step(core, 1000);
	core_step(core, 1000);
	attach(&p, w, 1 + (shape >> 4 & 1) * 4, w == SHM_WRITES_BRACKETED ? leases[shape >> 6 & 3] : 0, shape & 32);
	for (unsigned n = 0; in->left && n < 64; n++)
		operate(&p, in);
	serve(&p);
	judge_migration(&p);
	registry_walk(r, judge_row, &p);
	/* it dies, and whatever its file says, it goes */
	leave(&p);
	registry_hint(r, p.slot, p.attach);
	for (unsigned n = 0; registry_count(r) > 1; n++) {
		HOLDS(n < 20);
		registry_bury(r);
		core_step(core, 1000);
	}
	apply(OP_ABORT, "g", NULL, true); /* when it is in a migration */
}

/* ---- the ledger --------------------------------------------------------------------------------------------------- */

static void read_ledger(void)
{
	const struct tool tool = {.dir_fd = instance.dir_fd, .tables_fd = -1};
	struct ledger l;

	if (tool_ledger_open(&tool, &l) != BERTH_OK)
		return;
	HOLDS(ledger_count(&l) <= l.n_rows);
	for (uint32_t i = 0; i < l.n_rows; i++) {
		struct ledger_reader r;

		if (ledger_read(&l, i, &r))
			HOLDS(strlen(r.comm) < sizeof(r.comm) && ledger_writes(r.writes));
	}
	tool_ledger_close(&l);
}

static void damaged_ledger(struct fuzz_input *in)
{
	static const size_t places[] = {0, SHM_PAGE, SHM_PAGE + SHM_LEDGER_ROWS * sizeof(struct shm_ledger_row),
					SHM_PAGE + SHM_LEDGER_ROWS * sizeof(struct shm_ledger_row) +
						SHM_LEDGER_CUTOVERS * sizeof(struct shm_ledger_cutover)};
	struct stat st;
	int fd;

	cursor_table_close(&pins);
	core_close(&core);
	fd = openat(instance.dir_fd, SEG_LEDGER, O_RDWR | O_CLOEXEC);
	HOLDS(fd >= 0 && fstat(fd, &st) == 0);
	while (in->left) {
		size_t from = places[fuzz_u8(in) % 4], at = (size_t)fuzz_bytes(in, 2), n;
		const unsigned char *bytes = fuzz_take(in, fuzz_u8(in), &n);

		if (from + at < (size_t)st.st_size)
			HOLDS(pwrite(fd, bytes, n, (off_t)(from + at)) == (ssize_t)n);
	}
	close(fd);
	read_ledger();
	instance_close(&instance);
	if (open_core() == R_DONE) {
		core_step(core, 1000);
		registry_look(registry());
		core_history(core, NULL, 0, 10, &(struct store_visitor){0}, &(struct refusal){0});
		now_ms += 100 * BARRIER_MS;
		core_step(core, 1000);
	}
	stop();
	start();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return fuzz_keeps_state(argc, argv);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	struct fuzz_input in = {data, size};
	unsigned shape = fuzz_u8(&in);

	if (!dir[0]) {
		log_open(LEVEL_ERROR);
		json_object_seed(1);
		start();
		atexit(end);
	}
	if ((shape & 3) == 3)
		damaged_ledger(&in);
	else
		registration(shape, &in);
	return 0;
}
