/* SPDX-License-Identifier: MIT
 * See packets_run.h. */
#include "packets_run.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "packets_splice.h"
#include "suite.h"

#define PINS "/sys/fs/bpf"
#define SETTLE_NS 5000000000ull /* until the last packets of closed connections have come */
#define START_NS 20000000000ull /* of clients */
#define MOVES_NS 90000000000ull /* of all migrations, which take a third of that on a busy machine */

static const char *bpf_missing(void)
{
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "probe", 4, 8, 1, NULL);
	struct statfs fs;

	if (map < 0)
		return "BPF maps cannot be made here: root is needed, and a kernel with BPF";
	close(map);
	if ((statfs(PINS, &fs) != 0 || fs.f_type != BPF_FS_MAGIC) && mount("bpf", PINS, "bpf", 0, NULL) != 0)
		return "no BPF file system can be mounted at " PINS;
	return NULL;
}

const char *run_missing(void)
{
	const char *missing = place_missing();

	if (!missing)
		missing = curl_missing();
	if (!missing)
		missing = wrk_missing();
	if (!missing)
		missing = net_missing();
	return missing ? missing : bpf_missing();
}

void run_open(struct run *r, bool bpf, unsigned hold_ms)
{
	*r = (struct run){.place = {.n_clusters = RUN_CLUSTERS,
				    .n_workers = 2,
				    .barrier_ms = 1000,
				    .tries = 1,
				    .leases = 4096,
				    .hold_ms = hold_ms,
				    .address = "0.0.0.0",
				    .bpf = bpf},
			  .history = {.max_tries = 1}};
	net_open(&r->net);
	place_open(&r->place);
	moves_place(&r->place, RUN_PARTITIONS, &r->history);
}

void run_berth(const struct run *r, const char *format, ...)
{
	char program[512], arguments[512];
	va_list list;

	va_start(list, format);
	vsnprintf(arguments, sizeof(arguments), format, list);
	va_end(list);
	net_do("%s --dir %s %s", place_program("berth", program), r->place.dir, arguments);
}

void run_steer(const struct run *r, const char *options, unsigned port, const char *mode)
{
	run_berth(r, "bpf load steer %s --port %u", options, port);
	run_berth(r, "bpf attach steer --dev " NET_DEV " --mode %s", mode);
}

/* Those of our own load, from 0. */
static unsigned own_partitions(const struct run *r)
{
	return RUN_PARTITIONS - RUN_CURLS - (r->with_wrk ? RUN_WRKS : 0);
}

void run_clients(struct run *r, uint16_t port, const struct load_mix *mix)
{
	static const struct load_mix well = {.ok = 1, .slow_percent = 10, .slow_ms = 20};
	const struct load_options load = {.address = inet_addr(NET_PROXY),
					  .port = port,
					  .n_partitions = own_partitions(r),
					  .n_connections = 48,
					  .write_percent = 70,
					  .pause_us = 4000,
					  .seed = suite_seed};
	const struct curl_options curl = {
		.address = NET_PROXY, .port = port, .first = RUN_PARTITIONS - RUN_CURLS, .n_partitions = RUN_CURLS};
	const struct wrk_options wrk = {
		.address = NET_PROXY, .port = port, .first = own_partitions(r), .n_partitions = RUN_WRKS};

	r->before = net_count(&r->net);
	net_enter(r->net.client);
	r->load = load_start(&load, mix ? mix : &well);
	r->curl = curl_start(&curl);
	if (r->with_wrk)
		r->wrk = wrk_start(&wrk);
	net_enter(r->net.proxy);
	if (!r->load)
		place_fail("cannot start the load: %s", strerror(errno));
	for (uint64_t until = load_now_ns() + START_NS; load_count(r->load).acknowledged < 200; usleep(1000))
		if (load_now_ns() > until)
			place_fail("port %u acknowledged %" PRIu64 " writes within %llu s", port,
				   load_count(r->load).acknowledged, START_NS / 1000000000u);
}

struct moves *run_moves(struct run *r, unsigned percent)
{
	const struct moves_options options = {.place = &r->place,
					      .load = r->load,
					      .n_partitions = RUN_PARTITIONS,
					      .n_moves = suite_migrations * percent / 100,
					      .n_threads = 4,
					      .undone_percent = 15,
					      .draining_ms = 40,
					      .pause_ms = 20,
					      .wait_ms = 2000,
					      .seed = suite_seed};

	r->moving = options.n_moves;
	return moves_start(&options, &r->history);
}

void run_wait(struct moves *moves, unsigned n)
{
	for (uint64_t until = load_now_ns() + MOVES_NS * suite_migrations / 200; moves_done(moves) < n; usleep(1000))
		if (load_now_ns() > until)
			place_fail("only %u of %u migrations had ended in time", moves_done(moves), n);
}

void run_kill_berthd(struct run *r)
{
	r->away.from_ns = load_now_ns();
	place_kill_berthd(&r->place);
	place_restart_berthd(&r->place);
	r->away.to_ns = load_now_ns();
}

void run_end_clients(struct run *r, struct moves **moves)
{
	run_wait(*moves, r->moving);
	r->n_moves = moves_wait(moves, &r->move);
	load_stop(&r->load, 5000, &r->history);
	curl_stop(&r->curl, &r->history);
	if (r->wrk)
		r->n_wrk = wrk_stop(&r->wrk, &r->history);
}

bool run_seen(struct run *r)
{
	uint64_t until = load_now_ns() + SETTLE_NS;

	do {
		r->sent = net_count(&r->net);
		r->sent.packets -= r->before.packets;
		r->sent.again -= r->before.again;
		r->counts = counts_read(&r->place);
	} while (r->counts.seen != r->sent.packets && load_now_ns() < until);
	if (r->counts.seen != r->sent.packets)
		printf("note: FAULT steer saw %" PRIu64 " packets; clients sent %" PRIu64 "\n", r->counts.seen,
		       r->sent.packets);
	return r->counts.seen == r->sent.packets;
}

bool run_counts(struct run *r)
{
	(void)!run_seen(r);
	return counts_agree(&r->counts, &r->history, &r->sent, r->away.to_ns ? &r->away : NULL, "note: ");
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* What a client waits for the answer of a write, those of curl apart: their times are whole batches'. */
static void print_latency(const struct history *h)
{
	uint64_t *took = malloc((h->n_calls + 1) * sizeof(*took));
	size_t n = 0;

	if (!took)
		place_fail("out of memory");
	for (size_t i = 0; i < h->n_calls; i++)
		if (h->calls[i].sequence && h->calls[i].partition < RUN_PARTITIONS - RUN_CURLS)
			took[n++] = h->calls[i].answer_ns - h->calls[i].call_ns;
	qsort(took, n, sizeof(*took), by_size);
	if (n)
		printf("note: writes were answered after p50 %.1f, p99 %.1f, at most %.1f ms\n",
		       (double)took[n / 2] / 1e6, (double)took[n * 99 / 100] / 1e6, (double)took[n - 1] / 1e6);
	free(took);
}

bool run_close(struct run *r)
{
	if (r->late)
		usleep(r->place.barrier_ms * 1000); /* what comes late has come */
	place_close(&r->place);
	net_close(&r->net);
	verdict_read_logs(&r->place, &r->history);
	if (r->spliced)
		splice_epochs(&r->history);
	print_latency(&r->history);
	bool good = verdict(&r->history, &r->move, r->n_moves, "note: ", &r->report);
	return good && r->report.n_acknowledged > 100;
}

/* The last part of the runs' directory in memory is in the name of each instance, and with it of what it has elsewhere. */
static const char *run_name(void)
{
	const char *shm = getenv("E2E_SHM"), *last = shm ? strrchr(shm, '/') : NULL;

	return last ? last + 1 : NULL;
}

/* Where the unified hierarchy is; NULL: nowhere. */
static const char *cgroups(char path[128])
{
	char line[512];
	FILE *f = fopen("/proc/mounts", "re");
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %127s cgroup2 ", path) == 1 && strstr(line, " cgroup2 ");
	if (f)
		fclose(f);
	return found ? path : NULL;
}

const char *run_cgroup(char path[256])
{
	char root[128];

	if (!cgroups(root))
		return NULL;
	snprintf(path, 256, "%s/%s", root, run_name());
	if (mkdir(path, 0755) != 0 && errno != EEXIST)
		place_fail("cannot make the cgroup %s: %s", path, strerror(errno));
	return path;
}

void run_remove_left(void)
{
	char out[256], root[128];
	const char *name = run_name();

	if (!name || geteuid() != 0)
		return;
	if (net_run(out, sizeof(out), "rm -rf " PINS "/berth/%s-*", name) != 0)
		fprintf(stderr, "cannot remove pins: %s\n", out);
	if (!cgroups(root))
		return;
	snprintf(out, sizeof(out), "%s/%s", root, name);
	if (rmdir(out) != 0 && errno != ENOENT)
		fprintf(stderr, "cannot remove %s: %s\n", out, strerror(errno));
}
