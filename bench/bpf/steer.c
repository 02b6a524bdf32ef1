/* SPDX-License-Identifier: MIT
 * The workload `steer`: the program that berth attaches (bpf/steer.bpf.c) on a packet with a request of 300 bytes, all
 * in: parsing, look-up, counts, metadata. What an empty program costs is taken off; both are entered through walk_anew,
 * which takes the metadata of the run before away. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../../bpf/config.h"
#include "../../bpf/programs.h"
#include "bpf.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion" /* of bpftool */
#pragma GCC diagnostic ignored "-Wconversion"
#include "steer.skel.h"
#pragma GCC diagnostic pop

#define PARTITIONS 1000u
#define REQUEST 300u
#define RUNS_A_SAMPLE (1u << 20)
#define RUNS_QUICK (1u << 16)
#define XDP_PASS_CODE 2u

/* A frame with a request of 300 bytes: this, and what is left is the value of its last header field. */
static void make_packet(struct packet *p, const char *request)
{
	static const unsigned char ethernet[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0};
	static const unsigned char ipv4[] = {0x45, 0, 1, 84, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
	static const unsigned char tcp[] = {200, 1, 35, 240, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 255, 255, 0, 0, 0, 0};
	static const char end[] = {'\r', '\n', '\r', '\n'};
	unsigned char *at = p->bytes;

	memset(p->bytes, '*', sizeof(p->bytes));
	memcpy(at, ethernet, sizeof(ethernet));
	memcpy(at += sizeof(ethernet), ipv4, sizeof(ipv4));
	memcpy(at += sizeof(ipv4), tcp, sizeof(tcp));
	at += sizeof(tcp);
	for (size_t i = 0; request[i]; i++)
		at[i] = (unsigned char)request[i];
	memcpy(at + REQUEST - sizeof(end), end, sizeof(end));
	p->n = (unsigned)(at + REQUEST - p->bytes);
}

static struct steer *load(const struct place *p, bool segment)
{
	struct steer *s = steer__open();
	struct steer_config config = {.port = 0};
	char text[512];

	if (!s)
		fail("steer cannot be opened: %s", strerror(errno));
	if (segment) {
		config.mode = STEER_SEGMENT;
		config.segment = 1;
	} else if (steer_config_header(&config, "x-tenant") != 0) {
		fail("steer does not take its header");
	}
	memcpy((void *)(uintptr_t)&s->rodata->steer_config, &config, sizeof(config));
	if (programs_use_mirror(s->obj, p->pins, text, sizeof(text)) != 0)
		fail("%s", text);
	if (steer__load(s) != 0)
		fail("steer is not loaded: %s", strerror(errno));
	return s;
}

static uint64_t requests(const struct steer *s, uint32_t cluster)
{
	static struct mirror_counts counts[1024]; /* a processor each */
	uint32_t key = cluster * MIRROR_PHASES;
	uint64_t sum = 0;
	int n = libbpf_num_possible_cpus();

	if (n < 1 || n > 1024 || bpf_map_lookup_elem(bpf_map__fd(s->maps.berth_stats), &key, counts) != 0)
		fail("the counts cannot be read: %s", strerror(errno));
	for (int cpu = 0; cpu < n; cpu++)
		sum += counts[cpu].requests;
	return sum;
}

static double through(const struct place *p, int program, const struct packet *packet, unsigned runs)
{
	uint32_t zero = 0, returned;
	double ns;

	if (bpf_map_update_elem(bpf_map__fd(p->walk->maps.walk_next), &zero, &program, BPF_ANY) != 0)
		fail("the program is not taken for a tail call: %s", strerror(errno));
	ns = program_ns(bpf_program__fd(p->walk->progs.walk_anew), packet, runs, &returned);
	if (returned != XDP_PASS_CODE)
		fail("a program returned %u", returned);
	return ns;
}

static void measure(const struct bench *b, const struct place *p, const struct steer *s, const struct packet *packet,
		    struct figure *f)
{
	unsigned runs = b->quick ? RUNS_QUICK : RUNS_A_SAMPLE;
	uint64_t before;

	pin_to(CPU_SELF);
	before = requests(s, (uint32_t)place_cluster(7));
	for (unsigned run = 0; run < b->runs; run++) {
		double empty = through(p, bpf_program__fd(p->walk->progs.walk_empty), packet, runs);

		add_sample(&f->s, through(p, bpf_program__fd(s->progs.steer), packet, runs) - empty);
	}
	pin_nowhere();
	if (requests(s, (uint32_t)place_cluster(7)) - before != (uint64_t)runs * b->runs)
		fail("%s: not every request was found", f->name);
	report(b, f);
}

void workload_steer(const struct bench *b)
{
	struct figure segment = {.workload = "steer",
				 .name = "steering by path segment",
				 .unit = "ns",
				 .parameters = "partitions=1000 request=300",
				 .goal = 250},
		      header = {.workload = "steer",
				.name = "steering by header",
				.unit = "ns",
				.parameters = "partitions=1000 request=300",
				.goal = 600};
	struct steer *by_segment, *by_header;
	static struct place p;
	struct packet packet = {.n = 0};

	if (!place_open(b, &p, PARTITIONS, KEY_LEN))
		return;
	by_segment = load(&p, true);
	by_header = load(&p, false);
	place_unpin(&p);
	make_packet(&packet, "GET /tenant-00000007/_search?size=10 HTTP/1.1\r\nHost: search.example.com\r\n"
			     "User-Agent: client/1.0\r\nAccept-Encoding: gzip, deflate\r\nX-Trace: 0123456789abcdef\r\n"
			     "Accept: ");
	measure(b, &p, by_segment, &packet, &segment);
	make_packet(&packet, "GET /_search?size=10 HTTP/1.1\r\nHost: search.example.com\r\n"
			     "User-Agent: client/1.0\r\nAccept-Encoding: gzip, deflate\r\nX-Trace: 0123456789abcdef\r\n"
			     "X-Tenant: tenant-00000007\r\nAccept: ");
	measure(b, &p, by_header, &packet, &header);
	steer__destroy(by_segment);
	steer__destroy(by_header);
	place_close(&p);
}
