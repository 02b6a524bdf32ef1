/* SPDX-License-Identifier: MIT
 * Pins through libberth, against the real daemon: what pin, resolve and release answer, when a pin ends, what is answered
 * while the daemon is stopped or gone, order, forks. Where time matters the test gives the clock to resolve, and knows
 * when it pinned to the millisecond. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/berth.h"
#include "../shm/cursor.h"
#include "../shm/segment.h"
#include "child.h"
#include "cursor_daemon.h"

#define WAIT 10000u /* ms: a deadline that nothing comes near */
#define ACME "acme", 4
#define GLOBEX "globex", 6
#define ID(text) (text), strlen(text)

struct place {
	struct daemon daemon;
	struct wire admin;
	struct berth *b;
	struct berth_reader *r;
	uint16_t c1, c2;
};
static struct place place;

static uint64_t now_ms(void)
{
	return seg_clock_ms(CLOCK_BOOTTIME);
}

static struct berth *attach_with(uint32_t cursors, uint32_t wait_ms)
{
	struct berth_attach_options o = {.size = sizeof o,
					 .writes = BERTH_WRITES_NONE,
					 .max_readers = 4,
					 .wait_ms = wait_ms,
					 .cursors = cursors};
	struct berth *b = NULL;

	assert_int_equal(berth_attach(place.daemon.dir, &o, &b), BERTH_OK);
	return b;
}

/* SIGSTOP, and none of its threads runs any more. */
static void daemon_halt(const struct daemon *d)
{
	const struct pin_place it = {.d = *d};

	pin_stop(&it);
}

static uint16_t number_of(const char *cluster)
{
	json_t *a = wire_ok(&place.admin, "cluster.set", "{s:s}", "id", cluster);
	uint16_t number = (uint16_t)int_of(a, "number");

	json_decref(a);
	return number;
}

static int set_up(void **state)
{
	struct place *p = &place;

	*state = p;
	memset(p, 0, sizeof *p);
	daemon_make(&p->daemon, "memory");
	daemon_start(&p->daemon, "--barrier-ms", "50", NULL);
	wire_open(&p->admin, &p->daemon, WIRE_ADMIN);
	p->c1 = number_of("c1");
	p->c2 = number_of("c2");
	p->b = attach_with(BERTH_CURSORS_PIN, 5000);
	assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = &place;

	(void)state;
	berth_reader_close(&p->r);
	if (p->b)
		berth_detach(&p->b);
	wire_close(&p->admin);
	daemon_remove(&p->daemon);
	return 0;
}

static int pin(const char *id, uint16_t cluster, const char *owner, uint32_t ttl_ms)
{
	return berth_cursor_pin(place.r, ID(id), cluster, ID(owner), ttl_ms, WAIT);
}

static int resolve_at(const char *id, const char *owner, uint64_t at_ms)
{
	uint16_t cluster = 0xffff;
	int rc = berth_cursor_resolve(place.r, ID(id), ID(owner), at_ms, &cluster);

	assert_true(rc == BERTH_OK || cluster == 0xffff); /* left as it was */
	return rc == BERTH_OK ? cluster : rc;
}

static int resolve(const char *id, const char *owner)
{
	return resolve_at(id, owner, 0);
}

/* Pins, and tells the millisecond in which it did: again until it was one. */
static uint64_t pin_exactly(const char *id, uint32_t ttl_ms)
{
	uint64_t before, after;

	do {
		before = now_ms();
		assert_int_equal(berth_cursor_pin(place.r, ID(id), place.c1, ACME, ttl_ms, 0), BERTH_OK);
		after = now_ms();
	} while (before != after);
	assert_int_equal(pin("behind-it", place.c1, "acme", 1000), BERTH_OK); /* so that it is done */
	return before;
}

static void a_pinned_cursor_resolves_to_its_cluster(void **state)
{
	struct place *p = *state;

	assert_int_equal(resolve("s1", "acme"), BERTH_E_UNKNOWN);
	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	assert_int_equal(pin("s2", p->c2, "acme", 0), BERTH_OK);
	assert_int_equal(resolve("s1", "acme"), p->c1);
	assert_int_equal(resolve("s2", "acme"), p->c2);
	assert_int_equal(resolve("s3", "acme"), BERTH_E_UNKNOWN);
}

static void a_leaked_cursor_id_is_no_key_to_somebody_elses_data(void **state)
{
	struct place *p = *state;

	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	assert_int_equal(resolve("s1", "globex"), BERTH_E_NOT_OWNER);
	assert_int_equal(resolve("s1", "acm"), BERTH_E_NOT_OWNER);
	assert_int_equal(resolve("s1", "acme2"), BERTH_E_NOT_OWNER);
	assert_int_equal(pin("s1", p->c2, "globex", 0), BERTH_E_NOT_OWNER);
	assert_int_equal(berth_cursor_pin(p->r, ID("s1"), p->c2, GLOBEX, 0, 0),
			 BERTH_E_NOT_OWNER); /* not waiting either */
	assert_int_equal(berth_cursor_release(p->r, ID("s1"), GLOBEX), BERTH_E_NOT_OWNER);
	assert_int_equal(resolve("s1", "acme"), p->c1);
}

static void a_pin_whose_age_is_its_ttl_is_none(void **state)
{
	struct place *p = *state;
	uint64_t at = pin_exactly("s1", 60000);

	assert_int_equal(resolve_at("s1", "acme", at), p->c1);
	assert_int_equal(resolve_at("s1", "acme", at + 59999), p->c1);
	assert_int_equal(resolve_at("s1", "acme", at + 60000), BERTH_E_UNKNOWN);
	assert_int_equal(resolve_at("s1", "globex", at + 59999), BERTH_E_NOT_OWNER);
	assert_int_equal(resolve_at("s1", "globex", at + 60000), BERTH_E_UNKNOWN);
}

static void the_ttl_is_300_s_when_none_is_given(void **state)
{
	struct place *p = *state;
	uint64_t at = pin_exactly("s1", 0);

	assert_int_equal(resolve_at("s1", "acme", at + 299999), p->c1);
	assert_int_equal(resolve_at("s1", "acme", at + 300000), BERTH_E_UNKNOWN);
}

static void pinning_again_refreshes_the_ttl_and_takes_the_new_cluster(void **state)
{
	struct place *p = *state;
	uint64_t n, at = pin_exactly("s1", 1000);

	assert_int_equal(berth_cursor_len(p->r, &n), BERTH_OK);
	assert_int_equal(pin("s1", p->c2, "acme", 100000), BERTH_OK);
	assert_int_equal(resolve_at("s1", "acme", at + 50000), p->c2);
	at = n;
	assert_int_equal(berth_cursor_len(p->r, &n), BERTH_OK);
	assert_int_equal(n, at);
}

static void resolve_never_refreshes(void **state)
{
	struct place *p = *state;
	uint64_t at = pin_exactly("s1", 60000);

	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(resolve_at("s1", "acme", at + 59000), p->c1);
	assert_int_equal(resolve_at("s1", "acme", at + 60000), BERTH_E_UNKNOWN);
}

static void a_stopped_writer_never_makes_an_old_pin_live_on(void **state)
{
	struct place *p = *state;
	uint64_t deadline = 0;

	assert_int_equal(pin("s1", p->c1, "acme", 150), BERTH_OK);
	daemon_halt(&p->daemon);
	assert_int_equal(resolve("s1", "acme"), p->c1);
	while (within(&deadline) && resolve("s1", "acme") != BERTH_E_UNKNOWN)
		;
	assert_int_equal(resolve("s1", "acme"), BERTH_E_UNKNOWN);
	daemon_signal(&p->daemon, SIGCONT);
}

static void release_ends_a_pin(void **state)
{
	struct place *p = *state;

	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	assert_int_equal(berth_cursor_release(p->r, ID("s1"), ACME), BERTH_OK);
	assert_int_equal(resolve("s1", "acme"), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_release(p->r, ID("s1"), ACME), BERTH_E_UNKNOWN);
	assert_int_equal(pin("s1", p->c2, "globex", 0), BERTH_OK);
	assert_int_equal(resolve("s1", "globex"), p->c2);
}

static void a_cluster_that_does_not_exist_is_unknown(void **state)
{
	struct place *p = *state;

	assert_int_equal(pin("s1", 0, "acme", 0), BERTH_E_UNKNOWN);
	assert_int_equal(pin("s1", 4711, "acme", 0), BERTH_E_UNKNOWN);
	assert_int_equal(resolve("s1", "acme"), BERTH_E_UNKNOWN);
	(void)p;
}

static void ids_of_1_to_4096_bytes_are_taken_and_all_of_an_id_counts(void **state)
{
	static char id[SHM_CURSOR_ID_MAX + 1], other[SHM_CURSOR_ID_MAX];
	static const size_t lengths[] = {1, 8, 255, 256, 257, 1000, 4095, 4096};
	struct place *p = *state;
	uint16_t cluster;

	for (size_t i = 0; i < sizeof id; i++)
		id[i] = (char)(i * 7 % 251);
	for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
		assert_int_equal(berth_cursor_pin(p->r, id, lengths[l], p->c1, ACME, 0, WAIT), BERTH_OK);
	for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
		assert_int_equal(berth_cursor_resolve(p->r, id, lengths[l], ACME, 0, &cluster), BERTH_OK);
		memcpy(other, id, lengths[l]);
		other[lengths[l] - 1] ^= 1;
		assert_int_equal(berth_cursor_resolve(p->r, other, lengths[l], ACME, 0, &cluster), BERTH_E_UNKNOWN);
	}
	assert_int_equal(berth_cursor_resolve(p->r, id, 254, ACME, 0, &cluster), BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_pin(p->r, id, 4097, p->c1, ACME, 0, WAIT), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_pin(p->r, id, 0, p->c1, ACME, 0, WAIT), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_pin(p->r, id, 1, p->c1, "", 0, 0, WAIT), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_pin(p->r, id, 1, p->c1, id, 256, 0, WAIT), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_pin(p->r, NULL, 1, p->c1, ACME, 0, WAIT), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_resolve(p->r, id, 0, ACME, 0, &cluster), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_resolve(p->r, id, 1, ACME, 0, NULL), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_release(p->r, id, 1, id, 256), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_len(p->r, NULL), BERTH_E_INVAL);
}

static void bulk_resolve_answers_as_single_ones_do(void **state)
{
	enum { N = 100 };
	static char ids[N][16];
	struct berth_cursor cursors[N];
	uint16_t clusters[N];
	struct place *p = *state;
	uint64_t at = now_ms();
	int status[N];

	for (unsigned i = 0; i < N; i++) {
		int len = snprintf(ids[i], sizeof ids[i], "bulk-%u", i);

		if (i % 3)
			assert_int_equal(
				berth_cursor_pin(p->r, ids[i], (size_t)len, i % 2 ? p->c1 : p->c2, ACME, 60000, 0),
				BERTH_OK);
		cursors[i] = (struct berth_cursor){ids[i], (size_t)len, i % 5 ? "acme" : "globex", i % 5 ? 4 : 6};
		clusters[i] = 0xffff;
	}
	cursors[7].id_len = 0;
	cursors[8].owner = NULL;
	assert_int_equal(pin("behind-them", p->c1, "acme", 1000), BERTH_OK);
	assert_int_equal(berth_cursor_resolve_bulk(p->r, cursors, N, at, clusters, status), BERTH_OK);
	for (unsigned i = 0; i < N; i++) {
		uint16_t cluster = 0xffff;

		assert_int_equal(status[i], berth_cursor_resolve(p->r, cursors[i].id, cursors[i].id_len,
								 cursors[i].owner, cursors[i].owner_len, at, &cluster));
		assert_int_equal(clusters[i], cluster);
	}
	assert_int_equal(status[1], BERTH_OK);
	assert_int_equal(status[3], BERTH_E_UNKNOWN);
	assert_int_equal(status[5], BERTH_E_NOT_OWNER);
	assert_int_equal(status[7], BERTH_E_INVAL);
	assert_int_equal(berth_cursor_resolve_bulk(p->r, cursors, N, at + 100000, clusters, status), BERTH_OK);
	assert_int_equal(status[1], BERTH_E_UNKNOWN);
	assert_int_equal(berth_cursor_resolve_bulk(p->r, NULL, 0, 0, NULL, NULL), BERTH_OK);
	assert_int_equal(berth_cursor_resolve_bulk(p->r, NULL, 1, 0, clusters, status), BERTH_E_INVAL);
}

static void without_the_option_every_cursor_call_is_invalid(void **state)
{
	struct place *p = *state;
	struct berth *b = attach_with(BERTH_CURSORS_OFF, 5000);
	struct berth_cursor one = {"s1", 2, "acme", 4};
	struct berth_reader *r;
	uint16_t cluster;
	uint64_t n;
	int status;

	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	assert_int_equal(berth_cursor_pin(r, "s1", 2, p->c1, ACME, 0, WAIT), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_resolve(r, "s1", 2, ACME, 0, &cluster), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_resolve_bulk(r, &one, 1, 0, &cluster, &status), BERTH_E_INVAL);
	assert_int_equal(status, BERTH_E_INVAL);
	assert_int_equal(berth_cursor_release(r, "s1", 2, ACME), BERTH_E_INVAL);
	assert_int_equal(berth_cursor_len(r, &n), BERTH_E_INVAL);
	berth_reader_close(&r);
	berth_detach(&b);
}

static void a_process_that_never_registered_has_no_pins(void **state)
{
	struct place *p = *state;
	struct berth_reader *r;
	uint16_t cluster;
	struct berth *b;

	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	daemon_halt(&p->daemon);
	b = attach_with(BERTH_CURSORS_PIN, BERTH_NO_WAIT);
	assert_int_equal(berth_reader_open(b, &r), BERTH_OK);
	assert_int_equal(berth_cursor_resolve(r, "s1", 2, ACME, 0, &cluster), BERTH_E_WRITER_DOWN);
	assert_int_equal(berth_cursor_pin(r, "s1", 2, p->c1, ACME, 0, 0), BERTH_E_WRITER_DOWN);
	daemon_signal(&p->daemon, SIGCONT);
	for (uint64_t deadline = 0; within(&deadline);)
		if (berth_maintain(b) == BERTH_OK)
			break;
	assert_int_equal(berth_cursor_resolve(r, "s1", 2, ACME, 0, &cluster), BERTH_OK);
	berth_reader_close(&r);
	berth_detach(&b);
}

static void past_the_deadline_the_answer_is_again_and_the_request_is_done_later(void **state)
{
	struct place *p = *state;
	uint64_t before;

	daemon_halt(&p->daemon);
	before = test_now_ms();
	assert_int_equal(berth_cursor_pin(p->r, ID("s1"), p->c1, ACME, 0, 60), BERTH_E_AGAIN);
	assert_true(test_now_ms() - before >= 60);
	assert_int_equal(resolve("s1", "acme"), BERTH_E_UNKNOWN);
	daemon_signal(&p->daemon, SIGCONT);
	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK); /* pinning again is safe */
	assert_int_equal(resolve("s1", "acme"), p->c1);
}

static void a_full_ring_is_again_and_what_was_taken_is_done(void **state)
{
	struct place *p = *state;
	unsigned taken = 0;
	char id[16];
	int rc;

	daemon_halt(&p->daemon);
	for (;; taken++) {
		snprintf(id, sizeof id, "full-%u", taken);
		rc = berth_cursor_pin(p->r, ID(id), p->c1, ACME, 0, 0);
		if (rc != BERTH_OK)
			break;
	}
	assert_int_equal(rc, BERTH_E_AGAIN);
	assert_int_equal(taken, SHM_RING_ENTRIES);
	daemon_signal(&p->daemon, SIGCONT);
	for (uint64_t deadline = 0; within(&deadline);)
		if (pin("behind-them", p->c1, "acme", 0) == BERTH_OK)
			break;
	for (unsigned i = 0; i < taken; i++) {
		snprintf(id, sizeof id, "full-%u", i);
		assert_int_equal(resolve(id, "acme"), p->c1);
	}
	snprintf(id, sizeof id, "full-%u", taken);
	assert_int_equal(resolve(id, "acme"), BERTH_E_UNKNOWN);
}

static void requests_of_a_reader_are_done_in_order(void **state)
{
	struct place *p = *state;

	for (unsigned i = 0; i < 2000; i++) {
		uint16_t cluster = i % 2 ? p->c1 : p->c2;

		while (berth_cursor_pin(p->r, ID("s1"), cluster, ACME, 0, 0) == BERTH_E_AGAIN)
			;
		if (i % 100 != 99)
			continue;
		assert_int_equal(berth_cursor_release(p->r, ID("s1"), ACME), BERTH_OK);
		assert_int_equal(resolve("s1", "acme"), BERTH_E_UNKNOWN);
	}
}

static void pins_outlive_the_writer_and_can_be_resolved_without_one(void **state)
{
	struct place *p = *state;

	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	wire_close(&p->admin);
	daemon_kill(&p->daemon);
	assert_int_equal(resolve("s1", "acme"), p->c1);
	daemon_start(&p->daemon, "--barrier-ms", "50", NULL);
	wire_open(&p->admin, &p->daemon, WIRE_ADMIN);
	assert_int_equal(resolve("s1", "acme"), p->c1);
	/* Before berth_maintain has reached the new one: it looks by timer until each process has its doorbell. */
	assert_int_equal(pin("s2", p->c1, "acme", 0), BERTH_OK);
	for (uint64_t deadline = 0; within(&deadline);)
		if (berth_maintain(p->b) == BERTH_OK)
			break;
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(pin("s3", i % 2 ? p->c1 : p->c2, "acme", 0), BERTH_OK);
	assert_int_equal(resolve("s2", "acme"), p->c1);
	assert_int_equal(resolve("s3", "acme"), p->c1);
}

static void without_a_writer_pin_and_release_say_so_at_once(void **state)
{
	struct place *p = *state;
	uint64_t deadline = 0, before;

	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	wire_close(&p->admin);
	daemon_kill(&p->daemon);
	while (within(&deadline)) /* its heart has not beaten for three seconds */
		if (berth_cursor_pin(p->r, ID("s2"), p->c1, ACME, 0, 1) == BERTH_E_WRITER_DOWN)
			break;
	before = test_now_ms();
	assert_int_equal(pin("s2", p->c1, "acme", 0), BERTH_E_WRITER_DOWN);
	assert_int_equal(berth_cursor_release(p->r, ID("s1"), ACME), BERTH_E_WRITER_DOWN);
	assert_true(test_now_ms() - before < 2000);
	assert_int_equal(resolve("s1", "acme"), p->c1);
}

static void a_reader_goes_on_with_the_ring_of_the_one_before_it(void **state)
{
	struct place *p = *state;

	for (unsigned i = 0; i < 600; i++) { /* more than a ring */
		char id[16];

		snprintf(id, sizeof id, "again-%u", i);
		assert_int_equal(pin(id, p->c1, "acme", 0), BERTH_OK);
		if (i % 50 == 0) {
			berth_reader_close(&p->r);
			assert_int_equal(berth_reader_open(p->b, &p->r), BERTH_OK);
		}
		assert_int_equal(resolve(id, "acme"), p->c1);
	}
}

static void readers_of_a_process_have_rings_of_their_own(void **state)
{
	struct place *p = *state;
	struct berth_reader *other;
	uint16_t cluster;

	assert_int_equal(berth_reader_open(p->b, &other), BERTH_OK);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(pin("mine", p->c1, "acme", 0), BERTH_OK);
		assert_int_equal(berth_cursor_pin(other, ID("its"), p->c2, GLOBEX, 0, WAIT), BERTH_OK);
	}
	assert_int_equal(berth_cursor_resolve(other, ID("mine"), ACME, 0, &cluster), BERTH_OK);
	assert_int_equal(cluster, p->c1);
	assert_int_equal(resolve("its", "globex"), p->c2);
	berth_reader_close(&other);
}

static void a_forked_child_is_told_so(void **state)
{
	struct place *p = *state;
	uint16_t cluster;
	pid_t child;
	int status;

	if (!fork_wipes())
		skip();
	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		bool told = pin("s1", p->c2, "acme", 0) == BERTH_E_FORKED &&
			    berth_cursor_resolve(p->r, ID("s1"), ACME, 0, &cluster) == BERTH_E_FORKED &&
			    berth_cursor_release(p->r, ID("s1"), ACME) == BERTH_E_FORKED;

		berth_reader_close(&p->r);
		berth_detach(&p->b);
		_exit(told ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(pin("s2", p->c1, "acme", 0), BERTH_OK);
	assert_int_equal(resolve("s1", "acme"), p->c1);
}

static void len_counts_the_pins(void **state)
{
	struct place *p = *state;
	uint64_t n;

	assert_int_equal(berth_cursor_len(p->r, &n), BERTH_OK);
	assert_int_equal(n, 0);
	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	assert_int_equal(pin("s1", p->c1, "acme", 0), BERTH_OK);
	assert_int_equal(pin("s2", p->c1, "acme", 100), BERTH_OK);
	assert_int_equal(berth_cursor_len(p->r, &n), BERTH_OK);
	assert_int_equal(n, 2);
	for (uint64_t deadline = 0; within(&deadline);) /* swept within a second or so */
		if (berth_cursor_len(p->r, &n) == BERTH_OK && n == 1)
			break;
	assert_int_equal(n, 1);
	assert_int_equal(berth_cursor_release(p->r, ID("s1"), ACME), BERTH_OK);
	assert_int_equal(berth_cursor_len(p->r, &n), BERTH_OK);
	assert_int_equal(n, 0);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_pinned_cursor_resolves_to_its_cluster),
		TEST(a_leaked_cursor_id_is_no_key_to_somebody_elses_data),
		TEST(a_pin_whose_age_is_its_ttl_is_none),
		TEST(the_ttl_is_300_s_when_none_is_given),
		TEST(pinning_again_refreshes_the_ttl_and_takes_the_new_cluster),
		TEST(resolve_never_refreshes),
		TEST(a_stopped_writer_never_makes_an_old_pin_live_on),
		TEST(release_ends_a_pin),
		TEST(a_cluster_that_does_not_exist_is_unknown),
		TEST(ids_of_1_to_4096_bytes_are_taken_and_all_of_an_id_counts),
		TEST(bulk_resolve_answers_as_single_ones_do),
		TEST(without_the_option_every_cursor_call_is_invalid),
		TEST(a_process_that_never_registered_has_no_pins),
		TEST(past_the_deadline_the_answer_is_again_and_the_request_is_done_later),
		TEST(a_full_ring_is_again_and_what_was_taken_is_done),
		TEST(requests_of_a_reader_are_done_in_order),
		TEST(pins_outlive_the_writer_and_can_be_resolved_without_one),
		TEST(without_a_writer_pin_and_release_say_so_at_once),
		TEST(a_reader_goes_on_with_the_ring_of_the_one_before_it),
		TEST(readers_of_a_process_have_rings_of_their_own),
		TEST(a_forked_child_is_told_so),
		TEST(len_counts_the_pins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
