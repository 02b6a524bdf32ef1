/* SPDX-License-Identifier: MIT
 * `berth bpf splice`: the command line of bpf/splice_run.h. Runs in the foreground until it is told to end. */
#include "bpf.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "../bpf/splice_run.h"

/* ADDR:PORT, ADDR as numbers, IPv6 in brackets. EXIT_DONE, or EXIT_USAGE with the message printed. */
static int address(const struct tool *t, const char *option, const char *text, struct sockaddr_storage *out)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	const char *colon = strrchr(text, ':');
	struct addrinfo *found = NULL;
	char host[80];
	size_t len = colon ? (size_t)(colon - text) : 0;

	if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	if (len == 0 || len >= sizeof(host))
		goto wrong;
	memcpy(host, text, len);
	host[len] = '\0';
	if (!colon[1] || getaddrinfo(host, colon + 1, &hints, &found) != 0)
		goto wrong;
	memcpy(out, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return EXIT_DONE;
wrong:
	return tool_fail(t, EXIT_USAGE, "usage", "--%s %s is no address: give numbers, as 127.0.0.1:9280 or [::1]:9280",
			 option, text);
}

static void print_counts(const struct tool *t, const struct splice_counts *n)
{
	if (t->json) {
		json_t *line = tool_object();

		tool_set_u64(line, "connections", n->n_connections);
		tool_set_u64(line, "spliced", n->n_spliced);
		tool_set_u64(line, "relayed", n->n_relayed);
		tool_set_u64(line, "copied", n->n_copied);
		tool_set_u64(line, "tunnels", n->n_tunnels);
		tool_set_u64(line, "failed", n->n_failed);
		tool_print_json(line);
	} else {
		printf("%ju connections; requests: %ju forwarded in the kernel, %ju copied; %ju answers copied; %ju "
		       "connections given to the fallback; %ju failed\n",
		       (uintmax_t)n->n_connections, (uintmax_t)n->n_spliced, (uintmax_t)n->n_relayed,
		       (uintmax_t)n->n_copied, (uintmax_t)n->n_tunnels, (uintmax_t)n->n_failed);
	}
}

static void ready(void *arg, unsigned port)
{
	const struct tool *t = arg;

	if (t->json) {
		json_t *line = tool_object();

		tool_set_u64(line, "port", port);
		tool_print_json(line);
	} else {
		printf("listening on port %u\n", port);
	}
	fflush(stdout);
}

int bpf_splice(struct tool *t, const struct arguments *a)
{
	struct splice_options with = {.instance = t->path,
				      .answer_ms = SPLICE_ANSWER_MS,
				      .idle_ms = SPLICE_IDLE_MS,
				      .ready = ready,
				      .arg = t};
	struct splice_counts counts;
	char text[2048];
	int rc;

	rc = address(t, "listen", a->value[OPT_LISTEN], &with.at);
	if (rc == EXIT_DONE)
		rc = address(t, "fallback", a->value[OPT_FALLBACK], &with.other);
	if (rc == EXIT_DONE)
		rc = bpf_tenant(t, a, &with.tenant);
	if (rc == EXIT_DONE)
		rc = bpf_open(t, true);
	if (rc != EXIT_DONE)
		return rc;
	if (splice_run(&with, &counts, text, sizeof(text)) != 0)
		return tool_fail(t, EXIT_REFUSED, "splice", "%s", text);
	print_counts(t, &counts);
	return tool_finish(t, EXIT_DONE);
}
