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

#define WAIT_MS 250u      /* of one attempt to complete, in the daemon: then the progress is told */
#define PAUSE_FIRST_MS 5u /* between attempts that were refused at once: doubled up to */
#define PAUSE_MOST_MS 250u
#define PROGRESS_MS 5000u

#define SAME_SIGNAL_MS 100 /* a terminal that closes sends SIGHUP twice: by the kernel and by the shell */

static volatile sig_atomic_t asked, borne = 1; /* how often the end was asked for, and how often it is borne with */
static sigset_t waiting_mask;

static void on_signal(int number)
{
	static struct timespec last;
	struct timespec now;

	if (number == SIGCHLD)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (asked && (now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000 < SAME_SIGNAL_MS)
		return;
	last = now;
	if (asked < SIG_ATOMIC_MAX)
		asked++;
}

bool run_interrupted(void)
{
	return asked != 0;
}

bool run_hurried(void)
{
	return asked > borne;
}

void run_be_patient(void)
{
	borne = asked > 1 ? asked : 1;
}

const struct client_stop run_stop = {.mask = &waiting_mask, .asked = run_interrupted};
const struct client_stop run_stop_hurried = {.mask = &waiting_mask, .asked = run_hurried};

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
	sigaddset(&ours, SIGQUIT);
	sigaddset(&ours, SIGTSTP); /* stopped, it could not keep to --max-blackout, and writes would be held back */
	sigaddset(&ours, SIGCHLD);
	action.sa_mask = ours;
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
	/* A migration does not stop because nobody reads its progress, or because the terminal is another job's. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
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

/* ---- steps ---- */

static int begin(struct run *r)
{
	json_t *params, *answer = NULL;
	enum step_result rc = session_look(r, true, &answer);

	if (rc == STEP_REFUSED) { /* no such partition: `begin` says so, in its own words */
		json_decref(answer);
		answer = NULL;
	} else if (rc != STEP_DONE) {
		return run_ended(r, rc, answer);
	}
	run_from(r);
	r->epoch = r->state_epoch;
	params = run_params(r);
	tool_set(params, "to", json_incref(r->to));
	const struct step step = {.method = "begin", .params = params, .phase = "draining", .stoppable = true};
	rc = session_step(r, &step, &answer);
	json_decref(params);
	if (rc != STEP_DONE)
		return run_ended(r, rc, answer);
	json_decref(answer);
	answer = NULL;
	r->begun_ms = now_ms();
	rc = session_look(r, false, &answer);
	if (rc != STEP_DONE)
		return run_ended(r, rc, answer);
	run_from(r);
	return r->state_epoch == r->epoch ? EXIT_DONE : run_foreign(r);
}

static int copy(struct run *r, const char *cmd)
{
	char text[256], why[512];

	run_progress(r, "copy", "%s: %s -> %s, copying: %s", r->partition, r->from, run_to(r), cmd);
	run_progress_end(r);
	switch (copy_run(r, cmd, text, sizeof(text))) {
	case COPY_DONE:
		return EXIT_DONE;
	case COPY_INTERRUPTED:
		return run_undo_interrupted(r);
	case COPY_FAILED:
		break;
	}
	snprintf(why, sizeof(why), "the copy command %s", text);
	return run_undo(r, EXIT_REFUSED, "copy-failed", why);
}

static int cutover(struct run *r)
{
	json_t *params = run_params(r), *answer = NULL;
	const struct step step = {.method = "cutover", .params = params, .phase = "cutover", .stoppable = true};
	enum step_result rc = session_look(r, true, &answer);

	processes_learn(r->t, &r->processes); /* before one dies */
	if (rc == STEP_DONE && r->state_epoch != r->epoch)
		rc = STEP_FOREIGN;
	if (rc == STEP_DONE) {
		r->cutover_ms = now_ms();
		rc = session_step(r, &step, &answer);
	}
	json_decref(params);
	if (rc == STEP_REFUSED) {
		r->cutover_ms = 0;
		char why[1024];
		snprintf(why, sizeof(why), "the cutover was refused: %s", tool_string(answer, "message"));
		json_decref(answer);
		return run_undo(r, EXIT_REFUSED, "cutover-refused", why);
	}
	if (rc != STEP_DONE)
		return run_ended(r, rc, answer);
	json_decref(answer);
	return EXIT_DONE;
}

/* How long the writes may still be held back; 0: no longer. */
static uint64_t blackout_left_ms(const struct run *r)
{
	uint64_t held_ms = now_ms() - r->cutover_ms;

	if (!r->max_blackout_ms)
		return UINT64_MAX;
	return held_ms < r->max_blackout_ms ? r->max_blackout_ms - held_ms : 0;
}

static uint64_t complete_wait_ms(const struct run *r)
{
	uint64_t left_ms = blackout_left_ms(r);

	return left_ms < WAIT_MS ? left_ms : WAIT_MS;
}

struct attempt { /* at completing */
	uint64_t start_ms, pause_ms;
	uint64_t failing_ms; /* since when it fails for another reason than the barrier; 0: it does not */
};

/* `complete` was refused: by the barrier, or for the moment, and then EXIT_DONE with *again; or for good. */
static int bear_refusal(struct run *r, const json_t *error, struct attempt *a, bool *again)
{
	const json_t *data = json_object_get(error, "data");
	uint64_t pause_ms = a->pause_ms;
	bool barrier = strcmp(tool_string(data, "code"), "barrier-pending") == 0;
	char waits[512], held[TEXT_UNIT], why[640];

	if (barrier)
		migrate_wait_text(r->t, &r->processes, data, waits, sizeof(waits));
	else
		snprintf(waits, sizeof(waits), "%s", tool_string(error, "message"));
	if (barrier)
		a->failing_ms = 0;
	else if (!a->failing_ms)
		a->failing_ms = now_ms();
	*again = barrier ||
		 (json_is_true(json_object_get(data, "retryable")) && now_ms() - a->failing_ms < RUN_RETRYABLE_MS);
	if (!*again) {
		snprintf(why, sizeof(why), "it could not be completed: %s", waits);
		return run_undo(r, EXIT_REFUSED, "not-completed", why);
	}
	run_progress(r, barrier ? migrate_reason(tool_string(data, "reason")) : "retry",
		     "%s: held back for %s, waiting: %s", r->partition, text_duration(held, now_ms() - r->cutover_ms),
		     waits);
	if (blackout_left_ms(r) == 0) {
		snprintf(why, sizeof(why), "not completed within --max-blackout %" PRIu64 " ms: %s", r->max_blackout_ms,
			 waits);
		*again = false;
		return run_undo(r, EXIT_REFUSED, "max-blackout", why);
	}
	if (barrier && now_ms() - a->start_ms >= WAIT_MS / 2) { /* it has waited */
		a->pause_ms = PAUSE_FIRST_MS;
		return EXIT_DONE;
	}
	a->pause_ms = pause_ms * 2 < PAUSE_MOST_MS ? pause_ms * 2 : PAUSE_MOST_MS;
	run_wait(pause_ms < blackout_left_ms(r) ? pause_ms : blackout_left_ms(r));
	return EXIT_DONE;
}

static bool is_code(const json_t *error, const char *code)
{
	return strcmp(tool_string(json_object_get(error, "data"), "code"), code) == 0;
}

static int complete(struct run *r)
{
	json_t *params = run_params(r), *answer = NULL;
	const struct step step = {
		.method = "complete",
		.params = params,
		.phase = "",
		.target = true,
		.stoppable = true,
		.wait_ms = complete_wait_ms,
	};
	struct attempt attempt = {.pause_ms = PAUSE_FIRST_MS};
	bool again = true;
	int code = EXIT_DONE;

	while (again) {
		attempt.start_ms = now_ms();
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
			code = run_finished(r, answer);
		else if (rc == STEP_REFUSED)
			code = bear_refusal(r, answer, &attempt, &again);
		else
			code = run_ended(r, rc, answer);
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
		rc = client_fail(t, &r.c, CALL_DOWN, NULL);
	if (rc == EXIT_DONE) {
		take_signals();
		rc = begin(&r);
	}
	if (rc == EXIT_DONE && a->given & OPT(COPY))
		rc = copy(&r, a->value[OPT_COPY]);
	if (rc == EXIT_DONE) {
		run_wait(0);
		rc = run_interrupted() ? run_undo_interrupted(&r) : cutover(&r);
	}
	if (rc == EXIT_DONE)
		rc = complete(&r);
	session_close(&r);
	processes_end(&r.processes);
	json_decref(r.to);
	json_decref(r.state);
	return rc;
}
