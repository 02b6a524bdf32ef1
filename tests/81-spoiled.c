/* SPDX-License-Identifier: MIT
 * Members of group berth that spoil the one thing which they can write, their own registration: neither the writer nor
 * another reader is disturbed, the next writer starts, and what a liar holds back is freed when it dies. Needs root. */
#include "users.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "../shm/grace.h"
#include "../shm/segment.h"

/* The handshake of libberth, which would close the descriptor: PROTOCOL.md, attach. */
static int attach_by_hand(unsigned readers)
{
	char line[512], control[CMSG_SPACE(sizeof(int))];
	struct iovec part = {line, sizeof line};
	struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int s = users_connect(SEG_SOCKET), fd = -1;
	struct cmsghdr *c;

	if (s < 0)
		return -1;
	dprintf(s,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"attach\",\"params\":{\"version\":1,\"pid\":%d,\"readers\":%"
		"u,"
		"\"writes\":\"none\",\"fences\":false,\"monotonic_ns\":%llu,\"boottime_ns\":%llu}}\n",
		getpid(), readers, (unsigned long long)seg_clock_ns(CLOCK_MONOTONIC),
		(unsigned long long)seg_clock_ns(CLOCK_BOOTTIME));
	if (recvmsg(s, &m, 0) > 0 && (c = CMSG_FIRSTHDR(&m)) && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
	return fd; /* s stays open: the process goes on being there */
}

static int look_at_readers_of_others(void *arg)
{
	struct stat st;
	char path[64];
	int fd;

	EXPECT(become(*(uid_t *)arg));
	fd = attach_by_hand(4);
	EXPECT(fd >= 0 && fstat(fd, &st) == 0 && st.st_size == (off_t)(SHM_PAGE + 4 * sizeof(struct shm_line)));
	EXPECT(open(users_file(SEG_READERS), O_RDONLY | O_DIRECTORY) < 0 && errno == EACCES);
	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof path, SEG_READERS "/%d", i);
		EXPECT(open(users_file(path), O_RDONLY) < 0 && errno == EACCES);
		EXPECT(open(users_file(path), O_RDWR) < 0 && errno == EACCES);
	}
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* it cannot be opened anew by others either */
	EXPECT(open(path, O_RDWR) < 0 && errno == EACCES);
	return 0;
}

static void a_member_cannot_open_another_ones_registration(void **state)
{
	struct berth *b = NULL;

	(void)state;
	NEEDS_USERS();
	assert_int_equal(berth_attach(place->dir, NULL, &b), BERTH_OK); /* readers/0 is ours */
	assert_int_equal(as_user(MEMBER, look_at_readers_of_others), 0);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

enum spoil {
	CUT_TO_NOTHING,
	CUT_IN_A_PAGE,
	CUT_AFTER_HEADER,
	GROWN,
	FULL_OF_ONES,
	FULL_OF_NOISE,
	PUNCHED,
	N_SPOILS,
	HOLDING
};
static enum spoil spoil;
static int told[2]; /* pipe: the spoiler is done, and lives on */

static uint64_t a_section_of_ever(void)
{
	const struct shm_root *root;
	uint64_t line = 0;
	int fd;

	if (seg_dir_open(place->dir, &fd, NULL) != BERTH_OK || seg_root_map(fd, &root) != BERTH_OK)
		return 0;
	line = section_make(0, SHM_GENERATION(atomic_load(&root->termgen)), true, 1);
	close(fd);
	return line;
}

static int spoil_registration(void *arg)
{
	size_t size = SHM_PAGE + 64 * sizeof(struct shm_line);
	unsigned char *p;
	int fd;

	EXPECT(become(*(uid_t *)arg));
	fd = attach_by_hand(64);
	EXPECT(fd >= 0);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	EXPECT(p != MAP_FAILED);
	switch (spoil) {
	case CUT_TO_NOTHING:
		EXPECT(ftruncate(fd, 0) == 0);
		break;
	case CUT_IN_A_PAGE:
		EXPECT(ftruncate(fd, 100) == 0);
		break;
	case CUT_AFTER_HEADER:
		EXPECT(ftruncate(fd, SHM_PAGE) == 0);
		break;
	case GROWN:
		EXPECT(ftruncate(fd, (off_t)1 << 62) == 0 || ftruncate(fd, (off_t)1 << 46) == 0);
		break;
	case FULL_OF_ONES:
		memset(p, 0xff, size);
		break;
	case FULL_OF_NOISE:
		srand(7);
		for (size_t i = 0; i < size; i++)
			p[i] = (unsigned char)(rand() >> 7);
		/* grace numbers from the future: what lies in the past may hold memory back, and is tested below */
		for (size_t i = 0; i < 64; i++)
			p[SHM_PAGE + i * sizeof(struct shm_line) + 7] = 0xff;
		break;
	case PUNCHED:
		EXPECT(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)size) == 0);
		break;
	default:
		atomic_store(&((struct shm_line *)(void *)(p + SHM_PAGE))->section, a_section_of_ever());
	}
	EXPECT(write(told[1], "x", 1) == 1);
	for (;;)
		pause();
}

static pid_t start_spoiler(enum spoil how)
{
	static uid_t user = MEMBER;
	pid_t pid;
	char c = 0;

	spoil = how;
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	pid = part_start(spoil_registration, &user);
	close(told[1]);
	if (read(told[0], &c, 1) != 1) /* ends too when it dies */
		fail_msg("the spoiler ended with %d", child_wait(pid, CHILD_MS));
	close(told[0]);
	return pid;
}

/* Changes that each leave a record behind. */
static void change_often(unsigned n)
{
	struct wire w;

	wire_open(&w, place, WIRE_ADMIN);
	for (unsigned i = 0; i < n; i++) {
		char index[32];

		snprintf(index, sizeof index, "acme-%u", i % 97);
		wire_do(&w, "set", "{s:s, s:b, s:{s:s, s:s, s:s}}", "partition", "acme", "force", 1, "placement",
			"mode", "dedicated-index", "cluster", i % 2 ? "c1" : "c2", "index", index);
	}
	wire_close(&w);
}

static void everybody_else_goes_on(struct berth *b, struct berth_reader *r)
{
	struct berth_placement p;
	struct berth_route route;

	for (int i = 0; i < 20; i++) {
		change_often(5);
		assert_int_equal(berth_maintain(b), BERTH_OK);
		berth_read_begin(r);
		assert_int_equal(berth_lookup(r, "acme", 4, &p), BERTH_OK);
		assert_int_equal(strncmp(p.index, "acme-", 5), 0);
		berth_read_end(r);
		assert_int_equal(berth_route(r, "acme", 4, &route), BERTH_OK);
		assert_int_equal(berth_admit(r, "acme", 4, route.epoch), BERTH_OK);
	}
}

static void a_spoiled_registration_disturbs_nobody(void **state)
{
	struct berth *b = NULL;
	struct berth_reader *r;

	(void)state;
	NEEDS_USERS();
	assert_int_equal(berth_attach(place->dir, NULL, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	for (enum spoil how = 0; how < N_SPOILS; how++) {
		pid_t spoiler = start_spoiler(how);

		everybody_else_goes_on(b, r);
		assert_int_equal(users_tool("readers", NULL, NULL), 0);
		assert_int_equal(users_tool("status", NULL, NULL), 0);
		expect_freed();
		child_kill(&spoiler);
	}
	assert_int_equal(status_number("term"), 1); /* still the first writer */
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

static void a_spoiled_registration_does_not_keep_a_writer_from_starting(void **state)
{
	(void)state;
	NEEDS_USERS();
	daemon_kill(place);
	snprintf(place->store, sizeof place->store, "memory:");
	for (enum spoil how = 0; how < N_SPOILS; how++) {
		pid_t spoiler;

		daemon_start(place, NULL);
		spoiler = start_spoiler(how);
		daemon_kill(place);
		daemon_start(place, NULL); /* fails the test when it does not start */
		change_often(20);
		assert_int_equal(users_tool("readers", NULL, NULL), 0);
		expect_freed();
		child_kill(&spoiler);
		daemon_kill(place);
	}
	daemon_start(place, NULL);
}

static void what_a_liar_holds_back_is_freed_when_it_dies(void **state)
{
	struct berth *b = NULL;
	struct berth_reader *r;
	pid_t spoiler;

	(void)state;
	NEEDS_USERS();
	assert_int_equal(berth_attach(place->dir, NULL, &b), BERTH_OK);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	spoiler = start_spoiler(HOLDING);
	everybody_else_goes_on(b, r);
	assert_true(status_number("retired") > 0);
	assert_int_equal(users_tool("readers", NULL, NULL), 0);
	child_kill(&spoiler);
	expect_freed();
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		USERS_TEST(a_member_cannot_open_another_ones_registration),
		USERS_TEST(a_spoiled_registration_disturbs_nobody),
		USERS_TEST(a_spoiled_registration_does_not_keep_a_writer_from_starting),
		USERS_TEST(what_a_liar_holds_back_is_freed_when_it_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
