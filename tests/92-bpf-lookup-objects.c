/* SPDX-License-Identifier: MIT
 * Every packet program that is built: accepted by this kernel's verifier, and its maps are those that berthd makes. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../bpf/programs.h"
#include "bpf_place.h"
#include "child.h"

#define SUFFIX ".bpf.o"
#define OBJECTS_MAX 64

static char objects[OBJECTS_MAX][512];
static unsigned n_objects;

static int find_objects(void **state)
{
	const char *dir_name = daemon_program("bpf");
	DIR *dir = opendir(dir_name);
	struct dirent *entry;

	(void)state;
	if (!dir)
		fail_msg("%s: %s", dir_name, strerror(errno));
	while ((entry = readdir(dir)) && n_objects < OBJECTS_MAX) {
		size_t len = strlen(entry->d_name);
		char source[300];

		snprintf(source, sizeof(source), "bpf/%.*s.c", (int)(len > 2 ? len - 2 : 0), entry->d_name);
		if (len <= strlen(SUFFIX) || strcmp(entry->d_name + len - strlen(SUFFIX), SUFFIX) != 0 ||
		    access(source, F_OK) != 0)
			continue; /* of a source that is gone */
		snprintf(objects[n_objects++], sizeof(objects[0]), "%.250s/%.250s", dir_name, entry->d_name);
	}
	closedir(dir);
	return 0;
}

static struct bpf_object *open_object(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);

	if (!object)
		fail_msg("%s: %s", path, strerror(errno));
	return object;
}

static void every_program_is_accepted_by_this_kernel(void **state)
{
	bpf_needed(*state);
	assert_true(n_objects > 0);
	for (unsigned i = 0; i < n_objects; i++) {
		struct bpf_object *object = open_object(objects[i]);

		if (bpf_object__load(object) != 0)
			fail_msg("%s: %s: above is what the verifier said", objects[i], strerror(errno));
		bpf_object__close(object);
	}
}

/* What a program was compiled against must be what it gets: the verifier believes the map. */
static void expect_same(const char *path, const struct bpf_map *map, int fd)
{
	struct bpf_map_info info = {0};
	uint32_t size = sizeof(info);
	const char *name = bpf_map__name(map);

	assert_int_equal(bpf_obj_get_info_by_fd(fd, &info, &size), 0);
	if (bpf_map__type(map) != info.type || bpf_map__key_size(map) != info.key_size ||
	    bpf_map__value_size(map) != info.value_size || bpf_map__max_entries(map) != info.max_entries ||
	    bpf_map__map_flags(map) != info.map_flags)
		fail_msg("%s: %s is type %u, key %u, value %u, entries %u, flags %#x; the pinned one %u, %u, %u, %u, "
			 "%#x",
			 path, name, bpf_map__type(map), bpf_map__key_size(map), bpf_map__value_size(map),
			 bpf_map__max_entries(map), bpf_map__map_flags(map), info.type, info.key_size, info.value_size,
			 info.max_entries, info.map_flags);
}

static void maps_are_those_that_the_daemon_makes(void **state)
{
	struct bpf_place *p = *state;
	unsigned n = 0;

	bpf_needed(p);
	for (unsigned i = 0; i < n_objects; i++) {
		struct bpf_object *object = open_object(objects[i]);
		struct bpf_map *map;

		bpf_object__for_each_map(map, object)
		{
			int fd;

			if (strncmp(bpf_map__name(map), "berth_", 6) != 0)
				continue;
			fd = bpf_pinned(p, bpf_map__name(map) + 6);
			expect_same(objects[i], map, fd);
			close(fd);
			n++;
		}
		bpf_object__close(object);
	}
	assert_true(n >= n_objects);
}

static void every_program_is_accepted_with_the_daemons_maps(void **state)
{
	struct bpf_place *p = *state;
	char text[512];

	bpf_needed(p);
	for (unsigned i = 0; i < n_objects; i++) {
		struct bpf_object *object = open_object(objects[i]);

		if (programs_use_mirror(object, p->pins, text, sizeof(text)) != 0)
			fail_msg("%s: %s", objects[i], text);
		if (bpf_object__load(object) != 0)
			fail_msg("%s: %s: above is what the verifier said", objects[i], strerror(errno));
		bpf_object__close(object);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(every_program_is_accepted_by_this_kernel, "memory"),
		BPF_TEST(maps_are_those_that_the_daemon_makes, "memory"),
		BPF_TEST(every_program_is_accepted_with_the_daemons_maps, "memory"),
	};

	return cmocka_run_group_tests_name("packet programs as built", tests, find_objects, NULL);
}
