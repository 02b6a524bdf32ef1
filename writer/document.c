/* SPDX-License-Identifier: MIT
 * Reads a placement document, JSON, as a stream: yajl cuts it into events, document_events.c judges each at once, so
 * what is refused is refused at the first fault, with its path. Called on a worker thread; touches nothing but its
 * parser, and reads no file. */
#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "document_parser.h"

#define SLICE (64u << 10)      /* bytes that yajl sees at a time: bounds what it keeps of one token */
#define TOKEN_MAX (256u << 10) /* what it may keep of one; every string that is good is far shorter */

/* ---- yajl's memory: small, watched, and never lacking ------------------------------------------------------- */

/* yajl does not look at what it gets, so a lack of memory leaves it by longjmp, out of the call that the parser made
 * (guarded): the handle is of no use then, and its blocks, which are on a list, are freed with the parser. */
struct yajl_block {
	struct yajl_block *next, **at;
	_Alignas(max_align_t) char bytes[];
};

static void *block_in(struct document_parser *p, struct yajl_block *b)
{
	if (!b) {
		refuse(&p->fault, R_FULL, "out of memory for the document: retry later");
		longjmp(p->no_memory, 1);
	}
	if (b->next)
		b->next->at = &b->next;
	*b->at = b;
	return b->bytes;
}

static struct yajl_block *block_of(void *bytes)
{
	return bytes ? (struct yajl_block *)(void *)((char *)bytes - offsetof(struct yajl_block, bytes)) : NULL;
}

static void *yajl_take(void *context, size_t size)
{
	struct document_parser *p = context;
	struct yajl_block *b = malloc(sizeof(*b) + size);

	if (b)
		*b = (struct yajl_block){.next = p->blocks, .at = &p->blocks};
	return block_in(p, b);
}

static void *yajl_more(void *context, void *old, size_t size)
{
	struct document_parser *p = context;

	if (size > TOKEN_MAX)
		p->token_too_long = true;
	return old ? block_in(p, realloc(block_of(old), sizeof(struct yajl_block) + size)) : yajl_take(p, size);
}

static void yajl_give(void *context, void *old)
{
	struct yajl_block *b = block_of(old);

	(void)context;
	if (!b)
		return;
	if (b->next)
		b->next->at = b->at;
	*b->at = b->next;
	free(b);
}

/* What yajl is asked to do, with a way out. */
static void guarded_new(struct document_parser *p)
{
	yajl_alloc_funcs memory = {yajl_take, yajl_more, yajl_give, p};

	if (setjmp(p->no_memory) == 0)
		p->yajl = yajl_alloc(&document_events, &memory, p);
}

static yajl_status guarded_parse(struct document_parser *p, const char *bytes, size_t len)
{
	if (setjmp(p->no_memory) != 0)
		return yajl_status_client_canceled;
	return bytes ? yajl_parse(p->yajl, (const unsigned char *)bytes, len) : yajl_complete_parse(p->yajl);
}

static const char *guarded_error(struct document_parser *p)
{
	if (setjmp(p->no_memory) != 0)
		return "out of memory";
	return (const char *)yajl_get_error(p->yajl, 0, NULL, 0); /* freed with the other blocks */
}

/* ---- the stream -------------------------------------------------------------------------------------------- */

struct document_parser *document_parser_new(void)
{
	struct document_parser *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	guarded_new(p);
	if (!p->yajl || stage_new(&p->staged)) {
		document_parser_free(&p);
		return NULL;
	}
	/* Every string is either one of our words or judged by text_fault, which is stricter than yajl. */
	yajl_config(p->yajl, yajl_dont_validate_strings, 1);
	return p;
}

void document_parser_free(struct document_parser **parser)
{
	struct document_parser *p = *parser;

	if (!p)
		return;
	for (struct yajl_block *b = p->blocks, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	document_free(&p->staged);
	free(p);
	*parser = NULL;
}

/* What yajl says of the slice, as a verdict on the document. */
static int told(struct document_parser *p, yajl_status status)
{
	if (status == yajl_status_ok && p->token_too_long)
		return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT,
						 "a string or a number is longer than anything that is good here"));
	if (status != yajl_status_error) {
		assert(status == yajl_status_ok || p->fault.code != R_DONE || p->place == IN_END);
		return p->fault.code == R_DONE;
	}
	const char *text = guarded_error(p);
	refuse(&p->fault, R_BAD_DOCUMENT, "not JSON at byte %llu: %.*s",
	       (unsigned long long)p->bytes + yajl_get_bytes_consumed(p->yajl), (int)strcspn(text, "\n"), text);
	return document_judged(p, R_BAD_DOCUMENT);
}

/* Only blanks may follow the document. yajl is not asked: it takes a string that never ends for nothing at all. */
static int feed_rest(struct document_parser *p, const char *bytes, size_t len)
{
	size_t blanks = 0;

	while (blanks < len && strchr(" \t\r\n", bytes[blanks]) && bytes[blanks])
		blanks++;
	p->bytes += blanks;
	return blanks == len ||
	       document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT, "not JSON at byte %llu: trailing garbage",
					 (unsigned long long)p->bytes));
}

/* What yajl would let pass: vertical tab and form feed, blanks to it, and broken pairs of escapes. The bytes before the
 * first such are good; *why tells of it. */
static size_t good_bytes(struct document_parser *p, const char *bytes, size_t len, const char **why)
{
	const char *tab = memchr(bytes, '\v', len);
	size_t good = tab ? (size_t)(tab - bytes) : len;
	const char *feed = memchr(bytes, '\f', good);

	if (feed)
		good = (size_t)(feed - bytes);
	*why = "a control character";
	size_t pairs = escapes_scan(&p->escapes, bytes, good);
	if (pairs < good)
		*why = "half a surrogate pair as \\u escape";
	return pairs;
}

static int feed_slice(struct document_parser *p, const char *bytes, size_t len)
{
	const char *why;

	if (p->place == IN_END)
		return feed_rest(p, bytes, len);
	size_t good = good_bytes(p, bytes, len, &why);
	if (!told(p, guarded_parse(p, bytes, good)))
		return 0;
	if (p->place == IN_END) {
		size_t used = yajl_get_bytes_consumed(p->yajl);
		p->bytes += used;
		return feed_rest(p, bytes + used, len - used);
	}
	p->bytes += good;
	if (good < len)
		return document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT, "not JSON at byte %llu: %s",
						 (unsigned long long)p->bytes, why));
	return 1;
}

enum refusal_code document_parser_feed(struct document_parser *p, const char *bytes, size_t len, struct refusal *r)
{
	if (p->fault.code == R_DONE && len > DOCUMENT_BYTES_MAX - p->bytes)
		document_judged(p,
				refuse(&p->fault, R_BAD_DOCUMENT, "the document is longer than %llu bytes: divide it",
				       (unsigned long long)DOCUMENT_BYTES_MAX));
	while (p->fault.code == R_DONE && len) {
		size_t slice = len < SLICE ? len : SLICE;
		if (!feed_slice(p, bytes, slice))
			break;
		bytes += slice;
		len -= slice;
	}
	if (p->fault.code != R_DONE)
		*r = p->fault;
	return p->fault.code;
}

static enum refusal_code finish(struct document_parser *p)
{
	uint32_t twice;
	size_t len;

	if (p->fault.code != R_DONE || (p->place != IN_END && !told(p, guarded_parse(p, NULL, 0))))
		return p->fault.code;
	assert(p->place == IN_END); /* or yajl has said `premature EOF` */
	if (stage_sort(p->staged, &twice))
		return R_DONE;
	const char *key = document_key(p->staged, twice, &len);
	memcpy(p->id, key, len);
	p->id_len = len;
	p->place = IN_PARTITIONS;
	document_judged(p, refuse(&p->fault, R_BAD_DOCUMENT, "this partition is there twice: keep one"));
	return p->fault.code;
}

enum refusal_code document_parser_finish(struct document_parser **parser, struct document **out, struct refusal *r)
{
	struct document_parser *p = *parser;
	enum refusal_code code = finish(p);

	*out = NULL;
	if (code == R_DONE) {
		*out = p->staged;
		p->staged = NULL;
	} else {
		*r = p->fault;
	}
	document_parser_free(parser);
	return code;
}

enum refusal_code document_parse(const char *bytes, size_t len, struct document **out, struct refusal *r)
{
	struct document_parser *p = document_parser_new();

	*out = NULL;
	if (!p)
		return refuse(r, R_FULL, "no memory for the document: give the daemon more");
	document_parser_feed(p, bytes, len, r);
	return document_parser_finish(&p, out, r);
}
