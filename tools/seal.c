/* SPDX-License-Identifier: MIT
 * `berth seal`: makes and rotates the key file of sealed cursors, and looks into key files and envelopes. Works on the
 * file alone; needs no instance and no daemon. Prints no secret. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../reader_lib/seal/internal.h"
#include "commands.h"
#include "seal_file.h"
#include "text.h"

#define AFTER_S 300 /* time to copy the file to every host: what is too late then cannot be opened there */
#define AFTER_MAX_S 31536000
#define LINE_SIZE (10 + 1 + SEAL_TIME_SIZE + SEAL_TIME_SIZE + 2 * SEAL_SECRET_SIZE + 2)

static const char heading[] = "# Keys of sealed cursors of berth; secret. `berth seal rotate` adds one, proxies notice "
			      "it by themselves.\n"
			      "# ID CREATED ACTIVE-FROM SECRET\n";

/* Why a key file was not read. */
static int fail_load(const struct tool *t, const char *file, int rc, const struct seal_fault *fault)
{
	switch (rc) {
	case BERTH_E_CORRUPT:
		if (fault->line)
			return tool_fail(t, EXIT_REFUSED, "bad-key-file", "%s, line %u: %s", file, fault->line,
					 fault->what);
		return tool_fail(t, EXIT_REFUSED, "bad-key-file", "%s: %s", file, fault->what);
	case BERTH_E_UNSAFE:
		return tool_fail(t, EXIT_REFUSED, "unsafe", "%s: %s", file, fault->what);
	case BERTH_E_NOMEM:
		tool_no_memory();
	default:
		return tool_fail(t, EXIT_REFUSED, rc == BERTH_E_PERMISSION ? "permission" : "system",
				 "%s cannot be read: %s", file, strerror(errno));
	}
}

/* A new key as a line of the file at `out`, LINE_SIZE bytes of memory of libsodium; its length. */
static size_t make_line(uint32_t id, int64_t created_s, int64_t active_s, char *out)
{
	char created[SEAL_TIME_SIZE], active[SEAL_TIME_SIZE];
	unsigned char *secret = sodium_malloc(SEAL_SECRET_SIZE);

	if (!secret)
		tool_no_memory();
	bs_time_print(created_s, created);
	bs_time_print(active_s, active);
	randombytes_buf(secret, SEAL_SECRET_SIZE);
	size_t at = (size_t)snprintf(out, LINE_SIZE, "%" PRIu32 " %s %s ", id, created, active);
	sodium_bin2hex(out + at, LINE_SIZE - at, secret, SEAL_SECRET_SIZE);
	sodium_free(secret);
	at += 2 * SEAL_SECRET_SIZE;
	out[at++] = '\n';
	return at;
}

static void set_time(json_t *object, const char *name, int64_t s)
{
	char text[SEAL_TIME_SIZE];

	bs_time_print(s, text);
	tool_set(object, name, json_string(text));
}

/* ---- keygen ------------------------------------------------------------------------------------------------------- */

int seal_keygen(struct tool *t, const struct arguments *a)
{
	struct stat like = {.st_uid = geteuid(), .st_gid = getegid(), .st_mode = S_IRUSR | S_IWUSR};
	const struct group *readers = like.st_uid == 0 ? getgrnam("berth") : NULL;
	struct seal_dir dir;
	struct stat st;

	if (readers) {
		like.st_gid = readers->gr_gid;
		like.st_mode |= S_IRGRP;
	}
	if (sodium_init() < 0)
		return tool_fail(t, EXIT_REFUSED, "system", "there is no source of randomness");
	int rc = seal_dir_open(t, a->operand, &dir);
	if (rc != EXIT_DONE)
		return rc;
	if (fstatat(dir.fd, dir.name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		seal_dir_close(&dir);
		return tool_fail(t, EXIT_REFUSED, "exists", "%s exists: add a key to it with `berth seal rotate`",
				 a->operand);
	}
	char *text = sodium_malloc(sizeof(heading) + LINE_SIZE);
	if (!text)
		tool_no_memory();
	memcpy(text, heading, sizeof(heading) - 1);
	int64_t now = time(NULL);
	size_t len = sizeof(heading) - 1 + make_line(1, now, now, text + sizeof(heading) - 1);
	rc = seal_dir_put(t, &dir, text, len, &like, false);
	sodium_free(text);
	seal_dir_close(&dir);
	if (rc != EXIT_DONE)
		return rc;
	if (t->json) {
		json_t *line = tool_object();
		tool_set_u64(line, "key", 1);
		set_time(line, "created", now);
		set_time(line, "active_from", now);
		tool_print_json(line);
		return EXIT_DONE;
	}
	char shown[4 * 4096 + 1];
	printf("%s: made, with key 1; %s may read it\n",
	       text_escape(shown, sizeof(shown), a->operand, strlen(a->operand)),
	       readers ? "group berth" : "only its owner");
	return EXIT_DONE;
}

/* ---- rotate ------------------------------------------------------------------------------------------------------- */

struct rotation {
	const char *file;
	int64_t now_s, active_s;
	uint64_t keep;
	uint32_t id;           /* of the new key */
	unsigned n, n_dropped; /* keys of the new file; of the old one that are not in it */
	uint32_t dropped[SEAL_KEYS_MAX];
	char *text; /* of the new file, memory of libsodium */
	size_t len;
};

/* Is it one of the newest: fewer than `keep` - 1 have a higher id? */
static bool is_kept(const struct seal_keys *k, uint32_t id, uint64_t keep)
{
	uint64_t newer = 1; /* the one to be made */

	for (unsigned i = 0; i < k->n; i++)
		newer += k->key[i].id > id;
	return newer < keep;
}

/* The old file without the lines of dropped keys, then the new key: remarks stay where they are. */
static void make_text(const char *old, size_t len, const struct seal_keys *k, struct rotation *r)
{
	size_t at = 0;

	r->text = sodium_malloc(len + 1 + LINE_SIZE);
	if (!r->text)
		tool_no_memory();
	for (unsigned line = 1; at < len; line++) {
		const char *end = memchr(old + at, '\n', len - at);
		size_t n = end ? (size_t)(end - old) + 1 - at : len - at;
		bool drop = false;

		for (unsigned i = 0; i < k->n; i++)
			if (k->key[i].line == line && !is_kept(k, k->key[i].id, r->keep)) {
				r->dropped[r->n_dropped++] = k->key[i].id;
				drop = true;
			}
		if (!drop) {
			memcpy(r->text + r->len, old + at, n);
			r->len += n;
		}
		at += n;
	}
	if (r->len && r->text[r->len - 1] != '\n')
		r->text[r->len++] = '\n';
	r->len += make_line(r->id, r->now_s, r->active_s, r->text + r->len);
}

/* The new text is a key file too, and does not leave proxies without a key that seals. */
static int check_text(const struct tool *t, const struct seal_keys *old, struct rotation *r)
{
	struct seal_fault fault = {0};
	struct seal_keys *fresh = NULL;
	int rc = r->len > SEAL_FILE_MAX ? BERTH_E_CORRUPT : bs_keys_parse(r->text, r->len, &fresh, &fault);

	if (rc == BERTH_E_NOMEM)
		tool_no_memory();
	if (rc != BERTH_OK)
		return tool_fail(t, EXIT_REFUSED, "full", "%s with one key more: %s", r->file,
				 fault.what ? fault.what : "it is longer than 64 KiB");
	r->n = fresh->n;
	bool gap = bs_keys_sealing(old, r->now_s) >= 0 && bs_keys_sealing(fresh, r->now_s) < 0;
	bs_keys_free(fresh);
	if (gap)
		return tool_fail(t, EXIT_REFUSED, "no-key",
				 "--keep %" PRIu64
				 " drops the key that seals, and the new one seals only later: keep more "
				 "keys, or give --after 0",
				 r->keep);
	return EXIT_DONE;
}

static int rotate(const struct tool *t, const struct seal_dir *dir, struct rotation *r)
{
	struct seal_fault fault = {0};
	struct seal_keys *k = NULL;
	char *old = NULL;
	size_t len = 0;
	struct stat st;

	int rc = bs_file_read(r->file, &old, &len, &st, &fault);
	if (rc == BERTH_OK)
		rc = bs_keys_parse(old, len, &k, &fault);
	if (rc != BERTH_OK) {
		rc = fail_load(t, r->file, rc, &fault);
		sodium_free(old);
		return rc;
	}
	for (unsigned i = 0; i < k->n; i++)
		r->id = k->key[i].id > r->id ? k->key[i].id : r->id;
	if (r->id == UINT32_MAX) {
		rc = tool_fail(t, EXIT_REFUSED, "full", "%s: key %" PRIu32 " has the last id: begin another file",
			       r->file, r->id);
	} else {
		r->id++;
		make_text(old, len, k, r);
		rc = check_text(t, k, r);
	}
	sodium_free(old);
	bs_keys_free(k);
	if (rc == EXIT_DONE)
		rc = seal_dir_put(t, dir, r->text, r->len, &st, true);
	sodium_free(r->text);
	return rc;
}

static void tell_rotation(const struct tool *t, const struct rotation *r)
{
	char shown[4 * 4096 + 1], active[SEAL_TIME_SIZE];

	if (t->json) {
		json_t *line = tool_object(), *dropped = json_array();
		tool_set_u64(line, "key", r->id);
		set_time(line, "created", r->now_s);
		set_time(line, "active_from", r->active_s);
		tool_set_u64(line, "keys", r->n);
		for (unsigned i = 0; i < r->n_dropped; i++)
			if (json_array_append_new(dropped, json_integer(r->dropped[i])) != 0)
				tool_no_memory();
		tool_set(line, "dropped", dropped);
		tool_print_json(line);
		return;
	}
	bs_time_print(r->active_s, active);
	printf("%s: key %" PRIu32 " added, it seals %s%s; %u key%s in the file\n",
	       text_escape(shown, sizeof(shown), r->file, strlen(r->file)), r->id,
	       r->active_s > r->now_s ? "from " : "at once", r->active_s > r->now_s ? active : "", r->n,
	       r->n == 1 ? "" : "s");
	if (r->n_dropped) {
		printf("dropped: key%s", r->n_dropped == 1 ? "" : "s");
		for (unsigned i = 0; i < r->n_dropped; i++)
			printf("%s %" PRIu32, i ? "," : "", r->dropped[i]);
		printf("; envelopes of theirs open no more\n");
	}
	if (r->active_s > r->now_s)
		printf("on many hosts: copy the file to each of them before then\n");
}

int seal_rotate(struct tool *t, const struct arguments *a)
{
	uint64_t after = AFTER_S;
	struct rotation r = {.file = a->operand, .now_s = time(NULL), .keep = SEAL_KEYS_MAX + 1};
	struct seal_dir dir;

	int rc = arguments_number(a, OPT_AFTER, 0, AFTER_MAX_S, &after);
	if (rc == EXIT_DONE)
		rc = arguments_number(a, OPT_KEEP, 1, SEAL_KEYS_MAX, &r.keep);
	if (rc == EXIT_DONE)
		rc = seal_dir_open(t, a->operand, &dir);
	if (rc != EXIT_DONE)
		return rc;
	r.active_s = r.now_s + (int64_t)after;
	rc = rotate(t, &dir, &r);
	seal_dir_close(&dir);
	if (rc == EXIT_DONE)
		tell_rotation(t, &r);
	return rc;
}

/* ---- inspect ------------------------------------------------------------------------------------------------------ */

static void tell_keys(const struct tool *t, const struct seal_keys *k)
{
	int64_t now = time(NULL);
	int sealing = bs_keys_sealing(k, now);
	struct grid g;

	grid_start(&g, ">KEY", "CREATED", "ACTIVE FROM", "STATE");
	for (unsigned i = 0; i < k->n; i++) {
		const struct seal_key *key = &k->key[i];
		char created[SEAL_TIME_SIZE], active[SEAL_TIME_SIZE];
		const char *state = (int)i == sealing ? "seals" : key->active_s > now ? "waits" : "opens";

		if (t->json) {
			json_t *line = tool_object();
			tool_set_u64(line, "key", key->id);
			set_time(line, "created", key->created_s);
			set_time(line, "active_from", key->active_s);
			tool_set(line, "state", json_string(state));
			tool_print_json(line);
			continue;
		}
		bs_time_print(key->created_s, created);
		bs_time_print(key->active_s, active);
		grid_u64(&g, key->id);
		grid_text(&g, created);
		grid_text(&g, active);
		grid_text(&g, state);
	}
	if (!t->json)
		grid_flush(&g, stdout);
	grid_end(&g);
	if (sealing < 0)
		tool_note(t, "no key seals yet: proxies refuse to seal until the first is active");
}

/* Why an envelope does not open; NULL: it does. */
static const char *verdict(const struct seal_keys *k, const struct seal_view *v, const char *partition)
{
	int i = bs_keys_find(k, v->key_id);

	if (i < 0)
		return "unknown-key";
	if (!bs_envelope_authentic(v, k->secret[i]))
		return "not-authentic";
	if (partition &&
	    (strlen(partition) != v->partition_len || memcmp(partition, v->partition, v->partition_len) != 0))
		return "not-owner";
	return NULL;
}

static int tell_envelope(const struct tool *t, const struct seal_keys *k, const char *text, const char *partition)
{
	unsigned char raw[SEAL_RAW_MAX];
	char shown[4 * BERTH_SEAL_ID_MAX + 1];
	struct seal_view v;

	if (!bs_envelope_read(text, strlen(text), raw, &v))
		return tool_fail(t, EXIT_REFUSED, "no-envelope",
				 "%.40s%s (%zu bytes) is no envelope: it was cut or changed, or it is an id that no "
				 "proxy has sealed",
				 text, strlen(text) > 40 ? "..." : "", strlen(text));
	const char *why = verdict(k, &v, partition);
	bool authentic = !why || strcmp(why, "not-owner") == 0;
	if (t->json) {
		json_t *line = tool_object();
		tool_set_u64(line, "key", v.key_id);
		tool_set(line, "cluster", text_json((const char *)v.cluster, v.cluster_len));
		tool_set(line, "partition", text_json((const char *)v.partition, v.partition_len));
		tool_set(line, "id", text_json((const char *)v.id, v.id_len));
		tool_set(line, "authentic", json_boolean(authentic));
		tool_set(line, "refused", why ? json_string(why) : json_null());
		tool_print_json(line);
		return why ? EXIT_REFUSED : EXIT_DONE;
	}
	printf("%-10s %" PRIu32 "%s\n", "key", v.key_id, bs_keys_find(k, v.key_id) < 0 ? " (not in the file)" : "");
	printf("%-10s %s\n", "cluster", text_escape(shown, sizeof(shown), (const char *)v.cluster, v.cluster_len));
	printf("%-10s %s\n", "partition",
	       text_escape(shown, sizeof(shown), (const char *)v.partition, v.partition_len));
	printf("%-10s %s\n", "id", text_escape(shown, sizeof(shown), (const char *)v.id, v.id_len));
	printf("%-10s %s\n", "authentic",
	       authentic ? "yes" : "no: what it says may be made up, or its key was dropped");
	if (why && authentic)
		tool_note(t, "refused: the envelope belongs to another partition than %s", partition);
	return why ? EXIT_REFUSED : EXIT_DONE;
}

int seal_inspect(struct tool *t, const struct arguments *a)
{
	const char *partition = a->given & OPT(PARTITION) ? a->value[OPT_PARTITION] : NULL;
	struct seal_fault fault = {0};
	struct seal_keys *k = NULL;
	struct stat st;

	if (partition && !a->second)
		return tool_fail(t, EXIT_USAGE, "usage",
				 "--partition %s needs an envelope: berth seal inspect FILE ENVELOPE", partition);
	int rc = bs_file_load(a->operand, &k, &st, &fault);
	if (rc != BERTH_OK)
		return fail_load(t, a->operand, rc, &fault);
	if (a->second)
		rc = tell_envelope(t, k, a->second, partition);
	else
		tell_keys(t, k);
	bs_keys_free(k);
	return rc;
}
