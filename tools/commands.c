/* SPDX-License-Identifier: MIT
 * The command table itself (commands.h). Order: as help prints it. */
#include "commands.h"

const struct option_row options[N_OPTIONS] = {
#define OPTION_ROW(e, name, value, help) [e] = {name, value, help},
	OPTIONS(OPTION_ROW)
#undef OPTION_ROW
};

#define PLACEMENT (OPT(MODE) | OPT(CLUSTER))
#define DETAILS (OPT(INDEX) | OPT(INJECT))
#define TARGET (OPT(MODE) | OPT(INDEX) | OPT(INJECT))

const struct command commands[] = {
	{
		.name = "status",
		.help = "Say how daemon and table are; also when the daemon is down.",
		.example = "berth status",
		.run = status_show,
	},
	{
		.name = "list",
		.help = "List the partitions: phase, cluster, mode, index, epoch.",
		.more = "Works without a daemon. With --json one object a line.",
		.example = "berth list --instance prod",
		.run = look_list,
	},
	{
		.name = "clusters",
		.help = "List the clusters: number and endpoint.",
		.more = "Works without a daemon.",
		.example = "berth clusters",
		.run = look_clusters,
	},
	{
		.name = "readers",
		.help = "List the processes that read the table, and the writes that they have under way.",
		.more = "WRITES says how a process writes: `none`; `leases`, and then a migration waits for its writes "
			"and no longer; or `without leases`, and then each migration waits the whole barrier. UNKNOWN "
			"counts writes that ended without an answer less than a barrier ago. Below the processes: "
			"their writes under way, oldest first. Without a daemon: what its ledger says of the "
			"processes.",
		.example = "berth readers",
		.run = readers_show,
	},
	{
		.name = "get",
		.operand = "P",
		.help = "Say where a partition lives.",
		.more = "Works without a daemon. Exit code 1 when nothing answers for it.",
		.example = "berth get acme",
		.run = look_get,
	},
	{
		.name = "dump",
		.help = "Print the whole table, one JSON object a line, in a stable order.",
		.more = "Works without a daemon. Two dumps of equal tables are equal, across a restart too: what "
			"differs "
			"between generations of one table is not in it.",
		.example = "berth dump > before.jsonl",
		.run = look_dump,
	},
	{
		.name = "verify",
		.help = "Check every byte of root, table, ledger and pins.",
		.more = "Works without a daemon, and on a copy of the directory (--dir). Prints each fault with its "
			"place and "
			"value. Exit code 4 when there is one.",
		.example = "berth verify",
		.run = verify_run,
	},
	{
		.name = "watch",
		.help = "Print a line for each change, as they come.",
		.example = "berth watch --json",
		.run = watch_run,
	},
	{
		.name = "top",
		.help = "Show partitions, changes, migrations and readers, each second anew.",
		.more = "Writes under way are counted there; `berth readers` lists them. A narrow window has fewer "
			"columns. `q` ends it. Into a file or a pipe it prints one picture.",
		.example = "berth top",
		.run = top_run,
	},
	{
		.name = "cluster set",
		.operand = "ID",
		.required = OPT(ENDPOINT),
		.help = "Make a cluster known, or change its address.",
		.more = "A new endpoint is the same cluster under another address, not a migration.",
		.example = "berth cluster set c1 --endpoint http://10.0.0.1:9200",
		.run = change_cluster_set,
	},
	{
		.name = "cluster remove",
		.operand = "ID",
		.help = "Forget a cluster that nothing names any more.",
		.example = "berth cluster remove c1",
		.run = change_cluster_remove,
	},
	{
		.name = "set",
		.operand = "P...",
		.required = PLACEMENT,
		.optional = DETAILS | OPT(FORCE),
		.help = "Place partitions, or change their placement without a migration.",
		.more = "Another cluster than the present one needs --force: no writes are held back and nothing is "
			"waited for. Several partitions are placed alike by one request: all, or none when one is "
			"refused. With `-` as the only partition their names are read from standard input, one a line. "
			"A request has room for about 3000 names; `berth load` takes any number. With --json: epoch "
			"and changed; of several, or `-`, the highest epoch taken, and how many are changed and "
			"unchanged.",
		.example = "berth set acme globex --mode shared-index --cluster c1 --index shared --inject "
			   "_tenant=@partition",
		.run = change_set,
	},
	{
		.name = "default set",
		.required = PLACEMENT,
		.optional = DETAILS | OPT(FORCE),
		.help = "Place all partitions that have no placement of their own.",
		.example =
			"berth default set --mode shared-index --cluster c1 --index shared --inject _tenant=@partition",
		.run = change_default_set,
	},
	{
		.name = "default unset",
		.optional = OPT(FORCE),
		.help = "Answer only for partitions with a placement of their own.",
		.example = "berth default unset",
		.run = change_default_unset,
	},
	{
		.name = "remove",
		.operand = "P",
		.optional = OPT(FORCE),
		.help = "Remove the placement of a partition.",
		.more = "Where the default then sends it to another cluster, it needs --force.",
		.example = "berth remove acme",
		.run = change_remove,
	},
	{
		.name = "load",
		.operand = "FILE",
		.optional = OPT(PRUNE) | OPT(OVERRIDE),
		.help = "Apply a placement document; `-` reads it from standard input.",
		.more = "All of it or nothing is applied. Partitions that commands or migrations changed since the "
			"last document "
			"are left alone and named.",
		.example = "berth load placements.json",
		.run = load_run,
	},
	{
		.name = "migrate run",
		.operand = "P",
		.required = OPT(TO),
		.optional = TARGET | OPT(COPY) | OPT(MAX_BLACKOUT),
		.help = "Move a partition: begin, copy, cutover, complete.",
		.more = "CMD is run by /bin/sh while writes still go to the old cluster, and must have caught up with "
			"them when it ends; what is written between its end and the cutover stays behind, unless what "
			"it "
			"started goes on copying, or the tenant does not write. It finds in its environment: "
			"BERTH_PARTITION; BERTH_FROM and BERTH_TO, "
			"the ids of the clusters; BERTH_FROM_ENDPOINT and BERTH_TO_ENDPOINT, their addresses; "
			"BERTH_FROM_MODE and BERTH_TO_MODE; BERTH_FROM_INDEX and BERTH_TO_INDEX (what there is none "
			"of is empty); BERTH_EPOCH, of the migration; BERTH_DIR, of the instance. Its output is shown, "
			"with --json on stderr. From the cutover on writes are held back until those that are under "
			"way have ended. When CMD fails, when writes are held back for longer than --max-blackout, and "
			"on Ctrl-C, Ctrl-Z, Ctrl-\\ or SIGTERM (exit code 130) the migration is undone. A "
			"restart of the daemon meanwhile is waited for, up to 30 s, or until a second signal. Exit "
			"code 5 says that the migration stands; with --json, in which phase and at which epoch. "
			"Killed by SIGKILL it leaves the step: look with `berth migrate status`, then `berth "
			"migrate complete` or `abort`.",
		.example = "berth migrate run acme --to c2 --copy ./copy-tenant.sh --max-blackout 2000",
		.run = migrate_run,
	},
	{
		.name = "migrate begin",
		.operand = "P",
		.required = OPT(TO),
		.optional = TARGET,
		.help = "Start moving a partition; reads and writes still go to the old cluster.",
		.more = "What is left out stays as it is.",
		.example = "berth migrate begin acme --to c2",
		.run = migrate_begin,
	},
	{
		.name = "migrate cutover",
		.operand = "P",
		.optional = OPT(FORCE),
		.help = "Hold back the writes of a partition that is being moved.",
		.more = "--force is taken and changes nothing: a cutover waits for nobody.",
		.example = "berth migrate cutover acme",
		.run = migrate_cutover,
	},
	{
		.name = "migrate complete",
		.operand = "P",
		.optional = OPT(FORCE),
		.help = "Let the new cluster take over, once no old write can be under way any more.",
		.more = "Until then it is refused with `barrier-pending` and says for what it waits. --force does not "
			"wait: a write "
			"that is still under way then reaches the old cluster alone.",
		.example = "berth migrate complete acme",
		.run = migrate_complete,
	},
	{
		.name = "migrate abort",
		.operand = "P",
		.optional = OPT(FORCE),
		.help = "Undo a migration: the old cluster keeps the partition.",
		.more = "--force is taken and changes nothing: an abort waits for nobody.",
		.example = "berth migrate abort acme",
		.run = migrate_abort,
	},
	{
		.name = "migrate status",
		.help = "List the migrations under way, and what each one waits for.",
		.more = "IN FLIGHT: writes under way that it waits for; AT MOST: how long it may take still, where "
			"that "
			"is known. Without a daemon: which there are.",
		.example = "berth migrate status",
		.run = migrate_status,
	},
	{
		.name = "history",
		.operand = "[P]",
		.optional = OPT(LIMIT),
		.help = "List the last changes, of one partition or of all, newest first.",
		.example = "berth history acme --limit 20",
		.run = history_show,
	},
	{
		.name = "cursors",
		.optional = OPT(CLUSTER) | OPT(OWNER) | OPT(LIMIT),
		.help = "Say how many cursors are pinned, to which clusters, and by whom.",
		.more = "Works without a daemon. A pin whose time is over is none; those not swept yet are counted "
			"apart. The counters of what was pinned, expired, evicted and so on are those of the "
			"instance since its first pin, whatever --cluster and --owner leave of the rest.",
		.example = "berth cursors --limit 3",
		.run = cursors_show,
	},
	{
		.name = "pin",
		.operand = "ID",
		.required = OPT(CLUSTER) | OPT(OWNER),
		.optional = OPT(TTL_MS),
		.help = "Pin a cursor id to the cluster that made it; `-` reads the id from standard input.",
		.more = "As a proxy does when a cluster has answered with a cursor; again, it gets the new time and "
			"cluster. Standard input is taken byte for byte, a newline at its end included. Returns when "
			"every proxy sees it, waiting a second at most.",
		.example = "berth pin FGluY2x1ZGVf --cluster c1 --owner acme --ttl-ms 60000",
		.run = pin_pin,
	},
	{
		.name = "resolve",
		.operand = "ID",
		.required = OPT(OWNER),
		.help = "Say which cluster a cursor id is pinned to; `-` reads the id from standard input.",
		.more = "What a proxy is told that continues it. Works without a daemon. Exit code 1 when it is not "
			"pinned, or by another partition.",
		.example = "berth resolve FGluY2x1ZGVf --owner acme",
		.run = pin_resolve,
	},
	{
		.name = "release",
		.operand = "ID",
		.required = OPT(OWNER),
		.help = "End the pin of a cursor id; `-` reads the id from standard input.",
		.more = "The cursor on its cluster is left alone.",
		.example = "berth release FGluY2x1ZGVf --owner acme",
		.run = pin_release,
	},
	{
		.name = "seal keygen",
		.operand = "FILE",
		.help = "Make a key file for sealed cursors, with one key.",
		.more = "Run by root, where there is a group berth, that group may read it: mode 640; else only its "
			"owner may. A file that is there is left alone. Needs no daemon.",
		.example = "berth seal keygen /etc/berth/seal.keys",
		.run = seal_keygen,
	},
	{
		.name = "seal rotate",
		.operand = "FILE",
		.optional = OPT(AFTER) | OPT(KEEP),
		.help = "Add a key to a key file; proxies notice by themselves.",
		.more = "It seals from --after on, and opens at once: copy the file to every host before then. "
			"Envelopes of a key that --keep drops are refused from then on, so drop none that a client "
			"may still hold. A key that is known to others goes at once with --after 0 --keep 1. Needs no "
			"daemon.",
		.example = "berth seal rotate /etc/berth/seal.keys --after 600 --keep 3",
		.run = seal_rotate,
	},
	{
		.name = "seal inspect",
		.operand = "FILE",
		.second = "[ENVELOPE]",
		.optional = OPT(PARTITION),
		.help = "List the keys of a key file, or say what is in an envelope.",
		.more = "Never prints a secret. With an envelope: its key, cluster, partition and upstream id, and "
			"whether a key of the file has sealed it; with --partition also whether it opens for that "
			"partition. Exit code 1 when it does not open. Needs no daemon.",
		.example = "berth seal inspect /etc/berth/seal.keys \"$SCROLL_ID\" --partition acme",
		.run = seal_inspect,
	},
	{
		.name = "bpf load",
		.operand = "PROGRAM",
		.optional = OPT(HEADER) | OPT(SEGMENT) | OPT(PORT) | OPT(GATE) | OPT(PREFIX4) | OPT(PREFIX6),
		.help = "Load a packet program, `steer` or `connect`, on the mirror of an instance.",
		.more = "berthd must run with --bpf, or have run so. steer (XDP) counts requests by cluster and phase, "
			"tells "
			"later programs the cluster, and with a gate drops writes of partitions in cutover. connect "
			"takes connections to 198.18.0.7 to the endpoint of the cluster with number 7 (`berth "
			"clusters`), "
			"for clients that know nothing of berth; where there is no address to go to, connect(2) fails "
			"with EPERM. Loaded again, the new one takes the place of the old wherever it is attached, at "
			"once. Works without a daemon.",
		.example = "berth bpf load steer --header X-Partition --port 9200",
		.run = bpf_load,
	},
	{
		.name = "bpf attach",
		.operand = "PROGRAM",
		.optional = OPT(DEV) | OPT(MODE) | OPT(CGROUP),
		.help = "Attach `steer` to a device (--dev), or `connect` to a cgroup (--cgroup).",
		.more = "In native mode, the default, steer runs in the device's driver; in generic mode with any "
			"device, "
			"later and slower. What is attached goes on without daemon and tool, until `berth bpf detach`, "
			"or until "
			"the device or cgroup goes.",
		.example = "berth bpf attach steer --dev eth0 --mode native",
		.run = bpf_attach,
	},
	{
		.name = "bpf detach",
		.operand = "PROGRAM",
		.optional = OPT(DEV) | OPT(CGROUP),
		.help = "Detach `steer`, `connect`, or `all`.",
		.more = "With --dev or --cgroup from that alone. Without: from everything, and the program is "
			"unloaded. "
			"Links whose device or cgroup is gone go too. Works without a daemon.",
		.example = "berth bpf detach all",
		.run = bpf_detach,
	},
	{
		.name = "bpf status",
		.help = "Say which packet programs are loaded, with what, and where they are attached.",
		.more = "Then what mirror and programs need of the kernel, since which Linux it has that, and whether "
			"this one does (not known: this process may not try). Works without a daemon.",
		.example = "berth bpf status",
		.run = bpf_status,
	},
	{
		.name = "bpf stats",
		.help = "Print what the packet programs counted, by cluster and phase, since the mirror was made.",
		.more = "Clusters with numbers above 1023 are counted together. Works without a daemon.",
		.example = "berth bpf stats --json",
		.run = bpf_stats,
	},
	{
		.name = "bpf verify",
		.help = "Let the daemon compare the mirror with its table.",
		.more = "Exit code 4 when they differed; the daemon has mended it then.",
		.example = "berth bpf verify",
		.run = bpf_verify,
	},
	{
		.name = "bpf splice",
		.required = OPT(LISTEN) | OPT(FALLBACK),
		.optional = OPT(HEADER) | OPT(SEGMENT),
		.help = "Forward the requests of kept-alive HTTP/1.1 connections in the kernel, each to its tenant's "
			"cluster.",
		.more = "Runs in the foreground until SIGTERM. Requests and answers pass by as they are; writes take "
			"leases. What cannot be framed (chunked uploads, upgrades, heads in pieces) goes to the "
			"fallback "
			"from there on, with the rest of its connection; single requests whose tenant or cluster is "
			"not "
			"known here, or in cutover, alone. Clusters are reached by http:// and an address in numbers. "
			"Knows nothing of scrolls and points in time.",
		.example = "berth bpf splice --listen 0.0.0.0:9200 --fallback 127.0.0.1:9280 --header X-Partition",
		.run = bpf_splice,
	},
	{
		.name = "completion",
		.help = "Print the completion for bash.",
		.example = "berth completion > /usr/share/bash-completion/completions/berth",
		.run = help_completion,
		.hidden = true,
	},
	{
		.name = "man",
		.help = "Print the man page.",
		.example = "berth man | man -l -",
		.run = help_man,
		.hidden = true,
	},
	{.name = NULL},
};
