/* SPDX-License-Identifier: MIT
 * lease_place.h. */
#include "lease_place.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../bpf/programs.h"
#include "child.h"

/* ---- processors -------------------------------------------------------------------------------------------------- */

/* Those that this process could use at its start; threads narrow their own. */
static const cpu_set_t *processors(void)
{
	static cpu_set_t all;

	if (CPU_COUNT(&all) == 0)
		assert_int_equal(sched_getaffinity(getpid(), sizeof(all), &all), 0);
	return &all;
}

static int processor(unsigned n)
{
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((size_t)cpu, processors()) && n-- == 0)
			return cpu;
	return -1;
}

unsigned lease_processors(void)
{
	return (unsigned)CPU_COUNT(processors());
}

bool lease_pin_thread(unsigned n)
{
	int cpu = processor(n);
	cpu_set_t one;

	CPU_ZERO(&one);
	if (cpu >= 0)
		CPU_SET((size_t)cpu, &one);
	return cpu >= 0 && sched_setaffinity(0, sizeof(one), &one) == 0;
}

bool lease_keep_off(struct lease_place *p, unsigned n)
{
	cpu_set_t others = *processors();
	int cpu = processor(n);

	if (cpu >= 0)
		CPU_CLR((size_t)cpu, &others);
	return CPU_COUNT(&others) > 0 && sched_setaffinity(p->drain.d.pid, sizeof(others), &others) == 0 &&
	       sched_setaffinity(0, sizeof(others), &others) == 0;
}

/* ---- up and down ------------------------------------------------------------------------------------------------- */

static void *map_pin(const struct lease_place *p, const char *name, size_t size)
{
	int fd = bpf_pinned(&p->bpf, name);
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_true(at != MAP_FAILED);
	close(fd);
	return at;
}

struct bpf_object *lease_object(struct lease_place *p, const char *name, int *program, void *bss)
{
	struct bpf_object *object;
	char file[64], text[2048];
	struct bpf_map *map;

	snprintf(file, sizeof(file), "bpf/%s.bpf.o", name);
	object = bpf_object__open_file(daemon_program(file), NULL);
	assert_non_null(object);
	if (programs_use_mirror(object, p->drain.d.dir, text, sizeof(text)) != 0)
		fail_msg("%s", text);
	assert_int_equal(bpf_object__load(object), 0);
	*program = bpf_program__fd(bpf_object__find_program_by_name(object, name));
	map = bpf_object__find_map_by_name(object, ".bss");
	assert_non_null(map);
	*(void **)bss = mmap(NULL, bpf_map__value_size(map), PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
	assert_true(*(void **)bss != MAP_FAILED);
	return object;
}

static void start(struct lease_place *p, const char *barrier_ms, bool bpf)
{
	if (bpf)
		daemon_start(&p->drain.d, "--barrier-ms", barrier_ms, "--bpf", NULL);
	else
		daemon_start(&p->drain.d, "--barrier-ms", barrier_ms, NULL);
	wire_open(&p->drain.admin, &p->drain.d, WIRE_ADMIN);
}

struct lease_place *lease_place(void **state, const char *store, const char *barrier_ms)
{
	struct lease_place *p;

	if (bpf_unable())
		SKIP("%s", bpf_unable());
	(void)processors();
	p = calloc(1, sizeof(*p));
	assert_non_null(p);
	*state = p;
	bpf_place_make(&p->bpf, store);
	p->drain.d = p->bpf.d;
	start(p, barrier_ms, true);
	wire_do(&p->drain.admin, "cluster.set", "{s:s}", "id", "c1");
	wire_do(&p->drain.admin, "cluster.set", "{s:s}", "id", "c2");
	p->test = lease_object(p, "lease_test", &p->program, &p->hold);
	p->control = map_pin(p, "control", sizeof(*p->control));
	p->leases = map_pin(p, "leases", MIRROR_LEASES * sizeof(*p->leases));
	return p;
}

int lease_place_remove(void **state)
{
	struct lease_place *p = *state;

	if (!p)
		return 0;
	lease_let_go(p);
	bpf_object__close(p->test);
	if (p->control)
		munmap(p->control, sizeof(*p->control));
	if (p->leases)
		munmap(p->leases, MIRROR_LEASES * sizeof(*p->leases));
	if (p->drain.admin.fd > 0)
		wire_close(&p->drain.admin);
	p->bpf.d = p->drain.d;
	bpf_place_remove(&p->bpf);
	free(p);
	(void)sched_setaffinity(0, sizeof(cpu_set_t), processors());
	return 0;
}

void lease_restart(struct lease_place *p, const char *barrier_ms, bool bpf)
{
	wire_close(&p->drain.admin);
	start(p, barrier_ms, bpf);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

unsigned lease_run(struct lease_place *p, struct lease_call *call, unsigned repeat)
{
	struct lease_call answer;
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = call, .data_size_in = sizeof(*call), .data_out = &answer,
		    .data_size_out = sizeof(answer), .repeat = (int)repeat);

	assert_int_equal(bpf_prog_test_run_opts(p->program, &options), 0);
	assert_int_equal(options.data_size_out, sizeof(answer));
	*call = answer;
	p->ns = options.duration;
	return answer.code;
}

unsigned lease_begin(struct lease_place *p, const char *partition, uint64_t epoch, uint32_t slot)
{
	struct lease_call call = {.op = LEASE_BEGIN, .slot = slot, .epoch = epoch, .len = (uint32_t)strlen(partition)};

	memcpy(call.key, partition, call.len < sizeof(call.key) ? call.len : sizeof(call.key));
	return lease_run(p, &call, 1);
}

unsigned lease_end(struct lease_place *p, uint32_t slot, unsigned outcome)
{
	struct lease_call call = {.op = LEASE_END, .slot = slot, .outcome = outcome};

	return lease_run(p, &call, 1);
}

void lease_let_go(struct lease_place *p)
{
	if (!p->holds)
		return;
	*(volatile __u32 *)&p->hold->at = 0;
	assert_int_equal(pthread_join(p->held, NULL), 0);
	p->holds = false;
}

bool lease_is_free(const struct lease_place *p, uint32_t slot)
{
	return *(const volatile __u64 *)&p->leases[slot].hash == 0;
}

/* ---- complete ---------------------------------------------------------------------------------------------------- */

json_int_t lease_held(struct lease_place *p, const char *partition, const char *reason, json_int_t in_flight)
{
	json_int_t remaining;
	json_t *data, *answer;
	uint64_t deadline = 0;

	do { /* a look that has not ended, on a busy machine, is told as leases that are open, of which it knows none */
		drain_send_complete(&p->drain.admin, partition, 0);
		answer = wire_answer(&p->drain.admin);
		data = json_object_get(json_object_get(answer, "error"), "data");
		if (!data || strcmp(text_of(data, "reason"), "leases-open") != 0 || int_of(data, "in_flight") != 0)
			break;
		json_decref(answer);
		answer = NULL;
	} while (within(&deadline));
	assert_non_null(answer);
	data = drain_pending(answer, reason);
	assert_int_equal(int_of(data, "in_flight"), in_flight);
	assert_true(is_true(data, "packet_programs"));
	assert_int_equal(json_array_size(json_object_get(data, "pids")), 0);
	remaining = int_of(data, "remaining_ms");
	json_decref(data);
	return remaining;
}

json_int_t lease_in_flight(struct lease_place *p, const char *partition)
{
	json_t *data;
	json_int_t n;

	drain_send_complete(&p->drain.admin, partition, 0);
	data = drain_pending(wire_answer(&p->drain.admin), "leases-open");
	n = int_of(data, "in_flight");
	json_decref(data);
	return n;
}

json_int_t lease_complete(struct lease_place *p, const char *partition)
{
	json_t *result = wire_ok(&p->drain.admin, "complete", "{s:s}", "partition", partition);
	json_int_t held = int_of(result, "blackout_ms");

	json_decref(result);
	return held;
}

uint64_t lease_await_complete(struct lease_place *p, const char *partition, int wait_ms)
{
	json_t *answer;
	uint64_t answered_ms;

	drain_send_complete(&p->drain.admin, partition, wait_ms);
	answer = wire_answer(&p->drain.admin);
	answered_ms = test_now_ms();
	drain_expect_completed(answer);
	return answered_ms;
}

uint64_t lease_epoch_of(struct lease_place *p, const char *partition)
{
	json_t *r = wire_ok(&p->drain.admin, "get", "{s:s}", "partition", partition);
	uint64_t epoch = (uint64_t)int_of(r, "epoch");

	json_decref(r);
	return epoch;
}
