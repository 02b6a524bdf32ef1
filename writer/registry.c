/* SPDX-License-Identifier: MIT
 * Reader processes as the writer sees them: files, ledger rows, section lines, proof of death. Contract: registry.h.
 * Control thread only.
 *
 * R1 A registration goes only when its process is proved dead (or has left by exec): its pidfd is readable, or
 *    the kernel grants a read lease on the file, which it does only when nobody has it open or mapped for
 *    writing. A closed socket is a hint to look, a timer never is.
 * R2 What the owner writes into its file decides about its own sections alone. Sizes and counts come from our
 *    side (file size when mapped, the ledger); a page that it cuts off reads as zeros (sigbus.c).
 * R3 A look at the lines is an acquire load of each, made after grace_advance: pairs with section_enter and
 *    section_exit (shm/grace.h, G1). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../shm/crash_point.h"
#include "registry_internal.h"
#include "sigbus.h"

#define UID_MAX 1024u /* registrations of one user */

static struct shm_ledger_row *row_of(const struct registry *r, uint32_t slot)
{
	return &ledger_rows(r->ledger)[slot];
}

void registration_name(uint32_t slot, char name[16])
{
	snprintf(name, 16, "%u", slot);
}

static int pidfd_of(pid_t pid, uint64_t start)
{
	int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

	/* The number may be another process's by now. */
	if (fd >= 0 && start && seg_process_start(pid) != start) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* R1. */
static bool nobody_has_it(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) != 0)
		return false;
	(void)fcntl(fd, F_SETLEASE, F_UNLCK);
	return true;
}

bool registration_dead(const struct registration *g)
{
	struct pollfd p = {.fd = g->pidfd, .events = POLLIN};

	return (g->pidfd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & POLLIN)) || nobody_has_it(g->fd);
}

static void row_clear(struct shm_ledger_row *row)
{
	atomic_store_explicit(&row->attach, 0, memory_order_release); /* last what makes it a row: first gone */
	CRASH_POINT(row_ended);
	atomic_store_explicit(&row->pid, 0, memory_order_relaxed);
	CRASH_POINT(row_pid_cleared);
	atomic_store_explicit(&row->start, 0, memory_order_relaxed);
	CRASH_POINT(row_start_cleared);
}

static void take_slot(struct registry *r, struct registration *g)
{
	r->slots[g->slot] = g;
	r->n++;
	if (r->end <= g->slot)
		r->end = g->slot + 1;
}

static void release(struct registry *r, struct registration *g)
{
	if (g->file) {
		sigbus_forget(g->slot);
		munmap((void *)(uintptr_t)g->file, g->size);
	}
	if (g->fd >= 0)
		close(g->fd);
	if (g->pidfd >= 0)
		close(g->pidfd);
	if (r->slots[g->slot] == g) {
		r->slots[g->slot] = NULL;
		r->n--;
	}
	free(g);
}

bool registration_bury(struct registry *r, struct registration *g)
{
	char name[16];

	if (!registration_let_go(r, g)) /* P1 of registry_rings.c: first */
		return false;
	registration_save_leases(r, g); /* L1 of registry_leases.c: before the file goes */
	registration_name(g->slot, name);
	unlinkat(r->instance->readers_fd, name, 0);
	CRASH_POINT(registration_unlinked);
	row_clear(row_of(r, g->slot));
	registration_clear_rings(r, g);
	release(r, g);
	return true;
}

static bool map_registration(struct registration *g)
{
	g->size = registration_size(g->n_readers, g->n_leases, g->n_rings);
	g->file = mmap(NULL, g->size, PROT_READ, MAP_SHARED, g->fd, 0);
	if (g->file == MAP_FAILED) {
		g->file = NULL;
		return false;
	}
	sigbus_guard(g->slot, g->file, g->size);
	return true;
}

/* ---- start: who is there already ---- */

/* How many lines a registration was made with. Its owner may have cut the file, or made it longer than can be mapped:
 * the file is only asked where the ledger has no row of it. */
static uint32_t lines_of(const struct shm_ledger_row *row, off_t size)
{
	uint64_t n = atomic_load_explicit(&row->n_readers, memory_order_relaxed);

	if (atomic_load_explicit(&row->attach, memory_order_relaxed) == 0)
		n = size > (off_t)SHM_PAGE ? ((uint64_t)size - SHM_PAGE) / sizeof(struct shm_line) : 1;
	return n < 1 ? 1 : n > SHM_READERS_MAX ? SHM_READERS_MAX : (uint32_t)n;
}

/* Slots of each reader's array: only the ledger's row says it, and no more than may be. */
static uint32_t leases_in(const struct shm_ledger_row *row, uint32_t n_readers)
{
	uint32_t n = atomic_load_explicit(&row->n_leases, memory_order_relaxed),
		 most = SHM_LEASES_TOTAL_MAX / n_readers;

	if (atomic_load_explicit(&row->attach, memory_order_relaxed) == 0)
		return 0;
	most = most < SHM_LEASES_MAX ? most : SHM_LEASES_MAX;
	return n < most ? n : most;
}

/* What the ledger's row says of it. A file without a row: nothing of its process is known, so it may do anything. */
static void take_row(const struct shm_ledger_row *row, off_t size, struct registration *g)
{
	g->attach = atomic_load_explicit(&row->attach, memory_order_relaxed);
	g->attached_ms = atomic_load_explicit(&row->attached_ms, memory_order_relaxed);
	g->uid = atomic_load_explicit(&row->uid, memory_order_relaxed);
	g->writes = g->attach ? (enum shm_writes)atomic_load_explicit(&row->writes, memory_order_relaxed)
			      : SHM_WRITES_UNBRACKETED;
	g->fences = atomic_load_explicit(&row->fences, memory_order_relaxed) != 0;
	memcpy(g->comm, row->comm, sizeof g->comm);
	g->comm[sizeof g->comm - 1] = 0;
	g->pid = (pid_t)atomic_load_explicit(&row->pid, memory_order_relaxed);
	g->n_readers = lines_of(row, size);
	g->n_leases = leases_in(row, g->n_readers);
}

static enum refusal_code adopt(struct registry *r, uint32_t slot, struct refusal *why)
{
	struct shm_ledger_row *row = row_of(r, slot);
	struct registration *g = calloc(1, sizeof *g);
	struct stat st = {0};
	bool usable;
	char name[16];

	if (!g)
		return refuse(why, R_FULL, "out of memory: give the daemon more");
	registration_name(slot, name);
	g->slot = slot;
	g->pidfd = -1;
	g->handed_over = true;
	g->fd = openat(r->instance->readers_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	take_slot(r, g);
	/* Only a file that is not one of ours is buried unseen: what cannot be looked at may have a living owner. */
	if ((g->fd < 0 && errno != ENOENT && errno != ELOOP) || (g->fd >= 0 && fstat(g->fd, &st) != 0))
		return refuse(why, R_BACKEND, "cannot open %s/" SEG_READERS "/%s: %s%s", r->instance->path, name,
			      strerror(errno), errno == EMFILE ? ": raise the limit of open files (LimitNOFILE)" : "");
	usable = g->fd >= 0 && S_ISREG(st.st_mode);
	/* A stranger may have the number here, and even have started in the same tick. A namespace's number is given out again
	 * when it has died; then the start's equality is what remains (pidfd_of). */
	if (r->strange_pids) {
		atomic_store_explicit(&row->pid, 0, memory_order_relaxed);
		atomic_store_explicit(&row->start, 0, memory_order_relaxed);
	}
	take_row(row, st.st_size, g);
	if (usable)
		registration_take_rings(r, g);
	if (usable && !map_registration(g))
		return refuse(why, R_BACKEND, "cannot map %s/" SEG_READERS "/%s: %s", r->instance->path, name,
			      strerror(errno));
	if (!usable || nobody_has_it(g->fd)) {
		registration_bury(r, g); /* one with rings: when they are done */
		return R_DONE;
	}
	g->pidfd = pidfd_of(g->pid, atomic_load_explicit(&row->start, memory_order_relaxed));
	g->hinted = true; /* its socket went with the last writer */
	if (!r->membarrier && !g->fences)
		return refuse(
			why, R_BACKEND,
			"membarrier(2) is refused to this process, but process %ld (%s) attached when it was not, and "
			"relies on it: allow the system call, or end that process first",
			(long)g->pid, g->comm);
	return R_DONE;
}

/* A row whose file is gone, without the writer having done it: what its process had under way nobody can know. */
static void lost(struct registry *r, struct shm_ledger_row *row)
{
	if (atomic_load_explicit(&row->writes, memory_order_relaxed) != SHM_WRITES_NONE)
		lease_book_unbracketed_left(r->book, registry_now(r));
	row_clear(row);
}

enum refusal_code registry_open(struct instance *in, const struct shm_root *root, struct shm_ledger *ledger,
				bool membarrier, uint64_t (*clock)(void *arg), void *clock_arg, struct registry **out,
				struct refusal *why)
{
	uint64_t theirs = atomic_load_explicit(&ledger->pid_namespace, memory_order_relaxed),
		 ours = seg_pid_namespace();
	struct registry *r;
	enum refusal_code rc = R_DONE;
	struct dirent *e;
	DIR *d = NULL;
	int fd;

	/* Without a /proc, or a right to it, all numbers are strange. When it cannot be read for the moment, no row is to lose
	 * its number for that. */
	if (!ours && (errno == EIO || errno == ENOMEM))
		return refuse(why, R_BACKEND, "cannot look at /proc/self/ns/pid: %s: start again", strerror(errno));
	r = calloc(1, sizeof *r);
	if (!r)
		return refuse(why, R_FULL, "out of memory: give the daemon more");
	r->instance = in;
	r->root = root;
	r->ledger = ledger;
	r->membarrier = membarrier;
	r->strange_pids = theirs && theirs != ours;
	r->clock = clock;
	r->clock_arg = clock_arg;
	*out = r;
	r->book = lease_book_open(ledger);
	r->size_blockers = 64;
	r->blockers = calloc(r->size_blockers, sizeof *r->blockers);
	if (!r->blockers || !r->book)
		return refuse(why, R_FULL, "out of memory: give the daemon more");
	sigbus_install();
	fd = openat(in->readers_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && !(d = fdopendir(fd)))
		close(fd);
	if (!d)
		return refuse(why, R_BACKEND, "cannot list %s/" SEG_READERS ": %s", in->path, strerror(errno));
	while (rc == R_DONE && (errno = 0, e = readdir(d)) != NULL) {
		char *end;
		unsigned long slot = strtoul(e->d_name, &end, 10);

		if (e->d_name[0] == '.')
			continue;
		if (*end || slot >= SHM_LEDGER_ROWS) {
			unlinkat(in->readers_fd, e->d_name, 0);
			CRASH_POINT(stranger_unlinked);
		} else {
			rc = adopt(r, (uint32_t)slot, why);
		}
	}
	if (rc == R_DONE && errno) /* whose file was not listed may live: not lost */
		rc = refuse(why, R_BACKEND, "cannot list %s/" SEG_READERS ": %s", in->path, strerror(errno));
	closedir(d);
	for (uint32_t i = 0; rc == R_DONE && i < SHM_LEDGER_ROWS; i++)
		if (!r->slots[i] && atomic_load_explicit(&row_of(r, i)->attach, memory_order_relaxed))
			lost(r, row_of(r, i));
	if (rc == R_DONE) /* last: a writer killed before finds the others still to be forgotten */
		atomic_store_explicit(&ledger->pid_namespace, ours, memory_order_relaxed);
	CRASH_POINT(pid_namespace_stored);
	return rc;
}

void registry_close(struct registry **rp)
{
	struct registry *r = *rp;

	if (!r)
		return;
	for (uint32_t i = 0; i < SHM_LEDGER_ROWS; i++)
		if (r->slots[i])
			release(r, r->slots[i]); /* the files stay: their owners live on */
	lease_book_close(&r->book);
	free(r->blockers);
	free(r->sections);
	free(r);
	*rp = NULL;
}

/* ---- attaching ---- */

static void read_comm(pid_t pid, char comm[16])
{
	char path[40];
	ssize_t n = -1;
	int fd;

	memset(comm, 0, 16);
	snprintf(path, sizeof path, "/proc/%ld/comm", (long)pid);
	fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		n = read(fd, comm, 15);
		close(fd);
	}
	if (n <= 0)
		memcpy(comm, "?", 2);
	else if (comm[n - 1] == '\n')
		comm[n - 1] = 0;
}

static void row_fill(struct registry *r, const struct registration *g)
{
	struct shm_ledger_row *row = row_of(r, g->slot);

	registration_put_rings(r, g); /* before the row: without its record a row has no rings */
	atomic_store_explicit(&row->pid, (uint64_t)g->pid, memory_order_relaxed);
	atomic_store_explicit(&row->start, g->pid > 0 ? seg_process_start(g->pid) : 0, memory_order_relaxed);
	atomic_store_explicit(&row->attached_ms, g->attached_ms, memory_order_relaxed);
	atomic_store_explicit(&row->uid, g->uid, memory_order_relaxed);
	atomic_store_explicit(&row->n_readers, g->n_readers, memory_order_relaxed);
	atomic_store_explicit(&row->n_leases, g->n_leases, memory_order_relaxed);
	atomic_store_explicit(&row->writes, (uint16_t)g->writes, memory_order_relaxed);
	atomic_store_explicit(&row->fences, g->fences, memory_order_relaxed);
	memcpy(row->comm, g->comm, sizeof row->comm);
	CRASH_POINT(row_filled);
	atomic_store_explicit(&row->attach, g->attach,
			      memory_order_release); /* last: pairs with who lists the ledger */
	CRASH_POINT(row_stored);
}

static void header_fill(const struct registry *r, const struct registration *g, struct shm_registration *h)
{
	h->abi = SHM_ABI;
	h->fingerprint = SHM_FINGERPRINT;
	memcpy(h->uuid, r->root->uuid, 16);
	h->attach = g->attach;
	h->slot = g->slot;
	h->n_readers = g->n_readers;
	h->lines_off = SHM_PAGE;
	h->line_stride = sizeof(struct shm_line);
	h->size = g->size;
	h->n_leases = g->n_leases;
	h->lease_stride = g->n_leases ? SHM_LEASE_STRIDE(g->n_leases) : 0;
	h->leases_off = g->n_leases ? registration_leases_off(g->n_readers) : 0;
	h->n_rings = g->n_rings;
	h->rings_off = g->n_rings ? registration_rings_off(g->n_readers, g->n_leases) : 0;
	h->first_ack = g->n_rings ? g->first_ack : 0;
	atomic_store_explicit(&h->fences, g->fences, memory_order_relaxed);
	atomic_store_explicit(&h->unbracketed, 0, memory_order_relaxed);
	h->monotonic_ns = seg_clock_ns(CLOCK_MONOTONIC);
	h->boottime_ns = seg_clock_ns(CLOCK_BOOTTIME);
	h->magic = SHM_MAGIC_READER;
}

static enum refusal_code make_file(struct registry *r, struct registration *g, int *fd, struct refusal *why)
{
	struct shm_registration *h;
	char name[16];

	registration_name(g->slot, name);
	unlinkat(r->instance->readers_fd, name, 0);
	CRASH_POINT(registration_cleared);
	*fd = openat(r->instance->readers_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*fd < 0)
		return refuse(why, R_BACKEND, "cannot make %s/" SEG_READERS "/%s: %s", r->instance->path, name,
			      strerror(errno));
	CRASH_POINT(registration_made);
	g->fd = openat(r->instance->readers_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	g->size = registration_size(g->n_readers, g->n_leases, g->n_rings);
	if (file_allocate(*fd, 0, g->size, false) != 0)
		return refuse(why, R_FULL, "no room for a registration of %zu bytes in %s: %s", g->size,
			      r->instance->path, strerror(errno));
	CRASH_POINT(registration_allocated);
	h = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (h == MAP_FAILED || g->fd < 0)
		return refuse(why, R_BACKEND, "cannot map a registration in %s: %s", r->instance->path,
			      strerror(errno));
	header_fill(r, g, h);
	CRASH_POINT(registration_filled);
	munmap(h, g->size);
	if (!map_registration(g))
		return refuse(why, R_BACKEND, "cannot map a registration in %s: %s", r->instance->path,
			      strerror(errno));
	for (uint32_t i = 0; g->n_leases && i < g->n_readers; i++)
		(void)leases_high(g, leases_of(g, i)); /* the page faults come now, not while writes are held back */
	for (uint32_t i = 0; i < g->n_rings; i++)
		(void)atomic_load_explicit(&ring_of(g, i)->head, memory_order_relaxed); /* likewise */
	return R_DONE;
}

/* The shape that a process asks for. */
static enum refusal_code check_shape(const struct registry_wish *wish, struct refusal *why)
{
	uint32_t n_readers = wish->n_readers, n_leases = wish->n_leases;
	enum shm_writes writes = wish->writes;
	uint64_t all = (uint64_t)n_readers * n_leases;

	if (n_readers < 1 || n_readers > SHM_READERS_MAX)
		return refuse_at(why, R_INVALID, "$.readers", "readers is %u: give 1..%u", n_readers, SHM_READERS_MAX);
	if (writes != SHM_WRITES_BRACKETED && n_leases)
		return refuse_at(why, R_INVALID, "$.leases",
				 "leases is %u, but only bracketed writes take leases: leave it out", n_leases);
	if (writes == SHM_WRITES_BRACKETED && (n_leases < 1 || n_leases > SHM_LEASES_MAX))
		return refuse_at(why, R_INVALID, "$.leases", "leases is %u: give 1..%u", n_leases, SHM_LEASES_MAX);
	if (all > SHM_LEASES_TOTAL_MAX)
		return refuse_at(
			why, R_INVALID, "$.leases",
			"leases is %u for each of %u readers, %llu in all: at most %u, give fewer of one of them",
			n_leases, n_readers, (unsigned long long)all, SHM_LEASES_TOTAL_MAX);
	return R_DONE;
}

enum refusal_code registry_attach(struct registry *r, const struct registry_peer *peer,
				  const struct registry_wish *wish, int *fd, uint32_t *slot, uint64_t *attach,
				  struct refusal *why)
{
	struct registration *g;
	uint32_t free_slot = SHM_LEDGER_ROWS, of_uid = 0;
	enum refusal_code rc;

	rc = check_shape(wish, why);
	if (rc != R_DONE)
		return rc;
	if (!r->membarrier && !wish->fences)
		return refuse_at(why, R_INVALID, "$.fences",
				 "membarrier(2) is refused to the writer: readers must fence");
	for (uint32_t i = SHM_LEDGER_ROWS; i-- > 0;) {
		if (!r->slots[i])
			free_slot = i;
		else if (r->slots[i]->uid == peer->uid)
			of_uid++;
	}
	if (of_uid >= UID_MAX)
		return refuse(why, R_LIMIT, "user %u has %u processes attached, which is the limit", peer->uid, of_uid);
	if (free_slot == SHM_LEDGER_ROWS)
		return refuse(why, R_LIMIT, "all %u registrations of this instance are taken", SHM_LEDGER_ROWS);
	g = calloc(1, sizeof *g);
	if (!g)
		return refuse(why, R_FULL, "out of memory: give the daemon more");
	*g = (struct registration){
		.slot = free_slot,
		.n_readers = wish->n_readers,
		.n_leases = wish->n_leases,
		.attach = atomic_fetch_add_explicit(&r->ledger->attach_number, 1, memory_order_relaxed) + 1,
		.attached_ms = seg_clock_ms(CLOCK_BOOTTIME),
		.fd = -1,
		.pidfd = -1,
		.pid = peer->pid,
		.uid = peer->uid,
		.writes = wish->writes,
		.fences = wish->fences,
		.connected = true};
	CRASH_POINT(attach_counted);
	*fd = -1;
	take_slot(r, g);
	read_comm(peer->pid, g->comm);
	rc = wish->cursors ? registration_make_rings(r, g, why) : R_DONE;
	if (rc == R_DONE)
		rc = make_file(r, g, fd, why);
	if (rc != R_DONE) {
		if (*fd >= 0)
			close(*fd);
		g->n_rings = 0; /* nobody has seen them */
		registration_bury(r, g);
		return rc;
	}
	g->pidfd = peer->pidfd;
	g->handed_over = true;
	row_fill(r, g);
	*slot = g->slot;
	*attach = g->attach;
	return R_DONE;
}

/* A number that was given to another process since is told by that one's start; a start that cannot be read now (no
 * descriptor) is no other one. One that cannot be seen from here has no number (0): its file alone says that it lives (R1),
 * so it is never taken for one that can be seen. */
static bool same_process(const struct shm_ledger_row *row, pid_t was, pid_t is)
{
	uint64_t start = atomic_load_explicit(&row->start, memory_order_relaxed),
		 now = was == is && was > 0 && start ? seg_process_start(is) : 0;

	return was == is && (!now || now == start);
}

enum refusal_code registry_reattach(struct registry *r, uint32_t slot, uint64_t attach,
				    const struct registry_peer *peer, struct refusal *why)
{
	struct registration *g = slot < SHM_LEDGER_ROWS ? r->slots[slot] : NULL;

	if (!g || g->attach != attach || g->uid != peer->uid)
		return refuse_at(why, R_INVALID, "$.attach",
				 "there is no registration %u with attach number %llu: attach "
				 "anew",
				 slot, (unsigned long long)attach);
	/* First: who died within the clock tick in which the one that asks has started, with its number, had the same start. */
	if (registration_dead(g)) {
		registration_bury(r, g);
		return refuse_at(why, R_INVALID, "$.attach", "the process of registration %u is dead: attach anew",
				 slot);
	}
	/* A registration is one process's: another one of the same user, which would end in its place, gets none. */
	if (!same_process(row_of(r, slot), g->pid, peer->pid))
		return refuse_at(
			why, R_INVALID, "$.attach",
			"registration %u is process %ld's, which lives, and process %ld asks for it: attach anew", slot,
			(long)g->pid, (long)peer->pid);
	if (g->pidfd >= 0)
		close(g->pidfd);
	g->pidfd = peer->pidfd;
	g->pid = peer->pid;
	g->connected = true;
	g->hinted = false;
	row_fill(r, g);
	return R_DONE;
}

void registry_hint(struct registry *r, uint32_t slot, uint64_t attach)
{
	struct registration *g = slot < SHM_LEDGER_ROWS ? r->slots[slot] : NULL;

	if (g && g->attach == attach) {
		g->connected = false;
		g->hinted = true;
		g->hint_ms = 0;
	}
}
