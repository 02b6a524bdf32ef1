/* SPDX-License-Identifier: MIT
 * Collects the numbers of status.h and writes them as JSON, as metrics and as a page. */
#include "status.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "control.h"
#include "pinning.h"
#include "registry.h"

#define LEASES_KEPT_NS 100000000ull /* a count of leases; and at least so many times as long as it took: */
#define LEASES_SHARE 64u

static int count_migration(void *arg, const struct migration *m)
{
	struct status *to = arg;

	to->migrations++;
	to->cutovers += m->state.phase == PHASE_CUTOVER;
	return 0;
}

static int count_leases(void *arg, const struct registry_row *row)
{
	struct server *s = arg;

	s->n_leases += row->n_leases;
	s->n_leases_unknown += row->n_unknown;
	return 0;
}

/* They come and go unseen, and to count them is to look at each: no oftener than it pays. */
static void leases_count(struct server *s, struct status *to)
{
	uint64_t now = uv_hrtime();

	if (now >= s->leases_again_ns) {
		s->n_leases = s->n_leases_unknown = 0;
		registry_walk(table_registry(core_table(s->core)), count_leases, s);
		s->leases_again_ns = uv_hrtime() + LEASES_KEPT_NS + LEASES_SHARE * (uv_hrtime() - now);
	}
	to->leases = s->n_leases;
	to->leases_unknown = s->n_leases_unknown;
}

/* Clusters come and go rarely: counted again only after a change. */
static uint64_t clusters_count(struct server *s)
{
	const struct table *t = core_table(s->core);
	uint64_t changes = core_changes(s->core);

	if (!s->n_clusters_known || changes != s->counted_changes) {
		s->n_clusters = 0;
		for (uint64_t n = 1; n < table_next_cluster(t); n++)
			s->n_clusters += table_cluster(t, (unsigned)n) != NULL;
		s->counted_changes = changes;
		s->n_clusters_known = true;
	}
	return s->n_clusters;
}

static void cursors_collect(const struct server *s, struct status *to)
{
	struct cursors_stats is;

	to->cursors.enabled = pinning_stats(s, &is);
	to->cursors.pins = is.pins;
	to->cursors.capacity = is.capacity;
	to->cursors.owner_share = is.owner_share;
	to->cursors.pinned = is.pinned;
	to->cursors.refreshed = is.refreshed;
	to->cursors.released = is.released;
	to->cursors.expired = is.expired;
	to->cursors.evicted = is.evicted;
	to->cursors.refused = is.refused;
	to->cursors.processes = is.processes;
	to->cursors.sleeping = is.sleeping;
	to->cursors.busy_poll = is.busy_poll;
}

static void bpf_collect(const struct table *t, const struct table_stats *stats, struct status *to)
{
	const struct mirror *m = table_mirror(t);
	const char *off = table_mirror_off(t);
	const struct mirror_control *c;

	snprintf(to->bpf.reason, sizeof(to->bpf.reason), "%s", off ? off : "");
	if (!m)
		return;
	c = mirror_control(m);
	to->bpf.on = off == NULL;
	to->bpf.generation = off ? 0 : stats->generation;
	to->bpf.entries = off ? 0 : stats->capacity + SHM_PROBE_MAX;
	to->bpf.bytes = table_mirror_bytes(t);
	to->bpf.changes = c->n_changes;
	to->bpf.swaps = __atomic_load_n(&c->n_swaps, __ATOMIC_RELAXED); /* the mirror's thread stores it */
	to->bpf.compared = c->n_compared;
	to->bpf.differences = c->n_differences;
	to->bpf.lag_ns = c->lag_ns;
	to->bpf.gated = mirror_gated(m);
	snprintf(to->bpf.path, sizeof(to->bpf.path), "%s", mirror_pins(m));
}

void status_collect(struct server *s, struct status *to)
{
	struct table *t = core_table(s->core);
	struct table_stats stats;
	struct conn *c;

	memset(to, 0, sizeof(*to));
	table_stats(t, &stats);
	to->pid = (uint64_t)getpid();
	to->term = table_term(t);
	to->generation = stats.generation;
	to->epoch = table_epoch(t);
	to->uptime_ms = uv_hrtime() / 1000000 - s->started_ms;
	to->barrier_ms = core_barrier_ms(s->core);
	to->partitions = stats.n_live;
	to->tombstones = stats.n_tombstones;
	to->capacity = stats.capacity;
	to->longest_probe = stats.longest_probe;
	to->clusters = clusters_count(s);
	to->readers = registry_count(table_registry(t));
	core_migrations(s->core, count_migration, to);
	leases_count(s, to);
	cursors_collect(s, to);
	bpf_collect(t, &stats, to);
	to->drains = s->n_drains;
	to->blackout_ms = s->blackout_ms;
	to->blackout_ms_max = s->blackout_ms_max;
	to->changes = core_changes(s->core);
	to->growing = stats.growing;
	to->document_version = table_document_version(t);
	to->loading = s->load != NULL || core_loading(s->core);
	to->bytes = stats.bytes;
	to->reserve_bytes = stats.reserve_bytes;
	to->record_bytes_used = stats.record_bytes_used;
	to->retired = stats.retired;
	to->held_bytes = stats.held_bytes;
	to->grace_periods = stats.grace_periods;
	to->upkeep_us_max = s->upkeep_ns_max / 1000;
	to->connections = s->n_conns;
	to->connections_refused = s->n_conns_refused;
	to->requests = s->n_requests;
	to->requests_refused = s->n_refused;
	for (c = TAILQ_FIRST(&s->watchers); c; c = TAILQ_NEXT(c, watch_link))
		to->watchers++;
	to->watch_overruns = s->n_overruns;
	to->documents = s->n_loads;
	to->documents_refused = s->n_loads_refused;
	snprintf(to->version, sizeof(to->version), "%s", BERTH_VERSION);
	snprintf(to->instance, sizeof(to->instance), "%s", s->options->name);
	snprintf(to->store, sizeof(to->store), "%s", core_store_scheme(s->core));
	snprintf(to->membarrier, sizeof(to->membarrier), "%s",
		 atomic_load_explicit(&s->root->membarrier_mode, memory_order_relaxed) ==
				 SHM_MEMBARRIER_GLOBAL_EXPEDITED
			 ? "global-expedited"
			 : "none");
}

enum shape { NUMBER, TRUTH };

static void put_json(struct buffer *b, const char *comma, const char *name, enum shape shape, uint64_t n)
{
	if (shape == TRUTH)
		buffer_format(b, "%s\"%s\":%s", comma, name, n ? "true" : "false");
	else
		buffer_format(b, "%s\"%s\":%" PRIu64, comma, name, n);
}

void status_json(const struct status *s, struct buffer *b)
{
	const char *comma = "{";

#define PUT_TEXT(name, size) \
	buffer_format(b, "%s\"%s\":", comma, #name); \
	buffer_string(b, s->name, strlen(s->name)); \
	comma = ",";
#define PUT_NUMBER(name, shape, type, help) put_json(b, comma, #name, shape, s->name);
#define PUT_CURSORS(name, shape, type, help) \
	put_json(b, comma, #name, shape, s->cursors.name); \
	comma = ",";
#define PUT_BPF(name, shape, type, help) \
	put_json(b, comma, #name, shape, s->bpf.name); \
	comma = ",";
#define PUT_BPF_TEXT(name, size) \
	buffer_format(b, ",\"%s\":", #name); \
	buffer_string(b, s->bpf.name, strlen(s->bpf.name));
	STATUS_TEXTS(PUT_TEXT)
	STATUS_NUMBERS(PUT_NUMBER)
	buffer_text(b, ",\"cursors\":{");
	comma = "";
	STATUS_CURSORS(PUT_CURSORS)
	buffer_text(b, "},\"bpf\":{");
	comma = "";
	STATUS_BPF(PUT_BPF)
	STATUS_BPF_TEXTS(PUT_BPF_TEXT)
#undef PUT_TEXT
#undef PUT_NUMBER
#undef PUT_CURSORS
#undef PUT_BPF
#undef PUT_BPF_TEXT
	buffer_text(b, "}}");
}

/* Label values escape what JSON strings escape, and take UTF-8 as it is; names have no control characters. */
void status_metrics(const struct status *s, struct buffer *b)
{
	const char *comma = "";

	buffer_text(b, "# HELP berth_info what this writer is\n# TYPE berth_info gauge\nberth_info{");
#define PUT_TEXT(name, size) \
	buffer_format(b, "%s%s=", comma, #name); \
	buffer_string(b, s->name, strlen(s->name)); \
	comma = ",";
	STATUS_TEXTS(PUT_TEXT)
#undef PUT_TEXT
	buffer_text(b, "} 1\n");
#define SUFFIX_gauge ""
#define SUFFIX_counter "_total"
#define PUT_METRIC(name, type, help, value) \
	buffer_format(b, "# HELP berth_%s%s %s\n# TYPE berth_%s%s %s\nberth_%s%s %" PRIu64 "\n", name, SUFFIX_##type, \
		      help, name, SUFFIX_##type, #type, name, SUFFIX_##type, value);
#define PUT_NUMBER(name, shape, type, help) PUT_METRIC(#name, type, help, s->name)
#define PUT_CURSORS(name, shape, type, help) PUT_METRIC("cursor_" #name, type, help, s->cursors.name)
	STATUS_NUMBERS(PUT_NUMBER)
#define PUT_BPF(name, shape, type, help) PUT_METRIC("bpf_" #name, type, help, s->bpf.name)
	STATUS_CURSORS(PUT_CURSORS)
	STATUS_BPF(PUT_BPF)
#undef PUT_BPF
#undef PUT_METRIC
#undef PUT_NUMBER
#undef PUT_CURSORS
}

static void put_html(struct buffer *b, const char *s)
{
	for (; *s; s++) {
		switch (*s) {
		case '<':
			buffer_text(b, "&lt;");
			break;
		case '>':
			buffer_text(b, "&gt;");
			break;
		case '&':
			buffer_text(b, "&amp;");
			break;
		default:
			buffer_add(b, s, 1);
		}
	}
}

void status_page(const struct status *s, struct buffer *b)
{
	buffer_text(b, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
		       "<meta http-equiv=\"refresh\" content=\"5\"><title>berth: ");
	put_html(b, s->instance);
	buffer_text(b, "</title><style>body{font:15px/1.5 sans-serif;margin:2em}td{padding:0 1em 0 0}"
		       "td:nth-child(2){text-align:right;font-variant-numeric:tabular-nums}</style></"
		       "head>\n<body><h1>berth: ");
	put_html(b, s->instance);
	buffer_text(b, "</h1>\n<table>\n");
#define PUT_TEXT(name, size) \
	buffer_format(b, "<tr><td>%s</td><td>", #name); \
	put_html(b, s->name); \
	buffer_text(b, "</td><td></td></tr>\n");
#define PUT_NUMBER(name, shape, type, help) \
	buffer_format(b, "<tr><td>%s</td><td>%" PRIu64 "</td><td>%s</td></tr>\n", #name, s->name, help);
#define PUT_CURSORS(name, shape, type, help) \
	buffer_format(b, "<tr><td>cursor_%s</td><td>%" PRIu64 "</td><td>%s</td></tr>\n", #name, s->cursors.name, help);
	STATUS_TEXTS(PUT_TEXT)
	STATUS_NUMBERS(PUT_NUMBER)
#define PUT_BPF(name, shape, type, help) \
	buffer_format(b, "<tr><td>bpf_%s</td><td>%" PRIu64 "</td><td>%s</td></tr>\n", #name, s->bpf.name, help);
	STATUS_CURSORS(PUT_CURSORS)
	STATUS_BPF(PUT_BPF)
#undef PUT_TEXT
#undef PUT_NUMBER
#undef PUT_CURSORS
#undef PUT_BPF
	buffer_text(b,
		    "</table>\n<p><a href=\"/metrics\">metrics</a> <a href=\"/status\">status</a></p></body></html>\n");
}
