/* Targets of worker/: files that only a restart reads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "tests/fuzz/fuzz_worker.h"

/* --- snapshot ------------------------------------------------------------ */

static void
append(struct outbox *o, uint64_t pos)
{
	static const uint32_t lens[2] = { 4, 6 };
	struct frame f = { .pos = pos, .records = 2 };
	struct err err;

	if (outbox_reserve(o, 200, &err) == 0)
		outbox_append(o, &f, slice_of("0123456789", 10), lens);
}

/* What an outbox accepts it can go on with. */
static void
use_outbox(struct outbox *o)
{
	uint64_t off, next;
	struct frame f;
	struct buf b = { 0 };
	uint8_t byte;

	for (off = outbox_head(o); off < outbox_tail(o); off = next) {
		next = outbox_frame(o, off, &f);
		fuzz_check(next > off && next <= outbox_tail(o));
		outbox_read(o, next - 1, &byte, 1);
	}
	append(o, UINT64_MAX);
	outbox_snapshot(o, &b);
	outbox_committed(o);
	outbox_free(o, outbox_tail(o));
	fuzz_check(outbox_used(o) == 0);
	buf_fini(&b);
}

static void
good_sealed(struct outbox *o, struct buf *snapshot)
{
	struct err err;

	fuzz_check(outbox_create(o, NULL, 65536, 7, 0, &err) == 0);
	outbox_seal(o);
	append(o, 64);
	append(o, 128);
	outbox_snapshot(o, snapshot);
	outbox_committed(o);
	append(o, 192);
}

/* A sealed outbox and its snapshot, with pieces of the input over both:
 * first those of the snapshot, as many bytes as the second byte says. */
void
fuzz_snapshot(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n }, of_snapshot;
	uint64_t how = fuzz_number(&in, 1), first = fuzz_number(&in, 1);
	static struct buf snapshot, good;
	static struct outbox made;
	struct buf b = { 0 };
	const char *path;
	struct outbox o;
	struct err err;
	bool missing;

	if (made.h == NULL)
		good_sealed(&made, &snapshot);
	buf_add(&b, snapshot.data, snapshot.len);
	if (first > in.n)
		first = in.n;
	of_snapshot = (struct fuzz_in){ in.p, first };
	in.p += first;
	in.n -= first;
	fuzz_patch_buf(&b, &of_snapshot);
	if (how & 2)
		b.len -= how >> 2 < b.len ? how >> 2 : b.len;
	path = fuzz_outbox_file(&good, made.fd, &in);
	if (how & 1) {
		if (outbox_open(&o, path, &missing, &err) == 0) {
			if (outbox_keep(&o, buf_slice(&b), &err) == 0)
				use_outbox(&o);
			outbox_close(&o);
		}
	} else if (outbox_restore(&o, path, 7, buf_slice(&b), &missing,
	    &err) == 0) {
		use_outbox(&o);
		outbox_close(&o);
	}
	buf_fini(&b);
}

/* --- spread -------------------------------------------------------------- */

/* A saved frame, whose lengths may not be those of its records. */
static void
add_frame(struct store_job *j, uint32_t box, struct fuzz_in *in)
{
	uint64_t bits = fuzz_number(in, 1);
	uint32_t lens[2] = { bits & 3, bits >> 2 & 3 };
	struct frame f = { .records = 2, .lens = sizeof(lens) };
	struct slice body = fuzz_piece(in, 256);
	struct buf b = { 0 };

	if (bits & 16)
		lens[1] = (uint32_t)body.len - lens[0];
	if (bits & 32)
		f.payload = bits >> 6;
	f.len = (uint32_t)body.len;
	buf_add(&b, body.data, body.len);
	buf_add(&b, lens, sizeof(lens));
	store_job_box(j, box, slice_of(&f, sizeof(f)), buf_slice(&b));
	buf_fini(&b);
}

static void
add_items(struct store_job *j, struct fuzz_in *in)
{
	struct outbox_sink k = { .resume = 0 };
	struct slice s;
	uint64_t op;

	while (in->n > 0) {
		op = fuzz_number(in, 1);
		switch (op & 3) {
		case 0:
			s = fuzz_piece(in, 256);
			store_job_row(j, 2, s, fuzz_piece(in, 256));
			break;
		case 1:
			k.resume = op >> 2;
			store_job_box(j, BOX_SINKS + (op & 4 ? 2 : 0),
			    slice_of(&k, sizeof(k)), msg_cstr("tcp"));
			break;
		case 2:
			add_frame(j, BOX_SINKS + 1, in);
			break;
		default:
			s = fuzz_piece(in, 256);
			store_job_box(j, (uint32_t)(op >> 2) + (op & 4 ?
			    BOX_SINKS : 0), s, fuzz_piece(in, 256));
		}
	}
}

static const char *const steps[] = { NULL, NULL, "count" };

/* In a file that stays open and is written again by each input; that needs a
 * rollback journal. */
static void
save_old(const char *path, struct store_job *job)
{
	static struct store store;
	struct store_meta meta;
	struct err err;

	if (store.db == NULL)
		fuzz_check(store_open(&store, path, 0, steps, 3, &meta,
		    &err) == 0 && sqlite3_exec(store.db,
		    "PRAGMA journal_mode = MEMORY", NULL, NULL, NULL) ==
		    SQLITE_OK);
	fuzz_check(sqlite3_exec(store.db, "DELETE FROM state", NULL, NULL,
	    NULL) == SQLITE_OK && store_commit(&store, job, &err) == 0);
}

static int
on_row(void *arg, size_t step, struct slice key, struct slice value)
{
	(void)key;
	(void)value;
	fuzz_check(step == 2);
	++*(uint64_t *)arg;
	return (0);
}

static int
on_box(void *arg, uint32_t box, struct slice head, struct slice body)
{
	struct frame f;

	(void)arg;
	if (box % 2 == 0)
		return (0);
	fuzz_check(head.len == sizeof(f));
	memcpy(&f, head.data, sizeof(f));
	fuzz_check((uint64_t)f.len + f.lens == body.len);
	return (0);
}

static void
check_automaton(struct slice bytes)
{
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	struct err err;

	fuzz_check(checkpoint_unpack(w, bytes, &err) == 0);
	fuzz_end(w);
}

/* What was made of them can be read. */
static void
read_store(const char *path, uint32_t worker)
{
	struct store_meta meta;
	struct store store;
	struct err err;
	uint64_t rows = 0;

	fuzz_check(store_open(&store, path, worker, steps, 3, &meta, &err) ==
	    0);
	fuzz_check(store_rows(&store, on_row, &rows, &err) == 0);
	fuzz_check(store_boxes(&store, on_box, NULL, &err) == 0);
	check_automaton(buf_slice(&meta.automaton));
	buf_fini(&meta.automaton);
	store_close(&store);
}

/* Most inputs are faster by far without these files: then what would be
 * written there is looked at. */
static bool looking;

static void
look(const struct store *s, const struct store_job *j)
{
	const uint8_t *p = j->rows.data, *end = p + j->rows.len;
	struct slice first, second;
	struct store_item i;

	while (j->rows.len > 0 && store_item_next(&p, end, &i, &first,
	    &second))
		fuzz_check(i.number < s->nsteps);
	fuzz_check(p == end);
	p = j->boxes.data;
	end = p + j->boxes.len;
	while (store_item_next(&p, end, &i, &first, &second))
		(void)on_box(NULL, i.number, first, second);
	fuzz_check(p == end);
	check_automaton(buf_slice(&j->automaton));
}

int	__real_store_open(struct store *, const char *, uint32_t,
	    const char *const *, size_t, struct store_meta *, struct err *);
int	__wrap_store_open(struct store *, const char *, uint32_t,
	    const char *const *, size_t, struct store_meta *, struct err *);
int	__real_store_commit(struct store *, struct store_job *, struct err *);
int	__wrap_store_commit(struct store *, struct store_job *, struct err *);
void	__real_store_close(struct store *);
void	__wrap_store_close(struct store *);

int
__wrap_store_open(struct store *s, const char *path, uint32_t worker,
    const char *const *names, size_t n, struct store_meta *m, struct err *err)
{
	if (!looking)
		return (__real_store_open(s, path, worker, names, n, m, err));
	memset(s, 0, sizeof(*s));
	memset(m, 0, sizeof(*m));
	s->nsteps = n;
	return (0);
}

int
__wrap_store_commit(struct store *s, struct store_job *j, struct err *err)
{
	if (!looking)
		return (__real_store_commit(s, j, err));
	look(s, j);
	return (0);
}

void
__wrap_store_close(struct store *s)
{
	if (!looking)
		__real_store_close(s);
}

/* As a new one is: most of the time would go into making its tables. */
static void
empty_store(const char *path, uint32_t worker)
{
	static struct buf empty[2];
	struct store_meta meta;
	struct store store;
	struct err err;
	struct buf *file;

	if (empty[worker].len == 0) {
		fuzz_check(store_open(&store, path, worker, steps, 3, &meta,
		    &err) == 0);
		store_close(&store);
		file = fuzz_db_file(path);
		buf_add(&empty[worker], file->data, file->len);
	}
	file = fuzz_db_file(path);
	buf_clear(file);
	buf_add(file, empty[worker].data, empty[worker].len);
}

static void
spread(struct worker *w, bool files)
{
	char *new[2];
	struct err err;
	uint32_t i;

	for (i = 0; i < 2; i++) {
		new[i] = worker_db_path(w->conf.state_directory, i, 1);
		if (files)
			empty_store(new[i], i);
	}
	looking = !files;
	if (respread(w, &err) == -1) {
		fuzz_check(err.text[0] != '\0');
		files = false;
	}
	looking = false;
	for (i = 0; i < 2; i++) {
		if (files)
			read_store(new[i], i);
		free(new[i]);
	}
}

/* The file of one worker, its checkpoint patched, for two; with their files
 * for every 16th length of the input. */
void
fuzz_spread(const uint8_t *data, size_t n)
{
	static char dir[] = "/nowhere";
	static bool begun;
	struct fuzz_in in = { data, n }, of_checkpoint;
	uint64_t first = fuzz_number(&in, 1);
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	struct store_job job = { .position = 64, .lineage = 7, .commits = 1,
	    .clean = true, .remake = true };
	char *old;

	if (!begun)
		fuzz_db();
	begun = true;
	w->conf.state_directory = dir;
	w->me = 1;
	old = worker_db_path(dir, 0, 0);
	if (first > in.n)
		first = in.n;
	of_checkpoint = (struct fuzz_in){ in.p, first };
	in.p += first;
	in.n -= first;
	fuzz_pack_some(&job.automaton);
	fuzz_patch_buf(&job.automaton, &of_checkpoint);
	add_items(&job, &in);
	save_old(old, &job);
	spread(w, n % 16 == 0);
	buf_fini(&job.automaton);
	buf_fini(&job.rows);
	buf_fini(&job.boxes);
	free(old);
	fuzz_end(w);
}

/* --- copy ---------------------------------------------------------------- */

void
fuzz_copy(const uint8_t *data, size_t n)
{
	struct worker *w = xcalloc(1, sizeof(*w));
	struct replay_about about = { 0 };
	struct conf_app conf;
	struct topo topo;
	struct err err;

	buf_add(&about.bytes, data, n);
	if (replay_unpack(w, &about)) {
		fuzz_check(w->me < w->n);
		if (conf_unpack(&conf, about.conf, &err) == 0)
			conf_fini(&conf);
		if (topo_parse(&topo, about.topology, &err) == 0)
			topo_fini(&topo);
	}
	buf_fini(&about.bytes);
	free(w);
}
