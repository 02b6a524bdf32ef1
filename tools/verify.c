/* SPDX-License-Identifier: MIT
 * `berth verify` (verify.h): the order in which files are looked at, and how a fault is told. */
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "instance.h"
#include "text.h"

#define SHOWN_MAX 100u /* for people; with --json all are printed */
#define PAUSE_MS 3
#define GENERATIONS 20

void fault_add(struct faults *f, const char *what, const char *format, ...)
{
	char text[sizeof(((struct fault *)0)->value) + sizeof(((struct fault *)0)->should)];
	va_list arguments;

	if (f->n == FAULTS_MAX) {
		f->n_more++;
		return;
	}
	if (f->n == f->room) {
		size_t room = f->room ? 2 * f->room : 8;
		struct fault *at = realloc(f->at, room * sizeof(*at));
		if (!at)
			tool_no_memory();
		f->at = at;
		f->room = room;
	}
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	struct fault *fault = &f->at[f->n++];
	size_t n = strcspn(text, "\t");
	*fault = (struct fault){.what = what, .slot = -1};
	snprintf(fault->value, sizeof(fault->value), "%.*s", (int)n, text);
	snprintf(fault->should, sizeof(fault->should), "%s", text[n] ? text + n + 1 : "");
}

void faults_free(struct faults *f)
{
	free(f->at);
	*f = (struct faults){0};
}

void verify_pause(void)
{
	nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
}

static void tell_json(const struct verify *v, const struct fault *f)
{
	json_t *fault = tool_object(), *line = tool_object();

	tool_set(fault, "file", json_string(v->file));
	if (f->slot >= 0)
		tool_set_u64(fault, "slot", (uint64_t)f->slot);
	if (f->key_len)
		tool_set(fault, "partition", text_json(f->key, f->key_len));
	tool_set(fault, "what", json_string(f->what));
	tool_set(fault, "value", json_string(f->value));
	tool_set(fault, "should_be", json_string(f->should));
	tool_set(line, "fault", fault);
	tool_print_json(line);
}

void verify_tell(struct verify *v, struct faults *f)
{
	for (size_t i = 0; i < f->n; i++) {
		const struct fault *fault = &f->at[i];
		char key[TEXT_KEY];

		if (v->t->json) {
			tell_json(v, fault);
		} else if (v->n_shown++ < SHOWN_MAX) {
			printf("%s", v->file);
			if (fault->slot >= 0)
				printf(" slot %" PRId64, fault->slot);
			if (fault->key_len)
				printf(" (%s)", text_escape(key, sizeof(key), fault->key, fault->key_len));
			printf(": %s is %s; it should be %s\n", fault->what, fault->value, fault->should);
		}
	}
	v->n_faults += f->n + f->n_more;
	f->n = 0;
	f->n_more = 0;
}

static int conclude(struct verify *v)
{
	char n[5][TEXT_UNIT];
	struct tool *t = v->t;

	if (t->json) {
		json_t *line = tool_object(), *sum = tool_object();
		tool_set(sum, "ok", json_boolean(v->n_faults == 0));
		tool_set_u64(sum, "faults", v->n_faults);
		tool_set_u64(sum, "partitions", v->n_live);
		tool_set_u64(sum, "tombstones", v->n_tombstones);
		tool_set_u64(sum, "clusters", v->n_clusters);
		tool_set_u64(sum, "readers", v->n_readers);
		tool_set_u64(sum, "pins", v->n_pins);
		tool_set(sum, "default", json_boolean(v->n_default != 0));
		tool_set(sum, "counts_compared", json_boolean(!v->unsettled && !v->pins_unsettled));
		tool_set(line, "verify", sum);
		tool_print_json(line);
		return v->n_faults ? EXIT_DAMAGE : EXIT_DONE;
	}
	if (v->n_shown > SHOWN_MAX)
		printf("... and %s more (`berth verify --json` prints all)\n",
		       text_count(n[0], v->n_shown - SHOWN_MAX));
	printf("%s: %s partitions, %s tombstones, %s clusters, %s registrations, %s pins: ", t->path,
	       text_count(n[0], v->n_live), text_count(n[1], v->n_tombstones), text_count(n[2], v->n_clusters),
	       text_count(n[3], v->n_readers), text_count(n[4], v->n_pins));
	if (v->n_faults == 0) {
		printf("no damage\n");
		if (v->unsettled)
			printf("The table changed all the while: its counters were not compared with what was "
			       "counted.\n");
		if (v->pins_unsettled)
			printf("Pins came and went all the while: their number was not compared with what was "
			       "counted.\n");
		return EXIT_DONE;
	}
	printf("%s faults\n", text_count(n[4], v->n_faults));
	fflush(stdout);
	return tool_fail(t, EXIT_DAMAGE, "corrupt",
			 "damage was found in %s. Restart berthd: it makes a new table from its store, and readers go "
			 "over to it by themselves%s. Keep a copy of the directory before that, to find the cause",
			 t->path,
			 v->n_pin_faults
				 ? "; it keeps the pins that are whole. Where a fault of pins is there again after "
				   "that, stop it, remove " SEG_TABLES "/" SEG_CURSORS
				   "*, and start it: then all pins are gone"
				 : "");
}

static int check(struct verify *v)
{
	struct tool *t = v->t;
	bool again = true;
	int rc;

	if (!verify_root(v))
		return EXIT_DONE;
	rc = seg_root_map(t->dir_fd, &t->root);
	if (rc != BERTH_OK)
		return tool_fail_code(t, rc, "root");
	rc = seg_tables_open(t->dir_fd, &t->tables_fd);
	if (rc != BERTH_OK)
		return tool_fail_code(t, rc, SEG_TABLES);
	instance_register(t);
	v->live = t->reader != NULL;
	for (int i = 0; again && i < GENERATIONS; i++) {
		again = false;
		uint64_t termgen = atomic_load_explicit(&t->root->termgen, memory_order_acquire);
		if (SHM_GENERATION(termgen) == 0) {
			tool_note(t, "%s has no table yet", t->path);
			break;
		}
		uint64_t before = v->n_faults;
		if (!verify_header(v, SHM_GENERATION(termgen))) {
			again = termgen != atomic_load_explicit(&t->root->termgen, memory_order_acquire);
			if (again) /* it went while we looked */
				v->n_faults = before;
			continue;
		}
		rc = verify_table(v, &again);
		if (rc != EXIT_DONE)
			return rc;
	}
	verify_ledger(v);
	verify_cursors(v);
	return EXIT_DONE;
}

int verify_run(struct tool *t, const struct arguments *a)
{
	struct verify v = {.t = t};
	int rc = seg_dir_open(t->path, &t->dir_fd, NULL);

	(void)a;
	if (rc == BERTH_OK && faccessat(t->dir_fd, "root", R_OK, AT_EACCESS) != 0)
		rc = errno == ENOENT ? BERTH_E_NO_INSTANCE : BERTH_E_PERMISSION;
	if (rc != BERTH_OK)
		return instance_fail(t, rc);
	rc = check(&v);
	if (rc == EXIT_DONE)
		rc = conclude(&v);
	free(v.epochs);
	free(v.records);
	free(v.cluster_known);
	return rc;
}
