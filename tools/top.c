/* SPDX-License-Identifier: MIT
 * `berth top`: the daemon's answers, once a second, on one screen. Plain ANSI; the terminal is put back whatever ends
 * it. Into a file or a pipe it prints one picture; with --json one object. */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "bpf.h"
#include "client.h"
#include "commands.h"
#include "instance.h"
#include "migrate.h"
#include "readers.h"

#define REDRAW_MS 1000
#define BAR 30u

struct picture { /* what one look found; NULL: nothing */
	json_t *status, *migrations, *readers;
	struct programs_stats *packets;
	uint64_t at_ms; /* CLOCK_MONOTONIC */
};

struct top {
	struct tool *t;
	size_t columns; /* of the terminal; 0: none */
	struct client c;
	struct picture now;
	struct processes names;
	uint64_t last_changes, last_pinned, last_evicted, last_ms; /* of the picture before; 0: none */
	struct programs_stats *last_packets;                       /* NULL: none */
};

static volatile sig_atomic_t ended;
static bool keys; /* standard input is a terminal */

static void on_end(int number)
{
	ended = number;
}

static bool end_asked(void)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	char key;

	while (keys && !ended && poll(&input, 1, 0) > 0)
		if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q' || key == 3)
			ended = 1;
	return ended != 0;
}

static void drop(struct picture *p)
{
	json_decref(p->status);
	json_decref(p->migrations);
	json_decref(p->readers);
	free(p->packets);
	*p = (struct picture){0};
}

static enum call_result ask(struct top *top, const char *method, json_t **answer)
{
	struct client_request request = {.method = method, .pass_fd = -1};
	json_t *result = NULL;
	enum call_result rc = client_call(top->t, &top->c, &request, &result);

	if (rc == CALL_OK)
		*answer = result;
	else if (rc == CALL_REFUSED) { /* an older daemon: without this part */
		json_decref(result);
		rc = CALL_OK;
	}
	return rc;
}

static enum call_result look(struct top *top)
{
	if (top->now.status) {
		const json_t *cursors = json_object_get(top->now.status, "cursors");
		top->last_changes = tool_u64(top->now.status, "changes");
		top->last_pinned = tool_u64(cursors, "pinned");
		top->last_evicted = tool_u64(cursors, "evicted");
		top->last_ms = top->now.at_ms;
		free(top->last_packets);
		top->last_packets = top->now.packets;
		top->now.packets = NULL;
	}
	drop(&top->now);
	enum call_result rc = top->c.fd < 0 ? client_connect(top->t, &top->c) : CALL_OK;
	if (rc != CALL_OK)
		return rc;
	top->now.at_ms = seg_clock_ms(CLOCK_MONOTONIC);
	rc = ask(top, "status", &top->now.status);
	if (rc == CALL_OK)
		rc = ask(top, "migrations", &top->now.migrations);
	if (rc == CALL_OK)
		rc = ask(top, "readers", &top->now.readers);
	top->now.packets = bpf_stats_read(top->t);
	if (rc != CALL_OK)
		top->last_ms = 0;
	return rc;
}

/* ---- the picture ---- */

/* "7/s" against the picture before, or "12 in all". */
static char *rate(const struct top *top, uint64_t now, uint64_t last, char out[TEXT_UNIT + 8])
{
	char n[TEXT_UNIT];

	if (top->last_ms && top->now.at_ms > top->last_ms && now >= last)
		snprintf(out, TEXT_UNIT + 8, "%s/s",
			 text_count(n, (now - last) * 1000 / (top->now.at_ms - top->last_ms)));
	else
		snprintf(out, TEXT_UNIT + 8, "%s in all", text_count(n, now));
	return out;
}

static void put_cursors(const struct top *top, FILE *out)
{
	const json_t *cursors = json_object_get(top->now.status, "cursors");
	char a[TEXT_UNIT], b[TEXT_UNIT], c[TEXT_UNIT + 8], d[TEXT_UNIT + 8];

	if (!json_is_true(json_object_get(cursors, "enabled")))
		return;
	fprintf(out, "cursors pinned %s of %s   new %s   evicted %s\n", text_count(a, tool_u64(cursors, "pins")),
		text_count(b, tool_u64(cursors, "capacity")),
		rate(top, tool_u64(cursors, "pinned"), top->last_pinned, c),
		rate(top, tool_u64(cursors, "evicted"), top->last_evicted, d));
}

static void put_head(const struct top *top, FILE *out)
{
	const json_t *s = top->now.status, *readers = json_object_get(top->now.readers, "readers"), *m;
	uint64_t draining = 0, cutover = 0, partitions = tool_u64(s, "partitions"), changes = tool_u64(s, "changes");
	char a[TEXT_UNIT], b[TEXT_UNIT], c[TEXT_UNIT], d[TEXT_UNIT];
	size_t i;

	json_array_foreach (json_object_get(top->now.migrations, "migrations"), i, m) {
		const char *phase = tool_string(json_object_get(m, "state"), "phase");
		draining += strcmp(phase, "draining") == 0;
		cutover += strcmp(phase, "cutover") == 0;
	}
	fprintf(out, "berthd %" PRIu64 ", up for %s   term %" PRIu64 "   generation %" PRIu64 "   epoch %" PRIu64 "\n",
		tool_u64(s, "pid"), text_duration(a, tool_u64(s, "uptime_ms")), tool_u64(s, "term"),
		tool_u64(s, "generation"), tool_u64(s, "epoch"));
	fprintf(out, "partitions %s: %s settled, %s draining, %s in cutover", text_count(a, partitions),
		text_count(b, partitions > draining + cutover ? partitions - draining - cutover : 0),
		text_count(c, draining), text_count(d, cutover));
	if (top->last_ms && top->now.at_ms > top->last_ms && changes >= top->last_changes)
		fprintf(out, "   changes %s/s\n",
			text_count(a, (changes - top->last_changes) * 1000 / (top->now.at_ms - top->last_ms)));
	else
		fprintf(out, "   changes %s since the start\n", text_count(a, changes));
	fprintf(out, "clusters %s   readers %s   table %s   held back %s%s%s\n", text_count(a, tool_u64(s, "clusters")),
		text_count(b, tool_u64(s, "readers")), text_bytes(c, tool_u64(s, "bytes")),
		text_bytes(d, tool_u64(s, "held_bytes")),
		json_is_true(json_object_get(s, "growing")) ? "   growing" : "",
		json_is_true(json_object_get(s, "loading")) ? "   loading a document" : "");
	fprintf(out, "writes under way %s   ended unknown %s\n", text_count(a, readers_sum(readers, "n_leases")),
		text_count(b, readers_sum(readers, "n_unknown")));
	put_cursors(top, out);
}

/* [##########..........] of each cutover that waits for a time: for writes that are under way nobody knows one. */
static void put_bars(const struct top *top, FILE *out)
{
	uint64_t barrier = tool_u64(top->now.status, "barrier_ms");
	const json_t *m;
	size_t i;

	json_array_foreach (json_object_get(top->now.migrations, "migrations"), i, m) {
		uint64_t left = tool_u64(m, "remaining_ms"), done;
		const char *partition = tool_string(m, "partition");
		char shown[40], span[TEXT_UNIT];

		if (strcmp(tool_string(json_object_get(m, "state"), "phase"), "cutover") != 0 || left == 0)
			continue;
		done = left >= barrier ? 0 : BAR * (barrier - left) / barrier;
		fprintf(out, "%-20s [", text_escape(shown, sizeof(shown), partition, strlen(partition)));
		for (uint64_t k = 0; k < BAR; k++)
			fputc(k < done ? '#' : '.', out);
		fprintf(out, "] %s\n", text_duration(span, left));
	}
}

static void put_picture(struct top *top, const char *fault, FILE *out)
{
	/* What a narrow window goes without, the least first. */
	static const char *const of_migrations[] = {"BEGUN AGO", "EPOCH", "FROM", NULL};
	static const char *const of_readers[] = {"SLOT",    "UID", "ATTACHED FOR", "READERS", "IN SECTION",
						 "UNKNOWN", NULL};
	struct grid g;

	if (!top->now.status) {
		fprintf(out, "%s\n", fault);
		return;
	}
	put_head(top, out);
	if (json_array_size(json_object_get(top->now.migrations, "migrations"))) {
		fputc('\n', out);
		migrate_grid(top->t, &top->names, &g, json_object_get(top->now.migrations, "migrations"));
		if (top->columns)
			grid_fit(&g, top->columns, of_migrations);
		grid_flush(&g, out);
		grid_end(&g);
		put_bars(top, out);
	}
	fputc('\n', out);
	readers_grid(&g, json_object_get(top->now.readers, "readers"));
	if (top->columns)
		grid_fit(&g, top->columns, of_readers);
	grid_flush(&g, out);
	grid_end(&g);
	if (top->now.packets)
		bpf_stats_put(top->t, top->now.packets, top->last_packets,
			      top->last_ms ? top->now.at_ms - top->last_ms : 0, out);
}

static json_t *part(json_t *answer)
{
	return answer ? json_incref(answer) : json_null();
}

static int once(struct top *top)
{
	enum call_result rc = look(top);

	if (rc != CALL_OK)
		return client_fail(top->t, &top->c, rc, NULL);
	if (top->t->json) {
		json_t *line = tool_object();
		tool_set(line, "status", part(top->now.status));
		tool_set(line, "migrations", part(json_object_get(top->now.migrations, "migrations")));
		tool_set(line, "readers", part(json_object_get(top->now.readers, "readers")));
		tool_set(line, "packets", top->now.packets ? bpf_stats_json(top->t, top->now.packets) : json_null());
		tool_print_json(line);
	} else {
		put_picture(top, "", stdout);
	}
	return EXIT_DONE;
}

/* ---- the terminal ---- */

/* How many of the n bytes go on one line of the screen: whole characters, and whole words where one ends there. */
static size_t fitting(const char *at, size_t n, size_t columns)
{
	size_t bytes = 0, word = 0;

	for (size_t column = 0; bytes < n && column < columns; column++) {
		do
			bytes++;
		while (bytes < n && ((unsigned char)at[bytes] & 0xc0) == 0x80);
		if (bytes < n && at[bytes] == ' ')
			word = bytes;
	}
	return bytes < n && word ? word : bytes;
}

/* As much of the picture as the screen has room for, in one write; longer lines are broken. */
static void draw(struct top *top, const char *fault)
{
	struct winsize size = {0};
	char *text = NULL, *at;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		tool_no_memory();
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || !size.ws_row || !size.ws_col)
		size = (struct winsize){.ws_row = 24, .ws_col = 80};
	top->columns = size.ws_col;
	put_picture(top, fault, out);
	fprintf(out, "\n(q ends)\n");
	if (fclose(out) != 0)
		tool_no_memory();
	fputs("\033[H", stdout);
	at = text;
	for (unsigned row = 0; at && *at && row + 1 < size.ws_row; row++) {
		size_t n = fitting(at, strcspn(at, "\n"), size.ws_col);
		printf("%.*s\033[K\n", (int)n, at);
		at += n;
		at += strspn(at, " ");
		at += *at == '\n';
	}
	fputs("\033[J", stdout);
	fflush(stdout);
	free(text);
}

/* Until the next redraw, `q`, or a signal. False: it is over. */
static bool rest(const sigset_t *mask)
{
	struct pollfd input = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};
	struct timespec ts = {.tv_nsec = REDRAW_MS % 1000 * 1000000L, .tv_sec = REDRAW_MS / 1000};

	if (!end_asked())
		ppoll(&input, 1, &ts, mask);
	return !end_asked();
}

static int screen(struct top *top)
{
	static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
	struct sigaction action = {.sa_handler = on_end};
	struct termios before, raw;
	sigset_t block, mask;
	struct client_stop stop = {.mask = &mask, .asked = end_asked};

	stop.keys = keys = tcgetattr(STDIN_FILENO, &before) == 0;
	top->c.stop = &stop;
	sigemptyset(&block);
	for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
		sigaddset(&block, endings[i]);
		sigaction(endings[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, &block, &mask); /* they come in while something is waited for */
	if (keys) {
		raw = before;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	fputs("\033[?1049h\033[?25l\033[2J", stdout);
	do {
		enum call_result rc = look(top);
		if (rc != CALL_STOPPED)
			draw(top, rc == CALL_OK ? "" : top->c.fault);
	} while (rest(&mask));
	top->c.stop = NULL;
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &before);
	return EXIT_DONE;
}

int top_run(struct tool *t, const struct arguments *a)
{
	struct top top = {.t = t};
	int rc = instance_open(t);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	client_init(&top.c, CLIENT_LOOK);
	rc = isatty(STDOUT_FILENO) && !t->json ? screen(&top) : once(&top);
	drop(&top.now);
	free(top.last_packets);
	processes_end(&top.names);
	client_close(&top.c);
	return rc;
}
