/* SPDX-License-Identifier: MIT
 * drain_workers.h. Worker processes must not use cmocka: there is nobody to catch a failed assertion in them. */
#include "drain_workers.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLACK_MS 10u     /* that the daemon adds to a barrier */
#define LOOK_MS 300      /* that a look takes at most: less than every barrier here */
#define LATENESS_MS 900u /* that a busy machine may add to that */

static struct slot { /* between the test and one worker */
	_Atomic uint32_t given, done;
	worker_order *order;
	unsigned a, b;
	int answer;
} * slots;
static pid_t pids[WORKERS];
static struct drain_workers *made;

/* ---- in the worker ----------------------------------------------------------------------------------------- */

static _Noreturn void work(struct slot *s, const char *dir)
{
	struct worker *w = calloc(1, sizeof *w);

	if (!w)
		_exit(1);
	w->dir = dir;
	for (;;) {
		uint32_t given = atomic_load(&s->given);

		if (given != atomic_load(&s->done)) {
			s->answer = s->order(w, s->a, s->b);
			atomic_store(&s->done, given);
		} else if (w->b) {
			berth_maintain(w->b);
		}
		mp_pause();
	}
}

int order_attach(struct worker *w, unsigned writes, unsigned max_leases)
{
	struct berth_attach_options options = {.size = sizeof options, .writes = writes, .max_leases = max_leases};
	int rc = berth_attach(w->dir, &options, &w->b);

	for (unsigned i = 0; rc == BERTH_OK && berth_maintain(w->b) != BERTH_OK && i < 10000; i++)
		mp_pause();
	return rc == BERTH_OK ? berth_reader_open(w->b, &w->r) : rc;
}

int order_detach(struct worker *w, unsigned a, unsigned b)
{
	(void)a, (void)b;
	berth_reader_close(&w->r);
	return berth_detach(&w->b);
}

int order_reopen(struct worker *w, unsigned a, unsigned b)
{
	(void)a, (void)b;
	berth_reader_close(&w->r);
	return berth_reader_open(w->b, &w->r);
}

int order_begin(struct worker *w, unsigned partition, unsigned number)
{
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, partition);

	return berth_write_begin(w->r, key, len, 0, &w->writes[number]);
}

int order_bulk(struct worker *w, unsigned partition, unsigned n)
{
	char key[READERS_KEY_SIZE];
	struct berth_key keys[8] = {0};
	int status[8], rc;

	for (unsigned i = 0; i < n && i < 8; i++)
		keys[i] = (struct berth_key){key, readers_key(key, partition)};
	rc = berth_write_begin_bulk(w->r, keys, NULL, n, w->writes, status);
	for (unsigned i = 0; rc == BERTH_OK && i < n; i++)
		rc = status[i];
	return rc;
}

int order_end(struct worker *w, unsigned number, unsigned outcome)
{
	return berth_write_end(w->r, &w->writes[number], (enum berth_outcome)outcome);
}

struct ending {
	struct worker *w;
	unsigned number, outcome;
	int answer;
};

static void *end_with_own_reader(void *arg)
{
	struct ending *e = arg;
	struct berth_reader *r;

	e->answer = berth_reader_open(e->w->b, &r);
	if (e->answer != BERTH_OK)
		return NULL;
	e->answer = berth_write_end(r, &e->w->writes[e->number], (enum berth_outcome)e->outcome);
	berth_reader_close(&r);
	return NULL;
}

int order_end_elsewhere(struct worker *w, unsigned number, unsigned outcome)
{
	struct ending e = {.w = w, .number = number, .outcome = outcome, .answer = BERTH_E_NOMEM};
	pthread_t thread;

	if (pthread_create(&thread, NULL, end_with_own_reader, &e) == 0)
		pthread_join(thread, NULL);
	return e.answer;
}

int order_admit(struct worker *w, unsigned partition, unsigned b)
{
	char key[READERS_KEY_SIZE];
	size_t len = readers_key(key, partition);
	struct berth_route at;
	int rc = berth_route(w->r, key, len, &at);

	(void)b;
	return rc == BERTH_OK ? berth_admit(w->r, key, len, at.epoch) : rc;
}

int order_refuse_membarrier(struct worker *w, unsigned a, unsigned b)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1), /* EPERM */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = 4, .filter = filter};

	(void)w, (void)a, (void)b;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		return BERTH_E_SYSTEM;
	return syscall(SYS_membarrier, 0, 0, 0) == -1 ? BERTH_OK : BERTH_E_SYSTEM;
}

int order_exec(struct worker *w, unsigned a, unsigned b)
{
	(void)w, (void)a, (void)b;
	execl("/bin/sleep", "sleep", "60", (char *)NULL);
	return BERTH_E_SYSTEM;
}

/* ---- workers ----------------------------------------------------------------------------------------------- */

void worker_start(unsigned worker, struct drain_workers *p)
{
	assert_int_equal(pids[worker], 0);
	memset(&slots[worker], 0, sizeof slots[worker]);
	pids[worker] = mp_fork();
	if (pids[worker] == 0)
		work(&slots[worker], p->mp.d.dir);
}

int worker_tell(unsigned worker, worker_order *order, unsigned a, unsigned b)
{
	struct slot *s = &slots[worker];

	s->order = order;
	s->a = a;
	s->b = b;
	atomic_store(&s->given, atomic_load(&s->given) + 1);
	if (order != order_exec)
		MP_UNTIL(atomic_load(&s->done) == atomic_load(&s->given), 20000);
	return order == order_exec ? BERTH_OK : s->answer;
}

pid_t worker_pid(unsigned worker)
{
	return pids[worker];
}

void worker_signal(unsigned worker, int number)
{
	assert_int_equal(kill(pids[worker], number), 0);
}

void worker_gone(unsigned worker)
{
	kill(pids[worker], SIGKILL);
	waitpid(pids[worker], NULL, 0);
	pids[worker] = 0;
}

void worker_kill(unsigned worker)
{
	worker_gone(worker);
}

/* ---- place ------------------------------------------------------------------------------------------------- */

void drain_start_daemon(struct drain_workers *p)
{
	char barrier[16];

	snprintf(barrier, sizeof barrier, "%u", p->barrier_ms);
	daemon_start(&p->mp.d, "--barrier-ms", barrier, NULL);
}

struct drain_workers *drain_workers_make(const char *store, unsigned barrier_ms, unsigned n)
{
	struct drain_workers *p = calloc(1, sizeof *p);

	slots = mmap(NULL, WORKERS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!p || slots == MAP_FAILED)
		fail_msg("no memory");
	memset(pids, 0, sizeof pids);
	made = p;
	p->barrier_ms = barrier_ms;
	mp_place_make(&p->mp, store);
	drain_start_daemon(p);
	stream_open(&p->mp.stream, &p->mp.d, n, n, 1);
	wire_open(&p->waiting, &p->mp.d, WIRE_ADMIN);
	return p;
}

int drain_workers_teardown(void **state)
{
	struct drain_workers *p = made;

	(void)state; /* it may have failed before it had one */
	for (unsigned i = 0; i < WORKERS; i++)
		if (pids[i] > 0)
			worker_gone(i);
	munmap(slots, WORKERS * sizeof *slots);
	mp_place_remove(&p->mp);
	free(p);
	made = NULL;
	return 0;
}

void drain_restart(struct drain_workers *p)
{
	if (p->mp.d.pid)
		daemon_kill(&p->mp.d);
	wire_close(&p->mp.stream.wire);
	wire_close(&p->waiting);
	drain_start_daemon(p);
	wire_open(&p->mp.stream.wire, &p->mp.d, WIRE_ADMIN);
	wire_open(&p->waiting, &p->mp.d, WIRE_ADMIN);
}

/* ---- migrations -------------------------------------------------------------------------------------------- */

void drain_begin(struct drain_workers *p, unsigned partition)
{
	char key[READERS_KEY_SIZE], text[READERS_JSON_SIZE];

	readers_key(key, partition);
	readers_placement(text, partition, 1 + (1 + partition) % STREAM_CLUSTERS, 2);
	wire_do(&p->mp.stream.wire, "begin", "{s:s, s:o}", "partition", key, "to", json_loads(text, 0, NULL));
}

void drain_cut(struct drain_workers *p, unsigned partition)
{
	char key[READERS_KEY_SIZE];

	readers_key(key, partition);
	drain_begin(p, partition);
	wire_do(&p->mp.stream.wire, "cutover", "{s:s}", "partition", key);
}

void drain_abort(struct drain_workers *p, unsigned partition)
{
	char key[READERS_KEY_SIZE];

	readers_key(key, partition);
	wire_do(&p->mp.stream.wire, "abort", "{s:s}", "partition", key);
}

/* A look that is not through yet: retryable, and nobody's lease. */
static bool looks_still(const json_t *data)
{
	return strcmp(text_of(data, "reason"), "leases-open") == 0 && int_of(data, "in_flight") == 0;
}

json_t *drain_held(struct drain_workers *p, unsigned partition, const char *reason)
{
	uint64_t until = mp_now_ms() + 5000;
	char key[READERS_KEY_SIZE];
	json_t *error, *data = NULL;

	readers_key(key, partition);
	do {
		json_decref(data);
		error = wire_refused(&p->mp.stream.wire, "barrier-pending", "complete", "{s:s}", "partition", key);
		data = json_incref(json_object_get(error, "data"));
		json_decref(error);
	} while (looks_still(data) && mp_now_ms() < until);
	if (strcmp(text_of(data, "reason"), reason) != 0)
		fail_msg("partition %u is not held back by %s: %s", partition, reason, json_dumps(data, 0));
	return data;
}

void drain_is_held(struct drain_workers *p, unsigned partition, const char *reason)
{
	json_decref(drain_held(p, partition, reason));
}

uint64_t drain_complete(struct drain_workers *p, unsigned partition)
{
	char key[READERS_KEY_SIZE];
	json_t *result;
	uint64_t blackout;

	readers_key(key, partition);
	result = wire_ok(&p->mp.stream.wire, "complete", "{s:s, s:i}", "partition", key, "wait_ms", LOOK_MS);
	blackout = (uint64_t)int_of(result, "blackout_ms");
	json_decref(result);
	return blackout;
}

void drain_wait_begin(struct drain_workers *p, unsigned partition, unsigned wait_ms)
{
	char key[READERS_KEY_SIZE];

	readers_key(key, partition);
	wire_send_with(&p->waiting, -1, "complete", "{s:s, s:i}", "partition", key, "wait_ms", (int)wait_ms);
}

uint64_t drain_wait_end(struct drain_workers *p, unsigned deadline_ms)
{
	char *line = wire_line(&p->waiting, (int)deadline_ms);
	json_t *result;
	uint64_t blackout;

	assert_non_null(line);
	result = answer_result(json_loads(line, 0, NULL));
	free(line);
	blackout = (uint64_t)int_of(result, "blackout_ms");
	json_decref(result);
	return blackout;
}

void drain_takes_a_barrier(struct drain_workers *p, unsigned partition, uint64_t since_ms)
{
	uint64_t took;

	drain_wait_begin(p, partition, p->barrier_ms + 5000);
	drain_wait_end(p, p->barrier_ms + 6000);
	took = mp_now_ms() - since_ms;
	if (took < p->barrier_ms + SLACK_MS || took > p->barrier_ms + SLACK_MS + LATENESS_MS)
		fail_msg("partition %u completed %llu ms after the end, the barrier being %u", partition,
			 (unsigned long long)took, p->barrier_ms);
}
