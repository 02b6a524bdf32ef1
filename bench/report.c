/* SPDX-License-Identifier: MIT
 * The table for people, or the JSON lines for programs, on standard output: a figure as soon as it is known. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bench.h"

static char machine[128] = "unknown", kernel[128] = "unknown", commit[64] = "unknown";
static unsigned n_goals, n_met;

/* Without what would end a JSON string. */
static void copy_plain(char *out, size_t size, const char *in)
{
	size_t n = 0;

	for (; *in && n + 1 < size; in++)
		if ((unsigned char)*in >= ' ' && *in != '"' && *in != '\\')
			out[n++] = *in;
	out[n] = 0;
}

static void find_machine(void)
{
	FILE *f = fopen("/proc/cpuinfo", "r");
	char line[256], model[96] = "unknown processor";
	unsigned n = 0;

	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "processor", 9) == 0)
			n++;
		if (colon && (strncmp(line, "model name", 10) == 0 || strncmp(line, "CPU part", 8) == 0))
			copy_plain(model, sizeof(model), colon + 2);
	}
	if (f)
		fclose(f);
	snprintf(machine, sizeof(machine), "%s, %u CPUs", model, n);
}

static void find_commit(void)
{
	FILE *f = popen("git describe --always --dirty 2>/dev/null", "r");
	char line[64] = "";

	if (f && fgets(line, sizeof(line), f))
		copy_plain(commit, sizeof(commit), line);
	if (f)
		pclose(f);
}

void report_begin(const struct bench *b)
{
	struct utsname u;

	find_machine();
	find_commit();
	if (uname(&u) == 0)
		snprintf(kernel, sizeof(kernel), "%.20s %.40s %.20s", u.sysname, u.release, u.machine);
	if (b->json)
		return;
	printf("%s; %s; commit %s; median of %u runs%s\n\n", machine, kernel, commit, b->runs,
	       b->quick ? "; --quick: sizes too small for a verdict" : "");
	printf("%-72s %10s   %-21s %-6s %9s  %s\n", "figure", "median", "quartiles", "unit", "goal", "verdict");
	fflush(stdout);
}

static bool met(const struct figure *f)
{
	if (f->at_least)
		return quantile(&f->s, 0.5) >= f->goal;
	return quantile(&f->s, 0.5) <= f->goal && (f->tail_goal <= 0 || quantile(&f->s, 0.99) <= f->tail_goal);
}

/* "partitions=1000 keys=zipf" as members; what is a number is one. A word without `=` is the member `note`. */
static void print_parameters(const char *text)
{
	char words[96], *save = NULL;
	const char *comma = "";

	snprintf(words, sizeof(words), "%s", text);
	fputs("\"parameters\":{", stdout);
	for (char *word = strtok_r(words, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *value = strchr(word, '='), *end = NULL;

		if (value)
			*value++ = 0;
		if (value && *value && (strtod(value, &end), *end == 0))
			printf("%s\"%s\":%s", comma, word, value);
		else
			printf("%s\"%s\":\"%s\"", comma, value ? word : "note", value ? value : word);
		comma = ",";
	}
	fputs("},", stdout);
}

static void print_json(const struct figure *f, bool judged)
{
	printf("{\"workload\":\"%s\",\"name\":\"%s\",\"unit\":\"%s\",", f->workload, f->name, f->unit);
	print_parameters(f->parameters);
	printf("\"runs\":%u,\"median\":%.6g,\"q1\":%.6g,\"q3\":%.6g,\"p99\":%.6g,\"min\":%.6g,\"max\":%.6g,", f->s.n,
	       quantile(&f->s, 0.5), quantile(&f->s, 0.25), quantile(&f->s, 0.75), quantile(&f->s, 0.99),
	       quantile(&f->s, 0), quantile(&f->s, 1));
	if (judged)
		printf("\"goal\":%.6g,\"goal_p99\":%.6g,\"at_least\":%s,\"%s\":%s,", f->goal, f->tail_goal,
		       f->at_least ? "true" : "false", f->contest ? "won" : "met", met(f) ? "true" : "false");
	printf("\"machine\":\"%s\",\"kernel\":\"%s\",\"commit\":\"%s\"}\n", machine, kernel, commit);
}

static void print_row(const struct figure *f, bool judged)
{
	double median = quantile(&f->s, 0.5);
	int digits = median < 10 ? 2 : median < 1000 ? 1 : 0;
	char spread[48], goal[32] = "", name[176];

	snprintf(name, sizeof(name), "%s%s%s", f->name, *f->parameters ? ", " : "", f->parameters);
	if (f->s.n == 1)
		spread[0] = 0;
	else if (f->tail)
		snprintf(spread, sizeof(spread), "p99 %.*f, max %.*f", digits, quantile(&f->s, 0.99), digits,
			 quantile(&f->s, 1));
	else
		snprintf(spread, sizeof(spread), "%.*f .. %.*f", digits, quantile(&f->s, 0.25), digits,
			 quantile(&f->s, 0.75));
	if (judged && f->tail_goal > 0)
		snprintf(goal, sizeof(goal), "<= %.4g, %.4g", f->goal, f->tail_goal);
	else if (judged)
		snprintf(goal, sizeof(goal), "%s %.4g", f->at_least ? ">=" : "<=", f->goal);
	printf("%-72s %10.*f   %-21s %-6s %9s  %s\n", name, digits, median, spread, f->unit, goal,
	       !judged      ? ""
	       : f->contest ? met(f) ? "won" : "lost"
	       : met(f)     ? "met"
			    : "MISSED");
}

void report(const struct bench *b, const struct figure *f)
{
	bool judged = f->goal > 0 && !b->quick;

	if (judged && !f->contest) {
		n_goals++;
		n_met += met(f);
	}
	if (b->json)
		print_json(f, judged);
	else
		print_row(f, judged);
	fflush(stdout);
}

void report_histogram(const struct bench *b, const struct figure *f, const struct histogram *h, double scale)
{
	static const double q[] = {0.5, 0.9, 0.99, 0.999, 0.9999, 1};
	static const char *const names[] = {"p50", "p90", "p99", "p99.9", "p99.99", "max"};
	bool judged = f->goal > 0 && !b->quick && f->s.n > 0;

	if (b->json) {
		printf("{\"workload\":\"%s\",\"name\":\"%s\",\"unit\":\"%s\",", f->workload, f->name, f->unit);
		print_parameters(f->parameters);
		printf("\"calls\":%llu,\"percentiles\":{", (unsigned long long)h->total);
		for (unsigned i = 0; i < sizeof(q) / sizeof(q[0]); i++)
			printf("%s\"%s\":%.6g", i ? "," : "", names[i], histogram_quantile(h, q[i]) * scale);
		printf("},\"machine\":\"%s\",\"kernel\":\"%s\",\"commit\":\"%s\"}\n", machine, kernel, commit);
	} else {
		printf("%s%s%s, %s:", f->name, *f->parameters ? ", " : "", f->parameters, f->unit);
		for (unsigned i = 0; i < sizeof(q) / sizeof(q[0]); i++)
			printf("  %s %.4g", names[i], histogram_quantile(h, q[i]) * scale);
		putchar('\n');
	}
	fflush(stdout);
	if (judged)
		report(b, f);
}

void report_note(const struct bench *b, const char *format, ...)
{
	va_list arguments;

	FILE *to = b->json ? stderr : stdout;

	va_start(arguments, format);
	vfprintf(to, format, arguments);
	va_end(arguments);
	putc('\n', to);
	fflush(to);
}

void report_end(const struct bench *b)
{
	if (!b->json && n_goals)
		printf("\n%u of %u goals met\n", n_met, n_goals);
}
