/* SPDX-License-Identifier: MIT
 * The mirror's one thread: what would make the control thread wait. It makes the inner map of a growing table (the kernel
 * zeroes its memory), swaps it in, and waits for grace periods of the kernel, one job after the other. It stores into no
 * entry, and touches control.state only when a job of a growth failed: then it is 0, for good. Its jobs come from the
 * control thread, which polls (mirror_*_done) or waits (mirror_wait).
 *
 * A grace period: an update of an array of maps returns after synchronize_rcu (maybe_wait_bpf_programs in
 * kernel/bpf/syscall.c), so every program that ran when the call was made has ended; sleepable programs are not waited for,
 * and none of ours is one. The thread has a map of maps of its own for that. Seen with Linux 6.18, two processors: of ten such
 * updates the fastest takes 6 to 8 ms, of ten of a plain array 0 to 5 us (tests/90-mirror.c). membarrier is no
 * substitute: with one processor on line its global form returns at once. */
#include "mirror_internal.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "../shm/crash_point.h"

int mirror_grace(struct mirror *m)
{
	const __u32 zero = 0;

	return bpf_map_update_elem(m->t.grace_fd, &zero, &m->t.grace_inner_fd, BPF_ANY) == 0 ? 0 : -1;
}

int mirror_grace_open(struct mirror *m)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts);

	m->t.grace_inner_fd = mirror_inner_create(1);
	if (m->t.grace_inner_fd < 0)
		return -1;
	opts.inner_map_fd = (__u32)m->t.grace_inner_fd;
	m->t.grace_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "berth_grace", 4, 4, 1, &opts);
	return m->t.grace_fd < 0 ? -1 : 0;
}

void mirror_grace_close(struct mirror *m)
{
	if (m->t.grace_fd >= 0)
		close(m->t.grace_fd);
	if (m->t.grace_inner_fd >= 0)
		close(m->t.grace_inner_fd);
}

int mirror_swap(struct mirror *m, struct mirror_table *table)
{
	const __u32 zero = 0;

	if (bpf_map_update_elem(m->fds[MAP_TABLE], &zero, &table->fd, BPF_ANY) != 0) /* M4: waits */
		return -1;
	CRASH_POINT(mirror_swapped);
	store64(&m->control->n_swaps, load64(&m->control->n_swaps) + 1);
	CRASH_POINT(mirror_swap_counted);
	return 0;
}

static void job_make(struct mirror *m)
{
	struct mirror_thread *t = &m->t;
	struct mirror_table *made = mirror_table_make(m, t->generation, t->capacity, t->n_entries);
	int e = made ? 0 : errno;

	if (!made)
		(void)!mirror_switch_off(m);
	pthread_mutex_lock(&t->lock);
	t->made = made;
	t->make_errno = e;
	t->make = JOB_DONE;
}

static void job_swap(struct mirror *m)
{
	struct mirror_thread *t = &m->t;
	int e = mirror_swap(m, t->swapping) == 0 ? 0 : errno;

	if (e)
		(void)!mirror_switch_off(m);
	pthread_mutex_lock(&t->lock);
	t->swap_errno = e;
	t->swap = JOB_DONE;
}

static void job_age(struct mirror *m, uint64_t epoch)
{
	int rc = mirror_grace(m);

	/* A grace period that failed is none: the slots stay as they are, and the next tombstones ask again. */
	if (rc == 0)
		atomic_store_explicit(&m->t.aged, epoch, memory_order_release); /* pairs with mirror_aged */
	pthread_mutex_lock(&m->t.lock);
	m->t.age = 0;
}

static void job_free(struct mirror *m)
{
	struct mirror_thread *t = &m->t;
	struct mirror_table *one = t->dropped;

	t->dropped = one->next;
	pthread_mutex_unlock(&t->lock);
	mirror_table_free(&one);
	pthread_mutex_lock(&t->lock);
}

static void *run(void *arg)
{
	struct mirror *m = arg;
	struct mirror_thread *t = &m->t;

	pthread_mutex_lock(&t->lock);
	while (!t->stop || t->make == JOB_WAITS || t->swap == JOB_WAITS || t->dropped) {
		uint64_t age = t->age;

		if (t->make != JOB_WAITS && t->swap != JOB_WAITS && !age && !t->dropped) {
			pthread_cond_wait(&t->work, &t->lock);
			continue;
		}
		/* What a job reads was written before it was set to wait, and stays until it is done. */
		if (t->make == JOB_WAITS) {
			pthread_mutex_unlock(&t->lock);
			job_make(m);
		} else if (t->swap == JOB_WAITS) {
			pthread_mutex_unlock(&t->lock);
			job_swap(m);
		} else if (t->dropped) {
			job_free(m);
		} else {
			pthread_mutex_unlock(&t->lock);
			job_age(m, age);
		}
		pthread_cond_broadcast(&t->done);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int mirror_thread_start(struct mirror *m)
{
	struct mirror_thread *t = &m->t;
	sigset_t all, before;
	int rc;

	if (mirror_grace_open(m) != 0)
		return -1;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	pthread_cond_init(&t->done, NULL);
	sigfillset(&all); /* signals are the control thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&t->thread, NULL, run, m);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	t->runs = rc == 0;
	errno = rc;
	return t->runs ? 0 : -1;
}

void mirror_thread_stop(struct mirror *m)
{
	struct mirror_thread *t = &m->t;

	if (t->runs) {
		pthread_mutex_lock(&t->lock);
		t->stop = true;
		pthread_cond_signal(&t->work);
		pthread_mutex_unlock(&t->lock);
		pthread_join(t->thread, NULL);
		mirror_table_free(&t->made);
	}
	mirror_grace_close(m);
}

/* ---- control thread ---- */

void mirror_make_start(struct mirror *m, uint32_t generation, uint32_t capacity, uint32_t n_entries)
{
	struct mirror_thread *t = &m->t;

	pthread_mutex_lock(&t->lock);
	t->generation = generation;
	t->capacity = capacity;
	t->n_entries = n_entries;
	t->make = JOB_WAITS;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
}

/* Takes the end of a job, once. */
static int job_end(struct mirror_thread *t, enum job *job, const int *error)
{
	int e, rc = 0;

	pthread_mutex_lock(&t->lock);
	e = *error;
	if (*job == JOB_DONE) {
		*job = JOB_NONE;
		rc = e ? -1 : 1;
	}
	pthread_mutex_unlock(&t->lock);
	errno = e;
	return rc;
}

int mirror_make_done(struct mirror *m, struct mirror_table **made)
{
	int rc = job_end(&m->t, &m->t.make, &m->t.make_errno);

	if (rc == 1) {
		*made = m->t.made;
		m->t.made = NULL;
	}
	return rc;
}

void mirror_swap_start(struct mirror *m, struct mirror_table *table)
{
	struct mirror_thread *t = &m->t;

	pthread_mutex_lock(&t->lock);
	t->swapping = table;
	t->swap = JOB_WAITS;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
}

int mirror_swap_done(struct mirror *m)
{
	return job_end(&m->t, &m->t.swap, &m->t.swap_errno);
}

void mirror_table_drop(struct mirror_table **tp)
{
	struct mirror_table *table = *tp;
	struct mirror_thread *t;

	if (!table)
		return;
	t = &table->mirror->t;
	*tp = NULL;
	pthread_mutex_lock(&t->lock);
	table->next = t->dropped;
	t->dropped = table;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
}

void mirror_wait(struct mirror *m)
{
	struct mirror_thread *t = &m->t;

	pthread_mutex_lock(&t->lock);
	while (t->make == JOB_WAITS || t->swap == JOB_WAITS)
		pthread_cond_wait(&t->done, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void mirror_age(struct mirror *m, uint64_t epoch)
{
	struct mirror_thread *t = &m->t;

	if (epoch <= atomic_load_explicit(&t->aged, memory_order_relaxed))
		return;
	pthread_mutex_lock(&t->lock);
	if (t->age == 0) { /* one at a time: what comes meanwhile is asked for again */
		t->age = epoch;
		pthread_cond_signal(&t->work);
	}
	pthread_mutex_unlock(&t->lock);
}
