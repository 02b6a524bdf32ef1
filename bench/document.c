/* SPDX-License-Identifier: MIT
 * Keys and documents. Called by the workloads. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

void key_name(char out[KEY_ROOM], uint32_t number)
{
	static const char digits[] = "0123456789abcdef";

	memcpy(out, "tenant-", 7);
	for (unsigned i = 0; i < 8; i++)
		out[7 + i] = digits[number >> (28 - 4 * i) & 15];
	out[KEY_LEN] = 0;
}

void long_key_name(char out[LONG_KEY_LEN + 1], uint32_t number)
{
	memset(out, 'x', LONG_KEY_LEN);
	key_name(out, number);
	out[KEY_LEN] = '-';
	out[LONG_KEY_LEN] = 0;
}

int document_make(uint32_t n, bool long_keys)
{
	int fd = memfd_create("document", MFD_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(dup(fd), "w");
	char key[LONG_KEY_LEN + 1];

	if (!f)
		fail("no memory for a document of %u partitions", n);
	fputs("{\"partitions\":{", f);
	for (uint32_t i = 0; i < n; i++) {
		unsigned cluster = i % CLUSTERS;

		if (long_keys)
			long_key_name(key, i);
		else
			key_name(key, i);
		fprintf(f, "%s\n\"%s\":", i ? "," : "", key);
		if (i % 4 == 0)
			fprintf(f, "{\"mode\":\"dedicated-cluster\",\"cluster\":\"c%u\"}", cluster);
		else if (i % 4 == 1)
			fprintf(f, "{\"mode\":\"dedicated-index\",\"cluster\":\"c%u\",\"index\":\"index-%u\"}", cluster,
				i % 1000);
		else
			fprintf(f, "{\"mode\":\"shared-index\",\"cluster\":\"c%u\",\"index\":\"shared\"}", cluster);
	}
	fputs("\n}}\n", f);
	if (fclose(f) != 0 || lseek(fd, 0, SEEK_SET) != 0)
		fail("cannot write a document of %u partitions", n);
	return fd;
}
