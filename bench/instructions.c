/* SPDX-License-Identifier: MIT
 * The program `instructions`: makes the hot calls of libberth one at a time, on keys that are there, and has callgrind
 * write down after each what it was and what it took. bench/check-instructions runs it under callgrind and reads that;
 * by itself it counts nothing. bench.c has its main program; the daemons that it starts run outside of callgrind.
 *
 * The first call of its kind may open a gate or map a file, and a few keys are not where they are guessed, others in every
 * instance: check-instructions takes the lower quartile of each kind.
 *
 * Callgrind collects only inside the functions that check-instructions names: what is done between two calls, checking
 * them too, is in no count. One thread, no time is measured. */
#include <unistd.h>
#include <valgrind/callgrind.h>

#include "cursor.h"

#define PARTITIONS 1000u
#define PINS 1000u
#define KEYS 101u /* calls of each kind that are counted, each with another key */
#define BATCH 32

struct setting {
	struct daemon d;
	struct berth *berth, *bracketed;
	struct berth_reader *r; /* may ask the gate */
	struct berth_reader *w; /* of `bracketed`: may begin writes */
	char names[PARTITIONS][KEY_ROOM];
	struct pins pins;
};

#define STRING(x) #x
#define TEXT(x) STRING(x)

/* What callgrind collects between the two is one count of this name. */
#define COUNT(name, call) \
	do { \
		int code; \
		CALLGRIND_ZERO_STATS; \
		code = (call); \
		CALLGRIND_DUMP_STATS_AT(name); \
		if (code != BERTH_OK) \
			fail("%s on %s: %s", name, s->names[i], berth_strerror(code)); \
	} while (0)

static int begin(struct berth_reader *r)
{
	berth_read_begin(r);
	return BERTH_OK;
}

static int end(struct berth_reader *r)
{
	berth_read_end(r);
	return BERTH_OK;
}

static int look_up(struct berth_reader *r, const char *key, struct berth_placement *out)
{
	int rc;

	berth_read_begin(r);
	rc = berth_lookup(r, key, KEY_LEN, out);
	berth_read_end(r);
	return rc;
}

/* Partition i, once by each call. A name that ends in /n is of n keys; check-instructions divides. */
static void count_calls(const struct setting *s, size_t i)
{
	const char *key = s->names[i];
	struct berth_route out, many[BATCH];
	struct berth_placement placement;
	struct berth_key keys[BATCH];
	struct berth_write w;
	int status[BATCH];

	for (size_t k = 0; k < BATCH; k++)
		keys[k] = (struct berth_key){.key = s->names[(i * BATCH + k) % PARTITIONS], .len = KEY_LEN};
	COUNT("berth_route", berth_route(s->r, key, KEY_LEN, &out));
	COUNT("berth_route_bulk/" TEXT(BATCH), berth_route_bulk(s->r, keys, BATCH, many, status));
	for (size_t k = 0; k < BATCH; k++)
		if (status[k] != BERTH_OK)
			fail("berth_route_bulk on %s: %s", (const char *)keys[k].key, berth_strerror(status[k]));
	COUNT("berth_admit", berth_admit(s->r, key, KEY_LEN, out.epoch));
	COUNT("berth_read_begin", begin(s->r));
	COUNT("berth_read_end", end(s->r));
	COUNT("berth_read_begin+berth_lookup+berth_read_end", look_up(s->r, key, &placement));
	COUNT("berth_write_begin", berth_write_begin(s->w, key, KEY_LEN, out.epoch, &w));
	COUNT("berth_write_end", berth_write_end(s->w, &w, BERTH_DONE));
}

/* Pin i, while nothing moves it. */
static void count_cursors(const struct setting *s, size_t i)
{
	const char *owner = pin_owner(&s->pins, i);
	uint64_t now_ms = boottime_ms();
	uint16_t cluster = 0;
	char id[ID_SHORT];

	pin_id(id, sizeof(id), i);
	COUNT("berth_cursor_resolve",
	      berth_cursor_resolve(s->pins.r, id, sizeof(id), owner, KEY_LEN, now_ms, &cluster));
	if (cluster != pin_cluster(&s->pins, i))
		fail("pin %zu resolves to %u, not to %u", i, cluster, pin_cluster(&s->pins, i));
}

static void attach(const struct setting *s, uint32_t writes, struct berth **berth, struct berth_reader **r)
{
	struct berth_attach_options options = {.size = sizeof(options), .writes = writes};
	int rc = berth_attach(s->d.dir, &options, berth);

	if (rc == BERTH_OK)
		rc = berth_reader_open(*berth, r);
	if (rc == BERTH_OK)
		rc = berth_maintain(*berth);
	if (rc != BERTH_OK)
		fail("cannot attach to %s: %s", s->d.dir, berth_strerror(rc));
}

static void workload_instructions(const struct bench *b)
{
	static struct setting s;
	int document = document_make(PARTITIONS, false);

	if (!RUNNING_ON_VALGRIND)
		fail("it counts nothing by itself: `make check-instructions` runs it under callgrind");
	daemon_start(b, &s.d, "instructions", &(struct daemon_how){.cpu = CPU_DAEMON});
	daemon_load(&s.d, document, PARTITIONS, NULL);
	close(document);
	for (uint32_t i = 0; i < PARTITIONS; i++)
		key_name(s.names[i], i);
	attach(&s, BERTH_WRITES_UNBRACKETED, &s.berth, &s.r);
	attach(&s, BERTH_WRITES_BRACKETED, &s.bracketed, &s.w);
	pins_make(b, &s.pins, "instructions-pins", ID_SHORT, &(struct daemon_how){.cpu = CPU_DAEMON});
	pin_many(&s.pins, 0, PINS);
	for (size_t i = 0; i < KEYS; i++) {
		count_calls(&s, i);
		count_cursors(&s, i);
	}
	pins_remove(&s.pins);
	berth_reader_close(&s.r);
	berth_reader_close(&s.w);
	berth_detach(&s.berth);
	berth_detach(&s.bracketed);
	daemon_stop(&s.d);
	remove_tree(s.d.dir);
}

const struct workload workloads[] = {{"instructions", "each hot call, one at a time", workload_instructions}};
const size_t n_workloads = 1;
const char program_name[] = "instructions";
const char program_does[] = "Makes the hot calls of libberth under callgrind, for bench/check-instructions.";
