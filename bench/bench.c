/* SPDX-License-Identifier: MIT
 * The main program of `bench` and `peers`: reads the options, runs the workloads of its table in order.
 *
 * The parent does nothing but wait for the child that measures, and clean up after it however it ended: daemons die
 * with the child, and the scratch directories go. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define RUNS 15u
#define RUNS_QUICK 3u

static void help(void)
{
	printf("Usage: %s [--quick | --full] [--json] [--only NAME]\n%s\n\n"
	       "  --quick      small sizes and few runs, some seconds: whether it runs, not how fast it is\n"
	       "  --full       the long forms\n"
	       "  --json       one JSON object a line, with machine, kernel, commit and parameters\n"
	       "  --only NAME  one workload:\n",
	       program_name, program_does);
	for (size_t i = 0; i < n_workloads; i++)
		printf("                 %-9s %s\n", workloads[i].name, workloads[i].help);
	printf("\nStores are kept in TMPDIR (/tmp), tables in /dev/shm, while it runs.\n"
	       "Exit status: 0 measured (goals met or not), 1 something failed, 2 usage, 130 interrupted.\n"
	       "Example: %s --only %s --json\n",
	       program_name, workloads[0].name);
}

static const struct workload *find_workload(const char *name)
{
	for (size_t i = 0; i < n_workloads; i++)
		if (strcmp(workloads[i].name, name) == 0)
			return &workloads[i];
	return NULL;
}

static void parse(struct bench *b, int argc, char **argv)
{
	static const struct option options[] = {
		{"quick", no_argument, NULL, 'q'}, {"full", no_argument, NULL, 'f'},
		{"json", no_argument, NULL, 'j'},  {"only", required_argument, NULL, 'o'},
		{"help", no_argument, NULL, 'h'},  {0}};
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 'h') {
			help();
			exit(0);
		}
		if (o == 'o' && !find_workload(optarg)) {
			fprintf(stderr, "%s: --only %s: no such workload; `%s --help` lists them\n", program_name,
				optarg, program_name);
			exit(2);
		}
		if (o == '?')
			exit(2);
		b->quick |= o == 'q';
		b->full |= o == 'f';
		b->json |= o == 'j';
		b->only = o == 'o' ? optarg : b->only;
	}
	if (optind < argc) {
		fprintf(stderr, "%s: %s: no such argument; `%s --help` lists the options\n", program_name, argv[optind],
			program_name);
		exit(2);
	}
	if (b->quick && b->full) {
		fprintf(stderr, "%s: --quick and --full: only one of them\n", program_name);
		exit(2);
	}
	b->runs = b->quick ? RUNS_QUICK : RUNS;
}

/* build/bench/bench measures build/berthd. */
static void find_berthd(struct bench *b)
{
	ssize_t n = readlink("/proc/self/exe", b->berthd, sizeof(b->berthd) - sizeof("berthd"));
	char *slash;

	if (n <= 0)
		fail("cannot find itself: %s", strerror(errno));
	b->berthd[n] = 0;
	for (unsigned i = 0; i < 2; i++) {
		slash = strrchr(b->berthd, '/');
		if (slash)
			*slash = 0;
	}
	memcpy(b->berthd + strlen(b->berthd), "/berthd", sizeof("/berthd"));
	if (access(b->berthd, X_OK) != 0)
		fail("%s: %s: build it with `make`", b->berthd, strerror(errno));
}

static void make_scratch(struct bench *b)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(b->shm, sizeof(b->shm), "/dev/shm/berth-bench-XXXXXX");
	snprintf(b->disk, sizeof(b->disk), "%.4000s/berth-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(b->shm))
		fail("%s: %s: shared memory is needed", b->shm, strerror(errno));
	if (!mkdtemp(b->disk)) {
		int saved = errno;

		remove_tree(b->shm);
		fail("%s: %s: set TMPDIR to a directory with 1 GiB of room", b->disk, strerror(saved));
	}
}

static int measure(const struct bench *b)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	report_begin(b);
	for (size_t i = 0; i < n_workloads; i++)
		if (!b->only || strcmp(b->only, workloads[i].name) == 0)
			workloads[i].run(b);
	report_end(b);
	return 0;
}

int main(int argc, char **argv)
{
	static struct bench b;
	int status = 0, got, interrupted = 0;
	sigset_t wanted, old;
	pid_t child;

	parse(&b, argc, argv);
	find_berthd(&b);
	make_scratch(&b);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGHUP);
	sigprocmask(SIG_BLOCK, &wanted, &old);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* so that daemons that it leaves are ours to wait for */
	child = fork();
	if (child == 0) {
		sigprocmask(SIG_SETMASK, &old, NULL);
		exit(measure(&b));
	}
	while (child > 0 && waitpid(child, &status, WNOHANG) != child)
		if (sigwait(&wanted, &got) == 0 && got != SIGCHLD) {
			kill(child, SIGKILL);
			interrupted = got;
		}
	while (waitpid(-1, NULL, 0) > 0)
		;
	remove_tree(b.shm);
	remove_tree(b.disk);
	if (interrupted) {
		fprintf(stderr, "%s: interrupted\n", program_name);
		return 128 + interrupted;
	}
	return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
