/* SPDX-License-Identifier: MIT
 * Each call of a living daemon fails once: while it serves a request, every class of calls, at every passage, with every
 * errno that fits, or with a part of the bytes. The answer is a refusal with its reason, or the truth; what was there
 * before is there; what was acknowledged outlives a kill; nothing leaks, spins or hangs. faults/interpose.c makes the
 * failures. BERTH_LONG=1 goes through all passages, else those of the rarer calls and a sample of the others.
 * FAULTS_ONLY=TEXT tries the operations with this text in their name; FAULTS_SHOW=1 prints each refusal. */
#include "fault_place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SETTLE_MS 5000u /* for what the daemon tries again by itself */
#define RESTART_EVERY 60u
#define MANY 100 /* partitions of a batch that makes the table grow */

static struct fault_place *p;
static bool all_of_it;              /* BERTH_LONG */
static int document;                /* an open descriptor */
static struct berth_reader *holder; /* in a section while an operation is prepared and performed */

/* ---- requests --------------------------------------------------------------------------------------------------- */

static json_t *ask_set(const char *key, const char *index)
{
	return fault_ask(p, "set", "{s:s, s:b, s:{s:s, s:s, s:s}}", "partition", key, "force", 1, "placement", "mode",
			 "dedicated-index", "cluster", "c1", "index", index);
}

static void must(json_t *answer)
{
	if (!fault_done(answer))
		fault_fail(p, "refused without a fault: %s", answer ? json_dumps(answer, 0) : "(closed)");
	json_decref(answer);
}

/* Whatever it says. */
static void may(json_t *answer)
{
	json_decref(answer);
}

static const char *other_index(void)
{
	static char name[32];

	snprintf(name, sizeof name, "index-%u", p->turn);
	return name;
}

static void nothing(void) {}

static void forget(const char *key)
{
	may(fault_ask(p, "remove", "{s:s, s:b}", "partition", key, "force", 1));
}

static void without_globex(void)
{
	forget("globex");
}

static void with_globex(void)
{
	must(ask_set("globex", "one"));
}

static json_t *set_globex(void)
{
	return ask_set("globex", other_index());
}

static bool globex_is_set(void)
{
	return fault_index_is(p, "globex", other_index());
}

static json_t *remove_globex(void)
{
	return fault_ask(p, "remove", "{s:s, s:b}", "partition", "globex", "force", 1);
}

static bool globex_is_gone(void)
{
	struct berth_route route;

	return !fault_route(p, "globex", &route) || route.is_default;
}

static json_t *set_default(void)
{
	return fault_ask(p, "default.set", "{s:b, s:{s:s, s:s, s:s}}", "force", 1, "placement", "mode",
			 "dedicated-index", "cluster", "c1", "index", other_index());
}

static bool default_is_set(void)
{
	return fault_index_is(p, "nobody-s", other_index());
}

static void settled(void)
{
	may(fault_ask(p, "abort", "{s:s}", "partition", "mover"));
	must(ask_set("mover", "here"));
}

static json_t *begin(void)
{
	return fault_ask(p, "begin", "{s:s, s:{s:s, s:s, s:s}}", "partition", "mover", "to", "mode", "dedicated-index",
			 "cluster", "c2", "index", "there");
}

static json_t *cutover(void)
{
	return fault_ask(p, "cutover", "{s:s}", "partition", "mover");
}

static json_t *complete(void)
{
	return fault_ask(p, "complete", "{s:s, s:b}", "partition", "mover", "force", 1);
}

static json_t *give_up(void)
{
	return fault_ask(p, "abort", "{s:s}", "partition", "mover");
}

static void begun(void)
{
	settled();
	must(begin());
}

static void cut_over(void)
{
	begun();
	must(cutover());
}

static bool mover_in(int phase, uint16_t cluster)
{
	struct berth_route route;

	return fault_route(p, "mover", &route) && route.phase == phase && route.cluster == cluster;
}

static bool is_begun(void)
{
	return mover_in(BERTH_DRAINING, 1);
}

static bool is_cut_over(void)
{
	return mover_in(BERTH_CUTOVER, 1);
}

static bool is_completed(void)
{
	return mover_in(BERTH_SETTLED, 2);
}

static bool is_given_up(void)
{
	return mover_in(BERTH_SETTLED, 1);
}

/* The first five are the same in each turn, the others its own. */
static const char *many_name(char text[32], unsigned i, unsigned turn)
{
	snprintf(text, 32, i < 5 ? "many-%u" : "many-%u-%u", i, turn);
	return text;
}

static json_t *set_many(unsigned n)
{
	json_t *names = json_array();
	char text[32];

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(names, json_string(many_name(text, i, p->turn)));
	return fault_ask(p, "set", "{s:o, s:b, s:{s:s, s:s, s:s}}", "partitions", names, "force", 1, "placement",
			 "mode", "dedicated-index", "cluster", "c1", "index", other_index());
}

static json_t *set_some(void)
{
	return set_many(5);
}

static bool many_are_set(void)
{
	return fault_index_is(p, "many-0", other_index()) && fault_index_is(p, "many-4", other_index());
}

/* So that the batch finds no room: what is removed while somebody reads cannot be used again. */
static void without_many(void)
{
	char text[32];

	assert_int_equal(berth_reader_open(p->b, &holder), BERTH_OK);
	berth_read_begin(holder);
	berth_route(holder, "acme", 4, &(struct berth_route){0});
	for (unsigned i = 5; i < MANY; i++)
		forget(many_name(text, i, p->turn - 1));
}

static json_t *set_more_than_fit(void)
{
	return set_many(MANY);
}

static bool is_more_than_fit(void)
{
	char last[32];

	return many_are_set() && fault_index_is(p, many_name(last, MANY - 1, p->turn), other_index());
}

static json_t *set_cluster(void)
{
	char endpoint[64];

	snprintf(endpoint, sizeof endpoint, "http://10.0.0.%u:9200", p->turn % 250);
	return fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c3", "endpoint", endpoint);
}

static bool cluster_is_set(void)
{
	json_t *answer = fault_ask(p, "clusters", NULL), *c;
	char endpoint[64];
	bool is = false;
	size_t i;

	snprintf(endpoint, sizeof endpoint, "http://10.0.0.%u:9200", p->turn % 250);
	json_array_foreach (json_object_get(json_object_get(answer, "result"), "clusters"), i, c)
		is = is || (strcmp(text_of(c, "id"), "c3") == 0 && strcmp(text_of(c, "endpoint"), endpoint) == 0);
	json_decref(answer);
	return is;
}

static void write_document(void)
{
	char text[400];
	int n = snprintf(
		text, sizeof text,
		"{\"partitions\":{\"doc-a\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"%s\"},"
		"\"doc-b\":{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"%s\"}}}",
		other_index(), other_index());

	if (ftruncate(document, 0) != 0 || pwrite(document, text, (size_t)n, 0) != n)
		fail_msg("the document cannot be written: %s", strerror(errno));
}

static json_t *load(void)
{
	fault_place_admin(p);
	wire_send_with(&p->admin, document, "load", NULL);
	return fault_answer(p, "load");
}

static void restart(const char *view);

/* The first one after a start: what else starts with it can fail too. */
static void as_a_first_document(void)
{
	char *view = fault_view(p);

	restart(view);
	free(view);
	write_document();
}

static bool is_loaded(void)
{
	return fault_index_is(p, "doc-a", other_index()) && fault_index_is(p, "doc-b", other_index());
}

static json_t *look(void)
{
	static const char *const methods[] = {"status", "readers", "history", "migrations", "clusters"};

	return fault_ask(p, methods[p->turn % 5], NULL);
}

static bool is_seen(void)
{
	return true;
}

static json_t *come_anew(void)
{
	wire_close(&p->admin);
	p->admin_open = false;
	return fault_ask(p, "get", "{s:s}", "partition", "acme");
}

static unsigned long long now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (unsigned long long)now.tv_sec * 1000000000 + (unsigned long long)now.tv_nsec;
}

static json_t *attach(bool cursors)
{
	char text[400], *line;
	struct wire w;
	json_t *answer;
	int sent;

	wire_open(&w, &p->d, WIRE_LOOK);
	sent = snprintf(text, sizeof text,
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"attach\",\"params\":{\"version\":1,\"pid\":%d,"
			"\"readers\":2,\"writes\":\"none\",\"fences\":false,\"cursors\":%s,\"monotonic_ns\":%llu,"
			"\"boottime_ns\":%llu}}\n",
			(int)getpid(), cursors ? "true" : "false", now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_BOOTTIME));
	assert_true(sent < (int)sizeof text);
	line = wire_text(&w, text) ? wire_line(&w, DAEMON_MS) : NULL;
	answer = line ? json_loads(line, 0, NULL) : NULL;
	free(line);
	if (fault_done(answer) && (w.passed < 0 || (cursors && w.bell < 0)))
		fault_fail(p, "attached, but the descriptors did not come");
	if (w.passed >= 0)
		close(w.passed);
	if (w.bell >= 0)
		close(w.bell);
	wire_close(&w);
	if (!answer)
		fault_lives(p);
	return answer;
}

static json_t *attach_to_look(void)
{
	return attach(false);
}

static json_t *attach_to_pin(void)
{
	return attach(true);
}

static const struct operation {
	const char *name;
	void (*prepare)(void);
	json_t *(*perform)(void);
	bool (*is_done)(void);
	unsigned most; /* passages of one class that the short form tries */
} operations[] = {
	{"a set", without_globex, set_globex, globex_is_set, 40},
	{"a set of another placement", with_globex, set_globex, globex_is_set, 12},
	{"a set of many", nothing, set_some, many_are_set, 12},
	{"a remove", with_globex, remove_globex, globex_is_gone, 12},
	{"a default", nothing, set_default, default_is_set, 12},
	{"a begin", settled, begin, is_begun, 12},
	{"a cutover", begun, cutover, is_cut_over, 40},
	{"a complete", cut_over, complete, is_completed, 12},
	{"an abort", cut_over, give_up, is_given_up, 12},
	{"a cluster", nothing, set_cluster, cluster_is_set, 12},
	{"a document", write_document, load, is_loaded, 12},
	{"a first document", as_a_first_document, load, is_loaded, 1},
	{"an attach", nothing, attach_to_look, is_seen, 40},
	{"an attach that pins", nothing, attach_to_pin, is_seen, 40},
	{"a look", nothing, look, is_seen, 12},
	{"a connection", nothing, come_anew, is_seen, 40},
	{"a growth", without_many, set_more_than_fit, is_more_than_fit, 2},
};

/* ---- judging ---------------------------------------------------------------------------------------------------- */

/* What came to be of the next change without a fault: it is done, at last. */
static void goes_on(void)
{
	uint64_t end = test_now_ms() + SETTLE_MS;
	static unsigned n;
	char endpoint[40];

	snprintf(endpoint, sizeof endpoint, "http://10.1.0.1:%u", 1 + n++ % 65000);
	for (;;) {
		json_t *answer = fault_ask(p, "cluster.set", "{s:s, s:s}", "id", "c2", "endpoint", endpoint);
		bool done = fault_done(answer);

		if (!done && test_now_ms() > end)
			fault_fail(p, "after the fault, a change is refused still: %s",
				   answer ? json_dumps(answer, 0) : "(closed)");
		json_decref(answer);
		if (done)
			return;
		usleep(5000);
	}
}

static void nothing_leaked(unsigned descriptors)
{
	uint64_t end = test_now_ms() + SETTLE_MS;
	unsigned now;

	while ((now = fault_descriptors(p)) > descriptors) {
		if (test_now_ms() > end)
			fault_fail(p, "%u descriptors instead of %u", now, descriptors);
		usleep(2000);
	}
}

/* By a kill and by a stop in turn: at a stop, AddressSanitizer looks for what failures have made the daemon lose. */
static void restart(const char *view)
{
	static unsigned n;
	char *after;
	int status;

	if (n++ % 2)
		daemon_kill(&p->d);
	else if ((status = daemon_stop(&p->d)) != 0)
		fault_fail(p, "it was stopped and ended with %d", status);
	if (p->admin_open)
		wire_close(&p->admin);
	p->admin_open = false;
	if (!fault_place_start(p, (const char *const[]){NULL}, &status))
		fault_fail(p, "after its end, berthd ended with %d instead of serving", status);
	after = fault_view(p);
	if (strcmp(view, after) != 0)
		fault_fail(p, "before the end:\n%safter the restart:\n%s", view, after);
	free(after);
	for (uint64_t deadline = 0; within(&deadline);) /* this process's registration is the new daemon's too */
		if (berth_maintain(p->b) == BERTH_OK)
			break;
	if (berth_maintain(p->b) != BERTH_OK)
		fault_fail(p, "the reader does not come back after the restart");
}

/* An end that is not a failure: the kernel has only to be asked again. */
static bool must_be_done(enum fault_call call, int error)
{
	return (error == EINTR && call != CALL_OPEN) || error == FAULT_SHORT;
}

static void judge(const struct operation *o, json_t *answer, bool must_do, const char *before, bool fired)
{
	char *after;

	if (answer && !fault_done(answer)) {
		const char *message = text_of(json_object_get(answer, "error"), "message"), *code = fault_code(answer);

		p->refused++;
		if (!fired)
			fault_fail(p, "refused, though nothing failed: %s", message);
		if (strlen(message) < 12)
			fault_fail(p, "this says nothing: `%s`", message);
		if (getenv("FAULTS_SHOW") && *getenv("FAULTS_SHOW"))
			fprintf(stderr, "%-70s %s: %s\n", p->doing, code, message);
		if (must_do)
			fault_fail(p, "refused (%s): %s", code, message);
	}
	if (!answer && must_do)
		fault_fail(p, "the connection was closed");
	if (answer && fault_done(answer) && !o->is_done())
		fault_fail(p, "it is acknowledged, and not done");
	goes_on();
	after = fault_view(p);
	if (answer && fault_done(answer)) {
		if (!o->is_done())
			fault_fail(p, "it was acknowledged, and is undone");
	} else if (strcmp(before, after) != 0 &&
		   (answer && strcmp(fault_code(answer), "backend") != 0 ? true : !o->is_done())) {
		fault_fail(p, "it was refused (%s). Before:\n%safterwards:\n%s",
			   answer ? json_dumps(answer, 0) : "closed", before, after);
	}
	if (p->tried % RESTART_EVERY == 0)
		restart(after);
	free(after);
}

static void try_one(const struct operation *o, enum fault_call call, int64_t n, int error, unsigned descriptors)
{
	json_t *answer;
	unsigned fired;
	char *before;

	snprintf(p->doing, sizeof p->doing, "without a fault, before %s", o->name);
	p->turn++;
	o->prepare();
	before = fault_view(p);
	snprintf(p->doing, sizeof p->doing, "%s, passage %lld of %s fails with %s", o->name, (long long)n,
		 fault_name(call), fault_error_name(error));
	fault_arm(p->plan, call, n, error, false, NULL);
	answer = o->perform();
	berth_reader_close(&holder);
	fired = fault_disarm(p->plan);
	p->tried++;
	p->fired += fired != 0;
	judge(o, answer, must_be_done(call, error), before, fired);
	nothing_leaked(descriptors);
	json_decref(answer);
	free(before);
}

static void record(const struct operation *o, uint64_t passes[CALLS])
{
	memset(passes, 0, CALLS * sizeof *passes);
	for (unsigned round = 0; round < 2; round++) {
		p->turn++;
		snprintf(p->doing, sizeof p->doing, "without a fault, %s", o->name);
		o->prepare();
		free(fault_view(p));
		fault_count(p->plan);
		must(o->perform());
		berth_reader_close(&holder);
		for (unsigned c = 0; c < CALLS; c++) {
			uint64_t n = atomic_load(&p->plan->passes[c]);

			passes[c] = n > passes[c] ? n : passes[c];
		}
		if (!o->is_done())
			fault_fail(p, "it is not done");
	}
}

static void each_call_fails(const struct operation *o)
{
	unsigned most = all_of_it ? 2000 : o->most, descriptors, tried = p->tried, fired = p->fired, n_calls = 0;
	uint64_t began = test_now_ms();
	uint64_t passes[CALLS];
	char *view;

	view = fault_view(p);
	restart(view); /* the log of the store is short again: after each failure it is read and written once more */
	free(view);
	record(o, passes);
	goes_on();
	usleep(20000);
	descriptors = fault_descriptors(p);
	for (enum fault_call call = 0; call < CALLS; call++) {
		n_calls += passes[call] != 0;
		for (unsigned k = 0; fault_nth(passes[call], most, k); k++)
			for (const int *error = fault_errors(call); *error; error++)
				try_one(o, call, fault_nth(passes[call], most, k), *error, descriptors);
	}
	printf("note: %s: %u classes of calls, %u failures tried, %u of them met, %llu ms\n", o->name, n_calls,
	       p->tried - tried, p->fired - fired, (unsigned long long)(test_now_ms() - began));
	fflush(stdout);
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static int make(void **state)
{
	char path[128];

	if (!fault_possible())
		return 0;
	all_of_it = getenv("BERTH_LONG") != NULL;
	p = calloc(1, sizeof *p);
	fault_place_make(p, *state, (const char *const[]){NULL});
	daemon_file(&p->d, "document", "", path);
	document = open(path, O_RDWR | O_CLOEXEC);
	must(set_default());
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	if (!p)
		return 0;
	close(document);
	fault_place_remove(p);
	free(p);
	p = NULL;
	return 0;
}

#define NEEDS_PLACE() \
	do { \
		if (!p) \
			SKIP("ThreadSanitizer's own library stands where faults.so would"); \
	} while (0)

static void each_failing_call_of_a_request_is_refused_with_its_reason_or_the_request_is_done(void **state)
{
	const char *only = getenv("FAULTS_ONLY");

	(void)state;
	NEEDS_PLACE();
	for (unsigned i = 0; i < sizeof operations / sizeof operations[0]; i++)
		if (!only || strstr(operations[i].name, only))
			each_call_fails(&operations[i]);
	printf("note: %u failures tried, %u met, %u refusals\n", p->tried, p->fired, p->refused);
	assert_true(p->fired > p->tried / 2);
}

/* The first errno of a class that is none of an interruption, of which a program that is interrupted for ever does not
 * recover; 0: it has none. */
static int lasting_error(enum fault_call call)
{
	for (const int *error = fault_errors(call); *error; error++)
		if (*error != EINTR && *error != FAULT_SHORT)
			return *error;
	return 0;
}

/* Requests come for so long, and nobody waits for their answers. */
static void requests(unsigned ms)
{
	uint64_t end = test_now_ms() + ms;
	struct wire w;

	wire_open(&w, &p->d, WIRE_ADMIN);
	for (unsigned i = 0; test_now_ms() < end; i++) {
		char text[300];

		snprintf(
			text, sizeof text,
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"set\",\"params\":{\"partition\":\"globex\","
			"\"placement\":"
			"{\"mode\":\"dedicated-index\",\"cluster\":\"c1\",\"index\":\"lasting-%u\"},\"force\":true}}\n",
			p->turn++);
		if (i < 5)
			wire_text(&w, text);
		usleep(10000);
	}
	wire_close(&w);
}

static void go_on_failing(enum fault_call call, int error, unsigned ms)
{
	uint64_t cpu = fault_cpu_ms(p);

	fault_arm(p->plan, call, 1, error, true, NULL);
	requests(ms);
	p->tried++;
	p->fired += fault_disarm(p->plan) != 0;
	fault_lives(p);
	if (fault_cpu_ms(p) - cpu > ms / 2 + 20)
		fault_fail(p, "it works all the time: %llu of %u ms", (unsigned long long)(fault_cpu_ms(p) - cpu), ms);
}

static void a_call_that_goes_on_failing_neither_ends_the_daemon_nor_keeps_it_busy(void **state)
{
	unsigned descriptors, ms = all_of_it ? 2500 : 150;
	char *before_the_end;

	(void)state;
	NEEDS_PLACE();
	goes_on();
	fault_count(p->plan);
	requests(ms);
	descriptors = fault_descriptors(p) + 1; /* admin's connection may be a new one before the old one is gone */
	for (enum fault_call call = 0; call < CALLS; call++) {
		int error = lasting_error(call);
		char *before, *after;

		if (!error || (!all_of_it && atomic_load(&p->plan->passes[call]) == 0))
			continue;
		before = fault_view(p);
		snprintf(p->doing, sizeof p->doing, "every %s fails with %s", fault_name(call),
			 fault_error_name(error));
		go_on_failing(call, error, ms);
		goes_on();
		after = fault_view(p);
		if (strncmp(before, after, strcspn(before, "\n")) != 0) /* acme, which nobody has touched */
			fault_fail(p, "it was:\n%sit is:\n%s", before, after);
		nothing_leaked(descriptors);
		free(before);
		free(after);
	}
	printf("note: %u classes of calls, %u of them met\n", p->tried, p->fired);
	before_the_end = fault_view(p);
	restart(before_the_end);
	free(before_the_end);
}

int main(void)
{
#define TEST(f, store) \
	{ \
#f " (" store ")", f, make, unmake, (void *)(uintptr_t)(store) \
	}
	const struct CMUnitTest tests[] = {
		TEST(each_failing_call_of_a_request_is_refused_with_its_reason_or_the_request_is_done, "sqlite"),
		TEST(a_call_that_goes_on_failing_neither_ends_the_daemon_nor_keeps_it_busy, "sqlite"),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
