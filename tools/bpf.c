/* SPDX-License-Identifier: MIT
 * `berth bpf load`, `attach`, `detach`: packet programs of an instance (bpf/programs.h). Needs the mirror that berthd has
 * pinned, and no living daemon. */
#include "bpf.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../reader_lib/berth.h"
#include "instance.h"
#include "text.h"

#define HEADER "X-Partition" /* as reader_lib/lua/nginx.conf */

static const char *const programs[] = {"steer", "connect"};
enum { STEER, CONNECT, ALL };

int bpf_fail_with(struct tool *t, const struct programs_fault *fault, json_t *members)
{
	bool mirror = strcmp(fault->code, "no-mirror") != 0, none = !mirror || strcmp(fault->code, "no-bpffs") == 0;
	char names[INSTANCE_NAMES];

	if (!mirror && instance_try(t) == BERTH_E_NO_INSTANCE)
		return tool_fail_with(t, EXIT_UNREACHABLE, fault->code, members,
				      "%s: there is no such instance: start its berthd, with --bpf, or name another "
				      "one%s",
				      t->path, instance_names(names));
	return tool_fail_with(t, none ? EXIT_UNREACHABLE : EXIT_REFUSED, fault->code, members, "%s", fault->text);
}

int bpf_fail(struct tool *t, const struct programs_fault *fault)
{
	return bpf_fail_with(t, fault, NULL);
}

int bpf_open(struct tool *t, bool mirror)
{
	struct mirror_control control;
	struct programs_fault fault;
	char whole[PATH_MAX];

	if (realpath(t->path, whole) && strlen(whole) < sizeof(t->path)) /* its last part is the name of the mirror */
		memcpy(t->path, whole, strlen(whole) + 1);
	if (programs_mirror(t->path, &control, &fault) != 0)
		return mirror ? bpf_fail(t, &fault) : EXIT_DONE;
	if (instance_try(t) == BERTH_OK && memcmp(control.uuid, t->root->uuid, sizeof(control.uuid)) != 0)
		return tool_fail(
			t, EXIT_UNREACHABLE, "no-mirror",
			"%s: its name is that of another instance with a mirror for packet programs: start its berthd "
			"with --bpf in a directory of another name",
			t->path);
	return EXIT_DONE;
}

/* The operand. EXIT_DONE and *which, or EXIT_USAGE with the message printed. */
static int which_program(const struct tool *t, const struct arguments *a, bool all, int *which)
{
	for (*which = STEER; *which <= CONNECT; ++*which)
		if (strcmp(a->operand, programs[*which]) == 0)
			return EXIT_DONE;
	if (all && strcmp(a->operand, "all") == 0) {
		*which = ALL;
		return EXIT_DONE;
	}
	return tool_fail(t, EXIT_USAGE, "usage", "there is no program %s: give steer or connect%s", a->operand,
			 all ? ", or all" : "");
}

/* What belongs to another program is a mistake. */
static int only(const struct tool *t, const struct arguments *a, unsigned allowed)
{
	unsigned wrong = a->given & ~(allowed | GLOBAL_OPTIONS);

	for (int i = 0; i < N_OPTIONS; i++)
		if (wrong & 1u << i)
			return tool_fail(t, EXIT_USAGE, "usage", "`%s` has no --%s: leave it out", a->operand,
					 options[i].name);
	return EXIT_DONE;
}

static void print_done(const struct tool *t, const char *done, const char *program, const char *key, const char *where,
		       const char *mode)
{
	char shown[4 * 4096 + 1];

	if (t->json) {
		json_t *line = tool_object();
		tool_set(line, done, json_string(program));
		if (where)
			tool_set(line, key, text_json(where, strlen(where)));
		if (mode)
			tool_set(line, "mode", json_string(mode));
		tool_print_json(line);
	} else {
		printf("%s: %s%s%s%s%s\n", program, done, where ? " to " : "",
		       where ? text_escape(shown, sizeof(shown), where, strlen(where)) : "", mode ? ", mode " : "",
		       mode ? mode : "");
	}
}

/* ---- load ---- */

int bpf_tenant(const struct tool *t, const struct arguments *a, struct steer_config *config)
{
	const char *header = a->value[OPT_HEADER];
	uint64_t segment = 0;
	int rc = arguments_number(a, OPT_SEGMENT, 1, STEER_SEGMENT_MAX, &segment);

	if (rc != EXIT_DONE)
		return rc;
	if (header && segment)
		return tool_fail(t, EXIT_USAGE, "usage",
				 "--header %s and --segment %s are both given: the tenant is named by one of them",
				 header, a->value[OPT_SEGMENT]);
	if (segment) {
		config->mode = STEER_SEGMENT;
		config->segment = (uint32_t)segment;
		return EXIT_DONE;
	}
	if (steer_config_header(config, header ? header : HEADER) != 0)
		return tool_fail(t, EXIT_USAGE, "usage",
				 "--header %s is no name of a header field: give 1 to %u letters, digits and -", header,
				 STEER_NAME_MAX);
	return EXIT_DONE;
}

static int load_steer(struct tool *t, const struct arguments *a)
{
	const char *gate = a->value[OPT_GATE];
	struct steer_config config = {0};
	struct programs_fault fault;
	uint64_t port = 0;
	int rc = only(t, a, OPT(HEADER) | OPT(SEGMENT) | OPT(PORT) | OPT(GATE));

	if (rc == EXIT_DONE)
		rc = bpf_tenant(t, a, &config);
	if (rc == EXIT_DONE)
		rc = arguments_number(a, OPT_PORT, 1, UINT16_MAX, &port);
	if (rc != EXIT_DONE)
		return rc;
	if (gate && strcmp(gate, "drop") != 0)
		return tool_fail(t, EXIT_USAGE, "usage", "--gate %s: give drop, or leave it out", gate);
	config.gate = gate != NULL;
	config.port = (uint16_t)port;
	rc = bpf_open(t, true);
	if (rc != EXIT_DONE)
		return rc;
	if (programs_load_steer(t->path, &config, &fault) != 0)
		return bpf_fail(t, &fault);
	print_done(t, "loaded", programs[STEER], NULL, NULL, NULL);
	return EXIT_DONE;
}

static int load_connect(struct tool *t, const struct arguments *a)
{
	const char *four = a->value[OPT_PREFIX4] ? a->value[OPT_PREFIX4] : CONNECT_PREFIX4;
	const char *six = a->value[OPT_PREFIX6] ? a->value[OPT_PREFIX6] : CONNECT_PREFIX6;
	struct connect_config config = {0};
	struct programs_fault fault;
	int rc = only(t, a, OPT(PREFIX4) | OPT(PREFIX6));

	if (rc != EXIT_DONE)
		return rc;
	if (inet_pton(AF_INET, four, &config.prefix4) != 1 || ntohl(config.prefix4) & 0xffff || !config.prefix4)
		return tool_fail(
			t, EXIT_USAGE, "usage",
			"--prefix4 %s: give an IPv4 address whose last two numbers are 0, as %s: the number of "
			"a cluster takes their place",
			four, CONNECT_PREFIX4);
	if (inet_pton(AF_INET6, six, config.prefix6) != 1 || ntohl(config.prefix6[3]) & 0xffff || !config.prefix6[0])
		return tool_fail(t, EXIT_USAGE, "usage",
				 "--prefix6 %s: give an IPv6 address whose last 16 bits are 0, as %s: the number of a "
				 "cluster takes their place",
				 six, CONNECT_PREFIX6);
	rc = bpf_open(t, true);
	if (rc != EXIT_DONE)
		return rc;
	if (programs_load_connect(t->path, &config, &fault) != 0)
		return bpf_fail(t, &fault);
	print_done(t, "loaded", programs[CONNECT], NULL, NULL, NULL);
	return EXIT_DONE;
}

int bpf_load(struct tool *t, const struct arguments *a)
{
	int which, rc = which_program(t, a, false, &which);

	if (rc != EXIT_DONE)
		return rc;
	return which == STEER ? load_steer(t, a) : load_connect(t, a);
}

/* ---- attach, detach ---- */

int bpf_attach(struct tool *t, const struct arguments *a)
{
	const char *device = a->value[OPT_DEV], *cgroup = a->value[OPT_CGROUP];
	const char *mode = a->value[OPT_MODE] ? a->value[OPT_MODE] : "native";
	struct programs_fault fault;
	int which, rc = which_program(t, a, false, &which);

	if (rc == EXIT_DONE)
		rc = only(t, a, which == STEER ? OPT(DEV) | OPT(MODE) : OPT(CGROUP));
	if (rc != EXIT_DONE)
		return rc;
	if (which == STEER && !device)
		return tool_fail(t, EXIT_USAGE, "usage", "steer is attached to a device: give --dev DEV");
	if (which == CONNECT && !cgroup)
		return tool_fail(t, EXIT_USAGE, "usage", "connect is attached to a cgroup: give --cgroup PATH");
	if (which == STEER && strcmp(mode, "native") != 0 && strcmp(mode, "generic") != 0)
		return tool_fail(t, EXIT_USAGE, "usage", "--mode %s: give native or generic", mode);
	rc = bpf_open(t, true);
	if (rc != EXIT_DONE)
		return rc;
	rc = which == STEER ? programs_attach_steer(t->path, device, strcmp(mode, "generic") == 0, &fault)
			    : programs_attach_connect(t->path, cgroup, &fault);
	if (rc != 0)
		return bpf_fail(t, &fault);
	if (which == STEER)
		print_done(t, "attached", programs[STEER], "device", device, mode);
	else
		print_done(t, "attached", programs[CONNECT], "cgroup", cgroup, NULL);
	return EXIT_DONE;
}

int bpf_detach(struct tool *t, const struct arguments *a)
{
	const char *device = a->value[OPT_DEV], *cgroup = a->value[OPT_CGROUP];
	struct programs_fault fault;
	unsigned n_links;
	int which, rc = which_program(t, a, true, &which);

	if (rc == EXIT_DONE)
		rc = only(t, a, which == STEER ? OPT(DEV) : which == CONNECT ? OPT(CGROUP) : 0);
	if (rc == EXIT_DONE)
		rc = bpf_open(t, false);
	if (rc != EXIT_DONE)
		return rc;
	if (programs_detach(t->path, which == ALL ? NULL : programs[which], device, cgroup, &n_links, &fault) != 0)
		return bpf_fail(t, &fault);
	if (t->json) {
		json_t *line = tool_object();
		tool_set_u64(line, "detached", n_links);
		tool_print_json(line);
	} else {
		printf("%s: %u link%s ended%s\n", a->operand, n_links, n_links == 1 ? "" : "s",
		       device || cgroup ? "" : ", nothing of it is loaded any more");
	}
	return EXIT_DONE;
}
