/* SPDX-License-Identifier: MIT
 * Pins against the real daemon: this process attached to it as a proxy that pins (libberth), and processes that the test
 * plays itself, with rings that it writes into as it likes. One thread. */
#ifndef BERTH_TESTS_CURSOR_DAEMON_H
#define BERTH_TESTS_CURSOR_DAEMON_H

#include "../reader_lib/berth.h"
#include "../shm/cursor.h"
#include "../shm/segment.h"
#include "child.h"

#define PIN_MS DAEMON_MS /* a pin waits so long, unless it is not to wait */

struct pin_place {
	struct daemon d;
	struct wire admin;
	struct berth *b;
	struct berth_reader *r;
};
/* A daemon with clusters c1 (number 1) and c2 (2), nobody attached. *state: the store. */
int pin_setup(void **state);
int pin_teardown(void **state);
#define PIN_TEST(test) \
	{ \
#test, test, pin_setup, pin_teardown, (void *)(uintptr_t) "memory" \
	}
/* Starts it again after an end, with options; the connection to the admin socket too. */
#define pin_restart(p, ...) pin_restart_with(p, (const char *const[]){__VA_ARGS__})
void pin_restart_with(struct pin_place *, const char *const *options);
/* This process attaches, with cursors. */
void pin_attach(struct pin_place *);
void pin_detach(struct pin_place *);

/* Cursor `what`-i of partition owner; the library's answers. pin: on this cluster, and waits. */
int pin_one(struct pin_place *, const char *what, unsigned i, const char *owner, uint16_t cluster, uint32_t ttl_ms);
int pin_async(struct pin_place *, const char *what, unsigned i, const char *owner, uint16_t cluster);
int pin_resolve(struct pin_place *, const char *what, unsigned i, const char *owner, uint16_t *cluster);
int pin_release(struct pin_place *, const char *what, unsigned i, const char *owner);
/* Waits until it resolves to this cluster. */
void pin_await(struct pin_place *, const char *what, unsigned i, const char *owner, uint16_t cluster);

/* What status says of cursors; waits until it says so. */
json_int_t pin_status(struct pin_place *, const char *name);
void pin_await_status(struct pin_place *, const char *name, json_int_t value);
void pin_await_readers(struct pin_place *, json_int_t n); /* registrations */
bool pin_thread_runs(const struct pin_place *);
/* SIGSTOP, and none of its threads runs any more. */
void pin_stop(const struct pin_place *);

/* ---- a process that the test plays ---- */

struct player {
	struct wire w;
	struct shm_registration *reg;
	size_t size;
	int fd, bell;
	uint32_t slot;
	uint64_t attach;
	const struct shm_ledger *ledger;
};
void player_attach(struct player *, const struct pin_place *, unsigned readers);
/* It ends: nothing of it is left but what it had pushed. */
void player_die(struct player *);
struct shm_ring *player_ring(const struct player *, unsigned ring);
uint64_t player_ack(const struct player *, unsigned ring);
/* One entry, and head; the bell is not rung. hash: both halves. */
void player_push(const struct player *, unsigned ring, enum shm_pin_op, uint64_t hash, uint64_t owner, uint32_t cluster,
		 uint64_t expiry_ms);
void player_ring_bell(const struct player *);
/* Waits until so many entries of it are done; the last one's result. */
unsigned player_await(const struct player *, unsigned ring, uint64_t done);
uint64_t player_later(void); /* CLOCK_BOOTTIME in a minute */
/* In the table of pins: its cluster; 0: none. */
unsigned player_find(const struct pin_place *, uint64_t hash, uint64_t owner);

#endif
