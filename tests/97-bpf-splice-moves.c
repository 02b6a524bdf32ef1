/* SPDX-License-Identifier: MIT
 * `berth bpf splice` under load: tenants that move between clusters while many connections write for them, and a thousand
 * connections. The barrier is long, so that only the leases of the programs let a migration end in time. Each write has an
 * id that its node notes when it answers: every acknowledged write is in the log of one node, once, and of the right one: the
 * node that answered it; and no node does a write that was admitted before a migration away from it, once that is complete. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "splice_place.h"

#define TENANTS 4
#define WRITERS 16
#define MOVES 1500

struct load {
	struct splice_place *p;
	_Atomic unsigned allowed[TENANTS]; /* bits of nodes that may do writes of it */
	_Atomic unsigned next_id, n_acknowledged, n_refused, n_lost;
	_Atomic unsigned char answered_by[SPLICE_IDS]; /* 0: not acknowledged */
	_Atomic bool stop;
};

static bool may(void *arg, int node, unsigned id)
{
	struct load *l = arg;

	return node == NODE_FALLBACK || atomic_load(&l->allowed[id % TENANTS]) & 1u << node;
}

static void *writer(void *arg)
{
	static const char *const acts[] = {NULL, "delay=1", "chunked=3000", "delay=3 len=50000",
					   NULL, NULL,      "len=300",      NULL};
	struct load *l = arg;
	int fd = -1;

	while (!atomic_load(&l->stop)) {
		unsigned id = atomic_fetch_add(&l->next_id, 1);
		struct splice_answer_got a;
		char tenant[8];

		if (id >= SPLICE_IDS)
			break;
		if (fd < 0)
			fd = splice_connect(l->p->port);
		snprintf(tenant, sizeof(tenant), "t%u", id % TENANTS);
		a = splice_go(fd, &(struct splice_ask){.tenant = tenant,
						       .method = "POST",
						       .id = id,
						       .body = id % 50 == 0 ? 70000 : id % 900,
						       .act = acts[id % 8]});
		if (a.status == 200 && a.whole) {
			atomic_store(&l->answered_by[id], (unsigned char)(a.node + 1));
			atomic_fetch_add(a.node == NODE_FALLBACK ? &l->n_refused : &l->n_acknowledged, 1);
		} else {
			atomic_fetch_add(&l->n_lost, 1);
		}
		if (a.status == 0 || id % 200 == 0) {
			close(fd);
			fd = -1;
		}
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

static void move(struct load *l, unsigned tenant)
{
	unsigned from = atomic_load(&l->allowed[tenant]) >> NODE_C2 & 1 ? NODE_C2 : NODE_C1,
		 to = NODE_C1 + NODE_C2 - from;
	char name[8], cluster[8];

	snprintf(name, sizeof(name), "t%u", tenant);
	snprintf(cluster, sizeof(cluster), "c%u", to);
	wire_do(&l->p->admin, "begin", "{s:s, s:{s:s, s:s}}", "partition", name, "to", "mode", "dedicated-cluster",
		"cluster", cluster);
	wire_do(&l->p->admin, "cutover", "{s:s}", "partition", name);
	atomic_store(&l->allowed[tenant], 1u << from | 1u << to);
	wire_do(&l->p->admin, "complete", "{s:s, s:i}", "partition", name, "wait_ms", 10000);
	atomic_store(&l->allowed[tenant], 1u << to);
}

static void a_migration_ends_with_the_last_write_and_none_goes_astray(void **state)
{
	struct splice_place *p = splice_place(state);
	struct load *l = calloc(1, sizeof(*l));
	pthread_t threads[WRITERS];
	unsigned moves = 0;
	uint64_t start;

	l->p = p;
	atomic_store(&l->next_id, 1);
	for (unsigned i = 0; i < TENANTS; i++) {
		char name[8];

		snprintf(name, sizeof(name), "t%u", i);
		bpf_put(&p->admin, name, "c1");
		atomic_store(&l->allowed[i], 1u << NODE_C1);
	}
	p->nodes->may = may;
	p->nodes->arg = l;
	splice_start(p, NULL, NULL);
	for (int i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer, l), 0);
	start = test_now_ms();
	while ((moves < MOVES || atomic_load(&l->n_acknowledged) < 2000) &&
	       atomic_load(&l->next_id) < SPLICE_IDS - 100 && test_now_ms() - start < 12000)
		move(l, moves++ % TENANTS);
	atomic_store(&l->stop, true);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	print_message("          %u migrations in %llu ms; %u writes acknowledged, %u refused in a cutover, %u lost\n",
		      moves, (unsigned long long)(test_now_ms() - start), l->n_acknowledged, l->n_refused, l->n_lost);
	assert_true(moves >= MOVES);
	assert_int_equal(atomic_load(&p->nodes->n_wrong), 0);
	assert_int_equal(atomic_load(&p->nodes->n_bad), 0);
	assert_int_equal(l->n_lost, 0);
	assert_true(l->n_acknowledged >= 2000 && l->n_refused > 0);
	for (unsigned id = 1; id < atomic_load(&l->next_id) && id < SPLICE_IDS; id++)
		for (int node = 0; node < NODES; node++)
			if (p->nodes->seen[node][id] != (l->answered_by[id] == node + 1))
				fail_msg("write %u: node %d did it %u times, node %d answered", id, node,
					 p->nodes->seen[node][id], l->answered_by[id] - 1);
	free(l);
}

#define MANY 1000
static void a_thousand_connections_are_served_at_once(void **state)
{
	static const char *const tenants[] = {"acme", "globex", "initech"};
	struct splice_place *p = splice_place(state);
	struct rlimit files = {.rlim_cur = 16384, .rlim_max = 16384};
	int fds[MANY];

	if (setrlimit(RLIMIT_NOFILE, &files) != 0)
		SKIP("open files cannot be limited to %u", 16384);
	splice_start(p, NULL, NULL);
	for (int i = 0; i < MANY; i++)
		assert_true((fds[i] = splice_connect(p->port)) >= 0);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < MANY; i++) {
			struct splice_ask q = {.tenant = tenants[(i + round) % 3], .method = "PUT", .body = 100};
			size_t len;
			char *text = splice_text(&q, &len);

			assert_true(splice_send(fds[i], text, len));
			free(text);
		}
		for (int i = 0; i < MANY; i++)
			splice_expect(splice_answer(fds[i], false), 200, NODE_C1 + (i + round) % 3, 10);
	}
	assert_int_equal(atomic_load(&p->nodes->n_connections), 3 * MANY);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	assert_int_equal(splice_stop(p), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLICE_TEST(a_migration_ends_with_the_last_write_and_none_goes_astray, 30000),
		SPLICE_TEST(a_thousand_connections_are_served_at_once, 30000),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
