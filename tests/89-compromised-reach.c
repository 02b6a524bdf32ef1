/* SPDX-License-Identifier: MIT
 * What a compromised proxy gets hold of beside its registration: files that it may read, the daemon's process, the socket.
 * Nothing of that stops the daemon or another reader. Needs root. Requests are in 51-control-abuse.c. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../shm/segment.h"
#include "liar.h"

/* ---- files, locks, processes ------------------------------------------------------------------------------------ */

static int locks_all_that_it_can_open(void *arg, int fd)
{
	static const char *const names[] = {"root", "ledger", SEG_TABLES "/reserve", ".", SEG_TABLES, NULL};
	struct flock all = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	char table[64];

	(void)arg;
	snprintf(table, sizeof table, "%s", users_table());
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	for (unsigned i = 0; i < 6; i++) {
		int file = open(users_file(names[i] ? names[i] : table), O_RDONLY);

		/* of these a member may open root, table and both directories: 81-permissions.c */
		LIAR_MUST(file >= 0 || (names[i] && (strcmp(names[i], "ledger") == 0 || strstr(names[i], "reserve"))));
		if (file < 0)
			continue;
		LIAR_MUST(flock(file, LOCK_EX | LOCK_NB) == 0); /* nobody minds */
		fcntl(file, F_SETLK, &all);
		fcntl(file, F_OFD_SETLK, &all);
		/* A lease would hold back who opens the file for writing, for 45 s. It is for the owner. */
		LIAR_MUST(fcntl(file, F_SETLEASE, F_RDLCK) != 0);
	}
	LIAR_MUST(fcntl(liar_file, F_SETLEASE, F_WRLCK) != 0 && fcntl(liar_file, F_SETLEASE, F_RDLCK) != 0);
	LIAR_MUST(flock(liar_file, LOCK_EX | LOCK_NB) == 0);
	LIAR_MUST(fcntl(liar_file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0);
	LIAR_MUST(fchmod(liar_file, 0666) != 0 && fchown(liar_file, MEMBER, BERTH_GID) != 0);
	LIAR_MUST(open(users_file("lock"), O_RDONLY) < 0);
	return liar_done(fd, 0);
}

static void locks_stall_neither_changes_nor_growth_nor_a_restart(void **state)
{
	json_int_t generation;
	char name[32];
	uint64_t began;
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(locks_all_that_it_can_open, MEMBER);
	everybody_else_is_whole();
	generation = status_number("generation");
	began = test_now_ms();
	for (unsigned i = 0; status_number("generation") == generation && i < 100000;)
		for (unsigned end = i + 500; i < end; i++) {
			snprintf(name, sizeof name, "another-%u", i);
			wire_do(&liars.admin, "set", "{s:s, s:{s:s, s:s}}", "partition", name, "placement", "mode",
				"dedicated-cluster", "cluster", "c1");
		}
	assert_true(status_number("generation") > generation);
	wire_close(&liars.admin);
	daemon_kill(place);
	daemon_start(place, NULL);
	wire_open(&liars.admin, place, WIRE_ADMIN);
	place_often(&liars.admin, "quiet", 1);
	assert_true(test_now_ms() - began < child_patience(40000)); /* less than a broken lease takes */
	liar_ends(pid);
}

static int reaches_for_the_daemon(void *arg, int fd)
{
	char path[64], byte;
	struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)users_connect, 1};
	pid_t pid = place->pid;

	(void)arg;
	LIAR_MUST(setsid() > 0); /* in one session SIGCONT is allowed */
	LIAR_MUST(liar_attach(1, LIAR_LEASES));
	LIAR_MUST(kill(pid, 0) != 0 && errno == EPERM);
	LIAR_MUST(kill(pid, SIGKILL) != 0 && kill(pid, SIGSTOP) != 0 && kill(pid, SIGCONT) != 0);
	LIAR_MUST(ptrace(PTRACE_ATTACH, pid, NULL, NULL) != 0);
	LIAR_MUST(process_vm_readv(pid, &here, 1, &there, 1, 0) < 0 && errno == EPERM);
	LIAR_MUST(setpriority(PRIO_PROCESS, (id_t)pid, 19) != 0);
	for (unsigned i = 0; i < 5; i++) {
		static const char *const files[] = {"mem", "fd/3", "maps", "environ", "root/etc/passwd"};

		snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, files[i]);
		LIAR_MUST(open(path, O_RDONLY) < 0);
	}
	LIAR_MUST(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY) < 0); /* the kind that could hold back an open */
	byte = (char)inotify_init1(IN_CLOEXEC);
	LIAR_MUST(inotify_add_watch(byte, users_file("."), IN_ALL_EVENTS) >= 0); /* it may look */
	mlock(liar_registration, (size_t)liar_registration->size);
	return liar_done(fd, 0);
}

static void the_daemon_is_out_of_its_reach(void **state)
{
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(reaches_for_the_daemon, MEMBER);
	everybody_else_is_whole();
	liar_ends(pid);
}

/* ---- the socket ------------------------------------------------------------------------------------------------- */

#define PASSED 253u /* SCM_MAX_FD */

static int sends_descriptors(void *arg, int fd)
{
	static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n";
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(PASSED * sizeof(int))];
	} control;
	int fds[PASSED], zero = open("/dev/zero", O_RDONLY);

	(void)arg;
	for (unsigned i = 0; i < PASSED; i++)
		fds[i] = zero;
	for (unsigned n = 0; n < 40; n++) { /* some without a request, and all without reading an answer */
		struct iovec part = {(void *)(uintptr_t)request, n % 2 ? sizeof request - 1 : 1};
		struct msghdr m = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		int s = users_connect(SEG_SOCKET);

		LIAR_MUST(s >= 0);
		memset(&control, 0, sizeof control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof fds);
		memcpy(CMSG_DATA(&control.header), fds, sizeof fds);
		LIAR_MUST(sendmsg(s, &m, MSG_NOSIGNAL) > 0);
	}
	return liar_done(fd, 0);
}

static unsigned descriptors_of_the_daemon(void)
{
	char path[64];
	unsigned n = 0;

	for (unsigned i = 0; i < 20000; i++) {
		snprintf(path, sizeof path, "/proc/%d/fd/%u", (int)place->pid, i);
		n += faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	}
	return n;
}

static void descriptors_that_it_sends_are_not_kept(void **state)
{
	unsigned before;
	pid_t pid;

	(void)state;
	NEEDS_USERS();
	before = descriptors_of_the_daemon();
	pid = liar_start(sends_descriptors, MEMBER);
	everybody_else_is_whole();
	assert_true(descriptors_of_the_daemon() <= before + 40 + 8); /* the connections: berth.sock takes none */
	liar_ends(pid);
	for (uint64_t deadline = 0; within(&deadline) && descriptors_of_the_daemon() > before;)
		;
	assert_true(descriptors_of_the_daemon() <= before); /* some of the setup's may have been there still */
}

#define UID_REGISTRATIONS 1024u

static int attaches_as_often_as_it_can(void *arg, int fd)
{
	struct rlimit many = {4096, 4096};
	unsigned n = 0;

	(void)arg;
	setrlimit(RLIMIT_NOFILE, &many);
	while (n <= UID_REGISTRATIONS && liar_attach(1, 1))
		n++;
	LIAR_MUST(n == UID_REGISTRATIONS);
	return liar_done(fd, 0);
}

static int attaches_once(void *arg, int fd)
{
	(void)arg;
	LIAR_MUST(liar_attach(1, 1));
	return liar_done(fd, 0);
}

static void one_user_s_flood_of_attaches_leaves_room_for_others(void **state)
{
	struct sandbox flood;
	pid_t pid, other;
	int fd;

	(void)state;
	NEEDS_USERS();
	pid = liar_start(attaches_as_often_as_it_can, MEMBER);
	fd = liars.fd;
	flood = liars.box;
	liars.box.pid = 0;
	everybody_else_is_whole();
	other = liar_start(attaches_once, MEMBER + 1);
	assert_true(status_number("readers") == UID_REGISTRATIONS + 2);
	liar_ends(other);
	liars.box = flood;
	liars.fd = fd;
	liar_ends(pid);
	for (uint64_t deadline = 0; within(&deadline) && status_number("readers") != 1;)
		;
	assert_int_equal(status_number("readers"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LIAR_TEST(locks_stall_neither_changes_nor_growth_nor_a_restart),
		LIAR_TEST(the_daemon_is_out_of_its_reach),
		LIAR_TEST(descriptors_that_it_sends_are_not_kept),
		LIAR_TEST(one_user_s_flood_of_attaches_leaves_room_for_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
