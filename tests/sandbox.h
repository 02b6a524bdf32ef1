/* SPDX-License-Identifier: MIT
 * What a container gives a proxy, made by hand: processes in namespaces of their own, an empty root directory with the
 * instance's directory bound in read-only and nothing else, another user, another name for that user, numbers of
 * processes that the test chooses. And a guest: a reader there that does what the test says. Needs root. One thread;
 * everything dies with the test program. */
#ifndef BERTH_TESTS_SANDBOX_H
#define BERTH_TESTS_SANDBOX_H

#include "../reader_lib/berth.h"
#include "child.h"

enum {
	SANDBOX_USER = 1, /* a user namespace in which only `uid` has a name: SANDBOX_UID */
	SANDBOX_PID = 2,
	SANDBOX_ROOT = 4, /* an empty root directory: the instance is SANDBOX_DIR there. Without /proc */
	SANDBOX_TIME = 8, /* clocks an hour ahead */
	SANDBOX_CONTAINER = SANDBOX_USER | SANDBOX_PID | SANDBOX_ROOT,
};
#define SANDBOX_UID 7u
#define SANDBOX_DIR "/berth"
#define SANDBOX_ARG 256u

struct sandbox {
	pid_t pid; /* of the process that holds it, as the test sees it; 0: none */
	int fd;
	unsigned what;
	const char *dir; /* of the instance, as it is called in there */
};

/* uid 0: stays root, else that user with no group but `group` besides its own. Ends the test with SKIP where the kernel
 * refuses. */
void sandbox_open(struct sandbox *, unsigned what, uid_t uid, gid_t group, const struct daemon *);
/* A process in it, with a copy of the argument and one end of a SOCK_SEQPACKET pair; what `part` returns is its exit
 * code. number: what it is to be called there, with SANDBOX_PID; 0: any. Its number there, or -1 when that is taken. */
pid_t sandbox_fork(struct sandbox *, pid_t number, int (*part)(void *arg, int fd), const void *arg, size_t size,
		   int *fd);
int sandbox_stay(void *, int fd); /* a part that ends with 0 when the test closes its end of the pair */
void sandbox_signal(struct sandbox *, pid_t number, int signal);
/* As child_wait. */
int sandbox_wait(struct sandbox *, pid_t number);
void sandbox_close(struct sandbox *); /* and all that is in it */

/* ---- a reader in it ---- */

enum {
	GUEST_CURSORS = 1,
	GUEST_FILTERED = 2, /* behind a filter that kills it at any system call but those of reader_lib/README.md */
};
enum guest_does {
	GUEST_ATTACH, /* the first, by itself: value: its number */
	GUEST_ROUTE,  /* value: the cluster */
	GUEST_HOLD,   /* opens a section and keeps the partition's zero-copy strings */
	GUEST_LOOK,   /* they are what they were: value 1. Ends the section */
	GUEST_BEGIN,  /* a write on the partition, one at a time */
	GUEST_END,
	GUEST_UNKNOWN, /* ends it, outcome unknown */
	GUEST_PIN,     /* a cursor, called as its partition, to cluster 1 */
	GUEST_RESOLVE, /* value: the cluster */
	GUEST_MAINTAIN,
	GUEST_SPAWN,  /* a child that holds what a child inherits; value: its number */
	GUEST_EXEC,   /* becomes another program, which goes on: no answer */
	GUEST_DETACH, /* closes, detaches, and exits with 0 */
};
struct guest {
	struct sandbox *in;
	pid_t number;
	int fd;
};
/* Attaches, with leases; the code of berth_attach, then berth_maintain until it is up or that code is another. */
int guest_start(struct guest *, struct sandbox *, pid_t number, unsigned how);
/* The same in parts: a part for sandbox_fork, and the wait for its first answer. */
struct guest_plan {
	char dir[200];
	unsigned how;
};
int guest_live(void *plan, int fd);
int guest_await(const struct guest *);
int guest_does(const struct guest *, enum guest_does, const char *partition, long *value); /* value may be NULL */
void guest_until(const struct guest *, int code); /* GUEST_MAINTAIN again and again, until it has this code */
void guest_kill(struct guest *);
int guest_end(struct guest *); /* after GUEST_DETACH, or when it died: as child_wait */

#endif
