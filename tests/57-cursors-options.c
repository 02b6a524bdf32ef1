/* SPDX-License-Identifier: MIT
 * How many pins there are, for how long, and where the cursor thread runs: the daemon's options about cursors, another
 * capacity at a restart, pins while the table of partitions grows, and room for acknowledgements. */
#include "cursor_daemon.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../writer/registry_internal.h"

/* ---- the command line ------------------------------------------------------------------------------------------ */

static void what_cannot_be_is_refused_with_its_value(void **state)
{
	static const char *const bad[][2] = {
		{"--cursor-capacity", "0"},      {"--cursor-capacity", "16777217"}, {"--cursor-capacity", "many"},
		{"--cursor-ttl-ms", "0"},        {"--cursor-ttl-ms", "4294967296"}, {"--cursor-owner-share", "0"},
		{"--cursor-owner-share", "101"},
	};
	static const char *const polls[] = {"1000000", "1023", "-1", "x", ""};
	struct pin_place *p = *state;
	char wanted[100];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(daemon_start_refused(&p->d, bad[i][0], bad[i][1], NULL), 2);
		snprintf(wanted, sizeof(wanted), "berthd: %s %s: give ", bad[i][0], bad[i][1]);
		daemon_expect_log(&p->d, wanted);
	}
	for (size_t i = 0; i < sizeof(polls) / sizeof(polls[0]); i++) {
		char option[40];

		snprintf(option, sizeof(option), "--busy-poll=%s", polls[i]);
		assert_int_equal(daemon_start_refused(&p->d, option, NULL), 2);
		snprintf(wanted, sizeof(wanted), "berthd: --busy-poll%s%s: ", polls[i][0] ? " " : "", polls[i]);
		daemon_expect_log(&p->d, wanted);
	}
	assert_int_equal(daemon_start_refused(&p->d, "--busy-poll", "0", NULL), 2); /* its value goes behind a = */
}

/* ---- busy poll ------------------------------------------------------------------------------------------------- */

static void pins_without_sleep(struct pin_place *p, const char *option)
{
	daemon_stop(&p->d);
	pin_restart(p, option, NULL);
	pin_attach(p);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
		if (i % 10 == 0)
			assert_int_equal(pin_status(p, "sleeping"), 0);
	}
	assert_int_equal(pin_status(p, "busy_poll"), 1);
	pin_detach(p);
}

static void a_busy_thread_never_sleeps(void **state)
{
	char option[40];
	cpu_set_t may;
	int cpu = 0;

	assert_int_equal(sched_getaffinity(0, sizeof(may), &may), 0);
	while (!CPU_ISSET((unsigned)cpu, &may))
		cpu++;
	snprintf(option, sizeof(option), "--busy-poll=%d", cpu);
	pins_without_sleep(*state, "--busy-poll");
	pins_without_sleep(*state, option);
}

/* ---- capacity, ttl, share --------------------------------------------------------------------------------------- */

static unsigned count_pinned(struct pin_place *p, const char *what, unsigned from, unsigned to)
{
	unsigned n = 0;

	for (unsigned i = from; i < to; i++) {
		uint16_t cluster = 0;

		n += pin_resolve(p, what, i, "acme", &cluster) == BERTH_OK;
	}
	return n;
}

static void another_capacity_keeps_the_youngest(void **state)
{
	struct pin_place *p = *state;

	pin_attach(p);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
	daemon_kill(&p->d);
	pin_restart(p, "--cursor-capacity", "100", NULL);
	assert_int_equal(pin_status(p, "capacity"), 100);
	assert_int_equal(pin_status(p, "pins"), 100);
	assert_int_equal(count_pinned(p, "scroll", 0, 200), 0);
	assert_int_equal(count_pinned(p, "scroll", 200, 300), 100);
	daemon_kill(&p->d);
	pin_restart(p, "--cursor-capacity", "5000", NULL);
	assert_int_equal(pin_status(p, "capacity"), 5000);
	assert_int_equal(count_pinned(p, "scroll", 200, 300), 100);
	while (berth_maintain(p->b) != BERTH_OK)
		usleep(5000);
	for (unsigned i = 300; i < 400; i++)
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
	assert_int_equal(count_pinned(p, "scroll", 200, 400), 200);
}

static void ttl_and_share_are_as_the_daemon_was_told(void **state)
{
	struct pin_place *p = *state;
	uint16_t cluster = 0;

	daemon_stop(&p->d);
	pin_restart(p, "--cursor-ttl-ms", "200", "--cursor-capacity", "40", "--cursor-owner-share", "25", NULL);
	pin_attach(p);
	assert_int_equal(pin_status(p, "owner_share"), 10);
	for (unsigned i = 0; i < 30; i++)
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 60000), BERTH_OK);
	assert_int_equal(count_pinned(p, "scroll", 0, 20), 0);
	assert_int_equal(count_pinned(p, "scroll", 20, 30), 10);
	assert_int_equal(pin_status(p, "evicted"), 20);
	assert_int_equal(pin_one(p, "short", 0, "globex", 1, 0), BERTH_OK);
	usleep(250000);
	assert_int_equal(pin_resolve(p, "short", 0, "globex", &cluster), BERTH_E_UNKNOWN);
	pin_await_status(p, "expired", 1);
	assert_int_equal(pin_status(p, "pins"), 10);
}

/* ---- the table of partitions grows ------------------------------------------------------------------------------- */

static void growth_of_the_table_keeps_pins(void **state)
{
	struct pin_place *p = *state;
	json_t *status = wire_ok(&p->admin, "status", NULL);
	json_int_t generation = int_of(status, "generation");
	uint64_t deadline = 0;
	bool grown = false;

	json_decref(status);
	pin_attach(p);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(pin_one(p, "scroll", i, "acme", 1, 0), BERTH_OK);
	for (unsigned i = 0; !grown && (within(&deadline) || i < 20000);) {
		for (unsigned k = 0; k < 500; k++, i++) {
			char key[32];

			snprintf(key, sizeof(key), "p-%u", i);
			wire_do(&p->admin, "set", "{s:s, s:{s:s, s:s, s:s}}", "partition", key, "placement", "mode",
				"dedicated-index", "cluster", "c1", "index", "i");
		}
		status = wire_ok(&p->admin, "status", NULL);
		grown = int_of(status, "generation") > generation;
		json_decref(status);
	}
	assert_true(grown);
	assert_int_equal(count_pinned(p, "scroll", 0, 100), 100);
	assert_int_equal(pin_one(p, "scroll", 100, "acme", 1, 0), BERTH_OK);
	assert_int_equal(count_pinned(p, "scroll", 0, 101), 101);
}

/* ---- room for acknowledgements ----------------------------------------------------------------------------------- */

static void acks_are_given_out_by_the_line_and_run_out_with_a_message(void **state)
{
	struct registry *r = calloc(1, sizeof(*r));
	struct registration *g;
	struct refusal why = {0};
	uint32_t slot = 0;

	(void)state;
	r->ledger = calloc(1, SHM_LEDGER_SIZE);
	assert_non_null(r->ledger);
	for (;; slot++) {
		g = calloc(1, sizeof(*g));
		g->slot = slot;
		g->n_readers = slot % 2 ? 4096 : 4089; /* both take 512 lines */
		r->slots[slot] = g;
		r->end = slot + 1;
		if (registration_make_rings(r, g, &why) != R_DONE)
			break;
		assert_int_equal(g->first_ack, slot * 4096);
		assert_int_equal(g->n_rings, g->n_readers);
	}
	assert_int_equal(slot, 16);
	assert_int_equal(why.code, R_LIMIT);
	assert_non_null(strstr(why.message, "4089"));
	assert_int_equal(g->n_rings, 0);
	r->slots[5]->n_rings = 0; /* that one goes */
	g->n_readers = 9;
	assert_int_equal(registration_make_rings(r, g, &why), R_DONE);
	assert_int_equal(g->first_ack, 5 * 4096);
	r->slots[5]->n_readers = 4090;
	assert_int_equal(registration_make_rings(r, r->slots[5], &why), R_LIMIT);
	r->slots[5]->n_readers = 4080; /* all that is left */
	assert_int_equal(registration_make_rings(r, r->slots[5], &why), R_DONE);
	assert_int_equal(r->slots[5]->first_ack, 5 * 4096 + 16);
	for (slot = 0; slot < r->end; slot++)
		free(r->slots[slot]);
	free(r->ledger);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PIN_TEST(what_cannot_be_is_refused_with_its_value),
		PIN_TEST(a_busy_thread_never_sleeps),
		PIN_TEST(another_capacity_keeps_the_youngest),
		PIN_TEST(ttl_and_share_are_as_the_daemon_was_told),
		PIN_TEST(growth_of_the_table_keeps_pins),
		cmocka_unit_test(acks_are_given_out_by_the_line_and_run_out_with_a_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
