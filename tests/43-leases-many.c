/* SPDX-License-Identifier: MIT
 * Many leases at once: bulk begins, leases that outlive their reader or their attachment, forks, writes that one thread
 * begins and another one ends. One write at a time: 43-leases.c. */
#include "reader_place.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"

/* ---- many at once -------------------------------------------------------------------------------------------- */

static void bulk_begin_shares_and_says_each(void **state)
{
	struct reader_place *p = *state;
	uint64_t acme = place_set(p, "acme", 1, "a"), globex = place_set(p, "globex", 2, "g"), stale;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_key keys[7] = {{KEY("acme")}, {KEY("globex")}, {KEY("acme")},  {KEY("nobody")},
				    {KEY("acme")}, {"", 0},         {KEY("globex")}};
	uint64_t epochs[7] = {acme, 0, 0, 0, acme + 99, 0, globex};
	const int expected[7] = {BERTH_OK, BERTH_OK, BERTH_OK, BERTH_E_UNKNOWN, BERTH_E_STALE, BERTH_E_INVAL, BERTH_OK};
	struct berth_write w[7], zero = {0};
	int status[7];

	for (int round = 0; round < 8; round++) { /* round's bits: which of three ends first, and how */
		memset(w, 0xee, sizeof w);
		assert_int_equal(berth_write_begin_bulk(r, keys, epochs, 7, w, status), BERTH_OK);
		for (int i = 0; i < 7; i++) {
			assert_int_equal(status[i], expected[i]);
			assert_int_equal(w[i].epoch, status[i] ? 0 : i == 0 || i == 2 ? acme : globex);
			assert_int_equal(w[i].reserved1[0] | w[i].reserved1[1], 0);
			if (status[i])
				assert_memory_equal(&w[i], &zero, sizeof zero);
		}
		EXPECT_SLOTS(p, 0, "acme", 1, 0);
		EXPECT_SLOTS(p, 0, "globex", 1, 0);
		must_end(r, &w[round & 1 ? 0 : 2], BERTH_DONE);
		EXPECT_SLOTS(p, 0, "acme", 1, 0); /* until the last of them has ended */
		must_end(r, &w[round & 1 ? 2 : 0], BERTH_DONE);
		EXPECT_SLOTS(p, 0, "acme", 0, 0);
		must_end(r, &w[1], BERTH_DONE);
		must_end(r, &w[6], BERTH_DONE);
		EXPECT_SLOTS(p, 0, NULL, 0, 0);
	}
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 3, w, status), BERTH_OK); /* all present epochs */
	must_end(r, &w[0], BERTH_UNKNOWN); /* one unknown among them makes the lease unknown */
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	must_end(r, &w[2], BERTH_DONE);
	must_end(r, &w[1], BERTH_DONE);
	EXPECT_SLOTS(p, 0, "acme", 0, 1);
	EXPECT_SLOTS(p, 0, "globex", 0, 0);
	assert_int_equal(berth_write_begin_bulk(r, NULL, NULL, 0, NULL, NULL), BERTH_OK);
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 1, NULL, status), BERTH_E_INVAL);
	place_begin(p, "acme", 2, "c");
	stale = place_phase(p, "acme", PHASE_CUTOVER);
	assert_int_equal(berth_write_begin_bulk(r, keys, (uint64_t[]){stale, 0, 0}, 3, w, status), BERTH_OK);
	assert_int_equal(status[0], BERTH_E_CUTOVER);
	assert_int_equal(status[2], BERTH_E_CUTOVER);
	must_end(r, &w[1], BERTH_DONE);
	close_all(b, r);
}

static void bulk_begin_without_room_holds_nothing(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_key keys[40];
	struct berth_write w[40], one;
	char names[40][8];
	int status[40];

	for (unsigned i = 0; i < 40; i++) {
		snprintf(names[i], sizeof names[i], "t%u", i % 20);
		keys[i] = (struct berth_key){names[i], strlen(names[i])};
		place_set(p, names[i], 1 + i % 2, NULL);
	}
	must_begin(r, "t5", &one);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 40, w, status), BERTH_E_AGAIN);
		for (int i = 0; i < 40; i++) {
			assert_int_equal(status[i], BERTH_E_AGAIN);
			assert_int_equal(berth_write_end(r, &w[i], BERTH_DONE), BERTH_E_INVAL);
		}
		EXPECT_SLOTS(p, 0, NULL, 1, 0);
	}
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, 3, w, status), BERTH_OK);
	EXPECT_SLOTS(p, 0, NULL, 4, 0);
	for (int i = 0; i < 3; i++)
		must_end(r, &w[i], BERTH_DONE);
	must_end(r, &one, BERTH_DONE);
	close_all(b, r);
}

static void bulk_begin_of_thousands_of_one_tenant_takes_few_slots(void **state)
{
	enum { N = 20000 };
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 16);
	struct berth_reader *r = opened(b);
	struct berth_key *keys = calloc(N, sizeof *keys);
	struct berth_write *w = calloc(N, sizeof *w);
	int *status = calloc(N, sizeof *status);
	static const char *const names[] = {"acme", "globex", "initech"};

	assert_true(keys && w && status);
	for (unsigned i = 0; i < 3; i++)
		place_set(p, names[i], 1, names[i]);
	for (unsigned i = 0; i < N; i++)
		keys[i] = (struct berth_key){KEY(names[i * 2654435761u % 3])};
	assert_int_equal(berth_write_begin_bulk(r, keys, NULL, N, w, status), BERTH_OK);
	EXPECT_SLOTS(p, 0, NULL, 3, 0);
	for (unsigned i = 0; i < N; i++)
		must_end(r, &w[(i * 7919u + 1) % N], BERTH_DONE);
	EXPECT_SLOTS(p, 0, NULL, 0, 0);
	free(keys);
	free(w);
	free(status);
	close_all(b, r);
}

/* ---- readers, attachments, processes -------------------------------------------------------------------------- */

static void lease_outlives_its_reader(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 2);
	struct berth_reader *r = opened(b), *other;
	struct berth_write w, w2;

	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	berth_reader_close(&r);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY);
	assert_non_null(b);
	r = opened(b); /* takes the array over, with what is in it */
	other = opened(b);
	must_begin(r, "acme", &w2);
	EXPECT_SLOTS(p, 0, "acme", 2, 0);
	assert_int_equal(berth_write_begin(r, KEY("acme"), 0, &(struct berth_write){0}), BERTH_E_AGAIN);
	must_end(other, &w, BERTH_DONE);
	must_begin(r, "acme", &w);
	must_end(r, &w, BERTH_DONE);
	berth_reader_close(&r);
	berth_reader_close(&other);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY);
	r = opened(b);
	must_end(r, &w2, BERTH_UNKNOWN); /* an unknown end holds nobody back */
	close_all(b, r);
}

static unsigned registrations_mapped(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		n += strstr(line, "/readers/") != NULL;
	fclose(f);
	return n;
}

/* The writer does not know the registration any more, so there is a new one; writes of the old one end on the old one. */
static void lease_outlives_its_attachment(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b), *idle = opened(b);
	struct shm_leases *old;
	struct berth_write w, w2;
	unsigned mapped;
	uint64_t state_word;

	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	old = leases_of(p, 0);
	stop_serving(p);
	serve(p, ANSWER_UNKNOWN);
	maintain_until(b, BERTH_OK);
	assert_int_equal(atomic_load(&p->n_attached), 2);
	must_begin(r, "acme", &w2); /* on the new one */
	assert_true(leases_of(p, 0) != old);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	assert_int_not_equal(lease_look(&lease_slots(old)[0], &state_word), 0);
	mapped = registrations_mapped();
	assert_int_equal(berth_maintain(b), BERTH_OK);
	assert_int_equal(registrations_mapped(), mapped);
	assert_int_equal(berth_route(idle, KEY("acme"), &(struct berth_route){0}), BERTH_OK); /* leaves the old one */
	assert_int_equal(berth_maintain(b), BERTH_OK);
	assert_int_equal(registrations_mapped(), mapped); /* w is under way on it */
	must_end(r, &w, BERTH_DONE);
	assert_int_equal(lease_look(&lease_slots(old)[0], &state_word), 0);
	assert_int_equal(berth_maintain(b), BERTH_OK);
	assert_int_equal(registrations_mapped(), mapped - 1);
	berth_reader_close(&idle);
	berth_reader_close(&r);
	assert_int_equal(berth_detach(&b), BERTH_E_BUSY); /* w2 */
	r = opened(b);
	must_end(r, &w2, BERTH_DONE);
	close_all(b, r);
}

static void forked_child_begins_and_ends_nothing(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, 4);
	struct berth_reader *r = opened(b);
	struct berth_write w, again;
	struct berth_key key = {KEY("acme")};
	int status;
	pid_t pid;

	if (!fork_wipes())
		skip();
	place_set(p, "acme", 1, "a");
	must_begin(r, "acme", &w);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(berth_write_begin(r, KEY("acme"), 0, &again) != BERTH_E_FORKED                ? 1
		      : berth_write_begin_bulk(r, &key, NULL, 1, &again, &status) != BERTH_E_FORKED ? 2
		      : status != BERTH_E_FORKED                                                    ? 3
		      : berth_write_end(r, &w, BERTH_DONE) != BERTH_E_FORKED                        ? 4
		      : (berth_reader_close(&r), berth_detach(&b)) != BERTH_OK                      ? 5
												    : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	EXPECT_SLOTS(p, 0, "acme", 1, 0);
	must_end(r, &w, BERTH_DONE);
	close_all(b, r);
}

/* ---- threads: begun by one, ended by another -------------------------------------------------------------------- */

#define THREADS 4
#define WRITES 30000
#define SLOTS 64

struct relay { /* a ring of writes from one thread to the next one */
	struct berth_write ring[32];
	_Atomic unsigned head, tail;
	struct berth *b;
	struct relay *to;
	unsigned n_begun, n_again, n_bad;
};

static void end_given(struct relay *me, struct berth_reader *r)
{
	unsigned head = atomic_load_explicit(&me->head, memory_order_relaxed);

	while (head != atomic_load_explicit(&me->tail, memory_order_acquire)) {
		me->n_bad +=
			berth_write_end(r, &me->ring[head % 32], head % 97 ? BERTH_DONE : BERTH_UNKNOWN) != BERTH_OK;
		atomic_store_explicit(&me->head, ++head, memory_order_release);
	}
}

static void *relay(void *arg)
{
	static const char *const names[] = {"acme", "globex", "initech"};
	struct relay *me = arg, *to = me->to;
	struct berth_reader *r = NULL;
	struct berth_write w[8];

	me->n_bad += berth_reader_open(me->b, &r) != BERTH_OK;
	for (unsigned i = 0; r && i < WRITES; i++) {
		unsigned n = i % 8, m = 0, tail = atomic_load_explicit(&to->tail, memory_order_relaxed);

		for (; m < n; m++) {
			int rc = berth_write_begin(r, KEY(names[(i + m) % 3]), 0, &w[m]);

			me->n_again += rc == BERTH_E_AGAIN;
			me->n_bad += rc != BERTH_OK && rc != BERTH_E_AGAIN;
			if (rc != BERTH_OK)
				break;
			me->n_begun++;
		}
		while (m > 0) { /* half of them goes to the other thread, as far as there is room */
			m--;
			if (m % 2 && tail - atomic_load_explicit(&to->head, memory_order_acquire) < 32) {
				to->ring[tail % 32] = w[m];
				atomic_store_explicit(&to->tail, ++tail, memory_order_release);
			} else {
				me->n_bad += berth_write_end(r, &w[m], BERTH_DONE) != BERTH_OK;
			}
		}
		end_given(me, r);
	}
	return r;
}

static void slots_are_neither_lost_nor_given_twice_between_threads(void **state)
{
	struct reader_place *p = *state;
	struct berth *b = bracketed(p, SLOTS);
	struct relay relays[THREADS] = {0};
	struct berth_reader *readers[THREADS];
	struct berth_write w[SLOTS];
	pthread_t threads[THREADS];
	unsigned begun = 0;

	atomic_store(&p->root->barrier_ms, 1);
	place_set(p, "acme", 1, "a");
	place_set(p, "globex", 2, "g");
	place_set(p, "initech", 2, "i");
	for (unsigned i = 0; i < THREADS; i++) {
		relays[i].b = b;
		relays[i].to = &relays[(i + 1) % THREADS];
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, relay, &relays[i]), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		void *r;

		assert_int_equal(pthread_join(threads[i], &r), 0);
		readers[i] = r;
	}
	for (unsigned i = 0; i < THREADS; i++) {
		end_given(&relays[i], readers[i]);
		assert_int_equal(relays[i].n_bad, 0);
		begun += relays[i].n_begun;
	}
	assert_true(begun > WRITES);
	usleep(20000); /* the unknown ones grow old */
	for (unsigned i = 0; i < THREADS; i++) {
		unsigned open = 0;

		for (unsigned s = 0; s < SLOTS; s++) /* each slot once */
			must_begin(readers[i], "acme", &w[s]);
		for (unsigned a = 0; a < THREADS; a++) /* the readers were opened in any order */
			open += slots_of(p, a, NULL).open;
		assert_int_equal(open, SLOTS);
		for (unsigned s = 0; s < SLOTS; s++)
			must_end(readers[i], &w[s], BERTH_DONE);
		berth_reader_close(&readers[i]);
	}
	close_all(b, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_PLACE(bulk_begin_shares_and_says_each),
		IN_PLACE(bulk_begin_without_room_holds_nothing),
		IN_PLACE(bulk_begin_of_thousands_of_one_tenant_takes_few_slots),
		IN_PLACE(lease_outlives_its_reader),
		IN_PLACE(lease_outlives_its_attachment),
		IN_PLACE(forked_child_begins_and_ends_nothing),
		IN_PLACE(slots_are_neither_lost_nor_given_twice_between_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
