/* SPDX-License-Identifier: MIT
 * The main job in some seconds, started by tests/demo: 50 tenants on 4 clusters behind an nginx with 4 workers, clients
 * that write and read all the time, 20 tenants that move under that load by `berth migrate run`, a writer that is killed
 * with -9 in the middle of one. Afterwards the logs of the clusters are compared with what the clients were told. Exit
 * code 1 when anything is not as it should be. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

#define PARTITIONS 50u
#define CLUSTERS 4u
#define WORKERS 4u
#define CONNECTIONS 48u
#define MOVES 20u
#define KILLED_AT 10u     /* the first move in which the writer may be killed */
#define BARRIER_MS 30000u /* the daemon's default */

struct tool { /* `berth migrate run` */
	pid_t pid;
	int out;
	uint64_t call_ns, answer_ns;
};

struct demo {
	struct place place;
	struct history history;
	struct load *load;
	struct move move[MOVES];
	struct rpc rpc;
	struct tool span[PARTITIONS]; /* the call that moved it */
	bool killed;                  /* the writer was */
	double gone_ms;
	uint64_t answered_meanwhile;
};

static struct demo demo;

/* ---- one migration, by the tool ---- */

static void tool_start(struct tool *t, const char *partition, const char *to)
{
	char program[512];
	const char *argv[] = {place_program("berth", program),
			      "--dir",
			      demo.place.dir,
			      "--json",
			      "migrate",
			      "run",
			      partition,
			      "--to",
			      to,
			      NULL};
	char progress[128];
	int pipes[2], fd;

	if (pipe2(pipes, 0) != 0)
		place_fail("no pipe for berth");
	t->call_ns = load_now_ns();
	t->pid = fork();
	if (t->pid < 0)
		place_fail("cannot start berth");
	if (t->pid == 0) {
		snprintf(progress, sizeof(progress), "%s/berth.err", demo.place.home);
		fd = open(progress, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(pipes[1], 1);
		dup2(fd, 2);
		close(pipes[0]);
		close(pipes[1]);
		execv(program, (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(pipes[1]);
	t->out = pipes[0];
}

static bool tool_runs(const struct tool *t)
{
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)t->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

/* Its answer, one JSON object. */
static json_t *tool_end(struct tool *t, const char *partition)
{
	char text[4096];
	size_t n = 0;
	ssize_t got;
	int status = 0;

	while (n + 1 < sizeof(text) && (got = read(t->out, text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(t->out);
	waitpid(t->pid, &status, 0);
	t->answer_ns = load_now_ns();
	json_t *answer = json_loads(text, 0, NULL);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !answer)
		place_fail("berth migrate run %s ended with status %d: %s", partition, status, text);
	return answer;
}

/* Where the partition is, and in which phase. */
static unsigned look(const char *partition, const char **phase)
{
	static char told[32];
	json_t *answer = rpc_do(&demo.rpc, "get", json_pack("{s:s}", "partition", partition));
	const json_t *state = json_object_get(answer, "state");
	const char *text = json_string_value(json_object_get(state, "phase")),
		   *at = json_string_value(json_object_get(json_object_get(state, "at"), "cluster"));
	unsigned number = at ? (unsigned)strtoul(at + 1, NULL, 10) : 0;

	snprintf(told, sizeof(told), "%s", text ? text : "settled");
	if (phase)
		*phase = told;
	json_decref(answer);
	return number;
}

/* Waits for the cutover, then kills the writer and starts it again. False: the migration was too fast for that. */
static bool kill_in_cutover(const struct tool *t, const char *partition)
{
	const char *phase = "";

	while (strcmp(phase, "cutover") != 0) {
		if (!tool_runs(t))
			return false;
		look(partition, &phase);
	}
	uint64_t start = load_now_ns();
	struct load_counts before = load_count(demo.load);
	place_kill_berthd(&demo.place);
	rpc_close(&demo.rpc);
	usleep(250000); /* as long as somebody needs to notice */
	struct load_counts after = load_count(demo.load);
	place_restart_berthd(&demo.place);
	demo.killed = true;
	demo.gone_ms = (double)(load_now_ns() - start) / 1e6;
	demo.answered_meanwhile = after.reads - before.reads + after.acknowledged - before.acknowledged;
	return true;
}

static void migrate(unsigned i)
{
	unsigned partition = (i * 7 + 3) % PARTITIONS, from, to;
	char name[LOAD_NAME], cluster[16];
	struct tool t;
	bool killed = false;

	load_name(name, partition);
	from = look(name, NULL);
	to = 1 + (from + i % (CLUSTERS - 1)) % CLUSTERS;
	snprintf(cluster, sizeof(cluster), "c%u", to);
	load_heat(demo.load, partition, true);
	usleep(100000);
	tool_start(&t, name, cluster);
	if (i + 1 >= KILLED_AT && !demo.killed)
		killed = kill_in_cutover(&t, name);
	json_t *answer = tool_end(&t, name);
	demo.span[partition] = t;
	load_heat(demo.load, partition, false);
	uint64_t held = (uint64_t)json_integer_value(json_object_get(answer, "blackout_ms"));
	demo.move[i] = (struct move){.partition = partition, .held_ns = held * 1000000u, .told_ms = held};
	json_decref(answer);
	printf("  %s  c%u -> c%u   writes held back for %3" PRIu64 " ms\n", name, from, to, held);
	if (killed)
		printf("              berthd was killed with -9 in this cutover, and ready again after %.0f ms; "
		       "meanwhile "
		       "the proxy answered %" PRIu64 " requests\n",
		       demo.gone_ms, demo.answered_meanwhile);
	if (look(name, NULL) != to)
		place_fail("%s is not on c%u after its migration", name, to);
}

/* ---- what the daemon remembers ---- */

/* The changes of all moved partitions, from its history: between which of our calls they lie is all that is known. */
static void read_history(void)
{
	static const struct {
		const char *name;
		enum hist_what what;
	} names[] = {
		{"begin", HIST_BEGIN}, {"cutover", HIST_CUTOVER}, {"complete", HIST_COMPLETE}, {"abort", HIST_ABORT}};
	json_t *answer = rpc_do(&demo.rpc, "history", json_pack("{s:i}", "limit", 1000));
	const json_t *events = json_object_get(answer, "events"), *event;
	size_t i;

	json_array_foreach (events, i, event) {
		const char *what = json_string_value(json_object_get(event, "what")),
			   *key = json_string_value(json_object_get(event, "key")),
			   *at = json_string_value(
				   json_object_get(json_object_get(json_object_get(event, "state"), "at"), "cluster"));
		for (size_t k = 0; what && key && at && k < sizeof(names) / sizeof(names[0]); k++)
			if (strcmp(what, names[k].name) == 0)
				*history_change(&demo.history) = (struct hist_change){
					.partition = (uint32_t)strtoul(strchr(key, '-') + 1, NULL, 10),
					.what = (uint8_t)names[k].what,
					.at = (uint16_t)strtoul(at + 1, NULL, 10),
					.epoch = (uint64_t)json_integer_value(json_object_get(event, "epoch")),
				};
	}
	json_decref(answer);
}

/* The times: of the call of the tool in which they lie. */
static void bound_history(void)
{
	for (size_t i = 0; i < demo.history.n_changes; i++) {
		struct hist_change *c = &demo.history.changes[i];
		if (c->call_ns)
			continue;
		c->call_ns = demo.span[c->partition].call_ns;
		c->answer_ns = demo.span[c->partition].answer_ns;
	}
}

/* ---- the end ---- */

/* How long a client had to wait for a write that was refused, with all repeats; the longest. After check_history. */
static double longest_wait_ms(const struct history *h)
{
	uint64_t longest = 0, begun = 0;

	for (size_t i = 0; i < h->n_calls; i++) {
		const struct hist_call *c = &h->calls[i];
		if (c->attempt == 1)
			begun = c->call_ns;
		else if (c->outcome == HIST_OK && c->answer_ns - begun > longest)
			longest = c->answer_ns - begun;
	}
	return (double)longest / 1e6;
}

static int tell(const struct check_report *r, double wait_ms, uint64_t begun_ns)
{
	bool good = r->n_faults == 0 && demo.killed && r->n_unknown == 0 && r->by_rule[CHECK_READ] == 0;

	printf("\n"
	       "  requests                       %8" PRIu64 "\n"
	       "  reads                          %8" PRIu64 "   refused %" PRIu64 "\n"
	       "  writes acknowledged            %8" PRIu64 "   lines in the logs of the clusters %" PRIu64 "\n"
	       "  writes refused, then repeated  %8" PRIu64 "   by %" PRIu64 " answers with 409; done within %.0f ms\n"
	       "  writes of unknown outcome      %8" PRIu64 "\n"
	       "  a move holds writes back       %8.0f ms half of the times, at most %.0f ms\n"
	       "  with a proxy without leases    %8u ms each time, the whole barrier\n\n",
	       r->n_reads + r->n_acknowledged + r->n_refused + r->n_unknown, r->n_reads, r->by_rule[CHECK_READ],
	       r->n_acknowledged, r->n_effects, r->n_repeated, r->n_refused, wait_ms, r->n_unknown,
	       moves_held_ms(demo.move, MOVES, 50), moves_held_ms(demo.move, MOVES, 100), BARRIER_MS);
	for (unsigned i = 0; i < r->n_texts; i++)
		printf("FAULT %s\n", r->text[i]);
	if (!demo.killed)
		printf("no migration took long enough to kill the writer in its cutover: start the demo again\n");
	if (good)
		printf("every acknowledged write is in the log of exactly one cluster, once, where its tenant lived "
		       "then;\n"
		       "no write reached a former cluster after its move; no read was refused. In %.0f s\n",
		       (double)(load_now_ns() - begun_ns) / 1e9);
	return good ? 0 : 1;
}

static int body(void *arg)
{
	static struct check_report report;
	const struct load_mix mix = {.ok = 1, .slow_percent = 30, .slow_ms = 75};
	struct load_options options = {.n_partitions = PARTITIONS,
				       .n_connections = CONNECTIONS,
				       .write_percent = 70,
				       .pause_us = 4000,
				       .seed = load_now_ns()};
	uint64_t begun_ns = load_now_ns();

	(void)arg;
	if (place_missing())
		place_fail("%s is not installed: `make deps` installs it", place_missing());
	demo.place = (struct place){
		.n_clusters = CLUSTERS, .n_workers = WORKERS, .barrier_ms = BARRIER_MS, .tries = 1, .leases = 4096};
	demo.history.max_tries = 1;
	place_open(&demo.place);
	rpc_init(&demo.rpc, demo.place.dir);
	moves_place(&demo.place, PARTITIONS, &demo.history);
	options.port = demo.place.proxy_port;
	demo.load = load_start(&options, &mix);
	if (!demo.load)
		place_fail("cannot start the load");
	printf("%u tenants on %u clusters, behind nginx with %u workers; berthd on SQLite, barrier %u s; %u clients "
	       "write and "
	       "read.\nA write takes up to %u ms. %u tenants move, each by `berth migrate run`:\n\n",
	       PARTITIONS, CLUSTERS, WORKERS, BARRIER_MS / 1000, CONNECTIONS, mix.slow_ms + 5, MOVES);
	usleep(500000);
	for (unsigned i = 0; i < MOVES; i++)
		migrate(i);
	read_history();
	rpc_close(&demo.rpc);
	load_stop(&demo.load, 5000, &demo.history);
	place_close(&demo.place);
	bound_history();
	verdict_read_logs(&demo.place, &demo.history);
	check_history(&demo.history, &report);
	double wait_ms = longest_wait_ms(&demo.history);
	history_free(&demo.history);
	return tell(&report, wait_ms, begun_ns);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	return place_guard(body, NULL);
}
