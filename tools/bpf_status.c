/* SPDX-License-Identifier: MIT
 * `berth bpf status` and `verify`: the mirror of an instance, what is loaded on it and attached where, what of the kernel
 * they need; the daemon's comparison of mirror and table. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../bpf/features.h"
#include "../bpf/mirror.h"
#include "../bpf/splice_run.h"
#include "bpf.h"
#include "client.h"
#include "instance.h"
#include "text.h"

struct show {
	const struct tool *t;
	json_t *programs, *links, *features;
	struct grid program_grid, link_grid, feature_grid;
	bool any, any_link, any_stale;
};

static const char *const modes[] = {
	[PROGRAMS_NATIVE] = "native", [PROGRAMS_GENERIC] = "generic", [PROGRAMS_CGROUP] = "cgroup"};

/* ---- configurations ---- */

static void steer_header(const struct steer_config *c, char name[STEER_NAME_MAX + 1])
{
	size_t len = c->name_len <= STEER_NAME_MAX ? c->name_len : 0;

	for (size_t i = 0; i < len; i++)
		name[i] = (char)(c->name[i / 8] >> i % 8 * 8);
	name[len] = '\0';
}

static json_t *config_json(const struct programs_pin *pin)
{
	const struct steer_config *s = &pin->config.steer;
	char text[INET6_ADDRSTRLEN + STEER_NAME_MAX];
	json_t *config = tool_object();

	if (strcmp(pin->object, "steer") == 0) {
		steer_header(s, text);
		if (s->mode == STEER_HEADER)
			tool_set(config, "header", json_string(text));
		else
			tool_set_u64(config, "segment", s->segment);
		if (s->port)
			tool_set_u64(config, "port", s->port);
		tool_set(config, "gate", json_string(s->gate ? "drop" : "pass"));
	} else if (strcmp(pin->object, "connect") == 0) {
		inet_ntop(AF_INET, &pin->config.connect.prefix4, text, sizeof(text));
		tool_set(config, "prefix4", json_string(text));
		inet_ntop(AF_INET6, pin->config.connect.prefix6, text, sizeof(text));
		tool_set(config, "prefix6", json_string(text));
	}
	return config;
}

/* "header x-partition, gate drop" */
static void config_cell(struct grid *grid, json_t *config)
{
	char text[256];
	size_t at = 0;
	const char *key;
	json_t *value;

	text[0] = '\0';
	json_object_foreach(config, key, value)
	{
		if (json_is_string(value))
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s %s", at ? ", " : "", key,
					       json_string_value(value));
		else
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s %" PRIu64, at ? ", " : "", key,
					       (uint64_t)json_integer_value(value));
	}
	grid_text(grid, text[0] ? text : "-");
	json_decref(config);
}

/* ---- what is pinned ---- */

static void show_program(struct show *show, const struct programs_pin *pin)
{
	show->any = true;
	show->any_stale |= pin->stale;
	if (show->t->json) {
		json_t *line = tool_object();
		tool_set(line, "program", json_string(pin->program));
		tool_set_u64(line, "id", pin->program_id);
		tool_set(line, "stale", json_boolean(pin->stale));
		tool_set(line, "config", config_json(pin));
		if (json_array_append_new(show->programs, line) != 0)
			tool_no_memory();
		return;
	}
	grid_text(&show->program_grid, pin->program);
	grid_u64(&show->program_grid, pin->program_id);
	grid_text(&show->program_grid, pin->stale ? "stale" : "loaded");
	config_cell(&show->program_grid, config_json(pin));
}

/* Where a link is, as far as it is known from here. */
static void describe_place(const struct programs_pin *pin, char *out, size_t size)
{
	if (pin->kind == PROGRAMS_CGROUP && pin->cgroup[0])
		snprintf(out, size, "%s", pin->cgroup);
	else if (pin->kind == PROGRAMS_CGROUP)
		snprintf(out, size, "cgroup %" PRIu64, pin->cgroup_id);
	else if (pin->device[0])
		snprintf(out, size, "%s", pin->device);
	else
		snprintf(out, size, "interface %" PRIu32 "%s", pin->ifindex,
			 pin->foreign ? " of another network namespace" : "");
}

static void show_link(struct show *show, const struct programs_pin *pin)
{
	char place[PATH_MAX + 64];

	show->any_link = true;
	describe_place(pin, place, sizeof(place));
	if (show->t->json) {
		json_t *line = tool_object();
		tool_set(line, "program", json_string(pin->program));
		tool_set_u64(line, "id", pin->program_id);
		tool_set(line, "mode", json_string(modes[pin->kind]));
		tool_set(line, "gone", json_boolean(pin->gone));
		if (pin->kind == PROGRAMS_CGROUP) {
			tool_set_u64(line, "cgroup_id", pin->cgroup_id);
			if (pin->cgroup[0])
				tool_set(line, "cgroup", text_json(pin->cgroup, strlen(pin->cgroup)));
		} else {
			tool_set_u64(line, "ifindex", pin->ifindex);
			if (pin->device[0])
				tool_set(line, "device", text_json(pin->device, strlen(pin->device)));
			tool_set(line, "other_namespace", json_boolean(pin->foreign));
		}
		if (json_array_append_new(show->links, line) != 0)
			tool_no_memory();
		return;
	}
	grid_text(&show->link_grid, pin->program);
	grid_text(&show->link_grid, modes[pin->kind]);
	grid_text(&show->link_grid, place);
	grid_text(&show->link_grid, pin->gone ? "gone: detach it" : "attached");
}

static void show_pin(const struct programs_pin *pin, void *arg)
{
	if (pin->kind == PROGRAMS_PROGRAM)
		show_program(arg, pin);
	else
		show_link(arg, pin);
}

/* ---- splice ---- */

static void splice_address(const struct splice_process *p, char *text, size_t size)
{
	const struct sockaddr_in *four = (const struct sockaddr_in *)&p->at;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&p->at;
	char host[INET6_ADDRSTRLEN] = "?";

	if (p->at.ss_family == AF_INET6)
		snprintf(text, size, "[%s]:%u", inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host)),
			 ntohs(six->sin6_port));
	else
		snprintf(text, size, "%s:%u", inet_ntop(AF_INET, &four->sin_addr, host, sizeof(host)),
			 ntohs(four->sin_port));
}

/* In JSON, or as a line; NULL: there is none, or it may not be seen. */
static json_t *show_splice(const struct tool *t)
{
	struct splice_process p;
	bool attached, stale, lives;
	char at[INET6_ADDRSTRLEN + 16];

	if (splice_look(t->path, &p, &attached, &stale) != 1)
		return NULL;
	lives = instance_process_lives(p.pid, p.start);
	splice_address(&p, at, sizeof(at));
	if (t->json) {
		json_t *line = tool_object();
		tool_set_u64(line, "pid", p.pid);
		tool_set(line, "lives", json_boolean(lives));
		tool_set(line, "attached", json_boolean(attached));
		tool_set(line, "stale", json_boolean(stale));
		tool_set(line, "listen", json_string(at));
		tool_set_u64(line, "connections", lives ? p.n_clients : 0);
		tool_set_u64(line, "accepted", p.n_accepted);
		return line;
	}
	if (!lives)
		printf("splice: pid %" PRIu64 " was killed: start it again\n", p.pid);
	else
		printf("splice: pid %" PRIu64 " listens at %s, %s; %" PRIu64 " connections, %" PRIu64 " so far%s\n",
		       p.pid, at, attached ? "attached" : "not attached any more: its pin was removed, start it again",
		       p.n_clients, p.n_accepted,
		       stale ? "; stale: its mirror went, so everything goes to the fallback: start it again" : "");
	return NULL;
}

/* ---- the kernel ---- */

static void show_feature(const struct feature *f, enum feature_here here, void *arg)
{
	struct show *show = arg;
	char since[32], users[64] = "";
	json_t *list = json_array();

	if (!list)
		tool_no_memory();
	for (unsigned i = 0; i < FEATURE_USERS; i++) {
		if (!(f->users & 1u << i))
			continue;
		size_t at = strlen(users);
		snprintf(users + at, sizeof(users) - at, "%s%s", at ? ", " : "", feature_user_name(i));
		if (json_array_append_new(list, json_string(feature_user_name(i))) != 0)
			tool_no_memory();
	}
	snprintf(since, sizeof(since), "%u.%u", f->major, f->minor);
	if (show->t->json) {
		json_t *line = tool_object();
		tool_set(line, "feature", json_string(f->name));
		tool_set(line, "needed_by", json_incref(list));
		tool_set(line, "since", json_string(since));
		tool_set(line, "here", here == FEATURE_NOT_KNOWN ? json_null() : json_boolean(here == FEATURE_THERE));
		if (json_array_append_new(show->features, line) != 0)
			tool_no_memory();
	} else {
		grid_text(&show->feature_grid, f->name);
		grid_text(&show->feature_grid, users);
		grid_text(&show->feature_grid, since);
		grid_text(&show->feature_grid, here == FEATURE_THERE     ? "yes"
					       : here == FEATURE_MISSING ? "no"
									 : "not known");
	}
	json_decref(list);
}

/* ---- the command ---- */

static json_t *mirror_json(const char *path, const struct mirror_control *c)
{
	json_t *mirror = tool_object();

	tool_set(mirror, "path", text_json(path, strlen(path)));
	tool_set(mirror, "answers", json_boolean(c->state != 0));
	tool_set_u64(mirror, "term", c->state >> 32);
	tool_set_u64(mirror, "generation", c->state & UINT32_MAX);
	tool_set_u64(mirror, "writer_pid", c->writer_pid);
	tool_set(mirror, "writer_lives", json_boolean(instance_process_lives(c->writer_pid, c->writer_start)));
	tool_set(mirror, "gated", json_boolean(c->gated != 0));
	return mirror;
}

static void put_mirror(const char *path, const struct mirror_control *c)
{
	char shown[4 * 512];

	printf("mirror %s: ", text_escape(shown, sizeof(shown), path, strlen(path)));
	if (c->state)
		printf("generation %" PRIu64 " of the table", (uint64_t)c->state & UINT32_MAX);
	else
		printf("off, programs pass everything to user space");
	printf("; berthd %" PRIu64 " %s%s\n", (uint64_t)c->writer_pid,
	       instance_process_lives(c->writer_pid, c->writer_start) ? "lives" : "is gone",
	       c->gated ? "; a program admits writes without leases" : "");
}

static void print_status(struct show *show, const struct mirror_control *control)
{
	char path[512];

	mirror_path(show->t->path, path, sizeof(path));
	if (show->t->json) {
		json_t *line = tool_object();
		tool_set(line, "mirror", control ? mirror_json(path, control) : json_null());
		tool_set(line, "programs", json_incref(show->programs));
		tool_set(line, "links", json_incref(show->links));
		json_t *splice = show_splice(show->t);
		tool_set(line, "splice", splice ? splice : json_null());
		tool_set(line, "features", json_incref(show->features));
		tool_print_json(line);
		return;
	}
	if (control)
		put_mirror(path, control);
	else
		printf("mirror: none any more\n");
	if (show->any)
		grid_flush(&show->program_grid, stdout);
	if (show->any_link)
		grid_flush(&show->link_grid, stdout);
	else
		printf(show->any ? "attached nowhere\n" : "no packet program is loaded\n");
	show_splice(show->t);
	if (show->any_stale)
		printf("stale: on maps that are the mirror's no more, so it passes everything: `berth bpf load` "
		       "again\n");
}

/* Programs outlive a mirror that is withdrawn: they are told of then, too. Where there is nothing, what the kernel has is
 * told all the same. */
int bpf_status(struct tool *t, const struct arguments *a)
{
	struct show show = {.t = t, .programs = json_array(), .links = json_array(), .features = json_array()};
	struct mirror_control control;
	struct programs_fault no_mirror, fault;
	int rc = bpf_open(t, false), none, nothing;

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	if (!show.programs || !show.links || !show.features)
		tool_no_memory();
	grid_start(&show.program_grid, "PROGRAM", ">ID", "STATE", "CONFIGURATION");
	grid_start(&show.link_grid, "LINK OF", "MODE", "AT", "STATE");
	grid_start(&show.feature_grid, "THE KERNEL'S", "NEEDED BY", "SINCE LINUX", "HERE");
	features_each(FEATURE_ALL, show_feature, &show);
	none = programs_mirror(t->path, &control, &no_mirror);
	nothing = programs_each(t->path, show_pin, &show, &fault);
	struct splice_process splice;
	bool attached, stale;
	bool fails = nothing && (none || strcmp(fault.code, "not-loaded") != 0) &&
		     splice_look(t->path, &splice, &attached, &stale) != 1;
	if (!fails)
		print_status(&show, none ? NULL : &control);
	if (!t->json) { /* also without a mirror: perhaps they say why there is none */
		if (!fails)
			putchar('\n');
		grid_flush(&show.feature_grid, stdout);
	}
	if (fails) {
		json_t *more = tool_object();
		tool_set(more, "features", json_incref(show.features));
		rc = bpf_fail_with(t, none ? &no_mirror : &fault, more);
	}
	grid_end(&show.program_grid);
	grid_end(&show.link_grid);
	grid_end(&show.feature_grid);
	json_decref(show.programs);
	json_decref(show.links);
	json_decref(show.features);
	return rc;
}

/* ---- verify ---- */

int bpf_verify(struct tool *t, const struct arguments *a)
{
	json_t *result = NULL;
	char shown[TEXT_KEY];
	int rc = client_once(t, CLIENT_LOOK, "bpf.verify", NULL, &result);

	(void)a;
	if (rc != EXIT_DONE)
		return rc;
	uint64_t differences = tool_u64(result, "differences");
	const char *first = tool_string(result, "first");
	if (t->json)
		tool_print_json(json_incref(result));
	else
		printf("%" PRIu64 " entries compared, %" PRIu64 " differed\n", tool_u64(result, "entries"),
		       differences);
	if (differences && !t->json)
		tool_note(t,
			  "the first was %s; all were stored again. Whoever may write to the maps can do that: see "
			  "who has CAP_BPF, or the pins",
			  text_escape(shown, sizeof(shown), first, strlen(first)));
	json_decref(result);
	return differences ? EXIT_DAMAGE : EXIT_DONE;
}
