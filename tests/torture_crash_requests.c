/* SPDX-License-Identifier: MIT
 * torture_crash.h: requests, over as many deaths of the daemon as there are. One thread. */
#include "torture_crash.h"

#include <stdlib.h>

#define ANSWER_MS 30000
#define REST_MS 20000u

/* The answer to request `id`; NULL: it died. */
static json_t *take(struct crash *c, unsigned id)
{
	char *line = wire_line(&c->wire, ANSWER_MS);
	json_t *answer = line ? json_loads(line, 0, NULL) : NULL;

	free(line);
	if (!answer)
		(void)cr_dead(c, true);
	else if (int_of(answer, "id") != (json_int_t)id)
		fail_msg("%s: not the answer to request %u: %s", c->where, id, json_dumps(answer, 0));
	return answer;
}

json_t *cr_ask(struct crash *c, const char *method, json_t *params, int fd)
{
	if (cr_dead(c, false)) {
		json_decref(params);
		return NULL;
	}
	if (!wire_request(&c->wire, fd, method, params)) {
		(void)cr_dead(c, true);
		return NULL;
	}
	return take(c, c->wire.id);
}

bool cr_ask_all(struct crash *c, const char *method, unsigned n, json_t *params[], json_t *answers[])
{
	unsigned first = c->wire.id + 1, i;
	bool there = !cr_dead(c, false);

	for (i = 0; i < n; i++) {
		if (there && !wire_request(&c->wire, -1, method, json_incref(params[i]))) {
			there = false;
			(void)cr_dead(c, true);
		}
		json_decref(params[i]);
	}
	for (i = 0; i < n && there; i++) {
		answers[i] = take(c, first + i);
		there = answers[i] != NULL;
	}
	if (!there)
		while (i > 1)
			json_decref(answers[--i - 1]);
	return there;
}

void cr_await(struct crash *c, const char *name, json_int_t least, json_int_t most)
{
	uint64_t until = test_now_ms() + REST_MS;

	for (;;) {
		json_t *answer = cr_ask(c, "status", NULL, -1);
		json_int_t n = -1;

		if (!answer) {
			cr_settle(c);
			continue;
		}
		n = int_of(json_object_get(answer, "result"), name);
		json_decref(answer);
		if (n >= least && n <= most)
			return;
		if (test_now_ms() > until)
			fail_msg("%s: status says %s %lld, and not %lld to %lld", c->where, name, (long long)n,
				 (long long)least, (long long)most);
		mp_pause();
	}
}

static void await_rest(struct crash *c, bool reserve)
{
	uint64_t until = test_now_ms() + REST_MS;

	for (;;) {
		json_t *answer = cr_ask(c, "status", NULL, -1);
		const json_t *s = json_object_get(answer, "result");

		if (!answer) {
			cr_settle(c);
			continue;
		}
		if (!is_true(s, "growing") && int_of(s, "retired") == 0 && int_of(s, "held_bytes") == 0 &&
		    (!reserve || int_of(s, "reserve_bytes") >= int_of(s, "bytes"))) {
			json_decref(answer);
			return;
		}
		if (test_now_ms() > until)
			fail_msg("%s: the table does not come to rest, or has no reserve: %s", c->where,
				 json_dumps(s, JSON_COMPACT));
		json_decref(answer);
		mp_pause();
	}
}

void cr_await_rest(struct crash *c)
{
	await_rest(c, false);
}

void cr_await_reserve(struct crash *c)
{
	await_rest(c, true);
}
