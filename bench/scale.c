/* SPDX-License-Identifier: MIT
 * Ten million partitions, in --full only: what load.c measures, and the same document in a daemon whose store keeps
 * nothing, which after a restart builds its table from the one that is there. Needs 8 GiB of memory and 5 of disk. */
#include <stdio.h>
#include <unistd.h>

#include "load.h"

#define PARTITIONS 10000000u
#define ROUNDS 3u

static void in_memory(const struct bench *b)
{
	struct figure f[] = {
		{.name = "load a document, store memory:", .unit = "s"},
		{.name = "own memory meanwhile, peak, memory:", .unit = "MiB"},
		{.name = "shared memory, table, memory:", .unit = "B/part"},
		{.name = "restart until it takes requests, memory:", .unit = "s"},
		{.name = "own memory after the restart, memory:", .unit = "MiB"},
		{.name = "shared memory after that, table, memory:", .unit = "B/part"},
	};
	int document = document_make(PARTITIONS, false);

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t from, peak = 0;
		struct daemon d;

		daemon_start(b, &d, "load", &(struct daemon_how){.cpu = -1});
		from = now_ns();
		daemon_load(&d, document, PARTITIONS, &peak);
		add_sample(&f[0].s, elapsed_ns(from) / 1e9);
		add_sample(&f[1].s, (double)peak / MIB);
		add_sample(&f[2].s, (double)load_memory_settled(&d).table / PARTITIONS);
		daemon_stop(&d);
		from = now_ns(); /* readers go on meanwhile: they have the table that is there */
		daemon_start(b, &d, "load", &(struct daemon_how){.cpu = -1});
		add_sample(&f[3].s, elapsed_ns(from) / 1e9);
		add_sample(&f[4].s, (double)daemon_anonymous_bytes(&d) / MIB);
		add_sample(&f[5].s, (double)load_memory_now(d.dir).table / PARTITIONS);
		daemon_stop(&d);
		remove_tree(d.dir);
	}
	close(document);
	for (unsigned i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
		f[i].workload = "scale";
		snprintf(f[i].parameters, sizeof(f[i].parameters), "partitions=%u", PARTITIONS);
		report(b, &f[i]);
	}
}

void workload_scale(const struct bench *b)
{
	if (!b->full) {
		report_note(b, "scale: ten million partitions are in --full alone");
		return;
	}
	load_sqlite(b, &(struct load_case){
			       .workload = "scale",
			       .partitions = PARTITIONS,
			       .rounds = ROUNDS,
			       .start_s = 25,
			       .start_mib = 256,
			       .start_table_bytes = 112,
		       });
	in_memory(b);
}
