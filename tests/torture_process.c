/* SPDX-License-Identifier: MIT
 * torture.h: a process, that is its main thread: attaches, keeps up, detaches and attaches again. Must not use cmocka. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "drain_workers.h"
#include "torture.h"
#include "torture_ambush.h"

#define FENCES 3u         /* a process whose readers fence for themselves */
#define HELD_UP_US 15000u /* time for a cutover and its drain */
/* Slots of each reader; 0: the usual 4,096. */
static const uint32_t max_leases[T_READ_ONLY] = {0, 0, 512, 512, 8, 24};

bool t_pins(const struct t_own *own)
{
	return own->number % 2 && own->number > 1;
}

size_t t_key(char key[READERS_KEY_SIZE], unsigned partition)
{
	return readers_key(key, partition);
}

/* ---- attachment -------------------------------------------------------------------------------------------- */

struct t_lane *t_main_lane(struct t_own *own)
{
	return &own->lanes[T_THREADS];
}

void t_keep_up(struct t_own *own)
{
	int rc = berth_maintain(own->b);

	if (rc == BERTH_OK)
		atomic_store(&own->registered, true);
	else if (rc != BERTH_E_WRITER_DOWN)
		t_wrong("upkeep is answered %s", berth_strerror(rc));
}

static bool attach(struct t_own *own)
{
	struct berth_attach_options options = {.size = sizeof options, .max_readers = T_LANES};
	int rc;

	options.writes = t_read_only(own) ? BERTH_WRITES_NONE : BERTH_WRITES_BRACKETED;
	options.max_leases = t_read_only(own) ? 0 : max_leases[own->number];
	options.cursors = t_pins(own) ? BERTH_CURSORS_PIN : 0;
	/* With BERTH_NO_WAIT a release is not acknowledged. */
	options.wait_ms = t_pins(own) || mp_random(&t_main_lane(own)->random) % 4 ? 0 : BERTH_NO_WAIT;
	rc = berth_attach(t_shared->dir, &options, &own->b);
	if (rc != BERTH_OK) {
		t_wrong("attach is answered %s", berth_strerror(rc));
		return false;
	}
	t_keep_up(own);
	t_open_reader(t_main_lane(own));
	return t_main_lane(own)->r != NULL;
}

static unsigned n_held(struct t_own *own)
{
	unsigned n = own->queue.n;

	for (unsigned i = 0; i < T_LANES; i++)
		n += own->lanes[i].n_held;
	return n;
}

/* No other thread has a reader open. */
static void leave(struct t_own *own)
{
	struct t_lane *me = t_main_lane(own);
	int rc;

	if (n_held(own) > 0 && mp_random(&me->random) % 2) {
		berth_reader_close(&me->r);
		rc = berth_detach(&own->b);
		if (rc != BERTH_E_BUSY)
			t_wrong("detach under open leases is answered %s", berth_strerror(rc));
		t_count(&own->p->counts.busy);
		if (rc == BERTH_OK)
			_exit(1);
		t_open_reader(me);
	}
	for (unsigned i = 0; i < T_LANES; i++)
		t_end_all(me, &own->lanes[i]);
	t_end_queue(me);
	berth_reader_close(&me->r);
	rc = berth_detach(&own->b);
	if (rc != BERTH_OK)
		t_wrong("detach is answered %s", berth_strerror(rc));
}

bool t_attach_again(struct t_own *own)
{
	bool there;

	atomic_store(&own->pause, true);
	while (atomic_load(&own->n_paused) < T_THREADS)
		mp_pause();
	leave(own);
	t_count(&own->p->counts.detaches);
	atomic_store(&own->registered, false);
	there = attach(own);
	atomic_store(&own->pause, false);
	while (atomic_load(&own->n_paused) > 0)
		mp_pause();
	return there;
}

/* ---- the process -------------------------------------------------------------------------------------------- */

static bool all_idle(struct t_own *own)
{
	for (unsigned i = 0; i < T_THREADS; i++)
		if (!atomic_load(&own->lanes[i].idle))
			return false;
	return true;
}

static bool live(struct t_own *own)
{
	struct t_lane *me = t_main_lane(own);
	uint64_t fault = mp_now_ms() + 300 + mp_random(&me->random) % 1500;
	pid_t child = 0;
	int status = 0;

	while (!atomic_load(&t_shared->stop)) {
		t_keep_up(own);
		if (child > 0 && waitpid(child, &status, WNOHANG) == child) {
			if (status != 0)
				t_wrong("a forked child ended with wait status %#x", (unsigned)status);
			child = 0;
		}
		if (atomic_load(&t_shared->quiet)) {
			t_end_all(me, me);
			atomic_store(&own->p->quiet, all_idle(own));
		} else if (mp_now_ms() >= fault) {
			if (!t_own_fault(own, &child))
				return false;
			fault = mp_now_ms() + 300 + mp_random(&me->random) % 1500;
		} else if (atomic_load(&t_shared->weather.storm)) {
			t_storm(own);
		}
		for (unsigned i = 0; i < 8; i++)
			mp_pause();
	}
	return true;
}

int t_process_run(unsigned number, uint64_t seed)
{
	struct t_own *own = calloc(1, sizeof *own);
	pthread_t threads[T_THREADS];
	bool good;

	if (!own)
		return 1;
	own->p = &t_shared->processes[number];
	own->number = number;
	pthread_mutex_init(&own->queue.lock, NULL);
	ambush_open(HELD_UP_US);
	if (number == FENCES && order_refuse_membarrier(NULL, 0, 0) != BERTH_OK)
		t_wrong("membarrier cannot be refused");
	for (unsigned i = 0; i < T_LANES; i++) {
		own->lanes[i].own = own;
		own->lanes[i].number = i;
		own->lanes[i].random = seed * 1000 + number * 10 + i;
	}
	if (!attach(own))
		return 1;
	for (unsigned i = 0; i < T_THREADS; i++)
		if (pthread_create(&threads[i], NULL, t_thread, &own->lanes[i]) != 0)
			return 1;
	atomic_store(&own->p->running, 1);
	good = live(own);
	atomic_store(&own->over, true);
	for (unsigned i = 0; i < T_THREADS; i++)
		pthread_join(threads[i], NULL);
	if (good)
		leave(own);
	return !good;
}
