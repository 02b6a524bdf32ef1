/* SPDX-License-Identifier: MIT
 * torture.h: migrations, several at once, each over a connection of its own: begin, cutover, complete with and
 * without waiting, aborts at every step, one beside a waiting `complete`. What the daemon answered becomes the gates'
 * word; when it was killed instead, what it says afterwards must be what was acknowledged, or the call in flight.
 * Coordinator only, one thread; uses cmocka. */
#include "daemon.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "torture.h"

#define N_MOVERS 5u
#define DRAIN_MS 30000u /* a drain that takes longer never ends; processes and the daemon are stopped for seconds */
#define ANSWER_MS 30000 /* a document may be in the way */

struct mover {
	struct wire wire;
	unsigned partition;
	const char *asked; /* method under way; NULL: none */
	unsigned wait_ms;
	uint64_t next_ms, cut_ms, sabotaged;
	uint32_t reasons;
};

static struct {
	struct daemon *d;
	struct mover movers[N_MOVERS];
	struct wire aux, loader;
	bool loading, rests;
	uint64_t random;
} now;

struct t_totals t_totals;
const char *const t_reasons[7] = {"not-published", "leases-open",           "unknown-outcome", "unknown-overflow",
				  "reader-died",   "reader-without-leases", "another"};

static uint64_t random_of(uint64_t below)
{
	return mp_random(&now.random) % below;
}

static struct t_gate *gate_of(const struct mover *o)
{
	return &t_shared->gates[o->partition];
}

char *t_dump(void)
{
	json_t *both = json_pack("{s:o, s:o}", "migrations", wire_ok(&now.aux, "migrations", NULL), "readers",
				 wire_ok(&now.aux, "readers", NULL));
	char *text = json_dumps(both, JSON_INDENT(1));

	json_decref(both);
	return text;
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

static json_t *placement(unsigned cluster)
{
	char id[16], index[16];

	snprintf(id, sizeof id, "c%u", cluster);
	snprintf(index, sizeof index, "on-%u", cluster);
	return json_pack("{s:s, s:s, s:s}", "mode", "dedicated-index", "cluster", id, "index", index);
}

static unsigned cluster_of(const json_t *holder, const char *name)
{
	return (unsigned)strtoul(text_of(json_object_get(holder, name), "cluster") + 1, NULL, 10);
}

/* to: a cluster, 0: none. */
static void ask(struct mover *o, const char *method, unsigned to)
{
	char key[READERS_KEY_SIZE];
	json_t *params;

	t_key(key, o->partition);
	params = json_pack("{s:s}", "partition", key);
	if (to) {
		atomic_store(&gate_of(o)->to, to);
		json_object_set_new(params, "to", placement(to));
	}
	if (o->wait_ms > 0)
		json_object_set_new(params, "wait_ms", json_integer((json_int_t)o->wait_ms));
	t_call_begins(o->partition, strcmp(method, "complete") == 0);
	o->asked = method;
	o->sabotaged = 0;
	wire_send_with(&o->wire, -1, method, "o", params);
}

static void choose(struct mover *o, bool finish)
{
	const struct t_gate *g = gate_of(o);
	uint64_t dice = random_of(100);

	o->wait_ms = 0;
	switch ((enum t_phase)atomic_load(&g->phase)) {
	case T_SETTLED:
		if (finish)
			return;
		o->partition = o->partition % N_MOVERS + N_MOVERS * (unsigned)random_of(T_PARTITIONS / N_MOVERS);
		ask(o, "begin", 1 + (atomic_load(&gate_of(o)->at) + (unsigned)random_of(3)) % T_CLUSTERS);
		return;
	case T_DRAINING:
		ask(o, dice < 10 && !finish ? "abort" : "cutover", 0);
		return;
	case T_CUTOVER:
		if (!finish && (o->reasons ? random_of(400) == 0 : dice < 10)) {
			ask(o, "abort", 0);
			return;
		}
		o->wait_ms = dice % 2 ? 1 + (unsigned)random_of(1500) : 0;
		ask(o, "complete", 0);
		return;
	}
}

/* ---- answers ----------------------------------------------------------------------------------------------- */

static unsigned reason_of(const json_t *data)
{
	const char *reason = text_of(data, "reason");
	unsigned i = 0;

	while (i < 6 && strcmp(reason, t_reasons[i]) != 0)
		i++;
	return i;
}

static void settle(struct mover *o, uint64_t epoch, bool completed)
{
	const struct t_gate *g = gate_of(o);
	unsigned cluster = completed ? atomic_load(&g->to) : atomic_load(&g->at);

	if (completed)
		t_completed(o->partition, epoch);
	t_call_ended(o->partition, T_SETTLED, cluster, cluster, epoch);
}

static void is_pending(struct mover *o, const json_t *error)
{
	const struct t_gate *g = gate_of(o);
	char key[READERS_KEY_SIZE];
	const json_t *data = json_object_get(error, "data");

	if (strcmp(text_of(data, "code"), "barrier-pending") != 0)
		fail_msg("complete is answered %s", json_dumps(error, 0));
	o->reasons |= 1u << reason_of(data);
	t_totals.pending++;
	/* Nothing changed: the gate's word goes on. */
	t_call_ended(o->partition, T_CUTOVER, atomic_load(&g->at), atomic_load(&g->to), atomic_load(&g->epoch));
	o->next_ms = mp_now_ms() + random_of(20);
	t_key(key, o->partition);
	if (mp_now_ms() - o->cut_ms > DRAIN_MS)
		fail_msg("a drain of %s that began %llu ms ago does not end: %s\n%s", key,
			 (unsigned long long)(mp_now_ms() - o->cut_ms), json_dumps(error, 0), t_dump());
}

static void complete_answered(struct mover *o, const json_t *result, const json_t *error)
{
	if (o->sabotaged) {
		if (result || strcmp(text_of(json_object_get(error, "data"), "code"), "not-migrating") != 0)
			fail_msg("complete, aborted meanwhile, is answered %s", json_dumps(result ? result : error, 0));
		settle(o, o->sabotaged, false);
		t_totals.sabotaged++;
		return;
	}
	if (!result) {
		is_pending(o, error);
		return;
	}
	settle(o, (uint64_t)int_of(result, "epoch"), true);
	t_totals.completed++;
	t_totals.at_once += o->reasons == 0;
	for (unsigned i = 0; i < 7; i++)
		t_totals.reasons[i] += o->reasons >> i & 1;
	if ((uint64_t)int_of(result, "blackout_ms") > t_totals.longest_ms)
		t_totals.longest_ms = (uint64_t)int_of(result, "blackout_ms");
}

static void answered(struct mover *o, const json_t *answer)
{
	const json_t *result = json_object_get(answer, "result"), *error = json_object_get(answer, "error");
	const struct t_gate *g = gate_of(o);
	const char *asked = o->asked;

	o->asked = NULL;
	o->next_ms = mp_now_ms() + random_of(15);
	if (strcmp(asked, "complete") == 0) {
		complete_answered(o, result, error);
		return;
	}
	if (!result)
		fail_msg("%s of partition %u is answered %s", asked, o->partition, json_dumps(answer, 0));
	if (strcmp(asked, "abort") == 0) {
		settle(o, (uint64_t)int_of(result, "epoch"), false);
		t_totals.aborted++;
		return;
	}
	t_call_ended(o->partition, strcmp(asked, "begin") == 0 ? T_DRAINING : T_CUTOVER, atomic_load(&g->at),
		     atomic_load(&g->to), (uint64_t)int_of(result, "epoch"));
	if (strcmp(asked, "cutover") == 0) {
		o->cut_ms = mp_now_ms();
		o->reasons = 0;
		if (random_of(3))
			o->next_ms = 0;
	}
}

static bool readable(const struct wire *w)
{
	struct pollfd p = {.fd = w->fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static json_t *read_answer(struct wire *w, const char *to)
{
	char *line = wire_line(w, ANSWER_MS);
	json_t *answer = line ? json_loads(line, 0, NULL) : NULL;

	if (!answer)
		fail_msg("the daemon went during %s: %s\n%s", to, line ? line : "closed", daemon_log(now.d));
	free(line);
	return answer;
}

/* An abort from elsewhere while a `complete` waits: exactly one of the two is done. */
static void sabotage(struct mover *o)
{
	char key[READERS_KEY_SIZE];
	json_t *answer;
	const json_t *result;

	t_key(key, o->partition);
	answer = wire_call(&now.aux, "abort", "{s:s}", "partition", key);
	result = json_object_get(answer, "result");
	if (result)
		o->sabotaged = (uint64_t)int_of(result, "epoch");
	else if (strcmp(text_of(json_object_get(json_object_get(answer, "error"), "data"), "code"), "not-migrating") !=
		 0)
		fail_msg("abort during a waiting complete is answered %s", json_dumps(answer, 0));
	json_decref(answer);
}

static void look_at(struct mover *o, bool finish)
{
	json_t *answer;

	if (!o->asked) {
		if (mp_now_ms() >= o->next_ms)
			choose(o, finish);
		return;
	}
	if (!readable(&o->wire)) {
		if (o->wait_ms > 0 && !o->reasons && !o->sabotaged && !finish && !now.loading && !now.rests &&
		    random_of(2000) == 0)
			sabotage(o);
		return;
	}
	answer = read_answer(&o->wire, o->asked);
	if (int_of(answer, "id") != (json_int_t)o->wire.id)
		fail_msg("not the answer to request %u: %s", o->wire.id, json_dumps(answer, 0));
	answered(o, answer);
	json_decref(answer);
}

bool t_operators_step(bool finish)
{
	bool over = true;

	for (unsigned i = 0; i < N_MOVERS; i++) {
		struct mover *o = &now.movers[i];

		look_at(o, finish);
		over = over && !o->asked && atomic_load(&gate_of(o)->phase) == T_SETTLED;
	}
	if (now.loading && readable(&now.loader)) {
		json_t *answer = read_answer(&now.loader, "load");

		if (!json_object_get(answer, "result"))
			fail_msg("load is answered %s", json_dumps(answer, 0));
		json_decref(answer);
		now.loading = false;
		t_document_loaded();
		t_totals.documents++;
	}
	return over && !now.loading;
}

bool t_document(void)
{
	if (now.loading || now.rests)
		return false;
	t_document_load(now.d, &now.loader, &now.random);
	now.loading = true;
	return true;
}

void t_operators_rest(bool rests)
{
	now.rests = rests;
}

bool t_ask_status(json_t **status)
{
	if (now.rests)
		return false;
	*status = wire_ok(&now.aux, "status", NULL);
	return true;
}

/* ---- a daemon that was started again ----------------------------------------------------------------------- */

static void open_all(void)
{
	for (unsigned i = 0; i < N_MOVERS; i++)
		wire_open(&now.movers[i].wire, now.d, WIRE_ADMIN);
	wire_open(&now.aux, now.d, WIRE_ADMIN);
	wire_open(&now.loader, now.d, WIRE_ADMIN);
}

struct found {
	enum t_phase phase;
	unsigned at, to;
	uint64_t epoch;
};

static struct found find(unsigned partition)
{
	char key[READERS_KEY_SIZE];
	const json_t *state, *phase;
	struct found f;
	json_t *answer;

	t_key(key, partition);
	answer = wire_ok(&now.aux, "get", "{s:s}", "partition", key);
	state = json_object_get(answer, "state");
	phase = json_object_get(state, "phase");
	f.epoch = (uint64_t)int_of(answer, "epoch");
	f.at = cluster_of(state, "at");
	f.to = phase ? cluster_of(state, "to") : f.at;
	f.phase = !phase ? T_SETTLED : strcmp(json_string_value(phase), "cutover") == 0 ? T_CUTOVER : T_DRAINING;
	json_decref(answer);
	return f;
}

static struct mover *asking_for(unsigned partition)
{
	struct mover *o = &now.movers[partition % N_MOVERS];

	return o->asked && o->partition == partition ? o : NULL;
}

static bool as(const struct found *f, const struct found *other)
{
	return f->phase == other->phase && f->at == other->at && f->to == other->to;
}

/* What the call under way makes of what was there, but for its epoch. */
static struct found made_of(const struct found *old, const char *asked, unsigned to)
{
	if (strcmp(asked, "begin") == 0)
		return (struct found){T_DRAINING, old->at, to, 0};
	if (strcmp(asked, "cutover") == 0)
		return (struct found){T_CUTOVER, old->at, old->to, 0};
	if (strcmp(asked, "complete") == 0)
		return (struct found){T_SETTLED, old->to, old->to, 0};
	return (struct found){T_SETTLED, old->at, old->at, 0}; /* abort */
}

/* What is there is what was acknowledged, or what the call in flight would have made of it. */
static void compare(unsigned partition)
{
	const struct t_gate *g = &t_shared->gates[partition];
	unsigned to = atomic_load(&g->to);
	struct found f = find(partition),
		     old = {atomic_load(&g->phase), atomic_load(&g->at), 0, atomic_load(&g->epoch)}, made;
	struct mover *o = asking_for(partition);
	bool same;

	old.to = old.phase == T_SETTLED ? old.at : to;
	if (o && o->sabotaged) /* the abort was acknowledged */
		old = (struct found){T_SETTLED, old.at, old.at, o->sabotaged};
	same = as(&f, &old) && f.epoch == old.epoch;
	if (!same) {
		made = o && !o->sabotaged ? made_of(&old, o->asked, to) : old;
		if (!o || o->sabotaged || !as(&f, &made) || f.epoch <= old.epoch)
			fail_msg("partition %u came back on cluster %u, to %u, phase %u, epoch %llu; acknowledged were "
				 "%u, %u, "
				 "%u, %llu%s%s",
				 partition, f.at, f.to, f.phase, (unsigned long long)f.epoch, old.at, old.to, old.phase,
				 (unsigned long long)old.epoch, o ? "; in flight was " : "", o ? o->asked : "");
	}
	if (!o)
		return;
	if (!same) {
		t_totals.adopted++;
		if (f.at != old.at)
			t_completed(partition, f.epoch);
		if (f.phase == T_CUTOVER)
			o->reasons = 0;
	}
	if (old.phase != T_CUTOVER)
		o->cut_ms = mp_now_ms();
	o->asked = NULL;
	o->next_ms = 0;
	t_call_ended(partition, f.phase, f.at, f.to, f.epoch);
}

void t_operators_disconnect(void)
{
	for (unsigned i = 0; i < N_MOVERS; i++)
		wire_close(&now.movers[i].wire);
	wire_close(&now.aux);
	wire_close(&now.loader);
	now.loading = false;
}

void t_operators_connect(void)
{
	open_all();
	for (unsigned p = 0; p < T_PARTITIONS; p++)
		compare(p);
}

void t_operators_open(struct daemon *d, uint64_t seed)
{
	memset(&now, 0, sizeof now);
	memset(&t_totals, 0, sizeof t_totals);
	now.d = d;
	now.random = seed;
	open_all();
	for (unsigned k = 1; k <= T_CLUSTERS; k++) {
		char id[16];

		snprintf(id, sizeof id, "c%u", k);
		wire_do(&now.aux, "cluster.set", "{s:s, s:s}", "id", id, "endpoint", "http://10.0.0.1:9200");
	}
	for (unsigned p = 0; p < T_PARTITIONS; p++) {
		char key[READERS_KEY_SIZE];
		unsigned k = 1 + p % T_CLUSTERS;
		json_t *result;

		t_key(key, p);
		result = wire_ok(&now.aux, "set", "{s:s, s:o}", "partition", key, "placement", placement(k));
		t_call_begins(p, false);
		t_call_ended(p, T_SETTLED, k, k, (uint64_t)int_of(result, "epoch"));
		json_decref(result);
	}
	for (unsigned i = 0; i < N_MOVERS; i++)
		now.movers[i].partition = i;
}
