/* SPDX-License-Identifier: MIT
 * A member of the instance that rewrites its own registration without a pause, with random bytes: the writer, the table
 * and other readers go on, and nobody's migration waits for anything but what such a file may say. 81-spoiled.c has files
 * that were spoiled once, 33-drain-lies.c what each lie means. */
#include "child.h"
#include "drain_place.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../shm/layout.h"
#include "../shm/segment.h"

#define READERS 4u
#define LEASES 256u
#define MIGRATIONS 12
#define MIGRATIONS_HELD_UP 4 /* those that may each take a barrier */
#define BARRIER "3000"       /* ms */
#define BARRIER_MS 3000

static struct daemon *target;
static int told[2];

/* Shared with the spoilers: what each did to its file, and took effect. */
enum { WROTE, PUNCHED, CUT, STORED, N_DEEDS };
static _Atomic unsigned long *deeds;

static uint64_t chance(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* The handshake of libberth, which would keep the descriptor: PROTOCOL.md, attach. */
static int attach_by_hand(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char line[512];
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec part = {line, sizeof(line)};
	struct msghdr m = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = -1;
	struct cmsghdr *c;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/" SEG_SOCKET, target->dir);
	if (s < 0 || connect(s, (struct sockaddr *)&address, sizeof(address)) != 0)
		return -1;
	dprintf(s,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"attach\",\"params\":{\"version\":1,\"pid\":%d,\"readers\":%"
		"u,"
		"\"writes\":\"bracketed\",\"leases\":%u,\"cursors\":true,\"fences\":false,\"monotonic_ns\":%llu,"
		"\"boottime_ns\":%llu}}\n",
		(int)getpid(), READERS, LEASES, (unsigned long long)seg_clock_ns(CLOCK_MONOTONIC),
		(unsigned long long)seg_clock_ns(CLOCK_BOOTTIME));
	if (recvmsg(s, &m, 0) > 0 && (c = CMSG_FIRSTHDR(&m)) && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd; /* s stays open: the process goes on being there */
}

/* What each spoiler begins with: a file of its own, and random numbers of its own. False: there is none. */
struct own_file {
	int fd;
	size_t size;
	uint64_t seed;
};
static bool own_file_get(struct own_file *f)
{
	struct stat st;

	f->seed = (uint64_t)getpid() * 2654435761u + 1;
	f->fd = attach_by_hand();
	if (f->fd < 0 || fstat(f->fd, &st) != 0)
		return false;
	f->size = (size_t)st.st_size;
	return true;
}

/* Random bytes by write(2), which may lengthen the file, too; holes. */
static int spoil_everything(void *arg)
{
	static unsigned char noise[65536];
	struct own_file f;

	(void)arg;
	if (!own_file_get(&f))
		return 1;
	for (unsigned long n = 0;; n++) {
		size_t at = chance(&f.seed) % f.size, len = chance(&f.seed) % sizeof(noise);

		for (size_t i = 0; i < len; i += 8)
			memcpy(noise + i, &(uint64_t){n % 5 ? chance(&f.seed) : UINT64_MAX}, 8);
		deeds[WROTE] += pwrite(f.fd, noise, len, (off_t)at) > 0;
		if (n % 16 == 7)
			deeds[PUNCHED] += fallocate(f.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
						    (off_t)len + 1) == 0;
		if (n == 200 && write(told[1], "x", 1) != 1)
			return 1;
	}
}

/* Cut off anywhere, lengthened, whole again. Where the writer once met its end it reads zeros for ever, so garbage needs a
 * file of its own. */
static int spoil_the_size(void *arg)
{
	struct own_file f;

	(void)arg;
	if (!own_file_get(&f))
		return 1;
	for (unsigned long n = 0;; n++) {
		deeds[CUT] += ftruncate(f.fd, (off_t)(n % 3 ? chance(&f.seed) % f.size : f.size * 2)) == 0;
		nanosleep(&(struct timespec){.tv_nsec = (long)(chance(&f.seed) % 2000000)}, NULL);
		if (n % 2)
			(void)!ftruncate(f.fd, (off_t)f.size);
		if (n == 20 && write(told[1], "x", 1) != 1)
			return 1;
	}
}

/* All but two words: `unbracketed`, which says that it writes without leases, and each array's overflow, which counts for
 * every partition. The rest speaks of partitions by a hash of 64 bits, and of its own sections and pins. */
static int spoil_leases_and_rings(void *arg)
{
	struct shm_registration *h;
	unsigned char *file;
	struct own_file f;

	(void)arg;
	if (!own_file_get(&f))
		return 1;
	file = mmap(NULL, f.size, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
	if (file == MAP_FAILED)
		return 1;
	h = (struct shm_registration *)(void *)file;
	uint64_t lines = h->lines_off, leases = h->leases_off, stride = h->lease_stride, size = f.size;
	for (unsigned long n = 0;; n++) {
		for (uint64_t at = lines; at + 8 <= size; at += 8) {
			uint64_t in = at >= leases ? (at - leases) % stride : 0;
			uint64_t word = n % 7 ? chance(&f.seed) : UINT64_MAX;

			if (at >= leases && at < leases + READERS * stride &&
			    in == offsetof(struct shm_leases, overflow_ms))
				continue;
			*(volatile uint64_t *)(void *)(file + at) = word;
		}
		deeds[STORED]++;
		if (n == 2 && write(told[1], "x", 1) != 1)
			return 1;
	}
}

static pid_t start_spoiler(struct drain_place *p, int (*how)(void *))
{
	pid_t pid;
	char c = 0;

	target = &p->d;
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	pid = part_start(how, NULL);
	close(told[1]);
	if (read(told[0], &c, 1) != 1) /* ends too when it dies */
		fail_msg("the spoiler ended with %d", child_wait(pid, CHILD_MS));
	close(told[0]);
	return pid;
}

/* A partition on c1 is moved to c2 while this process writes to it; others are changed and read. Returns the blackout. */
static json_int_t migrate(struct drain_place *p, int number)
{
	struct berth_placement placement;
	struct berth_route route;
	struct berth_write one;
	struct wire waiting;
	json_int_t blackout;
	json_t *result;
	char key[16];

	snprintf(key, sizeof(key), "p%d", number);
	drain_put(p, key);
	drain_begin_write(p, key, &one);
	drain_cut_over(p, key);
	wire_deny(&p->admin, "barrier-pending", "complete", "{s:s}", "partition", key);
	drain_open_complete(p, &waiting, key, 60000);
	wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s}, s:b}", "partition", "other", "placement", "mode",
		"dedicated-cluster", "cluster", number % 2 ? "c1" : "c2", "force", 1);
	assert_int_equal(berth_maintain(p->b), BERTH_OK);
	assert_int_equal(berth_route(p->r, "other", 5, &route), BERTH_OK);
	berth_read_begin(p->r);
	assert_int_equal(berth_lookup(p->r, key, strlen(key), &placement), BERTH_OK);
	berth_read_end(p->r);
	assert_true(wire_silent(&waiting, 50)); /* the write is under way, whatever the garbage says */
	drain_end_write(p, &one, BERTH_DONE);
	result = answer_result(wire_answer(&waiting));
	blackout = int_of(result, "blackout_ms");
	json_decref(result);
	wire_close(&waiting);
	drain_expect_at(p, key, "c2", "settled");
	return blackout;
}

/* Of n migrations; ms. */
static json_int_t longest_blackout(struct drain_place *p, int n, int barrier_ms)
{
	json_int_t most = 0;

	for (int i = 0; i < n; i++) {
		json_int_t ms = migrate(p, i);

		most = ms > most ? ms : most;
	}
	printf("note: longest blackout %lld ms, barrier %d ms\n", (long long)most, barrier_ms);
	fflush(stdout);
	return most;
}

/* With the spoilers there. */
static void it_is_shown(struct drain_place *p)
{
	char out[4096];

	assert_int_equal(tool_run(&p->d, out, sizeof(out), "readers", NULL), 0);
	assert_int_equal(tool_run(&p->d, out, sizeof(out), "--json", "status", NULL), 0);
}

/* It was at it until now: alive, and its file changed since `from`. */
static void end_spoiler(pid_t *spoiler, const unsigned long from[N_DEEDS], unsigned deed, unsigned other)
{
	assert_int_equal(waitpid(*spoiler, NULL, WNOHANG), 0);
	assert_true(deeds[deed] > from[deed] && deeds[other] > from[other]);
	child_kill(spoiler);
}

static void deeds_so_far(unsigned long n[N_DEEDS])
{
	for (unsigned i = 0; i < N_DEEDS; i++)
		n[i] = deeds[i];
}

static void all_is_freed_and_whole(struct drain_place *p)
{
	uint64_t deadline = 0;
	char out[4096];

	while (drain_status(p, "retired") || drain_status(p, "held_bytes"))
		if (!within(&deadline))
			fail_msg("memory is held back by a process that is dead");
	assert_int_equal(tool_run(&p->d, out, sizeof(out), "verify", NULL), 0);
	assert_int_equal(drain_status(p, "term"), 1); /* still the first writer */
}

static void a_registration_full_of_garbage_holds_a_migration_up_for_the_barrier_at_most(void **state)
{
	struct drain_place *p = *state;
	pid_t spoiler = start_spoiler(p, spoil_everything), other = start_spoiler(p, spoil_the_size);
	unsigned long before[N_DEEDS];
	json_int_t most;

	deeds_so_far(before);
	most = longest_blackout(p, MIGRATIONS_HELD_UP, BARRIER_MS);
	/* The barrier counts from the last moment at which a write without a lease may have begun: the cutover's. What is
	 * less than a second one is what a loaded machine may add. */
	assert_in_range(most, 0, 2 * BARRIER_MS - 1);
	it_is_shown(p);
	end_spoiler(&other, before, CUT, CUT);
	end_spoiler(&spoiler, before, WROTE, PUNCHED);
	all_is_freed_and_whole(p);
}

static void garbage_in_leases_and_rings_holds_up_nobody_else(void **state)
{
	struct drain_place *p = *state;
	pid_t spoiler = start_spoiler(p, spoil_leases_and_rings);
	unsigned long before[N_DEEDS];
	json_int_t most;

	deeds_so_far(before);
	most = longest_blackout(p, MIGRATIONS, 30000);
	assert_in_range(most, 0, 5000);
	it_is_shown(p);
	end_spoiler(&spoiler, before, STORED, STORED);
	all_is_freed_and_whole(p);
}

int main(void)
{
	deeds = mmap(NULL, N_DEEDS * sizeof(*deeds), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (deeds == MAP_FAILED)
		return 1;
	const struct CMUnitTest tests[] = {
		DRAIN_TEST(a_registration_full_of_garbage_holds_a_migration_up_for_the_barrier_at_most,
			   "memory " BARRIER),
		DRAIN_TEST(garbage_in_leases_and_rings_holds_up_nobody_else, "memory"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
