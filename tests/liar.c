/* SPDX-License-Identifier: MIT
 * liar.h. */
#include "liar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../shm/segment.h"

/* ---- the other reader, and what must hold ----------------------------------------------------------------------- */

struct liars liars;
static char *table_was;
static size_t table_size;

static char *table_bytes(size_t *size)
{
	int fd = open(users_file(users_table()), O_RDONLY);
	struct stat st;
	char *bytes;

	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	*size = (size_t)st.st_size;
	bytes = malloc(*size);
	assert_non_null(bytes);
	assert_int_equal(read(fd, bytes, *size), *size);
	close(fd);
	return bytes;
}

int liar_setup(void **state)
{
	struct berth_attach_options o = {
		.size = sizeof o, .writes = BERTH_WRITES_BRACKETED, .max_readers = 1, .max_leases = LIAR_LEASES};

	liars.b = NULL;
	if (users_make(state) != 0 || !place)
		return 0;
	wire_open(&liars.admin, place, WIRE_ADMIN);
	place_often(&liars.admin, "mine", 1);
	place_often(&liars.admin, "theirs", 1);
	place_often(&liars.admin, "quiet", 1);
	assert_int_equal(berth_attach(place->dir, &o, &liars.b), BERTH_OK);
	assert_int_equal(berth_reader_open(liars.b, &liars.r), BERTH_OK);
	return 0;
}

int liar_teardown(void **state)
{
	sandbox_close(&liars.box);
	if (liars.b) {
		berth_reader_close(&liars.r);
		berth_detach(&liars.b);
		wire_close(&liars.admin);
	}
	free(table_was);
	table_was = NULL;
	return users_remove(state);
}

static void remember_table(void)
{
	free(table_was);
	table_was = table_bytes(&table_size);
}

void everybody_else_is_whole(void)
{
	struct berth_write write;
	struct berth_route at;
	size_t size;
	char *is = table_bytes(&size);

	assert_int_equal(size, table_size);
	assert_memory_equal(is, table_was, size);
	free(is);
	assert_int_equal(berth_route(liars.r, "mine", 4, &at), BERTH_OK);
	assert_int_equal(at.cluster, 1);
	assert_int_equal(berth_write_begin(liars.r, "quiet", 5, 0, &write), BERTH_OK);
	begin_moving(&liars.admin, "quiet", "c2");
	expect_pending(&liars.admin, "quiet", "leases-open");
	assert_int_equal(berth_write_end(liars.r, &write, BERTH_DONE), BERTH_OK);
	wire_do(&liars.admin, "complete", "{s:s, s:i}", "partition", "quiet", "wait_ms", 10000);
	assert_int_equal(berth_route(liars.r, "quiet", 5, &at), BERTH_OK);
	assert_int_equal(at.cluster, 2);
	place_often(&liars.admin, "quiet", 1);
	tool_ok(place, "verify", NULL);
	assert_int_equal(status_number("term"), 1); /* no other writer had to come */
	remember_table();
}

/* ---- the compromised one ---------------------------------------------------------------------------------------- */

struct shm_registration *liar_registration;
int liar_file = -1;

bool liar_attach(unsigned readers, unsigned leases)
{
	char control[CMSG_SPACE(2 * sizeof(int))], line[512];
	struct iovec part = {line, sizeof line};
	struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c;
	struct stat st;
	int connection;

	connection = users_connect(SEG_SOCKET);
	if (connection < 0)
		return false;
	dprintf(connection,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"attach\",\"params\":{\"version\":1,\"pid\":%d,\"readers\":%"
		"u,"
		"\"writes\":\"bracketed\",\"leases\":%u,\"fences\":false,\"monotonic_ns\":%llu,\"boottime_ns\":%llu}}"
		"\n",
		getpid(), readers, leases, (unsigned long long)seg_clock_ns(CLOCK_MONOTONIC),
		(unsigned long long)seg_clock_ns(CLOCK_BOOTTIME));
	if (recvmsg(connection, &m, 0) <= 0 || !(c = CMSG_FIRSTHDR(&m)) || c->cmsg_type != SCM_RIGHTS)
		return false;
	memcpy(&liar_file, CMSG_DATA(c), sizeof liar_file);
	if (fstat(liar_file, &st) != 0)
		return false;
	liar_registration = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, liar_file, 0);
	return liar_registration != MAP_FAILED;
}

int liar_done(int fd, int how)
{
	char c = (char)how;

	if (send(fd, &c, 1, MSG_NOSIGNAL) != 1)
		return 1;
	return recv(fd, &c, 1, 0) == 1;
}

pid_t liar_start(int (*worst)(void *, int), uid_t uid)
{
	pid_t pid;
	signed char how = -1;

	if (!liars.box.pid)
		sandbox_open(&liars.box, 0, uid, BERTH_GID, place);
	remember_table();
	pid = sandbox_fork(&liars.box, 0, worst, NULL, 0, &liars.fd);
	assert_true(pid > 0);
	if (recv(liars.fd, &how, 1, 0) != 1)
		fail_msg("it ended with %d", sandbox_wait(&liars.box, pid));
	if (how != 0)
		fail_msg("what it tried was not refused, or not possible at all: see above");
	return pid;
}

void liar_ends(pid_t pid)
{
	close(liars.fd);
	assert_int_equal(sandbox_wait(&liars.box, pid), 0);
	sandbox_close(&liars.box);
}
