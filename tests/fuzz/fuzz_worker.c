/* Targets of worker/: journals, outboxes, checkpoints, clients, peers. */
#include <sys/socket.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/part.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_worker.h"
#include "worker/sizes.h"

/* --- the worker that gives up ------------------------------------------- */

static jmp_buf gave_up;

void
worker_fatal(struct worker *w, int code, const char *fmt, ...)
{
	(void)w;
	(void)code;
	(void)fmt;
	longjmp(gave_up, 1);
}

void
worker_fatal_err(struct worker *w, const struct err *err)
{
	worker_fatal(w, EXIT_PERMANENT, "%s", err->text);
}

/* --- a host whose values are strings ------------------------------------ */

static int
h_string(struct host_app *h, struct slice s, host_val *v, struct err *err)
{
	(void)h;
	(void)err;
	*v = xstrndup((const char *)s.data, s.len);
	return (0);
}

static int
h_decode(struct host_app *h, int fn, struct slice s, host_val *v,
    struct err *err)
{
	(void)fn;
	if (s.len > 0 && s.data[0] == '!')
		return (err_set(err, ERR_USER, "ValueError"));
	return (h_string(h, s, v, err));
}

static int
h_frame_len(struct host_app *h, int fn, struct slice header, uint64_t *len,
    struct err *err)
{
	(void)h;
	(void)fn;
	if (header.data[0] == '!')
		return (err_set(err, ERR_USER, "ValueError"));
	*len = header.data[0] == '?' ? UINT64_MAX : header.data[0] & 15;
	return (0);
}

static int
h_step(struct host_app *h, int fn, bool multi, void *state, host_val in,
    struct host_out *out, struct err *err)
{
	unsigned long *n = state;

	(void)h;
	(void)fn;
	(void)err;
	if (state != NULL)
		host_out_add(out, xasprintf("%.20s=%lu", (char *)in, ++*n));
	else
		host_out_add(out, xstrdup(in));
	if (multi)
		host_out_add(out, xstrdup(in));
	return (0);
}

static int
h_key(struct host_app *h, int fn, host_val v, struct buf *key,
    struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	buf_add(key, v, strlen(v));
	return (0);
}

static int
h_encode(struct host_app *h, int fn, host_val v, struct buf *b, bool *none,
    struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	*none = false;
	buf_addf(b, "%s\n", (char *)v);
	return (0);
}

static int
h_pack(struct host_app *h, host_val v, struct buf *b, struct err *err)
{
	(void)h;
	(void)err;
	buf_add(b, v, strlen(v));
	return (0);
}

static void
h_free(struct host_app *h, void *v)
{
	(void)h;
	free(v);
}

static int
h_state_new(struct host_app *h, int fn, void **obj, struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	*obj = xcalloc(1, sizeof(unsigned long));
	return (0);
}

static void
h_repr(struct host_app *h, const void *v, struct buf *b)
{
	(void)h;
	(void)v;
	buf_addf(b, "value");
}

static int
h_generate(struct host_app *h, int fn, host_val *out, struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	*out = xstrdup("generated");
	return (0);
}

const struct host fuzz_host = {
	.name = "fuzz", .abi = HOST_ABI, .decode = h_decode, .key = h_key,
	.step = h_step, .encode = h_encode, .pack = h_pack,
	.unpack = h_string, .val_free = h_free, .state_new = h_state_new,
	.state_free = h_free, .repr = h_repr, .generate = h_generate,
	.frame_len = h_frame_len,
};

/* --- one of two workers, in memory --------------------------------------- */

static struct topo_source sources[] = {
	{ .name = "tcp", .kind = SOURCE_TCP, .framing = FRAMING_LINES,
	    .max_size = 100 },
	{ .name = "file", .kind = SOURCE_FILE, .framing = FRAMING_HEADER,
	    .header_length = 2, .header_big = true, .max_size = 100 },
	{ .name = "gen", .kind = SOURCE_GEN, .framing = FRAMING_NONE },
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
const struct topo fuzz_pipeline = { .sources = sources, .nsources = 3,
	.stages = stages, .nstages = 4, .sinks = sinks, .nsinks = 2,
	.nexchanges = 2, .exchange_stage = exchange_stage,
	.exchange_sink = exchange_sink };

/* Journals of workers are made once, as long as they take to map. */
#define JOURNALS	8
#define JOURNAL_HEAD	4096
#define JOURNAL_RING	65536

static struct {
	struct journal	 j;		/* as it is when it is empty */
	uint8_t		 head[JOURNAL_HEAD];
	bool		 taken;
} journals[JOURNALS];

static void
take_journal(struct worker *w)
{
	struct err err;
	size_t i = 0;

	while (journals[i].taken)
		fuzz_check(++i < JOURNALS);
	if (journals[i].j.h == NULL) {
		fuzz_check(journal_create(&journals[i].j, NULL, JOURNAL_RING,
		    0, w->lineage, 0, &err) == 0);
		memcpy(journals[i].head, journals[i].j.h, JOURNAL_HEAD);
	}
	journals[i].taken = true;
	w->journal = journals[i].j;
}

static void
give_journal(struct worker *w)
{
	uint64_t n = journal_tail(&w->journal) + ENTRY_HEADER;
	size_t i = 0;

	while (journals[i].j.h != w->journal.h)
		fuzz_check(++i < JOURNALS);
	memset(w->journal.ring, 0, n < w->journal.size ? n : w->journal.size);
	memcpy(w->journal.h, journals[i].head, JOURNAL_HEAD);
	journals[i].taken = false;
}

struct worker *
fuzz_begin(const struct topo *t, uint32_t n)
{
	struct worker *w = xcalloc(1, sizeof(*w));
	struct err err;
	uint32_t i;

	w->n = n;
	w->topo = *t;
	w->durable = true;
	w->lineage = 7;
	w->conf.partitions = 4;
	w->conf.max_message = 1000;
	w->conf.on_error = CONF_SKIP;
	w->stats = xcalloc(1, STATS_SIZE);
	w->a.host = &fuzz_host;
	fuzz_check(worker_make(w, &err) == 0);
	take_journal(w);
	w->store.step_id = xcalloc(t->nstages + 1,
	    sizeof(*w->store.step_id));
	for (i = 0; i < t->nstages; i++)
		w->store.step_id[i] = stage_has_state(&t->stages[i]) ?
		    (int64_t)i + 1 : -1;
	return (w);
}

void
fuzz_end(struct worker *w)
{
	give_journal(w);
	worker_unmake(w);
	free(w->stats);
	free(w->store.step_id);
	free(w);
}

bool
fuzz_put(struct worker *w, unsigned int type, uint64_t channel,
    uint64_t off, struct slice data, unsigned int flags)
{
	if (data.len == 0 || journal_used(&w->journal) +
	    entry_size((uint32_t)data.len) > w->journal.size)
		return (false);
	memcpy(journal_stage(&w->journal, (enum entry_type)type, channel, off,
	    (uint32_t)data.len, (uint16_t)flags), data.data, data.len);
	journal_publish(&w->journal, (uint32_t)data.len);
	return (true);
}

static uint64_t
never(void)
{
	return (0);
}

bool
fuzz_process(struct worker *w)
{
	struct err err;

	while (w->a.pos < journal_tail(&w->journal))
		if (automaton_run(&w->a, never, 0, SIZE_MAX, &err) == -1) {
			fuzz_check(err.text[0] != '\0');
			return (false);
		}
	return (true);
}

/* --- framing ------------------------------------------------------------- */

static struct worker *
client(const struct topo_source *src, struct slice stream,
    const uint8_t *pieces, size_t npieces, bool ends)
{
	struct topo_source all[3];
	struct worker *w = fuzz_begin(&fuzz_pipeline, 1);
	uint32_t source = 0;
	uint64_t off = 0;
	size_t n, i = 0;

	memcpy(all, sources, sizeof(all));
	all[0] = *src;
	w->topo.sources = all;
	(void)fuzz_put(w, ENTRY_OPEN, 1, 0, slice_of(&source,
	    sizeof(source)), 0);
	while (off < stream.len) {
		n = i < npieces ? pieces[i++] + 1u : stream.len;
		if (n > stream.len - off)
			n = stream.len - off;
		fuzz_check(fuzz_put(w, ENTRY_BYTES, 1, off,
		    slice_of(stream.data + off, n), 0));
		off += n;
	}
	if (ends)
		(void)fuzz_put(w, ENTRY_EOF, 1, off, slice_of("", 1), 0);
	fuzz_check(fuzz_process(w));
	w->topo.sources = sources;
	return (w);
}

/* However a client's bytes are cut by the network, they mean the same. */
void
fuzz_framing(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	struct topo_source src = sources[0];
	const uint8_t *pieces;
	struct worker *one, *two;
	struct slice stream;
	struct in_conn *c, *d;
	uint64_t npieces, bits;
	uint64_t id = 1;

	src.framing = (enum topo_framing)(fuzz_number(&in, 1) % 3);
	src.framing = src.framing == 0 ? FRAMING_LINES : src.framing == 1 ?
	    FRAMING_HEADER : FRAMING_CUSTOM;
	src.header_length = 1 + (uint32_t)fuzz_number(&in, 1) % 8;
	bits = fuzz_number(&in, 1);
	src.header_big = bits & 1;
	src.header_signed = fuzz_number(&in, 1) & 1;
	src.max_size = 1 + fuzz_number(&in, 1);
	npieces = fuzz_number(&in, 1);
	if (npieces > in.n)
		npieces = in.n;
	pieces = in.p;
	in.p += npieces;
	in.n -= npieces;
	if (in.n > 4096)
		in.n = 4096;
	stream = fuzz_rest(&in);
	one = client(&src, stream, NULL, 0, bits & 2);
	two = client(&src, stream, pieces, npieces, bits & 2);
	fuzz_check(one->a.to_sink[0].data.len == two->a.to_sink[0].data.len);
	if (one->a.to_sink[0].data.len > 0)
		fuzz_check(memcmp(one->a.to_sink[0].data.data,
		    two->a.to_sink[0].data.data,
		    one->a.to_sink[0].data.len) == 0);
	fuzz_check(one->a.garbage.len == two->a.garbage.len);
	HASH_FIND(hh, one->a.conns, &id, sizeof(id), c);
	HASH_FIND(hh, two->a.conns, &id, sizeof(id), d);
	fuzz_check(c != NULL && d != NULL && c->bad == d->bad);
	fuzz_check(c->bad || (c->rem.len == d->rem.len && c->off == d->off));
	fuzz_end(one);
	fuzz_end(two);
}

/* --- entry --------------------------------------------------------------- */

/* Each: u8 type, u8 channel, u8 flags, u8 length, bytes.  The journal is
 * ours and checked, so a wrong entry may stop the worker, but no more. */
void
fuzz_entry(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	struct frame_head h = { 7, 1, 0, 1 };
	uint64_t off[256] = { 0 };
	unsigned int type, flags;
	uint64_t channel;
	uint8_t payload[sizeof(h) + 256];
	size_t len, head;

	while (in.n >= 4) {
		type = 1 + (unsigned int)fuzz_number(&in, 1) %
		    (ENTRY_TYPES - 1);
		channel = fuzz_number(&in, 1);
		flags = (unsigned int)fuzz_number(&in, 1);
		len = fuzz_number(&in, 1);
		if (len > in.n)
			len = in.n;
		head = 0;
		if (type == ENTRY_FRAME) {
			/* A head that is good unless flags say otherwise. */
			h.pos += 8;
			h.records = flags >> 2;
			channel = (channel & 3) << 16 | (channel >> 2 & 3);
			head = flags & 1 ? 0 : sizeof(h);
			memcpy(payload, &h, head);
		}
		memcpy(payload + head, in.p, len);
		in.p += len;
		in.n -= len;
		if (!fuzz_put(w, type, channel, off[channel & 255],
		    slice_of(payload, head + len), flags & 3))
			break;
		off[channel & 255] += len;
	}
	(void)fuzz_process(w);
	fuzz_end(w);
}

/* --- journal ------------------------------------------------------------- */

/* Four entries, in a file that stays open. */
static void
good_journal(struct journal *j)
{
	struct err err;
	int i;

	fuzz_check(journal_create(j, NULL, JOURNAL_RING, 3, 7, JOURNAL_RING -
	    128, &err) == 0);
	for (i = 0; i < 4; i++) {
		memset(journal_stage(j, ENTRY_BYTES, 1, 0, 40, 0), 'x', 40);
		journal_publish(j, 30);
	}
	(void)journal_stage(j, ENTRY_BYTES, 1, 0, 40, 0);
}

/* A good journal of four entries, with pieces of the input over it. */
void
fuzz_journal(const uint8_t *data, size_t n)
{
	static uint8_t good[JOURNAL_HEAD + JOURNAL_RING], bytes[sizeof(good)];
	static struct journal made;
	struct fuzz_in in = { data, n };
	bool mend = fuzz_number(&in, 1) & 1, missing, old_boot;
	char path[64];
	struct journal j;
	struct entry *e;
	struct err err;
	uint64_t pos;

	if (made.h == NULL) {
		good_journal(&made);
		memcpy(good, made.h, JOURNAL_HEAD);
		memcpy(good + JOURNAL_HEAD, made.ring, JOURNAL_RING);
	}
	memcpy(bytes, good, sizeof(bytes));
	fuzz_patch(bytes, sizeof(bytes), &in);
	memcpy(made.h, bytes, JOURNAL_HEAD);
	memcpy(made.ring, bytes + JOURNAL_HEAD, JOURNAL_RING);
	/* Otherwise no damage would get beyond an entry's checksum. */
	pos = journal_head_pos(&made);
	if (mend) {
		e = (struct entry *)(void *)(made.ring + (pos & ~7ULL) %
		    JOURNAL_RING);
		e->check = part_hash(slice_of(e, offsetof(struct entry,
		    check)));
	}
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", made.fd);
	if (journal_open(&j, path, 3, &missing, &old_boot, &err) == 0) {
		/* Then its positions are not believed at all. */
		if (old_boot && j.sealed)
			journal_prove(&j, 65536 - 128);
		for (pos = journal_head_pos(&j); pos < journal_tail(&j);
		    pos = entry_end(e)) {
			e = journal_at(&j, pos);
			fuzz_check(e != NULL && entry_end(e) > pos);
			(void)part_hash(slice_of(e->data, e->len));
		}
		e = journal_staged(&j);
		if (e != NULL)
			(void)part_hash(slice_of(e->data, e->room));
		journal_free(&j, journal_tail(&j));
		fuzz_check(journal_used(&j) == 0);
		journal_close(&j);
	}
}

/* --- outbox -------------------------------------------------------------- */

static void
walk(struct outbox *o)
{
	struct frame f;
	uint64_t off, next;
	uint8_t byte;

	for (off = outbox_head(o); off < outbox_tail(o); off = next) {
		next = outbox_frame(o, off, &f);
		fuzz_check(next > off && next <= outbox_tail(o));
		outbox_read(o, next - 1, &byte, 1);
	}
}

static const uint32_t lens[2] = { 4, 6 };

static void
good_outbox(struct outbox *o)
{
	struct frame f;
	struct err err;
	uint64_t i;

	fuzz_check(outbox_create(o, NULL, 65536, 7, 0, &err) == 0);
	for (i = 0; i < 3; i++) {
		memset(&f, 0, sizeof(f));
		f.pos = 64 * (i + 1);
		f.records = 2;
		fuzz_check(outbox_reserve(o, 200, &err) == 0);
		outbox_append(o, &f, slice_of("0123456789", 10), lens);
	}
}

const char *
fuzz_outbox_file(struct buf *good, int fd, struct fuzz_in *in)
{
	static struct buf bytes;
	struct stat st;

	if (good->len == 0) {
		fuzz_check(fstat(fd, &st) == 0);
		good->len = (size_t)pread(fd, buf_reserve(good,
		    (size_t)st.st_size), (size_t)st.st_size, 0);
		fuzz_check(good->len == (size_t)st.st_size);
	}
	buf_clear(&bytes);
	buf_add(&bytes, good->data, good->len);
	fuzz_patch(bytes.data, bytes.len, in);
	return (fuzz_file(bytes.data, bytes.len));
}

/* A good outbox of three frames, with pieces of the input over it. */
void
fuzz_outbox(const uint8_t *data, size_t n)
{
	static struct buf good;
	static struct outbox made;
	struct fuzz_in in = { data, n };
	uint64_t cut = fuzz_number(&in, 1);
	const char *path;
	struct frame f;
	struct outbox o;
	struct err err;
	bool missing;

	if (made.h == NULL)
		good_outbox(&made);
	path = fuzz_outbox_file(&good, made.fd, &in);
	if (outbox_open(&o, path, &missing, &err) == 0) {
		walk(&o);
		outbox_cut(&o, cut);
		walk(&o);
		memset(&f, 0, sizeof(f));
		f.pos = 1000;
		f.records = 2;
		if (outbox_reserve(&o, 200, &err) == 0)
			outbox_append(&o, &f, slice_of("0123456789", 10),
			    lens);
		outbox_free(&o, outbox_tail(&o));
		fuzz_check(outbox_used(&o) == 0);
		outbox_close(&o);
	}
}

/* --- checkpoint, store --------------------------------------------------- */

/* A worker that has something of everything that a checkpoint holds. */
static void
pack_some(struct buf *b)
{
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	uint32_t source = 0;
	struct aside *s;

	(void)fuzz_put(w, ENTRY_OPEN, 1, 0, slice_of(&source,
	    sizeof(source)), 0);
	(void)fuzz_put(w, ENTRY_BYTES, 1, 0, slice_of("a\nb\nrest", 8), 0);
	(void)fuzz_put(w, ENTRY_FILE, 1, 0, slice_of("\0\5ab", 4), 0);
	(void)fuzz_put(w, ENTRY_GEN, 2, 0, slice_of("...", 3), 0);
	fuzz_check(fuzz_process(w));
	s = automaton_aside_new(&w->a, 99);
	s->death = xstrdup("signal 11");
	buf_add(&s->letter, "{}\n", 3);
	w->saved_clock_ns = w->journal.clock_ns = 7;
	checkpoint_pack(w, b);
	fuzz_end(w);
}

void
fuzz_pack_some(struct buf *b)
{
	static struct buf some;

	if (some.len == 0)
		pack_some(&some);
	buf_add(b, some.data, some.len);
}

void
fuzz_patch_buf(struct buf *b, struct fuzz_in *in)
{
	size_t off, n;

	while (in->n >= 2) {
		off = fuzz_number(in, 1);
		n = fuzz_number(in, 1) % 32;
		if (n > in->n)
			n = in->n;
		if (off + n <= b->len)
			memcpy(b->data + off, in->p, n);
		in->p += n;
		in->n -= n;
	}
}

/* What is accepted is written, and must read the same again.  The input is
 * all of it, or pieces over a good one. */
void
fuzz_checkpoint(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	bool whole = fuzz_number(&in, 1) & 1, good = !whole && n <= 1;
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	struct worker *v = fuzz_begin(&fuzz_pipeline, 2);
	struct buf bytes = { 0 }, one = { 0 }, two = { 0 };
	struct err err;

	if (whole)
		buf_add(&bytes, in.p, in.n);
	else
		fuzz_pack_some(&bytes);
	if (!whole)
		fuzz_patch_buf(&bytes, &in);
	if (checkpoint_unpack(w, buf_slice(&bytes), &err) == 0) {
		checkpoint_pack(w, &one);
		fuzz_check(checkpoint_unpack(v, buf_slice(&one), &err) == 0);
		v->shape = w->shape;
		v->journal.clock_ns = w->journal.clock_ns;
		checkpoint_pack(v, &two);
		fuzz_check(one.len == two.len &&
		    memcmp(one.data, two.data, one.len) == 0);
	} else
		fuzz_check(!good);
	buf_fini(&bytes);
	buf_fini(&one);
	buf_fini(&two);
	fuzz_end(w);
	fuzz_end(v);
}

static int
on_row(void *arg, size_t step, struct slice key, struct slice value)
{
	uint64_t *sum = arg;

	fuzz_check(step == 0);
	*sum += part_hash(key) + part_hash(value);
	return (0);
}

static int
on_box(void *arg, uint32_t box, struct slice head, struct slice body)
{
	uint64_t *sum = arg;

	*sum += box + part_hash(head) + part_hash(body);
	return (0);
}

static void
store_read(const char *path, struct store_job *job)
{
	static const char *const steps[] = { "count" };
	struct store_meta meta;
	struct store store;
	struct err err;
	uint64_t sum = 0;

	if (store_open(&store, path, 0, steps, 1, &meta, &err) == -1)
		return;
	(void)store_rows(&store, on_row, &sum, &err);
	(void)store_boxes(&store, on_box, &sum, &err);
	if (job != NULL)
		(void)store_commit(&store, job, &err);
	buf_fini(&meta.automaton);
	store_close(&store);
}

/* A good file of two rows, with pieces of the input over it; or nothing but
 * the input. */
void
fuzz_store(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	static struct store_job job = { .position = 64, .lineage = 7 };
	static const char path[] = "/store";
	static struct buf good;
	bool whole = fuzz_number(&in, 1) & 1;
	struct buf *file;

	fuzz_db();
	file = fuzz_db_file(path);
	if (good.len == 0) {
		buf_add(&job.automaton, "automaton", 9);
		store_job_row(&job, 0, slice_of("a", 1), slice_of("1", 1));
		store_job_row(&job, 0, slice_of("b", 1), slice_of("2", 1));
		store_job_box(&job, 1, slice_of("h", 1), slice_of("b", 1));
		store_read(path, &job);
		buf_add(&good, file->data, file->len);
		fuzz_check(good.len > 0);
	}
	buf_clear(file);
	if (whole)
		buf_add(file, in.p, in.n);
	else {
		buf_add(file, good.data, good.len);
		fuzz_patch(file->data, file->len, &in);
	}
	store_read(path, &job);
}

/* --- peer ---------------------------------------------------------------- */

/* Outboxes with a record, made once, and what they are made again from. */
#define BOXES		8
#define BOX_HEAD	8192
#define BOX_SLOTS	300

static struct {
	struct outbox	 o;
	uint8_t		 head[BOX_HEAD];
	uint8_t		 segment[SEGMENT];
	uint32_t	 spare[BOX_SLOTS];
	uint32_t	 hollow[BOX_SLOTS];
} boxes[BOXES];
static size_t nboxes;

static void
make_box(struct outbox *o, uint64_t lineage, size_t i)
{
	struct frame f = { .pos = 64, .records = 1 };
	struct err err;

	fuzz_check(outbox_create(o, NULL, 65536, lineage, 0, &err) == 0 &&
	    outbox_reserve(o, 200, &err) == 0);
	outbox_append(o, &f, slice_of("record", 6), NULL);
	fuzz_check(o->head_size == BOX_HEAD && o->nslots <= BOX_SLOTS);
	boxes[i].o = *o;
	memcpy(boxes[i].head, o->h, BOX_HEAD);
	memcpy(boxes[i].segment, o->segment[0], SEGMENT);
	memcpy(boxes[i].spare, o->spare, o->nslots * sizeof(*o->spare));
	memcpy(boxes[i].hollow, o->hollow, o->nslots * sizeof(*o->hollow));
}

static void
open_box(struct worker *w, struct outbox *o)
{
	size_t i = nboxes++;

	fuzz_check(i < BOXES);
	if (boxes[i].o.h == NULL) {
		make_box(o, w->lineage, i);
		return;
	}
	*o = boxes[i].o;
	memcpy(o->h, boxes[i].head, BOX_HEAD);
	memcpy(o->segment[0], boxes[i].segment, SEGMENT);
	memcpy(o->spare, boxes[i].spare, o->nslots * sizeof(*o->spare));
	memcpy(o->hollow, boxes[i].hollow, o->nslots * sizeof(*o->hollow));
}

static void
each_box(struct worker *w, void (*fn)(struct worker *, struct outbox *))
{
	uint32_t i;

	for (i = 0; i < w->topo.nexchanges; i++)
		fn(w, &w->peer_box[channel_of(w, i, 1)]);
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].mine)
			fn(w, &w->sinks[i].box);
}

/* One that has grown has other segments: it is made anew. */
static void
close_box(struct worker *w, struct outbox *o)
{
	size_t i = 0;

	(void)w;
	while (boxes[i].o.h != o->h)
		fuzz_check(++i < BOXES);
	if (o->segment[1] != NULL) {
		outbox_close(o);
		memset(&boxes[i], 0, sizeof(boxes[i]));
	}
	memset(o, 0, sizeof(*o));
	nboxes--;
}

/* What a worker's channel brings, in two pieces. */
void
fuzz_peer(const uint8_t *data, size_t n)
{
	static struct ev_loop *loop;
	struct fuzz_in in = { data, n };
	size_t first = fuzz_number(&in, 2);
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	struct slice s = fuzz_rest(&in);
	int fd[2], i;

	if (loop == NULL)
		loop = ev_loop_new(EVBACKEND_POLL);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) == -1)
		fuzz_check(!"there are sockets");
	w->loop = loop;
	w->running = w->admitting = true;
	w->window = 32768;
	each_box(w, open_box);
	peer_attach(w, 1, fd[0]);
	if (first > s.len)
		first = s.len;
	if (setjmp(gave_up) == 0) {
		for (i = 0; i < 2; i++) {
			(void)!write(fd[1], s.data, first);
			ev_run(loop, EVRUN_NOWAIT);
			peer_flush(w);
			s.data += first;
			s.len -= first;
			first = s.len < 100000 ? s.len : 100000;
		}
		(void)fuzz_process(w);
	}
	w->running = false;
	peer_attach(w, 1, -1);
	close(fd[1]);
	each_box(w, close_box);
	fuzz_end(w);
}
