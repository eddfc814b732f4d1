/*
 * The automaton with a host of a few lines of C: values are strings, state is
 * a counter.  Pipelines of every shape, streams cut at every byte, errors,
 * and replay from every checkpoint.
 */
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "common/part.h"
#include "tests/unit/unit.h"
#include "worker/automaton.h"
#include "worker/connector_wire.h"
#include "worker/worker.h"

/* --- the test host ----------------------------------------------------- */

static int
t_decode(struct host_app *h, int fn, struct slice s, host_val *out,
    struct err *err)
{
	(void)h;
	(void)fn;
	if (s.len == 4 && memcmp(s.data, "drop", 4) == 0) {
		*out = NULL;
		return (0);
	}
	if (s.len == 3 && memcmp(s.data, "bad", 3) == 0)
		return (err_set(err, ERR_USER, "ValueError: bad"));
	*out = xstrndup((const char *)s.data, s.len);
	return (0);
}

/* Splits at spaces. */
static int
t_step(struct host_app *h, int fn, bool multi, void *state, host_val in,
    struct host_out *out, struct err *err)
{
	char *copy, *word, *rest;
	unsigned long *n = state;

	(void)h;
	(void)fn;
	if (strcmp(in, "raise") == 0)
		return (err_set(err, ERR_USER, "ValueError: raise"));
	if (strcmp(in, "trace") == 0)
		return (err_set(err, ERR_USER, "File \"x\"\n\tRunning\n"
		    "ValueError: \\"));
	if (strcmp(in, "broken") == 0)
		return (err_set(err, ERR_CORRUPT, "no user error"));
	if (state != NULL) {
		host_out_add(out, xasprintf("%s=%lu", (char *)in, ++*n));
		return (0);
	}
	if (!multi) {
		host_out_add(out, xstrdup(in));
		return (0);
	}
	rest = copy = xstrdup(in);
	while ((word = strsep(&rest, " ")) != NULL)
		if (*word != '\0')
			host_out_add(out, xstrdup(word));
	free(copy);
	return (0);
}

enum { FN_TIME = 50, FN_LETTER, FN_EVENTS, FN_END, FN_TIMED };

static int
t_key(struct host_app *h, int fn, host_val v, struct buf *key,
    struct err *err)
{
	uint64_t t;

	(void)h;
	if (fn == FN_TIME) {		/* of "a17" */
		t = htobe64(strtoull((const char *)v + 1, NULL, 10));
		buf_add(key, &t, sizeof(t));
		return (0);
	}
	if (fn == FN_LETTER) {
		buf_add(key, v, 1);
		return (0);
	}
	if (strcmp(v, "keyless") == 0)
		return (err_set(err, ERR_USER, "KeyError: keyless"));
	while (fn == 1 && key->len < 2000)	/* too large for anything */
		buf_add(key, "no key ", 7);
	buf_add(key, v, strlen(v));
	return (0);
}

static int
t_frame_len(struct host_app *h, int fn, struct slice header, uint64_t *len,
    struct err *err)
{
	(void)h;
	(void)fn;
	if (header.data[0] == '!')
		return (err_set(err, ERR_USER, "ValueError: no header"));
	*len = (uint64_t)(header.data[0] - '0') * 10 +
	    (uint64_t)(header.data[1] - '0');
	return (0);
}

static const char *drift = "";	/* what no replay knows */

static int
t_encode(struct host_app *h, int fn, host_val v, struct buf *b, bool *none,
    struct err *err)
{
	(void)h;
	(void)fn;
	if (strncmp(v, "unwritable", 10) == 0)
		return (err_set(err, ERR_USER, "TypeError: unwritable"));
	*none = strcmp(v, "nothing=1") == 0;
	if (!*none)
		buf_addf(b, "%s%s\n", (char *)v, drift);
	return (0);
}

static int
t_pack(struct host_app *h, host_val v, struct buf *b, struct err *err)
{
	(void)h;
	if (strcmp(v, "unpackable") == 0)
		return (err_set(err, ERR_USER, "TypeError: a lock"));
	buf_add(b, v, strlen(v));
	return (0);
}

static int
t_unpack(struct host_app *h, struct slice s, host_val *v, struct err *err)
{
	(void)h;
	if (s.len == 4 && memcmp(s.data, "torn", 4) == 0)
		return (err_set(err, ERR_USER, "UnpicklingError: torn"));
	*v = xstrndup((const char *)s.data, s.len);
	return (0);
}

static void
t_free(struct host_app *h, void *v)
{
	(void)h;
	free(v);
}

static bool stateless;		/* no state can be made */

static int
t_state_new(struct host_app *h, int fn, void **obj, struct err *err)
{
	(void)h;
	(void)fn;
	if (stateless)
		return (err_set(err, ERR_USER, "TypeError: no state"));
	*obj = xcalloc(1, sizeof(unsigned long));
	return (0);
}

static int
t_state_save(struct host_app *h, int fn, const void *obj, struct buf *b,
    struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	buf_addf(b, "%lu", *(const unsigned long *)obj);
	return (0);
}

static int
t_state_load(struct host_app *h, int fn, struct slice s, void **obj,
    struct err *err)
{
	(void)h;
	(void)fn;
	if (s.len != sizeof(unsigned long))
		return (err_set(err, ERR_USER, "EOFError: state"));
	*obj = xmalloc(sizeof(unsigned long));
	memcpy(*obj, s.data, sizeof(unsigned long));
	return (0);
}

static void
t_repr(struct host_app *h, const void *v, struct buf *b)
{
	(void)h;
	(void)v;
	buf_addf(b, "value");
}

/* Windows of ten, one at a time: the end in n's upper half, a count. */
static int
events(unsigned long *n, struct slice key, host_val in, uint64_t time_ns,
    uint64_t watermark, struct host_out *out, struct host_window *w)
{
	unsigned long end = *n >> 32, count = *n & 0xffff;

	ck_assert_ptr_nonnull(w->event);
	if (in != NULL && time_ns / 10 * 10 + 10 <= watermark) {
		w->late = w->same = true;
		return (0);
	}
	if (in != NULL) {
		end = time_ns / 10 * 10 + 10;
		count++;
	} else {
		ck_assert_uint_eq(end, watermark);
		host_window_reserve(w, 1);
		w->time_ns[0] = end - 1;
		host_out_add(out, xasprintf("%.*s:%lu@%lu", (int)key.len,
		    (const char *)key.data, count, end));
		count = 0;
	}
	*n = end << 32 | count;
	w->due = end;
	w->open = count > 0;
	w->same = false;
	return (0);
}

/* "a17": a timer after 17, in n; it says how late it is called.  With an r the
 * key expires then. */
static int
timed(unsigned long *n, struct slice key, host_val in, uint64_t time_ns,
    uint64_t watermark, struct host_out *out, struct host_window *w)
{
	const char *word = in;

	w->same = false;
	if (in != NULL)
		*n = time_ns + strtoul(word + 1, NULL, 10);
	host_window_reserve(w, 1);
	w->time_ns[0] = time_ns;
	host_out_add(out, in != NULL ? xstrdup(word) : watermark ==
	    REACH_ENDLESS ? xasprintf("%.*s~", (int)key.len,
	    (const char *)key.data) : xasprintf("%.*s+%lu", (int)key.len,
	    (const char *)key.data, (unsigned long)time_ns - *n));
	if (in == NULL)
		*n = UINT64_MAX;
	w->due = *n;
	w->open = false;
	w->rests = in != NULL && strchr(word, 'r') != NULL;
	w->gone = in == NULL && watermark != REACH_ENDLESS;
	return (0);
}

/* A count window of three, of the words' lengths. */
static int
t_window(struct host_app *h, int fn, void *state, struct slice key,
    host_val in, uint64_t time_ns, uint64_t watermark, struct host_out *out,
    struct host_window *w, int (*failed)(void *, struct err *), void *arg,
    struct err *err)
{
	unsigned long *n = state;

	(void)h;
	w->newest_ns = 0;
	if (fn == FN_END) {		/* of a key of the state */
		ck_assert_ptr_null(in);
		host_window_reserve(w, 1);
		w->time_ns[0] = time_ns;
		host_out_add(out, xasprintf("%.*s!%lu", (int)key.len,
		    (const char *)key.data, *n));
		w->open = w->same = false;
		return (0);
	}
	if (fn == FN_TIMED)
		return (timed(n, key, in, time_ns, watermark, out, w));
	if (fn == FN_EVENTS)
		return (events(n, key, in, time_ns, watermark, out, w));
	if (in != NULL && strcmp(in, "raise") == 0) {
		(void)err_set(err, ERR_USER, "ValueError: raise");
		if (failed(arg, err) == -1)
			return (-1);
	} else if (in != NULL)
		++*n;
	if (*n == 3 || (in == NULL && *n > 0)) {
		host_window_reserve(w, 1);
		w->time_ns[0] = w->newest_ns = time_ns;
		host_out_add(out, xasprintf("%.*s:%lu", (int)key.len,
		    (const char *)key.data, *n));
		*n = 0;
	}
	w->due = 0;
	w->open = *n > 0;
	w->same = in != NULL && *n > 1;
	return (0);
}

static int generated;
static bool no_value;		/* the generator raises */

static int
t_generate(struct host_app *h, int fn, host_val *out, struct err *err)
{
	(void)h;
	(void)fn;
	if (no_value)
		return (err_set(err, ERR_USER, "ValueError: generator"));
	*out = generated < 5 ? xasprintf("g%d", generated++) : NULL;
	return (0);
}

static const struct host test_host = {
	.name = "test", .abi = HOST_ABI, .decode = t_decode, .key = t_key,
	.step = t_step, .encode = t_encode, .pack = t_pack,
	.unpack = t_unpack, .val_free = t_free, .state_new = t_state_new,
	.state_save = t_state_save, .state_load = t_state_load,
	.state_free = t_free, .repr = t_repr, .generate = t_generate,
	.window = t_window, .frame_len = t_frame_len,
};

/* --- one worker, or one of several, over a journal in memory ----------- */

static struct topo_source sources[] = {
	{ .name = "lines", .kind = SOURCE_TCP, .next = 0,
	    .framing = FRAMING_LINES, .max_size = 100, .key = NULL },
	{ .name = "framed", .kind = SOURCE_TCP, .next = 0,
	    .framing = FRAMING_HEADER, .header_length = 2, .header_big = true,
	    .max_size = 100 },
	{ .name = "file", .kind = SOURCE_FILE, .next = 0,
	    .framing = FRAMING_LINES, .max_size = 100 },
	{ .name = "gen", .kind = SOURCE_GEN, .next = 0,
	    .framing = FRAMING_NONE },
	{ .name = "custom", .kind = SOURCE_TCP, .next = 0,
	    .framing = FRAMING_CUSTOM, .header_length = 2, .max_size = 30 },
	{ .name = "custom file", .kind = SOURCE_FILE, .next = 0,
	    .framing = FRAMING_CUSTOM, .header_length = 2, .max_size = 30 },
	{ .name = "signed", .kind = SOURCE_TCP, .next = 0,
	    .framing = FRAMING_HEADER, .header_length = 2,
	    .header_signed = true, .max_size = 100000 },
	{ .name = "feed", .kind = SOURCE_CONNECTOR, .next = 0,
	    .framing = FRAMING_CONNECTOR, .header_length = 4,
	    .header_big = true, .max_size = 200,
	    .cookie = (char *)(uintptr_t)"", .max_credits = 7 },
};
static struct topo_stage stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1,
	    .multi = true },
	{ .name = "word", .kind = STAGE_KEY_BY, .next = 2, .exchange = 0 },
	{ .name = "count", .kind = STAGE_STATE, .next = 3, .exchange = -1 },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};
static struct topo_sink sinks[] = {
	{ .name = "tcp", .kind = SINK_TCP, .exchange = -1 },
	{ .name = "dead-letters", .kind = SINK_DEAD, .exchange = 1 },
};
static int exchange_stage[] = { 2, -1 }, exchange_sink[] = { -1, 1 };
static struct topo topo = { .application = NULL, .sources = sources,
	.nsources = 8, .stages = stages, .nstages = 4, .sinks = sinks,
	.nsinks = 2, .nexchanges = 2, .exchange_stage = exchange_stage,
	.exchange_sink = exchange_sink };

struct bench {
	struct conf_app	 conf;
	struct stats	*stats;
	struct journal	 journal;
	struct automaton a;
	uint64_t	 off;
};

static void
make_automaton(struct bench *b, uint32_t me, uint32_t n)
{
	struct err err;

	b->a.conf = &b->conf;
	b->a.topo = &topo;
	b->a.host = &test_host;
	b->a.journal = &b->journal;
	b->a.stats = b->stats;
	b->a.worker = me;
	b->a.workers = n;
	b->a.bits = part_bits(256);
	b->a.table = xcalloc(256, sizeof(*b->a.table));
	part_assign(b->a.table, 256, n);
	ck_assert_int_eq(automaton_init(&b->a, &err), 0);
}

static void
begin(struct bench *b, uint32_t me, uint32_t n)
{
	struct err err;

	memset(b, 0, sizeof(*b));
	b->conf.partitions = 256;
	b->conf.max_message = 1000;
	b->stats = xcalloc(1, STATS_SIZE);
	ck_assert_int_eq(journal_create(&b->journal, NULL, 1 << 20, me, 1, 0,
	    &err), 0);
	make_automaton(b, me, n);
}

/* With another pipeline. */
static void
begin_of(struct bench *b, const struct topo *t)
{
	struct err err;

	begin(b, 0, 1);
	automaton_fini(&b->a);
	b->a.topo = t;
	b->a.nwindows = 0;
	ck_assert_int_eq(automaton_init(&b->a, &err), 0);
}

/* A new life with the same journal, whose outputs up to drop have left. */
static void
again(struct bench *b, uint64_t drop)
{
	uint32_t me = b->a.worker, n = b->a.workers;

	automaton_fini(&b->a);
	free(b->a.table);
	memset(&b->a, 0, sizeof(b->a));
	make_automaton(b, me, n);
	b->a.drop = drop;
}

static void
end(struct bench *b)
{
	automaton_fini(&b->a);
	free(b->a.table);
	journal_close(&b->journal);
	free(b->stats);
}

static void
entry(struct bench *b, enum entry_type type, uint64_t channel, uint64_t off,
    const void *data, size_t len, uint16_t flags)
{
	memcpy(journal_stage(&b->journal, type, channel, off, (uint32_t)len,
	    flags), data, len);
	journal_publish(&b->journal, (uint32_t)len);
}

static void
open_conn(struct bench *b, uint64_t id, uint32_t source)
{
	entry(b, ENTRY_OPEN, id, 0, &source, sizeof(source), 0);
	b->off = 0;
}

static void
bytes(struct bench *b, uint64_t id, const void *data, size_t len)
{
	entry(b, ENTRY_BYTES, id, b->off, data, len, 0);
	b->off += len;
}

static uint64_t
never(void)
{
	return (0);
}

static void
run(struct bench *b)
{
	struct err err;

	while (b->a.pos < journal_tail(&b->journal))
		ck_assert_msg(automaton_run(&b->a, never, 0, SIZE_MAX, &err)
		    == 0, "%s", err.text);
}

static void
sent(struct bench *b, size_t sink, const char *expect)
{
	ck_assert_str_eq(buf_str(&b->a.to_sink[sink].data), expect);
}

/* --- tests ------------------------------------------------------------- */

START_TEST(test_counts_words)
{
	struct bench b;
	static const char text[] = "a b a\n\nb\r\ndrop\nnothing\n";

	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	bytes(&b, 1, text, strlen(text));
	run(&b);
	sent(&b, 0, "a=1\nb=1\na=2\nb=2\n");
	ck_assert_uint_eq(b.a.nkeys, 3);
	end(&b);
}
END_TEST

/* A record may arrive in pieces of any size, in lines and in frames. */
START_TEST(test_streams_cut_at_every_byte)
{
	static const char lines[] = "a b a\nlonger words here\nb\n";
	static const char frames[] = "\0\5a b a\0\0\0\21longer words here\0\1b";
	struct bench b;
	size_t cut, cut2, len;
	uint32_t source;

	for (source = 0; source < 2; source++) {
		const char *text = source == 0 ? lines : frames;

		len = source == 0 ? sizeof(lines) - 1 : sizeof(frames) - 1;
		for (cut = 1; cut < len; cut++)
			for (cut2 = cut + 1; cut2 < len; cut2 += 3) {
				begin(&b, 0, 1);
				open_conn(&b, 1, source);
				bytes(&b, 1, text, cut);
				bytes(&b, 1, text + cut, cut2 - cut);
				bytes(&b, 1, text + cut2, len - cut2);
				run(&b);
				sent(&b, 0, "a=1\nb=1\na=2\nlonger=1\n"
				    "words=1\nhere=1\nb=2\n");
				end(&b);
			}
	}
}
END_TEST

START_TEST(test_garbage_costs_its_own_connection)
{
	struct bench b;
	char big[300];

	begin(&b, 0, 1);
	open_conn(&b, 1, 1);
	open_conn(&b, 2, 0);
	bytes(&b, 1, "\0\1a\xff\xff", 5);	/* frame of 65535 bytes */
	b.off = 0;
	bytes(&b, 2, "b\n", 2);
	run(&b);
	sent(&b, 0, "a=1\nb=1\n");
	ck_assert_uint_eq(b.a.garbage.len, sizeof(uint64_t));
	memset(big, 'x', sizeof(big));
	bytes(&b, 2, big, sizeof(big));		/* a line without an end */
	run(&b);
	ck_assert_uint_eq(b.a.garbage.len, 2 * sizeof(uint64_t));
	bytes(&b, 2, "c\n", 2);			/* nothing more is taken */
	run(&b);
	sent(&b, 0, "a=1\nb=1\n");
	end(&b);
}
END_TEST

/* --- connectors ---------------------------------------------------------- */

static struct slice
text_of(const char *s)
{
	return (slice_of(s, strlen(s)));
}

#define SAID(b, name, ...)						\
	wire_put_##name((b), &(struct wire_##name){ __VA_ARGS__ })

/* Cut into pieces of so many bytes. */
static void
says(struct bench *b, uint64_t id, uint64_t *off, const struct buf *said,
    size_t step)
{
	size_t at, n;

	for (at = 0; at < said->len; at += n, *off += n) {
		n = said->len - at < step ? said->len - at : step;
		entry(b, ENTRY_BYTES, id, *off, said->data + at, n, 0);
	}
	run(b);
}

static struct in_conn *
conn_of(struct bench *b, uint64_t id)
{
	struct in_conn *c;

	HASH_FIND(hh, b->a.conns, &id, sizeof(id), c);
	ck_assert_ptr_nonnull(c);
	return (c);
}

/* Whether the answers so far are these. */
static void
answered(struct bench *b, uint64_t id, struct buf *expect)
{
	struct in_conn *c = conn_of(b, id);

	ck_assert_uint_eq(c->reply.len, expect->len);
	if (expect->len > 0)
		ck_assert_mem_eq(c->reply.data, expect->data, expect->len);
	buf_clear(&c->reply);
	buf_clear(expect);
}

static void
session(size_t step)
{
	struct buf said = { 0 }, expect = { 0 };
	uint64_t off = 0, other = 0;
	struct bench b;
	int i;

	begin(&b, 0, 1);
	b.conf.connector_streams = 2;
	b.conf.on_error = CONF_DEAD_LETTER;
	open_conn(&b, 1, 7);
	open_conn(&b, 2, 7);
	SAID(&said, hello, text_of("0.0.1"), text_of(""), text_of("p"),
	    text_of("i"));
	says(&b, 2, &other, &said, step);
	SAID(&said, notify, 5, text_of("five"), 0);
	SAID(&said, message, 5, 1, 0, text_of("k"), text_of("a b"));
	SAID(&said, message, 5, 1, 0, text_of("k"), text_of("a again"));
	SAID(&said, message, 5, 2, 0, text_of("k"), text_of("bad"));
	SAID(&said, message, 5, 3, 0, text_of(""), text_of(""));
	says(&b, 1, &off, &said, step);
	SAID(&expect, ok, 7);
	SAID(&expect, notify_ack, 1, 5, WIRE_NOTHING);
	answered(&b, 1, &expect);
	ck_assert_uint_eq(conn_of(&b, 1)->frames, 6);
	ck_assert_uint_eq(b.a.talk.len, 2 * sizeof(uint64_t));
	ck_assert_uint_eq(b.a.sources[7].off, 4);
	ck_assert_uint_eq(streams_find(&b.a.sources[7].streams, 5)->seen, 3);
	sent(&b, 0, "a=1\nb=1\n");
	/* A record that fails has its key in its letter. */
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"key\": \"k\""));
	/* Each way in which a connection can end sets its streams free. */
	SAID(&expect, ok, 7);
	for (i = 0; i < 3; i++) {
		buf_clear(&said);
		SAID(&said, notify, 5, text_of("five"), 9);
		says(&b, 2, &other, &said, step);
		SAID(&expect, notify_ack, i > 0, 5, i > 0 ? WIRE_NOTHING : 9);
		answered(&b, 2, &expect);
		if (i == 0)
			entry(&b, ENTRY_EOF, 1, off, "", 1, ENTRY_RESET);
		else if (i == 1) {
			open_conn(&b, 3, 7);
			entry(&b, ENTRY_FORGET, 2, other, "", 1, 0);
			open_conn(&b, 2, 7);
			other = 0;
			buf_clear(&said);
			SAID(&said, hello, text_of("0.0.1"), text_of(""),
			    text_of(""), text_of(""));
			says(&b, 2, &other, &said, step);
			SAID(&expect, ok, 7);
		}
	}
	buf_clear(&said);
	SAID(&said, ok, 1);			/* it must not say that */
	says(&b, 2, &other, &said, step);
	SAID(&expect, error, text_of("Invalid message: ok"));
	answered(&b, 2, &expect);
	ck_assert_uint_eq(b.a.garbage.len, sizeof(uint64_t));
	ck_assert_uint_eq(streams_find(&b.a.sources[7].streams, 5)->conn, 0);
	off = 0;
	buf_clear(&said);
	buf_add(&said, "\1\0\0\0", 4);		/* so long a frame */
	says(&b, 3, &off, &said, step);
	SAID(&expect, error, text_of("frame larger than max_size"));
	answered(&b, 3, &expect);
	ck_assert_uint_eq(b.a.garbage.len, 2 * sizeof(uint64_t));
	buf_fini(&said);
	buf_fini(&expect);
	end(&b);
}

START_TEST(test_connectors)
{
	size_t step;

	for (step = 1; step < 40; step++)
		session(step);
	session(SIZE_MAX);
}
END_TEST

START_TEST(test_forgotten_connectors)
{
	struct buf said = { 0 };
	uint64_t off = 0;
	struct bench b;

	begin(&b, 0, 1);
	b.conf.connector_streams = 2;
	open_conn(&b, 1, 7);
	SAID(&said, hello, text_of("0.0.1"), text_of(""), text_of("p"),
	    text_of("i"));
	SAID(&said, notify, 5, text_of("five"), 0);
	says(&b, 1, &off, &said, 1000);
	ck_assert_uint_eq(streams_find(&b.a.sources[7].streams, 5)->conn, 1);
	automaton_forget_conns(&b.a);
	ck_assert_uint_eq(streams_find(&b.a.sources[7].streams, 5)->conn, 0);
	ck_assert_uint_eq(HASH_COUNT(b.a.conns), 0);
	buf_fini(&said);
	end(&b);
}
END_TEST

START_TEST(test_end_of_streams)
{
	struct bench b;

	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a\nb\r", 4);
	entry(&b, ENTRY_EOF, 1, 4, "", 1, 0);	/* a last line is a line */
	open_conn(&b, 2, 0);
	bytes(&b, 2, "c\nd", 3);
	entry(&b, ENTRY_EOF, 2, 3, "", 1, ENTRY_RESET);	/* cut off: is not */
	open_conn(&b, 3, 1);
	bytes(&b, 3, "\0\5ab", 4);
	entry(&b, ENTRY_EOF, 3, 4, "", 1, 0);	/* half a frame */
	entry(&b, ENTRY_FILE, 2, 0, "e\nf", 3, 0);
	entry(&b, ENTRY_EOF, 2, 3, "", 1, ENTRY_SOURCE);
	entry(&b, ENTRY_FORGET, 1, 3, "", 1, 0);
	run(&b);
	sent(&b, 0, "a=1\nb=1\nc=1\ne=1\nf=1\n");
	ck_assert_uint_eq(HASH_COUNT(b.a.conns), 2);
	ck_assert(b.a.sources[2].ended);
	end(&b);
}
END_TEST

START_TEST(test_generator_ends)
{
	struct bench b;
	uint8_t zeros[8] = { 0 };

	generated = 0;
	begin(&b, 0, 1);
	entry(&b, ENTRY_GEN, 3, 0, zeros, 8, 0);
	run(&b);
	sent(&b, 0, "g0=1\ng1=1\ng2=1\ng3=1\ng4=1\n");
	ck_assert(b.a.sources[3].ended);
	ck_assert_uint_eq(b.a.sources[3].off, 5);
	entry(&b, ENTRY_GEN, 3, 8, zeros, 8, 0);
	run(&b);
	ck_assert_uint_eq(b.a.pos, journal_tail(&b.journal));
	end(&b);
}
END_TEST

START_TEST(test_policies)
{
	struct bench b;
	struct err err;

	/* fail: the record is not processed, what came before it is. */
	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a\nb raise c\nd\n", 15);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_int_eq(err.code, ERR_USER);
	ck_assert_ptr_nonnull(strstr(err.text, "step=\"count\""));
	sent(&b, 0, "a=1\n");
	end(&b);

	begin(&b, 0, 1);
	b.conf.on_error = CONF_SKIP;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a\nb raise c\nbad\nd\n", 19);
	run(&b);
	sent(&b, 0, "a=1\nb=1\nc=1\nd=1\n");
	ck_assert_uint_eq(STAT_GET(b.stats, skipped), 2);
	end(&b);

	begin(&b, 0, 1);
	b.conf.on_error = CONF_DEAD_LETTER;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a\nb raise c\n", 12);
	run(&b);
	sent(&b, 0, "a=1\nb=1\nc=1\n");
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"step\": \"count\""));
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "ValueError: raise"));
	end(&b);
}
END_TEST

START_TEST(test_a_message_too_large_is_an_error_of_its_step)
{
	struct bench b;
	char text[90];

	begin(&b, 0, 1);
	b.conf.on_error = CONF_SKIP;
	b.conf.max_message = 50;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\n';
	open_conn(&b, 1, 0);
	bytes(&b, 1, text, sizeof(text));
	bytes(&b, 1, "ok\n", 3);
	run(&b);
	sent(&b, 0, "ok=1\n");
	end(&b);
}
END_TEST

/* --- two workers: records cross, marks drop what was sent twice -------- */

static void
deliver(struct bench *from, struct bench *to, int x, bool twice)
{
	struct turn *t = &from->a.to_peer[(uint32_t)x * from->a.workers +
	    to->a.worker];
	struct frame_head h = { 77, 0, 0, 0 };
	struct buf body = { 0 };
	size_t i, at = 0;

	for (i = 0; i < t->nframes; i++) {
		h.pos = t->frame[i].pos;
		h.index = t->frame[i].index;
		h.records = t->frame[i].records;
		buf_clear(&body);
		buf_add(&body, &h, sizeof(h));
		buf_add(&body, t->data.data + at, t->frame[i].end - at);
		at = t->frame[i].end;
		entry(to, ENTRY_FRAME, (uint64_t)from->a.worker << 16 |
		    (uint32_t)x, 0, body.data, body.len, 0);
		if (twice)
			entry(to, ENTRY_FRAME, (uint64_t)from->a.worker << 16
			    | (uint32_t)x, 0, body.data, body.len, 0);
	}
	buf_fini(&body);
}

START_TEST(test_exchange_and_duplicates)
{
	struct bench b[2];
	struct buf all = { 0 };
	char text[4000];
	size_t len = 0;
	int i, lines = 0;

	begin(&b[0], 0, 2);
	begin(&b[1], 1, 2);
	open_conn(&b[0], 1, 0);
	for (i = 0; i < 300; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "w%d w%d\n", i % 50, i % 7);
	bytes(&b[0], 1, text, len);
	run(&b[0]);
	deliver(&b[0], &b[1], 0, true);
	run(&b[1]);
	buf_add(&all, b[0].a.to_sink[0].data.data,
	    b[0].a.to_sink[0].data.len);
	buf_add(&all, b[1].a.to_sink[0].data.data,
	    b[1].a.to_sink[0].data.len);
	for (i = 0; i < (int)all.len; i++)
		lines += all.data[i] == '\n';
	ck_assert_int_eq(lines, 600);
	ck_assert_uint_gt(b[1].a.to_sink[0].data.len, 100);
	ck_assert_ptr_nonnull(strstr(buf_str(&all), "w3=49\n"));
	ck_assert_ptr_null(strstr(buf_str(&all), "w3=50\n"));
	ck_assert_uint_eq(b[0].a.nkeys + b[1].a.nkeys, 50);
	buf_fini(&all);
	end(&b[0]);
	end(&b[1]);
}
END_TEST

/* Replay drops exactly what had left, at whichever record that was. */
START_TEST(test_replay_drops_by_position)
{
	static const char text[] = "a b a\nc\nb b\na\n";
	struct bench b;
	struct err err;
	uint64_t cut[16], n = 0;
	char whole[200];
	size_t i, left[16];

	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	bytes(&b, 1, text, strlen(text));
	while (b.a.pos < journal_tail(&b.journal)) {
		ck_assert_int_eq(automaton_run(&b.a, never, 0, 1, &err), 0);
		cut[n] = b.a.pos;
		left[n++] = b.a.to_sink[0].data.len;
	}
	ck_assert_uint_ge(n, 4);
	snprintf(whole, sizeof(whole), "%s", buf_str(&b.a.to_sink[0].data));
	end(&b);
	for (i = 0; i < n; i++) {
		begin(&b, 0, 1);
		open_conn(&b, 1, 0);
		bytes(&b, 1, text, strlen(text));
		b.a.drop = cut[i];
		run(&b);
		sent(&b, 0, whole + left[i]);
		end(&b);
	}
}
END_TEST

/* --- records that kill ------------------------------------------------- */

static uint64_t
decide(struct bench *b, uint64_t stamp, uint32_t call, uint32_t level)
{
	uint64_t at = journal_tail(&b->journal);
	struct buf p = { 0 };

	automaton_aside_pack(&p, stamp, call, level, "signal 11");
	entry(b, ENTRY_ASIDE, 0, 0, p.data, p.len, 0);
	buf_fini(&p);
	return (at);
}

/* What recovery does before a replay. */
static void
learn(struct bench *b, uint64_t at)
{
	struct err err;

	ck_assert_int_eq(automaton_aside_add(&b->a, journal_at(&b->journal,
	    at), &err), 0);
	/* A second time, as from a checkpoint, it is known. */
	ck_assert_int_eq(automaton_aside_add(&b->a, journal_at(&b->journal,
	    at), &err), 0);
	ck_assert_uint_eq(b->a.naside, 1);
}

/*
 * One call is left out, wherever the replay begins to let outputs leave; its
 * letter leaves with the entry that decided it, once.
 */
START_TEST(test_set_aside)
{
	static const char text[] = "a\nb poison c\nd\n";
	static const char whole[] = "a=1\nb=1\nc=1\nd=1\n";
	struct bench b;
	uint64_t first, at, stamp, drop;
	size_t skip;

	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	first = journal_tail(&b.journal) + ENTRY_HEADER;
	bytes(&b, 1, text, strlen(text));
	stamp = first + 13;
	/* decode, split, then key, count and sink of "b": it is the 7th */
	at = decide(&b, stamp, 7, 1);
	for (drop = first; drop <= journal_tail(&b.journal); drop++) {
		again(&b, drop);
		learn(&b, at);
		run(&b);
		skip = drop < first + 2 ? 0 : drop < stamp ? 4 :
		    drop < first + 15 ? 12 : 16;
		sent(&b, 0, whole + skip);
		ck_assert_uint_eq(b.a.naside, 0);
		if (drop > at + ENTRY_HEADER) {
			ck_assert_uint_eq(b.a.to_sink[1].data.len, 0);
			continue;
		}
		ck_assert_uint_eq(b.a.to_sink[1].nframes, 1);
		ck_assert_uint_eq(b.a.to_sink[1].frame[0].records, 1);
		ck_assert_uint_gt(b.a.to_sink[1].frame[0].pos, at);
		ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
		    "\"step\": \"count\", \"key\": \"poison\""));
		ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
		    "signal 11"));
	}
	ck_assert_uint_eq(STAT_GET(b.stats, nondeterministic), 0);
	end(&b);
}
END_TEST

START_TEST(test_set_aside_bare)
{
	struct bench b;
	uint64_t at, first;

	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	first = journal_tail(&b.journal) + ENTRY_HEADER;
	bytes(&b, 1, "poison\n", 7);
	at = decide(&b, first + 7, 4, ASIDE_BARE);
	learn(&b, at);
	ck_assert_uint_eq(automaton_aside_level(&b.a, first + 7, 4),
	    ASIDE_BARE);
	run(&b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "not shown"));
	ck_assert_ptr_null(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"record\""));
	/* A call that does not come: no letter, nothing left out. */
	again(&b, 0);
	at = decide(&b, first + 7, 40, 1);
	learn(&b, at);
	run(&b);
	sent(&b, 0, "poison=1\n");
	ck_assert_uint_eq(b.a.to_sink[1].data.len, 0);
	end(&b);
}
END_TEST

START_TEST(test_note_of_the_call)
{
	struct journal_note note;
	struct bench b;

	memset(&note, 0, sizeof(note));
	begin(&b, 0, 1);
	b.a.note = &note;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a b\n", 4);
	run(&b);
	ck_assert_uint_eq(note.call, 0);	/* nobody is in user code */
	ck_assert_uint_gt(note.stamp, 0);
	ck_assert_int_eq(NOTE_STAGE(NOTE_CALL(7, -1)), -1);
	ck_assert_uint_eq(NOTE_NUMBER(NOTE_CALL(FRAMING_CALL, 3)),
	    FRAMING_CALL);
	end(&b);
}
END_TEST

/* --- keys that wait to be saved ----------------------------------------- */

struct saved {
	struct automaton	*a;
	struct buf		 text;
};

static void
save(void *arg, size_t stage, struct kent *e)
{
	struct saved *s = arg;
	struct err err;

	buf_addf(&s->text, "%.*s:", (int)e->key_len, (const char *)e->key);
	ck_assert_int_eq(automaton_save(s->a, stage, e, &s->text, &err), 0);
	buf_addf(&s->text, " ");
	e->round = 0;
}

static void
drop_nothing(void *obj, void *arg)
{
	(void)obj;
	(void)arg;
}

static uint64_t
table_hash(uint32_t i)
{
	return (part_hash(slice_of(&i, sizeof(i))));
}

/* A table grows bit by bit, and is whole at each moment. */
START_TEST(table_grows)
{
	enum { KEYS = 50000 };
	struct keytab t;
	struct kent *e;
	size_t i, n, before;
	uint32_t k, seen;

	keytab_init(&t);
	for (k = 0; k < KEYS; k++) {
		before = t.old == NULL ? 0 : t.moved;
		e = keytab_add(&t, slice_of(&k, sizeof(k)), table_hash(k));
		if (t.old != NULL && before != 0)
			ck_assert_uint_le(t.moved - before, KEYTAB_MOVE);
		if (k % 2 == 0)		/* it goes on by itself */
			continue;
		ck_assert_ptr_eq(keytab_find(&t, slice_of(&k, sizeof(k)),
		    table_hash(k)), e);
		seen = (uint32_t)(table_hash(k) % (k + 1));
		ck_assert_ptr_nonnull(keytab_find(&t, slice_of(&seen,
		    sizeof(seen)), table_hash(seen)));
		seen = k + 1;
		ck_assert_ptr_null(keytab_find(&t, slice_of(&seen,
		    sizeof(seen)), table_hash(seen)));
		if (k % 997 != 1 && (t.old == NULL || k > 3000))
			continue;
		for (i = n = 0; keytab_next(&t, &i) != NULL; n++)
			continue;
		ck_assert_uint_eq(n, k + 1);
	}
	/* Without another key, too. */
	for (k = 0; t.old != NULL && k < 50 * KEYS; k++) {
		seen = k % KEYS;
		ck_assert_ptr_nonnull(keytab_find(&t, slice_of(&seen,
		    sizeof(seen)), table_hash(seen)));
	}
	ck_assert_ptr_null(t.old);
	keytab_fini(&t, drop_nothing, NULL);
}
END_TEST

/* What is taken out is not found, and hides nothing, also while keys move. */
START_TEST(table_shrinks)
{
	enum { KEYS = 3000 };
	static struct kent *at[KEYS];
	struct keytab t;
	uint64_t seed = 11;
	size_t i, n, left = 0;
	uint32_t k;

	keytab_init(&t);
	memset(at, 0, sizeof(at));
	for (int turn = 0; turn < 60000; turn++) {
		k = (uint32_t)(unit_random(&seed) % KEYS);
		if (at[k] == NULL) {
			at[k] = keytab_add(&t, slice_of(&k, sizeof(k)),
			    table_hash(k) & 0xfff);	/* they collide */
			left++;
		} else if (unit_random(&seed) % 3 != 0) {
			keytab_remove(&t, at[k]);
			at[k] = NULL;
			left--;
		}
		k = (uint32_t)(unit_random(&seed) % KEYS);
		ck_assert_ptr_eq(keytab_find(&t, slice_of(&k, sizeof(k)),
		    table_hash(k) & 0xfff), at[k]);
		if (turn % 1000 != 0 && t.old == NULL)
			continue;
		for (i = n = 0; keytab_next(&t, &i) != NULL; n++)
			continue;
		ck_assert_uint_eq(n, left);
		ck_assert_uint_eq(t.n, left);
	}
	keytab_fini(&t, drop_nothing, NULL);
}
END_TEST

START_TEST(test_a_key_that_waits_is_saved_before_it_changes)
{
	struct keytab *t;
	struct saved s = { 0 };
	struct kent *e;
	struct bench b;
	size_t stage, most = 10;

	begin(&b, 0, 1);
	for (stage = 0; !stage_has_state(&b.a.topo->stages[stage]); stage++)
		;
	t = &b.a.keys[stage];
	s.a = &b.a;
	b.a.save_first = save;
	b.a.save_arg = &s;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a b c a\n", 8);
	run(&b);
	ck_assert_uint_eq(t->dirty.n, 3);
	keytab_round(t);
	bytes(&b, 1, "b b d\n", 6);		/* d is new: it is in no wait */
	run(&b);
	ck_assert_str_eq(buf_str(&s.text), "b:1 ");
	ck_assert_uint_eq(t->dirty.n, 2);
	while ((e = keytab_waiting(t, &most)) != NULL)
		save(&s, stage, e);
	ck_assert_uint_eq(most, 7);
	ck_assert_str_eq(buf_str(&s.text), "b:1 a:2 c:1 ");
	/* Saved: nothing is to be done before it changes again. */
	bytes(&b, 1, "a\n", 2);
	run(&b);
	ck_assert_uint_eq(t->dirty.n, 3);
	buf_clear(&s.text);
	keytab_round(t);
	while ((e = keytab_waiting(t, &most)) != NULL)
		save(&s, stage, e);
	ck_assert_str_eq(buf_str(&s.text), "b:3 d:1 a:3 ");
	most = 1;
	ck_assert_ptr_null(keytab_waiting(t, &most));
	ck_assert_uint_eq(most, 1);
	buf_fini(&s.text);
	end(&b);
}
END_TEST

/* --- is it deterministic? ---------------------------------------------- */

START_TEST(test_nondeterministic)
{
	struct bench b;
	uint64_t tail;

	begin(&b, 0, 1);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a b\nc\n", 6);
	bytes(&b, 1, "d\n", 2);
	run(&b);
	tail = journal_tail(&b.journal);
	again(&b, tail);
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, nondeterministic), 0);
	drift = "!";
	again(&b, tail);
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, nondeterministic), 2);
	/* What has not left may change: nobody has seen it. */
	again(&b, 0);
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, nondeterministic), 2);
	again(&b, tail);
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, nondeterministic), 2);
	drift = "";
	end(&b);
}
END_TEST

/* --- windows ------------------------------------------------------------ */

static struct topo_stage window_stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1,
	    .multi = true },
	{ .name = "word", .kind = STAGE_KEY_BY, .next = 2, .exchange = 0 },
	{ .name = "three", .kind = STAGE_COUNT, .next = 3, .exchange = -1,
	    .timeout_ns = 1000 },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};

static void
begin_windows(struct bench *b, struct topo *t)
{
	*t = topo;
	t->stages = window_stages;
	begin_of(b, t);
	b->journal.clock_ns = UINT64_C(1) << 62;	/* ours alone */
}

static void
tick(struct bench *b, uint64_t later, uint32_t keys)
{
	static const uint8_t zeros[64];

	b->journal.clock_ns += later;
	entry(b, ENTRY_TICK, 0, 0, zeros, keys, 0);
}

START_TEST(test_windows_fire_when_full_or_late)
{
	struct topo t;
	struct bench b;

	begin_windows(&b, &t);
	ck_assert_uint_eq(automaton_tick(&b.a), UINT64_MAX);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a b a c a b\n", 12);
	run(&b);
	sent(&b, 0, "a:3\n");
	ck_assert_uint_eq(automaton_tick(&b.a), b.journal.clock_ns + 1000);
	tick(&b, 999, 8);
	run(&b);
	sent(&b, 0, "a:3\n");
	tick(&b, 1, 1);			/* the older one is b */
	run(&b);
	sent(&b, 0, "a:3\nb:2\n");
	ck_assert_uint_eq(automaton_tick(&b.a), 0);	/* not done with */
	tick(&b, 0, 8);
	run(&b);
	sent(&b, 0, "a:3\nb:2\nc:1\n");
	ck_assert_uint_eq(automaton_tick(&b.a), UINT64_MAX);
	bytes(&b, 1, "a\n", 2);
	run(&b);
	ck_assert_uint_eq(automaton_tick(&b.a), b.journal.clock_ns + 1000);
	end(&b);
}
END_TEST

/* The source of the tests of ends: a file, on worker 0. */
static void
begin_file(struct bench *b, struct topo *t, uint32_t me, uint32_t n)
{
	struct err err;

	*t = topo;
	t->sources = &sources[2];
	t->nsources = 1;
	t->stages = window_stages;
	begin(b, me, n);
	automaton_fini(&b->a);
	b->a.topo = t;
	b->a.nwindows = 0;
	ck_assert_int_eq(automaton_init(&b->a, &err), 0);
	b->journal.clock_ns = UINT64_C(1) << 62;
}

static void
ends(struct bench *b)
{
	entry(b, ENTRY_FILE, 0, 0, "a b a c\n", 8, 0);
	entry(b, ENTRY_EOF, 0, 8, "", 1, ENTRY_SOURCE);
	tick(b, 0, 2);
	tick(b, 0, 8);
}

START_TEST(test_windows_close_at_the_end)
{
	struct topo t;
	struct bench b;
	uint64_t at;

	begin_file(&b, &t, 0, 1);
	entry(&b, ENTRY_FILE, 0, 0, "a b a c\n", 8, 0);
	run(&b);
	ck_assert(automaton_tick(&b.a) > b.journal.clock_ns);
	ck_assert(!automaton_ended(&b.a));
	entry(&b, ENTRY_EOF, 0, 8, "", 1, ENTRY_SOURCE);
	run(&b);
	sent(&b, 0, "");
	ck_assert_uint_eq(automaton_tick(&b.a), 0);
	tick(&b, 0, 2);
	run(&b);
	sent(&b, 0, "a:2\nb:1\n");
	ck_assert_uint_eq(automaton_tick(&b.a), 0);
	ck_assert(!automaton_ended(&b.a));
	at = b.a.pos;
	tick(&b, 0, 8);
	run(&b);
	sent(&b, 0, "a:2\nb:1\nc:1\n");
	ck_assert(automaton_ended(&b.a));
	ck_assert_uint_eq(automaton_tick(&b.a), UINT64_MAX);
	end(&b);
	begin_file(&b, &t, 0, 1);		/* a replay of all of it */
	ends(&b);
	b.a.drop = at;
	run(&b);
	sent(&b, 0, "c:1\n");
	ck_assert(automaton_ended(&b.a));
	end(&b);
}
END_TEST

static size_t
pass_on(struct bench *from, struct bench *to)
{
	struct turn *t = &from->a.to_peer[to->a.worker];
	size_t n = t->data.len;

	deliver(from, to, 0, true);
	t->data.len = t->nframes = 0;
	t->last = NULL;
	t->undo_stamp = 0;
	run(to);
	return (n);
}

/* Each worker learns of it, and once; the others' end, then one's own. */
START_TEST(test_the_end_goes_round)
{
	struct bench b[3];
	struct topo t;
	uint32_t i, k, said = 0;
	bool more = true;

	for (i = 0; i < 3; i++)
		begin_file(&b[i], &t, i, 3);
	entry(&b[0], ENTRY_FILE, 0, 0, "a b c d e f g\n", 14, 0);
	entry(&b[0], ENTRY_EOF, 0, 14, "", 1, ENTRY_SOURCE);
	run(&b[0]);
	ck_assert_uint_eq(automaton_tick(&b[1].a), UINT64_MAX);
	while (more) {
		more = false;
		for (i = 0; i < 3; i++) {
			if (automaton_tick(&b[i].a) == 0) {
				tick(&b[i], 0, 16);
				run(&b[i]);
				more = true;
			}
			for (k = 0; k < 3; k++)
				if (k != i && pass_on(&b[i], &b[k]) > 0) {
					said++;
					more = true;
				}
		}
	}
	ck_assert_uint_ge(said, 6);
	ck_assert_uint_le(said, 8);
	for (k = i = 0; i < 3; i++) {
		ck_assert(automaton_ended(&b[i].a));
		k += (uint32_t)b[i].a.to_sink[0].data.len / 4;
		end(&b[i]);
	}
	ck_assert_uint_eq(k, 7);
}
END_TEST

/* Each key once, in order, wherever it is interrupted; what comes after a new
 * beginning has another end. */
START_TEST(test_keys_have_an_end)
{
	static struct topo_stage end_stages[4];
	struct topo t;
	struct bench b;
	struct buf head = { 0 };
	struct mp c;

	memcpy(end_stages, stages, sizeof(end_stages));
	end_stages[2].on_end = FN_END + 1;
	begin_file(&b, &t, 0, 1);
	t.stages = end_stages;
	automaton_fini(&b.a);
	b.a.nwindows = 0;
	ck_assert_int_eq(automaton_init(&b.a, &(struct err){ .code =
	    ERR_NONE }), 0);
	ends(&b);
	run(&b);
	sent(&b, 0, "a=1\nb=1\na=2\nc=1\na!2\nb!1\nc!1\n");
	ck_assert(automaton_ended(&b.a));
	windows_pack(&b.a.windows[2], &head);
	mp_init(&c, buf_slice(&head));
	(void)mp_get_array(&c);
	(void)mp_get_str(&c);
	windows_unpack(&b.a.windows[2], &c, true);
	ck_assert(mp_end(&c));
	ck_assert_int_eq(automaton_load(&b.a, 2, slice_of("d", 1),
	    slice_of("\1\0\0\0\0\0\0\0", 8), &(struct err){ .code =
	    ERR_NONE }), 0);
	ck_assert_int_eq(automaton_load(&b.a, 2, slice_of("", 0),
	    slice_of("\1\0\0\0\0\0\0\0", 8), &(struct err){ .code =
	    ERR_NONE }), 0);
	ck_assert_uint_eq(b.a.windows[2].open.n, 1);	/* d alone */
	b.a.sources[0].ended = false;			/* comes again */
	b.a.progress.dirty = true;
	automaton_turn_clear(&b.a);
	tick(&b, 0, 8);
	entry(&b, ENTRY_FILE, 0, 8, "b\n", 2, 0);
	entry(&b, ENTRY_EOF, 0, 10, "", 1, ENTRY_SOURCE);
	tick(&b, 0, 8);
	run(&b);
	sent(&b, 0, "b=2\n!1\na!2\nb!2\nc!1\nd!1\n");
	buf_fini(&head);
	end(&b);
}
END_TEST

static struct topo_stage event_stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1,
	    .multi = true },
	{ .name = "time", .kind = STAGE_EVENT_TIME, .next = 2, .fn = FN_TIME,
	    .exchange = -1, .lateness_ns = 5, .idle_ns = 1000 },
	{ .name = "letter", .kind = STAGE_KEY_BY, .next = 3, .fn = FN_LETTER,
	    .exchange = 0 },
	{ .name = "ten", .kind = STAGE_RANGE, .next = 4, .fn = FN_EVENTS,
	    .exchange = -1, .by_event = true },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};
static int event_exchange_stage[] = { 3, -1 };

static void
begin_events(struct bench *b, struct topo *t, uint32_t me, uint32_t n)
{
	static struct topo_source source;
	struct err err;

	source = sources[0];
	source.event_stage = 1;
	*t = topo;
	t->sources = &source;
	t->nsources = 1;
	t->stages = event_stages;
	t->nstages = 5;
	t->exchange_stage = event_exchange_stage;
	t->event_time = true;
	begin(b, me, n);
	automaton_fini(&b->a);
	b->a.topo = t;
	b->a.nwindows = 0;
	ck_assert_int_eq(automaton_init(&b->a, &err), 0);
	b->journal.clock_ns = UINT64_C(1) << 62;
}

/* A tick that is wanted now. */
static void
look(struct bench *b)
{
	ck_assert_uint_le(automaton_tick(&b->a), b->journal.clock_ns);
	tick(b, 0, 16);
	run(b);
}

START_TEST(test_event_time_of_clients)
{
	struct topo t;
	struct bench b;

	begin_events(&b, &t, 0, 1);
	look(&b);				/* nobody is there */
	ck_assert_uint_gt(automaton_tick(&b.a), b.journal.clock_ns);
	open_conn(&b, 1, 0);
	open_conn(&b, 2, 0);
	bytes(&b, 1, "a3 b8 x17\n", 10);
	run(&b);
	look(&b);				/* the second holds back */
	sent(&b, 0, "");
	b.off = 0;
	bytes(&b, 2, "b9 c31\n", 7);
	run(&b);
	look(&b);				/* the first is at 12 */
	sent(&b, 0, "a:1@10\nb:2@10\n");
	b.off = 10;
	bytes(&b, 1, "x16\na5\nx12\n", 11);
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, late), 1);
	entry(&b, ENTRY_EOF, 1, 21, "", 1, 0);
	run(&b);
	look(&b);
	sent(&b, 0, "a:1@10\nb:2@10\nx:3@20\n");
	end(&b);
}
END_TEST

/* What is late goes to a sink that gets nothing else. */
START_TEST(test_late_to_a_sink)
{
	static struct topo_sink three[] = {
		{ .name = "tcp", .kind = SINK_TCP, .exchange = -1 },
		{ .name = "late", .kind = SINK_TCP, .exchange = -1 },
		{ .name = "dead-letters", .kind = SINK_DEAD, .exchange = 1 },
	};
	static int enters[] = { -1, 2 };
	struct err err;
	struct topo t;
	struct bench b;

	event_stages[3].late = 2;
	begin_events(&b, &t, 0, 1);
	automaton_fini(&b.a);
	t.sinks = three;
	t.nsinks = 3;
	t.exchange_sink = enters;
	b.a.nwindows = 0;
	ck_assert_int_eq(automaton_init(&b.a, &err), 0);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a3 b8 x17\nx9 y4 x1\n", 20);
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, late), 3);
	look(&b);
	sent(&b, 1, "x9\ny4\nx1\n");
	sent(&b, 0, "a:1@10\nb:1@10\n");
	event_stages[3].late = 0;
	end(&b);
}
END_TEST

START_TEST(test_idle_clients)
{
	struct topo t;
	struct bench b;
	uint64_t when;

	begin_events(&b, &t, 0, 1);
	open_conn(&b, 1, 0);
	open_conn(&b, 2, 0);
	bytes(&b, 1, "a3 b48\n", 7);
	run(&b);
	look(&b);
	sent(&b, 0, "");
	b.journal.clock_ns += 1001;
	b.off = 7;
	bytes(&b, 1, "c49\n", 4);
	run(&b);
	look(&b);				/* the second is silent */
	sent(&b, 0, "a:1@10\n");
	when = automaton_tick(&b.a);
	ck_assert_uint_eq(when, b.journal.clock_ns + 1001);
	b.journal.clock_ns = when;
	look(&b);				/* and all are */
	sent(&b, 0, "a:1@10\nb:1@50\nc:1@50\n");
	b.off = 0;
	bytes(&b, 2, "d42 d51\n", 8);		/* too late for some */
	run(&b);
	ck_assert_uint_eq(STAT_GET(b.stats, late), 1);
	end(&b);
}
END_TEST

/* A client of one worker; keys of two; each worker knows how far it is. */
START_TEST(test_event_time_of_workers)
{
	struct bench b[2];
	struct buf all = { 0 };
	struct topo t;
	uint32_t i;

	for (i = 0; i < 2; i++)
		begin_events(&b[i], &t, i, 2);
	open_conn(&b[0], 1, 0);
	bytes(&b[0], 1, "a1 b2 c3 d4 e5 f6 g7 h8\ni30\n", 28);
	run(&b[0]);
	for (i = 0; i < 6; i++) {
		if (automaton_tick(&b[i % 2].a) <= b[i % 2].journal.clock_ns)
			look(&b[i % 2]);
		(void)pass_on(&b[i % 2], &b[1 - i % 2]);
	}
	for (i = 0; i < 2; i++) {
		ck_assert_uint_gt(b[i].a.to_sink[0].data.len, 0);
		buf_add(&all, b[i].a.to_sink[0].data.data,
		    b[i].a.to_sink[0].data.len);
		end(&b[i]);
	}
	ck_assert_uint_eq(all.len, 8 * strlen("a:1@10\n"));
	buf_fini(&all);
}
END_TEST

/* Marks go both ways, and ticks are where they are wanted. */
static void
settle(struct bench *b)
{
	int i;

	for (i = 0; i < 8; i++) {
		if (automaton_tick(&b[i % 2].a) <= b[i % 2].journal.clock_ns)
			look(&b[i % 2]);
		(void)pass_on(&b[i % 2], &b[1 - i % 2]);
	}
}

/* When somebody looks, the one who sent it is silent again: no mark says that
 * it was not. */
START_TEST(test_message_while_all_is_idle)
{
	char first[] = "a95\n", second[] = "a93\n", out[] = "a:1@100\n";
	struct bench b[2];
	struct topo t;
	uint32_t i;

	for (i = 0; i < 2; i++)
		begin_events(&b[i], &t, i, 2);
	while (automaton_owner(&b[0].a, slice_of(first, 1)) != 0)
		first[0]++;
	while (automaton_owner(&b[0].a, slice_of(second, 1)) != 1)
		second[0]++;
	out[0] = second[0];
	open_conn(&b[0], 1, 0);
	bytes(&b[0], 1, first, 4);
	run(&b[0]);
	settle(b);
	for (i = 0; i < 2; i++)
		b[i].journal.clock_ns += 1001;
	settle(b);
	b[0].off = 4;
	bytes(&b[0], 1, second, 4);
	run(&b[0]);
	for (i = 0; i < 2; i++)
		b[i].journal.clock_ns += 1001;
	settle(b);
	sent(&b[1], 0, out);
	for (i = 0; i < 2; i++)
		end(&b[i]);
}
END_TEST

static struct topo_stage timed_stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1,
	    .multi = true },
	{ .name = "letter", .kind = STAGE_KEY_BY, .next = 2, .fn = FN_LETTER,
	    .exchange = 0 },
	{ .name = "timed", .kind = STAGE_TIMED, .next = 3, .fn = FN_TIMED,
	    .exchange = -1 },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};

START_TEST(test_timers)
{
	struct bench b, again;
	struct topo t;
	struct buf row = { 0 };
	struct kent *e;
	struct err err;

	t = topo;
	t.stages = timed_stages;
	begin_of(&b, &t);
	b.journal.clock_ns = UINT64_C(1) << 62;
	ck_assert_uint_eq(automaton_tick(&b.a), UINT64_MAX);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a30 b20 c20 a40 d90\n", 20);
	run(&b);
	sent(&b, 0, "a30\nb20\nc20\na40\nd90\n");
	ck_assert_uint_eq(automaton_tick(&b.a), b.journal.clock_ns + 20);
	tick(&b, 19, 8);
	run(&b);
	sent(&b, 0, "a30\nb20\nc20\na40\nd90\n");
	tick(&b, 2, 1);				/* one per byte */
	run(&b);
	sent(&b, 0, "a30\nb20\nc20\na40\nd90\nb+1\n");
	ck_assert_uint_le(automaton_tick(&b.a), b.journal.clock_ns);
	tick(&b, 29, 8);
	run(&b);
	sent(&b, 0, "a30\nb20\nc20\na40\nd90\nb+1\nc+30\na+10\n");
	ck_assert_uint_eq(automaton_tick(&b.a), b.journal.clock_ns + 40);
	ck_assert_uint_eq(b.a.nkeys, 1);	/* the others are gone */
	/* A saved key says when it is due, without its state being loaded. */
	e = keytab_find(&b.a.keys[2], slice_of("d", 1),
	    part_hash(slice_of("d", 1)));
	ck_assert_int_eq(automaton_save(&b.a, 2, e, &row, &err), 0);
	row.len = WINDOW_HEAD;			/* it is saved as text here */
	buf_add(&row, e->obj, sizeof(unsigned long));
	begin_of(&again, &t);
	again.journal.clock_ns = b.journal.clock_ns;
	ck_assert_int_eq(automaton_load(&again.a, 2, slice_of("d", 1),
	    buf_slice(&row), &err), 0);
	ck_assert_uint_eq(automaton_tick(&again.a), b.journal.clock_ns + 40);
	tick(&again, 1040, 8);
	run(&again);
	sent(&again, 0, "d+1000\n");
	end(&again);
	buf_fini(&row);
	end(&b);
}
END_TEST

/* A key that expires is there until a checkpoint has it, and may come again
 * before. */
START_TEST(test_expired_keys)
{
	struct saved s = { 0 };
	struct keytab *t;
	struct kent *e;
	struct bench b;
	struct topo tp;
	struct buf text = { 0 };
	size_t most = 10;
	struct err err;
	bool found;

	tp = topo;
	tp.stages = timed_stages;
	begin_of(&b, &tp);
	b.journal.clock_ns = UINT64_C(1) << 62;
	t = &b.a.keys[2];
	s.a = &b.a;
	b.a.save_first = save;
	b.a.save_arg = &s;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a10r b10r c10r\n", 15);
	tick(&b, 10, 8);
	run(&b);
	ck_assert_uint_eq(b.a.nkeys, 0);
	ck_assert_uint_eq(t->n, 3);
	ck_assert_uint_eq(t->gone, 3);
	ck_assert_int_eq(automaton_query(&b.a, slice_of("timed", 5),
	    slice_of("a", 1), &text, &found, &err), 0);
	ck_assert(!found);
	b.off = 15;
	bytes(&b, 1, "a20r\n", 5);		/* a new state */
	run(&b);
	ck_assert_uint_eq(b.a.nkeys, 1);
	ck_assert_uint_eq(t->gone, 2);
	keytab_round(t);
	bytes(&b, 1, "c20r\n", 5);
	run(&b);
	ck_assert_str_eq(buf_str(&s.text), "c: ");	/* that it was gone */
	while ((e = keytab_waiting(t, &most)) != NULL) {
		save(&s, 2, e);
		automaton_forget(&b.a, 2, e);
	}
	ck_assert_ptr_nonnull(memmem(s.text.data, s.text.len, "b: ", 3));
	ck_assert_uint_eq(t->n, 2);
	ck_assert_uint_eq(t->gone, 0);
	ck_assert_uint_eq(b.a.nkeys, 2);
	ck_assert_ptr_null(keytab_find(t, slice_of("b", 1),
	    part_hash(slice_of("b", 1))));
	buf_fini(&s.text);
	buf_fini(&text);
	end(&b);
}
END_TEST

/* All sources have ended: what was set fires, in order. */
START_TEST(test_timers_at_the_end)
{
	struct topo t;
	struct bench b;

	begin_file(&b, &t, 0, 1);
	t.stages = timed_stages;
	automaton_fini(&b.a);
	b.a.nwindows = 0;
	ck_assert_int_eq(automaton_init(&b.a, &(struct err){ .code =
	    ERR_NONE }), 0);
	entry(&b, ENTRY_FILE, 0, 0, "b9000 a9000 c800\n", 17, 0);
	entry(&b, ENTRY_EOF, 0, 17, "", 1, ENTRY_SOURCE);
	tick(&b, 0, 8);
	tick(&b, 0, 8);
	run(&b);
	sent(&b, 0, "b9000\na9000\nc800\nc~\na~\nb~\n");
	ck_assert(automaton_ended(&b.a));
	ck_assert_uint_eq(automaton_tick(&b.a), UINT64_MAX);
	end(&b);
}
END_TEST

static void
joined(struct reach a, struct reach b, enum reach_status status,
    uint64_t watermark)
{
	struct reach r = reach_join(a, b), s = reach_join(b, a);

	ck_assert_int_eq(r.status, status);
	ck_assert_uint_eq(r.watermark, watermark);
	ck_assert_int_eq(s.status, status);
	ck_assert_uint_eq(s.watermark, watermark);
}

START_TEST(test_marks_that_are_joined)
{
	struct reach live = { REACH_LIVE, 50 }, late = { REACH_LIVE, 40 },
	    away = { REACH_AWAY, 70 }, idle = { REACH_IDLE, 60 },
	    over = { REACH_ENDED, REACH_ENDLESS }, r = away;

	joined(live, late, REACH_LIVE, 40);
	joined(live, away, REACH_LIVE, 50);
	joined(idle, away, REACH_AWAY, 70);
	joined(idle, over, REACH_IDLE, 60);
	joined(live, over, REACH_LIVE, 50);
	joined(over, over, REACH_ENDED, REACH_ENDLESS);
	reach_raise(&r, live);
	ck_assert_int_eq(r.status, REACH_LIVE);
	ck_assert_uint_eq(r.watermark, 70);	/* never back */
	reach_raise(&r, over);
	reach_raise(&r, live);			/* but to a new beginning */
	ck_assert_uint_eq(r.watermark, 50);
}
END_TEST

START_TEST(test_errors_in_windows)
{
	struct topo t;
	struct bench b;
	struct err err;

	begin_windows(&b, &t);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a raise\n", 8);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "step=\"three\""));
	end(&b);
	begin_windows(&b, &t);
	b.conf.on_error = CONF_SKIP;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a raise a a\n", 12);
	run(&b);
	sent(&b, 0, "a:3\n");
	ck_assert_uint_eq(STAT_GET(b.stats, skipped), 1);
	end(&b);
}
END_TEST

/* A key whose timeout kills is left alone until a message comes to it. */
START_TEST(test_set_aside_in_a_timeout)
{
	struct topo t;
	struct bench b;
	uint64_t at, stamp;

	begin_windows(&b, &t);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "b\na\nc\n", 6);
	run(&b);
	stamp = journal_tail(&b.journal) + ENTRY_HEADER + 1;
	tick(&b, 1000, 8);
	at = decide(&b, stamp, 1, 1);
	learn(&b, at);
	run(&b);
	sent(&b, 0, "b:1\nc:1\n");
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"step\": \"three\", \"key\": \"a\""));
	ck_assert_uint_eq(automaton_tick(&b.a), UINT64_MAX);
	bytes(&b, 1, "a\n", 2);
	run(&b);
	tick(&b, 1000, 8);
	run(&b);
	sent(&b, 0, "b:1\nc:1\na:2\n");
	end(&b);
}
END_TEST

/* Also between two keys of one tick. */
START_TEST(test_replay_of_windows)
{
	static const char text[] = "a b a\nc d a\nb e\n";
	struct topo t;
	struct bench b;
	struct err err;
	uint64_t cut[32], n = 0;
	char whole[200];
	size_t i, left[32];

	begin_windows(&b, &t);
	open_conn(&b, 1, 0);
	bytes(&b, 1, text, strlen(text));
	tick(&b, 1000, 16);
	while (b.a.pos < journal_tail(&b.journal)) {
		ck_assert_int_eq(automaton_run(&b.a, never, 0, 1, &err), 0);
		cut[n] = b.a.pos;
		left[n++] = b.a.to_sink[0].data.len;
	}
	sent(&b, 0, "a:3\nb:2\nc:1\nd:1\ne:1\n");
	ck_assert_uint_ge(n, 5);
	snprintf(whole, sizeof(whole), "%s", buf_str(&b.a.to_sink[0].data));
	end(&b);
	for (i = 0; i < n; i++) {
		begin_windows(&b, &t);
		open_conn(&b, 1, 0);
		bytes(&b, 1, text, strlen(text));
		tick(&b, 1000, 16);
		b.a.drop = cut[i];
		run(&b);
		sent(&b, 0, whole + left[i]);
		end(&b);
	}
}
END_TEST

/* --- framing by the application ------------------------------------------ */

START_TEST(test_custom_framing)
{
	static const char text[] = "03a b0005hello";
	struct bench b;
	size_t cut;

	for (cut = 1; cut < sizeof(text) - 1; cut++) {
		begin(&b, 0, 1);
		open_conn(&b, 1, 4);
		bytes(&b, 1, text, cut);
		bytes(&b, 1, text + cut, sizeof(text) - 1 - cut);
		run(&b);
		sent(&b, 0, "a=1\nb=1\nhello=1\n");
		end(&b);
	}
	/* payload_length() that raises, or says too much. */
	begin(&b, 0, 1);
	open_conn(&b, 1, 4);
	bytes(&b, 1, "01a!!", 5);
	open_conn(&b, 2, 4);
	bytes(&b, 2, "01b31", 5);
	run(&b);
	sent(&b, 0, "a=1\nb=1\n");
	ck_assert_uint_eq(b.a.garbage.len, 2 * sizeof(uint64_t));
	end(&b);
}
END_TEST

/* payload_length() that kills: no record of that connection comes any more,
 * and the letter has what was there. */
START_TEST(test_set_aside_in_framing)
{
	struct bench b;
	uint64_t at, pos;

	begin(&b, 0, 1);
	open_conn(&b, 1, 4);
	bytes(&b, 1, "01a", 3);
	pos = journal_tail(&b.journal) + ENTRY_HEADER;
	bytes(&b, 1, "KO\1\\", 4);
	at = decide(&b, pos, FRAMING_CALL, 1);
	learn(&b, at);
	run(&b);
	sent(&b, 0, "a=1\n");
	ck_assert_uint_eq(b.a.garbage.len, sizeof(uint64_t));
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"step\": \"custom\""));
	ck_assert_ptr_nonnull(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"input\": \"KO\\\\x01\\\\x5c\""));
	ck_assert_ptr_null(strstr(buf_str(&b.a.to_sink[1].data),
	    "\"record\""));			/* nothing to put back */
	end(&b);
}
END_TEST

/* A file cannot be closed like a connection: it says where it is bad. */
START_TEST(test_garbage_in_files)
{
	struct bench b;
	struct err err;

	begin(&b, 0, 1);
	entry(&b, ENTRY_FILE, 5, 0, "01a!!", 5, 0);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "source \"custom file\": "
	    "payload_length() failed at byte 3"));
	ck_assert_ptr_nonnull(strstr(err.text, "ValueError: no header"));
	sent(&b, 0, "a=1\n");
	end(&b);
	begin(&b, 0, 1);
	entry(&b, ENTRY_FILE, 5, 0, "01a99", 5, 0);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "frame larger than max_size "
	    "at byte 3"));
	end(&b);
	begin(&b, 0, 1);
	entry(&b, ENTRY_FILE, 2, 0, "a\nb raise\n", 10, 0);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "step=\"count\" "
	    "key=\"raise\""));
	end(&b);
}
END_TEST

START_TEST(test_negative_length)
{
	struct bench b;

	begin(&b, 0, 1);
	open_conn(&b, 1, 6);
	bytes(&b, 1, "\1\0a\0\200", 5);
	run(&b);
	sent(&b, 0, "a=1\n");
	ck_assert_uint_eq(b.a.garbage.len, sizeof(uint64_t));
	end(&b);
}
END_TEST

/* Of a source that is none, or has no clients. */
START_TEST(test_connections_of_nowhere)
{
	struct bench b;

	begin(&b, 0, 1);
	open_conn(&b, 1, 99);
	bytes(&b, 1, "a\n", 2);
	open_conn(&b, 2, 3);
	bytes(&b, 2, "b\n", 2);
	entry(&b, ENTRY_OPEN, 3, 0, "x", 1, 0);	/* of no source at all */
	bytes(&b, 3, "c\n", 2);
	entry(&b, ENTRY_EOF, 3, 2, "", 1, 0);
	entry(&b, ENTRY_FORGET, 3, 2, "", 1, 0);
	run(&b);
	ck_assert_uint_eq(b.a.to_sink[0].data.len, 0);
	ck_assert_uint_eq(HASH_COUNT(b.a.conns), 2);
	end(&b);
}
END_TEST

/* --- errors of every call ------------------------------------------------- */

/* One line through a pipeline with this policy. */
static void
line(struct bench *b, enum conf_on_error policy, const char *text)
{
	begin(b, 0, 1);
	b->conf.on_error = policy;
	open_conn(b, 1, 0);
	bytes(b, 1, text, strlen(text));
	run(b);
}

/* Its letter: the step, the key, what was raised. */
static void
letter_says(struct bench *b, const char *what)
{
	ck_assert_msg(strstr(buf_str(&b->a.to_sink[1].data), what) != NULL,
	    "%s", buf_str(&b->a.to_sink[1].data));
}

START_TEST(test_errors_of_each_call)
{
	struct bench b;

	line(&b, CONF_DEAD_LETTER, "keyless\na\n");
	sent(&b, 0, "a=1\n");
	letter_says(&b, "\"step\": \"word\"");
	letter_says(&b, "KeyError: keyless");
	end(&b);
	line(&b, CONF_DEAD_LETTER, "unwritable\na\n");
	sent(&b, 0, "a=1\n");
	letter_says(&b, "\"step\": \"tcp\", \"key\": \"unwritable\"");
	end(&b);
	stateless = true;
	line(&b, CONF_DEAD_LETTER, "a\n");
	stateless = false;
	sent(&b, 0, "");
	ck_assert_uint_eq(b.a.nkeys, 0);
	letter_says(&b, "TypeError: no state");
	end(&b);
	/* A whole traceback, its last line first. */
	line(&b, CONF_DEAD_LETTER, "trace\n");
	letter_says(&b, "\"error\": \"ValueError: \\\\\", \"traceback\": "
	    "\"File \\\"x\\\"\\n\\u0009Running\\nValueError: \\\\\"");
	end(&b);
}
END_TEST

START_TEST(test_errors_that_are_not_the_users)
{
	struct bench b;
	struct err err;

	begin(&b, 0, 1);
	b.conf.on_error = CONF_SKIP;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a broken\n", 9);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	/* The record was half done: all of it is taken back. */
	sent(&b, 0, "");
	ck_assert_uint_eq(b.a.pos, b.a.entry);
	end(&b);
	begin(&b, 0, 1);
	no_value = true;
	entry(&b, ENTRY_GEN, 3, 0, "\0\0\0\0", 4, 0);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	no_value = false;
	ck_assert_ptr_nonnull(strstr(err.text, "step=\"gen\" policy=fail"));
	end(&b);
}
END_TEST

/* A step's own policy is above the application's. */
START_TEST(test_policies_of_steps)
{
	static const enum topo_policy policy[] = { POLICY_FAIL, POLICY_SKIP,
	    POLICY_DEAD_LETTER };
	struct topo_stage own[4];
	struct topo t = topo;
	struct bench b;
	struct err err;
	size_t i;
	int r;

	memcpy(own, stages, sizeof(own));
	t.stages = own;
	for (i = 0; i < 3; i++) {
		own[2].policy = policy[i];
		begin_of(&b, &t);
		b.conf.on_error = CONF_SKIP;
		open_conn(&b, 1, 0);
		bytes(&b, 1, "a raise\n", 8);
		r = automaton_run(&b.a, never, 0, SIZE_MAX, &err);
		ck_assert_int_eq(r, i == 0 ? -1 : 0);
		ck_assert_uint_eq(STAT_GET(b.stats, skipped), i == 1);
		ck_assert_uint_eq(STAT_GET(b.stats, dead_letters), i == 2);
		end(&b);
	}
	/* Without dead letters none can be written. */
	t.nsinks = 1;
	begin_of(&b, &t);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a raise\n", 8);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_int_eq(err.code, ERR_USER);
	end(&b);
}
END_TEST

/* A saved state that its class no longer takes. */
START_TEST(test_saved_states)
{
	static const unsigned long five = 5;
	struct bench b;
	struct err err;

	begin(&b, 0, 1);
	b.conf.on_error = CONF_DEAD_LETTER;
	ck_assert_int_eq(automaton_load(&b.a, 2, slice_of("a", 1),
	    slice_of(&five, sizeof(five)), &err), 0);
	ck_assert_int_eq(automaton_load(&b.a, 2, slice_of("b", 1),
	    slice_of("old", 3), &err), 0);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a b c\n", 6);
	run(&b);
	sent(&b, 0, "a=6\nc=1\n");
	letter_says(&b, "EOFError: state");
	end(&b);
}
END_TEST

/* The second key of a record is no key: its letter has the first, whatever
 * became of the bytes. */
START_TEST(test_a_key_after_a_key)
{
	struct topo_stage two[] = {
		stages[0], stages[1],
		{ .name = "again", .kind = STAGE_KEY_BY, .next = 3, .fn = 1,
		    .exchange = -1 },
		stages[3],
	};
	struct topo t = topo;
	struct bench b;

	t.stages = two;
	begin_of(&b, &t);
	b.conf.on_error = CONF_DEAD_LETTER;
	open_conn(&b, 1, 0);
	bytes(&b, 1, "thefirst\n", 9);
	run(&b);
	letter_says(&b, "\"step\": \"again\", \"key\": \"thefirst\"");
	letter_says(&b, "a key has 2010 bytes");
	end(&b);
}
END_TEST

START_TEST(test_collect)
{
	struct topo_stage collect[] = {
		stages[0],
		{ .name = "all", .kind = STAGE_COLLECT, .next = 2,
		    .exchange = -1 },
		stages[2], stages[3],
	};
	struct topo t = topo;
	struct bench b;

	t.stages = collect;
	begin_of(&b, &t);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "a b\nc\n", 6);
	run(&b);
	sent(&b, 0, "a=1\nb=2\nc=3\n");	/* one state for all */
	ck_assert_uint_eq(b.a.nkeys, 1);
	end(&b);
}
END_TEST

START_TEST(test_too_many_multi_computations)
{
	struct topo_stage many[AUTOMATON_DEPTH] = { { 0 } };
	struct topo t = { .stages = many, .nstages = AUTOMATON_DEPTH };
	struct automaton a = { .topo = &t, .workers = 1 };
	struct err err;
	size_t i;

	for (i = 0; i < AUTOMATON_DEPTH; i++)
		many[i].multi = true;
	ck_assert_int_eq(automaton_init(&a, &err), -1);
	ck_assert_str_eq(err.text, "a pipeline may have at most 63 multi "
	    "computations and windows, this one has 64");
}
END_TEST

/* --- what no journal of ours has ------------------------------------------ */

static void
corrupt(struct bench *b, const char *why)
{
	struct err err;

	ck_assert_int_eq(automaton_run(&b->a, never, 0, SIZE_MAX, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	ck_assert_msg(strstr(err.text, why) != NULL, "%s", err.text);
	ck_assert_uint_eq(b->a.pos, 0);
	end(b);
}

START_TEST(test_entries_that_cannot_be)
{
	struct frame_head h = { 77, 5, 0, 1 };
	uint8_t frame[sizeof(h) + 1];
	struct bench b;
	struct err err;

	memcpy(frame, &h, sizeof(h));
	frame[sizeof(h)] = 0xc1;
	begin(&b, 0, 1);
	entry(&b, ENTRY_FRAME, 1 << 16, 0, frame, sizeof(frame), 0);
	corrupt(&b, "is from worker 1, exchange 0: there is none");
	begin(&b, 0, 2);
	entry(&b, ENTRY_FRAME, 1 << 16 | 2, 0, frame, sizeof(frame), 0);
	corrupt(&b, "is from worker 1, exchange 2: there is none");
	begin(&b, 0, 2);
	entry(&b, ENTRY_FRAME, 1 << 16, 0, frame, 3, 0);
	corrupt(&b, "there is none");
	begin(&b, 0, 2);
	entry(&b, ENTRY_FRAME, 1 << 16, 0, frame, sizeof(frame), 0);
	corrupt(&b, "a frame of exchange 0 in the journal cannot be read");
	begin(&b, 0, 1);
	entry(&b, ENTRY_FILE, 3, 0, "x", 1, 0);
	corrupt(&b, "of source 3: there is none of its kind");
	begin(&b, 0, 1);
	entry(&b, ENTRY_GEN, 99, 0, "x", 1, 0);
	corrupt(&b, "of source 99");
	begin(&b, 0, 1);
	entry(&b, ENTRY_LETTER, 0, 0, "short", 5, 0);
	corrupt(&b, "cannot be read");
	begin(&b, 0, 1);
	entry(&b, ENTRY_LETTER, 0, 0, "\0\0\0\0\0\0\0\0garbage", 15, 0);
	ck_assert_int_eq(automaton_run(&b.a, never, 0, SIZE_MAX, &err), -1);
	end(&b);
	begin(&b, 0, 1);
	bytes(&b, 1, "a\n", 2);
	journal_at(&b.journal, 0)->check++;
	corrupt(&b, "journal has no valid entry at 0");
	/* A decision that recovery did not know of is passed over. */
	begin(&b, 0, 1);
	(void)decide(&b, 5, 1, 1);
	run(&b);
	ck_assert_uint_eq(b.a.to_sink[1].data.len, 0);
	end(&b);
}
END_TEST

/* An empty frame only says where its sender is. */
START_TEST(test_an_empty_frame)
{
	struct frame_head h = { 77, 5, 2, 0 };
	struct bench b;

	begin(&b, 0, 2);
	entry(&b, ENTRY_FRAME, 1 << 16, 0, &h, sizeof(h), 0);
	run(&b);
	ck_assert_uint_eq(b.a.marks[1].lineage, 77);
	ck_assert_uint_eq(b.a.marks[1].pos, 5);
	ck_assert_uint_eq(b.a.marks[1].index, 2);
	end(&b);
}
END_TEST

/* What another worker has sent cannot be unpacked here. */
START_TEST(test_a_message_that_cannot_be_unpacked)
{
	char text[] = "tora\n";
	struct bench b[2];
	struct entry *e;

	/* A word for the other worker, which is another when it comes. */
	begin(&b[0], 0, 2);
	while (automaton_owner(&b[0].a, slice_of(text, 4)) == 0 ||
	    text[3] == 'n')
		text[3]++;
	open_conn(&b[0], 1, 0);
	bytes(&b[0], 1, text, 5);
	run(&b[0]);
	begin(&b[1], 1, 2);
	b[1].conf.on_error = CONF_DEAD_LETTER;
	deliver(&b[0], &b[1], 0, false);
	e = journal_at(&b[1].journal, 0);
	e->data[e->len - 1] = 'n';
	run(&b[1]);
	ck_assert_uint_eq(b[1].a.nkeys, 0);
	/* The dead letters are worker 1's. */
	letter_says(&b[1], "\"step\": \"count\"");
	letter_says(&b[1], "\"input\": \"torn\", \"record\": ");
	letter_says(&b[1], "UnpicklingError: torn");
	end(&b[0]);
	end(&b[1]);
}
END_TEST

/* Not deterministic: who is named. */
START_TEST(test_nondeterministic_sources)
{
	uint8_t zeros[8] = { 0 };
	struct bench b;

	generated = 0;
	begin(&b, 0, 1);
	entry(&b, ENTRY_FILE, 2, 0, "a\n", 2, 0);
	entry(&b, ENTRY_GEN, 3, 0, zeros, 8, 0);
	run(&b);
	drift = "?";
	generated = 0;
	again(&b, journal_tail(&b.journal));
	run(&b);
	drift = "";
	ck_assert_uint_eq(STAT_GET(b.stats, nondeterministic), 2);
	end(&b);
}
END_TEST

/* --- records that are put back -------------------------------------------- */

static void
put_back(struct bench *b, enum letter_kind kind, uint32_t index,
    const char *name, const char *key, const char *value)
{
	struct letter l = { kind, index, slice_of(name, strlen(name)),
	    slice_of(key, strlen(key)), 1000, 7, slice_of(value,
	    strlen(value)) };
	uint64_t seq = 5;
	struct buf p = { 0 };

	buf_add(&p, &seq, sizeof(seq));
	letter_pack(&p, &l);
	entry(b, ENTRY_LETTER, 0, 0, p.data, p.len, 0);
	buf_fini(&p);
}

START_TEST(test_put_back)
{
	struct bench b;

	begin(&b, 0, 1);
	b.conf.on_error = CONF_DEAD_LETTER;
	put_back(&b, LETTER_SOURCE, 0, "lines", "", "a b");
	put_back(&b, LETTER_STAGE, 2, "count", "b", "b");
	put_back(&b, LETTER_SINK, 0, "tcp", "b", "written");
	/* By its name, where the pipeline has changed. */
	put_back(&b, LETTER_STAGE, 0, "count", "b", "b");
	put_back(&b, LETTER_STAGE, 77, "count", "b", "b");
	run(&b);
	sent(&b, 0, "a=1\nb=1\nb=2\nwritten\nb=3\nb=4\n");
	ck_assert_uint_eq(b.a.putback, 5);
	ck_assert_uint_eq(b.a.to_sink[1].data.len, 0);
	/* Those that fail again are letters again. */
	put_back(&b, LETTER_STAGE, 2, "count", "b", "raise");
	run(&b);
	letter_says(&b, "ValueError: raise");
	automaton_turn_clear(&b.a);
	put_back(&b, LETTER_SINK, 0, "tcp", "k", "torn");
	run(&b);
	letter_says(&b, "\"step\": \"tcp\", \"key\": \"k\", \"input\": "
	    "\"torn\", \"record\": ");
	automaton_turn_clear(&b.a);
	put_back(&b, LETTER_STAGE, 2, "count", "k", "torn");
	run(&b);
	letter_says(&b, "UnpicklingError: torn");
	end(&b);
}
END_TEST

START_TEST(test_places_of_letters)
{
	struct letter l = { .kind = LETTER_SINK, .name = slice_of("none",
	    4) };
	struct bench b;
	struct err err;
	char key[2] = "a";

	begin(&b, 0, 2);
	ck_assert_int_eq(automaton_letter_place(&b.a, &l, &err), -1);
	ck_assert_str_eq(err.text, "there is no sink \"none\" any more");
	l.kind = LETTER_SOURCE;
	l.name = slice_of("file", 4);
	while (automaton_owner(&b.a, slice_of(key, 1)) != 0)
		key[0]++;
	l.key = slice_of(key, 1);
	ck_assert_int_eq(automaton_letter_place(&b.a, &l, &err), 0);
	ck_assert_uint_eq(l.index, 2);
	while (automaton_owner(&b.a, slice_of(key, 1)) != 1)
		key[0]++;
	ck_assert_int_eq(automaton_letter_place(&b.a, &l, &err), -1);
	ck_assert_int_eq(err.code, ERR_REFUSED);
	end(&b);
}
END_TEST

/* --- questions ------------------------------------------------------------ */

START_TEST(test_questions)
{
	static const unsigned long five = 5;
	struct buf text = { 0 };
	struct bench b;
	struct err err;
	bool found;

	begin(&b, 0, 1);
	ck_assert_int_eq(automaton_load(&b.a, 2, slice_of("saved", 5),
	    slice_of(&five, sizeof(five)), &err), 0);
	ck_assert_int_eq(automaton_load(&b.a, 2, slice_of("old", 3),
	    slice_of("old", 3), &err), 0);
	open_conn(&b, 1, 0);
	bytes(&b, 1, "live\n", 5);
	run(&b);
	ck_assert_int_eq(automaton_query(&b.a, slice_of("count", 5),
	    slice_of("live", 4), &text, &found, &err), 0);
	ck_assert(found);
	ck_assert_str_eq(buf_str(&text), "value");
	buf_clear(&text);
	ck_assert_int_eq(automaton_query(&b.a, slice_of("count", 5),
	    slice_of("saved", 5), &text, &found, &err), 0);
	ck_assert(found);
	ck_assert_str_eq(buf_str(&text), "value");
	/* Asking changes nothing: it is as it was saved. */
	ck_assert_ptr_null(keytab_find(&b.a.keys[2], slice_of("saved", 5),
	    part_hash(slice_of("saved", 5)))->obj);
	ck_assert_int_eq(automaton_query(&b.a, slice_of("count", 5),
	    slice_of("none", 4), &text, &found, &err), 0);
	ck_assert(!found);
	ck_assert_int_eq(automaton_query(&b.a, slice_of("count", 5),
	    slice_of("old", 3), &text, &found, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "EOFError"));
	ck_assert_int_eq(automaton_query(&b.a, slice_of("word", 4),
	    slice_of("live", 4), &text, &found, &err), -1);
	ck_assert_str_eq(err.text, "no step with state is called \"word\"");
	buf_fini(&text);
	end(&b);
}
END_TEST

UNIT_MAIN("automaton", table_grows, table_shrinks, test_counts_words,
    test_streams_cut_at_every_byte, test_garbage_costs_its_own_connection,
    test_end_of_streams, test_connectors, test_forgotten_connectors,
    test_generator_ends, test_policies,
    test_a_message_too_large_is_an_error_of_its_step,
    test_exchange_and_duplicates, test_replay_drops_by_position,
    test_set_aside, test_set_aside_bare, test_note_of_the_call,
    test_a_key_that_waits_is_saved_before_it_changes, test_nondeterministic,
    test_windows_fire_when_full_or_late, test_errors_in_windows,
    test_windows_close_at_the_end, test_the_end_goes_round,
    test_keys_have_an_end, test_marks_that_are_joined, test_timers,
    test_expired_keys, test_timers_at_the_end,
    test_event_time_of_clients, test_late_to_a_sink, test_idle_clients,
    test_event_time_of_workers, test_message_while_all_is_idle,
    test_set_aside_in_a_timeout, test_replay_of_windows, test_custom_framing,
    test_set_aside_in_framing, test_garbage_in_files, test_negative_length,
    test_connections_of_nowhere, test_errors_of_each_call,
    test_errors_that_are_not_the_users, test_policies_of_steps,
    test_saved_states, test_a_key_after_a_key, test_collect,
    test_too_many_multi_computations, test_entries_that_cannot_be,
    test_an_empty_frame, test_a_message_that_cannot_be_unpacked,
    test_nondeterministic_sources, test_put_back, test_places_of_letters,
    test_questions)
