/* SPDX-License-Identifier: MIT
 * torture.h: a thread's pins. It pins, pins again and releases its own, each call waiting for the acknowledgement; and
 * resolves those of all threads of all processes. Must not use cmocka. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "torture.h"

#define WAIT_MS 200u
#define LONG_MS 60000u /* what was given up goes after this */
#define SHORT_MS 1500u
#define OWNERS 3u

static uint64_t random_of(struct t_lane *l, uint64_t below)
{
	return mp_random(&l->random) % below;
}

static uint64_t boottime_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct name {
	char id[64], owner[READERS_KEY_SIZE];
	size_t id_len, owner_len;
};

static void name_of(struct name *n, uint64_t number, unsigned owner)
{
	n->id_len = (size_t)snprintf(n->id, sizeof n->id, "%.*s%llu", (int)(number % 40),
				     "a-cursor-of-this-many-characters-at-most", (unsigned long long)number);
	n->owner_len = t_key(n->owner, owner);
}

/* ---- changes ----------------------------------------------------------------------------------------------- */

static void give_up(struct t_pin *pin)
{
	atomic_store(&pin->cluster, 0);
	atomic_store(&pin->number, atomic_fetch_add(&t_shared->pin_numbers, 1) + 1);
}

void t_pins_given_up(struct t_process *p, unsigned lane)
{
	for (unsigned i = 0; i < T_PINS; i++) {
		struct t_pin *pin = &p->pins[lane][i];
		uint64_t version = atomic_load(&pin->version);

		if (version % 2 == 0 && atomic_load(&pin->number) != 0)
			continue; /* acknowledged by the process before this one, and nobody has touched it since */
		atomic_store(&pin->version, version | 1);
		give_up(pin);
		atomic_store(&pin->version, (version | 1) + 1);
	}
}

static void pin_it(struct t_lane *l, struct t_pin *pin, const struct name *n)
{
	uint32_t ttl = random_of(l, 4) ? LONG_MS : 1 + (uint32_t)random_of(l, SHORT_MS);
	unsigned cluster = 1 + (unsigned)random_of(l, T_CLUSTERS);
	uint64_t lo = boottime_ms() + ttl;
	int rc = berth_cursor_pin(l->r, n->id, n->id_len, (uint16_t)cluster, n->owner, n->owner_len, ttl, WAIT_MS);

	if (rc == BERTH_OK) {
		atomic_store(&pin->lo, lo);
		atomic_store(&pin->hi, boottime_ms() + ttl);
		atomic_store(&pin->cluster, cluster);
		t_count(&l->own->p->counts.pins);
		return;
	}
	if (rc != BERTH_E_AGAIN && rc != BERTH_E_WRITER_DOWN)
		t_wrong("a pin of %s is answered %s", n->id, berth_strerror(rc));
	give_up(pin);
	t_count(&l->own->p->counts.given_up);
}

static void release_it(struct t_lane *l, struct t_pin *pin, const struct name *n)
{
	int rc = berth_cursor_release(l->r, n->id, n->id_len, n->owner, n->owner_len);

	if (rc == BERTH_E_UNKNOWN && boottime_ms() < atomic_load(&pin->lo))
		t_wrong("release of %s, which was pinned and acknowledged, is answered %s", n->id, berth_strerror(rc));
	if (rc == BERTH_OK || rc == BERTH_E_UNKNOWN) {
		atomic_store(&pin->cluster, 0);
		t_count(&l->own->p->counts.releases);
		return;
	}
	if (rc != BERTH_E_AGAIN && rc != BERTH_E_WRITER_DOWN)
		t_wrong("release of %s is answered %s", n->id, berth_strerror(rc));
	give_up(pin);
	t_count(&l->own->p->counts.given_up);
}

static void change(struct t_lane *l)
{
	struct t_pin *pin = &l->own->p->pins[l->number][random_of(l, T_PINS)];
	uint64_t version = atomic_load(&pin->version);
	struct name n;

	atomic_store(&pin->version, version + 1);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&pin->cluster) == 0)
		atomic_store(&pin->owner, 1 + (uint32_t)random_of(l, OWNERS));
	name_of(&n, atomic_load(&pin->number), atomic_load(&pin->owner));
	if (atomic_load(&pin->cluster) && random_of(l, 3) == 0)
		release_it(l, pin, &n);
	else
		pin_it(l, pin, &n);
	atomic_store(&pin->version, version + 2);
}

/* ---- looks ------------------------------------------------------------------------------------------------- */

struct known {
	uint64_t version, number, lo, hi;
	uint32_t cluster, owner;
};

static bool known_of(const struct t_pin *pin, struct known *k)
{
	k->version = atomic_load(&pin->version);
	k->number = atomic_load(&pin->number);
	k->lo = atomic_load(&pin->lo);
	k->hi = atomic_load(&pin->hi);
	k->cluster = atomic_load(&pin->cluster);
	k->owner = atomic_load(&pin->owner);
	return k->version % 2 == 0 && k->number != 0 && atomic_load(&pin->version) == k->version;
}

static void judge(const struct known *k, const char *id, bool stranger, int rc, unsigned cluster, uint64_t before_ms,
		  uint64_t after_ms)
{
	bool is = k->cluster && after_ms < k->lo, is_not = !k->cluster || before_ms >= k->hi;
	int there = stranger ? BERTH_E_NOT_OWNER : BERTH_OK;

	if ((rc == there && is_not) || (rc == BERTH_E_UNKNOWN && is) || (rc != there && rc != BERTH_E_UNKNOWN) ||
	    (rc == BERTH_OK && cluster != k->cluster))
		t_wrong("%s is answered %s, cluster %u, to %s; acknowledged: cluster %u, until %llu .. %llu; it is "
			"%llu .. %llu",
			id, berth_strerror(rc), cluster, stranger ? "a stranger" : "its owner", k->cluster,
			(unsigned long long)k->lo, (unsigned long long)k->hi, (unsigned long long)before_ms,
			(unsigned long long)after_ms);
}

static void resolve(struct t_lane *l)
{
	static const unsigned places[] = {3, 5, 7}; /* t_pins */
	const struct t_pin *pin =
		&t_shared->processes[places[random_of(l, 3)]].pins[random_of(l, T_THREADS)][random_of(l, T_PINS)];
	bool stranger = random_of(l, 8) == 0;
	uint64_t before_ms, after_ms;
	uint16_t cluster = 0;
	struct known k;
	struct name n;
	int rc;

	if (!known_of(pin, &k))
		return;
	name_of(&n, k.number, k.owner + stranger);
	before_ms = boottime_ms();
	rc = berth_cursor_resolve(l->r, n.id, n.id_len, n.owner, n.owner_len, 0, &cluster);
	after_ms = boottime_ms();
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&pin->version) != k.version || rc == BERTH_E_AGAIN)
		return;
	/* The registration reaches a reader at one of its next calls. */
	l->n_pins_down = rc == BERTH_E_WRITER_DOWN && atomic_load(&l->own->registered) ? l->n_pins_down + 1 : 0;
	if (rc != BERTH_E_WRITER_DOWN || l->n_pins_down > 1000)
		judge(&k, n.id, stranger, rc, cluster, before_ms, after_ms);
	t_count(&l->own->p->counts.resolves);
}

void t_pin_step(struct t_lane *l)
{
	if (!atomic_load(&t_shared->quiet) && random_of(l, 3) == 0)
		change(l);
	resolve(l);
	resolve(l);
}
