/* SPDX-License-Identifier: MIT
 * `berth bpf` and what `top` shows of it, against a real berthd --bpf: programs loaded, attached to a pair of veth devices
 * in a network of this program's own and to a cgroup of its own, fed with frames, counted, replaced, detached; with a
 * daemon and after its end. What it refuses is in 96-tool-bpf-faults.c. */
#include <bpf/bpf.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf_place.h"
#include "cgroup_place.h"
#include "child.h"
#include "cli.h"
#include "packet_frame.h"

/* ---- what is there ---- */

static void place_tenants(const struct bpf_place *p)
{
	cli_expect(0, &p->d, "cluster", "set", "c1", "--endpoint", "http://10.0.0.1:9200");
	cli_expect(0, &p->d, "cluster", "set", "c2", "--endpoint", "http://10.0.0.2:9200");
	cli_expect(0, &p->d, "set", "acme", "--mode", "dedicated-cluster", "--cluster", "c1");
	cli_expect(0, &p->d, "set", "globex", "--mode", "dedicated-cluster", "--cluster", "c2");
	cli_expect(0, &p->d, "migrate", "begin", "globex", "--to", "c1");
	cli_expect(0, &p->d, "migrate", "cutover", "globex");
}

static json_t *status_of(const struct bpf_place *p)
{
	json_t *lines = cli_json(0, &p->d, "bpf", "status");
	json_t *status = json_incref(json_array_get(lines, 0));

	json_decref(lines);
	return status;
}

/* The program or link of this name; NULL: there is none. */
static const json_t *find(const json_t *status, const char *what, const char *program)
{
	const json_t *row;
	size_t i;

	json_array_foreach (json_object_get(status, what), i, row)
		if (strcmp(text_of(row, "program"), program) == 0)
			return row;
	return NULL;
}

static void send_frame(const char *device, const char *request)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device)};
	const struct shape shape = {.port = 9200};
	struct frame frame;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	frame_make(&frame, &shape, request, strlen(request));
	assert_int_equal(sendto(fd, frame.bytes, frame.len, 0, (struct sockaddr *)&to, sizeof(to)), (ssize_t)frame.len);
	close(fd);
}

/* A number of `bpf stats`. */
static json_int_t stat_of(const struct bpf_place *p, const char *cluster, const char *phase, const char *field)
{
	json_t *lines = cli_json(0, &p->d, "bpf", "stats"), *all = json_array_get(lines, 0);
	json_int_t n = 0;
	const json_t *row;
	size_t i;

	json_array_foreach (json_object_get(all, "counts"), i, row)
		if (strcmp(text_of(row, "cluster"), cluster) == 0 && strcmp(text_of(row, "phase"), phase) == 0)
			n = int_of(row, field);
	json_decref(lines);
	return n;
}

static void expect_stat(const struct bpf_place *p, json_int_t n, const char *cluster, const char *phase,
			const char *field)
{
	uint64_t deadline = 0;

	while (stat_of(p, cluster, phase, field) != n) /* a frame comes in behind its sender */
		if (!within(&deadline))
			fail_msg("%s %s %s: %lld instead of %lld", cluster, phase, field,
				 (long long)stat_of(p, cluster, phase, field), (long long)n);
}

static const char get[] = "GET /_search HTTP/1.1\r\nHost: x\r\nX-Partition: acme\r\n\r\n";
static const char put[] = "PUT /i/_doc/1 HTTP/1.1\r\nHost: x\r\nX-Partition: globex\r\nContent-Length: 0\r\n\r\n";

/* ---- tests ---- */

static void steer_counts_what_comes_in_by(const struct bpf_place *p, const char *mode)
{
	struct cli c;

	place_tenants(p);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "no packet program is loaded", NULL);
	cli_free(&c);
	cli_run(&c, &p->d, "bpf", "stats");
	cli_check(&c, 0, "nothing was counted yet", NULL);
	cli_free(&c);
	cli_run(&c, &p->d, "bpf", "load", "steer", "--gate", "drop", "--port", "9200");
	cli_check(&c, 0, "steer: loaded", NULL);
	cli_free(&c);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "attached nowhere", NULL);
	cli_free(&c);
	cli_run(&c, &p->d, "bpf", "attach", "steer", "--dev", "berth0", "--mode", mode);
	cli_check(&c, 0, "steer: attached to berth0", NULL);
	cli_free(&c);
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "berth0", "--mode", mode); /* is so already */

	json_t *status = status_of(p);
	const json_t *program = find(status, "programs", "steer"), *link = find(status, "links", "steer");
	const json_t *config = json_object_get(program, "config");
	assert_string_equal(text_of(config, "header"), "x-partition");
	assert_string_equal(text_of(config, "gate"), "drop");
	assert_int_equal(int_of(config, "port"), 9200);
	assert_int_equal(int_of(program, "id"), int_of(link, "id"));
	assert_false(is_true(program, "stale"));
	assert_int_equal(json_array_size(json_object_get(status, "links")), 1);
	assert_string_equal(text_of(link, "device"), "berth0");
	assert_string_equal(text_of(link, "mode"), mode);
	assert_true(is_true(json_object_get(status, "mirror"), "answers"));
	assert_true(is_true(json_object_get(status, "mirror"), "writer_lives"));
	json_decref(status);

	for (int i = 0; i < 3; i++)
		send_frame("berth1", get);
	send_frame("berth1", put);
	expect_stat(p, 3, "c1", "settled", "requests");
	expect_stat(p, 0, "c1", "settled", "writes");
	expect_stat(p, 1, "c2", "cutover", "held");
	cli_run(&c, &p->d, "bpf", "stats");
	cli_check(&c, 0, "cutover", NULL);
	assert_non_null(strstr(c.out, "packets seen"));
	cli_free(&c);
	cli_run(&c, &p->d, "top");
	cli_check(&c, 0, "REQUESTS", NULL);
	cli_free(&c);
	json_t *lines = cli_json(0, &p->d, "top");
	const json_t *packets = json_object_get(json_array_get(lines, 0), "packets");
	assert_int_equal(json_array_size(packets), 2);
	assert_int_equal(int_of(json_array_get(packets, 0), "requests"), 3);
	json_decref(lines);

	cli_run(&c, &p->d, "bpf", "detach", "steer", "--dev", "berth0");
	cli_check(&c, 0, "1 link ended", NULL);
	cli_free(&c);
	send_frame("berth1", get);
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "berth0", "--mode", mode);
	send_frame("berth1", put);
	expect_stat(p, 2, "c2", "cutover", "held");
	assert_int_equal(stat_of(p, "c1", "settled", "requests"), 3); /* not the one in between, which came first */
	cli_run(&c, &p->d, "--json", "bpf", "detach", "all");
	cli_check(&c, 0, "{\"detached\":1}", NULL);
	cli_free(&c);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "no packet program is loaded", NULL);
	cli_free(&c);
}

static void steer_on_a_device_in_native_mode_is_counted_and_goes_again(void **state)
{
	own_place_needed((struct bpf_place *)*state);
	steer_counts_what_comes_in_by(*state, "native");
}

static void steer_on_a_device_in_generic_mode_is_counted_and_goes_again(void **state)
{
	own_place_needed((struct bpf_place *)*state);
	steer_counts_what_comes_in_by(*state, "generic");
}

static void loaded_again_it_takes_the_place_of_what_is_attached(void **state)
{
	struct bpf_place *p = *state;

	own_place_needed(p);
	cli_expect(0, &p->d, "bpf", "load", "steer");
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "berth0");
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "berth1", "--mode", "generic");
	json_t *before = status_of(p);
	cli_expect(0, &p->d, "bpf", "load", "steer", "--segment", "2");
	json_t *after = status_of(p);
	const json_t *program = find(after, "programs", "steer"), *row;
	size_t i;

	assert_int_not_equal(int_of(find(before, "programs", "steer"), "id"), int_of(program, "id"));
	assert_int_equal(int_of(json_object_get(program, "config"), "segment"), 2);
	assert_int_equal(json_array_size(json_object_get(after, "links")), 2);
	json_array_foreach (json_object_get(after, "links"), i, row)
		assert_int_equal(int_of(row, "id"), int_of(program, "id"));
	json_decref(before);
	json_decref(after);
	cli_expect(0, &p->d, "bpf", "detach", "all");
}

static void a_link_whose_device_is_gone_is_told_and_swept(void **state)
{
	struct bpf_place *p = *state;
	struct cli c;

	own_place_needed(p);
	ip_run("link", "add", "berth2", "type", "veth", "peer", "name", "berth3");
	cli_expect(0, &p->d, "bpf", "load", "steer");
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "berth2");
	ip_run("link", "del", "berth2");
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "gone: detach it", NULL);
	cli_free(&c);
	cli_expect(0, &p->d, "bpf", "load", "steer"); /* no obstacle */
	cli_run(&c, &p->d, "bpf", "detach", "steer", "--dev", "berth2");
	cli_check(&c, 0, "1 link ended", NULL);
	cli_free(&c);
	json_t *status = status_of(p);
	assert_int_equal(json_array_size(json_object_get(status, "links")), 0);
	assert_non_null(find(status, "programs", "steer"));
	json_decref(status);
}

static void connect_is_attached_to_a_cgroup_until_that_goes(void **state)
{
	struct bpf_place *p = *state;
	struct cgroup below = {0};
	uint64_t deadline = 0;
	struct cli c;

	own_place_needed(p);
	snprintf(below.path, sizeof(below.path), "%.180s/below", own_cgroup.path);
	assert_int_equal(child_run((const char *const[]){"/bin/mkdir", below.path, NULL}, (char[64]){0}, 64, CHILD_MS),
			 0);
	cli_run(&c, &p->d, "bpf", "load", "connect", "--prefix4", "198.19.0.0", "--prefix6", "fd00:1::");
	cli_check(&c, 0, "connect: loaded", NULL);
	cli_free(&c);
	cli_expect(0, &p->d, "bpf", "attach", "connect", "--cgroup", own_cgroup.path);
	cli_expect(0, &p->d, "bpf", "attach", "connect", "--cgroup", below.path);
	json_t *status = status_of(p);
	const json_t *config = json_object_get(find(status, "programs", "connect4"), "config");
	assert_string_equal(text_of(config, "prefix4"), "198.19.0.0");
	assert_string_equal(text_of(config, "prefix6"), "fd00:1::");
	assert_int_equal(json_array_size(json_object_get(status, "links")), 4);
	json_decref(status);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, own_cgroup.path, NULL);
	assert_non_null(strstr(c.out, below.path));
	cli_free(&c);
	cgroup_remove(&below);
	for (bool gone = false; !gone; cli_free(&c)) { /* the kernel lets go of it behind rmdir */
		assert_true(within(&deadline));
		cli_run(&c, &p->d, "bpf", "status");
		cli_check(&c, 0, own_cgroup.path, NULL);
		const char *first = strstr(c.out, "gone: detach it");
		gone = first && strstr(first + 1, "gone: detach it");
	}
	cli_run(&c, &p->d, "bpf", "detach", "connect", "--cgroup", own_cgroup.path); /* and sweeps the others */
	cli_check(&c, 0, "4 links ended", NULL);
	cli_free(&c);
	cli_run(&c, &p->d, "bpf", "detach", "connect");
	cli_check(&c, 0, "nothing of it is loaded any more", NULL);
	cli_free(&c);
}

static void all_but_verify_works_without_the_daemon(void **state)
{
	struct bpf_place *p = *state;
	struct cli c;

	own_place_needed(p);
	place_tenants(p);
	daemon_kill(&p->d);
	cli_expect(0, &p->d, "bpf", "load", "steer");
	cli_expect(0, &p->d, "bpf", "attach", "steer", "--dev", "berth0");
	send_frame("berth1", get);
	expect_stat(p, 1, "c1", "settled", "requests");
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "is gone", NULL);
	cli_free(&c);
	cli_expect(3, &p->d, "bpf", "verify");
	/* the next daemon takes the mirror over, and the program with it */
	daemon_start(&p->d, "--bpf", NULL);
	send_frame("berth1", get);
	expect_stat(p, 2, "c1", "settled", "requests");
	/* one without --bpf withdraws it: the program stays where it is, and says that it answers nothing */
	daemon_kill(&p->d);
	daemon_start(&p->d, NULL);
	json_t *status = status_of(p);
	assert_true(json_is_null(json_object_get(status, "mirror")));
	assert_true(is_true(find(status, "programs", "steer"), "stale"));
	assert_int_equal(json_array_size(json_object_get(status, "links")), 1);
	json_decref(status);
	cli_run(&c, &p->d, "bpf", "status");
	cli_check(&c, 0, "stale: ", NULL);
	cli_free(&c);
	cli_expect(3, &p->d, "bpf", "stats");
	cli_expect(0, &p->d, "bpf", "detach", "all");
	cli_expect(3, &p->d, "bpf", "status");
}

static void verify_finds_what_the_mirror_says_wrong(void **state)
{
	struct bpf_place *p = *state;
	struct bpf_view view;
	struct mirror_entry e;
	struct cli c;

	own_place_needed(p);
	place_tenants(p);
	cli_run(&c, &p->d, "bpf", "verify");
	cli_check(&c, 0, " 0 differed", NULL);
	cli_free(&c);
	bpf_view_open(p, &view);
	assert_true(bpf_view_find(&view, "acme", 4, &e) != 0);
	uint32_t at = 0;
	while (view.entries[at].hash != e.hash || view.entries[at].word != e.word)
		at++;
	at++; /* behind the head */
	int inner = bpf_map_get_fd_by_id(view.inner_id);
	e.word ^= 1ull << 21; /* another epoch */
	assert_int_equal(bpf_map_update_elem(inner, &at, &e, 0), 0);
	close(inner);
	cli_run(&c, &p->d, "bpf", "verify");
	cli_check(&c, 4, " 1 differed", "acme");
	cli_free(&c);
	json_t *lines = cli_json(0, &p->d, "bpf", "verify"); /* it was mended */
	assert_int_equal(int_of(json_array_get(lines, 0), "differences"), 0);
	json_decref(lines);
	bpf_view_close(&view);
}

static int group_setup(void **state)
{
	(void)state;
	if (!own_place_make())
		return 0;
	ip_run("link", "add", "berth0", "type", "veth", "peer", "name", "berth1");
	ip_run("link", "set", "berth0", "up");
	ip_run("link", "set", "berth1", "up");
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BPF_TEST(steer_on_a_device_in_native_mode_is_counted_and_goes_again, "memory"),
		BPF_TEST(steer_on_a_device_in_generic_mode_is_counted_and_goes_again, "memory"),
		BPF_TEST(loaded_again_it_takes_the_place_of_what_is_attached, "memory"),
		BPF_TEST(a_link_whose_device_is_gone_is_told_and_swept, "memory"),
		BPF_TEST(connect_is_attached_to_a_cgroup_until_that_goes, "memory"),
		BPF_TEST(all_but_verify_works_without_the_daemon, "memory"),
		BPF_TEST(verify_finds_what_the_mirror_says_wrong, "memory"),
	};

	return cmocka_run_group_tests(tests, group_setup, own_place_remove);
}
