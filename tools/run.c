/* SPDX-License-Identifier: MIT
 * `berth migrate run`: the steps of a whole migration (run.h), with what can go wrong between them. Whatever happens,
 * it ends with the partition settled, or says how it stands and what to do. */
#include "run.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "change.h"
#include "commands.h"
#include "instance.h"
#include "migrate.h"
#include "text.h"

#define POLL_FIRST_MS 5u /* between two attempts to complete: doubled up to */
#define POLL_MOST_MS 250u
#define PROGRESS_MS 5000u
#define RETRYABLE_MS 30000u /* how long a store that fails for the moment is borne with, while writes are held back */

static volatile sig_atomic_t interrupted;
static sigset_t waiting_mask;

static void on_signal(int number)
{
	if (number != SIGCHLD)
		interrupted = number;
}

bool run_interrupted(void)
{
	return interrupted != 0;
}

static uint64_t now_ms(void)
{
	return seg_clock_ms(CLOCK_MONOTONIC);
}

void run_wait(uint64_t ms)
{
	struct timespec ts = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000L};

	ppoll(NULL, 0, &ts, &waiting_mask);
}

static void take_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	sigset_t ours;

	sigemptyset(&ours);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGTERM);
	sigaddset(&ours, SIGHUP);
	sigaddset(&ours, SIGCHLD);
	sigprocmask(SIG_BLOCK, &ours, &waiting_mask);
	for (int i = 1; i < NSIG; i++) {
		struct sigaction old;
		if (sigismember(&ours, i) != 1)
			continue;
		sigdelset(&waiting_mask, i);
		if (sigaction(i, NULL, &old) == 0 &&
		    (old.sa_handler != SIG_IGN || i == SIGCHLD)) /* nohup keeps its word */
			sigaction(i, &action, NULL);
	}
	signal(SIGPIPE, SIG_IGN); /* a migration does not stop because nobody reads its progress */
}

/* ---- progress ---- */

void run_progress(struct run *r, const char *stage, const char *format, ...)
{
	char line[512], shown[4 * sizeof(line)];
	struct winsize size = {0};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (!r->tty) {
		if (strncmp(stage, r->stage, sizeof(r->stage) - 1) == 0 && now_ms() - r->told_ms < PROGRESS_MS)
			return;
		fprintf(stderr, "%s\n", text_escape(shown, sizeof(shown), line, strlen(line)));
	} else {
		size_t width = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
		text_escape(shown, width < sizeof(shown) ? width : sizeof(shown), line, strlen(line));
		fprintf(stderr, "\r\033[K%s", shown);
		fflush(stderr);
	}
	r->told_ms = now_ms();
	snprintf(r->stage, sizeof(r->stage), "%s", stage);
}

void run_progress_end(struct run *r)
{
	if (r->tty && r->stage[0])
		fputc('\n', stderr);
	r->stage[0] = '\0';
}

/* ---- endings ---- */

static const char *to_of(const struct run *r)
{
	return tool_string(r->to, "cluster");
}

static json_t *only_partition(const struct run *r)
{
	json_t *params = tool_object();

	tool_set(params, "partition", json_string(r->partition));
	return params;
}

static int lost(struct run *r)
{
	run_progress_end(r);
	if (!r->begun_ms)
		return tool_fail(r->t, EXIT_UNREACHABLE, "unreachable", "%s", r->c.fault);
	if (r->cutover_ms)
		return tool_fail(r->t, EXIT_UNREACHABLE, "unreachable",
				 "%s. The writes of %s are still held back: once berthd runs, go on with `berth "
				 "migrate complete "
				 "%s`, or undo with `berth migrate abort %s`",
				 r->c.fault, r->partition, r->partition, r->partition);
	return tool_fail(
		r->t, EXIT_UNREACHABLE, "unreachable",
		"%s. %s is still in its migration, reads and writes go to the old cluster: once berthd runs, undo with "
		"`berth migrate abort %s`, or go on with `berth migrate cutover %s` if the data is copied",
		r->c.fault, r->partition, r->partition, r->partition);
}

static int foreign(struct run *r)
{
	const char *phase = tool_string(r->state, "phase");

	run_progress_end(r);
	return tool_fail(r->t, EXIT_REFUSED, "changed-meanwhile",
			 "somebody else changed %s meanwhile: it is %s at %s now, epoch %" PRIu64
			 ". Nothing more was done; look with `berth history %s`",
			 r->partition, phase[0] ? phase : "settled",
			 tool_string(json_object_get(r->state, "at"), "cluster"), r->state_epoch, r->partition);
}

static int refused(struct run *r, json_t *answer)
{
	run_progress_end(r);
	int rc = tool_refused(r->t, answer);
	json_decref(answer);
	return rc;
}

static int finished(struct run *r, const json_t *answer)
{
	const char *to = to_of(r);
	char span[TEXT_UNIT], shown[TEXT_KEY];

	r->blackout_ms = answer && json_object_get(answer, "blackout_ms") ? tool_u64(answer, "blackout_ms")
									  : now_ms() - r->cutover_ms;
	run_progress_end(r);
	if (r->t->json) {
		json_t *line = tool_object();
		tool_set(line, "partition", json_string(r->partition));
		tool_set(line, "from", json_string(r->from));
		tool_set(line, "to", json_string(to));
		tool_set_u64(line, "epoch", r->epoch);
		tool_set_u64(line, "blackout_ms", r->blackout_ms);
		tool_set_u64(line, "copy_ms", r->copy_ms);
		tool_set_u64(line, "total_ms", now_ms() - r->begun_ms);
		tool_print_json(line);
		return EXIT_DONE;
	}
	printf("%s: moved from %s to %s, epoch %" PRIu64 "; writes were held back for %s\n",
	       text_escape(shown, sizeof(shown), r->partition, strlen(r->partition)), r->from, to, r->epoch,
	       text_duration(span, r->blackout_ms));
	return EXIT_DONE;
}

static enum step_result abort_it(struct run *r, json_t **answer)
{
	json_t *params = only_partition(r);
	const struct step step = {.method = "abort", .params = params, .phase = ""};
	uint64_t start = now_ms();
	enum step_result rc = session_step(r, &step, answer);

	while (rc == STEP_REFUSED && json_is_true(json_object_get(json_object_get(*answer, "data"), "retryable")) &&
	       now_ms() - start < RETRYABLE_MS) {
		json_decref(*answer);
		nanosleep(&(struct timespec){.tv_nsec = POLL_MOST_MS * 1000000L}, NULL);
		rc = session_step(r, &step, answer);
	}
	json_decref(params);
	return rc;
}

/* The abort was refused: because the last `complete` has reached its goal after all, or for a reason to be told. */
static int not_undone(struct run *r, json_t *answer, const char *name, const char *why)
{
	char message[1024];
	json_t *ignored = NULL;

	snprintf(message, sizeof(message), "%s", tool_string(answer, "message"));
	json_decref(answer);
	enum step_result rc = session_look(r, false, &ignored);
	if (rc == STEP_REFUSED)
		json_decref(ignored);
	if (rc == STEP_DONE && r->cutover_ms && session_moved(r)) {
		r->epoch = r->state_epoch;
		return finished(r, NULL);
	}
	return tool_fail(
		r->t, EXIT_REFUSED, name,
		"%s: %s; and the migration could not be undone: %s. Look with `berth get %s` and `berth history %s`",
		r->partition, why, message, r->partition, r->partition);
}

/* Undoes the migration, and says why. code, name: of the run's end. */
static int undo(struct run *r, enum tool_exit code, const char *name, const char *why)
{
	json_t *answer = NULL;
	char span[TEXT_UNIT], held[TEXT_UNIT + 64] = "";

	run_progress(r, "undo", "%s: undoing the migration", r->partition);
	enum step_result rc = abort_it(r, &answer);
	if (rc == STEP_LOST)
		return lost(r);
	if (rc == STEP_FOREIGN)
		return foreign(r);
	run_progress_end(r);
	if (rc == STEP_REFUSED)
		return not_undone(r, answer, name, why);
	if (r->cutover_ms) {
		const json_t *told = json_object_get(answer, "blackout_ms");
		text_duration(span, told ? tool_u64(answer, "blackout_ms") : now_ms() - r->cutover_ms);
		snprintf(held, sizeof(held), "; writes were held back for %s", span);
	}
	json_decref(answer);
	return tool_fail(r->t, code, name,
			 "%s: %s. The migration is undone, %s keeps the partition (epoch %" PRIu64 ")%s", r->partition,
			 why, r->from, r->epoch, held);
}

static int interrupted_end(struct run *r)
{
	if (!r->begun_ms) {
		run_progress_end(r);
		return tool_fail(r->t, EXIT_INTERRUPTED, "interrupted", "%s: interrupted before anything was done",
				 r->partition);
	}
	return undo(r, EXIT_INTERRUPTED, "interrupted", "interrupted");
}

/* What all steps but `complete` do with what is not STEP_DONE. */
static int ended(struct run *r, enum step_result rc, json_t *answer)
{
	switch (rc) {
	case STEP_REFUSED:
		return refused(r, answer);
	case STEP_FOREIGN:
		return foreign(r);
	case STEP_STOPPED:
		return interrupted_end(r);
	default:
		return lost(r);
	}
}

/* ---- steps ---- */

static int begin(struct run *r)
{
	json_t *params, *answer = NULL;
	enum step_result rc = session_look(r, true, &answer);

	if (rc == STEP_REFUSED) { /* no such partition: `begin` says so, in its own words */
		json_decref(answer);
		answer = NULL;
	} else if (rc != STEP_DONE) {
		return ended(r, rc, answer);
	}
	r->epoch = r->state_epoch;
	params = only_partition(r);
	tool_set(params, "to", json_incref(r->to));
	const struct step step = {.method = "begin", .params = params, .phase = "draining", .stoppable = true};
	rc = session_step(r, &step, &answer);
	json_decref(params);
	if (rc != STEP_DONE)
		return ended(r, rc, answer);
	json_decref(answer);
	r->begun_ms = now_ms();
	rc = session_look(r, false, &answer);
	if (rc != STEP_DONE)
		return ended(r, rc, answer);
	snprintf(r->from, sizeof(r->from), "%s", tool_string(json_object_get(r->state, "at"), "cluster"));
	return r->state_epoch == r->epoch ? EXIT_DONE : foreign(r);
}

static int copy(struct run *r, const char *cmd)
{
	char text[256], why[512];

	run_progress(r, "copy", "%s: %s -> %s, copying: %s", r->partition, r->from, to_of(r), cmd);
	run_progress_end(r);
	switch (copy_run(r, cmd, text, sizeof(text))) {
	case COPY_DONE:
		return EXIT_DONE;
	case COPY_INTERRUPTED:
		return interrupted_end(r);
	case COPY_FAILED:
		break;
	}
	snprintf(why, sizeof(why), "the copy command %s", text);
	return undo(r, EXIT_REFUSED, "copy-failed", why);
}

static int cutover(struct run *r)
{
	json_t *params = only_partition(r), *answer = NULL;
	const struct step step = {.method = "cutover", .params = params, .phase = "cutover", .stoppable = true};
	enum step_result rc = session_look(r, true, &answer);
	uint64_t start = now_ms();

	if (rc == STEP_DONE && r->state_epoch != r->epoch)
		rc = STEP_FOREIGN;
	if (rc == STEP_DONE)
		rc = session_step(r, &step, &answer);
	json_decref(params);
	if (rc == STEP_REFUSED) {
		char why[1024];
		snprintf(why, sizeof(why), "the cutover was refused: %s", tool_string(answer, "message"));
		json_decref(answer);
		return undo(r, EXIT_REFUSED, "cutover-refused", why);
	}
	if (rc != STEP_DONE)
		return ended(r, rc, answer);
	json_decref(answer);
	r->cutover_ms = start;
	return EXIT_DONE;
}

/* How long to wait before the next attempt, given what stands against this one. 0: no longer. */
static uint64_t next_wait(const struct run *r, uint64_t *backoff_ms, uint64_t remaining_ms)
{
	uint64_t wait = *backoff_ms, held = now_ms() - r->cutover_ms;

	*backoff_ms = *backoff_ms * 2 < POLL_MOST_MS ? *backoff_ms * 2 : POLL_MOST_MS;
	if (remaining_ms && remaining_ms < wait)
		wait = remaining_ms;
	if (r->max_blackout_ms) {
		if (held >= r->max_blackout_ms)
			return 0;
		if (r->max_blackout_ms - held < wait)
			wait = r->max_blackout_ms - held;
	}
	return wait ? wait : 1;
}

/* `complete` was refused: by the barrier (waits, EXIT_DONE), for the moment, or for good. */
static int bear_refusal(struct run *r, const json_t *error, uint64_t *backoff_ms, uint64_t *failing_ms, bool *again)
{
	const json_t *data = json_object_get(error, "data");
	uint64_t remaining = tool_u64(data, "remaining_ms"), held_ms = now_ms() - r->cutover_ms;
	bool barrier = strcmp(tool_string(data, "code"), "barrier-pending") == 0;
	char waits[256], held[TEXT_UNIT], why[640];

	if (barrier)
		migrate_wait_text(waits, sizeof(waits), tool_string(data, "reason"), tool_u64(data, "in_flight"),
				  remaining);
	else
		snprintf(waits, sizeof(waits), "%s", tool_string(error, "message"));
	if (barrier)
		*failing_ms = 0;
	else if (!*failing_ms)
		*failing_ms = now_ms();
	*again = barrier || (json_is_true(json_object_get(data, "retryable")) && now_ms() - *failing_ms < RETRYABLE_MS);
	if (!*again) {
		snprintf(why, sizeof(why), "it could not be completed: %s", waits);
		return undo(r, EXIT_REFUSED, "not-completed", why);
	}
	text_duration(held, held_ms);
	run_progress(r, barrier ? migrate_reason(tool_string(data, "reason")) : "retry",
		     "%s: %s -> %s, writes are held back for %s; waiting: %s", r->partition, r->from, to_of(r), held,
		     waits);
	uint64_t wait = next_wait(r, backoff_ms, remaining);
	if (wait == 0) {
		snprintf(why, sizeof(why), "writes were held back for longer than --max-blackout %" PRIu64 " ms: %s",
			 r->max_blackout_ms, waits);
		*again = false;
		return undo(r, EXIT_REFUSED, "max-blackout", why);
	}
	run_wait(wait);
	return EXIT_DONE;
}

static bool is_code(const json_t *error, const char *code)
{
	return strcmp(tool_string(json_object_get(error, "data"), "code"), code) == 0;
}

static int complete(struct run *r)
{
	json_t *params = only_partition(r), *answer = NULL;
	const struct step step = {
		.method = "complete", .params = params, .phase = "", .target = true, .stoppable = true};
	uint64_t backoff_ms = POLL_FIRST_MS, failing_ms = 0;
	bool again = true;
	int code = EXIT_DONE;

	while (again) {
		enum step_result rc = run_interrupted() ? STEP_STOPPED : session_step(r, &step, &answer);
		if (rc == STEP_REFUSED && (is_code(answer, "not-migrating") || is_code(answer, "not-cutover") ||
					   is_code(answer, "unknown-partition"))) {
			json_decref(answer);
			answer = NULL;
			rc = session_look(r, false, &answer);
			rc = rc != STEP_DONE ? rc : session_moved(r) ? STEP_DONE : STEP_FOREIGN;
			if (rc == STEP_DONE) {
				run_progress_end(r);
				tool_note(r->t, "%s: somebody else completed the migration", r->partition);
				r->epoch = r->state_epoch;
			}
		}
		if (rc == STEP_DONE)
			code = finished(r, answer);
		else if (rc == STEP_REFUSED)
			code = bear_refusal(r, answer, &backoff_ms, &failing_ms, &again);
		else
			code = ended(r, rc, answer);
		again = again && rc == STEP_REFUSED;
		if (rc == STEP_DONE || rc == STEP_REFUSED)
			json_decref(answer);
		answer = NULL;
	}
	json_decref(params);
	return code;
}

int migrate_run(struct tool *t, const struct arguments *a)
{
	struct run r = {.t = t, .partition = a->operand, .tty = isatty(STDERR_FILENO) == 1};
	int rc = arguments_number(a, OPT_MAX_BLACKOUT, 1, 86400000, &r.max_blackout_ms);

	client_init(&r.c, CLIENT_ADMIN);
	json_t *check = json_string(a->operand);
	if (rc == EXIT_DONE && !check)
		rc = tool_fail(t, EXIT_REFUSED, "invalid", "partition %s is no UTF-8", a->operand);
	json_decref(check);
	if (rc == EXIT_DONE)
		rc = instance_open(t);
	if (rc == EXIT_DONE)
		rc = change_placement(t, a, a->value[OPT_TO], &r.to);
	if (rc == EXIT_DONE && client_connect(t, &r.c) != CALL_OK) /* nothing to wait for before it has begun */
		rc = tool_fail(t, EXIT_UNREACHABLE, "unreachable", "%s", r.c.fault);
	if (rc == EXIT_DONE) {
		take_signals();
		rc = begin(&r);
	}
	if (rc == EXIT_DONE && a->given & OPT(COPY))
		rc = copy(&r, a->value[OPT_COPY]);
	if (rc == EXIT_DONE) {
		run_wait(0);
		rc = run_interrupted() ? interrupted_end(&r) : cutover(&r);
	}
	if (rc == EXIT_DONE)
		rc = complete(&r);
	session_close(&r);
	json_decref(r.to);
	json_decref(r.state);
	return rc;
}
