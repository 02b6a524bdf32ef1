/* SPDX-License-Identifier: MIT
 * What the parts of the workload `cursor` share: an instance whose pins are numbered, so that what any of them has to
 * resolve to is known. The number gives the id, the owner and the cluster. What goes wrong ends the program, and so does
 * a resolve that answers anything but that. */
#ifndef BERTH_BENCH_CURSOR_H
#define BERTH_BENCH_CURSOR_H

#include <time.h>

#include "../reader_lib/berth.h"
#include "bench.h"

#define ID_SHORT 16u
#define ID_LONG 120u /* about what a scroll id of a small cluster has */
#define OWNERS 1000u
#define PIN_TTL_MS 3600000u
#define PIN_WAIT_MS 5000u

struct pins {
	struct daemon d;
	size_t id_len;
	uint16_t clusters[2]; /* of even and of odd numbers */
	struct berth *berth;
	struct berth_reader *r;
	char owners[OWNERS][KEY_ROOM];
};

void pins_make(const struct bench *, struct pins *, const char *name, size_t id_len, const struct daemon_how *);
void pins_remove(struct pins *);
/* Another attachment to the same instance, of this process or of a child of it. */
void pins_attach(struct pins *);
void pins_detach(struct pins *);

void pin_id(void *id, size_t len, uint64_t number);
static inline const char *pin_owner(const struct pins *p, uint64_t number)
{
	return p->owners[number % OWNERS];
}
static inline uint16_t pin_cluster(const struct pins *p, uint64_t number)
{
	return p->clusters[number % 2];
}

/* One pin; wait_ms 0: async. A full ring is tried again after a sched_yield. */
void pin_one(struct pins *, uint64_t number, uint32_t wait_ms);
/* n pins from number `from`, and returns when the daemon has done all of them: the last one waits. */
void pin_many(struct pins *, uint64_t from, uint64_t n);
/* Ends them, without waiting. */
void pin_release(struct pins *, uint64_t from, uint64_t n);
/* Whether it resolves; to another cluster than its own: the end. */
bool pin_seen(struct pins *, uint64_t number, uint64_t now_ms);
/* How many of n numbers from `from` resolve. */
uint64_t pins_seen(struct pins *, uint64_t from, uint64_t n);
void pins_expect(struct pins *, uint64_t n); /* there are so many; ends the program when not */

uint64_t boottime_ms(void);
void spin_ns(uint64_t ns);

/* ---- children ---- */
void *shared_memory(size_t size); /* zero, between processes */
pid_t child_fork(void);           /* the child ends with its parent */
void child_wait(pid_t pid, const char *what);

/* ---- the parts, a file each ---- */
void cursor_resolve(const struct bench *);
void cursor_wait(const struct bench *);
void cursor_seen(const struct bench *);
void cursor_flood(const struct bench *);
void cursor_size(const struct bench *);
void cursor_control(const struct bench *);
void cursor_share(const struct bench *);

/* ---- cursor_backlog.c: what the daemon's work on a pin is, by itself ---- */
#define BACKLOG_READERS 64u
#define BACKLOG_MOST 16384u
struct backlog {
	struct pins *pins;
	struct berth_reader *readers[BACKLOG_READERS];
};
void backlog_open(struct backlog *, struct pins *);
void backlog_close(struct backlog *);
/* Pins n numbers, BACKLOG_MOST at most; the daemon's processor time for one, in ns. */
double backlog_measure(struct backlog *, const uint64_t *numbers, uint32_t n);

/* ---- cursor_map.c: a proxy's own map, to compare with ---- */
struct own_map;
struct own_map *own_map_make(uint32_t capacity);
void own_map_pin(struct own_map *, const void *id, const char *owner, uint16_t cluster);
bool own_map_find(struct own_map *, const void *id, const char *owner, uint16_t *cluster);
uint32_t own_map_len(const struct own_map *);
void own_map_free(struct own_map *);

#endif
