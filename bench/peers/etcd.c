/* SPDX-License-Identifier: MIT
 * etcd: where control planes keep such a table, asked key by key as a client does that keeps no copy. Called by peers.c,
 * in its one thread; the server is started here, on the same processor, alone in its cluster.
 *
 * Requests are JSON over HTTP, on one connection that is kept (etcd's own gateway to its gRPC interface: a client of
 * gRPC saves that step). Reads are linearizable, as they are by default. The data directory lies in shared memory, where
 * a sync costs nothing. It must not touch an etcd that it did not start. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.h"
#include "server.h"

#define PUTS_A_REQUEST 128u /* --max-txn-ops */
#define BODY_MAX (64u << 10)
#define ANSWER_S 30L
#define STARTS 3u /* another process may take a free port first */
#define BASE64_KEY_ROOM 24u

struct etcd {
	struct server server;
	CURL *curl;
	struct curl_slist *headers;
	char range_url[64], txn_url[64];
	char body[BODY_MAX], answer[BODY_MAX];
	size_t answered; /* bytes of the answer */
};

/* ---- base64 -------------------------------------------------------------------------------------------------- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void encode(char *out, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i += 3) {
		uint32_t left = (uint32_t)(n - i), three = (uint32_t)(unsigned char)bytes[i] << 16;

		if (left > 1)
			three |= (uint32_t)(unsigned char)bytes[i + 1] << 8;
		if (left > 2)
			three |= (unsigned char)bytes[i + 2];
		*out++ = digits[three >> 18];
		*out++ = digits[three >> 12 & 63];
		*out++ = left > 1 ? digits[three >> 6 & 63] : '=';
		*out++ = left > 2 ? digits[three & 63] : '=';
	}
	*out = 0;
}

/* A number in decimal digits. False: that is not what it holds. */
static bool decode_number(const char *text, uint64_t *value)
{
	uint32_t bits = 0, n_bits = 0;
	bool any = false;

	*value = 0;
	for (; *text && *text != '='; text++) {
		const char *at = strchr(digits, *text);

		if (!at)
			return false;
		bits = bits << 6 | (uint32_t)(at - digits);
		n_bits += 6;
		if (n_bits < 8)
			continue;
		n_bits -= 8;
		if ((bits >> n_bits & 255) - '0' > 9)
			return false;
		*value = *value * 10 + (bits >> n_bits & 255) - '0';
		any = true;
	}
	return any;
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

static size_t take(char *bytes, size_t size, size_t n, void *state)
{
	struct etcd *e = state;

	n *= size;
	if (n >= BODY_MAX - e->answered)
		return 0; /* curl calls that a failure */
	memcpy(e->answer + e->answered, bytes, n);
	e->answered += n;
	e->answer[e->answered] = 0;
	return n;
}

/* e->body to that address, what comes back to e->answer. NULL: it went well. */
static const char *post(struct etcd *e, const char *url)
{
	CURLcode code;
	long status = 0;

	e->answered = 0;
	e->answer[0] = 0;
	curl_easy_setopt(e->curl, CURLOPT_URL, url);
	curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, e->body);
	curl_easy_setopt(e->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(e->body));
	code = curl_easy_perform(e->curl);
	if (code != CURLE_OK)
		return curl_easy_strerror(code);
	curl_easy_getinfo(e->curl, CURLINFO_RESPONSE_CODE, &status);
	return status == 200 ? NULL : e->answer;
}

static void encode_key(char out[BASE64_KEY_ROOM], const char *name)
{
	encode(out, name, KEY_LEN);
}

static uint64_t ask(struct etcd *e, const char *name)
{
	char key[BASE64_KEY_ROOM];
	const char *error, *got_key, *got_value;
	uint64_t value;
	json_t *root;

	encode_key(key, name);
	snprintf(e->body, BODY_MAX, "{\"key\":\"%s\"}", key);
	error = post(e, e->range_url);
	if (error)
		fail("etcd: %.15s: %s", name, error);
	root = json_loadb(e->answer, e->answered, 0, NULL);
	if (json_unpack(root, "{s:[{s:s,s:s}!]}", "kvs", "key", &got_key, "value", &got_value) != 0 ||
	    strcmp(key, got_key) != 0 || !decode_number(got_value, &value))
		fail("etcd: %.15s: no such key, or an answer to something else: %.400s", name, e->answer);
	json_decref(root);
	return value;
}

static void put_keys(struct etcd *e, uint32_t from, uint32_t to)
{
	const char *error;
	json_t *root;
	size_t n = (size_t)snprintf(e->body, BODY_MAX, "{\"success\":[");
	int succeeded = 0;

	for (uint32_t i = from; i < to; i++) {
		char name[KEY_ROOM], number[24], key[BASE64_KEY_ROOM], value[40];

		key_name(name, i);
		encode_key(key, name);
		snprintf(number, sizeof(number), "%llu", (unsigned long long)value_of_key(i));
		encode(value, number, strlen(number));
		n += (size_t)snprintf(e->body + n, BODY_MAX - n, "%s{\"requestPut\":{\"key\":\"%s\",\"value\":\"%s\"}}",
				      i > from ? "," : "", key, value);
	}
	snprintf(e->body + n, BODY_MAX - n, "]}");
	error = post(e, e->txn_url);
	root = json_loadb(e->answer, e->answered, 0, NULL);
	if (error || json_unpack(root, "{s:b}", "succeeded", &succeeded) != 0 || !succeeded)
		fail("etcd: keys %u to %u were not put: %.400s", from, to - 1, error ? error : e->answer);
	json_decref(root);
}

/* ---- the server ---------------------------------------------------------------------------------------------- */

/* Two that are free now, and not the same. */
static void free_ports(unsigned ports[2])
{
	int fds[2];

	for (unsigned i = 0; i < 2; i++) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t size = sizeof(a);

		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fds[i] < 0 || bind(fds[i], (const struct sockaddr *)&a, sizeof(a)) != 0 ||
		    getsockname(fds[i], (struct sockaddr *)&a, &size) != 0)
			fail("no free port on 127.0.0.1 for etcd: %s", strerror(errno));
		ports[i] = ntohs(a.sin_port);
	}
	close(fds[0]);
	close(fds[1]);
}

static void start(struct etcd *e)
{
	char clients[48], peers[48], cluster[64], data[112];
	unsigned ports[2];
	const char *argv[] = {"etcd",  "--data-dir",
			      data,    "--listen-client-urls",
			      clients, "--advertise-client-urls",
			      clients, "--listen-peer-urls",
			      peers,   "--initial-advertise-peer-urls",
			      peers,   "--initial-cluster",
			      cluster, "--logger",
			      "zap",   "--log-level",
			      "error", NULL};

	free_ports(ports);
	snprintf(data, sizeof(data), "%s/data", e->server.dir);
	snprintf(clients, sizeof(clients), "http://127.0.0.1:%u", ports[0]);
	snprintf(peers, sizeof(peers), "http://127.0.0.1:%u", ports[1]);
	snprintf(cluster, sizeof(cluster), "default=%s", peers);
	snprintf(e->range_url, sizeof(e->range_url), "%s/v3/kv/range", clients);
	snprintf(e->txn_url, sizeof(e->txn_url), "%s/v3/kv/txn", clients);
	server_start(&e->server, argv, CPU_SELF);
}

/* False: it ended, or does not answer. It answers when it has elected itself. */
static bool wait_for_answer(struct etcd *e)
{
	uint64_t from = now_ns();

	snprintf(e->body, BODY_MAX, "{\"key\":\"YQ==\"}");
	while (server_runs(&e->server) && now_ns() - from < SERVER_START_S * 1000000000ull) {
		if (!post(e, e->range_url))
			return true;
		usleep(5000);
	}
	return false;
}

static void connect_curl(struct etcd *e)
{
	e->curl = curl_easy_init();
	e->headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/json"), "Expect:");
	if (!e->curl || !e->headers)
		fail("no memory for an HTTP connection to etcd");
	curl_easy_setopt(e->curl, CURLOPT_HTTPHEADER, e->headers);
	curl_easy_setopt(e->curl, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(e->curl, CURLOPT_WRITEDATA, e);
	curl_easy_setopt(e->curl, CURLOPT_PROXY, ""); /* whatever the environment says */
	curl_easy_setopt(e->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e->curl, CURLOPT_TIMEOUT, ANSWER_S);
}

static void etcd_close(void *state)
{
	struct etcd *e = state;

	curl_easy_cleanup(e->curl);
	curl_slist_free_all(e->headers);
	server_stop(&e->server);
	free(e);
}

static void *etcd_open(const struct bench *b, uint32_t n)
{
	struct etcd *e = calloc(1, sizeof(*e));
	bool ready = false;

	if (!e)
		fail("no memory for a connection to etcd");
	if (!server_prepare(b, &e->server, "etcd", "etcd-server")) {
		free(e);
		return NULL;
	}
	connect_curl(e);
	for (unsigned i = 0; i < STARTS && !ready && !server_runs(&e->server); i++) {
		start(e);
		ready = wait_for_answer(e);
	}
	if (!ready) {
		server_note_failure(b, &e->server);
		etcd_close(e);
		return NULL;
	}
	for (uint32_t at = 0; at < n; at += PUTS_A_REQUEST)
		put_keys(e, at, n - at > PUTS_A_REQUEST ? at + PUTS_A_REQUEST : n);
	return e;
}

static uint64_t etcd_run(void *state, const struct sequence *q, size_t n)
{
	struct etcd *e = state;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += ask(e, q->names[i & (q->n - 1)]);
	return sum;
}

const struct peer peer_etcd = {
	.name = "etcd",
	.how = "a server of its own on the same processor, an HTTP request a look-up on a kept connection",
	.shared = true,
	.most = 100000,
	.waits = true,
	.calls = 500,
	.open = etcd_open,
	.run = etcd_run,
	.close = etcd_close,
};
