/* SPDX-License-Identifier: MIT
 * Loading (programs.h): an object with its configuration is verified on the instance's maps, takes the place of what was
 * loaded before wherever that is attached, and is pinned. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "features.h"
#include "programs_internal.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* of bpftool */
#pragma GCC diagnostic ignored "-Wconversion"
#include "connect.skel.h"
#include "steer.skel.h"
#pragma GCC diagnostic pop

#define LOG_SIZE (4u << 20) /* of the verifier; touched only as far as it is written */
#define LOG_LINES 6u        /* of its end that are shown */

static const void *steer_bytes(size_t *size)
{
	return steer__elf_bytes(size);
}
static const void *connect_bytes(size_t *size)
{
	return connect__elf_bytes(size);
}

/* What is built in. */
static const struct object {
	const char *name;
	const void *(*bytes)(size_t *size);
	size_t config_off, config_size; /* in its .rodata */
	enum programs_action action;
	enum feature_user user;
} objects[] = {
	{"steer", steer_bytes, offsetof(struct steer__rodata, steer_config), sizeof(struct steer_config),
	 PROGRAMS_TO_LOAD_STEER, FEATURE_STEER},
	{"connect", connect_bytes, offsetof(struct connect__rodata, connect_config), sizeof(struct connect_config),
	 PROGRAMS_TO_LOAD_CONNECT, FEATURE_CONNECT},
};
enum { STEER, CONNECT };

/* ---- what is said of a load that failed ---- */

/* The end of the verifier's log without its statistics, on one line. */
static const char *log_end(char *log)
{
	size_t len = strlen(log);
	unsigned lines = 0;
	char *stats = strstr(log, "\nprocessed ");

	if (stats)
		len = (size_t)(stats - log);
	while (len && log[len - 1] == '\n')
		len--;
	log[len] = '\0';
	for (; len && lines < LOG_LINES; len--)
		if (log[len - 1] == '\n' && ++lines < LOG_LINES)
			log[len - 1] = '|';
	return log + len + (lines == LOG_LINES);
}

static int fail_load(const struct object *o, int error, char *log, struct programs_fault *fault)
{
	struct utsname kernel = {0};
	char what[64];

	snprintf(what, sizeof(what), "%s cannot be loaded", o->name);
	if (programs_lacks(o->action) || error == EPERM || (error == EACCES && !log[0]))
		return programs_fail_denied(fault, error, what, o->action);
	uname(&kernel);
	if (log[0])
		return programs_fail(fault, "verifier",
				     "%s: the verifier of Linux %s refuses it (%s), though the kernel has what it "
				     "needs. Its last words: %s",
				     what, kernel.release, strerror(error), log_end(log));
	return programs_fail(fault, "system", "%s: %s, though Linux %s has what it needs: see the kernel's log", what,
			     strerror(error), kernel.release);
}

/* ---- one object ---- */

static int set_config(const struct object *o, struct bpf_object *object, const void *config, struct bpf_map **rodata)
{
	struct bpf_map *map;
	size_t size;

	bpf_object__for_each_map(map, object)
	{
		const char *name = bpf_map__name(map), *end = strrchr(name, '.');
		if (!bpf_map__is_internal(map) || !end || strcmp(end, ".rodata") != 0)
			continue;
		char *value = (char *)(uintptr_t)bpf_map__initial_value(map, &size);
		if (!value || size < o->config_off + o->config_size)
			return -EINVAL;
		memcpy(value + o->config_off, config, o->config_size);
		*rodata = map;
		return 0;
	}
	return -ENOENT;
}

/* Opened, configured, on the mirror's maps, verified. */
static int make(const struct object *o, const char *instance, const void *config, struct bpf_object **object,
		struct bpf_map **rodata, struct programs_fault *fault)
{
	char *log = calloc(1, LOG_SIZE);
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = o->name, .kernel_log_buf = log,
		    .kernel_log_size = LOG_SIZE);
	libbpf_print_fn_t print = libbpf_set_print(NULL); /* the log comes in the fault */
	size_t size;
	const void *bytes = o->bytes(&size);
	int rc = log ? 0 : -ENOMEM;

	if (rc == 0) {
		*object = bpf_object__open_mem(bytes, size, &opts);
		rc = *object ? set_config(o, *object, config, rodata) : -errno;
	}
	if (rc != 0) {
		programs_fail(fault, "system", "%s cannot be prepared: %s", o->name, strerror(-rc));
	} else if ((rc = programs_take_maps(*object, instance, fault)) == 0) {
		rc = bpf_object__load(*object);
		if (rc != 0)
			fail_load(o, -rc, log, fault);
	}
	libbpf_set_print(print);
	free(log);
	return rc ? -1 : 0;
}

/* ---- what is attached ---- */

struct turn { /* of the links of one program to another */
	const char *program;
	int fd;    /* of the other */
	int error; /* 0: all are turned */
};

static int turn_link(const char *path, const struct programs_name *n, void *arg)
{
	struct turn *turn = arg;

	if (n->kind == PROGRAMS_PROGRAM || strcmp(n->program, turn->program) != 0)
		return 0;
	int fd = bpf_obj_get(path);
	if (fd < 0)
		return turn->error = errno;
	turn->error = programs_link_gone(fd) ? 0 : -bpf_link_update(fd, turn->fd, NULL);
	close(fd);
	return turn->error;
}

/* Every link, program after program, to the new one, or back to the one that is pinned; up to the first that does not
 * turn, which is returned (NULL: none), or up to `last`. */
static struct bpf_program *turn_links(const struct programs_dir *dir, struct bpf_object *object, bool back,
				      const struct bpf_program *last, int *error)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object)
	{
		struct turn turn = {.program = bpf_program__name(program), .fd = bpf_program__fd(program)};
		char path[PROGRAMS_PATH];

		snprintf(path, sizeof(path), "%s/%s", dir->path, turn.program);
		if (back)
			turn.fd = bpf_obj_get(path);
		int rc = programs_names(dir, turn_link, &turn);
		if (rc < 0) /* the links cannot be listed */
			turn.error = -rc;
		if (back && turn.fd >= 0)
			close(turn.fd);
		*error = turn.error;
		if (turn.error && !back)
			return program;
		if (program == last)
			break;
	}
	return NULL;
}

/* All links of all programs, or none. */
static int replace(const struct programs_dir *dir, struct bpf_object *object, struct programs_fault *fault)
{
	int error, ignored;
	const struct bpf_program *failed = turn_links(dir, object, false, NULL, &error);

	if (!failed)
		return 0;
	turn_links(dir, object, true, failed, &ignored);
	return programs_fail(fault, "system", "%s cannot take the place of what is attached: %s; that goes on",
			     bpf_program__name(failed), strerror(error));
}

/* ---- pins ---- */

#define PINS_MAX 4u /* of an object: its configuration, and its programs */

struct swap { /* of a pin to another */
	char name[64];
	int fd, old; /* of the new one; of the one that is there, -1: none is */
};

static unsigned swaps_of(const struct object *o, const struct programs_dir *dir, struct bpf_object *object,
			 struct bpf_map *rodata, struct swap swaps[PINS_MAX])
{
	char path[PROGRAMS_PATH], beside[PROGRAMS_PATH];
	struct bpf_program *program;
	unsigned n = 1;

	snprintf(swaps[0].name, sizeof(swaps[0].name), "%s-config", o->name);
	swaps[0].fd = bpf_map__fd(rodata);
	bpf_object__for_each_program(program, object)
	{
		if (n == PINS_MAX)
			break;
		snprintf(swaps[n].name, sizeof(swaps[n].name), "%s", bpf_program__name(program));
		swaps[n++].fd = bpf_program__fd(program);
	}
	for (unsigned i = 0; i < n; i++) {
		programs_pin_paths(dir, swaps[i].name, path, beside);
		swaps[i].old = bpf_obj_get(path);
	}
	return n;
}

/* The first n pins are the new ones: as they were again. */
static void pins_back(const struct programs_dir *dir, const struct swap swaps[PINS_MAX], unsigned n)
{
	char path[PROGRAMS_PATH], beside[PROGRAMS_PATH];

	for (unsigned i = 0; i < n; i++) {
		programs_pin_paths(dir, swaps[i].name, path, beside);
		if (swaps[i].old < 0)
			unlink(path);
		else if (programs_pin_beside(dir, swaps[i].name, swaps[i].old) == 0)
			(void)!programs_pin_over(dir, swaps[i].name);
	}
}

/* Pins beside, which is what may fail, then links, then pins: all of it, or nothing. */
static int swap(const struct object *o, const struct programs_dir *dir, struct bpf_object *object,
		struct bpf_map *rodata, struct programs_fault *fault)
{
	char path[PROGRAMS_PATH], beside[PROGRAMS_PATH];
	struct swap swaps[PINS_MAX];
	unsigned n = swaps_of(o, dir, object, rodata, swaps), at = 0;
	int rc = 0, ignored;

	for (unsigned i = 0; i < n && rc == 0; i++)
		rc = programs_pin_beside(dir, swaps[i].name, swaps[i].fd);
	if (rc != 0) {
		programs_fail(fault, "system", "%s cannot be pinned in %s: %s", o->name, dir->path, strerror(-rc));
	} else if ((rc = replace(dir, object, fault)) == 0) {
		for (; at < n && rc == 0; at += rc == 0)
			rc = programs_pin_over(dir, swaps[at].name);
		if (rc != 0) {
			pins_back(dir, swaps, at);
			turn_links(dir, object, true, NULL, &ignored);
			programs_fail(fault, "system",
				      "%s/%s cannot be replaced: %s: remove it; what was loaded before goes on",
				      dir->path, swaps[at].name, strerror(-rc));
		}
	}
	for (unsigned i = 0; i < n; i++) {
		programs_pin_paths(dir, swaps[i].name, path, beside);
		unlink(beside);
		if (swaps[i].old >= 0)
			close(swaps[i].old);
	}
	return rc;
}

static int load(const struct object *o, const char *instance, const void *config, struct programs_fault *fault)
{
	struct bpf_object *object = NULL;
	struct bpf_map *rodata = NULL;
	struct programs_dir dir;
	int rc;

	if (programs_check_mirror(instance, fault) != 0)
		return -1;
	if (features_check(o->user, fault->text, sizeof(fault->text)) != 0) {
		fault->code = "kernel";
		return -1;
	}
	if (programs_lock(instance, true, &dir, fault) != 0)
		return -1;
	rc = make(o, instance, config, &object, &rodata, fault);
	if (rc == 0)
		rc = swap(o, &dir, object, rodata, fault);
	bpf_object__close(object);
	close(dir.fd);
	return rc ? -1 : 0;
}

int programs_load_steer(const char *instance, const struct steer_config *config, struct programs_fault *fault)
{
	return load(&objects[STEER], instance, config, fault);
}
int programs_load_connect(const char *instance, const struct connect_config *config, struct programs_fault *fault)
{
	return load(&objects[CONNECT], instance, config, fault);
}

bool programs_config(const struct programs_dir *dir, const char *name, void *config, size_t room)
{
	const struct object *o = strcmp(name, objects[STEER].name) == 0 ? &objects[STEER] : &objects[CONNECT];
	struct bpf_map_info info = {0};
	uint32_t zero = 0, len = sizeof(info);
	char path[PROGRAMS_PATH], *value = NULL;
	bool read = false;

	snprintf(path, sizeof(path), "%s/%s-config", dir->path, name);
	int fd = strcmp(name, o->name) == 0 && room >= o->config_size ? bpf_obj_get(path) : -1;
	if (fd < 0)
		return false;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.value_size >= o->config_off + o->config_size)
		value = malloc(info.value_size);
	if (value && bpf_map_lookup_elem(fd, &zero, value) == 0) {
		memcpy(config, value + o->config_off, o->config_size);
		read = true;
	}
	free(value);
	close(fd);
	return read;
}
