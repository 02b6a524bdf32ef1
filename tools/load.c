/* SPDX-License-Identifier: MIT
 * `berth load`: hands the open document over to the daemon, which copies and judges it. A pipe or a terminal is read to
 * its end here first, so that the daemon never waits for whoever writes into it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "change.h"
#include "client.h"
#include "commands.h"
#include "instance.h"
#include "text.h"

static int write_whole(int fd, const char *bytes, size_t n)
{
	while (n) {
		ssize_t done = write(fd, bytes, n);
		if (done < 0 && errno != EINTR)
			return -1;
		bytes += done > 0 ? done : 0;
		n -= done > 0 ? (size_t)done : 0;
	}
	return 0;
}

/* A copy of everything that can be read from fd, in memory. -1 with errno. */
static int spool(int fd)
{
	char buffer[65536];
	int copy = memfd_create("berth-document", MFD_CLOEXEC);

	for (;;) {
		ssize_t n = copy < 0 ? -1 : read(fd, buffer, sizeof(buffer));
		if (n == 0 && lseek(copy, 0, SEEK_SET) == 0)
			return copy;
		if (n > 0 && write_whole(copy, buffer, (size_t)n) == 0)
			continue;
		if (n < 0 && errno == EINTR && copy >= 0)
			continue;
		int saved = errno;
		if (copy >= 0)
			close(copy);
		errno = saved;
		return -1;
	}
}

static int open_document(const struct tool *t, const char *name, int *out)
{
	bool standard = strcmp(name, "-") == 0;
	int fd = standard ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0)
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s: %s", name, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s is a directory: give a placement document", name);
	if (S_ISREG(st.st_mode) && lseek(fd, 0, SEEK_CUR) == 0) {
		*out = fd;
		return EXIT_DONE;
	}
	*out = spool(fd);
	int saved = errno;
	if (!standard)
		close(fd);
	if (*out < 0)
		return tool_fail(t, EXIT_REFUSED, "invalid", "%s cannot be read: %s", name, strerror(saved));
	return EXIT_DONE;
}

static void tell_summary(const json_t *result)
{
	/* What stayed as it is, and why, by the daemon's name for it. */
	static const struct {
		const char *field, *text;
	} parts[] = {
		{"applied", "applied"},
		{"removed", "removed"},
		{"unchanged", "unchanged"},
		{"adopted", "adopted (it was so already)"},
		{"diverged", "left alone (changed by a command or a migration)"},
		{"migrating", "left alone (in a migration)"},
	};
	char count[TEXT_UNIT];
	uint64_t version = tool_u64(result, "version");
	const json_t *entry;
	size_t i;

	printf("document%s", version ? " version " : "");
	if (version)
		printf("%" PRIu64, version);
	printf(", %s partitions:", text_count(count, tool_u64(result, "partitions")));
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (i == 0 || tool_u64(result, parts[i].field))
			printf("%s %s %s", i ? "," : "", text_count(count, tool_u64(result, parts[i].field)),
			       parts[i].text);
	putchar('\n');
	json_array_foreach (json_object_get(result, "left"), i, entry) {
		char key[TEXT_KEY], why[TEXT_KEY];
		const char *k = tool_string(entry, "partition"), *w = tool_string(entry, "why");
		printf("  left alone: %s (%s)\n", text_escape(key, sizeof(key), k, strlen(k)),
		       text_escape(why, sizeof(why), w, strlen(w)));
	}
	if (tool_u64(result, "diverged"))
		printf("`berth load --override` applies a document there too%s\n",
		       version ? "; with a version above this one's" : "");
}

static int hand_over(struct tool *t, json_t *params, int fd)
{
	struct client_request request = {
		.method = "load",
		.params = params,
		.pass_fd = fd,
		.patience_ms = CLIENT_LOAD_PATIENCE_MS,
	};
	struct client c;
	json_t *answer = NULL;

	client_init(&c, CLIENT_ADMIN);
	enum call_result rc = client_connect(t, &c);
	if (rc == CALL_OK)
		rc = client_call(t, &c, &request, &answer);
	else
		json_decref(params);
	int code = rc == CALL_OK ? EXIT_DONE : client_fail(t, &c, rc, answer);
	client_close(&c);
	if (rc != CALL_OK)
		return code;
	if (t->json) {
		tool_print_json(answer);
	} else {
		tell_summary(answer);
		json_decref(answer);
	}
	return EXIT_DONE;
}

int load_run(struct tool *t, const struct arguments *a)
{
	const char *name = strcmp(a->operand, "-") == 0 ? "standard input" : a->operand;
	json_t *params, *shown;
	int fd = -1, rc = instance_open(t);

	if (rc == EXIT_DONE)
		rc = open_document(t, a->operand, &fd);
	if (rc != EXIT_DONE)
		return rc;
	params = tool_object();
	shown = text_json(name, strlen(name)); /* for the history */
	tool_set(params, "name", shown);
	if (a->given & OPT(PRUNE))
		tool_set(params, "prune", json_true());
	if (a->given & OPT(OVERRIDE))
		tool_set(params, "override", json_true());
	rc = hand_over(t, params, fd);
	close(fd);
	return rc;
}
