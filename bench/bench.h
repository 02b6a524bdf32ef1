/* SPDX-License-Identifier: MIT
 * What the files of bench share: options, measuring, reporting, a berthd to measure, and the list of workloads. The
 * program measures from outside, by libberth and the sockets, as a proxy would; its processes have one thread each.
 * Whatever goes wrong ends the program with a message (fail): a benchmark has nothing to save. */
#ifndef BERTH_BENCH_BENCH_H
#define BERTH_BENCH_BENCH_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct bench {
	bool quick;        /* small sizes, few runs: does it run, not how fast is it; no verdicts */
	bool full;         /* the long forms: more sizes, more runs, minutes each */
	bool json;         /* one JSON object a line instead of the table */
	const char *only;  /* name of one workload, NULL: all */
	unsigned runs;     /* of each figure */
	char berthd[4096]; /* the daemon's program */
	char shm[64];      /* scratch directory in shared memory, removed at the end */
	char disk[4096];   /* scratch directory for stores, likewise */
};

/* What a program of this folder measures: workloads.c for `bench`, peers/workloads.c for `peers`. Run in this order. */
struct workload {
	const char *name, *help;
	void (*run)(const struct bench *);
};
extern const struct workload workloads[];
extern const size_t n_workloads;
extern const char program_name[], program_does[]; /* for --help */

/* ---- measure.c ---- */
#define SAMPLES_MAX 1000u
#define CPU_SELF 1   /* of two: where this program runs, */
#define CPU_DAEMON 0 /* and the daemon or the peer of a ping-pong */

struct samples { /* one value a run, or a migration */
	double v[SAMPLES_MAX];
	unsigned n;
};

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void pin_to(int cpu); /* the calling process; nothing happens on a machine without that CPU */
void pin_nowhere(void);
uint64_t now_ns(void);            /* CLOCK_MONOTONIC */
double elapsed_ns(uint64_t from); /* since now_ns(), without the cost of reading the clock */
uint64_t busy_ns(void);           /* processor time of this thread: for what never waits, so that another process on */
double busy_elapsed_ns(uint64_t from); /* the same processor is not measured with it */
/* The processor's time stamp: for what is too short for a clock. The fences keep what is measured between the two. */
uint64_t ticks_begin(void);
uint64_t ticks_end(void);
double ticks_ns(uint64_t ticks); /* by a calibration against CLOCK_MONOTONIC, made once */
uint64_t ticks_cost(void);       /* of an empty pair begin, end: to be taken off; the median of many */
void add_sample(struct samples *, double);
double quantile(const struct samples *, double q); /* 0: least, 0.5: median, 1: greatest */
uint64_t random_u64(uint64_t *state);              /* the same sequence in every run */

/* ---- histogram.c: log-linear, 3 % wide at most, 1 .. 2^40 ---- */
#define HISTOGRAM_BUCKETS 1216u
struct histogram {
	uint64_t n[HISTOGRAM_BUCKETS], total, max;
};
void histogram_add(struct histogram *, uint64_t value);
void histogram_merge(struct histogram *, const struct histogram *from);
double histogram_quantile(const struct histogram *, double q); /* 0 when it is empty */

/* ---- report.c ---- */
struct figure {
	const char *workload;
	char name[64];
	const char *unit;
	char parameters[96]; /* "partitions=1000 keys=zipf": numbers without separators; an object in --json */
	double goal;         /* the median is to be at most this; 0: no goal, for information */
	bool at_least;       /* at least this */
	bool contest;        /* against something else: the verdict is won or lost, and no goal is counted */
	double tail_goal;    /* and the 99th percentile this; 0: no goal */
	bool tail;           /* show 99th percentile and maximum, not the quartiles */
	struct samples s;
};
void report_begin(const struct bench *);
void report(const struct bench *, const struct figure *);
/* One value a call, not a run: p50, p90, p99, p99.9, p99.99 and the greatest; `scale` makes a value the figure's unit.
 * f->goal, if any, is for f->s, which the caller fills with what is judged (a ratio, a median a run). */
void report_histogram(const struct bench *, const struct figure *, const struct histogram *, double scale);
/* A line for people: what was done, or left out. On standard error with --json. */
void report_note(const struct bench *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_end(const struct bench *);

/* ---- document.c ---- */
#define KEY_LEN 15u /* tenant-%08x */
#define KEY_ROOM 16u
#define LONG_KEY_LEN 200u /* tenant-%08x-, then x to the end */
#define CLUSTERS 10u
void key_name(char out[KEY_ROOM], uint32_t number);
void long_key_name(char out[LONG_KEY_LEN + 1], uint32_t number);
/* A placement document of n partitions in the form that osproxy polls, in memory: every mode, partition i on cluster
 * c<i % CLUSTERS>. long_keys: under their long names. */
int document_make(uint32_t n, bool long_keys);

/* ---- daemon.c ---- */
struct daemon {
	pid_t pid;
	int fd; /* its admin socket */
	char dir[128];
	char log[160];
};
struct daemon_how {
	const char *store;   /* NULL for memory:, or a path */
	int cpu;             /* where it is pinned, -1: nowhere */
	bool fresh;          /* the directory is new, whatever the store remembers */
	unsigned barrier_ms; /* 0: as it is by itself; and so are those below */
	bool busy_poll;
	unsigned cursor_capacity;
	unsigned cursor_share; /* percent */
	bool small_pages;      /* --no-huge-pages */
	bool bpf;              /* a mirror for packet programs; its pins go by bench/bpf/place.c */
};
/* daemon_start returns when it answers; daemon_spawn at once, without a connection. */
void daemon_spawn(const struct bench *, struct daemon *, const char *name, const struct daemon_how *);
void daemon_start(const struct bench *, struct daemon *, const char *name, const struct daemon_how *);
void daemon_stop(struct daemon *);
/* Sends one line (with a descriptor, or -1) and waits for the answer; a refusal is a failure. peak: NULL, or the
 * highest RssAnon of the daemon in bytes meanwhile is stored there. */
void daemon_call(struct daemon *, const char *line, int pass_fd, char *answer, size_t size, uint64_t *peak);
uint64_t answer_number(const char *answer, const char *name);
void daemon_load(struct daemon *, int document, uint32_t n, uint64_t *peak);
uint64_t daemon_anonymous_bytes(const struct daemon *);
/* Another connection to its admin socket, for another process. */
void daemon_connect(struct daemon *);
/* A connection to a socket of that path, -1 with errno. */
int socket_connect(const char *path);
void send_all(int fd, const char *bytes, size_t n, int pass_fd);
/* One answer of a daemon, with its newline; how long it is. */
size_t receive_line(int fd, char *line, size_t room);
void remove_tree(const char *path);

#endif
