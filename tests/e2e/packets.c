/* SPDX-License-Identifier: MIT
 * The end-to-end proof with packet programs in the way (`make check-e2e`): clients in a network namespace of their own, the
 * proxy behind a veth, 200 migrations, every write looked for afterwards, as in e2e.c. Started by tests/run from the top
 * of the tree, with the settings of suite.h (migrations: of each test); needs root, and what run_missing looks for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "packets_splice.h"
#include "suite.h"

#define HOLD_MS 5000u

static void open_or_skip(struct run *r, bool bpf, unsigned hold_ms)
{
	const char *missing = run_missing();

	if (missing) {
		printf("SKIP: %s\n", missing);
		skip();
	}
	run_open(r, bpf, hold_ms);
}

static void without_a_program(struct run *r, unsigned hold_ms)
{
	struct moves *moves;

	open_or_skip(r, false, hold_ms);
	run_clients(r, r->place.proxy_port, NULL);
	moves = run_moves(r, 100);
	run_end_clients(r, &moves);
	assert_true(run_close(r));
	assert_int_equal(r->report.n_unknown, 0);
}

static void without_a_program_no_write_is_lost_or_misplaced(void **state)
{
	struct run r;

	(void)state;
	without_a_program(&r, 0);
	assert_true(r.report.n_refused > 0);
}

static void a_proxy_that_holds_writes_back_shows_no_client_a_cutover(void **state)
{
	struct run r;

	(void)state;
	without_a_program(&r, HOLD_MS);
	assert_int_equal(r.report.n_refused, 0);
}

static void steered(struct run *r, const char *options, const char *mode, unsigned hold_ms, bool kill)
{
	struct moves *moves;
	bool agree;

	open_or_skip(r, true, hold_ms);
	run_steer(r, options, r->place.proxy_port, mode);
	run_clients(r, r->place.proxy_port, NULL);
	moves = run_moves(r, 100);
	if (kill) {
		run_wait(moves, suite_migrations / 2);
		run_kill_berthd(r);
	}
	run_end_clients(r, &moves);
	agree = run_counts(r);
	run_berth(r, "bpf detach all");
	assert_true(run_close(r));
	assert_int_equal(r->report.n_unknown, 0);
	assert_true(agree);
}

static void steer_counts_what_clients_sent_and_no_write_is_lost_or_misplaced(void **state)
{
	struct run r;

	(void)state;
	steered(&r, "--header X-Partition", "native", 0, false);
	assert_true(r.report.n_refused > 0);
}

static void so_it_does_in_generic_mode_while_berthd_is_killed(void **state)
{
	struct run r;

	(void)state;
	steered(&r, "--segment 1", "generic", 0, true);
	assert_true(r.report.n_refused > 0);
}

/* What passed the gate a moment before the cutover meets it in the proxy, which therefore holds it back. */
static void with_the_gate_no_client_sees_a_cutover(void **state)
{
	struct run r;

	(void)state;
	steered(&r, "--header X-Partition --gate drop", "native", HOLD_MS, false);
	assert_true(counts_held(&r.counts) > 0);
	assert_int_equal(r.report.n_refused, 0);
}

static void nor_does_one_in_generic_mode_while_berthd_is_killed(void **state)
{
	struct run r;

	(void)state;
	steered(&r, "--segment 1 --gate drop", "generic", HOLD_MS, true);
	assert_true(counts_held(&r.counts) > 0);
	assert_int_equal(r.report.n_refused, 0);
}

/* Through `berth bpf splice`, with the proxy as its fallback. Meanwhile berthd is killed; with a mix, splice is. Without
 * one, steer is in the way too, and wrk is among the clients. */
static void spliced(struct run *r, const struct load_mix *mix, unsigned percent)
{
	struct splice_process splice;
	struct moves *moves;
	bool agree = true;
	uint64_t n;

	open_or_skip(r, true, HOLD_MS);
	r->spliced = true;
	r->late = mix && mix->late;
	r->with_wrk = !mix;
	splice_open(&splice, r, 0);
	if (!mix)
		run_steer(r, "--header X-Partition", splice.port, "native");
	run_clients(r, splice.port, mix);
	moves = run_moves(r, percent);
	run_wait(moves, suite_migrations / 20);
	if (mix)
		splice_kill(&splice, r);
	else
		run_kill_berthd(r);
	run_end_clients(r, &moves);
	if (!mix) {
		agree = run_seen(r);
		run_berth(r, "bpf detach all");
	}
	n = splice_close(&splice);
	assert_true(run_close(r));
	printf("note: the kernel forwarded %" PRIu64 " requests alone; wrk's were %" PRIu64 "\n", n, r->n_wrk);
	assert_true(agree);
	assert_true(mix || r->n_wrk > 100);
	assert_int_equal(r->report.n_refused, 0);
	assert_true(n > (mix ? 100 : r->report.n_reads)); /* who was killed has told nobody what it did */
}

static void steered_and_spliced_in_the_kernel_no_write_is_lost_or_misplaced(void **state)
{
	struct run r;

	(void)state;
	spliced(&r, NULL, 100);
	assert_int_equal(r.report.n_unknown, 0);
}

static void nor_is_one_whose_connection_breaks(void **state)
{
	struct run r;

	(void)state;
	spliced(&r, &load_mix_breaking, 15);
	assert_true(r.report.n_unknown_happened > 0);
	assert_true(r.report.n_late > 0);
}

#define LEGACY_EACH 4u /* writes to each cluster in a turn */

/* curl, in a cgroup, writes to each cluster by the address that stands for its number. names[c]: the cluster that has to
 * answer for number c; 0: no connection may come about. *sequence: of the last write so far. */
static void write_by_number(const char *cgroup, const unsigned answers[RUN_CLUSTERS + 1], uint64_t *sequence)
{
	char out[4096];

	for (unsigned c = 1; c <= RUN_CLUSTERS; c++)
		for (unsigned i = 0; i < LEGACY_EACH; i++) {
			int rc = net_run(
				out, sizeof(out),
				"sh -c 'echo $$ >%s/cgroup.procs && exec curl --silent --max-time 10 --request PUT "
				"--header X-Number:%u --header X-Sequence:%" PRIu64
				" --header X-Attempt:1 --header X-Client:1 --header X-Behave:ok:0:0 --data {} "
				"--output /dev/null --write-out %%{http_code},%%header{x-cluster} "
				"http://198.18.0.%u/doc'",
				cgroup, c, ++*sequence, c);
			char expected[32];
			snprintf(expected, sizeof(expected), "200,%u", answers[c]);
			if (answers[c] ? rc != 0 || strcmp(out, expected) != 0 : rc == 0)
				fail_msg("198.18.0.%u answered %s (exit code %d), expected %s", c, out, rc,
					 answers[c] ? expected : "no connection");
		}
}

static void a_client_without_berth_reaches_the_cluster_whose_number_it_names(void **state)
{
	static const unsigned straight[] = {0, 1, 2, 3}, swapped[] = {0, 2, 1, 3}, nowhere[RUN_CLUSTERS + 1];
	const unsigned *by_turn[] = {straight, swapped, swapped};
	uint64_t sequence = 0, at[3 * RUN_CLUSTERS * LEGACY_EACH + 1] = {0};
	char path[256];
	struct run r;

	(void)state;
	open_or_skip(&r, true, 0);
	if (!run_cgroup(path))
		place_fail("no cgroup2 is mounted");
	run_berth(&r, "bpf load connect");
	write_by_number(path, nowhere, &(uint64_t){0});
	run_berth(&r, "bpf attach connect --cgroup %s", path);
	write_by_number(path, straight, &sequence);
	run_berth(&r, "cluster set c1 --endpoint http://127.0.0.1:%u", r.place.cluster_port[2]);
	run_berth(&r, "cluster set c2 --endpoint http://127.0.0.1:%u", r.place.cluster_port[1]);
	write_by_number(path, swapped, &sequence);
	place_kill_berthd(&r.place);
	write_by_number(path, swapped, &sequence);
	place_restart_berthd(&r.place);
	run_berth(&r, "bpf detach all");
	write_by_number(path, nowhere, &(uint64_t){0});
	place_close(&r.place);
	net_close(&r.net);
	verdict_read_logs(&r.place, &r.history);
	assert_int_equal(r.history.n_effects, sequence);
	for (size_t i = 0; i < r.history.n_effects; i++) {
		const struct hist_effect *e = &r.history.effects[i];
		const unsigned *answers = by_turn[(e->sequence - 1) / (RUN_CLUSTERS * LEGACY_EACH)];
		assert_int_equal(at[e->sequence]++, 0);
		assert_int_equal(e->cluster, answers[e->partition]);
	}
	history_free(&r.history);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_program_no_write_is_lost_or_misplaced),
		cmocka_unit_test(a_proxy_that_holds_writes_back_shows_no_client_a_cutover),
		cmocka_unit_test(steer_counts_what_clients_sent_and_no_write_is_lost_or_misplaced),
		cmocka_unit_test(so_it_does_in_generic_mode_while_berthd_is_killed),
		cmocka_unit_test(with_the_gate_no_client_sees_a_cutover),
		cmocka_unit_test(nor_does_one_in_generic_mode_while_berthd_is_killed),
		cmocka_unit_test(steered_and_spliced_in_the_kernel_no_write_is_lost_or_misplaced),
		cmocka_unit_test(nor_is_one_whose_connection_breaks),
		cmocka_unit_test(a_client_without_berth_reaches_the_cluster_whose_number_it_names),
	};
	int rc = suite_run(tests, sizeof(tests) / sizeof(tests[0]));

	run_remove_left();
	return rc;
}
