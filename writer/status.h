/* SPDX-License-Identifier: MIT
 * The numbers that berthd tells of itself: tables, from which come the answer of `status`, /status and /metrics.
 * status_collect runs on the control thread; the rest is pure and any thread's. */
#ifndef BERTH_WRITER_STATUS_H
#define BERTH_WRITER_STATUS_H

#include "server.h"

/* X(name, how JSON shows it, Prometheus type, help) */
#define STATUS_NUMBERS(X) \
	X(pid, NUMBER, gauge, "process id of the writer") \
	X(term, NUMBER, gauge, "number of this writer incarnation") \
	X(generation, NUMBER, gauge, "number of the table file that readers use") \
	X(epoch, NUMBER, gauge, "highest epoch taken") \
	X(uptime_ms, NUMBER, gauge, "milliseconds since the writer started") \
	X(barrier_ms, NUMBER, gauge, "barrier of complete, in milliseconds") \
	X(partitions, NUMBER, gauge, "partitions with an entry") \
	X(tombstones, NUMBER, gauge, "removed entries whose slot is not used again yet") \
	X(capacity, NUMBER, gauge, "slots of the table") \
	X(longest_probe, NUMBER, gauge, "entries that the longest look-up passes") \
	X(clusters, NUMBER, gauge, "clusters") \
	X(readers, NUMBER, gauge, "registrations of reader processes") \
	X(migrations, NUMBER, gauge, "migrations under way") \
	X(cutovers, NUMBER, gauge, "of them in cutover: writes are held back") \
	X(leases, NUMBER, gauge, "writes under way that readers have leases for") \
	X(leases_unknown, NUMBER, gauge, "writes that ended unknown and may still arrive") \
	X(drains, NUMBER, counter, "migrations completed") \
	X(blackout_ms, NUMBER, counter, "milliseconds in which these held writes back, added up") \
	X(blackout_ms_max, NUMBER, gauge, "the longest of these since the start") \
	X(changes, NUMBER, counter, "changes published since the start") \
	X(growing, TRUTH, gauge, "1 while a larger table is being built") \
	X(document_version, NUMBER, gauge, "version of the last document applied") \
	X(loading, TRUTH, gauge, "1 while a document is being read or applied") \
	X(bytes, NUMBER, gauge, "size of the table file") \
	X(reserve_bytes, NUMBER, gauge, "size of the file kept for the next generation") \
	X(record_bytes_used, NUMBER, gauge, "bytes of placements, clusters and long keys in the table") \
	X(retired, NUMBER, gauge, "pieces of memory that wait for a grace period") \
	X(held_bytes, NUMBER, gauge, "bytes of older generations that a reader still holds") \
	X(grace_periods, NUMBER, counter, "grace periods passed") \
	X(upkeep_us_max, NUMBER, gauge, "processor time of the longest piece of upkeep, in microseconds") \
	X(connections, NUMBER, gauge, "connections on both sockets") \
	X(connections_refused, NUMBER, counter, "connections turned away") \
	X(requests, NUMBER, counter, "requests answered") \
	X(requests_refused, NUMBER, counter, "requests answered with a refusal") \
	X(watchers, NUMBER, gauge, "connections that watch changes") \
	X(watch_overruns, NUMBER, counter, "watchers that were too slow") \
	X(documents, NUMBER, counter, "documents applied or refused") \
	X(documents_refused, NUMBER, counter, "documents refused")

/* Of cursor affinity, an object of its own in JSON; metrics berth_cursor_NAME. Counters: since the
 * instance's first pin; a file of another capacity takes them over. */
#define STATUS_CURSORS(X) \
	X(enabled, TRUTH, gauge, "1 once a process has attached with cursors") \
	X(pins, NUMBER, gauge, "pins of cursors, those included that expired within the last second") \
	X(capacity, NUMBER, gauge, "pins that there is room for") \
	X(owner_share, NUMBER, gauge, "pins that one partition may have, 0: no limit") \
	X(pinned, NUMBER, counter, "cursors pinned") \
	X(refreshed, NUMBER, counter, "cursors pinned again by their owner") \
	X(released, NUMBER, counter, "pins released") \
	X(expired, NUMBER, counter, "pins whose time was over") \
	X(evicted, NUMBER, counter, "pins that made room for younger ones") \
	X(refused, NUMBER, counter, "requests refused: of another owner, no such cluster, garbage") \
	X(processes, NUMBER, gauge, "processes that are attached with cursors") \
	X(sleeping, TRUTH, gauge, "1 while the cursor thread waits for a doorbell") \
	X(busy_poll, TRUTH, gauge, "1 when it never sleeps (--busy-poll)")

/* Of the mirror for packet programs, likewise; metrics berth_bpf_NAME. Counters: since its maps were made. */
#define STATUS_BPF(X) \
	X(on, TRUTH, gauge, "1 while packet programs have answers from the mirror") \
	X(generation, NUMBER, gauge, "table that the mirror is of") \
	X(entries, NUMBER, gauge, "slots of the mirror") \
	X(bytes, NUMBER, gauge, "memory of the mirror of the table") \
	X(changes, NUMBER, counter, "words stored into the mirror by changes") \
	X(swaps, NUMBER, counter, "mirrors of another generation that packet programs were given") \
	X(compared, NUMBER, counter, "entries compared with the table") \
	X(differences, NUMBER, counter, "of them, those that were not equal") \
	X(lag_ns, NUMBER, gauge, "longest time that an entry said pass during one change, in nanoseconds") \
	X(gated, TRUTH, gauge, "1 when a packet program admits writes without leases")
#define STATUS_BPF_TEXTS(X) X(path, 320) X(reason, 400)

#define STATUS_TEXTS(X) X(version, 32) X(instance, 256) X(store, 32) X(membarrier, 32)

struct status {
#define STATUS_NUMBER(name, how, type, help) uint64_t name;
#define STATUS_TEXT(name, size) char name[size];
	STATUS_NUMBERS(STATUS_NUMBER)
	STATUS_TEXTS(STATUS_TEXT)
	struct {
		STATUS_CURSORS(STATUS_NUMBER)
	} cursors;
	struct {
		STATUS_BPF(STATUS_NUMBER)
		STATUS_BPF_TEXTS(STATUS_TEXT)
	} bpf;
#undef STATUS_NUMBER
#undef STATUS_TEXT
};

void status_collect(struct server *, struct status *);
void status_json(const struct status *, struct buffer *);
void status_metrics(const struct status *, struct buffer *); /* Prometheus' text format */
void status_page(const struct status *, struct buffer *);    /* HTML */

#endif
