/* SPDX-License-Identifier: MIT
 * The command line of berthd: one table, from which come the parser and --help. Called once, by main. */
#ifndef BERTH_WRITER_OPTIONS_H
#define BERTH_WRITER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "log.h"

#define BARRIER_MS_DEFAULT 30000u
#define BARRIER_MS_MAX 86400000u

#define CURSOR_CAPACITY_DEFAULT 100000u
#define CURSOR_TTL_MS_DEFAULT 300000u

/* X(long name, kind, member, argument, help); kinds: TEXT, LEVEL, FLAG, CPU, and numbers with ranges (options.c): BARRIER,
 * CAPACITY, TTL, SHARE. An argument in brackets may be left out. */
#define OPTIONS(X) \
	X("instance", TEXT, instance, "NAME", "name of the instance, a directory below /dev/shm/berth (default)") \
	X("dir", TEXT, dir, "DIR", "directory of the instance, anywhere, instead of a name") \
	X("store", TEXT, store, "URL", \
	  "where placements are kept: sqlite:PATH (sqlite:/var/lib/berth/NAME.db) or memory:") \
	X("document", TEXT, document, "FILE", "placement document, applied at the start and on SIGHUP") \
	X("barrier-ms", BARRIER, barrier_ms, "N", "barrier of `complete` in milliseconds, 1 to 86400000 (30000)") \
	X("cursor-capacity", CAPACITY, cursor_capacity, "N", "pins of cursors, 1 to 16777216 (100000)") \
	X("cursor-ttl-ms", TTL, cursor_ttl_ms, "N", \
	  "milliseconds that a pin lives which names none, 1 to 4294967295 (300000)") \
	X("cursor-owner-share", SHARE, cursor_owner_share, "PCT", \
	  "percent of the capacity that the pins of one partition may take, 1 to 100 (off)") \
	X("busy-poll", CPU, busy_poll, "[=CPU]", "the cursor thread never sleeps; with a CPU: it runs there alone") \
	X("takeover", FLAG, takeover, NULL, "end the writer that holds the instance, then start") \
	X("bpf", FLAG, bpf, NULL, "mirror the table into eBPF maps, for packet programs (CAP_BPF, /sys/fs/bpf)") \
	X("http", TEXT, http, "ADDR:PORT", "serve /metrics, /status and a page there; :PORT is loopback (off)") \
	X("table-dir", TEXT, table_dir, "DIR", "directory for the table files alone, e.g. on hugetlbfs") \
	X("no-huge-pages", FLAG, no_huge_pages, NULL, "keep the table on pages of 4 KiB") \
	X("new-directory", FLAG, new_directory, NULL, "accept that the directory that the store knows is gone") \
	X("log-level", LEVEL, log_level, "LEVEL", "error, warn, info or debug (info)") \
	X("version", FLAG, version, NULL, "print the version") \
	X("help", FLAG, help, NULL, "print this")

struct option_cpu {
	bool on;
	int cpu; /* -1: any */
};

struct options {
#define OPTION_TEXT(m) const char *m;
#define OPTION_FLAG(m) bool m;
#define OPTION_BARRIER(m) uint64_t m;
#define OPTION_CAPACITY(m) uint64_t m;
#define OPTION_TTL(m) uint64_t m;
#define OPTION_SHARE(m) uint64_t m; /* 0: off */
#define OPTION_CPU(m) struct option_cpu m;
#define OPTION_LEVEL(m) enum log_level m;
#define OPTION_MEMBER(name, kind, member, argument, help) OPTION_##kind(member)
	OPTIONS(OPTION_MEMBER)
#undef OPTION_MEMBER
#undef OPTION_TEXT
#undef OPTION_FLAG
#undef OPTION_BARRIER
#undef OPTION_CAPACITY
#undef OPTION_TTL
#undef OPTION_SHARE
#undef OPTION_CPU
#undef OPTION_LEVEL
	const char *where;     /* --dir or --instance, as seg_dir_path wants it */
	char name[256];        /* of the instance, for people and for the default store */
	char dir_buffer[4096]; /* --dir without a slash is still a path */
	char store_buffer[512];
};

/* False after a message on stderr: what was wrong, the value, what to do. *o is complete with defaults on success. */
bool options_parse(int argc, char **argv, struct options *o);
void options_help(FILE *);

#endif
