/* SPDX-License-Identifier: MIT
 * What a proxy and a client of the daemon see of a restart, for tests/unit/inside. It runs until SIGTERM, then says:
 *
 *   watcher look PARTITION   a reader: how many look-ups and writes, how many of them did not succeed, and the longest
 *   watcher ask SOCKET       a client that asks again and again: the longest time without an answer, and in which no
 *                            connection was accepted */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../../reader_lib/berth.h"

static volatile sig_atomic_t stop;

static void on_stop(int number)
{
	(void)number;
	stop = 1;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void nap_ms(int ms)
{
	poll(NULL, 0, ms);
}

static int look(const char *partition)
{
	struct berth_attach_options o = {
		.size = sizeof o, .writes = BERTH_WRITES_BRACKETED, .max_readers = 1, .max_leases = 16};
	unsigned long looks = 0, wrong = 0, held = 0;
	struct berth_reader *r = NULL;
	struct berth *b = NULL;
	int rc = berth_attach("default", &o, &b);

	if (rc == BERTH_OK)
		rc = berth_reader_open(b, &r);
	if (rc != BERTH_OK) {
		fprintf(stderr, "watcher: %s\n", berth_strerror(rc));
		return 1;
	}
	puts("attached");
	fflush(stdout);
	while (!stop) {
		struct berth_route at;
		struct berth_write w;

		(void)berth_maintain(b);
		for (int i = 0; i < 100; i++) {
			looks++;
			wrong += berth_route(r, partition, strlen(partition), &at) != BERTH_OK;
			if (berth_write_begin(r, partition, strlen(partition), 0, &w) == BERTH_OK)
				wrong += berth_write_end(r, &w, BERTH_DONE) != BERTH_OK;
			else
				held++;
		}
		nap_ms(1);
	}
	printf("looks=%lu wrong=%lu held=%lu\n", looks, wrong, held);
	berth_reader_close(&r);
	return berth_detach(&b) != BERTH_OK;
}

/* 0: answered; 1: accepted, no answer; 2: not accepted. */
static int ask(const struct sockaddr_un *address)
{
	static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n";
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), result = 2;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char answer[4096];

	if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0) {
		result = 1;
		if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) > 0 && poll(&p, 1, 60000) == 1 &&
		    recv(fd, answer, sizeof answer, 0) > 0)
			result = 0;
	}
	close(fd);
	return result;
}

static int ask_on(const char *path)
{
	uint64_t answered = now_us(), accepted = answered, quiet = 0, refused = 0;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	unsigned long n = 0;

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	while (!stop) {
		int result = ask(&address);
		uint64_t now = now_us();

		if (result < 2) {
			if (now - accepted > refused)
				refused = now - accepted;
			accepted = now;
		}
		if (result == 0) {
			if (now - answered > quiet)
				quiet = now - answered;
			answered = now;
			n++;
		}
		nap_ms(1);
	}
	printf("answers=%lu quiet_ms=%.1f refused_ms=%.1f\n", n, (double)quiet / 1000, (double)refused / 1000);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction a = {.sa_handler = on_stop};

	sigaction(SIGTERM, &a, NULL);
	if (argc == 3 && strcmp(argv[1], "look") == 0)
		return look(argv[2]);
	if (argc == 3 && strcmp(argv[1], "ask") == 0)
		return ask_on(argv[2]);
	fprintf(stderr, "usage: %s look PARTITION | ask SOCKET\n", argv[0]);
	return 2;
}
