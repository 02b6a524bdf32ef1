/* SPDX-License-Identifier: MIT
 * The command table: one row a command, one row an option. From it come parsing (arguments.c), help, the man page and
 * the completion of bash (help.c). Adding a command takes a row in commands.c and a handler. */
#ifndef BERTH_TOOLS_COMMANDS_H
#define BERTH_TOOLS_COMMANDS_H

#include "tool.h"

/* X(enum, name, placeholder of its value or NULL for a flag, help). */
#define OPTIONS(X) \
	X(OPT_DIR, "dir", "DIR", "the directory of the instance") \
	X(OPT_INSTANCE, "instance", "NAME", \
	  "the instance below " SEG_DIR_BASE " (`" SEG_INSTANCE "` when neither is given)") \
	X(OPT_JSON, "json", NULL, "print JSON, one object a line; errors too") \
	X(OPT_HELP, "help", NULL, "print help, of the command when one is given, and exit (also -h)") \
	X(OPT_VERSION, "version", NULL, "print the version and exit") \
	X(OPT_ENDPOINT, "endpoint", "URL", "address of the cluster, http:// or https://; \"\" for none") \
	X(OPT_MODE, "mode", "MODE", "dedicated-cluster, dedicated-index or shared-index") \
	X(OPT_CLUSTER, "cluster", "ID", "the cluster where the data lives; of a cursor: that made it") \
	X(OPT_TO, "to", "CLUSTER", "the cluster to move to") \
	X(OPT_INDEX, "index", "NAME", \
	  "the index; of a migration, left out: as it is; else needed but for dedicated-cluster") \
	X(OPT_INJECT, "inject", "FIELD=VALUE", \
	  "field to add in a shared index; VALUE `@partition` or a constant; may be repeated") \
	X(OPT_FORCE, "force", NULL, "do it although data would move without a drain, or the barrier still stands") \
	X(OPT_PRUNE, "prune", NULL, "remove partitions that the document does not name") \
	X(OPT_OVERRIDE, "override", NULL, "apply the document also where commands or migrations changed a partition") \
	X(OPT_COPY, "copy", "CMD", "shell command that copies the data, run before the cutover") \
	X(OPT_MAX_BLACKOUT, "max-blackout", "MS", "undo the migration when writes are held back for longer") \
	X(OPT_LIMIT, "limit", "N", "at most so many lines, 1 to 10000 (100; of owners 10)") \
	X(OPT_OWNER, "owner", "P", "the partition whose cursor it is") \
	X(OPT_TTL_MS, "ttl-ms", "MS", "how long the pin holds, 1 to 4294967295 (the daemon's --cursor-ttl-ms)") \
	X(OPT_AFTER, "after", "SECONDS", "when the new key begins to seal, 0 to 31536000 from now (300)") \
	X(OPT_KEEP, "keep", "N", "keep the N newest keys, 1 to 64, the new one counted; else all are kept") \
	X(OPT_PARTITION, "partition", "P", "the partition for which the envelope is to be opened") \
	X(OPT_HEADER, "header", "NAME", "the header field that names the tenant (X-Partition)") \
	X(OPT_SEGMENT, "segment", "N", "the segment of the path that names the tenant, 1 to 16, instead of a header") \
	X(OPT_PORT, "port", "N", "steer looks into packets to this TCP port alone (any)") \
	X(OPT_GATE, "gate", "drop", \
	  "steer drops what begins a write of a partition in cutover, to be sent again (it passes)") \
	X(OPT_PREFIX4, "prefix4", "A.B.0.0", \
	  "addresses by which connect knows clusters, in their last 16 bits (198.18.0.0)") \
	X(OPT_PREFIX6, "prefix6", "PREFIX", "the same for IPv6, all but the last 16 bits (fd62:6572:7468::)") \
	X(OPT_DEV, "dev", "DEV", "the network device") \
	X(OPT_CGROUP, "cgroup", "PATH", "directory of the cgroup, of the unified hierarchy") \
	X(OPT_LISTEN, "listen", "ADDR:PORT", \
	  "where clients connect, in numbers; port 0: any, printed when it is open") \
	X(OPT_FALLBACK, "fallback", "ADDR:PORT", "a proxy with berth's gate, for the requests that are not spliced")
enum option {
#define OPTION_ENUM(e, name, value, help) e,
	OPTIONS(OPTION_ENUM)
#undef OPTION_ENUM
		N_OPTIONS
};
_Static_assert(N_OPTIONS <= 32, "a set of options is an unsigned");
#define OPT(name) (1u << OPT_##name)
/* Given anywhere on the line, with every command. */
#define GLOBAL_OPTIONS (OPT(DIR) | OPT(INSTANCE) | OPT(JSON) | OPT(HELP) | OPT(VERSION))

struct option_row {
	const char *name, *value, *help;
};
extern const struct option_row options[N_OPTIONS];

struct arguments {
	unsigned given; /* OPT() bits */
	const char *value[N_OPTIONS];
	const char **inject; /* every --inject in the order given */
	size_t n_inject;
	const char *operand;   /* NULL: none given */
	const char *second;    /* operand; NULL: none given */
	const char **operands; /* all of them */
	size_t n_operands;
};

struct command {
	const char *name;    /* one or two words */
	const char *operand; /* placeholder; "[P]" when it may be left out, "P..." of many; NULL: takes none */
	const char *second;  /* of a second operand, which may be left out; NULL: takes none */
	unsigned required, optional;
	const char *help;    /* a sentence */
	const char *more;    /* what else there is to know; NULL: nothing */
	const char *example; /* as typed */
	int (*run)(struct tool *, const struct arguments *);
	bool hidden; /* not in help and completion: for installing */
};
extern const struct command commands[]; /* ended by a NULL name */

/* arguments.c. EXIT_DONE with *command set (NULL: help or version of the whole was asked for), or EXIT_USAGE with the
 * message printed. room: for 2 * argc pointers, which *arguments points into. */
int arguments_parse(int argc, char **argv, const char **room, struct tool *, struct arguments *,
		    const struct command **);
/* A value as a number. EXIT_DONE or EXIT_USAGE with the message printed; *out stays as it is when not given. */
int arguments_number(const struct arguments *, enum option, uint64_t least, uint64_t most, uint64_t *out);

/* help.c */
void help_group(const char *first_word); /* commands of two words that begin with it */
void help_all(void);
void help_command(const struct command *);
void help_usage(const struct command *); /* the line of the usage, on stderr */
int help_man(struct tool *, const struct arguments *);
int help_completion(struct tool *, const struct arguments *);

/* Handlers, by file. */
int look_list(struct tool *, const struct arguments *);
int look_clusters(struct tool *, const struct arguments *);
int look_dump(struct tool *, const struct arguments *);
int look_get(struct tool *, const struct arguments *);
int status_show(struct tool *, const struct arguments *);
int readers_show(struct tool *, const struct arguments *);
int verify_run(struct tool *, const struct arguments *);
int watch_run(struct tool *, const struct arguments *);
int top_run(struct tool *, const struct arguments *);
int change_cluster_set(struct tool *, const struct arguments *);
int change_cluster_remove(struct tool *, const struct arguments *);
int change_set(struct tool *, const struct arguments *);
int change_remove(struct tool *, const struct arguments *);
int change_default_set(struct tool *, const struct arguments *);
int change_default_unset(struct tool *, const struct arguments *);
int load_run(struct tool *, const struct arguments *);
int history_show(struct tool *, const struct arguments *);
int migrate_begin(struct tool *, const struct arguments *);
int migrate_cutover(struct tool *, const struct arguments *);
int migrate_complete(struct tool *, const struct arguments *);
int migrate_abort(struct tool *, const struct arguments *);
int migrate_status(struct tool *, const struct arguments *);
int migrate_run(struct tool *, const struct arguments *);
int cursors_show(struct tool *, const struct arguments *);
int pin_pin(struct tool *, const struct arguments *);
int pin_resolve(struct tool *, const struct arguments *);
int pin_release(struct tool *, const struct arguments *);
int seal_keygen(struct tool *, const struct arguments *);
int seal_rotate(struct tool *, const struct arguments *);
int seal_inspect(struct tool *, const struct arguments *);
int bpf_load(struct tool *, const struct arguments *);
int bpf_attach(struct tool *, const struct arguments *);
int bpf_detach(struct tool *, const struct arguments *);
int bpf_status(struct tool *, const struct arguments *);
int bpf_stats(struct tool *, const struct arguments *);
int bpf_verify(struct tool *, const struct arguments *);
int bpf_splice(struct tool *, const struct arguments *);

#endif
